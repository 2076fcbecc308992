"""Whether a picture shows its category and is fit to be inspected: by hand, on toys, with the bundled models."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from safetensors.torch import load_file, save_file

from hubmodels import (
    GLASS,
    ModelError,
    PictureError,
    PictureWarning,
    PreparedPicture,
    SimpleNet,
    check_appearance,
    compare,
    rank_categories,
)
from hubmodels.appearance import (
    FEWEST,
    LEAST_SPREAD,
    LIMIT,
    PRIOR_WEIGHT,
    Appearance,
    PictureStatistics,
    picture_statistics,
)
from hubmodels.backbone import Backbone
from hubmodels.hub.catalog import Catalog

EXAMPLES = Path(__file__).parents[2] / "examples/parts"


def statistics_of(features, brightness=0.5, sharpness=0.3, enlargement=1.0):
    return PictureStatistics(torch.as_tensor(features, dtype=torch.float32), brightness, sharpness, enlargement)


def normals(n, dim=12, seed=0):
    """Features 3 + noise, whose spread differs from one to the next."""
    draws = np.random.default_rng(seed).standard_normal((n, dim)) * np.linspace(0.2, 1, dim)
    return [statistics_of(3 + row) for row in draws]


def fitted(seen):
    appearance = Appearance(len(seen[0].features))
    appearance.fit(seen)
    return appearance


# ---------------------------------------------------------------------------------------------------------- statistics


def grey(values):
    return torch.as_tensor(values, dtype=torch.float32).expand(1, 3, -1, -1)


def test_the_features_are_the_spatial_mean_of_every_map():
    """Each on its own grid, so that a small local defect of a large part hardly counts."""
    fine, coarse = torch.rand(2, 3, 8, 8), torch.rand(2, 5, 4, 4)
    seen = picture_statistics(torch.rand(2, 3, 16, 16), [fine, coarse], [0.5, 2.0])
    assert [each.enlargement for each in seen] == [0.5, 2.0]
    assert seen[1].features.allclose(torch.cat([fine[1].mean((1, 2)), coarse[1].mean((1, 2))]))


@pytest.mark.parametrize(
    ("image_size", "picture", "expected"), [(64, (128, 32), 2), ((64, 128), (128, 32), 4), ((64, 128), (32, 128), 2)]
)
def test_the_enlargement_is_that_of_the_axis_that_grows_most(make_detector, image_size, picture, expected):
    front_end = make_detector(SimpleNet, calibrated=False, image_size=image_size).front_end
    assert front_end.enlargement(Image.new("RGB", picture[::-1])) == expected


def test_sharpness_by_hand():
    """Stripes 0, 1, 0, 1: every step to the right is 1, none downwards; the deviation is 1/2, or a little more."""
    stripes = torch.tensor([0.0, 1.0]).repeat(8).expand(16, 16)
    (seen,) = picture_statistics(grey(stripes), [torch.ones(1, 4, 2, 2)], [1.0])
    assert seen.brightness == pytest.approx(0.5)
    assert seen.sharpness == pytest.approx(2 * (255 / 256) ** 0.5)


def test_sharpness_knows_no_contrast_and_no_brightness():
    pattern = torch.rand(32, 32, generator=torch.Generator().manual_seed(0))
    full, faint = (
        picture_statistics(grey(p), [torch.ones(1, 4, 2, 2)], [1.0])[0] for p in (pattern, 0.6 + 0.2 * pattern)
    )
    assert faint.sharpness == pytest.approx(full.sharpness, rel=1e-4)
    assert faint.brightness > full.brightness


def test_a_flat_picture_has_no_sharpness():
    (seen,) = picture_statistics(grey(torch.full((16, 16), 0.4)), [torch.ones(1, 4, 2, 2)], [1.0])
    assert seen.sharpness == pytest.approx(0, abs=1e-5)


# --------------------------------------------------------------------------------------------------------- appearance


@pytest.mark.parametrize("n", [FEWEST, 5, 40])
def test_the_unit_is_the_mean_distance_from_all_others(n):
    """Against the definition: leave each out, fit center and shrunk variances to the others, measure, average."""

    def model(rows):
        variances = rows.var(0, correction=1)
        shrunk = ((len(rows) - 1) * variances + PRIOR_WEIGHT * variances.mean()) / (len(rows) - 1 + PRIOR_WEIGHT)
        return rows.mean(0), shrunk.sqrt()

    rows = torch.stack([seen.features for seen in normals(n)]).double()
    distances = []
    for i in range(n):
        center, spread = model(torch.cat([rows[:i], rows[i + 1 :]]))
        distances.append(((rows[i] - center) / spread).square().mean().sqrt())
    center, spread = model(rows)
    probe = torch.linspace(1, 5, rows.shape[1])
    expected = ((probe - center) / spread).square().mean().sqrt() / torch.stack(distances).mean()
    assert fitted(normals(n)).check(statistics_of(probe)).ratio == pytest.approx(expected.item(), rel=1e-3)


def test_the_looks_are_measured_from_the_center_of_the_others(n=12):
    rows = torch.stack([seen.features for seen in normals(n)])
    appearance = fitted(normals(n))
    least = LEAST_SPREAD * rows.mean(0).square().mean().sqrt()
    others = torch.stack([torch.cat([rows[:i], rows[i + 1 :]]).mean(0) for i in range(n)])
    expected = ((rows - others) / appearance.spread.clamp_min(least)).square().mean(1).sqrt()
    assert torch.allclose(appearance.looks, expected, rtol=1e-4)
    new = [appearance.check(seen).ratio for seen in normals(200, seed=1)]
    assert appearance.looks.mean().item() == pytest.approx(np.mean(new), rel=0.25)


def test_new_normals_lie_about_1_away_and_others_further():
    appearance = fitted(normals(5, dim=200))
    near = [appearance.check(seen).ratio for seen in normals(50, dim=200, seed=1)]
    assert np.mean(near) == pytest.approx(1, abs=0.15) and max(near) < LIMIT
    other = appearance.check(statistics_of(torch.full((200,), 6.0)))
    assert other.matches is False and other.warnings == ("unlike",)


def test_held_out_pictures_that_are_all_the_same_refuse_only_others():
    appearance = fitted([statistics_of([1.0, 2.0, 3.0])] * 5)
    assert appearance.check(statistics_of([1.0, 2.0, 3.0])).matches
    assert appearance.check(statistics_of([1.0, 2.0, 3.1])).matches  # may be broken
    assert not appearance.check(statistics_of([1.0, 2.0, 3.8])).matches


def test_fewer_than_three_teach_nothing_and_take_back_what_was_known():
    appearance = fitted(normals(5))
    appearance.fit(normals(FEWEST - 1))
    assert not appearance.is_fitted
    checked = appearance.check(normals(1)[0])
    assert (checked.ratio, checked.matches, checked.warnings) == (None, None, ())


@pytest.mark.parametrize(
    ("change", "warnings"),
    [
        ({}, ()),
        ({"brightness": 0.19}, ("dark",)),  # under half of 0.4
        ({"brightness": 0.21}, ()),
        ({"brightness": 0.86}, ("bright",)),  # under half as far from white as 0.7
        ({"brightness": 0.84}, ()),
        ({"sharpness": 0.13}, ("blurred",)),  # under 0.7 of 0.2
        ({"sharpness": 0.15}, ()),
        ({"enlargement": 8.1}, ("tiny",)),  # over 4 times 2
        ({"enlargement": 7.9}, ()),
        ({"features": [99.0] * 12, "brightness": 0.1}, ("dark", "unlike")),  # the cause comes first
    ],
)
def test_warnings_are_relative_to_the_held_out_pictures(change, warnings):
    plain = {"features": [3.0] * 12}
    seen = normals(8)
    seen[0] = statistics_of(seen[0].features, 0.4, 0.9, 0.5)
    seen[1] = statistics_of(seen[1].features, 0.7, 0.2, 2.0)
    assert fitted(seen).check(statistics_of(**plain | change)).warnings == warnings


@pytest.mark.parametrize(
    ("change", "warnings"),
    [
        ({"brightness": 0.04}, ("dark",)),
        ({"brightness": 0.96}, ("bright",)),
        ({"sharpness": 0.0}, ()),  # unknown: a smooth part is no blurred one
        ({"enlargement": 4.1}, ("tiny",)),
        ({"brightness": 0.06}, ()),
    ],
)
def test_without_held_out_pictures_the_limits_are_absolute(change, warnings):
    assert Appearance(3).check(statistics_of([1.0, 2.0, 3.0], **change)).warnings == warnings


@pytest.mark.parametrize(
    ("brightness", "expected"),
    [(0.33, ("dark",)), (0.35, ()), (0.48, ()), (0.50, ("bright",))],  # 15 % of 0.4 below 0.4, of 0.42 above 0.42
)
def test_pictures_taken_in_the_same_light_allow_a_change_of_15_per_cent(brightness, expected):
    seen = [statistics_of(each.features, 0.4 + 0.02 * (i % 2)) for i, each in enumerate(normals(8))]
    assert fitted(seen).check(statistics_of([3.0] * 12, brightness)).warnings == expected


# ------------------------------------------------------------------------------------------------- red and blue


@pytest.mark.parametrize(
    ("own", "exchanged", "expected"),
    [
        (2.0, 1.0, ("swapped",)),  # in ratios: fits much better with the colours exchanged
        (9.0, 1.0, ("swapped", "unlike")),
        (2.0, 1.5, ()),  # hardly better: over 0.7 of it
        (9.0, 3.0, ("unlike",)),  # neither way a picture of this category
        (1.4, 0.5, ()),  # not unusual
    ],
)
def test_exchanged_colours_are_named_where_the_picture_fits_much_better_with_them(own, exchanged, expected):
    appearance = fitted(normals(30))
    start, unit = appearance.center.clone(), appearance.spread.clone()
    found = appearance.check(statistics_of(start + own * unit), lambda: statistics_of(start + exchanged * unit))
    assert found.ratio == pytest.approx(own, rel=1e-4) and found.warnings == expected


def test_colours_of_usual_pictures_cost_no_second_pass():
    def never():
        raise AssertionError("not needed")

    appearance = fitted(normals(30))
    assert appearance.check(statistics_of(appearance.center + appearance.spread), never).warnings == ()


# --------------------------------------------------------------------------------------------- detectors, by questions


def noise(seed, size=64):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8))


def stripes(seed, size=64):
    """As far from noise as random weights can tell."""
    rows = np.repeat(np.random.default_rng(seed).integers(0, 256, (size // 16, 1, 1), dtype=np.uint8), 16, axis=0)
    return Image.fromarray(np.broadcast_to(rows, (size, size, 3)).copy())


def first_of(categories):
    return {label: next(iter(detectors.values())) for label, detectors in categories.items()}


@pytest.fixture(scope="module")
def candidates(make_detector):
    """Two categories: `noise` and `stripes`."""
    found = {
        "noise": {"simplenet": make_detector(SimpleNet), "glass": make_detector(GLASS)},
        "stripes": {"simplenet": make_detector(SimpleNet)},
    }
    for label, draw in (("noise", noise), ("stripes", stripes)):
        for detector in found[label].values():
            detector.calibrate([draw(seed) for seed in range(20)], 0.2)
    return found


def test_calibration_learns_both_from_one_backbone_pass_per_picture(make_detector, monkeypatch):
    detector, passes, forward = make_detector(SimpleNet, calibrated=False), [], Backbone.forward
    assert not detector.appearance.is_fitted
    monkeypatch.setattr(Backbone, "forward", lambda self, images: (passes.append(1), forward(self, images))[1])
    detector.calibrate([noise(seed) for seed in range(6)])
    assert len(passes) == 6 == detector.calibration.size and detector.appearance.is_fitted
    assert not any(buffer.is_inference() for buffer in detector.buffers())  # else it could not be trained further


def test_all_questions_share_one_backbone_pass(candidates, monkeypatch):
    passes, forward = [], Backbone.forward
    monkeypatch.setattr(Backbone, "forward", lambda self, images: (passes.append(1), forward(self, images))[1])
    prepared = PreparedPicture(noise(100))
    (best, checked), (second, _) = rank_categories(first_of(candidates), prepared)
    assert (best, second) == ("noise", "stripes") and checked == check_appearance(candidates["noise"], prepared)
    assert compare(candidates["noise"], prepared)["glass"].p_value > 0
    assert len(passes) == 1
    compare(candidates["noise"], noise(100))
    assert len(passes) == 2


def test_each_category_is_recognised_and_the_other_refused(candidates):
    for label, draw in (("noise", noise), ("stripes", stripes)):
        (first, alike), (_, unlike) = rank_categories(first_of(candidates), draw(200))
        assert first == label and alike.matches and not unlike.matches
        assert "unlike" in unlike.warnings and "unlike" not in alike.warnings


def test_a_detector_that_knows_the_look_answers_for_one_that_does_not(candidates, make_detector):
    blank = make_detector(SimpleNet, calibrated=False)
    assert check_appearance({"blank": blank, **candidates["noise"]}, noise(300)) == check_appearance(
        candidates["noise"], noise(300)
    )
    assert [label for label, _ in rank_categories({"blank": blank, **first_of(candidates)}, noise(300))] == [
        "noise",
        "stripes",
    ]


def test_a_tiny_picture_is_named(candidates):
    assert "tiny" in check_appearance(candidates["noise"], noise(0, size=15)).warnings
    assert "tiny" not in check_appearance(candidates["noise"], noise(0, size=16)).warnings


def test_pictures_that_cannot_be_read_and_nobody_to_ask(candidates):
    with pytest.raises(PictureError, match="not a picture"):
        rank_categories(first_of(candidates), b"text")
    with pytest.raises(ValueError, match="no detector"):
        check_appearance({}, noise(0))


# ---------------------------------------------------------------------------------------------------- saved and loaded


@pytest.fixture
def folder(candidates, tmp_path):
    candidates["noise"]["simplenet"].save_pretrained(tmp_path)
    return tmp_path


def rewrite(folder, change, **settings):
    """Saves the changed tensors in place of those in the folder, under a config that names no fingerprint."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text()) | {"weights_sha256": None} | settings
    (folder / "config.json").write_text(json.dumps(config))


