"""Image AUROC of a plain nearest-neighbour search in our patch features: `python benchmarks/nearest_neighbour.py`.

No training: tells what the features and our preprocessing give from what a head adds. Magnetic tile of ../shared,
ResNet-18, 256 px, 12,000 patches of 120 good pictures, largest distance, every other test picture.
"""

import torch
from sklearn.metrics import roc_auc_score

from hubmodels import SimpleNet
from hubmodels.backbone import load_backbone
from hubmodels.features import align, flatten
from training.data import open_categories

WEIGHTS = "../shared/weights/resnet18_tv_in1k_layer3.safetensors"
BATCH_SIZE, PICTURES, PATCHES_PER_BATCH = 8, 120, 800


@torch.inference_mode()
def main() -> None:
    """Prints the AUROC."""
    backbone = load_backbone("resnet18.tv_in1k", weights=WEIGHTS)
    detector = SimpleNet(backbone=backbone.name, backbone_sha256=backbone.fingerprint, image_size=256)
    (category,) = open_categories("../shared/data/magnetic_tile")
    torch.manual_seed(0)

    def features(samples):
        return align(detector.extract(detector.prepare([sample.read() for sample in samples])))

    batches = [flatten(features(category.train[i : i + BATCH_SIZE])) for i in range(0, PICTURES, BATCH_SIZE)]
    bank = torch.cat([patches[torch.randperm(len(patches))[:PATCHES_PER_BATCH]] for patches in batches])
    test = category.test[::2]
    scores = [torch.cdist(flatten(features([sample])), bank).amin(1).max().item() for sample in test]
    print(f"{len(test)} test pictures, image AUROC {roc_auc_score([sample.label for sample in test], scores):.3f}")


if __name__ == "__main__":
    main()
