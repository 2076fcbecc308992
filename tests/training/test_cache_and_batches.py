"""Cached features equal fresh ones, in memory and memory-mapped; batches cover every picture once per epoch."""

import numpy as np
import pytest
import torch

from hubmodels import SimpleNet
from hubmodels.front_end import align
from training import batches as module
from training.batches import BatchPlan, LocalSynthesis, TrainingItems, build_cache, make_loader, seed_of
from training.synthesis import TextureSource


@pytest.fixture
def images():
    return torch.randint(0, 256, (5, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("fits", [True, False])
def test_cached_features_equal_fresh_ones(fits, images, make_detector, tmp_path, monkeypatch):
    detector = make_detector(SimpleNet)
    monkeypatch.setattr(module, "available_memory", lambda: 10**12 if fits else 1)
    cache = build_cache(detector, images, tmp_path)
    chosen = torch.tensor([3, 0])
    fresh = align(detector.front_end(images[chosen].float() / 255))
    assert cache.features(chosen, torch.device("cpu")).allclose(fresh, atol=1e-5)
    assert cache.in_memory == fits
    assert len(list(tmp_path.glob("features*.bin"))) == (0 if fits else 2)


def test_processes_of_one_machine_share_its_memory(monkeypatch):
    monkeypatch.setattr(module, "available_memory", lambda: 800)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert module.memory_budget() == 400
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert module.memory_budget() == 100


def test_mixed_precision_ends_with_the_backbone(images, make_detector):
    """Its maps are bf16, as their coarse values show; what is made of them is computed in float32."""
    detector, seen = make_detector(SimpleNet), []
    hook = detector.front_end.backbone.network.register_forward_hook(
        lambda _, __, maps: seen.extend(m.dtype for m in maps)
    )
    try:
        features = module.extract(detector, images, "bf16")
    finally:
        hook.remove()
    assert set(seen) == {torch.bfloat16}
    assert {f.dtype for f in features} == {torch.float32}
    exact = module.extract(detector, images)
    assert all(f.allclose(e, atol=0.05) and not f.equal(e) for f, e in zip(features, exact, strict=True))


def test_large_images_go_through_the_network_few_at_a_time(make_detector, monkeypatch):
    detector, images = make_detector(SimpleNet), torch.randint(0, 256, (5, 3, 64, 64), dtype=torch.uint8)
    together = module.extract(detector, images)
    sizes, maps = [], detector.front_end.feature_maps
    monkeypatch.setattr(detector.front_end, "feature_maps", lambda some: sizes.append(len(some)) or maps(some))
    monkeypatch.setattr(module, "PASS_PIXELS", 2 * 64 * 64)
    apart = module.extract(detector, images)
    assert sizes == [2, 2, 1]
    assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(together, apart, strict=True))


def test_chosen_patches_are_those_of_the_whole_maps(images, make_detector, tmp_path):
    cache = build_cache(make_detector(SimpleNet), images, tmp_path)
    indices, places = torch.tensor([3, 0]), torch.tensor([[0, 9, 63], [5, 5, 1]])
    whole = cache.features(indices, torch.device("cpu")).flatten(2)
    chosen = cache.features(indices, torch.device("cpu"), places)
    assert cache.patches == 64 and chosen.shape == (2, whole.shape[1], 3, 1)
    for picture, row in enumerate(places.tolist()):
        assert torch.equal(chosen[picture, :, :, 0], whole[picture][:, row])


def test_large_pictures_give_other_patches_in_each_epoch(monkeypatch):
    monkeypatch.setattr(module, "STEP_PATCHES", 10)
    items = TrainingItems(None, patches=64, seed=1)
    first, again, later = (items[epoch, 3]["places"].tolist() for epoch in (0, 0, 1))
    assert items.chosen == 10 and first == again == sorted(set(first)) and len(first) == 10
    assert first != later and max(first + later) < 64
    seen = {place for epoch in range(60) for place in items[epoch, 3]["places"].tolist()}
    assert seen == set(range(64))
    assert "places" not in TrainingItems(None, patches=10, seed=1)[0, 3]


def test_mean_and_rms_are_over_all_pictures(images, make_detector, tmp_path):
    detector = make_detector(SimpleNet)
    cache = build_cache(detector, images, tmp_path)
    features = align(detector.front_end(images.float() / 255))
    assert cache.mean(torch.device("cpu")).allclose(features.mean(0), atol=1e-5)
    assert cache.rms() == pytest.approx(features.square().mean().sqrt().item(), rel=1e-4)


@pytest.mark.parametrize(("pictures", "batch_size", "processes"), [(10, 4, 1), (10, 4, 2), (9, 2, 3), (3, 8, 2)])
def test_each_epoch_covers_every_picture(pictures, batch_size, processes):
    plans = [BatchPlan(pictures, batch_size, 2, 0, rank=r, processes=processes) for r in range(processes)]
    batches = [list(plan) for plan in plans]
    assert len({len(b) for b in batches}) == 1  # as many steps on every process, or they would wait for each other
    for epoch in range(2):
        seen = [i for plan_batches in batches for batch in plan_batches for e, i in batch if e == epoch]
        assert set(seen) == set(range(pictures))
        if processes == 1:
            assert len(seen) == pictures


def test_a_plan_that_starts_later_is_the_rest_of_the_whole():
    whole = list(BatchPlan(10, 4, 3, seed=7))
    assert list(BatchPlan(10, 4, 3, seed=7, first_epoch=1)) == whole[3:]
    assert list(BatchPlan(10, 4, 3, seed=8)) != whole


def test_synthesis_depends_on_seed_epoch_and_picture_alone(images):
    synthesis = LocalSynthesis(images, TextureSource(64), None, (8, 8), seed=1)
    first, again = synthesis(2, 3), synthesis(2, 3)
    assert torch.equal(first["augmented"], again["augmented"])
    assert not torch.equal(first["augmented"], synthesis(3, 3)["augmented"])
    assert first["patch_label"].any() and first["augmented"].dtype == torch.uint8
    far = torch.nn.functional.interpolate(first["patch_label"][None, None].float(), 64)[0, 0] == 0
    assert torch.equal(first["augmented"][:, far], images[3][:, far])  # nothing changes off the label


def test_workers_change_nothing(images):
    synthesis = LocalSynthesis(images, TextureSource(64), None, (8, 8), seed=1)
    plan = BatchPlan(5, 2, 1, 0)
    alone, shared = (list(make_loader(TrainingItems(synthesis, 64, 0), plan, workers)) for workers in (0, 2))
    assert all(torch.equal(a["augmented"], b["augmented"]) for a, b in zip(alone, shared, strict=True))


def test_loader_leaves_the_noise_stream_alone(images):
    torch.manual_seed(5)
    expected = torch.randn(3)
    torch.manual_seed(5)
    list(make_loader(TrainingItems(None, 64, 0), BatchPlan(5, 2, 1, 0), 0))
    assert torch.equal(torch.randn(3), expected)


def test_seeds_differ():
    assert len({seed_of(s, e, r) for s in range(5) for e in range(5) for r in range(5)}) == 125
    assert seed_of(1, 2, 3) == seed_of(1, 2, 3) and np.uint32(seed_of(1)) == seed_of(1)
