"""Several heads judge one picture; heads with the same front end share one backbone pass."""

import time
from collections.abc import Sequence
from dataclasses import replace

import torch

from hubmodels.detector import AnomalyDetector
from hubmodels.pictures import Picture, read_picture
from hubmodels.scoring import AnomalyPrediction


@torch.inference_mode()
def compare(detectors: Sequence[AnomalyDetector], picture: Picture) -> list[AnomalyPrediction]:
    """What each detector says about the picture, in their order; equal to separate `predict` calls.

    `latency_ms` of each prediction counts the shared backbone pass, as a separate call would.

    Raises:
        PictureError: the picture cannot be inspected; the message names the cause.
    """
    upright = read_picture(picture)
    size, shared, predictions = (upright.height, upright.width), {}, []
    for detector in detectors:
        if detector.front_end not in shared:
            start = time.perf_counter()
            aggregated = detector.extract(detector.prepare([upright]))
            shared[detector.front_end] = aggregated, time.perf_counter() - start
        aggregated, backbone_s = shared[detector.front_end]
        start = time.perf_counter()
        prediction = detector.judge(aggregated, [size])[0]
        latency_ms = 1000 * (backbone_s + time.perf_counter() - start)
        predictions.append(replace(prediction, latency_ms=latency_ms))
    return predictions
