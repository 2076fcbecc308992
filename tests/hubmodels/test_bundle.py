"""What comes with the package: all methods for every sample part, offline, small, and accurate."""

import hashlib
import json
from pathlib import Path

import pytest

from hubmodels import AnomalyDetector
from hubmodels.backbone import BUNDLED_WEIGHTS
from hubmodels.hub.catalog import BUNDLED_MODELS, Catalog
from hubmodels.methods import METHODS
from training.parts.dataset import DEFECTS, render

ROOT = Path(__file__).parents[2]
UNSEEN = 900_000  # seeds from here on are neither trained nor tested on


@pytest.fixture(scope="module")
def catalog():
    return Catalog.bundled()


def test_all_methods_but_baselines_are_there_for_every_sample_part(catalog):
    assert catalog.problems == {}
    methods = [name for name, method in METHODS.items() if not method.baseline]
    assert {(e.method, e.category) for e in catalog.entries} == {(m, c) for m in methods for c in DEFECTS}


def test_the_bundle_is_small():
    assert sum(path.stat().st_size for path in BUNDLED_WEIGHTS.rglob("*") if path.is_file()) < 25 * 2**20


@pytest.mark.parametrize("folder", sorted(BUNDLED_MODELS.iterdir()), ids=lambda folder: folder.name)
def test_a_bundled_model_is_whole_and_has_its_card_in_model_cards(folder):
    """With the measured numbers, the weights' fingerprint, and that the data is synthetic."""
    assert {"config.json", "model.safetensors", "metrics.json"} == {p.name for p in folder.iterdir()}
    report = json.loads((folder / "metrics.json").read_text())
    card = (ROOT / "model_cards" / folder.name / "README.md").read_text()
    assert f"{100 * report['metrics']['image_auroc']:.1f} %" in card
    assert hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest() in card
    assert "synthetic" in card
    assert report["protocol"] == "last"


@pytest.mark.parametrize("category", DEFECTS)
def test_unseen_parts_are_told_apart(catalog, category):
    """Of four good parts and one of each defect, the defective ones mostly score higher (0.5 would be chance)."""
    good = [render(category, UNSEEN + i)[0] for i in range(4)]
    bad = [render(category, UNSEEN + 10 + i, defect)[0] for i, defect in enumerate(DEFECTS[category])]
    for detector in catalog.load(f"parts / {category}").values():
        assert isinstance(detector, AnomalyDetector) and not detector.training
        high, low = ([p.image_score for p in detector.predict_batch(pictures)] for pictures in (bad, good))
        pairs = [b > g for b in high for g in low]
        assert sum(pairs) / len(pairs) >= 0.65, (type(detector).__name__, high, low)
