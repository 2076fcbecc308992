"""The files of one published model: in a folder, or in a Hub repository and then all of one commit; faults in words.

What a fault means to the user is decided here alone: `in_words` is also what the catalog and the publisher say.
"""

import errno
import logging
from functools import partial
from pathlib import Path

from huggingface_hub import HfApi, constants, scan_cache_dir
from huggingface_hub.errors import (
    CacheNotFound,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    RevisionResolutionError,
    XetDownloadError,
)
from huggingface_hub.utils import get_session, httpx

from hubmodels.backbone import WEIGHTS_FILE

logger = logging.getLogger(__name__)

CONFIG_FILE, REPORT_FILE = "config.json", "metrics.json"  # beside the weights; the latter says how well they did
LIBRARY = "hubmodels"  # as the Hub knows it: in a published card, in its lists, and in the user agent of downloads
PICKLES = (".bin", ".ckpt", ".pkl", ".pt", ".pth")
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_SOURCE = "neither a folder here nor the id of a Hub repository (user/name)"
LOG_IN = "log in by `hf auth login`, or set HF_TOKEN"
XET_ERRORS = (XetDownloadError, RuntimeError)  # the latter is all that hf_xet, which is compiled, raises by itself
HUB_ERRORS = (
    *(HfHubHTTPError, httpx.HTTPError, OSError, EntryNotFoundError, RevisionResolutionError, HFValidationError),
    *XET_ERRORS,
)


class ModelError(RuntimeError):
    """A published model cannot be loaded; the message names the file and what is wrong with it."""


def fetch_model(
    source: str,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
) -> tuple[Path, Path]:
    """Local paths of a model's config and weights.

    Args:
        source: a folder, or else the id of a Hub repository, `user/name`.
        revision: branch, tag or commit; resolved once, so that both files are of the same commit.
        token, cache_dir, local_files_only, force_download: as in `huggingface_hub.hf_hub_download`.

    Raises:
        ModelError: a file cannot be had; the message says why, and what to do.
    """
    if Path(source).is_dir():
        return tuple(_local_file(Path(source), name) for name in (CONFIG_FILE, WEIGHTS_FILE))
    if source.count("/") != 1:
        raise ModelError(f"{source}: {NO_SOURCE}")
    api, place = HfApi(token=token, library_name=LIBRARY), dict(cache_dir=cache_dir, local_files_only=local_files_only)
    try:
        commit = _resolve(api, source, revision, place)
        download = partial(api.hf_hub_download, source, revision=commit, force_download=force_download, **place)
        return Path(download(CONFIG_FILE)), Path(download(WEIGHTS_FILE))
    except (*HUB_ERRORS, ValueError) as error:
        pickle = _pickle_in(source, revision, api) if isinstance(error, RemoteEntryNotFoundError) else None
        raise ModelError(f"{source}: {_refusal(pickle) if pickle else in_words(error)}") from error


def cached_models(cache_dir: str | Path | None = None) -> dict[str, str]:
    """Repository id -> the newest commit of which the local cache holds the whole model."""
    try:
        repositories = scan_cache_dir(cache_dir).repos
    except CacheNotFound:
        return {}
    found = {}
    for repository in repositories:
        whole = [r for r in repository.revisions if {CONFIG_FILE, WEIGHTS_FILE} <= {f.file_name for f in r.files}]
        if repository.repo_type == "model" and whole:
            found[repository.repo_id] = max(whole, key=lambda r: r.last_modified).commit_hash
    return found


def limit_waiting(seconds: float) -> None:
    """Makes the Hub's client give up on a Hub that takes connections and never answers: by default it waits for ever.

    For programs to call once, not for a library to decide. The client tries a few times before it gives up.
    """

    def limit(request: httpx.Request) -> None:
        request.extensions["timeout"] = {
            kind: min(limit or seconds, seconds) for kind, limit in request.extensions["timeout"].items()
        }

    # a hook, because some of the client's functions ask for no limit in so many words
    get_session().event_hooks["request"].append(limit)


def in_words(error: Exception) -> str:
    """What a failed request to the Hub means, and what to do about it."""
    for kinds, explain in EXPLANATIONS:
        if isinstance(error, kinds):
            return explain(error)
    return f"{type(error).__name__}: {_first_line(error)}"


