"""The folder of real pictures and weights that some tests need; `docs/data.md` describes it."""

import os
from pathlib import Path

import pytest

VARIABLE = "HUBMODELS_REAL_DATA"


def real_folder(name: str) -> Path:
    """The file or folder `name` of the real data; skips the test where there is none."""
    root = os.environ.get(VARIABLE)
    if root is None:
        pytest.skip(f"needs real pictures: set {VARIABLE}, see docs/data.md")
    path = Path(root).expanduser().resolve() / name
    if not path.exists():
        pytest.skip(f"{VARIABLE} has no {name}")
    return path
