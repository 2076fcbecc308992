"""Drawing primitives of the rendered sample parts: coordinates, shapes, grain, light, and the camera.

Lengths are in units of 1/256 of the picture's side, so a part looks the same at every size; "field" means float32
(S, S). Colours are linear light, (3,) or (S, S, 3), until the camera develops them. Shapes are signed distances,
negative inside, from which `cover` makes antialiased coverage. Every draw comes from the generator passed in.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

UNITS = 256  # per picture side
STENCIL_SCALE = 3  # stencil pixels per unit
GAMMA = 2.2
EXPOSURE = 1.7  # of the shoulder that rolls off highlights
CONTRAST = 0.6  # share of the S-curve that photographs get
POLYLINE = 12  # points of a curve

Field = np.ndarray
Point = Sequence[float]


# --- coordinates and shapes ---


def grid(size: int) -> tuple[Field, Field]:
    """The x and y of each pixel's centre, in units from the picture's centre; y grows downwards."""
    at = (np.arange(size, dtype=np.float32) + 0.5) * (UNITS / size) - UNITS / 2
    x, y = np.meshgrid(at, at)
    return x, y


def posed(x: Field, y: Field, shift: Point, degrees: float, scale: float = 1.0) -> tuple[Field, Field]:
    """The coordinates in a part that is scaled, turned clockwise by `degrees` and shifted."""
    cosine, sine = (np.float32(f(np.radians(degrees)) / scale) for f in (np.cos, np.sin))
    x, y = x - np.float32(shift[0]), y - np.float32(shift[1])
    return cosine * x + sine * y, cosine * y - sine * x


def disc(x: Field, y: Field, centre: Point, radius: float) -> Field:
    """Signed distance to a disc."""
    return np.hypot(x - np.float32(centre[0]), y - np.float32(centre[1])) - np.float32(radius)


def box(x: Field, y: Field, centre: Point, half: Point, radius: float = 0.0) -> Field:
    """Signed distance to a box of half sides `half`, its corners rounded by `radius`."""
    dx = np.abs(x - np.float32(centre[0])) - np.float32(half[0] - radius)
    dy = np.abs(y - np.float32(centre[1])) - np.float32(half[1] - radius)
    outside = np.hypot(np.maximum(dx, 0), np.maximum(dy, 0))
    return outside + np.minimum(np.maximum(dx, dy), 0) - np.float32(radius)


def arc(middle: Point, length: float, degrees: float, bend: float) -> np.ndarray:
    """Points (POLYLINE, 2) of a curve through `middle` that turns by `bend` radians on its way."""
    step = np.linspace(-0.5, 0.5, POLYLINE)
    heading = np.radians(degrees) + bend * step
    points = np.cumsum(np.stack([np.cos(heading), np.sin(heading)], axis=-1), axis=0) * length / POLYLINE
    return (points - points.mean(axis=0) + np.asarray(middle)).astype(np.float32)


def along(x: Field, y: Field, points: np.ndarray) -> tuple[Field, Field]:
    """Distance to a polyline (N, 2), and the position of the nearest point on it in [0, 1]."""
    best, position = np.full_like(x, np.inf), np.zeros_like(x)
    for k, (start, end) in enumerate(pairwise(points)):
        step = end - start
        px, py = x - start[0], y - start[1]
        t = np.clip((px * step[0] + py * step[1]) / (step @ step), 0, 1)
        distance = (px - t * step[0]) ** 2 + (py - t * step[1]) ** 2
        nearer = distance < best
        best, position = np.where(nearer, distance, best), np.where(nearer, k + t, position)
    return np.sqrt(best), position / np.float32(len(points) - 1)


def cover(distance: Field, soft: float) -> Field:
    """Coverage in [0, 1] of a signed distance, changing over a width of `soft`: one pixel for a sharp edge."""
    return np.clip(0.5 - distance / np.float32(soft), 0, 1)


def smooth(value: Field) -> Field:
    """The cubic step from 0 to 1 on [0, 1], constant beyond."""
    value = np.clip(value, 0, 1)
    return value * value * (3 - 2 * value)


@lru_cache(maxsize=32)
def _stencil(text: str, height: int) -> np.ndarray:
    font = ImageFont.load_default(height * STENCIL_SCALE)  # comes with Pillow: the same on every machine
    left, top, right, bottom = font.getbbox(text, stroke_width=1)
    picture = Image.new("L", (int(right - left) + 12, int(bottom - top) + 12))
    ImageDraw.Draw(picture).text((6 - left, 6 - top), text, 255, font, stroke_width=1)
    return ndimage.gaussian_filter(np.asarray(picture, np.float32) / 255, STENCIL_SCALE / 3)


def lettering(x: Field, y: Field, text: str, height: int) -> Field:
    """Coverage in [0, 1] of a text centred at (0, 0), set in a font of that height."""
    stencil = _stencil(text, height)
    centre = (np.array(stencil.shape, np.float32) - 1) / 2
    rows, columns = y * STENCIL_SCALE + centre[0], x * STENCIL_SCALE + centre[1]
    result = np.zeros_like(x)
    near = (np.abs(rows - centre[0]) < centre[0]) & (np.abs(columns - centre[1]) < centre[1])
    result[near] = ndimage.map_coordinates(stencil, (rows[near], columns[near]), order=1)
    return result


# --- grain ---


def noise(size: int, cells: tuple[float, float], rng: np.random.Generator) -> Field:
    """Smooth noise of about unit deviation, `cells` independent values per side (down, across)."""
    height, width = (max(2, min(size, round(count))) for count in cells)
    values = rng.standard_normal((height, width), dtype=np.float32)
    return np.asarray(Image.fromarray(values).resize((size, size), Image.Resampling.BICUBIC))


def grain(size: int, rng: np.random.Generator) -> Field:
    """Noise on all scales from a sixth of the side to the pixel, of about unit deviation."""
    return sum(0.5 * noise(size, (cells, cells), rng) for cells in (6, 24, 90, 256))


def blur(image: np.ndarray, sigma: float, pixel: float) -> np.ndarray:
    """A field or picture, blurred by a Gaussian of `sigma` units."""
    sigmas = (sigma / pixel, sigma / pixel, 0)[: image.ndim]
    return ndimage.gaussian_filter(image, sigmas, mode="nearest", truncate=3)


# --- light ---


@dataclass(frozen=True)
class Light:
    """A lamp above the table: unit direction towards it, and its strength."""

    direction: np.ndarray
    strength: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Light":
        """From the upper left at 50 degrees, give or take a few; strength 1 within 5 %."""
        azimuth, elevation = np.radians([-125 + rng.uniform(-8, 8), 50 + rng.uniform(-3, 3)])
        flat = np.cos(elevation)
        direction = np.array([flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(elevation)], np.float32)
        return cls(direction, rng.uniform(0.95, 1.05))

    def diffuse(self, slope_x: Field, slope_y: Field) -> Field:
        """Matt shading of a surface with these slopes: 1 where it is level, 0 where it turns away."""
        return _cosine(slope_x, slope_y, self.direction) / self.direction[2]

    def specular(self, slope_x: Field, slope_y: Field, sharpness: float) -> Field:
        """Mirror-like shading in [0, 1]: 1 where the surface reflects the lamp into the camera."""
        halfway = self.direction + np.float32([0, 0, 1])
        return _cosine(slope_x, slope_y, halfway / np.linalg.norm(halfway)) ** sharpness


def _cosine(slope_x: Field, slope_y: Field, direction: np.ndarray) -> Field:
    """Of the angle between a surface's normal and a unit direction; 0 where it faces away."""
    x, y, z = direction
    return np.maximum((z - x * slope_x - y * slope_y) / np.sqrt(1 + slope_x**2 + slope_y**2), 0)