def _resolve(api: HfApi, source: str, revision: str | None, place: dict) -> str:
    """The commit to load; where no revision was asked for and the Hub tells none, the newest whole one in the cache.

    That is needed after the catalog, which asks for commits, so that the cache knows of no branch.
    """
    try:
        return api.resolve_revision(source, revision=revision, **place)
    except RevisionResolutionError:
        commit = None if revision else cached_models(place["cache_dir"]).get(source)
        if commit is None:
            raise
        logger.warning("%s: the Hub was not asked; loaded from the local cache, commit %s", source, commit[:12])
        return commit


def _local_file(folder: Path, name: str) -> Path:
    if (folder / name).is_file():
        return folder / name
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
    if name == WEIGHTS_FILE and pickles:
        raise ModelError(f"{folder}: {_refusal(pickles[0])}")
    raise ModelError(f"{folder} holds no {name}: it is not a complete model folder")


def _pickle_in(repository: str, revision: str | None, api: HfApi) -> str | None:
    """The pickled weights that a repository holds in place of safetensors, where it does and tells."""
    try:
        names = api.list_repo_files(repository, revision=revision)
    except HUB_ERRORS:
        return None
    return next((name for name in names if name.endswith(PICKLES) and WEIGHTS_FILE not in names), None)


def _refusal(pickle: str) -> str:
    return (
        f"its weights are a pickle ({pickle}), which can run any code when it is read, so it is refused: "
        f"ask its author for {WEIGHTS_FILE}"
    )


def _http_in_words(error: HfHubHTTPError) -> str:
    status = error.response.status_code
    if status == 401:
        return f"the Hub refused the token (401): {LOG_IN}"
    if status == 403:
        return f"the token does not allow this (403: {error.server_message or 'forbidden'}): use one that may write"
    if status == 429:
        return "the Hub asks to wait (429, too many requests): try again in a few minutes"
    if status >= 500:
        return f"the Hub has trouble at the moment ({status}): try again later"
    return f"the Hub answered {status}: {error.server_message or _first_line(error)}"


def _not_cached_in_words(error: Exception) -> str:
    """Neither the Hub nor the cache had it: why the Hub was of no help is in the chain of causes."""
    causes = [error]
    while (cause := causes[-1].__cause__) is not None:
        causes.append(cause)
    cause = next((c for c in causes if isinstance(c, (OfflineModeIsEnabled, httpx.HTTPError))), None)
    if cause is None or isinstance(cause, OfflineModeIsEnabled):
        reason = "the Hub is not asked (HF_HUB_OFFLINE or local_files_only)"
    elif isinstance(cause, HfHubHTTPError):
        reason = _http_in_words(cause)
    else:
        reason = f"the Hub cannot be reached ({type(cause).__name__})"
    place = f"the local cache ({constants.HF_HUB_CACHE} by default)"
    return f"it is not in {place}, and {reason}: connect once, or give a folder"


def _os_in_words(error: OSError) -> str:
    if error.errno in NO_ROOM:
        return f"there is no room on the disk for it ({error.strerror}): free some, or give another `cache_dir`"
    if "Consistency check failed" in str(error):
        return "the file arrived incomplete, and was not kept: try again"
    return f"{type(error).__name__}: {_first_line(error)}"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0]


# from the most special kind to the most general
EXPLANATIONS = (
    (GatedRepoError, lambda e: f"its owner grants access on request: ask on its page on the Hub, then {LOG_IN}"),
    (
        RepositoryNotFoundError,
        lambda e: f"the Hub has no such repository, or it is private: check the name, and for a private one {LOG_IN}",
    ),
    (RevisionNotFoundError, lambda e: "the repository has no such revision: check the branch, tag or commit"),
    ((LocalEntryNotFoundError, RevisionResolutionError), _not_cached_in_words),
    (LocalTokenNotFoundError, lambda e: f"nobody is logged in at the Hub: {LOG_IN}"),
    (EntryNotFoundError, lambda e: f"the repository lacks a file of a model ({_first_line(e)})"),
    (HFValidationError, lambda e: NO_SOURCE),
    (OfflineModeIsEnabled, lambda e: "the Hub is not asked, because HF_HUB_OFFLINE is set"),
    (HfHubHTTPError, _http_in_words),
    (httpx.HTTPError, lambda e: f"the connection to the Hub failed ({type(e).__name__}): check it, and try again"),
    (OSError, _os_in_words),
    (XET_ERRORS, lambda e: f"the transfer failed ({_first_line(e)}): try again, or set HF_HUB_DISABLE_XET=1"),
    (ValueError, lambda e: in_words(e.__cause__) if e.__cause__ else str(e)),  # force_download without a Hub
)
