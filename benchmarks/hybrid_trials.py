"""Trials for the hybrid: other heads, noises, banks and memories on the same cached features.

    python -m benchmarks.hybrid_trials run --data DIR --cache FOLDER [--sets screw tile] [--trials H0 N0] [--seeds 0]
    python -m benchmarks.hybrid_trials table [few | left-out]

`run` adds rows to results/hybrid_trials.json. TRIALS says what each name is; the hybrid of the product is the trial
"H0 + 2 memory". Features of the compact backbone at 256 px, at most 250 good pictures of a set; DIR is a folder of
real pictures, see `docs/data.md`; pill and cloth are rendered. The file also has rows of trials that are not here any
more: they were run by drafts of this program, say so, and describe their settings. Nothing is calibrated here, so all
metrics are of raw scores; `benchmarks.real_data` has the results of the finished method.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.compact_backbone import SETS, SIZE
from benchmarks.measuring import RESULTS, provenance, table
from hubmodels.backbone import load_backbone, normalisation
from hubmodels.compactnet import COMPACT_BACKBONE
from hubmodels.folders import Category, read_category
from hubmodels.front_end import align
from hubmodels.hybrid import Hybrid, HybridHead, Memory
from hubmodels.samples import Sample
from hubmodels.scoring import smooth_map
from training.batches import extract, load_images
from training.coreset import greedy_coreset
from training.damage import KINDS, LARGEST, DamagedPictures
from training.evaluation import write_json
from training.foreground import foreground_masks
from training.metrics import PixelMetrics, image_metrics
from training.objectives.hybrid import MEMBERS, MOST, draw, standardise, whiten
from training.objectives.objective import add_noise
from training.parts.dataset import PARTS, parts_categories
from training.synthesis import TextureSource

RESULT = RESULTS / "hybrid_trials.json"
RENDERED, FIT, TOP = ("pill", "cloth"), 250, 10  # sets; good pictures; patches of the image score: 1 % of 32 x 32
SHOWN = ("image_auroc_top", "aupro")
PRODUCT = "H0 + 2 memory"
Scorer = Callable[[Tensor], Tensor]  # patch features (N, D) -> scores (N,)


# ---------------------------------------------------------------- the pictures of a set


@dataclass
class Given:
    """The features of a set.

    Attributes:
        pictures: how many good ones.
        good, test: patch features (N, D) of these, and of all test pictures.
        labels, masks: of the test pictures; masks (n, S, S) uint8, or None.
        bank: by kind of damage, features of damaged cells, and the same minus what was there before.
        halo: features of cells near damage, without any themselves.
        fits: scorer and seconds of each trial and seed that was fitted.
    """

    pictures: int
    good: Tensor
    test: Tensor
    labels: list[int]
    masks: Tensor | None
    bank: dict[str, tuple[Tensor, Tensor]]
    halo: Tensor
    fits: dict[tuple[str, int], tuple[Scorer, float]] = field(default_factory=dict)

    def fitted(self, trial: str, seed: int) -> tuple[Scorer, float]:
        """The scorer of a trial, and how long its fit took, with all its parts."""
        if (trial, seed) not in self.fits:
            start, parts = time.perf_counter(), getattr(TRIALS[trial], "parts", ())
            known = sum(self.fits[part, seed][1] for part in parts if (part, seed) in self.fits)
            scorer = TRIALS[trial].fit(self, seed)
            self.fits[trial, seed] = scorer, known + time.perf_counter() - start
        return self.fits[trial, seed]

    def damaged(self, kinds: Sequence[str]) -> Tensor:
        """Features of damaged cells."""
        return torch.cat([self.bank[kind][0] for kind in kinds])


def given(name: str, data: Path, cache: Path, count: int = FIT, seed: int = 0) -> Given:
    """The features of a set with so many good pictures, computed once and kept in the folder `cache`."""
    category = parts_categories([name])[0] if name in PARTS else read_category(None, name, data / "data" / SETS[name])
    backbone, (mean, std) = load_backbone(COMPACT_BACKBONE), normalisation(COMPACT_BACKBONE)
    detector = Hybrid(
        backbone=COMPACT_BACKBONE, backbone_sha256=backbone.fingerprint, mean=mean, std=std, image_size=SIZE
    )
    detector.eval()
    count = min(count, int(0.9 * len(category.train)))
    tested = _kept(cache / f"{name}.pt", lambda: _tested(detector, category))
    return Given(
        **_kept(cache / f"{name}-{count}-{seed}.pt", lambda: _learned(detector, category, count, seed)), **tested
    )


def _kept(path: Path, compute: Callable[[], dict]) -> dict:
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(compute(), path)
    return torch.load(path, weights_only=True)


def _tested(detector: Hybrid, category: Category) -> dict:
    test = _rows(detector, load_images(list(category.test), SIZE, SIZE)).flatten(0, 2)
    masks = torch.stack([_mask(sample) for sample in category.test]) if category.has_masks else None
    return {"test": test, "labels": [sample.label for sample in category.test], "masks": masks}


def _learned(detector: Hybrid, category: Category, count: int, seed: int) -> dict:
    order = np.random.default_rng(seed).permutation(len(category.train))[:count]
    images = load_images([category.train[i] for i in order], SIZE, SIZE)
    good, found = _rows(detector, images), foreground_masks(images.permute(0, 2, 3, 1).numpy())
    pictures = DamagedPictures(images, TextureSource(SIZE), found.masks, tuple(good.shape[1:3]), seed)
    bank, halo = _bank(detector, pictures, good)
    return {"pictures": count, "good": good.flatten(0, 2), "bank": bank, "halo": halo}


def _rows(detector: Hybrid, images: Tensor) -> Tensor:
    """uint8 pictures -> patch features (n, h, w, D)."""
    return torch.cat([align(extract(detector, part)).movedim(1, -1) for part in images.split(16)])


def _mask(sample: Sample) -> Tensor:
    """The mask (S, S) uint8 of a test picture."""
    if not sample.label:
        return torch.zeros(SIZE, SIZE, dtype=torch.uint8)
    picture = sample.read()
    return torch.from_numpy(small_mask(sample.read_mask((picture.height, picture.width)))).to(torch.uint8)


def small_mask(mask: np.ndarray) -> np.ndarray:
    """A mask (H, W) -> (256, 256) bool.

    A pixel is a defect if half of it is; a defect that is too thin for that keeps its fullest pixels.
    """
    share = _resized(mask.astype(np.float32))
    return (share >= min(0.5, share.max())) & (share > 0)


def _resized(values: np.ndarray) -> np.ndarray:
    small = F.interpolate(
        torch.from_numpy(np.ascontiguousarray(values))[None, None].float(), (SIZE, SIZE), mode="area"
    )
    return small[0, 0].numpy()


def _bank(detector: Hybrid, pictures: DamagedPictures, good: Tensor) -> tuple[dict, Tensor]:
    found = {kind: ([], []) for kind in KINDS}
    near = []
    damaged = [i for i, (kind, _, _) in enumerate(pictures.plan) if kind in KINDS]
    for start in range(0, len(damaged), 16):
        items = [pictures[i] for i in damaged[start : start + 16]]
        for item, after in zip(items, _rows(detector, torch.stack([i["image"] for i in items])), strict=True):
            before, covered = good[item["picture"]], item["covered"]
            found[item["kind"]][0].append(after[covered])
            found[item["kind"]][1].append((after - before)[covered])
            changed = (item["image"].int() - pictures.images[item["picture"]].int()).abs().amax(0) > 2
            any_ = F.adaptive_max_pool2d(changed[None].float(), covered.shape)[0] > 0
            around = F.max_pool2d(any_[None].float(), 7, 1, 3)[0] > 0
            near.append(after[around & ~any_])
    torch.manual_seed(0)
    bank = {}
    for kind, (rows, changes) in found.items():
        chosen = torch.randperm(sum(map(len, rows)))[:LARGEST]
        bank[kind] = torch.cat(rows)[chosen], torch.cat(changes)[chosen]
    halo = torch.cat(near)
    return bank, halo[torch.randperm(len(halo))[:LARGEST]]


# ---------------------------------------------------------------- trials


class Trial(Protocol):
    """A way to score patches."""

    def fit(self, given: Given, seed: int) -> Scorer: ...


@dataclass(frozen=True)
class Head:
    """A discriminator of good features and several others, on a fixed adaptor.

    Attributes:
        whiten: None = only the scale is made 1; otherwise the share of the mean variance in each when whitened.
        noise: deviation of the noise, 0 = no noisy features.
        kinds: of damage in the bank.
        damaged: features of the bank in a step.
        halo: so many of the good ones lie near damage.
        moved: good features moved as damage moved others, in a step.
        swapped: features with layer 2 of one place and layer 3 of another, in a step.
        ascent: steps of gradient ascent on the noisy features.
    """

    whiten: float | None = None
    noise: float = 0.35
    steps: int = 500
    kinds: tuple[str, ...] = tuple(KINDS)
    damaged: int = 255
    halo: int = 0
    moved: int = 0
    swapped: int = 0
    ascent: int = 0

    def fit(self, given: Given, seed: int) -> Scorer:
        torch.manual_seed(seed)
        head = HybridHead(given.good.shape[1], 2)
        (standardise if self.whiten is None else self._whitener)(head.adaptor, given.good)
        with torch.no_grad():
            good, halo = head.embed(given.good), head.embed(given.halo)
            damaged = head.embed(given.damaged(self.kinds)) if self.kinds else None
            moves = torch.cat([given.bank[k][1] for k in self.kinds]) @ head.adaptor.weight.T if self.moved else None
        head.train()
        optimizer = torch.optim.AdamW(head.discriminator.parameters(), 1e-3, weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        for _ in range(self.steps):
            normal = torch.cat([draw(good, 512 - self.halo), *([draw(halo, self.halo)] if self.halo else [])])
            parts = [normal, *self._negatives(head, normal, good, damaged, moves)]
            logits = head.discriminate(torch.cat(parts)).split([len(part) for part in parts])
            loss = F.softplus(logits[0]).mean() + sum(F.softplus(-each).mean() for each in logits[1:])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        with torch.no_grad():  # statistics over many patches, mixed as in a step
            parts = [draw(good, 20480), *self._negatives(head, draw(good, 20480), good, damaged, moves, 40)]
            hidden = head.discriminator[0](torch.cat(parts))
            head.discriminator[1].running_mean.copy_(hidden.mean(0))
            head.discriminator[1].running_var.copy_(hidden.var(0))
        head.eval()
        return lambda rows: torch.cat([head.discriminate(head.embed(part)) for part in rows.split(65536)])

    def _whitener(self, adaptor: nn.Linear, good: Tensor) -> None:
        mean, variances = good.mean(0), torch.linalg.eigh(good.T.cov())
        values = (1 - self.whiten) * variances[0] + self.whiten * variances[0].mean()
        with torch.no_grad():
            adaptor.weight.copy_((variances[1] / values.sqrt()).T)
            adaptor.bias.copy_(-adaptor.weight @ mean)

    def _negatives(
        self,
        head: HybridHead,
        normal: Tensor,
        good: Tensor,
        damaged: Tensor | None,
        moves: Tensor | None,
        times: int = 1,
    ) -> list[Tensor]:
        parts = []
        if self.noise:
            noisy = add_noise(normal, self.noise)
            parts.append(self._ascended(head, normal, noisy) if self.ascent and torch.is_grad_enabled() else noisy)
        if damaged is not None:
            parts.append(draw(damaged, times * self.damaged))
        if self.moved:
            share = torch.empty(times * self.moved, 1).uniform_(0.25, 1)
            parts.append(draw(good, times * self.moved) + share * draw(moves, times * self.moved))
        if self.swapped:
            fine, coarse = draw(good, times * self.swapped), draw(good, times * self.swapped)
            parts.append(torch.cat([fine[:, : fine.shape[1] // 2], coarse[:, fine.shape[1] // 2 :]], 1))
        return parts

    def _ascended(self, head: HybridHead, normal: Tensor, noisy: Tensor) -> Tensor:
        """Towards what the discriminator calls good, and kept between 0.85 and 1.7 of the noise's mean length."""
        length = self.noise * normal.shape[1] ** 0.5
        head.eval()
        for _ in range(self.ascent):
            noisy = noisy.detach().requires_grad_()
            (slope,) = torch.autograd.grad(F.softplus(-head.discriminate(noisy)).sum(), noisy)
            noisy = noisy + 0.15 * length * F.normalize(slope, dim=1)
        head.train()
        offset = noisy.detach() - normal
        reached = offset.norm(dim=1, keepdim=True)
        return normal + offset * reached.clamp(0.85 * length, 1.7 * length) / reached


