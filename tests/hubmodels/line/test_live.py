"""Which pictures of a camera are judged: one of each standstill."""

import numpy as np
import pytest
from PIL import Image

from hubmodels.line.live import EVERY, STILL_FOR, Scene, Standstill, still_pictures
from hubmodels.line.sources import Found, SourceError

RNG = np.random.default_rng(0)
BELT = np.full((240, 320, 3), 90, np.uint8)


def part(x, belt=BELT):
    """A part of a tenth of the picture's width, with its left side at x / 160 of it."""
    picture = belt.copy()
    picture[80:140, 2 * x : 2 * x + 32] = 180
    return picture


def noisy(picture, deviation=8.0):
    return np.clip(picture + RNG.normal(0, deviation, picture.shape), 0, 255).astype(np.uint8)


def scenes(pictures, every=EVERY):
    """What each picture of a camera shows."""
    standstill = Standstill()
    return [standstill.add(picture, number * every) for number, picture in enumerate(pictures)]


def test_a_part_is_judged_once_when_it_stands_still():
    found = scenes([part(x) for x in (0, 20, 40)] + [part(60)] * 6 + [part(80)] + [part(120)] * 4)
    assert found[:4] == [Scene.MOVING] * 4 and found.count(Scene.READY) == 2
    assert found.index(Scene.READY) == 3 + round(np.ceil(STILL_FOR / EVERY)) and found[7:9] == [Scene.HELD] * 2


def test_the_same_part_again_is_judged_again_because_it_may_be_another_one():
    found = scenes([part(60)] * 5 + [BELT] + [part(60)] * 5)
    assert found.count(Scene.READY) == 2


def test_noise_and_flickering_light_are_no_movement():
    light = [1.0, 1.1, 0.9, 1.05, 0.95, 1.1]
    found = scenes([noisy(part(60) * factor) for factor in light])
    assert found == [Scene.MOVING, *[Scene.SETTLING] * 2, Scene.READY, *[Scene.HELD] * 2]


def test_a_part_that_creeps_is_not_still():
    assert Scene.READY not in scenes([part(20 + 2 * step) for step in range(20)], every=0.2)


def test_a_camera_with_another_size_of_picture_moves():
    standstill = Standstill()
    assert [standstill.add(picture, 9.0) for picture in (BELT, BELT[:60])] == [Scene.MOVING] * 2


def test_a_picture_that_was_judged_at_once_is_not_judged_again():
    standstill = Standstill()
    standstill.judged(Image.fromarray(part(60)), 0.0)
    assert standstill.add(part(60), 5.0) is Scene.HELD and standstill.add(part(80), 5.2) is Scene.MOVING


def test_of_a_video_those_to_judge_remain_and_files_cannot_stand_still():
    shown = [part(60)] * 5 + [part(100)] * 5
    found = [Found(f"belt.mp4#t={n * EVERY:.2f}", picture, n * EVERY) for n, picture in enumerate(shown)]
    assert [each.name for each in still_pictures(found)] == ["belt.mp4#t=0.60", "belt.mp4#t=1.60"]
    with pytest.raises(SourceError, match="is a file"):
        list(still_pictures([Found("a.png", BELT)]))
    with pytest.raises(SourceError, match=r"nothing stood still for 0\.5 s until b\.mp4#t=0\.20"):
        list(still_pictures([Found("b.mp4#t=0.00", BELT, 0.0), Found("b.mp4#t=0.20", BELT, 0.2)]))
