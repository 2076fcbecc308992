"""Every kind of picture becomes the same upright RGB picture, or a PictureError that says why not; and back."""

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_tiffs import packed_rows
from torchvision import transforms

from hubmodels import pictures
from hubmodels.front_end import inspected_part, to_image, to_picture_size
from hubmodels.pictures import FORMATS, PictureError, formats, read_picture

ORIENTATION = 0x0112


def colours(height: int = 20, width: int = 30, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


def encoded(picture: Image.Image, file_format: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, file_format, **options)
    return stream.getvalue()


def pixels(picture) -> np.ndarray:
    return np.array(read_picture(picture))


def grey_as_rgb(grey: np.ndarray) -> np.ndarray:
    return np.stack([grey] * 3, axis=-1)


def png(width: int, height: int, bits: int, colour_type: int, data: bytes, extra: dict | None = None) -> bytes:
    """A PNG of filtered rows, which Pillow cannot write with every number of bits."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    further = b"".join(chunk(kind, body) for kind, body in (extra or {}).items())
    body = chunk(b"IDAT", zlib.compress(data))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + further + body + chunk(b"IEND", b"")


def png_header(width: int, height: int) -> bytes:
    """A few dozen bytes that announce a picture of any size."""
    return png(width, height, 8, 0, b"")


# --- the same picture given in every way ---


def test_every_kind_of_input_gives_the_same_picture(tmp_path):
    array = colours()
    picture = Image.fromarray(array)
    path = tmp_path / "part.png"
    picture.save(path)
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    for given in (path, str(path), path.read_bytes(), picture, Image.open(path), array, tensor):
        result = read_picture(given)
        assert (result.mode, result.size) == ("RGB", (30, 20))
        np.testing.assert_array_equal(np.array(result), array)


@pytest.mark.parametrize("file_format", ["BMP", "GIF", "PPM", "TIFF", "WEBP", "JPEG2000", "AVIF", "JPEG"])
def test_file_formats(file_format):
    picture = Image.new("RGB", (40, 24), (200, 60, 20))
    result = pixels(encoded(picture, file_format))
    assert result.shape == (24, 40, 3)
    assert np.abs(result.astype(int) - (200, 60, 20)).max() <= 4


def test_phone_photo_with_embedded_preview_is_its_photo():
    photo, preview = Image.new("RGB", (32, 16), "red"), Image.new("RGB", (8, 8), "blue")
    data = encoded(photo, "MPO", save_all=True, append_images=[preview])
    assert getattr(Image.open(io.BytesIO(data)), "n_frames", 1) == 2
    result = read_picture(data)
    assert result.size == (32, 16)
    assert result.getpixel((5, 5))[0] > 200


@pytest.mark.parametrize(
    "picture",
    [None, 3, ["a.png"], bytearray(b"x"), io.BytesIO(b"x")],
    ids=lambda picture: type(picture).__name__,
)
def test_other_types_are_named(picture):
    with pytest.raises(PictureError, match=type(picture).__name__):
        read_picture(picture)


# --- colour modes ---


@pytest.mark.parametrize("mode", ["1", "L", "LA", "PA", "P", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV"])
def test_colour_modes_become_rgb(mode):
    source = Image.new("RGB", (16, 12), "white")
    converted = source.convert("RGBA").convert("RGBa") if mode == "RGBa" else source.convert(mode)
    assert converted.mode == mode
    np.testing.assert_array_equal(pixels(converted), 255)


def test_grey_is_repeated_over_the_channels():
    grey = colours(channels=1)[..., 0]
    np.testing.assert_array_equal(pixels(encoded(Image.fromarray(grey))), grey_as_rgb(grey))


@pytest.mark.parametrize("alpha", [255, 128, 0])
def test_alpha_is_dropped_and_the_pixels_under_it_kept(alpha):
    rgba = np.concatenate([colours(), np.full((20, 30, 1), alpha, np.uint8)], axis=-1)
    np.testing.assert_array_equal(pixels(encoded(Image.fromarray(rgba))), colours())
    np.testing.assert_array_equal(pixels(rgba), colours())
    grey_alpha = np.ascontiguousarray(rgba[..., [0, 3]])
    np.testing.assert_array_equal(pixels(Image.fromarray(grey_alpha, "LA")), grey_as_rgb(rgba[..., 0]))


@pytest.mark.parametrize("transparency", [None, 3, bytes([0, 128, 255])])
def test_palette_equals_rgb(transparency):
    palette = Image.fromarray(colours()).quantize(16)
    expected = np.array(palette.convert("RGB"))
    options = {} if transparency is None else {"transparency": transparency}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(pixels(encoded(palette, **options)), expected)


def test_unknown_colour_mode_is_refused():
    with pytest.raises(PictureError, match="colour mode La"):
        read_picture(Image.new("La", (16, 16)))


# --- more than 8 bit ---

RAMP = np.tile(np.linspace(0, 65535, 256).astype(np.uint16), (8, 1))  # 0, 257, ..., 65535
RAMP_RGB = grey_as_rgb(np.tile(np.arange(256, dtype=np.uint8), (8, 1)))


@pytest.mark.parametrize(
    "picture",
    [
        RAMP,
        RAMP.astype(">u2"),
        torch.from_numpy(RAMP),
        Image.fromarray(RAMP),
        encoded(Image.fromarray(RAMP), "PNG"),
        encoded(Image.fromarray(RAMP), "TIFF"),
        Image.frombytes("I;16B", (256, 8), RAMP.astype(">u2").tobytes()),
        Image.frombytes("I;16L", (256, 8), RAMP.astype("<u2").tobytes()),
        b"P5 256 8 65535\n" + RAMP.astype(">u2").tobytes(),
        Image.fromarray((RAMP / 65535).astype(np.float32)),
        encoded(Image.fromarray((RAMP / 65535).astype(np.float32)), "TIFF"),
    ],
    ids=["array", "big-endian", "tensor", "I;16", "png", "tiff", "I;16B", "I;16L", "pgm", "F", "float tiff"],
)
def test_a_16_bit_ramp_stays_a_ramp_and_reaches_255(picture):
    np.testing.assert_array_equal(pixels(picture), RAMP_RGB)


def test_16_bit_values_are_rounded_to_the_nearest_level():
    every_value = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    np.testing.assert_array_equal(pixels(every_value)[..., 0], np.rint(every_value * (255 / 65535)))


def test_16_bit_is_not_stretched_to_its_own_range():
    dark = np.full((16, 16), 4 * 257, np.uint16)
    dark[0, 0] = 0
    assert pixels(dark).max() == 4


@pytest.mark.parametrize(
    ("mode", "value"),
    [("I", 200), ("I", 65535), ("F", -0.1), ("F", 255.0), ("F", float("nan")), ("F", float("inf"))],
)
def test_wide_values_without_a_known_scale_are_refused(mode, value):
    with pytest.raises(PictureError, match=r'convert\("I;16"\)|divide by 255|NaN'):
        read_picture(Image.new(mode, (16, 16), value))


@pytest.mark.parametrize("mode", ["I;16", "L"])
def test_the_remedy_for_32_bit_integers_works(mode):
    levels = np.tile(np.arange(256, dtype=np.int32), (8, 1))
    wide = Image.fromarray(levels * 257 if mode == "I;16" else levels)
    np.testing.assert_array_equal(pixels(wide.convert(mode)), RAMP_RGB)


@pytest.mark.parametrize("maxval", [1, 100, 255, 1023, 4095, 16383, 65535])
@pytest.mark.parametrize("magic", ["P2", "P5", "P6"])
def test_the_maxval_of_a_pgm_or_ppm_is_white(magic, maxval):
    samples = np.tile(np.linspace(0, maxval, 16).astype(int), (8, 1))
    stored = np.repeat(samples, 3, axis=1) if magic == "P6" else samples
    body = stored.astype(">u2" if maxval > 255 else np.uint8).tobytes()
    if magic == "P2":
        body = " ".join(map(str, samples.ravel())).encode()
    np.testing.assert_array_equal(
        pixels(f"{magic} 16 8 {maxval}\n".encode() + body), grey_as_rgb(np.rint(samples * 255 / maxval))
    )


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_the_largest_sample_of_a_narrow_png_is_white(bits):
    samples = np.tile(np.arange(16) % 2**bits, (8, 1))
    rows = b"".join(b"\0" + packed_rows(row[None], bits) for row in samples)
    data = png(16, 8, bits, colour_type=0, data=rows)
    np.testing.assert_array_equal(pixels(data), grey_as_rgb(samples * 255 // (2**bits - 1)))


def test_significant_bits_of_a_png_do_not_change_its_full_scale():
    """PNG, section 12.4: samples are scaled to the full range before they are stored."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in RAMP)
    data = png(256, 8, 16, colour_type=0, data=rows, extra={b"sBIT": bytes([12])})
    np.testing.assert_array_equal(pixels(data), RAMP_RGB)


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_the_largest_sample_of_a_wide_jpeg_2000_is_white(bits):
    """Pillow writes 16 bits only. Its file is patched to `bits`: decoders then add half of 2**bits, not of 2**16."""
    samples = np.tile(np.linspace(0, 2**bits - 1, 64).astype(int), (64, 1))
    picture = Image.fromarray((samples + 2**15 - 2 ** (bits - 1)).astype(np.uint16))
    data = bytearray(encoded(picture, "JPEG2000", irreversible=False))
    data[data.index(b"\xff\x51") + 40] = data[data.index(b"ihdr") + 14] = bits - 1  # SIZ marker and header box
    result = pixels(bytes(data)).astype(int)
    assert np.abs(result - grey_as_rgb(samples * 255 / (2**bits - 1))).max() <= 0.6


def test_16_bit_colours_are_right_within_a_level():
    samples = np.random.default_rng(0).integers(0, 65536, (20, 30, 3))
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    result = pixels(png(30, 20, 16, colour_type=2, data=rows)).astype(int)
    assert np.abs(result - samples * 255 / 65535).max() <= 1


# --- arrays and tensors ---


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float16, np.float32, np.float64])
def test_arrays_and_tensors_of_every_type(dtype, channels):
    levels = colours(channels=channels)
    scale = {np.uint8: 1, np.uint16: 257}.get(dtype, 1 / 255)
    array = (levels.astype(np.float64) * scale).astype(dtype)
    before, expected = array.copy(), np.broadcast_to(levels[..., :3], (20, 30, 3))
    np.testing.assert_array_equal(pixels(array), expected)
    np.testing.assert_array_equal(pixels(torch.from_numpy(array).permute(2, 0, 1)), expected)
    np.testing.assert_array_equal(array, before)


