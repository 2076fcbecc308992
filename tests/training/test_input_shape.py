"""Inputs that are not square: what the command line takes, what `auto` chooses, and each method from end to end."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import training.train as train
from hubmodels import Hybrid, compare, load
from hubmodels.backbone import load_backbone
from hubmodels.compactnet import COMPACT_BACKBONE
from hubmodels.sizes import as_pair
from training import auto_size, input_shape
from training.config import TrainConfig
from training.input_shape import (
    affordable_size,
    border_in_words,
    fitting_size,
    require_multiples,
    resolution_of,
    squashed,
)
from training.objectives.hybrid import HybridObjective

METHODS = ("simplenet", "glass", "hybrid")
TALL, DEFECT = (64, 160), (slice(20, 44), slice(110, 134))  # (height, width) of the pictures; rows and columns
VIT14 = "vit_small_patch14_dinov2.lvd142m"


def write_picture(path, rng, defect=False, size=TALL):
    """A grey plate with noise, and a defect where it has one: a bright square."""
    pixels = rng.normal(120, 12, (*size, 3)).clip(0, 255).astype(np.uint8)
    if defect:
        pixels[DEFECT] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_category(folder, size=TALL, pictures=8):
    """Good pictures for training and for a test, and two with the defect; returns the data set's folder."""
    rng = np.random.default_rng(0)
    for i in range(pictures):
        write_picture(folder / f"train/good/{i}.png", rng, size=size)
    for i in range(2):
        write_picture(folder / f"test/good/{i}.png", rng, size=size)
        write_picture(folder / f"test/square/{i}.png", rng, defect=True, size=size)
    return folder.parent


@pytest.fixture(scope="module")
def command():
    """Command line of a small run, without its data, output and image size; random features would find no place."""
    return ["--backbone", COMPACT_BACKBONE, "--epochs", "8", "--batch-size", "4", "--holdout", "0.25", "--folds", "0"]


@pytest.fixture(scope="module")
def trained(command, tmp_path_factory):
    """Folder of a run of all methods on pictures and inputs of 64 x 160, and the folder of the pictures."""
    root = tmp_path_factory.mktemp("oblong")
    data = ["--data-root", str(write_category(root / "toy/plate")), "--output", str(root / "runs")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.objectives.hybrid.STEPS", 100)
        assert train.main([*command, *data, "--image-size", "64x160", "--methods", *METHODS]) == 0
    return root / "runs", root / "toy/plate/test"


# ------------------------------------------------------------------------------------------------- from end to end


@pytest.mark.parametrize("method", METHODS)
def test_a_defect_in_an_oblong_picture_is_found_at_its_place(method, trained):
    run, pictures = trained
    prediction = load(run / f"{method}-toy-plate").predict(pictures / "square/0.png")
    good = load(run / f"{method}-toy-plate").predict(pictures / "good/0.png")
    row, column = np.unravel_index(prediction.anomaly_map.argmax(), prediction.anomaly_map.shape)
    assert prediction.anomaly_map.shape == TALL
    assert DEFECT[0].start <= row < DEFECT[0].stop and DEFECT[1].start <= column < DEFECT[1].stop
    assert prediction.image_score > good.image_score


def test_the_report_and_the_card_name_shape_scale_and_smallest_defect(trained):
    for method in METHODS:
        folder = trained[0] / f"{method}-toy-plate"
        report, config = (json.loads((folder / name).read_text()) for name in ("metrics.json", "config.json"))
        assert report["settings"]["image_size"] == config["image_size"] == config["resize"] == [64, 160]
        assert (report["input"]["scale"], report["input"]["smallest_defect"]) == ([1, 1], 8)
        card = (folder / "README.md").read_text()
        assert "| input | 64 x 160 (height x width) |" in card and "resized to 64 x 160, without crop" in card
        assert "As a rule of thumb, the smallest defect that can be seen has about 8 pixels of your pictures" in card


def test_oblong_models_are_compared_together(trained):
    run, pictures = trained
    detectors = {method: load(run / f"{method}-toy-plate") for method in METHODS}
    shown = pictures / "square/1.png"
    for method, found in compare(detectors, shown).items():
        assert found.image_score == pytest.approx(detectors[method].predict(shown).image_score, rel=1e-6)


def test_a_finished_oblong_model_is_kept_and_another_shape_is_refused(command, tmp_path, capsys):
    data = ["--data-root", str(write_category(tmp_path / "toy/plate", pictures=4)), "--output", str(tmp_path / "runs")]
    arguments = [*command, *data, "--methods", "simplenet", "--epochs", "1"]
    assert train.main([*arguments, "--image-size", "32x80"]) == 0
    assert train.main([*arguments, "--image-size", "32x80"]) == 0
    assert "simplenet-toy-plate is finished: kept" in capsys.readouterr().err
    assert train.main([*arguments, "--image-size", "80x32"]) == 1
    assert "finished model with other settings (image_size)" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------------- auto


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ({(1000, 1000): 3}, 256),
        ({(700, 720): 3}, 256),  # rounded
        ({(64, 160): 5, (500, 500): 4}, [160, 400]),  # the median
        ({(160, 64): 5}, [400, 160]),
        ({(100, 400): 1}, [128, 512]),
        ({(100, 4000): 2}, [64, 1024]),  # the shorter side has at least 64 pixels
        ({(4000, 100): 2}, [1024, 64]),
        ({(100, 400): 1, (400, 100): 1}, 256),  # between both
    ],
)
def test_auto_is_the_median_shape_at_the_area_of_the_default_square(sizes, expected):
    assert fitting_size(sizes, COMPACT_BACKBONE) == expected


