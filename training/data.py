"""Where pictures come from: MVTec AD folders, a folder of good pictures, or a data set on the Hub.

Every source becomes a ``Category`` of lazy ``Sample``s. ``inspect_category`` looks for what spoils a run before it
starts, and ``hold_out`` sets normal training pictures aside for calibration.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from hubmodels.pictures import PictureError, read_picture

if TYPE_CHECKING:
    import datasets

logger = logging.getLogger(__name__)

PICTURE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"}
NORMAL_NAMES = {"good", "normal"}
OWN_PICTURES = "own"  # data set name of plain folders
MASK_THRESHOLD = 127  # of 255: a pixel is defective where its grey is above one half
MVTEC_SLUGS = {"mvtec", "mvtec-ad", "mvtec-anomaly-detection"}


@dataclass(frozen=True)
class HubCell:
    """One undecoded picture of a ``datasets.Dataset``, fetched when read."""

    table: datasets.Dataset = field(repr=False)
    column: str
    row: int

    def read_bytes(self) -> bytes | None:
        """The encoded picture; None where the cell is empty. Raises OSError where its file is gone."""
        cell = self.table[self.row][self.column]
        if cell is None:
            return None
        return cell["bytes"] if cell["bytes"] is not None else Path(cell["path"]).read_bytes()


@dataclass(frozen=True)
class Sample:
    """One picture of a category with its ground truth; nothing is read before it is asked for.

    ``name`` ("test/crack/003.png") is unique within the category, ``label`` is 0 normal, 1 anomalous. ``mask`` is None
    for normal pictures and where the data set has none.
    """

    name: str
    source: Path | HubCell
    defect_type: str
    label: int
    mask: Path | HubCell | None = None

    def read(self) -> Image.Image:
        """The picture, RGB, upright, 8 bits. Raises PictureError, naming it, where it cannot be read."""
        try:
            return _read(self.source)
        except PictureError as error:
            raise PictureError(f"{self.name}: {error}") from error

    def read_mask(self, size: tuple[int, int]) -> np.ndarray | None:
        """Ground truth at the picture's (height, width): (H, W) uint8, 1 where the mask's grey is above one half.

        Zeros for a normal sample; None for an anomalous one without mask. A mask of the picture's aspect (within one
        pixel of rounding) is resized with nearest neighbours, because interpolation erodes defects. Raises ValueError
        for any other size, and PictureError where the mask cannot be read.
        """
        if self.label == 0:
            return np.zeros(size, dtype=np.uint8)
        if self.mask is None:
            return None
        mask = _decode_mask(self.mask)
        if mask.shape == tuple(size):
            return mask
        if not _same_aspect(mask.shape, size):
            raise ValueError(
                f"{self.name}: the mask is {_shape(mask.shape)} but the picture is {_shape(size)} (height x width); "
                "a mask must cover the whole picture, so check which mask belongs to it."
            )
        height, width = size
        return np.array(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))


@dataclass(frozen=True)
class Category:
    """The pictures of one object or texture class: normal ones to train on, both kinds to test on."""

    dataset: str
    name: str
    train: tuple[Sample, ...]
    test: tuple[Sample, ...] = ()

    @property
    def has_masks(self) -> bool:
        """Whether there are anomalous test samples and each has a mask: what pixel metrics need."""
        anomalous = [sample for sample in self.test if sample.label == 1]
        return bool(anomalous) and all(sample.mask is not None for sample in anomalous)


@dataclass(frozen=True)
class HubColumns:
    """What the columns and splits of a Hub data set are called.

    ``label`` holds class names or numbers; "good", "normal" and 0 are normal. Without it every picture is normal.
    ``test=None`` (or empty) means that there is no test split.
    """

    image: str = "image"
    label: str | None = "label"
    mask: str | None = None
    category: str | None = None
    train: str = "train"
    test: str | None = "test"


def open_categories(
    data_root: str | os.PathLike[str],
    categories: Sequence[str] | None = None,
    *,
    dataset_name: str | None = None,
    hub: HubColumns | None = None,
    revision: str | None = None,
) -> list[Category]:
    """The categories found at ``data_root``, all of them unless some are named, sorted by name.

    ``data_root`` is, tried in this order: a folder in the MVTec AD layout (or one category folder of it), a folder of
    good pictures (or of folders of them), the id "owner/name" of a Hub data set (``hub`` and ``revision`` apply to it
    alone). ``dataset_name`` replaces the name derived from it. Raises ValueError, saying what to do, where nothing
    usable is there.
    """
    root = Path(os.path.abspath(Path(data_root).expanduser()))  # not resolve(): a link's own name counts
    if root.is_dir():
        opened = _open_folder(root, categories, dataset_name)
    elif not root.exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", str(data_root)):
        opened = _open_hub(str(data_root), categories, dataset_name, hub or HubColumns(), revision)
    else:
        raise ValueError(
            f"{data_root} is not a folder. Give a folder in the MVTec AD layout, a folder of good pictures, "
            'or the id "owner/name" of a data set on the Hub.'
        )
    for category in opened:
        _check_name(category.name, "category")
    return opened


def dataset_slug(name: str) -> str:
    """A data set's name as part of a repository name: "mvtec_ad" -> "mvtec", "Magnetic_Tile" -> "magnetic-tile"."""
    slug = _slug(name)
    return "mvtec" if slug in MVTEC_SLUGS else _check_name(slug, "data set")


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.")


