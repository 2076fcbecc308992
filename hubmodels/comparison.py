"""Several detectors on one picture; detectors with the same front end share one backbone pass.

picture = PreparedPicture("photo.png")  # instead of the picture itself, to use its features more than once
detectors = catalog.load("mvtec / screw")
compare(detectors, picture)
check_appearance(detectors, picture)
rank_categories(catalog.appearances(), picture)
"""

import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from hubmodels.appearance import (
    Appearance,
    AppearanceCheck,
    PictureStatistics,
    exchanged_statistics,
    picture_statistics,
)
from hubmodels.detector import AnomalyDetector
from hubmodels.front_end import FrontEnd
from hubmodels.pictures import Picture, read_picture
from hubmodels.prediction import AnomalyPrediction


class CategoryAppearance(NamedTuple):
    """The parts of a detector that check whether a picture shows its category: some kB, a head has up to 16 MB."""

    front_end: FrontEnd
    appearance: Appearance


class PreparedPicture:
    """One picture and its features: one backbone pass per front end, when first needed, then kept.

    Raises:
        PictureError: the picture cannot be inspected; the message names the cause.
    """

    def __init__(self, picture: Picture) -> None:
        self.picture = read_picture(picture)
        self._passes: dict[tuple, tuple[Tensor, list[Tensor], float]] = {}
        self._statistics: dict[tuple, PictureStatistics] = {}

    @torch.inference_mode()
    def features(self, front_end: FrontEnd) -> tuple[Tensor, list[Tensor], float]:
        """Model input (1, 3, H, W), aggregated maps (1, D/L, h_l, w_l), and the seconds that they took."""
        if front_end.key not in self._passes:
            start = time.perf_counter()
            images = front_end.prepare([self.picture])
            aggregated = front_end(images)
            self._passes[front_end.key] = images, aggregated, time.perf_counter() - start
        return self._passes[front_end.key]

    @torch.inference_mode()
    def statistics(self, front_end: FrontEnd) -> PictureStatistics:
        """What a category's appearance is checked with."""
        if front_end.key not in self._statistics:
            images, aggregated, _ = self.features(front_end)
            enlargement = front_end.enlargement(self.picture)
            self._statistics[front_end.key] = picture_statistics(images, aggregated, [enlargement])[0]
        return self._statistics[front_end.key]

    @torch.inference_mode()
    def exchanged_statistics(self, front_end: FrontEnd) -> PictureStatistics:
        """The same with red and blue exchanged; a second backbone pass, when first needed, then kept."""
        key = (*front_end.key, "exchanged")
        if key not in self._statistics:
            own, (images, *_) = self.statistics(front_end), self.features(front_end)
            self._statistics[key] = exchanged_statistics(front_end, images, own.enlargement, own)
        return self._statistics[key]


@torch.inference_mode()
def compare(
    detectors: Mapping[str, AnomalyDetector], picture: Picture | PreparedPicture
) -> dict[str, AnomalyPrediction]:
    """The prediction of each detector for the picture, by the same names; equal to separate `predict` calls.

    `latency_ms` of each prediction includes the shared backbone pass, as a separate call would. Unlike `predict`, it
    raises no `PictureWarning`: the reasons are in `warnings` of each prediction.

    Raises:
        PictureError: the picture cannot be inspected; the message names the cause.
    """
    prepared, predictions = _prepared(picture), {}
    size = (prepared.picture.height, prepared.picture.width)
    for name, detector in detectors.items():
        _, aggregated, backbone_s = prepared.features(detector.front_end)
        start = time.perf_counter()
        prediction = detector.predict_from_features(aggregated, [size])[0]
        latency_ms = 1000 * (backbone_s + time.perf_counter() - start)
        warnings = _check(detector, prepared).warnings
        predictions[name] = replace(prediction, latency_ms=latency_ms, warnings=warnings)
    return predictions


def check_appearance(detectors: Mapping[str, AnomalyDetector], picture: Picture | PreparedPicture) -> AppearanceCheck:
    """Whether the picture looks like the category of these detectors, and is fit to be inspected by them.

    All detectors of a category learned the same appearance; the first one that did is used. Where none did, the
    result contains absolute warnings only: "dark", "bright" and "tiny".

    Raises:
        PictureError: the picture cannot be inspected; the message names the cause.
        ValueError: no detectors.
    """
    if not detectors:
        raise ValueError("there is no detector to check the picture for")
    fitted = [detector for detector in detectors.values() if detector.appearance.is_fitted]
    return _check((fitted or list(detectors.values()))[0], _prepared(picture))


def rank_categories(
    candidates: Mapping[str, CategoryAppearance | AnomalyDetector], picture: Picture | PreparedPicture
) -> list[tuple[str, AppearanceCheck]]:
    """Which category the picture shows: label and check of each candidate, the most similar first.

    Ratios can be compared, because each is in units of its own category. Where even the first does not match, the
    picture is of none of them. Candidates that learned no appearance are left out. Colours are not checked.

    Args:
        candidates: by label, as `Catalog.appearances` returns them; a detector will do.

    Raises:
        PictureError: the picture cannot be inspected; the message names the cause.
    """
    prepared = _prepared(picture)
    fitted = {label: c for label, c in candidates.items() if c.appearance.is_fitted}
    checks = [(label, c.appearance.check(prepared.statistics(c.front_end))) for label, c in fitted.items()]
    return sorted(checks, key=lambda pair: pair[1].ratio)


def _check(candidate: CategoryAppearance | AnomalyDetector, prepared: PreparedPicture) -> AppearanceCheck:
    """With the colours, which need a second backbone pass where the picture is unusual."""
    front_end = candidate.front_end
    return candidate.appearance.check(
        prepared.statistics(front_end), partial(prepared.exchanged_statistics, front_end)
    )


def _prepared(picture: Picture | PreparedPicture) -> PreparedPicture:
    return picture if isinstance(picture, PreparedPicture) else PreparedPicture(picture)
