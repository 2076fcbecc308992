"""Opens what a run trains on: MVTec AD folders, a folder of good pictures, a data set on the Hub, or rendered parts.

Every source becomes a `Category` of `Sample`s, which are read when needed. `hold_out` sets normal ones aside for
calibration.
"""

import logging
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from hubmodels.samples import (
    PICTURE_SUFFIXES,
    Category,
    Sample,
    folder_sample,
    folders_in,
    pictures_in,
    read_category,
    shorten,
)
from training.hub_data import HubColumns, category_from_dataset, category_names, load_splits, resolve_revision
from training.parts import dataset as parts

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
    """The categories of a data set, all of them unless some are named, sorted by name.

    Args:
        data_root: tried in this order: a folder in the MVTec AD layout (or one category folder of it); a folder of
            good pictures (or of folders of them); the id "owner/name" of a Hub data set. "parts:" means the rendered
            sample parts.
        dataset_name: replaces the name derived from `data_root`.
        hub, revision: columns and commit of a Hub data set.

    Raises:
        ValueError: nothing usable is there; the message says what to do.
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
    """Splits normal samples into those to fit and those held out for calibration, both ordered by name.

    At least one sample is held out, and at least one is kept. The split depends on the names, the share and the seed
    alone, not on the order given.

    Args:
        share: of the samples to hold out, in (0, 1).

    Raises:
        ValueError: another share, or fewer than 2 samples.
    """
    if not 0 < share < 1:
        raise ValueError(f"the held-out share must be between 0 and 1, both excluded; got {share}.")
    if len(train) < 2:
        raise ValueError(f"holding out needs at least 2 training pictures; got {len(train)}.")
    ordered = sorted(train, key=lambda sample: sample.name)
    count = min(max(round(share * len(ordered)), 1), len(ordered) - 1)
    chosen = set(np.random.default_rng(seed).permutation(len(ordered))[:count].tolist())
    fit = [sample for index, sample in enumerate(ordered) if index not in chosen]
    return fit, [ordered[index] for index in sorted(chosen)]


def dataset_slug(name: str) -> str:
    """A data set's name as part of a repository name: "mvtec_ad" -> "mvtec", "Magnetic-Tile" -> "magnetic_tile".

    It contains no dash, so that {method}-{dataset}-{category} can be split again.
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
    missing, anomalous = category.missing_masks, sum(sample.label for sample in category.test)
    if 0 < len(missing) < anomalous:
        warning = "%s: %d of %d anomalous test pictures have no mask, so there will be no pixel metrics: %s"
        logger.warning(warning, category.name, len(missing), anomalous, shorten(missing))


def _select(available: Iterable[str], wanted: Sequence[str] | None, where: Path | str) -> list[str]:
    available = sorted(available)
    if unknown := sorted(set(wanted or ()) - set(available)):
        raise ValueError(f"{where} has no category {shorten(unknown)}; available: {', '.join(available)}.")
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
        folders = {folder.name: folder for folder in folders_in(root) if (folder / "train" / "good").is_dir()}
        dataset = root.name
    if folders:
        dataset = dataset_slug(dataset_name or dataset)
        return [read_category(dataset, name, folders[name]) for name in _select(folders, wanted, root)]
    return _open_plain(root, wanted, dataset_slug(dataset_name or OWN_PICTURES))


def _open_plain(root: Path, wanted: Sequence[str] | None, dataset: str) -> list[Category]:
    """A folder of good pictures, with or without a `good` folder around them, or a folder of such folders."""
    if any((root / split).is_dir() for split in ("train", "test")):
        raise ValueError(f"{root} has a train or test folder but no train/good: normal pictures go into train/good.")
    folders = {folder.name: pictures for folder in folders_in(root) if (pictures := _good_pictures(folder))}
    own = _good_pictures(root)
    if own and folders.keys().isdisjoint(wanted or ()):
        if unused := [name for name, pictures in folders.items() if pictures != own]:
            logger.warning("%s: only the good pictures are used, not the folders %s", root, shorten(unused))
        folders = {wanted[0] if wanted and len(wanted) == 1 else _slug(root.name): own}
    if not folders:
        raise ValueError(
            f"{root} contains no pictures. Expected CATEGORY/train/good/*.png (MVTec AD layout), or good pictures "
            f"directly in the folder; types: {', '.join(sorted(PICTURE_SUFFIXES))}."
        )
    return [
        Category(dataset, name, tuple(folder_sample("train", "good", path) for path in folders[name]))
        for name in _select(folders, wanted, root)
    ]


def _good_pictures(folder: Path) -> list[Path]:
    return pictures_in(folder) or pictures_in(folder / "good")