@dataclass(frozen=True)
class Neighbour:
    """Distance to the nearest good patch of a bank that is drawn at random."""

    share: float = 0.1
    most: int = 20_000

    def fit(self, given: Given, seed: int) -> Scorer:
        generator = torch.Generator().manual_seed(seed)
        count = min(self.most, max(1, int(self.share * len(given.good))))
        bank = given.good[torch.randperm(len(given.good), generator=generator)[:count]]
        return lambda rows: torch.cat([torch.cdist(part, bank).amin(1) for part in rows.split(4096)])


@dataclass(frozen=True)
class Remembered:
    """Distance to the nearest patch of a memory as the hybrid has it."""

    vectors: int = 2000
    dim: int = 64
    shrink: float = 1.0
    most: int = MOST

    def fit(self, given: Given, seed: int) -> Scorer:
        torch.manual_seed(seed)
        memory = Memory(given.good.shape[1], 2, min(self.dim, given.good.shape[1]))
        order = torch.randperm(len(given.good))
        whiten(memory, given.good[order[:100_000]], self.shrink)
        rows = memory.project(given.good[order[: self.most]])
        memory.vectors = rows[greedy_coreset(rows, min(self.vectors, int(len(rows) * MEMBERS)))]
        return lambda rows: torch.cat([memory.distances(memory.project(part)) for part in rows.split(8192)])


