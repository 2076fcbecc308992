"""Damaged and augmented pictures of good parts, and the bank of features that a hybrid learns from them.

Three kinds of damage, all inside a Perlin mask and on the part: a foreign texture (GLASS's local synthesis), another
place of the same or another good picture (as CutPaste, Li et al., CVPR 2021, and NSA, Schlueter et al., ECCV 2022, do
with rectangles), and a changed tone, sharpness, shape or colour. Each picture gets each kind. It is also augmented
as a whole: moved and turned a little, in a light that changed a little. Such parts are good. Each of these pictures is
one backbone pass. Only features of cells that are well covered are kept, at most `LARGEST` of each kind.
"""

import json
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from scipy import ndimage
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from hubmodels.detector import AnomalyDetector
from hubmodels.front_end import align
from training.batches import Synthesis, as_image, extract, together
from training.position import move
from training.progress import tqdm
from training.synthesis import MAX_DRAWS, blend, draw_blend_weight, draw_mask

FEW, MOST = 100, 250  # pictures: below the first each is damaged twice as often, beyond the second only some are
COVERED = 0.25  # share of a cell's pixels
SMALLEST = 12  # pixels of a mask; smaller ones are drawn again
LARGEST = 40_000  # features of a kind; 60 MB with 384 dimensions, 250 MB with the 1,536 of the papers' backbone
BATCH = 16  # pictures
ORIGIN = " pictures"

AUGMENTED = "augmented"  # the kind of the good ones
SHIFT, TURN = 0.04, 3.0  # largest move, share of a side; largest turn, degrees
GAIN, SLOPE = 0.2, 0.25  # largest change of the brightness as a whole, and from the middle to a side

Pixels = np.ndarray  # (H, W, 3) float32 in [0, 1]


def texture(image: Pixels, mask: np.ndarray, rng: np.random.Generator, source: "DamagedPictures", i: int) -> Pixels:
    """A foreign texture, through which the part shines."""
    return blend(image, source.textures.draw(rng), mask, draw_blend_weight(rng))


