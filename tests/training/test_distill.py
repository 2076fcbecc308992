"""The compact backbone is made from its teacher: it starts as a part of it, learns, and stops and goes on."""

import json

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from hubmodels.backbone import fold_batch_norm, load_backbone
from hubmodels.compactnet import COMPACT_BACKBONE, Block, CompactNet
from training import distill

CHANNELS = (("layer1", 64, 1), ("layer2", 128, 2), ("layer3", 256, 2))


@pytest.fixture(scope="module")
def teacher():
    """A ResNet-18 with random weights and BatchNorm statistics, cut after layer3."""
    torch.manual_seed(0)
    network = timm.create_model(distill.TEACHER, pretrained=False, features_only=True, out_indices=(2, 3)).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    return network


@pytest.fixture(scope="module")
def weights(teacher, tmp_path_factory):
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    save_file(teacher.state_dict(), path)
    return path


def full_student():
    """A CompactNet with as many inner channels and blocks as the teacher."""
    student, channels = CompactNet(), 64
    for layer, width, stride in CHANNELS:
        student[layer] = torch.nn.Sequential(Block(channels, width, width, stride), Block(width, width, width, 1))
        channels = width
    return student


def test_a_student_as_large_as_its_teacher_starts_as_its_teacher(teacher):
    student, images = full_student(), torch.randn(2, 3, 64, 64)
    distill.prune(fold_batch_norm(teacher), student, images)
    with torch.no_grad():
        for got, expected in zip(student(images), teacher(images), strict=True):
            assert torch.allclose(got, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


def test_the_channels_that_contribute_most_stay(teacher):
    images, block = torch.randn(4, 64, 16, 16), Block(64, 64, 64, 1)
    with torch.no_grad():
        block.conv2.weight[:, 10:] *= 1e-6
    smaller = Block(64, 10, 64, 1)
    distill._prune_block(block, smaller, images)
    assert torch.equal(
        smaller.conv1.weight.sum((1, 2, 3)).sort().values, block.conv1.weight[:10].sum((1, 2, 3)).sort().values
    )
    assert torch.allclose(smaller(images), block(images), atol=1e-4)


def test_the_student_starts_nearer_to_its_teacher_than_at_random(teacher):
    student, images = CompactNet(), torch.randn(4, 3, 64, 64)
    expected = teacher(images)

    def errors():
        with torch.no_grad():
            return [(a - b).square().mean() / b.var() for a, b in zip(student(images), expected, strict=True)]

    before = errors()
    distill.prune(fold_batch_norm(teacher), student, images)
    assert all(after < was for after, was in zip(errors(), before, strict=True))


def test_the_error_of_the_truth_is_nothing_and_that_of_each_pictures_mean_is_its_variance(weights):
    images = torch.randn(4, 3, 64, 64)
    teacher = distill.Teacher(weights, images)
    maps = teacher.backbone(images)
    errors, variances = teacher(maps, images)
    assert errors.shape == variances.shape == (2, 4) and errors.max() == 0
    errors, _ = teacher([m.mean((2, 3), keepdim=True).expand_as(m) for m in maps], images)
    assert errors.numpy() == pytest.approx(variances.numpy(), rel=0.1)  # n instead of n - 1 positions


def test_the_learning_rate_warms_up_and_ends_near_nothing():
    rates = [distill.rate(step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.2) and max(rates) == 1
    assert rates[-1] < 0.001 and rates == sorted(rates[:5]) + sorted(rates[5:], reverse=True)


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """A folder as `training.free_pictures` leaves it, with three noise pictures of each kind."""
    for name, value in {"VALIDATION": 1, "CHUNK": 2, "MOMENTS_BATCHES": 1, "SAVED_EVERY": 2, "PARTS": 1}.items():
        monkeypatch.setattr(distill, name, value)
    monkeypatch.setattr(distill, "DEFECTS", {"washer": ("scratch",)})
    rng = np.random.default_rng(0)
    for kind in ("photographs", "objects", "surfaces"):
        (tmp_path / kind / "package").mkdir(parents=True)
        for i in range(3):
            Image.fromarray(rng.integers(0, 256, (300, 280, 3), np.uint8)).save(
                tmp_path / kind / "package" / f"{i}.jpg"
            )
    return tmp_path


def run(pictures, weights, output, steps=4, *more):
    places = ["--pictures", str(pictures), "--teacher", str(weights), "--output", str(output)]
    distill.main([*places, "--steps", str(steps), "--batch", "2", *more])
    return load_file(output / f"{COMPACT_BACKBONE}.safetensors"), json.loads((output / "distill.json").read_text())


def test_a_distillation_writes_weights_and_log(pictures, weights, tmp_path):
    tensors, log = run(pictures, weights, tmp_path / "out")
    assert [record["step"] for record in log] == [2, 4]
    assert all(len(record[kind]) == 2 for record in log for kind in distill.SHARES)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    backbone = load_backbone(COMPACT_BACKBONE, weights=tmp_path / "out" / f"{COMPACT_BACKBONE}.safetensors")
    assert backbone.channels == (128, 256)


def test_a_stopped_distillation_goes_on_and_ends_as_one_that_ran_through(pictures, weights, tmp_path, monkeypatch):
    through, log = run(pictures, weights, tmp_path / "through")

    def stops(step, steps, rate=distill.rate):
        if step == 3 and not (tmp_path / "stopped" / "again").exists():
            raise KeyboardInterrupt
        return rate(step, steps)

    monkeypatch.setattr(distill, "rate", stops)
    with pytest.raises(KeyboardInterrupt):
        run(pictures, weights, tmp_path / "stopped")
    (tmp_path / "stopped" / "again").touch()
    continued, same_log = run(pictures, weights, tmp_path / "stopped")
    assert [r["step"] for r in same_log] == [r["step"] for r in log]
    assert all(torch.equal(through[name], continued[name]) for name in through)
    with pytest.raises(SystemExit, match="has a run of 4 steps of 2 crops with seed 0"):
        run(pictures, weights, tmp_path / "stopped", 4, "--seed", "1")


def test_too_few_pictures_are_named(pictures, weights, tmp_path, monkeypatch):
    monkeypatch.setattr(distill, "VALIDATION", 3)
    with pytest.raises(SystemExit, match=r"photographs has 3 pictures, not more than 3: run .*free_pictures"):
        run(pictures, weights, tmp_path / "out")


def test_a_loss_that_is_not_finite_ends_the_run(pictures, weights, tmp_path, monkeypatch):
    monkeypatch.setattr(distill, "PEAK_LR", 1e30)
    with pytest.raises(SystemExit, match="the loss of step"):
        run(pictures, weights, tmp_path / "out")


def test_another_seed_draws_other_crops_but_holds_out_the_same_pictures(pictures):
    first, second = (distill.Crops(pictures, 2, seed) for seed in (0, 1))
    assert torch.equal(first.validation, second.validation)
    assert not torch.equal(first[0], second[0])


def test_other_processes_make_the_same_crops(pictures):
    crops = distill.Crops(pictures, 2, 0)
    loader = torch.utils.data.DataLoader(crops, None, sampler=range(3), num_workers=2, multiprocessing_context="fork")
    assert all(torch.equal(crops[step], batch) for step, batch in enumerate(loader))
