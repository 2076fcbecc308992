"""The card: what it says can be typed in and is what was measured, and it says nothing private."""

import json
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from PIL import Image
from small_pictures import picture, save
from small_report import COMPACT, METRICS, REPORT, describe, report

from hubmodels.hub.catalog import BUNDLED_MODELS
from hubmodels.metric_names import HEADLINE
from hubmodels.metric_names import METRICS as NAMES
from training.publishing.card import (
    card_of,
    find_panels,
    last_part,
    public_report,
    render_card,
    write_bundled_cards,
    write_card,
)
from training.publishing.licences import IMAGENET

ROOT = Path(__file__).parents[3]
CARDS = ROOT / "model_cards"
MODELS = sorted(path.name for path in BUNDLED_MODELS.iterdir())
CONFIG = {"resize": 64, "image_size": 64, "layers": [2, 3], "embed_dim": 32, "weights_sha256": "a" * 64}
PANELS = [f"panels/{name}.png" for name in ("defective_median", "good_highest", "defective_lowest")]


@pytest.fixture
def folder(model_folder):
    """A model folder with the report of its training; next to that of the other method."""
    return describe(model_folder / "simplenet-toy-widget")


def card(config=CONFIG, repo_id=None, panels=(), bundled=False, **changes):
    return render_card(report(**changes), config, repo_id=repo_id, panels=panels, bundled=bundled)


def metadata(**options):
    return ModelCard(card(**options)).data


def run_snippets(text):
    """Runs the Python of a card as a reader would, one block after the other."""
    names = {}
    for snippet in text.split("```python")[1:]:
        exec(snippet.split("```")[0], names)


# ------------------------------------------------------------------------------------------------ what the Hub reads


def test_the_metadata_carries_every_metric_as_a_fraction_with_its_protocol():
    measured = METRICS | {"cropped_defect_pixels": 0.125}
    data = metadata(metrics=measured)
    assert {each.metric_name: each.metric_value for each in data.eval_results} == {
        NAMES[key].name: value for key, value in measured.items()
    }
    assert all(each.metric_args == {"protocol": "last", "seed": 7} for each in data.eval_results)
    assert {(each.dataset_type, each.dataset_config, each.dataset_split) for each in data.eval_results} == {
        ("toy", "widget", "test")
    }
    assert set(data.metrics) == {each.metric_type for each in data.eval_results}


def test_every_metric_that_is_measured_has_a_name():
    reports = [json.loads((BUNDLED_MODELS / name / "metrics.json").read_text()) for name in MODELS]
    assert set(HEADLINE).union(*(report["metrics"] for report in reports)) <= NAMES.keys()


def test_a_model_without_metrics_has_no_model_index():
    assert "model-index" not in card(metrics={})


def test_the_metadata_names_method_paper_and_backbone():
    data = metadata(dataset="mvtec", method="glass")
    assert {"anomaly-detection", "industrial-inspection", "glass", "mvtec-ad", "arxiv:2407.09359"} <= set(data.tags)
    assert (data.library_name, data.pipeline_tag) == ("hubmodels", "image-segmentation")
    assert (data.base_model, data.base_model_relation) == ("timm/resnet18.tv_in1k", "adapter")
    assert data.datasets == ["mvtec-ad"]


def test_the_compact_backbone_is_no_base_model_since_the_hub_has_none_such():
    text = card(backbone=COMPACT)
    assert "base_model" not in text and "comes with the `hubmodels` library" in text


@pytest.mark.parametrize(
    ("dataset", "backbone", "licence", "name"),
    [
        ("mvtec", REPORT["backbone"], "cc-by-nc-sa-4.0", None),
        ("mvtec", COMPACT, "cc-by-nc-sa-4.0", None),
        ("parts", COMPACT, "apache-2.0", None),
        ("own", COMPACT, "other", "terms-of-the-training-pictures"),
        ("own", REPORT["backbone"], "other", "terms-of-the-training-pictures"),
    ],
)
def test_licence(dataset, backbone, licence, name, folder):
    data = metadata(dataset=dataset, backbone=backbone)
    assert (data.license, data.license_name, data.license_link) == (licence, name, "LICENSE.md" if name else None)
    write_card(describe(folder, dataset=dataset, backbone=backbone))
    assert (folder / "LICENSE.md").is_file() == (name is not None)  # what the Hub's link needs