def test_it_travels_with_the_weights(candidates, folder):
    assert check_appearance({"simplenet": SimpleNet.from_pretrained(folder)}, noise(400)) == check_appearance(
        candidates["noise"], noise(400)
    )


def without_appearance(tensors):
    for name in [name for name in tensors if name.startswith("appearance.")]:
        del tensors[name]


def test_models_of_this_format_must_have_it(folder):
    rewrite(folder, without_appearance)
    with pytest.raises(ModelError, match=r"appearance.center"):
        SimpleNet.from_pretrained(folder)


@pytest.mark.parametrize("name", ["center", "spread", "brightness", "looks", "sharpness", "enlargement"])
def test_damaged_tensors_are_refused(folder, name):
    rewrite(folder, lambda tensors: tensors.update({f"appearance.{name}": torch.zeros(7, 7)}))
    with pytest.raises(ModelError, match=rf"(?s)does not fit its config.json.*appearance.{name}"):
        SimpleNet.from_pretrained(folder)


# -------------------------------------------------------------------------------------------------- the bundled models


@pytest.fixture(scope="module")
def bundled():
    catalog = Catalog.bundled()
    return {label: catalog.load(label) for label in catalog.categories()}


@pytest.fixture(scope="module")
def suggested(bundled):
    """By example: its own label, and what is suggested."""
    return {
        path: (f"parts / {path.parent.name}", rank_categories(first_of(bundled), path))
        for path in sorted(EXAMPLES.glob("*/*.png"))
    }


