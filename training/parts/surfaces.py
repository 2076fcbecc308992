"""What all rendered parts share, pose, light and damage; and the two textures, cloth and brushed metal.

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
    slopes,
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


class Cloth(Part):
    """Twill of dark warp (along v) and light weft (along u) threads."""

    defects = ("hole", "stain", "loose_thread", "missing_thread", "knot")
    turn = 2.0
    period = 8.0  # units between threads
    loose_colours = np.float32([[0.75, 0.72, 0.62], [0.35, 0.05, 0.04], [0.02, 0.02, 0.02]])
    warp_colour, weft_colour = np.float32([0.055, 0.085, 0.15]), np.float32([0.45, 0.44, 0.40])

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        super().__init__(size, rng)
        phase = rng.uniform(0, 100, 2).astype(np.float32)
        self.across = self.u / self.period + phase[0] + self.wobble((60, 14), rng)
        self.down = self.v / self.period + phase[1] + self.wobble((14, 60), rng)
        self.warp_table, self.weft_table = rng.standard_normal((2, 256, 3), dtype=np.float32)
        self.warp_fibre, self.weft_fibre = noise(size, (70, 256), rng), noise(size, (256, 70), rng)
        self.fold = noise(size, (4, 4), rng)
        self.missing = np.zeros_like(self.x)
        self.torn = np.zeros_like(self.x)

    def wobble(self, cells: tuple[int, int], rng: np.random.Generator) -> Field:
        """How far threads run off their straight way, in periods."""
        return 0.14 * noise(self.size, (9, 9), rng) + 0.06 * noise(self.size, cells, rng)

    def thread(
        self, across: Field, along_it: Field, lift: Field, own: np.ndarray, fibre: Field
    ) -> tuple[Field, Field]:
        """Height and brightness of one set of threads; each differs a little in width, shade and twist."""
        whole = np.floor(across)
        own = own[whole.astype(int) % len(own)]
        offset = 2 * (across - whole - 0.5) / (0.98 + 0.04 * own[..., 0])
        height = np.sqrt(np.maximum(1 - offset**2, 0)) + 0.75 * lift
        twist = np.sin(2 * np.pi * (1.1 * along_it + 0.45 * offset + own[..., 1]))
        shade = 1 + 0.07 * own[..., 2] + 0.12 * twist + 0.14 * fibre
        return np.where(np.abs(offset) < 1, height, -1) + 0.06 * twist + 0.05 * fibre, shade

    def scene(self) -> np.ndarray:
        """Where warp and weft cross, the upper one shows; hollows are dark."""
        warp_lift = np.cos(np.pi / 2 * (self.down - np.floor(self.across) - 1))
        weft_lift = -np.cos(np.pi / 2 * (np.floor(self.down) - self.across))
        warp, warp_shade = self.thread(self.across, self.down, warp_lift, self.warp_table, self.warp_fibre)
        weft, weft_shade = self.thread(self.down, self.across, weft_lift, self.weft_table, self.weft_fibre)
        weft = weft - 2.2 * self.missing
        upper = smooth(0.5 + 2 * (warp - weft))
        colour = over(weft_shade[..., None] * self.weft_colour, warp_shade[..., None] * self.warp_colour, upper)
        return self.lit(colour, np.maximum(warp, weft))

    def lit(self, colour: np.ndarray, height: Field) -> np.ndarray:
        """Threads in the light, with what hangs over them or is torn out of them."""
        hollow = 0.10 + 0.90 * smooth((height + 0.4) / 1.9)
        shading = self.light.diffuse(*slopes(1.5 * height + self.relief + 1.5 * self.fold, self.pixel))
        colour = self.coated(colour) * (hollow * (0.25 + 0.75 * shading))[..., None]
        return 1.15 * self.light.strength * over(colour, (0.012, 0.011, 0.010), self.torn)

    def hole(self, rng: np.random.Generator) -> None:
        """Torn out threads, each at its own length, with a darkened rim."""
        distance = self.blob(rng, self.spot(rng), rng.uniform(11, 20), 0.2)
        warp, weft = (np.floor(position).astype(int) % 256 for position in (self.across, self.down))
        self.torn = cover(distance + 5 * self.warp_table[warp, 2] + 4 * self.weft_table[weft, 2], 2.5)
        self.coat(0.5 * cover(distance - 3, 6), (0.03, 0.03, 0.035))

    def stain(self, rng: np.random.Generator) -> None:
        """Oil that soaked in: from faint to clear, darkest at its rim."""
        distance = self.blob(rng, self.spot(rng), rng.uniform(18, 32), 0.2)
        rim = 0.75 + 0.25 * np.exp(-(((distance + 3) / 4) ** 2))
        self.soak(rng.uniform(0.25, 0.85) * rim * cover(distance, 8), (0.16, 0.11, 0.06))

    def loose_thread(self, rng: np.random.Generator) -> None:
        """A thread end that lies on top, with its shadow."""
        points = arc(self.spot(rng), rng.uniform(45, 110), rng.uniform(0, 360), rng.uniform(-3, 3))
        distance, position = along(self.u, self.v, points)
        shade_distance, _ = along(self.u - 2.2, self.v - 3.0, points)
        self.coat(0.7 * cover(shade_distance - 1.6, 3), (0.01, 0.01, 0.012))
        twist = 0.8 + 0.2 * np.sin(position * 90 + distance)
        colour = self.loose_colours[rng.integers(len(self.loose_colours))]
        self.coat(cover(distance - 1.5, self.pixel), twist[..., None] * colour)

    def missing_thread(self, rng: np.random.Generator) -> None:
        """One weft thread left out over a length."""
        u, v = self.spot(rng)
        row = int(np.argmin(np.hypot(self.u - u, self.v - v)))
        chosen = np.floor(self.down) == np.floor(self.down.flat[row])
        self.missing = chosen * cover(np.abs(self.u - u) - rng.uniform(30, 100), 12)

    def knot(self, rng: np.random.Generator) -> None:
        """A tiny nep in the yarn."""
        radius = rng.uniform(*SPECK_RADIUS)
        distance = self.blob(rng, self.spot(rng), radius, 0.15)
        self.relief = self.relief + 3 * smooth(-distance / radius)
        self.coat(cover(distance, 1.5), (0.75, 0.73, 0.66))


class BrushedMetal(Part):
    """Sheet steel brushed along u, with the broad highlight that brushing makes."""

    defects = ("scratch", "dent", "rust", "fingerprint", "pit")
    turn = 1.0

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        super().__init__(size, rng)
        layers = ((256, 2.5, 0.4), (256, 8, 0.5), (256, 30, 0.4), (90, 4, 0.25), (30, 2, 0.15), (256, 120, 0.3))
        self.streaks = sum(weight * noise(size, (down, across), rng) for down, across, weight in layers)
        self.cloudy = noise(size, (4, 3), rng)
        self.centre, self.width = rng.uniform(-25, 15), rng.uniform(75, 90)

    def scene(self) -> np.ndarray:
        """Brushing spreads the highlight across the streaks; each streak catches the light a little differently."""
        slope_x, slope_y = slopes(self.relief, self.pixel)
        shifted = self.u + 0.15 * self.v - self.centre + 5 * self.streaks + 160 * slope_x + 120 * slope_y
        glow = np.exp(-((shifted / self.width) ** 2))
        level = (0.13 + 0.29 * glow) * (1 + 0.17 * self.streaks + 0.03 * self.cloudy) * (1 - 0.0006 * self.v)
        colour = level[..., None] * np.array([0.97, 0.99, 1.02], np.float32)
        lit = self.coated(colour) * self.light.diffuse(0.7 * slope_x, 0.7 * slope_y)[..., None]
        return 1.1 * self.light.strength * lit

    def scratch(self, rng: np.random.Generator) -> None:
        """Bright bared metal with a burr on one side."""
        length, width = rng.uniform(40, 130), rng.uniform(0.9, 2.2)
        degrees = float(rng.choice([-1, 1])) * rng.uniform(25, 80)
        core, depth = self.groove(rng, self.spot(rng), length, degrees, width)
        self.relief = self.relief - 0.8 * width * depth
        self.coat(rng.uniform(0.6, 0.9) * core, (0.85, 0.87, 0.9))

    def dent(self, rng: np.random.Generator) -> None:
        """A shallow hollow that bends the reflection."""
        radius = rng.uniform(11, 20)
        self.bump(self.spot(rng), radius, -radius * rng.uniform(0.17, 0.32))

    def fingerprint(self, rng: np.random.Generator) -> None:
        """Ridges of grease: weak, and they dull the highlight."""
        centre, degrees = self.spot(rng), rng.uniform(-40, 40)
        u, v = posed(self.u, self.v, centre, degrees)
        ridges = np.sin(2 * np.pi * (np.hypot(u, 0.7 * v + 13) / 5 + 0.3 * noise(self.size, (12, 12), rng)))
        touched = smooth(2 - 2 * np.hypot(u / 25, v / 34)) * (0.85 + 0.15 * noise(self.size, (30, 30), rng))
        self.coat(rng.uniform(0.38, 0.6) * np.clip(touched * (0.55 + 0.45 * ridges), 0, 1), (0.11, 0.11, 0.105))
