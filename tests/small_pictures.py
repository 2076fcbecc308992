"""Small generated pictures, masks and folders, and what the tests of the data modules ask of samples."""

import hashlib

import numpy as np
from PIL import Image

SIZE = (40, 48)  # (height, width)


def picture(seed, size=SIZE):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))


def mask(size=SIZE, grey=255):
    pixels = np.zeros(size, dtype=np.uint8)
    pixels[: size[0] // 2, : size[1] // 4] = grey
    return Image.fromarray(pixels)


def save(image, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


def seed_of(path):
    return int.from_bytes(hashlib.sha256(str(path).encode()).digest()[:4], "big")


def add_pictures(folder, *names, size=SIZE):
    return [save(picture(seed_of(folder / name), size), folder / name) for name in names]


def add_plates(root, tests):
    """Small grey plates under `root/toy/plate`: six good ones to train on, and the named test pictures.

    Those called square have a bright one.
    """
    rng = np.random.default_rng(0)
    for name in [f"train/good/{i}" for i in range(6)] + tests:
        pixels = rng.normal(120, 12, (72, 72, 3)).clip(0, 255).astype(np.uint8)
        pixels[20:40, 30:50] = 255 if "square" in name else pixels[20:40, 30:50]
        save(Image.fromarray(pixels), root / "toy/plate" / f"{name}.png")


def add_category(root):
    """One MVTec AD category: 3 training pictures, 2 normal and 3 anomalous test pictures with masks."""
    folder = root / "mvtec_ad" / "metal_nut"
    add_pictures(folder / "train" / "good", "000.png", "001.png", "002.png")
    add_pictures(folder / "test" / "good", "000.png", "001.png")
    add_pictures(folder / "test" / "crack", "000.png", "001.png")
    add_pictures(folder / "test" / "bent", "000.png")
    save(mask(), folder / "ground_truth" / "crack" / "000_mask.png")
    save(mask(), folder / "ground_truth" / "crack" / "001.png")
    save(mask(), folder / "ground_truth" / "bent" / "000_mask.png")
    return folder


def only(categories):
    assert len(categories) == 1
    return categories[0]


def names(samples):
    return [sample.name for sample in samples]


def find(samples, name):
    return next(sample for sample in samples if sample.name == name)
