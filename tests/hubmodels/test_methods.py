"""Any number of methods, with heads of any kind: a third (closed form) and a fourth (bank of vectors)."""

import ast
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from dummy_methods import Bank, Gaussian, register
from PIL import Image
from safetensors.torch import load_file, save_file
from small_pictures import picture
from torch import nn

import hubmodels
from hubmodels import GLASS, AnomalyDetector, Catalog, ModelError, SimpleNet, compare, load
from hubmodels.methods import METHODS
from hubmodels.scoring import Calibration

ROOT = Path(__file__).parents[2]
LABEL = "toy / widget"


@pytest.fixture
def four(monkeypatch):
    """The registry with four methods."""
    register(monkeypatch, Gaussian, Bank)


@pytest.fixture
def folder(model_folder, make_fitted):
    for kind in (Gaussian, Bank):
        make_fitted(kind).save_pretrained(model_folder / f"{kind.method}-toy-widget")
    return model_folder


def test_every_method_is_whole_in_the_registry():
    for name, method in METHODS.items():
        assert method.detector.method == name and issubclass(method.detector, AnomalyDetector)
        assert method.title and (method.about or (method.paper.arxiv and 0 < method.paper.pixel_auroc <= 1))
        assert name.isidentifier(), "a dash would end it in the name of a repository"
    titles = {method.title.lower() for method in METHODS.values()}
    assert len(titles) == len(METHODS), "columns and downloads are named by title"
    looks = [(method.colour, method.dash, method.marker) for method in METHODS.values()]
    for column in zip(*looks, strict=True):
        assert len(set(column)) == len(column), "two methods look alike"


def test_no_list_of_methods_but_the_registry():
    """Outside their own modules, objectives and tests, no source names a method as a string."""
    rooms = [ROOT / "app.py", *(ROOT / "hubmodels").rglob("*.py"), *(ROOT / "webapp").rglob("*.py")]
    for file in rooms:
        texts = {n.value for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.Constant)}
        named = {name for name in METHODS if name in texts} - {file.stem}
        named = set() if file == ROOT / "hubmodels/__init__.py" else named  # where public names are imported from
        assert not named, f"{file.relative_to(ROOT)} names {named}"


def test_a_bundled_category_loads_by_its_label():
    assert isinstance(load("parts / washer"), SimpleNet) and isinstance(load("washer", method="glass"), GLASS)
    with pytest.raises(ModelError, match="parts / washer has no model of patchcore; it has: simplenet, glass, hybrid"):
        load("parts / washer", method="patchcore")
    with pytest.raises(ModelError, match="is a glass model, not hybrid"):
        load(ROOT / "hubmodels/weights/models/glass-parts-washer", method="hybrid")
    with pytest.raises(ModelError, match="no such local folder"):
        load("parts / nothing")


@pytest.mark.parametrize("kind", [Gaussian, Bank])
def test_another_head_is_saved_and_loaded_the_same(kind, four, make_fitted, tmp_path):
    detector = make_fitted(kind)
    detector.save_pretrained(tmp_path)
    again = load(tmp_path)
    assert type(again) is kind and again.config == detector.config
    assert "from hubmodels import load" in (tmp_path / "README.md").read_text()  # for a method of any name
    before, after = detector.predict(picture(9)), again.predict(picture(9))
    assert before.image_score == after.image_score > 0 and np.array_equal(before.anomaly_map, after.anomaly_map)


def test_a_subclass_has_config_keys_of_its_own(four, make_fitted, tmp_path):
    make_fitted(Bank, bank_size=5).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["bank_size"] == 5
    assert len(load(tmp_path).head.bank) == 5
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"hidden_dim": 8}))
    with pytest.raises(ModelError, match="settings unknown to this library: hidden_dim"):
        load(tmp_path)


@pytest.mark.parametrize("shape", [(5, 7), (5,), (5, 32, 1)])
def test_a_buffer_of_any_length_still_has_to_fit(shape, four, make_fitted, tmp_path):
    make_fitted(Bank).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file(tensors | {"head.bank": torch.zeros(shape)}, tmp_path / "model.safetensors")
    config = json.loads((tmp_path / "config.json").read_text()) | {"weights_sha256": None}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"(?s)does not fit its config.json.*head.bank"):
        load(tmp_path)


def test_a_catalog_of_four_methods(four, folder):
    catalog = Catalog.from_folder(folder)
    detectors = catalog.load(LABEL)
    assert list(detectors) == ["simplenet", "glass", "gaussian", "bank"]
    predictions = compare(detectors, picture(3))
    assert list(predictions) == list(detectors)
    for name, detector in detectors.items():
        assert predictions[name].image_score == pytest.approx(detector.predict(picture(3)).image_score, rel=1e-5)
    assert all(method in str(catalog) for method in detectors)


def test_a_method_that_is_not_registered_is_a_problem_and_hides_nothing(folder):
    catalog = Catalog.from_folder(folder)
    assert list(catalog.load(LABEL)) == ["simplenet", "glass"]
    assert len(catalog.problems) == 2 and all("not one of this library" in why for why in catalog.problems.values())


def test_the_wrong_class_and_the_base_class_refuse(make_detector, tmp_path):
    make_detector(GLASS).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"is a glass model: load it by hubmodels.load"):
        SimpleNet.from_pretrained(tmp_path)
    with pytest.raises(TypeError, match=r"use hubmodels.load"):
        AnomalyDetector.from_pretrained(tmp_path)


def test_no_part_hides_a_name_of_torch(make_fitted):
    """`Calibration.apply` once hid `nn.Module.apply`, so `detector.apply(f)` failed."""
    allowed = {"forward", "train", "extra_repr"}
    torch_names = {name for name in vars(nn.Module) if not name.startswith("_")} - allowed
    detector = make_fitted(Bank)
    for part in (detector, *detector.modules()):
        kinds = [k for k in type(part).__mro__ if k.__module__.startswith("hubmodels")]
        hidden = {name for kind in kinds for name in vars(kind) if name in torch_names}
        assert not hidden, f"{type(part).__name__} hides {hidden}"
    seen = []
    detector.apply(lambda module: seen.append(type(module)))
    assert Calibration in seen


def test_public_names_are_imported_when_used():
    for name in hubmodels.__all__:
        assert getattr(hubmodels, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        hubmodels.Nothing  # noqa: B018


def test_an_uncalibrated_method_of_another_kind_gives_scores_only(make_detector):
    prediction = make_detector(Gaussian, calibrated=False).predict(Image.new("RGB", (40, 30)))
    assert prediction.is_anomalous is None and prediction.anomaly_map.shape == (30, 40)
