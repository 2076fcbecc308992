"""The smallest width of a scratch that is found in 12 megapixels, by input size: `python -m benchmarks.scratch_width`.

The part is a rendered sheet of brushed metal, 4000 x 3000 pixels, with fine streaks and sensor noise at the size of a
pixel. Hybrids with inputs of several sizes learn from TRAIN good sheets, then inspect GOOD other ones, and SCRATCHED
with a scratch of each width. It is slightly bent and 600 to 1,500 pixels long. A share OPACITY of it is of the grey
level PAINT, and the metal shows through. A scratch is found where the image score exceeds that of all but one in a
hundred good sheets. Folders of the models are kept in `--output`; a second start continues.

Writes `results/scratch_width.json`; `--table` prints its table, and `--plot FILE.svg` draws it.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from benchmarks.measuring import RESULTS, origin, provenance, table
from hubmodels import Hybrid, compare, load
from hubmodels.compactnet import COMPACT_BACKBONE
from training.evaluation import write_json
from training.parts.dataset import render
from training.parts.rendering import along, arc

RESULT = RESULTS / "scratch_width.json"
INPUTS = ("192x256", "384x512", "768x1024")  # height x width
WIDTHS = (3, 5, 8, 12, 20, 30)  # pixels
TRAIN, GOOD, SCRATCHED = 30, 100, 12  # pictures; the last of each width
FOUND = 0.9  # share of the scratches of a width that must be found
SCALE, HEIGHT, WIDTH = 4, 3000, 4000  # the sheet is rendered at a quarter, and enlarged
OPACITY, PAINT = 0.4, 235.0  # of the scratch
FIRST_SEED = 800_000  # none of the sample parts has it


def sheet(seed: int, width: int = 0) -> Image.Image:
    """A sheet of brushed metal, with a scratch of a width in pixels if it is not 0."""
    rng = np.random.default_rng([seed, width])
    small = Image.fromarray(render("brushed_metal", FIRST_SEED + seed, size=WIDTH // SCALE)[0])
    top = (WIDTH - HEIGHT) // 2
    levels = np.asarray(small.resize((WIDTH, WIDTH), Image.Resampling.BICUBIC), np.float32)[top : top + HEIGHT]
    streaks = Image.fromarray(rng.standard_normal((HEIGHT, WIDTH // 16), np.float32))
    levels = levels + 3 * np.asarray(streaks.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))[..., None]
    if width:
        levels += (OPACITY * _scratch(width, rng))[..., None] * (PAINT - levels)
    levels += 1.5 * rng.standard_normal(levels.shape, np.float32)
    return Image.fromarray(np.rint(levels.clip(0, 255)).astype(np.uint8))


def _scratch(width: int, rng: np.random.Generator) -> np.ndarray:
    """Coverage (HEIGHT, WIDTH) of a scratch, in [0, 1]."""
    length = rng.uniform(600, 1500)
    middle = rng.uniform((length / 2, length / 2), (WIDTH - length / 2, HEIGHT - length / 2))
    points = arc(middle, length, rng.uniform(25, 80) * rng.choice([-1, 1]), rng.uniform(-0.5, 0.5))
    rows, columns = (slice(*(int(end) for end in (low, high))) for low, high in _box(points, width))
    y, x = np.mgrid[rows, columns].astype(np.float32)
    distance, position = along(x, y, points)
    covered = np.zeros((HEIGHT, WIDTH), np.float32)
    covered[rows, columns] = np.clip(0.5 + width / 2 - distance, 0, 1) * np.sqrt(np.sin(np.pi * position).clip(0))
    return covered


def _box(points: np.ndarray, width: int) -> list[tuple[float, float]]:
    """First and last row, and first and last column, that the scratch can touch."""
    low, high = points.min(0) - width, points.max(0) + width + 1
    return [(max(0, low[axis]), min(limit, high[axis])) for axis, limit in ((1, HEIGHT), (0, WIDTH))]


def train(folder: Path) -> dict[str, Hybrid]:
    """A hybrid for each input size."""
    pictures = folder / "sheets" / "metal" / "train" / "good"
    pictures.mkdir(parents=True, exist_ok=True)
    for seed in range(TRAIN):
        if not (path := pictures / f"{seed:03}.png").is_file():
            sheet(seed).save(path, compress_level=1)
    found = {}
    for size in INPUTS:
        command = [sys.executable, "training/train.py", "--data-root", str(folder / "sheets"), "--methods", "hybrid"]
        command += ["--backbone", COMPACT_BACKBONE, "--image-size", size, "--output", str(folder / size)]
        subprocess.run(command, check=True)
        found[size] = load(folder / size / "hybrid-sheets-metal")
    return found


def inspected(detectors: dict[str, Hybrid]) -> Iterator[tuple[int, dict[str, float]]]:
    """Width of the scratch, 0 for a good sheet, and the image score by input size."""
    seeds = iter(range(TRAIN, 10**6))
    cases = [0] * GOOD + [width for width in WIDTHS for _ in range(SCRATCHED)]
    for width in tqdm(cases, "sheets", disable=None):
        picture = sheet(next(seeds), width)
        yield width, {size: p.image_score for size, p in compare(detectors, picture).items()}


def rows(folder: Path) -> list[dict]:
    """A row for each input size: the share of the scratches found by width, and the smallest width."""
    scores: dict[str, dict[int, list[float]]] = {size: {w: [] for w in (0, *WIDTHS)} for size in INPUTS}
    for width, by_size in inspected(train(folder)):
        for size, score in by_size.items():
            scores[size][width].append(score)
    found = []
    for size, by_width in scores.items():
        threshold = sorted(by_width[0])[-max(1, GOOD // 100) - 1]
        shares = {width: float(np.mean(np.array(by_width[width]) > threshold)) for width in WIDTHS}
        enough = [width for width in WIDTHS if all(shares[w] >= FOUND for w in WIDTHS if w >= width)]
        found.append({"input": size, "shares": shares, "smallest": min(enough, default=None)})
    return found


def results_table() -> str:
    """Shares in per cent by input and width, with the machine that measured them."""
    known = json.loads(RESULT.read_text())
    lines = [
        {"input": row["input"].replace("x", " x ")}
        | {f"{width} px": f"{100 * share:.0f}" for width, share in row["shares"].items()}
        | {"smallest found": f"{row['smallest']} px" if row["smallest"] else None}
        for row in known
    ]
    return f"{table(lines, list(lines[0]))}\n\n{origin(known[0])}"


def plot() -> str:
    """The shares found by width, a line for each input, as SVG."""
    known, colours = json.loads(RESULT.read_text()), ("#8a8f98", "#c77700", "#1f6fb2")
    across = {width: 70 + i * 90 for i, width in enumerate(WIDTHS)}
    parts = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 700 330" font-family="sans-serif" font-size="13">']
    parts += ['<rect width="700" height="330" fill="white"/>']
    for share in (0, 50, 100):
        y = 270 - 2.3 * share
        parts += [f'<path d="M60 {y}H540" stroke="#ddd"/><text x="52" y="{y + 4}" text-anchor="end">{share} %</text>']
    parts += [f'<text x="{x}" y="290" text-anchor="middle">{width}</text>' for width, x in across.items()]
    parts += ['<text x="295" y="315" text-anchor="middle">width of the scratch, pixels of 4000 x 3000</text>']
    for i, (row, colour) in enumerate(zip(known, colours, strict=True)):
        points = " ".join(f"{across[int(w)]},{270 - 230 * share:.0f}" for w, share in row["shares"].items())
        parts += [f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="3"/>']
        parts += [f'<text x="555" y="{60 + 24 * i}" fill="{colour}">input {row["input"].replace("x", " x ")}</text>']
    return "\n".join([*parts, "</svg>\n"])


def main() -> None:
    """Measures, or prints or draws the last results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("runs/scratch_width"), help="folder of the models")
    parser.add_argument("--table", action="store_true", help="only print the table of the last results")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="only draw the last results")
    args = parser.parse_args()
    if args.plot:
        args.plot.write_text(plot())
    elif args.table:
        print(results_table())
    else:
        common = provenance(" ".join(["python -m benchmarks.scratch_width", *sys.argv[1:]]))
        write_json(RESULT, [row | common for row in rows(args.output)])
        print(results_table())


if __name__ == "__main__":
    main()