def _check_name(name: str, what: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?", name) or "--" in name or ".." in name:
        raise ValueError(
            f"the {what} name {name!r} cannot be part of a repository name: use letters, digits, and '_', '-' "
            "or '.' singly between them. Rename the folder or give another name."
        )
    return name


# ---------------------------------------------------------------------------------------------------------------------
# Folders


def _open_folder(root: Path, wanted: Sequence[str] | None, dataset_name: str | None) -> list[Category]:
    if (root / "train" / "good").is_dir():
        folders, dataset = {root.name: root}, root.parent.name
    else:
        folders = {folder.name: folder for folder in _folders(root) if (folder / "train" / "good").is_dir()}
        dataset = root.name
    if folders:
        dataset = dataset_slug(dataset_name or dataset)
        return [_mvtec_category(dataset, name, folders[name]) for name in _select(folders, wanted, root)]
    return _open_plain(root, wanted, dataset_slug(dataset_name or OWN_PICTURES))


def _open_plain(root: Path, wanted: Sequence[str] | None, dataset: str) -> list[Category]:
    """A folder of good pictures, with or without a ``good`` folder around them, or a folder of such folders."""
    if any((root / split).is_dir() for split in ("train", "test")):
        raise ValueError(f"{root} has a train or test folder but no train/good: normal pictures go into train/good.")
    folders = {folder.name: pictures for folder in _folders(root) if (pictures := _good_pictures(folder))}
    own = _good_pictures(root)
    if own and folders.keys().isdisjoint(wanted or ()):
        if unused := [name for name, pictures in folders.items() if pictures != own]:
            logger.warning("%s: only the good pictures are used, not the folders %s", root, _list(unused))
        folders = {wanted[0] if wanted and len(wanted) == 1 else _slug(root.name): own}
    if not folders:
        raise ValueError(
            f"{root} holds no pictures. Expected CATEGORY/train/good/*.png (MVTec AD layout), or good pictures "
            f"directly in the folder; types: {', '.join(sorted(PICTURE_SUFFIXES))}."
        )
    return [
        Category(dataset, name, tuple(_folder_sample("train", "good", path) for path in folders[name]))
        for name in _select(folders, wanted, root)
    ]


def _good_pictures(folder: Path) -> list[Path]:
    return _pictures(folder) or _pictures(folder / "good")


def _mvtec_category(dataset: str, name: str, folder: Path) -> Category:
    if stray := _pictures(folder / "test"):
        raise ValueError(f"{stray[0]} has no label: put test pictures into test/good or test/DEFECT.")
    train = tuple(_folder_sample("train", "good", path) for path in _pictures(folder / "train" / "good"))
    test = []
    for defects in _folders(folder / "test"):
        masks = {path.stem: path for path in _pictures(folder / "ground_truth" / defects.name)}
        for path in _pictures(defects):
            mask = masks.get(f"{path.stem}_mask") or masks.get(path.stem)
            test.append(_folder_sample("test", defects.name, path, mask))
    category = Category(dataset, name, train, tuple(test))
    _warn_of_missing_masks(category)
    return category


def _folder_sample(split: str, defect_type: str, path: Path, mask: Path | None = None) -> Sample:
    label = int(not _is_normal(defect_type))
    return Sample(f"{split}/{defect_type}/{path.name}", path, defect_type, label, mask if label else None)


def _is_normal(defect_type: str) -> bool:
    return defect_type.lower() in NORMAL_NAMES


def _warn_of_missing_masks(category: Category) -> None:
    missing = _missing_masks(category.test)
    anomalous = sum(sample.label for sample in category.test)
    if 0 < len(missing) < anomalous:
        logger.warning(
            "%s: %d of %d anomalous test pictures have no mask, so there will be no pixel metrics: %s",
            category.name,
            len(missing),
            anomalous,
            _list(missing),
        )


def _missing_masks(samples: Iterable[Sample]) -> list[str]:
    return [sample.name for sample in samples if sample.label == 1 and sample.mask is None]


def _folders(folder: Path) -> list[Path]:
    return [path for path in _visible(folder) if path.is_dir()]


def _pictures(folder: Path) -> list[Path]:
    return [path for path in _visible(folder) if path.suffix.lower() in PICTURE_SUFFIXES and path.is_file()]


def _visible(folder: Path) -> list[Path]:
    """Entries by name, so that every machine sees the same order; without hidden files such as macOS's ``._*``."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if not path.name.startswith(".")), key=lambda path: path.name)


def _select(available: Iterable[str], wanted: Sequence[str] | None, where: Path | str) -> list[str]:
    available = sorted(available)
    if unknown := sorted(set(wanted or ()) - set(available)):
        raise ValueError(f"{where} has no category {_list(unknown)}; available: {', '.join(available)}.")
    return [name for name in available if not wanted or name in wanted]


# ---------------------------------------------------------------------------------------------------------------------
# The Hub


def _open_hub(
    repo_id: str, wanted: Sequence[str] | None, dataset_name: str | None, hub: HubColumns, revision: str | None
) -> list[Category]:
    splits = _load_splits(repo_id, revision)
    name = repo_id.split("/")[1]
    dataset = dataset_slug(dataset_name or name)
    _check_columns(splits, hub, repo_id)
    names = {name}
    if hub.category:
        names = {text for split in _splits(hub) for text in _texts(splits[split], hub.category) if text}
    return [category_from_dataset(splits, dataset, name, hub) for name in _select(names, wanted, repo_id)]


def _load_splits(repo_id: str, revision: str | None) -> datasets.DatasetDict:
    import datasets  # slow to import, and folders do without it

    try:
        return datasets.load_dataset(repo_id, revision=revision)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise ValueError(
            f"{repo_id} is neither a folder here nor a data set that loads from the Hub ({error}). Check the "
            "spelling, the revision, the network (and HF_HUB_OFFLINE) and, if private or gated, `hf auth login`; "
            "or download it and give its folder."
        ) from error


def category_from_dataset(splits: datasets.DatasetDict, dataset: str, name: str, hub: HubColumns) -> Category:
    """The category ``name`` of a loaded data set: of the rows whose category column says so, or of all without one.

    Pictures stay encoded until a sample is read. A row of the training split without label counts as normal, since
    ``imagefolder`` gives none to a single class; anomalous rows there are left out. Raises ValueError for a split or
    column that is missing or of the wrong type, and for a test row without label.
    """
    _check_columns(splits, hub, name)
    train = _hub_samples(splits, "train", hub.train, name, hub)
    normal = tuple(sample for sample in train if sample.label == 0)
    if len(normal) < len(train):
        logger.warning("%s: left %d anomalous rows out of the training split", name, len(train) - len(normal))
    test = _hub_samples(splits, "test", hub.test, name, hub) if hub.test else ()
    category = Category(dataset, name, normal, tuple(test))
    if hub.mask:
        _warn_of_missing_masks(category)
    return category


def _splits(hub: HubColumns) -> list[str]:
    return [split for split in (hub.train, hub.test) if split]


def _check_columns(splits: datasets.DatasetDict, hub: HubColumns, where: str) -> None:
    import datasets

    for split in _splits(hub):
        if split not in splits:
            hint = ", or leave test empty if there is none" if split == hub.test else ""
            raise ValueError(
                f"{where} has no split {split!r}; available: {', '.join(splits)}. Say which to use{hint}."
            )
        features = splits[split].features
        for role in ("image", "label", "mask", "category"):
            column = getattr(hub, role)
            if column and column not in features:
                raise ValueError(
                    f"split {split!r} of {where} has no {role} column {column!r}; available: {', '.join(features)}. "
                    f"Say which one holds the {role}."
                )
            if column and role in ("image", "mask") and not isinstance(features[column], datasets.Image):
                raise ValueError(f"column {column!r} of {where} holds {features[column]}, not pictures.")


def _hub_samples(splits: datasets.DatasetDict, kind: str, split: str, name: str, hub: HubColumns) -> list[Sample]:
    table = splits[split]
    images = _encoded(table, hub.image)
    masks = _encoded(table, hub.mask) if hub.mask else None
    labels = _texts(table, hub.label) if hub.label else ["good"] * len(table)
    names = _texts(table, hub.category) if hub.category else [name] * len(table)
    samples = []
    for row in (row for row, row_name in enumerate(names) if row_name == name):
        defect_type = _defect_type(labels[row], kind, row)
        label = int(not _is_normal(defect_type))
        mask = HubCell(masks, hub.mask, row) if masks is not None and label else None
        if mask is not None and mask.read_bytes() is None:
            mask = None
        part = re.sub(r"[^A-Za-z0-9_-]+", "-", defect_type)  # names may become paths of figures
        samples.append(Sample(f"{kind}/{part}/{row:06d}", HubCell(images, hub.image, row), defect_type, label, mask))
    return samples


def _encoded(table: datasets.Dataset, column: str) -> datasets.Dataset:
    """One picture column that hands out bytes, so that the same code reads pictures of the Hub and of folders."""
    import datasets

    return table.select_columns([column]).cast_column(column, datasets.Image(decode=False))


def _texts(table: datasets.Dataset, column: str) -> list[str | None]:
    """A label or category column as text: class names where it has them (-1, the Hub's "unlabelled", gives None)."""
    class_names = getattr(table.features[column], "names", None)

    def text(value: str | float | None) -> str | None:
        if value is None or (class_names and value < 0):
            return None
        if class_names:
            return class_names[value]
        return value if isinstance(value, str) else f"{value:g}"

    return [text(value) for value in table[column]]


def _defect_type(label: str | None, kind: str, row: int) -> str:
    if label is None and kind == "test":
        raise ValueError(f"row {row} of the test split has no label: testing needs one for every picture.")
    return "good" if label in (None, "0") else label


# ---------------------------------------------------------------------------------------------------------------------
# Reading


def _content(source: Path | HubCell) -> bytes:
    content = source.read_bytes()
    if content is None:
        raise PictureError("the cell is empty")
    return content


def _read(source: Path | HubCell) -> Image.Image:
    return read_picture(source if isinstance(source, Path) else _content(source))


def _decode_mask(source: Path | HubCell) -> np.ndarray:
    """(H, W) uint8, 1 where the grey value is above one half."""
    return (np.asarray(_read(source).convert("L")) > MASK_THRESHOLD).astype(np.uint8)


def _same_aspect(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether the larger size, scaled down to the smaller along either axis, meets it within one pixel."""
    small, large = sorted((one, other), key=lambda size: size[0] * size[1])
    scales = (small[0] / large[0], small[1] / large[1])
    return any(all(abs(large[axis] * scale - small[axis]) <= 1 for axis in (0, 1)) for scale in scales)


def _shape(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


# ---------------------------------------------------------------------------------------------------------------------
# Sanity


@dataclass(frozen=True)
class SanityReport:
    """What a category holds and what is wrong with it. Sizes are (height, width); samples go by their names.

    ``duplicates`` are groups of training pictures, ``leaks`` (train, test) pairs, both equal byte for byte.
    ``bad_masks`` maps a sample to what is wrong with its mask: unreadable, empty, or not the picture's size.
    """

    dataset: str
    category: str
    counts: dict[str, dict[str, int]]
    sizes: dict[tuple[int, int], int]
    unreadable: dict[str, str]
    duplicates: list[list[str]]
    leaks: list[tuple[str, str]]
    missing_masks: list[str]
    bad_masks: dict[str, str]

    def lines(self) -> list[str]:
        """The report as text, one finding per line."""
        lines = [f"{self.dataset}/{self.category}: " + "; ".join(_count(*split) for split in self.counts.items())]
        lines.append(self._size_line())
        if self.unreadable:
            causes = [f"{name} ({cause})" for name, cause in self.unreadable.items()]
            lines.append(f"{len(causes)} unreadable training pictures left out: {_list(causes)}")
        if self.duplicates:
            groups = [" = ".join(group) for group in self.duplicates]
            lines.append(f"{len(groups)} groups of identical files in the training pictures: {_list(groups)}")
        if self.leaks:
            pairs = [f"{train} = {test}" for train, test in self.leaks]
            lines.append(f"LEAK: {len(pairs)} test pictures are also training pictures: {_list(pairs)}")
        if self.missing_masks:
            names = self.missing_masks
            lines.append(f"{len(names)} anomalous test pictures without mask: {_list(names)}")
        if self.bad_masks:
            causes = [f"{name} ({cause})" for name, cause in self.bad_masks.items()]
            lines.append(f"{len(causes)} masks to check: {_list(causes)}")
        return lines

    def _size_line(self) -> str:
        (common, times), total = max(self.sizes.items(), key=lambda item: item[1]), sum(self.sizes.values())
        line = f"training picture size (height x width): {_shape(common)} ({times} of {total})"
        if len(self.sizes) > 1:
            heights, widths = zip(*self.sizes, strict=True)
            line += f", {len(self.sizes)} sizes, {_range(heights)} x {_range(widths)}"
        return line

    def as_dict(self) -> dict:
        """The report as plain JSON values."""
        sizes = [{"height": h, "width": w, "count": count} for (h, w), count in self.sizes.items()]
        return asdict(self) | {"sizes": sizes, "leaks": [list(pair) for pair in self.leaks]}


def inspect_category(category: Category, skip_bad: bool = False) -> tuple[Category, SanityReport]:
    """Check a category before training; returns it without unreadable training pictures, and the report.

    Training pictures are decoded. Of test pictures only the bytes are hashed and, where a mask must be compared with
    one, the size is taken from the file header: no test picture is decoded before training has ended. Raises
    ValueError for unreadable training pictures unless ``skip_bad``, and where fewer than two remain.
    """
    sizes, unreadable = _decode_all(category.train)
    if unreadable and not skip_bad:
        listing = "\n".join(f"  {name}: {cause}" for name, cause in unreadable.items())
        raise ValueError(
            f"{category.name}: {len(unreadable)} training pictures cannot be read:\n{listing}\n"
            "Repair or remove them, or leave them out with --skip-bad."
        )
    category = replace(category, train=tuple(sample for sample in category.train if sample.name not in unreadable))
    if len(category.train) < 2:
        raise ValueError(
            f"{category.name} has {len(category.train)} readable training pictures; at least 2 are needed, one to "
            "train on and one to hold out."
        )
    duplicates, leaks = _same_bytes(category)
    splits = {"train": category.train, "test": category.test}
    report = SanityReport(
        dataset=category.dataset,
        category=category.name,
        counts={split: dict(Counter(sample.defect_type for sample in samples)) for split, samples in splits.items()},
        sizes=sizes,
        unreadable=unreadable,
        duplicates=duplicates,
        leaks=leaks,
        missing_masks=_missing_masks(category.test),
        bad_masks=_bad_masks(category.test),
    )
    return category, report


def _decode_all(samples: Iterable[Sample]) -> tuple[dict[tuple[int, int], int], dict[str, str]]:
    sizes, unreadable = Counter(), {}
    for sample in samples:
        try:
            width, height = _read(sample.source).size
        except (OSError, ValueError) as error:
            unreadable[sample.name] = str(error)
        else:
            sizes[height, width] += 1
    return dict(sizes), unreadable


def _same_bytes(category: Category) -> tuple[list[list[str]], list[tuple[str, str]]]:
    groups = defaultdict(list)
    for sample in category.train:
        groups[_digest(sample)].append(sample.name)
    test = [(sample.name, _digest(sample)) for sample in category.test]
    leaks = [(groups[digest][0], name) for name, digest in test if digest in groups]
    return [names for names in groups.values() if len(names) > 1], leaks


def _digest(sample: Sample) -> bytes:
    try:
        return hashlib.sha256(_content(sample.source)).digest()
    except (OSError, PictureError) as error:
        raise ValueError(f"{sample.name} cannot be read: {error}") from error


def _bad_masks(samples: Iterable[Sample]) -> dict[str, str]:
    findings = {sample.name: _mask_fault(sample) for sample in samples if sample.mask is not None}
    return {name: fault for name, fault in findings.items() if fault}


def _mask_fault(sample: Sample) -> str | None:
    try:
        mask = _decode_mask(sample.mask)
    except (OSError, ValueError) as error:
        return f"unreadable: {error}"
    if not mask.any():
        return f"empty: no grey value above {MASK_THRESHOLD}"
    size = _header_size(sample.source)
    # A header does not say which way is up, so a turned picture passes here; read_mask is the judge.
    if size and not (_same_aspect(mask.shape, size) or _same_aspect(mask.shape, size[::-1])):
        return f"mask is {_shape(mask.shape)}, picture {_shape(size)}"
    return None


def _header_size(source: Path | HubCell) -> tuple[int, int] | None:
    """(height, width) from the file header, without decoding; None where even that cannot be read."""
    try:
        with Image.open(io.BytesIO(_content(source))) as picture:
            return picture.height, picture.width
    except (OSError, ValueError, Image.DecompressionBombError):
        return None


def _count(split: str, defect_types: dict[str, int]) -> str:
    if not defect_types:
        return f"no {split} pictures"
    return f"{split} " + ", ".join(f"{count} {defect_type}" for defect_type, count in defect_types.items())


def _range(values: Iterable[int]) -> str:
    return f"{min(values)}-{max(values)}"


def _list(names: Sequence[str], shown: int = 5) -> str:
    rest = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + rest


# ---------------------------------------------------------------------------------------------------------------------
# Held-out normals


def hold_out(train: Sequence[Sample], share: float = 0.1, seed: int = 0) -> tuple[list[Sample], list[Sample]]:
    """Split normal samples into those to fit and those held out for calibration, both ordered by name.

    ``share`` in (0, 1) is held out, at least one sample, and at least one is kept. The split depends on the names,
    the share and the seed alone, not on the order given. Raises ValueError for another share or fewer than 2 samples.
    """
    if not 0 < share < 1:
        raise ValueError(f"the held-out share must lie between 0 and 1, both excluded; got {share}.")
    if len(train) < 2:
        raise ValueError(f"holding out needs at least 2 training pictures; got {len(train)}.")
    ordered = sorted(train, key=lambda sample: sample.name)
    count = min(max(round(share * len(ordered)), 1), len(ordered) - 1)
    chosen = set(np.random.default_rng(seed).permutation(len(ordered))[:count].tolist())
    fit = [sample for index, sample in enumerate(ordered) if index not in chosen]
    return fit, [ordered[index] for index in sorted(chosen)]
