"""The pictures of the user's own parts: where they are kept, and what is odd about them.

    PICTURES/PART/train/good              what the part is taught with
    PICTURES/PART/train/good/corrected    good parts that were called defective
    PICTURES/PART/test/bad                known defects, which only check it
    PICTURES/PART/removed                 pictures that a person took out of the part, in the same folders
    PICTURES/PART/name.txt                what the person calls the part
    PICTURES/PART/learned.json            which pictures were there when its last lesson began
    PICTURES/PART/given.json              the file names that pictures were given with, and their folders

This is the layout that training reads. PART is short and plain, because folders and repositories have such names. A
file is named after its bytes, so that no picture is there twice.
"""

import hashlib
import io
import json
import re
import struct
import unicodedata
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath, PureWindowsPath

import torch

from hubmodels import PictureError
from hubmodels.appearance import BLURRED, DARK, LIMIT, UNLIKE, Appearance, PictureStatistics, picture_statistics
from hubmodels.backbone import feature_strides
from hubmodels.compactnet import COMPACT_BACKBONE, COMPACT_IMAGE_SIZE
from hubmodels.folders import is_visible, picture_suffixes
from hubmodels.pictures import read_picture
from hubmodels.samples import CORRECTED
from hubmodels.simplenet import SimpleNet

DATASET = "own"  # of all own parts
GOOD, BAD = "train/good", "test/bad"
TAKEN_BACK = f"{GOOD}/{CORRECTED}"  # good ones that were called defective
REMOVED = "removed"  # folder of pictures that were taken out
KINDS = ("good", "corrected", "bad", REMOVED)  # of the pictures of a part
FEWEST, MOST = 10, 500  # good pictures of a part
LARGEST = 64_000_000  # bytes of a picture in a ZIP file
UNPACKED = 4_000_000_000  # bytes of all pictures in the ZIP files of an upload
MEMBERS, DIRECTORY = 5_000, 4_000_000  # files in a ZIP file, and bytes of their list
ENCRYPTED = 1  # flag of a member
DEPTH = 8  # folders and name of a picture that are kept
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # others can need any amount of memory
DAMAGED = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, ValueError, RuntimeError)
REMEMBERED = 2_000  # pictures whose statistics are kept, some kB each
DARKEST, DARK_SHARE, SHARP_SHARE = 0.06, 0.5, 0.5  # of full white; of the median picture
NAME = re.compile(r"[^a-z0-9]+")
DEVICE = re.compile(r"con|prn|aux|nul|(com|lpt)\d")  # no file of Windows can have such a name
NAME_FILE, LEARNED_FILE, GIVEN_FILE = "name.txt", "learned.json", "given.json"  # in the folder of a part's pictures
LONGEST, LONGEST_READABLE = 60, 40  # characters of a name, and of its part in front of the digits


def part_name(text: str) -> str:
    """What a part is called in folders and repositories: letters, digits and `_`; empty without letter or digit.

    A name that has other characters, is longer than a folder's, or means a device to Windows, gets digits, so that
    "Deckel A" and "Deckel-A" are two parts. What was made by this function stays as it is.
    """
    written = _printable(text)
    if not any(map(str.isalnum, written)):
        return ""
    plain = written.lower().replace("ß", "ss").replace("ä", "ae").replace("ö", "oe").replace("ü", "ue")
    plain = unicodedata.normalize("NFKD", plain).encode("ascii", "ignore").decode()
    plain = NAME.sub("_", plain).strip("_")
    if _folded(written) == plain and len(plain) <= LONGEST and not DEVICE.fullmatch(plain):
        return plain
    digits = int(hashlib.sha256(_folded(written).encode()).hexdigest(), 16) % 10**6
    return f"{plain[:LONGEST_READABLE].strip('_') or 'part'}_{digits:06}"


def tidy(text: str) -> str:
    """A name as a person wrote it, in one line that can be printed; the end of a long one is left out."""
    whole = _printable(text)
    return whole if len(whole) <= LONGEST else f"{whole[: LONGEST - 1].strip()}…"


def _printable(text: str) -> str:
    words = " ".join(unicodedata.normalize("NFC", text).split())
    return "".join(filter(str.isprintable, words)).strip()


