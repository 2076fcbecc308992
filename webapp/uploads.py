"""Files of visitors: an event reads what its visitor uploaded and nothing else; what it hands out goes in an hour."""

import uuid
from pathlib import Path

from gradio.utils import get_upload_folder  # noqa: TID251


def uploaded_path(upload: dict | None) -> str | None:
    """Gradio's description of an upload -> its path; None for anything that does not lie among the uploads.

    Events take uploads with `preprocess=False`: gr.Image would clip 16-bit pictures, decode before our limit of
    pixels, and answer a broken file by a bare "Error". And Gradio 6.31 checks a path only where the caller of the API
    marks it as a file: without this check a caller could ask for any picture on the server.
    """
    path = upload.get("path") if isinstance(upload, dict) else None
    uploads = Path(get_upload_folder()).resolve()
    return path if isinstance(path, str) and _inside(Path(path), uploads) else None


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
