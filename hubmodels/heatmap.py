"""Anomaly map -> colours, overlays, contours, side-by-side panels, and transparent layers for a viewer.

Layers are palette pictures of some kB that a viewer puts over the picture. The viewer chooses their opacity.

Colours mean the same in every picture, because they depend on the detector's calibration. Level 0 is the median pixel
of held-out normals, and level 1 is the pixel threshold. With the picture's own minimum and maximum, a good part would
have a bright corner, too. Colour-blind people can read the scale: lightness rises with the level, and the hue goes
from blue to yellow. Outlines are white on black, and verdicts are words.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from hubmodels.prediction import SMALLEST_SPAN, AnomalyPrediction, bounding_box

# The step at level 1 is meant: a pixel is on one side of its threshold or on the other.
LEVELS = (0.0, 0.5, 0.99, 1.0, 1.5, 2.0)
COLOURS = ((16, 22, 48), (38, 54, 92), (74, 96, 132), (224, 128, 0), (255, 178, 24), (255, 244, 130))
STEPS_PER_LEVEL = 100
PALETTE_LEVELS = np.arange(2 * STEPS_PER_LEVEL + 1) / STEPS_PER_LEVEL
PALETTE = np.column_stack(
    [np.interp(PALETTE_LEVELS, LEVELS, channel) for channel in zip(*COLOURS, strict=True)]
).astype(np.uint8)

# Levels between which an overlay fades in, quadratically: a faint suspicion must not look like dirt on a good part.
INVISIBLE_BELOW, FULL_FROM = 0.5, 1.0
GT_COLOUR, GT_OPACITY = (0, 190, 200), 0.45  # not on the heat scale, so that truth is not taken for a prediction
PANEL_WORDS = {"input": "input", "truth": "ground truth", "defective": "defective", "good": "good", "score": "score"}
IGNORED_COLOURS, IGNORED_ALPHA = ((30, 30, 30), (225, 225, 225)), 150  # one of them shows on any picture
OPAQUE = 255
ALL_AGREE, ONE_ALONE = (204, 60, 140), (20, 90, 200)  # not on the heat scale; patterns differ, too
UNSURE_COLOUR, RADIUS = (29, 78, 216), 0.07  # of the ring; radius as a share of the picture's shorter side
STRIPES = 24  # per shorter side of the picture
ALL_AGREE_ALPHA = 200
INK, FAINT_INK, PAPER = (24, 28, 36), (96, 104, 116), (255, 255, 255)


def colour_level(prediction: AnomalyPrediction) -> NDArray[np.float32]:
    """The level of each pixel: 0 = normal, 1 = the pixel threshold.

    Returns:
        (H, W), unbounded: negative is calmer than the median held-out pixel, above 1 is in the mask.

    Raises:
        ValueError: the prediction comes from a detector that is not calibrated.
    """
    normal, threshold = prediction.normal_level, prediction.pixel_threshold
    if normal is None or threshold is None:
        raise ValueError(
            "This prediction has no normal level and no pixel threshold, so its colours would mean nothing: "
            "calibrate the detector on held-out normal pictures first."
        )
    span = max(threshold - normal, SMALLEST_SPAN)
    return ((prediction.anomaly_map - min(normal, threshold)) / span).astype(np.float32)


def colourise(level: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Colours (H, W, 3) of levels (H, W): dark blue up to 0, slate just below 1, amber at 1, light yellow from 2."""
    return PALETTE[(np.clip(level, 0, 2) * STEPS_PER_LEVEL).astype(np.uint8)]


def overlay(picture: Image.Image, prediction: AnomalyPrediction, opacity: float = 0.6) -> Image.Image:
    """The picture under its heat map, the predicted mask outlined.

    Below level 0.5 the picture is untouched, so a good part is shown as it is. From level 1 on the heat has its
    full opacity. Stripes cover what a region leaves out. If the verdict is unsure and nothing is outlined, a ring
    marks the highest place.

    Args:
        picture: RGB, of the size of the anomaly map.
        opacity: in [0, 1], of the heat from level 1 on.

    Raises:
        ValueError: picture and map differ in size, the prediction is not calibrated, or the opacity is out of range.
    """
    if not 0 <= opacity <= 1:
        raise ValueError(f"The opacity must be between 0 and 1, not {opacity}.")
    level = colour_level(prediction)
    pixels = _pixels_like(picture, level, "anomaly map")
    if (counts := prediction.counts) is not None:
        stripes = ignored_stripes(counts)
        for number, colour in enumerate(IGNORED_COLOURS, 1):
            striped = stripes == number
            pixels[striped] = _blended(pixels[striped], colour, IGNORED_ALPHA / OPAQUE)
    shown = level > INVISIBLE_BELOW
    pixels[shown] = _blended(pixels[shown], colourise(level[shown]), opacity * fade(level[shown])[:, None])
    outlined = _outlined(pixels, prediction.mask)
    return Image.fromarray(_ringed(outlined, prediction) if prediction.is_unsure else outlined)


