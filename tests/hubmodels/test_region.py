"""The part of the picture that counts: nothing outside moves a score, a map or a warning."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from hubmodels import GLASS, Hybrid, ModelError, SimpleNet, load
from hubmodels.region import Region, read_region

SIZE = 64
METHODS = pytest.mark.parametrize("method", [SimpleNet, GLASS, Hybrid])


def block(top=16, bottom=48, left=8, right=40, size=(SIZE, SIZE)):
    mask = torch.zeros(size, dtype=torch.bool)
    mask[top:bottom, left:right] = True
    return mask


def noise(seed=0, size=(SIZE, SIZE)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


@pytest.fixture
def make_limited(make_detector):
    """Factory of detectors that look at a block."""

    def make(method, mask=None, **settings):
        detector = make_detector(method, calibrated=False, region=True, **settings)
        detector.front_end.region.set(block() if mask is None else mask)
        detector.calibrate([Image.fromarray(noise(seed)) for seed in range(5)], 0.2)
        return detector

    return make


def test_a_patch_counts_with_half_of_its_pixels():
    region = Region((32, 32), 8, (0.5, 0.5, 0.5))
    mask = torch.zeros(32, 32, dtype=torch.bool)
    mask[:8, :12] = True  # one whole patch, and half of the next
    mask[8:16, :3] = True  # 24 of 64 pixels
    region.set(mask)
    assert region.patches.int().tolist() == [[1, 1, 0, 0], [0] * 4, [0] * 4, [0] * 4]
    assert region.numbers.tolist() == [0, 1] and region.share == pytest.approx((96 + 24) / 1024)
    scores = torch.arange(16.0).view(1, 4, 4)
    assert region.counting(scores).tolist() == [[[0.0, 1.0]]]


def test_a_region_without_a_patch_is_refused():
    region = Region((32, 32), 8, (0.5, 0.5, 0.5))
    with pytest.raises(ValueError, match="leaves no patch: each has 8 x 8 pixels"):
        region.set(block(0, 3, 0, 32, (32, 32)))


@METHODS
def test_pixels_outside_change_nothing(make_limited, method):
    detector, inside = make_limited(method), block().numpy()
    pixels, other = noise(7), noise(8)
    other[inside] = pixels[inside]
    one, two = detector.predict(pixels), detector.predict(other)
    assert one.numbers() | {"latency_ms": 0} == two.numbers() | {"latency_ms": 0} and one.warnings == two.warnings
    assert (one.anomaly_map == two.anomaly_map).all()
    other[20, 20] = 255 - other[20, 20]  # the test can fail
    assert detector.predict(other).image_score != one.image_score


@METHODS
def test_a_map_shows_nothing_outside(make_limited, method):
    detector = make_limited(method)
    found, inside = detector.predict(noise(7)), block().numpy()
    outside = found.anomaly_map[~inside]
    assert np.ptp(outside) == 0 and np.isin(outside[0], np.float32(scores_of(detector, noise(7))))
    assert np.ptp(found.anomaly_map[inside]) > 0 and not found.mask[~inside].any()


def scores_of(detector, pixels):
    region = detector.front_end.region
    return region.counting(detector(detector.front_end.prepare([Image.fromarray(pixels)]))).flatten().numpy()


@METHODS
def test_the_image_score_is_that_of_the_patches_inside(make_limited, method):
    detector = make_limited(method)
    counting = torch.from_numpy(scores_of(detector, noise(7)))[None, None]
    assert counting.numel() == 16
    assert detector.predict(noise(7)).image_score == pytest.approx(detector.head.image_scores(counting).item())


def test_a_constant_score_gives_a_constant_map_up_to_the_border():
    region = Region((SIZE, SIZE), 8, (0, 0, 0))
    region.set(block())
    assert torch.allclose(region.smooth(torch.full((2, 8, 8), 3.0)), torch.tensor(3.0))


def test_with_everything_inside_nothing_changes(make_detector):
    """The mask of a new region: the same map, up to rounding."""
    whole, plain = (make_detector(SimpleNet, **given) for given in ({"region": True}, {}))
    one, two = whole.predict(noise(3)), plain.predict(noise(3))
    assert one.image_score == two.image_score
    assert np.abs(one.anomaly_map - two.anomaly_map).max() < 1e-5 * np.ptp(two.anomaly_map)


def test_it_is_saved_and_loaded_with_the_model(make_limited, tmp_path):
    detector = make_limited(SimpleNet)
    detector.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    assert torch.equal(loaded.front_end.region.mask, block())
    assert loaded.predict(noise(4)).image_score == detector.predict(noise(4)).image_score


def test_a_file_whose_region_is_empty_does_not_load(make_limited, tmp_path):
    make_limited(SimpleNet).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["front_end.region.mask"][:] = False
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    config = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(
        "\n".join(line for line in config.splitlines() if "weights_sha256" not in line).replace(",\n}", "\n}")
    )
    with pytest.raises(ModelError, match="leaves no patch"):
        load(tmp_path)


def test_detectors_with_other_regions_share_no_pass(make_limited, make_detector):
    keys = {make_limited(SimpleNet).front_end.key, make_limited(GLASS).front_end.key}
    keys |= {make_limited(SimpleNet, block(0, 32)).front_end.key, make_detector(SimpleNet).front_end.key}
    assert len(keys) == 3


def test_a_picture_of_a_region_is_mapped_as_pictures_are():
    drawn = Image.new("L", (200, 100), 0)
    drawn.paste(255, (100, 0, 200, 100))  # the right half
    mask = read_region(drawn, (64, 32))
    assert mask.shape == (64, 32) and mask[:, 16:].all() and not mask[:, :16].any()
    cropped = read_region(drawn, (32, 32), (64, 64))
    assert cropped.shape == (32, 32) and cropped[:, 16:].all() and not cropped[:, :16].any()


def test_it_is_shown_at_the_size_of_a_picture():
    region = Region((32, 32), 8, (0, 0, 0))
    region.set(block(0, 32, 0, 16, (32, 32)))
    shown = region.of_picture((100, 300), (32, 32))
    assert shown.shape == (100, 300) and shown[:, :150].all() and not shown[:, 150:].any()
    uncropped = region.of_picture((64, 64), (64, 64))  # of which the centre was inspected
    assert uncropped[16:48, 16:32].all() and uncropped.sum() == 32 * 16


@pytest.mark.filterwarnings("ignore::hubmodels.PictureWarning")
def test_a_prediction_knows_what_counts_at_each_size_and_rate(make_limited, make_detector):
    detector = make_limited(SimpleNet)
    found = detector.predict(noise(1, (128, 256)))
    assert found.counts.shape == (128, 256) and found.counts[32:96, 32:160].all() and found.counts.sum() == 64 * 128
    assert np.array_equal(detector.decide(found, 0.4).counts, found.counts)
    assert found.at_most(64).counts.sum() == 16 * 32 and make_detector(SimpleNet).predict(noise()).counts is None


def test_moved_to_another_type_it_stays_a_mask(make_limited):
    detector = make_limited(SimpleNet).to(torch.float64)
    assert detector.front_end.region.mask.dtype == torch.bool
    assert detector.predict(noise(4)).image_score == pytest.approx(
        make_limited(SimpleNet).predict(noise(4)).image_score
    )
