"""Is the part in a photo defective? Detectors that load in one line and predict in one line.

>>> import hubmodels
>>> detector = hubmodels.load("user/glass-mvtec-bottle")  # doctest: +SKIP
>>> detector.predict("photo.png").is_anomalous  # doctest: +SKIP

Names are imported when first used, so that `hubmodels.ExportedModel` needs neither torch nor timm.
"""

from importlib import import_module

__version__ = "0.1.0"
REPOSITORY = "https://github.com/OWNER/anomaly-hubmodels"  # placeholder until the code has a public address
LIBRARY = "hubmodels"  # the library's name on the Hub: on cards, in lists, in the user agent of downloads

_MODULES = {
    "AnomalyDetector": "detector",
    "AnomalyPrediction": "prediction",
    "AppearanceCheck": "appearance",
    "BackboneError": "backbone",
    "Catalog": "hub.catalog",
    "ExportError": "onnx.runtime",
    "ExportedModel": "onnx.runtime",
    "GLASS": "glass",
    "Hybrid": "hybrid",
    "METHODS": "methods",
    "Mahalanobis": "mahalanobis",
    "ModelError": "hub.errors",
    "PatchCore": "patchcore",
    "PictureError": "pictures",
    "PictureWarning": "pictures",
    "PreparedPicture": "comparison",
    "SimpleNet": "simplenet",
    "check_appearance": "comparison",
    "compare": "comparison",
    "load": "loading",
    "rank_categories": "comparison",
}
__all__ = ["LIBRARY", "REPOSITORY", *_MODULES]


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def install_command(extra: str | None = None) -> str:
    """The command that installs this library, with an optional extra, without a package index."""
    return f'pip install "anomaly-hubmodels{f"[{extra}]" if extra else ""} @ git+{REPOSITORY}"'
