"""What folders of pictures mean: the one reader for training, the app, the export and the benchmarks.

A category in the MVTec AD layout is `CATEGORY/train/good`, `CATEGORY/test/DEFECT` and, for the masks,
`CATEGORY/ground_truth/DEFECT/NAME_mask.*`. A plain folder contains good pictures, or a folder of good ones, or one
folder for each category. All pictures below a folder count, however deep. What is not used is said, and a folder that
can be read in two ways is refused with both readings. No picture is opened before it is needed.
"""

import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from PIL import Image

from hubmodels.pictures import formats
from hubmodels.samples import GOOD, Category, Sample, Unused, shorten

TRAIN, TEST, MASKS = "train", "test", "ground_truth"
NORMAL_NAMES = {"good", "ok", "okay", "normal", "io", "gut", "pass", "passed", "nodefect", "nodefects", "defectfree"}
DEFECTIVE_NAMES = {
    *(
        "bad",
        "ng",
        "nok",
        "notok",
        "notgood",
        "nio",
        "defect",
        "defects",
        "defective",
        "abnormal",
        "damaged",
        "broken",
    ),
    *("anomaly", "anomalies", "anomalous", "fault", "faults", "faulty", "fail", "failed", "reject", "rejects"),
    *("rejected", "scrap", "schlecht", "ausschuss"),
}
FILLERS = {"part", "parts", "image", "images", "picture", "pictures", "photo", "photos", "sample", "samples"}
DATE_DIGITS = 4  # at least, such as 0131 or 2026-01-31
JUNK = {"__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin"}
LABEL_NAME = re.compile(r"(.+)[-_ .](?:label|mask|gt|seg|segmentation|annotation|groundtruth|ground_truth)s?")


# ---------------------------------------------------------------- names


def label_of(name: str, normal: str | None = None) -> int | None:
    """What the name of a folder, class or example means: 0 = normal, 1 = anomalous, None = it does not say.

    Case, digits and punctuation do not count, nor do words such as "parts": "OK", "Good parts" and "good_2" are
    normal, "not ok" and "n.i.O." anomalous.

    Args:
        normal: the name that means normal in this data set, instead of the usual ones.
    """
    if normal is not None and name.casefold() == normal.casefold():
        return 0
    words = [word for word in re.findall(r"[^\W\d_]+", name.casefold()) if word not in FILLERS]
    joined = "".join(words)
    if joined in DEFECTIVE_NAMES:
        return 1
    return 0 if normal is None and joined in NORMAL_NAMES else None


def defect_type_of(name: str, normal: str | None = None) -> str:
    """The defect type of a folder or class: "good" if its name means normal, else its name."""
    if label_of(name, normal) == 0:
        return GOOD
    return f"{name} (defective)" if name == GOOD else name  # where `normal` is another name


def _is_number(name: str) -> bool:
    """Whether a name contains no letter: it names no part, and may be a class ("0", "1"), a camera or a day."""
    return not re.search(r"[^\W\d_]", name)


def _is_date(name: str) -> bool:
    """Whether a folder is called after a day or a time: it is then taken as a part of the folder around it."""
    return _is_number(name) and sum(map(str.isdigit, name)) >= DATE_DIGITS


# ---------------------------------------------------------------- files


@lru_cache
def picture_suffixes() -> frozenset[str]:
    """Endings, in lower case, of all files that `predict` reads."""
    Image.init()
    read = formats()
    return frozenset(suffix for suffix, kind in Image.registered_extensions().items() if kind in read)


def is_picture(path: Path) -> bool:
    """Whether a file's ending is that of a picture."""
    return path.suffix.lower() in picture_suffixes()


def files_in(folder: Path) -> Iterator[Path]:
    """All files in a folder, however deep, in an order that is the same on every computer; links are followed.

    Hidden files and those of operating systems, such as `._*`, `__MACOSX` and `Thumbs.db`, are left out.

    Raises:
        ValueError: a folder cannot be read.
    """
    seen = set()
    for place, folders, names in os.walk(folder, followlinks=True, onerror=_refuse):
        real = os.path.realpath(place)
        folders[:] = [] if real in seen else sorted(filter(_is_visible, folders))  # a link may lead in circles
        if real not in seen:
            yield from (Path(place, name) for name in sorted(filter(_is_visible, names)))
        seen.add(real)