def test_grey_array_and_tensor_without_channel():
    grey = colours(channels=1)[..., 0]
    np.testing.assert_array_equal(pixels(grey), grey_as_rgb(grey))
    np.testing.assert_array_equal(pixels(torch.from_numpy(grey)), grey_as_rgb(grey))


def test_bool_is_black_and_white():
    checks = np.indices((10, 12)).sum(0) % 2 == 0
    expected = grey_as_rgb(checks * np.uint8(255))
    np.testing.assert_array_equal(pixels(checks), expected)
    np.testing.assert_array_equal(pixels(torch.from_numpy(checks)), expected)


def test_array_views_are_read_and_not_kept():
    array = colours(40, 30)
    view = array[::-2, ::-1]
    result = read_picture(view)
    expected = view.copy()
    array[:] = 0
    np.testing.assert_array_equal(np.array(result), expected)


def test_tensor_with_gradient_and_bfloat16():
    tensor = torch.ones(3, 10, 12, dtype=torch.bfloat16, requires_grad=True)
    np.testing.assert_array_equal(pixels(tensor), 255)


@pytest.mark.parametrize(
    "shape", [(16,), (16, 16, 2), (3, 16, 16), (1, 16, 16, 3), ()], ids=lambda shape: f"{len(shape)}d"
)
def test_array_shapes_that_are_no_picture(shape):
    with pytest.raises(PictureError, match="shape"):
        read_picture(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("shape", [(16,), (2, 16, 16), (16, 16, 3), (1, 3, 16, 16)])
def test_tensor_shapes_that_are_no_picture(shape):
    with pytest.raises(PictureError, match="one picture"):
        read_picture(torch.zeros(shape))


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.int16, np.int8, np.uint32, np.complex64, object])
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(PictureError, match=rf"dtype {np.dtype(dtype).name}.*65535 = white"):
        read_picture(np.zeros((16, 16), dtype))


