"""CPU time of one training step and one Perlin mask: the official steps, and ours, in turns.

    python -m benchmarks.training_step [--batch-size 2 --rounds 5]

One thread, `wide_resnet50_2` with random weights, 288 px; milliseconds for each picture. A step is all the work for a
decoded picture in an epoch: features, loss, backward pass, both optimisers, and for GLASS the synthesis of local
anomalies. The explicit GLASS step includes its share of the centre pass that starts each epoch, and the anomalies that
this pass draws and does not use. Decoding the pictures is not counted, because our epochs do not need it; GLASS's code
does it twice in each epoch. Textures are procedural and take the same time on both sides.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from reference import explicit_training
from reference.explicit import random_weights, whole_backbone
from torch import Tensor
from torch.utils.data import default_collate

from benchmarks.measuring import provenance, report
from benchmarks.timing import spread, time_in_turns
from hubmodels import GLASS, SimpleNet
from hubmodels.backbone import Backbone, load_backbone
from training import synthesis
from training.batches import FeatureCache, LocalSynthesis, build_cache
from training.objectives import (
    PAPER_BACKBONE,
    PAPER_IMAGE_SIZE,
    REFERENCE_NOISE_STD,
    GLASSObjective,
    GradientObjective,
    SimpleNetObjective,
)
from training.synthesis import PERLIN_THRESHOLD, TextureSource, blend, draw_blend_weight, draw_mask

GRID = (36, 36)  # of layer2 at the papers' image size
MASKS = 1000
COLUMNS = ("case", "method", "image_size", "batch", "median_ms", "p95_ms", "ratio_to_explicit")
COVERAGE = ("pixels_percent", "patches_percent", "patches_percent_median", "empty_fields_percent")
Step = Callable[[], None]


def make_objective(method: str, backbone: Backbone) -> GradientObjective:
    """A new head in training mode; `method` is "simplenet", or "glass" and its hypothesis."""
    torch.manual_seed(0)
    settings = {"backbone": PAPER_BACKBONE, "backbone_sha256": backbone.fingerprint, "image_size": PAPER_IMAGE_SIZE}
    if method == "simplenet":
        return SimpleNetObjective(SimpleNet(**settings), REFERENCE_NOISE_STD).train()
    return GLASSObjective(GLASS(**settings), REFERENCE_NOISE_STD, method.removeprefix("glass ")).train()


def prepare(objective: GradientObjective, images: Tensor, cache: FeatureCache) -> None:
    """Sets what `prepare` sets for a job, for methods that need it."""
    if isinstance(objective, GLASSObjective):
        objective.update_center(cache.mean(torch.device("cpu")))
        objective.synthesis = LocalSynthesis(images, TextureSource(PAPER_IMAGE_SIZE), None, GRID, seed=0)


def update(loss: Tensor, optimizers: Iterable[torch.optim.Optimizer]) -> None:
    """Backward pass and both optimisers."""
    loss.backward()
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()


# --------------------------------------------------------------------------------------------------------------- ours


def our_step(objective: GradientObjective, cache: FeatureCache) -> Step:
    """A step like in `training.fitting`, on all pictures of the cache."""
    optimizers, indices, cpu = objective.optimizers(), torch.arange(len(cache)), torch.device("cpu")
    epochs = iter(range(10**6))

    def step() -> None:
        batch = {"features": cache.features(indices, cpu)}
        if objective.synthesis is not None:
            epoch = next(epochs)
            batch |= objective.inputs(default_collate([objective.synthesis(epoch, i) for i in range(len(cache))]))
        update(objective(batch)["loss"], optimizers)

    return step


# ----------------------------------------------------------------------------------------------------------- explicit


def explicit_step(
    objective: GradientObjective, network: torch.nn.Module, images: Tensor, textures: TextureSource
) -> Step:
    """The official step; it only uses head, optimisers and hypothesis of our objective."""
    detector, optimizers, rng = objective.detector, objective.optimizers(), np.random.default_rng(0)
    mean, std = (torch.tensor(v)[:, None, None] for v in (detector.front_end.mean, detector.front_end.std))
    normalised = (images / 255 - mean) / std

    def simplenet() -> None:
        update(explicit_training.simplenet_loss(detector, network, normalised, REFERENCE_NOISE_STD), optimizers)

    def glass() -> None:
        draw_explicit(images, textures, rng)  # the centre pass also draws anomalies
        center = explicit_training.batch_center(detector, network, normalised)
        augmented, label = draw_explicit(images, textures, rng)
        settings = {"center": center, "hypothesis": objective.hypothesis, "noise_std": REFERENCE_NOISE_STD}
        augmented = (augmented - mean) / std
        update(explicit_training.glass_loss(detector, network, normalised, augmented, label, **settings), optimizers)

    return simplenet if detector.method == "simplenet" else glass


def draw_explicit(images: Tensor, textures: TextureSource, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Augmented images (B, 3, S, S) in [0, 1] and patch labels (B*h*w,): explicit masks, the rest is our code."""
    drawn = []
    for image in images.permute(0, 2, 3, 1).numpy().astype(np.float32) / 255:
        mask, label = explicit_training.perlin_mask(PAPER_IMAGE_SIZE, GRID, rng)
        augmented = blend(image, textures.draw(rng), mask, draw_blend_weight(rng))
        drawn.append((torch.from_numpy(augmented).permute(2, 0, 1), torch.from_numpy(label).flatten()))
    augmented, labels = zip(*drawn, strict=True)
    return torch.stack(augmented), torch.cat(labels)


