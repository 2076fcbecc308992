"""The baselines PatchCore and Mahalanobis: their scores and fits, compared with explicit forms."""

import json

import pytest
import torch
from scipy.spatial.distance import mahalanobis
from small_pictures import add_plates

import training.train as train
from hubmodels import Mahalanobis, PatchCore, load
from hubmodels.front_end import align, flatten
from hubmodels.mahalanobis import MahalanobisHead
from hubmodels.methods import METHODS
from hubmodels.patchcore import PatchCoreHead
from training import coreset
from training.batches import FeatureCache
from training.coreset import greedy_coreset
from training.objectives import MahalanobisObjective, PatchCoreObjective
from training.objectives.mahalanobis import SHRINK

DIM = 12


def cache_of(seed, pictures=4, spread=None):
    """Correlated feature maps of two layers."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(DIM // 2, DIM // 2, generator=generator)
    layers = [torch.randn(pictures, DIM // 2, side, side, generator=generator) for side in (8, 4)]
    layers = [torch.einsum("bchw,cd->bdhw", layer, mixing) + 3 for layer in layers]
    return FeatureCache(torch.zeros(pictures, 3, 64, 64, dtype=torch.uint8), layers, True)


def rows_of(cache):
    return flatten(align(cache.layers))


# --- coreset ---


@pytest.mark.parametrize("candidates", [1, 7, 64, 5000])
def test_each_row_is_the_farthest_from_those_before_it(monkeypatch, candidates):
    monkeypatch.setattr(coreset, "CANDIDATES", candidates)
    rows = torch.randn(800, 5)
    distances = torch.cdist(rows.double(), rows.double())
    expected = [0]
    while len(expected) < 120:
        expected.append(int(distances[:, expected].amin(1).argmax()))
    assert greedy_coreset(rows, 120).tolist() == expected


@pytest.mark.parametrize("count", [1, 5, 40])
def test_equal_rows_are_chosen_once_before_any_repeats(count):
    rows = torch.randn(10, 5).repeat(3, 1)
    chosen = rows[greedy_coreset(rows, count)]
    assert len(chosen) == min(count, 30)
    assert len(chosen[:10].unique(dim=0)) == min(count, 10)


# --- PatchCore ---


def test_patch_scores_are_distances_to_the_nearest_vector():
    head, cache = PatchCoreHead(DIM, 2), cache_of(0)
    head.bank = torch.randn(50, DIM)
    expected = torch.cdist(rows_of(cache).double(), head.bank.double()).amin(1).view(4, 8, 8)
    assert torch.allclose(head.scores(cache.layers).double(), expected, atol=1e-4)


@pytest.mark.parametrize("share", [1.0, 0.25])
def test_the_bank_contains_a_share_of_the_good_patches(make_detector, share):
    torch.manual_seed(0)
    cache = cache_of(1)
    objective = PatchCoreObjective(make_detector(PatchCore, False, embed_dim=DIM), share)
    objective.fit(cache)
    rows, bank = rows_of(cache).double(), objective.head.bank.double()
    assert bank.shape == (round(share * len(rows)), DIM)
    assert torch.cdist(bank, rows).amin(1).max() < 1e-3  # they are good patches
    covered = torch.cdist(rows, bank).amin(1).max()
    at_random = torch.cdist(rows, rows[torch.randperm(len(rows))[: len(bank)]]).amin(1).max()
    assert covered < 1e-3 if share == 1 else covered < at_random


def test_wide_features_are_compared_in_fewer_dimensions(make_detector):
    objective = PatchCoreObjective(make_detector(PatchCore, False, embed_dim=300), 0.1)
    torch.manual_seed(0)
    rows = torch.randn(400, 300)
    projected = objective.projected(rows)
    ratio = torch.cdist(projected, projected)[0, 1:] / torch.cdist(rows, rows)[0, 1:]
    assert projected.shape == (400, 128) and 0.7 < ratio.min() and ratio.max() < 1.3
    assert torch.equal(objective.projected(rows[:, :100]), rows[:, :100])


# --- Mahalanobis ---


def test_patch_scores_are_mahalanobis_distances(make_detector):
    cache = cache_of(2)
    objective = MahalanobisObjective(make_detector(Mahalanobis, False, embed_dim=DIM))
    objective.fit(cache)
    rows = rows_of(cache).double()
    covariance = torch.cov(rows.T, correction=0)
    shrunk = (1 - SHRINK) * covariance + SHRINK * covariance.diagonal().mean() * torch.eye(DIM)
    mean, inverse = rows.mean(0).numpy(), torch.linalg.inv(shrunk).numpy()
    other = cache_of(3)
    scores = objective.head.scores(other.layers).flatten()
    for i in (0, 7, 100, 255):
        assert scores[i].item() == pytest.approx(mahalanobis(rows_of(other)[i].numpy(), mean, inverse), rel=1e-3)


def test_a_direction_without_variance_gives_finite_scores(make_detector):
    cache = cache_of(4)
    cache.layers[0][:, 0] = 1.0
    objective = MahalanobisObjective(make_detector(Mahalanobis, False, embed_dim=DIM))
    objective.fit(cache)
    assert objective.head.scores(cache.layers).isfinite().all()


def test_an_untrained_head_measures_the_length():
    head, cache = MahalanobisHead(DIM, 2), cache_of(5)
    assert torch.allclose(head.scores(cache.layers).flatten(), rows_of(cache).norm(dim=1), atol=1e-4)


# --- both ---


def test_baselines_are_trained_only_if_they_are_asked_for():
    baselines = {name for name, method in METHODS.items() if method.baseline}
    assert baselines == {"patchcore", "mahalanobis"}
    assert not baselines & {*train.default_methods(True), *train.default_methods(False)}


def test_baselines_train_on_pictures_and_say_what_they_do_not_use(backbone_weights, tmp_path, capsys):
    add_plates(tmp_path, ["test/good/0", "test/square/0", "test/square/1"])
    arguments = ["--data-root", str(tmp_path / "toy"), "--backbone", "resnet18.tv_in1k", "--image-size", "64"]
    arguments += ["--backbone-weights", str(backbone_weights), "--output", str(tmp_path / "runs")]
    arguments += ["--methods", "patchcore", "mahalanobis", "--coreset", "0.5", "--hidden-dim", "7"]
    assert train.main(arguments) == 0
    assert "PatchCore does not use --hidden-dim" in capsys.readouterr().err
    for method in ("patchcore", "mahalanobis"):
        report = json.loads((tmp_path / f"runs/{method}-toy-plate/metrics.json").read_text())
        assert report["metrics"]["image_auroc"] == 1.0 and report["training"]["evaluation_seconds"] > 0
    bank = load(tmp_path / "runs/patchcore-toy-plate").head.bank
    assert bank.shape == (6 * 64 // 2, 384)
    assert train.main([*arguments, "--coreset", "1.5"]) == 1
    assert "--coreset must be above 0 and at most 1" in capsys.readouterr().err