@pytest.mark.parametrize(
    ("value", "cause"),
    [(np.nan, "NaN"), (np.inf, "infinite"), (-np.inf, "infinite"), (-0.5, "divide by 255"), (200, "divide by 255")],
)
def test_floats_outside_0_to_1_are_refused(value, cause):
    array = np.zeros((16, 16, 3), np.float32)
    array[3, 4, 1] = value
    with pytest.raises(PictureError, match=cause):
        read_picture(array)
    with pytest.raises(PictureError, match=cause):
        read_picture(torch.from_numpy(array).permute(2, 0, 1))


# --- orientation ---


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_exif_orientation_is_applied_once(file_format):
    upright = Image.fromarray(np.kron([[250, 150], [100, 50], [0, 200]], np.ones((16, 16))).astype(np.uint8), "L")
    stored = upright.convert("RGB").transpose(Image.Transpose.ROTATE_90)  # orientation 6: turn right to view
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    data = encoded(stored, file_format, exif=exif)
    for given in (data, Image.open(io.BytesIO(data))):
        result = read_picture(given)
        assert result.size == upright.size == (32, 48)
        assert np.abs(np.array(result)[8::16, 8::16].astype(int) - pixels(upright)[8::16, 8::16]).max() <= 3
        np.testing.assert_array_equal(pixels(result), np.array(result))  # a second reading turns nothing


