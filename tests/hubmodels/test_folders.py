"""What folders mean, and what is said of files that are not used; on small generated pictures."""

import os
import sys

import pytest
from small_pictures import SIZE, add_pictures, mask, names, only, picture, save

from hubmodels import folders
from hubmodels.folders import (
    category_folders,
    find_labelled,
    find_pictures,
    find_shown,
    label_of,
    read_category,
    read_plain,
)
from hubmodels.pictures import FORMATS
from hubmodels.samples import UNUSED_REASONS

NORMAL = [
    *(
        "good",
        "Good",
        "OK",
        "ok_2",
        "Normal",
        "i.O.",
        "Good parts",
        "GUT",
        "no defects",
        "non-defective",
        "In Ordnung",
    ),
    *("Gutteile", "defect-free", "buenas", "良品", "合格", "OK品", "intact"),
]


@pytest.mark.parametrize("name", NORMAL)
def test_names_that_mean_normal(name):
    assert label_of(name) == 0


@pytest.mark.parametrize(
    "name",
    [
        *("bad", "NG", "NOK", "not ok", "not_good", "n.i.O.", "Defect", "defective", "defects", "abnormal", "anomaly"),
        *("Anomalous", "faulty", "reject", "rejected", "Scrap", "bad_parts", "NG 3", "Ausschuss"),
        *("KO", "def", "Fehler", "nicht in Ordnung", "not normal", "no good", "不良品", "NG品", "不合格", "malas"),
    ],
)
def test_names_that_mean_defective(name):
    assert label_of(name) == 1


@pytest.mark.parametrize(
    "name", ["scratch", "washer", "0", "1", "2026-01-31", "goods", "look", "book", "", "no", "ok_front"]
)
def test_names_that_do_not_say(name):
    assert label_of(name) is None


def test_a_name_given_is_added_to_the_usual_ones():
    assert label_of("Fine", "fine") == label_of("good", "fine") == 0
    assert label_of("bad", "fine") == 1
    assert label_of("NG", "ng") == 0  # whoever says so knows


# --- MVTec AD layout


@pytest.mark.parametrize(("good", "bad"), [("ok", "ng"), ("OK", "NOK"), ("Good", "Bad"), ("normal", "abnormal")])
@pytest.mark.parametrize("split", [str.lower, str.title, str.upper])
def test_good_parts_count_as_good_whatever_their_folder_is_called(tmp_path, good, bad, split):
    add_pictures(tmp_path / split("train") / good, "0.png", "1.png")
    add_pictures(tmp_path / split("train") / bad, "2.png")
    add_pictures(tmp_path / split("test") / good, "0.png")
    add_pictures(tmp_path / split("test") / bad, "1.png")
    category = read_category("set", "part", tmp_path)
    assert names(category.train) == [f"train/{good}/0.png", f"train/{good}/1.png"]
    found = {s.name: (s.label, s.defect_type) for s in category.test}
    assert found == {f"test/{good}/0.png": (0, "good"), f"test/{bad}/1.png": (1, bad)}
    [unused] = category.unused
    assert (unused.folder, unused.files, unused.reason) == (f"{split('train')}/{bad}", 1, "defective")


def test_sub_folders_count(tmp_path):
    add_pictures(tmp_path / "train" / "good" / "2026-01-31", "0.png")
    add_pictures(tmp_path / "train" / "good" / "2026-02-01", "0.png")
    add_pictures(tmp_path / "test" / "good" / "left", "0.png")
    add_pictures(tmp_path / "test" / "scratch" / "left", "0.png", "1.png")
    add_pictures(tmp_path / "test" / "scratch" / "right", "0.png")
    truth = tmp_path / "ground_truth" / "Scratch"
    masks = [save(mask(), truth / name) for name in ("left/0_mask.png", "right/0.png", "1_mask.png")]
    category = read_category("set", "part", tmp_path)
    assert names(category.train) == ["train/good/2026-01-31/0.png", "train/good/2026-02-01/0.png"]
    found = {s.name: s.mask for s in category.test}
    assert found == {
        "test/good/left/0.png": None,
        "test/scratch/left/0.png": masks[0],
        "test/scratch/left/1.png": masks[2],
        "test/scratch/right/0.png": masks[1],
    }
    assert category.unused == () and category.has_masks


