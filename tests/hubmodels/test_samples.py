"""Reading pictures and masks of samples, on small generated pictures."""

import os

import numpy as np
import pytest
from PIL import Image
from small_pictures import SIZE, add_category, find, mask, only, picture, save

from hubmodels.folders import find_labelled
from hubmodels.pictures import PictureError
from hubmodels.samples import as_text
from training.data import open_categories


@pytest.fixture
def category_folder(tmp_path):
    return add_category(tmp_path)


def test_read_gives_the_picture(category_folder):
    sample = only(open_categories(category_folder)).train[0]
    np.testing.assert_array_equal(np.asarray(sample.read()), np.asarray(Image.open(sample.source)))


def test_read_names_a_broken_sample(category_folder):
    sample = only(open_categories(category_folder)).train[0]
    sample.source.write_bytes(b"no picture")
    with pytest.raises(PictureError, match=r"train/good/000\.png"):
        sample.read()


def anomalous_sample(category_folder):
    return find(only(open_categories(category_folder)).test, "test/crack/000.png")


def test_mask_rule_is_above_one_half(category_folder):
    sample = anomalous_sample(category_folder)
    greys = np.tile(np.array([0, 1, 127, 128, 254, 255], dtype=np.uint8), (40, 8))
    save(Image.fromarray(greys), sample.mask)
    truth = sample.read_mask(SIZE)
    assert truth.dtype == np.uint8 and truth.shape == SIZE
    np.testing.assert_array_equal(truth[0, :6], [0, 0, 0, 1, 1, 1])


def test_one_bit_and_colour_masks(category_folder):
    sample = anomalous_sample(category_folder)
    expected = np.asarray(mask()) // 255
    for mode in ("1", "RGB", "P"):
        save(mask().convert(mode), sample.mask)
        np.testing.assert_array_equal(sample.read_mask(SIZE), expected)


def test_normal_samples_have_an_empty_mask(category_folder):
    truth = find(only(open_categories(category_folder)).test, "test/good/000.png").read_mask((7, 9))
    assert truth.shape == (7, 9) and truth.dtype == np.uint8 and not truth.any()


def test_mask_of_another_size(category_folder):
    sample = anomalous_sample(category_folder)
    save(mask((20, 24)), sample.mask)
    np.testing.assert_array_equal(sample.read_mask(SIZE), np.asarray(mask()) // 255)
    assert sample.read_mask((41, 48)).shape == (41, 48)  # 20 x 24 is 41 x 48 halved and rounded
    thin = np.zeros((80, 96), dtype=np.uint8)
    thin[:, 5] = 255  # a scratch one pixel wide, which interpolation would wipe out
    save(Image.fromarray(thin), sample.mask)
    np.testing.assert_array_equal(np.flatnonzero(sample.read_mask(SIZE)[0]), [2])
    save(mask((24, 20)), sample.mask)
    with pytest.raises(ValueError, match=r"test/crack/000\.png: the mask is 24 x 20 but the picture is 40 x 48"):
        sample.read_mask(SIZE)


def test_unreadable_mask_is_an_error(category_folder):
    sample = anomalous_sample(category_folder)
    sample.mask.write_bytes(b"no picture")
    with pytest.raises(PictureError, match=r"test/crack/000\.png: the mask cannot be read"):
        sample.read_mask(SIZE)


def test_a_mask_without_defect_is_an_error(category_folder):
    """Often one of 0 and 1 instead of 0 and 255: it would count every defect pixel as normal."""
    sample = anomalous_sample(category_folder)
    save(mask(grey=1), sample.mask)
    with pytest.raises(ValueError, match=r"test/crack/000\.png: the mask is empty"):
        sample.read_mask(SIZE)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (b"pr\xfcf.png", r"pr\xfcf.png"),  # Latin-1
        (b"\x81.png", r"\x81.png"),  # of a ZIP file of an old Windows
        ("prüf 部品.png".encode(), "prüf 部品.png"),
        (b"plain.png", "plain.png"),
    ],
)
def test_names_that_are_not_utf8_can_be_stored(tmp_path, name, text):
    """A run ended with "surrogates not allowed", and a terminal without UTF-8 made it one with any umlaut."""
    folder = tmp_path / "part" / "test" / "good"
    save(picture(0), folder / "000.png")
    os.rename(folder / "000.png", os.fsencode(folder) + b"/" + name)
    (sample,) = find_labelled(tmp_path)[0].test
    assert sample.name == f"test/good/{text}" and sample.read().size == (48, 40)
    assert as_text(name.decode("ascii", "surrogateescape")) == text  # as Python reads it in such a terminal
    sample.name.encode()


def test_single_surrogates_of_windows_can_be_stored():
    assert as_text("a\ud800b") == r"a\ud800b"
