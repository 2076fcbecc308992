"""The house keeps its walls: who may import whom, and names that would shadow an installed package.

The checker is first shown to catch violations on small sources; a structural test that cannot fail checks nothing.
"""

import ast
import re
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

import pytest

from hubmodels.methods import METHODS

ROOT = Path(__file__).parents[1]
TRAINING_ONLY = {"accelerate", "datasets", "pandas"}
FORBIDDEN = {
    "app.py": {"training", "tests", "accelerate"},
    "webapp": {"training", "app", "tests", *TRAINING_ONLY},
    "hubmodels": {"training", "app", "webapp", "tests", "gradio", "fastapi", "sklearn", "jinja2", *TRAINING_ONLY},
    **{f"hubmodels/{m}.py": {f"hubmodels.{o}" for o in METHODS if o != m} | {"hubmodels.methods"} for m in METHODS},
    **{f"hubmodels/{m}.py": {"torch", "timm", "torchvision"} for m in ("__init__", "prediction")},
    "hubmodels/onnx/runtime.py": {"torch", "timm", "torchvision", "hubmodels.detector", "hubmodels.scoring"},
    "training": {"app", "webapp", "tests", "gradio"},
}
POSIX_MODULES = {"fcntl", "grp", "pty", "pwd", "resource", "syslog", "termios", "tty"}
POSIX_NAMES = {
    *(f"os.{name}" for name in ("chown", "fork", "forkpty", "getloadavg", "getpgid", "getuid", "geteuid", "killpg")),
    *(f"os.{name}" for name in ("mkfifo", "nice", "posix_fadvise", "posix_fallocate", "pread", "pwrite", "setsid")),
    *(f"os.{name}" for name in ("sched_getaffinity", "statvfs", "sync", "uname", "wait", "O_DIRECT", "O_NOFOLLOW")),
    *(f"signal.{name}" for name in ("SIGALRM", "SIGHUP", "SIGKILL", "SIGUSR1", "alarm", "pause", "setitimer")),
    *("socket.AF_UNIX", "asyncio.loop.add_signal_handler", "time.tzset"),
}


