"""The compact backbone: its size, its strides, where it comes from, and that nothing else passes for it."""

import json
import shutil

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from hubmodels import BackboneError, ModelError, backbone, load
from hubmodels.backbone import (
    BUNDLED_WEIGHTS,
    feature_channels,
    find_weights,
    fold_batch_norm,
    load_backbone,
    normalisation,
)
from hubmodels.compactnet import COMPACT_BACKBONE, CompactNet
from hubmodels.hub.catalog import BUNDLED_MODELS
from training import distill

WEIGHTS = BUNDLED_WEIGHTS / f"{COMPACT_BACKBONE}.safetensors"


def random_network(name, seed=0):
    """A network with random weights and BatchNorm statistics, cut after layer3."""
    torch.manual_seed(seed)
    network = timm.create_model(name, pretrained=False, features_only=True, out_indices=(2, 3)).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    return network


def test_it_is_small_and_gives_the_maps_of_a_resnet18():
    compact = load_backbone(COMPACT_BACKBONE)
    assert sum(p.numel() for p in compact.parameters()) <= 3_000_000
    assert compact.channels == feature_channels(COMPACT_BACKBONE, (2, 3)) == (128, 256)
    assert [tuple(m.shape) for m in compact(torch.zeros(1, 3, 64, 96))] == [(1, 128, 8, 12), (1, 256, 4, 6)]
    assert normalisation(COMPACT_BACKBONE) == normalisation("resnet18.tv_in1k")


def test_its_weights_are_bundled_as_half_precision():
    assert find_weights(COMPACT_BACKBONE) == WEIGHTS
    assert WEIGHTS.stat().st_size <= 8 * 2**20
    assert {tensor.dtype for tensor in load_file(WEIGHTS).values()} == {torch.float16}


def test_a_tampered_backbone_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(backbone, "_shared", {})  # as in a new process: the true one in memory would serve
    tensors = load_file(WEIGHTS)
    tensors["layer2.0.conv1.weight"][0, 0, 0, 0] += 1
    save_file(tensors, tmp_path / "tampered.safetensors")
    model = next(BUNDLED_MODELS.glob("simplenet-*"))
    sha256 = json.loads((model / "config.json").read_text())["backbone_sha256"]
    with pytest.raises(BackboneError, match="fingerprint"):
        load_backbone(COMPACT_BACKBONE, weights=tmp_path / "tampered.safetensors", sha256=sha256)
    assert load_backbone(COMPACT_BACKBONE, weights=tmp_path / "tampered.safetensors").fingerprint != sha256


def test_weights_of_another_shape_are_refused(tmp_path):
    tensors = load_file(WEIGHTS)
    save_file(tensors | {"stem.0.bias": tensors["stem.0.bias"][:32].clone()}, tmp_path / "narrow.safetensors")
    with pytest.raises(BackboneError, match=r"narrow.safetensors does not contain the weights of .* shapes differ"):
        load_backbone(COMPACT_BACKBONE, weights=tmp_path / "narrow.safetensors")


def test_a_bundled_model_whose_backbone_was_exchanged_is_refused(tmp_path):
    model = shutil.copytree(next(BUNDLED_MODELS.glob("simplenet-*")), tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"backbone_sha256": "1" * 64}))
    with pytest.raises(BackboneError, match="trained on 111111111111"):
        load(model)


def test_a_bundled_model_that_was_cut_short_is_refused(tmp_path):
    model = shutil.copytree(next(BUNDLED_MODELS.glob("glass-*")), tmp_path / "model")
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(ModelError, match="truncated"):
        load(model)


# ---------------------------------------------------------------- how it is made


def test_the_blocks_copied_from_the_teacher_compute_the_same():
    """BatchNorm is folded into the convolutions, so the student starts as the teacher without two of its blocks."""
    teacher = random_network("resnet18.tv_in1k")
    student = CompactNet()
    distill.copy_blocks(fold_batch_norm(teacher), student)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        x = teacher.maxpool(teacher.act1(teacher.bn1(teacher.conv1(images))))
        assert torch.allclose(student["stem"](images), x, rtol=1e-4, atol=1e-5)
        for layer, blocks in (("layer1", 1), ("layer2", 1), ("layer3", 2)):
            got, x = student[layer](x), teacher[layer][:blocks](x)
            assert torch.allclose(got, x, rtol=1e-4, atol=1e-4 * x.abs().max().item())


def test_the_error_of_the_mean_is_one_and_of_the_truth_nothing(tmp_path):
    network = random_network("resnet18.tv_in1k")
    save_file(network.state_dict(), tmp_path / "teacher.safetensors")
    images = torch.randn(4, 3, 64, 64)
    teacher = distill.Teacher("resnet18.tv_in1k", tmp_path / "teacher.safetensors", images)
    with torch.no_grad():
        maps = teacher.backbone(images)
    assert teacher.error(maps, images).max() == 0
    means = [mean.expand_as(m) for m, (mean, _) in zip(maps, teacher.moments, strict=True)]
    assert teacher.error(means, images).numpy() == pytest.approx([1, 1], abs=0.02)


def test_the_learning_rate_warms_up_and_ends_near_nothing():
    rates = [distill.rate(step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.2) and max(rates) == 1
    assert rates[-1] < 0.001 and rates == sorted(rates[:5]) + sorted(rates[5:], reverse=True)


@pytest.fixture
def real_data(tmp_path):
    """A folder of real pictures as in docs/data.md: three pictures of each kind and random teachers."""
    rng = np.random.default_rng(0)
    for folder in ("natural", "dtd/images/dotted", "set/bolt/train/good"):
        (tmp_path / "data" / folder).mkdir(parents=True)
        for i in range(3):
            pixels = rng.integers(0, 256, (300, 280, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / folder / f"{i}.png")
    (tmp_path / "weights").mkdir()
    for name in ("resnet18.tv_in1k", "resnet50.tv_in1k"):
        source = "tv" if name.startswith("resnet18") else "msra"
        path = tmp_path / "weights" / f"{name.split('.')[0]}_{source}_in1k_layer3.safetensors"
        save_file(random_network(name).state_dict(), path)
    return tmp_path


def test_a_short_distillation_writes_weights_and_log(real_data, monkeypatch):
    monkeypatch.setattr(distill, "VALIDATION", 1)
    monkeypatch.setattr(distill, "BATCH", 2)
    monkeypatch.setattr(distill, "MOMENTS_BATCHES", 1)
    output = real_data / "out"
    distill.main(["--data", str(real_data), "--steps", "2", "--output", str(output)])
    log = json.loads((output / "distill.json").read_text())
    assert [record["step"] for record in log] == [2]
    assert all(len(log[-1][kind]) == 4 for kind in distill.SHARES)
    assert load_backbone(COMPACT_BACKBONE, weights=output / WEIGHTS.name).channels == (128, 256)


def test_too_few_pictures_are_named(real_data):
    with pytest.raises(SystemExit, match=r"3 pictures below .*natural: more than 64 needed"):
        distill.main(["--data", str(real_data), "--output", str(real_data / "out")])
