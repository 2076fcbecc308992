"""The real script on small pictures: layouts, resuming, two processes, and what it must refuse."""

import errno
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import hub_environment
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from accelerate.tracking import LOGGER_TYPE_TO_CLASS
from hub_server import Fault, LoopbackHub, answer, bound
from open_files import refuse_open_files
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_study import write_study

import training.train as train
from hubmodels import BackboneError, ModelError, load
from hubmodels.hub.catalog import Catalog
from hubmodels.samples import Sample
from training import batches
from training.batches import FeatureCache
from training.config import TrainConfig
from training.evaluation import git_commit
from training.fitting import Fitting
from training.jobs import TrainingError
from training.objectives import OBJECTIVES, PAPER_BACKBONE, SimpleNetObjective
from training.objectives.objective import decide_noise
from training.state import TrainingState
from training.study.tables import Results

ROOT = Path(__file__).parents[2]


def write_picture(path, rng, defect=False):
    """A noisy grey plate; a defect is a bright square with its mask next to it."""
    pixels = rng.normal(120, 12, (72, 72, 3)).clip(0, 255).astype(np.uint8)
    if defect:
        pixels[20:40, 30:50] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


TWO = ("plate", "sheet")


@pytest.fixture(scope="module")
def data_root(tmp_path_factory):
    """Two categories in MVTec AD layout: `plate` with masks, `sheet` without."""
    root, rng = tmp_path_factory.mktemp("toy_set"), np.random.default_rng(0)
    for category in ("plate", "sheet"):
        for i in range(10):
            write_picture(root / category / f"train/good/{i:03}.png", rng)
        for i in range(4):
            write_picture(root / category / f"test/good/{i:03}.png", rng)
            write_picture(root / category / f"test/square/{i:03}.png", rng, defect=True)
    mask = np.zeros((72, 72), np.uint8)
    mask[20:40, 30:50] = 255
    for i in range(4):
        path = root / f"plate/ground_truth/square/{i:03}_mask.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(path)
    return root


@pytest.fixture(scope="module")
def command(data_root, backbone_weights):
    """Command line of a small run, without its output."""
    return [
        *("--data-root", str(data_root), "--categories", "plate", "--backbone", "resnet18.tv_in1k"),
        *("--backbone-weights", str(backbone_weights), "--image-size", "64", "--epochs", "3"),
        *("--batch-size", "4", "--methods", "simplenet", "glass"),
    ]


@pytest.fixture
def arguments(command, tmp_path):
    """Command line of a small run; later options win over these."""
    return [*command, "--output", str(tmp_path / "runs")]


def written(run):
    """When each model of a run was written: a job that is kept writes nothing."""
    return {path: path.stat().st_mtime_ns for path in run.glob("*/*")}


def head(folder):
    return load_file(folder / "model.safetensors")


