"""The models of a taught part, to keep: as a ZIP file, or in the visitor's own namespace on the Hub."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from webapp.teaching import ROOT, end

PUSHED_IN = 600  # seconds
REASON = re.compile(r"^(?:failed|\S+/\S+): (.*)", re.M | re.S)  # the last message of training.publishing


class PushError(Exception):
    """A model could not be pushed; the message is for people."""


def pack(folders: Sequence[Path], target: Path) -> Path:
    """Writes model folders with all their files into a ZIP file."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for folder in folders:
            for path in sorted(path for path in folder.rglob("*") if path.is_file()):
                archive.write(path, path.relative_to(folder.parent))
    return target


def push(folders: Sequence[Path], namespace: str, token: str) -> None:
    """Publishes model folders as private repositories by the project's ordinary command, with this login.

    Raises:
        PushError: the message has the reason.
        OSError: the folders cannot be copied.
    """
    with tempfile.TemporaryDirectory() as place:
        run, log = Path(place) / "run", Path(place) / "log"
        for folder in folders:  # a copy, because the session's models can be deleted at any time
            shutil.copytree(folder, run / folder.name)
        command = [sys.executable, "-m", "training.publishing", "models", str(run), namespace]
        status = _run([*command, "--private", "--no-collection"], token, log)
        if status:
            raise PushError(_reason(log))


def _run(command: list[str], token: str, log: Path) -> int:
    """The exit status. The Space's own token is not passed on."""
    variables = {"HF_TOKEN": token, "HF_HUB_DISABLE_PROGRESS_BARS": "1", "PYTHONWARNINGS": "ignore"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | variables,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=os.name == "posix",
        )
    try:
        return process.wait(PUSHED_IN)
    except subprocess.TimeoutExpired as error:
        raise PushError(f"the Hub did not finish within {PUSHED_IN // 60} minutes: try again") from error
    finally:
        if process.poll() is None:
            end(process)


def _reason(log: Path) -> str:
    text = log.read_text(encoding="utf-8", errors="replace").strip()
    last = text.splitlines()[-1] if text else "no message"
    found = REASON.match(last)
    return found[1] if found else last
