"""Cross-fitting: each good picture is scored by a head that never saw it, and the promise is that of all pictures."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hubmodels import load
from training import train
from training.calibration import split_pictures
from training.config import TrainConfig
from training.data import open_categories
from training.fitting import DirectFitting
from training.jobs import Job
from training.sanity import inspect_category

PICTURES = 12


@pytest.fixture
def pictures(tmp_path):
    """Good pictures with a few grey levels, the last one a copy of the first."""
    folder = tmp_path / "good"
    folder.mkdir()
    rng = np.random.default_rng(0)
    made = [rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(PICTURES - 1)]
    for i, pixels in enumerate([*made, made[0]]):
        Image.fromarray(pixels).save(folder / f"{i:02}.png")
    return folder


@pytest.fixture
def arguments(pictures, backbone_weights, tmp_path):
    backbone = ["--backbone", "resnet18.tv_in1k", "--backbone-weights", str(backbone_weights), "--image-size", "64"]
    return ["--data-root", str(pictures), *backbone, "--output", str(tmp_path / "runs")]


def job_of(arguments, method="mahalanobis", *more):
    config = TrainConfig.from_command_line([*arguments, "--methods", method, *more])
    category, sanity = inspect_category(open_categories(config.data_root)[0])
    return Job(category, method, config, sanity)


def test_all_pictures_are_fitted_and_all_but_copies_calibrate(arguments):
    split = split_pictures(job_of(arguments))
    assert (split.pictures, split.folds, split.held_out, len(split.fit)) == (PICTURES, 5, 0, PICTURES)
    assert len(split.calibrating) == PICTURES - 1
    fold_of = {sample.name: fold for sample, fold in zip(split.fit, split.fit_folds, strict=True)}
    assert fold_of[split.fit[0].name] == fold_of[split.fit[-1].name]  # copies
    assert [fold_of[s.name] for s in split.calibrating] == list(split.calibrating_folds)


def test_moved_copies_are_in_the_fold_of_their_picture(arguments):
    split = split_pictures(job_of(arguments, "mahalanobis", "--position-tolerance", "4", "4"))
    assert (split.pictures, len(split.fit), len(split.fit_folds)) == (PICTURES, 4 * PICTURES, 4 * PICTURES)
    for start in range(0, len(split.fit), 4):
        assert len(set(split.fit_folds[start : start + 4])) == 1
        assert all(s.name.startswith(split.fit[start].name) for s in split.fit[start : start + 4])


def test_methods_with_epochs_hold_pictures_out(arguments):
    split = split_pictures(job_of(arguments, "simplenet", "--folds", "5"))
    assert (split.folds, split.held_out, split.pictures) == (0, 1, PICTURES - 2 + 1)
    assert split_pictures(job_of(arguments, "mahalanobis", "--folds", "0")).held_out == 1


@pytest.mark.parametrize("folds", [5, 0])
def test_what_was_called_defective_is_fitted_and_promises_nothing(arguments, pictures, folds, tmp_path):
    """A picture that was chosen because of its score is no independent draw."""
    good = tmp_path / "parts/lid/train/good"
    good.parent.mkdir(parents=True)
    pictures.rename(good)
    (good / "corrected").mkdir()
    for i in range(3):
        ramp = Image.linear_gradient("L").resize((64, 64)).rotate(90 * i)  # unlike all others
        ramp.convert("RGB").save(good / "corrected" / f"{i}.png")
    arguments = [*arguments, "--data-root", str(tmp_path / "parts"), "--folds", str(folds)]
    split = split_pictures(job_of(arguments))
    names = [sample.name for sample in split.corrected]
    assert len(names) == 3 == len({s.name for s in split.fit} & set(names))
    assert not {s.name for s in split.calibrating} & set(names) and len(split.corrected_folds) == (3 if folds else 0)
    train.main([*arguments, "--methods", "mahalanobis"])
    (folder,) = (path.parent for path in tmp_path.glob("runs/*/config.json"))
    calibration = load(folder).calibration
    assert calibration.size == len(split.calibrating) and (0 < int(calibration.corrections) <= 3) == bool(folds)


@pytest.mark.parametrize("folds", ["5", "0"])
def test_pictures_that_were_all_called_defective_set_no_threshold(arguments, pictures, tmp_path, folds):
    place = tmp_path / "parts/lid/train/good/corrected"
    place.parent.mkdir(parents=True)
    pictures.rename(place)
    with pytest.raises(ValueError, match="none is left that may set the threshold: put pictures"):
        split_pictures(job_of([*arguments, "--data-root", str(tmp_path / "parts"), "--folds", folds]))


def test_a_corrected_copy_of_a_held_out_picture_is_not_fitted(arguments, pictures, tmp_path):
    """The head must not see a held-out picture, and a copy shows the same part."""
    good = tmp_path / "parts/lid/train/good"
    good.parent.mkdir(parents=True)
    pictures.rename(good)
    arguments = [*arguments, "--data-root", str(tmp_path / "parts"), "--folds", "0"]
    [held_out] = split_pictures(job_of(arguments)).calibrating
    (good / "corrected").mkdir()
    other = next(path for path in sorted(good.glob("*.png")) if not held_out.name.endswith(path.name))
    for path, name in ((good / Path(held_out.name).name, "copy.png"), (other, "fitted.png")):
        pixels = np.asarray(Image.open(path)).astype(int)
        Image.fromarray((pixels + 1).clip(0, 255).astype(np.uint8)).save(good / "corrected" / name)  # nearly equal
    split = split_pictures(job_of(arguments))
    assert [sample.name for sample in split.calibrating] == [held_out.name] and len(split.corrected) == 2
    fitted = {Path(sample.name).name for sample in split.fit}
    assert "copy.png" not in fitted and "fitted.png" in fitted and split.pictures == len(split.fit)
    folds = split_pictures(job_of([*arguments[:-1], "5"]))
    number = {Path(s.name).name: fold for s, fold in zip(folds.fit, folds.fit_folds, strict=True)}
    assert number["copy.png"] == number[Path(held_out.name).name]


@pytest.mark.parametrize("method", ["mahalanobis", "hybrid"])
def test_the_scores_are_those_of_heads_that_did_not_see_the_picture(arguments, tmp_path, method, monkeypatch):
    """Each head is fitted again, by hand, without the fold's pictures."""
    monkeypatch.setattr("training.objectives.hybrid.STEPS", 5)
    seen = []
    fit = DirectFitting.fit

    def watched(self, cache, number):
        seen.append((number, cache.numbers.tolist()))
        return fit(self, cache, number)

    monkeypatch.setattr(DirectFitting, "fit", watched)
    assert train.main([*arguments, "--methods", method]) == 0
    split = split_pictures(job_of(arguments, method))
    without = [[i for i, fold in enumerate(split.fit_folds) if fold != each] for each in range(5)]
    assert seen == [*((k + 1, members) for k, members in enumerate(without)), (0, list(range(PICTURES)))]
    [folder] = (tmp_path / "runs").glob(f"{method}-*")
    report = json.loads((folder / "metrics.json").read_text())
    assert report["calibration"]["pictures"] == PICTURES - 1 == load(folder).calibration.size
    assert report["calibration"]["folds"] == report["training"]["folds"] == 5 and report["training"]["held_out"] == 0
    assert report["training"]["fold_seconds"] < report["training"]["train_seconds"]
    card = (folder / "README.md").read_text()
    assert "cross-fitting" in card and "the same for calibration" in card and "any distribution" not in card


def test_a_picture_that_differs_is_unusual_only_where_it_was_not_seen(arguments, pictures, tmp_path):
    """One good picture is unlike all others. The head that saw it finds it usual, the head of its fold does not."""
    y = np.arange(64)[:, None, None]
    odd = np.broadcast_to(127 + 120 * np.sin(y / 2), (64, 64, 3)).astype(np.uint8)
    Image.fromarray(odd).save(pictures / "05.png")
    assert train.main([*arguments, "--methods", "patchcore", "--coreset", "1"]) == 0
    [folder] = (tmp_path / "runs").glob("patchcore-*")
    detector = load(folder)
    assert detector.predict(pictures / "05.png").image_score < 1e-2  # each of its patches is in the bank
    scores = detector.calibration.image_scores
    assert (scores > 0.1).all() and torch.isfinite(scores).all()


def test_folds_that_cannot_be_are_refused(arguments, capsys):
    with pytest.raises(SystemExit):
        train.main([*arguments, "--folds", "1"])
    assert "--folds must be 0, or at least 2, not 1" in capsys.readouterr().err