def missed_overlay(picture: Image.Image, prediction: AnomalyPrediction) -> Image.Image:
    """The picture of a defect that was missed, with something to see: as `overlay` if a region is outlined.

    Else the heat has the picture's own scale, from the normal level to just below the colours of a defect, and a ring
    marks the highest place.

    Raises:
        ValueError: as `overlay`.
    """
    if prediction.mask is None or prediction.mask.any():
        return overlay(picture, prediction)
    highest, normal = float(prediction.counted_map.max()), prediction.normal_level
    own = normal + max(highest - normal, SMALLEST_SPAN) / LEVELS[2]
    heat = overlay(picture, replace(prediction, pixel_threshold=own, unsure_threshold=None))
    return Image.fromarray(_ringed(np.array(heat), prediction))


def fade(level: NDArray) -> NDArray:
    """How much of its full opacity the heat has at each level, in [0, 1]."""
    return np.clip((level - INVISIBLE_BELOW) / (FULL_FROM - INVISIBLE_BELOW), 0, 1) ** 2


def contour(mask: NDArray[np.bool_], thickness: int) -> NDArray[np.bool_]:
    """Outline of a mask (H, W), `thickness` pixels wide and inside it; beyond the picture's edge nothing is masked."""
    inside = ndimage.minimum_filter(mask.view(np.uint8), 2 * thickness + 1, mode="constant")
    return mask & (inside == 0)


