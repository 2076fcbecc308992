"""Moved copies of the training pictures, on a picture with one bright square."""

import numpy as np
import pytest
from PIL import Image
from small_pictures import names, save

from hubmodels.samples import Sample
from training.config import TrainConfig
from training.position import Moved, move, moved_once, moved_samples


def square(top=20, left=30, side=8, size=(64, 80)):
    pixels = np.full((*size, 3), 100, np.uint8)
    pixels[top : top + side, left : left + side] = 250
    return pixels


def test_a_shift_moves_right_and_down():
    np.testing.assert_array_equal(move(square(), right=5, down=-3), square(top=17, left=35))


def test_a_turn_is_counter_clockwise_about_the_centre():
    turned = move(square(28, 60), degrees=90)  # right of the centre (32, 40) by 24, so above it after the turn
    y, x = np.nonzero(turned[..., 0] > 200)
    assert (y.mean(), x.mean()) == pytest.approx((31.5 - 24, 39.5), abs=0.6) and turned.shape == (64, 80, 3)


def test_the_border_is_reflected():
    column = np.arange(80, dtype=np.uint8)
    picture = np.repeat(np.tile(column, (64, 1))[..., None], 3, axis=-1)
    np.testing.assert_array_equal(move(picture, right=3)[0, :5, 0], [3, 2, 1, 0, 1])
    assert move(picture, right=200, down=70).shape == picture.shape


@pytest.fixture
def samples(tmp_path):
    paths = [save(Image.fromarray(square(left=10 * i)), tmp_path / f"{i}.png") for i in range(3)]
    return [Sample(f"train/good/{path.name}", path, "good", 0) for path in paths]


def test_each_picture_is_kept_and_has_moved_copies_within_the_tolerance(samples):
    found = moved_samples(samples, 0.1, 5, seed=0, copies=20)
    assert len(found) == 63 and [found[i] for i in (0, 21, 42)] == samples
    moves = [sample.source for sample in found if isinstance(sample.source, Moved)]
    for values, largest in (
        ([m.right for m in moves], 0.1),
        ([m.down for m in moves], 0.1),
        ([m.degrees for m in moves], 5),
    ):
        assert 0.8 * largest < max(values) <= largest and -largest <= min(values) < -0.8 * largest
    assert found == moved_samples(samples, 0.1, 5, seed=0, copies=20) != moved_samples(samples, 0.1, 5, 1, 20)
    assert "000.png" not in names(found) and names(found)[1] == "train/good/0.png (moved)"


def test_held_out_pictures_are_moved_too(samples):
    moved = moved_once(samples, 0.1, 0, seed=0)
    right, down = (round(share * side) for share, side in ((moved[1].source.right, 80), (moved[1].source.down, 64)))
    np.testing.assert_array_equal(np.asarray(moved[1].read()), move(square(left=10), right, down))
    assert len(moved) == 3 and (right, down) != (0, 0)


@pytest.mark.parametrize("wrong", [["5"], ["5", "3", "1"], ["-1", "0"], ["30", "0"], ["0", "60"]])
def test_tolerances_that_cannot_be(wrong, capsys):
    with pytest.raises(SystemExit):
        TrainConfig.from_command_line(["--data-root", "x", "--position-tolerance", *wrong])
    assert "takes a shift from 0 to 25 % and a turn from 0 to 45 degrees" in capsys.readouterr().err
