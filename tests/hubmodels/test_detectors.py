"""Both heads over one contract: shapes, signs, strict loading, all kinds of pictures, one backbone pass."""

import json
import os
import pickle
import runpy
import signal
import subprocess
import sys
import weakref
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save, save_file

from hubmodels import GLASS, BackboneError, ModelError, PictureError, SimpleNet, compare, load, methods
from hubmodels.backbone import Backbone
from hubmodels.heads import DiscriminatorHead

ROOT = Path(__file__).parents[2]
BUNDLE, EXAMPLES = ROOT / "hubmodels/weights/models", ROOT / "examples/parts/washer"
METHODS = pytest.mark.parametrize("method", [row.detector for row in methods.METHODS.values()])
WITH_DISCRIMINATOR = pytest.mark.parametrize(
    "method", [d for row in methods.METHODS.values() if issubclass((d := row.detector).head_class, DiscriminatorHead)]
)
BUNDLED = pytest.mark.parametrize("method", [row.detector for row in methods.METHODS.values() if not row.baseline])


def picture(height=80, width=100, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@WITH_DISCRIMINATOR
def test_architecture_is_the_papers(method):
    """1536-dimensional adaptor with bias; 1024 hidden, BatchNorm, LeakyReLU 0.2, last layer without bias."""
    detector = method()
    hidden, norm, activation, last = detector.head.discriminator
    assert sum(p.numel() for p in detector.head.adaptor.parameters()) == 1536 * 1536 + 1536
    assert (hidden.in_features, hidden.out_features, hidden.bias is not None) == (1536, 1024, True)
    assert (type(norm), activation.negative_slope) == (torch.nn.BatchNorm1d, 0.2)
    assert (last.out_features, last.bias) == (1, None)
    assert (detector.front_end.image_size, detector.front_end.backbone_name, detector.front_end.layers) == (
        (288, 288),
        "wide_resnet50_2.tv_in1k",
        (2, 3),
    )


def test_narrow_backbones_get_a_sensible_width():
    detector = SimpleNet(backbone="resnet18.tv_in1k")
    assert (detector.front_end.embed_dim, detector.head.hidden_dim) == (384, 256)


def test_signs():
    """SimpleNet's discriminator says how normal, GLASS's how anomalous; scores always say how anomalous."""
    logits = torch.tensor([-2.0, 0.0, 3.0])
    assert SimpleNet(backbone="resnet18.tv_in1k").head.logits_to_scores(logits).tolist() == [2.0, 0.0, -3.0]
    assert GLASS(backbone="resnet18.tv_in1k").head.logits_to_scores(logits).allclose(logits.sigmoid())


@METHODS
def test_forward_equals_its_parts_and_judges_pictures_one_by_one(method, make_detector):
    detector = make_detector(method)
    images = torch.rand(3, 3, 64, 64)
    with torch.no_grad():
        scores = detector(images)
        alone = torch.cat([detector(image[None]) for image in images])
    assert scores.shape == (3, 8, 8)
    assert scores.allclose(alone, atol=1e-5)  # no batch statistics


@METHODS
def test_prediction_has_the_pictures_size_and_the_largest_patch_score(method, make_detector):
    detector = make_detector(method)
    prediction = detector.predict(picture(80, 100))
    with torch.no_grad():
        largest = detector(detector.front_end.prepare([picture(80, 100)])).max().item()
    assert prediction.anomaly_map.shape == prediction.mask.shape == (80, 100)
    assert prediction.anomaly_map.dtype == np.float32
    assert prediction.image_score == pytest.approx(largest, abs=1e-6)
    assert prediction.is_anomalous == (prediction.image_score > prediction.threshold)
    assert 0 < prediction.p_value <= 1 and prediction.latency_ms > 0


@METHODS
def test_every_way_to_hand_in_a_picture_gives_the_same_result(method, make_detector, tmp_path):
    detector, pil = make_detector(method), picture()
    path = tmp_path / "part.png"
    pil.save(path)
    array = np.asarray(pil)
    tensor = torch.from_numpy(array.copy()).movedim(-1, 0)
    expected = detector.predict(pil)
    for same in (path, str(path), path.read_bytes(), array, tensor, tensor.float() / 255):
        prediction = detector.predict(same)
        assert prediction.image_score == expected.image_score
        assert np.array_equal(prediction.anomaly_map, expected.anomaly_map)


@METHODS
def test_bad_pictures_raise_the_one_error(method, make_detector, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    with pytest.raises(PictureError, match=r"broken\.png"):
        make_detector(method).predict(tmp_path / "broken.png")


@METHODS
def test_batch_equals_single(method, make_detector):
    detector, pictures = make_detector(method), [picture(80, 100, 1), picture(64, 64, 2), picture(50, 90, 3)]
    for batched, alone in zip(detector.predict_batch(pictures), map(detector.predict, pictures), strict=True):
        assert batched.image_score == pytest.approx(alone.image_score, abs=1e-5)
        assert np.allclose(batched.anomaly_map, alone.anomaly_map, atol=1e-5)


@METHODS
def test_no_pictures_give_no_predictions(method, make_detector):
    assert make_detector(method).predict_batch([]) == []


def test_calibration_holds_one_picture_and_one_map_at_a_time(make_detector, monkeypatch):
    """Thirty maps and pictures of 20 megapixels would be several gigabytes."""
    detector, seen, alive = make_detector(SimpleNet, calibrated=False), [], []
    study = detector._calibrate_one

    def watched(shown, head, picture_statistics):
        prediction = study(shown, head, picture_statistics)
        alive.append(sum(reference() is not None for reference in seen))
        seen.extend(map(weakref.ref, (shown, prediction.anomaly_map)))
        return prediction

    monkeypatch.setattr(detector, "_calibrate_one", watched)
    detector.calibrate(picture(seed=seed) for seed in range(5))
    assert detector.calibration.size == 5 and max(alive) <= 1


@METHODS
def test_a_head_needs_no_docstring_of_its_base_class(method, monkeypatch):
    """`python -OO` strips them, and `import hubmodels` died of it."""
    stripped = SimpleNamespace(AnomalyDetector=type("AnomalyDetector", (), {}))
    monkeypatch.setitem(sys.modules, "hubmodels.detector", stripped)
    source = Path(sys.modules[method.__module__].__file__)
    assert runpy.run_path(source)[method.__name__].method == method.method


@METHODS
def test_training_mode_refuses_to_judge(method, make_detector):
    detector = make_detector(method).train()
    with pytest.raises(RuntimeError, match="eval"):
        detector.predict(picture())
    assert not detector.front_end.backbone.training
    detector.eval()


@METHODS
def test_crop_inspects_the_centre_only(method, make_detector):
    """With the papers' crop the border is not inspected and gets the map's minimum."""
    detector = make_detector(method, resize=80)
    anomaly_map = detector.predict(picture(80, 80)).anomaly_map
    assert anomaly_map.shape == (80, 80)
    assert np.ptp(anomaly_map[:, :6]) == 0 and anomaly_map[0, 0] == anomaly_map.min()


# ---------------------------------------------------------------------------------------------------- saved and loaded


@METHODS
def test_round_trip_is_bit_equal(method, make_detector, tmp_path):
    detector = make_detector(method)
    detector.save_pretrained(tmp_path)
    loaded = method.from_pretrained(tmp_path)
    assert not loaded.training
    before, after = detector.predict(picture()), loaded.predict(picture())
    assert (before.image_score, before.p_value, before.threshold) == (
        after.image_score,
        after.p_value,
        after.threshold,
    )
    assert np.array_equal(before.anomaly_map, after.anomaly_map)


@METHODS
def test_a_square_given_as_a_pair_is_the_same_model(method, make_detector, tmp_path):
    one, pair = (
        make_detector(method, image_size=64, resize=73),
        make_detector(method, image_size=[64, 64], resize=(73, 73)),
    )
    assert one.front_end.key == pair.front_end.key and pair.front_end.image_size == (64, 64)
    for name, detector in {"one": one, "pair": pair}.items():
        detector.save_pretrained(tmp_path / name)
    files = [
        [(tmp_path / name / f).read_bytes() for f in ("config.json", "model.safetensors")] for name in ("one", "pair")
    ]
    assert files[0] == files[1] and json.loads(files[0][0])["image_size"] == 64
    assert np.array_equal(one.predict(picture()).anomaly_map, pair.predict(picture()).anomaly_map)


@METHODS
@pytest.mark.parametrize(("image_size", "resize"), [((64, 160), None), ((160, 64), None), ((64, 96), (75, 112))])
def test_an_oblong_model_makes_the_round_trip(method, image_size, resize, make_detector, tmp_path):
    detector = make_detector(method, image_size=image_size, resize=resize)
    detector.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["image_size"], config["resize"]) == (list(image_size), list(resize or image_size))
    loaded = load(tmp_path)
    assert loaded.front_end.key == detector.front_end.key
    before, after = detector.predict(picture()), loaded.predict(picture())
    assert before.image_score == after.image_score and np.array_equal(before.anomaly_map, after.anomaly_map)
    assert before.anomaly_map.shape == (80, 100)
    assert detector(torch.rand(1, 3, *image_size)).shape == (1, image_size[0] // 8, image_size[1] // 8)


@METHODS
def test_the_folder_holds_the_head_only(method, make_detector, tmp_path):
    make_detector(method).save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors", "README.md"}
    prefixes = {key.split(".")[0] for key in load_file(tmp_path / "model.safetensors")}
    assert prefixes == {"head", "calibration", "appearance"}
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["method"] == method.method and len(config["backbone_sha256"]) == 64
    assert (config["embed_dim"], config["resize"]) == (32, 64)  # resolved, not null
    assert config.get("hidden_dim") == (21 if issubclass(method.head_class, DiscriminatorHead) else None)


def test_base_class_reads_the_method_and_the_wrong_class_refuses(make_detector, tmp_path):
    make_detector(GLASS).save_pretrained(tmp_path)
    assert type(load(tmp_path)) is GLASS
    with pytest.raises(ModelError, match=r"is a glass model: load it by hubmodels.load"):
        SimpleNet.from_pretrained(tmp_path)


def edit_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("change", "error", "word"),
    [
        ({"format_version": 99}, ModelError, "reads format 1"),
        ({"hidden_dim": 20}, ModelError, "does not fit"),
        ({"method": "padim"}, ModelError, "names no method"),
        ({"method": None}, ModelError, "names no method"),
        ({"method": ["glass"]}, ModelError, "names no method"),
        ({"format_version": 1.9}, ModelError, "damaged"),
        ({"format_version": float("inf")}, ModelError, "damaged"),
        ({"image_size": 10**6}, ModelError, "build no model"),
        ({"std": [0, 0, 0]}, ModelError, "build no model"),
        ({"mean": [0.5]}, ModelError, "build no model"),
        ({"mean": ["a", "b", "c"]}, ModelError, "build no model"),
        ({"mean": [0.5, 0.5, float("nan")]}, ModelError, "build no model"),
        ({"std": [1, float("nan"), 1]}, ModelError, "build no model"),
        ({"resize": 32}, ModelError, "resize 32 is smaller"),
        ({"resize": 10**6}, ModelError, "build no model"),
        ({"resize": "64"}, ModelError, "build no model"),
        ({"resize": 64.5}, ModelError, "build no model"),
        ({"resize": 0}, ModelError, "build no model"),
        ({"resize": [64, 32]}, ModelError, r"resize 64 x 32 is smaller than image_size 64;"),
        ({"resize": [64, 8193]}, ModelError, "8193 is not in"),
        ({"image_size": "64x64"}, ModelError, "neither a whole number nor a pair"),
        ({"image_size": ["64", "64"]}, ModelError, "neither a whole number nor a pair"),
        ({"image_size": [64, 64, 3]}, ModelError, "neither a whole number nor a pair"),
        ({"image_size": [64]}, ModelError, "neither a whole number nor a pair"),
        ({"image_size": []}, ModelError, "neither a whole number nor a pair"),
        ({"image_size": [64, 64.5]}, ModelError, "neither a whole number nor a pair"),
        ({"image_size": [[64, 64], 64]}, ModelError, "neither a whole number nor a pair"),
        ({"image_size": {"height": 64}}, ModelError, "neither a whole number nor a pair"),
        ({"image_size": [64, -64]}, ModelError, "-64 is not in"),
        ({"image_size": [8193, 64]}, ModelError, "8193 is not in"),
        ({"image_size": 8192}, ModelError, "8192 is more than 33,554,432 pixels"),
        ({"image_size": True}, ModelError, "1 is not in"),
        ({"image_size": [64, True]}, ModelError, "1 is not in"),
        ({"layers": [3, 2]}, ModelError, "order of the network"),
        ({"backbone_sha256": 5}, ModelError, "build no model"),
        ({"backbone_sha256": []}, ModelError, "build no model"),
        ({"format_version": "one"}, ModelError, "damaged"),
        ({"embed_dim": "wide"}, ModelError, "build no model"),
        ({"layers": [9]}, ModelError, "build no model"),
        ({"backbone": None}, ModelError, "build no model"),
        ({"image_size": None}, ModelError, "build no model"),
        ({"backbone": "no_such_network.in1k"}, BackboneError, "names no network"),
        ({"surprise": 1}, ModelError, "surprise"),
        ({"backbone_sha256": "0" * 64}, BackboneError, "trained on"),
    ],
)
def test_configs_that_do_not_fit_are_refused(change, error, word, make_detector, backbone_weights, tmp_path):
    make_detector(SimpleNet).save_pretrained(tmp_path)
    edit_config(tmp_path, **change)
    with pytest.raises(error, match=word):
        load(tmp_path, backbone_weights=backbone_weights)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_file_that_may_not_be_read_is_named(name, make_detector, tmp_path, monkeypatch):
    make_detector(SimpleNet).save_pretrained(tmp_path)
    read = Path.read_bytes

    def refuse(path):
        if path.name == name:
            raise PermissionError(13, "Permission denied")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(ModelError, match=f"{name} cannot be read .Permission denied"):
        load(tmp_path)


NOT_A_NUMBER = torch.full((5,), torch.nan)


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [
        ("calibration.image_scores", NOT_A_NUMBER, "not finite"),
        ("calibration.image_scores", torch.tensor([5.0, 1, 2, 3, 4]), "not ascending"),
        ("calibration.map_maxima", torch.tensor([5.0, 1, 2, 3, 4]), "not ascending"),
        ("calibration.map_maxima", torch.zeros(0), "missing"),
        ("calibration.map_maxima", torch.zeros(2), "missing"),
        ("calibration.false_alarm_rate", torch.tensor(torch.nan), "between 0 and 1"),
        ("calibration.false_alarm_rate", torch.tensor(-1.0), "between 0 and 1"),
        ("calibration.false_alarm_rate", torch.tensor(0.0), "between 0 and 1"),
        ("calibration.normal_level", torch.tensor(torch.nan), "not finite"),
        ("head.adaptor.bias", torch.full((32,), torch.nan), "head has weights that are not finite"),
        ("head.discriminator.3.weight", torch.full((1, 21), torch.inf), "head has weights that are not finite"),
    ],
)
def test_weights_that_give_no_sound_verdict_are_refused(name, value, word, make_detector, tmp_path):
    make_detector(SimpleNet).save_pretrained(tmp_path)
    save_file(load_file(tmp_path / "model.safetensors") | {name: value}, tmp_path / "model.safetensors")
    edit_config(tmp_path, weights_sha256=None)
    with pytest.raises(ModelError, match=f"damaged: .*{word}"):
        load(tmp_path)


