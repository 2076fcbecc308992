"""The command `hubmodels`."""

import csv
import io
import json
import shutil
import subprocess
import sys

import pytest
from test_house import ROOT
from typer.testing import CliRunner

from hubmodels.cli import app

WASHERS = ROOT / "examples/parts/washer"
MODEL = ["--model", "parts / washer", "--method", "hybrid"]


@pytest.fixture
def run(monkeypatch):
    monkeypatch.chdir(ROOT)

    def run(*arguments, given=None):
        return CliRunner().invoke(app, [str(argument) for argument in arguments], input=given)

    return run


def records(result):
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.mark.parametrize(
    ("sources", "status", "said"),
    [
        (["good.png"], 0, "1 pictures: 1 good, 0 defective, 0 not judged"),
        (["good.png", "scratch.png"], 1, "2 pictures: 1 good, 1 defective, 0 not judged"),
        (["scratch.png", "missing.png", "good.png"], 2, "3 pictures: 1 good, 1 defective, 1 not judged"),
        (["*.bmp"], 2, "1 pictures: 0 good, 0 defective, 1 not judged"),
    ],
)
def test_the_exit_status_says_the_result(run, sources, status, said):
    result = run("inspect", *(WASHERS / name for name in sources), *MODEL)
    assert result.exit_code == status and result.stderr.strip() == said
    assert [record["picture"] for record in records(result)] == [str(WASHERS / name) for name in sources]


def test_results_have_the_fields_of_the_api(run):
    (record,) = records(run("inspect", WASHERS / "scratch.png", "--model", "washer", "--rate", 0.05))
    assert list(record["methods"]) == ["SimpleNet", "GLASS", "Hybrid"] and record["false_alarm_rate"] == 0.05
    assert {"category", "appearance_matches", "warnings", "agree", "look_again", "sha256"} < set(record)
    assert record["methods"]["Hybrid"]["is_anomalous"] is True and record["verdicts"] == 3


def test_paths_come_from_standard_input_and_folders_from_below(run, tmp_path):
    shutil.copytree(WASHERS, tmp_path / "belt 1/today")
    listed = run("inspect", "-", *MODEL, given=f"{WASHERS / 'good.png'}\n\n{WASHERS / 'pit.png'}\n")
    assert [record["defective_verdicts"] for record in records(listed)] == [0, 1]
    assert len(records(run("inspect", tmp_path, *MODEL))) == len(list(WASHERS.iterdir()))