def pictures_in(folder: Path) -> list[Path]:
    """All picture files in a folder, however deep, as `files_in` finds them."""
    return list(filter(is_picture, files_in(folder)))


def find_pictures(places: Iterable[str | Path]) -> list[Path]:
    """Files as they are given, and of folders all pictures in them, however deep."""
    return [path for place in map(Path, places) for path in (pictures_in(place) if place.is_dir() else [place])]


def folders_in(folder: Path) -> list[Path]:
    """The folders directly in a folder, by name."""
    return [path for path in _entries(folder) if path.is_dir()]


def _loose_files(folder: Path) -> list[Path]:
    """The files directly in a folder, by name."""
    return [path for path in _entries(folder) if not path.is_dir()]


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted((path for path in folder.iterdir() if _is_visible(path.name)), key=lambda path: path.name)
    except OSError as error:
        _refuse(error)


def _is_visible(name: str) -> bool:
    return not name.startswith(".") and name.lower() not in JUNK


def _refuse(error: OSError) -> None:
    raise ValueError(f"{error.filename} cannot be read ({error.strerror}): check its permissions") from error


def _with_pictures(folder: Path) -> list[Path]:
    """The folders directly in a folder that contain pictures, by name."""
    return [place for place in folders_in(folder) if any(map(is_picture, files_in(place)))]


# ---------------------------------------------------------------- MVTec AD layout


def category_folders(root: Path) -> dict[str, Path]:
    """The categories in the MVTec AD layout in a folder, by name; the folder itself may be one."""
    if {TRAIN, TEST} & parts_of(root).keys():
        return {root.name: root}
    return {place.name: place for place in folders_in(root) if {TRAIN, TEST} & parts_of(place).keys()}


def parts_of(folder: Path) -> dict[str, Path]:
    """The folders of a category by their names in lower case."""
    return {place.name.lower(): place for place in folders_in(folder)}


def count_beside(root: Path, used: Collection[Path]) -> Unused | None:
    """The files in a folder that belong to none of its categories; None if there are none."""
    beside = [] if root in used else [place for place in _entries(root) if place not in used]
    files = sum(map(_count, beside))
    return Unused(root.name, files, "no_category") if files else None


def read_category(dataset: str | None, name: str, folder: Path, normal: str | None = None) -> Category:
    """A category folder in the MVTec AD layout; upper and lower case do not count.

    Args:
        normal: the name of the folders of good parts, where it is none of the usual ones.

    Raises:
        ValueError: a test picture has no label, or folders can be read in two ways.
    """
    parts, unused = parts_of(folder), Counter()
    train = _read_train(parts[TRAIN], normal, unused) if TRAIN in parts else []
    test = _read_test(parts[TEST], parts.get(MASKS), normal, unused) if TEST in parts else []
    used = [parts.get(part) for part in (TRAIN, TEST, MASKS)]
    for place in (place for place in _entries(folder) if place not in used):
        unused[place.name if place.is_dir() else name, "elsewhere"] += _count(place)
    return Category(dataset, name, tuple(train), tuple(test), unused=_listed(unused))


def _read_train(folder: Path, normal: str | None, unused: Counter) -> list[Sample]:
    """The good pictures of one part: those in folders with a name that means normal, else those in the folder."""
    labels = {place: label_of(place.name, normal) for place in _with_pictures(folder)}
    good = [place for place, label in labels.items() if label == 0]
    unnamed = [place for place, label in labels.items() if label is None and (good or not _is_date(place.name))]
    if unnamed and not good:
        raise ValueError(_two_readings(folder, unnamed))
    for place in (place for place, label in labels.items() if label == 1 or place in unnamed):
        unused[f"{folder.name}/{place.name}", "unnamed" if place in unnamed else "defective"] += _count(place)
    loose = _loose_files(folder)
    if good:
        unused[folder.name, "beside"] += len(loose)
        return [sample for place in good for sample in _read_good(place, files_in(place), normal, unused)]
    dates = [path for place, label in labels.items() if label is None for path in files_in(place)]
    return _read_good(folder, [*loose, *dates], normal, unused, GOOD)


