"""Measures the time of one prediction, from the decoded picture to verdict and map.

    python -m training.publishing.latency runs/bundle              models of the sample parts
    python -m training.publishing.latency runs PICTURE             other models, with a picture of their category

Writes the result into each model's `metrics.json`, by kind of device, and renders the cards again. Nothing else should
run on the computer meanwhile.
"""

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from hubmodels import AnomalyDetector, BackboneError, ModelError, load
from hubmodels.hub.files import REPORT_FILE
from hubmodels.pictures import Picture, read_picture
from training.evaluation import processor, read_report, write_json
from training.publishing.card import example_picture, finished_models, write_card

ROOT = Path(__file__).parents[2]
REPEATS = 20
WARM_UP = 3  # calls: the first ones choose algorithms and fill caches


def measure_latency(detector: AnomalyDetector, picture: Picture, repeats: int) -> dict:
    """Wall time of `predict` on a decoded picture with its map, alone in its batch: median and 95th percentile, ms.

    The time is complete on a GPU, too, because a prediction's map is in main memory.
    """
    upright = read_picture(picture)
    for _ in range(WARM_UP):
        _ = detector.predict(upright).anomaly_map
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        _ = detector.predict(upright).anomaly_map
        times.append(1000 * (time.perf_counter() - start))
    median, p95 = statistics.median(times), float(np.percentile(times, 95))
    device = torch.cuda.get_device_name(detector.device) if detector.device.type == "cuda" else processor()
    measured = {"median_ms": round(median, 2), "p95_ms": round(p95, 2)}
    measured |= {"device": device, "threads": torch.get_num_threads()}
    return measured | {"height": upright.height, "width": upright.width, "repeats": repeats}


def measure_on_devices(detector: AnomalyDetector, picture: Picture) -> dict[str, dict]:
    """Latency by kind of device: that of the detector, and the CPU, on which the detector remains."""
    measured = {detector.device.type: measure_latency(detector, picture, REPEATS)}
    if detector.device.type != "cpu":
        measured["cpu"] = measure_latency(detector.to("cpu"), picture, REPEATS)
    return measured


def add_latency(folder: Path, picture: Picture | None = None) -> dict[str, dict]:
    """Measures a finished model, records the result in `metrics.json` and renders the card again.

    Args:
        picture: default: an example of the sample parts, for models trained on these.

    Raises:
        ValueError: the model was trained on something else, and no picture is given.
    """
    report = read_report(folder)
    example = example_picture(report)
    if picture is None and example is None:
        raise ValueError(f"{folder.name} was not trained on the sample parts: give a PICTURE of its category")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    detector = load(folder, map_location=device)
    measured = measure_on_devices(detector, picture or ROOT / example)
    write_json(folder / REPORT_FILE, report | {"latency": report.get("latency", {}) | measured})
    write_card(folder)
    return measured


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.publishing.latency",
        description="Measure the latency of trained models and put it on their cards.",
    )
    parser.add_argument("run", type=Path, metavar="DIR", help="folder that training wrote to")
    parser.add_argument("picture", type=Path, nargs="?", metavar="PICTURE", help="default: an example of sample parts")
    args = parser.parse_args(arguments)
    try:
        for folder in finished_models(args.run):
            for kind, measured in add_latency(folder, args.picture).items():
                print(f"{folder.name}: {kind} {measured['median_ms']} ms, 95th percentile {measured['p95_ms']} ms")
    except (ValueError, ModelError, BackboneError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
