"""Export: the file says what torch says, on pictures of all sizes, or it is not written."""

import copy
import errno
import json
import os
import shutil
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from dummy_methods import Bank, Gaussian
from PIL import Image
from small_pictures import mask, picture, save
from snippets import run_snippets
from typer.testing import CliRunner

from hubmodels import GLASS, Hybrid, ModelError, SimpleNet, cli, loading
from hubmodels.comparison import compare
from hubmodels.folders import find_pictures
from hubmodels.front_end import to_image, to_picture_size
from hubmodels.onnx import export
from hubmodels.onnx import runtime as onnx_runtime
from hubmodels.onnx.graph import ExportGraph
from hubmodels.onnx.runtime import ExportedModel, ExportError, _region_of, region_to_lists
from hubmodels.prediction import AnomalyPrediction

ROOT = Path(__file__).parents[3]
BUNDLED = ROOT / "hubmodels" / "weights" / "models" / "glass-parts-pill"
EXAMPLES = ROOT / "examples" / "parts" / "pill"
CROP = {"resize": 75, "image_size": 64}  # odd: the crop begins at a rounded row
SIZES = [(64, 64), (75, 75), (40, 48), (200, 131), (8, 300), (333, 97)]  # (height, width)
CLOSE = dict(rtol=1e-4, atol=1e-5)
METHODS = ["simplenet", "glass", "hybrid", "gaussian", "bank"]


def make_hybrid(make_detector, **settings):
    """A hybrid with a memory, not calibrated."""
    hybrid = make_detector(Hybrid, calibrated=False, **settings)
    hybrid.head.memory.projection.normal_()
    hybrid.head.memory.vectors = torch.randn(50, hybrid.head.memory_dim)
    return hybrid


@pytest.fixture(scope="module")
def make(make_detector, make_fitted):
    """Factory of one detector of each method; the last two are a closed form and a bank of vectors."""

    def make_all():
        trained = [make_detector(method, **CROP) for method in (SimpleNet, GLASS)]
        hybrid = make_hybrid(make_detector, **CROP)
        hybrid.calibrate([picture(i) for i in range(5)], 0.2)
        return [*trained, hybrid] + [make_fitted(method, **CROP) for method in (Gaussian, Bank)]

    return make_all


@pytest.fixture(scope="module")
def detectors(make):
    return make()


@pytest.fixture(scope="module")
def exported(detectors, tmp_path_factory):
    """All methods in one file, never to be changed."""
    path = tmp_path_factory.mktemp("export") / "all.onnx"
    export.export(detectors, path, [picture(0), picture(1, SIZES[3])])
    return path


@pytest.fixture(scope="module")
def model(exported):
    return ExportedModel(exported, threads=1)


@pytest.fixture
def already_exported(exported, monkeypatch):
    """Tracing takes seconds: what is tested here comes before or after it."""
    monkeypatch.setattr(export, "_write_graph", lambda detectors, path, resizes: shutil.copy(exported, path))


