"""A third and a fourth method without a discriminator: trained, published, and shown on card and Space."""

import json
import re

import pytest
import torch
from dummy_methods import Bank, Gaussian, register
from huggingface_hub import HfApi, ModelCard
from safetensors.torch import load_file
from small_pictures import add_plates, picture
from test_house import ROOT

import training.train as train
from hubmodels import compare, load
from hubmodels.detector import AnomalyDetector
from hubmodels.front_end import align, flatten
from hubmodels.heads import Head
from hubmodels.hub.catalog import Catalog
from hubmodels.methods import METHODS
from training.config import TrainConfig
from training.objectives import OBJECTIVES, DirectFit
from training.publishing.__main__ import main as publishing
from training.publishing.space import assemble_space

WITHOUT_NAMES = ("train", "fitting", "jobs", "config", "state", "batches", "evaluation")


class FitAtOnce(DirectFit):
    """Gives all training features to the head's own `fit`."""

    def fit(self, cache):
        features = torch.cat([flatten(batch) for batch in cache.batches(4, self.detector.device)])
        self.detector.head.fit(features)
        self.decisions["patches"] = len(features)


@pytest.fixture
def all_methods(monkeypatch):
    register(monkeypatch, Gaussian, Bank)
    for method in ("gaussian", "bank"):
        monkeypatch.setitem(OBJECTIVES, method, FitAtOnce)
    return list(METHODS)


@pytest.fixture
def arguments(backbone_weights, tmp_path):
    """Command line of a run on small plates, two of them with a bright square."""
    add_plates(tmp_path, ["test/good/0", "test/square/0", "test/square/1"])
    return [
        *("--data-root", str(tmp_path / "toy"), "--backbone", "resnet18.tv_in1k", "--image-size", "64"),
        *("--backbone-weights", str(backbone_weights), "--epochs", "1", "--output", str(tmp_path / "runs")),
        *("--folds", "0"),
    ]


def test_closed_form_and_bank_train_and_load(all_methods, arguments, tmp_path):
    assert train.main([*arguments, "--methods", "gaussian", "bank"]) == 0
    for method in ("gaussian", "bank"):
        folder = tmp_path / f"runs/{method}-toy-plate"
        report = json.loads((folder / "metrics.json").read_text())
        assert report["epochs"] == 0 and report["training"]["patches"] == 5 * 8 * 8
        assert {"image_auroc", "recall_at_threshold"} <= report["metrics"].keys()
        assert not {"epochs", "batch_size", "noise_std", "hypothesis"} & report["settings"].keys()
        detector = load(folder)
        assert detector.method == method and detector.calibration.size == 1
        assert (folder / "training_log.jsonl").read_text().count("\n") == 1
    weights = load_file(tmp_path / "runs/bank-toy-plate/model.safetensors")
    assert weights["head.bank"].shape[0] == 16  # as many rows as the data gave
    assert not list((tmp_path / "runs/.unfinished").iterdir())


def test_a_closed_form_is_kept_although_settings_of_others_change(all_methods, arguments, tmp_path):
    arguments = [*arguments, "--methods", "gaussian"]
    assert train.main(arguments) == 0
    weights = tmp_path / "runs/gaussian-toy-plate/model.safetensors"
    before = weights.stat().st_mtime_ns
    assert train.main([*arguments, "--epochs", "7", "--batch-size", "2", "--noise-std", "1"]) == 0
    assert weights.stat().st_mtime_ns == before
    assert train.main([*arguments, "--seed", "1"]) == 1  # another split of the pictures


def test_a_fit_that_is_not_finite_fails_with_its_name(all_methods, arguments, monkeypatch, capsys):
    def spoil(self, cache):
        self.detector.head.mean.fill_(float("nan"))

    monkeypatch.setattr(FitAtOnce, "fit", spoil)
    assert train.main([*arguments, "--methods", "gaussian"]) == 1
    assert "FAILED gaussian-toy-plate: gaussian-toy-plate: a fitted value is not finite" in capsys.readouterr().err


def test_a_model_of_a_gone_method_is_not_published(hub, all_methods, arguments, tmp_path, monkeypatch, capsys):
    assert train.main([*arguments, "--methods", "gaussian"]) == 0
    monkeypatch.delitem(METHODS, "gaussian")
    assert publishing(["models", str(tmp_path / "runs"), "acme"]) == 1
    assert "has the method 'gaussian', not one of this library" in capsys.readouterr().out


