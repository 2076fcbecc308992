"""Sample parts that look like photographs: two textures and three objects, good and defective, with exact masks.

    python -m training.parts DIR [--categories washer pill]    the data set in the MVTec AD layout
    python -m training.parts DIR --sheet                       DIR/parts.jpg, an overview of all defects
    python -m training.parts examples --examples               the demo's examples, of seeds used nowhere else

Everything is rendered from a seed when it is read; nothing comes from elsewhere. The defective picture of a seed is
its good picture with the defect and nothing else changed.
"""

import argparse
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from hubmodels.samples import Category, Sample
from training.parts.objects import Connector, Pill, Washer
from training.parts.rendering import Camera, blur
from training.parts.surfaces import BrushedMetal, Cloth, Part

DATASET = "parts"
PARTS: dict[str, type[Part]] = {
    "brushed_metal": BrushedMetal,
    "cloth": Cloth,
    "connector": Connector,
    "pill": Pill,
    "washer": Washer,
}
DEFECTS: dict[str, tuple[str, ...]] = {name: kind.defects for name, kind in PARTS.items()}

TRAIN_GOOD, TEST_GOOD, TEST_DEFECTIVE = 200, 20, 8  # pictures; the last of each defect type
EXAMPLE_SEED = 500_000
SEED_BLOCK = 1000  # seeds from one kind of sample to the next: none is used twice

VISIBLE_LEVELS = 5.0  # of 255, mean of the colours: a smaller change does not belong to the mask


