"""The choice of the hypothesis: the spectrum against a slow direct computation, the table, the options."""

import math

import numpy as np
import pytest
from PIL import Image
from real_data import real_folder

from training.hypothesis import MVTEC_HYPOTHESIS, choose_hypothesis, mean_image, spectrum_hypothesis, spectrum_numbers


def rounded_box(half_height: float, half_width: float, softness: float = 1.0) -> np.ndarray:
    """A bright box (288, 288, 3) uint8 on black; sharp edges reach far into the spectrum."""
    y, x = np.mgrid[:288, :288] - 143.5
    inside = 1 / (1 + np.exp(np.clip((np.abs(y) - half_height) / softness, -50, 50)))
    inside = inside / (1 + np.exp(np.clip((np.abs(x) - half_width) / softness, -50, 50)))
    return np.repeat((255 * inside)[..., None], 3, axis=-1).astype(np.uint8)


def disc(radius: float) -> np.ndarray:
    y, x = np.mgrid[:288, :288] - 143.5
    return np.repeat((255 * (y**2 + x**2 <= radius**2))[..., None], 3, axis=-1).astype(np.uint8)


def coloured_noise(smoothness: int) -> np.ndarray:
    coarse = np.random.default_rng(0).integers(0, 256, (288 // smoothness, 288 // smoothness, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((288, 288), Image.Resampling.BILINEAR))


IMAGES = {
    "box": rounded_box(40, 40),
    "wide box": rounded_box(4, 120),
    "disc": disc(60),
    "small disc": disc(12),
    "noise": coloured_noise(6),
    "soft box": rounded_box(60, 50, softness=20),
    "black": np.zeros((288, 288, 3), np.uint8),
    "white": np.full((288, 288, 3), 255, np.uint8),
}


def decide_directly(mean: np.ndarray) -> tuple[str, dict[str, float]]:
    """The rule as GLASS states it, step by step and point by point."""
    grey = 0.299 * mean[..., 0] + 0.587 * mean[..., 1] + 0.114 * mean[..., 2]
    grey = np.asarray(Image.fromarray(grey.astype(np.float32)).resize((289, 289), Image.Resampling.BILINEAR), float)
    padded = np.pad(grey, 19, mode="reflect")
    rows = np.array([np.convolve(row, np.ones(39) / 39, "valid") for row in padded])
    blurred = np.array([np.convolve(column, np.ones(39) / 39, "valid") for column in rows.T]).T
    wave = np.exp(-2j * np.pi * np.outer(np.arange(-144, 145), np.arange(289)) / 289)
    magnitude = np.abs(wave @ blurred @ wave.T)
    points = [
        (x, y) for y in range(289) for x in range(289) if magnitude[y, x] > 0 and 20 * math.log(magnitude[y, x]) > 170
    ]
    return measure_directly(points)


def measure_directly(points: list[tuple[int, int]]) -> tuple[str, dict[str, float]]:
    reach_x = max([abs(x - 144) for x, _ in points] + [1])
    reach_y = max([abs(y - 144) for _, y in points] + [1])
    radius = max([math.hypot(x - 144, y - 144) for x, y in points] + [0.0])
    lattice = sum(math.hypot(x - 144, y - 144) <= radius for y in range(578) for x in range(578))
    l1, l2 = len(points) / (4 * reach_x * reach_y), len(points) / lattice
    hypersphere = (l1 > 0.21 or l2 > 0.21) and radius > 12 and len(points) > 60
    numbers = {"l1": l1, "l2": l2, "R": radius, "N": len(points)}
    return "hypersphere" if hypersphere else "manifold", numbers


@pytest.mark.parametrize("name", IMAGES)
def test_judge_agrees_with_the_direct_computation(name: str) -> None:
    verdict, numbers = spectrum_hypothesis([IMAGES[name]])
    expected_verdict, expected_numbers = decide_directly(IMAGES[name].astype(float))
    assert verdict == expected_verdict
    assert numbers == pytest.approx(expected_numbers)


def test_disc_beyond_the_spectrum_is_cut_at_the_top_and_left() -> None:
    points = [(0, 0), (20, 250), (144, 144), (150, 140)]  # as (x, y); the first is 203.6 from the centre
    offsets = np.array([(y - 144, x - 144) for x, y in points])
    numbers = spectrum_numbers(offsets)
    assert numbers == pytest.approx(measure_directly(points)[1])
    assert numbers["l2"] > len(points) / (math.pi * numbers["R"] ** 2) * 1.05


def test_both_verdicts_occur() -> None:
    assert {spectrum_hypothesis([image])[0] for image in IMAGES.values()} == {"manifold", "hypersphere"}


def test_black_has_no_spectrum() -> None:
    assert spectrum_hypothesis([IMAGES["black"]]) == ("manifold", {"l1": 0.0, "l2": 0.0, "R": 0.0, "N": 0})


def test_judge_uses_the_mean_of_the_pictures_at_any_size() -> None:
    dark, bright = np.full((30, 50, 3), 10, np.uint8), np.full((288, 288, 3), 21, np.uint8)
    assert np.array_equal(mean_image([dark, bright]), np.full((288, 288, 3), 15.5))
    stretched = np.asarray(Image.fromarray(IMAGES["disc"]).resize((500, 288)))
    assert np.abs(mean_image([stretched]) - mean_image([IMAGES["disc"]])).mean() < 2
    mixed = [IMAGES["disc"], IMAGES["black"]]
    assert spectrum_hypothesis(mixed)[1] == pytest.approx(decide_directly(np.mean(mixed, axis=0))[1])


def test_no_pictures_are_refused() -> None:
    with pytest.raises(ValueError, match="no pictures"):
        spectrum_hypothesis([])


def test_table_of_mvtec() -> None:
    assert len(MVTEC_HYPOTHESIS) == 15
    hypersphere = {category for category, hypothesis in MVTEC_HYPOTHESIS.items() if hypothesis == "hypersphere"}
    assert hypersphere == {"bottle", "cable", "pill", "screw", "transistor"}
    assert set(MVTEC_HYPOTHESIS.values()) == {"manifold", "hypersphere"}


def test_choices() -> None:
    images = [IMAGES["white"]]  # decided as manifold
    assert choose_hypothesis("hypersphere", "mvtec", "carpet", [])[0] == "hypersphere"
    assert choose_hypothesis("manifold", "mvtec", "screw", [])[0] == "manifold"
    hypothesis, reason = choose_hypothesis("table", "mvtec", "screw", [])
    assert hypothesis == "hypersphere" and "table" in reason
    for choice, dataset, category in [
        ("auto", "mvtec", "screw"),
        ("table", "mine", "screw"),
        ("table", "mvtec", "cog"),
    ]:
        hypothesis, reason = choose_hypothesis(choice, dataset, category, images)
        assert hypothesis == "manifold" and "spectrum" in reason and "N = " in reason
    with pytest.raises(ValueError, match="auto, table, manifold or hypersphere"):
        choose_hypothesis("sphere", "mvtec", "screw", images)


def test_real_screws_agree_with_the_table() -> None:
    paths = sorted(real_folder("data/mvtec_ad/screw/train/good").glob("*.png"))
    images = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    assert choose_hypothesis("auto", "mvtec", "screw", images)[0] == MVTEC_HYPOTHESIS["screw"]
