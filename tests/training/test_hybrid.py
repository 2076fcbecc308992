"""The hybrid's head and its fit: what the adaptor does, what is learned, and that a fit can be repeated."""

import pytest
import torch

from hubmodels.hybrid import Hybrid, HybridHead
from training.objectives import hybrid
from training.objectives.hybrid import HybridObjective, standardise


@pytest.fixture
def objective(make_detector):
    torch.manual_seed(0)
    return HybridObjective(make_detector(Hybrid), pictures=None)


def rows(objective, *places):
    """200 patch features around each of some places."""
    width = objective.detector.front_end.embed_dim
    return [place + torch.randn(200, width) for place in places]


@pytest.mark.parametrize(("share", "expected"), [(0.01, 9.0), (0.25, 8.5), (1.0, 5.5)])
def test_the_image_score_is_the_mean_of_the_highest_patches(share, expected):
    patches = torch.tensor([[2.0, 3.0, 4.0], [5.0, 6.0, 7.0], [8.0, 9.0, 5.5]])[None]
    head = HybridHead(8, 2, top_share=share)
    assert head.image_scores(patches).item() == pytest.approx(expected, abs=0.01)
    assert head.settings() == {"hidden_dim": 5, "memory_dim": 8, "top_share": share}


@pytest.mark.parametrize("share", [0.0, -1.0, 1.5])
def test_an_impossible_share_is_refused(share):
    with pytest.raises(ValueError, match="top_share"):
        HybridHead(8, 2, top_share=share)


def test_the_adaptor_standardises_good_features():
    normal = torch.randn(500, 6) * torch.tensor([1.0, 2, 3, 4, 5, 6]) + 7
    adaptor = torch.nn.Linear(6, 6)
    standardise(adaptor, normal)
    adapted = adaptor(normal)
    assert adapted.mean(0).abs().max() < 1e-4
    assert adapted.var(0).mean().item() == pytest.approx(1, rel=1e-4)
    assert torch.allclose(adapted.var(0) / normal.var(0), adapted.var(0)[0] / normal.var(0)[0])  # one scale for all


def test_the_losses_are_the_cross_entropies_of_one_batch(objective, monkeypatch):
    normal, damaged = rows(objective, 0.0, 2.0)
    monkeypatch.setattr(hybrid, "add_noise", lambda features, std: features + std)
    objective.train()
    losses = objective.losses(normal, damaged)
    logits = objective.head.discriminate(torch.cat([normal, normal + hybrid.NOISE, damaged])).split(200)
    named = zip(("normal_loss", "noisy_loss", "damaged_loss"), logits, (0.0, 1.0, 1.0), strict=True)
    for name, values, label in named:
        wanted = torch.nn.functional.binary_cross_entropy_with_logits(values, torch.full((200,), label))
        assert losses[name].item() == pytest.approx(wanted.item(), rel=1e-5)
    assert losses["loss"].item() == pytest.approx(sum(v.item() for k, v in losses.items() if k != "loss"), rel=1e-5)


def test_the_statistics_are_those_of_the_mixture(objective, monkeypatch):
    normal, damaged = rows(objective, 0.0, 3.0)
    monkeypatch.setattr(hybrid, "add_noise", lambda features, std: features + std)
    objective.set_statistics(normal, damaged)
    linear, norm = objective.head.discriminator[:2]
    parts = [normal.repeat(512, 1), (normal + hybrid.NOISE).repeat(512, 1), damaged.repeat(255, 1)]
    hidden = linear(torch.cat(parts)).double()
    assert torch.allclose(norm.running_mean.double(), hidden.mean(0), atol=1e-4)
    assert torch.allclose(norm.running_var.double(), hidden.var(0, correction=0), rtol=1e-4)


def test_damage_scores_higher_than_good_features(objective):
    normal, damaged, unseen = rows(objective, 0.0, 1.0, 0.0)
    objective.train()
    torch.manual_seed(1)
    losses = objective.train_discriminator(normal, damaged)
    objective.set_statistics(normal, damaged)
    objective.eval()
    good, bad = (objective.head.discriminate(part).median().item() for part in (unseen, damaged))
    assert bad > good + 2 and losses["damaged_loss"] < 0.3


def test_a_fit_does_not_touch_the_adaptor(objective):
    before = objective.head.adaptor.weight.clone()
    objective.train_discriminator(*rows(objective, 0.0, 1.0))
    assert torch.equal(objective.head.adaptor.weight, before)
