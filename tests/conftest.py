"""Shared fixtures: a Hub of our own, backbone weights, tiny detectors, a folder of model folders. All on the CPU."""

import hub_environment  # isort: split

import copy
import gc
import os
import shutil
import signal

import numpy as np
import pytest
import timm
import torch
from browser import launched
from hub_server import LoopbackHub, bound
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import save_file
from small_pictures import picture

from hubmodels.backbone import load_backbone
from hubmodels.front_end import align, flatten
from hubmodels.methods import METHODS
from training import evaluation
from training.publishing import latency

BACKBONE = "resnet18.tv_in1k"
signal.signal(
    signal.SIGINT, signal.default_int_handler
)  # a shell's background jobs ignore it, and so do their children
gc.set_threshold(10_000, 20, 100)  # the collector visits a million objects of torch and gradio for a second each time
MOST_PROCESSES = 4  # each needs 1 GB; with more, the slowest file is what takes the time
SLOWEST = (
    "test_story",
    "test_visitors",
    "test_input_shape",
    "test_study",
    "test_corrections",
    "test_train",
    "test_safety",
    "test_browser",
    "test_wheel",
    "test_publish",
    "test_onnx",
    "test_space",
    "test_commands",
)


@pytest.hookimpl(optionalhook=True, tryfirst=True)
def pytest_xdist_auto_num_workers(config):
    """Folders run in a process for each core, and one more, because browsers and servers are waited for.

    Files that are named run in this process, which starts faster.
    """
    named = any(".py" in argument for argument in config.args)
    return 0 if named else min(os.cpu_count() + 1, MOST_PROCESSES)


def pytest_collection_modifyitems(items):
    """The slowest files come first, so that all processes end at about the same time."""
    items.sort(key=lambda item: item.path.stem not in SLOWEST)


@pytest.fixture(scope="session")
def backbone_weights(tmp_path_factory):
    """Random weights of ResNet-18 up to layer3: the shapes are real, the features mean nothing."""
    torch.manual_seed(0)
    network = timm.create_model(BACKBONE, pretrained=False, features_only=True, out_indices=(2, 3))
    path = tmp_path_factory.mktemp("weights") / "resnet18.safetensors"
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, path)
    return path


@pytest.fixture(scope="session", autouse=True)
def shared_backbone(backbone_weights):
    """Holds the random backbone for the whole session, so that models in any folder find it by its fingerprint."""
    return load_backbone(BACKBONE, weights=backbone_weights)


@pytest.fixture(scope="session", autouse=True)
def quick_reports():
    """Small panels and few measurements of latency: they took half of a training's time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "PANEL_HEIGHT", 32)
        patch.setattr(latency, "REPEATS", 2)
        yield


@pytest.fixture(scope="session")
def make_detector(shared_backbone):
    """Factory of tiny detectors in eval mode, calibrated on random pictures unless told otherwise."""
    known = {}  # what a calibration changes: equal detectors have equal ones

    def make(method, calibrated=True, **settings):
        torch.manual_seed(0)
        given = {"embed_dim": 32, "image_size": 64, "dataset": "toy", "category": "widget"} | settings
        detector = method(backbone=BACKBONE, backbone_sha256=shared_backbone.fingerprint, **given).eval()
        if calibrated and (kind := (method, repr(given))) not in known:
            rng = np.random.default_rng(0)
            detector.calibrate([Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)) for _ in range(5)], 0.2)
            known[kind] = copy.deepcopy((detector.calibration, detector.appearance))
        elif calibrated:
            detector.calibration, detector.appearance = copy.deepcopy(known[kind])
        return detector

    return make


@pytest.fixture(scope="session")
def make_fitted(make_detector):
    """Factory of detectors whose closed form or bank has seen some normal pictures."""

    def make(kind, **settings):
        detector = make_detector(kind, calibrated=False, **settings)
        normals = [picture(seed, (64, 64)) for seed in range(6)]
        images = detector.front_end.prepare(normals)
        detector.head.fit(flatten(align(detector.front_end(images))))
        detector.calibrate(normals, 0.2)
        return detector

    return make


@pytest.fixture(scope="session")
def saved_models(make_detector, tmp_path_factory):
    """The original of `model_folder`, made once: never to be changed."""
    folder = tmp_path_factory.mktemp("saved_models")
    for name in ("simplenet", "glass"):  # the page's default; `test_any_number_of_methods` has others
        make_detector(METHODS[name].detector).save_pretrained(folder / f"{name}-toy-widget")
    return folder


@pytest.fixture
def model_folder(saved_models, tmp_path):
    """A folder with two methods for the category `widget` of the data set `toy`; the test's own, to be damaged."""
    return shutil.copytree(saved_models, tmp_path / "models")


@pytest.fixture(scope="module")
def one_browser():
    """A browser for all visits of a file."""
    with launched():
        yield


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty Hub and an empty cache, for the real client in this process, logged in as `acme`."""
    shutil.rmtree(constants.HF_HUB_CACHE, ignore_errors=True)
    monkeypatch.setenv("HF_TOKEN", "hf_write")
    with LoopbackHub(tmp_path / "hub", bound(hub_environment.HUB_PORT)) as hub:
        yield hub
