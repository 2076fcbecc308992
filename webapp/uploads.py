"""Files of visitors: an event reads what its visitor uploaded and nothing else; what it hands out goes in an hour."""

import os
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path

from gradio.utils import get_upload_folder  # noqa: TID251

from hubmodels import PictureError


def own_folder() -> None:
    """Gives this app a folder of its own inside Gradio's upload folder, so that nobody else's files are deleted."""
    os.environ["GRADIO_TEMP_DIR"] = str(Path(get_upload_folder()) / "hubmodels")


def keep_deleting(age_s: float, every_s: float) -> None:
    """Starts to delete, again and again, what has lain longer in the upload folder, whoever wrote it.

    Gradio's `delete_cache` alone is not enough: in 6.31 it ends for good when an upload comes while it looks, and it
    knows neither what an interrupted upload leaves nor what an earlier process left.
    """

    folder = Path(get_upload_folder())

    def work() -> None:
        while True:
            delete_old(folder, age_s)
            time.sleep(every_s)

    threading.Thread(target=work, daemon=True).start()


def delete_old(folder: Path, age_s: float) -> None:
    """Deletes what has lain longer in a folder: files, and folders that are empty."""
    for place, _, names in os.walk(folder, topdown=False):
        for path in (*(Path(place) / name for name in names), Path(place)):
            with suppress(OSError):  # deleted meanwhile, or a folder that is not empty
                if time.time() - path.lstat().st_ctime > age_s:
                    path.rmdir() if path == Path(place) else path.unlink()


def uploaded_path(upload: dict | None) -> str | None:
    """Gradio's description of an upload -> its path; None for anything that does not lie among the uploads.

    Events take uploads with `preprocess=False`: gr.Image would clip 16-bit pictures, decode before our limit of
    pixels, and answer a broken file by a bare "Error". And Gradio 6.31 checks a path only where the caller of the API
    marks it as a file: without this check a caller could ask for any picture on the server.
    """
    path = upload.get("path") if isinstance(upload, dict) else None
    uploads = Path(get_upload_folder()).resolve()
    return path if isinstance(path, str) and _inside(Path(path), uploads) else None


def checked_path(upload: object) -> str:
    """The path of an upload that is still there.

    Raises:
        PictureError: it is none of a visitor's uploads, or was deleted.
    """
    path = uploaded_path(upload)
    if path is None or not Path(path).is_file():
        raise PictureError("the upload is gone, for uploads are deleted after an hour: give the picture again", "gone")
    return path


def fresh_path(name: str) -> Path:
    """A new place in Gradio's cache, where what an event hands out is deleted after an hour."""
    folder = Path(get_upload_folder()) / uuid.uuid4().hex
    folder.mkdir(parents=True)
    return folder / name


def _inside(path: Path, folder: Path) -> bool:
    try:
        return path.resolve().is_relative_to(folder)
    except (OSError, ValueError):  # a name no file can have
        return False