def test_a_table_has_one_line_a_picture(run, tmp_path):
    shutil.copy(WASHERS / "good.png", tmp_path / "=1+1.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    (tmp_path / "empty").mkdir()
    result = run("inspect", tmp_path, tmp_path / "empty", *MODEL, "--csv")
    good, broken, empty = csv.DictReader(io.StringIO(result.stdout))
    assert (good["result"], broken["result"], empty["result"]) == ("good", "not judged", "not judged")
    assert good["Hybrid.is_anomalous"] == "False" and float(good["Hybrid.p_value"]) > 0.02
    assert "broken.png" in broken["picture"] and broken["error"] and "has no pictures" in empty["error"]


def test_a_name_is_no_formula(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(WASHERS / "good.png", "=1+1.png")
    (row,) = csv.DictReader(io.StringIO(run("inspect", "=1+1.png", *MODEL, "--csv").stdout))
    assert row["picture"] == "'=1+1.png"


def test_overlays_of_equal_names_do_not_replace_each_other(run, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        shutil.copy(WASHERS / "scratch.png", tmp_path / folder)
    result = run("inspect", tmp_path / "a", tmp_path / "b", *MODEL, "--overlays", tmp_path / "drawn")
    names = ["scratch-2_hybrid.png", "scratch_hybrid.png"]
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == names
    assert records(result)[1]["overlays"]["Hybrid"] == str(tmp_path / "drawn" / names[0])


def test_a_log_is_verified_and_exported(run, tmp_path):
    log = tmp_path / "log"
    run("inspect", WASHERS / "good.png", tmp_path / "missing.png", *MODEL, "--log", log)
    said = run("log", "verify", log)
    assert said.exit_code == 0 and said.stdout.startswith("2 lines are as they were written")
    noted = said.stdout.split()[-1]
    assert run("log", "verify", log, "--hash", noted).exit_code == 0
    assert run("log", "export", log, tmp_path / "log.csv").exit_code == 0
    good, missing = csv.DictReader((tmp_path / "log.csv").open(encoding="utf-8-sig"))
    model = json.loads(good["models"])["Hybrid"]
    assert model["name"] == "hybrid-parts-washer" and len(model["weights_sha256"]) == 64
    assert len(good["sha256"]) == 64 and "cannot be read" in missing["error"]
    file = next(log.glob("*.jsonl"))
    file.write_bytes(file.read_bytes().replace(b"good.png", b"best.png"))
    changed = run("log", "verify", log)
    assert changed.exit_code == 2 and "line 2: it, or the line before, was changed" in changed.stderr
    assert "has no log" in run("log", "verify", tmp_path / "none").stderr


def test_drift_goes_on_after_a_restart_and_is_told(run, tmp_path):
    (tmp_path / "dark").mkdir()
    from PIL import Image, ImageEnhance

    with Image.open(WASHERS / "good.png") as picture:
        for number in range(30):
            changed = ImageEnhance.Brightness(picture.convert("RGB")).enhance(0.75 - number / 1000)
            changed.save(tmp_path / f"dark/{number:02}.png")
    drift = ["--drift", tmp_path / "drift.json"]
    first = records(run("inspect", *(tmp_path / f"dark/{number:02}.png" for number in range(2)), *MODEL, *drift))
    assert [record["drift"]["pictures"] for record in first] == [1, 2]
    again = run("inspect", tmp_path / "dark/01.png", *MODEL, *drift)
    assert records(again)[0]["drift"] == first[1]["drift"]  # the same picture does not count twice
    rest = run("inspect", *(tmp_path / f"dark/{number:02}.png" for number in range(2, 30)), *MODEL, *drift)
    alarm = records(rest)[-1]["drift"]["alarm"]
    assert 2 < alarm <= 30 and f"DRIFT at picture {alarm}: the parts look different" in rest.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "nowhere"], "there is no such local folder"),
        (["--model", "hubmodels/weights/models"], "has models of several categories; choose one of: parts / "),
        (["--model", "hubmodels/weights/models", "--category", "x"], "has no category 'x'; choose one of"),
        (
            ["--model", "washer", "--method", "patchcore"],
            "has no model of patchcore; it has: simplenet, glass, hybrid",
        ),
        (["--model", "washer", "--rate", "2"], "must be between 0 and 1"),
    ],
)
def test_wrong_choices_end_with_a_remedy(run, arguments, said):
    result = run("inspect", WASHERS / "good.png", *arguments)
    assert result.exit_code == 2 and said in result.stderr and not result.stdout


def test_a_folder_of_models_is_a_choice(run):
    folder = "hubmodels/weights/models"
    one = run("inspect", WASHERS / "good.png", "--model", f"{folder}/hybrid-parts-washer")
    all_of_it = run("inspect", WASHERS / "good.png", "--model", folder, "--category", "washer")
    assert [list(records(result)[0]["methods"]) for result in (one, all_of_it)] == [
        ["Hybrid"],
        ["SimpleNet", "GLASS", "Hybrid"],
    ]


def test_models_are_listed(run):
    assert "parts / washer" in run("models").stdout
    assert "hybrid" in run("models", "hubmodels/weights/models/hybrid-parts-washer").stdout
    assert run("models", "hubmodels").exit_code == 2


def test_a_check_times_each_method_and_all_together(run):
    said = run("check", "washer", "--rounds", 1).stdout
    timed = [line.split(":")[0].strip() for line in said.splitlines() if "pictures a second" in line]
    assert timed == ["simplenet", "glass", "hybrid", "simplenet + glass + hybrid"]
    assert "its weights have the SHA-256" in said and "ONNX: not compared; give --pictures" in said


def test_a_damaged_model_does_not_pass_the_check(run, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(ROOT / "hubmodels/weights/models/glass-parts-washer", folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    said = run("check", folder)
    assert said.exit_code == 2 and "is not the file that its config.json names" in said.stderr


def test_help_needs_no_torch():
    code = "import sys; from hubmodels.cli import app; assert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_a_reader_that_ends_is_no_error():
    command = f"{sys.executable} -m hubmodels inspect {WASHERS} {WASHERS} --model washer --method hybrid | head -1"
    ended = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert json.loads(ended.stdout)["picture"] and "Traceback" not in ended.stderr, ended.stderr