class SquareHead(Head):
    """The size of a patch feature: nothing to learn."""

    def scores(self, aggregated):
        return align(aggregated).square().mean(1)


class Square(AnomalyDetector):
    method = "square"
    head_class = SquareHead


def test_a_head_without_any_weights_is_trained(arguments, tmp_path, monkeypatch):
    register(monkeypatch, Square)
    monkeypatch.setitem(OBJECTIVES, "square", type("Nothing", (DirectFit,), {"fit": lambda self, cache: None}))
    assert train.main([*arguments, "--methods", "square"]) == 0
    assert load(tmp_path / "runs/square-toy-plate").calibration.size == 1


def test_all_methods_are_trained_published_and_compared(hub, all_methods, arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("training.objectives.hybrid.STEPS", 20)
    assert train.main([*arguments, "--methods", *all_methods]) == 0
    assert publishing(["models", str(tmp_path / "runs"), "acme"]) == 0
    detectors = Catalog.from_namespace("acme").load("toy / plate")
    assert list(detectors) == all_methods
    assert list(compare(detectors, picture(0))) == all_methods
    (listed,) = HfApi().list_collections(owner="acme")
    collection = HfApi().get_collection(listed.slug)  # lists show four items
    assert collection.title == "Anomaly detection: toy" and len(collection.items) == len(all_methods)

    # each card shows how to load all of them, and its lines run
    monkeypatch.chdir(tmp_path)
    picture(0).save("photo.png")
    for method in all_methods:
        card = ModelCard.load(f"acme/{method}-toy-plate")
        assert {method, "anomaly-detection"} <= set(card.data.tags)
        others = [METHODS[m].title for m in all_methods if m != method and not METHODS[m].baseline]
        assert f"Compare with {' and '.join(others)}," in card.text
        capsys.readouterr()
        names = {}
        for snippet in card.text.split("```python")[1:]:
            exec(snippet.split("```")[0], names)
        printed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
        assert sorted(printed[-len(all_methods) :]) == sorted(all_methods)
    assert "| epochs | none: fitted at once |" in card.text and "| patches | 320 |" in card.text
    assert "arXiv" not in card.text and "## Cite" not in card.text  # the dummies have no paper


def test_the_card_of_the_only_method_compares_with_nothing(arguments, tmp_path, monkeypatch):
    for method in reversed(list(METHODS)[1:]):  # they come back the other way round, into a dict that keeps order
        monkeypatch.delitem(METHODS, method)
        monkeypatch.delitem(OBJECTIVES, method)
    assert train.main(arguments) == 0
    (card,) = (path.read_text() for path in tmp_path.glob("runs/*/README.md"))
    assert "Compare with" not in card and card.count("```python") == 1


def test_the_space_names_every_method(all_methods, tmp_path):
    card = ModelCard.load(assemble_space(tmp_path / "space") / "README.md")
    assert all(f"\n- {METHODS[method].title}" in card.text for method in all_methods)
    assert all(METHODS[method].title in card.data.title for method in all_methods)


def test_by_default_a_cpu_only_fits_what_has_no_epochs(all_methods):
    methods = [method for method in all_methods if not METHODS[method].baseline]
    assert train.default_methods(on_gpu=True) == methods
    quick = [method for method in methods if not OBJECTIVES[method].epochs]
    assert quick and quick != methods and train.default_methods(on_gpu=False) == quick


def test_a_method_without_an_objective_is_refused(monkeypatch, capsys):
    register(monkeypatch, Gaussian)
    with pytest.raises(SystemExit):
        TrainConfig.from_command_line(["--data-root", "x", "--methods", "gaussian"])
    assert "gaussian cannot be trained here: choose one of" in capsys.readouterr().err


def test_the_machinery_of_training_names_no_method():
    """A new method is a row, a class and an objective; nothing else has to know its name."""
    for module in WITHOUT_NAMES:
        text = (ROOT / "training" / f"{module}.py").read_text().lower()
        assert not [method for method in METHODS if re.search(rf"\b{method}", text)], module


def test_every_method_can_be_trained_and_its_options_have_help(capsys):
    assert set(OBJECTIVES) == set(METHODS)
    with pytest.raises(SystemExit):
        TrainConfig.from_command_line(["--help"])
    shown = capsys.readouterr().out
    assert all(f"{METHODS[m].title} only:" in shown for m in METHODS if OBJECTIVES[m].Settings().__dict__)
