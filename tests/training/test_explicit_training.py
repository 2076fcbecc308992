"""Our objectives and masks against the official codes' steps, written out in `tests/reference/explicit_training.py`.

Sizes are tiny and the precision is double, so that the equality is one of algebra. Where objectives.py deviates on
purpose (BatchNorm's running statistics), the deviation itself is checked.
"""

import math

import numpy as np
import pytest
import torch
from reference import explicit_training
from reference.explicit_training import three_branches, truncated_l1

from hubmodels import GLASS, SimpleNet
from hubmodels.front_end import flatten
from training import synthesis
from training.objectives import GLASSObjective, SimpleNetObjective

PICTURES, DIM, GRID = 3, 12, (5, 5)
NOISE_STD = 0.015 * math.sqrt(1536 / DIM)  # the papers' noise length: radii and ascent step are then theirs too


def head(method):
    """A detector in training mode whose BatchNorm is not at its initial values."""
    torch.manual_seed(0)
    detector = method(backbone="resnet18.tv_in1k", embed_dim=DIM, hidden_dim=9).double().train()
    detector.head.discriminator[1].weight.data.uniform_(0.5, 1.5)
    detector.head.discriminator[1].bias.data.normal_()
    return detector


def features(seed, spread=1.0):
    generator = torch.Generator().manual_seed(seed)
    return spread * torch.randn(PICTURES, DIM, *GRID, dtype=torch.float64, generator=generator)


def loss_and_gradients(detector, loss):
    """The loss for one and the same noise, and every gradient of the head by name."""
    torch.manual_seed(1)
    value = loss()
    value.backward()
    gradients = {name: parameter.grad for name, parameter in detector.named_parameters()}
    return value.item(), gradients


def assert_equal(ours, explicit):
    assert ours[0] == pytest.approx(explicit[0], rel=1e-9)
    assert ours[1].keys() == explicit[1].keys() and len(ours[1]) == 7  # adaptor 2, discriminator 2 + 2 + 1
    scale = max(gradient.abs().max() for gradient in explicit[1].values())
    for name, gradient in explicit[1].items():
        assert gradient.abs().max() > 0 or name == "discriminator.0.bias"  # BatchNorm takes a bias away again
        assert (ours[1][name] - gradient).abs().max() <= 1e-9 * gradient.abs().max() + 1e-13 * scale, name


def test_simplenet_loss_and_gradients_are_the_explicit_ones():
    objective, twin = SimpleNetObjective(head(SimpleNet), NOISE_STD), head(SimpleNet)
    ours = loss_and_gradients(objective.detector, lambda: objective({"features": features(2)})["loss"])
    assert_equal(ours, loss_and_gradients(twin, lambda: truncated_l1(twin, flatten(features(2)), NOISE_STD)))


def glass_pair(hypothesis, spread):
    """The objective with its batch, and the explicit loss of a twin head, on the same centre and labels."""
    objective, twin = GLASSObjective(head(GLASS), NOISE_STD, hypothesis), head(GLASS)
    assert objective.scale == pytest.approx(1)
    objective.update_center(features(2, spread).mean(0))
    label = torch.rand(PICTURES, *GRID, generator=torch.Generator().manual_seed(4)) > 0.8
    batch = {"features": features(2, spread), "augmented_features": features(3, spread), "patch_label": label}
    rows = [flatten(batch[key]) for key in ("features", "augmented_features")]
    settings = {"center": objective.center, "hypothesis": hypothesis, "noise_std": NOISE_STD}
    return objective, batch, twin, lambda: three_branches(twin, *rows, label.flatten(), **settings)


@pytest.mark.parametrize("spread", [0.05, 1.0])  # many noisy points are moved by the projection, and few
@pytest.mark.parametrize("hypothesis", ["manifold", "hypersphere"])
def test_glass_loss_and_gradients_are_the_explicit_ones(hypothesis, spread):
    objective, batch, twin, explicit = glass_pair(hypothesis, spread)
    ours = loss_and_gradients(objective.detector, lambda: objective(batch)["loss"])
    assert_equal(ours, loss_and_gradients(twin, explicit))


