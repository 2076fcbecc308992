"""Licences follow the data and the backbone, and agree with the notice."""

from pathlib import Path

import pytest

from training.publishing.licences import LICENCES, dataset_licence, weights_licence

NOTICE = (Path(__file__).parents[3] / "NOTICE.md").read_text()
CITATIONS = (Path(__file__).parents[3] / "model_cards/citations.bib").read_text()


@pytest.mark.parametrize(
    ("dataset", "compact_backbone", "licence", "words"),
    [
        ("mvtec", False, "cc-by-nc-sa-4.0", "non-commercial use only"),
        ("mvtec", True, "cc-by-nc-sa-4.0", "non-commercial use only"),
        ("elpv", True, "cc-by-nc-sa-4.0", "non-commercial use only"),
        ("parts", False, "apache-2.0", "Apache-2.0"),
        ("parts", True, "other", "non-commercial use only"),
        ("magnetic_tile", False, "other", "terms of the training pictures"),
        ("magnetic_tile", True, "other", "non-commercial use only"),
        ("own", False, "other", "terms of the training pictures"),
        ("own", True, "other", "non-commercial use only"),
    ],
)
def test_weights_are_as_free_as_their_pictures_and_backbone(dataset, compact_backbone, licence, words):
    found = weights_licence(dataset, compact_backbone)
    assert found.id == licence and words in found.words
    assert (found.name is not None) == (licence == "other")


def test_apache_weights_say_nothing_of_non_commercial_use():
    assert "non-commercial" not in weights_licence("parts", compact_backbone=False).words


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
