"""What all rendered parts share: a pose in the light, and the damage that can happen to any surface.

A part draws all of its natural variation when it is made; `scene` lights it. Methods named in `defects` then each
damage it, drawing from another generator, so that a second `scene` differs from the first by the defect alone. Lengths
are in units of 1/256 of the picture's side, (u, v) are the part's own coordinates.
"""

import numpy as np

from training.parts.rendering import (
    UNITS,
    Field,
    Light,
    Point,
    along,
    arc,
    cover,
    disc,
    grain,
    grid,
    noise,
    over,
    posed,
    smooth,
)

SPECK_RADIUS = (2.0, 3.0)  # units, of the tiny defects


class Part:
    """Pose, light and damage that all parts share."""

    defects: tuple[str, ...]
    turn = 6.0  # degrees to either side

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        """Draws a good part of natural variation for a picture of that size."""
        self.size, self.pixel = size, UNITS / size
        self.x, self.y = grid(size)
        self.light = Light.draw(rng)
        shift, self.angle = rng.uniform(-4, 4, 2), rng.uniform(-self.turn, self.turn)
        self.u, self.v = posed(self.x, self.y, shift, self.angle, rng.uniform(0.985, 1.015))
        self.relief = np.zeros_like(self.x)
        self.coats: list[tuple[Field, Point]] = []
        self.tint = np.ones((size, size, 3), np.float32)
        self.gloss = np.ones_like(self.x)

    def scene(self) -> np.ndarray:
        """The lit part and its background, linear light (S, S, 3)."""
        raise NotImplementedError

    def spot(self, rng: np.random.Generator) -> np.ndarray:
        """A point (u, v) on the part for local damage."""
        return rng.uniform(-85, 85, 2).astype(np.float32)

    def coat(self, alpha: Field, colour: Point, dulls: float = 1.0) -> None:
        """Lay a colour on the part, which takes away `dulls` of its gloss there."""
        self.coats.append((alpha, colour))
        self.gloss = self.gloss * (1 - dulls * alpha)

    def soak(self, alpha: Field, colour: Point) -> None:
        """Let a transparent colour sink into the part."""
        self.tint = self.tint * over(np.ones_like(self.tint), colour, alpha)

    def coated(self, colour: np.ndarray) -> np.ndarray:
        """The part's own colour (S, S, 3), soaked and below its coats."""
        colour = colour * self.tint
        for alpha, paint in self.coats:
            colour = over(colour, paint, alpha)
        return colour

    def blob(self, rng: np.random.Generator, centre: Point, radius: float, roughness: float = 0.3) -> Field:
        """Signed distance to a spot with an irregular outline."""
        u, v = posed(self.u, self.v, centre, rng.uniform(0, 180))
        outline = noise(self.size, (2 * UNITS / radius, 2 * UNITS / radius), rng)
        return np.hypot(u, 1.25 * v) - radius * (1 + roughness * outline)

    def groove(
        self, rng: np.random.Generator, middle: Point, length: float, degrees: float, width: float
    ) -> tuple[Field, Field]:
        """Coverage and depth profile in [0, 1] of a slightly bent scratch that fades at its ends."""
        distance, position = along(self.u, self.v, arc(middle, length, degrees, rng.uniform(-0.5, 0.5)))
        fade = np.sqrt(np.maximum(np.sin(np.pi * position), 0)) * (0.8 + 0.2 * np.sin(23 * position))
        return cover(distance - width / 2, self.pixel + 0.4) * fade, np.exp(-((distance / width) ** 2)) * fade

    def bump(self, centre: Point, radius: float, height: float) -> None:
        """Press a round dent (negative) or bump into the surface."""
        distance = disc(self.u, self.v, centre, 0)
        self.relief = self.relief + height * np.exp(-2 * (distance / radius) ** 2)

    def rust(self, rng: np.random.Generator) -> None:
        """A few corroded spots."""
        centre, mottle = self.spot(rng), 0.5 * grain(self.size, rng)
        for _ in range(rng.integers(2, 6)):
            distance = self.blob(rng, centre + rng.normal(0, 9, 2), rng.uniform(4, 11), 0.3)
            colour = (0.15, 0.058, 0.02) * (1 + 0.5 * mottle)[..., None]
            self.coat(rng.uniform(0.6, 0.95) * cover(distance + 3 * mottle, 4), colour)

    def pit(self, rng: np.random.Generator) -> None:
        """A tiny dark hole with one bright edge."""
        centre, radius = self.spot(rng), rng.uniform(*SPECK_RADIUS)
        distance = self.blob(rng, centre, radius, 0.15)
        self.coat(cover(distance, 1.2), (0.02, 0.02, 0.02))
        far_side = smooth((self.u - centre[0] + self.v - centre[1] - radius) / 2)
        self.coat(0.7 * cover(np.abs(distance - 0.5) - 0.6, 1) * far_side, (0.8, 0.8, 0.8))


def table(size: int, colour: Point, rng: np.random.Generator) -> np.ndarray:
    """A matt mat (S, S, 3): slightly speckled and uneven."""
    layers = ((200, 0.09), (60, 0.05), (5, 0.03))  # cells per side, share of the light
    level = 1 + sum(share * noise(size, (cells, cells), rng) for cells, share in layers)
    return level[..., None] * np.asarray(colour, np.float32)
