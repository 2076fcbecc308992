"""The hybrid's head and its fit: what the adaptor does, what is learned, and that a fit can be repeated."""

import json
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_pictures import add_plates

import training.train as train
from hubmodels import ModelError, load
from hubmodels.front_end import align, flatten
from hubmodels.hybrid import Hybrid, HybridHead, Memory
from training import damage
from training.batches import FeatureCache
from training.coreset import greedy_coreset
from training.objectives import hybrid
from training.objectives.hybrid import HybridObjective, standardise, whiten


@pytest.fixture
def objective(make_detector):
    torch.manual_seed(0)
    return HybridObjective(make_detector(Hybrid), pictures=None, kept=None, settings={})


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


def test_no_step_mixes_devices(objective):
    """The meta device stands for a GPU: it refuses tensors of the CPU, too."""
    objective.to("meta")
    width = objective.detector.front_end.embed_dim
    normal, damaged = torch.randn(40, width, device="meta"), torch.randn(20, width, device="meta")
    hybrid.standardise(objective.head.adaptor, normal)
    assert hybrid.draw(normal, 5).device.type == objective.losses(normal, damaged)["loss"].device.type == "meta"
    assert objective.head.memory.distances(objective.head.memory.project(normal)).device.type == "meta"
    objective.balance(normal)


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


# --- memory ---


def remember(memory, normal, count=2000):
    whiten(memory, normal)
    memory.vectors = memory.project(normal)[greedy_coreset(memory.project(normal), count)]


@pytest.fixture
def memory():
    """A memory of 4 of 12 dimensions, filled from correlated features."""
    torch.manual_seed(0)
    filled = Memory(12, 2, 4)
    remember(filled, torch.randn(3000, 12) @ torch.randn(12, 12))
    return filled


def test_distances_are_those_to_the_nearest_vector(memory):
    aggregated = [torch.randn(2, 6, 8, 10), torch.randn(2, 6, 4, 5)]
    patches = flatten(align(aggregated)).double()
    projected = patches @ memory.projection.T.double() + memory.offset.double()
    expected = torch.cdist(projected, memory.vectors.double()).amin(1)
    assert torch.allclose(memory(aggregated).double().flatten(), expected, rtol=1e-3, atol=1e-3)
    assert memory(aggregated).shape == (2, 8, 10)


def test_good_features_are_whitened(memory):
    normal = torch.randn(5000, 12) @ torch.diag(torch.tensor([20.0] * 4 + [0.01] * 8))
    remember(memory, normal)
    projected = memory.project(normal)
    assert projected.mean(0).abs().max() < 1e-3
    variances = projected.var(0)
    assert variances.max() / variances.min() < 1.2 and variances.mean() < 1  # shrunk by the mean variance
    assert torch.cov(projected.T).fill_diagonal_(0).abs().max() < 1e-3


def test_the_memory_covers_good_features_and_keeps_rare_ones(memory):
    common, rare = torch.randn(3000, 12), torch.randn(5, 12) + 12
    normal = torch.cat([common, rare])
    remember(memory, normal, 50)
    projected = memory.project(normal)
    assert len(memory.vectors) == 50
    assert torch.cdist(memory.vectors, projected).amin(1).max() < 0.05  # they are good patches
    assert memory.distances(memory.project(rare)).max() < 3
    chosen = memory.distances(projected).max()
    at_random = torch.cdist(projected, projected[torch.randperm(3000)[:50]]).amin(1).max()
    assert chosen < 0.7 * at_random


def test_a_memory_has_at_most_as_many_vectors_as_there_are_patches(memory):
    remember(memory, torch.randn(30, 12))
    assert len(memory.vectors) == 30


def test_logit_and_distance_are_weighed(objective):
    (normal,) = rows(objective, 0.0)
    with torch.no_grad():
        objective.head.discriminator[3].weight.mul_(100)
    objective.eval()
    standardise(objective.head.adaptor, normal)
    remember(objective.head.memory, normal[:50])
    adapted = objective.head.embed(normal).detach()
    objective.balance(normal)
    logits, memory, mix = objective.head.discriminate(adapted), objective.head.memory, objective.head.mix
    distances = memory.distances(memory.project(normal))
    assert (mix[0] * logits).std().item() == pytest.approx(1, rel=1e-3)
    assert (mix[1] * distances).std().item() == pytest.approx(hybrid.MEMORY_WEIGHT, rel=1e-3)
    assert objective.head.mixed(logits, distances).mean().item() == pytest.approx(0, abs=1e-4)


def test_scores_are_the_mix_of_both(objective):
    head = objective.head.eval()
    remember(head.memory, rows(objective, 0.0)[0])
    head.mix.copy_(torch.tensor([0.5, 2.0, -1.0]))
    width = objective.detector.front_end.embed_dim // 2
    aggregated = [torch.randn(1, width, 8, 8), torch.randn(1, width, 4, 4)]
    expected = 0.5 * head.folded(aggregated) + 2 * head.memory(aggregated) - 1
    assert torch.allclose(head.scores(aggregated), expected, atol=1e-5)
    assert torch.allclose(head.export_form()(aggregated), expected, atol=1e-5)


# --- a run ---