def test_a_folder_whose_name_is_not_utf8_is_read(exported, tmp_path):
    """It was called a damaged file."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/pr\xfcf"))
    folder.mkdir()
    shutil.copy(exported, folder / "both.onnx")
    assert ExportedModel(folder / "both.onnx", threads=1).compare(picture(0))


@pytest.fixture
def old_file(tmp_path):
    path = tmp_path / "out" / "model.onnx"
    path.parent.mkdir()
    path.write_text("an older export")
    return path


def is_untouched(path):
    return path.read_text() == "an older export" and list(path.parent.iterdir()) == [path]


# ---------------------------------------------------------------------- the docs


def test_the_snippets_of_the_docs_run(exported, tmp_path, monkeypatch):
    shutil.copy(exported, tmp_path / "washer.onnx")
    run_snippets(ROOT / "docs" / "onnx.md", tmp_path, monkeypatch)


# ---------------------------------------------------------------------- the graph


@pytest.mark.parametrize(("resizes", "methods"), [(True, [GLASS]), (False, [SimpleNet, GLASS])])
def test_a_file_looks_at_the_region_alone(make_detector, tmp_path, resizes, methods):
    """All methods, and with resizing both kinds of heads, oblong; pixels outside change nothing."""
    size = (64, 96)
    detectors = [make_detector(method, calibrated=False, region=True, image_size=size) for method in methods]
    detectors.append(make_hybrid(make_detector, region=True, image_size=size))
    inside = torch.zeros(size, dtype=torch.bool)
    inside[16:48, 8:40] = True
    for detector in detectors:
        detector.front_end.region.set(inside)
        detector.calibrate([picture(i, size) for i in range(10, 15)], 0.2)
    export.export(detectors, tmp_path / "region.onnx", [picture(0, size), picture(1, size)], resizes=resizes)
    model = ExportedModel(tmp_path / "region.onnx", threads=1)
    pixels, other = (np.asarray(picture(i, size)).copy() for i in (2, 3))
    other[inside.numpy()] = pixels[inside.numpy()]
    one, two = model.compare(pixels), model.compare(other)
    for detector in detectors:
        found = one[detector.method]
        assert found.image_score == two[detector.method].image_score
        expected = detector.predict(pixels)
        assert np.allclose(found.anomaly_map, expected.anomaly_map, **CLOSE)
        assert found.image_score == pytest.approx(expected.image_score, rel=1e-4)
        assert np.array_equal(found.counts, expected.counts) and found.counts.sum() == 32 * 32


def test_a_check_with_pictures_compares_onnx():
    given = ["check", str(BUNDLED), "--rounds", "2", "--pictures", str(EXAMPLES / "good.png")]
    said = CliRunner().invoke(cli.app, given)
    assert said.exit_code == 0 and "1 pictures, 2 times each:" in said.stdout
    assert "no verdict changes" in said.stdout.splitlines()[-1]


@pytest.mark.parametrize("first", [True, False])
def test_the_mask_of_a_region_comes_back_with_its_crop(first):
    mask = np.zeros((48, 64), bool)
    mask[10:20, 30:] = True
    mask[0, 0] = first
    known = json.loads(json.dumps(region_to_lists(mask, (60, 80))))
    shown = _region_of(known)((60, 80))
    assert np.array_equal(shown[6:54, 8:72], mask) and shown.sum() == mask.sum() and _region_of(None) is None
    for broken in ({"edges": [48 * 64 + 1]}, {"edges": [-1]}, {"edges": ["x"]}, {"resize": [32, 32]}):
        with pytest.raises((ValueError, TypeError)):
            _region_of(known | broken)


@pytest.mark.parametrize("size", [*SIZES, (1000, 700)])
def test_images_equal_those_of_pillow(detectors, size):
    shown = picture(3, size)
    images = ExportGraph(detectors).prepare(torch.from_numpy(np.array(shown))[None])
    assert torch.equal(images[0], to_image(shown, 64, 75))


def test_ties_fall_as_in_pillow(detectors):
    """Halving black and white makes halves of a grey level in every pixel: the worst that rounding can meet."""
    for shown in (mask((150, 150)).convert("RGB"), Image.fromarray(np.indices((150, 75, 3)).sum(0).astype(np.uint8))):
        images = ExportGraph(detectors).prepare(torch.from_numpy(np.array(shown))[None])
        assert torch.equal(images[0], to_image(shown, 64, 75))


@pytest.mark.parametrize("size", SIZES)
def test_maps_come_back_as_from_torch(detectors, size):
    """Nearly: torch rounds positions to float32, the graph counts them in whole numbers."""
    small = torch.from_numpy(np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32))
    large = ExportGraph(detectors).at_picture_size(small[None], torch.zeros(1, *size, 3))
    np.testing.assert_allclose(large[0], to_picture_size(small, size, 75), atol=1e-4)


@pytest.mark.parametrize("size", SIZES)
def test_an_oblong_crop_is_that_of_torch(make_detector, size):
    image_size, resize = (64, 96), (75, 107)
    graph, shown = ExportGraph([make_detector(SimpleNet, image_size=image_size, resize=resize)]), picture(3, size)
    image = to_image(shown, image_size, resize)
    assert torch.equal(graph.prepare(torch.from_numpy(np.array(shown))[None])[0], image)
    large = graph.at_picture_size(image[:1], torch.zeros(1, *size, 3))
    np.testing.assert_allclose(large[0], to_picture_size(image[0], size, resize), atol=1e-4)


# ---------------------------------------------------------------------- the file


def test_the_file_says_what_it_takes_and_gives(exported):
    file = onnx.load(exported)
    onnx.checker.check_model(file)
    shapes = {
        port.name: [d.dim_param or d.dim_value for d in port.type.tensor_type.shape.dim]
        for port in (*file.graph.input, *file.graph.output)
    }
    expected = {"pictures": ["batch", "height", "width", 3]}
    for method in METHODS:
        expected |= {f"{method}_image_score": ["batch"], f"{method}_p_value": ["batch"]}
        expected |= {f"{method}_anomaly_map": ["batch", "height", "width"]}
    assert shapes == expected
    assert {o.domain: o.version for o in file.opset_import}[""] == export.OPSET
    assert not any(node.domain for node in file.graph.node)  # nothing that only one runtime knows
    assert not any(tensor.external_data for tensor in file.graph.initializer)


@pytest.mark.parametrize("size", SIZES)
def test_all_methods_say_what_torch_says(detectors, model, size):
    shown = picture(7, size)
    found = model.compare(shown)
    assert list(found) == METHODS
    for expected, got in zip(compare({d.method: d for d in detectors}, shown).values(), found.values(), strict=True):
        np.testing.assert_allclose(got.image_score, expected.image_score, **CLOSE)
        np.testing.assert_allclose(got.anomaly_map, expected.anomaly_map, **CLOSE)
        assert got.anomaly_map.shape == size and got.anomaly_map.dtype == np.float32
        same = ("p_value", "threshold", "pixel_threshold", "normal_level", "normal_score", "is_anomalous")
        assert [getattr(got, name) for name in same] == [getattr(expected, name) for name in same]
        assert got.latency_ms > 0


@pytest.fixture(scope="module")
def oblong(make_detector):
    """Detectors of two methods."""
    return [make_detector(method, image_size=(64, 96), resize=(75, 107)) for method in (SimpleNet, GLASS)]


@pytest.fixture(scope="module")
def without_resizing(oblong, tmp_path_factory):
    """A file that takes pictures of the model's input size."""
    path = tmp_path_factory.mktemp("export") / "small.onnx"
    export.export(oblong, path, [picture(0)], resizes=False)
    return ExportedModel(path, threads=1)


