"""The report on one picture: verdicts first, then both methods on one scale, then where they agree. HTML.

The verdicts, outlines and heat maps for each false-alarm rate are in the page from the start, and the sliders of
`static/report.js` only choose what is shown: nothing is computed in the browser, and no slider asks the server.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from html import unescape
from itertools import groupby

import numpy as np
from markupsafe import Markup
from PIL import Image

from hubmodels import AnomalyPrediction
from hubmodels.appearance import UNLIKE
from hubmodels.hub.listing import METHODS
from hubmodels.layers import agreement_layer, heat_layer, outline_layer, overlap, shrink
from hubmodels.scoring import Calibration, pictures_needed
from webapp.downloads import FILES
from webapp.inspection import Inspection, agreement
from webapp.templates import data_url, render
from webapp.texts import SIGNS, TONES, VERDICT_KEYS, apart, number, percent, say

RATES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)  # accepted false alarms that the slider offers
PICTURE_SIDE = 1600  # pixels; what a screen shows, also zoomed
LAYER_SIDE = 640  # pixels; the models' maps are coarser still
PATCH = (96, 96)  # pixels of the legend, shown at a quarter


@dataclass(frozen=True)
class Verdict:
    """One method at false-alarm rates between which nothing changes; `steps` are their places in the list of rates."""

    steps: list[int]
    key: str
    tone: str
    sign: str
    level: float | None
    rows: dict[str, Markup]
    outlined: Markup
    heat: str | None
    outline: str | None


@dataclass(frozen=True)
class Column:
    """What one method says: its verdicts, what its threshold promises at each rate, and what can be downloaded."""

    verdicts: list[Verdict]
    notes: list[Markup]
    downloads: list[str]


@dataclass(frozen=True)
class Agreement:
    """Where the methods agree at some of the rates, as a layer and in words."""

    steps: list[int]
    layer: str
    words: Markup


def render_report(
    inspection: Inspection, category: str, absent: dict[str, str], warnings: list[str], note: str, language: str
) -> str:
    """The report in the visitor's language.

    Args:
        category: as whose part the picture was judged.
        absent: by method's name, why it says nothing (HTML).
        warnings: about the picture (HTML).
        note: what else to know before reading (HTML).
    """
    rates, names = step_rates(inspection), [method.__name__ for method in METHODS.values()]
    drawn = replace(inspection, predictions={n: shrink(p, LAYER_SIDE) for n, p in inspection.predictions.items()})
    agreements = _agreements(drawn, rates, language)
    return render(
        "report.html",
        say=lambda key, **values: Markup(say(key, language, **values)),
        language=language,
        category=category,
        names=names,
        photo=data_url(_shown(inspection.picture), "JPEG", quality=92, subsampling=0),
        size=inspection.picture.size,
        headlines=[_headline(inspection, rate, language) for rate in rates],
        columns={name: _column(inspection, drawn, name, rates, language) for name in inspection.predictions},
        agreements=agreements,
        legend=_legend(names, language) if agreements else {},
        start=rates.index(own_rate(inspection)),
        rates=[rate for rate in rates if rate is not None],
        shown_rates=[percent(rate, language) for rate in rates if rate is not None],
        absent={name: Markup(reason) for name, reason in absent.items()},
        warnings=[Markup(warning) for warning in warnings],
        note=Markup(note),
    )


def render_status(tone: str, content: str) -> str:
    """A card that says one thing; `content` is HTML."""
    return f'<section class="card {tone}">{content}</section>'


def own_rate(inspection: Inspection) -> float | None:
    """The false-alarm rate that the first calibrated method was calibrated for."""
    calibrations = (detector.calibration for detector in inspection.detectors.values())
    return next((round(c.false_alarm_rate.item(), 6) for c in calibrations if c.size), None)


def step_rates(inspection: Inspection) -> list[float | None]:
    """The rates to choose from, ascending; none but None where nothing is calibrated."""
    own = own_rate(inspection)
    return [None] if own is None else sorted({*RATES, own})


def _alike(inspection: Inspection, methods: Iterable[str], rates: list[float | None]) -> list[list[int]]:
    """Places of the rates, grouped where these methods' thresholds stay the same, and so all that is shown."""
    decided = [[predictions[method] for method in methods] for predictions in map(inspection.at_rate, rates)]
    thresholds = [[(p.threshold, p.pixel_threshold) for p in predictions] for predictions in decided]
    return [list(group) for _, group in groupby(range(len(rates)), thresholds.__getitem__)]


def _headline(inspection: Inspection, rate: float | None, language: str) -> tuple[str, Markup]:
    """Tone and sentence."""
    predictions = inspection.at_rate(rate)
    verdicts = [prediction.is_anomalous for prediction in predictions.values()]
    words = [say(VERDICT_KEYS[verdict], language) for verdict in verdicts]
    if UNLIKE in inspection.resemblance.warnings:
        return TONES[None], Markup(say("unreliable", language))
    if agreement(predictions):
        return TONES[verdicts[0]], Markup(say("both_agree", language, verdict=unescape(words[0])))
    pairs = zip(predictions, words, strict=True)
    said = ", ".join(say("method_says", language, method=name, verdict=unescape(word)) for name, word in pairs)
    key = "one_method" if len(words) == 1 else "no_comparison" if None in verdicts else "disagree"
    return TONES[None], Markup(say(key, language, verdicts=unescape(said)))


