"""Runs a script with the real `huggingface_hub` against a `LoopbackHub`."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from hub_server import LoopbackHub


def client_env(
    hub: LoopbackHub, home: Path, token: str | None = "hf_write", offline: bool = False, xet: bool = False
) -> dict[str, str]:
    """The environment in which a process speaks to this hub alone; `huggingface_hub` reads it when it is imported."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING_FACE_"))}
    switches = ("DISABLE_TELEMETRY", "DISABLE_UPDATE_CHECK", "DISABLE_PROGRESS_BARS")
    env = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(home), **{f"HF_HUB_{switch}": "1" for switch in switches}}
    env |= {"HF_HUB_DISABLE_XET": str(int(not xet)), "HF_HUB_OFFLINE": str(int(offline))}
    return inherited | env | ({"HF_TOKEN": token} if token else {})


def client(hub: LoopbackHub, script: str, home: Path, cwd: Path | None = None, **settings) -> Any:
    """What a script prints, which is one line of JSON. The script is Python; `settings` are those of `client_env`."""
    env = client_env(hub, home, **settings)
    run = subprocess.run([sys.executable, "-c", script], env=env, cwd=cwd, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])
