"""Shapes that a visitor drew on a picture -> the mask of what counts."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw

from hubmodels.backbone import feature_strides
from hubmodels.compactnet import COMPACT_BACKBONE, COMPACT_IMAGE_SIZE
from hubmodels.region import Region, read_region

SIDE = 1024  # pixels of a mask's longer side
MOST, MOST_POINTS = 200, 5000  # shapes, and points of a shape: what a browser sends is not trusted
MASK, SHAPES = "region.png", "region.json"  # in the folder of a part's pictures


def exceeded(shapes: object) -> str | None:
    """Which limit the shapes of a browser exceed, "shapes" or "points"; None if `checked_shapes` takes all of them."""
    found = shapes if isinstance(shapes, list) else []
    if len(found) > MOST:
        return "shapes"
    points = [shape.get("points") for shape in found if isinstance(shape, dict)]
    return "points" if any(isinstance(each, list) and len(each) > MOST_POINTS for each in points) else None


def checked_shapes(shapes: object) -> list[dict]:
    """The shapes of a browser that can be drawn; others are dropped. `exceeded` says whether there are too many."""
    found = map(_checked, shapes[:MOST] if isinstance(shapes, list) else ())
    return [shape for shape in found if shape]


def _checked(shape: object) -> dict | None:
    points = shape.get("points") if isinstance(shape, dict) else None
    if not isinstance(points, list) or not points or shape.get("kind") not in DRAW:
        return None
    points, width = points[:MOST_POINTS], shape.get("width")
    if not all(map(_is_point, points)):
        return None
    width = min(0.5, max(0.0, float(width))) if isinstance(width, int | float) and math.isfinite(width) else 0.0
    return {
        **{"kind": shape["kind"], "counts": shape.get("counts") is True, "width": width},
        "points": [[float(value) for value in point] for point in points],
    }


def _is_point(point: object) -> bool:
    numbers = isinstance(point, list) and len(point) == 2 and all(isinstance(value, int | float) for value in point)
    return numbers and all(0 <= value <= 1 for value in point)


def draw_mask(shapes: Sequence[dict], size: tuple[int, int]) -> Image.Image:
    """A mask of a picture (width, height): white counts. If any shape counts, nothing else does; else all the rest."""
    scale = SIDE / max(size)
    width, height = (max(1, round(side * scale)) for side in size)
    mask = Image.new("L", (width, height), 0 if any(shape["counts"] for shape in shapes) else 255)
    for shape in shapes:
        points = [(x * width, y * height) for x, y in shape["points"]]
        DRAW[shape["kind"]](ImageDraw.Draw(mask), points, 255 if shape["counts"] else 0, shape["width"] * width)
    return mask


def _rectangle(draw: ImageDraw.ImageDraw, points: list, fill: int, width: float) -> None:
    (x, y), (u, v) = points[0], points[-1]
    draw.rectangle((min(x, u), min(y, v), max(x, u), max(y, v)), fill=fill)


def _polygon(draw: ImageDraw.ImageDraw, points: list, fill: int, width: float) -> None:
    if len(points) > 2:
        draw.polygon(points, fill=fill)


def _brush(draw: ImageDraw.ImageDraw, points: list, fill: int, width: float) -> None:
    draw.line(points, fill=fill, width=max(1, round(width)), joint="curve")
    for x, y in (points[0], points[-1]):
        draw.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=fill)


DRAW = {"rectangle": _rectangle, "polygon": _polygon, "brush": _brush}


def share_that_counts(mask: Image.Image) -> float:
    """Share of the model input that counts; 0 if no patch of it does."""
    stride = feature_strides(COMPACT_BACKBONE)[0]
    region = Region((COMPACT_IMAGE_SIZE, COMPACT_IMAGE_SIZE), stride, (0, 0, 0))
    region.mask.copy_(read_region(mask, COMPACT_IMAGE_SIZE))
    region.count()
    return region.share if bool(torch.any(region.patches)) else 0.0


def save_region(folder: Path, shapes: Sequence[dict], size: tuple[int, int]) -> None:
    """Keeps the region of a part; without shapes the whole picture counts."""
    folder.mkdir(parents=True, exist_ok=True)
    if not shapes:
        for name in (MASK, SHAPES):
            (folder / name).unlink(missing_ok=True)
        return
    draw_mask(shapes, size).save(folder / MASK)
    (folder / SHAPES).write_text(json.dumps(shapes), encoding="utf-8")


def saved_shapes(folder: Path) -> list[dict]:
    """What was drawn for a part."""
    try:
        return checked_shapes(json.loads((folder / SHAPES).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return []
