"""Losses and a GAS step by hand-worked numbers, the ascent against autograd, constants against the papers' codes."""

import math

import pytest
import torch
import torch.nn.functional as F
from reference.explicit_training import ascend, project

from hubmodels import GLASS, SimpleNet
from training.objectives import GLASSObjective, SimpleNetObjective
from training.objectives.glass import clamp_norm

BACKBONE = "resnet18.tv_in1k"


def glass(hypothesis="manifold", embed_dim=8, hidden_dim=6, noise_std=0.015, dtype=torch.float64):
    torch.manual_seed(0)
    detector = GLASS(backbone=BACKBONE, embed_dim=embed_dim, hidden_dim=hidden_dim).to(dtype).train()
    detector.head.discriminator[1].weight.data.uniform_(0.5, 1.5)
    detector.head.discriminator[1].bias.data.normal_()
    return GLASSObjective(detector, noise_std, hypothesis).to(dtype)


def identity_head(detector):
    """Adaptor = identity; the discriminator then is the only thing between features and logits."""
    detector.head.adaptor.weight.data.copy_(torch.eye(detector.front_end.embed_dim))
    detector.head.adaptor.bias.data.zero_()
    return detector


# ---------------------------------------------------------------------------------------------------------- constants


def test_simplenet_constants():
    """As in SimpleNet's code: margins +-0.5, AdamW adaptor 1e-4 / 1e-2, Adam discriminator 2e-4 / 1e-5."""
    objective = SimpleNetObjective(SimpleNet(backbone=BACKBONE), 0.015)
    adaptor, discriminator = objective.optimizers()
    assert objective.margin == 0.5
    assert (type(adaptor), type(discriminator)) == (torch.optim.AdamW, torch.optim.Adam)
    assert [(g["lr"], g["weight_decay"]) for o in (adaptor, discriminator) for g in o.param_groups] == [
        (1e-4, 1e-2),
        (2e-4, 1e-5),
    ]


def test_glass_constants():
    """As in GLASS's code: optimisers swapped, 20 x 0.001 projected every 5, radii 0.5..1, r..2r, OHEM, focal."""
    objective = glass()
    adaptor, discriminator = objective.optimizers()
    assert (type(adaptor), type(discriminator)) == (torch.optim.Adam, torch.optim.AdamW)
    assert [(g["lr"], g["weight_decay"]) for o in (adaptor, discriminator) for g in o.param_groups] == [
        (1e-4, 1e-5),
        (2e-4, 1e-2),
    ]
    assert (objective.ascent_steps, objective.ascent_lr, objective.project_every) == (20, 0.001, 5)
    assert objective.ascent_eps == 1e-10
    assert (objective.manifold_radii, objective.radius_span, objective.radius_quantile) == ((0.5, 1.0), 2.0, 0.75)
    assert (objective.hard_quantile, objective.focal_gamma, objective.focal_eps) == (0.5, 2.0, 1e-5)


def test_geometry_is_the_papers_on_the_papers_backbone_and_scales_elsewhere():
    assert GLASSObjective(GLASS(), 0.015, "manifold").scale == pytest.approx(1.0)
    narrow = GLASSObjective(GLASS(backbone=BACKBONE), 0.06, "manifold")  # 384 dimensions, four times the noise
    assert narrow.scale == pytest.approx(4 * math.sqrt(384 / 1536))
    assert GLASSObjective(GLASS(backbone=BACKBONE), 0.06, "manifold", "official").scale == 1


def test_unknown_hypothesis_is_refused():
    with pytest.raises(ValueError, match="manifold or hypersphere"):
        GLASSObjective(GLASS(backbone=BACKBONE), 0.015, "flat")


# ------------------------------------------------------------------------------------------------------------- losses


