"""Opens what a run trains on: MVTec AD folders, a folder of good pictures, a data set on the Hub, or drawn parts.

Every source becomes a ``Category`` of lazy ``Sample``s; ``hold_out`` sets normal ones aside for calibration.
"""

import logging
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from hubmodels.samples import PICTURE_SUFFIXES
from training.hub_data import HubColumns, category_from_dataset, category_names, load_splits, resolve_revision
from training.parts import dataset as parts
from training.samples import Category, Sample, is_normal, listing

logger = logging.getLogger(__name__)

OWN_PICTURES = "own"  # data set name of plain folders
SAMPLE_PARTS = "parts:"
MVTEC_SLUGS = {"mvtec", "mvtec-ad", "mvtec-anomaly-detection"}


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
    alone); "parts:" means the sample parts that ``training.parts.dataset`` draws. ``dataset_name`` replaces the name derived
    from it. Raises ValueError, saying what to do, where nothing usable is there.
    """
    if str(data_root) == SAMPLE_PARTS:
        return parts.parts_categories(categories)
    root = Path(os.path.abspath(Path(data_root).expanduser()))  # not resolve(): a link's own name counts
    if root.is_dir():
        opened = _open_folder(root, categories, dataset_name)
    elif not root.exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", str(data_root)):
        opened = _open_hub(str(data_root), categories, dataset_name, hub or HubColumns(), revision)
    else:
        raise ValueError(
            f"{data_root} is not a folder. Give a folder in the MVTec AD layout, a folder of good pictures, "
            f'the id "owner/name" of a data set on the Hub, or {SAMPLE_PARTS} for sample parts.'
        )
    for category in opened:
        _check_name(category.name, "category")
        _warn_of_missing_masks(category)
    return opened


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


def dataset_slug(name: str) -> str:
    """A data set's name as part of a repository name: "mvtec_ad" -> "mvtec", "Magnetic-Tile" -> "magnetic_tile".

    No dash is left in it, so that {method}-{dataset}-{category} can be taken apart again.
    """
    slug = _slug(name)
    return "mvtec" if slug in MVTEC_SLUGS else _check_name(slug.replace("-", "_"), "data set")


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.")


def _check_name(name: str, what: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?", name) or "--" in name or ".." in name:
        raise ValueError(
            f"the {what} name {name!r} cannot be part of a repository name: use letters, digits, and '_', '-' "
            "or '.' singly between them. Rename the folder or give another name."
        )
    return name


def _warn_of_missing_masks(category: Category) -> None:
    missing = category.missing_masks
    anomalous = sum(sample.label for sample in category.test)
    if 0 < len(missing) < anomalous:
        logger.warning(
            "%s: %d of %d anomalous test pictures have no mask, so there will be no pixel metrics: %s",
            category.name,
            len(missing),
            anomalous,
            listing(missing),
        )


def _select(available: Iterable[str], wanted: Sequence[str] | None, where: Path | str) -> list[str]:
    available = sorted(available)
    if unknown := sorted(set(wanted or ()) - set(available)):
        raise ValueError(f"{where} has no category {listing(unknown)}; available: {', '.join(available)}.")
    return [name for name in available if not wanted or name in wanted]


def _open_hub(
    repo_id: str, wanted: Sequence[str] | None, dataset_name: str | None, hub: HubColumns, revision: str | None
) -> list[Category]:
    revision = resolve_revision(repo_id, revision)
    splits = load_splits(repo_id, revision)
    dataset = dataset_slug(dataset_name or repo_id.split("/")[1])
    names = _select(category_names(splits, repo_id, hub), wanted, repo_id)
    return [replace(category_from_dataset(splits, dataset, name, hub), revision=revision) for name in names]


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
            logger.warning("%s: only the good pictures are used, not the folders %s", root, listing(unused))
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
    return Category(dataset, name, train, tuple(test))


def _folder_sample(split: str, defect_type: str, path: Path, mask: Path | None = None) -> Sample:
    label = int(not is_normal(defect_type))
    return Sample(f"{split}/{defect_type}/{path.name}", path, defect_type, label, mask if label else None)


def _folders(folder: Path) -> list[Path]:
    return [path for path in _visible(folder) if path.is_dir()]


def _pictures(folder: Path) -> list[Path]:
    return [path for path in _visible(folder) if path.suffix.lower() in PICTURE_SUFFIXES and path.is_file()]


def _visible(folder: Path) -> list[Path]:
    """Entries by name, so that every machine sees the same order; without hidden files such as macOS's ``._*``."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if not path.name.startswith(".")), key=lambda path: path.name)
