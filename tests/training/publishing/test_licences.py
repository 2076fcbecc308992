"""Licences follow the training pictures, and the notice and all other texts state the same."""

import re
import tomllib
from pathlib import Path

import pytest

from training.publishing.licences import IMAGENET, LICENCES, dataset_licence, weights_licence
from webapp.texts import TEXTS

ROOT = Path(__file__).parents[3]
NOTICE = (ROOT / "NOTICE.md").read_text()
CITATIONS = (ROOT / "model_cards/citations.bib").read_text()


@pytest.mark.parametrize(
    ("dataset", "foreign_textures", "licence", "words"),
    [
        ("mvtec", False, "cc-by-nc-sa-4.0", "non-commercial use only"),
        ("mvtec", True, "cc-by-nc-sa-4.0", "non-commercial use only"),
        ("elpv", False, "cc-by-nc-sa-4.0", "non-commercial use only"),
        ("kolektor_sdd", False, "cc-by-nc-sa-4.0", "non-commercial use only"),
        ("parts", False, "apache-2.0", "Apache-2.0"),
        ("parts", True, "other", "terms of the training pictures"),
        ("magnetic_tile", False, "other", "terms of the training pictures"),
        ("own", False, "other", "terms of the training pictures"),
    ],
)
def test_weights_are_as_free_as_their_pictures_and_textures(dataset, foreign_textures, licence, words):
    found = weights_licence(dataset, False, foreign_textures)
    assert found.id == licence and words in found.words
    assert (found.name is not None) == (licence == "other")


@pytest.mark.parametrize("dataset", ["mvtec", "parts", "own"])
def test_the_compact_backbone_adds_a_note_and_changes_no_licence(dataset):
    compact, other = (weights_licence(dataset, compact_backbone) for compact_backbone in (True, False))
    assert (compact.id, compact.name, compact.words) == (other.id, other.name, f"{other.words}. {IMAGENET}")


def test_apache_weights_say_nothing_of_non_commercial_use():
    assert "non-commercial" not in weights_licence("parts", compact_backbone=False).words


@pytest.mark.parametrize("text", [(ROOT / "README.md").read_text(), NOTICE, TEXTS["models_compact"]["en"]])
def test_the_note_on_the_compact_backbone_is_the_same_everywhere(text):
    assert f"{IMAGENET}." in " ".join(re.sub(r"(?m)^> ", "", text).split())


def test_the_notice_lists_the_pictures_of_the_compact_backbone():
    sources = tomllib.loads((ROOT / "training/free_pictures.toml").read_text())["source"]
    table = NOTICE.partition("| package | kind | licence |\n|---|---|---|\n")[2].partition("\n\n")[0]
    assert table.splitlines() == [f"| {s['package']} | {s['kind']} | {s['licence']} |" for s in sources]


def test_pictures_of_unknown_data_are_taken_for_confidential():
    assert not dataset_licence("own").may_be_shown and dataset_licence("mvtec").may_be_shown


@pytest.mark.parametrize("dataset", [name for name, data in LICENCES.items() if data.link])
def test_the_notice_says_the_same(dataset):
    data = LICENCES[dataset]
    (row,) = [line for line in NOTICE.splitlines() if f"]({data.link})" in line]
    assert data.licence in row


@pytest.mark.parametrize("dataset", [name for name, data in LICENCES.items() if data.link])
def test_what_others_made_is_cited(dataset):
    assert LICENCES[dataset].citations
    assert all(f"{{{key},\n" in CITATIONS for key in LICENCES[dataset].citations)