def render(category: str, seed: int, defect: str | None = None, size: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """A picture uint8 (size, size, 3) RGB and its mask uint8 (size, size), 1 where the defect shows.

    The same arguments give the same picture in any process. Without defect the mask is zero. The mask is where the
    defect changes the picture before sensor noise by VISIBLE_LEVELS; further than a pixel from it the picture equals
    the good one of that seed. Raises ValueError for an unknown category or defect.
    """
    _check((category,), DEFECTS, "category")
    _check((defect,) if defect is not None else (), DEFECTS[category], f"defect of {category}")
    kind = sorted(DEFECTS).index(category)
    part = PARTS[category](size, np.random.default_rng([seed, kind, 0]))
    camera = Camera(size, np.random.default_rng([seed, kind, 1]))
    good = camera.develop(part.scene())
    if defect is None:
        return camera.expose(good), np.zeros((size, size), np.uint8)
    getattr(part, defect)(np.random.default_rng([seed, kind, 2 + DEFECTS[category].index(defect)]))
    defective = camera.develop(part.scene())
    mask = _visible(defective - good, camera.pixel)
    near = ndimage.binary_dilation(mask)
    return camera.expose(np.where(near[..., None], defective, good)), mask.astype(np.uint8)


def parts_categories(names: Sequence[str] | None = None) -> list[Category]:
    """The named categories, or all, sorted by name; pictures are rendered when read. ValueError for unknown names."""
    _check(names or (), DEFECTS, "category")
    return [_category(name) for name in sorted(DEFECTS) if not names or name in names]


@dataclass(frozen=True)
class RenderedSource:
    """A picture, or its mask, that is rendered whenever it is read."""

    category: str
    seed: int
    defect: str | None = None
    is_mask: bool = False

    def read_bytes(self) -> bytes:
        """PNG: RGB, or for a mask grey 0 and 255."""
        picture, mask = render(self.category, self.seed, self.defect)
        buffer = io.BytesIO()
        Image.fromarray(255 * mask if self.is_mask else picture).save(buffer, "PNG")
        return buffer.getvalue()


def _check(names: Sequence[str], known: Sequence[str], what: str) -> None:
    if unknown := sorted(set(names) - set(known)):
        raise ValueError(f"no {what} is called {', '.join(unknown)}; choose from {', '.join(known)}.")


def _visible(change: np.ndarray, pixel: float) -> np.ndarray:
    """Mask (S, S) bool of a change (S, S, 3) in levels: pixels over the limit, with the gaps between them closed."""
    level = np.abs(change).mean(axis=-1)
    closed = ndimage.binary_closing(np.pad(level > VISIBLE_LEVELS, 2), iterations=1)[2:-2, 2:-2]
    return closed & (blur(level, 0.7, pixel) > VISIBLE_LEVELS * 0.6)


def _category(name: str) -> Category:
    train = _samples(name, "train", None, TRAIN_GOOD, 0)
    test = _samples(name, "test", None, TEST_GOOD, SEED_BLOCK)
    for block, defect in enumerate(sorted(DEFECTS[name]), start=2):
        test += _samples(name, "test", defect, TEST_DEFECTIVE, block * SEED_BLOCK)
    return Category(DATASET, name, tuple(train), tuple(test))


def _samples(category: str, split: str, defect: str | None, count: int, first_seed: int) -> list[Sample]:
    kind = defect or "good"
    return [
        Sample(
            f"{split}/{kind}/{index:03}.png",
            RenderedSource(category, first_seed + index, defect),
            kind,
            int(defect is not None),
            RenderedSource(category, first_seed + index, defect, is_mask=True) if defect else None,
        )
        for index in range(count)
    ]


def write_parts(folder: Path, names: Sequence[str] | None = None) -> None:
    """Write the categories below the folder in the MVTec AD layout."""
    for category in parts_categories(names):
        for sample in category.train + category.test:
            path = folder / category.name / sample.name
            _write(path, sample.source.read_bytes())
            if sample.mask is not None:
                truth = folder / category.name / "ground_truth" / sample.defect_type
                _write(truth / f"{path.stem}_mask.png", sample.mask.read_bytes())


def write_examples(folder: Path, names: Sequence[str] | None = None) -> None:
    """Write folder/parts/CATEGORY/KIND.png: a good part and every second kind of defect, the last one tiny."""
    for category in parts_categories(names):
        for offset, kind in enumerate((None, *DEFECTS[category.name][::2])):
            source = RenderedSource(category.name, EXAMPLE_SEED + offset, kind)
            _write(folder / DATASET / category.name / f"{kind or 'good'}.png", source.read_bytes())


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def sheet(names: Sequence[str] | None = None) -> Image.Image:
    """One row per category: two good parts, then each defect with a thin line around its mask."""
    _check(names or (), DEFECTS, "category")
    rows = []
    for name in names or DEFECTS:
        cells = [render(name, seed)[0] for seed in (1, 2)]
        cells += [_outlined(*render(name, seed, defect)) for seed, defect in enumerate(DEFECTS[name], start=3)]
        rows.append(np.hstack([np.pad(cell, ((3, 3), (3, 3), (0, 0)), constant_values=255) for cell in cells]))
    return Image.fromarray(np.vstack(rows))


def _outlined(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    around = ndimage.binary_dilation(mask, iterations=4) & ~ndimage.binary_dilation(mask, iterations=3)
    return np.where(around[..., None], np.uint8([60, 255, 60]), picture)


def main(arguments: list[str] | None = None) -> None:
    """Writes the data set, or the overview."""
    parser = argparse.ArgumentParser(prog="python -m training.parts", description="Render the sample parts.")
    parser.add_argument("folder", type=Path, metavar="DIR", help="where to write")
    parser.add_argument("--categories", nargs="+", choices=sorted(DEFECTS), help="default: all")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--sheet", action="store_true", help="write the overview DIR/parts.jpg instead")
    kind.add_argument("--examples", action="store_true", help="write the demo's examples instead")
    args = parser.parse_args(arguments)
    if args.examples:
        return write_examples(args.folder, args.categories)
    if not args.sheet:
        return write_parts(args.folder, args.categories)
    args.folder.mkdir(parents=True, exist_ok=True)
    sheet(args.categories).save(args.folder / "parts.jpg", quality=90)
