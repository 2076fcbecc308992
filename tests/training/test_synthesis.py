"""Tests of training/synthesis.py: Perlin masks, texture sources, blending."""

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training import synthesis
from training.synthesis import (
    TRANSFORMS,
    TextureSource,
    blend,
    draw_blend_weight,
    draw_mask,
    perlin_field,
    perlin_mask,
    pool_to_grid,
    procedural_texture,
    synthesise,
    transform_texture,
)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def random_picture(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(generator(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture
def texture_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "textures"
    (folder / "deep" / "deeper").mkdir(parents=True)
    random_picture(80, 50, 1).save(folder / "a.png")
    random_picture(40, 40, 2).save(folder / "deep" / "b.JPG")
    random_picture(45, 90, 3).convert("L").save(folder / "deep" / "deeper" / "c.jpeg")
    (folder / "notes.txt").write_text("no picture")
    return folder


# --- masks ---


def noise_by_definition(size: int, cells: tuple[int, int], angle: np.ndarray) -> np.ndarray:
    """Perlin noise pixel by pixel: dot products with the four corners' gradients, faded together."""
    noise = np.zeros((size, size))
    for i in range(size):
        for j in range(size):
            y, x = i * cells[0] / size, j * cells[1] / size
            for corner_y in (math.floor(y), math.floor(y) + 1):
                for corner_x in (math.floor(x), math.floor(x) + 1):
                    dy, dx = y - corner_y, x - corner_x
                    weight = 1.0
                    for distance in (abs(dy), abs(dx)):
                        weight *= 1 - (6 * distance**5 - 15 * distance**4 + 10 * distance**3)
                    gradient = angle[corner_y, corner_x]
                    noise[i, j] += weight * (math.cos(gradient) * dy + math.sin(gradient) * dx)
    return math.sqrt(2) * noise


@pytest.mark.parametrize(("size", "cells"), [(24, (4, 2)), (24, (1, 8)), (23, (4, 16)), (10, (16, 1))])
def test_noise_follows_the_definition(size: int, cells: tuple[int, int]) -> None:
    angle = generator(5).uniform(0, 2 * np.pi, (cells[0] + 1, cells[1] + 1))
    noise = synthesis._gradient_noise(size, cells, generator(5))
    assert noise.dtype == np.float32
    np.testing.assert_allclose(noise, noise_by_definition(size, cells, angle), atol=1e-5)


def test_field_is_rotated_by_up_to_a_quarter_turn_to_either_side() -> None:
    for seed in range(20):
        rng = generator(seed)
        vertical, horizontal = 2 ** rng.integers(0, 6, 2)
        noise = Image.fromarray(synthesis._gradient_noise(32, (int(vertical), int(horizontal)), rng))
        turned = noise.rotate(rng.uniform(-90, 90), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(perlin_field(32, generator(seed)), np.asarray(turned))


def test_field_is_rotated_about_the_centre_with_zeros_outside() -> None:
    fields = np.stack([perlin_field(64, generator(seed)) for seed in range(60)])
    assert fields.shape == (60, 64, 64) and fields.dtype == np.float32
    assert np.abs(fields).max() < 1.5
    corner, centre = fields[:, 1, 1], fields[:, 29:35, 29:35]
    assert (corner == 0).mean() > 0.7  # only small rotations keep the corner inside
    assert (centre == 0).mean() < 0.2


def test_thousand_masks_at_the_reference_size() -> None:
    pixels, patches = [], []
    for seed in range(1000):
        mask, patch_label = draw_mask(288, (36, 36), generator(seed))
        assert patch_label.any()
        pixels.append(mask.mean())
        patches.append(patch_label.mean())
    assert mask.shape == (288, 288) and mask.dtype == bool
    assert patch_label.shape == (36, 36) and patch_label.dtype == bool
    assert 0.048 < np.mean(pixels) < 0.064
    assert 0.12 < np.mean(patches) < 0.16


def test_mask_is_union_intersection_or_single_field(monkeypatch: pytest.MonkeyPatch) -> None:
    first = np.array([[0.6, 0.6], [0.4, 0.5]], np.float32)
    second = np.array([[0.6, 0.4], [0.6, 0.4]], np.float32)
    expected = {
        "union": [[True, True], [True, False]],
        "intersection": [[True, False], [False, False]],
        "single": [[True, True], [False, False]],
    }
    counts = dict.fromkeys(expected, 0)
    rng = generator()
    for _ in range(900):
        fields = iter((first, second))
        monkeypatch.setattr(synthesis, "perlin_field", lambda size, rng, fields=fields: next(fields))
        mask = perlin_mask(2, rng).tolist()
        counts[next(mode for mode, value in expected.items() if value == mask)] += 1
    assert all(250 < count < 350 for count in counts.values())


@pytest.mark.parametrize(("size", "grid"), [(24, (3, 3)), (25, (3, 4)), (7, (7, 1))])
def test_pooling_marks_exactly_the_touched_cells(size: int, grid: tuple[int, int]) -> None:
    covered = np.zeros(grid, int)
    for i in range(size):
        for j in range(size):
            mask = np.zeros((size, size), bool)
            mask[i, j] = True
            label = pool_to_grid(mask, grid)
            assert label.sum() == 1
            covered += label
    assert covered.sum() == size * size
    heights, widths = covered.sum(1) // size, covered.sum(0) // size
    assert np.ptp(heights) <= 1 and np.ptp(widths) <= 1


def test_grid_finer_than_the_mask_is_refused() -> None:
    with pytest.raises(ValueError, match="coarser grid"):
        pool_to_grid(np.ones((8, 8), bool), (9, 4))


def test_mask_stays_in_the_foreground() -> None:
    foreground = np.zeros((64, 64), bool)
    foreground[10:30, 20:50] = True
    for seed in range(50):
        mask, patch_label = draw_mask(64, (8, 8), generator(seed), foreground)
        assert mask.any() and not mask[~foreground].any()
        assert np.array_equal(patch_label, mask.reshape(8, 8, 8, 8).any(axis=(1, 3)))


def test_empty_masks_are_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    good = np.eye(16, dtype=bool)
    drawn = iter([np.zeros((16, 16), bool), np.zeros((16, 16), bool), good])
    monkeypatch.setattr(synthesis, "perlin_mask", lambda size, rng: next(drawn))
    mask, patch_label = draw_mask(16, (2, 2), generator())
    assert np.array_equal(mask, good) and patch_label.tolist() == [[True, False], [False, True]]
    assert next(drawn, None) is None


def test_foreground_that_no_mask_reaches_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    foreground = np.zeros((16, 16), bool)
    foreground[0, 15] = True
    monkeypatch.setattr(synthesis, "perlin_mask", lambda size, rng: np.eye(16, dtype=bool))
    mask, _ = draw_mask(16, (2, 2), generator(), foreground)
    assert np.array_equal(mask, np.eye(16, dtype=bool))


def test_bad_foregrounds_and_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="foreground is empty"):
        draw_mask(16, (2, 2), generator(), np.zeros((16, 16), bool))
    with pytest.raises(ValueError, match="resize it"):
        draw_mask(16, (2, 2), generator(), np.ones((8, 8), bool))
    with pytest.raises(ValueError, match="larger images"):
        draw_mask(1, (1, 1), generator())


@pytest.mark.parametrize("size", [(64, 160), (160, 64)])
def test_an_oblong_mask_is_the_centre_of_the_longer_sides_square(size: tuple[int, int]) -> None:
    centre = (slice(48, 112), slice(None)) if size[0] == 64 else (slice(None), slice(48, 112))
    for seed in range(20):
        mask, patch_label = draw_mask(size, (size[0] // 8, size[1] // 8), generator(seed))
        rng = generator(seed)
        drawn = (perlin_mask(160, rng)[centre] for _ in range(synthesis.MAX_DRAWS))
        assert np.array_equal(mask, next(part for part in drawn if part.any()))
        assert mask.shape == size and np.array_equal(patch_label, pool_to_grid(mask, patch_label.shape))


def test_an_oblong_mask_stays_on_the_part() -> None:
    foreground = np.zeros((64, 160), bool)
    foreground[10:40, 100:150] = True
    for seed in range(20):
        assert not draw_mask((64, 160), (8, 20), generator(seed), foreground)[0][~foreground].any()
    with pytest.raises(ValueError, match="resize it"):
        draw_mask((160, 64), (20, 8), generator(), foreground)


def test_a_square_given_as_a_pair_draws_the_same(texture_folder: Path) -> None:
    for seed in range(10):
        masks = [draw_mask(size, (8, 8), generator(seed))[0] for size in (64, (64, 64), [64, 64])]
        assert np.array_equal(masks[0], masks[1]) and np.array_equal(masks[0], masks[2])
        for folder in (None, texture_folder):
            one, pair = (TextureSource(size, folder).draw(generator(seed)) for size in (64, (64, 64)))
            assert np.array_equal(one, pair)


# --- textures ---


@pytest.mark.parametrize(
    ("size", "expected"),
    [((32, 120), (75, 120)), ((120, 32), (120, 192)), ((32, 32), (32, 51)), ((90, 80), (90, 144))],
)
def test_a_texture_keeps_its_shape_and_covers_both_sides(
    size: tuple[int, int], expected: tuple[int, int], texture_folder: Path
) -> None:
    """The picture a.png is 50 x 80 (height x width)."""
    assert synthesis._load_texture(texture_folder / "a.png", size).shape[:2] == expected
    for folder in (None, texture_folder):
        texture = TextureSource(size, folder).draw(generator())
        assert texture.shape == (*size, 3) and texture.dtype == np.float32 and texture.max() > 0


@pytest.mark.parametrize("with_folder", [True, False])
def test_textures_are_reproducible_images(with_folder: bool, texture_folder: Path) -> None:
    source = TextureSource(32, texture_folder if with_folder else None)
    textures = [source.draw(generator(seed)) for seed in range(40)]
    for texture in textures:
        assert texture.shape == (32, 32, 3) and texture.dtype == np.float32
        assert texture.min() >= 0 and texture.max() <= 1
    assert np.mean([texture.max() for texture in textures]) > 0.5
    # Another source, with nothing cached and drawn in another order, draws the same for the same seed.
    other = TextureSource(32, texture_folder if with_folder else None)
    assert all(np.array_equal(other.draw(generator(seed)), textures[seed]) for seed in reversed(range(40)))
    assert len({texture.tobytes() for texture in textures}) > 20


def test_source_names_itself(texture_folder: Path) -> None:
    assert TextureSource(32, texture_folder).name == "dtd-like folder textures (3 pictures)"
    assert TextureSource(32, str(texture_folder)).name == "dtd-like folder textures (3 pictures)"
    assert TextureSource(32).name == "procedural"


def test_folder_pictures_are_what_is_drawn(texture_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthesis, "transform_texture", lambda picture, rng: picture)
    source = TextureSource(40, texture_folder)
    drawn = [source.draw(generator(seed)) for seed in range(30)]
    with Image.open(texture_folder / "deep" / "b.JPG") as file:
        expected = np.asarray(file.convert("RGB"), np.float32) / 255
    assert any(np.allclose(texture, expected) for texture in drawn)
    assert len({texture.tobytes() for texture in drawn}) == 3
    with Image.open(texture_folder / "a.png") as file:  # 80 x 50: short side to 40, middle of the long side
        expected = np.asarray(file.resize((64, 40), Image.Resampling.BILINEAR), np.float32)[:, 12:52] / 255
    assert any(np.allclose(texture, expected) for texture in drawn)


def test_cache_is_bounded_and_changes_nothing(texture_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def draw_all() -> tuple[TextureSource, list[np.ndarray]]:
        source = TextureSource(32, texture_folder)
        return source, [source.draw(generator(seed)) for seed in range(20)]

    unbounded, expected = draw_all()
    assert len(unbounded._cache) == 3
    monkeypatch.setattr(synthesis, "TEXTURE_CACHE_BYTES", 2 * 32 * 64 * 3)
    bounded, textures = draw_all()
    assert 1 <= len(bounded._cache) < 3
    assert sum(pixels.nbytes for pixels in bounded._cache.values()) <= synthesis.TEXTURE_CACHE_BYTES
    assert all(np.array_equal(a, b) for a, b in zip(expected, textures, strict=True))


def test_broken_picture_is_replaced(texture_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (texture_folder / "a.png").write_bytes((texture_folder / "a.png").read_bytes()[:200])
    (texture_folder / "z.png").write_bytes(b"nothing")
    source = TextureSource(32, texture_folder)
    assert all(source.draw(generator(seed)).shape == (32, 32, 3) for seed in range(20))
    assert "a.png" in caplog.text and "z.png" in caplog.text
    assert len(caplog.records) == 2  # warned once per picture


def test_folder_without_readable_pictures_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path / "missing", tmp_path):
        with pytest.raises(ValueError, match="no readable jpg or png"):
            TextureSource(32, folder)
    (tmp_path / "broken.png").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="procedural textures"):
        TextureSource(32, tmp_path)


def test_procedural_textures_vary() -> None:
    textures = [np.asarray(procedural_texture(32, generator(seed)), float) for seed in range(60)]
    assert np.std([texture.mean() for texture in textures]) > 15
    roughness = [np.abs(np.diff(texture, axis=0)).mean() for texture in textures]
    assert np.percentile(roughness, 90) > 5 * np.percentile(roughness, 10)


@pytest.mark.parametrize("pattern", synthesis.PATTERNS)
def test_patterns_use_their_range(pattern) -> None:
    levels = np.stack([pattern(32, generator(seed)) for seed in range(10)])
    assert levels.shape == (10, 32, 32) and np.isfinite(levels).all()
    assert levels.min() < 0.3 and levels.max() > 0.7 and np.abs(levels - 0.5).max() < 1.5


def test_three_different_transforms_in_the_order_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    applied: list[str] = []
    for name in TRANSFORMS:
        monkeypatch.setitem(TRANSFORMS, name, lambda picture, rng, name=name: applied.append(name) or picture)
    assert len(TRANSFORMS) == 9
    for seed in range(200):
        transform_texture(random_picture(8, 8), generator(seed))
        assert len(set(applied[-3:])) == 3
    assert len(applied) == 600
    assert all(40 < applied.count(name) < 95 for name in TRANSFORMS)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_change_a_picture_but_not_its_form(name: str) -> None:
    pixels = np.full((24, 36, 3), 60, np.uint8)
    pixels[4:9, 5:20], pixels[12:20, 20:30] = (200, 80, 40), (30, 120, 90)
    picture = Image.fromarray(pixels)
    changed = TRANSFORMS[name](picture, generator(2))
    assert changed.size == picture.size and changed.mode == "RGB"
    assert not np.array_equal(np.asarray(changed), pixels)


def test_flips_and_grayscale() -> None:
    picture = random_picture(12, 8)
    pixels = np.asarray(picture)
    assert np.array_equal(TRANSFORMS["horizontal flip"](picture, generator()), pixels[:, ::-1])
    assert np.array_equal(TRANSFORMS["vertical flip"](picture, generator()), pixels[::-1])
    grey = np.asarray(TRANSFORMS["grayscale"](picture, generator()))
    assert np.array_equal(grey[..., 0], grey[..., 1]) and np.array_equal(grey[..., 0], grey[..., 2])


def test_jitter_stays_in_its_range() -> None:
    flat = Image.new("RGB", (4, 4), (100, 100, 100))
    levels = [TRANSFORMS["brightness"](flat, generator(seed)).getpixel((0, 0))[0] for seed in range(200)]
    assert 80 <= min(levels) < 85 and 115 < max(levels) <= 120
    red = Image.new("RGB", (4, 4), (200, 40, 40))
    shifts = []
    for seed in range(200):
        hue = TRANSFORMS["saturation and hue"](red, generator(seed)).convert("HSV").getpixel((0, 0))[0]
        shifts.append((hue + 128) % 256 - 128)
    assert -54 <= min(shifts) < -45 and 45 < max(shifts) <= 54  # 0.2 * 256 = 51, and what HSV in bytes rounds


def test_rotation_stays_in_its_range() -> None:
    """The mark to the right of the centre moves on a circle; its angle is the rotation."""
    picture = Image.new("RGB", (101, 101))
    picture.paste((255, 255, 255), (88, 48, 93, 53))
    angles = []
    for seed in range(100):
        y, x = np.nonzero(np.asarray(TRANSFORMS["rotation"](picture, generator(seed)))[..., 0] > 128)
        angles.append(math.degrees(math.atan2(50 - y.mean(), x.mean() - 50)))
    assert -46 < min(angles) < -38 and 38 < max(angles) < 46


# --- blend ---


def test_blend_formula_on_hand_numbers() -> None:
    image = np.full((2, 2, 3), 0.8, np.float32)
    texture = np.full((2, 2, 3), 0.2, np.float32)
    mask = np.array([[True, False], [False, True]])
    blended = blend(image, texture, mask, 0.25)
    assert blended.dtype == np.float32
    np.testing.assert_allclose(blended[mask], 0.75 * 0.2 + 0.25 * 0.8, rtol=1e-6)
    assert np.array_equal(blended[~mask], image[~mask])
    assert (image == np.float32(0.8)).all()


def test_blend_weight_is_a_clipped_normal(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = generator()
    weights = np.array([draw_blend_weight(rng) for _ in range(5000)])
    assert weights.min() >= 0.2 and weights.max() <= 0.8
    assert abs(weights.mean() - 0.5) < 0.006 and abs(weights.std() - 0.1) < 0.006
    monkeypatch.setattr(synthesis, "BLEND_WEIGHT_STD", 10.0)
    assert {0.2, 0.8} <= {draw_blend_weight(rng) for _ in range(50)}


@pytest.mark.parametrize("with_folder", [True, False])
def test_synthesise_changes_only_the_labelled_patches(with_folder: bool, texture_folder: Path) -> None:
    textures = TextureSource(64, texture_folder if with_folder else None)
    image = generator(9).random((64, 64, 3), dtype=np.float32)
    before = image.copy()
    foreground = np.zeros((64, 64), bool)
    foreground[16:48, 8:56] = True
    results = []
    for seed in range(20):
        augmented, patch_label = synthesise(image, textures, (8, 8), generator(seed), foreground)
        assert augmented.dtype == np.float32 and augmented.min() >= 0 and augmented.max() <= 1
        changed = (augmented != image).any(axis=-1)
        assert changed.any() and not changed[~foreground].any()
        assert np.array_equal(pool_to_grid(changed, (8, 8)), patch_label)
        results.append((augmented, patch_label))
    assert np.array_equal(image, before)
    again, label_again = synthesise(image, textures, (8, 8), generator(3), foreground)
    assert np.array_equal(again, results[3][0]) and np.array_equal(label_again, results[3][1])
    assert not np.array_equal(again, results[4][0])


@pytest.mark.parametrize("with_folder", [True, False])
def test_synthesise_takes_oblong_images(with_folder: bool, texture_folder: Path) -> None:
    textures = TextureSource((64, 160), texture_folder if with_folder else None)
    image = generator(9).random((64, 160, 3), dtype=np.float32)
    for seed in range(5):
        augmented, patch_label = synthesise(image, textures, (8, 20), generator(seed))
        assert np.array_equal(pool_to_grid((augmented != image).any(axis=-1), (8, 20)), patch_label)
    with pytest.raises(ValueError, match=r"float32 image of \(64, 160, 3\)"):
        synthesise(image.swapaxes(0, 1), textures, (20, 8), generator())


def test_synthesise_refuses_other_images() -> None:
    textures = TextureSource(32)
    for image in (
        np.zeros((32, 32, 3), np.uint8),
        np.zeros((32, 30, 3), np.float32),
        np.zeros((3, 32, 32), np.float32),
    ):
        with pytest.raises(ValueError, match="float32 image"):
            synthesise(image, textures, (4, 4), generator())
