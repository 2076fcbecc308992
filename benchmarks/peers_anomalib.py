"""Measures one of anomalib's models, in anomalib's environment: `python -m benchmarks.peers_anomalib glass`.

Settings are the defaults of the library, except for the picture size. Training steps equal those of its Lightning
modules, without Lightning, whose trainer needs a data set. Loggers and schedulers are left out. Weights are random.
"""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import timm
import torch
from anomalib.models.image.efficient_ad.torch_model import EfficientAdModel
from anomalib.models.image.glass.torch_model import GlassModel
from anomalib.models.image.patchcore.torch_model import PatchcoreModel
from anomalib.models.image.supersimplenet.loss import SSNLoss
from anomalib.models.image.supersimplenet.torch_model import SupersimplenetModel
from torch import Tensor, nn

from benchmarks.peers_timing import PAPER_BACKBONE, PAPER_IMAGE_SIZE, Step, Subject, file_mb, run

LAYERS = ["layer2", "layer3"]
TRAIN_BATCH = 4
FITTED_ON, CORESET_SHARE = 200, 0.1  # pictures, typical of MVTec AD, and anomalib's default share of their patches
PIXELS = (PAPER_IMAGE_SIZE, PAPER_IMAGE_SIZE)
GRID, WIDTH = PAPER_IMAGE_SIZE // 8, 512 + 1024  # of layer2 and layer3
BANK = round(FITTED_ON * GRID**2 * CORESET_SHARE)


def avoid_downloads() -> None:
    """Makes all networks of timm random.

    GLASS has an option for it (`pre_trained=False`), but then it also trains the backbone.
    """
    create = timm.create_model
    timm.create_model = lambda *names, pretrained=False, **options: create(*names, pretrained=False, **options)


def glass(_: Path | None) -> Subject:
    """GLASS on the manifold, its default; without a folder of textures it uses Perlin noise."""
    model = GlassModel(input_shape=PIXELS, backbone=PAPER_BACKBONE).eval()
    training = "backbone and head, 20 ascent steps; texture: its Perlin noise; without the centre pass of each epoch"
    return _subject(model, torch.randn, _glass_step, method="GLASS", training=training)


def _glass_step(model: GlassModel) -> Step:
    images = torch.randn(TRAIN_BATCH, 3, *PIXELS)
    model.calculate_center([SimpleNamespace(image=images)], torch.device("cpu"))
    head = torch.optim.AdamW(model.discriminator.parameters(), lr=2e-4)
    adaptor = torch.optim.Adam(model.projection.parameters(), lr=1e-4, weight_decay=1e-5)
    model.train()
    return lambda: _update(model(images)[-1], adaptor, head)


def supersimplenet(_: Path | None) -> Subject:
    """SuperSimpleNet, unsupervised."""
    model = SupersimplenetModel(backbone=PAPER_BACKBONE, layers=LAYERS).eval()
    return _subject(model, torch.randn, _supersimplenet_step, method="SuperSimpleNet", training="backbone and head")


def _supersimplenet_step(model: SupersimplenetModel) -> Step:
    images, loss = torch.randn(TRAIN_BATCH, 3, *PIXELS), SSNLoss()
    good = {"masks": torch.zeros(TRAIN_BATCH, *PIXELS), "labels": torch.zeros(TRAIN_BATCH)}
    heads = {"params": model.segdec.parameters(), "lr": 2e-4, "weight_decay": 1e-5}
    optimizer = torch.optim.AdamW([{"params": model.adaptor.parameters(), "lr": 1e-4}, heads])
    model.train()

    def step() -> None:
        anomaly_map, score, masks, labels = model(images, **good)
        _update(loss(pred_map=anomaly_map, pred_score=score, target_mask=masks, target_label=labels), optimizer)

    return step


def patchcore(_: Path | None) -> Subject:
    """PatchCore with a random memory bank of the usual size; its content does not change the time."""
    model = PatchcoreModel(layers=LAYERS, backbone=PAPER_BACKBONE).eval()
    model.memory_bank = torch.randn(BANK, WIDTH)
    weights = f"random; memory bank of {BANK} random patches (a tenth of those of {FITTED_ON} pictures)"
    training = "features of each picture once, no steps; without the choice of the memory bank from them"
    return _subject(model, torch.randn, _patchcore_step, method="PatchCore", weights=weights, training=training)


def _patchcore_step(model: PatchcoreModel) -> Step:
    images = torch.randn(TRAIN_BATCH, 3, *PIXELS)
    model.train()

    def step() -> None:
        model(images)
        model.embedding_store.clear()

    return step


def efficientad(size: str) -> Callable[[Path | None], Subject]:
    """EfficientAD; it normalises pictures itself, and has its own networks instead of a backbone."""

    def build(_: Path | None) -> Subject:
        model = EfficientAdModel(model_size=size).eval()
        for parameter in (model.mean_std["std"], model.quantiles["qb_st"], model.quantiles["qb_ae"]):
            parameter.data.fill_(1)  # like after fitting, because otherwise it skips the normalisation
        facts = {"method": f"EfficientAD {size}", "backbone": "its own"}
        facts |= {"training": "student and autoencoder; random pictures instead of ImageNet's"}
        return _subject(model, torch.rand, _efficientad_step, train_batch=1, **facts)  # it refuses larger batches

    return build


def _efficientad_step(model: EfficientAdModel) -> Step:
    images, imagenet = torch.rand(2, 1, 3, *PIXELS)
    parameters = [*model.student.parameters(), *model.ae.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=1e-4, weight_decay=1e-5)
    model.train()
    return lambda: _update(sum(model(images, imagenet)), optimizer)


def _subject(
    model: nn.Module,
    pictures: Callable[..., Tensor],
    make_step: Callable[..., Step],
    train_batch: int = TRAIN_BATCH,
    **facts: str,
) -> Subject:
    """The model as its library runs it; facts that are not given have the usual values."""

    def predict(images: Tensor) -> tuple[Tensor, Tensor]:
        result = model(images)
        return result.anomaly_map, result.pred_score

    def sizes_mb(folder: Path) -> dict[str, float]:
        torch.save(model.state_dict(), folder / "model.pt")
        return {"size_mb": file_mb(folder / "model.pt")}

    facts = {"library": "anomalib", "backbone": PAPER_BACKBONE, "weights": "random"} | facts
    return Subject(facts, pictures, predict, sizes_mb, lambda: make_step(model), train_batch)


def _update(loss: Tensor, *optimizers: torch.optim.Optimizer) -> None:
    for optimizer in optimizers:
        optimizer.zero_grad()
    loss.backward()
    for optimizer in optimizers:
        optimizer.step()


MODELS = {"glass": glass, "supersimplenet": supersimplenet, "patchcore": patchcore}
MODELS |= {f"efficientad-{size}": efficientad(size) for size in ("small", "medium")}

if __name__ == "__main__":
    avoid_downloads()
    run(MODELS, ("anomalib", "torch", "torchvision", "timm", "numpy"))