def _read_good(
    folder: Path, files: Iterable[Path], normal: str | None, unused: Counter, shown: str | None = None
) -> list[Sample]:
    """The samples of the pictures among a folder's files, without those of a folder inside called bad."""
    where, good = shown or folder.name, []
    for path in _only_pictures(files, f"{TRAIN}/{where}", unused):
        inside = path.parent.relative_to(folder)
        if any(label_of(name, normal) == 1 for name in inside.parts):
            unused[f"{TRAIN}/{where}/{inside.as_posix()}", "defective"] += 1
        else:
            good.append(path)
    labels = set(_labels_beside(good).values())
    unused[f"{TRAIN}/{where}", "label"] += len(labels)
    return [_sample(TRAIN, where, folder, path, GOOD) for path in good if path not in labels]


def _two_readings(folder: Path, unnamed: Sequence[Path]) -> str:
    return (
        f"{folder} can be read in two ways, because no folder in it is called good, ok or normal. If one of them "
        f"({shorten([place.name for place in unnamed])}) contains the good parts, name it, for example by "
        f"--normal-folder {unnamed[0].name}. If not, move the good pictures into a folder called good."
    )


def _read_test(folder: Path, truth: Path | None, normal: str | None, unused: Counter) -> list[Sample]:
    if stray := [path for path in _loose_files(folder) if is_picture(path)]:
        raise ValueError(f"{stray[0]} has no label: put test pictures into test/good or test/DEFECT.")
    labels = {place: label_of(place.name, normal) for place in _with_pictures(folder)}
    if normal is None and None in labels.values() and 0 not in labels.values():
        names = shorten([place.name for place, label in labels.items() if label is None])
        raise ValueError(
            f"{folder} can be read in two ways, because no folder in it is called good, ok or normal. If one of them "
            f"({names}) contains good parts, name it by --normal-folder NAME. If all show defects, say so by "
            "--normal-folder good."
        )
    masks = {place.name.lower(): place for place in folders_in(truth)} if truth else {}
    samples = []
    for place in labels:
        kind = defect_type_of(place.name, normal)
        samples += _read_kind(place, kind, masks.get(place.name.lower()), unused)
    if truth:
        used = {sample.mask for sample in samples}
        unused[truth.name, "no_match"] += sum(path not in used for path in files_in(truth))
    return samples


def _read_kind(folder: Path, kind: str, truth: Path | None, unused: Counter) -> list[Sample]:
    """The test pictures of one defect type, or the good ones, with their masks in `truth` or beside them."""
    where = f"{TEST}/{folder.name}"
    paths = _only_pictures(files_in(folder), where, unused)
    beside = _labels_beside(paths)
    masks = {} if kind == GOOD else beside | (_match(paths, folder, truth) if truth else {})
    labels = set(beside.values())
    unused[where, "label"] += len(labels - set(masks.values()))
    pictures = [path for path in paths if path not in labels]
    return [_sample(TEST, folder.name, folder, path, kind, masks.get(path)) for path in pictures]


def _match(pictures: Sequence[Path], folder: Path, truth: Path) -> dict[Path, Path]:
    """The mask of each picture: NAME_mask.* or NAME.*, in the same sub-folder, or in none if the name is unique."""
    masks = {path.relative_to(truth).with_suffix(""): path for path in pictures_in(truth)}
    times = Counter(path.stem for path in pictures)
    found = {}
    for path in pictures:
        inside = path.relative_to(folder).with_suffix("")
        places = [inside, Path(inside.name)] if times[path.stem] == 1 else [inside]
        names = [place.with_name(name) for place in places for name in (f"{place.name}_mask", place.name)]
        if mask := next((masks[name] for name in names if name in masks), None):
            found[path] = mask
    return found