def test_a_score_that_is_not_finite_is_no_verdict(make_detector):
    """Every comparison with NaN is false, so the part passed for good."""
    detector = make_detector(GLASS)
    detector.head.discriminator[1].running_var.fill_(-1)
    with pytest.raises(ModelError, match="glass model gives scores that are not finite"):
        detector.predict(picture())


def test_a_detector_made_in_inference_mode_follows_its_weights(make_detector):
    with torch.inference_mode():
        detector = make_detector(SimpleNet)
        before = detector.predict(picture()).image_score
        detector.head.discriminator[3].weight.mul_(2)
    assert detector.predict(picture()).image_score == pytest.approx(2 * before)


def test_front_ends_of_different_weight_files_are_different(make_detector, backbone_weights):
    """Without a fingerprint only the file tells them apart."""
    one, other = (make_detector(SimpleNet, calibrated=False).front_end for _ in range(2))
    one.backbone_sha256 = other.backbone_sha256 = None
    one.load_backbone(backbone_weights)
    assert one.key != other.key


def test_missing_and_damaged_files_are_named(make_detector, tmp_path):
    make_detector(SimpleNet).save_pretrained(tmp_path)
    weights = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(ModelError, match="truncated"):
        SimpleNet.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"contains no model.safetensors"):
        SimpleNet.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match="damaged"):
        SimpleNet.from_pretrained(tmp_path)


