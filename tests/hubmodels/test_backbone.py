"""One frozen network per process, the right weights or none."""

import gc
import pickle
import shutil
import subprocess
import sys
import weakref
from functools import cache

import pytest
import timm
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file, save_file

from hubmodels import SimpleNet
from hubmodels import backbone as module
from hubmodels.backbone import Backbone, BackboneError, feature_channels, feature_strides, find_weights, load_backbone

NAME = "resnet18.tv_in1k"


def test_loaded_once_and_shared(backbone_weights):
    first = load_backbone(NAME, weights=backbone_weights)
    assert load_backbone(NAME, weights=backbone_weights) is first
    assert load_backbone(NAME, sha256=first.fingerprint) is first  # no path needed once it is in memory


def test_equals_timm_and_stays_frozen(backbone_weights):
    ours = load_backbone(NAME, weights=backbone_weights)
    network = timm.create_model(NAME, pretrained=False, features_only=True, out_indices=(2, 3)).eval()
    network.load_state_dict(load_file(backbone_weights), strict=False)
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        for folded, plain in zip(ours(images), network(images), strict=True):
            assert (folded - plain).abs().max() < 1e-5 * plain.abs().max()
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in ours.modules())
    assert not any(p.requires_grad for p in ours.parameters())


def test_eval_mode_whatever_is_called_on_the_parent(backbone_weights):
    ours = load_backbone(NAME, weights=backbone_weights)
    parent = torch.nn.ModuleList([ours]).train()
    assert parent.training and not any(m.training for m in ours.modules())


def test_fingerprint_follows_the_tensors_not_the_file(backbone_weights, tmp_path):
    """Extra tensors (layer4, fc) and metadata do not matter; one changed value in use does."""
    tensors = load_file(backbone_weights)
    save_file(tensors | {"fc.weight": torch.ones(1)}, tmp_path / "more.safetensors", {"note": "same weights"})
    tensors["conv1.weight"][0, 0, 0, 0] += 1e-3
    save_file(tensors, tmp_path / "tampered.safetensors")
    original = load_backbone(NAME, weights=backbone_weights)
    assert load_backbone(NAME, weights=tmp_path / "more.safetensors").fingerprint == original.fingerprint
    with pytest.raises(BackboneError, match="trained on"):
        load_backbone(NAME, weights=tmp_path / "tampered.safetensors", sha256="0" * 64)
    assert load_backbone(NAME, weights=tmp_path / "tampered.safetensors").fingerprint != original.fingerprint


def test_weights_that_do_not_cover_the_network_are_refused(backbone_weights, tmp_path):
    """timm itself stays silent about missing tensors and would go on with random ones."""
    tensors = load_file(backbone_weights)
    del tensors["layer3.1.conv2.weight"]
    save_file(tensors, tmp_path / "partial.safetensors")
    with pytest.raises(BackboneError, match=r"1 of \d+ tensors are missing, for example layer3.1.conv2.weight"):
        load_backbone(NAME, weights=tmp_path / "partial.safetensors")


def test_weights_of_another_network_are_refused(backbone_weights):
    with pytest.raises(BackboneError, match="does not contain the weights of resnet50"):
        load_backbone("resnet50.tv_in1k", weights=backbone_weights)


@pytest.mark.parametrize("content", [b"", b"not safetensors at all" * 10])
def test_unreadable_files_are_refused(content, tmp_path):
    (tmp_path / "bad.safetensors").write_bytes(content)
    with pytest.raises(BackboneError, match="not a readable safetensors file"):
        load_backbone(NAME, weights=tmp_path / "bad.safetensors")


def test_a_backbone_is_freed_with_its_last_detector(backbone_weights, tmp_path):
    """There were two caches that never freed anything."""
    copied = shutil.copy(backbone_weights, tmp_path / "copied.safetensors")
    tensors = load_file(copied)
    tensors["conv1.weight"] += 1  # other weights than those that the session shares
    save_file(tensors, copied)
    first = load_backbone(NAME, weights=copied)
    assert load_backbone(NAME, weights=copied) is first is load_backbone(NAME, sha256=first.fingerprint)
    gone = weakref.ref(first)
    del first
    gc.collect()
    assert gone() is None


