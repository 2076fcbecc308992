"""Training with a least size: specks raise no alarm, large defects do. Report, card and config name it."""

import json

import numpy as np
import pytest
from PIL import Image

from hubmodels import load
from hubmodels.compactnet import COMPACT_BACKBONE
from training import train
from training.config import TrainConfig
from training.input_shape import too_small

SIZE, GOOD = 128, 12


def plate(seed, defect=0):
    """A grey plate with fine noise, and a bright square of so many pixels."""
    pixels = np.random.default_rng(seed).integers(100, 120, (SIZE, SIZE, 3), dtype=np.uint8)
    pixels[40 : 40 + defect, 50 : 50 + defect] = 255
    return pixels


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plates")
    for i in range(GOOD + 4):
        kind = "train/good" if i < GOOD else "test/good" if i < GOOD + 2 else "test/hole"
        place = folder / "toy/plate" / kind / f"{i}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(plate(i, 0 if i < GOOD + 2 else 40)).save(place)
    options = ["--backbone", COMPACT_BACKBONE, "--image-size", str(SIZE), "--methods", "patchcore", "--folds", "3"]
    return ["--data-root", str(folder / "toy"), *options]


@pytest.fixture(scope="module")
def trained(arguments, tmp_path_factory):
    """Model folders without and with a least size."""
    runs, folders = tmp_path_factory.mktemp("runs"), {}
    for name, given in {"every": (), "least": ("--least-size", "400")}.items():
        assert train.main([*arguments, "--output", str(runs / name), *given]) == 0
        folders[name] = runs / name / "patchcore-toy-plate"
    return folders


def test_a_speck_raises_no_alarm_and_a_large_defect_does(trained):
    every, least = load(trained["every"]), load(trained["least"])
    for seed in range(60, 64):
        for side, counts in ((4, False), (16, False), (24, True), (40, True)):  # 400 pixels are 20 x 20
            picture = plate(seed, side)
            found = least.predict(picture)
            assert every.predict(picture).is_anomalous and found.is_anomalous == found.mask.any() == counts


def test_the_calibration_is_its_own(trained):
    every, least = (load(folder).calibration for folder in trained.values())
    assert every.size == least.size == GOOD
    assert not np.isclose(every.image_scores.numpy(), least.image_scores.numpy()).any()


def test_report_and_card_name_it(trained):
    report = json.loads((trained["least"] / "metrics.json").read_text())
    words = "regions of fewer than 400 pixels do not count, in pictures of 128 x 128 pixels"
    assert report["calibration"]["least_size"] == words and report["settings"]["least_size"] == "400"
    assert f"For the verdict, {words}.\nThe heat map still shows them." in (trained["least"] / "README.md").read_text()
    assert "do not count" not in (trained["every"] / "README.md").read_text()
    assert "least_size" not in json.loads((trained["every"] / "config.json").read_text())


def test_square_millimetres_need_the_size_of_a_pixel(arguments, tmp_path):
    given = ["--least-size", "4mm2", "--pixel-size", "0.1", "--output", str(tmp_path), "--folds", "0"]
    assert train.main([*arguments, *given]) == 0
    folder = tmp_path / "patchcore-toy-plate"
    assert load(folder).least_size.pixels == pytest.approx(400)
    assert "(4mm2 at 0.1 mm for a pixel).\nThe heat map" in (folder / "README.md").read_text()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--least-size", "0"], "'0' is neither a number of pixels (40) nor an area (2mm2)"),
        (["--least-size", "nan"], "'nan' is neither"),
        (["--least-size", "2cm2"], "'2cm2' is neither"),
        (["--least-size", "2mm2"], "need each other"),
        (["--least-size", "2", "--pixel-size", "0.1"], "need each other"),
        (["--least-size", "2mm2", "--pixel-size", "-1"], "--pixel-size must be positive"),
    ],
)
def test_what_cannot_be_is_refused_at_once(capsys, given, message):
    with pytest.raises(SystemExit):
        TrainConfig.from_command_line(["--data-root", "x", *given])
    assert message in capsys.readouterr().err


def test_more_than_a_tenth_of_a_picture_is_refused_before_training(arguments, tmp_path, capsys):
    assert train.main([*arguments, "--output", str(tmp_path), "--least-size", "2000"]) == 1
    assert "at most 10 % of a picture of 128 x 128 pixels" in capsys.readouterr().err


@pytest.mark.parametrize(("pixels", "says"), [(255, True), (256, False)])  # a patch has 8 x 8
def test_a_size_below_four_patches_is_named(pixels, says):
    assert ("changes little below 256" in too_small(pixels, 8)) == says


def test_another_least_size_is_another_training(arguments, trained, capsys):
    places = ["--output", str(trained["least"].parent)]
    assert train.main([*arguments, *places, "--least-size", "300"]) == 1
    assert "least_size" in capsys.readouterr().err
