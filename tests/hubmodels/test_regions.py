"""Connected regions are counted as scipy counts them."""

import numpy as np
import pytest
from scipy import ndimage

from hubmodels.prediction import count_regions


def drawn(*rows):
    return np.array([[cell == "#" for cell in row] for row in rows])


@pytest.mark.parametrize(
    ("rows", "count"),
    [
        (("....", "...."), 0),
        (("####", "####"), 1),
        (("#..#", "...."), 2),
        (("#...", ".#..", "..#."), 1),  # corners touch
        (("#.#", "#.#", "###"), 1),  # two runs meet in a later row
        (("###", "#.#", "###"), 1),  # a ring
        (("#..", "...", "#.."), 2),
        (("#.#.#", ".#.#."), 1),
    ],
)
def test_regions_by_hand(rows, count):
    assert count_regions(drawn(*rows)) == count


def test_random_masks_as_scipy_counts_them():
    rng = np.random.default_rng(0)
    for _ in range(300):
        mask = rng.random(rng.integers(1, 16, 2)) < rng.random()
        assert count_regions(mask) == ndimage.label(mask, np.ones((3, 3)))[1]