def _folded(written: str) -> str:
    """Upper and lower case do not make another part, but "Maße" is not "Masse"."""
    return written.lower().replace(" ", "_")


@dataclass(frozen=True)
class Upload:
    """A picture that a visitor gave.

    Attributes:
        read: returns its bytes; raises PictureError, OSError.
        folder: of a ZIP file, or that was chosen, where the picture was.
    """

    name: str
    read: Callable[[], bytes]
    folder: str = ""

    @property
    def whole(self) -> str:
        """The name with the innermost folders, each of them short enough to show."""
        return "/".join(map(tidy, [*filter(None, self.folder.split("/")), *self.name.split("/")][-DEPTH:]))


class ZipError(PictureError):
    """A ZIP file is refused.

    Attributes:
        values: what the text of the fault names: the file, and the limit that it exceeds.
    """

    def __init__(self, fault: str, file: str, limit: str = "") -> None:
        super().__init__(f"{file}: {fault.replace('_', ' ')} {limit}".rstrip(), fault)
        self.values = {"file": file, "limit": limit}


class _Bounded(io.FileIO):
    """A ZIP file whose list of members cannot fill the memory."""

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > DIRECTORY:
            raise OverflowError
        return super().read(-1 if size is None else size)


def told_apart(names: Sequence[str]) -> list[str]:
    """Names with their folders -> without them, or with as many as it takes to tell different ones apart."""
    ends = [["/".join(name.split("/")[-length:]) for length in range(1, name.count("/") + 2)] for name in names]
    meant = {}
    for name, those in zip(names, ends, strict=True):
        for end in those:
            meant.setdefault(end, set()).add(name)
    return [next((end for end in those if len(meant[end]) == 1), those[-1]) for those in ends]


def uploads_in(paths: Iterable[tuple[str, Path]]) -> Iterator[Upload]:
    """The pictures in files, given as (name, path); a ZIP file is all pictures in it. `left_out` names the others.

    The name can begin with folders.

    Pictures of a ZIP file are unpacked one at a time, when they are read.

    Raises:
        ZipError: a ZIP file cannot be read, or exceeds a limit.
    """
    unpacked = 0
    for name, path in paths:
        if not _is_zip(name):
            folder, _, base = name.rpartition("/")
            yield Upload(base, path.read_bytes, folder)
            continue
        members = [member for member in _members(name, path) if _reason(member) is None]
        unpacked += sum(member.file_size for member in members)
        if unpacked > UNPACKED:
            raise ZipError("zip_unpacked", name, f"{UNPACKED // 10**9} GB")
        yield from (Upload(_base(member), partial(_unpack, path, member), _folder(member)) for member in members)


def left_out(paths: Iterable[tuple[str, Path]]) -> dict[str, list[str]]:
    """The names of what `uploads_in` leaves out of ZIP files, by reason.

    The reasons are "large", "other" (no picture), "system" (of a file manager) and "outside" (of the folder).

    Raises:
        ZipError: as `uploads_in`.
    """
    found = {}
    for name, path in paths:
        for member in _members(name, path) if _is_zip(name) else ():
            if reason := _reason(member):
                found.setdefault(reason, []).append(_base(member))
    return found


