"""Whether models work on this computer, and how fast: `hubmodels check`."""

import statistics
import time
from collections.abc import Collection, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from hubmodels import install_command
from hubmodels.folders import find_pictures
from hubmodels.inspection import inspect
from hubmodels.line.line import Line
from hubmodels.onnx.runtime import ExportError
from hubmodels.pictures import Picture

SIDE = 1024  # pixels of a generated picture
SLOW = 0.95  # quantile that stands for slow pictures


def check_models(
    model: str, category: str | None, methods: Collection[str] | None, places: Sequence[Path], rounds: int
) -> Iterator[str]:
    """Lines about the models, their times, and ONNX.

    Args:
        places: files and folders of pictures; none = a generated one, and no ONNX.

    Raises:
        ModelError, PictureError: the message has the remedy.
    """
    line = Line.of(model, category, methods)
    for title, known in line.models.items():
        yield f"{title}: {known['source']} was loaded; its weights have the SHA-256 that its config names"
        yield f"  {known['weights_sha256']}, commit {known['revision'] or '-'}"
    pictures: list[Picture] = list(find_pictures(places)) or [_noise()]
    chosen = [{name: detector} for name, detector in line.detectors.items()]
    together = [line.detectors] if len(chosen) > 1 else []
    yield f"{torch.get_num_threads()} threads, {len(pictures)} pictures, {rounds} times each:"
    for detectors in (*chosen, *together):
        yield f"  {' + '.join(detectors)}: {_times(detectors, pictures, rounds)}"
    yield from _onnx(line, pictures) if places else ["ONNX: not compared; give --pictures"]


def _times(detectors: dict, pictures: Sequence[Picture], rounds: int) -> str:
    inspect(detectors, pictures[0])  # the first one is slower
    taken = []
    for picture in [*pictures] * rounds:
        begun = time.perf_counter()
        inspect(detectors, picture)
        taken.append(time.perf_counter() - begun)
    slow = float(np.quantile(taken, SLOW))
    return (
        f"median {1000 * statistics.median(taken):.0f} ms, {SLOW:.0%} within {1000 * slow:.0f} ms: "
        f"{1 / statistics.mean(taken):.1f} pictures a second"
    )


def _onnx(line: Line, pictures: Sequence[Picture]) -> Iterator[str]:
    if not all(map(find_spec, ("onnx", "onnxscript", "onnxruntime"))):
        yield f"ONNX: not compared, because packages are missing: {install_command('export')}"
        return
    from hubmodels.onnx.export import differences, export

    with TemporaryDirectory() as folder:
        try:
            report = export(list(line.detectors.values()), Path(folder) / "model.onnx", pictures)
            yield from (f"ONNX, {difference}" for difference in differences(report))
        except ExportError as error:
            yield f"ONNX: {error}"


def _noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
