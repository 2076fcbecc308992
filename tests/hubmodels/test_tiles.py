"""Large images in tiles: the maps and predictions of one whole pass. The limits are lowered, so that small ones do."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from hubmodels import compare, heads, tiles
from hubmodels.backbone import Backbone, _build, load_backbone
from hubmodels.compactnet import BUNDLED_WEIGHTS, COMPACT_BACKBONE
from hubmodels.front_end import FrontEnd
from hubmodels.hybrid import Hybrid
from hubmodels.methods import METHODS
from hubmodels.simplenet import SimpleNet
from hubmodels.tiles import Field, receptive_fields
from training.objectives.hybrid import HybridObjective

KINDS = [method.detector for method in METHODS.values()]
BACKBONES = (COMPACT_BACKBONE, "resnet18.tv_in1k")  # with the bundled weights, and with random ones


class Limits:
    """Calls functions with everything in small parts, and counts the tiles."""

    def __init__(self, monkeypatch):
        self.monkeypatch, self.tiles = monkeypatch, []

    def __call__(self, function, *arguments):
        self.tiles.clear()
        one_pass = FrontEnd._aggregated
        with self.monkeypatch.context() as patch:
            patch.setattr(tiles, "LARGEST_WHOLE", 64 * 64)
            patch.setattr(heads, "MOST_VALUES", 10_000)
            patch.setattr(FrontEnd, "_aggregated", lambda own, x: self.tiles.append(x.shape[-2:]) or one_pass(own, x))
            return function(*arguments)


@pytest.fixture
def in_parts(monkeypatch):
    return Limits(monkeypatch)


def detector_of(kind, make_detector, backbone, image_size=64):
    """With a random head; the hybrid with a full memory of random vectors."""
    torch.manual_seed(0)
    if backbone == COMPACT_BACKBONE:
        detector = kind(backbone=backbone, image_size=image_size).eval()
    else:
        detector = make_detector(kind, calibrated=False, image_size=image_size)
    if kind is Hybrid:
        HybridObjective.grow(detector)
        for buffer in (detector.head.memory.projection, detector.head.memory.vectors):
            buffer.copy_(torch.randn_like(buffer))
    return detector


def images_of(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def assert_same(ours, whole):
    assert ours.shape == whole.shape
    assert (ours - whole).abs().max() <= 1e-5 * whole.abs().max()


@pytest.mark.parametrize(
    ("size", "count"),
    [((528, 544), 9), ((64, 640), 3), ((45, 533), 3), ((533, 45), 3)],  # two of them fit no grid
)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_tiles_give_the_maps_of_one_whole_pass(backbone, size, count, make_detector, in_parts):
    front_end, images = detector_of(SimpleNet, make_detector, backbone).front_end, images_of(2, 3, *size)
    in_tiles, whole = in_parts(front_end, images), front_end(images)
    assert len(in_parts.tiles) == count and max(map(max, in_parts.tiles)) < max(size)
    for ours, theirs in zip(in_tiles, whole, strict=True):
        assert_same(ours, theirs)
        assert ours.stride() == theirs.stride()  # in the order that heads are fast with


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("kind", KINDS)
def test_tiles_give_the_scores_of_one_whole_pass(kind, backbone, make_detector, in_parts):
    detector, images = detector_of(kind, make_detector, backbone), images_of(2, 3, 533, 45)
    assert_same(in_parts(detector, images), detector(images))
    assert len(in_parts.tiles) == 3


def test_predictions_and_comparisons_are_those_of_one_whole_pass(make_detector, in_parts):
    detectors = {kind.method: detector_of(kind, make_detector, COMPACT_BACKBONE, (64, 528)) for kind in KINDS}
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8))
    whole = {name: detector.predict(picture) for name, detector in detectors.items()}
    compared = in_parts(compare, detectors, picture)
    assert len(in_parts.tiles) == 3  # one pass for all methods
    for name, detector in detectors.items():
        for ours in (compared[name], in_parts(detector.predict, picture)):
            assert ours.image_score == pytest.approx(whole[name].image_score, rel=1e-5)
            assert_same(*(torch.from_numpy(p.anomaly_map) for p in (ours, whole[name])))


def test_images_of_usual_sizes_are_not_cut(make_detector, monkeypatch):
    monkeypatch.setattr("hubmodels.front_end.in_tiles", lambda *_: pytest.fail("it was cut"))
    front_end = make_detector(SimpleNet).front_end
    assert [len(front_end(torch.rand(1, 3, *size))) for size in ((64, 64), (32, 8192))] == [2, 2]
    assert tiles.LARGEST_WHOLE >= 1_000_000


def test_a_head_uses_few_values_at_once(make_detector, in_parts, monkeypatch):
    """Of hidden units and of distances there are too many for all patches of a large image."""
    detector, largest = detector_of(Hybrid, make_detector, COMPACT_BACKBONE), [0]
    aggregated = detector.front_end(torch.rand(1, 3, 96, 160))

    def watched(function):
        def call(*args):
            result = function(*args)
            largest[0] = max(largest[0], result.numel())
            return result

        return call

    for name in ("leaky_relu_", "linear"):
        monkeypatch.setattr(nn.functional, name, watched(getattr(nn.functional, name)))
    whole = detector.score_patches(aggregated)
    assert largest.pop() == 240 * 2000
    largest.append(0)
    assert_same(in_parts(detector.score_patches, aggregated), whole)
    assert largest[0] <= 2 * 10_000


# --------------------------------------------------------------------------------------------- receptive fields


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (COMPACT_BACKBONE, (Field(8, 41), Field(16, 97))),  # 3 + 2 + 2*4 + 4 + 3*8 = 41, + 8 + 3*16 = 97
        ("resnet18.tv_in1k", (Field(8, 49), Field(16, 105))),  # two more convolutions in layer1
        ("wide_resnet50_2.tv_in1k", (Field(8, 45), Field(16, 133))),
        ("resnet50d.ra2_in1k", (Field(8, 47), Field(16, 135))),  # three convolutions at first, and shortcuts that pool
        ("mobilenetv2_100.ra_in1k", (Field(8, 29), Field(16, 133))),
        ("seresnet50.ra2_in1k", None),  # squeeze-excitation
        ("efficientnet_b0.ra_in1k", None),
        ("tf_efficientnet_b0.in1k", None),  # its padding depends on the size
        ("convnext_atto.d2_in1k", None),  # rounds down where ours rounds up
        ("vit_tiny_patch16_224.augreg_in21k_ft_in1k", None),
        ("swin_tiny_patch4_window7_224.ms_in1k", None),
    ],
)
def test_receptive_fields_are_read_from_the_network(name, expected):
    with torch.device("meta"):
        network = _build(name, (2, 3))
    assert receptive_fields(network.eval().requires_grad_(False)) == expected


def test_receptive_fields_are_found_within_a_prediction():
    """Also where that is what loads the backbone: autograd takes no tensors made in inference mode."""
    with torch.inference_mode():
        backbone = Backbone(COMPACT_BACKBONE, (1,), BUNDLED_WEIGHTS / f"{COMPACT_BACKBONE}.safetensors")
        assert backbone.fields is None
        del backbone
        assert load_backbone(COMPACT_BACKBONE, (1,)).fields == (Field(4, 13),)


@pytest.mark.parametrize("name", [COMPACT_BACKBONE, "resnet18.tv_in1k"])
def test_a_pixel_changes_positions_within_reach_only(name, backbone_weights):
    backbone = load_backbone(name, weights=None if name == COMPACT_BACKBONE else backbone_weights)
    images = images_of(1, 3, 256, 512)
    changed = images.clone()
    changed[..., 128, 256] += 100
    for before, after, field in zip(backbone(images), backbone(changed), backbone.fields, strict=True):
        places = field.stride * (before != after).any(1).nonzero()
        assert len(places)
        assert (places[:, 1] - 128).abs().max() <= field.reach and (places[:, 2] - 256).abs().max() <= field.reach


class Plain(nn.Sequential):
    def forward(self, images):
        return [super().forward(images)]


class Positioned(Plain):
    """Adds a constant that depends on the position, as transformers do."""

    def forward(self, images):
        (maps,) = super().forward(images)
        return [maps + torch.arange(maps.shape[-1], device=maps.device)]


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (Plain(nn.Conv2d(3, 4, 3, 2, 2, dilation=2), nn.ReLU()), (Field(2, 2),)),
        (Plain(nn.Conv2d(3, 4, (1, 5), padding=(0, 2)), nn.AvgPool2d(2, ceil_mode=True)), (Field(2, 3),)),
        (Plain(nn.Conv2d(3, 4, 3)), None),  # without padding the map is smaller than the image
        (Plain(nn.Conv2d(3, 4, 3, (1, 2), 1)), None),
        (Plain(nn.ConvTranspose2d(3, 4, 3, padding=1)), None),
        (Plain(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(65)), None),
        (Positioned(nn.Conv2d(3, 4, 1)), None),
    ],
)
def test_only_steps_that_are_the_same_everywhere_are_cut(network, expected):
    assert receptive_fields(network.eval().requires_grad_(False)) == expected


def test_a_network_that_sees_the_whole_image_gets_it_in_one_piece(make_detector, in_parts, monkeypatch):
    detector, images = make_detector(SimpleNet), torch.rand(1, 3, 32, 528)
    monkeypatch.setitem(detector.front_end.backbone.__dict__, "fields", None)
    assert torch.equal(in_parts(detector.front_end, images)[0], detector.front_end(images)[0])
    assert in_parts.tiles == [(32, 528)]