def test_orientation_of_a_16_bit_picture():
    exif = Image.Exif()
    exif[ORIENTATION] = 3
    np.testing.assert_array_equal(pixels(encoded(Image.fromarray(RAMP), exif=exif)), RAMP_RGB[::-1, ::-1])


# --- files that cannot be inspected ---


def test_missing_file_is_named_without_its_folder(tmp_path):
    with pytest.raises(PictureError, match=r"'no_such\.png' does not exist") as caught:
        read_picture(tmp_path / "no_such.png")
    assert tmp_path.name not in str(caught.value)


@pytest.mark.parametrize("path", ["", "a\0b", "x" * 5000, "data:image/png;base64," + "QUJD" * 100])
def test_strings_that_are_no_path(path):
    with pytest.raises(PictureError) as caught:
        read_picture(path)
    assert len(str(caught.value)) < 250


def test_folder(tmp_path):
    with pytest.raises(PictureError, match="is a folder"):
        read_picture(tmp_path)


def test_device_or_pipe_is_not_read():
    if not Path("/dev/zero").exists():
        pytest.skip("this system has no /dev/zero")
    with pytest.raises(PictureError, match="not a regular file"):
        read_picture("/dev/zero")


def animation(file_format: str) -> bytes:
    first, second = Image.new("RGB", (16, 16), "red"), Image.new("RGB", (16, 16), "blue")
    return encoded(first, file_format, save_all=True, append_images=[second])


NOISE = Image.fromarray(colours(64, 64))
BROKEN = {
    "empty": (b"", "is empty"),
    "text": (b"this is not a picture", "not a picture in a known format"),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "not a picture in a known format"),
    "pdf": (b"%PDF-1.7\n%abc\n", "not a picture in a known format"),
    "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n", "not a picture in a known format"),
    "cut jpeg": (encoded(NOISE, "JPEG")[:-1500], "truncated"),
    "cut png": (encoded(NOISE, "PNG")[:-4000], "truncated"),
    "cut tiff": (encoded(NOISE, "TIFF")[:-4000], "truncated"),
    "cut webp": (encoded(NOISE, "WEBP", lossless=True)[:-3000], "truncated"),
    "garbled png": (encoded(NOISE, "PNG")[:60] + bytes(8000), "corrupt"),
    "garbled tiff": (b"II*\0" + b"\xff" * 60, "damaged TIFF"),
    "gif animation": (animation("GIF"), "several frames"),
    "png animation": (animation("PNG"), "several frames"),
    "webp animation": (animation("WEBP"), "several frames"),
    "tiff pages": (animation("TIFF"), "several frames or pages"),
    "one pixel thin": (encoded(Image.new("RGB", (3000, 1))), "3000 x 1 pixels"),
}


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")  # Pillow's remark on the garbled TIFF
@pytest.mark.parametrize(("data", "cause"), BROKEN.values(), ids=BROKEN.keys())
def test_files_that_cannot_be_inspected(tmp_path, data, cause):
    path = tmp_path / "part.bin"
    path.write_bytes(data)
    with pytest.raises(PictureError, match=cause) as caught:
        read_picture(path)
    assert "'part.bin'" in str(caught.value)
    assert str(tmp_path) not in str(caught.value)
    with pytest.raises(PictureError, match=cause):
        read_picture(data)


def test_opened_animation_is_refused_and_its_frame_accepted():
    with Image.open(io.BytesIO(animation("GIF"))) as opened:
        with pytest.raises(PictureError, match="several frames"):
            read_picture(opened)
        opened.seek(1)
        assert read_picture(opened.copy()).getpixel((3, 3)) == (0, 0, 255)


def test_single_frame_gif_is_a_picture():
    assert read_picture(encoded(Image.new("P", (16, 16)), "GIF")).size == (16, 16)