def test_a_flat_mask_of_an_ambiguous_name_is_not_guessed(tmp_path):
    add_pictures(tmp_path / "train" / "good", "0.png")
    add_pictures(tmp_path / "test" / "good", "0.png")
    for camera in ("left", "right"):
        add_pictures(tmp_path / "test" / "scratch" / camera, "0.png")
    save(mask(), tmp_path / "ground_truth" / "scratch" / "0_mask.png")
    category = read_category("set", "part", tmp_path)
    assert len(category.missing_masks) == 2
    assert [str(each) for each in category.unused] == [
        "not used: 1 file in ground_truth (no mask of a defective test picture by its name)"
    ]


@pytest.fixture
def no_heic(monkeypatch):
    """As where the extra `heic` is not installed."""
    folders.picture_suffixes.cache_clear()
    monkeypatch.setattr(folders, "formats", lambda: FORMATS)
    yield
    folders.picture_suffixes.cache_clear()


def test_whatever_is_not_used_is_said(tmp_path, no_heic):
    train, test = tmp_path / "train", tmp_path / "test"
    add_pictures(train / "good", "0.png")
    add_pictures(train / "good" / "NG", "1.png")
    add_pictures(train / "scratch", "0.png", "1.png")
    add_pictures(train, "loose.png")
    (train / "good" / "notes.txt").write_text("not a picture")
    (train / "good" / "photo.HEIC").write_bytes(b"heic")
    add_pictures(test / "good", "0.png")
    add_pictures(test / "scratch", "0.png")
    add_pictures(tmp_path / "validation" / "good", "0.png", "1.png", "2.png")
    add_pictures(tmp_path, "overview.png")
    save(mask(), tmp_path / "ground_truth" / "scratch" / "7_mask.png")
    for junk in (".DS_Store", "Thumbs.db", "._0.png", "__MACOSX/0.png"):
        (train / "good" / junk).parent.mkdir(exist_ok=True)
        (train / "good" / junk).write_bytes(b"junk")
    category = read_category("set", "part", tmp_path)
    assert names(category.train) == ["train/good/0.png"]
    assert {(each.folder, each.files, each.reason) for each in category.unused} == {
        ("train/good/NG", 1, "contradiction"),
        ("train/scratch", 2, "unnamed"),
        ("train", 1, "beside"),
        ("train/good", 1, "no_picture"),
        ("train/good", 1, "heic"),
        ("validation", 3, "elsewhere"),
        ("part", 1, "elsewhere"),
        ("ground_truth", 1, "no_match"),
    }
    assert all(UNUSED_REASONS[each.reason] in str(each) for each in category.unused)


def test_label_pictures_beside_pictures(tmp_path):
    add_pictures(
        tmp_path / "train" / "good", "Part1.jpg", "Part1_label.bmp", "Part2.jpg", "Part2_GT.png", "my_mask.png"
    )
    add_pictures(tmp_path / "test" / "good", "Part3.jpg", "Part3_label.bmp")
    add_pictures(tmp_path / "test" / "crack", "Part4.jpg", "Part4_label.bmp")
    category = read_category("set", "part", tmp_path)
    assert names(category.train) == ["train/good/Part1.jpg", "train/good/Part2.jpg", "train/good/my_mask.png"]
    assert [(s.name, s.mask and s.mask.name) for s in category.test] == [
        ("test/crack/Part4.jpg", "Part4_label.bmp"),
        ("test/good/Part3.jpg", None),
    ]
    found = {(each.folder, each.files, each.reason) for each in category.unused}
    assert found == {("train/good", 2, "label"), ("test/good", 1, "label")}


def test_pictures_straight_in_the_train_folder_are_good(tmp_path):
    add_pictures(tmp_path / "train", "0.png", "1.png")
    add_pictures(tmp_path / "train" / "NG", "2.png")
    category = read_category("set", "part", tmp_path)
    assert names(category.train) == ["train/good/0.png", "train/good/1.png"]
    assert [each.reason for each in category.unused] == ["defective"]


