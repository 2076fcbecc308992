"""Fetches the pictures that the compact backbone learns from: files of Debian packages with free licences.

    python -m training.free_pictures DIR
    python -m training.free_pictures DIR --sheet     # DIR/sheet.png: forty of them, of all kinds

`free_pictures.toml` names the packages, their licences, and their hashes. Each picture becomes a JPEG file below
DIR/KIND/PACKAGE. DIR/manifest.csv lists them all with the hash of the original file. A package that is in DIR/packages
already is not downloaded again. Needs the extra `distill`.
"""

import argparse
import csv
import fnmatch
import hashlib
import io
import logging
import sys
import tomllib
import urllib.request
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, ImageOps

logger = logging.getLogger("training.free_pictures")

ARCHIVE = "http://deb.debian.org/debian/"  # what comes is checked by its hash
SOURCES = Path(__file__).with_suffix(".toml")
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".tga", ".dds", ".bmp", ".tif"}
NO_PICTURE = ("norm", "nrm", "bump", "gloss", "spec", "height", "luma", "glow", "alpha", "mask", "_ao", "font", "icon")
MIN_SIDE, MAX_SIDE = 128, 1024  # pixels of the short side; larger pictures are made smaller
MIN_DEVIATION = 8  # grey levels; less is a plain area
MIN_OPAQUE = 0.25  # share of the pixels
BACKGROUND = 128  # grey, behind transparent pixels
SHOWN, SHOWN_COLUMNS, SHOWN_SIDE = 40, 10, 128  # pictures of the sheet, pixels
COLUMNS = ("kind", "package", "file", "width", "height", "sha256")


@dataclass(frozen=True)
class Source:
    """A package and which of its files are wanted (patterns of fnmatch), if needed inside ZIP files."""

    kind: str
    package: str
    path: str
    sha256: str
    licence: str
    files: tuple[str, ...]
    inside: tuple[str, ...] = ()


def sources() -> list[Source]:
    """What `free_pictures.toml` names."""
    return [Source(**entry) for entry in tomllib.loads(SOURCES.read_text(encoding="utf-8"))["source"]]


def download(source: Source, folder: Path) -> Path:
    """The package as a file below `folder`. SystemExit if its hash is wrong or it cannot be reached."""
    path = folder / PurePosixPath(source.path).name
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        try:
            begun, _ = urllib.request.urlretrieve(ARCHIVE + source.path, path.with_suffix(".partial"))
        except OSError as error:
            raise SystemExit(f"{ARCHIVE + source.path} cannot be downloaded: {error}") from None
        Path(begun).rename(path)
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != source.sha256:
        raise SystemExit(f"{path} has the hash {found} instead of {source.sha256}: delete it and start again")
    return path


def members(package: Path, source: Source) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the wanted files of a package."""
    from debian.debfile import DebFile

    with DebFile(package).data.tgz() as archive:
        for member in archive:
            name = member.name.removeprefix("./")
            if not member.isfile() or not _matches(name, source.files):
                continue
            content = archive.extractfile(member).read()
            if source.inside:
                yield from _unzipped(name, content, source.inside)
            else:
                yield name, content


def _unzipped(name: str, content: bytes, patterns: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for inner in archive.namelist():
            if _matches(inner, patterns):
                yield f"{name}:{inner}", archive.read(inner)


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def looks_useful(name: str) -> bool:
    """Whether a file's name can be that of a picture that shows something: no bump map, no icon."""
    path = PurePosixPath(name.lower())
    return path.suffix in SUFFIXES and not any(word in path.stem for word in NO_PICTURE)


def prepare(content: bytes) -> Image.Image | None:
    """The picture as RGB, its short side at most MAX_SIDE; None if too small or too plain. OSError: unreadable."""
    with Image.open(io.BytesIO(content)) as file:
        if min(file.size) < MIN_SIDE or file.mode.startswith(("I", "F")):
            return None
        file.draft("RGB", (2 * MAX_SIDE, 2 * MAX_SIDE))
        picture = _on_grey(file) if file.has_transparency_data else file.convert("RGB")
    if picture is None:
        return None
    scale = MAX_SIDE / min(picture.size)
    if scale < 1:
        picture = picture.resize([round(side * scale) for side in picture.size], Image.Resampling.LANCZOS)
    return picture if _shows_something(np.asarray(picture)) else None


