"""Windows moves and deletes no file that is open or mapped; here such a move or deletion fails, too."""

import os
import shutil
from pathlib import Path

import psutil


def refuse_open_files(monkeypatch):
    """Makes `os.replace` and `shutil.rmtree` fail for files that this process has open or mapped."""
    for module, name in ((os, "replace"), (shutil, "rmtree")):
        monkeypatch.setattr(module, name, _checked(getattr(module, name)))


def _checked(change):
    def check_and_change(*arguments, **options):
        places = [Path(argument).absolute() for argument in arguments if isinstance(argument, str | os.PathLike)]
        assert [file for file in _used() for place in places if file.is_relative_to(place)] == []
        return change(*arguments, **options)

    return check_and_change


def _used():
    process = psutil.Process()
    return [Path(file.path) for file in (*process.open_files(), *process.memory_maps())]
