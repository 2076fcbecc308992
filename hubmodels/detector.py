"""AnomalyDetector: what SimpleNet and GLASS share, from a user's picture to the verdict, and the Hub contract.

    picture -> image -> feature maps (frozen backbone) -> patch features -> adaptor -> discriminator -> patch scores

The backbone is not part of the weights: see `hubmodels.backbone`.
"""

import copy
import hashlib
import json
import time
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Self

import torch
from huggingface_hub import HfApi, ModelCard, PyTorchModelHubMixin
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from hubmodels.appearance import Appearance, PictureStatistics, picture_statistics
from hubmodels.backbone import WEIGHTS_FILE, Backbone, BackboneError, feature_channels, load_backbone
from hubmodels.front_end import PatchFeatures
from hubmodels.heads import FoldedHead
from hubmodels.hub.files import CONFIG_FILE, LIBRARY, ModelError, fetch_model
from hubmodels.pictures import IMAGENET_MEAN, IMAGENET_STD, Picture, read_picture, to_image, to_picture_size
from hubmodels.scoring import AnomalyPrediction, Calibration, smooth_map

FORMAT_VERSION = 2  # 1 had no `appearance`
NOT_ARGUMENTS = ("method", "format_version", "weights_sha256")  # in the config, but not for `__init__`
LEAKY_SLOPE = 0.2
SMALLEST_IMAGE, LARGEST_IMAGE = 32, 4096  # pixels: below it a backbone sees nothing, above it a computer has no memory
PIPELINE_TAG = "image-segmentation"  # the Hub has no pipeline of anomaly detection
CARD_FILE = "README.md"
PICKLE_STARTS = (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")  # zip of torch.save, bare pickles


class AnomalyDetector(nn.Module, PyTorchModelHubMixin, library_name=LIBRARY, pipeline_tag=PIPELINE_TAG):
    """A small head on a frozen backbone that scores every patch of a picture. Use `SimpleNet` or `GLASS`.

    Args:
        backbone: timm id with weights tag.
        layers: timm feature indices used, finest first; (2, 3) = layer2 and layer3 of a ResNet.
        backbone_sha256: fingerprint of the backbone weights that the head was trained on; checked when they load.
        mean, std: normalisation of RGB in [0, 1] before the backbone.
        image_size: side S of the square model input, pixels.
        resize: side of the square that a picture is resized to before the centre crop to S; default S = no crop.
        patch_size: side of the neighbourhood aggregated around each position.
        embed_dim: width D of a patch feature; default: the backbone's channels added up (1536 for wide_resnet50_2).
        hidden_dim: width of the discriminator's hidden layer; default 2/3 D (1024 for wide_resnet50_2).
        dataset, category: what the head was trained on.
    """

    method: ClassVar[str]

    def __init__(
        self,
        *,
        backbone: str = "wide_resnet50_2.tv_in1k",
        layers: tuple[int, ...] = (2, 3),
        backbone_sha256: str | None = None,
        mean: tuple[float, ...] = IMAGENET_MEAN,
        std: tuple[float, ...] = IMAGENET_STD,
        image_size: int = 288,
        resize: int | None = None,
        patch_size: int = 3,
        embed_dim: int | None = None,
        hidden_dim: int | None = None,
        dataset: str | None = None,
        category: str | None = None,
    ) -> None:
        super().__init__()
        self.backbone_name, self.layers, self.backbone_sha256 = backbone, tuple(layers), backbone_sha256
        self.mean, self.std = tuple(mean), tuple(std)
        if not SMALLEST_IMAGE <= image_size <= LARGEST_IMAGE:
            raise ValueError(
                f"image_size {image_size} does not lie between {SMALLEST_IMAGE} and {LARGEST_IMAGE} pixels"
            )
        if not (len(self.mean) == len(self.std) == 3 and min(self.std) > 0):
            raise ValueError(f"mean {mean} and std {std} are not three values each, and std positive")
        self.image_size, self.resize, self.patch_size = image_size, resize or image_size, patch_size
        self.dataset, self.category = dataset, category
        channels = feature_channels(backbone, self.layers)
        self.embed_dim = embed_dim or sum(channels)
        self.hidden_dim = hidden_dim or self.embed_dim * 2 // 3
        self.patch_features = PatchFeatures(channels, self.embed_dim, patch_size)
        self.adaptor = nn.Linear(self.embed_dim, self.embed_dim)
        self.discriminator = nn.Sequential(
            nn.Linear(self.embed_dim, self.hidden_dim),
            nn.BatchNorm1d(self.hidden_dim),
            nn.LeakyReLU(LEAKY_SLOPE),
            nn.Linear(self.hidden_dim, 1, bias=False),
        )
        self._folded: tuple[list, FoldedHead] | None = None
        self.calibration = Calibration()
        self.appearance = Appearance(self.embed_dim)
        for linear in (self.adaptor, self.discriminator[0], self.discriminator[3]):
            nn.init.xavier_normal_(linear.weight)
        self._hub_mixin_config |= self._resolved_config()

    # ------------------------------------------------------------------ the model

    @property
    def device(self) -> torch.device:
        """Where the head lives; pictures and the shared backbone follow it."""
        return self.calibration.normal_level.device

    @property
    def backbone(self) -> Backbone:
        """The process-wide frozen network, verified against the recorded fingerprint."""
        return load_backbone(self.backbone_name, self.layers, sha256=self.backbone_sha256, device=self.device)

    @property
    def front_end(self) -> tuple:
        """All that patch features depend on: heads with equal front ends share one backbone pass."""
        size = (self.image_size, self.resize, self.mean, self.std)
        network = (self.backbone_name, self.layers, self.backbone_sha256, self.device)
        return (*network, *size, self.patch_size, self.embed_dim)

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        """Images (B, 3, S, S) in [0, 1] -> the backbone's maps (B, C, h, w) in float32, one per layer, no gradient."""
        with torch.no_grad():
            mean, std = (torch.tensor(v, device=images.device)[:, None, None] for v in (self.mean, self.std))
            return [feature_map.float() for feature_map in self.backbone((images - mean) / std)]

    def extract(self, images: Tensor) -> list[Tensor]:
        """Images (B, 3, S, S) in [0, 1] -> aggregated maps (B, D/L, h_l, w_l), one per layer, without gradient."""
        return self.patch_features(self.feature_maps(images))

    def embed(self, patch_features: Tensor) -> Tensor:
        """Patch features (N, D) -> adapted features (N, D)."""
        return self.adaptor(patch_features)

    def discriminate(self, adapted_features: Tensor) -> Tensor:
        """Adapted features (N, D) -> logits (N,); their sign is the method's own."""
        return self.discriminator(adapted_features)[:, 0]

    @abstractmethod
    def logits_to_scores(self, logits: Tensor) -> Tensor:
        """Discriminator output -> patch scores of the same shape, higher = more anomalous."""

    @property
    def folded_head(self) -> FoldedHead:
        """`embed` and `discriminate` in eval mode as one module, made anew after each change of their weights."""
        tensors = [*self.adaptor.state_dict().values(), *self.discriminator.state_dict().values()]
        state = [(t.data_ptr(), 0 if t.is_inference() else t._version) for t in tensors]
        if self._folded is None or self._folded[0] != state:
            head = FoldedHead(self.adaptor, self.discriminator, len(self.layers))
            self._folded = state, head  # in a tuple, or torch would take it for one more part of the model
        return self._folded[1]

    def score_patches(self, aggregated: list[Tensor]) -> Tensor:
        """Aggregated feature maps -> patch scores (B, h, w), without gradient.

        Raises:
            RuntimeError: the detector is in training mode.
        """
        if self.training:  # batch statistics would make a score depend on the other pictures of the batch
            raise RuntimeError("the detector is in training mode: call .eval() before judging pictures")
        return self.logits_to_scores(self.folded_head(aggregated))

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, S, S) float in [0, 1] -> patch scores (B, h, w), without gradient."""
        return self.score_patches(self.extract(images))

    # ------------------------------------------------------------------ a user's picture

    def predict(self, picture: Picture) -> AnomalyPrediction:
        """Judges one picture: a path, bytes, PIL image, numpy array or tensor of any size.

        Raises:
            PictureError: the picture cannot be inspected; the message names the cause.
        """
        return self.predict_batch([picture])[0]

    @torch.inference_mode()
    def predict_batch(self, pictures: Sequence[Picture]) -> list[AnomalyPrediction]:
        """Judges several pictures in one pass; sizes may differ. The latency is the mean over the batch."""
        upright = [read_picture(picture) for picture in pictures]
        if not upright:
            return []
        start = time.perf_counter()
        predictions = self.judge(self.extract(self.prepare(upright)), [(p.height, p.width) for p in upright])
        latency_ms = 1000 * (time.perf_counter() - start) / len(upright)
        return [replace(prediction, latency_ms=latency_ms) for prediction in predictions]

    def decide(self, prediction: AnomalyPrediction, false_alarm_rate: float | None) -> AnomalyPrediction:
        """The same scores, decided at another false-alarm rate; None = the one calibrated for.

        Raises:
            ValueError: the rate lies outside (0, 1).
        """
        decided = self.calibration.apply(prediction.image_score, prediction.anomaly_map, false_alarm_rate)
        return replace(decided, latency_ms=prediction.latency_ms)

    def prepare(self, pictures: list) -> Tensor:
        """PIL RGB pictures -> images (B, 3, S, S) in [0, 1] on the detector's device."""
        return torch.stack([to_image(p, self.image_size, self.resize) for p in pictures]).to(self.device)

    def judge(self, aggregated: list[Tensor], sizes: list[tuple[int, int]]) -> list[AnomalyPrediction]:
        """Aggregated feature maps of B pictures and their (height, width) -> one prediction each."""
        patch_scores = self.score_patches(aggregated).float()
        image_scores = patch_scores.amax((1, 2)).tolist()
        maps = smooth_map(patch_scores, self.image_size).cpu()
        resized = [to_picture_size(m, size, self.resize) for m, size in zip(maps, sizes, strict=True)]
        return [self.calibration.apply(s, m) for s, m in zip(image_scores, resized, strict=True)]

    def without_head(self) -> Self:
        """A copy that can say what a picture looks like, but not judge it: some kB instead of up to 16 MB."""
        scout = copy.copy(self)
        scout._folded = None
        scout._modules = {k: v for k, v in self._modules.items() if k not in ("adaptor", "discriminator")}
        return scout

    def glance(self, pictures: list, images: Tensor, aggregated: list[Tensor]) -> list[PictureStatistics]:
        """PIL RGB pictures, their images and aggregated feature maps -> what `appearance` learns from and judges."""
        return picture_statistics(images, aggregated, [self.resize / min(p.size) for p in pictures])

    def calibrate(self, pictures: Iterable[Picture], false_alarm_rate: float = 0.01) -> None:
        """Sets thresholds, and learns the category's look, from normal pictures that the head was not trained on.

        They are taken one at a time; nothing large is kept of them.
        """
        seen: list[PictureStatistics] = []
        self.calibration.fit((self._study(picture, seen) for picture in pictures), false_alarm_rate)
        self.appearance.fit(seen)

    @torch.inference_mode()
    def _study(self, picture: Picture, seen: list[PictureStatistics]) -> AnomalyPrediction:
        """The prediction of one picture, and a glance at it for the list, by a single backbone pass."""
        upright = read_picture(picture)
        images = self.prepare([upright])
        aggregated = self.extract(images)
        seen += self.glance([upright], images, aggregated)
        return self.judge(aggregated, [(upright.height, upright.width)])[0]

    # ------------------------------------------------------------------ the Hub

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        backbone_weights: str | Path | None = None,
        map_location: str | torch.device = "cpu",
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
    ) -> Self:
        """Loads a published model from a Hub repository or a folder, strictly and in eval mode.

        On `AnomalyDetector` itself the method is read from the model's config.

        Args:
            backbone_weights: file with the backbone's weights; by default bundled, then local cache, then Hub.

        Raises:
            ModelError: a file is missing, damaged, or of another method or a newer format.
            BackboneError: the backbone's weights are not to be had, or not those the head was trained on.
        """
        source = str(pretrained_model_name_or_path)
        hub = dict(revision=revision, token=token, cache_dir=cache_dir)
        hub |= dict(local_files_only=local_files_only, force_download=force_download)
        config_file, weights_file = fetch_model(source, **hub)
        config = _read_config(config_file, source)
        weights = _read_weights(weights_file, config.get("weights_sha256"), source)
        detector = cls._build(config, source)
        if config["format_version"] == 1:
            weights = {f"appearance.{k}": v for k, v in detector.appearance.state_dict().items()} | weights
        detector._load_weights(weights, source)
        load_backbone(
            detector.backbone_name, detector.layers, weights=backbone_weights, sha256=detector.backbone_sha256
        )
        return detector.to(map_location).eval()

    def push_to_hub(self, repo_id: str, *, ignore_patterns: list[str] | str | None = None, **options) -> str:
        """Pushes config, weights and a short card, as the mixin does; a card that is there already is kept."""
        api = HfApi(token=options.get("token"), library_name=LIBRARY)
        if api.file_exists(repo_id, CARD_FILE, revision=options.get("branch")):
            given = [ignore_patterns] if isinstance(ignore_patterns, str) else ignore_patterns or []
            ignore_patterns = [*given, CARD_FILE]
        return super().push_to_hub(repo_id, ignore_patterns=ignore_patterns, **options)

    def generate_model_card(self, *args, **kwargs) -> ModelCard:
        """What is known of a detector without its training; `training/card.py` writes the full card."""
        name, part = type(self).__name__, f"{self.dataset or 'own data'} / {self.category or 'one category'}"
        data = copy.deepcopy(self._hub_mixin_info.model_card_data)  # the class shares one
        data.tags = [*data.tags, "anomaly-detection", self.method]
        return ModelCard(
            f"---\n{data.to_yaml()}\n---\n\n# {name} for {part}\n\n"
            f"```python\nfrom hubmodels import {name}\n\n"
            f'prediction = {name}.from_pretrained("USER/REPOSITORY").predict("photo.png")\n```\n\n'
            f"It {self.calibration.describe()}. Accuracy: not measured.\n"
        )

    def _save_pretrained(self, save_directory: Path) -> None:
        super()._save_pretrained(save_directory)
        content = (save_directory / WEIGHTS_FILE).read_bytes()
        self._hub_mixin_config["weights_sha256"] = hashlib.sha256(content).hexdigest()

    @classmethod
    def _class_for(cls, config: dict, source: str) -> type[Self]:
        methods = {c.method: c for c in AnomalyDetector.__subclasses__()}
        found = methods.get(str(config.get("method")))
        if found is None:
            raise ModelError(f"{source}: {CONFIG_FILE} names no method of this library ({', '.join(methods)})")
        if not issubclass(found, cls):
            raise ModelError(f"{source} is a {found.__name__} model: load it by {found.__name__}.from_pretrained(...)")
        return found

    @classmethod
    def _build(cls, config: dict, source: str) -> Self:
        found, arguments = cls._class_for(config, source), _init_arguments(config, source)
        try:
            return found(**arguments)
        except (TypeError, ValueError, AttributeError, LookupError, RuntimeError, ArithmeticError) as error:
            if isinstance(error, BackboneError):
                raise  # it says more
            raise ModelError(f"{source}: {CONFIG_FILE} holds values that build no model ({error})") from error

    def _load_weights(self, weights: dict[str, Tensor], source: str) -> None:
        try:
            self.load_state_dict(weights, strict=True)
        except RuntimeError as error:
            raise ModelError(f"{source}: {WEIGHTS_FILE} does not fit its {CONFIG_FILE}: {error}") from error

    def _resolved_config(self) -> dict:
        sizes = {"embed_dim": self.embed_dim, "hidden_dim": self.hidden_dim, "resize": self.resize}
        return {"method": self.method, "format_version": FORMAT_VERSION, **sizes}


