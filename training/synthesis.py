"""Local anomaly synthesis (LAS): a Perlin mask, a foreign texture, and the blend of both into a normal image.

Implements the image-level branch of GLASS (Chen et al., ECCV 2024, section 3.3) with the mask of DRAEM (Zavrtanik et
al., ICCV 2021). Images are float32 arrays (H, W, 3) in [0, 1]. Every draw comes from the generator that is passed in,
so one generator per (seed, epoch, sample) makes a sample reproducible in any process.

For an image that is not square, masks and procedural textures are drawn on the square of its longer side, whose centre
is taken.
"""

import logging
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from hubmodels.folders import files_in
from hubmodels.sizes import Size, as_pair

logger = logging.getLogger(__name__)

MAX_SCALE_EXPONENT = 6  # cells per axis of a Perlin field: 2**0 .. 2**5
PERLIN_THRESHOLD = 0.5  # field values above it belong to the mask
PERLIN_ROTATION = 90.0  # degrees, to either side
MAX_DRAWS = 100  # masks drawn before an unreachably small foreground is given up

BLEND_WEIGHT_MEAN = 0.5  # share of the normal image that shines through the texture
BLEND_WEIGHT_STD = 0.1
BLEND_WEIGHT_RANGE = (0.2, 0.8)

TRANSFORMS_PER_TEXTURE = 3  # drawn without replacement from TRANSFORMS
JITTER_RANGE = (0.8, 1.2)  # factor of contrast, brightness, saturation
HUE_SHIFT = 0.2  # of the colour circle, to either side
TEXTURE_ROTATION = 45.0  # degrees, to either side
TEXTURE_SUFFIXES = {".jpg", ".jpeg", ".png"}
TEXTURE_CACHE_BYTES = 256 * 2**20  # decoded textures kept per process

# What Pillow raises for a file that is no picture, is cut short, or is broken inside.
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


# --- masks ---