def imported(source: str, package: str = "") -> set[str]:
    """Absolute dotted names that a module of `package` imports anywhere in it, lazily too.

    `from a import b` counts as `a` and as `a.b`, since b may be a module. Dynamic imports count where the name is a
    literal.
    """
    names = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import():
                names |= {alias.name for alias in node.names}
            case ast.ImportFrom():
                parents = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
                module = ".".join([*parents, *([node.module] if node.module else [])])
                names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
            case ast.Call(
                func=ast.Name(id="__import__" | "import_module") | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                names.add(name)
    return names


def violations(source: str, forbidden: Iterable[str], package: str = "") -> set[str]:
    """The forbidden modules that a source imports, themselves or something inside them."""
    names = imported(source, package)
    return {module for module in forbidden if any(f"{name}.".startswith(f"{module}.") for name in names)}


def sources(room: str) -> list[Path]:
    place = ROOT / room
    return [place] if place.is_file() else sorted(place.rglob("*.py"))


def shadowed(stems: Iterable[str]) -> set[str]:
    """Names that `accelerate launch training/train.py`, which puts training/ first on the path, would take away."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    required = [*project["dependencies"], *(name for extra in extras for name in extra)]
    distributions = {re.match(r"[\w-]+", requirement)[0] for requirement in required}
    return set(stems) & (distributions | {"PIL", "evaluate", "sklearn"} | sys.stdlib_module_names)


@pytest.mark.parametrize(
    ("source", "caught"),
    [
        ("import training", True),
        ("import training.data as d", True),
        ("from training.data import samples", True),
        ("def late():\n    from training import data", True),
        ("import importlib\nimportlib.import_module('training.data')", True),
        ("import training_free, hubmodels.training_notes", False),
        ("from .training import x", False),  # hubmodels.training, a module of the package's own
        ("text = 'import training'", False),
    ],
)
def test_the_checker_catches_what_it_should(source, caught):
    assert violations(source, {"training"}, "hubmodels") == ({"training"} if caught else set())


def test_the_checker_resolves_relative_imports():
    assert imported("from . import glass", "hubmodels") == {"hubmodels", "hubmodels.glass"}
    assert imported("from .glass import GLASS", "hubmodels") == {"hubmodels.glass", "hubmodels.glass.GLASS"}
    assert imported("from ..b import c", "a.x") == {"a.b", "a.b.c"}
    assert violations("from .glass import GLASS", {"hubmodels.glass"}, "hubmodels") == {"hubmodels.glass"}


@pytest.mark.parametrize("room", FORBIDDEN)
def test_imports_flow_one_way(room):
    files = sources(room)
    assert files, f"{room} is empty or gone: the walls around it guard nothing"
    for file in files:
        package = ".".join(file.relative_to(ROOT).parent.parts)
        found = violations(file.read_text(encoding="utf-8"), FORBIDDEN[room], package)
        assert not found, f"{file.relative_to(ROOT)} imports {', '.join(sorted(found))}"


def test_no_file_is_named_after_nothing():
    """A `utils.py` collects what nobody placed, and then everybody imports it."""
    rooms = (ROOT / room for room in ("hubmodels", "webapp", "training", "tests", "benchmarks"))
    nameless = [file for room in rooms for file in room.rglob("*.py") if file.stem in {"utils", "helpers", "misc"}]
    assert nameless == []


def unencoded(source: str) -> list[int]:
    """Lines that read or write a text file in the encoding of the computer."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    named = {call: getattr(call.func, "attr", getattr(call.func, "id", "")) for call in calls}
    words = {call: [arg.value for arg in call.args if isinstance(arg, ast.Constant)] for call in calls}
    keys = {call: {keyword.arg for keyword in call.keywords} for call in calls}
    text = [call for call, name in named.items() if name in ("read_text", "write_text")]
    text += [call for call, name in named.items() if name == "open" and set(words[call]) & set("rwax")]
    return sorted(call.lineno for call in text if "encoding" not in keys[call])


def test_text_files_are_utf8_on_every_computer():
    assert unencoded("p.read_text()\np.open('w')\nopen(f, 'a')\np.write_text('x', encoding='utf-8')") == [1, 2, 3]
    assert unencoded("p.open('rb')\nImage.open(p)\np.open('w', encoding='utf-8')") == []
    files = [file for room in ("hubmodels", "webapp", "training", "app.py") for file in sources(room)]
    found = {file.name: unencoded(file.read_text(encoding="utf-8")) for file in files}
    assert {name: lines for name, lines in found.items() if lines} == {}


def posix_only(source: str) -> list[str]:
    """What a source uses that Windows lacks, unless it asks by `hasattr` before."""
    tree, found = ast.parse(source), imported(source) & POSIX_MODULES
    asked = {c.args[1].value for c in ast.walk(tree) if isinstance(c, ast.Call) and ast.unparse(c.func) == "hasattr"}
    names = {ast.unparse(node): node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    found |= {name for name, last in names.items() if name in POSIX_NAMES and last not in asked}
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return sorted(found | {text for text in texts if re.match(r"/(tmp|dev|etc|usr|var)/", text)})


def test_what_users_start_needs_nothing_that_windows_lacks():
    code = "import os, fcntl\nfrom resource import getrusage\nos.fork()\nopen('/tmp/x')\nsignal.SIGKILL\n"
    assert posix_only(code) == ["/tmp/x", "fcntl", "os.fork", "resource", "signal.SIGKILL"]
    assert posix_only("if hasattr(os, 'nice'):\n    os.nice(1)") == []
    files = [file for room in ("hubmodels", "webapp", "training", "app.py") for file in sources(room)]
    found = {file.name: posix_only(file.read_text(encoding="utf-8")) for file in files}
    assert {name: uses for name, uses in found.items() if uses} == {}


def test_no_training_module_shadows_an_installed_package():
    assert shadowed(["datasets", "accelerate", "evaluate", "json", "data"]) == {
        "datasets",
        "accelerate",
        "evaluate",
        "json",
    }
    assert shadowed(file.stem for file in sources("training")) == set()


def test_requirements_of_the_space_are_the_runtime_dependencies():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    required = [line for line in lines if line and not line.startswith("#")]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert required == list(dict.fromkeys([*project["dependencies"], *extras["app"], *extras["train"]]))
