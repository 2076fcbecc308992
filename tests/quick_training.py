"""`training/train.py` as a process that the app starts, with fewer steps of the hybrid: 500 take seconds."""

import runpy
import sys
from pathlib import Path

PROGRAM = Path(__file__).parents[1] / "training/train.py"
STEPS = 50


def quick(command: list[str], *options: str) -> list[str]:
    """The command of a lesson with this program, and with more options."""
    assert command[1] == str(PROGRAM)
    return [command[0], __file__, *command[2:], *options]


if __name__ == "__main__":
    sys.path.insert(0, str(PROGRAM.parents[1]))
    from training import evaluation
    from training.objectives import hybrid
    from training.publishing import latency

    hybrid.STEPS, evaluation.PANEL_HEIGHT, latency.REPEATS = STEPS, 32, 2
    runpy.run_path(str(PROGRAM), run_name="__main__")
