"""Training with fewer patches of each picture in a step: `python -m benchmarks.step_patches 512 --data-root ...`.

Large inputs have too many patches for the memory of a step, so `training/batches.py` takes STEP_PATCHES of each one.
What that costs is measured on an input that fits, with a smaller number. The options after the number are those of
`training/train.py`; `python -m benchmarks.real_data collect step_patches DIR` adds the results to a table.
"""

import argparse
import sys

from training import batches, train


def main() -> int:
    """Trains; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("patches", type=int, help="of each picture in a step")
    args, options = parser.parse_known_args()
    batches.STEP_PATCHES = args.patches
    return train.main(options)


if __name__ == "__main__":
    sys.exit(main())
