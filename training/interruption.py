"""Ctrl-C on the command line: one line in place of a traceback. It imports nothing slow."""

import sys
from types import TracebackType


def end_interrupted(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """`sys.excepthook`. The exit status remains that of an interruption, 130."""
    if issubclass(kind, KeyboardInterrupt):
        print("stopped: the same command continues", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)
