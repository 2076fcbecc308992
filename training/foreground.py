"""Automatic foreground masks of the object, so that synthetic anomalies are not placed on bare background.

GLASS reads such masks from files that its authors made by thresholding. Here they are computed from the normal
training pictures. If a category shows no object on a plain background, the full picture is used.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage

from hubmodels.region import Region

WORKING_SIDE = 144  # pixels; pictures are segmented at this square's area, and lengths below are in these pixels
BORDER_WIDTH = 4  # of the ring that is assumed to show background
MARGIN = 4  # kept away from the object when the background is measured
DILATION = 1  # so that defects of the outline are inside
MIN_COMPONENT = 0.005  # of the picture: smaller components are dust
MIN_SPREAD = 2.0  # grey levels: no background counts as cleaner than this
OTSU_BINS = 256

COVERAGE_RANGE = (0.05, 0.95)  # share of the picture that an object may cover
MAX_BORDER_SHARE = 0.10  # share of the border ring that an object may touch
MIN_SEPARATION = 0.70  # Otsu's between-class share of the variance; about 0.64 without two groups
MIN_ACCEPTED = 0.80  # share of a category's pictures that must pass on their own
MAX_COVERAGE_SPREAD = 0.25  # robust spread of the coverage, relative to its median
MAX_DEVIATION = 4.0  # robust spreads from the median coverage: beyond it a single picture is an outlier


@dataclass(frozen=True)
class Foreground:
    """Masks of a category, one (H, W) bool per picture (all True for an outlier), or None for no masks; and why."""

    masks: list[np.ndarray] | None
    reason: str


@dataclass(frozen=True)
class _Candidate:
    """One picture's mask, with numbers in [0, 1] that decide whether it is used."""

    mask: np.ndarray
    coverage: float
    border_share: float
    separation: float

    @property
    def accepted(self) -> bool:
        covered = COVERAGE_RANGE[0] <= self.coverage <= COVERAGE_RANGE[1]
        return covered and self.border_share <= MAX_BORDER_SHARE and self.separation >= MIN_SEPARATION


def foreground_masks(images: Sequence[np.ndarray]) -> Foreground:
    """Find the object in each normal picture (H, W, 3) uint8 of one category.

    Without a plain background in most pictures, or with masks that differ in size from picture to picture, no mask is
    trusted. Raises ValueError without pictures.
    """
    if len(images) == 0:
        raise ValueError("no pictures to find a foreground in; give the normal training pictures")
    candidates = [_candidate(image) for image in images]
    accepted = np.array([candidate.accepted for candidate in candidates])
    if accepted.mean() < MIN_ACCEPTED:
        share = f"{1 - accepted.mean():.0%} of the pictures show no object on a plain background"
        return Foreground(None, f"full picture: {share}, mostly because {_commonest_fault(candidates)}")
    coverage = np.array([candidate.coverage for candidate in candidates])
    median, spread = np.median(coverage[accepted]), _robust_spread(coverage[accepted])
    if spread > MAX_COVERAGE_SPREAD * median:
        return Foreground(
            None, f"full picture: the object's size is unstable, {median:.0%} +- {spread:.0%} of the picture"
        )
    accepted &= np.abs(coverage - median) <= MAX_DEVIATION * max(spread, 0.05 * median)
    masks = [
        candidate.mask if kept else np.ones_like(candidate.mask)
        for candidate, kept in zip(candidates, accepted, strict=True)
    ]
    outliers = f", {(~accepted).sum()} of {len(images)} pictures used in full" if not accepted.all() else ""
    return Foreground(masks, f"object on a plain background, about {median:.0%} of the picture{outliers}")


def within(region: Region | None, masks: list[np.ndarray] | None, count: int) -> list[np.ndarray] | None:
    """The foregrounds (H, W) bool of so many pictures inside a region; the region itself where nothing is left."""
    if region is None:
        return masks
    counting = region.mask.cpu().numpy()
    inside = [counting & mask for mask in masks] if masks else [counting] * count
    return [mask if mask.any() else counting for mask in inside]