def test_every_example_is_recognised_good_or_defective(suggested):
    assert len(suggested) == 20
    for path, (label, found) in suggested.items():
        (first, checked), *others = found
        assert first == label and checked.matches and checked.warnings == (), path
        assert not any(other.matches for _, other in others), path


def test_all_methods_of_a_category_learned_the_same_appearance(bundled):
    """Up to the rounding of the machines that they were trained on."""
    for detectors in bundled.values():
        first, *others = (detector.appearance.state_dict() for detector in detectors.values())
        assert others
        for other in others:
            assert all(torch.allclose(first[name], other[name], rtol=1e-3, atol=1e-6) for name in first)


@pytest.mark.parametrize(
    ("spoil", "warning"),
    [
        (lambda picture: picture.filter(ImageFilter.GaussianBlur(3)), "blurred"),
        (lambda picture: picture.point(lambda level: round(0.15 * level)), "dark"),
        (lambda picture: picture.point(lambda level: round(255 - 0.15 * (255 - level))), "bright"),
        (lambda picture: picture.resize((60, 60)), "tiny"),
    ],
    ids=["blurred", "dark", "bright", "tiny"],
)
def test_spoiled_pictures_are_told(bundled, spoil, warning):
    for label, detectors in bundled.items():
        with Image.open(EXAMPLES / label.removeprefix("parts / ") / "good.png") as picture:
            assert warning in check_appearance(detectors, spoil(picture.convert("RGB"))).warnings, label