def test_unclear_folders_are_refused_with_both_readings(tmp_path):
    add_pictures(tmp_path / "one" / "train" / "fine", "0.png")
    add_pictures(tmp_path / "one" / "train" / "other", "0.png")
    with pytest.raises(ValueError, match=r"two ways.*fine, other.*--normal-folder NAME.*called good"):
        read_category("set", "one", tmp_path / "one")
    assert names(read_category("set", "one", tmp_path / "one", "Fine").train) == ["train/fine/0.png"]
    add_pictures(tmp_path / "two" / "train" / "good", "0.png")
    add_pictures(tmp_path / "two" / "test" / "fine", "0.png")
    add_pictures(tmp_path / "two" / "test" / "scratch", "0.png")
    with pytest.raises(ValueError, match=r"two ways.*fine, scratch.*--normal-folder NAME.*--normal-folder good"):
        read_category("set", "two", tmp_path / "two")
    assert [s.label for s in read_category("set", "two", tmp_path / "two", "good").test] == [1, 1]
    assert [s.label for s in read_category("set", "two", tmp_path / "two", "fine").test] == [0, 1]


def test_where_the_name_given_is_beside_the_usual_one_it_alone_counts(tmp_path):
    for name in ("fine", "good", "crack"):
        add_pictures(tmp_path / "test" / name, "0.png")
    found = {s.name: (s.label, s.defect_type) for s in read_category("set", "part", tmp_path, "fine").test}
    assert found == {
        "test/fine/0.png": (0, "good"),
        "test/good/0.png": (1, "good (defective)"),
        "test/crack/0.png": (1, "crack"),
    }


def test_a_name_given_that_is_nowhere_is_refused(tmp_path):
    add_pictures(tmp_path / "part" / "test" / "ok", "0.png")
    with pytest.raises(ValueError, match=r"no folder in .* is called okk: check --normal-folder"):
        find_labelled(tmp_path, "okk")


@pytest.mark.parametrize("name", ["good_rotated", "ok_front", "test_ok"])
def test_a_test_folder_that_may_contain_good_parts_is_refused(tmp_path, name):
    for folder in ("good", name):
        add_pictures(tmp_path / "test" / folder, "0.png")
    with pytest.raises(ValueError, match=f"two ways.*among {name}.*--normal-folder good"):
        read_category("set", "part", tmp_path)
    assert {s.label for s in read_category("set", "part", tmp_path, name).test} == {0, 1}


def test_days_around_good_and_bad(tmp_path):
    for day in ("2026-01-31", "2026-02-01"):
        for split in ("train", "test"):
            add_pictures(tmp_path / split / day / "good", "0.png")
            add_pictures(tmp_path / split / day / "scratch", "0.png")
    category = read_category("set", "part", tmp_path)
    assert names(category.train) == ["train/2026-01-31/good/0.png", "train/2026-02-01/good/0.png"]
    assert [(s.name, s.label) for s in category.test] == [
        ("test/2026-01-31/good/0.png", 0),
        ("test/2026-01-31/scratch/0.png", 1),
        ("test/2026-02-01/good/0.png", 0),
        ("test/2026-02-01/scratch/0.png", 1),
    ]
    assert [each.reason for each in category.unused] == ["unnamed", "unnamed"]


def test_folders_of_labels_are_no_parts(tmp_path):
    for folder in ("train/good/images", "train/good/masks", "test/crack/labels", "test/masks", "test/good"):
        add_pictures(tmp_path / folder, "0.png")
    add_pictures(tmp_path / "test" / "crack", "0.png")
    category = read_category("set", "part", tmp_path)
    assert names(category.train) == ["train/good/images/0.png"]
    assert names(category.test) == ["test/crack/0.png", "test/good/0.png"]
    assert sorted((each.folder, each.reason) for each in category.unused) == [
        ("test/crack/labels", "label"),
        ("test/masks", "label"),
        ("train/good/masks", "label"),
    ]


