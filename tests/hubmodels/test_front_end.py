"""Patch features against the slow chain of the papers' codes, written out: unfold, upsample, pool, stack, pool."""

from functools import cache

import pytest
import timm
import torch
from reference.explicit import patch_features

from hubmodels.front_end import PatchFeatures, align, flatten


def relative_error(ours, reference):
    return ((ours - reference).abs().max() / reference.abs().max()).item()


@cache
def real_network(name):
    return timm.create_model(name, pretrained=False, features_only=True, out_indices=(2, 3)).eval()


@pytest.mark.parametrize("size", [(256, 256), (288, 288), (256, 320)])
@pytest.mark.parametrize("name", ["wide_resnet50_2.tv_in1k", "resnet18.tv_in1k"])
def test_equals_the_slow_chain_on_real_networks(name, size):
    """Random weights suffice: the equality is algebra, and real ResNets give the real shapes."""
    torch.manual_seed(0)
    network = real_network(name)
    with torch.no_grad():
        feature_maps = network(torch.rand(1, 3, *size))
    channels = network.feature_info.channels()
    embed_dim = sum(channels)
    ours = flatten(align(PatchFeatures(channels, embed_dim)(feature_maps)))
    assert ours.shape == (size[0] // 8 * (size[1] // 8), embed_dim)
    assert relative_error(ours, patch_features(feature_maps, embed_dim)) < 1e-5


@pytest.mark.parametrize(
    ("channels", "embed_dim", "patch_size"),
    [((128, 256), 1536, 3), ((192, 384), 576, 3), ((40, 112), 152, 3), ((40, 112, 96), 300, 3), ((16, 32), 48, 5)],
)
def test_equals_the_slow_chain_on_other_widths(channels, embed_dim, patch_size):
    torch.manual_seed(0)
    feature_maps = [torch.randn(2, c, 12 // 2**i, 8 // 2**i) for i, c in enumerate(channels)]
    ours = flatten(align(PatchFeatures(channels, embed_dim, patch_size)(feature_maps)))
    assert relative_error(ours, patch_features(feature_maps, embed_dim, patch_size)) < 1e-5


def test_a_dimension_never_mixes_layers():
    feature_maps = [torch.ones(1, 4, 8, 8), torch.zeros(1, 8, 4, 4)]
    features = align(PatchFeatures((4, 8), 12)(feature_maps))
    assert features[:, 6:].abs().max() == 0
    assert features[0, :6, 4, 4].allclose(torch.ones(6))  # an average: inside, ones stay one


@pytest.mark.parametrize(("embed_dim", "patch_size", "word"), [(13, 3, "multiple"), (12, 2, "centre")])
def test_impossible_sizes_are_refused(embed_dim, patch_size, word):
    with pytest.raises(ValueError, match=word):
        PatchFeatures((4, 8), embed_dim, patch_size)
