"""How long one picture takes, from picture to verdict and map, as a user meets it.

    python -m training.publishing.latency runs/bundle              models of the sample parts, on this machine
    python -m training.publishing.latency runs PICTURE             others, with a picture of theirs

Writes it into each model's `metrics.json`, under the kind of device, and renders the cards anew. Run it on a quiet
machine.
"""

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from hubmodels import AnomalyDetector, BackboneError, ModelError
from hubmodels.hub.files import REPORT_FILE
from hubmodels.pictures import Picture, read_picture
from training.evaluation import read_report, write_json
from training.provenance import processor
from training.publishing.card import example_picture, finished_models, write_card

ROOT = Path(__file__).parents[2]
WARM_UP = 3  # calls: the first ones choose algorithms and fill caches


def measure_latency(detector: AnomalyDetector, picture: Picture, repeats: int = 20) -> dict:
    """Wall time of `predict` on a decoded picture, alone in its batch: median and 95th percentile, milliseconds.

    On a GPU too the time is whole, since a prediction's map lies in main memory.
    """
    upright = read_picture(picture)
    times = [_time_of(detector, upright) for _ in range(WARM_UP + repeats)][WARM_UP:]
    measured = {"median_ms": round(statistics.median(times), 2), "p95_ms": round(float(np.percentile(times, 95)), 2)}
    measured |= {"device": _device_name(detector.device), "threads": torch.get_num_threads()}
    return measured | {"height": upright.height, "width": upright.width, "repeats": repeats}


def measure_on_devices(detector: AnomalyDetector, picture: Picture) -> dict[str, dict]:
    """By kind of device: latency where the detector lives and, coming from a GPU, on the CPU, where it then stays."""
    measured = {detector.device.type: measure_latency(detector, picture)}
    if detector.device.type != "cpu":
        measured["cpu"] = measure_latency(detector.to("cpu"), picture)
    return measured


def add_latency(folder: Path, picture: Picture | None = None) -> dict[str, dict]:
    """Measures a finished model on this machine, records it in `metrics.json` and renders the card anew.

    Args:
        picture: default: an example of the sample parts, for models that learned these.

    Raises:
        ValueError: the model learned something else, and no picture is given.
    """
    report = read_report(folder)
    example = example_picture(report)
    if picture is None and example is None:
        raise ValueError(f"{folder.name} did not learn the sample parts: give a PICTURE of what it learned")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    detector = AnomalyDetector.from_pretrained(folder, map_location=device)
    measured = measure_on_devices(detector, picture or ROOT / example)
    write_json(folder / REPORT_FILE, report | {"latency": report.get("latency", {}) | measured})
    write_card(folder)
    return measured


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure the latency of trained models and put it on their cards.")
    parser.add_argument("run", type=Path, metavar="DIR", help="folder that training wrote to")
    parser.add_argument("picture", type=Path, nargs="?", metavar="PICTURE", help="default: an example of sample parts")
    args = parser.parse_args(arguments)
    try:
        for folder in finished_models(args.run):
            for kind, measured in add_latency(folder, args.picture).items():
                print(f"{folder.name}: {kind} {measured['median_ms']} ms, 95th percentile {measured['p95_ms']} ms")
    except (ValueError, ModelError, BackboneError) as error:
        parser.error(str(error))


def _time_of(detector: AnomalyDetector, picture: Picture) -> float:
    start = time.perf_counter()
    detector.predict(picture)
    return 1000 * (time.perf_counter() - start)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else processor()


if __name__ == "__main__":
    main()