def test_truncated_l1_by_hand(monkeypatch):
    """Normality logits 2, 0.1, -1 of normals and -2, 0.2, 0 of noisy ones: (0 + .4 + 1.5)/3 + (0 + .7 + .5)/3."""
    objective = SimpleNetObjective(SimpleNet(backbone=BACKBONE, embed_dim=4, hidden_dim=3), 0.015)
    logits = torch.tensor([2.0, 0.1, -1.0, -2.0, 0.2, 0.0])
    monkeypatch.setattr(objective, "normality_with_noise", lambda features: logits.chunk(2))
    losses = objective({"features": torch.randn(1, 4, 1, 3)})
    assert losses["normal_loss"].item() == pytest.approx(1.9 / 3)
    assert losses["noisy_loss"].item() == pytest.approx(1.2 / 3)
    assert losses["loss"].item() == pytest.approx(3.1 / 3)


def test_simplenet_judges_both_halves_in_one_pass_and_trains_the_adaptor_through_both():
    """BatchNorm must see the mixture, and the noise is not detached; observed behind the first layer."""
    objective = SimpleNetObjective(identity_head(SimpleNet(backbone=BACKBONE, embed_dim=4, hidden_dim=3)), 0.5)
    first, norm, seen = *objective.detector.head.discriminator[:2], []
    norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    features = torch.randn(2, 4, 16, 16)
    objective.train()({"features": features})["noisy_loss"].backward()
    normal, noisy = seen[0].chunk(2)
    assert len(seen) == 1 and normal.allclose(first(features.movedim(1, -1).reshape(-1, 4)), atol=1e-6)
    assert ((noisy - normal) / first.weight.norm(dim=1)).std().item() == pytest.approx(0.5, rel=0.05)
    assert objective.detector.head.adaptor.weight.grad.abs().max() > 0


def test_focal_loss_by_hand():
    """s = .9 .2 .4 .6 with labels 1 0 0 1: errors .01 .04 .16 .16, median .1, so the last two count.

    p = .6 for both (up to 1e-5), so the loss is -(0.4^2) ln 0.6.
    """
    scores = torch.tensor([0.9, 0.2, 0.4, 0.6], dtype=torch.float64)
    label = torch.tensor([True, False, False, True])
    assert glass().focal_loss(scores, label).item() == pytest.approx(-(0.4**2) * math.log(0.6), rel=1e-4)


def test_focal_loss_keeps_ties():
    scores = torch.full((6,), 0.5, dtype=torch.float64)
    assert glass().focal_loss(scores, torch.zeros(6, dtype=bool)).item() == pytest.approx(0.25 * math.log(2), rel=1e-4)


@pytest.mark.parametrize("hypothesis", ["manifold", "hypersphere"])
def test_glass_with_all_patches_chosen_is_glass(hypothesis):
    objective = glass(hypothesis)
    objective.update_center(torch.randn(8, 4, 3, dtype=torch.float64))
    batch = {name: torch.randn(2, 8, 4, 3, dtype=torch.float64) for name in ("features", "augmented_features")}
    batch["patch_label"] = torch.rand(2, 4, 3) > 0.7
    order = torch.stack([torch.randperm(12), torch.randperm(12)])
    chosen = {
        name: torch.stack([v[:, o] for v, o in zip(batch[name].flatten(2), order, strict=True)])[..., None]
        for name in batch
        if name != "patch_label"
    }
    chosen |= {"patch_label": batch["patch_label"].flatten(1).gather(1, order), "places": order}
    objective.noise_std = 0.0  # no draw depends on the order
    whole, some = objective(batch), objective(chosen)
    assert all(some[name].item() == pytest.approx(whole[name].item(), rel=1e-9) for name in whole)


def test_glass_chooses_the_same_patches_of_defects_and_labels(make_detector):
    objective = GLASSObjective(make_detector(GLASS), 0.015, "manifold")
    items = {"augmented": torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)}
    items["patch_label"] = torch.rand(2, 8, 8) > 0.5
    whole, places = objective.inputs(items), torch.stack([torch.randperm(64)[:20] for _ in range(2)])
    some = objective.inputs(items | {"places": places})
    for i, chosen in enumerate(places):
        features = whole["augmented_features"][i].flatten(1)[:, chosen]
        assert torch.equal(some["augmented_features"][i, :, :, 0], features)
        assert torch.equal(some["patch_label"][i], whole["patch_label"][i].flatten()[chosen])
    assert torch.equal(some["places"], places)


