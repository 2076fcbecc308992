"""Known defects check a part: how many each method finds, which method suits better, and the missed ones."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from markupsafe import Markup
from PIL import Image

from hubmodels import AnomalyPrediction
from hubmodels.heatmap import missed_overlay
from hubmodels.inspection import Inspection
from hubmodels.known_defects import KnownDefects, best_method
from webapp.texts import data_url, percent, translate, translate_plainly

FEWEST, MOST = 3, 50  # known defects of a check
SHOWN = 6  # missed defects of a method
SIDE = 640  # pixels of a heat map, which a click enlarges


@dataclass(frozen=True)
class Missed:
    """A known defect that a method calls good.

    Attributes:
        name: of its file.
        picture: its heat map as a data URL.
    """

    name: str
    picture: str


@dataclass
class _Method:
    """What a method said about the known defects; small, because pictures and maps are not kept.

    Attributes:
        unsure: how many get "Look again".
        missed: those that it calls good.
    """

    rate: float
    verdicts: list[bool] = field(default_factory=list)
    p_values: list[float] = field(default_factory=list)
    unsure: int = 0
    missed: list[Missed] = field(default_factory=list)


class DefectCheck:
    """The results of known defects, by the name of their file, which are added one at a time."""

    def __init__(self, judged: Iterable[tuple[str, Inspection]] = ()) -> None:
        self._methods: dict[str, _Method] = {}  # by title
        for name, inspection in judged:
            self.add(name, inspection)

    def add(self, file: str, inspection: Inspection) -> None:
        """Takes in the inspection of a known defect."""
        for name, prediction in inspection.predictions.items():
            rate = inspection.detectors[name].calibration.guaranteed_rate()
            method = self._methods.setdefault(name, _Method(rate))
            method.verdicts.append(bool(prediction.is_anomalous))
            method.p_values.append(prediction.p_value)
            method.unsure += bool(prediction.is_unsure)
            if prediction.is_anomalous is False and len(method.missed) < SHOWN:
                method.missed.append(Missed(file, _heat_map(inspection.picture, prediction)))

    def lines(self, language: str) -> list[Markup]:
        """How many known defects each method finds, from which rate on it finds all, and which method suits better."""
        lines = [_found(name, method, language) for name, method in self._methods.items()]
        best = best_method(
            {name: method.verdicts for name, method in self._methods.items()},
            {name: method.rate for name, method in self._methods.items()},
        )
        return lines + ([translate("teach_suits", language, method=best)] if best else [])

    def missed(self, language: str) -> Mapping[str, list[Missed]]:
        """Known defects that a method calls good, by title."""
        shown = {name: method.missed for name, method in self._methods.items() if method.missed}
        return {translate_plainly("teach_missed", language, method=name): maps for name, maps in shown.items()}


def _found(name: str, method: _Method, language: str) -> Markup:
    known = KnownDefects.judge(method.verdicts, method.p_values, method.rate)
    low, high = (percent(limit, language) for limit in known.limits)
    counts = {"method": name, "found": known.found, "total": known.total}
    line = translate("teach_found", language, **counts, low=low, high=high, rate=percent(known.rate, language))
    if known.found == known.total:
        return line
    look = translate("teach_look", language, count=method.unsure)
    return Markup(" ").join(
        [line, look, translate("teach_finds_all", language, rate=percent(known.all_from, language))]
    )


def _heat_map(picture: Image.Image, prediction: AnomalyPrediction) -> str:
    small = prediction.at_most(SIDE)
    size = small.anomaly_map.shape[::-1]
    drawn = missed_overlay(picture.resize(size, Image.Resampling.BILINEAR, reducing_gap=2), small)
    drawn.thumbnail((SIDE, SIDE))
    return data_url(drawn, "JPEG", quality=80)
