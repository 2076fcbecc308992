"""The Space as the Hub builds and starts it: `python -m benchmarks.space`.

Writes the Space's folder, makes a fresh environment with the Python version of its front matter, installs the same
packages as the builder, starts the app with the variables of a Space, and inspects one example. Writes
`results/space.json`: seconds for each step, MB of the folder and of the installed packages. Needs a package index. The
download has several GB if the index offers torch for CUDA only. Give `--python` if there is no `python3.12`.
"""

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from importlib.metadata import distributions
from pathlib import Path

from gradio_client import Client, handle_file
from huggingface_hub import SpaceCard

from training.evaluation import git_commit, machine, write_json
from training.publishing.space import PYTHON, assemble_space

RESULT = Path(__file__).parent / "results" / "space.json"
BUILDER = ("uvicorn>=0.14.0", "websockets>=10.4", "spaces")  # also installed, according to the log of a Space
OURS = {"PYTHONPATH", "VIRTUAL_ENV", "PIP_FIND_LINKS"}  # would let local packages into the environment
EXAMPLE = ("parts / washer", "examples/parts/washer/scratch.png")


def install(folder: Path, python: str) -> Path:
    """Installs the requirements and the SDK of the front matter into a new environment, like the builder."""
    environment = folder.parent / "environment"
    subprocess.run([python, "-m", "venv", environment], check=True, env=outside())
    sdk = f"gradio[oauth]=={SpaceCard.load(folder / 'README.md').data.sdk_version}"
    command = ["-m", "pip", "install", "-q", "--no-cache-dir", "-r", "requirements.txt", sdk, *BUILDER]
    subprocess.run([environment / "bin" / "python", *command], check=True, cwd=folder, env=outside())
    return environment


def start(folder: Path, environment: Path) -> tuple[subprocess.Popen, str]:
    """The running app and its address, after its first answer."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    space = {"SYSTEM": "spaces", "SPACE_ID": "acme/bench", "GRADIO_SERVER_NAME": "0.0.0.0", "GRADIO_SERVER_PORT": port}
    space |= {"HOME": folder.parent, "GRADIO_TEMP_DIR": folder.parent / "uploads"}
    variables = outside() | {name: str(value) for name, value in space.items()}
    process = subprocess.Popen([environment / "bin" / "python", "app.py"], cwd=folder, env=variables)
    url = f"http://127.0.0.1:{port}"
    while process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5).read()
            return process, url
        except OSError:
            time.sleep(0.05)
    raise SystemExit("the app did not start")


def inspect(url: str, folder: Path) -> None:
    """Inspects one example with the client; fails without a verdict."""
    category, picture = EXAMPLE
    client = Client(url, verbose=False, download_files=False)
    answer = json.dumps(client.predict(handle_file(folder / picture), category, api_name="/inspect"))
    if '"is_anomalous": ' not in answer:
        raise SystemExit(f"no verdict: {answer}")


def outside() -> dict[str, str]:
    """The environment variables without those that point to this environment."""
    return {name: value for name, value in os.environ.items() if name not in OURS}


def megabytes(*places: Path) -> float:
    """Size of all files in the folders."""
    files = (file for place in places for file in place.rglob("*") if file.is_file() and not file.is_symlink())
    return round(sum(file.stat().st_size for file in files) / 2**20, 1)


def installed(environment: Path) -> dict:
    """The installed packages: megabytes in total and for CUDA, and the most important versions."""
    packages = next(environment.glob("lib/python*/site-packages"))
    found = {d.name.lower().replace("-", "_"): d.version for d in distributions(path=[str(packages)])}
    cuda = [*packages.glob("nvidia*"), *packages.glob("cuda*"), *packages.glob("triton*")]
    shown = ("torch", "torchvision", "timm", "gradio", "huggingface_hub", "spaces", "numpy", "pillow")
    versions = {name: found[name] for name in shown}
    return {"installed_mb": megabytes(packages), "of_it_cuda_mb": megabytes(*cuda), "versions": versions}


def timed(step, *arguments) -> tuple:
    """A step's result and its seconds."""
    begun = time.perf_counter()
    result = step(*arguments)
    return result, round(time.perf_counter() - begun, 2)


def find_python() -> str:
    """The Python version of the front matter, or this one."""
    name = f"python{PYTHON}"
    runs = shutil.which(name) and subprocess.run([name, "--version"], capture_output=True).returncode == 0
    return name if runs else sys.executable


def main() -> None:
    """Prints and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", default=find_python())
    python = parser.parse_args().python
    with tempfile.TemporaryDirectory() as place:
        folder = assemble_space(Path(place) / "space")
        row = {"folder_mb": megabytes(folder)}
        environment, row["install_s"] = timed(install, folder, python)
        (process, url), row["start_s"] = timed(start, folder, environment)
        try:
            row["first_result_s"] = timed(inspect, url, folder)[1]
            row["later_result_s"] = statistics.median(timed(inspect, url, folder)[1] for _ in range(5))
        finally:
            process.terminate()
            process.wait()
        row |= installed(environment)
    answer = subprocess.run([python, "--version"], capture_output=True, text=True, check=True).stdout
    row |= {"python": answer.split()[1], "command": "python -m benchmarks.space", "machine": machine()}
    row |= {"commit": git_commit()}
    write_json(RESULT, [row])
    print(json.dumps(row, indent=1))


if __name__ == "__main__":
    main()