def _is_zip(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() == ".zip"


def _members(name: str, path: Path) -> list[zipfile.ZipInfo]:
    """The files in a ZIP file. Its list is checked before anything is unpacked."""
    try:
        with _Bounded(path) as file, zipfile.ZipFile(file) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
    except OverflowError as error:
        raise ZipError("zip_members", name, f"{MEMBERS}") from error
    except DAMAGED as error:
        raise ZipError("zip_broken", name) from error
    if len(members) > MEMBERS:
        raise ZipError("zip_members", name, f"{MEMBERS}")
    if any(member.flag_bits & ENCRYPTED for member in members):
        raise ZipError("zip_password", name)
    if any(member.compress_type not in METHODS for member in members):
        raise ZipError("zip_broken", name)
    return members


def _unpack(path: Path, member: zipfile.ZipInfo) -> bytes:
    """The bytes of a member, never more than its size in the list."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open(member) as packed:
            return packed.read(member.file_size)  # without a number it would unpack all that there is
    except DAMAGED as error:
        raise PictureError(
            f"{_base(member)} is damaged in the ZIP file ({error}): pack it again", "corrupt"
        ) from error


def _reason(member: zipfile.ZipInfo) -> str | None:
    """Why a member is left out, as in `left_out`; None if it is a picture."""
    path = PureWindowsPath(member.filename)  # which knows both kinds of slashes
    if path.anchor or ".." in path.parts:
        return "outside"
    if not all(map(is_visible, path.parts)):
        return "system"
    if path.suffix.lower() not in picture_suffixes():
        return "other"
    return "large" if member.file_size > LARGEST else None


def _base(member: zipfile.ZipInfo) -> str:
    return PureWindowsPath(member.filename).name


def _folder(member: zipfile.ZipInfo) -> str:
    return "/".join(PureWindowsPath(member.filename).parts[:-1])


@dataclass
class Findings:
    """What was found in pictures that shall teach a part.

    Attributes:
        pictures: how many can be used.
        unreadable: names of pictures that cannot be read.
        left_out: names of other files by reason, as the function `left_out`.
        doubled: names of pictures that are there already, byte for byte.
        odd: codes by name: "unlike" the rest, "dark", "blurred".
        sizes: how many by (width, height).
        smallest: side of the smallest visible defect, pixels of a picture.
    """

    pictures: int = 0
    unreadable: list[str] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)
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


@dataclass(frozen=True)
class Kept:
    """A picture of a part.

    Attributes:
        place: its folder and file within the part; of a removed one, where it was.
        path: where the file is.
        name: of the file that it was given as, with its folder if another one of the part has the same name.
        kind: one of `KINDS`.
    """

    place: str
    path: Path
    name: str
    kind: str


class OwnParts:
    """All parts of a folder of pictures."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: dict[str, tuple[tuple[int, int], PictureStatistics]] = {}  # by digest

    def names(self) -> list[str]:
        """Parts with good pictures."""
        if not self.folder.is_dir():
            return []
        return sorted(place.name for place in self.folder.iterdir() if any(_files(place / GOOD)))

    def written(self, part: str) -> str:
        """The name of a part as a person wrote it."""
        try:
            return tidy((self.folder / part / NAME_FILE).read_text(encoding="utf-8")) or part
        except (OSError, ValueError):  # its pictures were put there by hand
            return part

    def choices(self) -> list[tuple[str, str]]:
        """(written name, part) of each part."""
        return [(self.written(part), part) for part in self.names()]

    def part(self, text: str | None) -> str:
        """The part that is meant by its folder or by the name that a person wrote; of a new name, its later folder."""
        names, wanted = self.names(), tidy(text or "").lower()
        same = (part for part in names if self.written(part).lower() == wanted)
        return text if text in names else next(same, part_name(text or ""))

    def namesake(self, text: str) -> str | None:
        """The written name of another part that has the place of this name; None if the name can be used."""
        part = self.part(text)
        known = self.written(part) if part in self.names() else text
        return None if text == part or tidy(known).lower() == tidy(text).lower() else known

    def name(self, part: str, text: str) -> None:
        """Keeps the name of a new part as a person wrote it."""
        if part not in self.names():
            self.rename(part, text)

    def rename(self, part: str, text: str) -> None:
        """Keeps another name of a part, as a person wrote it.

        Raises:
            OSError: it cannot be written.
        """
        (self.folder / part).mkdir(parents=True, exist_ok=True)
        (self.folder / part / NAME_FILE).write_text(tidy(text), encoding="utf-8")

    def pictures(self, part: str, kind: str = GOOD) -> list[Path]:
        """The pictures of a part, by name."""
        return sorted(_files(self.folder / part / kind)) if part else []

    def kept(self, part: str) -> list[Kept]:
        """All pictures of a part, with those that were removed and are not there again."""
        names, base = self._names(part), self.folder / part
        there = _places(base) if part else {}
        aside = {place: path for place, path in _places(base / REMOVED).items() if place not in there} if part else {}
        kinds = {place: _kind(place) for place in there} | dict.fromkeys(aside, REMOVED)
        found = (there | aside).items()
        return [Kept(place, path, names.get(path.name) or path.name, kinds[place]) for place, path in found]

    def remove(self, part: str, place: str) -> bool:
        """Moves a picture aside, so that no later lesson or check uses it; False if it is not there.

        Raises:
            OSError: it cannot be moved.
        """
        return _move(place, self.folder / part, self.folder / part / REMOVED)

    def put_back(self, part: str, place: str) -> bool:
        """Moves a picture back that was removed; False if it is not there.

        Raises:
            OSError: it cannot be moved.
        """
        return _move(place, self.folder / part / REMOVED, self.folder / part)

    def place(self, part: str, upload: Upload, kind: str) -> tuple[Path, Path | None]:
        """Where a picture is kept now as one of a kind, and where it was before; None if it was nowhere.

        A picture of another kind is moved.

        Raises:
            OSError: it cannot be written.
        """
        name, base = _file_name(upload.name, upload.read()), self.folder / part
        there = {path.name: path for path in (*self.pictures(part, GOOD), *self.pictures(part, BAD))}
        was = there.get(name)
        if was is None:
            self.add(part, [upload], kind)
            return base / kind / name, None
        if was.is_relative_to(base / (GOOD if kind == TAKEN_BACK else kind)):
            return was, was  # good or taken back: it is among the good ones
        (base / kind).mkdir(parents=True, exist_ok=True)
        was.replace(base / kind / name)
        return base / kind / name, was

    def keep_learned(self, part: str, names: Iterable[str]) -> None:
        """Keeps which pictures a lesson learned, by file name."""
        (self.folder / part).mkdir(parents=True, exist_ok=True)
        (self.folder / part / LEARNED_FILE).write_text(json.dumps(sorted(names)), encoding="utf-8")

    def since_lesson(self, part: str) -> tuple[int, int]:
        """How many good pictures came since the last lesson began, and how many left; 0 if that is not known."""
        now = {path.name for path in self.pictures(part)}
        try:
            learned = set(json.loads((self.folder / part / LEARNED_FILE).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return 0, 0
        return len(now - learned), len(learned - now)

    def digests(self, part: str, kind: str) -> set[str]:
        """What `digest` returns for the pictures of a part."""
        return {path.stem for path in self.pictures(part, kind)}

    def add(self, part: str, uploads: Iterable[Upload], kind: str = GOOD) -> int:
        """Keeps those uploads that can be read and are not there yet; returns how many."""
        place = self.folder / part / kind
        there = {path.name for path in self.pictures(part, GOOD if kind == TAKEN_BACK else kind)}
        place.mkdir(parents=True, exist_ok=True)
        before, given = len(there), {}
        for upload in uploads:
            content = _content(upload)
            name = _file_name(upload.name, content or b"")
            if name in there or (digest(content or b"") not in self._known and not _is_picture(content)):
                continue
            partial_file = place / f".{name}"
            try:
                partial_file.write_bytes(content)
                partial_file.replace(place / name)
            finally:
                partial_file.unlink(missing_ok=True)  # of a full disk
            there.add(name)
            given[name] = upload.whole
        self._keep_given(part, given)
        return len(there) - before

    def given_name(self, part: str, path: Path) -> str:
        """As `Kept.name`; the name of its own file if the given one is not known."""
        return self._names(part).get(path.name) or path.name

    def _names(self, part: str) -> dict[str, str]:
        """What the given pictures are called, by file."""
        given = self._given(part)
        return dict(zip(given, told_apart(list(given.values())), strict=True))

    def _given(self, part: str) -> dict[str, str]:
        try:
            return dict(json.loads((self.folder / part / GIVEN_FILE).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return {}

    def _keep_given(self, part: str, names: dict[str, str]) -> None:
        if names:
            text = json.dumps(self._given(part) | names)
            (self.folder / part / GIVEN_FILE).write_text(text, encoding="utf-8")

    def count_with(self, part: str, uploads: Iterable[Upload]) -> int:
        """How many known defects a part has if these are added."""
        contents = (content for content in map(_content, uploads) if _is_picture(content))
        return len(self.digests(part, BAD) | set(map(digest, contents)))

    def in_both(self, part: str, good: Iterable[Upload] = (), bad: Iterable[Upload] = ()) -> dict[str, str]:
        """Name by digest of the pictures that are, kept or given, good ones and known defects at the same time."""
        defects = {path.stem: path.name for path in self.pictures(part, BAD)} | _named(bad)
        if not defects:
            return {}
        names = {path.stem: path.name for path in self.pictures(part)} | _named(good)
        return {found: name for found, name in names.items() if found in defects}

    def check(self, part: str, uploads: Iterable[Upload]) -> Findings:
        """What is odd about the uploads, together with the pictures that the part already has."""
        findings = Findings()
        for _ in self.checking(part, uploads, findings):
            pass
        return findings

    def checking(self, part: str, uploads: Iterable[Upload], findings: Findings) -> Iterator[tuple[int, int]]:
        """Fills in what `check` returns; yields (number of checked pictures, number of all) before each one."""
        paths, names = self.pictures(part), self._names(part)
        seen, statistics = {path.stem for path in paths}, {}
        kept = [(Upload(names.get(path.name) or path.name, path.read_bytes), path.stem) for path in paths]
        pictures = [*kept, *((upload, None) for upload in uploads)]
        for number, (upload, stem) in enumerate(pictures):  # one at a time in memory
            yield number, len(pictures)
            content = None if stem in self._known else _content(upload)  # hundreds are read once
            name = stem if stem in self._known else digest(content or b"")
            if stem is None and name in seen:
                findings.doubled.append(upload.name)
            elif known := self._statistics(content, name):
                seen.add(name)
                size, statistics[f"{upload.whole}#{name}"] = known
                findings.sizes[size] += 1
            else:
                findings.unreadable.append(upload.name)
        findings.pictures = len(statistics)
        codes = odd_ones(list(statistics.values()))
        names = told_apart([name.rpartition("#")[0] for name in statistics])
        findings.odd = {name: found for name, found in zip(names, codes, strict=True) if found}

    def _statistics(self, content: bytes | None, name: str) -> tuple[tuple[int, int], PictureStatistics] | None:
        """Size and statistics of a picture, decoded once, because a lesson checks it again; None if it is none."""
        if name not in self._known:
            if not _is_picture(content):
                return None
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            picture = read_picture(content)
            self._known[name] = picture.size, _statistics(picture)
        return self._known.get(name)


def _named(uploads: Iterable[Upload]) -> dict[str, str]:
    """Name by digest of the uploads."""
    contents = ((upload.name, _content(upload)) for upload in uploads)  # not decoded: they can be hundreds
    return {digest(content): name for name, content in contents if content is not None}


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))


def _places(base: Path) -> dict[str, Path]:
    """The pictures in a part's folder by their folder and file within it."""
    return {path.relative_to(base).as_posix(): path for kind in (GOOD, BAD) for path in _files(base / kind)}


def _kind(place: str) -> str:
    return "corrected" if place.startswith(f"{TAKEN_BACK}/") else "bad" if place.startswith(f"{BAD}/") else "good"


def _move(place: str, source: Path, target: Path) -> bool:
    if (path := _places(source).get(place)) is None:  # a browser names it, and can name anything
        return False
    (target / place).parent.mkdir(parents=True, exist_ok=True)
    path.replace(target / place)
    return True


def unreadable_in(uploads: Iterable[Upload]) -> list[str]:
    """The names of uploads that cannot be read."""
    return [upload.name for upload in uploads if not _is_picture(_content(upload))]


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
    return f"{digest(content)}{PurePosixPath(name).suffix.lower() or '.png'}"


def digest(content: bytes) -> str:
    """The name of a picture with these bytes, without suffix."""
    return hashlib.sha256(content).hexdigest()[:20]


def _content(upload: Upload) -> bytes | None:
    """Its bytes; None if they are damaged."""
    try:
        return upload.read()
    except PictureError:
        return None


def _is_picture(content: bytes | None) -> bool:
    try:
        return content is not None and bool(read_picture(content))
    except PictureError:
        return False