@pytest.mark.parametrize("size", SIZES)
def test_a_file_that_does_not_resize_says_the_same(oblong, without_resizing, size):
    assert without_resizing.session.get_inputs()[0].shape == ["batch", 64, 96, 3]
    shown = picture(7, size)
    for method, expected in compare({d.method: d for d in oblong}, shown).items():
        found = without_resizing.compare(shown)[method]
        np.testing.assert_allclose(found.image_score, expected.image_score, **CLOSE)
        np.testing.assert_allclose(found.anomaly_map, expected.anomaly_map, **CLOSE)
        assert found.anomaly_map.shape == size and found.anomaly_map.dtype == np.float32
        assert (found.p_value, found.is_anomalous) == (expected.p_value, expected.is_anomalous)


@pytest.mark.parametrize(("size", "damaged"), [(["batch", "height", "width", 3], False), (["batch", 64, 96, 3], True)])
def test_only_a_file_that_resizes_needs_no_model_input(size, damaged):
    session = SimpleNamespace(get_inputs=lambda: [SimpleNamespace(shape=size)])
    with pytest.raises(ValueError, match="fixed size") if damaged else nullcontext():
        assert onnx_runtime._input_of(None, session) is None


@pytest.mark.parametrize("given", [[], ["--without-resizing"]])
def test_the_command_leaves_resizing_out_if_asked(given, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(loading, "load", lambda model, **_: model)
    monkeypatch.setattr(export, "export", lambda *arguments: seen.append(arguments[3]) or {"bytes": 1})
    monkeypatch.setattr(export, "describe", lambda *_: "")
    command("model", "--pictures", EXAMPLES, "--output", tmp_path / "x.onnx", *given)
    assert seen == [not given]


def test_a_batch_equals_single_pictures(model):
    shown = np.stack([np.asarray(picture(seed)) for seed in range(3)])
    together = model.session.run(None, {"pictures": shown})
    alone = [model.session.run(None, {"pictures": one[None]}) for one in shown]
    for i, output in enumerate(together):
        np.testing.assert_allclose(output, np.concatenate([outputs[i] for outputs in alone]), **CLOSE)


def test_p_values_of_the_graph_are_those_of_the_calibration(detectors, model):
    """At held-out pictures too, whose scores are equal to one in the list."""
    outputs = model.session.run(None, {"pictures": np.stack([np.asarray(picture(s)) for s in range(20)])})
    for detector, scores, p_values in zip(detectors, outputs[::3], outputs[2::3], strict=True):
        assert np.unique(p_values).size > 1
        np.testing.assert_allclose(p_values, [detector.calibration.p_value(s.item()) for s in scores], rtol=1e-6)


def test_p_values_of_the_graph_count_what_was_taken_back(detectors):
    detector = copy.deepcopy(detectors[0])
    detector.calibration.take_back(AnomalyPrediction(1e6, np.full((1, 1), 1e6, np.float32)))
    scores = torch.tensor([-1e9, *detector.calibration.image_scores.tolist(), 1e9])
    expected = [detector.calibration.p_value(score) for score in scores.tolist()]
    assert ExportGraph([detector]).heads[0].p_values(scores).tolist() == pytest.approx(expected) and expected[0] == 1


def test_p_values_count_equal_scores(detectors):
    head = ExportGraph(detectors).heads[0]
    scores = torch.cat([detectors[0].calibration.image_scores, torch.tensor([-1e9, 1e9])])
    assert head.p_values(scores).tolist() == pytest.approx(
        [detectors[0].calibration.p_value(s) for s in scores.tolist()]
    )


def test_tracing_leaves_the_detectors_as_they_were(exported, detectors, make):
    for detector, fresh in zip(detectors, make(), strict=True):
        np.testing.assert_array_equal(detector.predict(picture(0)).anomaly_map, fresh.predict(picture(0)).anomaly_map)


def test_the_report_lies_beside_the_file(exported):
    report = json.loads(export.report_path(exported).read_text())
    assert sorted(p.name for p in exported.parent.iterdir()) == ["all.onnx", "all.parity.json"]
    assert (report["pictures"], report["opset"], report["bytes"]) == (2, export.OPSET, exported.stat().st_size)
    assert set(report["versions"]) == {"torch", "onnx", "onnxruntime"}
    assert report["outputs"]["glass_anomaly_map"] == ["batch", "height", "width"]
    for worst in report["methods"].values():
        assert 0 < worst["map_difference"] <= export.TOLERANCE and worst["verdicts_flipped"] == 0


# ---------------------------------------------------------------------- the gate


def test_what_agrees_replaces_an_older_file(detectors, already_exported, exported, old_file):
    export.export(detectors, old_file, [picture(0)])
    assert old_file.read_bytes() == exported.read_bytes() and export.report_path(old_file).is_file()


@pytest.mark.parametrize(
    ("factor", "error", "words"),
    [
        (1.1, ExportError, r"glass: ONNX Runtime disagrees .* 1 pictures.*scores differ by"),
        (float("nan"), ModelError, "scores that are not finite"),
    ],
)
def test_other_weights_are_refused_and_the_older_file_stays(
    make_detector, already_exported, old_file, factor, error, words
):
    changed = [make_detector(method, **CROP) for method in (SimpleNet, GLASS)]
    with torch.no_grad():
        changed[1].head.discriminator[3].weight *= factor
    with pytest.raises(error, match=words):
        export.export(changed, old_file, [picture(0)])
    assert is_untouched(old_file)


def test_a_verdict_that_flips_is_refused_however_near_the_scores(detectors, already_exported, old_file, monkeypatch):
    monkeypatch.setattr(export, "TOLERANCE", 1e9)
    other = copy.deepcopy(detectors)
    was_anomalous = detectors[0].predict(picture(0)).is_anomalous
    other[0].calibration.image_scores += 1e6 if was_anomalous else -1e6
    with pytest.raises(ExportError, match=r"simplenet: .* 1 verdicts change"):
        export.export(other, old_file, [picture(0)])
    assert is_untouched(old_file)


def test_a_full_disk_leaves_nothing_half_written(detectors, old_file, monkeypatch):
    def fill(detectors, path, resizes):
        path.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(export, "_write_graph", fill)
    with pytest.raises(ExportError, match=r"model\.onnx cannot be written: No space left on device"):
        export.export(detectors, old_file, [picture(0)])
    assert is_untouched(old_file)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ([{"calibrated": False}], "simplenet detector is not calibrated"),
        ([{}, {}], r"one detector of each method .*\['simplenet', 'simplenet'\]"),
        ([], "at least one"),
        ([{}, {"method": GLASS, "image_size": 96}], "different front ends"),
        ([{}, {"method": GLASS, "category": "gadget"}], "different categories"),
    ],
)
def test_detectors_that_do_not_fit_are_refused(make_detector, old_file, settings, says):
    given = [make_detector(**({"method": SimpleNet} | setting)) for setting in settings]
    with pytest.raises(ExportError, match=says):
        export.export(given, old_file, [picture(0)])
    assert is_untouched(old_file)


