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
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from PIL import Image

from hubmodels.pictures import formats
from hubmodels.samples import GOOD, Category, Sample, Unused, shorten

TRAIN, TEST, MASKS = "train", "test", "ground_truth"
NORMAL_NAMES = set(
    "good ok okay normal pass passed intact nodefect nodefects defectfree faultfree io inordnung gut gutteil gutteile "
    "bon bons bonne bonnes bueno buenos buena buenas buono buoni 良品 合格 合格品 正常 正常品 ok品".split()
)
DEFECTIVE_NAMES = set(
    "bad ng nok ko notok nogood notgood def defect defects defective abnormal anomaly anomalies anomalous fault "
    "faults faulty fail failed failure error errors reject rejects rejected scrap scrapped damaged broken nio "
    "schlecht schlechtteil schlechtteile fehler fehlerhaft defekt defekte schrott ausschuss mauvais mauvaise malo "
    "malos mala malas defectuoso defectuosa 不良 不良品 不合格 异常 異常 缺陷 次品 ng品".split()
)
NEGATIONS = {"not", "no", "non", "nicht", "kein", "keine"}
FILLERS = set("data image images img imgs part parts picture pictures photo photos sample samples".split())
LABEL_FOLDERS = {"mask", "masks", "label", "labels", "gt", "groundtruth", "annotation", "annotations"}
LABEL_NAME = re.compile(r"(.+)[-_ .](?:label|mask|gt|seg|segmentation|annotation|groundtruth|ground_truth)s?")
DATE_DIGITS = 4  # at least, such as 0131 or 2026-01-31
JUNK = {"__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin"}
HEIC = {".heic", ".heif"}


# ---------------------------------------------------------------- names


def label_of(name: str, normal: str | None = None) -> int | None:
    """What the name of a folder, class or example means: 0 = normal, 1 = anomalous, None = it does not say.

    Case, digits and punctuation do not count, nor do words such as "parts": "OK", "Good parts" and "good_2" are
    normal, "not ok" and "n.i.O." anomalous.

    Args:
        normal: a further name that means normal in this data set.
    """
    if _is(name, normal):
        return 0
    words = _words(name)
    opposite = words[:1] != words[-1:] and words[0] in NEGATIONS
    joined = "".join(words[1:] if opposite else words)
    if joined in NORMAL_NAMES:
        return int(opposite)
    return int(not opposite) if joined in DEFECTIVE_NAMES else None


def defect_type_of(name: str, is_normal: bool) -> str:
    """The defect type of a folder or class: "good" if it is normal, else its name."""
    if is_normal:
        return GOOD
    return f"{name} (defective)" if name == GOOD else name  # where another name means normal


def seems(name: str, meaning: Collection[str]) -> bool:
    """Whether a name that does not say what it means contains one of these words, as "ok_front" or "screw_bad"."""
    return label_of(name) is None and not meaning.isdisjoint(_words(name))


def _words(name: str) -> list[str]:
    return [word for word in re.findall(r"[^\W\d_]+", name.casefold()) if word not in FILLERS]


def _is(name: str, normal: str | None) -> bool:
    return normal is not None and name.casefold() == normal.casefold()


def _labels(places: Iterable[Path], normal: str | None) -> dict[Path, int | None]:
    """The label of each of several folders. Where one of them has the name given, the usual names do not count."""
    places = list(places)
    given = any(_is(place.name, normal) for place in places)
    found = {place: label_of(place.name, normal) for place in places}
    return {p: None if given and label == 0 and not _is(p.name, normal) else label for p, label in found.items()}


def _is_number(name: str) -> bool:
    """Whether a name contains no letter: it names no part, and may be a class ("0", "1"), a camera or a day."""
    return not re.search(r"[^\W\d_]", name)


def _says_nothing(name: str) -> bool:
    """Whether a folder is called after a day or a time, or just "images": its content counts for the folder around."""
    return sum(map(str.isdigit, name)) >= DATE_DIGITS if _is_number(name) else not _words(name)


