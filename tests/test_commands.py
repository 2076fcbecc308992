"""Every command in README and docs, as a reader types it, in a copy of the repository.

Blocks without a language are for the shell, and so is code in a sentence that begins as a command does. The README's
way from pictures to the demo runs in a real shell. Other programs run in forks of this process: processes of their
own would import torch for minutes. `LONG` lists the commands of which only the arguments are read.
"""

import multiprocessing
import os
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from argparse import ArgumentParser

import datasets
import gradio_client
import pytest
import typer
from app_process import wait_for
from hub_environment import free_port
from huggingface_hub import HfApi
from PIL import Image
from small_pictures import add_pictures, mask, picture
from test_docs import OTHERS, PAGES, README, ROOT, each, without_code

import app  # noqa: F401  its imports take seconds, and the forks have them
from hubmodels import cli
from training.objectives import hybrid

ROOMS = ("benchmarks", "docs", "examples", "hubmodels", "tests", "training")
PROGRAMS = os.path.dirname(sys.executable)
CARDS = sorted((ROOT / "model_cards").glob("*/README.md"))
KINDS = {
    "": "shell",
    "bat": "shell",
    "text": "figure",
    "toml": "see test_study.py",
    "python": "see test_docs.py",
    "bash": "see test_api.py and test_serve.py",
    "bibtex": "citation",
}
BEGINNING = re.compile(r"(?:[A-Z_]+=\S+ )*(?:make|\.venv[/\\](?:bin|Scripts)[/\\]\w+) \S")
BARE = re.compile(r"(?:python|pip|hf|accelerate|ruff|pytest) \S")
OWN_ENVIRONMENT = 'pip install "anomaly-hubmodels @ git+'  # for another project than the clone
EXAMPLES = {  # of placeholders
    **{"OWNER/NAME": "acme/parts", "NAMESPACE": "acme", "benchmarks.NAME": "benchmarks.metrics"},
    **{"PAGE": "README.md", "PICTURE": "my_good_pictures/0.png"},
}
SHORT = {"training/train.py": ["--epochs", "1", "--image-size", "64", "--folds", "0"]}  # added to a program that runs
STEPS = 20  # of the hybrid, whose 500 take longer than all the rest of a training
ENDLESS = r"^(watch|serve|check|export) |camera:"  # of `hubmodels`: without end or long, see tests/hubmodels
LONG = {  # programs that only read their arguments, and the reason
    r"^accelerate": "two processes, see test_train.py",
    r"train\.py .*parts:": "an hour, see test_train.py",
    r"--image-size \d{4}": "minutes, see test_tiles.py",
    r"--position-tolerance": "four times as long, see test_position.py",
    r"--replace": "as long as other trainings, see test_train.py",
    r"--region|--least-size": "as long as other trainings, see test_region_training.py, test_least_size_training.py",
    r"--image-size auto": "as long, see test_input_shape.py",
    r"training\.free_pictures": "downloads 6 GB, see test_free_pictures.py",
    r"training\.distill": "hours, see test_distill.py",
    r"training\.parts": "a minute, see test_parts.py",
    r"training\.(study|compare)": "needs several trainings, see test_study.py",
    r"training\.publishing bundle": "needs what `make bundle` trains, see test_publish.py",
    r"benchmarks\.": "minutes, see test_benchmarks.py",
    r"^python app\.py": "until Ctrl-C, see below",
    r"examples/archive\.py": "several processes, see test_archive.py",
    r"hub_server\.py": "until Ctrl-C, see test_hub_server.py",
    r"-m venv": "the tests have an environment",
}


# --------------------------------------------------------------------------------------------------- what is written


def blocks(page):
    """Language and content of each block of a page."""
    return re.findall(r"(?ms)^```(\w*)\n(.*?)^```$", page.read_text())


