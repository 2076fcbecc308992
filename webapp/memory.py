"""Memory of a server that handles large pictures."""

import ctypes
from contextlib import suppress

M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8  # malloc.h of glibc


def return_freed_memory() -> None:
    """Lets glibc give the memory of pictures back at once; call it before threads start. Elsewhere: no effect.

    By itself it keeps large freed blocks, for each thread anew: +800 MB after a minute of 50 visitors
    (`benchmarks/load.py`), and still growing.
    """
    with suppress(OSError, AttributeError):  # no glibc
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(M_MMAP_THRESHOLD, 2**20)  # a fixed one: by default it grows with what is freed, up to 32 MB
        libc.mallopt(M_ARENA_MAX, 2)
