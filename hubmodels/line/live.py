"""Continuous pictures of a camera or video: which of them to judge. A part is judged once each time it stands still.

standstill = Standstill()
for found in pictures_of("camera:0", every=0.2):
    if standstill.add(found.picture, found.seconds) is Scene.READY:
        print(line.judge(found.name, found.picture))
"""

from collections.abc import Iterable, Iterator
from enum import Enum

import numpy as np
from PIL import Image

from hubmodels.line.sources import Found, SourceError
from hubmodels.pictures import read_picture

SIDE = 32  # cells of the longer side: of two pictures the mean brightnesses of cells are compared
STEP = 6.0  # of 255: by how much a cell differs if something moved there; noise of a camera is below 1 in its mean
MOVED = 0.003  # share of the cells, two or three of them
STILL_FOR = 0.5  # seconds; focus and exposure of a camera settle in this time
EVERY = 0.2  # seconds between two pictures that are compared


class Scene(Enum):
    """What a picture shows, compared with those before."""

    MOVING = "moving"  # something moved
    SETTLING = "settling"  # nothing moves, but not for long enough yet
    READY = "ready"  # this picture is to be judged
    HELD = "held"  # it was judged, and nothing has moved since then


class Standstill:
    """Whether the scene stands still.

    Each picture is compared with the first one of the present standstill, so that slow movements are seen, too. Light
    that becomes stronger or weaker everywhere is no movement.
    """

    def __init__(self) -> None:
        self._first: np.ndarray | None = None  # cells of that picture
        self._since, self._is_judged = 0.0, False

    def add(self, picture: Image.Image | np.ndarray, seconds: float) -> Scene:
        """The next picture.

        Args:
            picture: RGB; an array is (H, W, 3) uint8.
            seconds: when it was taken, on any clock.
        """
        cells = _cells(picture)
        if self._first is None or _moved(self._first, cells):
            self._first, self._since, self._is_judged = cells, seconds, False
            return Scene.MOVING
        if self._is_judged:
            return Scene.HELD
        if seconds - self._since < STILL_FOR - 1e-6:
            return Scene.SETTLING
        self._is_judged = True
        return Scene.READY

    def judged(self, picture: Image.Image | np.ndarray, seconds: float) -> None:
        """This picture was judged without waiting for a standstill; it is not judged again while nothing moves."""
        self._first, self._since, self._is_judged = _cells(picture), seconds, True

    def failed(self) -> None:
        """The picture could not be judged; the next one is to be, as long as nothing moves."""
        self._is_judged = False


def still_pictures(pictures: Iterable[Found]) -> Iterator[Found]:
    """Of the pictures of a camera or video, those to judge.

    Raises:
        SourceError: a picture has no time, because it is a file; or nothing stood still until the end.
    """
    standstill, found, is_empty = Standstill(), None, True
    for found in pictures:
        if found.seconds is None:
            raise SourceError(f"{found.name} is a file: only the pictures of a camera or video can stand still")
        if standstill.add(read_picture(found.picture), found.seconds) is Scene.READY:
            is_empty = False
            yield found
    if is_empty and found:
        raise SourceError(f"nothing stood still for {STILL_FOR:g} s until {found.name}")


def _cells(picture: Image.Image | np.ndarray) -> np.ndarray:
    """RGB picture -> mean brightness of its cells (h, w), 0 to 255; the longer side has SIDE cells."""
    picture = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    share = SIDE / max(picture.size)
    size = tuple(max(1, round(side * share)) for side in picture.size)
    return np.asarray(picture.convert("L").resize(size, Image.Resampling.BOX), np.float32)


def _moved(before: np.ndarray, now: np.ndarray) -> bool:
    if before.shape != now.shape:
        return True
    gain = float(np.median((now + 1) / (before + 1)))  # of light and exposure
    return float(np.mean(np.abs(now / gain - before) > STEP)) > MOVED
