"""SimpleNet and GLASS: does a photo show a defective part? One line to load, one line to ask.

>>> from hubmodels import GLASS
>>> detector = GLASS.from_pretrained("user/glass-mvtec-bottle")  # doctest: +SKIP
>>> detector.predict("photo.png").is_anomalous  # doctest: +SKIP
"""

from hubmodels.appearance import AppearanceCheck
from hubmodels.backbone import BackboneError
from hubmodels.comparison import PreparedPicture, check, compare, suggest
from hubmodels.detector import AnomalyDetector, ModelError
from hubmodels.glass import GLASS
from hubmodels.pictures import PictureError
from hubmodels.scoring import AnomalyPrediction
from hubmodels.simplenet import SimpleNet

__all__ = [
    "GLASS",
    "AnomalyDetector",
    "AnomalyPrediction",
    "AppearanceCheck",
    "BackboneError",
    "ModelError",
    "PictureError",
    "PreparedPicture",
    "SimpleNet",
    "check",
    "compare",
    "suggest",
]
