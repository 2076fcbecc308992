"""The compact backbone: its size, its strides, where it comes from, and that nothing else passes for it."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from hubmodels import BackboneError, ModelError, backbone, load
from hubmodels.backbone import (
    BUNDLED_WEIGHTS,
    feature_channels,
    feature_strides,
    find_weights,
    load_backbone,
    normalisation,
)
from hubmodels.compactnet import COMPACT_BACKBONE
from hubmodels.hub.catalog import BUNDLED_MODELS

WEIGHTS = BUNDLED_WEIGHTS / f"{COMPACT_BACKBONE}.safetensors"


def test_it_is_small_and_gives_the_maps_of_a_resnet18():
    compact = load_backbone(COMPACT_BACKBONE)
    assert sum(p.numel() for p in compact.parameters()) <= 3_000_000
    assert compact.channels == feature_channels(COMPACT_BACKBONE, (2, 3)) == (128, 256)
    assert [tuple(m.shape) for m in compact(torch.zeros(1, 3, 64, 96))] == [(1, 128, 8, 12), (1, 256, 4, 6)]
    assert feature_strides(COMPACT_BACKBONE) == (8, 16)
    assert normalisation(COMPACT_BACKBONE) == normalisation("resnet18.tv_in1k")


def test_its_weights_are_bundled_as_half_precision():
    assert find_weights(COMPACT_BACKBONE) == WEIGHTS
    assert WEIGHTS.stat().st_size <= 6 * 2**20
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
