"""Labelled pictures in folders: the one reader for training, the app and export.

A category in the MVTec AD layout is `CATEGORY/train/good`, `CATEGORY/test/DEFECT` and, for the masks,
`CATEGORY/ground_truth/DEFECT/NAME_mask.*`. Nothing is read from disk before a picture is needed.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hubmodels.pictures import PictureError, read_picture

PICTURE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"}
NORMAL_NAMES = {"good", "normal"}
MASK_THRESHOLD = 127  # of 255: a pixel is defective where its grey is above one half


class Source(Protocol):
    """Where an encoded picture is: a `Path`, or an object with `read_bytes`."""

    def read_bytes(self) -> bytes:
        """The encoded picture. Raises OSError or PictureError where there is none."""


@dataclass(frozen=True)
class Sample:
    """One picture of a category with its ground truth.

    Attributes:
        name: unique within the category, such as "test/crack/003.png".
        source: where the picture is.
        defect_type: what it shows, such as "crack" or "good".
        label: 0 normal, 1 anomalous.
        mask: where the ground truth is; None for normal pictures and where there is none.
    """

    name: str
    source: Source
    defect_type: str
    label: int
    mask: Source | None = None

    def __post_init__(self) -> None:
        _storable(self, "name", "defect_type")

    def read(self) -> Image.Image:
        """The picture, RGB, upright, 8 bits. Raises PictureError, naming it, where it cannot be read."""
        try:
            return read_source(self.source)
        except (OSError, PictureError) as error:
            raise PictureError(f"{self.name}: {error}") from error

    def read_mask(self, size: tuple[int, int]) -> NDArray[np.uint8] | None:
        """Ground truth at the picture's (height, width): (H, W) uint8, 1 where the mask's grey is above one half.

        Zeros for a normal sample; None for an anomalous one without mask. A mask of the picture's aspect (within one
        pixel of rounding) is resized with nearest neighbours, because interpolation erodes defects.

        Raises:
            ValueError: the mask has another aspect than the picture, or shows no defect.
            PictureError: it cannot be read.
        """
        if self.label == 0:
            return np.zeros(size, dtype=np.uint8)
        if self.mask is None:
            return None
        try:
            mask = decode_mask(self.mask)
        except (OSError, PictureError) as error:
            raise PictureError(f"{self.name}: the mask cannot be read, {error}") from error
        if not mask.any():
            raise ValueError(f"{self.name}: the mask is empty, no grey value is above {MASK_THRESHOLD}")
        if mask.shape == tuple(size):
            return mask
        if not same_aspect(mask.shape, size):
            raise ValueError(
                f"{self.name}: the mask is {size_text(mask.shape)} but the picture is {size_text(size)} "
                "(height x width); a mask must cover the whole picture, so check which mask belongs to it."
            )
        height, width = size
        return np.array(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))


@dataclass(frozen=True)
class Category:
    """The pictures of one object or texture class: normal ones to train on, both kinds to test on.

    Attributes:
        dataset: None where the folder does not name it: the pictures then count for the category in any data set.
        revision: the commit of the Hub data set that they come from, None elsewhere.
    """

    dataset: str | None
    name: str
    train: tuple[Sample, ...] = ()
    test: tuple[Sample, ...] = ()
    revision: str | None = None

    def __post_init__(self) -> None:
        _storable(self, "name", "dataset")

    @property
    def has_masks(self) -> bool:
        """Whether there are anomalous test samples and each has a mask: what pixel metrics need."""
        return any(sample.label == 1 for sample in self.test) and not self.missing_masks

    @property
    def missing_masks(self) -> list[str]:
        """Names of the anomalous test samples that have no mask."""
        return [sample.name for sample in self.test if sample.label == 1 and sample.mask is None]


def as_text(name: str) -> str:
    """A name of the file system as text that can be stored: bytes that are not UTF-8 become escapes such as `\\xfc`.

    Old servers and ZIP files have such names. Python stores these bytes as single surrogates, which no file takes.
    """
    try:
        return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # other single surrogates, on Windows
        return name.encode("utf-8", "backslashreplace").decode("utf-8")


def _storable(item: object, *fields: str) -> None:
    for field in fields:
        if (value := getattr(item, field)) is not None:
            object.__setattr__(item, field, as_text(value))  # of a frozen dataclass


def find_labelled(folder: str | Path) -> list[Category]:
    """The labelled test pictures in a folder, by category; empty where there are none.

    The folder is in the MVTec AD layout or is one of its categories. Otherwise its pictures are
    `DATASET/CATEGORY/DEFECT.*`, where `good*` is normal.
    """
    root = Path(os.path.abspath(folder))  # not resolve(): a link's own name counts
    if found := category_folders(root):
        return [read_category(None, name, place) for name, place in found.items()]
    places = [category for dataset in folders_in(root) for category in folders_in(dataset)]
    categories = [Category(p.parent.name, p.name, test=tuple(map(_example, pictures_in(p)))) for p in places]
    return [category for category in categories if category.test]


def category_folders(root: Path) -> dict[str, Path]:
    """The categories in the MVTec AD layout in a folder, by name; the folder itself may be one."""
    return {place.name: place for place in (root, *folders_in(root)) if (place / "test").is_dir()}


def read_category(dataset: str | None, name: str, folder: Path) -> Category:
    """A category folder in the MVTec AD layout.

    Raises:
        ValueError: a test picture has no label.
    """
    if stray := pictures_in(folder / "test"):
        raise ValueError(f"{stray[0]} has no label: put test pictures into test/good or test/DEFECT.")
    train = tuple(folder_sample("train", "good", path) for path in pictures_in(folder / "train" / "good"))
    test = []
    for defects in folders_in(folder / "test"):
        masks = {path.stem: path for path in pictures_in(folder / "ground_truth" / defects.name)}
        for path in pictures_in(defects):
            mask = masks.get(f"{path.stem}_mask") or masks.get(path.stem)
            test.append(folder_sample("test", defects.name, path, mask))
    return Category(dataset, name, train, tuple(test))


def folder_sample(split: str, defect_type: str, path: Path, mask: Path | None = None) -> Sample:
    """The sample of a picture file."""
    label = int(not is_normal(defect_type))
    return Sample(f"{split}/{defect_type}/{path.name}", path, defect_type, label, mask if label else None)


def is_normal(defect_type: str) -> bool:
    """Whether a folder or class name means pictures without defect."""
    return defect_type.lower() in NORMAL_NAMES


def read_source(source: Source) -> Image.Image:
    """The picture, RGB, upright, 8 bits. Raises PictureError, or OSError, where it cannot be read."""
    return read_picture(source if isinstance(source, Path) else source.read_bytes())  # a path names itself in errors


def decode_mask(source: Source) -> NDArray[np.uint8]:
    """(H, W) uint8, 1 where the grey value is above one half. Raises as `read_source` does."""
    return (np.asarray(read_source(source).convert("L")) > MASK_THRESHOLD).astype(np.uint8)


def same_aspect(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether the larger size, scaled down to the smaller along either axis, meets it within one pixel."""
    small, large = sorted((one, other), key=lambda size: size[0] * size[1])
    scales = (small[0] / large[0], small[1] / large[1])
    return any(all(abs(large[axis] * scale - small[axis]) <= 1 for axis in (0, 1)) for scale in scales)


def size_text(size: tuple[int, int]) -> str:
    """A (height, width) for a message: "40 x 48"."""
    return f"{size[0]} x {size[1]}"


def shorten(names: Sequence[str], shown: int = 5) -> str:
    """The first few names for a message, and how many more there are."""
    rest = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + rest


def folders_in(folder: Path) -> list[Path]:
    """The folders in a folder, by name."""
    return [path for path in _visible(folder) if path.is_dir()]


def pictures_in(folder: Path) -> list[Path]:
    """The picture files in a folder, by name."""
    return [path for path in _visible(folder) if path.suffix.lower() in PICTURE_SUFFIXES and path.is_file()]


def _example(path: Path) -> Sample:
    label = int(not path.stem.lower().startswith("good"))
    return Sample(path.name, path, path.stem, label)


def _visible(folder: Path) -> list[Path]:
    """Entries by name, so that the order is the same on every computer; without hidden files such as macOS's `._*`."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if not path.name.startswith(".")), key=lambda path: path.name)
