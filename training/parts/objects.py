"""The three rendered objects on their tables, washer, connector and pill; see `training.parts.surfaces.Part`."""

import math

import numpy as np

from training.parts.rendering import (
    Field,
    along,
    arc,
    blur,
    box,
    cover,
    disc,
    lettering,
    noise,
    over,
    posed,
    shadow,
    slopes,
    smooth,
)
from training.parts.surfaces import SPECK_RADIUS, Part, table


class Washer(Part):
    """Turned steel washer with a lasered mark, on a grey mat."""

    defects = ("scratch", "chipped_edge", "misplaced_print", "rust", "pit")
    inner, outer, middle = 42.0, 97.0, 70.0

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        super().__init__(size, rng)
        self.mat = table(size, (0.075, 0.078, 0.082), rng)
        self.radius, self.around = np.hypot(self.u, self.v), np.arctan2(self.v, self.u)
        self.grooves = self.turned(rng)
        self.cloudy = noise(size, (6, 6), rng)
        self.ring = np.maximum(self.radius - self.outer, self.inner - self.radius)
        self.print_turn, self.print_shift = 0.0, 0.0

    def turned(self, rng: np.random.Generator) -> Field:
        """Marks of the lathe: fine rings whose brightness changes slowly around the washer."""
        rings = 0
        for around, weight in ((5, 0.6), (24, 0.5), (90, 0.45)):
            values = rng.standard_normal((130, around), dtype=np.float32)
            column = (self.around / (2 * np.pi) + 0.5) * around
            left = np.floor(column).astype(int)
            row = np.clip(self.radius * 1.15, 0, 129).astype(int)
            first, second = values[row, left % around], values[row, (left + 1) % around]
            rings = rings + weight * (first + smooth(column - left.astype(np.float32)) * (second - first))
        return blur(rings, 0.35, self.pixel)

    def scene(self) -> np.ndarray:
        """Ring on mat, with its shadow."""
        covered = cover(self.ring, self.pixel)
        mat = self.mat * shadow(covered, 9, self.light, self.pixel)[..., None]
        return self.light.strength * over(mat, self.metal(), covered)

    def metal(self) -> np.ndarray:
        """Turning reflects the lamp, and weaker a window, as a pair of bright sectors."""
        rise = 5 * smooth(-self.ring / 5) + self.relief
        slope_x, slope_y = slopes(rise, self.pixel)
        lamp = math.atan2(self.light.direction[1], self.light.direction[0])
        turned = self.around + math.radians(self.angle) + 0.07 * self.grooves
        sectors = np.abs(np.cos(turned - lamp)) ** 9 + 0.45 * np.abs(np.cos(turned - lamp - 1.25)) ** 7
        level = (0.13 + 0.30 * sectors * self.gloss) * (1 + 0.12 * self.grooves + 0.03 * self.cloudy)
        colour = level[..., None] * np.array([1.0, 0.985, 0.95], np.float32)
        colour = over(colour, 0.22 * colour, 0.85 * self.mark())
        glint = 0.5 * self.light.specular(slope_x, slope_y, 22) * smooth(4 * np.hypot(slope_x, slope_y))
        lit = self.coated(colour) * (0.25 + 0.75 * self.light.diffuse(slope_x, slope_y))[..., None]
        return lit + (glint * self.gloss)[..., None]

    def mark(self) -> Field:
        """Coverage of the lasered text, which follows the ring."""
        turned = (self.around + np.pi * 1.5 - self.print_turn) % (2 * np.pi) - np.pi  # 0 at the top
        return lettering(turned * self.middle, self.middle - self.radius + self.print_shift, "M24 A2-70", 21)

    def spot(self, rng: np.random.Generator) -> np.ndarray:
        """A point on the ring, away from its edges."""
        angle, radius = rng.uniform(-np.pi, np.pi), rng.uniform(self.inner + 12, self.outer - 12)
        return radius * np.array([np.cos(angle), np.sin(angle)], np.float32)

    def scratch(self, rng: np.random.Generator) -> None:
        """A bright line, more across than along the lathe's marks."""
        middle = self.spot(rng)
        length, off, width = rng.uniform((22, -55, 1.0), (40, 55, 2.2)).tolist()
        core, depth = self.groove(rng, middle, length, math.degrees(math.atan2(*middle[::-1])) + off, width)
        self.relief = self.relief - 0.5 * width * depth
        self.coat(rng.uniform(0.6, 0.95) * core, (0.62, 0.61, 0.6))

    def chipped_edge(self, rng: np.random.Generator) -> None:
        """A piece broken out of the outer or the inner edge."""
        angle, radius = rng.uniform(-np.pi, np.pi), self.outer if rng.uniform() < 0.7 else self.inner
        bite = self.blob(rng, radius * np.array([np.cos(angle), np.sin(angle)]), rng.uniform(5, 12), 0.2)
        self.ring = np.maximum(self.ring, -bite)

    def misplaced_print(self, rng: np.random.Generator) -> None:
        """The mark lasered at another place, a little or far off."""
        self.print_turn = float(rng.choice([-1, 1])) * rng.uniform(0.07, 0.8)
        self.print_shift = rng.uniform(-5, 5)