def test_a_copy_in_another_process_finds_the_weights_of_a_file(backbone_weights, tmp_path):
    """The backbone does not travel with the detector, and its file is neither bundled nor on the Hub."""
    backbone = load_backbone(NAME, weights=backbone_weights)
    detector = SimpleNet(backbone=NAME, backbone_sha256=backbone.fingerprint, embed_dim=32, image_size=64).eval()
    detector.front_end.load_backbone(backbone_weights)
    (tmp_path / "detector.pickle").write_bytes(pickle.dumps(detector))
    script = "import pickle, sys; print(pickle.load(open(sys.argv[1], 'rb')).front_end.backbone.fingerprint)"
    command = [sys.executable, "-c", script, tmp_path / "detector.pickle"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == backbone.fingerprint, done.stderr


def test_missing_file_is_named(tmp_path):
    with pytest.raises(BackboneError, match="is not a file"):
        load_backbone(NAME, weights=tmp_path / "absent.safetensors")


@pytest.mark.parametrize("name", ["wide_resnet50_2", "resnet18.nonsense", "no_such_network.in1k"])
def test_a_name_must_say_which_weights(name):
    """timm's default for the untagged name is racm_in1k, not the papers' weights."""
    with pytest.raises(BackboneError, match="names no network and weights"):
        load_backbone(name)


def test_bundled_weights_come_before_the_hub(backbone_weights, tmp_path, monkeypatch):
    bundled = tmp_path / f"{NAME}.safetensors"
    bundled.write_bytes(backbone_weights.read_bytes())
    monkeypatch.setattr(module, "BUNDLED_WEIGHTS", tmp_path)
    assert find_weights(NAME) == bundled


def test_local_cache_comes_before_the_hub(tmp_path, monkeypatch):
    asked = []

    def download(repo_id, name, local_files_only=False):
        asked.append((repo_id, name, local_files_only))
        return str(tmp_path / name)

    monkeypatch.setattr(module, "hf_hub_download", download)
    assert find_weights("wide_resnet50_2.tv_in1k") == tmp_path / "model.safetensors"
    assert asked == [("timm/wide_resnet50_2.tv_in1k", "model.safetensors", True)]


def test_neither_cache_nor_hub_says_what_to_do(monkeypatch):
    def download(*_, local_files_only=False):
        raise LocalEntryNotFoundError("nothing here") if local_files_only else ConnectionError("offline")

    monkeypatch.setattr(module, "hf_hub_download", download)
    with pytest.raises(BackboneError, match="backbone_weights=FILE"):
        find_weights(NAME)


@pytest.mark.parametrize(
    ("name", "channels", "strides"),
    [
        ("wide_resnet50_2.tv_in1k", (512, 1024), (8, 16)),
        (NAME, (128, 256), (8, 16)),
        ("convnext_tiny.fb_in1k", (384, 768), (16, 32)),
        ("vit_small_patch14_dinov2.lvd142m", (384, 384), (14, 14)),
    ],
)
def test_channels_and_strides_are_known_without_weights(name, channels, strides):
    assert (feature_channels(name, (2, 3)), feature_strides(name)) == (channels, strides)


def test_strides_of_a_network_without_such_layers_are_refused():
    with pytest.raises(BackboneError, match=r"no feature maps of the layers \(2, 9\)"):
        feature_strides(NAME, (2, 9))


def test_building_a_network_draws_nothing_from_the_callers_random_stream(backbone_weights):
    """A seeded run must not depend on whether the backbone was already in memory."""
    feature_channels.cache_clear()
    torch.manual_seed(1)
    feature_channels(NAME, (2, 3))
    Backbone(NAME, (2, 3), backbone_weights)
    drawn = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), drawn)


@cache
def random_weights(name):
    torch.manual_seed(0)
    return timm.create_model(name, pretrained=False).state_dict()


def whole_weights(name, folder):
    """Random weights of the whole network under the names that its published file has."""
    save_file(random_weights(name), folder / "whole.safetensors")
    return folder / "whole.safetensors"


@pytest.mark.parametrize(
    ("name", "directly"),
    [
        ("resnet18.tv_in1k", True),
        ("efficientnet_b0.ra_in1k", True),
        ("convnext_atto.d2_in1k", True),
        ("vit_tiny_patch16_224.augreg_in21k_ft_in1k", True),
        ("swin_tiny_patch4_window7_224.ms_in1k", False),  # has tensors that no file contains
    ],
)
def test_of_a_whole_networks_file_only_what_is_used_is_read(name, directly, tmp_path, monkeypatch):
    """With the same tensors as timm, which builds and reads the whole."""
    weights, (by_timm, calls) = whole_weights(name, tmp_path), (module._read_by_timm, [])
    monkeypatch.setattr(module, "_read_by_timm", lambda *given: calls.append(given) or by_timm(*given))
    ours, theirs = (read(name, (1, 2), weights).state_dict() for read in (module._read_network, by_timm))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert len(calls) == (0 if directly else 1)


def test_a_file_that_changes_later_does_not_change_the_network(tmp_path):
    file = whole_weights(NAME, tmp_path)
    network = module._read_network(NAME, (2, 3), file)
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    with file.open("r+b") as opened:
        opened.write(bytes(file.stat().st_size))
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())


@pytest.mark.parametrize(
    ("name", "layers", "grid"),
    [
        ("vit_tiny_patch16_224.augreg_in21k_ft_in1k", (2, 3), 14),  # timm names its tensors "model.*"
        ("swin_tiny_patch4_window7_224.ms_in1k", (1, 2), 28),  # its maps are (B, h, w, C)
    ],
)
def test_transformers_give_maps_like_any_other_network(name, layers, grid, tmp_path):
    backbone = load_backbone(name, layers, weights=whole_weights(name, tmp_path))
    settings = {"backbone": name, "layers": layers, "backbone_sha256": backbone.fingerprint, "image_size": 224}
    detector = SimpleNet(**settings, embed_dim=32).eval()
    whole = timm.create_model(name, pretrained=False).eval()
    whole.load_state_dict(load_file(tmp_path / "whole.safetensors"))
    images = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        assert detector(images).shape == (1, grid, grid)
        expected = whole.forward_intermediates(images, indices=layers, output_fmt="NCHW", intermediates_only=True)
        assert all(a.allclose(b, atol=1e-5) for a, b in zip(backbone(images), expected, strict=True))
    assert detector.predict(torch.rand(3, 60, 90)).anomaly_map.shape == (60, 90)
    with pytest.raises(BackboneError, match=r"takes no images of this size.*224"):
        backbone(torch.rand(1, 3, 64, 64))


def test_features_that_are_no_maps_are_refused(backbone_weights, monkeypatch):
    backbone = Backbone(NAME, (2, 3), backbone_weights)
    monkeypatch.setattr(backbone.network, "forward", lambda images: [images.flatten(2)])  # tokens (B, N, D)
    with pytest.raises(BackboneError, match="no two-dimensional feature maps"):
        backbone(torch.rand(1, 3, 64, 64))


def test_layers_that_the_network_lacks_are_named(backbone_weights):
    with pytest.raises(BackboneError, match=r"no feature maps of the layers \(2, 9\)"):
        load_backbone(NAME, (2, 9), weights=backbone_weights)
