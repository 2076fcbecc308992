"""Whether parts have begun to look different: light, camera, position or material changed.

A conformal test martingale (Vovk, Nouretdinov and Gammerman, "Testing exchangeability on-line", ICML 2003). The score
of a picture gets a p-value by its place among all scores before it. As long as nothing changes, such p-values are
independent and uniform, so that a bet on small ones wins nothing on average. An alarm means that the bets made 100 of
1. While nothing changes, the probability that this ever happens is at most 1 %, however long the line runs (Ville,
1939). Needs neither torch nor timm.

>>> drift = DriftWatch({"Hybrid": detector.calibration.image_scores})  # doctest: +SKIP
>>> for picture in pictures:  # doctest: +SKIP
...     drift.add({"Hybrid": detector.predict(picture).image_score})
>>> drift.alarm  # doctest: +SKIP
"""

import json
import math
import random
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Self

FALSE_ALARMS = 0.01  # probability that an alarm is ever raised while nothing changes
DEFECTS = 0.02  # share of defective parts that is no drift
TAILS, STAKES = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5), (0.3, 0.7)  # of the bets, see `Series`
BETS = tuple((tail, stake) for tail in TAILS for stake in STAKES)
FIGURES = 8  # bits of a score that count: a million pictures then have a few thousand different scores
RICHEST = 1e300  # a capital that is not multiplied further


@dataclass
class Series:
    """One number of each picture, such as the image score; large ones are unusual.

    A bet with the tail q and the stake s multiplies its capital by `1 + s (1/q - 1)` where the p-value is at most q,
    and else by `1 - s`. Its mean is 1 for uniform p-values. Among defective parts small ones are more frequent. Where
    each part is defective with a probability of at most d, the mean is at most `1 - d + d (1 + s (1/q - 1))`, and
    everything is divided by that. The n-th picture begins new bets with the share 1 / (n (n + 1)) of the capital, so
    that a change is also found after a long time.

    Attributes:
        values: the numbers so far, rounded, ascending and without repetition.
        counts: how often each was there.
        capitals: of the bets that have begun, in the order of `BETS`.
        begun: pictures since the beginning.
    """

    values: list[float] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    capitals: list[float] = field(default_factory=lambda: [0.0] * len(BETS))
    begun: int = 0

    def learn(self, values: Iterable[float]) -> Self:
        """Numbers of good parts that were there before the first picture."""
        for value in values:
            self._count(_rounded(value))
        return self

    def add(self, value: float, chance: float) -> None:
        """The next picture; `chance`, uniform in [0, 1), decides among equal numbers."""
        value = _rounded(value)
        p_value = self._p_value(value, chance)
        self._count(value)
        self.begun += 1
        new = 1 / (self.begun * (self.begun + 1) * len(BETS))
        bets = zip(self.capitals, BETS, strict=True)
        self.capitals = [min(RICHEST, (capital + new) * _gain(p_value, *bet)) for capital, bet in bets]

    @property
    def capital(self) -> float:
        """What 1 has become, with what is kept for later bets."""
        return sum(self.capitals) + 1 / (self.begun + 1)

    def _p_value(self, value: float, chance: float) -> float:
        """Share of the numbers so far, this one included, that are larger, and a random share of the equal ones."""
        place = bisect_left(self.values, value)
        is_known = place < len(self.values) and self.values[place] == value
        equal = 1 + (self.counts[place] if is_known else 0)
        return (sum(self.counts[place + is_known :]) + chance * equal) / (sum(self.counts) + 1)

    def _count(self, value: float) -> None:
        place = bisect_left(self.values, value)
        if place < len(self.values) and self.values[place] == value:
            self.counts[place] += 1
        else:
            self.values.insert(place, value)
            self.counts.insert(place, 1)


class DriftWatch:
    """Watches several numbers of the pictures of one kind of part at one camera.

    The alarm counts for all series together: their capitals are averaged.

    Args:
        known: names of the series, and numbers of good parts that came before; none if there are no such numbers.
        seed: of the chances among equal numbers.

    Attributes:
        pictures: how many were added.
        alarm: number of the picture at which the alarm was raised, 1 = the first; None as long as there is none.
        cause: name of the series that won most at that picture.
    """

    def __init__(self, known: Mapping[str, Iterable[float]], seed: int = 0) -> None:
        if not known:
            raise ValueError("there is no series to watch")
        self.series = {name: Series().learn(values) for name, values in known.items()}
        self.seed, self.pictures = seed, 0
        self.alarm: int | None = None
        self.cause: str | None = None

    def add(self, numbers: Mapping[str, float | None]) -> bool:
        """Adds the numbers of the next picture, good or defective; returns whether it raises the alarm.

        A number that is missing or not finite is left out: its series waits.

        Raises:
            KeyError: a series that is not watched.
        """
        self.pictures += 1
        chances = random.Random(f"{self.seed} {self.pictures}")  # the same ones after a restart
        for name, value in numbers.items():
            series, chance = self.series[name], chances.random()
            if value is not None and math.isfinite(value):
                series.add(value, chance)
        if self.alarm is None and self.capital >= 1 / FALSE_ALARMS:
            self.alarm = self.pictures
            self.cause = max(self.series, key=lambda name: self.series[name].capital)
            return True
        return False

    @property
    def capital(self) -> float:
        """What 1 has become; while nothing changes it reaches c with a probability of at most 1/c, ever."""
        return sum(series.capital for series in self.series.values()) / len(self.series)

    def to_json(self) -> str:
        """The whole state, a few dozen kB at most."""
        state = {name: getattr(self, name) for name in ("seed", "pictures", "alarm", "cause")}
        return json.dumps(state | {"series": {name: asdict(series) for name, series in self.series.items()}})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Goes on exactly where `to_json` was called.

        Raises:
            ValueError: it is no such state.
        """
        try:
            state = json.loads(text)
            watch = cls(dict.fromkeys(state["series"], ()), state["seed"])
            watch.series = {name: Series(**series) for name, series in state["series"].items()}
            watch.pictures, watch.alarm, watch.cause = (state[name] for name in ("pictures", "alarm", "cause"))
            if any(len(s.values) != len(s.counts) or len(s.capitals) != len(BETS) for s in watch.series.values()):
                raise ValueError("lists of different lengths")
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"this is no state of a drift watch ({error}): delete it to begin again") from error
        return watch


def _gain(p_value: float, tail: float, stake: float) -> float:
    most = 1 + stake * (1 / tail - 1)
    return (most if p_value <= tail else 1 - stake) / (1 - DEFECTS + DEFECTS * most)


def _rounded(value: float) -> float:
    mantissa, exponent = math.frexp(value)
    return math.ldexp(round(mantissa * 2**FIGURES), exponent - FIGURES)