@dataclass(frozen=True)
class Density:
    """Log-likelihood ratio of "good" against "good, moved along the directions in which damage moves features".

    The nearest of `centroids` counts; the directions are weighted by `tau`.
    """

    centroids: int = 512
    shrink: float = 0.001
    tau: float = 0.03

    def fit(self, given: Given, seed: int) -> Scorer:
        centres, deviations = _kmeans(given.good, self.centroids, seed)
        within = deviations.T @ deviations / len(deviations)
        within = (1 - self.shrink) * within + self.shrink * within.diagonal().mean() * torch.eye(len(within))
        moves = given.bank["texture"][1].double()
        inverse = torch.linalg.inv(torch.linalg.cholesky(within.double()))
        values, vectors = torch.linalg.eigh(inverse @ (moves.T @ moves / len(moves)) @ inverse.T)
        weights = self.tau * values.clamp(min=0)
        metric = (inverse.T @ vectors * (weights / (1 + weights)).sqrt()).float()
        projected = centres @ metric
        return lambda rows: torch.cat([torch.cdist(part @ metric, projected).amin(1) for part in rows.split(8192)])


def _kmeans(rows: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Centroids, and what separates some rows from theirs."""
    generator = torch.Generator().manual_seed(seed)
    some = rows[torch.randperm(len(rows), generator=generator)[:60_000]]
    centres = some[:count].clone()
    for _ in range(12):
        nearest = torch.cat([torch.cdist(part, centres).argmin(1) for part in some.split(8192)])
        sizes = torch.bincount(nearest, minlength=count)[:, None]
        centres = torch.where(sizes > 0, torch.zeros_like(centres).index_add_(0, nearest, some) / sizes, centres)
    return centres, some - centres[nearest]


@dataclass(frozen=True)
class Sum:
    """Scores of several trials, each in units of its deviation on good patches, times a weight."""

    parts: tuple[str, ...]
    weights: tuple[float, ...] = field(default=(1.0, 1.0))

    def fit(self, given: Given, seed: int) -> Scorer:
        scorers = [given.fitted(part, seed)[0] for part in self.parts]
        reference = given.good[torch.randperm(len(given.good), generator=torch.Generator().manual_seed(1))[:20_000]]
        with torch.no_grad():
            factors = [w / scorer(reference).std() for w, scorer in zip(self.weights, scorers, strict=True)]
        return lambda rows: sum(factor * scorer(rows) for factor, scorer in zip(factors, scorers, strict=True))


TRIALS: dict[str, Trial] = {
    "nearest neighbour": Neighbour(),
    "nearest neighbour, 2,000": Neighbour(most=2000),
    "nearest neighbour, all": Neighbour(share=1.0),  # of few pictures
    "memory": Remembered(),
    "memory, 1,000": Remembered(vectors=1000),
    "memory, 128 dimensions": Remembered(dim=128),
    "memory, strongly whitened": Remembered(shrink=0.3),
    "memory of 60,000 patches": Remembered(most=60_000),
    "F": Density(),
    "N0": Head(kinds=()),
    "H0": Head(),
    "H1": Head(whiten=0.1, noise=0.5),
    "H0, bank only": Head(noise=0),
    **{f"H0, {kind} only": Head(kinds=(kind,)) for kind in KINDS},
    "H0, noise 0.5": Head(noise=0.5),
    **{f"H0, {steps} steps": Head(steps=steps) for steps in (200, 1000)},
    "H0, 1024 of the bank": Head(damaged=1024),
    "H0, halo": Head(halo=128),
    "H0, moved": Head(moved=255),
    "H0, swapped": Head(swapped=255),
    "H0, ascent": Head(ascent=3),
    "H0 + F": Sum(("H0", "F")),
    "H0 + nearest neighbour": Sum(("H0", "nearest neighbour")),
    "H0 + 1 memory": Sum(("H0", "memory")),
    "H0 + 2 memory": Sum(("H0", "memory"), (1.0, 2.0)),
    "H0 + 4 memory": Sum(("H0", "memory"), (1.0, 4.0)),
}


# ---------------------------------------------------------------- measuring


def measure(trial: str, given: Given, seed: int) -> dict[str, float]:
    """The metrics of a trial in per cent, and how long its fit took; no pixel metrics without masks."""
    scorer, seconds = given.fitted(trial, seed)
    with torch.no_grad():
        scores = scorer(given.test).view(len(given.labels), -1)
    highest = scores.topk(TOP, 1).values
    top, most = (
        image_metrics(each.tolist(), given.labels)["image_auroc"] for each in (highest.mean(1), highest[:, 0])
    )
    found = {"image_auroc_top": top, "image_auroc_max": most}
    if given.masks is not None:
        pixels = PixelMetrics()
        for picture, mask in zip(_grid(scores), given.masks, strict=True):
            pixels.update(smooth_map(picture[None], SIZE)[0].numpy(), mask.numpy())
        computed = pixels.compute()
        found |= {key: computed[key] for key in ("pixel_auroc", "aupro")}
    return {key: round(100 * value, 2) for key, value in found.items()} | {"fit_seconds": round(seconds, 1)}


def _grid(scores: Tensor) -> Tensor:
    """Patch scores (n, h * w) -> (n, h, w) of a square picture."""
    side = round(scores.shape[1] ** 0.5)
    return scores.view(-1, side, side)


def add_row(row: dict) -> None:
    """Adds a row; one of the same set, trial, seed and pictures is replaced."""
    rows = results()
    key = ("set", "trial", "seed", "pictures")
    write_json(RESULT, [*(old for old in rows if any(old[name] != row[name] for name in key)), row])


def results() -> list[dict]:
    """All rows."""
    return json.loads(RESULT.read_text()) if RESULT.is_file() else []


def trials_table(rows: Sequence[dict], few: bool = False) -> str:
    """Image AUROC / AUPRO: a line for each trial, a column for each set; means over the seeds, and deviations.

    Args:
        few: the trials with a few of the good pictures; otherwise those with all of them, on all sets.
    """
    sets = list(dict.fromkeys([*SETS, *RENDERED]))
    most = {name: max((row["pictures"] for row in rows if row["set"] == name), default=0) for name in sets}
    lines: dict[tuple, dict[str, list[dict]]] = {}
    for row in (row for row in rows if (row["pictures"] < most[row["set"]]) == few):
        key = (row["pictures"] if few else "all", row["trial"])
        lines.setdefault(key, {}).setdefault(row["set"], []).append(row)
    sets = [name for name in sets if any(name in found for found in lines.values())]
    lines = {key: found for key, found in lines.items() if few or len(found) == len(sets)}
    order = {trial: i for i, trial in enumerate(TRIALS)}
    ordered = sorted(lines.items(), key=lambda item: (item[0][0], order.get(item[0][1], len(order))))
    made = [{"trial": key[1], "pictures": key[0]} | _cells(found, sets) for key, found in ordered]
    return table(made, ("pictures", "trial", *sets, "mean"))


def left_out_table(rows: Sequence[dict]) -> str:
    """For each set: the trial that is best on all others, by the mean of image AUROC and AUPRO, and what it has there.

    Beside it the product's trial, and the best one on the set itself, which nobody could have known.
    """
    found: dict[str, dict[str, list[float]]] = {}
    for trial, name in product(dict.fromkeys(row["trial"] for row in rows), [*SETS, *RENDERED]):
        own = [row for row in rows if (row["trial"], row["set"]) == (trial, name)]
        whole = [row for row in own if row["pictures"] == max(r["pictures"] for r in rows if r["set"] == name)]
        if whole:
            means = [statistics.mean(values) for key in SHOWN if (values := _values(whole, key))]
            found.setdefault(trial, {})[name] = means
    complete = {trial: means for trial, means in found.items() if len(means) == len([*SETS, *RENDERED])}
    lines = []
    for name in [*SETS, *RENDERED]:
        chosen = max(complete, key=lambda trial: _merit(complete[trial], without=name))
        best = max(complete, key=lambda trial: statistics.mean(complete[trial][name]))
        titles = {"by the other sets": chosen, "the product": PRODUCT, "best on this set": best}
        results = {title: " / ".join(f"{v:.1f}" for v in complete[trial][name]) for title, trial in titles.items()}
        lines.append({"set": name, "chosen by the others": chosen} | results)
    return table(lines, ("set", "chosen by the others", "by the other sets", "the product", "best on this set"))


def _merit(means: dict[str, list[float]], without: str) -> float:
    return statistics.mean(statistics.mean(values) for name, values in means.items() if name != without)


def _cells(found: dict[str, list[dict]], sets: Sequence[str]) -> dict[str, str | None]:
    """A cell for each set; their mean, if there are results for all."""
    cells: dict[str, str | None] = {
        name: " / ".join(_spread(rows, key) for key in SHOWN) for name, rows in found.items()
    }
    if len(found) == len(sets):
        every = {key: [statistics.mean(v) for rows in found.values() if (v := _values(rows, key))] for key in SHOWN}
        cells["mean"] = " / ".join(f"{statistics.mean(values):.1f}" for values in every.values())
    return cells


def _values(rows: Sequence[dict], key: str) -> list[float]:
    return [row[key] for row in rows if key in row]


def _spread(rows: Sequence[dict], key: str) -> str:
    """The mean, and the standard deviation of several values; a dash without any."""
    values = _values(rows, key)
    if not values:
        return "-"
    return f"{statistics.mean(values):.1f}" + (f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else "")


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    actions = parser.add_subparsers(dest="action", required=True)
    running = actions.add_parser("run", help="measure trials, and add rows to the results")
    running.add_argument("--data", type=Path, required=True, help="folder of real pictures")
    running.add_argument("--cache", type=Path, required=True, help="folder for features, about 300 MB a set")
    running.add_argument("--sets", nargs="+", choices=[*SETS, *RENDERED], default=[*SETS, *RENDERED])
    running.add_argument("--trials", nargs="+", choices=[*TRIALS], default=[*TRIALS])
    running.add_argument(
        "--pictures", nargs="+", type=int, default=[FIT], help="good pictures, drawn anew by each seed"
    )
    running.add_argument("--seeds", nargs="+", type=int, default=[0])
    printing = actions.add_parser("table", help="print image AUROC / AUPRO of all trials")
    printing.add_argument(
        "which", nargs="?", default="all", choices=("all", "few", "left-out"), help="good pictures (default: all)"
    )
    args = parser.parse_args()
    if args.action == "table":
        print(left_out_table(results()) if args.which == "left-out" else trials_table(results(), args.which == "few"))
        return
    command = f"python -m benchmarks.hybrid_trials {' '.join(sys.argv[1:])}"
    for name, seed, count in product(args.sets, args.seeds, args.pictures):
        features = given(name, args.data, args.cache, count, 0 if count == FIT else seed)
        for trial in args.trials:
            row = {"set": name, "pictures": features.pictures, "trial": trial, "seed": seed}
            row |= measure(trial, features, seed)
            print(row, flush=True)
            add_row(row | {"settings": repr(TRIALS[trial])} | provenance(command))


if __name__ == "__main__":
    main()
