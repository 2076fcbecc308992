"""The pictures of the user's own parts: where they are kept, and what is odd about them.

    PICTURES/PART/train/good              what the part is taught with
    PICTURES/PART/train/good/corrected    good parts that were called defective
    PICTURES/PART/test/bad                known defects, which only check it

This is the layout that training reads. A file is named after its bytes, so that no picture is there twice.
"""

import hashlib
import re
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath

import torch

from hubmodels import PictureError
from hubmodels.appearance import BLURRED, DARK, LIMIT, UNLIKE, Appearance, PictureStatistics, picture_statistics
from hubmodels.backbone import feature_strides
from hubmodels.compactnet import COMPACT_BACKBONE, COMPACT_IMAGE_SIZE
from hubmodels.folders import picture_suffixes
from hubmodels.pictures import read_picture
from hubmodels.samples import CORRECTED
from hubmodels.simplenet import SimpleNet

DATASET = "own"  # of all own parts
GOOD, BAD = "train/good", "test/bad"
TAKEN_BACK = f"{GOOD}/{CORRECTED}"  # good ones that were called defective
FEWEST, MOST = 10, 500  # good pictures of a part
LARGEST = 64_000_000  # bytes of a picture in a ZIP file
OF_FILE_MANAGERS = ("thumbs.db", "desktop.ini")
DARKEST, DARK_SHARE, SHARP_SHARE = 0.06, 0.5, 0.5  # of full white; of the median picture
NAME = re.compile(r"[^a-z0-9]+")


def part_name(text: str) -> str:
    """What a part is called in folders and repositories: letters, digits and `_`; empty if nothing is left."""
    plain = text.lower().replace("ß", "ss").replace("ä", "ae").replace("ö", "oe").replace("ü", "ue")
    plain = unicodedata.normalize("NFKD", plain).encode("ascii", "ignore").decode()
    return NAME.sub("_", plain).strip("_")[:60]


@dataclass(frozen=True)
class Upload:
    """A picture that a visitor gave: its name, and what reads its bytes."""

    name: str
    read: Callable[[], bytes]


def uploads_in(paths: Iterable[tuple[str, Path]]) -> Iterator[Upload]:
    """The pictures in files, given as (name, path); a ZIP file is all pictures in it. `left_out` names the others.

    Raises:
        PictureError: a ZIP file cannot be read.
    """
    for name, path in paths:
        if PurePosixPath(name).suffix.lower() != ".zip":
            yield Upload(name, path.read_bytes)
            continue
        try:
            with zipfile.ZipFile(path) as archive:
                members = [m for m in archive.infolist() if _is_shown(m) and m.file_size <= LARGEST]
                for member in members:
                    content = archive.read(member)
                    yield Upload(PurePosixPath(member.filename).name, lambda content=content: content)
        except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError) as error:
            raise _no_zip(name, error) from error


def left_out(paths: Iterable[tuple[str, Path]]) -> dict[str, str]:
    """What `uploads_in` leaves out of ZIP files, by name: "large" or "other", which is no picture.

    Raises:
        PictureError: a ZIP file cannot be read.
    """
    found = {}
    for name, path in paths:
        if PurePosixPath(name).suffix.lower() != ".zip":
            continue
        try:
            with zipfile.ZipFile(path) as archive:
                members = [m for m in archive.infolist() if _is_meant(m)]
        except (zipfile.BadZipFile, OSError) as error:
            raise _no_zip(name, error) from error
        found |= {PurePosixPath(m.filename).name: "large" for m in members if m.file_size > LARGEST}
        found |= {PurePosixPath(m.filename).name: "other" for m in members if not _is_shown(m)}
    return found


def _no_zip(name: str, error: Exception) -> PictureError:
    return PictureError(f"{name} is no readable ZIP file ({error}): pack it without a password")


def _is_meant(member: zipfile.ZipInfo) -> bool:
    """Whether a person put it there, and no file manager."""
    path = PurePosixPath(member.filename)
    hidden = any(part.startswith((".", "__MACOSX")) for part in path.parts if part != "..")
    return not member.is_dir() and not hidden and path.name.lower() not in OF_FILE_MANAGERS


def _is_shown(member: zipfile.ZipInfo) -> bool:
    return _is_meant(member) and PurePosixPath(member.filename).suffix.lower() in picture_suffixes()


@dataclass
class Findings:
    """What was found in pictures that shall teach a part.

    Attributes:
        pictures: how many can be used.
        unreadable: reasons by name.
        left_out: other files by name, as the function `left_out`.
        doubled: names of pictures that are there already, byte for byte.
        odd: codes by name: "unlike" the rest, "dark", "blurred".
        sizes: how many by (width, height).
        smallest: about how many pixels of a picture the smallest visible defect has.
    """

    pictures: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    doubled: list[str] = field(default_factory=list)
    odd: dict[str, list[str]] = field(default_factory=dict)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)

    @property
    def smallest(self) -> int | None:
        """Side of a patch in pixels of the commonest size, along the longer side."""
        if not self.sizes:
            return None
        (width, height), _ = self.sizes.most_common(1)[0]
        return max(1, round(feature_strides(COMPACT_BACKBONE)[0] * max(width, height) / COMPACT_IMAGE_SIZE))


