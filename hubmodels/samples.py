"""Pictures with their labels and masks: `Sample`, and `Category`, the samples of one kind of part.

`hubmodels.folders` finds them. Nothing is read from disk before a picture is needed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hubmodels.pictures import PictureError, read_picture

GOOD = "good"  # the defect type of normal pictures, whatever their folder is called
CORRECTED = "corrected"  # folder of good pictures that were called defective: fitted, but no draws to promise from
UNUSED_REASONS = {
    "defective": "defective parts are not trained on",
    "unnamed": "its name says neither good nor defective",
    "beside": "they lie beside the folder of good parts",
    "elsewhere": "only train, test and ground_truth are read",
    "no_category": "they belong to no category",
    "contradiction": "the names of their folders contradict each other",
    "no_picture": "no pictures by the ending of their names",
    "heic": "HEIC, which needs the package pillow-heif",
    "label": "label pictures by their names",
    "no_match": "no mask of a defective test picture by its name",
}
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
        defect_type: what it shows, such as "crack"; "good" for all normal pictures.
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
class Unused:
    """Files in a known place that are not used.

    Attributes:
        folder: within the category, such as "train/Bad".
        reason: a key of `UNUSED_REASONS`.
    """

    folder: str
    files: int
    reason: str

    def __post_init__(self) -> None:
        _storable(self, "folder")

    def __str__(self) -> str:
        """One line, such as "not used: 3 files in train/Bad (defective parts are not trained on)"."""
        files = "1 file" if self.files == 1 else f"{self.files} files"
        return f"not used: {files} in {self.folder} ({UNUSED_REASONS[self.reason]})"


@dataclass(frozen=True)
class Category:
    """The pictures of one object or texture class: normal ones to train on, both kinds to test on.

    Attributes:
        dataset: None where the folder does not name it: the pictures then count for the category in any data set.
        revision: the commit of the Hub data set that they come from, None elsewhere.
        unused: what lies in the folder and is not used.
    """

    dataset: str | None
    name: str
    train: tuple[Sample, ...] = ()
    test: tuple[Sample, ...] = ()
    revision: str | None = None
    unused: tuple[Unused, ...] = ()

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
