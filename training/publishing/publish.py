"""Trained models -> the Hub, one repository each; the Space that shows them; the bundle of this package.

python -m training.publishing models runs acme --dry-run      # what would be pushed to acme/{method}-{dataset}-{category}
python -m training.publishing models runs acme                # again after an interruption: it goes on
python -m training.publishing space acme/inspection --namespace acme
python -m training.publishing bundle runs/bundle              # copies them into this package
"""

import argparse
import logging
import shutil
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import httpx

from hubmodels.backbone import WEIGHTS_FILE
from hubmodels.hub.files import CONFIG_FILE, HUB_ERRORS, LIBRARY, REPORT_FILE, ModelError, in_words, limit_waiting
from hubmodels.hub.listing import BUNDLED_MODELS
from training.evaluation import read_report, write_json
from training.publishing.card import finished_models, public_report, ship_cards
from training.publishing.repository_update import commit, compare
from training.publishing.space import assemble_space, published, push_space
from training.publishing.staging import stage

logger = logging.getLogger("training")

HUB_TIMEOUT = 60  # seconds without a byte from the Hub
ATTEMPTS, FIRST_PAUSE = 3, 2  # seconds, doubled each time; beside the client's own patience
PASSING = (412, 429, 500, 502, 503, 504)  # HTTP statuses that may be gone a moment later; 412: somebody else's commit


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


def publish(folders: list[Path], publication: Publication) -> dict[str, str]:
    """Pushes finished models, one commit each, and lists them in a Collection per data set.

    What is on the Hub already is not sent again, so that the same call goes on after an interruption.

    Returns:
        What failed, by repository or Collection; the others are done.
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
        if repo_id in failures:
            logger.error("%s failed: %s", repo_id, failures[repo_id])
    for dataset, repo_ids in sorted(members.items()):
        title = f"SimpleNet and GLASS: {dataset}"
        try:
            logger.info("Collection %r: %s", title, patiently(partial(collect, api, title, repo_ids, publication)))
        except HUB_ERRORS as error:
            failures[f"Collection {title!r}"] = in_words(error)
            logger.error("Collection %r failed: %s", title, in_words(error))
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
    own = [account["name"], *(organisation["name"] for organisation in account.get("orgs", []))]
    if namespace not in own:
        raise ValueError(f"the login {own[0]} is not of {namespace}: give one of {', '.join(own)}")
    if account.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise ValueError(f"the token of {own[0]} may only read: make one that may write, and log in with it")


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
        changes = compare(
            api,
            staged,
            repo_id,
            revision=publication.revision,
            private=publication.private,
            overwrite_cards=publication.overwrite_cards,
        )
        if publication.dry_run or not (changes.added or changes.deleted or changes.new_branch):
            return changes.describe(staged)
        api.create_repo(repo_id, private=publication.private, exist_ok=True)
        if changes.new_branch:
            api.create_branch(repo_id, branch=changes.new_branch, exist_ok=True)
        if not (changes.added or changes.deleted):
            return f"{changes.describe(staged)}: done"
        made = commit(api, repo_id, staged, changes, publication.revision)
        return f"{changes.describe(staged)}: done, {made.commit_url}"


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
        write_json(place / REPORT_FILE, public_report(read_report(folder)))
    return [target / folder.name for folder in folders]


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
    pictures = "show panels and picture names although the terms of the data are not known to allow it"
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
    limit_waiting(HUB_TIMEOUT)
    try:
        failures = ACTIONS[args.pop("action")](**args)
    except (ModelError, ValueError) as error:
        failures = {"failed": str(error)}
    except HUB_ERRORS as error:
        failures = {"failed": in_words(error)}
    except KeyboardInterrupt:
        failures = {"interrupted": "the same command goes on"}
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