def test_auto_follows_the_backbones_square_and_stride():
    height, width = fitting_size({(1000, 2000): 1}, "resnet18.tv_in1k")
    assert (height, width) == (208, 400)  # of 204 and 407, multiples of 16
    assert all(side % 14 == 0 for side in fitting_size({(1000, 2000): 1}, VIT14))


def test_auto_is_decided_for_each_category_and_equals_the_same_shape_by_hand(command, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(input_shape, "default_side", lambda backbone: 64)
    monkeypatch.setattr(input_shape, "SHORTEST", 32)
    for name, size in {"bar": (40, 160), "plate": (72, 72)}.items():
        write_category(tmp_path / "toy" / name, size=size, pictures=3)
    data = ["--data-root", str(tmp_path / "toy"), "--output", str(tmp_path / "runs"), "--methods", "simplenet"]
    arguments = [*command, *data, "--epochs", "1"]
    assert train.main([*arguments, "--image-size", "auto"]) == 0
    assert "simplenet-toy-bar: the input has 32 x 128 pixels (height x width); the smallest" in capsys.readouterr().err
    chosen = {
        name: json.loads((tmp_path / f"runs/simplenet-toy-{name}/metrics.json").read_text())["settings"]["image_size"]
        for name in ("bar", "plate")
    }
    assert chosen == {"bar": [32, 128], "plate": 64}
    assert train.main([*arguments, "--image-size", "32x128", "--category", "bar"]) == 0
    assert "simplenet-toy-bar is finished: kept" in capsys.readouterr().err


# ----------------------------------------------------------------------------------------------------- time budget


class Clock:
    """A machine whose verdict takes 8 ms and 1 ms for each 1000 pixels of the input; notes what was measured."""

    def __init__(self):
        self.measured = []

    def __call__(self, size):
        height, width = as_pair(size)
        self.measured.append(size)
        return 8 + height * width / 1000


@pytest.mark.parametrize(
    ("sizes", "budget", "expected"),
    [
        ({(600, 1500): 3}, 110, [192, 480]),  # 100 ms; 208 x 512 would take 114
        ({(640, 640): 3}, 110, 304),  # 100 ms; 320 would take 110.4
        ({(640, 640): 3}, 40, 176),  # less than the default
        ({(640, 640): 3}, 1e9, 640),  # no more pixels than the pictures have
        ({(600, 1500): 3}, 1e9, [608, 1504]),
        ({(64, 64): 3}, 1e9, 64),
        ({(20, 20): 3}, 1e9, 32),  # the smallest input
        ({(64, 160): 3}, 1e9, [64, 160]),
        ({(256, 16384): 3}, 1e9, [256, 8192]),  # the longest side
        ({(8000, 8000): 3}, 1e9, 5776),  # the largest area
        ({(5000, 7992): 3}, 1e9, [4576, 7296]),
    ],
)
def test_a_budget_chooses_the_largest_input_that_was_measured_to_keep_it(sizes, budget, expected):
    clock = Clock()
    assert affordable_size(sizes, COMPACT_BACKBONE, budget, clock) == expected
    assert expected in clock.measured
    assert len(clock.measured) <= 5


def test_a_budget_that_no_input_keeps_is_refused_with_the_time_of_the_smallest():
    with pytest.raises(ValueError, match=r"too short for this machine: an input of 32 pixels takes 9\.02 ms"):
        affordable_size({(640, 640): 3}, COMPACT_BACKBONE, 5, Clock())


def test_a_budget_is_measured_once_and_kept_for_the_next_start(command, tmp_path, capsys, monkeypatch):
    """With the real models; then with a machine that has become slower."""
    monkeypatch.setattr("training.objectives.hybrid.STEPS", 5)
    data = ["--data-root", str(write_category(tmp_path / "toy/plate", pictures=4)), "--output", str(tmp_path / "runs")]
    arguments = [*command, *data, "--methods", "hybrid", "simplenet", "--epochs", "1", "--image-size", "auto"]
    assert train.main([*arguments, "--budget-ms", "60000"]) == 0
    said = capsys.readouterr().err
    assert "plate: the largest input for a verdict within 60000 ms" in said and "  64 x 160 pixels: " in said
    assert "hybrid-toy-plate: the input has 64 x 160 pixels" in said
    monkeypatch.setattr(auto_size, "verdict_ms", lambda *args: 1e9)
    assert train.main([*arguments, "--budget-ms", "60000"]) == 0
    said = capsys.readouterr().err
    assert "hybrid-toy-plate is finished: kept" in said and "simplenet-toy-plate is finished: kept" in said
    assert train.main([*arguments, "--budget-ms", "50"]) == 1
    said = capsys.readouterr().err
    assert "--budget-ms 50 is too short for this machine" in said and "Traceback" not in said


def test_the_time_of_an_untrained_hybrid_includes_a_full_memory():
    detector = Hybrid(backbone=COMPACT_BACKBONE, image_size=64)
    HybridObjective.grow(detector)
    assert detector.head.memory.vectors.shape == (2000, 64)


@pytest.mark.parametrize("arguments", [["--budget-ms", "90"], ["--budget-ms", "0", "--image-size", "auto"]])
def test_budgets_that_mean_nothing_are_refused(arguments, capsys):
    with pytest.raises(SystemExit):
        TrainConfig.from_command_line(["--data-root", "x", *arguments])
    assert "--budget-ms" in capsys.readouterr().err


def test_the_smallest_defect_is_a_patch_along_the_axis_that_is_shrunk_most():
    sizes = {(600, 1600): 3, (10, 10): 1}  # the commonest counts
    assert resolution_of(sizes, 256, COMPACT_BACKBONE)["smallest_defect"] == 50
    assert resolution_of(sizes, (160, 400), COMPACT_BACKBONE)["smallest_defect"] == 32
    assert resolution_of({(20, 20): 1}, 256, COMPACT_BACKBONE)["smallest_defect"] == 1


def test_squashed_pictures_get_a_hint_and_nearly_square_ones_do_not():
    assert squashed((0.4, 1.0)) == (
        "one side of the pictures is squashed to 40% of the other: --image-size auto keeps their shape"
    )
    assert squashed((1.0, 0.4)) == squashed((0.4, 1.0))
    assert squashed((1.0, 0.9)) == ""


def test_the_hint_is_logged_for_a_square_input(command, tmp_path, capsys):
    data = ["--data-root", str(write_category(tmp_path / "toy/plate", pictures=4)), "--output", str(tmp_path / "runs")]
    arguments = [*command, *data, "--methods", "simplenet", "--epochs", "1"]
    assert train.main([*arguments, "--image-size", "64"]) == 0
    assert "simplenet-toy-plate: one side of the pictures is squashed to 40% of the other" in capsys.readouterr().err
    assert train.main([*arguments, "--image-size", "auto", "--output", str(tmp_path / "others")]) == 0
    assert "squashed" not in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------- the command line


def parsed(text):
    return TrainConfig.from_command_line(["--data-root", "x", "--image-size", text]).image_size


def test_the_command_line_takes_a_side_a_shape_or_auto():
    assert [parsed(text) for text in ("512", "640x256", "256x256", "auto")] == [512, [640, 256], 256, "auto"]


@pytest.mark.parametrize(
    "text", ["0", "-64", "31", "8193", "8192", "wide", "64x", "64x64x64", "64x9000", "64.5", "64x-64"]
)
def test_sizes_that_cannot_be_are_refused_with_usage(text, capsys):
    with pytest.raises(SystemExit) as ended:
        parsed(text)
    assert ended.value.code == 2
    assert "is neither a side (512), nor height x width (640x256), nor auto" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("size", "backbone", "remedy"),
    [
        (250, COMPACT_BACKBONE, "multiple of 16 pixels: 240 or 256 instead of 250$"),
        ([650, 256], "resnet18.tv_in1k", "multiple of 16 pixels: 640 or 656 instead of 650$"),
        ([650, 40], "resnet18.tv_in1k", "640 or 656 instead of 650, 32 or 48 instead of 40$"),
        (33, VIT14, "multiple of 14 pixels: 42 instead of 33$"),
        (250, "convnext_tiny.fb_in1k", "multiple of 32 pixels: 224 or 256 instead of 250$"),
    ],
)
def test_sides_off_the_coarsest_grid_are_refused_with_the_nearest(size, backbone, remedy):
    with pytest.raises(ValueError, match=remedy):
        require_multiples(size, backbone)


