"""Trained models -> the Hub, one repository each; the Space that shows them; the bundle of this package.

python training/publish.py models runs acme --dry-run      # what would be pushed to acme/{method}-{dataset}-{category}
python training/publish.py models runs acme                # again after an interruption: it goes on
python training/publish.py space acme/inspection --namespace acme
python training/publish.py bundle runs/bundle              # copies them into this package
"""

import argparse
import hashlib
import json
import logging
import shutil
import sys
import time
import warnings
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow.parquet as pq
from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import httpx

from hubmodels.backbone import WEIGHTS_FILE
from hubmodels.detector import CARD_FILE
from hubmodels.listings import BUNDLED_MODELS
from hubmodels.repository import CONFIG_FILE, HUB_ERRORS, LIBRARY, ModelError, in_words
from training.card import find_panels, finished_models, public_report, ship_cards, write_card
from training.evaluation import write_json
from training.space import assemble_space, published, push_space
from training.terms import terms_of

logger = logging.getLogger("training")

REPORT_FILE, SCORES_FILE, PANELS = "metrics.json", "scores.parquet", "panels"
ATTEMPTS, FIRST_PAUSE = 3, 2  # seconds, doubled each time; beside the client's own patience
PASSING = (412, 429, 500, 502, 503, 504)  # HTTP statuses that may be gone a moment later; 412: somebody else's commit
STAMP = "<!-- Written by training/publish.py. It will be kept as it is once a person has edited it. sha256: {} -->\n"


@dataclass(frozen=True)
class Publication:
    """Where models are published, and how.

    Attributes:
        namespace: user or organisation on the Hub.
        private: of new repositories.
        revision: branch to push to, made where it is missing; None = main.
        overwrite_cards: also cards that were edited on the Hub.
        show_pictures: panels, and names in the raw scores, also where the data's terms are not known to allow it.
        dry_run: only tell.
    """

    namespace: str
    private: bool = False
    revision: str | None = None
    overwrite_cards: bool = False
    show_pictures: bool = False
    dry_run: bool = False


@dataclass
class Changes:
    """What one repository lacks: files by their path in it.

    Attributes:
        parent: the commit that the changes are made to; None where there is no repository yet.
        holds_model: before the changes.
    """

    parent: str | None
    holds_model: bool
    added: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    card_is_kept: bool = False

    def describe(self, folder: Path) -> str:
        """One line for a person."""
        words = ["new repository"] if self.parent is None else []
        if self.added:
            size = sum((folder / name).stat().st_size for name in self.added)
            words.append(f"{len(self.added)} files ({size / 1e6:.1f} MB): {', '.join(self.added)}")
        if self.deleted:
            words.append(f"gone: {', '.join(self.deleted)}")
        if self.card_is_kept:
            words.append("the card was edited on the Hub and is kept (--overwrite-cards replaces it)")
        return "; ".join(words) or "up to date"


def publish(folders: list[Path], publication: Publication) -> dict[str, str]:
    """Pushes finished models, one commit each, and lists them in a Collection per data set.

    What is on the Hub already is not sent again, so that the same call goes on after an interruption.

    Returns:
        What failed, by repository or Collection; the others are done.
    """
    api, failures, done = HfApi(library_name=LIBRARY), {}, []
    for folder in folders:
        repo_id = f"{publication.namespace}/{folder.name}"
        try:
            logger.info("%s: %s", repo_id, patiently(partial(publish_one, api, folder, repo_id, publication)))
            done.append(folder)
        except (*HUB_ERRORS, ValueError) as error:
            failures[repo_id] = str(error) if type(error) is ValueError else in_words(error)
            logger.error("%s failed: %s", repo_id, failures[repo_id])
    for dataset in sorted({_report(folder)["dataset"] for folder in done}):
        members = [f"{publication.namespace}/{f.name}" for f in done if _report(f)["dataset"] == dataset]
        title = f"SimpleNet and GLASS: {dataset}"
        try:
            logger.info("Collection %r: %s", title, patiently(partial(collect, api, title, members, publication)))
        except HUB_ERRORS as error:
            failures[f"Collection {title!r}"] = in_words(error)
    return failures