class OwnParts:
    """All parts of a folder of pictures."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def names(self) -> list[str]:
        """Parts with good pictures."""
        if not self.folder.is_dir():
            return []
        return sorted(place.name for place in self.folder.iterdir() if any(_files(place / GOOD)))

    def pictures(self, part: str, kind: str = GOOD) -> list[Path]:
        """The pictures of a part, by name."""
        return sorted(_files(self.folder / part / kind)) if part else []

    def find(self, part: str, upload: Upload, kind: str = GOOD) -> Path:
        """Where the bytes of an upload that was added are kept."""
        name = _file_name(upload.name, upload.read())
        return next(path for path in self.pictures(part, kind) if path.name == name)

    def add(self, part: str, uploads: Iterable[Upload], kind: str = GOOD) -> int:
        """Keeps those uploads that can be read and are not there yet; returns how many."""
        place = self.folder / part / kind
        there = {path.name for path in self.pictures(part, GOOD if kind == TAKEN_BACK else kind)}
        place.mkdir(parents=True, exist_ok=True)
        before = len(there)
        for upload in uploads:
            content = upload.read()
            name = _file_name(upload.name, content)
            if name in there or _fault(content):
                continue
            (place / f".{name}").write_bytes(content)
            (place / f".{name}").replace(place / name)
            there.add(name)
        return len(there) - before

    def check(self, part: str, uploads: Iterable[Upload]) -> Findings:
        """What is odd about the uploads, together with the pictures that the part already has."""
        seen = {path.stem for path in self.pictures(part)}
        findings, statistics = Findings(), {}
        kept = [Upload(path.name, path.read_bytes) for path in self.pictures(part)]
        for upload, is_new in [*((u, False) for u in kept), *((u, True) for u in uploads)]:
            content = upload.read()
            digest = _digest(content)
            if is_new and digest in seen:
                findings.doubled.append(upload.name)
                continue
            if fault := _fault(content):
                findings.unreadable[upload.name] = fault
                continue
            seen.add(digest)
            picture = read_picture(content)
            findings.sizes[picture.size] += 1
            statistics[f"{upload.name}#{digest}"] = _statistics(picture)
        findings.pictures = len(statistics)
        codes = odd_ones(list(statistics.values()))
        names = [name.rpartition("#")[0] for name in statistics]
        findings.odd = {name: found for name, found in zip(names, codes, strict=True) if found}
        return findings


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))


def unreadable_in(uploads: Iterable[Upload]) -> dict[str, str]:
    """Why uploads cannot be read, by name."""
    faults = ((upload.name, _fault(upload.read())) for upload in uploads)
    return {name: fault for name, fault in faults if fault}


def odd_ones(statistics: Sequence[PictureStatistics]) -> list[list[str]]:
    """For each picture what is odd compared with all others: "unlike", "dark", "blurred"."""
    if len(statistics) < 4:
        return [[] for _ in statistics]
    bright = torch.tensor([picture.brightness for picture in statistics]).median().item()
    sharp = torch.tensor([picture.sharpness for picture in statistics]).median().item()
    found = []
    for i, picture in enumerate(statistics):
        others = Appearance(len(picture.features))
        others.fit([*statistics[:i], *statistics[i + 1 :]])
        ratio = others.check(picture).ratio or 0.0
        codes = {
            UNLIKE: ratio > LIMIT,
            DARK: picture.brightness < max(DARKEST, DARK_SHARE * bright),
            BLURRED: picture.sharpness < SHARP_SHARE * sharp,
        }
        found.append([code for code, is_odd in codes.items() if is_odd])
    return found


@lru_cache(1)
def front_end():
    """That of the bundled backbone."""
    return SimpleNet(backbone=COMPACT_BACKBONE, image_size=COMPACT_IMAGE_SIZE).front_end


@torch.inference_mode()
def _statistics(picture) -> PictureStatistics:
    shared = front_end()
    images = shared.prepare([picture])
    return picture_statistics(images, shared(images), [shared.enlargement(picture)])[0]


def _file_name(name: str, content: bytes) -> str:
    return f"{_digest(content)}{PurePosixPath(name).suffix.lower() or '.png'}"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:20]


def _fault(content: bytes) -> str:
    """Why a picture cannot be read; empty if it can."""
    try:
        read_picture(content)
    except PictureError as error:
        return str(error)
    return ""