def _is_label_folder(name: str) -> bool:
    return "".join(_words(name)) in LABEL_FOLDERS


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
        ValueError: a folder cannot be read, or its files were unpacked wrongly.
    """
    seen = set()
    for place, folders, names in os.walk(folder, followlinks=True, onerror=_refuse):
        real = os.path.realpath(place)
        folders[:] = [] if real in seen else sorted(filter(is_visible, folders))  # a link may lead in circles
        if real not in seen:
            yield from (Path(place, _checked(name)) for name in sorted(filter(is_visible, names)))
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
        return sorted((path for path in folder.iterdir() if is_visible(_checked(path.name))), key=lambda p: p.name)
    except OSError as error:
        _refuse(error)


def is_visible(name: str) -> bool:
    return not name.startswith(".") and name.lower() not in JUNK


def _checked(name: str) -> str:
    if os.sep == "/" and "\\" in name:
        raise ValueError(f"the file {name} has backslashes in its name: it was unpacked wrongly, unpack it again")
    return name


def _refuse(error: OSError) -> None:
    remedy = "its path" if isinstance(error, FileNotFoundError) else "its permissions"
    raise ValueError(f"{error.filename} cannot be read ({error.strerror}): check {remedy}") from error


def _holds_photos(folder: Path) -> bool:
    return any(is_picture(path) or path.suffix.lower() in HEIC for path in files_in(folder))


def _layout(folder: Path) -> tuple[list[Path], list[Path]]:
    """The files of a folder, and its folders with pictures; folders whose name says nothing are replaced by theirs."""
    files, places = _loose_files(folder), []
    for place in folders_in(folder):
        if _says_nothing(place.name):
            inner_files, inner_places = _layout(place)
            files, places = files + inner_files, places + inner_places
        elif _holds_photos(place):
            places.append(place)
    return files, places


# ---------------------------------------------------------------- MVTec AD layout


def category_folders(root: Path) -> dict[str, Path]:
    """The categories in the MVTec AD layout in a folder, by name; the folder itself may be one."""
    if _is_category(root) and not any(map(_is_category, folders_in(root))):  # a category may be called "test"
        return {root.name: root}
    return {place.name: place for place in folders_in(root) if _is_category(place)}


def _is_category(folder: Path) -> bool:
    return not parts_of(folder).keys().isdisjoint((TRAIN, TEST))


def parts_of(folder: Path) -> dict[str, Path]:
    """The folders of a category by their names in lower case."""
    return {place.name.lower(): place for place in folders_in(folder)}


def require_folder(root: Path, normal: str | None) -> None:
    """Raises ValueError where no folder has the name given, unless it is one of the usual names."""
    if normal is None or label_of(normal) == 0:
        return
    found = any(_is(name, normal) for _, names, _ in os.walk(root, followlinks=True) for name in names)
    if not found:
        raise ValueError(f"no folder in {root} is called {normal}: check --normal-folder")


def count_beside(root: Path, used: Collection[Path]) -> tuple[Unused, ...]:
    """The files in a folder that belong to none of its categories, if there are any."""
    beside = [] if root in used else [place for place in _entries(root) if place not in used]
    files = sum(map(_count, beside))
    return (Unused(root.name, files, "no_category"),) if files else ()


def read_category(
    dataset: str | None, name: str, folder: Path, normal: str | None = None, splits: Collection[str] = (TRAIN, TEST)
) -> Category:
    """A category folder in the MVTec AD layout; upper and lower case do not count.

    Args:
        normal: a further name of folders of good parts.
        splits: what to read, of "train" and "test".

    Raises:
        ValueError: a test picture has no label, or folders can be read in two ways.
    """
    parts, unused = parts_of(folder), Counter()
    train, test = (parts.get(split) if split in splits else None for split in (TRAIN, TEST))
    trained = _read_train(train, normal, unused) if train else []
    tested = _read_test(test, parts.get(MASKS), normal, unused) if test else []
    for place in _entries(folder):
        if place not in [parts.get(part) for part in (TRAIN, TEST, *([MASKS] if test else []))]:
            unused[place.name if place.is_dir() else name, "elsewhere"] += _count(place)
    return Category(dataset, name, tuple(trained), tuple(tested), unused=_listed(unused))


def _read_train(folder: Path, normal: str | None, unused: Counter) -> list[Sample]:
    """The good pictures of one part: those in folders with a name that means normal, else those in the folder."""
    files, places = _layout(folder)
    labels = _labels(places, normal)
    good = [place for place, label in labels.items() if label == 0]
    unnamed = [p for p, label in labels.items() if label is None and not _is_label_folder(p.name)]
    if unnamed and not good:
        raise ValueError(_two_readings(folder, unnamed))
    for place in (place for place in places if place not in good):
        reason = "unnamed" if place in unnamed else "defective" if labels[place] == 1 else "label"
        unused[f"{folder.name}/{place.relative_to(folder).as_posix()}", reason] += _count(place)
    if not good:
        return _read_good(folder, files, GOOD, unused)
    unused[folder.name, "beside"] += len(files)
    shown = {place: place.relative_to(folder).as_posix() for place in good}
    return [sample for place in good for sample in _read_good(place, files_in(place), shown[place], unused)]


def _read_good(folder: Path, files: Iterable[Path], shown: str, unused: Counter) -> list[Sample]:
    """The samples of the good pictures among a folder's files, with the label pictures beside them as masks."""
    where = f"{TRAIN}/{shown}"
    paths = _without_folders(folder, _only_pictures(files, where, unused), where, 0, unused)
    labels = _labels_beside(paths)
    unused[where, "label"] += len(labels)
    masks = set(labels.values())
    return [_sample(TRAIN, shown, folder, path, GOOD, labels.get(path)) for path in paths if path not in masks]