def assert_equal_weights(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_both_methods_from_folder_to_prediction(arguments, data_root, tmp_path, capsys):
    """The whole path once: train, calibrate, save, evaluate, describe, load, predict."""
    assert train.main(arguments) == 0
    said = capsys.readouterr().err
    for method in ("simplenet", "glass"):
        folder = next((tmp_path / "runs").glob(f"{method}-*-plate"))  # the data set's name is pytest's numbered folder
        names = {path.name for path in folder.iterdir()}
        files = {"config.json", "model.safetensors", "README.md", "metrics.json", "scores.parquet", "panels"}
        files |= {"pixel_curves.parquet", "training_log.jsonl", "LICENSE.md"}
        assert names == files  # the Hub has no word for the pictures' terms
        report = json.loads((folder / "metrics.json").read_text())
        keys = {"image_auroc", "image_ap", "image_f1_max", "pixel_auroc", "pixel_ap", "pixel_f1_max", "aupro"}
        keys |= {"outline_iou"}
        assert set(report["metrics"]) == keys | {"false_alarm_rate", "recall_at_threshold"}
        assert all(0 <= value <= 1 for value in report["metrics"].values())
        assert (report["protocol"], report["seed"], report["training"]["held_out"]) == ("last", 0, 1)
        known = report["known_defects"]
        assert known["found"] / known["total"] == report["metrics"]["recall_at_threshold"] and known["total"] == 4
        assert known["in_words"] in said and known["in_words"] in (folder / "README.md").read_text()
        assert len(known["missed"]) == len(list((folder / "panels").glob("missed_*.png"))) == 4 - known["found"]
        assert report["data"]["counts"] == {"train": {"good": 10}, "test": {"good": 4, "square": 4}}
        assert report["latency"]["cpu"]["median_ms"] > 0 and report["latency"]["cpu"]["width"] == 72
        scores = pq.read_table(folder / "scores.parquet").to_pylist()
        assert len(scores) == 8 and {row["defect_type"] for row in scores} == {"good", "square"}
        detector = load(folder)
        row = next(row for row in scores if row["name"] == "test/square/002.png")
        shown = detector.predict(data_root / "plate/test/square/002.png")
        assert shown.image_score == pytest.approx(row["image_score"], abs=1e-5)
        assert "too few" in (folder / "README.md").read_text()
        log = [json.loads(line) for line in (folder / "training_log.jsonl").read_text().splitlines()]
        assert [record["epoch"] for record in log] == [1, 2, 3]
    assert not list((tmp_path / "runs/.unfinished").iterdir())
    assert "| simplenet |" in (tmp_path / "runs/summary.md").read_text()


def test_large_inputs_are_trained_on_some_patches_in_each_step(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(batches, "STEP_PATCHES", 20)
    assert train.main(arguments) == 0
    reports = [json.loads(path.read_text()) for path in tmp_path.rglob("metrics.json")]
    assert len(reports) == 2 and {report["training"]["step_patches"] for report in reports} == {20}
    assert "a step uses 20 of each picture's 64 patches, and different ones in each epoch" in capsys.readouterr().err


def test_a_folder_of_good_pictures_is_enough(arguments, data_root, tmp_path):
    """No test set, no masks: it trains, calibrates and saves; what was not measured says so."""
    extra = ["--data-root", str(data_root / "plate/train/good"), "--categories", "widget", "--methods", "simplenet"]
    assert train.main(arguments + extra) == 0
    folder = tmp_path / "runs/simplenet-own-widget"
    assert json.loads((folder / "metrics.json").read_text())["metrics"] == {}
    assert "| image AUROC | not measured |" in (folder / "README.md").read_text()
    assert load(folder).calibration.size == 1


def test_trained_models_are_pushed_and_what_failed_is_pushed_by_the_same_command(hub, arguments, tmp_path, capsys):
    pushing = [*arguments, "--dataset-name", "toy", "--push-to-hub", "acme", "--private"]
    hub.faults.append(Fault("POST", "/commit/", 1, answer(403)))
    assert train.main(pushing) == 1
    assert "FAILED acme/glass-toy-plate: the token does not allow this (403" in capsys.readouterr().err
    assert (tmp_path / "runs" / "glass-toy-plate" / "metrics.json").is_file()  # the training is kept
    assert (
        "config.json" in hub.files("acme/simplenet-toy-plate")
        and hub.repo("acme/glass-toy-plate").visibility == "private"
    )
    assert train.main(pushing) == 0
    files = hub.files("acme/glass-toy-plate")
    assert files["model.safetensors"] == (tmp_path / "runs/glass-toy-plate/model.safetensors").read_bytes()
    assert list(Catalog.from_namespace("acme").load("toy / plate")) == ["simplenet", "glass"]


def test_a_login_that_may_not_push_is_told_before_the_training(hub, arguments, tmp_path, capsys):
    assert train.main([*arguments, "--push-to-hub", "others"]) == 1
    assert "the login acme may not write to others" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_test_set_without_masks_gives_image_metrics_only(arguments, tmp_path):
    assert train.main([*arguments, "--categories", "sheet", "--methods", "simplenet"]) == 0
    report = json.loads(next((tmp_path / "runs").glob("simplenet-*-sheet/metrics.json")).read_text())
    assert "image_auroc" in report["metrics"] and "aupro" not in report["metrics"]
    assert "| AUPRO@0.3 | not measured |" in next((tmp_path / "runs").glob("*-sheet/README.md")).read_text()


def test_the_record_says_what_it_was_made_with(arguments, tmp_path):
    """Commit of the code, model of the processor, revision of the data (none: a folder)."""
    assert train.main([*arguments, "--methods", "simplenet"]) == 0
    report = json.loads(next((tmp_path / "runs").glob("simplenet-*/metrics.json")).read_text())
    git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    assert report["commit"] == (git.stdout.strip() or None)
    cpuinfo = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    models = [line.split(": ", 1)[1] for line in cpuinfo.splitlines() if line.startswith("model name")]
    assert (models or [platform.processor()])[0] in report["machine"]
    assert report["data"]["revision"] is None


def test_the_record_of_a_hub_data_set_names_its_revision(arguments, tmp_path, monkeypatch):
    open_categories = train.open_categories
    monkeypatch.setattr(
        train,
        "open_categories",
        lambda *given, **options: [replace(c, revision="5ca1ab1e") for c in open_categories(*given, **options)],
    )
    assert train.main([*arguments, "--methods", "simplenet"]) == 0
    report = json.loads(next((tmp_path / "runs").glob("simplenet-*/metrics.json")).read_text())
    assert report["data"]["revision"] == "5ca1ab1e"


def test_where_there_is_no_git_no_commit_is_named(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert git_commit() is None


def test_the_hypothesis_is_decided_from_whole_pictures_where_the_model_sees_a_crop(arguments, tmp_path):
    """A disc that the crop cuts off at four sides: compact as a whole, not so the crop."""
    y, x = np.mgrid[:288, :288] - 143.5
    good = tmp_path / "set/wood/train/good"
    good.mkdir(parents=True)
    for radius in (118, 120, 122):
        disc = (255 * (y**2 + x**2 <= radius**2)).astype(np.uint8)
        Image.fromarray(disc).convert("RGB").save(good / f"{radius}.png")
    own = ["--data-root", str(tmp_path / "set"), "--categories", "wood", "--methods", "glass", "--epochs", "1"]
    assert train.main([*arguments, *own, "--crop", "papers"]) == 0
    report = json.loads((tmp_path / "runs/glass-set-wood/metrics.json").read_text())
    assert report["training"]["hypothesis"] == "hypersphere"


def test_no_test_picture_is_decoded_before_training_has_ended(arguments, monkeypatch):
    events, read, run = [], Sample.read, Fitting.run
    monkeypatch.setattr(Sample, "read", lambda self: (events.append(self.name.split("/")[0]), read(self))[1])
    monkeypatch.setattr(Fitting, "run", lambda self: (run(self), events.append("trained"))[0])
    assert train.main([*arguments, "--methods", "simplenet"]) == 0
    assert "test" in events and "test" not in events[: events.index("trained")]


def test_an_unreadable_test_picture_is_named_and_costs_no_training(arguments, data_root, tmp_path, monkeypatch):
    """Found only after training, by contract: the same command with --skip-bad goes on with the test."""
    shutil.copytree(data_root / "sheet", tmp_path / "set/sheet")
    (tmp_path / "set/sheet/test/square/001.png").write_bytes(b"torn")
    own = ["--data-root", str(tmp_path / "set"), "--categories", "sheet", "--methods", "simplenet"]
    assert train.main(arguments + own) == 1
    monkeypatch.setattr(Fitting, "run_epoch", lambda *_: pytest.fail("trained again"))
    assert train.main([*arguments, *own, "--skip-bad"]) == 0
    assert len(pq.read_table(tmp_path / "runs/simplenet-set-sheet/scores.parquet")) == 7


# ------------------------------------------------------------------------------------------- stopping and going on


class Killed(BaseException):
    """Stands for a kill at the end of an epoch."""


def kill_after(epoch, monkeypatch):
    """Every epoch is saved; the process dies right after the one given."""
    save = TrainingState.save

    def save_and_die(self, path):
        save(self, path)
        if self.epoch == epoch:
            raise Killed

    monkeypatch.setattr("training.fitting.SAVE_EVERY_S", 0.0)
    monkeypatch.setattr(TrainingState, "save", save_and_die)


@pytest.mark.parametrize("method", ["simplenet", "glass"])
def test_a_killed_run_continues_bit_equal(method, arguments, tmp_path, monkeypatch):
    steady = ["--methods", method, "--stabilise", "statistics", "average", "decay"]
    assert train.main([*arguments, *steady, "--output", str(tmp_path / "whole")]) == 0
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_after(2, patch)
        train.main([*arguments, *steady, "--output", str(tmp_path / "killed")])
    assert not list((tmp_path / "killed").glob(f"{method}-*"))
    epochs, run_epoch = [], Fitting.run_epoch
    monkeypatch.setattr(Fitting, "run_epoch", lambda self, m, e, p: (epochs.append(e), run_epoch(self, m, e, p))[1])
    assert train.main([*arguments, *steady, "--output", str(tmp_path / "killed")]) == 0
    assert epochs == [2]
    whole, continued = (next((tmp_path / name).glob(f"{method}-*")) for name in ("whole", "killed"))
    assert_equal_weights(head(whole), head(continued))


def test_a_continued_run_moves_and_deletes_no_open_file(arguments, monkeypatch):
    """On Windows it failed at its first save: the state was mapped. The features on the disk were, too, to the end."""
    monkeypatch.setattr(batches, "available_memory", lambda: 1)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_after(2, patch)
        train.main([*arguments, "--methods", "simplenet"])
    refuse_open_files(monkeypatch)
    assert train.main([*arguments, "--methods", "simplenet"]) == 0


def test_who_stops_a_run_by_hand_is_told_how_to_go_on(arguments, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Fitting, "run_epoch", interrupt)
    with pytest.raises(SystemExit, match=r"^simplenet-\S+ was stopped: the same command continues"):
        train.main([*arguments, "--methods", "simplenet"])


def test_a_finished_job_is_not_repeated_and_other_settings_are_refused(arguments, tmp_path):
    arguments = [*arguments, "--methods", "simplenet"]
    assert train.main(arguments) == 0
    before = written(tmp_path / "runs")
    assert train.main(arguments) == 0
    assert train.main([*arguments, "--seed", "1"]) == 1
    assert before and written(tmp_path / "runs") == before


def test_a_title_names_one_category_only(arguments, capsys):
    assert train.main([*arguments, "--categories", "plate", "sheet", "--title", "盖子"]) == 1
    assert "--title names one category: give it with --category NAME" in capsys.readouterr().err


@pytest.fixture
def finished(arguments, tmp_path):
    """A finished SimpleNet, its folder, and the command that made it."""
    arguments = [*arguments, "--methods", "simplenet", "--epochs", "1"]
    assert train.main(arguments) == 0
    return next((tmp_path / "runs").glob("simplenet-*")), arguments


def test_a_finished_model_gets_a_new_title(finished):
    folder, arguments = finished
    assert train.main([*arguments, "--title", "Deckel 2"]) == 0
    assert (folder / "title.txt").read_text() == "Deckel 2"


@pytest.mark.parametrize("missing", ["model.safetensors", "metrics.json", "config.json"])
def test_a_model_folder_that_lacks_a_file_is_named_before_training(finished, missing, monkeypatch, capsys):
    """With the weights gone it was "finished: kept"; without metrics.json every rerun failed after the training."""
    folder, arguments = finished
    (folder / missing).unlink()
    monkeypatch.setattr(Fitting, "run_epoch", lambda *_: pytest.fail("trained"))
    assert train.main(arguments) == 1
    message = f"{folder} is in the way: it is not empty, but no finished model ({missing} missing)"
    assert message in capsys.readouterr().err
    assert folder.is_dir()
    if missing in ("model.safetensors", "config.json"):  # what makes a model usable
        with pytest.raises(ModelError, match=missing):
            Catalog.from_folder(folder)


@pytest.mark.parametrize("kind", ["link", "repository", "file"])
def test_what_a_model_cannot_replace_is_named_before_training(arguments, tmp_path, monkeypatch, capsys, kind):
    place = tmp_path / "runs/simplenet-toy-plate"
    place.parent.mkdir()
    if kind == "link":
        place.symlink_to(tmp_path / "nowhere")
    elif kind == "file":
        place.write_text("mine")
    else:
        (place / ".git").mkdir(parents=True)
    monkeypatch.setattr(Fitting, "run_epoch", lambda *_: pytest.fail("trained"))
    assert train.main([*arguments, "--methods", "simplenet", "--dataset-name", "toy"]) == 1
    assert f"{place} is in the way" in capsys.readouterr().err and os.path.lexists(place)


def test_hidden_files_in_the_place_of_a_model_do_not_stop_it(arguments, data_root, tmp_path):
    """The Finder leaves `.DS_Store` in each folder that it showed."""
    folder = tmp_path / f"runs/simplenet-{data_root.name}-plate"
    folder.mkdir(parents=True)
    (folder / ".DS_Store").write_bytes(b"junk")
    assert train.main([*arguments, "--methods", "simplenet", "--epochs", "1"]) == 0
    assert load(folder).category == "plate"


def test_an_output_folder_that_cannot_be_written_is_named_at_once(arguments, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    assert train.main([*arguments, "--output", str(tmp_path / "file" / "runs")]) == 1
    assert "nothing can be written into" in capsys.readouterr().err


def test_features_that_outgrow_the_disk_end_with_a_message(arguments, tmp_path, monkeypatch, capsys):
    """The process died of SIGBUS, without a word, when the mapped file outgrew the disk."""

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(batches, "memory_budget", lambda: 0)
    monkeypatch.setattr(os, "posix_fallocate", full)
    assert train.main([*arguments, "--methods", "simplenet"]) == 1
    error = capsys.readouterr().err
    assert "the features need" in error and "are free (No space left on device): free some" in error
    assert not list((tmp_path / "runs").rglob("features*.bin"))


def test_settings_that_only_glass_reads_do_not_age_a_simplenet(arguments, tmp_path):
    arguments = [*arguments, "--methods", "simplenet"]
    assert train.main(arguments) == 0
    before = written(tmp_path / "runs")
    others = ["--hypothesis", "manifold", "--foreground", "none", "--textures", "nowhere"]
    assert train.main([*arguments, *others]) == 0
    assert before and written(tmp_path / "runs") == before


@pytest.fixture
def own_set(arguments, data_root, tmp_path):
    """A copy of `plate`, to be changed, and the command that trains SimpleNet on it."""
    shutil.copytree(data_root / "plate", tmp_path / "set/plate")
    return tmp_path / "set", [*arguments, "--data-root", str(tmp_path / "set"), "--methods", "simplenet"]


def test_a_finished_job_is_kept_for_the_same_pictures_elsewhere_and_refused_for_others(own_set, tmp_path, capsys):
    root, arguments = own_set
    assert train.main(arguments) == 0
    shutil.copytree(root, tmp_path / "moved/set")
    assert train.main([*arguments, "--data-root", str(tmp_path / "moved/set")]) == 0
    write_picture(root / "plate/train/good/003.png", np.random.default_rng(7))
    assert train.main(arguments) == 1
    assert "finished model with other settings (training pictures)" in capsys.readouterr().err


def test_a_model_is_replaced_if_asked_for_and_stays_until_then(own_set, tmp_path, monkeypatch, capsys):
    root, arguments = own_set
    assert train.main(arguments) == 0
    [folder] = (tmp_path / "runs").glob("simplenet-*")
    before = (folder / "model.safetensors").read_bytes()
    write_picture(root / "plate/train/good/003.png", np.random.default_rng(7))
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_after(1, patch)
        train.main([*arguments, "--replace"])
    assert (folder / "model.safetensors").read_bytes() == before
    assert train.main(arguments) == 1  # the unfinished one is refused, too
    (root / "plate/train/good/003.png").unlink()
    assert train.main([*arguments, "--replace"]) == 0
    assert (folder / "model.safetensors").read_bytes() != before
    assert not folder.with_name(f"{folder.name}.1").exists()
    assert train.main([*arguments, "--replace"]) == 0 and "is finished: kept" in capsys.readouterr().err


def test_an_unfinished_job_is_not_continued_on_other_pictures(own_set, monkeypatch, capsys):
    root, arguments = own_set
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_after(1, patch)
        train.main(arguments)
    (root / "plate/train/good/003.png").unlink()
    assert train.main(arguments) == 1
    assert "unfinished job with other settings (training pictures)" in capsys.readouterr().err


def test_a_finished_job_is_refused_under_other_backbone_weights(arguments, backbone_weights, tmp_path, capsys):
    arguments = [*arguments, "--methods", "simplenet"]
    assert train.main(arguments) == 0
    weights = load_file(backbone_weights)
    save_file(weights | {"conv1.weight": weights["conv1.weight"] + 0.01}, tmp_path / "other.safetensors")
    assert train.main([*arguments, "--backbone-weights", str(tmp_path / "other.safetensors")]) == 1
    assert "other settings (backbone weights)" in capsys.readouterr().err


def test_an_unfinished_job_with_other_settings_is_refused(arguments, tmp_path, monkeypatch, caplog):
    arguments = [*arguments, "--methods", "simplenet"]
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_after(1, patch)
        train.main(arguments)
    assert train.main([*arguments, "--noise-std", "0.5"]) == 1


def spoil_step(number, spoil, monkeypatch):
    """`spoil` changes the losses of SimpleNet's step of that number, counted from 1 over all epochs of three steps."""
    forward, calls = SimpleNetObjective.forward, []

    def sometimes_spoilt(self, batch):
        calls.append(1)
        losses = forward(self, batch)
        return losses if len(calls) != number else spoil(losses)

    monkeypatch.setattr(SimpleNetObjective, "forward", sometimes_spoilt)


def nan_losses(losses):
    return {key: value * float("nan") for key, value in losses.items()}


def nan_gradients(losses):
    losses["loss"].register_hook(lambda gradient: gradient * float("nan"))
    return losses


def run_and_fail(arguments, message):
    """The only job of the command must fail with the message; returns the path of its state and the error's text."""
    config = TrainConfig.from_command_line([*arguments, "--methods", "simplenet"])
    (job,), _ = train.plan_jobs(config)
    with pytest.raises(TrainingError, match=message) as failed:
        train.run_job(job, train.start(config), sharing=False)
    return job.workplace / "state.safetensors", str(failed.value)


def epoch_of(path):
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["json"])["epoch"]


@pytest.mark.parametrize(
    ("step", "spoil", "message"),
    [
        (5, nan_losses, r"loss is not finite in epoch 2, step 2, batch \[train/good/\d+.png.* of epoch 1, is kept in"),
        (6, nan_gradients, "weights are not finite after epoch 2.* of epoch 1, is kept in"),
    ],
)
def test_what_is_not_finite_is_named_and_the_last_good_state_is_kept(step, spoil, message, arguments, monkeypatch):
    """Epoch 2 goes wrong, in its loss or by its last update, long before a state is due to be written."""
    spoil_step(step, spoil, monkeypatch)
    path, _ = run_and_fail(arguments, message)
    assert all(value.isfinite().all() for value in load_file(path).values())
    assert epoch_of(path) == 1


def test_no_state_is_promised_where_no_epoch_was_good(arguments, monkeypatch):
    spoil_step(1, nan_losses, monkeypatch)
    path, text = run_and_fail(arguments, "epoch 1, step 1")
    assert not path.exists() and "No epoch was good" in text and "is kept in" not in text


def test_a_failing_category_does_not_stop_the_others(arguments, data_root, tmp_path):
    broken = tmp_path / "set"
    broken.mkdir()
    os.symlink(data_root / "plate", broken / "plate")
    (broken / "torn/train/good").mkdir(parents=True)
    (broken / "torn/train/good/000.png").write_bytes(b"not a picture")
    extra = ["--data-root", str(broken), "--categories", "plate", "torn", "--methods", "simplenet"]
    assert train.main(arguments + extra) == 1
    assert (tmp_path / "runs/simplenet-set-plate/metrics.json").is_file()


def test_a_full_disk_is_named_with_a_remedy(arguments, monkeypatch, capsys):
    monkeypatch.setattr(train, "write_card", Mock(side_effect=OSError(errno.ENOSPC, "No space left on device")))
    assert train.main([*arguments, "--methods", "simplenet"]) == 1
    said = capsys.readouterr().err
    assert "No space left on device: free some space for --output, and give the same command again." in said
    assert "Traceback" not in said


# ------------------------------------------------------------------------------------------------- several processes


def launch_two(arguments, script, options=()):
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command += ["--main_process_port", "0", *options, str(script), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


@contextmanager
def threads_of_one_of(processes):
    """Inside the block this process has the threads of a launched one, if a machine has that many processes."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, os.cpu_count() // processes))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def test_machines_agree_on_their_jobs(monkeypatch):
    """What is in the way on one machine blocks the job on all; else they would share the jobs out differently."""
    sanity = SimpleNamespace(train_sha256="a")
    jobs = [SimpleNamespace(title=name, sanity=sanity) for name in ("one", "two")]
    other = {"one": "a", "two": "a"}, {"two": "in the way"}
    monkeypatch.setattr(train, "gather_object", lambda mine: [*mine, other])
    assert train.agree_on_jobs(jobs, {"one": "full"}) == {"one": "full", "two": "in the way"}
    monkeypatch.setattr(train, "gather_object", lambda mine: [*mine, ({"one": "a", "two": "b"}, {})])
    with pytest.raises(ValueError, match="the machines find different training pictures"):
        train.agree_on_jobs(jobs, {})


@pytest.mark.parametrize("found", [[None, 0], [3, 0]])
def test_a_shared_job_needs_a_shared_disk(monkeypatch, found):
    """A machine that finds the model finished, or at another epoch, would leave the others waiting for ever."""
    monkeypatch.setattr(train, "gather_object", lambda _: found)
    with pytest.raises(TrainingError, match="find different states of it in their output folders"):
        train.require_one_disk(found[0])


SEVERAL_RUNS = """
import contextlib, json, os, sys
from pathlib import Path
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
import training.train as train
from hubmodels.backbone import Backbone
from training import evaluation
from training.objectives import SimpleNetObjective, hybrid
from training.publishing import latency
from training.study import plots
from training.study.__main__ import main as study

hybrid.STEPS, evaluation.PANEL_HEIGHT, latency.REPEATS = 20, 32, 2
plots.draw_all = lambda results, folder: []

def watch(owner, name):
    method, seen = getattr(owner, name), set()
    def call(self, inputs):
        outputs = method(self, inputs)
        seen.update(value.dtype for value in outputs)
        return outputs
    setattr(owner, name, call)
    return seen

mapped, computed = watch(Backbone, "forward"), watch(SimpleNetObjective, "normality_with_noise")
end_training = Accelerator.end_training
folder, *commands = map(json.loads, sys.argv[1:])
for number, (name, program, arguments) in enumerate(commands, 1):
    # it ends the process group, which the next run needs
    Accelerator.end_training = end_training if number == len(commands) else lambda self: None
    arguments = [each.replace("RANK", os.environ["RANK"]) for each in arguments]
    mapped.clear(), computed.clear()
    AcceleratorState._reset_state()
    os.environ["ACCELERATE_MIXED_PRECISION"] = "bf16" if name == "bf16" else "no"  # as the launcher does
    with Path(folder, name + os.environ["RANK"]).open("w") as out, contextlib.redirect_stderr(out):
        status = {"train": train.main, "study": study}[program](arguments)
        print(*sorted(map(str, mapped)), "then", *sorted(map(str, computed)), "status", status, file=out)
tasks = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
raise SystemExit(", ".join(name for name in tasks if "gloo" in name) or 0)
"""


@pytest.fixture(scope="module")
def shared_runs(command, data_root, backbone_weights, tmp_path_factory):
    """The folder of several runs by the same two processes, because their start takes longer; they share each job."""
    folder = tmp_path_factory.mktemp("shared")
    for name, original in (("a_refused", "plate"), ("b_torn", "sheet"), ("c_good", "plate")):
        shutil.copytree(data_root / original, folder / "set" / name)
    (folder / "set/b_torn/test/square/001.png").write_bytes(b"torn")
    failing = [*command, "--data-root", str(folder / "set"), "--methods", "simplenet", "--categories", "a_refused"]
    assert train.main([*failing, "--seed", "1", "--output", str(folder / "runs")]) == 0
    diverging = ["--dataset-name", "noise", "--categories", "plate", "sheet", "--methods", "simplenet"]
    runs = {
        "glass": [*command, "--dataset-name", "toy", "--methods", "glass"],
        "hybrid": [*command, "--folds", "0", "--methods", "hybrid", "--dataset-name", "toy", "--categories", *TWO],
        "failing": [*failing, "b_torn", "c_good"],
        "diverging": [*command, *diverging, "--noise-std", "3e38"],
        "bf16": [*command, "--dataset-name", "half", "--methods", "simplenet"],
    }
    sharing = ["--parallel", "data", "--output", str(folder / "runs")]
    commands = [(name, "train", [*arguments, *sharing]) for name, arguments in runs.items()]
    commands.append(("study", "study", [str(write_study(folder, backbone_weights, data=folder)), "--seeds", "0"]))
    disks = ["--categories", *TWO, "--dataset-name", "disks", "--output", f"{folder}/machine-RANK"]
    published = ["--methods", "simplenet", "--push-to-hub", "acme"]
    commands.append(("machines", "train", [*command, *disks, *published]))
    (folder / "several.py").write_text(SEVERAL_RUNS)
    with LoopbackHub(folder / "hub", bound(hub_environment.HUB_PORT)) as hub, pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_TOKEN", "hf_write")
        done = launch_two(map(json.dumps, (str(folder), *commands)), folder / "several.py")
        models = [path.name for path in folder.glob("machine-*/simplenet-*")]
        found = {name: list(hub.files(f"acme/{name}")) for name in models if done.returncode == 0}
    assert done.returncode == 0, done.stderr
    (folder / "published.json").write_text(json.dumps(found))
    return folder


def said(folder, run, status):
    """What the main process of a run wrote; all processes must have ended with the status."""
    main, other = ((folder / f"{run}{rank}").read_text() for rank in range(2))
    assert main.endswith(f"status {status}\n") and other.endswith(f"status {status}\n"), main + other
    return main


def test_two_machines_without_a_shared_disk(shared_runs, command):
    """A job each; weights bit-equal to one process. Each publishes its own; the first one's summary contains both.

    The machines are processes here, with an output folder each. At the end they are no longer connected: threads of a
    connection can abort the process while Python ends. Only Linux lists the threads' names, so elsewhere this is not
    tested.
    """
    said(shared_runs, "machines", status=0)
    outputs = [shared_runs / f"machine-{rank}" for rank in range(2)]
    folders = [[path.name for path in output.glob("simplenet-*")] for output in outputs]
    assert [len(names) for names in folders] == [1, 1] and folders[0] != folders[1]
    published = json.loads((shared_runs / "published.json").read_text())
    assert all("model.safetensors" in published[name] for (name,) in folders)
    rows = json.loads((outputs[0] / "summary.json").read_text())
    assert [row["category"] for row in rows] == ["plate", "sheet", "mean (2)"]
    assert not (outputs[1] / "summary.json").exists()
    alone = ["--categories", *TWO, "--dataset-name", "disks", "--methods", "simplenet"]
    with threads_of_one_of(2):
        assert train.main([*command, *alone, "--output", str(shared_runs / "alone")]) == 0
    for output, (name,) in zip(outputs, folders, strict=True):
        assert_equal_weights(head(shared_runs / "alone" / name), head(output / name))


def test_one_job_shared_by_two_processes(shared_runs):
    """Data-parallel GLASS: ascent and centre inside DDP; both processes end with one good model."""
    said(shared_runs, "glass", status=0)
    folder = shared_runs / "runs/glass-toy-plate"
    log = [json.loads(line) for line in (folder / "training_log.jsonl").read_text().splitlines()]
    assert len(log) == 3 and all(np.isfinite(record["loss"]) for record in log)
    assert json.loads((folder / "metrics.json").read_text())["settings"]["batch_size"] == 4


def test_each_of_the_processes_makes_some_of_the_hybrids_and_shares_none(shared_runs, command, monkeypatch):
    """A process that repeated the fit of another would wait, or write where the other one cleans up."""
    text = said(shared_runs, "hybrid", status=0)
    assert "hybrid-toy-plate flags" in text and "hybrid-toy-sheet flags" not in text  # the other process has it
    monkeypatch.setattr("training.objectives.hybrid.STEPS", 20)
    arguments = ["--folds", "0", "--methods", "hybrid", "--dataset-name", "toy", "--categories", *TWO]
    alone = shared_runs / "alone"
    with threads_of_one_of(2):
        assert train.main([*command, *arguments, "--output", str(alone)]) == 0
    for name in ("hybrid-toy-plate", "hybrid-toy-sheet"):
        assert_equal_weights(head(alone / name), head(shared_runs / "runs" / name))
    assert not list(shared_runs.rglob("bank.*"))


def test_a_job_that_fails_in_shared_processes_does_not_stop_the_others(shared_runs):
    """One is refused before its training, one fails in the evaluation of the main process, one is good."""
    text = said(shared_runs, "failing", status=1)
    assert "Traceback" not in text
    assert "FAILED simplenet-set-a_refused" in text and "other settings (seed)" in text
    assert "FAILED simplenet-set-b_torn" in text and "square/001.png cannot be read" in text
    assert (shared_runs / "runs/simplenet-set-c_good/metrics.json").is_file()


def test_shared_processes_end_a_diverging_job_together_and_go_on(shared_runs):
    """Noise beyond float32's range: both processes give up the first job in its first epoch, then the second."""
    text = said(shared_runs, "diverging", status=1)
    failed = [line for line in text.splitlines() if line.startswith("FAILED")]
    assert len(failed) == 2 and all("not finite in epoch 1" in line for line in failed)


def test_mixed_precision_is_the_launchers_and_touches_the_backbone_alone(shared_runs):
    """What the launcher's `--mixed_precision bf16` does to what is computed."""
    *_, last = said(shared_runs, "bf16", status=0).splitlines()
    assert last.startswith("torch.bfloat16 ") and last.endswith(" then torch.float32 status 0")
    report = json.loads((shared_runs / "runs/simplenet-half-plate/metrics.json").read_text())
    assert report["settings"]["mixed_precision"] == "bf16"


def test_two_processes_share_the_jobs_of_a_study(shared_runs):
    said(shared_runs, "study", status=0)
    assert len(Results(shared_runs / "results").rows) == 3


def test_processes_that_do_not_see_each_other_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(train, "Accelerator", lambda **_: type("Alone", (), {"num_processes": 1})())
    with pytest.raises(SystemExit, match="ACCELERATE_USE_CPU"):
        train.start(TrainConfig(data_root="x"))


# --------------------------------------------------------------------------------------------------------- settings


def settled(device, **options):
    """The configuration on a machine with that device."""
    return train.fill_defaults(TrainConfig(data_root="x", **options), SimpleNamespace(device=torch.device(device)))


def test_defaults_on_a_gpu_are_the_papers(monkeypatch):
    monkeypatch.setattr(train, "find_weights", lambda name: Path("cached"))
    config = settled("cuda")
    assert (config.methods, config.backbone) == (["simplenet", "glass", "hybrid"], "wide_resnet50_2.tv_in1k")
    assert (config.image_size, config.batch_size) == (288, 8)
    assert (OBJECTIVES["simplenet"].epochs, OBJECTIVES["glass"].epochs) == (160, 640)
    assert (config.epochs_of("simplenet"), config.epochs_of("glass")) == (160, 640)


def test_a_cpu_gets_the_light_choice_without_asking_the_hub(monkeypatch):
    monkeypatch.setattr(train, "find_weights", lambda name: pytest.fail("asked"))
    config = settled("cpu")
    assert (config.methods, config.backbone, config.image_size) == (["hybrid"], "compactnet.distilled_in1k", 256)


def test_a_gpu_without_the_hub_gets_the_bundled_backbone_and_says_so(monkeypatch, caplog):
    def unreachable(name):
        raise BackboneError("could not be downloaded.")

    monkeypatch.setattr(train, "find_weights", unreachable)
    assert settled("cuda").backbone == "compactnet.distilled_in1k"
    assert "could not be downloaded. Until then this run uses compactnet.distilled_in1k" in caplog.text


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_what_is_asked_for_is_taken(device):
    config = settled(device, methods=["glass"], backbone="resnet18.tv_in1k", image_size=96)
    assert (config.methods, config.backbone, config.image_size) == (["glass"], "resnet18.tv_in1k", 96)
    assert settled(device, backbone_weights="w.safetensors").backbone == PAPER_BACKBONE  # they are for the default


@pytest.mark.parametrize(("processes", "threads"), [(1, 6), (4, 1), (9, 1)])
def test_a_launched_process_takes_its_share_of_the_cores(monkeypatch, processes, threads):
    """`accelerate launch` sets OMP_NUM_THREADS=1 on a CPU: own parts took 3:40 instead of 2:23 on two cores."""
    before = torch.get_num_threads()
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")  # the launcher's mark
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    try:
        train.start(TrainConfig(data_root="x"))
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_papers_crop():
    """SimpleNet crops every category, GLASS toothbrush and wood only: 329 -> 288."""
    config = TrainConfig(data_root="x", crop="papers", image_size=288)
    assert config.resize_of("simplenet", "bottle") == 329
    assert (config.resize_of("glass", "bottle"), config.resize_of("glass", "wood")) == (288, 329)


@pytest.mark.parametrize(
    "wrong",
    [
        *(["--epochs", "0"], ["--holdout", "1.5"], ["--noise-std", "-1"], ["--methods", "padim"]),
        *(["--seed", "-1"], ["--stabilise", "none", "average"]),
    ],
)
def test_values_that_cannot_work_end_with_usage(wrong, capsys):
    with pytest.raises(SystemExit) as ended:
        TrainConfig.from_command_line(["--data-root", "x", *wrong])
    assert ended.value.code == 2 and wrong[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--tracker", "abacus"], "unknown tracker 'abacus'"),
        (["--methods", "glass", "--textures", "nowhere"], "texture folder nowhere"),
        (["--data-root", "nowhere"], "nowhere is not a folder"),
        (["--hub-columns", "picture=x"], "roles image, label"),
    ],
)
def test_a_slip_in_the_command_ends_with_its_message_and_no_feature(wrong, message, arguments, monkeypatch, capsys):
    monkeypatch.setattr(train, "build_cache", lambda *_: pytest.fail("features computed"))
    assert train.main([*arguments, *wrong]) == 1
    said = capsys.readouterr().err
    assert message in said and "Traceback" not in said


def test_without_the_templates_of_the_cards_no_time_is_spent(arguments, monkeypatch, capsys, tmp_path):
    """They are in a clone, not in the installed library."""
    monkeypatch.setattr("training.publishing.card.TEMPLATES", tmp_path / "model_cards")
    assert train.main(arguments) == 1
    assert "training and publishing need a whole clone" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_precision_that_only_the_launcher_knows_is_refused(arguments, monkeypatch, capsys):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp8")
    assert train.main(arguments) == 1
    assert "choose no, fp16, bf16" in capsys.readouterr().err


def test_noise_is_the_papers_on_the_papers_backbone_and_relative_elsewhere():
    """Features 3, 4, 0, 0 have the RMS 2.5."""
    cache = FeatureCache(torch.zeros(1, 3, 8, 8), [torch.tensor([3.0, 4.0, 0.0, 0.0]).view(1, 1, 2, 2)], True)

    def noise_on(backbone, **options):
        job = SimpleNamespace(config=TrainConfig(data_root="x", backbone=backbone, **options))
        return decide_noise(job, cache)["noise_std"]

    assert noise_on(PAPER_BACKBONE) == 0.015
    assert noise_on("resnet18.tv_in1k") == pytest.approx(0.35 * 2.5)
    assert noise_on("resnet18.tv_in1k", noise_std=0.3) == 0.3


def test_any_accelerate_tracker_logs_each_epoch(arguments, monkeypatch):
    """A tracker gets a run per job, named after it."""
    logged = []

    class Recorder:
        requires_logging_directory = False

        def __init__(self, run_name):
            self.run_name = run_name

        def start(self):
            logged.append(self.run_name)

        def log(self, values, step):
            logged.append((step, set(values)))

        def finish(self):
            logged.append("finished")

    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "recorder", Recorder)
    assert train.main([*arguments, "--methods", "simplenet", "--tracker", "recorder"]) == 0
    parts = {"loss", "normal_loss", "noisy_loss", "learning_rate_factor", "seconds"}
    assert logged[0].startswith("simplenet-") and logged[1:] == [(1, parts), (2, parts), (3, parts), "finished"]


def test_a_full_disk_says_what_to_do_and_keeps_the_saved_state(tmp_path):
    """A real write error: the process may write no file beyond 1 kB."""
    head, path = torch.nn.Linear(4, 4), tmp_path / "state.safetensors"
    TrainingState(head, [], None, {}).save(path)
    before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, limits[1]))
    try:
        with pytest.raises(OSError, match="free some disk space"):
            TrainingState(torch.nn.Linear(400, 400), [], None, {}).save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before


def test_the_summary_shows_only_what_was_measured(tmp_path):
    report = {"method": "simplenet", "dataset": "own", "category": "lid", "protocol": "last", "seed": 0}
    config = SimpleNamespace(output=str(tmp_path))
    train.write_summary([report | {"metrics": {}}], {}, config)
    assert not list(tmp_path.iterdir())
    train.write_summary([report | {"metrics": {}}, report | {"metrics": {"image_auroc": 0.9}}], {}, config)
    assert "| 90.0 |" in (tmp_path / "summary.md").read_text()
