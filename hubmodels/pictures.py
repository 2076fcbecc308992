"""A user's picture -> an upright RGB picture. All checks of user input are here. Needs neither torch nor timm.

Pictures come from cameras, phones, scans and scripts. `read_picture` turns every sensible one into the same thing, an
upright 8-bit RGB picture, and refuses the others with a `PictureError` that names the cause and what to do. Nothing is
stretched to the picture's own range: brightness is evidence, and the same grey must mean the same in every picture.
"""

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Union

import numpy as np
from PIL import Image, ImageChops, ImageOps, UnidentifiedImageError

from hubmodels import install_command, tiff
from hubmodels.sizes import Size, as_pair, crop_margins, crop_start

if TYPE_CHECKING:
    from torch import Tensor

MAX_PIXELS = 64_000_000  # checked from the header, before decoding: a file of some kB can expand to gigabytes
MIN_SIDE = 8  # pixels; anything thinner contains no patch to inspect

# An explicit list, because some of Pillow's readers start other programs (EPS runs Ghostscript).
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "AVIF", "JPEG2000")
HEIC_BRANDS = {b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1"}  # at byte 8 of the files that phones write
SCALED_TO_16_BITS = ("PNG", "PPM")  # whose mode "I" is always 0 to 65535
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

Picture = Union[str, os.PathLike, bytes, Image.Image, np.ndarray, "Tensor"]


class PictureError(ValueError):
    """The one error for a picture that cannot be inspected; the message names the cause and what to do.

    Attributes:
        fault: the cause for programs, which word it in other languages: "empty", "unknown_format", "corrupt",
            "animated", "too_large", "too_small", or "unreadable" for everything else.
    """

    def __init__(self, message: str, fault: str = "unreadable") -> None:
        super().__init__(message)
        self.fault = fault


class PictureWarning(UserWarning):
    """A picture that was inspected, but whose verdict is doubtful; the message names the likely cause and the remedy.

    The text depends on the cause and the category alone. So Python shows it once for each line of a program, not for
    each picture. `warnings.simplefilter("error", PictureWarning)` turns it into an error.
    """


@lru_cache
def formats() -> tuple[str, ...]:
    """Pillow's names of the formats that are read: `FORMATS`, and HEIF where the extra `heic` is installed."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return FORMATS
    register_heif_opener()
    return (*FORMATS, "HEIF")


def read_picture(picture: Picture) -> Image.Image:
    """Any picture -> RGB picture, 8 bit per channel, upright (EXIF orientation applied), at its own size.

    16-bit samples are scaled by 255/65535, floats in [0, 1] by 255. A file is scaled by the full scale that it states,
    such as 4095 for a TIFF with 12 bits, or the `maxval` of a PGM. 16-bit colours are right within one level. Alpha is
    dropped and the camera's pixels under it are kept: a transparent background is not replaced by a colour that no
    camera took. Colour profiles are ignored.

    Args:
        picture: path, encoded bytes, PIL image, array (H, W) or (H, W, 1|3|4), or tensor (H, W) or (1|3|4, H, W);
            arrays and tensors are RGB, and bool, uint8, uint16 (65535 = white), or float in [0, 1]. Left unchanged.

    Raises:
        PictureError: missing, empty, corrupt, animated, too large, too small, or samples of unknown meaning, such as
            integers of 32 bits.
    """
    if _is_tensor(picture):
        return _from_tensor(picture)
    if isinstance(picture, np.ndarray):
        return _from_array(picture)
    if isinstance(picture, Image.Image):
        path = getattr(picture, "filename", "")
        return _from_pillow(picture, _quoted(Path(os.fsdecode(path))) if path else "the picture")
    if isinstance(picture, bytes | str | os.PathLike):
        return _from_file(picture)
    raise PictureError(
        f"a {type(picture).__name__} is not a picture; pass a path, bytes, a PIL image, a numpy array or a tensor"
    )


def fit(picture: Image.Image, image_size: Size, resize: Size | None = None) -> Image.Image:
    """A picture at the size of a model input: resized, bilinear and antialiased, then the centre cropped.

    Args:
        image_size: (height, width) of the result, or the side of a square.
        resize: the same before the crop, at least as large; by default there is no crop.

    Raises:
        ValueError: resize is smaller than image_size.
    """
    height, width = as_pair(image_size)
    whole = as_pair(image_size if resize is None else resize)
    top, left = crop_start(whole, image_size)
    resized = picture.resize(whole[::-1], Image.Resampling.BILINEAR)
    if whole == (height, width):
        return resized
    return resized.crop((left, top, left + width, top + height))


def mask_of_picture(mask: np.ndarray, resize: Size, size: tuple[int, int]) -> np.ndarray:
    """A mask of the model input (H, W) bool -> mask of the picture (height, width); outside of a crop it is False."""
    left, right, top, bottom = crop_margins(resize, mask.shape)
    whole = np.pad(mask, ((top, bottom), (left, right)))
    return np.asarray(Image.fromarray(whole).resize(size[::-1], Image.Resampling.NEAREST))


def _from_file(picture: str | os.PathLike | bytes) -> Image.Image:
    """Path or encoded bytes -> RGB picture."""
    if isinstance(picture, bytes):
        name, stream = "the picture", BytesIO(picture)
    else:
        path = Path(os.fsdecode(picture))
        name = _quoted(path)
        stream = _open_stream(path, name)
    with stream, _read_header(stream, name) as image:
        return _from_pillow(image, name, ours=True)


def _open_stream(path: Path, name: str) -> BinaryIO:
    """Regular file -> its open stream; a pipe or device could block or never end."""
    if os.path.isdir(path):  # unlike Path.is_dir, it does not raise for impossible names
        raise PictureError(f"{name} is a folder; pass one picture file")
    if os.path.exists(path) and not os.path.isfile(path):
        raise PictureError(f"{name} is not a regular file; pass a picture file")
    try:
        return path.open("rb")
    except FileNotFoundError as error:
        raise PictureError(f"{name} does not exist; check the path (web addresses are not fetched)") from error
    except (OSError, ValueError) as error:
        cause = getattr(error, "strerror", None) or error
        raise PictureError(f"{name} cannot be opened ({cause}); check the path and its permissions") from error


def _read_header(stream: BinaryIO, name: str) -> Image.Image:
    """Open stream -> picture with its size and mode, not yet decoded."""
    with _decoding(name):
        if not stream.read(1):
            raise PictureError(f"{name} is empty (0 bytes); save or upload it again", "empty")
        stream.seek(0)
        with warnings.catch_warnings():  # `_check_size` checks our own limit
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return _opened(stream, name)


def _opened(stream: BinaryIO, name: str) -> Image.Image:
    try:
        return Image.open(stream, formats=formats())
    except UnidentifiedImageError as error:
        stream.seek(0)
        start = stream.read(12)
        if start[8:] in HEIC_BRANDS and "HEIF" not in formats():
            raise PictureError(
                f"{name} is HEIC: {install_command('heic')}, or save it as JPEG", "unknown_format"
            ) from error
        if start[:4] not in TIFF_STARTS:
            raise
        raise PictureError(
            f"{name} is a damaged TIFF, or one of an unusual kind (for example 10 or 14 bits, 16-bit or 64-bit "
            "floats); save it with unsigned 8 or 16 bits per sample",
            "unknown_format",
        ) from error


@contextmanager
def _decoding(name: str) -> Iterator[None]:
    """Turns what Pillow raises on broken files into a PictureError."""
    try:
        yield
    except PictureError:
        raise
    except Image.DecompressionBombError as error:
        raise PictureError(
            f"{name} has more than {MAX_PIXELS:,} pixels; shrink or tile it first", "too_large"
        ) from error
    except UnidentifiedImageError as error:
        raise PictureError(
            f"{name} is not a picture in a known format; save it as PNG, JPEG, WebP, BMP or TIFF", "unknown_format"
        ) from error
    except Exception as error:  # OSError, SyntaxError, struct.error, ...: every format's parser has its own
        raise PictureError(f"{name} is corrupt or truncated; save, export or upload it again", "corrupt") from error


def _from_pillow(image: Image.Image, name: str, ours: bool = False) -> Image.Image:
    """PIL image of any mode -> upright RGB picture; one that is ours is changed, because a copy takes time."""
    _check_size(image.height, image.width, name)
    tags = getattr(image, "tag_v2", {}) if image.format == "TIFF" else {}
    with _decoding(name):
        if tags and (refusal := tiff.refusal(tags, image.mode)):
            raise PictureError(f"{name} {refusal}")
        # MPO is what many phones call a JPEG: the photo first, then previews or a depth map; so may HEIC
        if getattr(image, "is_animated", False) and image.format not in ("MPO", "HEIF"):
            raise PictureError(f"{name} has several frames or pages; save the one to inspect as PNG", "animated")
        image.load()
        upright = (ImageOps.exif_transpose(image, in_place=True) or image) if ours else ImageOps.exif_transpose(image)
    if upright.mode == "F" or upright.mode.startswith("I"):  # I, I;16, I;16L, I;16B: Pillow would clip at 255
        picture = _from_array(_wide_samples(upright, image.format, tags, name), name)
        return ImageChops.invert(picture) if tiff.white_is_zero(tags) else picture
    return _from_8_bits(upright, tiff.narrow_palette(tags), name)


def _from_8_bits(upright: Image.Image, palette: bytes | None, name: str) -> Image.Image:
    """PIL image of up to 8 bits per channel -> RGB picture; a palette replaces the image's own."""
    if palette and upright.mode in ("P", "PA"):
        upright.putpalette(palette, "RGB;L")
    if upright.mode == "P":  # without the detour Pillow warns about a transparent palette
        upright = upright.convert("RGBA")
    try:
        return upright if upright.mode == "RGB" else upright.convert("RGB")
    except ValueError as error:
        raise PictureError(f"{name} has colour mode {upright.mode}; save it as RGB or grey") from error


def _wide_samples(image: Image.Image, file_format: str | None, tags: tiff.Tags, name: str) -> np.ndarray:
    """Grey picture with more than 8 bit -> samples (H, W), uint16 or float in [0, 1]."""
    samples = np.asarray(image)
    if image.mode == "I" and file_format not in SCALED_TO_16_BITS:
        raise PictureError(
            f"{name} has 32-bit integers (mode I), for which no value is agreed to be white; convert it to 16 bits "
            'with convert("I;16"), or values up to 255 with convert("L")'
        )
    if image.mode == "F":
        return samples
    if tags and tiff.full_scale(tags) < 65535:
        return samples / tiff.full_scale(tags)
    return samples.astype(np.uint16)


def _is_tensor(picture: object) -> bool:
    torch = sys.modules.get("torch")  # whoever has a tensor has imported torch
    return torch is not None and isinstance(picture, torch.Tensor)


def _from_tensor(tensor: "Tensor") -> Image.Image:
    """Tensor (H, W) or (1|3|4, H, W) -> RGB picture."""
    planes = tensor.detach()[None] if tensor.ndim == 2 else tensor.detach()
    if planes.ndim != 3 or planes.shape[0] not in (1, 3, 4):
        raise PictureError(
            f"a tensor of shape {tuple(tensor.shape)} is not a picture; pass one picture at a time (images[0]) "
            "as (H, W), (1, H, W), (3, H, W) RGB or (4, H, W) RGBA"
        )
    planes = planes.float() if planes.is_floating_point() else planes  # numpy has no bfloat16
    return _from_array(planes.movedim(0, -1).cpu().numpy(), "the tensor")


def _from_array(array: np.ndarray, name: str = "the array") -> Image.Image:
    """Array (H, W) or (H, W, 1|3|4) -> RGB picture."""
    samples = array[..., None] if array.ndim == 2 else array
    if samples.ndim != 3 or samples.shape[-1] not in (1, 3, 4):
        raise PictureError(
            f"an array of shape {array.shape} is not a picture; pass one picture at a time "
            "as (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA"
        )
    _check_size(*samples.shape[:2], name)
    colours = _to_uint8(samples[..., :3], name)
    return Image.fromarray(np.ascontiguousarray(np.broadcast_to(colours, (*colours.shape[:2], 3))))


def _to_uint8(samples: np.ndarray, name: str) -> np.ndarray:
    """Samples of a known full scale -> [0, 255]."""
    kind = samples.dtype.kind + str(samples.dtype.itemsize)  # like "u2", for any byte order
    if kind == "b1":
        return samples.astype(np.uint8) * np.uint8(255)
    if kind == "u1":
        return samples
    if kind == "u2":
        return ((samples.astype(np.uint32) + 128) // 257).astype(np.uint8)  # times 255/65535 = 1/257, rounded
    if kind[0] != "f":
        raise PictureError(
            f"{name} has dtype {samples.dtype}, for which no value is agreed to be white; convert to uint8, "
            "uint16 (65535 = white), or float in [0, 1]"
        )
    low, high = samples.min(), samples.max()
    if not np.isfinite([low, high]).all():
        raise PictureError(f"{name} contains NaN or infinite values; replace them")
    if low < 0 or high > 1:
        raise PictureError(
            f"{name} has float values from {low:.4g} to {high:.4g}; scale to [0, 1] (8-bit values: divide by 255)"
        )
    return np.rint(samples * 255).astype(np.uint8)


def _check_size(height: int, width: int, name: str) -> None:
    if height * width == 0:
        raise PictureError(f"{name} has no pixels ({width} x {height}); check how it was cut or saved", "empty")
    if height * width > MAX_PIXELS:
        raise PictureError(
            f"{name} has {width} x {height} pixels, more than {MAX_PIXELS:,}; shrink or tile it first", "too_large"
        )
    if min(height, width) < MIN_SIDE:
        raise PictureError(
            f"{name} has {width} x {height} pixels; too thin to inspect, crop with sides of at least {MIN_SIDE}",
            "too_small",
        )


def _quoted(path: Path) -> str:
    """File name for messages: no folders (they may be private), always printable, never long."""
    name = path.name or str(path)
    return repr(name if len(name) <= 80 else name[:77] + "...")
