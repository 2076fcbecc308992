"""Copies a tree of pictures mirrored out to squares: `python benchmarks/pad_to_square.py FROM TO`.

For one question: does squashing pictures of very different aspect ratios to the square input cost accuracy? Mirroring
keeps the aspect ratio and adds no edge; masks are padded with background. PNG whatever the source.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image


def padding(height: int, width: int) -> list[tuple[int, int]]:
    """What to add above and below, left and right, to make a square."""
    side = max(height, width)
    return [((side - extent) // 2, side - extent - (side - extent) // 2) for extent in (height, width)]


def main(source: Path, target: Path) -> None:
    """Writes a square copy of every picture of `source` below `target`."""
    for path in sorted(p for p in source.rglob("*") if p.suffix.lower() in (".png", ".jpg", ".jpeg")):
        copy = (target / path.relative_to(source)).with_suffix(".png")
        copy.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as picture:
            pixels = np.asarray(picture)
        mode = "constant" if "ground_truth" in path.parts else "reflect"
        added = padding(*pixels.shape[:2]) + [(0, 0)] * (pixels.ndim - 2)
        Image.fromarray(np.pad(pixels, added, mode=mode)).save(copy)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
