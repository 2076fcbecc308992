"""The registry of methods. Page, cards, tables, catalog, export and tests iterate it; there is no other list.

To add a method: its class in a new module, a row here, and an objective in `training/objectives`.
"""

from dataclasses import dataclass

from hubmodels.detector import AnomalyDetector
from hubmodels.glass import GLASS
from hubmodels.hybrid import Hybrid
from hubmodels.mahalanobis import Mahalanobis
from hubmodels.patchcore import PatchCore
from hubmodels.simplenet import SimpleNet


@dataclass(frozen=True)
class Paper:
    """Where a method was published.

    Attributes:
        arxiv: id, such as "2303.15140".
        citation: key in `model_cards/citations.bib`.
        image_auroc, pixel_auroc: the paper's means over the 15 categories of MVTec AD, fractions. Both published
            codes report the best epoch on the test pictures.
    """

    title: str
    venue: str
    arxiv: str
    citation: str
    image_auroc: float
    pixel_auroc: float


@dataclass(frozen=True)
class Method:
    """One row of the registry.

    Attributes:
        detector: the method's class; its name is the printed title.
        paper: None for a method without a publication.
        colour: RGB in [0, 255] of its curves and areas; not on the heat scale.
        dash: SVG `stroke-dasharray` of its curves, so that colours alone are not needed.
        marker: a character that marks its points.
        about: what it does, in a few sentences for its cards; for a method without a paper.
        baseline: a simple method to compare others with; trained only if it is asked for.
        seconds: about how long training takes on two CPU cores with the bundled backbone: in any case, and for each
            good picture.
        cross_fitted: whether every good picture calibrates the verdict, unless a person asks for something else;
            otherwise `HELD_OUT` of them do.
    """

    detector: type[AnomalyDetector]
    paper: Paper | None = None
    colour: tuple[int, int, int] = (90, 90, 90)
    dash: str = ""
    marker: str = "●"
    about: str = ""
    baseline: bool = False
    seconds: tuple[float, float] = (20.0, 1.0)
    cross_fitted: bool = False

    @property
    def title(self) -> str:
        """The printed name."""
        return self.detector.__name__


METHODS: dict[str, Method] = {  # in the order of all listings
    SimpleNet.method: Method(
        SimpleNet,
        Paper(
            "SimpleNet: A Simple Network for Image Anomaly Detection and Localization",
            *("CVPR 2023", "2303.15140", "liu2023simplenet"),
            image_auroc=0.996,
            pixel_auroc=0.981,
        ),
        colour=(20, 90, 200),
        dash="",
        marker="●",
        seconds=(8.0, 1.5),
    ),
    GLASS.method: Method(
        GLASS,
        Paper(
            "A Unified Anomaly Synthesis Strategy with Gradient Ascent for Industrial Anomaly Detection and "
            "Localization",
            *("ECCV 2024", "2407.09359", "chen2024glass"),
            image_auroc=0.999,
            pixel_auroc=0.993,
        ),
        colour=(230, 140, 0),
        dash="6 4",
        marker="■",
        seconds=(8.0, 42.0),
    ),
    Hybrid.method: Method(
        Hybrid,
        about="It combines ideas of SimpleNet, GLASS and PatchCore. A small network learns to tell features of good "
        "parts from the same with noise, and from features of pictures that a program has damaged. A small memory "
        "keeps features of good parts, and the distance to the nearest one counts, too. Training takes a minute or "
        "two. It has no paper: please refer to the repository.",
        colour=(150, 40, 140),
        dash="2 3",
        marker="▲",
        seconds=(25.0, 0.2),
        cross_fitted=True,
    ),
    PatchCore.method: Method(
        PatchCore,
        Paper(
            "Towards Total Recall in Industrial Anomaly Detection",
            *("CVPR 2022", "2106.08265", "roth2022patchcore"),
            image_auroc=0.991,
            pixel_auroc=0.981,
        ),
        colour=(0, 130, 110),
        dash="10 3 2 3",
        marker="◆",
        baseline=True,
        cross_fitted=True,
    ),
    Mahalanobis.method: Method(
        Mahalanobis,
        about="One Gaussian describes the features of good parts. A patch is as anomalous as its Mahalanobis distance "
        "from the mean of the Gaussian. It is the simplest method of this library, made to compare others with. It "
        "has no paper: please refer to the repository.",
        colour=(110, 90, 60),
        dash="1 5",
        marker="▼",
        baseline=True,
        cross_fitted=True,
    ),
}
