"""The files of one published model, in a folder or in a Hub repository, and what is read from them."""

import hashlib
import json
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from huggingface_hub import HfApi, scan_cache_dir
from huggingface_hub.errors import CacheNotFound, RemoteEntryNotFoundError, RevisionResolutionError
from huggingface_hub.utils import get_session, httpx
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from hubmodels import LIBRARY
from hubmodels.hub.errors import CLIENT_ERRORS, NO_SOURCE, ModelError, in_words

logger = logging.getLogger(__name__)

CONFIG_FILE, WEIGHTS_FILE, CARD_FILE = "config.json", "model.safetensors", "README.md"  # of a published model
REPORT_FILE = "metrics.json"  # what training measured
FINISHED_FILES = (CONFIG_FILE, WEIGHTS_FILE, CARD_FILE, REPORT_FILE)  # of a model that training has finished
FORMAT_VERSION = 1
PICKLES = (".bin", ".ckpt", ".pkl", ".pt", ".pth")
PICKLE_STARTS = (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")  # zip of torch.save, bare pickles


def missing_files(folder: Path, names: Sequence[str] = (CONFIG_FILE, WEIGHTS_FILE)) -> list[str]:
    """Which of these files a model folder lacks; by default of those that make a model usable."""
    return [name for name in names if not (folder / name).is_file()]


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
        ModelError: a file is missing or cannot be downloaded; the message has the cause and a remedy.
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
    except (*CLIENT_ERRORS, ValueError) as error:
        pickle = _pickle_in(source, revision, api) if isinstance(error, RemoteEntryNotFoundError) else None
        raise ModelError(f"{source}: {_refusal(pickle) if pickle else in_words(error)}") from error


def read_config(path: Path, source: str) -> dict:
    """The config of a model; `source` names the model in messages. Raises ModelError."""
    try:
        config = json.loads(_read(path, source).decode("utf-8"))
        version = config["format_version"]
        if type(version) is not int or version < 1:
            raise ValueError(f"format_version is {version!r}")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelError(f"{source}: {CONFIG_FILE} is damaged or not of this library ({error!r})") from error
    if version != FORMAT_VERSION:
        raise ModelError(
            f"{source} has format {version}, this library reads format {FORMAT_VERSION}: install the version of this "
            "library that wrote it"
        )
    return config


def read_weights(path: Path, sha256: str | None, source: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file, checked against the SHA-256 in the config. Raises ModelError."""
    content = _read(path, source)
    try:
        weights = load(content)
    except SafetensorError as error:
        if content[:2] in PICKLE_STARTS:  # only now: the length of a header may begin with the same bytes
            raise ModelError(f"{source}: {WEIGHTS_FILE} is a pickle in disguise, which can run any code") from error
        raise ModelError(f"{source}: {WEIGHTS_FILE} is truncated or not a safetensors file ({error})") from error
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise ModelError(
            f"{source}: {WEIGHTS_FILE} is not the file that its {CONFIG_FILE} names (damaged or exchanged): load it "
            "again with `force_download=True`, or ask its author"
        )
    return weights


def _read(path: Path, source: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:  # deleted meanwhile, or not ours to read
        raise ModelError(f"{source}: {path.name} cannot be read ({error.strerror or error})") from error


def cached_models(cache_dir: str | Path | None = None) -> dict[str, str]:
    """Repository id -> the newest commit whose model is complete in the local cache."""
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
    """Limits how long the Hub's client waits for an answer: by default it waits for ever.

    For programs to call once, not for a library to decide. The client tries a few times before it gives up.
    """

    def limit(request: httpx.Request) -> None:
        request.extensions["timeout"] = {
            kind: min(limit or seconds, seconds) for kind, limit in request.extensions["timeout"].items()
        }

    # a hook, because some of the client's functions have no timeout argument
    get_session().event_hooks["request"].append(limit)


def _resolve(api: HfApi, source: str, revision: str | None, place: dict) -> str:
    """The commit to load; without a revision and without an answer of the Hub, the newest complete one in the cache.

    The cache contains no branches after the catalog was used, because the catalog loads commits.
    """
    try:
        return api.resolve_revision(source, revision=revision, **place)
    except RevisionResolutionError:
        commit = None if revision else cached_models(place["cache_dir"]).get(source)
        if commit is None:
            raise
        logger.warning("%s: the Hub was not used; loaded from the local cache, commit %s", source, commit[:12])
        return commit


def _local_file(folder: Path, name: str) -> Path:
    if (folder / name).is_file():
        return folder / name
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
    if name == WEIGHTS_FILE and pickles:
        raise ModelError(f"{folder}: {_refusal(pickles[0])}")
    raise ModelError(f"{folder} contains no {name}: it is not a complete model folder")


def _pickle_in(repository: str, revision: str | None, api: HfApi) -> str | None:
    """The name of the pickled weights that a repository contains instead of safetensors, if any."""
    try:
        names = api.list_repo_files(repository, revision=revision)
    except CLIENT_ERRORS:
        return None
    return next((name for name in names if name.endswith(PICKLES) and WEIGHTS_FILE not in names), None)


def _refusal(pickle: str) -> str:
    return (
        f"its weights are a pickle ({pickle}), which can run any code when it is read, so it is refused: "
        f"ask its author for {WEIGHTS_FILE}"
    )
