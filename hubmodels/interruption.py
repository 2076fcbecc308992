"""Ctrl-C on a command line: one line in place of a traceback. It imports nothing slow."""

import sys
from types import TracebackType


def end_interrupted(
    message: str, kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """`sys.excepthook`, once the message is bound to it. The exit status remains that of an interruption, 130."""
    if issubclass(kind, KeyboardInterrupt):
        print(message, file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)