COLOURED = ("cloth", "connector", "pill", "washer")  # brushed metal is too grey to tell


def exchanged(path):
    """A picture file as OpenCV reads it: (H, W, 3) BGR."""
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))[..., ::-1]


@pytest.mark.parametrize("part", COLOURED)
def test_opencv_pictures_of_good_parts_are_told_by_predict_and_by_the_check(bundled, part):
    detectors = bundled[f"parts / {part}"]
    picture = exchanged(EXAMPLES / part / "good.png")
    for detector in detectors.values():
        with pytest.warns(PictureWarning, match=rf"{part}: .*cv2.cvtColor\(picture, cv2.COLOR_BGR2RGB\)") as caught:
            prediction = detector.predict(picture)
        assert "swapped" in prediction.warnings and caught[0].filename == __file__
    assert "swapped" in check_appearance(detectors, picture).warnings


def test_no_example_good_or_defective_is_warned_about(bundled):
    with warnings.catch_warnings():
        warnings.simplefilter("error", PictureWarning)
        for path in EXAMPLES.glob("*/*.png"):
            detector = next(iter(bundled[f"parts / {path.parent.name}"].values()))
            assert detector.predict(path).warnings == ()


@pytest.mark.parametrize("part", ["brushed_metal", *COLOURED])
def test_predict_warns_of_samples_at_a_wrong_scale(bundled, part):
    """12-bit values in uint16, and an inverted picture: those whose files state nothing."""
    detector = bundled[f"parts / {part}"]["glass"]
    with Image.open(EXAMPLES / part / "good.png") as picture:
        levels = np.asarray(picture.convert("RGB"))
    with pytest.warns(PictureWarning, match="multiply by 16"):
        assert detector.predict(levels.astype(np.uint16) * 16).warnings[0] == "dark"
    with pytest.warns(PictureWarning):
        assert {"unlike", "bright"}.intersection(detector.predict(255 - levels).warnings)


def test_a_batch_warns_once_for_each_cause_and_keeps_each_pictures_own(bundled):
    detector = bundled["parts / washer"]["glass"]
    good = EXAMPLES / "washer" / "good.png"
    with Image.open(good) as picture:
        dark = picture.convert("RGB").point(lambda level: level // 8)
    with pytest.warns(PictureWarning) as caught:
        first, second, third = detector.predict_batch([good, dark, dark])
    assert first.warnings == () and second.warnings == third.warnings == ("dark", "unlike")
    assert len(caught) == 2 and {each.filename for each in caught} == {__file__}
    assert detector.decide(second, 0.1).warnings == second.warnings


def test_compare_reports_what_predict_warns_of_and_leaves_the_notice_to_the_page(bundled):
    picture = exchanged(EXAMPLES / "pill" / "good.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error", PictureWarning)
        together = compare(bundled["parts / pill"], picture)
    with pytest.warns(PictureWarning):
        alone = {name: detector.predict(picture) for name, detector in bundled["parts / pill"].items()}
    assert {name: p.warnings for name, p in together.items()} == {name: p.warnings for name, p in alone.items()}