def _read_config(path: Path, source: str) -> dict:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        version = config["format_version"]
        if type(version) is not int or version < 1:
            raise ValueError(f"format_version is {version!r}")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelError(f"{source}: {CONFIG_FILE} is damaged or not of this library ({error!r})") from error
    if version > FORMAT_VERSION:
        raise ModelError(
            f"{source} has format {version}, newer than this library knows ({FORMAT_VERSION}): upgrade it"
        )
    return config


def _init_arguments(config: dict, source: str) -> dict:
    arguments = {k: v for k, v in config.items() if k not in NOT_ARGUMENTS}
    unknown = arguments.keys() - AnomalyDetector._hub_mixin_init_parameters.keys()
    if unknown:
        raise ModelError(
            f"{source}: {CONFIG_FILE} holds settings unknown to this library: {', '.join(sorted(unknown))}"
        )
    return arguments


def _read_weights(path: Path, sha256: str | None, source: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file that is, where the config tells its SHA-256, the very file that was saved."""
    content = path.read_bytes()
    try:
        weights = load(content)
    except SafetensorError as error:
        if content[:2] in PICKLE_STARTS:  # only now: the length of a header may begin with the same bytes
            raise ModelError(f"{source}: {WEIGHTS_FILE} is a pickle in disguise, which can run any code") from error
        raise ModelError(f"{source}: {WEIGHTS_FILE} is truncated or not a safetensors file ({error})") from error
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise ModelError(
            f"{source}: {WEIGHTS_FILE} is not the file that its {CONFIG_FILE} names (damaged or exchanged): load it "
            "anew by `force_download=True`, or ask its author"
        )
    return weights
