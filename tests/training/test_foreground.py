"""Tests of training/foreground.py: object masks on plain backgrounds, and the fall back to the full picture."""

import numpy as np
import pytest
from PIL import Image
from real_data import real_folder

from training.foreground import foreground_masks
from training.synthesis import procedural_texture

SIZE = 144


def disc(radius: float, centre: tuple[float, float] = (0.5, 0.5)) -> np.ndarray:
    y, x = (np.mgrid[:SIZE, :SIZE] + 0.5) / SIZE
    return (y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= radius**2


def scene(objects: np.ndarray, seed: int, colour=(90, 60, 50), background=(200, 205, 210), vignette=0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j]
    pixels = np.where(objects[..., None], colour, np.array(background) - vignette * (x**2 + y**2 + x)[..., None])
    return np.clip(pixels + rng.normal(0, 3, (SIZE, SIZE, 3)), 0, 255).astype(np.uint8)


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return (a & b).sum() / (a | b).sum()


@pytest.mark.parametrize(
    "look",
    [
        {},
        {"colour": (230, 230, 235), "background": (20, 20, 20)},
        {"colour": (200, 120, 120), "background": (130, 150, 160)},
        {"colour": (60, 60, 60), "vignette": 25.0},
    ],
)
def test_discs_are_found(look: dict) -> None:
    rng = np.random.default_rng(0)
    objects = [disc(0.22, rng.uniform(0.3, 0.7, 2)) for _ in range(8)]
    foreground = foreground_masks([scene(area, seed, **look) for seed, area in enumerate(objects)])
    assert foreground.masks is not None and "about 1" in foreground.reason
    for mask, area in zip(foreground.masks, objects, strict=True):
        assert mask.shape == (SIZE, SIZE) and mask.dtype == bool
        assert overlap(mask, area) > 0.9
        assert not (area & ~mask).any()  # a little wide, never too tight


def test_masks_have_the_pictures_size() -> None:
    pictures = [np.asarray(Image.fromarray(scene(disc(0.25), seed)).resize((201, 201))) for seed in range(3)]
    foreground = foreground_masks(pictures)
    assert [mask.shape for mask in foreground.masks] == [(201, 201)] * 3


@pytest.mark.parametrize("size", [(96, 240), (240, 96)])
def test_discs_in_oblong_pictures_are_found_and_widened_alike_on_all_sides(size: tuple[int, int]) -> None:
    y, x = np.indices(size)
    area = (y - 50) ** 2 + (x - 40) ** 2 <= 25**2
    pixels = np.where(area[..., None], (90, 60, 50), (200, 205, 210))
    pictures = [np.clip(pixels + np.random.default_rng(s).normal(0, 3, pixels.shape), 0, 255) for s in range(3)]
    for mask in foreground_masks([picture.astype(np.uint8) for picture in pictures]).masks:
        rows, columns = mask.any(1).sum(), mask.any(0).sum()
        assert mask.shape == size and overlap(mask, area) > 0.85 and not (area & ~mask).any()
        assert abs(int(rows) - int(columns)) <= 2


def test_holes_are_filled_and_dust_is_dropped() -> None:
    ring, dust = disc(0.25) & ~disc(0.1), disc(0.02, (0.15, 0.15))
    mask = foreground_masks([scene(ring | dust, seed) for seed in range(3)]).masks[0]
    assert mask[SIZE // 2, SIZE // 2]
    assert not mask[: SIZE // 4, : SIZE // 4].any()


def test_several_parts_are_kept() -> None:
    parts = disc(0.12, (0.3, 0.3)) | disc(0.12, (0.7, 0.7))
    assert overlap(foreground_masks([scene(parts, seed) for seed in range(3)]).masks[0], parts) > 0.85


def test_textures_use_the_full_picture() -> None:
    textures = [np.asarray(procedural_texture(SIZE, np.random.default_rng(seed))) for seed in range(12)]
    foreground = foreground_masks(textures)
    assert foreground.masks is None and foreground.reason.startswith("full picture: ")


@pytest.mark.parametrize(
    ("objects", "fault"),
    [
        (np.zeros((SIZE, SIZE), bool), "stands out|too small"),
        (disc(0.08), "too small"),
        (np.arange(SIZE)[:, None] + np.zeros(SIZE) > SIZE * 0.6, "border"),
    ],
)
def test_unsuitable_objects_use_the_full_picture(objects: np.ndarray, fault: str) -> None:
    foreground = foreground_masks([scene(objects, seed) for seed in range(4)])
    assert foreground.masks is None
    assert any(word in foreground.reason for word in fault.split("|"))


def test_blank_pictures_use_the_full_picture() -> None:
    assert foreground_masks([np.full((64, 64, 3), 128, np.uint8)] * 3).masks is None


def test_unstable_sizes_use_the_full_picture() -> None:
    pictures = [scene(disc(radius), seed) for seed, radius in enumerate(np.linspace(0.15, 0.42, 8))]
    foreground = foreground_masks(pictures)
    assert foreground.masks is None and "unstable" in foreground.reason


@pytest.mark.parametrize("odd_object", [disc(0.35), np.zeros((SIZE, SIZE), bool)])
def test_outlier_uses_the_full_picture_alone(odd_object: np.ndarray) -> None:
    pictures = [scene(disc(0.2), seed) for seed in range(9)] + [scene(odd_object, 9)]
    foreground = foreground_masks(pictures)
    assert foreground.masks[9].all()
    assert all(overlap(mask, disc(0.2)) > 0.9 for mask in foreground.masks[:9])
    assert "1 of 10 pictures used in full" in foreground.reason


def test_no_pictures_are_refused() -> None:
    with pytest.raises(ValueError, match="no pictures"):
        foreground_masks([])


def real_pictures(folder: str, count: int = 16) -> list[np.ndarray]:
    paths = sorted(path for path in real_folder(f"data/{folder}").rglob("*") if path.suffix in {".png", ".jpg"})
    picked = paths[:: max(1, len(paths) // count)][:count]
    return [np.asarray(Image.open(path).convert("RGB").resize((288, 288))) for path in picked]


def test_real_screws_are_found() -> None:
    foreground = foreground_masks(real_pictures("mvtec_ad/screw/train/good"))
    assert foreground.masks is not None
    assert all(0.08 < mask.mean() < 0.2 for mask in foreground.masks)


@pytest.mark.parametrize(
    "folder", ["magnetic_tile/magnetic_tile/train/good", "elpv/solar_cell_mono/train/good", "dtd/images"]
)
def test_real_textures_use_the_full_picture(folder: str) -> None:
    assert foreground_masks(real_pictures(folder)).masks is None