def test_textures_that_others_made_keep_their_terms():
    training = REPORT["training"] | {"textures": "dtd-like folder dtd (3 pictures)"}
    text = card(dataset="parts", backbone=COMPACT, training=training)
    assert "pasted textures of dtd-like folder dtd (3 pictures) into them. Their licence applies" in text
    assert ModelCard(text).data.license == "other"
    own = card(dataset="parts", backbone=COMPACT, training=REPORT["training"] | {"textures": "procedural"})
    assert "pasted textures" not in own and ModelCard(own).data.license == "apache-2.0"


def test_the_note_on_imagenet_is_on_cards_of_the_compact_backbone_alone():
    assert f"- Weights: Apache-2.0, as the training pictures. {IMAGENET}.\n" in card(dataset="parts", backbone=COMPACT)
    assert IMAGENET not in card(dataset="parts")


# --------------------------------------------------------------------------------------------------- what can be run


def test_the_snippets_run_beside_the_folder(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder.parent)
    save(picture(0), Path("photo.png"))
    run_snippets(card_of(Path(folder.name)))
    assert capsys.readouterr().out.split()[0] in ("True", "False")


def test_the_snippets_name_the_repository_once_there_is_one(folder, monkeypatch, capsys):
    """A folder called as the repository stands for the Hub: loading asks for folders first."""
    text = card_of(folder, repo_id="acme/simplenet-toy-widget")
    assert 'load("acme/simplenet-toy-widget")' in text
    (folder.parent.parent / "acme").symlink_to(folder.parent)
    monkeypatch.chdir(folder.parent.parent)
    save(picture(0), Path("photo.png"))
    assert 'catalog = Catalog.from_namespace("acme")\n' in text  # this asks the Hub, in `test_publish`
    run_snippets(text.split("Compare with")[0])
    assert capsys.readouterr().out.splitlines()[1].startswith("(40, 48)")


