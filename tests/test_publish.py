"""The card: what it says can be typed in, and it says nothing private."""

import json

import pytest
from small_pictures import picture

from hubmodels.compactnet import COMPACT_BACKBONE
from training.publish import bundle, write_card

COMMAND = (
    "python training/train.py --data-root /home/ann/secret/mvtec_ad --output=/srv/ann/runs "
    "--textures '../my own/dtd/' --hub-columns image=photo --dataset-name owner/parts --noise-std .015"
)


@pytest.fixture
def folder(model_folder):
    """A model folder with the report of its training."""
    report = {
        **{"method": "simplenet", "dataset": "toy", "category": "widget", "protocol": "last", "seed": 0, "epochs": 3},
        **{"metrics": {"image_auroc": 0.75}, "calibration": {"in_words": "flags some"}, "command": COMMAND},
        **{"training": {"fit": 9, "train_seconds": 1.0, "noise_std": 0.1}, "machine": "CPU"},
        **{"backbone": {"name": "resnet18.tv_in1k", "sha256": "0" * 64}, "versions": {"torch": "2"}},
    }
    path = model_folder / "simplenet-toy-widget"
    (path / "metrics.json").write_text(json.dumps(report))
    return path


def card(folder):
    write_card(folder, folder.name)
    return (folder / "README.md").read_text()


def test_the_snippet_runs_beside_the_folder_and_names_the_hub_as_a_placeholder(folder, monkeypatch, capsys):
    """It used to load a repository without a namespace, which the Hub refuses."""
    snippet = card(folder).split("```python")[1].split("```")[0]
    assert '"NAMESPACE/simplenet-toy-widget"' in snippet
    monkeypatch.chdir(folder.parent)
    picture(0).save("photo.png")
    exec(snippet, {})
    assert capsys.readouterr().out.split()[0] in ("True", "False")


def test_the_command_shows_no_folder_of_the_machine_it_ran_on(folder):
    shown = card(folder)
    assert not any(folder in shown for folder in ("/home", "/srv", "secret", "my own"))
    assert "python training/train.py --data-root mvtec_ad --output=runs --textures dtd" in shown
    assert "--hub-columns image=photo --dataset-name owner/parts --noise-std .015`" in shown


def test_the_share_outside_the_crop_is_shown_where_there_is_a_crop(folder):
    assert "centre crop" not in card(folder)
    report = json.loads((folder / "metrics.json").read_text())
    report["metrics"]["cropped_defect_pixels"] = 0.125
    (folder / "metrics.json").write_text(json.dumps(report))
    assert "outside the inspected centre crop | 12.5 % |" in card(folder)


def test_a_bundle_holds_what_loading_needs_and_the_card(folder, tmp_path):
    (folder / "scores.parquet").write_bytes(b"not for the bundle")
    places = bundle(folder.parent, tmp_path / "bundle")
    assert [place.name for place in places] == ["simplenet-toy-widget"]  # the other one has no report
    names = {path.name for path in places[0].iterdir()}
    assert names == {"config.json", "model.safetensors", "metrics.json", "README.md"}


def test_an_empty_run_is_no_bundle(tmp_path):
    with pytest.raises(ValueError, match="holds no finished model"):
        bundle(tmp_path)


def test_the_card_of_rendered_parts_says_that_they_are_synthetic(folder):
    assert "synthetic" not in card(folder)
    report = json.loads((folder / "metrics.json").read_text())
    report |= {"dataset": "parts", "backbone": {"name": COMPACT_BACKBONE, "sha256": "0" * 64}}
    (folder / "metrics.json").write_text(json.dumps(report))
    assert "The data is synthetic" in card(folder)
    assert "base_model" not in card(folder) and "comes with the `hubmodels` package" in card(folder)
