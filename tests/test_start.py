"""What the demo and the library do not import before they need it: these packages take half of a start."""

import subprocess
import sys

import pytest
from test_house import ROOT

SLOW = ("timm", "torchvision", "torch._dynamo", "sympy", "sklearn", "scipy.stats", "onnx", "onnxruntime")
PAGE = "import app; app.build_page(app.Catalog.bundled(), app.EXAMPLES)"
PREDICT = """
import hubmodels
detectors = hubmodels.Catalog.bundled().load("parts / pill")
assert detectors and hubmodels.compare(detectors, "examples/parts/pill/crack.png").keys() == detectors.keys()
"""
ANOTHER = 'import hubmodels; hubmodels.SimpleNet(backbone="resnet18.tv_in1k")'


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("import hubmodels", []),
        (PAGE, ["torch"]),
        (PREDICT, ["torch"]),
        (ANOTHER, ["torch", "timm", "torchvision", "torch._dynamo", "sympy"]),
    ],
    ids=["library", "page", "prediction", "another backbone"],
)
def test_slow_packages_are_imported_when_they_are_needed(script, expected):
    show = f"import sys; print(*(name for name in {('torch', *SLOW)} if name in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", f"{script}\n{show}"], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == expected