class Connector(Part):
    """Dark plastic housing with eight tinned pins, on a green-grey conveyor."""

    defects = ("missing_pin", "bent_pin", "chipped_housing", "scratch", "solder_ball")
    pins, pitch, pin_half = 8, 18.0, 3.3
    base, tip = -2.0, -66.0  # v of a pin's ends

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        super().__init__(size, rng)
        self.belt = self.conveyor(rng)
        self.plastic, self.tin = noise(size, (170, 170), rng), noise(size, (40, 256), rng)
        self.cloudy = noise(size, (5, 5), rng)
        self.lean = rng.normal(0, 0.3, self.pins).astype(np.float32)
        self.present = np.ones(self.pins, bool)
        self.bent: tuple[int, float] | None = None
        self.bite = np.full_like(self.x, np.inf)

    def conveyor(self, rng: np.random.Generator) -> np.ndarray:
        """A belt of fine fabric."""
        phase = rng.uniform(0, 6, 2).astype(np.float32)
        ribs = np.sin(1.45 * self.x + phase[0]) * np.sin(1.45 * self.y + phase[1])
        return table(self.size, (0.085, 0.125, 0.115), rng) * (1 + 0.10 * ribs)[..., None]

    def scene(self) -> np.ndarray:
        """Pins and housing on the belt."""
        distance, across = self.pin_shapes()
        housing = np.maximum(self.housing(), -self.bite)
        pins, body = cover(distance, self.pixel), cover(housing, self.pixel)
        below = self.belt * shadow(pins, 8, self.light, self.pixel)[..., None]
        below = below * shadow(body, 11, self.light, self.pixel)[..., None]
        below = over(below, self.metal(across), pins)
        return self.light.strength * over(below, self.moulded(housing), body)

    def housing(self) -> Field:
        """Signed distance to the housing: a block with two ears."""
        block = box(self.u, self.v, (0, 28), (82, 33), 4)
        ears = box(np.abs(self.u), self.v, (84, 36), (10, 14), 3)
        return np.minimum(block, ears)

    def pin_shapes(self) -> tuple[Field, Field]:
        """Signed distance to the pins, and the offset across the nearest one in [-1, 1]."""
        index = np.clip(np.round(self.u / self.pitch + (self.pins - 1) / 2), 0, self.pins - 1).astype(int)
        straight = self.u - self.pin_u(index) - self.lean[index] * (self.base - self.v) / 40
        distance = np.where(self.present[index], self.pin(straight), np.inf)
        if self.bent is None:
            return distance, straight / self.pin_half
        reach = np.maximum(self.base - 18 - self.v, 0) / (self.base - 18 - self.tip)
        across = self.u - self.pin_u(self.bent[0]) - self.bent[1] * reach**1.5
        bent = self.pin(across, shorter=abs(self.bent[1]) * 0.25)
        return np.minimum(distance, bent), np.where(bent < distance, across, straight) / self.pin_half

    def pin_u(self, index: Field | int) -> Field:
        """The u of the pin's axis."""
        return self.pitch * (np.asarray(index, np.float32) - (self.pins - 1) / 2)

    def pin(self, across: Field, shorter: float = 0.0) -> Field:
        """Signed distance to one pin with a tapered tip."""
        half = self.pin_half * (0.55 + 0.45 * smooth((self.v - self.tip - shorter) / 8))
        return np.maximum(np.abs(across) - half, np.maximum(self.tip + shorter - self.v, self.v - self.base - 4))

    def metal(self, across: Field) -> np.ndarray:
        """Tinned metal, rounded across: a bright and a faint line along each pin."""
        bevel = np.clip(across, -1, 1)
        line = np.exp(-(((bevel + 0.35) / 0.3) ** 2)) + 0.3 * np.exp(-(((bevel - 0.6) / 0.2) ** 2))
        shade = smooth((self.base + 2 - self.v) / 10) * (0.75 + 0.25 * smooth((self.v - self.tip) / 6))
        level = (0.07 + 0.72 * line * (1 + 0.1 * self.tin)) * (0.35 + 0.65 * shade)
        return self.coated(level[..., None] * np.array([1.0, 0.93, 0.78], np.float32))

    def moulded(self, housing: Field) -> np.ndarray:
        """Dark, finely eroded plastic with recesses, a raised rim and a moulded mark."""
        height = 2.8 * smooth(-housing / 5) + self.mouldings() + 0.045 * self.plastic + self.relief
        slope_x, slope_y = slopes(height, self.pixel)
        uneven = 1 + 0.08 * self.cloudy + 0.1 * self.plastic
        colour = uneven[..., None] * np.array([0.011, 0.0115, 0.0125], np.float32)
        sheen = 0.022 * self.light.specular(slope_x, slope_y, 9) + 0.20 * self.light.specular(slope_x, slope_y, 45)
        lit = self.coated(colour) * (0.3 + 0.7 * self.light.diffuse(slope_x, slope_y))[..., None]
        return lit + (sheen * self.gloss * (1 + 0.12 * self.cloudy))[..., None]

    def mouldings(self) -> Field:
        """Height of what is moulded into the top: eight chambers, a groove, the mark of pin 1, letters."""
        fold = np.abs(self.u / self.pitch % 1 - 0.5) * self.pitch
        chamber = np.where(np.abs(self.u) < self.pitch * 4, box(fold, self.v, (0, 12), (5.2, 8.5), 1.5), 9)
        panel = box(self.u, self.v, (10, 43), (46, 12), 3)
        arrow = np.maximum(np.abs(self.u + 62) * 1.2 + (self.v - 49), 36 - self.v)
        text = lettering(self.u - 10, self.v - 43, "KX-42", 22)
        return -5 * smooth(-chamber / 2.5) - 1.6 * smooth(-panel / 2) + 1.7 * text + 1.5 * smooth(-arrow / 1.5)

    def spot(self, rng: np.random.Generator) -> np.ndarray:
        """A point on the housing."""
        return rng.uniform((-68, 8), (68, 52)).astype(np.float32)

    def missing_pin(self, rng: np.random.Generator) -> None:
        """One pin is not there."""
        self.present[rng.integers(self.pins)] = False

    def bent_pin(self, rng: np.random.Generator) -> None:
        """One pin leaves the row, by a little or until it touches its neighbour."""
        index = int(rng.integers(self.pins))
        self.present[index] = False
        self.bent = index, float(rng.choice([-1, 1])) * rng.uniform(3, 13)

    def chipped_housing(self, rng: np.random.Generator) -> None:
        """A corner or a piece of the lower edge broken off."""
        places = [(-93, 50), (93, 50), (rng.uniform(-75, 75), 61)]
        self.bite = self.blob(rng, places[rng.integers(3)], rng.uniform(7, 14), 0.2)
        self.coat(0.8 * cover(self.bite - 3, 2), (0.055, 0.055, 0.055))

    def scratch(self, rng: np.random.Generator) -> None:
        """A dull grey line in the plastic."""
        length, degrees, width = rng.uniform((25, -50, 1.1), (70, 50, 2.2)).tolist()
        core, depth = self.groove(rng, self.spot(rng), length, degrees, width)
        self.relief = self.relief - depth
        self.coat(rng.uniform(0.5, 0.9) * core, (0.17, 0.17, 0.17), dulls=0.5)

    def solder_ball(self, rng: np.random.Generator) -> None:
        """A tiny bright bead on the housing."""
        centre, radius = self.spot(rng), rng.uniform(*SPECK_RADIUS)
        distance = disc(self.u, self.v, centre, radius)
        bright = np.exp(-((disc(self.u, self.v, centre - 0.35 * radius, 0) / (0.5 * radius)) ** 2))
        self.coat(0.6 * cover(disc(self.u - 1, self.v - 1.4, centre, radius), 2), (0.004, 0.004, 0.004))
        self.coat(cover(distance, self.pixel), (0.16 + 0.7 * bright)[..., None] * np.float32([1, 0.98, 0.93]))