def test_a_header_with_a_pickles_first_bytes_is_no_pickle(make_detector, tmp_path):
    """A safetensors file begins with the length of its header, little end first: here 0x10580."""
    make_detector(SimpleNet).save_pretrained(tmp_path)
    edit_config(tmp_path, weights_sha256=None)
    tensors = load_file(tmp_path / "model.safetensors")
    empty = int.from_bytes(save(tensors, {"pad": ""})[:8], "little")
    save_file(tensors, tmp_path / "model.safetensors", {"pad": "x" * (0x10580 - empty)})
    assert (tmp_path / "model.safetensors").read_bytes()[:2] == b"\x80\x05"
    assert SimpleNet.from_pretrained(tmp_path).category == "widget"


def test_a_missing_tensor_is_not_filled_with_random_numbers(make_detector, tmp_path):
    make_detector(SimpleNet).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["head.adaptor.weight"]
    save_file(tensors, tmp_path / "model.safetensors")
    edit_config(tmp_path, weights_sha256=None)
    with pytest.raises(ModelError, match=r"head.adaptor.weight"):
        SimpleNet.from_pretrained(tmp_path)


def test_a_program_with_another_default_type_gets_the_same_scores(make_detector, tmp_path):
    make_detector(GLASS).save_pretrained(tmp_path)
    expected = load(tmp_path).predict(picture())
    torch.set_default_dtype(torch.float64)
    try:
        found = load(tmp_path).predict(picture())
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.image_score == expected.image_score and np.array_equal(found.anomaly_map, expected.anomaly_map)


