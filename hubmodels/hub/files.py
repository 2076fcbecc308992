"""The files of one published model, in a folder or in a Hub repository, and what is read from them."""

import hashlib
import json
import logging
import os
import shutil
from contextlib import suppress
from difflib import get_close_matches
from functools import partial
from pathlib import Path

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, RemoteEntryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils import get_session, httpx
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from hubmodels import LIBRARY
from hubmodels.hub.errors import CLIENT_ERRORS, NO_ID, ModelError, in_words, is_unavailable

logger = logging.getLogger(__name__)

CONFIG_FILE, WEIGHTS_FILE, CARD_FILE = "config.json", "model.safetensors", "README.md"  # of a published model
REPORT_FILE = "metrics.json"  # what training measured
FINISHED_FILES = (CONFIG_FILE, WEIGHTS_FILE, REPORT_FILE)  # of a model that training has finished
TITLE_FILE = "title.txt"  # optional, in a folder: what people call the category, if its name is a short form
FORMAT_VERSION = 1
FOUND = (EntryNotFoundError, GatedRepoError, RevisionNotFoundError)  # errors of a repository that exists
PICKLES = (".bin", ".ckpt", ".pkl", ".pt", ".pth")
LFS_START = b"version https://git-lfs"  # of the text that a clone without Git LFS contains instead of a file
PICKLE_STARTS = (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")  # zip of torch.save, bare pickles


def missing_files(folder: Path) -> list[str]:
    """Which files of a finished model a folder lacks."""
    return [name for name in FINISHED_FILES if not (folder / name).is_file()]


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

    Without a revision, and if the newest commit cannot be loaded at present, the newest complete one in the local
    cache is used, with a warning.

    Args:
        source: a folder, or else the id of a Hub repository, `user/name`.
        revision: branch, tag or commit; resolved once, so that both files are of the same commit.
        token, cache_dir, local_files_only, force_download: as in `huggingface_hub.hf_hub_download`.

    Raises:
        ModelError: a file is missing or cannot be downloaded; the message has the cause and a remedy.
    """
    try:
        if Path(source).is_dir():
            return model_files(Path(source))
    except OSError as error:
        raise ModelError(f"{source}: the folder cannot be read ({error.strerror})") from error
    if source.count("/") != 1:
        raise ModelError(f"{source}: {_no_folder(source)}, and {NO_ID}")
    api, place = HfApi(token=token, library_name=LIBRARY), dict(cache_dir=cache_dir, local_files_only=local_files_only)
    try:
        commit = api.resolve_revision(source, revision=revision, **place)
        return _download(api, source, commit, force_download=force_download, **place)
    except CLIENT_ERRORS as error:
        older = None if revision or force_download else older_commit(source, error, cache_dir)
        if older:
            return _download(api, source, older, cache_dir=cache_dir, local_files_only=True)
        raise ModelError(f"{source}: {_reason(source, revision, api, error)}") from error


def read_config(path: Path, source: str) -> dict:
    """The config of a model; `source` names the model in messages. Raises ModelError."""
    try:
        config = json.loads(_read(path, source).decode("utf-8-sig"))
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
        if content.startswith(LFS_START):
            raise ModelError(
                f"{source}: {WEIGHTS_FILE} is a pointer of Git LFS, not the weights: run `git lfs pull` there"
            ) from error
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
    """Repository id -> the newest commit whose model is complete in the local cache.

    The client's own `scan_cache_dir` leaves out a repository whose newest commit was not downloaded.
    """
    root = Path(cache_dir or constants.HF_HUB_CACHE).expanduser()
    complete = [w.parent for w in root.glob(f"models--*/snapshots/*/{WEIGHTS_FILE}") if w.is_file()]
    complete = [folder for folder in complete if (folder / CONFIG_FILE).is_file()]
    newest_last = sorted(complete, key=lambda folder: (folder / WEIGHTS_FILE).lstat().st_mtime)
    return {f.parents[1].name.removeprefix("models--").replace("--", "/"): f.name for f in newest_last}


def limit_waiting(seconds: float) -> None:
    """Limits how long the Hub's client waits for an answer: by default it waits for ever.

    For programs to call once, not for a library to decide. The client tries a few times before it gives up.
    """

    def limit(request: httpx.Request) -> None:
        request.extensions["timeout"] = {
            kind: min(limit or seconds, seconds) for kind, limit in request.extensions["timeout"].items()
        }

    try:  # a hook, because some of the client's functions have no timeout argument
        get_session().event_hooks["request"].append(limit)
    except CLIENT_ERRORS as error:  # only a problem for those who need the Hub
        logger.warning("the Hub cannot be used: %s", in_words(error))


def _download(
    api: HfApi, source: str, commit: str, force_download: bool = False, **place: object
) -> tuple[Path, Path]:
    get = partial(api.hf_hub_download, source, revision=commit, **place)
    paths = tuple(Path(get(name, force_download=force_download)) for name in (CONFIG_FILE, WEIGHTS_FILE))
    for path in paths:
        if force_download and not path.is_symlink():  # on Windows: the client keeps the old copy of a new download
            path.unlink()
            get(path.name)
    return paths


def older_commit(source: str, error: BaseException | None, cache_dir: str | Path | None = None) -> str | None:
    """The newest complete commit of a repository in the local cache, if the newest one failed for another reason.

    It logs a warning. The cache may contain no branch, because the catalog loads commits.
    """
    commit = cached_models(cache_dir).get(source) if is_unavailable(error) else None
    if commit is not None:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        logger.warning("%s: commit %s of the local cache is used, because of %s", source, commit[:12], reason)
    return commit


def _reason(source: str, revision: str | None, api: HfApi, error: Exception) -> str:
    """Why a repository cannot be loaded; a mistyped folder looks like the name of a repository."""
    pickle = _pickle_in(source, revision, api) if isinstance(error, RemoteEntryNotFoundError) else None
    words = _refusal(pickle) if pickle else in_words(error)
    return words if isinstance(error, FOUND) else f"{_no_folder(source)}, and {words}"


def _no_folder(source: str) -> str:
    """That a source is no folder, and which one may be meant."""
    if "://" in source:
        return "it is a web address (give the last two parts alone)"
    with suppress(OSError, RuntimeError):  # a parent that does not exist, a home that is not known
        path = Path(source.replace("\\", "/")).expanduser()
        if path.is_file():
            return f"it is a file (give its folder, {path.parent})"
        folders = [other.name for other in path.parent.iterdir() if other.is_dir()]
        if similar := get_close_matches(path.name, folders, 1):
            return f"there is no such local folder (is it {path.parent / similar[0]}?)"
    return "there is no such local folder"


def model_files(folder: Path) -> tuple[Path, Path]:
    """The config and the weights in a model folder. Raises ModelError, with the reason, if one is missing."""
    return _local_file(folder, CONFIG_FILE), _local_file(folder, WEIGHTS_FILE)


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


def put_in_place(new: Path, folder: Path) -> None:
    """Moves the folder of a whole model to its place. An older model is NAME.1 until the new one is there.

    Raises:
        OSError: it cannot be moved.
    """
    older = folder.with_name(f"{folder.name}.1")
    if not missing_files(folder):  # otherwise NAME.1 may be the only whole one
        shutil.rmtree(older, ignore_errors=True)
        os.replace(folder, older)
    shutil.rmtree(folder, ignore_errors=True)  # what is left there is no model
    os.replace(new, folder)
    shutil.rmtree(older, ignore_errors=True)
