"""A rendered belt under a camera: parts come in, stand still, and leave; then an empty belt, and a hand."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from training.parts.dataset import render

PICTURES_A_SECOND = 10
STILL, MOVE = 10, 4  # pictures that a scene stands still, and that it takes to come in
SIZE = 256


def scenes(seed: int = 4000) -> list[np.ndarray]:
    """Good washer, another one, a scratched one, the empty belt, a hand over a washer: RGB (256, 256, 3) uint8."""
    first, second = (render("washer", seed + number, size=SIZE)[0] for number in (0, 1))
    scratched = render("washer", seed + 2, "scratch", size=SIZE)[0]
    empty = np.full_like(first, first[:12, :12].mean((0, 1)).astype(np.uint8))
    return [first, second, scratched, empty, _with_hand(second)]


def _with_hand(picture: np.ndarray) -> np.ndarray:
    layer = Image.fromarray(picture)
    draw = ImageDraw.Draw(layer)
    for finger in range(4):
        draw.rounded_rectangle(
            (40 + 38 * finger, 30 + 8 * abs(finger - 1), 70 + 38 * finger, 180), 15, (205, 150, 125)
        )
    draw.ellipse((30, 120, 210, 280), fill=(200, 145, 120))
    return np.asarray(layer.filter(ImageFilter.GaussianBlur(1.2)))


def frames(still: int = STILL, noise: float = 1.0) -> Iterator[np.ndarray]:
    """The pictures of the camera, with its noise."""
    rng, before = np.random.default_rng(0), None
    for scene in scenes():
        for step in range(1, MOVE) if before is not None else ():
            cut = SIZE * step // MOVE  # the belt carries one out while the next one comes in
            yield _noisy(np.concatenate([scene[:, SIZE - cut :], before[:, : SIZE - cut]], 1), noise, rng)
        for _ in range(still):
            yield _noisy(scene, noise, rng)
        before = scene


def _noisy(picture: np.ndarray, noise: float, rng: np.random.Generator) -> np.ndarray:
    return np.clip(picture + rng.normal(0, noise, picture.shape), 0, 255).astype(np.uint8)


def write_video(path: Path, still: int = STILL) -> Path:
    """The belt as a video file; needs PyAV."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4" if path.suffix == ".mp4" else "mjpeg", rate=PICTURES_A_SECOND)
        stream.width = stream.height = SIZE
        stream.pix_fmt = "yuv420p" if path.suffix == ".mp4" else "yuvj420p"
        stream.bit_rate = 8_000_000
        stream.codec_context.time_base = Fraction(1, PICTURES_A_SECOND)
        for number, pixels in enumerate(frames(still)):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, PICTURES_A_SECOND)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