def test_names_that_contradict_each_other_in_the_test(tmp_path):
    for folder in ("good", "good/ng", "crack", "crack/ok"):
        add_pictures(tmp_path / "test" / folder, "0.png")
    category = read_category("set", "part", tmp_path)
    assert names(category.test) == ["test/crack/0.png", "test/good/0.png"]
    assert {(each.folder, each.reason) for each in category.unused} == {
        ("test/good/ng", "contradiction"),
        ("test/crack/ok", "contradiction"),
    }


def test_masks_by_other_names_and_no_mask_for_two_pictures(tmp_path):
    add_pictures(tmp_path / "test" / "good", "0.png")
    add_pictures(tmp_path / "test" / "crack", "a.png", "b.png", "c.png", "c.jpg")
    truth = tmp_path / "ground_truth" / "crack"
    for name in ("A_GT.png", "b_MASK.png", "c_mask.png"):
        save(mask(), truth / name)
    found = {s.name: s.mask and s.mask.name for s in read_category("set", "part", tmp_path).test if s.label}
    assert found == {
        "test/crack/a.png": "A_GT.png",
        "test/crack/b.png": "b_MASK.png",
        "test/crack/c.jpg": None,
        "test/crack/c.png": None,
    }


def test_a_category_may_be_called_test(tmp_path):
    for name in ("screw", "test"):
        add_pictures(tmp_path / name / "train" / "good", "0.png")
    assert sorted(category_folders(tmp_path)) == ["screw", "test"]