def _on_grey(file: Image.Image) -> Image.Image | None:
    picture = file.convert("RGBA")
    if np.mean(np.asarray(picture.getchannel("A")) > 127) < MIN_OPAQUE:
        return None
    below = Image.new("RGBA", picture.size, (BACKGROUND,) * 3 + (255,))
    return Image.alpha_composite(below, picture).convert("RGB")


def _shows_something(pixels: np.ndarray) -> bool:
    red, green, blue = pixels.reshape(-1, 3).mean(0)
    normal_map = blue > 180 and abs(red - 128) < 25 and abs(green - 128) < 25
    return not normal_map and pixels.mean(2).std() >= MIN_DEVIATION


def fetch(source: Source, folder: Path) -> dict[bytes, dict]:
    """Writes the pictures of a source; their rows of the manifest, by what they look like. Equal ones come once."""
    package, rows = download(source, folder / "packages"), {}
    target = folder / source.kind / source.package
    target.mkdir(parents=True, exist_ok=True)
    for name, content in members(package, source):
        if not looks_useful(name):
            continue
        try:
            picture = prepare(content)
        except (OSError, ValueError, SyntaxError) as error:  # SyntaxError: a broken PNG
            logger.info("not used: %s: %s", name, error)
            continue
        if picture is None or (look := thumbnail(picture)) in rows:
            continue
        digest = hashlib.sha256(content).hexdigest()
        rows[look] = dict(zip(COLUMNS, (source.kind, source.package, name, *picture.size, digest), strict=True))
        picture.save(picture_file(folder, rows[look]), quality=95, subsampling=0)
    logger.info("%s: %d pictures", source.package, len(rows))
    return rows


def picture_file(folder: Path, row: dict) -> Path:
    """Where the picture of a row of the manifest is."""
    return folder / row["kind"] / row["package"] / f"{row['sha256'][:16]}.jpg"


def thumbnail(picture: Image.Image) -> bytes:
    """What two pictures have in common that are nearly equal: 8 x 8 grey values in 32 steps."""
    return (np.asarray(picture.convert("L").resize((8, 8), Image.Resampling.BOX)) // 8).tobytes()


def sheet(folder: Path) -> Path:
    """Forty pictures, as many of each kind, in one."""
    with (folder / "manifest.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    kinds = {kind: [row for row in rows if row["kind"] == kind] for kind in dict.fromkeys(row["kind"] for row in rows)}
    order = np.random.default_rng(0)
    shown = [own[i] for own in kinds.values() for i in order.permutation(len(own))[: SHOWN // len(kinds) + 1]]
    whole = Image.new("RGB", (SHOWN_SIDE * SHOWN_COLUMNS, SHOWN_SIDE * SHOWN // SHOWN_COLUMNS))
    for i, row in enumerate(shown[:SHOWN]):
        with Image.open(picture_file(folder, row)) as picture:
            place = SHOWN_SIDE * (i % SHOWN_COLUMNS), SHOWN_SIDE * (i // SHOWN_COLUMNS)
            whole.paste(ImageOps.fit(picture, (SHOWN_SIDE, SHOWN_SIDE)), place)
    whole.save(folder / "sheet.png")
    return folder / "sheet.png"


def main(arguments: list[str] | None = None) -> None:
    """Fetches all sources and writes the manifest."""
    parser = argparse.ArgumentParser(description="Fetch the free pictures that the compact backbone learns from.")
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder for packages, pictures and manifest")
    parser.add_argument("--sheet", action="store_true", help="only show some of those that are there")
    args = parser.parse_args(arguments)
    folder = args.folder
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    if args.sheet:
        logger.info("%s", sheet(folder))
        return
    packages = {source.path: source for source in sources()}.values()  # some have pictures of two kinds
    with ThreadPoolExecutor() as pool:
        list(pool.map(partial(download, folder=folder / "packages"), packages))
        found = list(pool.map(partial(fetch, folder=folder), sources()))
    first: dict[bytes, dict] = {}
    for look, row in (item for rows in found for item in rows.items()):
        if first.setdefault(look, row) is not row:
            picture_file(folder, row).unlink(missing_ok=True)
    rows = list(first.values())
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    logger.info("%d pictures below %s", len(rows), folder)


if __name__ == "__main__":
    main()