def spans(page):
    """The code in the sentences and tables of a page."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", without_code(page.read_text()))]


def commands(page):
    """The commands of a page in its blocks, its sentences, and its comments that print tables."""
    shell = "".join(content for language, content in blocks(page) if KINDS[language] == "shell")
    lines = [line for line in shell.replace("\\\n", " ").splitlines() if line]
    tables = re.findall(r"<!-- (\.venv/bin/.*?) -->", page.read_text())
    return lines + [span for span in spans(page) if BEGINNING.match(span)] + tables


def programs(command):
    """The words of each program that a command starts, the first without its folder."""
    for placeholder, example in EXAMPLES.items():
        command = re.sub(rf"\b{re.escape(placeholder)}\b(?!=)", example, command)
    words = shlex.split(command.replace("\\", "/"), comments=True)
    while re.match(r"[A-Z_]+=", words[0]):
        del words[0]
    if words[0] == "make":
        return [program for line in printed_by_make(words) for program in programs(line)]
    return [[re.sub(r"^[\w.-]+/(bin|Scripts)/", "", words[0]), *words[1:]]]


def printed_by_make(words):
    done = subprocess.run([*words, "-n"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.replace("\\\n", " ").splitlines() if line.startswith(".venv/bin/")]
    assert lines, words
    return lines


def reason_to_shorten(program):
    return next((pattern for pattern in LONG if re.search(pattern, " ".join(program))), None)


# --------------------------------------------------------------------------------------------------- how it is run


class Read(BaseException):
    """A program has read its arguments."""


def run_all(programs, folder):
    """Runs programs in the folder; fails where a reader would see an error."""
    only_read = [arguments for program in programs for arguments in run(program, folder)]
    if only_read:
        fork(only_read, folder, whole=False, target=read_arguments)


def run(program, folder):
    """Runs a program of a command, or returns the arguments that a process for all such programs reads."""
    name, *arguments = program
    if name == "pip" or arguments[:2] == ["-m", "pip"]:
        require_extras(arguments)
    elif arguments[:2] == ["-m", "pytest"]:
        require_files(arguments, folder)
    elif name == "export":
        assert [pair for pair in arguments if pair.split("=")[0] not in os.environ] == []  # those of the tests' Hub
    elif name in ("hf", "ruff"):
        asking = ["--help"] if name == "hf" else []  # it asks for a token
        subprocess.run([shutil.which(name, path=PROGRAMS), *arguments, *asking], cwd=folder, check=True)
    elif name == "hubmodels":
        whole = re.search(ENDLESS, " ".join(arguments)) is None
        require_files([] if whole else arguments, folder)
        fork(arguments, folder, whole, run_hubmodels)
    elif name == "accelerate":
        launched = arguments[arguments.index("training/train.py") :]
        return [["-m", "accelerate.commands.accelerate_cli", *arguments], launched]
    else:
        assert name in ("python", "python3", "py"), f"no rule for {name}"
        if reason_to_shorten(program):
            require_files(arguments, folder)
            return [arguments]
        short = SHORT.get(arguments[0], [])
        fork([arguments[0], *short, *arguments[1:]], folder, whole=True)  # what the command says counts
    return []


def require_extras(arguments):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    found = [names for argument in arguments for names in re.findall(r"^\.\[(.*)\]$", argument)]
    wanted = [extra for names in found for extra in names.split(",")]
    assert [extra for extra in wanted if extra not in extras] == []


def require_files(arguments, folder):
    """Fails for a path into a room of the repository where there is nothing."""
    inside = [path for path in arguments if path.split("/")[0] in ROOMS]
    assert [path for path in inside if not (folder / path).exists()] == []


def fork(arguments, folder, whole, target=None):
    process = multiprocessing.get_context("fork").Process(target=target or run_python, args=(arguments, folder, whole))
    process.start()
    process.join(120)
    process.kill()
    assert process.exitcode == 0, arguments


def run_python(arguments, folder, whole):
    """What `python` does with these arguments; without `whole`, until the program has read its own."""
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    hybrid.STEPS = STEPS
    if not whole:
        ArgumentParser.parse_args = end_after(ArgumentParser.parse_args)
    as_module = arguments[0] == "-m"
    sys.argv = arguments[as_module:]
    try:
        (runpy.run_module if as_module else runpy.run_path)(sys.argv[0], run_name="__main__")
    except Read:
        pass


def read_arguments(programs, folder, whole):
    """Several programs of `python` one after the other, because they import the same packages."""
    for arguments in programs:
        print(*arguments)  # pytest shows the last, if it fails
        run_python(arguments, folder, whole)


def run_hubmodels(arguments, folder, whole):
    """The command `hubmodels`; without `whole`, until it has read its arguments."""
    os.chdir(folder)
    command = typer.main.get_command(cli.app)
    if whole:
        assert command.main(arguments, "hubmodels", standalone_mode=False) in (None, 0, 1)  # 1: a defective part
    else:
        name, own, rest = command.resolve_command(command.make_context("hubmodels", list(arguments)), list(arguments))
        own.make_context(name, rest)


def end_after(parse_args):
    def parse_and_end(*arguments, **options):
        parse_args(*arguments, **options)
        raise Read

    return parse_and_end


def in_shell(command, folder, **options):
    """Starts a line in a shell that has not seen the environment of the tests."""
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return subprocess.Popen(["bash", "-ec", command], cwd=folder, env=environment, **options)


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A copy of the repository, with the pictures of a reader and what the README trains from them in a real shell."""
    folder = tmp_path_factory.mktemp("clone") / "Prüfung der Teile"
    made = ("build", "runs", "real", "free_pictures", "onnx-env", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(".*", *made))
    add_pictures(folder, *(f"my_good_pictures/{i}.png" for i in range(6)))
    places = (f"my_parts/widget/{place}/{i}.png" for place in ("train/good", "test/bad") for i in range(6))
    add_pictures(folder, *places)
    Image.new("L", (64, 64), 255).save(folder / "region.png")
    add_pictures(folder, *(f"mvtec_ad/screw/{place}/{i}.png" for place in ("train/good", "test/good") for i in "123"))
    code = folder / "training/objectives/hybrid.py"
    code.write_text(re.sub(r"(?m)^STEPS(.*) = \d+,", rf"STEPS\1 = {STEPS},", code.read_text()))
    assert f" = {STEPS}, " in code.read_text()
    python = folder / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    command = " ".join([own_parts()[1], *SHORT["training/train.py"]])
    assert in_shell(command, folder).wait() == 0
    return folder


