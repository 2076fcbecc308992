"""A model folder -> its Hub repository: the public files, the difference to the repository, and one commit."""

import hashlib
import json
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq
from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import validate_repo_id
from jinja2 import TemplateError

from hubmodels.hub.errors import HUB_ERRORS, ModelError, in_words
from hubmodels.hub.files import CARD_FILE, CONFIG_FILE, REPORT_FILE, WEIGHTS_FILE, read_config, read_weights
from hubmodels.methods import METHODS
from training.evaluation import PANELS, SCORES_FILE, read_report, write_json
from training.publishing.card import SHOWN_PANELS, find_panels, name_of, public_report, write_card
from training.publishing.licences import dataset_licence

STAMP = "<!-- Written by training.publishing. It will be kept as it is once a person has edited it. sha256: {} -->\n"


# ---------------------------------------------------------------------------------------------------- the public files


def stage(folder: Path, repo_id: str, place: Path, show_pictures: bool = False) -> Path:
    """Fills `place` with the public files of a model folder: nothing private, and a card that names the repository.

    Raises:
        ValueError: the folder contains no complete model, or not the one that its name states.
    """
    validate_repo_id(repo_id)
    try:
        config = _stage_model(folder, place)
        report = public_report(read_report(folder))
        if not folder.name == name_of(report) == name_of(config):
            raise ValueError(
                f"{folder} contains {name_of(config)}, but its {REPORT_FILE} describes {name_of(report)}: use one "
                "name for all three"
            )
        write_json(place / REPORT_FILE, report)
        _stage_evaluation(folder, place, show_pictures or dataset_licence(report["dataset"]).may_be_shown)
        write_card(place, repo_id=repo_id)
    except (LookupError, TypeError, AttributeError, TemplateError) as error:
        raise ValueError(f"{folder / REPORT_FILE} is damaged ({error!r}): train again") from error
    stamp(place / CARD_FILE)
    return place


def _stage_model(folder: Path, place: Path) -> dict:
    try:
        config = read_config(folder / CONFIG_FILE, str(folder))
        read_weights(folder / WEIGHTS_FILE, config["weights_sha256"], str(folder))
    except (OSError, ModelError, KeyError) as error:
        raise ValueError(f"{folder} contains no complete model ({error}): train it again") from error
    if config.get("method") not in list(METHODS):
        raise ValueError(f"{folder} has the method {config.get('method')!r}, not one of this library")
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        shutil.copy(folder / name, place)
    return config


def _stage_evaluation(folder: Path, place: Path, pictures_may_be_shown: bool) -> None:
    """Raw scores and panels; neither names nor panels of pictures that may be confidential."""
    if (folder / SCORES_FILE).is_file():
        scores = pq.read_table(folder / SCORES_FILE)
        pq.write_table(scores if pictures_may_be_shown else scores.drop_columns("name"), place / SCORES_FILE)
    if pictures_may_be_shown:
        (place / PANELS).mkdir()
        for panel in find_panels(folder):
            shutil.copy(folder / panel, place / panel)


def stamp(card: Path) -> None:
    """Ends a card with the hash of its text, which shows later whether a person edited it."""
    text = card.read_text(encoding="utf-8").rstrip("\n") + "\n\n"
    card.write_text(text + STAMP.format(hashlib.sha256(text.encode()).hexdigest()), encoding="utf-8")


def is_edited(card: bytes) -> bool:
    """Whether a card differs from what `stamp` wrote, or was never written by it."""
    text = card.decode(errors="replace")
    body, start, _ = text.rpartition(STAMP.split("{}")[0])
    return not start or text != body + STAMP.format(hashlib.sha256(body.encode()).hexdigest())


# ------------------------------------------------------------------------------------------------------ the difference


@dataclass
class RepositoryUpdate:
    """What has to change in one repository: files by their path in it.

    Attributes:
        parent: the commit that the changes are based on; None if there is no repository yet.
        has_model: before the changes.
        new_branch: name of a branch that is created from main first.
        replaces: the numbers of the present model, and the new ones.
    """

    parent: str | None
    has_model: bool
    new_branch: str | None = None
    replaces: str = ""
    added: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    card_is_kept: bool = False

    def describe(self, folder: Path) -> str:
        """One line for a person."""
        words = ["new repository"] if self.parent is None else []
        if self.new_branch:
            words.append(f"new branch {self.new_branch}")
        if self.replaces:
            words.append(f"replaces {self.replaces}")
        if self.added:
            size = sum((folder / name).stat().st_size for name in self.added)
            words.append(f"{len(self.added)} files ({size / 1e6:.1f} MB): {', '.join(self.added)}")
        if self.deleted:
            words.append(f"deletes {', '.join(self.deleted)}")
        if self.card_is_kept:
            words.append("the card was edited on the Hub and is kept (--overwrite-cards replaces it)")
        return "; ".join(words) or "up to date"


