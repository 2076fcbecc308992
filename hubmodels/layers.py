"""A prediction as transparent layers for a viewer that lays them over the picture: heat, outline, and agreement.

Layers are palette pictures of some kB. Their colours and fades are those of `hubmodels.heatmap`; how strongly the heat
covers the picture is left to the viewer, which can change it without computing anything.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hubmodels.heatmap import PALETTE, PALETTE_LEVELS, STEPS_PER_LEVEL, colour_level, fade, outline
from hubmodels.prediction import AnomalyPrediction

OPAQUE = 255
# Not on the heat scale; each pair differs in lightness and pattern too, so that nobody has to see the hues.
BOTH, FIRST, SECOND = (204, 60, 140), (20, 90, 200), (230, 140, 0)
STRIPES = 24  # per shorter side of the picture


@dataclass(frozen=True)
class Overlap:
    """Where two masks agree, as shares of the picture in [0, 1]."""

    both: float
    first_only: float
    second_only: float


def shrink(prediction: AnomalyPrediction, side: int) -> AnomalyPrediction:
    """The prediction with a map of at most `side` pixels per side: maps are smooth, and screens are small."""
    height, width = prediction.anomaly_map.shape
    if max(height, width) <= side:
        return prediction
    scale = side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    smaller = Image.fromarray(prediction.anomaly_map).resize(size, Image.Resampling.BOX)
    return replace(prediction, anomaly_map=np.asarray(smaller))


def heat_layer(prediction: AnomalyPrediction) -> Image.Image:
    """The heat map, transparent where the picture looks normal; raises ValueError where not calibrated."""
    steps = (np.clip(colour_level(prediction), 0, 2) * STEPS_PER_LEVEL).astype(np.uint8)
    return _layer(steps, PALETTE, OPAQUE * fade(PALETTE_LEVELS))


def outline_layer(mask: NDArray[np.bool_]) -> Image.Image:
    """The outline of a mask (H, W), white with a black rim."""
    line, rim = outline(mask)
    return _layer(rim + 2 * line.astype(np.uint8), [(0, 0, 0), (0, 0, 0), (255, 255, 255)], [0, OPAQUE, OPAQUE])


def agreement_layer(masks: Sequence[NDArray[np.bool_]]) -> Image.Image:
    """Where masks (H, W) of several methods agree; the pattern alone is enough to read it.

    Two masks: both solid, the first alone striped upwards, the second alone striped downwards. More masks: a map of
    the counts. All of n are solid, and k of n are striped with k / n of each stripe filled.
    """
    return _pair_layer(*masks) if len(masks) == 2 else _count_layer(np.sum(masks, axis=0), len(masks))


def _pair_layer(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> Image.Image:
    up, down = (_stripes(first.shape, sign) < 0.5 for sign in (1, -1))
    both, alone = first & second, (first & ~second & up, second & ~first & down)
    return _layer(both + 2 * alone[0].astype(np.uint8) + 3 * alone[1].astype(np.uint8), _AGREEMENT, _ALPHAS)


def _count_layer(counts: NDArray, total: int) -> Image.Image:
    shares = np.arange(1, total + 1)[:, None] / total
    colours = np.vstack([np.zeros(3), np.array(FIRST) + shares * (np.array(BOTH) - FIRST)])
    filled = np.where(_stripes(counts.shape, 1) < counts / total, counts, 0)
    return _layer(filled, colours, [0, *[OPAQUE] * (total - 1), 200])


def _stripes(shape: tuple[int, int], sign: int) -> NDArray[np.float64]:
    """Position of each pixel in its diagonal stripe, in [0, 1)."""
    row, column = np.indices(shape, sparse=True)
    period = max(2, min(shape) // STRIPES)
    return (row + sign * column) % period / period


def count_shares(masks: Sequence[NDArray[np.bool_]]) -> dict[int, float]:
    """Share of the picture that exactly k masks (H, W) cover, by k, from all of them down to one."""
    counts = np.sum(masks, axis=0)
    return {k: float((counts == k).mean()) for k in range(len(masks), 0, -1)}


def overlap(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> Overlap:
    """How much two masks of the same size (H, W) agree."""
    return Overlap(*(float(part.mean()) for part in (first & second, first & ~second, second & ~first)))


_AGREEMENT, _ALPHAS = [(0, 0, 0), BOTH, FIRST, SECOND], [0, 200, OPAQUE, OPAQUE]


def _layer(indices: NDArray, colours: Sequence, alphas: Sequence[float]) -> Image.Image:
    image = Image.fromarray(indices.astype(np.uint8))
    image.putpalette(np.asarray(colours, np.uint8).tobytes())
    image.info["transparency"] = bytes(int(alpha) for alpha in alphas)
    return image
