"""Data sets of the Hub as categories, offline, on small generated pictures."""

from dataclasses import replace
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
from httpx2 import ConnectError
from huggingface_hub import HfApi
from small_pictures import SIZE, add_pictures, mask, names, only, picture

from hubmodels.pictures import PictureError
from hubmodels.samples import Category
from training.data import open_categories
from training.hub_data import HubColumns, category_from_dataset
from training.sanity import inspect_category


def hub_split(rows):
    """Rows (seed, defect, has mask, object) as a split with embedded pictures, as parquet copies on the Hub have."""
    features = datasets.Features(
        {
            "photo": datasets.Image(),
            "truth": datasets.Image(),
            "defect": datasets.ClassLabel(names=["crack", "good"]),
            "object": datasets.Value("string"),
        }
    )
    columns = {
        "photo": [picture(seed) for seed, *_ in rows],
        "truth": [mask() if masked else None for _, _, masked, _ in rows],
        "defect": [defect for _, defect, _, _ in rows],
        "object": [name for *_, name in rows],
    }
    return datasets.Dataset.from_dict(columns, features=features)


@pytest.fixture(autouse=True)
def stub_of_the_hub(monkeypatch):
    """Stands for the Hub's answer to which commit a revision is; the real one is never asked."""

    def dataset_info(self, repo_id, revision=None):
        return SimpleNamespace(sha=f"commit of {repo_id} at {revision or 'main'}")

    monkeypatch.setattr(HfApi, "dataset_info", dataset_info)


HUB = HubColumns(image="photo", label="defect", mask="truth", category="object")


@pytest.fixture
def splits():
    train = [
        (0, "good", False, "nut"),
        (1, "good", False, "wood"),
        (2, "good", False, "nut"),
        (3, "crack", True, "nut"),
    ]
    test = [
        (4, "good", False, "nut"),
        (5, "crack", True, "nut"),
        (6, "crack", False, "nut"),
        (7, "crack", True, "wood"),
    ]
    return datasets.DatasetDict(train=hub_split(train), test=hub_split(test))


def test_hub_category(splits, caplog):
    category = category_from_dataset(splits, "parts", "nut", HUB)
    assert names(category.train) == ["train/good/000000", "train/good/000002"]
    assert names(category.test) == ["test/good/000000", "test/crack/000001", "test/crack/000002"]
    assert [sample.label for sample in category.test] == [0, 1, 1]
    assert [sample.mask is not None for sample in category.test] == [False, True, False]
    assert not category.has_masks
    assert "left 1 anomalous rows out" in caplog.text