@pytest.mark.parametrize(
    ("change", "tolerance"),
    [
        (lambda detector: detector.double(), 1e-5),
        (lambda detector: detector.half(), 0.03),  # three digits of scores that are up to 14 times as far
        (lambda detector: detector.to(torch.bfloat16), 0.15),
    ],
    ids=["double", "half", "bfloat16"],
)
@BUNDLED
def test_weights_of_another_type_give_the_same_verdict(method, change, tolerance):
    """The tolerance is a share of the way from a typical good part to the threshold."""
    folder, picture = BUNDLE / f"{method.method}-parts-washer", EXAMPLES / "scratch.png"
    detector = load(folder)
    expected = detector.predict(picture)
    changed = change(detector).predict(picture)
    span = expected.threshold - expected.normal_score
    assert next(detector.head.parameters()).dtype != torch.float32
    assert abs(changed.image_score - expected.image_score) < tolerance * span
    assert np.abs(changed.anomaly_map - expected.anomaly_map).max() < tolerance * span
    assert changed.anomaly_map.dtype == np.float32
    for name in ("threshold", "pixel_threshold", "normal_level", "p_value", "is_anomalous", "warnings"):
        assert getattr(changed, name) == getattr(expected, name), name


def test_a_calibration_keeps_its_type_and_follows_the_device(make_detector):
    detector = make_detector(GLASS)
    for module in (detector.calibration, detector.appearance):
        before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        module.to(torch.bfloat16)
        assert all(tensor.equal(before[name]) for name, tensor in module.state_dict().items())
        assert {tensor.device.type for tensor in module.to("meta").buffers()} == {"meta"}