def _two_readings(folder: Path, unnamed: Sequence[Path]) -> str:
    names = [place.name for place in unnamed]
    return (
        f"{folder} can be read in two ways, because no folder in it is called good, ok or normal. If one of them "
        f"({shorten(names)}) contains the good parts, name it by --normal-folder NAME. If all of them contain good "
        "parts of one kind, move them into a folder called good."
    )


def _read_test(folder: Path, truth: Path | None, normal: str | None, unused: Counter) -> list[Sample]:
    files, places = _layout(folder)
    if stray := [path for path in files if is_picture(path)]:
        raise ValueError(f"{stray[0]} has no label: put test pictures into test/good or test/DEFECT.")
    unused[TEST, "no_picture"] += len(files)
    labels = _labels([place for place in places if not _is_label_folder(place.name)], normal)
    for place in (place for place in places if place not in labels):
        unused[f"{TEST}/{place.name}", "label"] += _count(place)
    _require_clear(folder, labels, normal)
    masks = {place.name.lower(): place for place in folders_in(truth)} if truth else {}
    samples = []
    for place, label in labels.items():
        kind = defect_type_of(place.name, label == 0)
        samples += _read_kind(folder, place, kind, masks.get(place.name.lower()), unused)
    if truth:
        used = {sample.mask for sample in samples}
        unused[truth.name, "no_match"] += sum(path not in used for path in files_in(truth))
    return samples


def _require_clear(folder: Path, labels: dict[Path, int | None], normal: str | None) -> None:
    """Raises ValueError where a test folder may contain good parts, although its name is none of theirs."""
    unnamed = [place.name for place, label in labels.items() if label is None]
    doubtful = [name for name in unnamed if seems(name, NORMAL_NAMES)]
    if normal is None and (doubtful or (unnamed and 0 not in labels.values())):
        raise ValueError(
            f"{folder} can be read in two ways. If a folder of good parts is among {shorten(doubtful or unnamed)}, "
            "name it by --normal-folder NAME. If all of them show defects, say so by --normal-folder good."
        )


def _read_kind(test: Path, folder: Path, kind: str, truth: Path | None, unused: Counter) -> list[Sample]:
    """The test pictures of one defect type, or the good ones, with their masks in `truth` or beside them."""
    shown = folder.relative_to(test).as_posix()
    where = f"{TEST}/{shown}"
    paths = _without_folders(folder, _only_pictures(files_in(folder), where, unused), where, int(kind != GOOD), unused)
    beside = _labels_beside(paths)
    masks = {} if kind == GOOD else beside | (_match(paths, folder, truth) if truth else {})
    labels = set(beside.values())
    unused[where, "label"] += len(labels - set(masks.values()))
    pictures = [path for path in paths if path not in labels]
    return [_sample(TEST, shown, folder, path, kind, masks.get(path)) for path in pictures]


def _match(pictures: Sequence[Path], folder: Path, truth: Path) -> dict[Path, Path]:
    """The mask of each picture: NAME_mask.* or NAME.*, in the same sub-folder, or in none if the name is unique.

    Pictures that differ by their ending alone have none, because it is not clear whose it is.
    """
    masks = {_base(path.relative_to(truth)): path for path in pictures_in(truth)}
    inside = {path: Path(str(path.relative_to(folder).with_suffix("")).casefold()) for path in pictures}
    times, names = Counter(inside.values()), Counter(place.name for place in inside.values())
    found = {}
    for path, place in inside.items():
        keys = [place, *([Path(place.name)] if names[place.name] == 1 else [])]
        if times[place] == 1 and (mask := next((masks[key] for key in keys if key in masks), None)):
            found[path] = mask
    return found