@lru_cache(maxsize=64)
def _lattice(size: int, cells: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each pixel of one axis: its lattice cell, its offset in it in [0, 1), and the quintic fade of the offset."""
    position = np.arange(size) * (cells / size)
    cell = np.floor(position).astype(int)
    offset = (position - cell).astype(np.float32)
    return cell, offset, offset**3 * (offset * (6 * offset - 15) + 10)


def _gradient_noise(size: int, cells: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Perlin noise (size, size) float32 about [-1, 1] on a lattice of cells (vertical, horizontal).

    `size` need not be a multiple of the cells. Fade and offset depend on one axis each, so the lattice is first
    interpolated along x to (cells + 1, size), which is small, and then along y by copying whole rows. (As matrix
    products it would be as short, but BLAS would start its threads in every data worker.)
    """
    top, offset_y, fade_y = _lattice(size, cells[0])
    left, offset_x, fade_x = _lattice(size, cells[1])
    offset_y, fade_y = offset_y[:, None], fade_y[:, None]
    angle = rng.uniform(0, 2 * np.pi, (cells[0] + 1, cells[1] + 1)).astype(np.float32)
    gradient_y, gradient_x = np.cos(angle), np.sin(angle)
    slope = (1 - fade_x) * gradient_y[:, left] + fade_x * gradient_y[:, left + 1]
    value = (1 - fade_x) * offset_x * gradient_x[:, left] + fade_x * (offset_x - 1) * gradient_x[:, left + 1]
    upper = offset_y * slope[top] + value[top]
    lower = (offset_y - 1) * slope[top + 1] + value[top + 1]
    return np.float32(np.sqrt(2)) * (upper + fade_y * (lower - upper))


def perlin_field(size: int, rng: np.random.Generator) -> np.ndarray:
    """Draw a Perlin field (size, size) float32 about [-1, 1]: random scale per axis, random rotation, zero fill."""
    vertical, horizontal = 2 ** rng.integers(0, MAX_SCALE_EXPONENT, 2)
    noise = _gradient_noise(size, (int(vertical), int(horizontal)), rng)
    angle = rng.uniform(-PERLIN_ROTATION, PERLIN_ROTATION)
    # Pillow rotates a float image in a third of the time of scipy.ndimage.
    return np.asarray(Image.fromarray(noise).rotate(angle, Image.Resampling.BILINEAR))


def perlin_mask(size: int, rng: np.random.Generator) -> np.ndarray:
    """Draw a mask (size, size) bool: one third each of a union, an intersection, and a single thresholded field.

    The mask may be empty; `draw_mask` redraws.
    """
    mode = rng.uniform()
    mask = perlin_field(size, rng) > PERLIN_THRESHOLD
    if mode > 2 / 3:
        return mask | (perlin_field(size, rng) > PERLIN_THRESHOLD)
    if mode > 1 / 3:
        return mask & (perlin_field(size, rng) > PERLIN_THRESHOLD)
    return mask


def _centre(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The centre (height, width, ...) of an array (H, W, ...)."""
    top, left = ((whole - side) // 2 for whole, side in zip(pixels.shape, size, strict=False))
    return pixels[top : top + size[0], left : left + size[1]]


def pool_to_grid(mask: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Max-pool a mask (H, W) bool to the patch grid (h, w) bool: a cell with any marked pixel is marked.

    Cells cover the mask exactly; where a side is no multiple of the grid, neighbouring cells differ by one pixel.
    """
    for axis, (cells, size) in enumerate(zip(grid, mask.shape, strict=True)):
        if not 1 <= cells <= size:
            raise ValueError(f"a mask of {mask.shape} pixels cannot be pooled to a grid of {grid}; use a coarser grid")
        mask = np.logical_or.reduceat(mask, np.arange(cells) * size // cells, axis=axis)
    return mask


def draw_mask(
    size: Size, grid: tuple[int, int], rng: np.random.Generator, foreground: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a non-empty anomaly mask (H, W) bool of that size and its patch label `grid` bool.

    The mask stays inside `foreground` (H, W) bool, unless that is so small that MAX_DRAWS masks in a row miss it: then
    the mask is drawn without it. Raises ValueError for an empty foreground or one of another size.
    """
    size = as_pair(size)
    if foreground is not None and foreground.shape != size:
        raise ValueError(f"the foreground has {foreground.shape} pixels, the image {size}; resize it to the image")
    if foreground is not None and not foreground.any():
        raise ValueError(
            "the foreground is empty, so no anomaly can be placed in it; pass None to use the full picture"
        )
    for _ in range(MAX_DRAWS):
        mask = _centre(perlin_mask(max(size), rng), size)
        if foreground is not None:
            mask &= foreground
        if mask.any():
            return mask, pool_to_grid(mask, grid)
    if foreground is None:
        raise ValueError(f"{MAX_DRAWS} masks of {size[0]} x {size[1]} pixels were all empty; use larger images")
    return draw_mask(size, grid, rng)


# --- textures ---


def _jitter(enhancer: type, picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    return enhancer(picture).enhance(rng.uniform(*JITTER_RANGE))


def _saturation_and_hue(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    hue, saturation, value = _jitter(ImageEnhance.Color, picture, rng).convert("HSV").split()
    shift = round(256 * rng.uniform(-HUE_SHIFT, HUE_SHIFT))
    hue = hue.point([(level + shift) % 256 for level in range(256)])
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB")


def _rotate(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    return picture.rotate(rng.uniform(-TEXTURE_ROTATION, TEXTURE_ROTATION), Image.Resampling.NEAREST)


# The nine transforms of GLASS, each from (picture, generator) to a picture of the same size.
TRANSFORMS: dict[str, Callable[[Image.Image, np.random.Generator], Image.Image]] = {
    "contrast": partial(_jitter, ImageEnhance.Contrast),
    "brightness": partial(_jitter, ImageEnhance.Brightness),
    "saturation and hue": _saturation_and_hue,
    "horizontal flip": lambda picture, rng: ImageOps.mirror(picture),
    "vertical flip": lambda picture, rng: ImageOps.flip(picture),
    "grayscale": lambda picture, rng: ImageOps.grayscale(picture).convert("RGB"),
    "autocontrast": lambda picture, rng: ImageOps.autocontrast(picture),
    "equalize": lambda picture, rng: ImageOps.equalize(picture),
    "rotation": _rotate,
}


def transform_texture(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Apply three of the nine TRANSFORMS to an RGB picture, drawn without replacement, in the order drawn."""
    for name in rng.choice(list(TRANSFORMS), TRANSFORMS_PER_TEXTURE, replace=False):
        picture = TRANSFORMS[name](picture, rng)
    return picture


def _rotated_axes(size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two perpendicular coordinates (size, size) in a random direction; the picture's side is 1."""
    x = np.arange(size, dtype=np.float32) / size
    angle = rng.uniform(0, np.pi)
    cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return cosine * x + sine * x[:, None], cosine * x[:, None] - sine * x


def _frequency(rng: np.random.Generator) -> np.float32:
    """Periods per picture side: 2 to 40, every octave equally likely."""
    return np.float32(2 * 20 ** rng.uniform())


def _stripes(size: int, rng: np.random.Generator) -> np.ndarray:
    along, _ = _rotated_axes(size, rng)
    bend = np.float32(rng.uniform(0, 1)) * _gradient_noise(size, (4, 4), rng)
    return 0.5 + 0.5 * np.sin(2 * np.pi * (_frequency(rng) * along + bend))


def _checks(size: int, rng: np.random.Generator) -> np.ndarray:
    waves = [np.sin(2 * np.pi * _frequency(rng) * axis) for axis in _rotated_axes(size, rng)]
    return 0.5 + 0.5 * waves[0] * waves[1]


def _blobs(size: int, rng: np.random.Generator) -> np.ndarray:
    """Gaussian bumps; each is a product of its two axes."""
    count = int(rng.integers(10, 100))
    at = np.arange(size, dtype=np.float32) / size
    centre = rng.uniform(0, 1, (2, count, 1))
    spread = np.sqrt(rng.uniform(0.02, 0.4) / count) * rng.uniform(0.6, 1.4, (2, count, 1))
    rows, columns = np.exp(-0.5 * ((at - centre) / spread) ** 2).astype(np.float32)
    return np.minimum(np.einsum("ny,nx->yx", rows, columns), 1)


def _octaves(size: int, rng: np.random.Generator) -> np.ndarray:
    persistence = rng.uniform(0.4, 1.0)
    first = rng.integers(0, 4, 2)  # unequal for the two axes: streaky noise
    layers = [persistence**k * _gradient_noise(size, tuple(2 ** (first + k)), rng) for k in range(4)]
    return 0.5 + sum(layers) / sum(persistence**k for k in range(4))


PATTERNS = (_stripes, _checks, _blobs, _octaves)


def procedural_texture(size: int, rng: np.random.Generator) -> Image.Image:
    """Draw an RGB texture (size, size): stripes, checks, blobs or noise in two or three random colours."""
    pattern = PATTERNS[rng.integers(len(PATTERNS))](size, rng)
    steepness = np.exp(rng.uniform(0, 3))  # from smooth shading to hard edges
    level = np.clip(0.5 + steepness * (pattern - 0.5), 0, 1)
    colours = rng.integers(0, 256, (rng.integers(2, 4), 3))
    stops = np.linspace(0, 255, len(colours))
    ramp = np.stack([np.interp(np.arange(256), stops, channel) for channel in colours.T], axis=-1).astype(np.uint8)
    return Image.fromarray(ramp[(255 * level).astype(np.uint8)])


class TextureSource:
    """Foreign textures for the blend: a folder of pictures as DTD, or procedural textures without a folder.

    Pictures are decoded when first drawn, resized so that they just cover `image_size`, and kept as uint8 up to
    TEXTURE_CACHE_BYTES per process. `name` describes the source for the record of a run.
    """

    def __init__(self, image_size: Size, folder: Path | str | None = None) -> None:
        """Raises ValueError if `folder` and its sub-folders contain no readable jpg or png picture."""
        self.image_size = as_pair(image_size)
        self._cache: dict[int, np.ndarray] = {}
        self._free_bytes = TEXTURE_CACHE_BYTES
        self._paths = [] if folder is None else _texture_paths(Path(folder))
        self.name = "procedural"
        if folder is not None:
            self.name = f"dtd-like folder {Path(folder).name} ({len(self._paths)} pictures)"

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """Draw a transformed texture (H, W, 3) float32 in [0, 1]."""
        if self._paths:
            picture = Image.fromarray(self._resized(int(rng.integers(len(self._paths)))))
        else:
            picture = procedural_texture(max(self.image_size), rng)
        picture = transform_texture(picture, rng)
        # Cropped last, as in GLASS: a rotation then brings fewer black corners into a picture that is not square.
        return _centre(np.asarray(picture), self.image_size).astype(np.float32) / 255

    def _resized(self, index: int) -> np.ndarray:
        """Picture `index` as uint8 (height, width, 3), or the next readable one: the same in any process."""
        if index in self._cache:
            return self._cache[index]
        try:
            pixels = _load_texture(self._paths[index], self.image_size)
        except UNREADABLE as error:
            logger.warning("texture %s cannot be read (%s); the next one is used instead", self._paths[index], error)
            pixels = self._resized((index + 1) % len(self._paths))
        if pixels.nbytes <= self._free_bytes:
            self._cache[index] = pixels
            self._free_bytes -= pixels.nbytes
        return pixels


def _load_texture(path: Path, covered: tuple[int, int]) -> np.ndarray:
    """The picture (height, width, 3) uint8, resized so that it just covers (H, W)."""
    least = covered[::-1]  # (width, height), as Pillow has it
    with Image.open(path) as file:
        # JPEG only: decodes a large picture at 1/2, 1/4 or 1/8 of its size, never below the size asked for.
        file.draft("RGB", least)
        picture = file.convert("RGB")
    scale = max(side / own for side, own in zip(least, picture.size, strict=True))
    size = tuple(max(side, round(scale * own)) for side, own in zip(least, picture.size, strict=True))
    return np.asarray(picture.resize(size, Image.Resampling.BILINEAR))


def _texture_paths(folder: Path) -> list[Path]:
    """All pictures below the folder, sorted, after making sure that one of them can be read."""
    files = files_in(folder) if folder.is_dir() else ()
    paths = sorted(path for path in files if path.suffix.lower() in TEXTURE_SUFFIXES)
    for path in paths:
        try:
            _load_texture(path, (1, 1))
        except UNREADABLE:
            continue
        return paths
    raise ValueError(
        f"no readable jpg or png picture in the texture folder {folder}; "
        "point it at the unpacked images of DTD, or give no folder to use procedural textures"
    )


# --- blend ---


def draw_blend_weight(rng: np.random.Generator) -> float:
    """Draw the share of the normal image in the blend: N(0.5, 0.1) clipped to [0.2, 0.8]."""
    return float(np.clip(rng.normal(BLEND_WEIGHT_MEAN, BLEND_WEIGHT_STD), *BLEND_WEIGHT_RANGE))


def blend(image: np.ndarray, texture: np.ndarray, mask: np.ndarray, blend_weight: float) -> np.ndarray:
    """Blend a texture into an image (H, W, 3) where mask (H, W) is True: x(1-m) + (1-beta) t m + beta x m."""
    blended = image.copy()
    blended[mask] = (1 - blend_weight) * texture[mask] + blend_weight * image[mask]
    return blended


def synthesise(
    image: np.ndarray,
    textures: TextureSource,
    grid: tuple[int, int],
    rng: np.random.Generator,
    foreground: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Turn a normal image (H, W, 3) float32 in [0, 1] into an anomalous one and its patch label `grid` bool.

    `foreground` (H, W) bool is where anomalies may be, None the full picture. Raises ValueError if the image is not a
    float image of the texture source's size.
    """
    expected = (*textures.image_size, 3)
    if image.shape != expected or image.dtype != np.float32:
        raise ValueError(
            f"expected a float32 image of {expected} in [0, 1], the size of the texture source, got {image.dtype} of "
            f"{image.shape}"
        )
    mask, patch_label = draw_mask(textures.image_size, grid, rng, foreground)
    return blend(image, textures.draw(rng), mask, draw_blend_weight(rng)), patch_label