def paste(image: Pixels, mask: np.ndarray, rng: np.random.Generator, source: "DamagedPictures", i: int) -> Pixels:
    """Another place of this or another good picture, shifted, turned and mirrored; half of them shine through.

    The other picture is of the same fold. A turn is a multiple of a quarter, or of a half if pictures are not square.
    """
    other = image if rng.uniform() < 0.5 else source.pixels(int(rng.choice(source.alike(i))))
    sides = np.array(image.shape[:2])
    moved = np.roll(other, rng.integers(sides // 16, sides - sides // 16), (0, 1))
    turns = 4 if sides[0] == sides[1] else 2
    moved = np.rot90(moved, 4 // turns * int(rng.integers(turns)))
    moved = moved[:, ::-1] if rng.uniform() < 0.5 else moved
    return blend(image, moved, mask, 0.0 if rng.uniform() < 0.5 else rng.uniform(0.1, 0.6))


def tone(image: Pixels, mask: np.ndarray, rng: np.random.Generator, source: "DamagedPictures", i: int) -> Pixels:
    """Brightness, sharpness, shape or colour changed behind a soft mask."""
    soft = ndimage.gaussian_filter(mask.astype(np.float32), rng.uniform(0.5, 3))
    soft /= max(soft.max(), 1e-6)
    change = rng.choice([_brightness, _blur, _warp, _colour], p=[0.4, 0.2, 0.2, 0.2])
    return np.clip(image + soft[..., None] * (change(image, rng) - image), 0, 1).astype(np.float32)


def _brightness(image: Pixels, rng: np.random.Generator) -> Pixels:
    return image * rng.uniform(0.5, 1.5) + rng.uniform(-0.25, 0.25)


def _blur(image: Pixels, rng: np.random.Generator) -> Pixels:
    sigma = rng.uniform(1, 4)
    return ndimage.gaussian_filter(image, (sigma, sigma, 0))


def _warp(image: Pixels, rng: np.random.Generator) -> Pixels:
    fields = [ndimage.gaussian_filter(rng.normal(size=image.shape[:2]), 12) for _ in range(2)]
    shifts = rng.uniform(3, 12) * np.stack([field / np.abs(field).max() for field in fields])  # pixels
    places = np.indices(image.shape[:2]) + shifts
    channels = [ndimage.map_coordinates(image[..., i], places, order=1, mode="reflect") for i in range(3)]
    return np.stack(channels, axis=-1)


def _colour(image: Pixels, rng: np.random.Generator) -> Pixels:
    return np.broadcast_to(rng.uniform(0, 1, 3).astype(np.float32), image.shape)


def augment(image: Pixels, rng: np.random.Generator) -> Pixels:
    """A good picture that was moved and turned a little; its light changes as a whole, and evenly along a line."""
    right, down = (round(side * rng.uniform(-SHIFT, SHIFT)) for side in (image.shape[1], image.shape[0]))
    moved = move((255 * image).round().astype(np.uint8), right, down, rng.uniform(-TURN, TURN)) / 255
    rows, columns = np.meshgrid(*(np.linspace(-1, 1, side) for side in image.shape[:2]), indexing="ij")
    angle = rng.uniform(0, 2 * np.pi)
    slope = rng.uniform(0, SLOPE) * (np.cos(angle) * rows + np.sin(angle) * columns)
    light = rng.uniform(1 - GAIN, 1 + GAIN) * (1 + slope)
    return np.clip(moved * light[..., None], 0, 1).astype(np.float32)


KINDS: dict[str, tuple[Callable, int]] = {"texture": (texture, 2), "paste": (paste, 1), "tone": (tone, 1)}  # and laps


@dataclass(frozen=True)
class DamagedPictures(Synthesis, Dataset):
    """Each picture of a job with each kind of damage, and augmented, some more than once.

    An item is a function of seed and index.

    Attributes:
        folds: the fold of each picture, so that its damage shows nothing of another fold; empty for one fold.
    """

    folds: tuple[int, ...] = ()

    def alike(self, index: int) -> np.ndarray:
        """The numbers of all pictures of a picture's fold."""
        folds = np.array(self.folds or [0] * len(self.images))
        return np.flatnonzero(folds == folds[index])

    @cached_property
    def plan(self) -> list[tuple[str, int, int]]:
        """(kind, lap, picture) of each item, one kind after the other: five of a picture, or ten."""
        chosen = np.random.default_rng(self.seed).permutation(len(self.images))[:MOST].tolist()
        factor = 2 if len(self.images) < FEW else 1
        laps = {kind: factor * times for kind, (_, times) in KINDS.items()} | {AUGMENTED: factor}
        return [(kind, lap, i) for kind, times in laps.items() for lap in range(times) for i in chosen]

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, index: int) -> dict:
        """`kind`, `picture` (its index), `image` (3, H, W) uint8 and `covered` (h, w) bool."""
        kind, lap, i = self.plan[index]
        rng = np.random.default_rng([self.seed, [*KINDS, AUGMENTED].index(kind), lap, i])
        if kind == AUGMENTED:
            image, covered = augment(self.pixels(i), rng), torch.ones(self.grid, dtype=torch.bool)
        else:
            mask = self._mask(i, rng)
            image = KINDS[kind][0](self.pixels(i), mask, rng, self, i)
            covered = F.adaptive_avg_pool2d(torch.from_numpy(mask)[None].float(), self.grid)[0] >= COVERED
        return {"kind": kind, "picture": i, "image": as_image(image), "covered": covered}

    def _mask(self, index: int, rng: np.random.Generator) -> np.ndarray:
        foreground = self.foreground(index)
        for _ in range(MAX_DRAWS):
            mask, _ = draw_mask(self.images.shape[-2:], self.grid, rng, foreground)
            if mask.sum() >= SMALLEST:
                break
        return mask


def make_bank(detector: AnomalyDetector, pictures: DamagedPictures, workers: int = 0) -> dict[str, Tensor]:
    """Features (m, D) of covered cells by kind of picture, at most LARGEST of each, by one backbone pass a picture.

    `pictures_of(kind)` names the numbers (m,) of the pictures that they come from.
    """
    counts, width = Counter(kind for kind, _, _ in pictures.plan), detector.front_end.embed_dim
    most = {kind: -(-LARGEST // count) for kind, count in counts.items()}  # rows of a picture
    # one place for all rows: many small tensors between large ones that come and go would leave holes in memory
    bank = {kind: torch.empty(count * most[kind], width) for kind, count in counts.items()}
    origins = {kind: torch.empty(len(rows), dtype=torch.int64) for kind, rows in bank.items()}
    filled = Counter()
    loader = DataLoader(pictures, together(pictures.images, BATCH), num_workers=workers)
    for batch in tqdm(loader, "damaged pictures"):
        features = align(extract(detector, batch["image"])).movedim(1, -1).cpu()
        if (region := detector.front_end.region) is not None:
            batch["covered"] &= region.patches.cpu()
        items = zip(batch["kind"], batch["picture"], features, batch["covered"], strict=True)
        for kind, picture, feature_map, covered in items:
            rows = feature_map[covered]
            rows = rows[torch.randperm(len(rows))[: most[kind]]]
            place = slice(filled[kind], filled[kind] + len(rows))
            bank[kind][place], origins[kind][place] = rows, picture
            filled[kind] += len(rows)
    bank |= {pictures_of(kind): numbers for kind, numbers in origins.items()}
    return {name: rows[: filled[name.removesuffix(ORIGIN)]] for name, rows in bank.items()}


def pictures_of(kind: str) -> str:
    """The entry of a bank with the numbers of the pictures that the features of a kind come from."""
    return kind + ORIGIN


def kept_bank(path: Path, settings: dict, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The bank in a file, if it was made with equal settings; else a new one, which the file then contains.

    Raises:
        OSError: the disk is full or not writable.
    """
    wanted = {"settings": json.dumps(settings, sort_keys=True)}
    with suppress(FileNotFoundError, SafetensorError):  # what a power cut left of a file is made again
        with safe_open(path, "pt") as file:
            bank = {kind: file.get_tensor(kind).clone() for kind in file.keys()} if file.metadata() == wanted else {}
        if bank and all(rows.isfinite().all() for rows in bank.values()):
            return bank
    bank = make()
    partial = path.with_suffix(".partial")
    try:
        save_file(bank, partial, wanted)
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        raise OSError(f"cannot write {path} ({error}): free some disk space and repeat the command.") from error
    return bank