@pytest.fixture
def arguments(backbone_weights, tmp_path):
    """Command line of a run on small plates, one of them with a bright square."""
    add_plates(tmp_path, ["test/good/0", "test/square/0"])
    return [
        *("--data-root", str(tmp_path / "toy"), "--backbone", "resnet18.tv_in1k", "--image-size", "64"),
        *("--backbone-weights", str(backbone_weights), "--methods", "hybrid", "--folds", "0"),
    ]


def weights_in(folder):
    return load_file(folder / "hybrid-toy-plate/model.safetensors")


def test_an_interrupted_run_keeps_its_bank_and_ends_the_same(arguments, tmp_path, monkeypatch):
    monkeypatch.setattr(hybrid, "STEPS", 20)
    assert train.main([*arguments, "--output", str(tmp_path / "through")]) == 0
    stopped, steps = [*arguments, "--output", str(tmp_path / "stopped")], HybridObjective.train_discriminator
    monkeypatch.setattr(HybridObjective, "train_discriminator", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(SystemExit, match="the same command continues"):
        train.main(stopped)
    monkeypatch.setattr(HybridObjective, "train_discriminator", steps)
    monkeypatch.setattr(hybrid, "make_bank", Mock(side_effect=AssertionError("the bank is made again")))
    assert train.main(stopped) == 0
    through, continued = weights_in(tmp_path / "through"), weights_in(tmp_path / "stopped")
    assert all(torch.equal(through[name], continued[name]) for name in through)


@pytest.mark.parametrize("fault", ["cut", "not finite"])
def test_a_damaged_bank_is_made_again(fault, tmp_path):
    """As a power cut leaves it: a file that ends early, or one with blocks that were never written."""
    path, good = tmp_path / "bank.safetensors", {"texture": torch.rand(50, 8)}
    damage.kept_bank(path, {"seed": 0}, lambda: good)
    content = bytearray(path.read_bytes())
    content[-40:] = b"" if fault == "cut" else b"\xff" * 40
    path.write_bytes(content)
    found = damage.kept_bank(path, {"seed": 0}, lambda: good)
    assert torch.equal(found["texture"], good["texture"])
    kept = damage.kept_bank(path, {"seed": 0}, Mock(side_effect=AssertionError("it is made a third time")))
    assert torch.equal(kept["texture"], good["texture"])


def test_a_memory_without_vectors_does_not_load(arguments, tmp_path, monkeypatch):
    monkeypatch.setattr(hybrid, "STEPS", 5)
    assert train.main([*arguments, "--output", str(tmp_path)]) == 0
    detector = load(tmp_path / "hybrid-toy-plate")
    detector.head.memory.vectors = detector.head.memory.vectors[:0]
    detector.save_pretrained(tmp_path / "empty")
    with pytest.raises(ModelError, match=r"(?s)does not fit its config.json.*memory.vectors"):
        load(tmp_path / "empty")


def test_options_that_the_hybrid_does_not_use_are_named(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(hybrid, "STEPS", 5)
    unused = ["--epochs", "7", "--noise-std", "0.3"]
    assert train.main([*arguments, *unused, "--output", str(tmp_path)]) == 0
    assert "Hybrid does not use --epochs, --noise-std\n" in capsys.readouterr().err


def test_damage_that_covers_no_patch_ends_the_job_with_a_remedy(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(damage, "COVERED", 1.1)
    assert train.main([*arguments, "--output", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert "no damage that was drawn covers a patch" in said and "--image-size" in said and "Traceback" not in said


@pytest.mark.parametrize("count", [1, 2])
def test_with_few_pictures_the_distance_counts_as_much_on_new_patches(make_detector, count):
    """If most patches were in the memory, at distance 0, the distance would count 15 to 1,500 times as much."""
    torch.manual_seed(0)
    objective = HybridObjective(make_detector(Hybrid), pictures=None, kept=None, settings={})
    head, width = objective.head, objective.detector.front_end.embed_dim
    mixing = torch.randn(4, width)
    layers = torch.einsum("nkhw,kd->ndhw", torch.randn(count, 4, 32, 32) ** 3, mixing).chunk(2, dim=1)
    objective.fit_discriminator = lambda normal, numbers: {}
    objective.fit(FeatureCache(torch.zeros(count, 3, 64, 64), [*layers], in_memory=True))
    new = torch.randn(4000, 4) ** 3 @ mixing
    logits, distances = head.discriminate(head.embed(new)), head.memory.distances(head.memory.project(new))
    counts = (head.mix[1] * distances.std() / (head.mix[0] * logits.std())).item()
    assert hybrid.MEMORY_WEIGHT / 3 < counts < 3 * hybrid.MEMORY_WEIGHT


def test_a_bright_square_is_found(arguments, tmp_path):
    assert train.main([*arguments, "--folds", "0", "--output", str(tmp_path)]) == 0
    detector = load(tmp_path / "hybrid-toy-plate")
    good, square = (detector.predict(tmp_path / f"toy/plate/test/{kind}/0.png") for kind in ("good", "square"))
    assert (square.image_score > good.image_score and square.p_value < good.p_value) or square.is_anomalous
    peak = np.unravel_index(square.anomaly_map.argmax(), square.anomaly_map.shape)
    assert 14 <= peak[0] <= 46 and 24 <= peak[1] <= 56
    log = (tmp_path / "hybrid-toy-plate/training_log.jsonl").read_text()
    assert {"loss", "damaged_loss", "seconds"} <= json.loads(log).keys()
