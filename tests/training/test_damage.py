"""Damaged pictures: where the damage is, what it looks like, and the bank of features made of them."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from hubmodels.front_end import align
from hubmodels.hybrid import Hybrid
from training import damage
from training.batches import FeatureCache, extract
from training.damage import AUGMENTED, KINDS, DamagedPictures, kept_bank, make_bank, pictures_of
from training.synthesis import TextureSource

SIZE, GRID = 64, (8, 8)


def stripes(count):
    """Pictures (n, 3, S, S) with stripes, so that every kind of damage changes something."""
    y = torch.arange(SIZE)[:, None].expand(SIZE, SIZE)
    shifted = torch.stack([127 + 100 * torch.sin((y + 3 * i) / 2.5) for i in range(count)])
    return shifted[:, None].expand(-1, 3, -1, -1).round().to(torch.uint8).contiguous()


def make_pictures(count=3, foregrounds=None, seed=0):
    return DamagedPictures(stripes(count), TextureSource(SIZE), foregrounds, GRID, seed)


def test_each_picture_gets_each_kind_and_few_pictures_more_often():
    plan = make_pictures(3).plan
    assert len(plan) == len(set(plan)) == 3 * 10
    assert [sum(kind == k for kind, _, _ in plan) for k in (*KINDS, AUGMENTED)] == [12, 6, 6, 6]
    assert len(make_pictures(damage.FEW).plan) == 5 * damage.FEW


def test_of_many_pictures_some_are_damaged(monkeypatch):
    monkeypatch.setattr(damage, "MOST", 5)
    monkeypatch.setattr(damage, "FEW", 2)
    first, second = (DamagedPictures(stripes(9), TextureSource(SIZE), None, GRID, seed).plan for seed in (0, 1))
    assert len(first) == 5 * 5
    assert {i for _, _, i in first} != {i for _, _, i in second}


def test_damage_is_inside_its_mask_and_on_the_part():
    part = np.zeros((SIZE, SIZE), bool)
    part[8:40, 8:40] = True
    pictures = make_pictures(3, [part] * 3)
    for index, (kind, _, i) in enumerate(pictures.plan):
        changed = (pictures[index]["image"] != pictures.images[i]).any(0).numpy()
        assert changed.any(), kind
        if kind == AUGMENTED:
            continue
        reach = 13 if kind == "tone" else 0  # its mask has soft edges: four deviations of 3 pixels
        rows, columns = changed.nonzero()
        assert min(rows.min(), columns.min()) >= 8 - reach and max(rows.max(), columns.max()) < 40 + reach, kind
        assert not pictures[index]["covered"][:, 5:].any()


def test_an_oblong_picture_is_damaged_at_its_place():
    part = np.zeros((64, 160), bool)
    part[8:40, 90:150] = True
    images = torch.randint(0, 256, (3, 3, 64, 160), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pictures = DamagedPictures(images, TextureSource((64, 160)), [part] * 3, (8, 20), 0)
    for index, (kind, _, i) in enumerate(pictures.plan):
        changed = (pictures[index]["image"] != images[i]).any(0).numpy()
        assert changed.any() and pictures[index]["covered"].shape == (8, 20), kind
        if kind == AUGMENTED:
            continue
        assert not changed[:, : 90 - 13].any() and not changed[53:].any(), kind
        assert not pictures[index]["covered"][:, :11].any()


@pytest.mark.parametrize(("size", "fewest_quarters"), [((64, 160), 0), ((160, 64), 0), ((64, 64), 5)])
def test_a_paste_turns_squares_by_quarters_and_other_pictures_by_halves(size, fewest_quarters):
    """In the picture all pixels of a row are equal. After a quarter turn they differ, and never otherwise."""
    image = np.repeat(np.arange(size[0], dtype=np.float32)[:, None, None] / size[0], size[1], axis=1).repeat(3, axis=2)
    source, quarters = SimpleNamespace(alike=lambda index: [0], pixels=lambda index: image), 0
    for seed in range(30):
        pasted = damage.paste(image, np.ones(size, bool), np.random.default_rng(seed), source, 0)
        assert pasted.shape == image.shape
        quarters += np.ptp(pasted, axis=1).max() > 0.01
    assert quarters >= fewest_quarters and bool(quarters) == bool(fewest_quarters)


def test_a_covered_cell_is_covered_by_a_quarter(monkeypatch):
    mask = np.zeros((SIZE, SIZE), bool)
    mask[:8, :2] = mask[:8, 8:9] = True  # a quarter of the first cell, an eighth of the second
    monkeypatch.setattr(DamagedPictures, "_mask", lambda self, i, rng: mask)
    covered = make_pictures()[0]["covered"]
    assert covered[0, 0] and covered.sum() == 1


def test_a_damaged_picture_is_a_function_of_seed_and_index_in_any_process():
    pictures = make_pictures()
    loader = DataLoader(make_pictures(), 4, num_workers=2)
    damaged = torch.cat([batch["image"] for batch in loader])
    assert torch.equal(damaged, torch.stack([pictures[i]["image"] for i in range(len(pictures))]))
    other = make_pictures(seed=1)
    assert not torch.equal(damaged[0], other[0]["image"])


@pytest.fixture
def detector(make_detector):
    return make_detector(Hybrid, image_size=SIZE)


def test_the_bank_has_the_features_of_covered_cells(detector):
    pictures = make_pictures()
    expected = {(kind, i): [] for kind in (*KINDS, AUGMENTED) for i in range(3)}
    for index, (kind, _, i) in enumerate(pictures.plan):
        features = align(extract(detector, pictures[index]["image"][None]))[0]
        expected[kind, i].append(features[:, pictures[index]["covered"]].T)
    bank = make_bank(detector, pictures)
    for (kind, i), rows in expected.items():
        rows, found = torch.cat(rows), bank[kind][bank[pictures_of(kind)] == i]
        assert len(found) == len(rows) > 0
        assert torch.cdist(found, rows).amin(1).max() < 1e-2  # in any order


def test_an_augmented_picture_is_moved_and_lit_a_little():
    """A square stays near its place; a grey picture becomes brighter or darker, and brighter along one line."""
    image = np.full((100, 200, 3), 0.4, np.float32)
    for seed in range(20):
        augmented = damage.augment(image, np.random.default_rng(seed))
        assert 0.4 * 0.8 * 0.97 <= augmented.mean() <= 0.4 * 1.2 * 1.03
        assert abs(augmented[:, :100].mean() + augmented[:, 100:].mean() - 2 * augmented.mean()) < 0.01
        assert augmented.max() / augmented.min() < 2.2
    image = np.zeros((100, 200, 3), np.float32)
    image[45:55, 95:105] = 1
    moved = [damage.augment(image, np.random.default_rng(seed)) for seed in range(20)]
    places = np.array([np.argwhere(each[..., 0] > 0.3).mean(0) for each in moved])
    rows, columns = abs(places - (49.5, 99.5)).max(0)
    assert 2 < rows < 5.5 and 4 < columns < 9.5


def test_all_cells_of_an_augmented_picture_count():
    pictures = make_pictures()
    index = [kind for kind, _, _ in pictures.plan].index(AUGMENTED)
    assert pictures[index]["covered"].all()


def test_damage_shows_nothing_of_another_fold():
    """Pictures of each fold have one grey value, so what is pasted says where it comes from."""
    images = torch.tensor([10, 10, 200, 200], dtype=torch.uint8)[:, None, None, None].expand(4, 3, SIZE, SIZE)
    pictures = DamagedPictures(images.contiguous(), TextureSource(SIZE), None, GRID, 0, folds=(0, 0, 1, 1))
    pasted = [(i, pictures[index]["image"]) for index, (kind, _, i) in enumerate(pictures.plan) if kind == "paste"]
    assert all((damaged == images[i]).all() for i, damaged in pasted)
    mixed = DamagedPictures(images.contiguous(), TextureSource(SIZE), None, GRID, 0)
    assert any(
        (mixed[index]["image"] != images[i]).any() for index, (k, _, i) in enumerate(mixed.plan) if k == "paste"
    )


def test_the_bank_is_bounded(detector, monkeypatch):
    monkeypatch.setattr(damage, "LARGEST", 12)
    bank = make_bank(detector, make_pictures())
    assert all(len(rows) <= 12 for rows in bank.values())


def test_a_bank_is_kept_for_the_same_settings(tmp_path):
    path, made = tmp_path / "bank.safetensors", []

    def make():
        made.append(torch.rand(2, 3))
        return {"texture": made[-1]}

    first = kept_bank(path, {"seed": 0}, make)
    again = kept_bank(path, {"seed": 0}, make)
    assert len(made) == 1 and torch.equal(first["texture"], again["texture"])
    other = kept_bank(path, {"seed": 1}, make)
    assert len(made) == 2 and torch.equal(other["texture"], made[1])
    assert not list(tmp_path.glob("*.partial"))


def test_a_bank_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(OSError, match=r"cannot write .*free some disk space"):
        kept_bank(tmp_path / "gone" / "bank.safetensors", {}, lambda: {"texture": torch.rand(2, 3)})


def test_patches_are_sampled_from_all_pictures_alike():
    layers = [torch.arange(4.0)[:, None, None, None].expand(4, 2, 6, 6).contiguous(), torch.zeros(4, 2, 3, 3)]
    cache = FeatureCache(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), layers, in_memory=True)
    rows = cache.sample(20)
    assert rows.shape == (20, 4) and rows[:, 0].unique(return_counts=True)[1].tolist() == [5, 5, 5, 5]
    assert len(cache.sample(10**6)) == 4 * 36