def trained(parameters, optimizers, loss, steps=60):
    """The weights after some steps, with the same noise in each pair of runs."""
    for step in range(steps):
        torch.manual_seed(step)
        loss().backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    return torch.nn.utils.parameters_to_vector(parameters)


def optimizers_of(twin, *kinds):
    """The codes' optimisers, adaptor first."""
    adaptor, discriminator = kinds
    settings = {torch.optim.Adam: {"weight_decay": 1e-5}, torch.optim.AdamW: {}}
    return [
        adaptor(twin.head.adaptor.parameters(), 1e-4, **settings[adaptor]),
        discriminator(twin.head.discriminator.parameters(), 2e-4, **settings[discriminator]),
    ]


def test_simplenet_is_the_explicit_one_after_many_steps():
    objective, twin = SimpleNetObjective(head(SimpleNet), NOISE_STD), head(SimpleNet)
    ours = trained(
        objective.parameters(), objective.optimizers(), lambda: objective({"features": features(2)})["loss"]
    )
    both = optimizers_of(twin, torch.optim.AdamW, torch.optim.Adam)
    explicit = trained(twin.parameters(), both, lambda: truncated_l1(twin, flatten(features(2)), NOISE_STD))
    assert (ours - explicit).norm() < 1e-8 * explicit.norm()
    assert (ours - torch.nn.utils.parameters_to_vector(head(SimpleNet).parameters())).norm() > 1e-3 * ours.norm()


@pytest.mark.parametrize("hypothesis", ["manifold", "hypersphere"])
def test_glass_is_the_explicit_one_after_many_steps(hypothesis):
    objective, batch, twin, explicit_loss = glass_pair(hypothesis, 1.0)
    ours = trained(objective.parameters(), objective.optimizers(), lambda: objective(batch)["loss"], 20)
    both = optimizers_of(twin, torch.optim.Adam, torch.optim.AdamW)
    explicit = trained(twin.parameters(), both, explicit_loss, 20)
    assert (ours - explicit).norm() < 1e-8 * explicit.norm()


def test_running_statistics_are_the_one_deviation():
    """The code updates them in each of 21 passes over [u; g] and one over LAS; we only in the last two of them."""
    objective, batch, twin, explicit = glass_pair("manifold", 1.0)
    loss_and_gradients(objective.detector, lambda: objective(batch)["loss"])
    loss_and_gradients(twin, explicit)
    ours, theirs = (d.head.discriminator[1].num_batches_tracked.item() for d in (objective.detector, twin))
    assert (ours, theirs) == (2, 22)


def test_center_pass_is_the_mean_adapted_feature_of_each_position(monkeypatch):
    """One pass over the pictures gives what `update_center` gets from the mean patch feature."""
    objective = GLASSObjective(head(GLASS), NOISE_STD, "hypersphere")
    monkeypatch.setattr(explicit_training, "patch_features", lambda maps, embed_dim: flatten(maps))
    center = explicit_training.batch_center(objective.detector, lambda images: images, features(2))
    objective.update_center(features(2).mean(0))
    assert center.allclose(objective.center, rtol=1e-12)


# --------------------------------------------------------------------------------------------------------------- masks


@pytest.mark.parametrize("cells", [(1, 32), (4, 2), (8, 8)])
def test_perlin_noise_is_the_same_for_the_same_lattice(cells):
    explicit = explicit_training.perlin_noise(96, np.array(cells), np.random.default_rng(0))
    np.testing.assert_allclose(synthesis._gradient_noise(96, cells, np.random.default_rng(0)), explicit, atol=1e-5)


def test_masks_cover_as_much_as_the_explicit_ones():
    """Mean share of pixels and patches over 400 masks each: equal within three standard errors."""
    shares = []
    for draw in (explicit_training.perlin_mask, synthesis.draw_mask):
        rng = np.random.default_rng(0)
        masks = [draw(96, (12, 12), rng) for _ in range(400)]
        assert all(label.any() for _, label in masks)
        shares.append(np.array([(mask.mean(), label.mean()) for mask, label in masks]))
    error = np.sqrt(sum(share.var(0) / len(share) for share in shares))
    assert (np.abs(shares[0].mean(0) - shares[1].mean(0)) < 3 * error).all()