def test_training_mode_no_pictures_and_a_folder_are_refused(make_detector, detectors, old_file):
    with pytest.raises(ExportError, match="training mode"):
        export.export([make_detector(GLASS).train()], old_file, [picture(0)])
    with pytest.raises(ExportError, match="no pictures"):
        export.export(detectors, old_file, [])
    with pytest.raises(ExportError, match="is a folder"):
        export.export(detectors, old_file.parent, [picture(0)])
    assert is_untouched(old_file)


# ---------------------------------------------------------------------- running a file


def test_files_of_other_origin_are_refused(tmp_path):
    with pytest.raises(ExportError, match=r"gone\.onnx is not a file"):
        ExportedModel(tmp_path / "gone.onnx")
    (tmp_path / "text.onnx").write_text("not a model")
    with pytest.raises(ExportError, match=r"text\.onnx is damaged or not an ONNX file"):
        ExportedModel(tmp_path / "text.onnx")
    onnx.save(_foreign_model(), tmp_path / "foreign.onnx")
    with pytest.raises(ExportError, match=r"foreign\.onnx was not exported by this library"):
        ExportedModel(tmp_path / "foreign.onnx")


def _with_metadata(exported, path, change):
    """The exported file, its metadata changed by `change`."""
    model = onnx.load(exported)
    (entry,) = (entry for entry in model.metadata_props if entry.key == "hubmodels")
    known = json.loads(entry.value)
    change(known)
    entry.value = json.dumps(known)
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(
    "change",
    [
        lambda known: known.pop("methods"),
        lambda known: known.pop("dataset"),
        lambda known: known.update(methods=[]),
        lambda known: known.update(methods={}),
        lambda known: known["methods"].pop("glass"),
        lambda known: known["methods"].update(glass=None),
        lambda known: known["methods"]["glass"].pop("map_maxima"),
        lambda known: known["methods"]["glass"].update(map_maxima=[]),
        lambda known: known["methods"]["glass"].update(image_scores="abc"),
        lambda known: known["methods"]["glass"].update(image_scores=[5, 1, 2, 3, 4]),
        lambda known: known["methods"]["glass"].update(false_alarm_rate=float("nan")),
        lambda known: known["methods"]["glass"].update(normal_level=None),
        lambda known: known.pop("model_input"),
        lambda known: known.update(model_input={"image_size": [64, 64], "resize": [64, 64]}),
        lambda known: known.update(model_input={"image_size": [0, 64]}),
    ],
)
def test_metadata_that_do_not_fit_are_refused(exported, tmp_path, change):
    with pytest.raises(ExportError, match=r"odd\.onnx is damaged: its metadata do not fit"):
        ExportedModel(_with_metadata(exported, tmp_path / "odd.onnx", change))


