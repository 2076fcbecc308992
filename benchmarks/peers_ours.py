"""One of our models, measured like the peers: `python -m benchmarks.peers_ours simplenet --weights FILE`."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.peers_timing import PAPER_BACKBONE, PAPER_IMAGE_SIZE, Step, Subject, file_mb, run
from hubmodels import GLASS, SimpleNet
from hubmodels.backbone import WEIGHTS_FILE, find_weights, load_backbone
from hubmodels.compactnet import COMPACT_BACKBONE
from hubmodels.detector import AnomalyDetector
from hubmodels.scoring import smooth_map

METHODS = {"simplenet": (SimpleNet,), "glass": (GLASS,), "both": (SimpleNet, GLASS)}
TRAIN_BATCH = 4  # that of the peers
TRAINING = {
    "simplenet": "head, on features cached once",
    "glass": "head, on features cached once; synthesis and backbone for the augmented pictures; procedural textures",
}


def build(method: str, backbone: str, weights: Path | None) -> Subject:
    """Heads with random weights on the papers' backbone with random weights, or on the bundled one."""
    path = find_weights(backbone) if backbone == COMPACT_BACKBONE else weights
    settings = {"backbone_sha256": load_backbone(backbone, weights=path).fingerprint, "image_size": PAPER_IMAGE_SIZE}
    heads = [kind(backbone=backbone, **settings).eval() for kind in METHODS[method]]
    facts = {"library": "ours", "method": " + ".join(type(head).__name__ for head in heads), "backbone": backbone}
    facts["weights"] = "bundled backbone, random heads" if backbone == COMPACT_BACKBONE else "random"
    judge, sizes_mb = partial(judge_by_all, heads), partial(sizes_of, heads, path)
    if method == "both":  # each is trained for itself
        return Subject(facts, torch.rand, judge, sizes_mb)
    facts["training"] = TRAINING[method]
    return Subject(facts, torch.rand, judge, sizes_mb, partial(make_step, heads[0]), TRAIN_BATCH)


def judge_by_all(heads: Sequence[AnomalyDetector], images: Tensor) -> tuple[Tensor, Tensor]:
    """One backbone pass, then each head's map and score, as `hubmodels.compare` goes about it; the last head's."""
    aggregated = heads[0].extract(images)
    for head in heads:
        patch_scores = head.score_patches(aggregated)
        answer = smooth_map(patch_scores, PAPER_IMAGE_SIZE), patch_scores.amax((1, 2))
    return answer


def sizes_of(heads: Sequence[AnomalyDetector], backbone: Path, folder: Path) -> dict[str, float]:
    """MB of the heads as published, and with the backbone that all heads share."""
    for head in heads:
        head.save_pretrained(folder / head.method)
    head_mb = sum(file_mb(folder / head.method / WEIGHTS_FILE) for head in heads)
    return {"head_mb": round(head_mb, 1), "size_mb": round(head_mb + file_mb(backbone), 1)}


def make_step(detector: AnomalyDetector) -> Step:
    """A step as `training.fitting` makes it."""
    # imported late: what only training needs would count as memory of inference
    from benchmarks.training_step import our_step
    from training.batches import LocalSynthesis
    from training.cache import build_cache
    from training.objectives import REFERENCE_NOISE_STD, GLASSObjective, SimpleNetObjective
    from training.synthesis import TextureSource

    images = torch.randint(0, 256, (TRAIN_BATCH, 3, PAPER_IMAGE_SIZE, PAPER_IMAGE_SIZE), dtype=torch.uint8)
    cache = build_cache(detector, images, Path())  # some MB: no file is needed
    if isinstance(detector, SimpleNet):
        return our_step(SimpleNetObjective(detector, REFERENCE_NOISE_STD).train(), cache, None)
    objective = GLASSObjective(detector, REFERENCE_NOISE_STD, "manifold").train()
    objective.update_center(cache.mean(torch.device("cpu")))
    grid = tuple(cache.layers[0].shape[-2:])
    return our_step(objective, cache, LocalSynthesis(images, TextureSource(PAPER_IMAGE_SIZE), None, grid, seed=0))


MODELS: dict[str, Callable[[Path], Subject]] = {}
for name in METHODS:
    MODELS |= {name: partial(build, name, PAPER_BACKBONE), f"{name}-compact": partial(build, name, COMPACT_BACKBONE)}

if __name__ == "__main__":
    run(MODELS, ("torch", "torchvision", "timm", "accelerate", "numpy", "pillow"))