def test_hub_pictures_and_masks_are_read(splits):
    category = category_from_dataset(splits, "parts", "nut", HUB)
    np.testing.assert_array_equal(np.asarray(category.train[1].read()), np.asarray(picture(2)))
    np.testing.assert_array_equal(np.asarray(category.test[1].read()), np.asarray(picture(5)))
    np.testing.assert_array_equal(category.test[1].read_mask(SIZE), np.asarray(mask()) // 255)
    _, report = inspect_category(category)
    assert report.counts == {"train": {"good": 2}, "test": {"good": 1, "crack": 2}}
    assert report.missing_masks == ["test/crack/000002"]


def load_from(splits, monkeypatch):
    calls = []

    def load_dataset(path, **options):
        calls.append((path, options))
        if isinstance(splits, Exception):
            raise splits
        return splits

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return calls


def test_open_hub_data_set(splits, monkeypatch, caplog):
    calls = load_from(splits, monkeypatch)
    found = open_categories("somebody/Own_Parts", hub=HUB, revision="abc")
    assert calls == [("somebody/Own_Parts", {"revision": "commit of somebody/Own_Parts at abc"})]
    assert {category.revision for category in found} == {"commit of somebody/Own_Parts at abc"}
    assert [(category.dataset, category.name) for category in found] == [("own_parts", "nut"), ("own_parts", "wood")]
    assert found[1].has_masks
    assert "nut: 1 of 2 anomalous test pictures have no mask" in caplog.text
    assert [category.name for category in open_categories("somebody/Own_Parts", ["nut"], hub=HUB)] == ["nut"]
    with pytest.raises(ValueError, match="no category bolt; available: nut, wood"):
        open_categories("somebody/Own_Parts", ["bolt"], hub=HUB)


def test_splits_that_are_not_used_are_named(splits, monkeypatch, caplog):
    splits["validation"] = splits["test"].select([0, 1])
    load_from(splits, monkeypatch)
    open_categories("somebody/Own_Parts", hub=HUB)
    assert "not used: 2 rows in the split validation of somebody/Own_Parts (--hub-columns)" in caplog.text


def test_where_the_hub_cannot_be_asked_the_revision_stays_as_given(splits, monkeypatch):
    """A data set in the local cache still opens."""
    calls = load_from(splits, monkeypatch)

    def unreachable(*_, **__):
        raise ConnectError("Name or service not known")

    monkeypatch.setattr(HfApi, "dataset_info", unreachable)
    assert open_categories("somebody/Own_Parts", hub=HUB, revision="abc")[0].revision == "abc"
    assert calls == [("somebody/Own_Parts", {"revision": "abc"})]


def test_hub_without_category_column_is_one_category(splits, monkeypatch):
    load_from(splits, monkeypatch)
    category = only(open_categories("somebody/Own_Parts", hub=HubColumns("photo", "defect")))
    assert (category.dataset, category.name) == ("own_parts", "Own_Parts")
    assert (len(category.train), len(category.test)) == (3, 4)
    assert not category.has_masks


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([0, 1, 2], [0, 1, 1]),
        ([0.0, 1.0, 3.0], [0, 1, 1]),
        ([False, True, True], [0, 1, 1]),
        (["Normal", "good", "scratch/deep"], [0, 0, 1]),
    ],
)
def test_hub_label_types(values, labels):
    test = datasets.Dataset.from_dict({"image": [picture(seed) for seed in range(3)], "label": values})
    train = datasets.Dataset.from_dict({"image": [picture(3)], "label": [None]})  # as imagefolder leaves one class
    category = category_from_dataset(datasets.DatasetDict(train=train, test=test), "set", "set", HubColumns())
    assert [sample.label for sample in category.test] == labels
    assert [sample.label for sample in category.train] == [0]
    assert all(name.count("/") == 2 for name in names(category.test))


def two_splits(train, test):
    rows = [
        datasets.Dataset.from_dict({"image": [picture(seed) for seed in range(len(labels))], "label": labels})
        for labels in (train, test)
    ]
    return datasets.DatasetDict(train=rows[0], test=rows[1])


@pytest.mark.parametrize(
    ("train", "test", "normal", "labels"),
    [
        (["ok", "ok", "ng"], ["ok", "ng"], None, [0, 1]),
        (["OK", "OK", "NG"], ["NG", "OK"], None, [1, 0]),
        (["1", "1"], ["1", "0"], "1", [0, 1]),
        ([1, 1], [1, 0], "1", [0, 1]),
        (["fine", "fine", "good"], ["good", "fine"], "fine", [1, 0]),
    ],
)
def test_which_label_is_normal(train, test, normal, labels):
    hub = HubColumns(normal=normal)
    category = category_from_dataset(two_splits(train, test), "set", "set", hub)
    assert [sample.label for sample in category.test] == labels
    assert len(category.train) == 2


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ([1, 1], [1, 0]),  # 0 usually means normal, but then there is nothing to train on
        (["washer", "washer"], ["washer", "scratch"]),
        (["ng", "ng"], ["ok", "ng"]),
    ],
)
def test_labels_that_can_be_read_in_two_ways_are_refused(train, test):
    with pytest.raises(ValueError, match=r"two ways: the labels are .*normal=NAME.*label= test="):
        category_from_dataset(two_splits(train, test), "set", "set", HubColumns())


def test_a_normal_label_that_does_not_exist():
    with pytest.raises(ValueError, match=r"no label 'fine': choose normal=NAME from ng, ok"):
        category_from_dataset(two_splits(["ok"], ["ng"]), "set", "set", HubColumns(normal="fine"))


