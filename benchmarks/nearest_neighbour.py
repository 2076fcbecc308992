"""Nearest-neighbour search in our patch features on magnetic tile: `python benchmarks/nearest_neighbour.py`.

No training: tells what the features, the input and the reduction to one score give, from what a head adds. Bank: all
patches of every fourth good training picture; judged: every third test picture. ResNet-18, layers 2+3, either squashed
to 256 x 256 px, as both methods do, or with the aspect ratio kept (longer side 256 px). Writes
`results/nearest_neighbour.json`: image AUROC with the maximum, and by defect type and reduction. About ten minutes on
two cores.
"""

import json
from pathlib import Path

import torch
from PIL import Image
from sklearn.metrics import roc_auc_score
from torchvision.transforms.functional import to_tensor

from hubmodels import SimpleNet
from hubmodels.backbone import load_backbone
from hubmodels.front_end import align, flatten
from training.data import open_categories
from training.provenance import machine, versions

WEIGHTS = "../shared/weights/resnet18_tv_in1k_layer3.safetensors"
RESULTS = Path(__file__).parent / "results" / "nearest_neighbour.json"
COMMAND = "PYTHONPATH=. python benchmarks/nearest_neighbour.py"
SIZE, STRIDE = 256, 16
REDUCTIONS = {"max": 0.0, "top 1 %": 0.01, "top 10 %": 0.1, "mean": 1.0}


def squashed(width: int, height: int) -> tuple[int, int]:
    """Input size of both methods."""
    return SIZE, SIZE


def aspect_kept(width: int, height: int) -> tuple[int, int]:
    """Input size with the longer side SIZE, in whole strides of the coarser layer."""
    scale = SIZE / max(width, height) / STRIDE
    return max(1, round(width * scale)) * STRIDE, max(1, round(height * scale)) * STRIDE


def patches(detector: SimpleNet, picture: Image.Image, input_size) -> torch.Tensor:
    """Patch features (N, D) of one picture."""
    resized = picture.resize(input_size(*picture.size), Image.Resampling.BILINEAR)
    return flatten(align(detector.extract(to_tensor(resized)[None])))


def reductions(distances: torch.Tensor) -> list[float]:
    """Image scores: mean of the largest distances, for every share in REDUCTIONS."""
    ordered = distances.sort(descending=True).values
    return [ordered[: max(1, int(share * len(ordered)))].mean().item() for share in REDUCTIONS.values()]


def aurocs(defects: list[str], scores: list[list[float]]) -> dict[str, float]:
    """Image AUROC of every reduction."""
    labels = [defect != "good" for defect in defects]
    columns = torch.tensor(scores).unbind(1)
    return {name: round(roc_auc_score(labels, column), 4) for name, column in zip(REDUCTIONS, columns, strict=True)}


@torch.inference_mode()
def search(detector: SimpleNet, category, input_size) -> dict:
    """Part of a row: AUROC of all defects together and of each type."""
    bank = torch.cat([patches(detector, sample.read(), input_size) for sample in category.train[::4]])
    test = category.test[::3]
    nearest = [torch.cdist(patches(detector, sample.read(), input_size), bank).amin(1) for sample in test]
    judged = [(sample.defect_type, reductions(distances)) for sample, distances in zip(test, nearest, strict=True)]
    rows = {"all": aurocs(*map(list, zip(*judged, strict=True)))}
    for defect in sorted({defect for defect, _ in judged} - {"good"}):
        chosen = [(name, scores) for name, scores in judged if name in (defect, "good")]
        rows[defect] = aurocs(*map(list, zip(*chosen, strict=True)))
    row = {"input": input_size.__name__, "bank": len(bank), "test_pictures": len(test)}
    return row | {"image_auroc": rows["all"]["max"], "image_auroc_by_defect": rows}


def main() -> None:
    """Writes and prints both rows."""
    backbone = load_backbone("resnet18.tv_in1k", weights=WEIGHTS)
    detector = SimpleNet(backbone=backbone.name, backbone_sha256=backbone.fingerprint, image_size=SIZE)
    (category,) = open_categories("../shared/data/magnetic_tile")
    common = {"machine": machine(), "command": COMMAND, "versions": versions()}
    rows = [search(detector, category, input_size) | common for input_size in (squashed, aspect_kept)]
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
    print(RESULTS.read_text())


if __name__ == "__main__":
    main()
