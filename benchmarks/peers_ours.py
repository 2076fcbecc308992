"""Measures one of our models like those of anomalib: `python -m benchmarks.peers_ours simplenet --weights FILE`."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.peers_timing import PAPER_BACKBONE, PAPER_IMAGE_SIZE, Step, Subject, file_mb, run
from hubmodels.backbone import find_weights, load_backbone
from hubmodels.compactnet import COMPACT_BACKBONE
from hubmodels.detector import AnomalyDetector
from hubmodels.hub.files import WEIGHTS_FILE
from hubmodels.methods import METHODS
from hubmodels.scoring import smooth_map

CASES = {"simplenet": ("simplenet",), "glass": ("glass",), "both": ("simplenet", "glass")}
TRAIN_BATCH = 4  # as for anomalib
TRAINING = {
    "simplenet": "head, on features cached once",
    "glass": "head, on features cached once; synthesis and backbone for the augmented pictures; procedural textures",
}


def build(method: str, backbone: str, weights: Path | None) -> Subject:
    """Detectors with random heads, on the papers' backbone with random weights or on the bundled one."""
    path = find_weights(backbone) if backbone == COMPACT_BACKBONE else weights
    network = load_backbone(backbone, weights=path)  # in a variable, because detectors share it while it is used
    settings = {"backbone_sha256": network.fingerprint, "image_size": PAPER_IMAGE_SIZE}
    detectors = [METHODS[name].detector(backbone=backbone, **settings).eval() for name in CASES[method]]
    for detector in detectors:
        detector.front_end.load_backbone(path)
    facts = {"library": "ours", "method": " + ".join(METHODS[n].title for n in CASES[method]), "backbone": backbone}
    facts["weights"] = "bundled backbone, random heads" if backbone == COMPACT_BACKBONE else "random"
    predict, sizes_mb = partial(predict_by_all, detectors), partial(sizes_of, detectors, path)
    if method == "both":  # they are trained one by one
        return Subject(facts, torch.rand, predict, sizes_mb)
    facts["training"] = TRAINING[method]
    return Subject(facts, torch.rand, predict, sizes_mb, partial(make_step, detectors[0]), TRAIN_BATCH)


def predict_by_all(detectors: Sequence[AnomalyDetector], images: Tensor) -> tuple[Tensor, Tensor]:
    """One backbone pass, then map and score of each head, like `hubmodels.compare`; returns those of the last head."""
    aggregated = detectors[0].front_end(images)
    for detector in detectors:
        patch_scores = detector.head.scores(aggregated)
        result = smooth_map(patch_scores, PAPER_IMAGE_SIZE), detector.head.image_scores(patch_scores)
    return result


def sizes_of(detectors: Sequence[AnomalyDetector], backbone: Path, folder: Path) -> dict[str, float]:
    """MB of the heads as published, and with the backbone that all heads share."""
    for detector in detectors:
        detector.save_pretrained(folder / detector.method)
    head_mb = sum(file_mb(folder / detector.method / WEIGHTS_FILE) for detector in detectors)
    return {"head_mb": round(head_mb, 1), "size_mb": round(head_mb + file_mb(backbone), 1)}


def make_step(detector: AnomalyDetector) -> Step:
    """A training step like in `training.fitting`."""
    # imported late, because the modules of training would count as memory of inference
    from benchmarks.training_step import our_step, prepare
    from training.batches import build_cache
    from training.objectives import REFERENCE_NOISE_STD, GLASSObjective, SimpleNetObjective

    images = torch.randint(0, 256, (TRAIN_BATCH, 3, PAPER_IMAGE_SIZE, PAPER_IMAGE_SIZE), dtype=torch.uint8)
    cache = build_cache(detector, images, Path())  # small enough for the memory
    if detector.method == "simplenet":
        objective = SimpleNetObjective(detector, REFERENCE_NOISE_STD).train()
    else:
        objective = GLASSObjective(detector, REFERENCE_NOISE_STD, "manifold").train()
    prepare(objective, images, cache)
    return our_step(objective, cache)


MODELS: dict[str, Callable[[Path], Subject]] = {}
for name in CASES:
    MODELS |= {name: partial(build, name, PAPER_BACKBONE), f"{name}-compact": partial(build, name, COMPACT_BACKBONE)}

if __name__ == "__main__":
    run(MODELS, ("torch", "torchvision", "timm", "accelerate", "numpy", "pillow"))
