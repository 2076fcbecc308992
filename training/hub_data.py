"""Categories from a data set on the Hub, or any other that `datasets` has loaded."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import HfApi
from huggingface_hub.utils import httpx

from hubmodels.folders import NORMAL_NAMES, defect_type_of, label_of, seems
from hubmodels.pictures import PictureError
from hubmodels.samples import GOOD, Category, Sample, shorten

if TYPE_CHECKING:
    import datasets  # slow to import, and not needed for folders: functions that need it import it

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class HubColumns:
    """Names of the columns and splits of a Hub data set.

    Attributes:
        label: column of class names or numbers; the names of `hubmodels.folders.label_of`, else 0, are normal. None or
            empty: every picture is normal.
        test: None or empty: there is no test split.
        normal: the class name or number that means normal, where it is none of the usual ones.
    """

    image: str = "image"
    label: str | None = "label"
    mask: str | None = None
    category: str | None = None
    train: str = "train"
    test: str | None = "test"
    normal: str | None = None


@dataclass(frozen=True)
class HubCell:
    """One undecoded picture of a `datasets.Dataset`, read when needed."""

    table: datasets.Dataset = field(repr=False)
    column: str
    row: int

    def read_bytes(self) -> bytes:
        """The encoded picture. Raises PictureError if the cell is empty, OSError if its file is missing."""
        cell = self.table[self.row][self.column]
        if cell is None:
            raise PictureError("the cell is empty")
        return cell["bytes"] if cell["bytes"] is not None else Path(cell["path"]).read_bytes()


def resolve_revision(repo_id: str, revision: str | None) -> str | None:
    """The commit of a revision (None: main) now; the revision itself if the Hub does not respond."""
    try:
        return HfApi().dataset_info(repo_id, revision=revision).sha
    except (httpx.HTTPError, OSError, ValueError):  # loading may find a local copy, or fails with the remedy
        return revision


def load_splits(repo_id: str, revision: str | None) -> datasets.DatasetDict:
    """All splits of a data set on the Hub. Raises ValueError, with the remedy, if it does not load."""
    import datasets

    try:
        return datasets.load_dataset(repo_id, revision=revision)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise ValueError(
            f"{repo_id} is neither a folder here nor a data set that loads from the Hub ({error}). Check the "
            "spelling, the revision, the network (and HF_HUB_OFFLINE) and, if private or gated, `hf auth login`; "
            "or download it and give its folder."
        ) from error


def category_names(splits: datasets.DatasetDict, repo_id: str, hub: HubColumns) -> set[str]:
    """The values of the category column in the splits used; without such a column, the repository's name alone.

    Raises ValueError as `category_from_dataset` does for splits and columns.
    """
    _check_columns(splits, hub, repo_id)
    if not hub.category:
        return {repo_id.split("/")[1]}
    return {text for split in _splits(hub) for text in _texts(splits[split], hub.category) if text}


def category_from_dataset(splits: datasets.DatasetDict, dataset: str, name: str, hub: HubColumns) -> Category:
    """One category of a loaded data set: the rows with its name in the category column, or all without such a column.

    Pictures remain encoded until a sample is read. A row of the training split without label counts as normal, because
    `imagefolder` gives no labels to a single class. Anomalous rows of the training split are left out.

    Raises:
        ValueError: a split or column is missing or of the wrong type, a test row has no label, or it is not clear
            which label is normal.
    """
    _check_columns(splits, hub, name)
    hub = replace(hub, normal=_normal_label(splits, hub, name)) if hub.label else hub
    train = _hub_samples(splits, "train", hub.train, name, hub)
    normal = tuple(sample for sample in train if sample.label == 0)
    if len(normal) < len(train):
        logger.warning("%s: left %d anomalous rows out of the training split", name, len(train) - len(normal))
    test = _hub_samples(splits, "test", hub.test, name, hub) if hub.test else ()
    return Category(dataset, name, normal, tuple(test))


def _splits(hub: HubColumns) -> list[str]:
    return [split for split in (hub.train, hub.test) if split]


def _check_columns(splits: datasets.DatasetDict, hub: HubColumns, where: str) -> None:
    import datasets

    for split in _splits(hub):
        if split not in splits:
            hint = ", or leave test empty if there is none" if split == hub.test else ""
            raise ValueError(
                f"{where} has no split {split!r}; available: {', '.join(splits)}. Choose one by --hub-columns{hint}."
            )
        features = splits[split].features
        for role in ("image", "label", "mask", "category"):
            column = getattr(hub, role)
            if column and column not in features:
                raise ValueError(
                    f"split {split!r} of {where} has no {role} column {column!r}; available: {', '.join(features)}. "
                    f"Choose one by --hub-columns {role}=NAME."
                )
            if column and role in ("image", "mask") and not isinstance(features[column], datasets.Image):
                raise ValueError(f"column {column!r} of {where} contains {features[column]}, not pictures.")


def _normal_label(splits: datasets.DatasetDict, hub: HubColumns, where: str) -> str | None:
    """The label that means normal, if one has to be named because the usual names do not tell.

    Raises:
        ValueError: it is not clear; the message has the labels, and how to say it.
    """
    labels = {split: {text for text in _texts(splits[split], hub.label) if text is not None} for split in _splits(hub)}
    known = set().union(*labels.values())
    if hub.normal is not None and hub.normal not in known:
        raise ValueError(f"{where} has no label {hub.normal!r}: choose normal=NAME from {shorten(sorted(known))}.")
    normal = hub.normal or next((None for text in known if label_of(text) == 0), "0" if "0" in known else "")
    in_train = labels[hub.train]
    doubtful = hub.normal is None and any(seems(text, NORMAL_NAMES) for text in known)
    if known and (normal == "" or doubtful or (in_train and not any(is_normal(text, normal) for text in in_train))):
        raise ValueError(
            f"{where} can be read in two ways: the labels are {shorten(sorted(known))}, in the training split "
            f"{shorten(sorted(in_train)) or 'none'}. If one of them means normal, name it by --hub-columns "
            "normal=NAME. If all training pictures are good, whatever their label, say --hub-columns label= test="
        )
    if hub.normal is None and normal == "0":
        logger.info("%s: label 0 counts as normal, all others as anomalous (--hub-columns normal=NAME)", where)
    return normal


def is_normal(label: str, normal: str | None) -> bool:
    """Whether a label means normal: the one that is named, else one of the usual names."""
    return label_of(label) == 0 if normal is None else label.casefold() == normal.casefold()


def _hub_samples(splits: datasets.DatasetDict, kind: str, split: str, name: str, hub: HubColumns) -> list[Sample]:
    table = splits[split]
    images = _encoded(table, hub.image)
    masks = _encoded(table, hub.mask) if hub.mask else None
    labels = _texts(table, hub.label) if hub.label else [None] * len(table)
    names = _texts(table, hub.category) if hub.category else [name] * len(table)
    samples = []
    for row in (row for row, row_name in enumerate(names) if row_name == name):
        defect_type = _defect_type(labels[row], kind, row, hub.normal)
        label = int(defect_type != GOOD)
        has_mask = label and masks is not None and masks[row][hub.mask] is not None
        mask = HubCell(masks, hub.mask, row) if has_mask else None
        part = re.sub(r"[^A-Za-z0-9_-]+", "-", defect_type)  # names may become paths of figures
        samples.append(Sample(f"{kind}/{part}/{row:06d}", HubCell(images, hub.image, row), defect_type, label, mask))
    return samples


def _encoded(table: datasets.Dataset, column: str) -> datasets.Dataset:
    """One picture column as bytes, so that the same code reads pictures of the Hub and of folders."""
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


def _defect_type(label: str | None, kind: str, row: int, normal: str | None) -> str:
    if label is None and kind == "test":
        raise ValueError(
            f"row {row} of the test split has no label: testing needs one for every picture. Name their column by "
            "--hub-columns label=NAME, or leave the test out by test="
        )
    return GOOD if label is None else defect_type_of(label, is_normal(label, normal))