def test_a_score_that_is_not_finite_is_no_verdict(model, monkeypatch):
    outputs = [np.full((1, 8, 8), np.nan, np.float32)] * 3 * len(METHODS)
    monkeypatch.setattr(model, "session", SimpleNamespace(run=lambda *_: outputs))
    with pytest.raises(ExportError, match="not finite"):
        model.compare(picture(0))


def test_a_newer_format_is_refused(exported, monkeypatch):
    monkeypatch.setattr(onnx_runtime, "EXPORT_VERSION", 0)
    with pytest.raises(ExportError, match="has format 2, this library reads 0"):
        ExportedModel(exported)


def test_predict_needs_a_file_of_one_method(model):
    with pytest.raises(ExportError, match=f"{' and '.join(METHODS)}: use `compare`"):
        model.predict(picture(0))


@pytest.mark.parametrize("missing", export.EXTRA)
def test_a_missing_extra_is_named(detectors, exported, old_file, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ExportError, match=rf"{missing} is not installed: .*anomaly-hubmodels\[export\]"):
        export.export(detectors, old_file, [picture(0)])
    assert is_untouched(old_file)
    if missing == "onnxruntime":
        with pytest.raises(ExportError, match=r"anomaly-hubmodels\[export\]"):
            ExportedModel(exported)