def check_login(namespace: str) -> None:
    """Whether the login may push there, before anything is computed or sent.

    Raises:
        ValueError: nobody is logged in, or the login may not write to the namespace; the message says what to do.
    """
    try:
        account = HfApi(library_name=LIBRARY).whoami()
    except HUB_ERRORS as error:
        raise ValueError(f"models cannot be pushed to {namespace}: {in_words(error)}") from error
    names = [account["name"], *(organisation["name"] for organisation in account.get("orgs", []))]
    if namespace not in names:
        raise ValueError(f"the login {names[0]} is not of {namespace}: give one of {', '.join(names)}")
    if account.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise ValueError(f"the token of {names[0]} may only read: make one that may write, and log in with it")


def patiently(action):
    """Does it again where the connection or the Hub failed for a moment; what is done already is found done."""
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
    """Brings one repository to the state of a model folder in one commit; returns what was, or would be, done."""
    with TemporaryDirectory() as place:
        staged = stage(folder, repo_id, Path(place), publication.show_pictures)
        changes = compare(api, staged, repo_id, publication)
        if publication.dry_run or not (changes.added or changes.deleted):
            return changes.describe(staged)
        api.create_repo(repo_id, private=publication.private, exist_ok=True)
        if publication.revision:
            api.create_branch(repo_id, branch=publication.revision, exist_ok=True)
        commit = send(api, repo_id, staged, changes, publication.revision)
        return f"{changes.describe(staged)}: done, {commit.commit_url}"


def send(api: HfApi, repo_id: str, staged: Path, changes: Changes, revision: str | None) -> CommitInfo:
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


def stage(folder: Path, repo_id: str, place: Path, show_pictures: bool = False) -> Path:
    """Fills `place` with what a repository shows of a model folder: nothing private, a card that names the repository.

    Raises:
        ValueError: the folder holds no whole model.
    """
    config = json.loads((folder / CONFIG_FILE).read_text())
    weights_sha256 = hashlib.sha256((folder / WEIGHTS_FILE).read_bytes()).hexdigest()
    if config.get("weights_sha256", weights_sha256) != weights_sha256:
        raise ValueError(f"{folder / WEIGHTS_FILE} is not the file that its {CONFIG_FILE} names: train it again")
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        shutil.copy(folder / name, place / name)
    report = public_report(_report(folder))
    write_json(place / REPORT_FILE, report)
    _stage_evaluation(folder, place, show_pictures or terms_of(report["dataset"]).may_be_shown)
    write_card(place, repo_id=repo_id)
    _stamp(place / CARD_FILE)
    return place


def _stage_evaluation(folder: Path, place: Path, pictures_may_be_shown: bool) -> None:
    """Raw scores and panels; of pictures that may be confidential neither the names nor the pictures."""
    if (folder / SCORES_FILE).is_file():
        scores = pq.read_table(folder / SCORES_FILE)
        pq.write_table(scores if pictures_may_be_shown else scores.drop_columns("name"), place / SCORES_FILE)
    if pictures_may_be_shown:
        (place / PANELS).mkdir()
        for panel in find_panels(folder):
            shutil.copy(folder / panel, place / panel)


def compare(api: HfApi, staged: Path, repo_id: str, publication: Publication) -> Changes:
    """What has to change in a repository so that it holds the staged files."""
    parent, remote = _remote_files(api, repo_id, publication.revision)
    changes, kept = Changes(parent, CONFIG_FILE in remote), None if publication.overwrite_cards else CARD_FILE
    for path in sorted(path for path in staged.rglob("*") if path.is_file()):
        name = path.relative_to(staged).as_posix()
        if name in remote and _is_same(path, remote[name]):
            changes.unchanged.append(name)
        elif name in remote and name == kept and _is_edited(api, repo_id, parent):
            changes.card_is_kept = True
        else:
            changes.added.append(name)
    changes.deleted = [n for n in remote if n.startswith(f"{PANELS}/") and not (staged / n).is_file()]
    return changes


def collect(api: HfApi, title: str, repo_ids: list[str], publication: Publication) -> str:
    """Lists repositories in the namespace's Collection of that title, made where it is missing."""
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
    """Copies what loading needs, and the numbers, of a run's models to where the package carries them."""
    folders = finished_models(run)
    for folder in folders:
        place = target / folder.name
        place.mkdir(parents=True, exist_ok=True)
        for name in (CONFIG_FILE, WEIGHTS_FILE):
            shutil.copy(folder / name, place / name)
        write_json(place / REPORT_FILE, public_report(_report(folder)))
    return [target / folder.name for folder in folders]


def _report(folder: Path) -> dict:
    return json.loads((folder / REPORT_FILE).read_text())


