"""Manifold or hypersphere: the geometry that GLASS assumes of a category's normal features.

GLASS (Chen et al., ECCV 2024) confines its global anomalies to a shell around each feature (manifold) or around the
centre of all features (hypersphere). It chooses by how compact the strong frequencies of the mean training image are.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image
from scipy import ndimage

# The authors' own table for the 15 categories of MVTec AD.
MVTEC_HYPOTHESIS: dict[str, str] = {
    **dict.fromkeys(("bottle", "cable", "pill", "screw", "transistor"), "hypersphere"),
    **dict.fromkeys(("carpet", "grid", "leather", "tile", "wood"), "manifold"),
    **dict.fromkeys(("capsule", "hazelnut", "metal_nut", "toothbrush", "zipper"), "manifold"),
}

MEAN_SIZE = 288  # pixels, at which the training pictures are averaged
SPECTRUM_SIZE = 289  # odd, so that one pixel of the shifted spectrum is its centre
BLUR_SIZE = 39
LOG_MAGNITUDE = 170.0  # a spectrum point is kept where 20 ln|F| of the 0..255 grey image exceeds it
LATTICE_SIZE = 2 * SPECTRUM_SIZE  # extent of the lattice in which the disc's points are counted
MIN_FILLING = 0.21  # of the box (l1) or of the disc (l2)
MIN_RADIUS = 12.0
MIN_POINTS = 60


def mean_image(images: Sequence[np.ndarray]) -> np.ndarray:
    """Average the pictures (H, W, 3) uint8, each stretched to 288 x 288, in [0, 255]; ValueError without pictures."""
    if len(images) == 0:
        raise ValueError("no pictures to choose the hypothesis from; give the normal training pictures")
    total = np.zeros((MEAN_SIZE, MEAN_SIZE, 3))
    for image in images:
        picture = Image.fromarray(image)
        total += np.asarray(picture.resize((MEAN_SIZE, MEAN_SIZE), Image.Resampling.BILINEAR))
    return total / len(images)


def spectrum_points(mean: np.ndarray) -> np.ndarray:
    """Offsets (N, 2) from the centre, (y, x), of the strong spectrum points of an image (288, 288, 3) in [0, 255]."""
    grey = Image.fromarray((mean @ [0.299, 0.587, 0.114]).astype(np.float32))
    grey = np.asarray(grey.resize((SPECTRUM_SIZE, SPECTRUM_SIZE), Image.Resampling.BILINEAR))
    blurred = ndimage.uniform_filter(grey.astype(np.float64), BLUR_SIZE, mode="mirror")
    magnitude = np.abs(np.fft.fftshift(np.fft.fft2(blurred)))
    return np.argwhere(magnitude > np.exp(LOG_MAGNITUDE / 20)) - SPECTRUM_SIZE // 2


def spectrum_numbers(offsets: np.ndarray) -> dict[str, float]:
    """Measures how compact N spectrum points are, given as offsets (N, 2).

    They reach as far as sy, sx, R from the centre, each counted as at least 1 for the box. l1 = N / (4 sx sy) is their
    share of the box, l2 their share of the lattice points within R.
    """
    reach_y, reach_x = np.abs(offsets).max(axis=0, initial=1)
    radius_squared = (offsets**2).sum(axis=1).max(initial=0)
    # As in the authors' code the lattice begins at the spectrum's corner, which cuts a large disc at two sides only.
    axis = np.arange(LATTICE_SIZE) - SPECTRUM_SIZE // 2
    lattice_points = np.count_nonzero(axis[:, None] ** 2 + axis**2 <= radius_squared)
    return {
        "l1": float(len(offsets) / (4 * reach_x * reach_y)),
        "l2": len(offsets) / lattice_points,
        "R": float(np.sqrt(radius_squared)),
        "N": len(offsets),
    }


def spectrum_hypothesis(images: Sequence[np.ndarray]) -> tuple[str, dict[str, float]]:
    """Chooses "manifold" or "hypersphere" from normal pictures (H, W, 3) uint8; returns it and its numbers.

    Hypersphere iff (l1 > 0.21 or l2 > 0.21) and R > 12 and N > 60, the `spectrum_numbers` of the mean picture. Raises
    ValueError without pictures.
    """
    numbers = spectrum_numbers(spectrum_points(mean_image(images)))
    filled = numbers["l1"] > MIN_FILLING or numbers["l2"] > MIN_FILLING
    compact = filled and numbers["R"] > MIN_RADIUS and numbers["N"] > MIN_POINTS
    return "hypersphere" if compact else "manifold", numbers


def choose_hypothesis(choice: str, dataset: str, category: str, images: Sequence[np.ndarray]) -> tuple[str, str]:
    """The hypothesis of a run, and the reason.

    Args:
        choice: "manifold" or "hypersphere"; "auto" = by the spectrum of the normal pictures; "table" = by the authors'
            table for MVTec AD, otherwise as "auto".
        images: normal pictures (H, W, 3) uint8.

    Raises:
        ValueError: another choice.
    """
    if choice in ("manifold", "hypersphere"):
        return choice, "chosen by the user"
    if choice not in ("auto", "table"):
        raise ValueError(f"unknown hypothesis {choice!r}; choose auto, table, manifold or hypersphere")
    if choice == "table" and dataset == "mvtec" and category in MVTEC_HYPOTHESIS:
        return MVTEC_HYPOTHESIS[category], "from the table of GLASS for MVTec AD"
    verdict, numbers = spectrum_hypothesis(images)
    measured = ", ".join(f"{name} = {value:.4g}" for name, value in numbers.items())
    return verdict, f"decided by the spectrum of the mean image ({measured})"
