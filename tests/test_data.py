"""Sources of pictures, the sanity report and the held-out normals, on small generated pictures."""

import hashlib
import json
import logging
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from hubmodels.pictures import PictureError
from training import data
from training.data import HubColumns, category_from_dataset, dataset_slug, hold_out, inspect_category, open_categories

SIZE = (40, 48)  # (height, width)
SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def picture(seed, size=SIZE):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))


def mask(size=SIZE, grey=255):
    pixels = np.zeros(size, dtype=np.uint8)
    pixels[: size[0] // 2, : size[1] // 4] = grey
    return Image.fromarray(pixels)


def save(image, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


def seed_of(path):
    return int.from_bytes(hashlib.sha256(str(path).encode()).digest()[:4], "big")


def add_pictures(folder, *names, size=SIZE):
    return [save(picture(seed_of(folder / name), size), folder / name) for name in names]


@pytest.fixture
def category_folder(tmp_path):
    """One MVTec AD category: 3 training pictures, 2 normal and 3 anomalous test pictures with masks."""
    folder = tmp_path / "mvtec_ad" / "metal_nut"
    add_pictures(folder / "train" / "good", "000.png", "001.png", "002.png")
    add_pictures(folder / "test" / "good", "000.png", "001.png")
    add_pictures(folder / "test" / "crack", "000.png", "001.png")
    add_pictures(folder / "test" / "bent", "000.png")
    save(mask(), folder / "ground_truth" / "crack" / "000_mask.png")
    save(mask(), folder / "ground_truth" / "crack" / "001.png")
    save(mask(), folder / "ground_truth" / "bent" / "000_mask.png")
    return folder


def only(categories):
    assert len(categories) == 1
    return categories[0]


def names(samples):
    return [sample.name for sample in samples]


def find(samples, name):
    return next(sample for sample in samples if sample.name == name)


# --- MVTec AD layout


def test_mvtec_category(category_folder):
    category = only(open_categories(category_folder.parent))
    assert (category.dataset, category.name) == ("mvtec", "metal_nut")
    assert names(category.train) == ["train/good/000.png", "train/good/001.png", "train/good/002.png"]
    assert names(category.test) == [
        "test/bent/000.png",
        "test/crack/000.png",
        "test/crack/001.png",
        "test/good/000.png",
        "test/good/001.png",
    ]
    assert [sample.label for sample in category.test] == [1, 1, 1, 0, 0]
    assert [sample.defect_type for sample in category.test] == ["bent", "crack", "crack", "good", "good"]
    assert category.has_masks


def test_masks_are_paired_by_name(category_folder):
    test = only(open_categories(category_folder.parent)).test
    truth = category_folder / "ground_truth"
    assert find(test, "test/crack/000.png").mask == truth / "crack" / "000_mask.png"
    assert find(test, "test/crack/001.png").mask == truth / "crack" / "001.png"
    assert find(test, "test/bent/000.png").mask == truth / "bent" / "000_mask.png"
    assert find(test, "test/good/000.png").mask is None


def test_data_root_may_be_one_category(category_folder, monkeypatch):
    assert open_categories(category_folder) == open_categories(category_folder.parent)
    monkeypatch.chdir(category_folder)
    assert open_categories(".") == open_categories(category_folder.parent)


def test_all_categories_sorted_or_those_named(category_folder):
    root = category_folder.parent
    for name in ("wood", "bottle"):
        add_pictures(root / name / "train" / "good", "0.png")
    add_pictures(root / "notes", "photo.png")
    assert [category.name for category in open_categories(root)] == ["bottle", "metal_nut", "wood"]
    assert [category.name for category in open_categories(root, ["wood", "bottle"])] == ["bottle", "wood"]
    with pytest.raises(ValueError, match="no category screw; available: bottle, metal_nut, wood"):
        open_categories(root, ["wood", "screw"])


def test_no_test_folder_is_fine(tmp_path):
    add_pictures(tmp_path / "set" / "bolt" / "train" / "good", "0.png")
    category = only(open_categories(tmp_path / "set"))
    assert category.test == ()
    assert not category.has_masks


def test_without_ground_truth_there_are_no_masks(tmp_path, caplog):
    folder = tmp_path / "set" / "cell"
    add_pictures(folder / "train" / "good", "0.png")
    add_pictures(folder / "test" / "defective", "0.png")
    category = only(open_categories(tmp_path / "set"))
    assert category.test[0].label == 1
    assert category.test[0].mask is None
    assert category.test[0].read_mask(SIZE) is None
    assert not category.has_masks
    assert not caplog.records


def test_some_missing_masks_are_reported(category_folder, caplog):
    (category_folder / "ground_truth" / "bent" / "000_mask.png").unlink()
    category = only(open_categories(category_folder))
    assert not category.has_masks
    assert find(category.test, "test/bent/000.png").mask is None
    assert find(category.test, "test/crack/000.png").mask is not None
    assert "1 of 3" in caplog.text and "test/bent/000.png" in caplog.text
    _, report = inspect_category(category)
    assert report.missing_masks == ["test/bent/000.png"]


def test_suffixes_hidden_files_and_order(tmp_path):
    folder = tmp_path / "set" / "bolt" / "train" / "good"
    add_pictures(folder, "b.PNG", "a.jpg", "c.Jpeg", "d.bmp", "e.tif", "f.TIFF", "g.webp", ".hidden.png")
    (folder / "notes.txt").write_text("not a picture")
    (folder / "h.png").mkdir()
    train = only(open_categories(tmp_path / "set")).train
    assert [sample.source.name for sample in train] == [
        "a.jpg",
        "b.PNG",
        "c.Jpeg",
        "d.bmp",
        "e.tif",
        "f.TIFF",
        "g.webp",
    ]


def test_unlabelled_test_pictures_are_refused(category_folder):
    add_pictures(category_folder / "test", "stray.png")
    with pytest.raises(ValueError, match=r"stray\.png has no label"):
        open_categories(category_folder)


# --- plain folders


def test_folder_of_good_pictures(tmp_path):
    add_pictures(tmp_path / "My Parts_2", "b.png", "a.jpg")
    category = only(open_categories(tmp_path / "My Parts_2"))
    assert (category.dataset, category.name, category.test) == ("own", "my-parts-2", ())
    assert names(category.train) == ["train/good/a.jpg", "train/good/b.png"]
    assert {sample.label for sample in category.train} == {0}
    assert only(open_categories(tmp_path / "My Parts_2", ["Gear_A"])).name == "Gear_A"


def test_one_folder_is_not_several_categories(tmp_path):
    add_pictures(tmp_path / "parts", "a.png")
    with pytest.raises(ValueError, match="available: parts"):
        open_categories(tmp_path / "parts", ["gear", "bolt"])


def test_good_folder_alone(tmp_path, caplog):
    add_pictures(tmp_path / "gears" / "good", "a.png", "b.png")
    category = only(open_categories(tmp_path / "gears"))
    assert (category.dataset, category.name, len(category.train)) == ("own", "gears", 2)
    assert not caplog.records
    add_pictures(tmp_path / "gears" / "broken", "c.png")
    assert open_categories(tmp_path / "gears") == [category]
    assert "broken" in caplog.text


def test_folders_of_good_pictures(tmp_path):
    add_pictures(tmp_path / "line" / "gear", "a.png")
    add_pictures(tmp_path / "line" / "bolt" / "good", "a.png", "b.png")
    (tmp_path / "line" / "empty").mkdir()
    found = open_categories(tmp_path / "line")
    assert [(category.dataset, category.name, len(category.train)) for category in found] == [
        ("own", "bolt", 2),
        ("own", "gear", 1),
    ]
    assert only(open_categories(tmp_path / "line", ["gear"])).name == "gear"
    add_pictures(tmp_path / "line", "overview.png")
    assert [category.name for category in open_categories(tmp_path / "line", ["gear", "bolt"])] == ["bolt", "gear"]


def test_useless_data_roots_say_what_is_expected(tmp_path):
    with pytest.raises(ValueError, match="holds no pictures"):
        open_categories(tmp_path)
    with pytest.raises(ValueError, match="is not a folder"):
        open_categories(tmp_path / "absent")
    file = save(picture(0), tmp_path / "file.png")
    with pytest.raises(ValueError, match="is not a folder"):
        open_categories(file)
    add_pictures(tmp_path / "flat" / "train", "a.png")
    with pytest.raises(ValueError, match="train/good"):
        open_categories(tmp_path / "flat")


# --- names


@pytest.mark.parametrize(
    ("folder", "slug"),
    [
        ("mvtec_ad", "mvtec"),
        ("mvtec_anomaly_detection", "mvtec"),
        ("MVTec", "mvtec"),
        ("Magnetic_Tile", "magnetic-tile"),
        ("VisA v1.0", "visa-v1.0"),
    ],
)
def test_dataset_slug(folder, slug, tmp_path):
    assert dataset_slug(folder) == slug
    add_pictures(tmp_path / folder / "bolt" / "train" / "good", "0.png")
    assert only(open_categories(tmp_path / folder)).dataset == slug
    assert only(open_categories(tmp_path / folder, dataset_name="My_Set")).dataset == "my-set"


@pytest.mark.parametrize("name", ["metal nut", "Schraube_ü", "-nut", "nut.", "a..b"])
def test_unsafe_category_names_are_refused(name, tmp_path):
    add_pictures(tmp_path / "set" / name / "train" / "good", "0.png")
    with pytest.raises(ValueError, match="cannot be part of a repository name"):
        open_categories(tmp_path / "set")


def test_unsafe_dataset_name_is_refused(category_folder):
    with pytest.raises(ValueError, match="data set name"):
        open_categories(category_folder, dataset_name="データ")


# --- reading


def test_read_gives_the_picture(category_folder):
    sample = only(open_categories(category_folder)).train[0]
    np.testing.assert_array_equal(np.asarray(sample.read()), np.asarray(Image.open(sample.source)))


def test_read_names_a_broken_sample(category_folder):
    sample = only(open_categories(category_folder)).train[0]
    sample.source.write_bytes(b"no picture")
    with pytest.raises(PictureError, match=r"train/good/000\.png"):
        sample.read()


def anomalous_sample(category_folder):
    return find(only(open_categories(category_folder)).test, "test/crack/000.png")


def test_mask_rule_is_above_one_half(category_folder):
    sample = anomalous_sample(category_folder)
    greys = np.tile(np.array([0, 1, 127, 128, 254, 255], dtype=np.uint8), (40, 8))
    save(Image.fromarray(greys), sample.mask)
    truth = sample.read_mask(SIZE)
    assert truth.dtype == np.uint8 and truth.shape == SIZE
    np.testing.assert_array_equal(truth[0, :6], [0, 0, 0, 1, 1, 1])


def test_one_bit_and_colour_masks(category_folder):
    sample = anomalous_sample(category_folder)
    expected = np.asarray(mask()) // 255
    for mode in ("1", "RGB", "P"):
        save(mask().convert(mode), sample.mask)
        np.testing.assert_array_equal(sample.read_mask(SIZE), expected)


def test_normal_samples_have_an_empty_mask(category_folder):
    truth = find(only(open_categories(category_folder)).test, "test/good/000.png").read_mask((7, 9))
    assert truth.shape == (7, 9) and truth.dtype == np.uint8 and not truth.any()


def test_mask_of_another_size(category_folder):
    sample = anomalous_sample(category_folder)
    save(mask((20, 24)), sample.mask)
    np.testing.assert_array_equal(sample.read_mask(SIZE), np.asarray(mask()) // 255)
    assert sample.read_mask((41, 48)).shape == (41, 48)  # 20 x 24 is 41 x 48 halved and rounded
    thin = np.zeros((80, 96), dtype=np.uint8)
    thin[:, 5] = 255  # a scratch one pixel wide, which interpolation would wipe out
    save(Image.fromarray(thin), sample.mask)
    np.testing.assert_array_equal(np.flatnonzero(sample.read_mask(SIZE)[0]), [2])
    save(mask((24, 20)), sample.mask)
    with pytest.raises(ValueError, match=r"test/crack/000\.png: the mask is 24 x 20 but the picture is 40 x 48"):
        sample.read_mask(SIZE)


def test_unreadable_mask_is_an_error(category_folder):
    sample = anomalous_sample(category_folder)
    sample.mask.write_bytes(b"no picture")
    with pytest.raises(PictureError):
        sample.read_mask(SIZE)


# --- sanity


def test_a_sound_category_passes_unchanged(category_folder):
    category = only(open_categories(category_folder))
    inspected, report = inspect_category(category)
    assert inspected == category
    assert report.counts == {"train": {"good": 3}, "test": {"bent": 1, "crack": 2, "good": 2}}
    assert report.sizes == {SIZE: 3}
    assert not (report.unreadable or report.duplicates or report.leaks or report.missing_masks or report.bad_masks)
    assert report.lines() == [
        "mvtec/metal_nut: train 3 good; test 1 bent, 2 crack, 2 good",
        "training picture size (height x width): 40 x 48 (3 of 3)",
    ]


def test_sizes_most_common_and_range(category_folder):
    add_pictures(category_folder / "train" / "good", "100.png", size=(50, 60))
    add_pictures(category_folder / "train" / "good", "101.png", size=(36, 64))
    _, report = inspect_category(only(open_categories(category_folder)))
    assert report.sizes == {SIZE: 3, (50, 60): 1, (36, 64): 1}
    assert report.lines()[1].endswith("40 x 48 (3 of 5), 3 sizes, 36-50 x 48-64")


def test_unreadable_training_pictures(category_folder):
    good = category_folder / "train" / "good"
    (good / "001.png").write_bytes(b"no picture")
    whole = (good / "002.png").read_bytes()
    (good / "002.png").write_bytes(whole[: len(whole) // 2])
    add_pictures(good, "003.png")
    category = only(open_categories(category_folder))
    with pytest.raises(ValueError) as refused:
        inspect_category(category)
    for part in ("train/good/001.png", "train/good/002.png", "--skip-bad"):
        assert part in str(refused.value)
    assert "000.png" not in str(refused.value)
    inspected, report = inspect_category(category, skip_bad=True)
    assert names(inspected.train) == ["train/good/000.png", "train/good/003.png"]
    assert inspected.test == category.test
    assert list(report.unreadable) == ["train/good/001.png", "train/good/002.png"]
    assert report.counts["train"] == {"good": 2}
    assert any("2 unreadable" in line and "001.png" in line for line in report.lines())


def test_two_readable_training_pictures_are_needed(category_folder):
    for name in ("001.png", "002.png"):
        (category_folder / "train" / "good" / name).write_bytes(b"")
    with pytest.raises(ValueError, match="1 readable training pictures"):
        inspect_category(only(open_categories(category_folder)), skip_bad=True)


def test_duplicates_and_leaks(category_folder):
    first = (category_folder / "train" / "good" / "000.png").read_bytes()
    (category_folder / "train" / "good" / "009.png").write_bytes(first)
    (category_folder / "test" / "good" / "001.png").write_bytes(first)
    _, report = inspect_category(only(open_categories(category_folder)))
    assert report.duplicates == [["train/good/000.png", "train/good/009.png"]]
    assert report.leaks == [("train/good/000.png", "test/good/001.png")]
    text = "\n".join(report.lines())
    assert "train/good/000.png = train/good/009.png" in text
    assert "LEAK: 1 test pictures" in text


def test_masks_to_check(category_folder):
    truth = category_folder / "ground_truth"
    save(mask(grey=127), truth / "crack" / "000_mask.png")
    save(mask((48, 48)), truth / "crack" / "001.png")
    (truth / "bent" / "000_mask.png").write_bytes(b"no picture")
    _, report = inspect_category(only(open_categories(category_folder)))
    assert list(report.bad_masks) == ["test/bent/000.png", "test/crack/000.png", "test/crack/001.png"]
    assert report.bad_masks["test/bent/000.png"].startswith("unreadable")
    assert report.bad_masks["test/crack/000.png"].startswith("empty")
    assert report.bad_masks["test/crack/001.png"] == "mask is 48 x 48, picture 40 x 48"
    assert "3 masks to check" in report.lines()[-1]


def test_mask_of_a_turned_picture_is_upright(category_folder):
    path = category_folder / "test" / "bent" / "000.png"
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn by 90 degrees
    picture(0).save(path.with_suffix(".jpg"), exif=exif)
    path.unlink()
    save(mask(SIZE[::-1]), category_folder / "ground_truth" / "bent" / "000_mask.png")
    category = only(open_categories(category_folder))
    sample = find(category.test, "test/bent/000.jpg")
    width, height = sample.read().size
    assert (height, width) == SIZE[::-1]
    assert sample.read_mask((height, width)).any()
    assert not inspect_category(category)[1].bad_masks


def test_no_test_picture_is_decoded_before_training(category_folder, monkeypatch):
    for path in (category_folder / "test").rglob("*.png"):  # header whole, pixels cut off
        path.write_bytes(path.read_bytes()[:200])
    decoded = []

    def record(source):
        decoded.append(source.relative_to(category_folder).parts[0])
        return read_picture(source)

    read_picture = data.read_picture
    monkeypatch.setattr(data, "read_picture", record)
    _, report = inspect_category(only(open_categories(category_folder)))
    assert set(decoded) == {"train", "ground_truth"}
    assert not report.bad_masks


def test_report_as_plain_json(category_folder):
    first = (category_folder / "train" / "good" / "000.png").read_bytes()
    (category_folder / "test" / "good" / "001.png").write_bytes(first)
    _, report = inspect_category(only(open_categories(category_folder)))
    plain = report.as_dict()
    assert json.loads(json.dumps(plain)) == plain
    assert plain["sizes"] == [{"height": 40, "width": 48, "count": 3}]
    assert plain["leaks"] == [["train/good/000.png", "test/good/001.png"]]


# --- held-out normals


def normals(count):
    return [data.Sample(f"train/good/{index:03d}.png", Path(f"{index:03d}.png"), "good", 0) for index in range(count)]


@pytest.mark.parametrize(("count", "share", "held"), [(2, 0.1, 1), (2, 0.9, 1), (10, 0.1, 1), (40, 0.25, 10)])
def test_hold_out_covers_all_once(count, share, held):
    train = normals(count)
    fit, held_out = hold_out(train, share)
    assert len(held_out) == held
    assert sorted(names(fit) + names(held_out)) == names(train)
    assert names(fit) == sorted(names(fit)) and names(held_out) == sorted(names(held_out))


def test_hold_out_depends_on_seed_not_on_order():
    train = normals(40)
    assert hold_out(train, seed=1) == hold_out(train[::-1], seed=1)
    assert len({tuple(names(hold_out(train, seed=seed)[1])) for seed in range(4)}) > 1


@pytest.mark.parametrize(("count", "share"), [(1, 0.1), (0, 0.1), (10, 0.0), (10, 1.0), (10, -0.5)])
def test_hold_out_refuses(count, share):
    with pytest.raises(ValueError, match=r"held-out share|holding out needs"):
        hold_out(normals(count), share)


# --- the Hub, offline


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
    assert "left 1 anomalous rows out" in caplog.text and "1 of 2" in caplog.text


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


def test_open_hub_data_set(splits, monkeypatch):
    calls = load_from(splits, monkeypatch)
    found = open_categories("somebody/Own_Parts", hub=HUB, revision="abc")
    assert calls == [("somebody/Own_Parts", {"revision": "abc"})]
    assert [(category.dataset, category.name) for category in found] == [("own-parts", "nut"), ("own-parts", "wood")]
    assert found[1].has_masks
    assert [category.name for category in open_categories("somebody/Own_Parts", ["nut"], hub=HUB)] == ["nut"]
    with pytest.raises(ValueError, match="no category bolt; available: nut, wood"):
        open_categories("somebody/Own_Parts", ["bolt"], hub=HUB)


def test_hub_without_category_column_is_one_category(splits, monkeypatch):
    load_from(splits, monkeypatch)
    category = only(open_categories("somebody/Own_Parts", hub=HubColumns("photo", "defect")))
    assert (category.dataset, category.name) == ("own-parts", "Own_Parts")
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
            data.Category("set", "set", category.train[::2], (replace(category.train[1], name="test/good/000001"),))
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


# --- real data


def test_real_screw_counts():
    if not (SHARED_DATA / "mvtec_ad").is_dir():
        pytest.skip("../shared/data is absent")
    category = only(open_categories(SHARED_DATA / "mvtec_ad", ["screw"]))
    assert (category.dataset, len(category.train)) == ("mvtec", 320)
    labels = [sample.label for sample in category.test]
    assert (labels.count(0), labels.count(1)) == (41, 119)
    assert category.has_masks
    sample = next(sample for sample in category.test if sample.label == 1)
    width, height = sample.read().size
    assert sample.read_mask((height, width)).any()


@pytest.fixture(autouse=True)
def warnings_are_captured(caplog):
    caplog.set_level(logging.WARNING, logger="training.data")
