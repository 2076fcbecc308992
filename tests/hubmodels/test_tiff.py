"""What a TIFF's tags state of its samples: the same grey means the same in every kind of file, or is refused."""

import io
import zlib

import numpy as np
import pytest
from PIL import Image
from small_tiffs import packed_rows, tiff

from hubmodels.pictures import PictureError, read_picture
from hubmodels.samples import decode_mask

WIDTH, HEIGHT = 16, 8
LEVELS = np.tile(np.arange(16) * 17, (HEIGHT, 1))  # 0, 17, ..., 255
COLOURS = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3))
BITS, COMPRESSION, PHOTOMETRIC, CHANNELS, PLANES, PALETTE, EXTRA, FORMAT = 258, 259, 262, 277, 284, 320, 338, 339
DEFLATE = 8


def pixels(data: bytes) -> np.ndarray:
    return np.array(read_picture(data)).astype(int)


def grey(levels: np.ndarray) -> np.ndarray:
    return np.stack([levels] * 3, axis=-1)


def one_strip(samples: bytes, tags: dict, order: str = "<", deflate: bool = False) -> bytes:
    data = zlib.compress(samples) if deflate else samples
    return tiff([data], WIDTH, HEIGHT, tags | ({COMPRESSION: DEFLATE} if deflate else {}), order)


def samples_of(bits: int, white_is_zero: bool = False) -> np.ndarray:
    samples = np.rint(LEVELS / 255 * (2**bits - 1)).astype(int)
    return 2**bits - 1 - samples if white_is_zero else samples


