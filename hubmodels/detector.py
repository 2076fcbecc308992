"""AnomalyDetector: front end, head, calibration and appearance, from a user's picture to the verdict; Hub methods.

picture -> image -> backbone maps -> aggregated maps -> patch scores -> anomaly map, image score, verdict
           `------------ front end ------------'   head                     calibration
"""

import hashlib
import inspect
import json
import time
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from itertools import repeat
from os import PathLike
from pathlib import Path
from typing import ClassVar, Self

import torch
from huggingface_hub import HfApi, ModelCard, ModelCardData, PyTorchModelHubMixin
from safetensors.torch import save
from torch import Tensor, nn

from hubmodels import LIBRARY
from hubmodels.appearance import MESSAGES, Appearance, PictureStatistics, exchanged_statistics, picture_statistics
from hubmodels.backbone import IMAGENET_MEAN, IMAGENET_STD, BackboneError
from hubmodels.front_end import FrontEnd, to_picture_size
from hubmodels.heads import Head
from hubmodels.hub.errors import ModelError
from hubmodels.hub.files import (
    CARD_FILE,
    CONFIG_FILE,
    FORMAT_VERSION,
    WEIGHTS_FILE,
    fetch_model,
    read_config,
    read_weights,
)
from hubmodels.least_size import LeastSize, open_map
from hubmodels.pictures import Picture, PictureWarning, read_picture
from hubmodels.prediction import FALSE_ALARM_RATE, AnomalyPrediction, SizedMap
from hubmodels.scoring import Calibration, smooth_map
from hubmodels.sizes import Size, as_pair, as_plain

NOT_ARGUMENTS = ("method", "format_version", "weights_sha256")  # in the config, but not for `__init__`
PIPELINE_TAG = "image-segmentation"  # the Hub has no pipeline of anomaly detection
TAGS = ("model_hub_mixin", "pytorch_model_hub_mixin", "anomaly-detection")


