"""Real ImageNet weights and pictures, if the tests have them: shapes alone do not distinguish them from noise."""

import pytest
from real_data import real_folder

from hubmodels import GLASS
from hubmodels.backbone import load_backbone
from hubmodels.front_end import align
from hubmodels.pictures import read_picture

RESNETS = {
    "resnet18.tv_in1k": ("resnet18_tv_in1k_layer3.safetensors", (128, 256)),
    "resnet50.tv_in1k": ("resnet50_msra_in1k_layer3.safetensors", (512, 1024)),
}


@pytest.mark.parametrize("name", RESNETS)
def test_cut_weight_files_cover_the_cut_network(name):
    """They contain conv1 to layer3 only (one in fp16), which is all that is used."""
    file, channels = RESNETS[name]
    backbone = load_backbone(name, weights=real_folder(f"weights/{file}"))
    assert backbone.channels == channels and len(backbone.fingerprint) == 64


def test_features_of_real_screws_have_the_known_scale():
    """RMS 0.17 on the screws at 256 px; random weights or a wrong normalisation give another value."""
    backbone = load_backbone("resnet18.tv_in1k", weights=real_folder(f"weights/{RESNETS['resnet18.tv_in1k'][0]}"))
    detector = GLASS(backbone="resnet18.tv_in1k", backbone_sha256=backbone.fingerprint, image_size=256)
    pictures = sorted(real_folder("data/mvtec_ad/screw/train/good").glob("*.png"))[:4]
    prepared = detector.front_end.prepare([read_picture(path) for path in pictures])
    assert align(detector.front_end(prepared)).square().mean().sqrt().item() == pytest.approx(0.168, abs=0.005)