# ---------------------------------------------------------------- plain folders


def read_plain(root: Path, normal: str | None = None, several: bool = False) -> dict[str, Category]:
    """Good pictures without the MVTec AD layout: one category, or one for each folder; without a data set's name.

    Args:
        normal: as in `read_category`.
        several: the folders are categories, also where there are pictures beside them.

    Raises:
        ValueError: the folders can be read in two ways.
    """
    labels = {place: label_of(place.name, normal) for place in _with_pictures(root)}
    named = [place for place, label in labels.items() if label is None and not _is_date(place.name)]
    loose = any(map(is_picture, _loose_files(root)))
    if not several and (loose or 0 in labels.values() or not named):
        return {root.name: _read_part(root, normal)}
    if not several and (1 in labels.values() or any(_is_number(place.name) for place in named)):
        raise ValueError(_two_readings(root, named))
    return {place.name: _read_part(place, normal) for place in named}


def _read_part(folder: Path, normal: str | None) -> Category:
    unused: Counter = Counter()
    samples = _read_train(folder, normal, unused)
    return Category(None, folder.name, tuple(samples), unused=_listed(unused))


# ---------------------------------------------------------------- labelled pictures of the app


def find_labelled(folder: str | Path, normal: str | None = None) -> list[Category]:
    """The labelled test pictures in a folder, by category; empty where there are none.

    The folder is in the MVTec AD layout or is one of its categories. Otherwise its pictures are
    `DATASET/CATEGORY/SHOWN.*`, where names such as `good` or `ok_2` are normal and all others show defects.

    Raises:
        ValueError: as `read_category`.
    """
    root = Path(os.path.abspath(folder))  # not resolve(): a link's own name counts
    if not root.is_dir():
        return []
    if found := {name: place for name, place in category_folders(root).items() if TEST in parts_of(place)}:
        return [read_category(None, name, place, normal) for name, place in found.items()]
    places = [category for dataset in folders_in(root) for category in folders_in(dataset)]
    read = [Category(p.parent.name, p.name, test=tuple(_examples(p, normal))) for p in places]
    return [category for category in read if category.test]


def _examples(folder: Path, normal: str | None) -> list[Sample]:
    paths = [path for path in _loose_files(folder) if is_picture(path)]
    return [Sample(path.name, path, path.stem, int(label_of(path.stem, normal) != 0)) for path in paths]


# ---------------------------------------------------------------- what is used, what is not


def _only_pictures(files: Iterable[Path], where: str, unused: Counter) -> list[Path]:
    """The pictures among files; the others are counted."""
    pictures = []
    for path in files:
        if is_picture(path):
            pictures.append(path)
        else:
            unused[where, "heic" if path.suffix.lower() in {".heic", ".heif"} else "no_picture"] += 1
    return pictures


def _labels_beside(paths: Sequence[Path]) -> dict[Path, Path]:
    """Pictures that are by their name the label of another one, as `Part1_label.bmp` of `Part1.jpg`; by the other."""
    by_name = {(path.parent, path.stem.casefold()): path for path in paths}
    named = [(path, LABEL_NAME.fullmatch(path.stem.casefold())) for path in paths]
    pairs = [(by_name.get((path.parent, match[1])), path) for path, match in named if match]
    return {picture: label for picture, label in pairs if picture is not None}


def _count(place: Path) -> int:
    return sum(1 for _ in files_in(place)) if place.is_dir() else 1


def _listed(unused: Counter) -> tuple[Unused, ...]:
    return tuple(Unused(where, count, reason) for (where, reason), count in unused.items() if count)


def _sample(split: str, shown: str, folder: Path, path: Path, kind: str, mask: Path | None = None) -> Sample:
    name = f"{split}/{shown}/{path.relative_to(folder).as_posix()}"
    return Sample(name, path, kind, int(kind != GOOD), mask)