FORKED = """
import os, sys, torch
from hubmodels import load

torch.set_num_threads(2)
detector = load(sys.argv[1])
before = detector.predict(sys.argv[2])
child = os.fork()
if child == 0:
    shown = before.mask.any()  # the map is made here
    os._exit(0 if shown and abs(detector.predict(sys.argv[2]).image_score - before.image_score) < 1e-4 else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_process_predicts_the_same():
    """Without `survive_fork` the child waits for ever for threads that were not copied."""
    command = [sys.executable, "-c", FORKED, BUNDLE / "glass-parts-washer", EXAMPLES / "scratch.png"]
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    with subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as started:
        try:
            _, errors = started.communicate(timeout=180)
        except subprocess.TimeoutExpired:
            os.killpg(started.pid, signal.SIGKILL)
            raise
    assert started.returncode == 0, errors
    assert 'multiprocessing.get_context("spawn")' in errors


def test_a_prediction_of_a_batch_takes_only_its_own_map_along(make_detector):
    detector = make_detector(SimpleNet)
    alone = len(pickle.dumps(detector.predict(picture())))
    kept = detector.predict_batch([picture()] * 8)
    copied = pickle.loads(pickle.dumps(kept[3]))
    assert len(pickle.dumps(kept[3])) < 1.1 * alone
    assert np.array_equal(copied.anomaly_map, kept[3].anomaly_map) and copied.numbers() == kept[3].numbers()


# ------------------------------------------------------------------------------------------------------- side by side


def test_compare_equals_predict_with_one_backbone_pass(make_detector, monkeypatch):
    detectors = {name: make_detector(method.detector) for name, method in methods.METHODS.items()}
    passes, forward = [], Backbone.forward
    grey = picture().convert("L")  # of an unusual picture in colour, the colours are checked by a second pass
    separate = {name: detector.predict(grey) for name, detector in detectors.items()}
    monkeypatch.setattr(Backbone, "forward", lambda self, images: (passes.append(1), forward(self, images))[1])
    together = compare(detectors, grey)
    assert len(passes) == 1
    assert list(together) == list(separate)
    for one, other in zip(together.values(), separate.values(), strict=True):
        assert one.image_score == pytest.approx(other.image_score, rel=1e-6)
        assert np.abs(one.anomaly_map - other.anomaly_map).max() <= 1e-6 * np.abs(other.anomaly_map).max()
        assert one.p_value == other.p_value


def test_compare_passes_once_per_front_end(make_detector, monkeypatch):
    detectors = {"simplenet": make_detector(SimpleNet), "glass": make_detector(GLASS, resize=80)}
    passes, forward = [], Backbone.forward
    grey = picture().convert("L")  # of an unusual picture in colour, the colours are checked by a second pass
    monkeypatch.setattr(Backbone, "forward", lambda self, images: (passes.append(1), forward(self, images))[1])
    together = compare(detectors, grey)
    assert len(passes) == 2
    assert together["glass"].image_score == pytest.approx(detectors["glass"].predict(grey).image_score, rel=1e-6)
