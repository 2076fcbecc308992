"""What can go wrong with a model's files or with the Hub, in words: the cause, then the remedy.

`in_words` is used by loading, by the catalog and by publishing alike.
"""

import errno

from huggingface_hub import constants
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    RevisionResolutionError,
    XetDownloadError,
)
from huggingface_hub.utils import httpx

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)
NO_ID = "it is not the id of a Hub repository (user/name)"
LOG_IN = "log in by `hf auth login`, or set HF_TOKEN"

# What a request to the Hub can fail with.
HUB_ERRORS = (
    *(HfHubHTTPError, httpx.HTTPError, EntryNotFoundError, RevisionResolutionError, HFValidationError),
    *(OfflineModeIsEnabled, LocalTokenNotFoundError, XetDownloadError),
    *(httpx.InvalidURL, ImportError),  # a proxy in the environment that the client cannot use
)
# What a single call of the Hub's client can fail with besides: the disk, a proxy, and hf_xet with RuntimeErrors.
# Catch these around such a call alone, never around code of our own.
CLIENT_ERRORS = (*HUB_ERRORS, OSError, RuntimeError, ValueError)


class ModelError(RuntimeError):
    """A published model cannot be loaded; the message names the file and what is wrong with it."""


def in_words(error: Exception) -> str:
    """What a failed request to the Hub means, and what to do about it."""
    for kinds, explain in EXPLANATIONS:
        if isinstance(error, kinds):
            return explain(error)
    return f"{type(error).__name__}: {_first_line(error)}"


def is_unavailable(error: BaseException | None) -> bool:
    """Whether the Hub or the cache failed, so that an older commit may serve; False if the model is at fault."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code == 429 or error.response.status_code >= 500
    kinds = (
        OSError,
        ImportError,
        httpx.TransportError,
        httpx.InvalidURL,
        RevisionResolutionError,
        OfflineModeIsEnabled,
    )
    return isinstance(error, kinds)


def _http_in_words(error: HfHubHTTPError) -> str:
    status = error.response.status_code
    if status == 401:
        return f"the Hub refused the token (401): {LOG_IN}"
    if status == 403:
        return f"the token does not allow this (403: {error.server_message or 'forbidden'}): use one that may write"
    if status == 429:
        return "too many requests to the Hub (429): try again in a few minutes"
    if status >= 500:
        return f"the Hub has trouble at the moment ({status}): try again later"
    return f"the Hub answered {status}: {error.server_message or _first_line(error)}"


def _not_cached_in_words(error: Exception) -> str:
    """Neither the Hub nor the cache had it; the chain of causes contains why the Hub failed."""
    causes = [error]
    while (cause := causes[-1].__cause__) is not None:
        causes.append(cause)
    cause = next((c for c in causes if isinstance(c, (OfflineModeIsEnabled, httpx.HTTPError))), None)
    if cause is None or isinstance(cause, OfflineModeIsEnabled):
        reason = "the Hub is not used (HF_HUB_OFFLINE or local_files_only)"
    elif isinstance(cause, HfHubHTTPError):
        reason = _http_in_words(cause)
    else:
        reason = f"the Hub cannot be reached ({type(cause).__name__})"
    place = f"the local cache ({constants.HF_HUB_CACHE} by default)"
    return f"it is not in {place}, and {reason}: connect once, or give a folder"


def _os_in_words(error: OSError) -> str:
    if error.errno in NO_ROOM:
        return f"there is no room on the disk for it ({error.strerror}): free some, or give another `cache_dir`"
    if error.errno in READ_ONLY:
        folder = error.filename or constants.HF_HUB_CACHE
        return f"{folder} cannot be written ({error.strerror}): set HF_HOME, or give `cache_dir`, a folder of your own"
    if "Consistency check failed" in str(error):
        return "the file arrived incomplete, and was not kept: try again"
    return f"{type(error).__name__}: {_first_line(error)}"


def _proxy_in_words(error: Exception) -> str:
    if "proxy" not in str(error).lower() and not isinstance(error, httpx.InvalidURL):
        return str(error)
    return (
        f"the proxy in the environment (HTTPS_PROXY, ALL_PROXY) cannot be used ({_first_line(error)}): correct it, or "
        "for a SOCKS proxy run `pip install socksio`"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0]


# from the most special kind to the most general
EXPLANATIONS = (
    (
        GatedRepoError,
        lambda e: f"its owner grants access on request: request it on the model's page on the Hub, then {LOG_IN}",
    ),
    (
        RepositoryNotFoundError,
        lambda e: f"the Hub has no such repository, or it is private: check the name, and for a private one {LOG_IN}",
    ),
    (RevisionNotFoundError, lambda e: "the repository has no such revision: check the branch, tag or commit"),
    ((LocalEntryNotFoundError, RevisionResolutionError), _not_cached_in_words),
    (LocalTokenNotFoundError, lambda e: f"nobody is logged in at the Hub: {LOG_IN}"),
    (EntryNotFoundError, lambda e: f"the repository lacks a file of a model ({_first_line(e)})"),
    (HFValidationError, lambda e: NO_ID),
    (OfflineModeIsEnabled, lambda e: "the Hub is not used, because HF_HUB_OFFLINE is set"),
    (HfHubHTTPError, _http_in_words),
    (httpx.HTTPError, lambda e: f"the connection to the Hub failed ({type(e).__name__}): check it, and try again"),
    (OSError, _os_in_words),
    (
        (XetDownloadError, RuntimeError),
        lambda e: f"the transfer failed ({_first_line(e)}): try again, or set HF_HUB_DISABLE_XET=1",
    ),
    (ValueError, lambda e: in_words(e.__cause__) if e.__cause__ else _proxy_in_words(e)),  # force_download, no Hub
    ((ImportError, httpx.InvalidURL), _proxy_in_words),
)
