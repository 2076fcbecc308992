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

from hubmodels.folders import (
    TRAIN,
    category_folders,
    count_beside,
    folders_in,
    parts_of,
    picture_suffixes,
    read_category,
    read_plain,
    require_folder,
)
from hubmodels.prediction import HELD_OUT, number_held_out
from hubmodels.samples import Category, Sample, Unused, shorten
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
    normal_folder: str | None = None,
    hub: HubColumns | None = None,
    revision: str | None = None,
) -> list[Category]:
    """The categories of a data set, all of them unless some are named, sorted by name.

    Args:
        data_root: tried in this order: a folder in the MVTec AD layout (or one category folder of it); a folder of
            good pictures (or of folders of them); the id "owner/name" of a Hub data set. "parts:" means the rendered
            sample parts.
        dataset_name: replaces the name derived from `data_root`.
        normal_folder: name of the folders of good parts, where it is none of the usual ones.
        hub, revision: columns and commit of a Hub data set.

    Raises:
        ValueError: nothing usable is there; the message says what to do.
    """
    if normal_folder and not Path(data_root).expanduser().is_dir():
        raise ValueError("--normal-folder is for folders; for a data set on the Hub say --hub-columns normal=NAME")
    if str(data_root) == SAMPLE_PARTS:
        return parts.parts_categories(categories)
    root = Path(os.path.abspath(Path(data_root).expanduser()))  # not resolve(): a link's own name counts
    if root.is_dir():
        opened = _open_folder(root, categories, dataset_name, normal_folder)
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


def hold_out(
    train: Sequence[Sample], share: float = HELD_OUT, seed: int = 0, copies: Sequence[Sequence[str]] = ()
) -> tuple[list[Sample], list[Sample]]:
    """Splits normal samples into those to fit and those held out for calibration, both ordered by name.

    At least one sample is held out, and at least one is kept. The split depends on the names, the share, the seed and
    the copies alone, not on the order given. Copies stay on one side, and only the first of each group calibrates:
    the others would be counted as if they were independent.

    Args:
        share: of the independent samples to hold out, in (0, 1).
        copies: groups of names whose pictures are equal or nearly equal.

    Raises:
        ValueError: another share, or fewer than 2 independent samples.
    """
    if not 0 < share < 1:
        raise ValueError(f"the held-out share must be between 0 and 1, both excluded; got {share}.")
    groups = _independent(train, copies)
    count = number_held_out(len(groups), share)
    largest = max(groups, key=lambda first: len(groups[first]))  # fitted, so that enough is left to fit
    order = [first for first in groups if first != largest or len(groups[largest]) == 1]
    chosen = {order[i] for i in np.random.default_rng(seed).permutation(len(order))[:count]}
    fit = [sample for first, group in groups.items() if first not in chosen for sample in group]
    return sorted(fit, key=lambda sample: sample.name), [groups[first][0] for first in order if first in chosen]


def make_folds(
    train: Sequence[Sample], count: int, seed: int = 0, copies: Sequence[Sequence[str]] = ()
) -> list[list[list[Sample]]]:
    """Splits normal samples into at most `count` folds with about equally many groups of copies, mostly of one sample.

    Depends on what `hold_out` depends on.

    Raises:
        ValueError: fewer than 2 independent samples.
    """
    groups = list(_independent(train, copies).values())
    order = np.random.default_rng(seed).permutation(len(groups))
    return [[groups[i] for i in order[start::count]] for start in range(min(count, len(groups)))]


def _independent(train: Sequence[Sample], copies: Sequence[Sequence[str]]) -> dict[str, list[Sample]]:
    """Samples ordered by name, in groups of copies, by the name of the first; ValueError for fewer than 2 groups."""
    first_of = {name: min(group) for group in copies for name in group}
    groups: dict[str, list[Sample]] = {}
    for sample in sorted(train, key=lambda sample: sample.name):
        groups.setdefault(first_of.get(sample.name, sample.name), []).append(sample)
    if len(groups) < 2:
        raise ValueError(f"calibrating needs at least 2 training pictures that are no copies; got {len(groups)}.")
    return groups


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
    for split in (split for split in splits if split not in (hub.train, hub.test)):
        logger.warning("not used: %d rows in the split %s of %s (--hub-columns)", len(splits[split]), split, repo_id)
    return [replace(category_from_dataset(splits, dataset, name, hub), revision=revision) for name in names]


def _open_folder(
    root: Path, wanted: Sequence[str] | None, dataset_name: str | None, normal: str | None
) -> list[Category]:
    require_folder(root, normal)
    folders = {name: place for name, place in category_folders(root).items() if TRAIN in parts_of(place)}
    if not folders:
        return _open_plain(root, wanted, dataset_slug(dataset_name or OWN_PICTURES), normal)
    _warn_of_unused(count_beside(root, folders.values()))
    around = root.parent if root in folders.values() else root
    dataset = dataset_slug(dataset_name or around.name)
    return [read_category(dataset, name, folders[name], normal) for name in _select(folders, wanted, root)]


def _open_plain(root: Path, wanted: Sequence[str] | None, dataset: str, normal: str | None) -> list[Category]:
    """A folder of good pictures, with or without a `good` folder around them, or a folder of such folders."""
    inside = {place.name: place for place in folders_in(root)}
    found = read_plain(root, normal, several=bool(wanted) and inside.keys() >= set(wanted))
    empty = [category for category in found.values() if not category.train]
    if len(empty) == len(found):
        unused = "".join(f"\n  {each}" for category in empty for each in category.unused)
        raise ValueError(
            f"{root} contains no pictures. Expected CATEGORY/train/good/*.png (MVTec AD layout), or good pictures "
            f"directly in the folder; types: {', '.join(sorted(picture_suffixes()))}.{unused}"
        )
    if found.keys() == {root.name} and root.name not in inside:
        found = {wanted[0] if wanted and len(wanted) == 1 else _slug(root.name): found[root.name]}
    else:
        _warn_of_unused(count_beside(root, [inside[name] for name in found if name in inside]))
    return [replace(found[name], dataset=dataset, name=name) for name in _select(found, wanted, root)]


def _warn_of_unused(unused: Iterable[Unused]) -> None:
    for each in unused:
        logger.warning("%s", each)