def _base(path: Path) -> Path:
    """A mask's path without ending and without "_mask" or the like, in lower case: that of its picture."""
    stem = path.stem.casefold()
    match = LABEL_NAME.fullmatch(stem)
    return Path(str(path.parent).casefold()) / (match[1] if match else stem)


# ---------------------------------------------------------------- plain folders


def read_plain(root: Path, normal: str | None = None, several: bool = False) -> dict[str, Category]:
    """Good pictures without the MVTec AD layout: one category, or one for each folder; without a data set's name.

    Args:
        normal: as in `read_category`.
        several: the folders are categories, also where there are pictures beside them.

    Raises:
        ValueError: the folders can be read in two ways.
    """
    files, places = _layout(root)
    labels = _labels(places, normal)
    named = [p for p, label in labels.items() if label is None and not _is_label_folder(p.name)]
    if above := next((place for place in places if category_folders(place)), None):
        raise ValueError(f"{root} contains the data set {above.name}: give --data-root {above}")
    loose = any(map(is_picture, files))
    if not several and (loose or 0 in labels.values() or not named):
        if 0 not in labels.values() and label_of(root.name, normal) == 1:
            raise ValueError(f"{root} is by its name a folder of defective parts: give the folder of good ones")
        return {root.name: _read_part(root, normal)}
    doubtful = [p for p in named if _is_number(p.name) or seems(p.name, NORMAL_NAMES | DEFECTIVE_NAMES)]
    if not several and (1 in labels.values() or doubtful):
        names = shorten([place.name for place in named])
        raise ValueError(f"{_two_readings(root, named)} If each is a category of its own, say --categories ({names}).")
    return {place.name: _read_part(place, normal) for place in named}


def _read_part(folder: Path, normal: str | None) -> Category:
    unused: Counter = Counter()
    samples = _read_train(folder, normal, unused)
    return Category(None, folder.name, tuple(samples), unused=_listed(unused))


# ---------------------------------------------------------------- labelled pictures of the app


def find_labelled(folder: str | Path, normal: str | None = None) -> list[Category]:
    """The labelled test pictures in the MVTec AD layout in a folder, by category; empty where there are none.

    Raises:
        ValueError: as `read_category`, or no folder has the name given.
    """
    root = Path(os.path.abspath(folder))  # not resolve(): a link's own name counts
    found = category_folders(root) if root.is_dir() else {}
    found = {name: place for name, place in found.items() if TEST in parts_of(place)}
    if not found:
        return []
    require_folder(root, normal)
    read = [read_category(None, name, place, normal, splits=(TEST,)) for name, place in found.items()]
    return [replace(read[0], unused=read[0].unused + count_beside(root, found.values())), *read[1:]]


def find_shown(folder: str | Path) -> list[Category]:
    """Pictures `DATASET/CATEGORY/SHOWN.*`: those with names such as `good`, `ok_2` are normal, all others defects."""
    places = [place for dataset in folders_in(Path(folder)) for place in folders_in(dataset)]
    read = [Category(place.parent.name, place.name, test=tuple(_shown_in(place))) for place in places]
    return [category for category in read if category.test]


def _shown_in(folder: Path) -> list[Sample]:
    paths = [path for path in _loose_files(folder) if is_picture(path)]
    return [Sample(path.name, path, path.stem, int(label_of(path.stem) != 0)) for path in paths]


# ---------------------------------------------------------------- what is used, what is not


def _only_pictures(files: Iterable[Path], where: str, unused: Counter) -> list[Path]:
    """The pictures among files; the others are counted."""
    pictures = []
    for path in files:
        if is_picture(path):
            pictures.append(path)
        else:
            unused[where, "heic" if path.suffix.lower() in HEIC else "no_picture"] += 1
    return pictures


def _without_folders(folder: Path, paths: Iterable[Path], where: str, label: int, unused: Counter) -> list[Path]:
    """The pictures without those in a folder of labels inside, or in one whose name means the other label."""
    kept = []
    for path in paths:
        inside = path.parent.relative_to(folder)
        if any(map(_is_label_folder, inside.parts)):
            unused[f"{where}/{inside.as_posix()}", "label"] += 1
        elif any(_means(name, 1 - label) for name in inside.parts):
            unused[f"{where}/{inside.as_posix()}", "contradiction"] += 1
        else:
            kept.append(path)
    return kept


def _means(name: str, label: int) -> bool:
    return label_of(name) == label or seems(name, (NORMAL_NAMES, DEFECTIVE_NAMES)[label])


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