def own_parts():
    """The README's three lines from pictures to the demo."""
    return next(content for _, content in blocks(README) if "my_good_pictures" in content).splitlines()


@pytest.fixture
def hub_with_parts(hub, tmp_path):
    """A Hub with the data set that docs/data.md describes."""
    features = {"picture": datasets.Image(), "mask": datasets.Image()} | dict.fromkeys(
        ("defect", "part"), datasets.Value("string")
    )
    for split, labels in {"train": ["fine"] * 3, "test": ["fine", "fine", "torn"]}.items():
        columns = {"picture": [picture(i) for i in range(3)], "mask": [mask()] * 3}
        columns |= {"defect": labels, "part": ["lid"] * 3}
        table = datasets.Dataset.from_dict(columns, datasets.Features(features))
        table.to_parquet(tmp_path / "data" / f"{split}.parquet")
    HfApi().create_repo("acme/parts", repo_type="dataset")
    HfApi().upload_folder(repo_id="acme/parts", repo_type="dataset", folder_path=tmp_path / "data")


# --------------------------------------------------------------------------------------------------- the tests


@each([page for page in [*PAGES, *OTHERS] if commands(page)])
def test_commands_run(page, clone, hub_with_parts):
    run_all([program for command in dict.fromkeys(commands(page)) for program in programs(command)], clone)


