"""Training with a region: only what is inside is learned, synthesised, calibrated and measured."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from hubmodels import load
from training import train
from training.batches import FeatureCache, TrainingItems
from training.foreground import within

SIZE, INSIDE = 64, (slice(0, 64), slice(0, 32))


@pytest.fixture
def arguments(backbone_weights, tmp_path):
    """Plates whose right half shows another random date code in each picture, and a region without it."""
    rng = np.random.default_rng(0)
    plain = rng.integers(90, 110, (SIZE, SIZE, 3), dtype=np.uint8)
    for i in range(14):
        pixels = plain.copy()
        pixels[:, 32:] = rng.integers(0, 256, (SIZE, 32, 3), dtype=np.uint8)
        kind = "train/good" if i < 8 else "test/good" if i < 11 else "test/hole"
        if kind == "test/hole":
            pixels[20:44, 4:28] = 255
        place = tmp_path / "toy/plate" / kind / f"{i}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place)
        if kind == "test/hole":
            mask = np.zeros((SIZE, SIZE), np.uint8)
            mask[20:44, 4:28], mask[20:44, 40:52] = 255, 255
            truth = tmp_path / "toy/plate/ground_truth/hole" / f"{i}_mask.png"
            truth.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(truth)
    region = np.zeros((SIZE, SIZE), np.uint8)
    region[INSIDE] = 255
    Image.fromarray(region).resize((128, 128)).save(tmp_path / "region.png")
    backbone = [
        "--backbone",
        "resnet18.tv_in1k",
        "--backbone-weights",
        str(backbone_weights),
        "--image-size",
        str(SIZE),
    ]
    places = ["--data-root", str(tmp_path / "toy"), "--output", str(tmp_path / "runs")]
    return [*places, *backbone, "--region", str(tmp_path / "region.png")]


@pytest.mark.parametrize("method", ["glass", "hybrid", "patchcore"])
def test_each_method_learns_what_is_inside(arguments, tmp_path, method, monkeypatch):
    monkeypatch.setattr("training.objectives.hybrid.STEPS", 30)
    epochs = ["--epochs", "2"] if method == "glass" else []
    assert train.main([*arguments, "--methods", method, *epochs]) == 0
    folder = tmp_path / f"runs/{method}-toy-plate"
    detector, report = load(folder), json.loads((folder / "metrics.json").read_text())
    assert detector.front_end.region.share == report["training"]["region"] == 0.5
    good = np.asarray(Image.open(tmp_path / "toy/plate/test/good/8.png")).copy()
    before = detector.predict(good).image_score
    good[:, 32:] = 255 - good[:, 32:]
    assert detector.predict(good).image_score == before
    assert report["metrics"]["cropped_defect_pixels"] == pytest.approx(12 / (12 + 24))
    assert "50.0 % of the picture count" in (folder / "README.md").read_text()
    if method != "glass":
        assert report["metrics"]["image_auroc"] == 1.0


def test_a_bank_contains_nothing_from_outside(arguments, tmp_path):
    assert train.main([*arguments, "--methods", "patchcore", "--coreset", "1", "--folds", "0"]) == 0
    bank = load(tmp_path / "runs/patchcore-toy-plate").head.bank
    assert len(bank) == 7 * 32  # half of the 8 x 8 patches of seven pictures


def test_another_region_is_another_training(arguments, tmp_path, capsys):
    assert train.main([*arguments, "--methods", "mahalanobis"]) == 0
    Image.new("L", (64, 64), 255).save(tmp_path / "region.png")
    assert train.main([*arguments, "--methods", "mahalanobis"]) == 1
    assert "region" in capsys.readouterr().err


def test_the_log_says_how_far_patches_see_across_the_border(arguments, capsys):
    """ResNet-18 sees further than the picture is wide."""
    assert train.main([*arguments, "--methods", "mahalanobis"]) == 0
    log = capsys.readouterr().err
    assert "the region is 50 % of the picture; patches see grey across its border, up to " in log
    assert "(stride 8) and " in log and " of your pictures\n" in log


@pytest.mark.parametrize(
    ("picture", "message"),
    [(Image.new("L", (64, 64), 0), "the region leaves no patch"), (None, "region.png")],
)
def test_a_region_that_cannot_be_is_refused_before_anything_runs(arguments, tmp_path, capsys, picture, message):
    (tmp_path / "region.png").unlink()
    if picture is not None:
        picture.save(tmp_path / "region.png")
    assert train.main([*arguments, "--methods", "mahalanobis"]) == 1
    assert message in capsys.readouterr().err and not (tmp_path / "runs").exists()


def test_features_are_those_of_the_patches_that_count():
    layers = [torch.arange(2 * 3 * 16.0).view(2, 3, 4, 4), torch.zeros(2, 3, 2, 2)]
    images = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    cache = FeatureCache(images, layers, True, counting=torch.tensor([1, 6]))
    features = cache.features(torch.tensor([1]), torch.device("cpu"))
    assert cache.patches == 2 and features.shape == (1, 6, 2, 1)
    assert features[0, 0, :, 0].tolist() == [49.0, 54.0]
    assert len(cache.sample(100)) == 4


def test_a_step_takes_patches_that_count(monkeypatch):
    items = TrainingItems(None, torch.tensor([3, 5, 9]), seed=0)
    assert items[0, 0]["places"].tolist() == [3, 5, 9]
    monkeypatch.setattr("training.batches.STEP_PATCHES", 2)
    chosen = [
        tuple(TrainingItems(None, torch.tensor([3, 5, 9]), seed=0)[epoch, 0]["places"].tolist()) for epoch in range(9)
    ]
    assert len(set(chosen)) > 1 and set(sum(chosen, ())) == {3, 5, 9}


def test_defects_are_drawn_on_the_part_and_inside_the_region(make_detector):
    from hubmodels import SimpleNet

    region = make_detector(SimpleNet, calibrated=False, region=True).front_end.region
    region.set(torch.arange(64).expand(64, 64) < 32)
    part, elsewhere = np.zeros((64, 64), bool), np.zeros((64, 64), bool)
    part[:, 16:48], elsewhere[:, 40:] = True, True
    first, second = within(region, [part, elsewhere], 2)
    assert first[:, 16:32].all() and first.sum() == 64 * 16
    assert (second == region.mask.numpy()).all()  # nothing is left of it
    assert within(None, [part], 1) == [part] and within(region, None, 3)[2].sum() == 64 * 32
