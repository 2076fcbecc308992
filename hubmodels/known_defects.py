"""How many known defects a method finds, and which method finds more of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy.special import ndtri

from hubmodels.paired_tests import CONFIDENCE, holm, mcnemar

SIGNIFICANT = 0.05  # largest p-value


@dataclass(frozen=True)
class KnownDefects:
    """How many known defects a method finds.

    Attributes:
        found, total: pictures; there is at least one.
        rate: of false alarms at which the verdicts were made.
        all_from: the lowest rate of false alarms that finds all of them.
    """

    found: int
    total: int
    rate: float
    all_from: float

    @classmethod
    def judge(cls, verdicts: Sequence[bool], p_values: Sequence[float], rate: float) -> "KnownDefects":
        """Counts the defects (N,) that were called anomalous at a rate of false alarms."""
        return cls(sum(map(bool, verdicts)), len(verdicts), rate, max(rate, *p_values))

    @property
    def limits(self) -> tuple[float, float]:
        """What share of all such defects the method can find."""
        return wilson(self.found, self.total)

    def describe(self) -> str:
        """The count in words, such as "finds 10 of 12 defects (...) at 2 % false alarms"."""
        low, high = map(_percent, self.limits)
        count = f"finds {self.found} of {self.total} defects (of all such defects {low} to {high})"
        words = f"{count} at {_percent(self.rate)} false alarms"
        return words if self.found == self.total else f"{words}; all of them from {_percent(self.all_from)} on"


def wilson(found: int, total: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Interval of a share (Wilson, JASA 1927)."""
    z = float(ndtri((1 + confidence) / 2))
    share, weight = found / total, z * z / total
    middle = (share + weight / 2) / (1 + weight)
    half = z / (1 + weight) * (share * (1 - share) / total + weight / (4 * total)) ** 0.5
    return max(0.0, middle - half), min(1.0, middle + half)


def best_method(verdicts: Mapping[str, Sequence[bool]], rates: Mapping[str, float]) -> str | None:
    """The method that finds significantly more of the same defects than each other method; None if there is none.

    With more false alarms a method finds more. So none is best at a higher rate of them than another.

    Args:
        verdicts: by method, whether each defect is found, in the same order.
        rates: by method, of false alarms at which the verdicts were made.
    """
    if len(verdicts) < 2:
        return None
    best = max(verdicts, key=lambda name: sum(verdicts[name]))
    p_values = holm([mcnemar(verdicts[best], verdicts[other]) for other in verdicts if other != best])
    return best if max(p_values) < SIGNIFICANT and rates[best] <= min(rates.values()) else None


def _percent(share: float) -> str:
    return f"{float(f'{100 * share:.2g}'):g} %"