def _foreign_model():
    port = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    result = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "foreign", [port], [result])
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)


# ---------------------------------------------------------------------- the command line, which test_wheel.py runs


def command(*arguments):
    return CliRunner().invoke(cli.app, ["export", *map(str, arguments)])


def test_the_command_names_what_is_wrong(tmp_path, already_exported):
    for model, pictures, says in (
        ("nowhere", EXAMPLES, "nowhere: there is no such local folder, and it is not the id"),
        (BUNDLED, tmp_path / "none", "'none' does not exist"),
        (BUNDLED, ROOT / "hubmodels", "there are no pictures"),
    ):
        result = command(model, "--pictures", pictures, "--output", tmp_path / "a.onnx")
        assert result.exit_code == 2 and says in result.stderr
    assert not (tmp_path / "a.onnx").exists()


def test_folders_are_searched_and_files_taken_as_they_are(tmp_path):
    inside = save(picture(0), tmp_path / "test" / "good" / "b.PNG")
    (tmp_path / "test" / "notes.txt").write_text("no picture")
    alone = save(picture(1), tmp_path / "a.png")
    assert find_pictures([alone, tmp_path / "test"]) == [alone, inside]


def test_ctrl_c_ends_the_command_with_one_line(monkeypatch, tmp_path):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(loading, "load", interrupted)
    result = command("x", "--pictures", tmp_path, "--output", tmp_path / "a.onnx")
    assert result.exit_code == 130 and result.stderr == "stopped: nothing was written\n"


@pytest.mark.parametrize(("given", "kept"), [(None, "1"), ("0", "0")])
def test_onnxruntime_does_not_report_to_its_makers(monkeypatch, given, kept):
    """Unless the user wants it; onnxruntime reads the variable when it is imported."""
    seen = []
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    if given:
        monkeypatch.setenv("ORT_DISABLE_TELEMETRY", given)
    monkeypatch.setattr(onnx_runtime, "import_module", lambda _: seen.append(os.environ["ORT_DISABLE_TELEMETRY"]))
    onnx_runtime.import_extra("onnxruntime")
    assert seen == [kept]
