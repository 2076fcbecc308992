"""Trained models -> the Hub, one repository each, and a Collection per data set; or into the library's bundle."""

import logging
import shutil
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import httpx

from hubmodels import LIBRARY
from hubmodels.hub.catalog import BUNDLED_MODELS
from hubmodels.hub.errors import HUB_ERRORS, in_words
from hubmodels.hub.files import CONFIG_FILE, REPORT_FILE, WEIGHTS_FILE
from training.evaluation import read_report, write_json
from training.publishing.card import finished_models, public_report
from training.publishing.repository import find_update, push_update, stage

logger = logging.getLogger("training")

HUB_TIMEOUT = 60  # seconds without a byte from the Hub
ATTEMPTS, FIRST_PAUSE = 3, 2  # seconds, doubled each time; in addition to the client's own attempts
PASSING = (412, 429, 500, 502, 503, 504)  # HTTP statuses that may pass; 412: somebody else's commit


@dataclass(frozen=True)
class Publication:
    """Where models are published, and how.

    Attributes:
        namespace: user or organisation on the Hub.
        private: make new repositories private.
        revision: branch to push to, created if it is missing; None = main.
        overwrite_cards: also cards that were edited on the Hub.
        show_pictures: publish panels, and names in the raw scores, even if the data's licence may not allow it.
        dry_run: show what would be done, change nothing.
    """

    namespace: str
    private: bool = False
    revision: str | None = None
    overwrite_cards: bool = False
    show_pictures: bool = False
    dry_run: bool = False


def publish(folders: list[Path], publication: Publication) -> dict[str, str]:
    """Pushes finished models, one commit each, and lists them in a Collection per data set.

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
    for dataset, repo_ids in sorted(members.items()):
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
        update = find_update(
            api,
            staged,
            repo_id,
            revision=publication.revision,
            private=publication.private,
            overwrite_cards=publication.overwrite_cards,
        )
        if publication.dry_run or not (update.added or update.deleted or update.new_branch):
            return update.describe(staged)
        api.create_repo(repo_id, private=publication.private, exist_ok=True)
        if update.new_branch:
            api.create_branch(repo_id, branch=update.new_branch, exist_ok=True)
        if not (update.added or update.deleted):
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
    folders = finished_models(run)
    for folder in folders:
        place = target / folder.name
        place.mkdir(parents=True, exist_ok=True)
        for name in (CONFIG_FILE, WEIGHTS_FILE):
            shutil.copy(folder / name, place / name)
        write_json(place / REPORT_FILE, public_report(read_report(folder)))
    return [target / folder.name for folder in folders]