@pytest.mark.parametrize("picture", [Image.new("RGB", (0, 9)), np.zeros((0, 9, 3), np.uint8), torch.zeros(3, 9, 0)])
def test_pictures_without_pixels(picture):
    with pytest.raises(PictureError, match="no pixels"):
        read_picture(picture)


@pytest.mark.parametrize(("side", "accepted"), [(7, False), (8, True)])
def test_thin_pictures(side, accepted):
    strip = np.zeros((side, 100, 3), np.uint8)
    if accepted:
        assert read_picture(strip).size == (100, side)
    else:
        with pytest.raises(PictureError, match="100 x 7"):
            read_picture(strip)


# 81 Mpx: Pillow is silent; 144 Mpx: Pillow warns; 400 Mpx: Pillow raises its own error
@pytest.mark.parametrize("side", [9_000, 12_000, 20_000])
def test_decompression_bombs_meet_our_own_limit(side):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(PictureError, match="more than 64,000,000"):
            read_picture(png_header(side, side))
    assert Image.MAX_IMAGE_PIXELS == 89_478_485  # Pillow's global is somebody else's


def test_pixel_limit_holds_for_every_door(monkeypatch):
    monkeypatch.setattr(pictures, "MAX_PIXELS", 100)
    array = colours(10, 11)
    for given in (array, torch.from_numpy(array).permute(2, 0, 1), Image.fromarray(array), encoded(NOISE)):
        with pytest.raises(PictureError, match="more than 100;"):
            read_picture(given)
    assert read_picture(colours(10, 10)).size == (10, 10)


# --- to the model and back ---


def test_to_image_shape_and_range():
    half_white = np.zeros((50, 70, 3), np.uint8)
    half_white[:, 35:] = 255
    image = to_image(read_picture(half_white), 32)
    assert image.shape == (3, 32, 32)
    assert image.dtype == torch.float32
    assert (image.min(), image.max()) == (0, 1)
    assert image[:, :, :14].max() == 0  # squashed, not cropped: left and right halves both there
    assert image[:, :, 18:].min() == 1


@pytest.mark.parametrize(("image_size", "resize"), [(32, None), (32, 32), (32, 37), (32, 35), (40, 45), (90, 100)])
def test_to_image_equals_torchvision_on_a_square_picture(image_size, resize):
    picture = Image.fromarray(colours(75, 75))
    reference = transforms.Compose(
        [transforms.Resize(resize or image_size), transforms.CenterCrop(image_size), transforms.ToTensor()]
    )
    assert torch.equal(to_image(picture, image_size, resize), reference(picture))


@pytest.mark.parametrize(("image_size", "resize"), [((32, 80), None), ((96, 32), (96, 32)), ((32, 80), (37, 93))])
def test_an_oblong_image_equals_torchvisions(image_size, resize):
    picture = Image.fromarray(colours(75, 120))
    reference = transforms.Compose(
        [transforms.Resize(resize or image_size), transforms.CenterCrop(image_size), transforms.ToTensor()]
    )
    assert torch.equal(to_image(picture, image_size, resize), reference(picture))
    assert torch.equal(to_image(picture, list(image_size), resize and list(resize)), reference(picture))


def test_a_square_is_one_number_or_two():
    picture = Image.fromarray(colours(75, 120))
    image = to_image(picture, 64, 75)
    assert torch.equal(to_image(picture, (64, 64), (75, 75)), image)
    one, two = (to_picture_size(image[0], (75, 120), resize) for resize in (75, (75, 75)))
    np.testing.assert_array_equal(one, two)
    assert inspected_part((75, 120), 64, 75) == inspected_part((75, 120), (64, 64), (75, 75))


def test_crop_larger_than_the_resized_picture_is_refused():
    with pytest.raises(ValueError, match="resize 30 is smaller than image_size 32"):
        to_image(NOISE, 32, 30)
    with pytest.raises(ValueError, match="resize 64 x 79 is smaller than image_size 32 x 80"):
        to_image(NOISE, (32, 80), (64, 79))


