"""Folders of pictures, names and the held-out normals, on small generated pictures."""

from pathlib import Path

import pytest
from real_data import real_folder
from small_pictures import SIZE, add_category, add_pictures, find, names, only, picture, save

from hubmodels.samples import Sample
from training.data import dataset_slug, hold_out, make_folds, open_categories


@pytest.fixture
def category_folder(tmp_path):
    return add_category(tmp_path)


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
    assert category.missing_masks == ["test/bent/000.png"]


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
    again = only(open_categories(tmp_path / "gears"))
    assert again.train == category.train
    assert [str(each) for each in again.unused] == [
        "not used: 1 file in gears/broken (defective parts are not trained on)"
    ]


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
    with pytest.raises(ValueError, match="contains no pictures"):
        open_categories(tmp_path)
    with pytest.raises(ValueError, match="is not a folder"):
        open_categories(tmp_path / "absent")
    file = save(picture(0), tmp_path / "file.png")
    with pytest.raises(ValueError, match="is not a folder"):
        open_categories(file)


def test_files_beside_the_categories_are_named(category_folder, caplog):
    add_pictures(category_folder.parent / "bolts", "a.png", "b.png")
    assert only(open_categories(category_folder.parent)).name == "metal_nut"
    assert "not used: 2 files in mvtec_ad (they belong to no category)" in caplog.text


def test_good_parts_in_a_folder_with_another_name(tmp_path):
    for name in ("fine", "bad"):
        add_pictures(tmp_path / "gears" / name, "a.png")
    with pytest.raises(ValueError, match="--normal-folder NAME"):
        open_categories(tmp_path / "gears")
    assert names(only(open_categories(tmp_path / "gears", normal_folder="Fine")).train) == ["train/fine/a.png"]


def test_sample_parts_need_no_files():
    washer = only(open_categories("parts:", ["washer"]))
    assert (washer.dataset, washer.name, washer.has_masks) == ("parts", "washer", True)
    assert washer.train[0].read().size == (256, 256)
    with pytest.raises(ValueError, match=r"no category is called lid; choose from .*washer"):
        open_categories("parts:", ["lid"])


# --- names


@pytest.mark.parametrize(
    ("folder", "slug"),
    [
        ("mvtec_ad", "mvtec"),
        ("mvtec_anomaly_detection", "mvtec"),
        ("MVTec", "mvtec"),
        ("Magnetic-Tile", "magnetic_tile"),
        ("VisA v1.0", "visa_v1.0"),
    ],
)
def test_dataset_slug(folder, slug, tmp_path):
    assert dataset_slug(folder) == slug
    add_pictures(tmp_path / folder / "bolt" / "train" / "good", "0.png")
    assert only(open_categories(tmp_path / folder)).dataset == slug
    assert only(open_categories(tmp_path / folder, dataset_name="My-Set")).dataset == "my_set"


@pytest.mark.parametrize("name", ["metal nut", "Schraube_ü", "-nut", "nut.", "a..b"])
def test_unsafe_category_names_are_refused(name, tmp_path):
    add_pictures(tmp_path / "set" / name / "train" / "good", "0.png")
    with pytest.raises(ValueError, match="cannot be part of a repository name"):
        open_categories(tmp_path / "set")


def test_unsafe_dataset_name_is_refused(category_folder):
    with pytest.raises(ValueError, match="data set name"):
        open_categories(category_folder, dataset_name="データ")


# --- held-out normals


def normals(count):
    return [Sample(f"train/good/{index:03d}.png", Path(f"{index:03d}.png"), "good", 0) for index in range(count)]


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
    with pytest.raises(ValueError, match=r"held-out share|calibrating needs"):
        hold_out(normals(count), share)


def test_copies_stay_on_one_side_and_count_once():
    """Five pictures, each oversampled by four copies."""
    train = normals(20)
    copies = [names(train[start : start + 4]) for start in range(0, 20, 4)]
    for seed in range(5):
        fit, held_out = hold_out(train, 0.4, seed, copies)
        assert len(held_out) == 2 and len(fit) == 12
        held_groups = [group for group in copies if set(group) & set(names(held_out))]
        assert len(held_groups) == 2 and not set(names(fit)) & {name for group in held_groups for name in group}
        assert names(held_out) == [group[0] for group in held_groups]


def test_without_copies_the_split_is_as_before():
    assert hold_out(normals(40), 0.25, 3, [["elsewhere", "nowhere"]]) == hold_out(normals(40), 0.25, 3)
    assert names(hold_out(normals(10), 0.3)[1]) == [f"train/good/{i:03d}.png" for i in (2, 4, 6)]


def test_the_largest_group_of_copies_is_trained_on():
    """A long video of one part, and two other pictures: else nearly nothing would be left to train on."""
    train = normals(12)
    for seed in range(5):
        fit, held_out = hold_out(train, 0.5, seed, [names(train[:10])])
        assert names(train[:10]) == names(fit)[:10] and names(held_out)[0] in names(train[10:])


@pytest.mark.parametrize(("count", "folds", "sizes"), [(12, 5, [2, 2, 2, 3, 3]), (3, 5, [1, 1, 1])])
def test_folds_cover_all_once(count, folds, sizes):
    made = make_folds(normals(count), folds)
    assert sorted(len(fold) for fold in made) == sizes
    assert sorted(sample.name for fold in made for [sample] in fold) == names(normals(count))
    assert made == make_folds(normals(count)[::-1], folds) != make_folds(normals(count), folds, seed=1)


def test_copies_are_in_one_fold():
    train = normals(20)
    copies = [names(train[start : start + 4]) for start in range(0, 20, 4)]
    made = make_folds(train, 3, 0, copies)
    assert sorted(len(fold) for fold in made) == [1, 2, 2]
    assert sorted(names(group) for fold in made for group in fold) == copies


def test_copies_of_one_picture_cannot_be_split():
    with pytest.raises(ValueError, match="at least 2 training pictures that are no copies; got 1"):
        hold_out(normals(4), 0.5, 0, [names(normals(4))])


# --- real data


def test_real_screw_counts():
    category = only(open_categories(real_folder("data/mvtec_ad"), ["screw"]))
    assert (category.dataset, len(category.train)) == ("mvtec", 320)
    labels = [sample.label for sample in category.test]
    assert (labels.count(0), labels.count(1)) == (41, 119)
    assert category.has_masks
    sample = next(sample for sample in category.test if sample.label == 1)
    width, height = sample.read().size
    assert sample.read_mask((height, width)).any()