def outline(mask: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """The contour of a mask (H, W), as thick as suits its size, and the rim around it."""
    thickness, line, rim = max(1, round(min(mask.shape) / 200)), np.zeros_like(mask), np.zeros_like(mask)
    if mask.any():  # a defect is small in a large picture
        place = tuple(slice(max(0, box.start - thickness), box.stop + thickness) for box in bounding_box(mask))
        line[place] = contour(mask[place], thickness)
        rim[place] = _grown(mask[place], thickness) & ~mask[place]
    return line, rim


def ring(prediction: AnomalyPrediction) -> tuple[NDArray[np.bool_], NDArray[np.bool_]] | None:
    """A ring around the highest place of the map, as `outline`; None if a region is outlined."""
    if prediction.mask.any():
        return None
    counted = prediction.counted_map
    centre = np.unravel_index(counted.argmax(), counted.shape)
    radius, disc = max(2, round(RADIUS * min(counted.shape))), np.zeros(counted.shape, bool)
    places = zip(counted.shape, centre, strict=True)
    rows, columns = (np.arange(max(0, at - radius), min(side, at + radius + 1)) for side, at in places)
    disc[np.ix_(rows, columns)] = np.hypot(rows[:, None] - centre[0], columns - centre[1]) <= radius
    return outline(disc)


def panel(
    picture: Image.Image,
    gt_mask: NDArray[np.bool_] | None,
    predictions: Mapping[str, AnomalyPrediction],
    height: int = 256,
    words: Mapping[str, str] = PANEL_WORDS,
) -> Image.Image:
    """Side by side: input | ground truth | the overlay of each method, each under a caption.

    Args:
        picture: RGB, of the size of every anomaly map.
        gt_mask: (H, W), nonzero = anomalous; None leaves that column out.
        predictions: by the name to print, in the order to show; the caption adds verdict, score and p-value.
        height: of the pictures in pixels; the caption strip and the margins come on top.
        words: what is printed, by the keys of `PANEL_WORDS`.

    Raises:
        ValueError: a mask or map differs in size from the picture, or a prediction is not calibrated.
    """
    verdicts = {None: "", True: words["defective"], False: words["good"]}
    columns = [(picture.convert("RGB"), words["input"], None, "", "")]
    if gt_mask is not None:
        truth = bool(np.any(gt_mask))
        columns.append((_truth(picture, gt_mask), words["truth"], truth, verdicts[truth], ""))
    for name, p in predictions.items():
        shown = overlay(picture, p)
        numbers = f"{words['score']} {p.image_score:#.3g}   p = {p.p_value:.2g}"
        columns.append((shown, name, p.is_anomalous, verdicts[p.is_anomalous], numbers))
    drawn = [_column(*column, height) for column in columns]
    gap = max(4, height // 32)
    sheet = Image.new("RGB", (sum(d.width + gap for d in drawn) + gap, drawn[0].height + 2 * gap), PAPER)
    left = gap
    for column in drawn:
        sheet.paste(column, (left, gap))
        left += column.width + gap
    return sheet


# ---------------------------------------------------------------- transparent layers for a viewer


@dataclass(frozen=True)
class Overlap:
    """Where two masks agree, as shares of the picture in [0, 1]."""

    both: float
    first_only: float
    second_only: float


def heat_layer(prediction: AnomalyPrediction) -> Image.Image:
    """The heat map, transparent where the picture is normal; raises ValueError where not calibrated."""
    steps = (np.clip(colour_level(prediction), 0, 2) * STEPS_PER_LEVEL).astype(np.uint8)
    return _layer(steps, PALETTE, OPAQUE * fade(PALETTE_LEVELS))


def outline_layer(mask: NDArray[np.bool_]) -> Image.Image:
    """The outline of a mask (H, W), white with a black rim."""
    line, rim = outline(mask)
    return _layer(rim + 2 * line.astype(np.uint8), [(0, 0, 0), (0, 0, 0), (255, 255, 255)], [0, OPAQUE, OPAQUE])


def ring_layer(prediction: AnomalyPrediction) -> Image.Image | None:
    """The ring around the highest place of the map, with a white rim; None if a region is outlined."""
    if (found := ring(prediction)) is None:
        return None
    line, rim = found
    colours = [(0, 0, 0), (255, 255, 255), UNSURE_COLOUR]
    return _layer(rim + 2 * line.astype(np.uint8), colours, [0, OPAQUE, OPAQUE])


def ignored_layer(counts: NDArray[np.bool_]) -> Image.Image:
    """Stripes where pixels (H, W) do not count; the rest is transparent."""
    return _layer(ignored_stripes(counts), [(0, 0, 0), *IGNORED_COLOURS], [0, IGNORED_ALPHA, IGNORED_ALPHA])


def ignored_stripes(counts: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The stripes that every drawing has where pixels (H, W) do not count: the number of their colour, else 0."""
    place = _positions(counts.shape, 1)
    numbers = np.where(place < 0.4, 1 + (place >= 0.2), 0).astype(np.uint8)
    return _diagonals(numbers, counts.shape, 1) * ~counts


def agreement_layer(masks: Sequence[NDArray[np.bool_]], colours: Sequence[Sequence[int]]) -> Image.Image:
    """Where masks (H, W) of several methods agree; the pattern alone is enough to read it.

    Two masks: both solid, the first alone striped upwards, the second alone striped downwards, in their own colours.
    More masks: a map of the counts. All of n are solid, and k of n are striped with k / n of each stripe filled.

    Args:
        colours: RGB of each method.
    """
    return _pair_layer(*masks, colours) if len(masks) == 2 else _count_layer(np.sum(masks, axis=0), len(masks))


def _pair_layer(first: NDArray[np.bool_], second: NDArray[np.bool_], colours: Sequence[Sequence[int]]) -> Image.Image:
    up, down = (_stripes(first.shape, sign) < 0.5 for sign in (1, -1))
    both, alone = first & second, (first & ~second & up, second & ~first & down)
    indices = both + 2 * alone[0].astype(np.uint8) + 3 * alone[1].astype(np.uint8)
    return _layer(indices, [(0, 0, 0), ALL_AGREE, *colours], [0, ALL_AGREE_ALPHA, OPAQUE, OPAQUE])


def _count_layer(counts: NDArray, total: int) -> Image.Image:
    shares = np.arange(1, total + 1)[:, None] / total
    colours = np.vstack([np.zeros(3), np.array(ONE_ALONE) + shares * (np.array(ALL_AGREE) - ONE_ALONE)])
    filled = np.where(_stripes(counts.shape, 1) < counts / total, counts, 0)
    return _layer(filled, colours, [0, *[OPAQUE] * (total - 1), ALL_AGREE_ALPHA])


def _stripes(shape: tuple[int, int], sign: int) -> NDArray[np.float64]:
    """Position of each pixel in its diagonal stripe, in [0, 1)."""
    return _diagonals(_positions(shape, sign), shape, sign)


def _positions(shape: tuple[int, int], sign: int) -> NDArray[np.float64]:
    """The same for each diagonal, from one corner to the other."""
    period = max(2, min(shape) // STRIPES)
    return (np.arange(sum(shape) - 1) - (shape[1] - 1 if sign < 0 else 0)) % period / period


def _diagonals(values: NDArray, shape: tuple[int, int], sign: int) -> NDArray:
    """A value for each diagonal -> one for each pixel; a view, because large pictures have many."""
    return sliding_window_view(values, shape[1])[:, ::sign]


def count_shares(masks: Sequence[NDArray[np.bool_]]) -> dict[int, float]:
    """Share of the picture that exactly k masks (H, W) cover, by k, from all of them down to one."""
    counts = np.sum(masks, axis=0)
    return {k: float((counts == k).mean()) for k in range(len(masks), 0, -1)}


def overlap(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> Overlap:
    """How much two masks of the same size (H, W) agree."""
    return Overlap(*(float(part.mean()) for part in (first & second, first & ~second, second & ~first)))


def _layer(indices: NDArray, colours: Sequence, alphas: Sequence[float]) -> Image.Image:
    image = Image.fromarray(indices.astype(np.uint8))
    image.putpalette(np.asarray(colours, np.uint8).tobytes())
    image.info["transparency"] = bytes(int(alpha) for alpha in alphas)
    return image


# ---------------------------------------------------------------- details


def _pixels_like(picture: Image.Image, grid: NDArray, what: str) -> NDArray[np.uint8]:
    pixels = np.array(picture.convert("RGB"))  # a copy, to be drawn on
    if pixels.shape[:2] != grid.shape:
        raise ValueError(
            f"The {what} has shape {grid.shape}, the picture {pixels.shape[:2]} (height, width): "
            "hand in the very picture it belongs to, at the same size."
        )
    return pixels


def _blended(pixels: NDArray[np.uint8], colour: ArrayLike, opacity: ArrayLike) -> NDArray[np.uint8]:
    """Mixes `colour` into `pixels`, both (n, 3), by `opacity` in [0, 1]."""
    pixels = pixels.astype(np.float32)
    return np.rint(pixels + opacity * (colour - pixels)).astype(np.uint8)


def _grown(mask: NDArray[np.bool_], radius: int) -> NDArray[np.bool_]:
    """The mask and everything within `radius` rows and columns of it."""
    return ndimage.maximum_filter(mask.view(np.uint8), 2 * radius + 1, mode="constant") > 0


def _outlined(pixels: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Draws on `pixels` the mask's outline in white with a black rim, so that it shows on any picture."""
    line, rim = outline(mask)
    pixels[rim], pixels[line] = 0, 255
    return pixels


def _ringed(pixels: NDArray[np.uint8], prediction: AnomalyPrediction) -> NDArray[np.uint8]:
    """Draws on `pixels` the ring around the highest place, unless a region is outlined."""
    if (found := ring(prediction)) is not None:
        line, rim = found
        pixels[rim], pixels[line] = 255, UNSURE_COLOUR
    return pixels


def _truth(picture: Image.Image, gt_mask: NDArray[np.bool_]) -> Image.Image:
    marked = np.asarray(gt_mask) != 0
    pixels = _pixels_like(picture, marked, "ground-truth mask")
    pixels[marked] = _blended(pixels[marked], GT_COLOUR, GT_OPACITY)
    return Image.fromarray(_outlined(pixels, marked))


def _column(
    picture: Image.Image, name: str, is_anomalous: bool | None, verdict: str, numbers: str, height: int
) -> Image.Image:
    """One picture, `height` high, under two lines: the name with its verdict, and the numbers."""
    size = max(11, height // 16)
    font, small = ImageFont.load_default(size), ImageFont.load_default(max(10, size * 7 // 8))
    shown = picture.resize((max(1, round(picture.width * height / picture.height)), height), Image.Resampling.LANCZOS)

    badge = font.getlength(verdict) + size
    width = int(max(shown.width, font.getlength(name) + size + badge, small.getlength(numbers)))
    strip = 3 * size
    column = Image.new("RGB", (width, strip + height), PAPER)
    column.paste(shown, (0, strip))
    draw = ImageDraw.Draw(column)
    draw.text((0, size * 0.75), name, INK, font, anchor="lm")
    draw.text((0, size * 2.2), numbers, FAINT_INK, small, anchor="lm")
    if verdict:
        fill, ink = (INK, PAPER) if is_anomalous else (PAPER, INK)
        box = (width - badge, 0, width - 1, size * 1.5)
        draw.rounded_rectangle(box, radius=size * 0.75, fill=fill, outline=INK)
        draw.text((width - badge / 2, size * 0.75), verdict, ink, font, anchor="mm")
    return column
