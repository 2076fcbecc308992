"""The Space as the Hub builds and starts it: `PYTHONPATH=. python benchmarks/space.py`.

Assembles the Space's folder, makes a fresh environment of the Python that its front matter asks for, installs there
what the builder installs, starts the app from that folder in a Space's environment and has one example judged.
Writes `results/space.json`: seconds for each step, MB of the folder and of what was installed. Needs a package index;
downloads several GB where that one has torch for CUDA only. `--python` where there is no `python3.12`.
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

from training.evaluation import write_json
from training.provenance import commit, machine
from training.publishing.space import PYTHON, assemble_space

RESULT = Path(__file__).parent / "results" / "space.json"
BUILDER = (
    "uvicorn>=0.14.0",
    "websockets>=10.4",
    "spaces",
)  # besides gradio, by a Space's build log
OURS = {"PYTHONPATH", "VIRTUAL_ENV", "PIP_FIND_LINKS"}  # would let something of this machine into the environment
EXAMPLE = ("parts / washer", "examples/parts/washer/scratch.png")


def install(folder: Path, python: str) -> Path:
    """The builder's step: requirements and the SDK of the front matter in one go, into a new environment."""
    environment = folder.parent / "environment"
    subprocess.run([python, "-m", "venv", environment], check=True, env=outside())
    sdk = f"gradio[oauth]=={SpaceCard.load(folder / 'README.md').data.sdk_version}"
    command = ["-m", "pip", "install", "-q", "--no-cache-dir", "-r", "requirements.txt", sdk, *BUILDER]
    subprocess.run([environment / "bin" / "python", *command], check=True, cwd=folder, env=outside())
    return environment


def start(folder: Path, environment: Path) -> tuple[subprocess.Popen, str]:
    """The running app and its address, once it answers."""
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


def judge(url: str, folder: Path) -> None:
    """One example, as a visitor's program asks; two verdicts, or the run has failed."""
    category, picture = EXAMPLE
    client = Client(url, verbose=False, download_files=False)
    answer = json.dumps(client.predict(handle_file(folder / picture), category, api_name="/inspect"))
    if answer.count('"is_anomalous": ') != 2:
        raise SystemExit(f"not two verdicts: {answer}")


def outside() -> dict[str, str]:
    """The environment variables without those that lead back here."""
    return {name: value for name, value in os.environ.items() if name not in OURS}


def megabytes(*places: Path) -> float:
    """Size of all files in the folders."""
    files = (file for place in places for file in place.rglob("*") if file.is_file() and not file.is_symlink())
    return round(sum(file.stat().st_size for file in files) / 2**20, 1)


def installed(environment: Path) -> dict:
    """What the builder's step left: megabytes, those of CUDA alone, and the versions that matter."""
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
    """The front matter's Python, else this one."""
    name = f"python{PYTHON}"
    runs = shutil.which(name) and subprocess.run([name, "--version"], capture_output=True).returncode == 0
    return name if runs else sys.executable


def main() -> None:
    """Prints and writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", default=find_python())
    python = parser.parse_args().python
    with tempfile.TemporaryDirectory() as place:
        folder = assemble_space(Path(place) / "space")
        row = {"folder_mb": megabytes(folder)}
        environment, row["install_s"] = timed(install, folder, python)
        (process, url), row["start_s"] = timed(start, folder, environment)
        try:
            row["first_result_s"] = timed(judge, url, folder)[1]
            row["later_result_s"] = statistics.median(timed(judge, url, folder)[1] for _ in range(5))
        finally:
            process.terminate()
            process.wait()
        row |= installed(environment)
    answer = subprocess.run([python, "--version"], capture_output=True, text=True, check=True).stdout
    row |= {"python": answer.split()[1], "command": "PYTHONPATH=. python benchmarks/space.py", "machine": machine()}
    row |= {"commit": commit()}
    write_json(RESULT, [row])
    print(json.dumps(row, indent=1))


if __name__ == "__main__":
    main()
