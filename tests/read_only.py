"""Folders that nobody may write, also in tests that root runs."""

import ctypes
from contextlib import contextmanager

VERSION = 0x20080522  # of the Linux interface
OVERRIDE = 0b110  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, with which root ignores permissions
BOUNDING_SET_DROP = 24  # prctl


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Words(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


@contextmanager
def obeyed(*folders):
    """This thread obeys permissions, and may not write in these folders nor in those below."""
    libc, header, words = ctypes.CDLL(None), _Header(VERSION, 0), (_Words * 2)()
    places = [place for folder in folders for place in (folder, *folder.rglob("*")) if place.is_dir()]
    modes = {place: place.stat().st_mode for place in places if not place.is_symlink()}
    assert libc.capget(ctypes.byref(header), words) == 0
    before = words[0].effective
    words[0].effective &= ~OVERRIDE
    try:
        assert libc.capset(ctypes.byref(header), words) == 0
        for place, mode in modes.items():
            place.chmod(mode & ~0o222)
        yield
    finally:
        for place, mode in modes.items():
            place.chmod(mode)
        words[0].effective = before
        assert libc.capset(ctypes.byref(header), words) == 0


def obey():
    """For `preexec_fn`: the new process obeys permissions."""
    libc = ctypes.CDLL(None)
    for capability in (1, 2):
        libc.prctl(BOUNDING_SET_DROP, capability, 0, 0, 0)  # fails for other users than root, who obey anyway