@pytest.mark.parametrize("name", MODELS)
def test_the_snippets_of_the_shipped_cards_run_in_a_clone(name, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    run_snippets((CARDS / name / "README.md").read_text())
    assert capsys.readouterr().out.splitlines()[1].startswith("(256, 256)")


# --------------------------------------------------------------------------------------------------- what it tells


def test_what_was_measured_is_told():
    latency = {"median_ms": 12.34, "p95_ms": 15.0, "device": "H100", "threads": 2}
    latency |= {"height": 72, "width": 96, "repeats": 20}
    text = card(latency={"cuda": latency})
    assert "| image AUROC | 75.0 % |" in text and "| AUPRO@0.3 | 68.8 % |" in text
    assert "| GPU | 12.3 ms | 15.0 ms | H100; CPU threads: 2; picture: 72 x 96; 20 times |" in text
    assert (
        "It flags 20 % of good parts on average, hardly ever more than 53 % (95 % confidence); calibrated on 4" in text
    )
    assert "for any distribution" in text and "cross-fitting" not in text
    assert "| false alarms on average, promised by 4 pictures | 20.0 % |" in text
    assert "| hardly ever more than (95 % confidence) | 52.7 % |" in text
    assert (
        "| false alarms on the test pictures | 25.0 % |" in text
        and "| defects found on the test pictures | 50.0 % |" in text
    )
    assert "misses 3 of 6 defective test pictures and flags 1 of 4 good ones" in text
    assert "13 good ones for training" in text and "4 good, 2 bent, 4 torn" in text
    assert "72 x 96 (height x width; 12 of 13)" in text
    assert all(f"`{letter * 64}`" in text for letter in "abd")


def test_what_was_not_measured_says_so():
    data = REPORT["data"] | {"counts": {"train": {"good": 13}, "test": {}}}
    text = card(metrics={}, data=data)
    rows = [line for line in text.splitlines() if line.startswith("| ") and "not measured" in line]
    assert len(rows) == len(METRICS) + 4  # and both rates, both devices
    assert "| false alarms on the test pictures | not measured |" in text
    assert "there were no test pictures" in text and " %," not in text.split("## Threshold")[0]


def test_the_papers_numbers_stand_beside_mvtec_alone_and_labelled():
    text = card(dataset="mvtec", method="glass")
    assert "| paper: mean of 15 categories, best epoch on the test pictures |" in text
    assert "| image AUROC | 75.0 % | 99.9 % |" in text and "| image AP | 81.2 % | - |" in text
    assert "paper: mean" not in card()


def test_the_share_outside_the_crop_is_shown_where_there_is_a_crop():
    assert "centre crop" not in card()
    text = card(config=CONFIG | {"resize": 73}, metrics=METRICS | {"cropped_defect_pixels": 0.125})
    assert "outside the inspected centre crop | 12.5 % |" in text and "centre 64 x 64 is inspected" in text


def test_an_oblong_input_is_named_with_what_can_be_seen_in_it():
    words = "the smallest defect that can be seen has about 20 pixels of your pictures"
    seen = {"input": {"scale": [0.4, 0.5], "smallest_defect": 20, "in_words": words}}
    text = card(config=CONFIG | {"image_size": [640, 256], "resize": [731, 292]}, **seen)
    assert "| input | 640 x 256 (height x width) |" in text and "It sees 640 x 256 pixels." in text
    assert "resized to 731 x 292, of which the centre 640 x 256 is inspected" in text
    assert "for one of the picture | 0.4 (height), 0.5 (width) |" in text
    assert f"As a rule of thumb, {words}: one patch of the model." in text
    assert "rule of thumb" not in card() and "| input | 64 x 64 |" in card()


def test_the_card_of_rendered_parts_says_that_they_are_synthetic():
    assert "synthetic" not in card()
    assert "The data is synthetic" in card(dataset="parts")


def test_papers_are_cited_with_those_of_the_data():
    assert card().split("## Cite")[1].count("@") == 1
    text = card(dataset="mvtec")
    assert "@inproceedings{liu2023simplenet," in text and "@article{bergmann2021mvtec," in text


# ----------------------------------------------------------------------------------------------------- what it shows


def test_a_card_shows_a_typical_defect_and_both_failures(folder):
    for name in ("good_lowest", "good_median", "good_highest", "defective_lowest", "defective_median"):
        save(picture(0), folder / f"panels/{name}.png")
    assert find_panels(folder) == PANELS
    write_card(folder)
    text = (folder / "README.md").read_text()
    assert [text.index(f"({panel})") for panel in PANELS] == sorted(text.index(f"({panel})") for panel in PANELS)
    assert "good_lowest" not in text and "good_median" not in text


def test_known_defects_are_in_words_if_there_are_some():
    words = (
        "It finds 3 of 6 defects (of all such defects 19 % to 81 %) at 20 % false alarms; all of them from 40 % on."
    )
    assert words in card()
    older = {key: value for key, value in report().items() if key != "known_defects"}
    assert "of all such defects" not in render_card(older, CONFIG)


def test_a_card_without_panels_says_so(folder):
    """The publisher leaves them out where the terms of the data do not allow them: see test_publish.py."""
    write_card(folder, repo_id="acme/x")
    assert "No picture is shown here" in (folder / "README.md").read_text()
    save(picture(0), folder / "panels/good_highest.png")
    write_card(folder, repo_id="acme/x")
    text = (folder / "README.md").read_text()
    assert "(panels/good_highest.png)" in text and "No picture is shown here" not in text


# ---------------------------------------------------------------------------------------------------- what is private


def test_the_card_shows_no_folder_of_the_machine_it_ran_on():
    shown = card()
    assert not any(private in shown for private in ("/home", "/srv", "secret", "my own", "ann"))
    assert "python training/train.py --data-root mvtec_ad --output=runs --textures dtd" in shown
    assert "--hub-columns image=photo --dataset-name parts --noise-std .015\n" in shown


def test_a_data_set_of_the_hub_keeps_its_name():
    data = REPORT["data"] | {"revision": "e" * 40}
    for command in (
        "python a/train.py --data-root owner/parts --output b/c",
        "python a/train.py --data-root=owner/parts --output b/c",
    ):
        shown = public_report(report(command=command, data=data))["command"]
        assert shown == command.replace("b/c", "c")
    assert public_report(report(command="python a/train.py --data-root clients/acme"))["command"].endswith(" acme")


def test_a_public_report_holds_no_folder_and_no_file_name_and_all_else():
    public = public_report(REPORT)
    assert not any(private in json.dumps(public) for private in ("/home", "/srv", "secret", "my own", "ann"))
    assert (public["data"]["unreadable"], public["data"]["copies"], public["data"]["leaks"]) == (1, 1, 0)
    assert public["settings"] == REPORT["settings"] | {"textures": "dtd"}
    assert public["known_defects"] == REPORT["known_defects"] | {"missed": 3}
    kept = REPORT.keys() - {"data", "settings", "command", "known_defects"}
    assert all(public[key] == REPORT[key] for key in kept) and public.keys() == REPORT.keys()
    assert public_report(public) == public


@pytest.mark.parametrize(
    ("argument", "shown"),
    [
        ("/home/ann/x", "x"),
        ("~/x", "x"),
        ("../a b/x/", "x"),
        ("clients/acme/x", "x"),
        ("--output=/srv/x", "--output=x"),
        ("clients/acme", "acme"),
        (r"C:\Users\ann\x", "x"),
        (".015", ".015"),
        (".", "."),
        ("parts:", "parts:"),
    ],
)
def test_of_a_local_path_only_the_last_part_is_shown(argument, shown):
    assert last_part(argument) == shown


# ------------------------------------------------------------------------------------------------- what is committed


def test_shipping_renders_cards_with_small_pictures_and_leaves_no_old_ones(folder, tmp_path):
    save(picture(0), folder / "panels/good_highest.png")
    save(picture(0), tmp_path / "cards/simplenet-toy-widget/panels/good_lowest.jpg")
    (place,) = write_bundled_cards(folder.parent, tmp_path / "cards")  # the other one has no report
    assert [path.name for path in (place / "panels").iterdir()] == ["good_highest.jpg"]
    assert Image.open(place / "panels/good_highest.jpg").format == "JPEG"
    text = (place / "README.md").read_text()
    assert "(panels/good_highest.jpg)" in text and 'Catalog.bundled().load("toy / widget")' in text


def test_an_empty_run_has_no_cards(tmp_path):
    with pytest.raises(ValueError, match="contains no finished model"):
        write_bundled_cards(tmp_path)


@pytest.mark.parametrize("name", MODELS)
def test_a_committed_card_is_what_its_model_gives_today(name):
    """Stale after a change of the template or of the numbers: `python -m training.publishing cards`."""
    place = CARDS / name
    text = card_of(BUNDLED_MODELS / name, panels=find_panels(place), bundled=True)
    assert (place / "README.md").read_text() == text
    assert sorted(find_panels(place)) == sorted(path.relative_to(place).as_posix() for path in place.glob("panels/*"))
    assert len(find_panels(place)) == 3


def test_there_is_a_card_for_every_shipped_model_and_for_no_other():
    assert sorted(path.name for path in CARDS.iterdir() if path.is_dir()) == MODELS


def test_the_pictures_of_the_cards_are_small():
    assert sum(path.stat().st_size for path in CARDS.rglob("*.jpg")) < 2.2 * 2**20


def test_a_card_names_the_part_as_people_write_it():
    text = card(title="Öl-Deckel")
    assert "# SimpleNet for toy / Öl-Deckel (widget)\n" in text and "pictures of Öl-Deckel (widget) (" in text
    assert "# SimpleNet for toy / widget\n" in card()