@pytest.mark.parametrize("size", [(64, 64), (200, 120), (40, 300), (20, 24)])
@pytest.mark.parametrize(
    ("image_size", "resize"), [(64, None), (64, 73), ((64, 160), None), ((160, 64), (170, 75)), ((64, 160), (64, 181))]
)
def test_a_spot_returns_to_its_place(size, image_size, resize):
    height, width = size
    row, column = int(height * 0.7), int(width * 0.3)
    radius = (max(2, height // 32), max(2, width // 32))
    picture = np.zeros((height, width), np.uint8)
    picture[row - radius[0] : row + radius[0] + 1, column - radius[1] : column + radius[1] + 1] = 255
    anomaly_map = to_image(read_picture(picture), image_size, resize)[0]
    result = to_picture_size(anomaly_map, size, resize)
    assert result.shape == size
    assert result.dtype == np.float32
    assert result.flags.c_contiguous
    rows, columns = np.indices(size)
    assert abs((rows * result).sum() / result.sum() - row) < 1
    assert abs((columns * result).sum() / result.sum() - column) < 1


@pytest.mark.parametrize("size", [(32, 32), (1000, 700), (20, 90), (9, 8)])
@pytest.mark.parametrize("resize", [None, 32, 35])
@pytest.mark.parametrize("value", [0.1, -3.7, 1e6])
def test_a_constant_map_stays_that_constant_exactly(size, resize, value):
    anomaly_map = torch.full((32, 32), value)
    np.testing.assert_array_equal(to_picture_size(anomaly_map, size, resize), np.float32(value))


def test_map_at_its_own_size_is_unchanged():
    anomaly_map = torch.randn(24, 24, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(to_picture_size(anomaly_map, (24, 24)), anomaly_map, rtol=1e-6)


def test_growing_map_is_plain_bilinear():
    anomaly_map = torch.rand(16, 16, generator=torch.Generator().manual_seed(0))
    plain = torch.nn.functional.interpolate(anomaly_map[None, None], size=(50, 77), mode="bilinear")[0, 0]
    np.testing.assert_allclose(to_picture_size(anomaly_map, (50, 77)), plain, atol=1e-6)


def test_shrinking_map_keeps_its_mean():
    """Without antialiasing, a one-pixel line between the samples would vanish."""
    anomaly_map = torch.zeros(64, 64)
    anomaly_map[30] = 1
    result = to_picture_size(anomaly_map, (8, 8))
    assert result.mean() == pytest.approx(1 / 64, rel=1e-4)


def test_border_outside_the_crop_gets_the_minimum():
    anomaly_map = torch.full((30, 30), 5.0, requires_grad=True).clone()
    anomaly_map[10, 10] = -2.0
    result = to_picture_size(anomaly_map, (40, 40), resize=40)
    np.testing.assert_array_equal(result[5:35, 5:35], anomaly_map.detach())
    outside = np.ones((40, 40), bool)
    outside[5:35, 5:35] = False
    np.testing.assert_array_equal(result[outside], -2.0)


@pytest.mark.parametrize(
    ("size", "resize", "rows", "columns"),
    [((40, 40), 40, (5, 35), (5, 35)), ((80, 20), 40, (10, 70), (2, 17)), ((33, 47), 30, (0, 33), (0, 47))],
)
def test_the_inspected_part_is_what_the_crop_of_30_pixels_covers(size, resize, rows, columns):
    assert inspected_part(size, 30, resize) == (slice(*rows), slice(*columns))


def test_the_border_and_the_inspected_part_of_an_oblong_crop_agree():
    """A crop 48 x 80 -> 40 x 60 of a picture of twice that size."""
    result = to_picture_size(torch.ones(40, 60) + torch.eye(40, 60), (96, 160), (48, 80))
    rows, columns = inspected_part((96, 160), (40, 60), (48, 80))
    assert (rows, columns) == (slice(8, 88), slice(20, 140))
    assert result[:, :19].max() == result[:7].max() == result[:, 141:].max() == result[89:].max() == 1
    assert result[rows, columns].max() > 1.5


def test_map_larger_than_resize_is_refused():
    with pytest.raises(ValueError, match="smaller than image_size"):
        to_picture_size(torch.zeros(32, 32), (10, 10), resize=30)


def test_heic_needs_an_extra_and_says_so(tmp_path, monkeypatch):
    formats()  # registers it with Pillow, as far as it is installed
    smooth = Image.fromarray(np.linspace(0, 255, 64 * 64).reshape(64, 64).astype(np.uint8)).convert("RGB")
    smooth.save(tmp_path / "photo.heic", quality=95)
    difference = np.abs(np.asarray(read_picture(tmp_path / "photo.heic"), int) - np.asarray(smooth, int))
    assert difference.mean() < 2
    monkeypatch.setattr(pictures, "formats", lambda: FORMATS)
    with pytest.raises(PictureError, match=r"'photo\.heic' is HEIC: pip install .*\[heic\].*, or save it as JPEG"):
        read_picture(tmp_path / "photo.heic")
