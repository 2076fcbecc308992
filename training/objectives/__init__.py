"""How each method trains: one file a method, and this table of them."""

from training.objectives.glass import GLASSObjective
from training.objectives.hybrid import HybridObjective
from training.objectives.mahalanobis import MahalanobisObjective
from training.objectives.objective import (
    PAPER_BACKBONE,
    PAPER_IMAGE_SIZE,
    REFERENCE_NOISE_STD,
    DirectFit,
    GradientObjective,
    Objective,
)
from training.objectives.patchcore import PatchCoreObjective
from training.objectives.simplenet import SimpleNetObjective

__all__ = [
    "OBJECTIVES",
    "PAPER_BACKBONE",
    "PAPER_IMAGE_SIZE",
    "REFERENCE_NOISE_STD",
    "DirectFit",
    "GLASSObjective",
    "GradientObjective",
    "HybridObjective",
    "MahalanobisObjective",
    "Objective",
    "PatchCoreObjective",
    "SimpleNetObjective",
    "objective_of",
]

OBJECTIVES: dict[str, type[Objective]] = {
    "simplenet": SimpleNetObjective,
    "glass": GLASSObjective,
    "hybrid": HybridObjective,
    "patchcore": PatchCoreObjective,
    "mahalanobis": MahalanobisObjective,
}


def objective_of(method: str) -> type[Objective]:
    """The objective of a method.

    Raises:
        ValueError: the method can predict here, but not train.
    """
    if method not in OBJECTIVES:
        raise ValueError(f"{method} cannot be trained here: choose one of {', '.join(OBJECTIVES)}")
    return OBJECTIVES[method]
