"""What steadies the last checkpoint: recomputed statistics, averaged weights, decaying learning rates."""

from types import SimpleNamespace

import pytest
import torch

from hubmodels import SimpleNet
from hubmodels.front_end import align, flatten
from training.batches import FeatureCache
from training.fitting import Fitting, make_average
from training.objectives import SimpleNetObjective


def test_statistics_are_those_over_all_rows_at_once(make_detector, monkeypatch):
    """Five pictures in batches of two, the odd one unlike the others: it must count as one of five."""
    detector = make_detector(SimpleNet)
    layers = [torch.randn(5, 16, 8, 8), torch.randn(5, 16, 4, 4)]
    for layer in layers:
        layer[4] += 3
    cache = FeatureCache(torch.zeros(5, 3, 64, 64, dtype=torch.uint8), layers, True)
    monkeypatch.setattr(
        "training.objectives.objective.add_noise", lambda features, noise_std: features * (1 + noise_std)
    )
    SimpleNetObjective(detector, 0.5).recompute_statistics(cache, 2)
    normal = detector.head.embed(flatten(align(layers)))
    hidden = detector.head.discriminator[0](torch.cat([normal, 1.5 * normal]))
    norm = detector.head.discriminator[1]
    assert norm.running_mean.allclose(hidden.mean(0), atol=1e-5)
    assert norm.running_var.allclose(hidden.var(0), rtol=1e-5)


def test_averaged_weights_look_back_over_a_tenth_of_training():
    """1000 steps: after the first, a step counts one hundredth."""
    head = torch.nn.Linear(1, 1, bias=False)
    average = make_average(head, 1000)
    for weight in (0.0, 1.0):
        head.weight.data.fill_(weight)
        average.update_parameters(head)
    assert average.module.weight.item() == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("progress", "factor"), [(0.0, 1), (0.79, 1), (0.8, 0.4), (0.89, 0.4), (0.9, 0.16), (0.99, 0.16)]
)
def test_learning_rates_decay_at_eight_and_nine_tenths(progress, factor):
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=0.02)
    config = SimpleNamespace(stabilise=["decay"])
    fitting = SimpleNamespace(job=SimpleNamespace(config=config), optimizers=[optimizer], rates=[0.02])
    for _ in range(2):  # a function of the progress: twice changes nothing
        assert Fitting.set_learning_rates(fitting, progress) == pytest.approx(factor)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.02 * factor)
    config.stabilise = ["statistics"]
    assert Fitting.set_learning_rates(fitting, progress) == 1
    assert optimizer.param_groups[0]["lr"] == 0.02
