"""The sanity report, on small generated pictures with something wrong."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from real_data import real_folder
from small_pictures import SIZE, add_category, add_pictures, find, mask, names, only, picture, save

from hubmodels import samples
from training import sanity
from training.data import open_categories
from training.sanity import find_copies, inspect_category


@pytest.fixture
def category_folder(tmp_path):
    return add_category(tmp_path)


def test_a_sound_category_passes_unchanged(category_folder):
    category = only(open_categories(category_folder))
    inspected, report = inspect_category(category)
    assert inspected == category
    assert report.counts == {"train": {"good": 3}, "test": {"bent": 1, "crack": 2, "good": 2}}
    assert report.sizes == {SIZE: 3}
    assert not (report.unreadable or report.copies or report.leaks or report.missing_masks or report.bad_masks)
    assert not report.unused
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


def test_copies_and_leaks(category_folder):
    first = (category_folder / "train" / "good" / "000.png").read_bytes()
    (category_folder / "train" / "good" / "009.png").write_bytes(first)
    (category_folder / "test" / "good" / "001.png").write_bytes(first)
    _, report = inspect_category(only(open_categories(category_folder)))
    assert report.copies == [["train/good/000.png", "train/good/009.png"]]
    assert report.leaks == [("train/good/000.png", "test/good/001.png")]
    text = "\n".join(report.lines())
    assert "train/good/000.png = train/good/009.png" in text
    assert "LEAK: 1 test pictures" in text


def smooth(seed, size=(240, 300)):
    """A picture as cameras take them: neighbours are alike, so that it can be scaled."""
    coarse = np.random.default_rng(seed).uniform(20, 235, (6, 8)).astype(np.uint8)
    return Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC).convert("RGB")


def noisy(image, deviation, seed=0):
    noise = np.random.default_rng(seed).normal(0, deviation, (*image.size[::-1], 3))
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))


def test_near_copies_are_found_also_by_way_of_others(category_folder):
    good = category_folder / "train" / "good"
    part = smooth(1)
    save(part, good / "a.png")
    part.save(good / "b.jpg", quality=90)
    save(part.resize((225, 180)), good / "c.bmp")
    save(noisy(part, 3), good / "d.png")
    save(smooth(2), good / "other.png")
    _, report = inspect_category(only(open_categories(category_folder)))
    assert report.copies == [["train/good/a.png", "train/good/b.jpg", "train/good/c.bmp", "train/good/d.png"]]
    line = next(line for line in report.lines() if "copies" in line)
    assert line.startswith(
        "1 groups of copies in the training pictures, each counted as one picture: train/good/a.png"
    )


def test_copies_are_found_in_large_sets_too(monkeypatch):
    monkeypatch.setattr(sanity, "CHUNK", 3)
    values = np.random.default_rng(0).normal(0, 30, (10, 16)).astype(np.float32)
    values[7] = values[1] + 1
    values[9] = values[7] + 1
    assert find_copies({f"{i}": row for i, row in enumerate(values)}) == [["1", "7", "9"]]


def test_parts_that_are_much_alike_are_no_copies(category_folder):
    """Low contrast and noise: each is as far from the others as all are."""
    good = category_folder / "train" / "good"
    for path in good.iterdir():
        path.unlink()
    plain = Image.new("RGB", (256, 256), (120, 120, 120))
    for seed in range(8):
        save(noisy(plain, 12, seed), good / f"{seed}.png")
    save(noisy(plain, 12, 0), good / "again.png")
    _, report = inspect_category(only(open_categories(category_folder)))
    assert report.copies == [["train/good/0.png", "train/good/again.png"]]


def test_copies_of_one_picture_are_refused_before_training(category_folder):
    good = category_folder / "train" / "good"
    for path in good.iterdir():
        save(smooth(1), path)
    with pytest.raises(ValueError, match="all training pictures are copies of one"):
        inspect_category(only(open_categories(category_folder)))


def test_a_label_that_marks_a_defect_in_a_training_picture(category_folder):
    good = category_folder / "train" / "good"
    save(Image.new("L", SIZE[::-1]), good / "000_label.png")
    save(mask(), good / "001_label.png")
    category = only(open_categories(category_folder))
    assert len(category.train) == 3
    with pytest.raises(ValueError, match=r"001\.png: its label marks a defect"):
        inspect_category(category)
    inspected, _ = inspect_category(category, skip_bad=True)
    assert names(inspected.train) == ["train/good/000.png", "train/good/002.png"]


def test_as_many_masks_as_parts_are_noticed(category_folder):
    good = category_folder / "train" / "good"
    for index in range(3):
        save(mask(), good / f"1{index}.png")
    with pytest.raises(ValueError, match="3 training pictures cannot be read"):
        inspect_category(only(open_categories(category_folder)))


@pytest.mark.parametrize("values", [(0, 255), (0, 1), (80, 80)])
def test_a_mask_or_an_empty_picture_among_parts_is_refused(category_folder, values):
    pixels = np.full((40, 48), values[0], np.uint8)
    pixels[10:20, 10:20] = values[1]
    save(Image.fromarray(pixels), category_folder / "train" / "good" / "odd.png")
    category = only(open_categories(category_folder))
    with pytest.raises(ValueError, match=r"odd\.png: it has only two grey values, so it looks like a mask"):
        inspect_category(category)
    inspected, report = inspect_category(category, skip_bad=True)
    assert "train/good/odd.png" not in names(inspected.train) and list(report.unreadable) == ["train/good/odd.png"]


def test_parts_that_have_only_two_grey_values_are_no_masks(tmp_path):
    for index in range(3):
        save(mask(SIZE, 100 + index), tmp_path / "set" / "blank" / "train" / "good" / f"{index}.png")
    inspected, report = inspect_category(only(open_categories(tmp_path / "set")))
    assert len(inspected.train) == 3 and not report.unreadable


def test_what_is_not_used_is_in_the_report(category_folder):
    add_pictures(category_folder / "train" / "bad", "000.png")
    _, report = inspect_category(only(open_categories(category_folder)))
    assert report.lines()[-1] == "not used: 1 file in train/bad (defective parts are not trained on)"


@pytest.mark.parametrize(
    "folder",
    [
        *("mvtec_ad/screw", "mvtec_ad/bottle", "mvtec_ad/capsule", "magnetic_tile/magnetic_tile"),
        *("elpv/solar_cell_mono", "kolektor_sdd/commutator"),
    ],
)
def test_different_real_parts_are_no_copies_and_no_masks(folder):
    category = only(open_categories(real_folder(f"data/{folder}")))
    _, report = inspect_category(replace(category, train=category.train[:80], test=()))
    assert not report.copies and not report.unreadable


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
