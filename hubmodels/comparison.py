"""Several heads look at one picture; heads with the same front end share one backbone pass.

look = PreparedPicture("photo.png")  # instead of the picture itself, where more than one question is asked
suggest({label: catalog.load(label) for label in catalog.categories()}, look)
check(detectors, look)
compare(detectors, look)
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from hubmodels.appearance import AppearanceCheck, PictureStatistics
from hubmodels.detector import AnomalyDetector
from hubmodels.pictures import Picture, read_picture
from hubmodels.scoring import AnomalyPrediction


class PreparedPicture:
    """One picture and what the backbones make of it: one pass per front end, when first asked for, then kept.

    Raises:
        PictureError: the picture cannot be inspected; the message names the cause.
    """

    def __init__(self, picture: Picture) -> None:
        self.picture = read_picture(picture)
        self._passes: dict[tuple, tuple[Tensor, list[Tensor], float]] = {}
        self._glances: dict[tuple, PictureStatistics] = {}

    @torch.inference_mode()
    def through(self, detector: AnomalyDetector) -> tuple[Tensor, list[Tensor], float]:
        """Model input (1, 3, S, S), aggregated maps (1, D/L, h_l, w_l), and the seconds that they took."""
        if detector.front_end not in self._passes:
            start = time.perf_counter()
            images = detector.prepare([self.picture])
            aggregated = detector.extract(images)
            self._passes[detector.front_end] = images, aggregated, time.perf_counter() - start
        return self._passes[detector.front_end]

    @torch.inference_mode()
    def glance(self, detector: AnomalyDetector) -> PictureStatistics:
        """What the look of a category is judged by."""
        if detector.front_end not in self._glances:
            images, aggregated, _ = self.through(detector)
            self._glances[detector.front_end] = detector.glance([self.picture], images, aggregated)[0]
        return self._glances[detector.front_end]


@torch.inference_mode()
def compare(detectors: Sequence[AnomalyDetector], picture: Picture | PreparedPicture) -> list[AnomalyPrediction]:
    """What each detector says about the picture, in their order; equal to separate `predict` calls.

    `latency_ms` of each prediction counts the shared backbone pass, as a separate call would.

    Raises:
        PictureError: the picture cannot be inspected; the message names the cause.
    """
    look, predictions = _look(picture), []
    size = (look.picture.height, look.picture.width)
    for detector in detectors:
        _, aggregated, backbone_s = look.through(detector)
        start = time.perf_counter()
        prediction = detector.judge(aggregated, [size])[0]
        latency_ms = 1000 * (backbone_s + time.perf_counter() - start)
        predictions.append(replace(prediction, latency_ms=latency_ms))
    return predictions


def check(detectors: Sequence[AnomalyDetector], picture: Picture | PreparedPicture) -> AppearanceCheck:
    """Whether the picture looks like the category of these detectors, and is fit to be judged by them.

    All detectors of a category learned the same; the first one that knows the category's look is asked. Where none
    does, its answer holds absolute warnings only: "dark", "bright" and "tiny".

    Raises:
        PictureError: the picture cannot be inspected; the message names the cause.
        ValueError: no detectors.
    """
    if not detectors:
        raise ValueError("there is no detector to check the picture for")
    detector = next(filter(_knows_its_look, detectors), detectors[0])
    return detector.appearance.judge(_look(picture).glance(detector))


def suggest(
    candidates: Mapping[str, Sequence[AnomalyDetector]], picture: Picture | PreparedPicture
) -> list[tuple[str, AppearanceCheck]]:
    """Which category the picture shows: label and resemblance of each candidate, the most alike first.

    Ratios compare, because each is in units of its own category. Where even the first does not `matches`, the
    picture is of none of them. Candidates whose look is unknown are left out.

    Args:
        candidates: detectors by label, as `Catalog.load` returns them; of each label one is enough.

    Raises:
        PictureError: the picture cannot be inspected; the message names the cause.
    """
    look = _look(picture)
    known = {label: found for label, all_ in candidates.items() if (found := list(filter(_knows_its_look, all_)))}
    return sorted(((label, check(found, look)) for label, found in known.items()), key=lambda pair: pair[1].ratio)


def _look(picture: Picture | PreparedPicture) -> PreparedPicture:
    return picture if isinstance(picture, PreparedPicture) else PreparedPicture(picture)


def _knows_its_look(detector: AnomalyDetector) -> bool:
    return detector.appearance.is_fitted
