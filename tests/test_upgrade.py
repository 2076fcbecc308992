"""Older models learn their category's look from the pictures that were held out when they were trained."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from small_report import REPORT, describe

from hubmodels import GLASS, AnomalyDetector
from training.data import hold_out, open_categories
from training.sanity import inspect_category
from training.upgrade import main

SETTINGS = {"holdout": 0.5, "seed": 7, "false_alarm_rate": 0.2, "dataset_name": "toy", "hub_columns": None}


@pytest.fixture
def data(tmp_path):
    """A folder of ten good pictures."""
    folder, rng = tmp_path / "widget", np.random.default_rng(0)
    folder.mkdir()
    for i in range(10):
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return folder


@pytest.fixture
def trained(make_detector, data):
    """The detector as training leaves it."""
    (category,) = open_categories(data, dataset_name="toy")
    _, held_out = hold_out(category.train, SETTINGS["holdout"], SETTINGS["seed"])
    detector = make_detector(GLASS, calibrated=False)
    detector.calibrate([sample.read() for sample in held_out], SETTINGS["false_alarm_rate"])
    return detector


@pytest.fixture
def old(trained, data, tmp_path):
    """Its model folder, as the first format had it."""
    folder = tmp_path / "glass-toy-widget"
    trained.save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    save_file({k: v for k, v in tensors.items() if not k.startswith("appearance.")}, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text()) | {"format_version": 1, "weights_sha256": None}
    (folder / "config.json").write_text(json.dumps(config))
    _, sanity = inspect_category(open_categories(data, dataset_name="toy")[0])
    settings = REPORT["settings"] | SETTINGS | {"train_sha256": sanity.train_sha256}
    return describe(folder, method="glass", settings=settings)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_it_equals_a_model_that_is_trained_now(trained, old, data):
    assert not AnomalyDetector.from_pretrained(old).appearance.is_fitted
    report = (old / "metrics.json").read_bytes()
    assert main([str(old), "--data-root", str(data)]) == 0
    upgraded, config = AnomalyDetector.from_pretrained(old).state_dict(), json.loads((old / "config.json").read_text())
    for name, tensor in trained.state_dict().items():
        assert torch.equal(tensor, upgraded[name]), name
    assert config["format_version"] == 2
    assert config["weights_sha256"] in (old / "README.md").read_text()
    assert (old / "metrics.json").read_bytes() == report


def test_other_pictures_teach_nothing(old, data, capsys):
    before = contents(old)
    Image.new("RGB", (64, 64)).save(data / "3.png")
    assert main([str(old), "--data-root", str(data)]) == 1
    assert "does not hold the good pictures that glass-toy-widget was trained on" in capsys.readouterr().out
    assert contents(old) == before


def test_a_head_that_scores_otherwise_is_left_alone(old, data, capsys):
    tensors = load_file(old / "model.safetensors")
    tensors["calibration.image_scores"] += 0.01
    save_file(tensors, old / "model.safetensors")
    before = contents(old)
    assert main([str(old), "--data-root", str(data)]) == 1
    assert "scores its held-out pictures differently" in capsys.readouterr().out
    assert contents(old) == before


def test_one_that_fails_does_not_stop_the_others(old, data, tmp_path, capsys):
    assert main([str(tmp_path / "gone"), str(old), "--data-root", str(data)]) == 1
    assert AnomalyDetector.from_pretrained(old).appearance.is_fitted
    assert "gone failed: " in capsys.readouterr().out