def find_update(
    api: HfApi, staged: Path, repo_id: str, *, revision: str | None, private: bool, overwrite_cards: bool
) -> RepositoryUpdate:
    """What has to change in a repository so that it contains the staged files.

    Args:
        revision: the branch; None = main.
        private: whether the repository has to be private.
        overwrite_cards: also a card that was edited on the Hub.

    Raises:
        ValueError: it is public, but should be private.
    """
    parent, remote, new_branch = _remote_files(api, repo_id, revision, private)
    update = RepositoryUpdate(parent, CONFIG_FILE in remote, new_branch)
    kept = None if overwrite_cards else CARD_FILE
    for path in sorted(path for path in staged.rglob("*") if path.is_file()):
        name = path.relative_to(staged).as_posix()
        if name in remote and _is_same(path, remote[name]):
            continue
        if name in remote and name == kept and is_edited(_download(api, repo_id, CARD_FILE, parent).read_bytes()):
            update.card_is_kept = True
        else:
            update.added.append(name)
    ours = {f"{PANELS}/{stem}.png" for stem in SHOWN_PANELS}  # a person may have added others
    update.deleted = [name for name in remote if name in ours and not (staged / name).is_file()]
    if update.has_model and WEIGHTS_FILE in update.added and REPORT_FILE in remote:
        before = json.loads(_download(api, repo_id, REPORT_FILE, parent).read_text())
        update.replaces = f"{_summary(before)} by {_summary(read_report(staged))}"
    return update


def push_update(api: HfApi, repo_id: str, staged: Path, update: RepositoryUpdate, revision: str | None) -> CommitInfo:
    """Makes the changes in one commit, unless somebody else made one since `find_update`."""
    warnings.filterwarnings("ignore", "It seems that you are about to commit a data file")  # the raw scores: intended
    additions = [CommitOperationAdd(name, staged / name) for name in update.added]
    with client_call():
        return api.create_commit(
            repo_id,
            [*additions, *map(CommitOperationDelete, update.deleted)],
            commit_message=f"{'Update' if update.has_model else 'Publish'} {repo_id.split('/')[1]}",
            revision=revision,
            parent_commit=update.parent,
        )


@contextmanager
def client_call() -> Iterator[None]:
    """Around one transfer by the Hub's client: what is not one of `HUB_ERRORS` becomes a ValueError in words.

    The transfer meets the disk, and hf_xet raises RuntimeErrors. The client wraps some errors in a RuntimeError.
    """
    try:
        yield
    except HUB_ERRORS:
        raise
    except (OSError, RuntimeError) as error:
        if isinstance(error.__cause__, HUB_ERRORS):
            raise error.__cause__ from error
        raise ValueError(in_words(error)) from error


def _download(api: HfApi, repo_id: str, name: str, commit: str | None) -> Path:
    with client_call():
        return Path(api.hf_hub_download(repo_id, name, revision=commit))


def _summary(report: dict) -> str:
    """Epochs and accuracy, which identify a training."""
    auroc = report.get("metrics", {}).get("image_auroc")
    measured = "not measured" if auroc is None else f"{100 * auroc:.1f} %"
    return f"{report.get('epochs')} epochs, image AUROC {measured}"


def _remote_files(
    api: HfApi, repo_id: str, branch: str | None, private: bool
) -> tuple[str | None, dict[str, RepoFile], str | None]:
    """The branch's commit and files, and its name if it does not exist yet."""
    new_branch = None
    try:
        try:
            info = api.model_info(repo_id, revision=branch)
        except RevisionNotFoundError:
            info, new_branch = api.model_info(repo_id), branch
    except RepositoryNotFoundError:
        return None, {}, branch
    if private and not info.private:
        raise ValueError(f"{repo_id} is public, and --private makes only new ones private: change its settings first")
    tree = api.list_repo_tree(repo_id, recursive=True, revision=info.sha)
    return info.sha, {item.path: item for item in tree if isinstance(item, RepoFile)}, new_branch


def _is_same(path: Path, remote: RepoFile) -> bool:
    content = path.read_bytes()
    if remote.lfs:
        return hashlib.sha256(content).hexdigest() == remote.lfs.sha256
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == remote.blob_id  # as git names a file