def _robust_spread(values: np.ndarray, axis: int | None = None) -> np.ndarray:
    """Standard deviation estimated from the median absolute deviation."""
    return 1.4826 * np.median(np.abs(values - np.median(values, axis, keepdims=True)), axis)


def _commonest_fault(candidates: list[_Candidate]) -> str:
    """The most frequent fault of the candidates."""
    faults = {
        "nothing stands out from the background": [c.separation < MIN_SEPARATION for c in candidates],
        "the object reaches far into the border": [c.border_share > MAX_BORDER_SHARE for c in candidates],
        "the object is too small": [c.coverage < COVERAGE_RANGE[0] for c in candidates],
        "the object is too large": [c.coverage > COVERAGE_RANGE[1] for c in candidates],
    }
    return max(faults, key=lambda fault: sum(faults[fault]))


def _candidate(image: np.ndarray) -> _Candidate:
    """Segment one picture twice: against the border's median colour, then against a surface through what that leaves.

    The second round sees through vignetting and soft shadows, which the first takes for object.
    """
    height, width = image.shape[:2]
    working = (round(WORKING_SIDE * (width / height) ** 0.5), round(WORKING_SIDE * (height / width) ** 0.5))
    pixels = np.asarray(Image.fromarray(image).resize(working, Image.Resampling.BILINEAR), np.float32)
    ring = np.ones(pixels.shape[:2], bool)
    ring[BORDER_WIDTH:-BORDER_WIDTH, BORDER_WIDTH:-BORDER_WIDTH] = False

    border = pixels[ring]
    mask, separation = _differs(pixels - np.median(border, axis=0), _robust_spread(border, axis=0))
    background = ~ndimage.binary_dilation(mask, iterations=MARGIN)
    if background.mean() >= 1 - COVERAGE_RANGE[1]:
        residual = pixels - _smooth_surface(pixels, background)
        mask, separation = _differs(residual, _robust_spread(residual[background], axis=0))
    mask = _tidy(mask)
    full = Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST)
    return _Candidate(np.asarray(full), mask.mean(), mask[ring].mean(), separation)


def _differs(residual: np.ndarray, spread: np.ndarray) -> tuple[np.ndarray, float]:
    """Threshold the distance from the background, in units of its spread; mask (H, W) and Otsu's separation."""
    distance = np.sqrt(np.mean((residual / np.maximum(spread, MIN_SPREAD)) ** 2, axis=-1))
    threshold, separation = _otsu(distance)
    return distance > threshold, separation


def _otsu(values: np.ndarray) -> tuple[float, float]:
    """Otsu's threshold (IEEE Trans. SMC 1979), and the share of the variance between the two groups, in [0, 1].

    Libraries return the threshold alone, and the centre of its bin instead of the edge.
    """
    counts, edges = np.histogram(values, OTSU_BINS)
    centres = (edges[1:] + edges[:-1]) / 2
    share = np.cumsum(counts) / counts.sum()
    partial_mean = np.cumsum(counts * centres) / counts.sum()
    mean, variance = partial_mean[-1], np.sum(counts * centres**2) / counts.sum() - partial_mean[-1] ** 2
    # The last bin leaves no second group.
    between = (mean * share[:-1] - partial_mean[:-1]) ** 2 / np.maximum(share[:-1] * (1 - share[:-1]), 1e-12)
    best = int(between.argmax())
    return float(edges[best + 1]), float(between[best] / max(variance, 1e-12))


def _smooth_surface(pixels: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Least-squares quadratic surface (H, W, 3) through the pixels at which `where` (H, W) is True."""
    axes = (np.linspace(-1, 1, side, dtype=np.float32) for side in where.shape)
    y, x = np.meshgrid(*axes, indexing="ij")
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1)
    coefficients, *_ = np.linalg.lstsq(terms[where], pixels[where], rcond=None)
    return terms @ coefficients


def _tidy(mask: np.ndarray) -> np.ndarray:
    """Drop dust, fill holes, and widen the mask (H, W) a little."""
    labels, _ = ndimage.label(mask)
    large = np.bincount(labels.ravel()) >= MIN_COMPONENT * mask.size
    large[0] = False
    return ndimage.binary_dilation(ndimage.binary_fill_holes(large[labels]), iterations=DILATION)