def test_glass_loss_is_the_sum_of_three_plain_means():
    objective = glass()
    batch = {"features": torch.randn(2, 8, 4, 4).double(), "augmented_features": torch.randn(2, 8, 4, 4).double()}
    losses = objective(batch | {"patch_label": torch.rand(2, 4, 4) > 0.8})
    assert set(losses) == {"loss", "normal_loss", "global_loss", "local_loss"}
    assert losses["loss"].item() == pytest.approx(sum(losses[k].item() for k in losses if k != "loss"))
    losses["loss"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in objective.detector.parameters())


def test_center_is_the_mean_adapted_feature_per_position():
    """By linearity no pass over the data is needed: compared with the pass."""
    objective, features = glass(), torch.randn(5, 8, 3, 3).double()
    objective.update_center(features.mean(0))
    adapted = objective.detector.head.embed(features.movedim(1, -1).reshape(-1, 8)).view(5, 9, 8)
    assert objective.center.allclose(adapted.mean(0))


# ---------------------------------------------------------------------------------------------------------------- GAS


def test_clamp_norm_by_hand():
    """(3, 4) has length 5: pulled to 2 and pushed to 10; inside the range nothing moves."""
    vector = torch.tensor([[3.0, 4.0]])
    assert clamp_norm(vector, 1, 2).allclose(torch.tensor([[1.2, 1.6]]))
    assert clamp_norm(vector, 10, 20).allclose(torch.tensor([[6.0, 8.0]]))
    assert torch.equal(clamp_norm(vector, 4, 6), vector)


@pytest.mark.parametrize(("hypothesis", "eps"), [("manifold", 1e-10), ("hypersphere", 1e-10), ("hypersphere", 1e-2)])
def test_ascent_in_pre_activations_equals_the_explicit_loop(hypothesis, eps, monkeypatch):
    """Values and the gradient that reaches the adaptor, in double precision; eps also where it tells."""
    objective = glass(hypothesis, noise_std=0.015 * math.sqrt(1536 / 8))  # scale 1, as the explicit loop's constants
    objective.ascent_eps = eps
    noise = objective.noise_std * torch.randn(40, 8, dtype=torch.float64)
    monkeypatch.setattr("training.objectives.glass.add_noise", lambda features, noise_std: features + noise)
    center, radius = torch.randn(40, 8, dtype=torch.float64), torch.tensor(2.0, dtype=torch.float64)
    discriminator, results = objective.detector.head.discriminator, []
    for synthesise in (
        lambda u: objective.synthesise_global(u, center, radius),
        lambda u: ascend(discriminator, u, u + noise, lambda g: project(g, u, center, radius, hypothesis), eps),
    ):
        normal = torch.randn(40, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(3)).requires_grad_()
        result = synthesise(normal)
        results.append((result.detach(), torch.autograd.grad((result**3).sum(), normal)[0]))
    (ours, our_gradient), (explicit, explicit_gradient) = results
    assert ours.allclose(explicit, rtol=1e-9, atol=1e-11)
    assert our_gradient.allclose(explicit_gradient, rtol=1e-5, atol=1e-9)


def test_one_ascent_step_by_hand():
    """One hidden unit with weight (3, 4): whatever the loss, the normalised gradient is -+(0.6, 0.8)."""
    objective = glass(embed_dim=2, hidden_dim=1)
    first, _, _, last = objective.detector.head.discriminator
    first.weight.data = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    last.weight.data.fill_(1.0)
    objective.project_every = 1
    z = torch.tensor([[0.3], [-0.2], [0.9]], dtype=torch.float64)
    gram = first.weight.detach() @ first.weight.detach().T
    climbed, z_after = objective._climb(torch.var_mean(torch.randn(3, 1).double(), 0, correction=0), z, gram)
    step = climbed @ first.weight.detach()
    assert z_after.allclose(z + climbed @ gram)
    direction = torch.tensor([0.6, 0.8], dtype=torch.float64) * 0.001 * objective.scale
    assert all(row.allclose(direction, rtol=1e-4) or row.allclose(-direction, rtol=1e-4) for row in step)