def _remote_files(api: HfApi, repo_id: str, revision: str | None) -> tuple[str | None, dict[str, RepoFile]]:
    """The branch's commit and files; a branch that will be made starts as main, a repository that will be, empty."""
    try:
        commit = api.model_info(repo_id, revision=revision).sha
        tree = api.list_repo_tree(repo_id, recursive=True, revision=commit)
        return commit, {item.path: item for item in tree if isinstance(item, RepoFile)}
    except RevisionNotFoundError:
        return _remote_files(api, repo_id, None) if revision else (None, {})
    except RepositoryNotFoundError:
        return None, {}


def _is_same(path: Path, remote: RepoFile) -> bool:
    content = path.read_bytes()
    if remote.lfs:
        return hashlib.sha256(content).hexdigest() == remote.lfs.sha256
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == remote.blob_id  # as git names a file


def _stamp(card: Path) -> None:
    """Ends a card with the hash of its text, by which an edited card is known."""
    text = card.read_text(encoding="utf-8").rstrip("\n") + "\n\n"
    card.write_text(text + STAMP.format(hashlib.sha256(text.encode()).hexdigest()), encoding="utf-8")


def _is_edited(api: HfApi, repo_id: str, commit: str) -> bool:
    """Whether the card on the Hub is no longer, or never was, as `_stamp` left it."""
    text = Path(api.hf_hub_download(repo_id, CARD_FILE, revision=commit)).read_text(encoding="utf-8", errors="replace")
    body, start, _ = text.rpartition(STAMP.split("{}")[0])
    return not start or text != body + STAMP.format(hashlib.sha256(body.encode()).hexdigest())


def read_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(dest="action", required=True)
    models = actions.add_parser("models", help="push the models of a run to the Hub")
    models.add_argument("run", type=Path, metavar="DIR", help="folder that training wrote to")
    models.add_argument("namespace", metavar="NAMESPACE", help="user or organisation on the Hub")
    models.add_argument("--private", action="store_true", help="make new repositories private")
    models.add_argument("--revision", metavar="BRANCH", help="push to this branch (default: main)")
    models.add_argument("--dry-run", action="store_true", help="only show what would be pushed")
    models.add_argument("--overwrite-cards", action="store_true", help="also cards that were edited on the Hub")
    pictures = "show result panels although the terms of the data are not known to allow it"
    models.add_argument("--show-pictures", action="store_true", help=pictures)
    space = actions.add_parser("space", help="push the demo as a Space, or write its folder")
    space.add_argument("repo_id", metavar="OWNER/NAME", help="of the Space")
    space.add_argument("--namespace", metavar="NAMESPACE", help="whose models it shows (default: the bundled ones)")
    space.add_argument("--private", action="store_true", help="make a new Space private")
    space.add_argument("--output", type=Path, metavar="DIR", help="write the folder there, and push nothing")
    package = actions.add_parser("bundle", help="copy the models of a run into hubmodels/weights/models")
    package.add_argument("run", type=Path, metavar="DIR", help="folder that training wrote to")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status (1 where something failed)."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout, force=True)
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    args = vars(read_arguments(arguments))
    try:
        failures = ACTIONS[args.pop("action")](**args)
    except (ModelError, ValueError) as error:
        failures = {"failed": str(error)}
    except HUB_ERRORS as error:
        failures = {"failed": in_words(error)}
    for name, reason in failures.items():
        logger.error("%s: %s", name, reason)
    return 1 if failures else 0


def _publish_models(run: Path, **options) -> dict[str, str]:
    publication, folders = Publication(**options), finished_models(run)
    if not publication.dry_run:
        check_login(publication.namespace)
    return publish(folders, publication)


def _publish_space(repo_id: str, namespace: str | None, private: bool, output: Path | None) -> dict[str, str]:
    if output:
        shown = published(namespace, HfApi(library_name=LIBRARY)) if namespace else {}
        logger.info("%s", assemble_space(output, namespace=namespace, **shown))
    else:
        check_login(repo_id.partition("/")[0])
        logger.info("%s", push_space(repo_id, namespace=namespace, private=private))
    return {}


def _bundle(run: Path) -> dict[str, str]:
    for place in [*bundle(run), *ship_cards(run)]:
        logger.info("%s", place)
    return {}


ACTIONS = {"models": _publish_models, "space": _publish_space, "bundle": _bundle}


if __name__ == "__main__":
    sys.exit(main())