def test_test_pictures_without_a_label_column_do_not_count_as_good():
    with pytest.raises(ValueError, match="row 0 of the test split has no label"):
        category_from_dataset(two_splits(["ok"], ["ng"]), "set", "set", HubColumns(label=None))


def test_hub_label_column_may_be_absent():
    train = datasets.Dataset.from_dict({"image": [picture(0), picture(1)]})
    category = category_from_dataset(
        datasets.DatasetDict(train=train), "set", "set", HubColumns(label=None, test=None)
    )
    assert (len(category.train), category.test) == (2, ())


def test_hub_test_rows_need_labels():
    rows = datasets.Dataset.from_dict({"image": [picture(0)], "label": [None]})
    with pytest.raises(ValueError, match="row 0 of the test split has no label"):
        category_from_dataset(datasets.DatasetDict(train=rows, test=rows), "set", "set", HubColumns())


@pytest.mark.parametrize(
    ("hub", "message"),
    [
        (HubColumns(), "no image column 'image'; available: photo, truth, defect, object"),
        (HubColumns("photo", "label"), "no label column 'label'"),
        (HubColumns("photo", "defect", mask="gt"), "no mask column 'gt'"),
        (HubColumns("photo", "defect", category="kind"), "no category column 'kind'"),
        (HubColumns("object", "defect"), "not pictures"),
        (HubColumns("photo", "defect", train="training"), "no split 'training'; available: train, test"),
        (HubColumns("photo", "defect", test="validation"), r"no split 'validation'.*leave test empty"),
    ],
)
def test_hub_columns_and_splits_that_are_not_there(splits, monkeypatch, hub, message):
    load_from(splits, monkeypatch)
    with pytest.raises(ValueError, match=message):
        open_categories("somebody/parts", hub=hub)


@pytest.mark.parametrize(
    "error",
    [
        ConnectionError("Couldn't reach it"),
        datasets.exceptions.DatasetNotFoundError("does not exist"),
        datasets.exceptions.DatasetGenerationError("broken file"),
        RuntimeError("Dataset scripts are no longer supported"),
        ValueError("Config name is missing"),
    ],
)
def test_hub_failures_say_what_to_do(error, monkeypatch):
    load_from(error, monkeypatch)
    with pytest.raises(ValueError, match="neither a folder here nor a data set") as refused:
        open_categories("somebody/parts")
    assert str(error) in str(refused.value)


def test_empty_hub_cell_is_an_unreadable_picture():
    table = datasets.Dataset.from_dict(
        {"image": [picture(0), None, picture(1)]}, features=datasets.Features({"image": datasets.Image()})
    )
    hub = HubColumns(label=None, test=None)
    category = category_from_dataset(datasets.DatasetDict(train=table), "set", "set", hub)
    with pytest.raises(ValueError, match="test/good/000001 cannot be read: the cell is empty"):
        inspect_category(
            Category("set", "set", category.train[::2], (replace(category.train[1], name="test/good/000001"),))
        )
    with pytest.raises(PictureError, match="train/good/000001: the cell is empty"):
        category.train[1].read()
    inspected, report = inspect_category(category, skip_bad=True)
    assert len(inspected.train) == 2
    assert report.unreadable == {"train/good/000001": "the cell is empty"}


def test_hub_files_loaded_from_disk(tmp_path, monkeypatch):
    """An ``imagefolder``, loaded by ``datasets`` itself: cells hold paths instead of bytes."""
    add_pictures(tmp_path / "repo" / "train" / "good", "a.png", "b.png")
    add_pictures(tmp_path / "repo" / "test" / "good", "c.png")
    add_pictures(tmp_path / "repo" / "test" / "crack", "d.png")
    load_dataset = datasets.load_dataset
    monkeypatch.setattr(
        datasets,
        "load_dataset",
        lambda _, revision: load_dataset(str(tmp_path / "repo"), cache_dir=str(tmp_path / "cache"), revision=revision),
    )
    category = only(open_categories("somebody/parts"))
    assert [sample.label for sample in category.train] == [0, 0]
    assert sorted(sample.defect_type for sample in category.test) == ["crack", "good"]
    _, report = inspect_category(category)
    assert report.sizes == {SIZE: 2}
