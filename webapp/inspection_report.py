"""The report on one picture: verdicts first, then all methods on one scale, then their agreement. HTML.

The page contains the verdicts, outlines and heat maps of every false-alarm rate. The sliders of `static/report.js`
only choose between them. Nothing is computed in the browser, and nothing is sent to the server.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import groupby

import numpy as np
from markupsafe import Markup
from PIL import Image

from hubmodels import AnomalyDetector, AnomalyPrediction
from hubmodels.appearance import UNLIKE
from hubmodels.heatmap import (
    agreement_layer,
    count_shares,
    heat_layer,
    ignored_layer,
    outline_layer,
    overlap,
    ring_layer,
)
from hubmodels.inspection import Inspection, all_agree, count_verdicts, needs_look
from hubmodels.methods import METHODS
from hubmodels.prediction import pictures_needed
from hubmodels.scoring import Calibration
from webapp.inspection import Asked, VouchedRates, verdict_of
from webapp.results import FILES
from webapp.texts import (
    LOOK,
    SIGNS,
    TONES,
    VERDICT_KEYS,
    data_url,
    distinct_numbers,
    number,
    part_words,
    percent,
    render,
    translate,
)

RATES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)  # accepted false alarms of the slider
FEWEST_FOR_P = 20  # good pictures; with fewer a p-value says nothing
PICTURE_SIDE = 1600  # pixels; enough for a screen, also zoomed
LAYER_SIDE = 640  # pixels; the anomaly maps are coarser
PATCH = (96, 96)  # pixels of the legend, shown at a quarter

Masks = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Verdict:
    """One method at the false-alarm rates between which nothing changes; `steps` are their indices.

    Attributes:
        look_level: from which level on a person should look again; None where there is no such range.
        ring: the layer that marks the most unusual place of a picture to look at again, if nothing is outlined.
    """

    steps: list[int]
    key: str
    tone: str
    sign: str
    level: float | None
    rows: dict[str, str]
    outlined: str
    heat: str | None
    outline: str | None
    look_level: float | None = None
    ring: str | None = None


@dataclass(frozen=True)
class Column:
    """One method: its verdicts, the guarantee of its threshold at each rate, and its downloads."""

    verdicts: list[Verdict]
    notes: list[Markup]
    downloads: list[str]


@dataclass(frozen=True)
class Agreement:
    """The agreement of the methods at some of the rates, as a layer and in words."""

    steps: list[int]
    methods: tuple[str, ...]
    layer: str
    words: Markup


def render_report(
    inspection: Inspection,
    category: str,
    absent: Sequence[Markup],
    warnings: Sequence[Markup],
    note: Markup | None,
    language: str,
    correctable: bool = False,
    undoable: bool = False,
    learnable: bool = False,
    teachable: str | None = None,
    is_example: bool = False,
    asked: Asked | None = None,
) -> Markup:
    """The report in the visitor's language.

    Args:
        category: the category that the picture was inspected as.
        absent: the reasons of methods without a result.
        warnings: about the picture.
        note: to read first.
        correctable: whether the visitor can say that the verdict is wrong.
        undoable: whether a correction can be undone.
        learnable: whether to offer teaching, because a correction waits for it.
        teachable: key of the offer to teach, because the picture shows something else; None = there is none.
        is_example: the visitor did not choose the picture, so there is nothing to download.
        asked: the rate to begin with; by default the least one that all methods can vouch for.
    """
    vouched = VouchedRates.of(inspection.detectors.values())
    rates = step_rates(vouched, asked)
    drawn = replace(inspection, predictions={n: p.at_most(LAYER_SIDE) for n, p in inspection.predictions.items()})
    agreements = _agreements(drawn, rates, language)
    return render(
        "report.html",
        language,
        category=part_words(category, language),
        photo=data_url(_shown(inspection.picture), "JPEG", quality=92, subsampling=0),
        size=inspection.picture.size,
        headlines=[_headline(inspection, rate, language) for rate in rates],
        columns={name: _column(inspection, drawn, name, rates, language) for name in inspection.predictions},
        agreements=agreements,
        legend=_legend(agreements[0].methods, language) if agreements else {},
        ignored=_ignored(drawn),
        start=rates.index(asked.rate if asked and vouched.own else vouched.least),
        opening=asked and asked.opening,
        rates=[rate for rate in rates if rate is not None],
        shown_rates=[vouched.in_words(rate, language) for rate in rates if rate is not None],
        beyond=sum(vouched.is_beyond(rate) for rate in rates if rate is not None),
        absent=absent,
        warnings=warnings,
        note=note,
        correctable=correctable,
        undoable=undoable,
        learnable=learnable,
        teachable=teachable,
        is_example=is_example,
        focus=_strongest(inspection.predictions),
    )


def _ignored(inspection: Inspection) -> dict[str, str]:
    """By method, stripes over what its region leaves out."""
    masks = {name: prediction.counts for name, prediction in inspection.predictions.items()}
    return {name: data_url(ignored_layer(counts)) for name, counts in masks.items() if counts is not None}


def _strongest(predictions: Mapping[str, AnomalyPrediction]) -> tuple[float, float]:
    """Where the most anomalous point is, for the method that is the most certain: (x, y) as shares of the picture."""
    found = max(predictions.values(), key=lambda p: p.score_level or 0).anomaly_map
    y, x = np.unravel_index(found.argmax(), found.shape)
    return (x + 0.5) / found.shape[1], (y + 0.5) / found.shape[0]


def step_rates(vouched: VouchedRates, asked: Asked | None) -> list[float | None]:
    """The rates of the slider, ascending; only None if nothing is calibrated."""
    if vouched.own is None:
        return [None]
    return sorted({*RATES, vouched.own, vouched.least} | ({asked.rate} if asked else set()))


def _alike(inspection: Inspection, methods: Iterable[str], rates: list[float | None]) -> list[list[int]]:
    """Indices of the rates, grouped by equal thresholds of these methods, and so by equal content."""
    decided = [[predictions[method] for method in methods] for predictions in map(inspection.at_rate, rates)]
    thresholds = [[(p.threshold, p.unsure_threshold, p.pixel_threshold) for p in found] for found in decided]
    return [list(group) for _, group in groupby(range(len(rates)), thresholds.__getitem__)]


# ---------------------------------------------------------------- all methods together


def _headline(inspection: Inspection, rate: float | None, language: str) -> tuple[str, Markup]:
    """Tone and sentence."""
    predictions = inspection.at_rate(rate)
    if UNLIKE in inspection.appearance.warnings:
        # a part in pieces is unlike, too
        key = "defective_or_else" if count_verdicts(predictions)[True] else "unreliable"
        return TONES[None], translate(key, language)
    if len(predictions) == 1:
        return _single(*predictions.values(), language)
    if needs_look(predictions):
        return TONES[LOOK], translate("unsure_headline", language, verdicts=_verdicts(predictions, language))
    if all_agree(predictions):
        return _agreed(predictions, language)
    if len(predictions) > 2 and all_agree(predictions) is False:
        return TONES[None], _disagreed(predictions, language)
    key = "disagree" if all_agree(predictions) is False else "no_comparison"
    return TONES[None], translate(key, language, verdicts=_verdicts(predictions, language))


def _single(prediction: AnomalyPrediction, language: str) -> tuple[str, Markup]:
    """The verdict of the only method."""
    verdict = verdict_of(prediction)
    return TONES[verdict], Markup("{} {}").format(SIGNS[verdict], translate(VERDICT_KEYS[verdict], language))


def _agreed(predictions: Mapping[str, AnomalyPrediction], language: str) -> tuple[str, Markup]:
    (verdict, count), total = count_verdicts(predictions).most_common(1)[0], len(predictions)
    key = "both_agree" if total == 2 else "count_agree"
    return TONES[verdict], translate(
        key, language, verdict=translate(VERDICT_KEYS[verdict], language), count=count, total=total
    )


def _disagreed(predictions: Mapping[str, AnomalyPrediction], language: str) -> Markup:
    """Three or more methods: how many call the part defective, and which."""
    names = [name for name, p in predictions.items() if p.is_anomalous]
    return translate("count_disagree", language, count=len(names), total=len(predictions), names=", ".join(names))


def _verdicts(predictions: Mapping[str, AnomalyPrediction], language: str) -> Markup:
    shown = {name: translate(VERDICT_KEYS[verdict_of(p)], language) for name, p in predictions.items()}
    return Markup(", ").join(
        translate("method_verdict", language, method=n, verdict=verdict) for n, verdict in shown.items()
    )


def _agreements(inspection: Inspection, rates: list[float | None], language: str) -> list[Agreement]:
    """Empty with fewer than two masks: the pair, or the counts of three and more."""
    found = []
    for steps in _alike(inspection, inspection.detectors, rates):
        predictions = inspection.at_rate(rates[steps[0]])
        masks = {name: p.mask for name, p in predictions.items() if p.mask is not None}
        if len(masks) > 1:
            layer = data_url(agreement_layer(list(masks.values()), _colours(masks)))
            found.append(Agreement(steps, tuple(masks), layer, _agreement_words(masks, language)))
    return found


def _agreement_words(masks: Masks, language: str) -> Markup:
    if not any(mask.any() for mask in masks.values()):
        return translate("overlap_none", language)
    if len(masks) == 2:
        return _pair_words(masks, language)
    shares = count_shares(list(masks.values()))
    words = [
        translate("overlap_count", language, share=percent(share, language), count=count, total=len(masks))
        for count, share in shares.items()
    ]
    return translate("overlap_counts", language, shares=Markup(", ").join(words))


def _pair_words(masks: Masks, language: str) -> Markup:
    (one, other), shares = masks, overlap(*masks.values())
    numbers = {"both": shares.both, "first": shares.first_only, "second": shares.second_only}
    shown = {key: percent(share, language) for key, share in numbers.items()}
    return translate("overlap_pair", language, one=one, other=other, **shown)


def _legend(methods: tuple[str, ...], language: str) -> dict[Markup, str]:
    """A patch of each kind of agreement, by its meaning."""
    total = len(methods)
    words = [translate("outlined_by_count", language, count=count, total=total) for count in range(total, 0, -1)]
    if total == 2:
        words = [translate("outlined_by_both", language)]
        words += [translate("outlined_by_one", language, method=method) for method in methods]
    return dict(zip(words, _patches(_colours(methods)), strict=True))


def _colours(titles: Iterable[str]) -> tuple[tuple[int, int, int], ...]:
    by_title = {method.title: method.colour for method in METHODS.values()}
    return tuple(by_title[title] for title in titles)


@cache
def _patches(colours: tuple[tuple[int, int, int], ...]) -> list[str]:
    total = len(colours)
    masked, empty = np.ones((LAYER_SIDE, LAYER_SIDE), bool), np.zeros((LAYER_SIDE, LAYER_SIDE), bool)
    kinds = [[masked] * count + [empty] * (total - count) for count in range(total, 0, -1)]
    kinds += [[empty, masked]] if total == 2 else []
    return [data_url(agreement_layer(kind, colours).crop((0, 0, *PATCH))) for kind in kinds]


# ---------------------------------------------------------------- one method


def _column(inspection: Inspection, drawn: Inspection, name: str, rates: list[float | None], language: str) -> Column:
    """Layers are drawn from the smaller maps of `drawn`."""
    calibration = inspection.detectors[name].calibration
    verdicts = []
    for steps in _alike(inspection, [name], rates):
        prediction, layer = (j.at_rate(rates[steps[0]])[name] for j in (inspection, drawn))
        verdicts.append(_verdict(inspection, calibration, prediction, layer, steps, language))
    small = describe_least_size(inspection.detectors[name], language)
    notes = [describe_guarantee(calibration, rate, language) + small for rate in rates]
    return Column(verdicts, notes, [what for what in FILES if what == "map" or calibration.size])


def _verdict(
    inspection: Inspection,
    calibration: Calibration,
    prediction: AnomalyPrediction,
    drawn: AnomalyPrediction,
    steps: list[int],
    language: str,
) -> Verdict:
    calibrated = prediction.is_anomalous is not None
    outlined = _outlined(prediction, language) if calibrated else ""
    unlike = UNLIKE in inspection.appearance.warnings
    ring = ring_layer(drawn) if drawn.is_unsure else None
    return Verdict(
        steps=steps,
        key=VERDICT_KEYS[verdict_of(prediction)],
        tone=TONES[None if unlike else verdict_of(prediction)],  # no colour for a verdict on another kind of part
        sign=SIGNS[verdict_of(prediction)],
        level=prediction.score_level,
        rows=_rows(calibration, prediction, outlined, language),
        outlined=outlined,
        heat=data_url(heat_layer(drawn)) if calibrated else None,
        outline=data_url(outline_layer(drawn.mask)) if calibrated else None,
        look_level=prediction.unsure_level,
        ring=ring and data_url(ring),
    )


def _rows(calibration: Calibration, prediction: AnomalyPrediction, outlined: str, language: str) -> dict[str, str]:
    """The rows below the verdict, by the key of their names."""
    rows = {"image_score": number(prediction.image_score, language)}
    if prediction.is_anomalous is not None:
        score, threshold = distinct_numbers(prediction.image_score, prediction.threshold, language)
        p, count = number(prediction.p_value, language, 2), calibration.count_as_unusual(prediction.image_score)
        words = "p_value_words" if calibration.size >= FEWEST_FOR_P else "p_value_few"
        rows = {
            "p_value" if calibration.size >= FEWEST_FOR_P else "compared": translate(
                words, language, p=p, count=count, size=calibration.total
            ),
            "image_score": translate("score_words", language, score=score, threshold=threshold),
            "outlined": outlined,
        }
    return rows | {"latency": f"{prediction.latency_ms:.0f} ms"}


def _outlined(prediction: AnomalyPrediction, language: str) -> Markup:
    found = prediction.numbers()
    count = found["defects"]
    key = "outlined_some" if count else "outlined_none"
    return translate(key, language, count=count, share=percent(found["defect_share"], language))


def describe_guarantee(calibration: Calibration, rate: float | None, language: str) -> Markup:
    """The share of good parts that a threshold calls defective, at a false-alarm rate; None = the calibrated one."""
    if not calibration.size:
        return translate("not_calibrated", language)
    rate = round(float(calibration.false_alarm_rate), 6) if rate is None else rate
    guaranteed = calibration.guaranteed_rate(rate)
    values = {"size": calibration.size, "rate": percent(guaranteed, language)}
    values["bound"] = percent(calibration.bound(rate), language)
    if guaranteed == rate:
        return translate("guarantee", language, **values)
    return translate(
        "guarantee_less", language, **values, wanted=percent(rate, language), needed=pictures_needed(rate)
    )


def describe_least_size(detector: AnomalyDetector, language: str) -> Markup:
    """Which regions do not count, as a sentence to add; empty if all count."""
    least = detector.least_size
    return Markup(" ") + translate("least_size", language, pixels=least.pixels) if least else Markup("")


def _shown(picture: Image.Image) -> Image.Image:
    shown = picture.copy()
    shown.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    return shown
