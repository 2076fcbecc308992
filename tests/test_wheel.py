"""The wheel, installed in a fresh environment away from the clone: what a stranger gets.

The environment borrows the installed dependencies, but neither the clone nor what only app and training need.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from importlib.metadata import packages_distributions

import pytest
from hub_client import client_env
from PIL import Image
from test_house import ROOT, imported, sources

from hubmodels import GLASS, REPOSITORY, __version__
from hubmodels.methods import METHODS

NOT_BASE = (
    "gradio",
    "starlette",
    "uvicorn",
    "sklearn",
    "accelerate",
    "datasets",
    "babel",
    "training",
    "webapp",
    "app",
)
PILL = ROOT / "examples/parts/pill"
REFUSE = """
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec

class Refuse(MetaPathFinder, Loader):
    def find_spec(self, name, path=None, target=None):
        return ModuleSpec(name, self) if name.split(".")[0] in NAMES else None

    def create_module(self, spec):
        raise ModuleNotFoundError(f"No module named {spec.name!r}", name=spec.name)

    def exec_module(self, module):
        pass

sys.meta_path.insert(0, Refuse())
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder, clone = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("clone") / "copy"
    left_out = shutil.ignore_patterns(".*", "build", "runs", "data", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, clone, ignore=left_out)  # setuptools leaves a build folder in the place it builds
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, clone]
    subprocess.run(command, check=True, timeout=300, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """A fresh environment with the wheel."""
    place = tmp_path_factory.mktemp("fresh") / "venv"
    venv.create(place, with_pip=False)
    interpreter = place / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", interpreter, "install", "-q", "--no-deps", wheel]
    subprocess.run(install, check=True, timeout=300, capture_output=True)
    (site,) = place.glob("lib/python*/site-packages")
    (site / "borrowed.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return interpreter


def run(python, script, cwd, refused=NOT_BASE, env=None):
    """What a script prints, as JSON, in the fresh environment and away from the clone."""
    source = REFUSE.replace("NAMES", repr(set(refused))) + script
    inherited = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} if env is None else env
    inherited = {key: value for key, value in inherited.items() if key != "PYTHONPATH"}
    done = subprocess.run([python, "-c", source], cwd=cwd, env=inherited, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_wheel_contains_the_library_alone_and_all_of_it(wheel):
    assert wheel.name.split("-")[1] == __version__
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert {name.split("/")[0] for name in names} == {"hubmodels"}
    files = [path for path in (ROOT / "hubmodels").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert names == {path.relative_to(ROOT).as_posix() for path in files}


def test_every_import_of_the_library_is_a_base_requirement():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    base = {re.match(r"[\w-]+", name)[0].lower().replace("-", "_") for name in project["dependencies"]}
    extra = {"onnx", "onnxscript", "onnxruntime", "pillow_heif", "av", "starlette", "uvicorn", "anyio", "paho_mqtt"}
    used = {name.split(".")[0] for file in sources("hubmodels") for name in imported(file.read_text(), "hubmodels")}
    foreign = used - sys.stdlib_module_names - {"hubmodels", ""}
    distributions = packages_distributions()
    needed = {d.lower().replace("-", "_") for name in foreign for d in distributions.get(name, [name])}
    assert needed - extra <= base, "not declared"


@pytest.fixture(scope="module")
def offline(python, tmp_path_factory):
    """What one process without network finds, since each imports torch for seconds, and the folder of its export."""
    variables = os.environ | {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9"}
    script = f"""
import contextlib, io, json
from pathlib import Path
import hubmodels
from hubmodels import cli
catalog = hubmodels.Catalog.bundled()
loaded = {{label: catalog.load(label) for label in catalog.categories()}}
found = hubmodels.compare(loaded["parts / pill"], {str(PILL / "good.png")!r})
model = Path(hubmodels.__file__).parent / "weights/models/glass-parts-pill"
with contextlib.redirect_stdout(io.StringIO()) as printed:
    cli.app(["export", str(model), "--pictures", {str(PILL)!r}, "--output", "pill.onnx"], standalone_mode=False)
cracked = hubmodels.load(model).predict({str(PILL / "crack.png")!r})
print(json.dumps({{"where": hubmodels.__file__, "loaded": {{label: list(models) for label, models in loaded.items()}},
                   "problems": catalog.problems,
                   "verdicts": {{name: p.is_anomalous for name, p in found.items()}},
                   "printed": printed.getvalue(),
                   "cracked": [cracked.image_score, cracked.p_value, cracked.is_anomalous]}}))
"""
    folder = tmp_path_factory.mktemp("offline")
    return run(python, script, folder, env=variables), folder


def test_all_bundled_models_load_and_predict_without_network(offline):
    found, _ = offline
    assert str(ROOT) not in found["where"] and found["problems"] == {}
    bundled = [name for name, method in METHODS.items() if not method.baseline]
    assert [*found["loaded"].values()] == [bundled] * 5
    assert found["verdicts"] == dict.fromkeys(bundled, False)


def test_it_loads_from_the_hub(python, hub, make_detector, backbone_weights, tmp_path):
    make_detector(GLASS).push_to_hub("acme/glass-toy-widget")
    script = f"""
import json, hubmodels
detector = hubmodels.load("acme/glass-toy-widget", backbone_weights={str(backbone_weights)!r})
print(json.dumps(detector.category))
"""
    assert run(python, script, tmp_path, env=client_env(hub, tmp_path / "home")) == "widget"


def test_the_command_exports_a_bundled_model_and_the_file_runs_without_torch(python, offline):
    (found, folder), picture = offline, str(PILL / "crack.png")
    score, *decided = found["cracked"]
    assert "glass: on 4 pictures scores differ by" in found["printed"] and "pill.parity.json" in found["printed"]
    outputs = json.loads((folder / "pill.parity.json").read_text())["outputs"]
    assert outputs.keys() == {"image_score", "anomaly_map", "p_value"}  # the only method needs no prefix
    script = f"""
import json, hubmodels
model = hubmodels.ExportedModel("pill.onnx")
found, (method,) = model.predict({picture!r}), model.compare({picture!r})
print(json.dumps([method, found.image_score, found.p_value, found.is_anomalous]))
"""
    found = run(python, script, folder, refused=(*NOT_BASE, "torch", "timm", "torchvision", "huggingface_hub"))
    assert found == ["glass", pytest.approx(score, rel=1e-4), *decided]
    (folder / "pill.onnx").rename(folder / "glass.onnx")
    shutil.copy(picture, folder / "photo.png")
    (lines,) = re.findall(r"<!-- not run: .* -->\n```python\n([^`]*)```", (ROOT / "docs/onnx.md").read_text())
    script = f"import json\n{lines}\nprint(json.dumps([image_score.item(), p_value.item(), anomaly_map.shape]))"
    found = run(python, script, folder, refused=(*NOT_BASE, "torch", "timm", "hubmodels"))
    assert found == [pytest.approx(score, rel=1e-4), pytest.approx(decided[0]), [1, *Image.open(picture).size[::-1]]]


def test_a_missing_extra_says_how_to_install_it_without_an_index(python, tmp_path):
    script = """
import json, hubmodels
try:
    hubmodels.ExportedModel("pill.onnx")
except hubmodels.ExportError as error:
    print(json.dumps(str(error)))
"""
    message = run(python, script, tmp_path, refused=(*NOT_BASE, "onnxruntime"))
    assert message == f'onnxruntime is not installed: pip install "anomaly-hubmodels[export] @ git+{REPOSITORY}"'
