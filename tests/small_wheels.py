"""Wheels without content, and the build backend of a project without content, to see what pip does with them."""

import zipfile
from pathlib import Path


def write_wheel(folder, name, version, *requires, extras=()):
    """The name of the file that pip can install."""
    info, file = f"{name}-{version}.dist-info", f"{name}-{version}-py3-none-any.whl"
    metadata = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    metadata += [f"Provides-Extra: {extra}" for extra in extras] + [f"Requires-Dist: {other}" for other in requires]
    with zipfile.ZipFile(Path(folder) / file, "w") as archive:
        archive.writestr(f"{info}/METADATA", "\n".join(metadata) + "\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return file


def build_editable(folder, config_settings=None, metadata_directory=None):
    """pip calls it, where a pyproject.toml names this module."""
    return write_wheel(folder, "toy", "1.0", "torch>=2.8", "torchvision", extras=("app", "dev"))