# --------------------------------------------------------------------------------------------------------------- rows


def step_rows(batch_size: int, rounds: int) -> list[dict]:
    """All methods, explicit and ours, in turns."""
    with tempfile.TemporaryDirectory() as folder:
        path = random_weights(PAPER_BACKBONE, Path(folder))
        network, backbone = whole_backbone(PAPER_BACKBONE, path), load_backbone(PAPER_BACKBONE, weights=path)
    images = torch.randint(0, 256, (batch_size, 3, PAPER_IMAGE_SIZE, PAPER_IMAGE_SIZE), dtype=torch.uint8)
    textures, cases = TextureSource(PAPER_IMAGE_SIZE), {}
    for method in ("simplenet", "glass manifold", "glass hypersphere"):
        objective = make_objective(method, backbone)
        cache = build_cache(objective.detector, images, Path(tempfile.gettempdir()))
        prepare(objective, images, cache)
        cases["explicit", method] = explicit_step(make_objective(method, backbone), network, images, textures)
        cases["ours", method] = our_step(objective, cache)
    return rows_of(time_in_turns(cases, rounds, time.process_time), batch_size)


def mask_rows() -> list[dict]:
    """Time and statistics of a thousand masks each."""
    draws = {
        "explicit": (explicit_training.perlin_mask, explicit_training.perlin_field),
        "ours": (draw_mask, synthesis.perlin_field),
    }
    cases, kept = {}, {case: [] for case in draws}
    for case, (mask, _) in draws.items():
        rng = np.random.default_rng(0)
        cases[case, "perlin mask"] = lambda case=case, mask=mask, rng=rng: kept[case].append(
            mask(PAPER_IMAGE_SIZE, GRID, rng)
        )
    rows = rows_of(time_in_turns(cases, MASKS, time.process_time), batch_size=1)
    return [row | coverage(kept[row["case"]], draws[row["case"]][1]) for row in rows]


def coverage(masks: list[tuple[np.ndarray, np.ndarray]], field: Callable) -> dict[str, float]:
    """Mean share of marked pixels and patches, median share of patches, and the share of empty single fields."""
    pixels, patches = (100 * np.array([part.mean() for part in parts]) for parts in zip(*masks, strict=True))
    rng = np.random.default_rng(1)
    empty = [not (field(PAPER_IMAGE_SIZE, rng) > PERLIN_THRESHOLD).any() for _ in range(MASKS)]
    values = (pixels.mean(), patches.mean(), np.median(patches), 100 * np.mean(empty))
    return dict(zip(COVERAGE, (round(float(value), 2) for value in values), strict=True))


def rows_of(times: dict[tuple[str, str], list[float]], batch_size: int) -> list[dict]:
    """A row for each case, in milliseconds for a picture; the ratio is explicit time divided by this time."""
    rows = []
    for (case, method), milliseconds in times.items():
        row = {"case": case, "method": method, "image_size": PAPER_IMAGE_SIZE, "batch": batch_size}
        row |= spread([ms / batch_size for ms in milliseconds])
        explicit = spread([ms / batch_size for ms in times["explicit", method]])["median_ms"]
        rows.append(row | {"ratio_to_explicit": round(explicit / row["median_ms"], 2)})
    return rows


def main() -> None:
    """Prints and writes all rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    command = f"python -m benchmarks.training_step --batch-size {args.batch_size} --rounds {args.rounds}"
    rows = mask_rows() + step_rows(args.batch_size, args.rounds)
    report("training_step", [row | provenance(command) for row in rows], COLUMNS + COVERAGE)


if __name__ == "__main__":
    main()
