"""Time and memory of one picture, compared with the official steps: `python -m benchmarks.inference`.

Cases, in turns in one run: the explicit steps of `tests/reference/explicit.py`, `hubmodels` as `from_pretrained`
gives it, and the exported file in ONNX Runtime and, if installed, OpenVINO. Each case runs with one method and with
both; the explicit steps run the methods one after the other. The networks are wide_resnet50_2 with random weights,
which do not change the time, and the bundled compact backbone. Then the parts of the fast path are timed, and the
whole way from a file to a verdict and a map at the picture's size.

`peak_mb` is the highest resident memory of a fresh process while it predicts, minus that of the libraries. Writes
`results/inference.json`; `--table` prints the table of `docs/benchmarks.md` from it. Use a quiet machine.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from reference import explicit
from torch import nn

from benchmarks.measuring import RESULTS, origin, provenance, report, table
from benchmarks.timing import THREADS, memory_mb, spread, time_in_turns
from hubmodels import AnomalyDetector, compare, methods
from hubmodels.backbone import find_weights, load_backbone
from hubmodels.compactnet import COMPACT_BACKBONE, COMPACT_IMAGE_SIZE
from hubmodels.front_end import align, flatten, to_image, to_picture_size
from hubmodels.pictures import read_picture
from hubmodels.scoring import smooth_map
from training.objectives import PAPER_BACKBONE, PAPER_IMAGE_SIZE

METHODS = ("simplenet", "glass")  # those with explicit steps
CASES = {name: (name,) for name in METHODS} | {"both": METHODS}  # methods by their name in the table
PHOTO_SIDE = 1024  # pixels, as in MVTec AD
COLUMNS = ("case", "method", "backbone", "image_size", "batch", "median_ms", "p95_ms", "peak_mb", "ratio_to_explicit")
EXPLICIT = ("explicit", "explicit, file to result")  # the others are compared with these
SHOWN_CASES = ("explicit", "fast", "onnxruntime", "openvino", "file to result")


def main() -> None:
    """Measures all cases and writes them, or prints the last table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15, help="of batch 1; batch 16 has a fifth of them")
    parser.add_argument("--table", action="store_true", help="only print the table of the last results")
    args = parser.parse_args()
    if args.table:
        return print(results_table())
    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            *measure(PAPER_BACKBONE, PAPER_IMAGE_SIZE, 1, args.rounds, Path(folder)),
            *measure(COMPACT_BACKBONE, COMPACT_IMAGE_SIZE, 1, args.rounds, Path(folder)),
            *measure_parts(PAPER_BACKBONE, PAPER_IMAGE_SIZE, args.rounds, Path(folder)),
            *measure(PAPER_BACKBONE, PAPER_IMAGE_SIZE, 16, max(3, args.rounds // 5), Path(folder)),
        ]
    runtimes = [name for name in ("onnxruntime", "openvino") if find_spec(name)]
    common = provenance(" ".join(["python -m benchmarks.inference", *sys.argv[1:]]), *runtimes)
    report("inference", [row | common for row in rows], COLUMNS)


def results_table() -> str:
    """The rows for users, with the machine that measured them."""
    rows = json.loads((RESULTS / "inference.json").read_text())
    main_setup = {"backbone": PAPER_BACKBONE, "batch": 1}.items()
    wanted = [r for r in rows if r["case"] in SHOWN_CASES and (main_setup <= r.items() or r["method"] == "both")]
    shown = [row | {"backbone": row["backbone"].split(".")[0]} for row in wanted]
    return f"{table(shown, COLUMNS)}\n\n{origin(rows[0])}"


# ------------------------------------------------------------------ the cases


def measure(backbone: str, image_size: int, batch: int, rounds: int, folder: Path) -> list[dict]:
    """One row per case and method."""
    setup = {"backbone": backbone, "image_size": image_size, "batch": batch}
    cases = {
        (case, method): build(**setup, method=method, folder=folder)
        for case, build in builders(batch).items()
        for method in CASES
        if case not in EXPLICIT or method != "both"
    }
    print(f"{backbone}, {image_size} px, batch {batch}: {len(cases)} cases, {rounds} rounds", flush=True)
    times, rows = time_in_turns(cases, rounds), []
    for case in [case for case in EXPLICIT if case in builders(batch)]:  # one after the other: nothing is shared
        times[case, "both"] = [sum(each) for each in zip(*(times[case, name] for name in METHODS), strict=True)]
    for (case, method), measured in sorted(times.items(), key=lambda item: list(builders(batch)).index(item[0][0])):
        explicitly = times[EXPLICIT["file" in case], method]
        ratio = round(statistics.median(explicitly) / statistics.median(measured), 2)
        memory = memory_mb(predict_once, case, setup | {"method": method, "folder": folder})
        row = {"case": case, "method": method} | setup | spread(measured)
        rows.append(row | memory | {"ratio_to_explicit": ratio})
        print(table(rows[-1:], COLUMNS).splitlines()[-1], flush=True)
    return rows


def builders(batch: int) -> dict[str, Callable]:
    """A function for each case that prepares it; files are read one at a time."""
    found = {"explicit": explicit_case, "fast": fast_case, "onnxruntime": onnxruntime_case}
    if find_spec("openvino"):
        found |= {"openvino": openvino_case}
    if batch == 1:
        found |= {"explicit, file to result": explicit_file_case, "file to result": file_case}
    return found


def explicit_case(backbone: str, image_size: int, batch: int, method: str, folder: Path) -> Callable:
    """The official codes' steps, method by method."""
    network = explicit.whole_backbone(backbone, weights_file(backbone, folder))
    detectors, images = build_detectors(backbone, image_size, method, folder), random_images(image_size, batch)
    return lambda: [explicit.predict(network, detector, images) for detector in detectors.values()]


def fast_case(backbone: str, image_size: int, batch: int, method: str, folder: Path) -> Callable:
    """One backbone pass for all heads."""
    detectors, images = build_detectors(backbone, image_size, method, folder), random_images(image_size, batch)
    front_end = next(iter(detectors.values())).front_end

    @torch.inference_mode()
    def predict():
        aggregated = front_end(images)
        return [smooth_map(detector.head.scores(aggregated), image_size) for detector in detectors.values()]

    return predict


def onnxruntime_case(backbone: str, image_size: int, batch: int, method: str, folder: Path) -> Callable:
    """The exported graph; the pictures have the size of its input already."""
    from hubmodels.onnx.runtime import INPUT, ExportedModel

    session = ExportedModel(exported_file(backbone, image_size, method, folder), THREADS).session
    return partial(session.run, None, {INPUT: random_pictures(image_size, batch)})


def openvino_case(backbone: str, image_size: int, batch: int, method: str, folder: Path) -> Callable:
    """The same file in OpenVINO."""
    import openvino

    settings = {"INFERENCE_NUM_THREADS": THREADS, "INFERENCE_PRECISION_HINT": "f32"}
    path = exported_file(backbone, image_size, method, folder)
    compiled = openvino.Core().compile_model(path, "CPU", settings)
    return partial(compiled, [random_pictures(image_size, batch)])


def explicit_file_case(backbone: str, image_size: int, batch: int, method: str, folder: Path) -> Callable:
    """A file decoded, resized, scored by the official steps, its map resized; all of it again for each method."""
    network = explicit.whole_backbone(backbone, weights_file(backbone, folder))
    detectors, photo = build_detectors(backbone, image_size, method, folder), photo_file(folder)

    def predict():
        for detector in detectors.values():
            picture = read_picture(photo)
            _, maps = explicit.predict(network, detector, to_image(picture, image_size)[None])
            to_picture_size(torch.from_numpy(maps[0]), (picture.height, picture.width))

    return predict


def file_case(backbone: str, image_size: int, batch: int, method: str, folder: Path) -> Callable:
    """A file decoded, resized, scored, its map resized."""
    detectors, photo = build_detectors(backbone, image_size, method, folder), photo_file(folder)
    return lambda: [prediction.anomaly_map for prediction in compare(detectors, photo).values()]


def predict_once(case: str, setup: dict) -> None:
    """The work that memory is measured of; it counts from the moment that everything is loaded."""
    torch.set_num_threads(THREADS)
    call = builders(setup["batch"])[case](**setup)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    call()


def measure_parts(backbone: str, image_size: int, rounds: int, folder: Path) -> list[dict]:
    """Time of each part of a prediction, at batch 1."""
    detectors, images = build_detectors(backbone, image_size, "both", folder), random_images(image_size, 1)
    first = next(iter(detectors.values()))
    front_end, head = first.front_end, first.head
    with torch.inference_mode():
        maps = front_end.feature_maps(images)
        aggregated = front_end.patch_features(maps)
        scores = head.scores(aggregated)
        plain = explicit.whole_backbone(backbone, weights_file(backbone, folder))
        parts = {
            "part: whole network, not folded": lambda: plain(images),
            "part: backbone": lambda: front_end.feature_maps(images),
            "part: aggregation": lambda: front_end.patch_features(maps),
            "part: explicit aggregation": lambda: explicit.patch_features(maps, front_end.embed_dim),
            "part: head": lambda: head.scores(aggregated),
            "part: explicit head": lambda: head.discriminate(head.embed(flatten(align(aggregated)))),
            "part: smoothing": lambda: smooth_map(scores, image_size),
            "part: explicit smoothing": lambda: explicit.smooth(scores, image_size),
        }
        times = time_in_turns(parts, rounds)
    common = {"method": "-", "backbone": backbone, "image_size": image_size, "batch": 1}
    return [{"case": case} | common | spread(measured) for case, measured in times.items()]


# ------------------------------------------------------------------ models and pictures


def weights_file(backbone: str, folder: Path) -> Path:
    """Weights of the whole network; random ones for the papers' backbone, which do not change the time."""
    if backbone == COMPACT_BACKBONE:
        return find_weights(backbone)
    return explicit.random_weights(backbone, folder)


def build_detectors(backbone: str, image_size: int, method: str, folder: Path) -> dict[str, AnomalyDetector]:
    """Untrained detectors by method, calibrated on noise so that they can be exported and give verdicts."""
    torch.manual_seed(0)
    weights = weights_file(backbone, folder)
    network = load_backbone(backbone, weights=weights)  # in a variable, because detectors share it while it is used
    settings = {"backbone": backbone, "backbone_sha256": network.fingerprint, "image_size": image_size}
    detectors = {name: methods.METHODS[name].detector(**settings).eval() for name in CASES[method]}
    for detector in detectors.values():
        detector.front_end.load_backbone(weights)
        randomise_norm(detector.head.discriminator[1])
        detector.calibrate([noise_picture(image_size, seed) for seed in range(3)], 0.25)
    return detectors


def randomise_norm(norm: nn.BatchNorm1d) -> None:
    """Statistics like after training, instead of the neutral ones of a new head."""
    norm.running_mean.normal_(0, 0.2)
    norm.running_var.uniform_(0.5, 2)


def exported_file(backbone: str, image_size: int, method: str, folder: Path) -> str:
    """The ONNX file of the methods, written once."""
    from hubmodels.onnx.export import export

    path = folder / f"{backbone}-{image_size}-{method}.onnx"
    if not path.exists():
        detectors = build_detectors(backbone, image_size, method, folder)
        export(list(detectors.values()), path, [noise_picture(image_size, 7)])
    return str(path)


def random_images(image_size: int, batch: int) -> torch.Tensor:
    """Model input (B, 3, S, S) in [0, 1]."""
    return torch.rand(batch, 3, image_size, image_size)


def random_pictures(image_size: int, batch: int) -> np.ndarray:
    """The exported graph's input (B, S, S, 3) uint8."""
    return np.random.default_rng(0).integers(0, 256, (batch, image_size, image_size, 3), np.uint8)


def noise_picture(side: int, seed: int) -> Image.Image:
    """A smooth picture, so that its file is about as large as that of a photo."""
    coarse = np.random.default_rng(seed).integers(0, 256, (side // 16, side // 16, 3), np.uint8)
    return Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)


def photo_file(folder: Path) -> Path:
    """A PNG of 1024 x 1024 pixels."""
    path = folder / "photo.png"
    if not path.exists():
        noise_picture(PHOTO_SIDE, 0).save(path)
    return path


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