@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_up_to_8_bits(bits, photometric, deflate):
    samples = samples_of(bits, photometric == 0)
    data = one_strip(packed_rows(samples, bits), {BITS: bits, PHOTOMETRIC: photometric}, deflate=deflate)
    np.testing.assert_array_equal(pixels(data), grey(samples_of(bits) * 255 // (2**bits - 1)))


@pytest.mark.parametrize("deflate", [False, True])
def test_12_bits_are_as_bright_as_8(deflate):
    data = one_strip(packed_rows(samples_of(12), 12), {BITS: 12, PHOTOMETRIC: 1}, deflate=deflate)
    np.testing.assert_array_equal(pixels(data), grey(LEVELS))
    with Image.open(io.BytesIO(data)) as opened:  # the tags count for a picture that the user opened, too
        np.testing.assert_array_equal(np.array(read_picture(opened)), grey(LEVELS))


@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize(("order", "photometric"), [("<", 0), ("<", 1), (">", 1)])
def test_16_bits_with_black_or_white_as_zero(order, photometric, deflate):
    samples = samples_of(16, photometric == 0).astype(f"{order}u2").tobytes()
    data = one_strip(samples, {BITS: 16, PHOTOMETRIC: photometric}, order, deflate)
    np.testing.assert_array_equal(pixels(data), grey(LEVELS))


@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize("order", ["<", ">"])
def test_floats_with_black_or_white_as_zero(order, photometric):
    values = LEVELS / 255 if photometric else 1 - LEVELS / 255
    tags = {BITS: 32, PHOTOMETRIC: photometric, FORMAT: 3}
    np.testing.assert_array_equal(pixels(one_strip(values.astype(f"{order}f4").tobytes(), tags, order)), grey(LEVELS))


REFUSED = {
    "int8": ({BITS: 8, FORMAT: 2}, "i1", "signed 8-bit"),
    "int16": ({BITS: 16, FORMAT: 2}, "<i2", "signed 16-bit"),
    "int32": ({BITS: 32, FORMAT: 2}, "<i4", "signed 32-bit"),
    "uint32": ({BITS: 32, FORMAT: 1}, "<u4", "unsigned 32-bit"),
    "float64": ({BITS: 64, FORMAT: 3}, "<f8", "unusual kind"),
    "float16": ({BITS: 16, FORMAT: 3}, "<f2", "unusual kind"),
    "no photometric": ({BITS: 8, PHOTOMETRIC: None}, "u1", "whether 0 is black or white"),
    "preview": ({BITS: 8, 254: 1}, "u1", "small preview"),
}


@pytest.mark.parametrize(("tags", "dtype", "cause"), REFUSED.values(), ids=REFUSED.keys())
def test_samples_of_unknown_meaning_are_refused(tags, dtype, cause):
    data = one_strip((LEVELS // 2).astype(dtype).tobytes(), {PHOTOMETRIC: 1} | tags)
    with pytest.raises(PictureError, match=cause) as caught:
        read_picture(data)
    assert "; save it" in str(caught.value) or "; export" in str(caught.value)


@pytest.mark.parametrize("bits", [10, 14])
def test_bits_that_pillow_cannot_read_are_named(bits):
    data = one_strip(packed_rows(samples_of(bits), bits), {BITS: bits, PHOTOMETRIC: 1})
    with pytest.raises(PictureError, match=r"10 or 14 bits.*save it with unsigned 8 or 16 bits"):
        read_picture(data)


RGB8, RGB16 = {BITS: (8,) * 3, CHANNELS: 3}, {BITS: (16,) * 3, CHANNELS: 3}


@pytest.mark.parametrize("order", ["<", ">"])
def test_colours(order):
    rgb = {PHOTOMETRIC: 2}
    wide = (COLOURS * 257).astype(f"{order}u2")
    cmyk = np.concatenate([255 - COLOURS, np.zeros_like(COLOURS[..., :1])], axis=-1).astype(np.uint8)
    planes = [plane.astype(np.uint8).tobytes() for plane in np.moveaxis(COLOURS, -1, 0)]
    files = {
        "8 bits": one_strip(COLOURS.astype(np.uint8).tobytes(), RGB8 | rgb, order),
        "planes": tiff(planes, WIDTH, HEIGHT, RGB8 | rgb | {PLANES: 2}, order),
        "16 bits": one_strip(wide.tobytes(), RGB16 | rgb, order),
        "CMYK": one_strip(cmyk.tobytes(), {BITS: (8,) * 4, CHANNELS: 4, PHOTOMETRIC: 5}, order),
    }
    for name, data in files.items():
        np.testing.assert_array_equal(pixels(data), COLOURS, err_msg=name)


@pytest.mark.parametrize(("bits", "alpha"), [(8, 1), (8, 2), (16, 1), (16, 2)])
def test_alpha_and_premultiplied_alpha_give_the_colours_under_it(bits, alpha):
    """EXTRA 1: colours are stored times alpha, here 128/255, which loses half of the levels."""
    stored = np.rint(COLOURS * (128 / 255 if alpha == 1 else 1)).astype(int)
    samples = np.concatenate([stored, np.full((HEIGHT, WIDTH, 1), 128)], axis=-1) * (257 if bits == 16 else 1)
    tags = {BITS: (bits,) * 4, CHANNELS: 4, PHOTOMETRIC: 2, EXTRA: alpha}
    data = one_strip(samples.astype(f"<u{bits // 8}").tobytes(), tags)
    assert np.abs(pixels(data) - COLOURS).max() <= (1 if alpha == 1 else 0)


def test_ycbcr_is_converted_where_it_is_compressed_and_refused_elsewhere():
    ycbcr = np.array(Image.fromarray(COLOURS.astype(np.uint8)).convert("YCbCr")).tobytes()
    tags = RGB8 | {PHOTOMETRIC: 6, 530: (1, 1)}
    assert np.abs(pixels(one_strip(ycbcr, tags, deflate=True)) - COLOURS).max() <= 3
    with pytest.raises(PictureError, match="uncompressed YCbCr"):
        read_picture(one_strip(ycbcr, tags))


def test_lab_is_converted():
    lab = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    lab[..., 0] = 137  # L* = 53.7: the middle grey 128 or 129 of sRGB
    result = pixels(one_strip(lab.tobytes(), RGB8 | {PHOTOMETRIC: 8}))
    assert np.abs(result - 129).max() <= 1


def test_wide_colours_in_planes_are_refused():
    planes = [(plane * 257).astype("<u2").tobytes() for plane in np.moveaxis(COLOURS, -1, 0)]
    with pytest.raises(PictureError, match="separate planes of 16 bits"):
        read_picture(tiff(planes, WIDTH, HEIGHT, RGB16 | {PHOTOMETRIC: 2, PLANES: 2}))


@pytest.mark.parametrize("scale", [257, 1])
def test_palettes_of_16_and_mistakenly_of_8_bits(scale):
    palette = np.random.default_rng(1).integers(0, 256, (3, 256))
    indices = np.tile(np.arange(16), (HEIGHT, 1))
    tags = {BITS: 8, PHOTOMETRIC: 3, PALETTE: tuple((palette * scale).ravel().tolist())}
    data = one_strip(indices.astype(np.uint8).tobytes(), tags)
    np.testing.assert_array_equal(pixels(data), np.moveaxis(palette[:, indices], 0, -1))


@pytest.mark.parametrize(
    ("bits", "photometric"), [(1, 0), (1, 1), (8, 0), (12, 1), (16, 0), (16, 1)], ids=lambda value: str(value)
)
def test_a_mask_covers_the_same_pixels_in_every_kind_of_file(tmp_path, bits, photometric):
    defective = LEVELS > 127
    samples = np.where(defective, 2**bits - 1, 0) if photometric else np.where(defective, 0, 2**bits - 1)
    body = samples.astype("<u2").tobytes() if bits == 16 else packed_rows(samples, bits)
    path = tmp_path / "mask.tif"
    path.write_bytes(one_strip(body, {BITS: bits, PHOTOMETRIC: photometric}))
    np.testing.assert_array_equal(decode_mask(path), defective)


def test_a_mask_of_32_bit_integers_is_refused(tmp_path):
    path = tmp_path / "mask.tif"
    path.write_bytes(one_strip((LEVELS > 127).astype("<i4").tobytes(), {BITS: 32, PHOTOMETRIC: 1, FORMAT: 2}))
    with pytest.raises(PictureError, match="signed 32-bit"):
        decode_mask(path)
