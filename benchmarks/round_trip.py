"""30 models to the Hub and back: `PYTHONPATH=.:tests python benchmarks/round_trip.py`.

The 15 categories of MVTec AD by both methods at the papers' width (1536; random weights, which are as large as trained
ones) are published to `tests/hub_server.py` on this machine, by the real client in a process of its own with Xet off,
then published again, and pulled by category through the catalog: into an empty cache, from the filled one, and without
the Hub. Writes seconds, bytes and requests of each to `results/round_trip.json`; a real Hub adds the line in between.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from hub_client import client
from hub_server import LoopbackHub
from reference.explicit import random_weights
from small_report import describe

from hubmodels import GLASS, SimpleNet
from hubmodels.backbone import load_backbone
from training.config import PAPER_BACKBONE
from training.evaluation import OBJECTS, TEXTURES, write_json
from training.provenance import commit, machine, versions

RESULT = Path(__file__).parent / "results" / "round_trip.json"
PUBLISH = """
import json, sys, time
from pathlib import Path
from training.publishing.publish import Publication, publish
begun = time.perf_counter()
failures = publish(sorted(Path({run!r}).iterdir()), Publication("acme"))
print(json.dumps({{"seconds": time.perf_counter() - begun, "failures": failures}}))
"""
PULL = """
import json, resource, time
from hubmodels.backbone import load_backbone
from hubmodels.hub.catalog import Catalog
load_backbone({backbone!r}, weights={weights!r})
begun = time.perf_counter()
catalog = Catalog.from_namespace("acme", {weights!r})
listed = time.perf_counter()
seconds, models = [], 0
for label in catalog.categories():
    start = time.perf_counter()
    models += len(catalog.load(label))
    seconds.append(time.perf_counter() - start)
print(json.dumps({{"seconds": time.perf_counter() - begun, "list_seconds": listed - begun, "models": models,
    "categories": len(seconds), "slowest_category_seconds": max(seconds), "notices": catalog.notices,
    "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}}))
"""


def make_run(folder: Path, weights: Path) -> Path:
    """A run of 30 finished models with random heads."""
    fingerprint = load_backbone(PAPER_BACKBONE, weights=weights).fingerprint
    for method in (SimpleNet, GLASS):
        for category in (*TEXTURES, *OBJECTS):
            identity = {"dataset": "mvtec", "category": category}
            detector = method(backbone=PAPER_BACKBONE, backbone_sha256=fingerprint, **identity)
            place = folder / f"{method.method}-mvtec-{category}"
            detector.save_pretrained(place)
            describe(place, method=method.method, backbone={"name": PAPER_BACKBONE, "sha256": fingerprint}, **identity)
    return folder


def measure(hub: LoopbackHub, script: str, home: Path) -> dict:
    """What the script tells, and what went over the wire meanwhile."""
    hub.requests.clear()
    told = client(hub, script, home, cwd=RESULT.parents[2])
    wire = {"requests": len(hub.requests), "megabytes_sent": sum(r.bytes_in for r in hub.requests) / 1e6}
    return told | wire | {"megabytes_received": sum(r.bytes_out for r in hub.requests) / 1e6}


def main() -> None:
    """Runs the round trip and writes the result."""
    with TemporaryDirectory() as place, LoopbackHub(Path(place) / "hub") as hub:
        home, weights = Path(place) / "home", random_weights(PAPER_BACKBONE, Path(place))
        run = make_run(Path(place) / "runs", weights)
        push, pull = PUBLISH.format(run=str(run)), PULL.format(backbone=PAPER_BACKBONE, weights=str(weights))
        rows = {"push": measure(hub, push, home), "push again": measure(hub, push, home)}
        rows |= {"pull": measure(hub, pull, home), "pull again": measure(hub, pull, home)}
        sizes = [sum(map(len, hub.files(f"acme/{folder.name}").values())) / 1e6 for folder in run.iterdir()]
        hub.stop()
        rows["pull without the Hub"] = measure(hub, pull, home)
    for name, row in rows.items():
        print(
            f"{name:22}", *(f"{k} {v:.1f}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()), sep="  "
        )
    print(f"largest repository: {max(sizes):.2f} MB")
    common = {"command": "PYTHONPATH=.:tests python " + " ".join(sys.argv), "machine": machine(), "commit": commit()}
    write_json(RESULT, common | {"versions": versions(), "largest_repository_mb": max(sizes), "rows": rows})


if __name__ == "__main__":
    main()
