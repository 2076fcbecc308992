"""Pixel metrics from the counts of each picture: close to the exact ones, and bootstrapped as if pictures repeated."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy import ndimage

from training import pixel_curves
from training.metrics import PixelMetrics
from training.pixel_curves import CURVES_FILE, CurveCollector, PixelCurves


def pictures(count=30, size=(60, 70), seed=0, contrast=1.2, size_of_defects=14):
    """Smooth random maps, two thirds of them with defects of one to three regions."""
    rng = np.random.default_rng(seed)
    for i in range(count):
        values, mask = ndimage.gaussian_filter(rng.normal(size=size), 2), np.zeros(size, np.uint8)
        for _ in range(i % 3):
            row, column = rng.integers(5, min(size) - 14, 2)
            mask[row : row + 9, column : column + rng.integers(3, size_of_defects)] = 1
        yield f"test/{i:03}.png", (values + contrast * 0.3 * mask * rng.random()).astype(np.float32), mask


def collected(some):
    collector, exact = CurveCollector(), PixelMetrics()
    for name, values, mask in some:
        collector.update(name, values, mask)
        exact.update(values, mask)
    return PixelCurves.of(collector.table()), exact.compute()


@pytest.mark.parametrize("contrast", [0, 1, 3, 10])
def test_they_are_close_to_the_exact_metrics(contrast):
    curves, exact = collected(pictures(contrast=contrast))
    for name, (value,) in curves.metrics().items():
        assert value == pytest.approx(exact[name], abs=1e-3)


def test_normal_pixels_of_large_pictures_are_taken_from_a_grid(monkeypatch):
    monkeypatch.setattr(pixel_curves, "MOST_NORMAL", 1100)
    curves, exact = collected(pictures())
    assert curves.normal_pixels.max() == 60 * 70  # counted on every second row and column
    for name, (value,) in curves.metrics().items():
        assert value == pytest.approx(exact[name], abs=0.02)


def test_large_pictures_count_as_much_as_their_pixels(monkeypatch):
    """A grid that depends on the size once made a large picture count less than a small one."""
    monkeypatch.setattr(pixel_curves, "MOST_NORMAL", 1200)
    large = [(f"large {name}", values + 1, mask) for name, values, mask in pictures(15, (61, 69), 1)]
    curves, exact = collected([*pictures(15, (30, 40), 2, size_of_defects=6), *large])
    for name, (value,) in curves.metrics().items():
        assert value == pytest.approx(exact[name], abs=0.01)


def test_a_picture_that_counts_twice_is_there_twice():
    some = list(pictures(12))
    curves, _ = collected(some)
    weights = np.array([[2] * 3 + [0] * 3 + [1] * 6])
    twice, _ = collected([*some[:3], *some[:3], *some[6:]])
    for name, (value,) in curves.metrics(weights).items():
        assert value == pytest.approx(twice.metrics()[name][0], abs=5e-3)  # other thresholds


def test_hand_worked_counts(tmp_path):
    """Two regions, one found before any normal pixel, the other after half of them."""
    values = np.array([[9, 9, 0, 5], [1, 2, 6, 7]], np.float32)
    mask = np.array([[1, 1, 0, 0], [0, 0, 0, 0]], np.uint8)
    second = np.array([[0, 0, 0, 4]], np.float32)
    collector = CurveCollector()
    collector.update("a", values, mask)
    collector.update("b", second, np.array([[0, 0, 0, 1]], np.uint8))
    curves = PixelCurves.of(collector.table())
    assert (curves.normal_pixels.tolist(), curves.defect_pixels.tolist()) == ([6, 3], [2, 1])
    assert curves.regions.tolist() == [1, 1]
    # of 9 normal pixels 3 are above the second region
    assert curves.metrics()["pixel_auroc"][0] == pytest.approx((2 * 1 + 6 / 9) / 3, abs=0.06)
    pq.write_table(collector.table(), tmp_path / CURVES_FILE)
    assert np.array_equal(PixelCurves.read(tmp_path).overlap_above, curves.overlap_above)


def test_saturated_maps_and_pictures_without_defects_are_fine():
    collector = CurveCollector()
    collector.update("good", np.ones((4, 4), np.float32), np.zeros((4, 4), np.uint8))
    collector.update("bad", np.ones((4, 4), np.float32), np.eye(4, dtype=np.uint8))
    metrics = PixelCurves.of(collector.table()).metrics()
    assert metrics["pixel_auroc"][0] == pytest.approx(0.5)
    assert metrics["aupro"][0] == pytest.approx(0.15)  # a rising line up to 0.3