class Pill(Part):
    """Capsule of a white and a red half with an imprint, on a blue-grey pad."""

    defects = ("crack", "dent", "discoloured", "misplaced_print", "speck")
    half, radius, tilt = 46.0, 43.0, -24.0

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        super().__init__(size, rng)
        self.u, self.v = posed(self.u, self.v, (0, 0), self.tilt)
        self.pad = table(size, (0.23, 0.27, 0.31), rng)
        self.gelatine, self.seam = noise(size, (12, 12), rng), rng.uniform(-1.5, 1.5)
        self.fine = noise(size, (120, 120), rng)
        self.print_pose = (0.0, 0.0), 0.0

    def cap(self) -> Field:
        """Height of the cap's edge above the body."""
        return 1.3 * smooth((self.u - self.seam + 0.9) / 1.8)

    def body(self) -> tuple[Field, Field, Field]:
        """Signed distance to the capsule, whose red cap is a little wider, and the outward normal's (u, v)."""
        u = self.u - np.clip(self.u, -self.half, self.half)
        off = np.maximum(np.hypot(u, self.v), 1e-3)
        radius = self.radius + self.cap()
        steep = np.minimum(off / radius, 0.995) / off
        return off - radius, u * steep, self.v * steep

    def scene(self) -> np.ndarray:
        """The capsule, the light that it throws on the pad, and its shadow."""
        distance, normal_u, normal_v = self.body()
        covered = cover(distance, self.pixel)
        pad = self.pad * shadow(covered, 22, self.light, self.pixel)[..., None]
        bounce = np.exp(-np.maximum(distance, 0) / 7)[..., None] * np.array([0.035, 0.012, 0.01], np.float32)
        pad = pad + bounce * smooth(self.u / 20)[..., None]
        return self.light.strength * over(pad, self.gelatin(normal_u, normal_v), covered)

    def slopes(self, normal_u: Field, normal_v: Field) -> tuple[Field, Field]:
        """Slopes along x and y of the round surface with its seam, imprint and damage."""
        turned = posed(normal_u, normal_v, (0, 0), -(self.tilt + self.angle))
        up = np.sqrt(np.maximum(1 - normal_u**2 - normal_v**2, 0.01))
        fine = self.cap() - 0.8 * self.imprint() + 0.12 * self.gelatine + 0.006 * self.fine + self.relief
        fine_x, fine_y = slopes(fine, self.pixel)
        return -turned[0] / up + fine_x, -turned[1] / up + fine_y

    def gelatin(self, normal_u: Field, normal_v: Field) -> np.ndarray:
        """Glossy and slightly translucent: soft shading, a window's reflection, a bright rim."""
        slope_x, slope_y = self.slopes(normal_u, normal_v)
        up = 1 / np.sqrt(1 + slope_x**2 + slope_y**2)
        red = smooth((self.u - self.seam) / 1.2 + 0.5)
        colour = over(np.broadcast_to(np.float32([0.62, 0.60, 0.55]), (*up.shape, 3)), (0.42, 0.035, 0.03), red)
        ink = over(np.broadcast_to(np.float32([0.05, 0.05, 0.06]), (*up.shape, 3)), (0.75, 0.7, 0.68), red)
        colour = self.coated(over(colour, ink, 0.85 * self.imprint()))
        soft = 0.20 + 0.75 * self.light.diffuse(slope_x, slope_y) ** 0.9 * (0.5 + 0.5 * up)
        window = self.window(slope_x, slope_y, up)
        return colour * soft[..., None] + ((0.55 * window + 0.10 * (1 - up) ** 3) * self.gloss)[..., None]

    def window(self, slope_x: Field, slope_y: Field, up: Field) -> Field:
        """Reflection in [0, 1] of a softbox next to the lamp."""
        centre = 0.52 * self.light.direction[:2] / np.hypot(*self.light.direction[:2])
        along_it, across = posed(-up * slope_x, -up * slope_y, centre, self.tilt)
        return smooth(0.5 - box(along_it, across, (0, 0), (0.34, 0.10), 0.04) / 0.07)

    def imprint(self) -> Field:
        """Coverage of the two halves' letters."""
        u, v = posed(self.u, self.v, *self.print_pose)
        return lettering(u + 38, v, "AX", 30) + lettering(u - 40, v, "250", 30)

    def spot(self, rng: np.random.Generator) -> np.ndarray:
        """A point on the upper side."""
        return rng.uniform((-62, -20), (62, 24)).astype(np.float32)

    def crack(self, rng: np.random.Generator) -> None:
        """A jagged dark line in the shell, with a lighter lip."""
        points = arc(self.spot(rng), rng.uniform(30, 60), rng.uniform(40, 140), rng.uniform(-0.6, 0.6))
        points = points + rng.normal(0, 1.6, points.shape).astype(np.float32)
        distance, position = along(self.u, self.v, points)
        width = rng.uniform(0.7, 1.5) * np.sqrt(np.maximum(np.sin(np.pi * position), 0.05))
        self.coat(0.9 * cover(distance - width, self.pixel), (0.03, 0.012, 0.01))
        self.relief = self.relief - 1.2 * np.exp(-((distance / 2.5) ** 2))

    def dent(self, rng: np.random.Generator) -> None:
        """The shell pushed in."""
        radius = rng.uniform(10, 17)
        self.bump(self.spot(rng), radius, -radius * rng.uniform(0.25, 0.45))

    def discoloured(self, rng: np.random.Generator) -> None:
        """A yellow-brown spot that moisture left: from faint to clear."""
        distance = self.blob(rng, self.spot(rng), rng.uniform(10, 18), 0.25)
        self.soak(rng.uniform(0.3, 0.8) * cover(distance, 7), (0.42, 0.26, 0.10))

    def misplaced_print(self, rng: np.random.Generator) -> None:
        """The imprint shifted and turned."""
        shift = rng.choice([-1, 1], 2) * rng.uniform((1, 3), (6, 12))
        self.print_pose = shift, rng.uniform(-8, 8)

    def speck(self, rng: np.random.Generator) -> None:
        """A tiny dark grain stuck to the shell."""
        self.coat(cover(self.blob(rng, self.spot(rng), rng.uniform(*SPECK_RADIUS), 0.2), 1.2), (0.015, 0.012, 0.01))