def test_files_that_were_unpacked_wrongly_are_named(tmp_path):
    add_pictures(tmp_path, "screw\\test\\crack\\0.png")
    with pytest.raises(ValueError, match="unpacked wrongly"):
        read_plain(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_names_that_are_no_utf_8_can_be_written(tmp_path):
    """Such a name ended a training after its last epoch, in the table of the scores."""
    good = tmp_path / "train" / "good"
    add_pictures(good, "0.png")
    os.rename(good / "0.png", os.fsencode(good) + b"/sch\xf6n.png")
    [sample] = read_category("set", "part", tmp_path).train
    assert sample.name == "train/good/sch\\xf6n.png" and sample.name.encode()
    assert sample.read().size == SIZE[::-1]


def test_links_are_followed_but_not_in_circles(tmp_path):
    add_pictures(tmp_path / "archive", "0.png")
    (tmp_path / "part" / "train" / "good").mkdir(parents=True)
    (tmp_path / "part" / "train" / "good" / "monday").symlink_to(tmp_path / "archive")
    (tmp_path / "archive" / "again").symlink_to(tmp_path / "archive")
    assert names(read_category("set", "part", tmp_path / "part").train) == ["train/good/monday/0.png"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_closed_folder_is_an_error(tmp_path):
    add_pictures(tmp_path / "train" / "good", "0.png")
    (tmp_path / "train" / "good").chmod(0)
    with pytest.raises(ValueError, match="cannot be read"):
        read_category("set", "part", tmp_path)


# --- plain folders


@pytest.mark.parametrize(("good", "bad"), [("Good", "Bad"), ("ok", "ng"), ("normal", "abnormal"), ("OK", "NOK")])
def test_a_sibling_called_bad_is_never_trained_on(tmp_path, good, bad):
    add_pictures(tmp_path / good, "0.png", "1.png")
    add_pictures(tmp_path / bad, "2.png")
    category = only(list(read_plain(tmp_path).values()))
    assert names(category.train) == [f"train/{good}/0.png", f"train/{good}/1.png"]
    assert [(each.files, each.reason) for each in category.unused] == [(1, "defective")]


def test_days_are_not_categories(tmp_path):
    for day in ("2026-01-31", "20260201"):
        add_pictures(tmp_path / day, "0.png")
    category = only(list(read_plain(tmp_path).values()))
    assert (category.name, names(category.train)) == (
        tmp_path.name,
        ["train/good/2026-01-31/0.png", "train/good/20260201/0.png"],
    )


@pytest.mark.parametrize(
    "folders",
    [
        *(
            ("washer", "bad"),
            ("0", "1"),
            ("cam", "bad", "lid"),
            ("screw_good", "screw_bad"),
            ("ok_front", "def_front"),
        ),
        *(("Class1", "Class1_def"), ("nut", "nut_anomaly")),
    ],
)
def test_plain_folders_that_can_be_read_in_two_ways(tmp_path, folders):
    for name in folders:
        add_pictures(tmp_path / name, "0.png")
    with pytest.raises(ValueError, match=r"two ways.*--normal-folder"):
        read_plain(tmp_path)
    category = only(list(read_plain(tmp_path, folders[0]).values()))
    assert names(category.train) == [f"train/{folders[0]}/0.png"]
    assert sum(each.files for each in category.unused) == len(folders) - 1


def test_a_folder_called_bad_is_not_trained_on(tmp_path):
    add_pictures(tmp_path / "NG", "0.png")
    with pytest.raises(ValueError, match="by its name a folder of defective parts"):
        read_plain(tmp_path / "NG")


def test_a_data_set_one_level_below_is_named(tmp_path):
    add_pictures(tmp_path / "mvtec" / "screw" / "train" / "good", "0.png")
    with pytest.raises(ValueError, match=r"contains the data set mvtec: give --data-root .*mvtec"):
        read_plain(tmp_path)


def test_images_and_masks_side_by_side(tmp_path):
    for name in ("images", "masks"):
        add_pictures(tmp_path / name, "0.png")
    category = only(list(read_plain(tmp_path).values()))
    assert names(category.train) == ["train/good/images/0.png"] and category.unused[0].reason == "label"


def test_good_parts_in_heic_alone_are_not_replaced_by_others(tmp_path, no_heic):
    (tmp_path / "good").mkdir()
    (tmp_path / "good" / "0.heic").write_bytes(b"heic")
    add_pictures(tmp_path / "scratch", "0.png")
    category = only(list(read_plain(tmp_path).values()))
    assert category.train == () and {each.reason for each in category.unused} == {"heic", "unnamed"}


def test_pictures_beside_a_folder_without_a_meaning(tmp_path):
    add_pictures(tmp_path, "0.png")
    add_pictures(tmp_path / "scratch", "0.png")
    with pytest.raises(ValueError, match=r"two ways.*scratch"):
        read_plain(tmp_path)
    assert list(read_plain(tmp_path, several=True)) == ["scratch"]


# --- labelled pictures, and pictures in general


def test_examples_are_labelled_by_their_names(tmp_path):
    add_pictures(tmp_path / "set" / "part", "good.png", "OK_2.png", "scratch.png", "ng.png")
    category = only(find_shown(tmp_path))
    assert {s.name: s.label for s in category.test} == {"good.png": 0, "OK_2.png": 0, "scratch.png": 1, "ng.png": 1}


def test_labelled_folders_with_other_names(tmp_path):
    add_pictures(tmp_path / "lid" / "Test" / "ok", "0.png", "1.png")
    add_pictures(tmp_path / "lid" / "Test" / "ng", "2.png")
    assert [s.label for s in only(find_labelled(tmp_path)).test] == [1, 0, 0]


def test_training_reads_what_predict_reads(tmp_path):
    files = [f"0.{kind}" for kind in ("png", "jfif", "pgm", "ppm", "jp2", "avif", "gif", "heic", "tif", "webp", "bmp")]
    for name in files:
        picture(0, (64, 64)).save(tmp_path / name)
    category = only(list(read_plain(tmp_path).values()))
    assert {sample.name.removeprefix("train/good/") for sample in category.train} == set(files)
    assert {sample.read().size for sample in category.train} == {(64, 64)}


def test_pictures_in_folders_are_found_without_junk(tmp_path):
    for name in ("a.png", "b.JFIF", "c.pgm", "d.jp2", "._a.png", "e.txt"):
        (tmp_path / name).write_bytes(b"")
    for folder in ("__MACOSX", ".hidden", "deep/er"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "z.png").write_bytes(b"")
    (tmp_path / "given.txt").write_bytes(b"")
    found = find_pictures([tmp_path, tmp_path / "given.txt"])
    assert [path.relative_to(tmp_path).as_posix() for path in found] == [
        *("a.png", "b.JFIF", "c.pgm", "d.jp2", "deep/er/z.png", "given.txt"),
    ]
