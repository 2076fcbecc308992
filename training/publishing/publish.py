"""Trained models -> the Hub, one repository each, and a Collection per data set; or into the library's bundle.

Of each model folder: its public files, the difference to its repository, and one commit.
"""

import hashlib
import json
import logging
import shutil
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow.parquet as pq
from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import httpx, validate_repo_id
from jinja2 import TemplateError

from hubmodels import LIBRARY
from hubmodels.hub.catalog import BUNDLED_MODELS
from hubmodels.hub.errors import HUB_ERRORS, ModelError, in_words
from hubmodels.hub.files import CARD_FILE, CONFIG_FILE, REPORT_FILE, WEIGHTS_FILE, read_config, read_weights
from hubmodels.methods import METHODS
from training.evaluation import PANELS, SCORES_FILE, read_report, write_json
from training.publishing.card import SHOWN_PANELS, find_panels, finished_models, name_of, public_report, write_card
from training.publishing.licences import dataset_licence

logger = logging.getLogger("training")

HUB_TIMEOUT = 60  # seconds without a byte from the Hub
ATTEMPTS, FIRST_PAUSE = 3, 2  # seconds, doubled each time; in addition to the client's own attempts
PASSING = (412, 429, 500, 502, 503, 504)  # HTTP statuses that may pass; 412: somebody else's commit
STAMP = "<!-- Written by training.publishing. It will be kept as it is once a person has edited it. sha256: {} -->\n"


@dataclass(frozen=True)
class Publication:
    """Where models are published, and how.

    Attributes:
        namespace: user or organisation on the Hub.
        private: make new repositories private.
        revision: branch to push to, created if it is missing; None = main.
        overwrite_cards: also cards that were edited on the Hub.
        show_pictures: publish panels, and names in the raw scores, even if the data's licence may not allow it.
        collection: list the models in a Collection, for which a login needs a further permission.
        dry_run: show what would be done, change nothing.
    """

    namespace: str
    private: bool = False
    revision: str | None = None
    overwrite_cards: bool = False
    show_pictures: bool = False
    collection: bool = True
    dry_run: bool = False


def publish(folders: list[Path], publication: Publication) -> dict[str, str]:
    """Pushes finished models, one commit each, and lists them in a Collection per data set, if that is wanted.

    Files that are on the Hub already are not sent again. So the same call continues after an interruption.

    Returns:
        The reasons of failures, by repository or Collection; all others are done.
    """
    api, failures, members = HfApi(library_name=LIBRARY), {}, {}
    for folder in folders:
        repo_id = f"{publication.namespace}/{folder.name}"
        try:
            logger.info("%s: %s", repo_id, patiently(partial(publish_one, api, folder, repo_id, publication)))
            members.setdefault(read_report(folder)["dataset"], []).append(repo_id)
        except ValueError as error:
            failures[repo_id] = str(error)
        except HUB_ERRORS as error:
            failures[repo_id] = in_words(error)
        except OSError as error:
            failures[repo_id] = f"a file cannot be read or written ({error})"
        if repo_id in failures:
            logger.error("%s failed: %s", repo_id, failures[repo_id])
    for dataset, repo_ids in sorted(members.items()) if publication.collection else ():
        title = f"Anomaly detection: {dataset}"
        try:
            logger.info("Collection %r: %s", title, patiently(partial(collect, api, title, repo_ids, publication)))
        except HUB_ERRORS as error:
            failures[f"Collection {title!r}"] = in_words(error)
            logger.error("Collection %r failed: %s", title, in_words(error))
    return failures


def check_login(namespace: str) -> None:
    """Checks that the login may push there, before anything is computed or sent.

    Raises:
        ValueError: nobody is logged in, or the login may not write to the namespace; the message has the remedy.
    """
    try:
        account = HfApi(library_name=LIBRARY).whoami()
    except HUB_ERRORS as error:
        raise ValueError(f"models cannot be pushed to {namespace}: {in_words(error)}") from error
    own = [account["name"], *(organisation["name"] for organisation in account.get("orgs", []))]
    if namespace not in own:
        raise ValueError(f"the login {own[0]} may not write to {namespace}: use one of {', '.join(own)}")
    if account.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise ValueError(f"the token of {own[0]} may only read: create one that may write, and log in with it")


def patiently(action):
    """Repeats an action if the connection or the Hub failed for a moment; the action skips what is done already."""
    for attempt in range(ATTEMPTS):
        try:
            return action()
        except (HfHubHTTPError, httpx.TransportError) as error:
            lasting = isinstance(error, HfHubHTTPError) and error.response.status_code not in PASSING
            if lasting or attempt == ATTEMPTS - 1:
                raise
            logger.warning("%s; trying again", in_words(error))
            time.sleep(FIRST_PAUSE * 2**attempt)


def publish_one(api: HfApi, folder: Path, repo_id: str, publication: Publication) -> str:
    """Updates one repository from a model folder in one commit; returns what was, or would be, done."""
    with TemporaryDirectory() as place:
        staged = stage(folder, repo_id, Path(place), publication.show_pictures)
        update = find_update(api, staged, repo_id, publication)
        changes = update.added or update.deleted
        if publication.dry_run or not (changes or update.new_branch):
            return update.describe(staged)
        api.create_repo(repo_id, private=publication.private, exist_ok=True)
        if update.new_branch:
            api.create_branch(repo_id, branch=update.new_branch, exist_ok=True)
        if not changes:
            return f"{update.describe(staged)}: done"
        made = push_update(api, repo_id, staged, update, publication.revision)
        return f"{update.describe(staged)}: done, {made.commit_url}"


def collect(api: HfApi, title: str, repo_ids: list[str], publication: Publication) -> str:
    """Lists repositories in the namespace's Collection of that title, which is created if it is missing."""
    if publication.dry_run:
        return f"would list {len(repo_ids)} models"
    collection = api.create_collection(
        title, namespace=publication.namespace, private=publication.private, exists_ok=True
    )
    listed = {item.item_id for item in collection.items}
    for repo_id in sorted(set(repo_ids) - listed):
        api.add_collection_item(collection.slug, repo_id, "model", exists_ok=True)
    return f"lists {len(listed | set(repo_ids))} models, {collection.url}"


def bundle(run: Path, target: Path = BUNDLED_MODELS) -> list[Path]:
    """Copies the models of a run, with their numbers, into the library; returns their folders there."""
    places = []
    for folder in finished_models(run):
        place = target / folder.name
        place.mkdir(parents=True, exist_ok=True)
        for name in (CONFIG_FILE, WEIGHTS_FILE):
            shutil.copy(folder / name, place / name)
        write_json(place / REPORT_FILE, public_report(read_report(folder)))
        places.append(place)
    return places


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
    end = STAMP.format(hashlib.sha256(text.encode()).hexdigest())
    card.write_text(text + end, encoding="utf-8", newline="\n")  # the hash is of these bytes, on Windows, too


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


def find_update(api: HfApi, staged: Path, repo_id: str, publication: Publication) -> RepositoryUpdate:
    """What has to change in a repository so that it contains the staged files.

    Raises:
        ValueError: it is public, but should be private.
    """
    parent, remote, new_branch = _remote_files(api, repo_id, publication.revision, publication.private)
    update = RepositoryUpdate(parent, CONFIG_FILE in remote, new_branch)
    kept = None if publication.overwrite_cards else CARD_FILE
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
        before = json.loads(_download(api, repo_id, REPORT_FILE, parent).read_text(encoding="utf-8"))
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