def slopes(height: Field, pixel: float) -> tuple[Field, Field]:
    """Slopes along x and y of a height field in units."""
    across, down = (ndimage.correlate1d(height, (-0.5, 0, 0.5), axis, mode="nearest") for axis in (1, 0))
    return across / np.float32(pixel), down / np.float32(pixel)


def over(below: np.ndarray, colour: np.ndarray | Point, alpha: Field) -> np.ndarray:
    """A picture with a colour, or another picture, laid over it."""
    alpha = alpha[..., None]
    return below + alpha * (np.asarray(colour, np.float32) - below)


def shadow(covered: Field, reach: float, light: Light, pixel: float) -> Field:
    """Share of light that reaches the table, in [0, 1], below a part of that coverage lying on it."""
    x, y, _ = -light.direction * (reach / pixel)
    cast = ndimage.shift(blur(covered, reach * 0.6, pixel), (y, x), order=1, mode="nearest")
    return 1 - 0.6 * cast - 0.35 * blur(covered, reach * 0.3, pixel)


# --- camera ---


class Camera:
    """Vignette, colour temperature, focus and sensor of one picture; drawn once, for every picture of its seed."""

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        """Draws what the camera adds to a picture of that size."""
        x, y = grid(size)
        self.pixel = UNITS / size
        off_x, off_y = rng.uniform(-12, 12), rng.uniform(-12, 12)
        falloff = rng.uniform(0.13, 0.19) * ((x - off_x) ** 2 + (y - off_y) ** 2) / (UNITS / 2) ** 2 / 2
        warmth = rng.uniform(-0.02, 0.02)
        self.gain = (1 - falloff)[..., None] * np.array([1 + warmth, 1, 1 - warmth], np.float32)
        self.defocus = rng.uniform(0.5, 0.75)
        sensor = rng.standard_normal((size, size, 3), dtype=np.float32)
        self.sensor = 0.8 * sensor + 0.6 * sensor[..., 1:2] + 0.5 * np.roll(sensor, 1, axis=1)

    def develop(self, scene: np.ndarray) -> np.ndarray:
        """Linear light (S, S, 3) -> grey levels in [0, 255] without sensor noise."""
        light = blur(np.maximum(scene, 0) * self.gain, self.defocus, self.pixel)
        levels = (1 - np.exp(-EXPOSURE * light)) ** np.float32(1 / GAMMA)
        return 255 * (levels + CONTRAST * (smooth(levels) - levels))

    def expose(self, levels: np.ndarray) -> np.ndarray:
        """Developed levels -> uint8 (S, S, 3) with noise that grows with the light, as photons do."""
        noisy = levels + (0.6 + 1.1 * np.sqrt(levels / 255)) * self.sensor
        return np.clip(noisy + 0.5, 0, 255).astype(np.uint8)