def test_the_readme_leads_from_pictures_to_the_demo(clone):
    install, _, demo = own_parts()
    assert " pip install " in install and demo == "make demo"
    port, log = free_port(), clone / "log.txt"
    command = f"exec {printed_by_make(demo.split())[-1]} --port {port}"
    with log.open("w") as out, in_shell(command, clone, stdout=out, stderr=out) as process:
        try:
            url = wait_for(f"http://127.0.0.1:{port}", process, log)
            assert "own / widget" in str(gradio_client.Client(url, verbose=False).predict(api_name="/categories"))
        finally:
            process.send_signal(signal.SIGINT)


@pytest.mark.parametrize(
    "command",
    [
        *(".venv/bin/python training/train.py --data-root mvtec_ad --epoch-count 1", "make demonstrate"),
        *(".venv/bin/python app.py --folder runs", ".venv/bin/python application.py", "make demo PORT=none"),
        *(".venv/bin/python -m training.publish models runs acme", ".venv/bin/python -m pip install -e '.[tests]'"),
        *(".venv/bin/python -m training.publishing push runs", ".venv/bin/python -m pytest tests/test_none.py"),
        *(".venv/bin/accelerate launch --processes 2 training/train.py", "curl http://127.0.0.1:7860"),
        ".venv/bin/accelerate launch training/train.py --data-root mvtec_ad --precision bf16",
        ".venv/bin/hubmodels export hubmodels/weights/none --pictures examples --output a.onnx",
        *('.venv/bin/hubmodels watch examples --model "parts / washer"', ".venv/bin/hubmodels inspect examples"),
        '.venv/bin/hubmodels inspect examples/none --model "parts / washer"',
    ],
)
def test_a_wrong_command_is_noticed(command, clone):
    with pytest.raises(AssertionError):
        run_all(programs(command), clone)


def test_each_long_command_still_occurs():
    written = [program for page in [*PAGES, *OTHERS] for command in commands(page) for program in programs(command)]
    assert {reason_to_shorten(program) for program in written} - {None} == LONG.keys()


def test_commands_on_the_cards_run(clone):
    """Those for the reader, and those that trained the models."""
    written = {command for page in CARDS for command in commands(page)}
    assert {command.split()[0] for command in written} == {"make", "pip", "python"}
    run_all([program for command in written for program in programs(command)], clone)


@each([*PAGES, *OTHERS])
def test_blocks_are_of_a_known_kind(page):
    assert {language for language, _ in blocks(page)} <= KINDS.keys()
    assert page in PAGES or "python" not in dict(blocks(page))
    assert page.stem == "api" or "bash" not in dict(blocks(page))
    assert page.stem == "onnx" or "not run" not in page.read_text()  # see test_wheel.py


@each([*PAGES, *OTHERS])
def test_commands_name_the_environment(page):
    """So that they run in a fresh shell."""
    assert [code for code in commands(page) + spans(page) if BARE.match(code) and OWN_ENVIRONMENT not in code] == []


@each(PAGES)
def test_commands_mean_the_same_in_cmd(page):
    """On Windows only double quotes quote, and in the lines for it no character has another meaning."""
    assert [command for command in commands(page) if "'" in command.split("#")[0]] == []
    assert not set("%^&|<>!;#") & set("".join(content for language, content in blocks(page) if language == "bat"))


@each([*PAGES, *OTHERS])
def test_options_in_sentences_exist(page):
    sources = [
        path for room in ("training", "hubmodels", "benchmarks", "app.py") for path in (ROOT / room).rglob("*.py")
    ]
    code = "".join(path.read_text() for path in [*sources, ROOT / "app.py"])
    options = {option for span in spans(page) for option in re.findall(r"(?<!\S)--([a-z][a-z-]+)", span)} - {"help"}
    assert [option for option in options if f"--{option}" not in code and option.replace("-", "_") not in code] == []
