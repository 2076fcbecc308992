"""What a Hub repository lacks of a staged model, and the one commit that brings it there."""

import hashlib
import json
import warnings
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.hf_api import RepoFile

from hubmodels.backbone import WEIGHTS_FILE
from hubmodels.detector import CARD_FILE
from hubmodels.hub.files import CONFIG_FILE, REPORT_FILE
from training.evaluation import PANELS, read_report
from training.publishing.card import SHOWN_PANELS
from training.publishing.staging import is_edited


@dataclass
class RepositoryUpdate:
    """What one repository lacks: files by their path in it.

    Attributes:
        parent: the commit that the changes are made to; None where there is no repository yet.
        holds_model: before the changes.
        new_branch: which is made from main first.
        replaces: the numbers of the model that is there, beside the new ones.
    """

    parent: str | None
    holds_model: bool
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
            words.append(f"gone: {', '.join(self.deleted)}")
        if self.card_is_kept:
            words.append("the card was edited on the Hub and is kept as it is (--overwrite-cards replaces it)")
        return "; ".join(words) or "up to date"


def compare(
    api: HfApi, staged: Path, repo_id: str, *, revision: str | None, private: bool, overwrite_cards: bool
) -> RepositoryUpdate:
    """What has to change in a repository so that it holds the staged files.

    Args:
        revision: the branch; None = main.
        private: it should be.
        overwrite_cards: also one that was edited on the Hub.

    Raises:
        ValueError: it is public, but should be private.
    """
    parent, remote, new_branch = _remote_files(api, repo_id, revision, private)
    changes = RepositoryUpdate(parent, CONFIG_FILE in remote, new_branch)
    kept = None if overwrite_cards else CARD_FILE
    for path in sorted(path for path in staged.rglob("*") if path.is_file()):
        name = path.relative_to(staged).as_posix()
        if name in remote and _is_same(path, remote[name]):
            continue
        if name in remote and name == kept and _is_edited(api, repo_id, parent):
            changes.card_is_kept = True
        else:
            changes.added.append(name)
    ours = {f"{PANELS}/{stem}.png" for stem in SHOWN_PANELS}  # a person may have added others
    changes.deleted = [name for name in remote if name in ours and not (staged / name).is_file()]
    if changes.holds_model and WEIGHTS_FILE in changes.added and REPORT_FILE in remote:
        before = json.loads(Path(api.hf_hub_download(repo_id, REPORT_FILE, revision=parent)).read_text())
        changes.replaces = f"{_summary(before)} by {_summary(read_report(staged))}"
    return changes


def _summary(report: dict) -> str:
    """What tells one training from another, in a few words."""
    auroc = report.get("metrics", {}).get("image_auroc")
    measured = "not measured" if auroc is None else f"{100 * auroc:.1f} %"
    return f"{report.get('epochs')} epochs, image AUROC {measured}"


def commit(api: HfApi, repo_id: str, staged: Path, changes: RepositoryUpdate, revision: str | None) -> CommitInfo:
    """Makes the changes in one commit, unless somebody else made one meanwhile."""
    warnings.filterwarnings("ignore", "It seems that you are about to commit a data file")  # the raw scores: meant
    additions = [CommitOperationAdd(name, staged / name) for name in changes.added]
    try:
        return api.create_commit(
            repo_id,
            [*additions, *map(CommitOperationDelete, changes.deleted)],
            commit_message=f"{'Update' if changes.holds_model else 'Publish'} {repo_id.split('/')[1]}",
            revision=revision,
            parent_commit=changes.parent,
        )
    except RuntimeError as error:  # in which the client wraps what befell a large file
        raise error.__cause__ or error from error


def _remote_files(
    api: HfApi, repo_id: str, branch: str | None, private: bool
) -> tuple[str | None, dict[str, RepoFile], str | None]:
    """The branch's commit and files, and its name where it is still to be made: from main, or in a new repository."""
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


def _is_edited(api: HfApi, repo_id: str, commit: str) -> bool:
    return is_edited(Path(api.hf_hub_download(repo_id, CARD_FILE, revision=commit)).read_bytes())
