"""What the demo and the library do not import before they need it: these packages take half of a start."""

import importlib.util
import subprocess
import sys

from test_house import ROOT

SLOW = ("timm", "torchvision", "torch._dynamo", "sympy", "sklearn", "scipy.stats", "onnx", "onnxruntime")
PAGE = "import app; app.build_page(app.Catalog.bundled(), app.EXAMPLES)"
PREDICT = """
import hubmodels
detectors = hubmodels.Catalog.bundled().load("parts / pill")
assert detectors and hubmodels.compare(detectors, "examples/parts/pill/crack.png").keys() == detectors.keys()
"""
STEPS = [("import hubmodels", []), (PREDICT, ["torch"]), (PAGE, ["torch"])]


def test_slow_packages_are_imported_when_they_are_needed():
    """In one process: what a later step does not have, an earlier one did not import."""
    show = f"import sys; print(*(name for name in {('torch', *SLOW)} if name in sys.modules))"
    script = "\n".join(f"{step}\n{show}" for step, _ in STEPS)
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert [line.split() for line in done.stdout.splitlines()] == [expected for _, expected in STEPS]
    assert all(map(importlib.util.find_spec, SLOW))  # the names are right