@pytest.mark.parametrize("size", [64, 128, 256, 288, [640, 256]])
def test_sides_on_the_grid_are_taken(size):
    require_multiples(size, COMPACT_BACKBONE)


def test_a_side_off_the_grid_ends_the_command_before_any_picture_is_read(tmp_path, capsys):
    assert train.main(["--data-root", str(tmp_path), "--backbone", COMPACT_BACKBONE, "--image-size", "64x72"]) == 1
    said = capsys.readouterr().err
    assert "64 or 80 instead of 72" in said and "Traceback" not in said


def test_the_papers_crop_of_an_oblong_input():
    config = TrainConfig(data_root="x", crop="papers", image_size=[288, 144])
    assert as_pair(config.resize_of("simplenet", "bottle")) == (329, 164)
    assert config.resize_of("glass", "bottle") == [288, 144]


def test_a_square_written_as_a_pair_is_the_same_setting():
    category, sanity = SimpleNamespace(name="widget", dataset="toy"), SimpleNamespace(train_sha256="a")
    one, other = (
        train.Job(category, "simplenet", TrainConfig(data_root="x", image_size=parsed(text)), sanity).settings
        for text in ("64", "64x64")
    )
    assert one == other and one["image_size"] == 64


def test_the_reach_across_a_border_is_said_in_pixels_of_the_pictures():
    fields = load_backbone(COMPACT_BACKBONE).fields
    words = border_in_words(fields, (0.5, 0.25))  # the axis with more pixels of the picture counts
    assert "up to 41 (stride 8) and 97 (stride 16) pixels of the input: 164 and 388 of your pictures" in words
    assert "the whole picture" in border_in_words(None, (1, 1))
