"""Ctrl-C on a command line: one line in place of a traceback. It imports nothing slow."""

import sys
from types import TracebackType


def end_interrupted(
    message: str, kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """`sys.excepthook`, once the message is bound to it. The exit status remains that of an interruption, 130.

    Extension modules turn Ctrl-C during their import into an ImportError, whose exit status is 1.
    """
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, KeyboardInterrupt):
        cause = cause.__cause__ or cause.__context__
    if cause is not None:
        print(message, file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)