def test_ascent_raises_the_discriminators_loss():
    """It climbs: synthesised features are harder to tell from normal ones than the noise they started from."""
    objective = glass()
    objective.ascent_lr = 0.02
    normal = torch.randn(60, 8, dtype=torch.float64)
    z_normal, z = (objective.detector.head.discriminator[0](f).detach() for f in (normal, normal + 0.3))
    weight = objective.detector.head.discriminator[0].weight.detach()
    _, climbed = objective._climb(torch.var_mean(z_normal, 0, correction=0), z, weight @ weight.T)

    def loss(z):
        _, norm, activation, last = objective.detector.head.discriminator
        hidden = F.batch_norm(
            torch.cat([z_normal, z]), None, None, norm.weight, norm.bias, training=True, eps=norm.eps
        )
        return F.softplus(-last(activation(hidden))[60:]).mean().item()

    assert loss(climbed) > loss(z)


def test_projections_keep_their_distance():
    normal, center = torch.zeros(50, 8).double(), torch.randn(50, 8).double()
    manifold = glass("manifold", noise_std=0.015 * math.sqrt(1536 / 8))  # scale 1: radii 0.5 and 1
    distance = (manifold.synthesise_global(normal, center, torch.tensor(0.0)) - normal).norm(dim=1)
    assert distance.min() >= 0.5 - 1e-9 and distance.max() <= 1 + 1e-9
    radius = torch.tensor(1.5).double()
    distance = (glass("hypersphere").synthesise_global(normal, center, radius) - center).norm(dim=1)
    assert distance.min() >= 1.5 - 1e-9 and distance.max() <= 3 + 1e-9


def test_hypersphere_moves_masked_local_features_outward(monkeypatch):
    """LAS: patches under the mask end up between 2 r and 4 r from the centre, the others stay."""
    objective = glass("hypersphere")
    identity_head(objective.detector)
    augmented = torch.randn(1, 8, 4, 4).double()
    label = torch.rand(1, 4, 4) > 0.5
    seen, discriminate = [], objective.detector.head.discriminate
    monkeypatch.setattr(
        objective.detector.head,
        "discriminate",
        lambda features: (seen.append(features.detach()), discriminate(features))[1],
    )
    objective.center = torch.zeros(16, 8).double()
    objective({"features": torch.randn(1, 8, 4, 4).double(), "augmented_features": augmented, "patch_label": label})
    radius = objective._radius(seen[0][:16], augmented.movedim(1, -1).view(-1, 8), label.flatten(), objective.center)
    distance, given = seen[1].norm(dim=1), augmented.movedim(1, -1).view(-1, 8).norm(dim=1)
    assert distance[label.flatten()].min() >= 2 * radius - 1e-9
    assert distance[label.flatten()].max() <= 4 * radius + 1e-9
    assert distance[~label.flatten()].allclose(given[~label.flatten()])


def test_radius_is_the_quantile_over_normal_and_unmasked_patches():
    """Distances 1, 2, 3 of normals and 4 (5 is masked): 75 % quantile of 1 2 3 4 is 3.25."""
    objective = glass("hypersphere", embed_dim=2, hidden_dim=2)
    normal = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]], dtype=torch.float64)
    augmented = torch.tensor([[0.0, 4.0], [5.0, 0.0], [5.0, 0.0]], dtype=torch.float64)
    label, center = torch.tensor([False, True, True]), torch.zeros(3, 2, dtype=torch.float64)
    assert objective._radius(normal, augmented, label, center).item() == pytest.approx(3.25)