class AnomalyDetector(nn.Module, PyTorchModelHubMixin, library_name=LIBRARY, pipeline_tag=PIPELINE_TAG):
    """A small head on a frozen backbone that scores every patch of a picture.

    Use a method's class, or `hubmodels.load` for a model of any method. A method sets `method` and `head_class`.

    Args:
        backbone: timm id with weights tag.
        layers: timm feature indices used, finest first; (2, 3) = layer2 and layer3 of a ResNet.
        backbone_sha256: fingerprint of the backbone weights that the head was trained on; checked when they load.
        mean, std: normalisation of RGB in [0, 1] before the backbone.
        image_size: (height, width) of the model input, pixels; one number for a square.
        resize: what a picture is resized to before the centre crop to `image_size`; by default it is not cropped.
        patch_size: side of the neighbourhood aggregated around each position.
        embed_dim: width D of a patch feature; default: the backbone's channels added up (1536 for wide_resnet50_2).
        dataset, category: what the head was trained on.
        region: whether only a part of the picture counts; which one is in the weights.
        least_size: regions of fewer pixels do not count for the verdict (`hubmodels.least_size`); None = all count.
        picture_size: (height, width) of the pictures that have these pixels; by default `resize`.
        head_settings: arguments of the method's head, for example `hidden_dim`.
    """

    method: ClassVar[str]
    head_class: ClassVar[type[Head]]

    def __init__(
        self,
        *,
        backbone: str = "wide_resnet50_2.tv_in1k",
        layers: tuple[int, ...] = (2, 3),
        backbone_sha256: str | None = None,
        mean: tuple[float, ...] = IMAGENET_MEAN,
        std: tuple[float, ...] = IMAGENET_STD,
        image_size: Size = 288,
        resize: Size | None = None,
        patch_size: int = 3,
        embed_dim: int | None = None,
        dataset: str | None = None,
        category: str | None = None,
        region: bool = False,
        least_size: float | None = None,
        picture_size: Size | None = None,
        **head_settings: object,
    ) -> None:
        super().__init__()
        self.dataset, self.category = dataset, category
        self.front_end = FrontEnd(
            backbone=backbone,
            layers=layers,
            backbone_sha256=backbone_sha256,
            mean=mean,
            std=std,
            image_size=image_size,
            resize=resize,
            patch_size=patch_size,
            embed_dim=embed_dim,
            region=region,
        )
        measured = as_pair(picture_size or self.front_end.resize)
        self.least_size = None if least_size is None else LeastSize(least_size, measured)
        self.head = self.head_class(self.front_end.embed_dim, len(self.front_end.layers), **head_settings)
        self.calibration = Calibration()
        self.appearance = Appearance(self.front_end.embed_dim)

    # ------------------------------------------------------------------ the model

    @property
    def device(self) -> torch.device:
        """Where the detector is; pictures and the shared backbone follow it."""
        return self.front_end.device

    def score_patches(self, aggregated: list[Tensor], head: Head | None = None) -> Tensor:
        """Aggregated maps -> patch scores (B, h, w), without gradient, in the type of the head's weights.

        Args:
            head: instead of the detector's.

        Raises:
            RuntimeError: the detector is in training mode.
        """
        if self.training:  # batch statistics would make a score depend on the other pictures of the batch
            raise RuntimeError("the detector is in training mode: call .eval() before inspecting pictures")
        head = head or self.head
        weights = (tensor.dtype for tensor in head.state_dict().values() if tensor.is_floating_point())
        dtype = next(weights, torch.float32)
        with torch.no_grad():
            return head.scores([layer.to(dtype) for layer in aggregated])

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) float in [0, 1] -> patch scores (B, h, w), without gradient."""
        return self.score_patches(self.front_end(images))

    # ------------------------------------------------------------------ a user's picture

    def predict(self, picture: Picture) -> AnomalyPrediction:
        """Inspects one picture: a path, bytes, PIL image, numpy array or tensor of any size.

        Arrays and tensors are **RGB**. OpenCV gives BGR: use `cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)`.

        Warns by `PictureWarning` where the picture does not fit the good parts that the model learned: its brightness,
        sharpness, size, colours (red and blue exchanged) or content. `warnings` of the result has the same as codes.

        Raises:
            PictureError: the picture cannot be inspected; the message names the cause.
        """
        predictions = self._inspect([picture])
        self._warn(predictions)
        return predictions[0]

    def predict_batch(self, pictures: Sequence[Picture]) -> list[AnomalyPrediction]:
        """Inspects several pictures in one pass; sizes may differ. The latency is the mean over the batch.

        Warns and raises as `predict` does, once for each kind of warning.
        """
        if isinstance(pictures, str | bytes | PathLike):
            raise TypeError("predict_batch takes a list of pictures: use predict for a single one")
        predictions = self._inspect(pictures)
        self._warn(predictions)
        return predictions

    @torch.inference_mode()
    def _inspect(self, pictures: Sequence[Picture]) -> list[AnomalyPrediction]:
        upright = [read_picture(picture) for picture in pictures]
        if not upright:
            return []
        start = time.perf_counter()
        images = self.front_end.prepare(upright)
        aggregated = self.front_end(images)
        features_s = time.perf_counter() - start
        # before there are maps, because both of a large picture need much memory
        seen = picture_statistics(images, aggregated, list(map(self.front_end.enlargement, upright)))
        start = time.perf_counter() - features_s
        predictions = self.predict_from_features(aggregated, [(p.height, p.width) for p in upright])
        latency_ms = 1000 * (time.perf_counter() - start) / len(upright)
        del aggregated  # before a second pass, because that of a large image needs as much again
        reasons = [self._doubts(image[None], own) for image, own in zip(images, seen, strict=True)]
        return [
            replace(prediction, latency_ms=latency_ms, warnings=codes)
            for prediction, codes in zip(predictions, reasons, strict=True)
        ]

    def _doubts(self, images: Tensor, own: PictureStatistics) -> tuple[str, ...]:
        """The warnings for an image (1, 3, H, W) and its statistics."""
        exchanged = partial(exchanged_statistics, self.front_end, images, own.enlargement, own)
        return self.appearance.check(own, exchanged).warnings

    def _warn(self, predictions: Sequence[AnomalyPrediction]) -> None:
        """One Python warning for each code, at the line that called `predict`."""
        for code in dict.fromkeys(code for prediction in predictions for code in prediction.warnings):
            warnings.warn(f"{self.category or self.method}: {MESSAGES[code]}", PictureWarning, stacklevel=3)

    def predict_from_features(
        self, aggregated: list[Tensor], sizes: Sequence[tuple[int, int]], head: Head | None = None
    ) -> list[AnomalyPrediction]:
        """Aggregated maps of B pictures and their (height, width) -> one prediction each.

        Args:
            head: instead of the detector's.

        Raises:
            ModelError: a score is not finite; it would pass for good, because no threshold is below it.
        """
        patch_scores = self.score_patches(aggregated, head).float()
        if not patch_scores.isfinite().all():
            raise ModelError(f"the {self.method} model gives scores that are not finite: its weights are damaged")
        maps = self._maps(patch_scores).cpu()
        counted = self._without_small_regions(maps)
        scores = self._image_scores(patch_scores, head or self.head) if counted is None else counted.amax((1, 2))
        sized = [self._sized(some, sizes) for some in (maps, counted)]
        region = self.front_end.region
        counts_at = None if region is None else partial(region.of_picture, resize=self.front_end.resize)
        return [
            replace(self.calibration.decide(score, whole, counted_map=own), counts_at=counts_at)
            for score, whole, own in zip(scores.tolist(), *sized, strict=True)
        ]

    def _maps(self, patch_scores: Tensor) -> Tensor:
        """Patch scores (B, h, w) -> anomaly maps (B, H, W)."""
        region = self.front_end.region
        return smooth_map(patch_scores, self.front_end.image_size) if region is None else region.smooth(patch_scores)

    def _image_scores(self, patch_scores: Tensor, head: Head) -> Tensor:
        """Patch scores (B, h, w) -> image scores (B,) of those that count."""
        region = self.front_end.region
        return head.image_scores(patch_scores if region is None else region.counting(patch_scores))

    def _without_small_regions(self, maps: Tensor) -> Tensor | None:
        """Anomaly maps (B, H, W) in which regions below the least size are lowered; None where all count."""
        if self.least_size is None:
            return None
        pixels = self.least_size.in_map(self.front_end.resize, self.front_end.stride)
        return torch.stack([torch.from_numpy(open_map(one.numpy(), pixels)) for one in maps])

    def _sized(self, maps: Tensor | None, sizes: Sequence[tuple[int, int]]) -> list[SizedMap | None]:
        """Each map (H, W) for the size of its picture."""
        if maps is None:
            return [None] * len(sizes)
        resize = self.front_end.resize
        return [
            SizedMap(size, max(resize), partial(to_picture_size, one.clone(), resize=resize))
            for one, size in zip(maps, sizes, strict=True)
        ]

    def decide(
        self, prediction: AnomalyPrediction, false_alarm_rate: float | None, unsure_rate: float | None = None
    ) -> AnomalyPrediction:
        """The same scores, decided at another false-alarm rate; None = the calibrated one.

        Args:
            unsure_rate: a higher rate. `is_unsure` is true for what only this one would flag: a person should look.

        Raises:
            ValueError: a rate is not in (0, 1).
        """
        scores = prediction.image_score, prediction.map_source
        decided = self.calibration.decide(*scores, false_alarm_rate, unsure_rate, prediction.counted_source)
        kept = {name: getattr(prediction, name) for name in ("latency_ms", "warnings", "counts_at")}
        return replace(decided, **kept)

    def calibrate(
        self,
        pictures: Iterable[Picture],
        false_alarm_rate: float = FALSE_ALARM_RATE,
        heads: Iterable[Head | None] | None = None,
    ) -> None:
        """Sets thresholds, and learns the category's appearance, from normal pictures.

        They are taken one at a time; nothing large is kept of them.

        Args:
            pictures: not used for training.
            heads: what scores each picture, if the detector's own head was fitted to them: heads of the same kind that
                were not.
        """
        seen: list[PictureStatistics] = []
        pairs = zip(pictures, repeat(None) if heads is None else heads, strict=False)
        self.calibration.fit((self._calibrate_one(picture, head, seen) for picture, head in pairs), false_alarm_rate)
        self.appearance.fit(seen)

    def take_back(self, pictures: Iterable[Picture], heads: Iterable[Head | None] | None = None) -> int:
        """Raises the threshold for each good part that is called defective; returns how many there are.

        They were chosen because of their scores, so promises do not count them; see `Conformal.corrections`.

        Args:
            heads: as in `calibrate`.
        """
        pairs = zip(pictures, repeat(None) if heads is None else heads, strict=False)
        flagged = [p for picture, head in pairs if (p := self._calibrate_one(picture, head, [])).is_anomalous]
        for prediction in flagged:
            self.calibration.take_back(prediction)
        return len(flagged)

    @torch.inference_mode()
    def _calibrate_one(self, picture: Picture, head: Head | None, seen: list[PictureStatistics]) -> AnomalyPrediction:
        """The prediction of one picture, and its statistics for the list, by a single backbone pass."""
        upright = read_picture(picture)
        images = self.front_end.prepare([upright])
        aggregated = self.front_end(images)
        seen += picture_statistics(images, aggregated, [self.front_end.enlargement(upright)])
        return self.predict_from_features(aggregated, [(upright.height, upright.width)], head)[0]

    # ------------------------------------------------------------------ the Hub

    @property
    def config(self) -> dict:
        """What `config.json` contains besides the weights' SHA-256: everything that builds this detector again."""
        front_end = self.front_end
        names = ("layers", "backbone_sha256", "mean", "std", "patch_size", "embed_dim")
        settings = {"backbone": front_end.backbone_name} | {name: getattr(front_end, name) for name in names}
        settings |= {name: as_plain(getattr(front_end, name)) for name in ("image_size", "resize")}
        settings |= {"region": True} if front_end.region is not None else {}
        if self.least_size is not None:
            settings |= {"least_size": self.least_size.pixels, "picture_size": as_plain(self.least_size.picture_size)}
        identity = {"method": self.method, "format_version": FORMAT_VERSION}
        return identity | settings | {"dataset": self.dataset, "category": self.category} | self.head.settings()

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
        """Loads a published model of this method from a Hub repository or a folder, strictly and in eval mode.

        Args:
            backbone_weights: file with the backbone's weights; by default bundled, then local cache, then Hub.

        Raises:
            ModelError: a file is missing, damaged, or of another method or format.
            BackboneError: the backbone's weights are missing, or not those that the head was trained on.
            TypeError: called on `AnomalyDetector` itself.
        """
        if not hasattr(cls, "method"):
            raise TypeError("AnomalyDetector names no method: use hubmodels.load(...) for any model")
        hub = dict(revision=revision, token=token, cache_dir=cache_dir)
        hub |= dict(local_files_only=local_files_only, force_download=force_download)
        source = str(pretrained_model_name_or_path)
        config_file, weights_file = fetch_model(source, **hub)
        return cls.from_files(config_file, weights_file, source, backbone_weights, map_location)

    @classmethod
    def from_files(
        cls,
        config_file: Path,
        weights_file: Path,
        source: str,
        backbone_weights: str | Path | None = None,
        map_location: str | torch.device = "cpu",
    ) -> Self:
        """As `from_pretrained`, from files on this computer; `source` names the model in messages."""
        config = read_config(config_file, source)
        if config.get("method") != cls.method:
            raise ModelError(f"{source} is a {config.get('method')} model: load it by hubmodels.load(...)")
        weights = read_weights(weights_file, config.get("weights_sha256"), source)
        detector = cls._build(config, source)
        try:
            detector.load_state_dict(weights, strict=True)
        except RuntimeError as error:
            raise ModelError(f"{source}: {WEIGHTS_FILE} does not fit its {CONFIG_FILE}: {error}") from error
        detector._require_sound(source)
        detector.front_end.load_backbone(backbone_weights)
        return detector.to(map_location).eval()

    def _require_sound(self, source: str) -> None:
        """Raises ModelError for weights that fit, but whose verdicts would mean nothing."""
        try:
            if self.calibration.size:
                self.calibration.require_sound()
            if self.front_end.region is not None:
                self.front_end.region.require_sound()
            if not all(tensor.isfinite().all() for tensor in self.head.state_dict().values()):
                raise ValueError("the head has weights that are not finite")
        except ValueError as error:
            raise ModelError(f"{source}: {WEIGHTS_FILE} is damaged: {error}") from error

    @classmethod
    def _build(cls, config: dict, source: str) -> Self:
        arguments = {k: v for k, v in config.items() if k not in NOT_ARGUMENTS}
        if unknown := arguments.keys() - _argument_names(cls):
            raise ModelError(
                f"{source}: {CONFIG_FILE} contains settings unknown to this library: {', '.join(sorted(unknown))}"
            )
        try:
            return cls(**arguments).float()  # also where the program has another default type
        except BackboneError:
            raise
        except (TypeError, ValueError, AttributeError, LookupError, RuntimeError, ArithmeticError) as error:
            raise ModelError(f"{source}: {CONFIG_FILE} contains values that build no model ({error})") from error

    def push_to_hub(self, repo_id: str, *, ignore_patterns: list[str] | str | None = None, **options) -> str:
        """Pushes config, weights and a short card, as the mixin does; an existing card is kept."""
        api = HfApi(token=options.get("token"), library_name=LIBRARY)
        if api.file_exists(repo_id, CARD_FILE, revision=options.get("branch")):
            given = [ignore_patterns] if isinstance(ignore_patterns, str) else ignore_patterns or []
            ignore_patterns = [*given, CARD_FILE]
        return super().push_to_hub(repo_id, ignore_patterns=ignore_patterns, **options)

    def generate_model_card(self, *args, **kwargs) -> ModelCard:
        """The card of a detector without a training report; `training.publishing` writes the full one."""
        name, part = type(self).__name__, f"{self.dataset or 'own data'} / {self.category or 'one category'}"
        data = ModelCardData(library_name=LIBRARY, pipeline_tag=PIPELINE_TAG, tags=[*TAGS, self.method])
        small = "" if self.least_size is None else f"For the verdict, {self.least_size.in_words}. "
        return ModelCard(
            f"---\n{data.to_yaml()}\n---\n\n# {name} for {part}\n\n"
            "```python\nfrom hubmodels import load\n\n"
            'prediction = load("USER/REPOSITORY").predict("photo.png")\n```\n\n'
            f"It {self.calibration.describe()}. {small}Accuracy: not measured.\n"
        )

    def _save_pretrained(self, save_directory: Path) -> None:
        """The mixin's hook: weights as safetensors, and the config with their SHA-256."""
        tensors = {name: tensor.contiguous() for name, tensor in self.state_dict().items()}
        content = save(tensors, {"format": "pt"})
        (save_directory / WEIGHTS_FILE).write_bytes(content)
        config = self.config | {"weights_sha256": hashlib.sha256(content).hexdigest()}
        (save_directory / CONFIG_FILE).write_text(json.dumps(config, sort_keys=True, indent=2), encoding="utf-8")


def _argument_names(kind: type[AnomalyDetector]) -> set[str]:
    """The settings that a config may contain for a detector class: its own arguments and those of its head."""
    own = [c.__init__ for c in kind.__mro__ if issubclass(c, AnomalyDetector)]
    heads = [c.__init__ for c in kind.head_class.__mro__ if issubclass(c, Head) and c is not Head]
    parameters = [p for init in (*own, *heads) for p in inspect.signature(init).parameters.values()]
    return {p.name for p in parameters if p.kind is not p.VAR_KEYWORD} - {"self"}
