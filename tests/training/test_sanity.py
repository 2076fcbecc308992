"""The sanity report, on small generated pictures with something wrong."""

import json
import shutil

import pytest
from PIL import Image
from small_pictures import SIZE, add_category, add_pictures, find, mask, names, only, picture, save

from hubmodels import samples
from training.data import open_categories
from training.sanity import inspect_category


@pytest.fixture
def category_folder(tmp_path):
    return add_category(tmp_path)


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


def test_a_test_picture_without_bytes_is_left_out_and_named(category_folder):
    category = only(open_categories(category_folder))
    (category_folder / "test" / "crack" / "001.png").unlink()
    with pytest.raises(ValueError, match=r"test/crack/001\.png cannot be read.*--skip-bad"):
        inspect_category(category)
    inspected, report = inspect_category(category, skip_bad=True)
    assert names(inspected.test) == [name for name in names(category.test) if name != "test/crack/001.png"]
    assert list(report.unreadable) == ["test/crack/001.png"]
    assert any("1 unreadable pictures left out: test/crack/001.png" in line for line in report.lines())


def test_two_readable_training_pictures_are_needed(category_folder):
    for name in ("001.png", "002.png"):
        (category_folder / "train" / "good" / name).write_bytes(b"")
    with pytest.raises(ValueError, match="1 readable training pictures"):
        inspect_category(only(open_categories(category_folder)), skip_bad=True)


def test_the_digest_is_of_the_names_and_bytes_of_the_training_pictures_kept(category_folder, tmp_path):
    def digest(folder):
        return inspect_category(only(open_categories(folder)), skip_bad=True)[1].train_sha256

    original, good = digest(category_folder), category_folder / "train" / "good"
    assert digest(shutil.copytree(category_folder, tmp_path / "elsewhere" / "metal_nut")) == original
    (good / "torn.png").write_bytes(b"no picture")
    (category_folder / "test" / "good" / "000.png").unlink()
    assert digest(category_folder) == original
    (good / "002.png").rename(good / "003.png")
    renamed = digest(category_folder)
    picture(5).save(good / "003.png")
    assert len({original, renamed, digest(category_folder)}) == 3


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
    assert "3 masks to check (no pixel metrics" in report.lines()[-1]


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

    read_picture = samples.read_picture
    monkeypatch.setattr(samples, "read_picture", record)
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