def _column(inspection: Inspection, drawn: Inspection, name: str, rates: list[float | None], language: str) -> Column:
    """What is said is measured on all of the picture, what is drawn of the smaller maps of `drawn`."""
    calibration = inspection.detectors[name].calibration
    verdicts = []
    for steps in _alike(inspection, [name], rates):
        prediction, layer = (j.at_rate(rates[steps[0]])[name] for j in (inspection, drawn))
        verdicts.append(_verdict(inspection, calibration, prediction, layer, steps, language))
    notes = [Markup(vouches(calibration, rate, language)) for rate in rates]
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
    unlike = UNLIKE in inspection.resemblance.warnings
    return Verdict(
        steps=steps,
        key=VERDICT_KEYS[prediction.is_anomalous],
        tone=TONES[None if unlike else prediction.is_anomalous],  # a verdict on something else calls for no colour
        sign=SIGNS[prediction.is_anomalous],
        level=prediction.score_level,
        rows=_rows(calibration, prediction, outlined, language),
        outlined=Markup(outlined),
        heat=data_url(heat_layer(drawn)) if calibrated else None,
        outline=data_url(outline_layer(drawn.mask)) if calibrated else None,
    )


def _rows(calibration: Calibration, prediction: AnomalyPrediction, outlined: str, language: str) -> dict[str, Markup]:
    """What stands below the verdict, by the key of its name."""
    rows = {"image_score": number(prediction.image_score, language)}
    if prediction.is_anomalous is not None:
        score, threshold = apart(prediction.image_score, prediction.threshold, language)
        p, count = number(prediction.p_value, language, 2), calibration.count_as_unusual(prediction.image_score)
        rows = {
            "p_value": say("p_value_words", language, p=p, count=count, size=calibration.size),
            "image_score": say("score_words", language, score=score, threshold=threshold),
            "outlined": outlined,
        }
    rows["latency"] = say("milliseconds", language, value=f"{prediction.latency_ms:.0f}")
    return {key: Markup(words) for key, words in rows.items()}


def _outlined(prediction: AnomalyPrediction, language: str) -> str:
    found = prediction.numbers()
    count = found["defects"]
    key = "outlined_none" if count == 0 else "outlined_one" if count == 1 else "outlined_many"
    return say(key, language, count=count, share=percent(found["defect_share"], language))


def vouches(calibration: Calibration, rate: float | None, language: str) -> str:
    """What a threshold promises at a false-alarm rate."""
    if not calibration.size:
        return say("not_calibrated", language)
    guaranteed = calibration.guaranteed_rate(rate)
    told = {"size": calibration.size, "rate": percent(guaranteed, language)}
    if guaranteed == rate:
        return say("vouches", language, **told)
    return say("vouches_less", language, **told, asked=percent(rate, language), needed=pictures_needed(rate))


def _agreements(inspection: Inspection, rates: list[float | None], language: str) -> list[Agreement]:
    found = []
    for steps in _alike(inspection, inspection.detectors, rates):
        predictions = inspection.at_rate(rates[steps[0]])
        masks = {name: p.mask for name, p in predictions.items() if p.mask is not None}
        if len(masks) == 2:
            layer = data_url(agreement_layer(list(masks.values())))
            found.append(Agreement(steps, layer, Markup(_overlap(masks, language))))
    return found


def _overlap(masks: dict[str, np.ndarray], language: str) -> str:
    shares = overlap(*masks.values())
    if shares.both + shares.first_only + shares.second_only == 0:
        return say("overlap_none", language)
    told = {"both": shares.both, "first": shares.first_only, "second": shares.second_only}
    one, other = masks
    return say("overlap_words", language, one=one, other=other, **{k: percent(v, language) for k, v in told.items()})


def _legend(methods: list[str], language: str) -> dict[Markup, str]:
    """A patch of each kind of agreement, by what it means."""
    words = [say("outlined_by_both", language)]
    words += [say("outlined_by_one", language, method=method) for method in methods]
    return {Markup(word): patch for word, patch in zip(words, _patches(), strict=True)}


@cache
def _patches() -> list[str]:
    masked, empty = np.ones((LAYER_SIDE, LAYER_SIDE), bool), np.zeros((LAYER_SIDE, LAYER_SIDE), bool)
    pairs = ((masked, masked), (masked, empty), (empty, masked))
    return [data_url(agreement_layer(pair).crop((0, 0, *PATCH))) for pair in pairs]


def _shown(picture: Image.Image) -> Image.Image:
    shown = picture.copy()
    shown.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    return shown
