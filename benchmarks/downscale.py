"""Copies a tree of pictures with the longer side at most N pixels: `python benchmarks/downscale.py FROM TO N`.

For machines that only a small working tree travels to. JPEG pictures stay JPEG, masks and PNG pictures stay exact PNG.
"""

import sys
from pathlib import Path

from PIL import Image


def main(source: Path, target: Path, side: int) -> None:
    """Writes every picture of `source` below `target`; masks are resized by nearest neighbour."""
    for path in sorted(p for p in source.rglob("*") if p.suffix.lower() in (".png", ".jpg", ".jpeg")):
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as picture:
            scale = min(1.0, side / max(picture.size))
            size = (round(picture.width * scale), round(picture.height * scale))
            method = Image.Resampling.NEAREST if "ground_truth" in path.parts else Image.Resampling.BILINEAR
            picture.resize(size, method).save(copy, quality=90, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
