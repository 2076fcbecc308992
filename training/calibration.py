"""Which good pictures a head is fitted to, and which set its threshold.

Either some are held out, so that the head never saw them (split conformal prediction, Vovk et al., 2005). Or all are
fitted, and each is scored by another head, fitted without the fifth of the pictures that contains it (cross-fitting,
as the jackknife+ and CV+ of Barber et al., 2021, do for regression). Fifty pictures then calibrate with fifty scores
and not with five. The other heads saw fewer pictures than the one that is published, so their scores tend to be
higher. No theorem covers the published head: CV+ itself would need all heads for each verdict, and guarantees twice
the rate. `benchmarks.promises` measures how the promise is kept.
"""

from dataclasses import dataclass
from itertools import repeat

from hubmodels.detector import AnomalyDetector
from hubmodels.heads import Head
from hubmodels.samples import Sample
from training.data import hold_out, make_folds
from training.jobs import Job
from training.position import COPIES, moved_once, moved_samples


@dataclass(frozen=True)
class Split:
    """The good pictures of a job.

    Attributes:
        pictures: how many are fitted, without moved copies.
        fit: what is fitted, ordered by name.
        calibrating: what sets the threshold: one of each group of copies.
        fit_folds, calibrating_folds: the number of each one's fold; empty if some pictures are held out.
    """

    pictures: int
    fit: list[Sample]
    calibrating: list[Sample]
    fit_folds: tuple[int, ...] = ()
    calibrating_folds: tuple[int, ...] = ()

    @property
    def folds(self) -> int:
        """How many further heads are fitted."""
        return len(set(self.fit_folds))

    @property
    def held_out(self) -> int:
        """How many pictures no head is fitted to."""
        return 0 if self.folds else len(self.calibrating)


def split_pictures(job: Job) -> Split:
    """The pictures of a job, moved if its options say so.

    Raises:
        ValueError: fewer than two that are no copies of each other.
    """
    config, train, copies = job.config, job.category.train, job.sanity.copies
    fit_folds, calibrating_folds = (), ()
    if job.folds:
        folds = make_folds(train, job.folds, config.seed, copies)
        number = {sample.name: fold for fold, members in enumerate(folds) for group in members for sample in group}
        fit = sorted(train, key=lambda sample: sample.name)
        firsts = sorted((group[0] for members in folds for group in members), key=lambda sample: sample.name)
        fit_folds, calibrating_folds = (tuple(number[s.name] for s in some) for some in (fit, firsts))
    else:
        fit, firsts = hold_out(train, config.holdout, config.seed, copies)
    pictures = len(fit)
    if config.position_tolerance:
        shift, turn = config.position_tolerance
        fit = moved_samples(fit, shift / 100, turn, config.seed)
        firsts = moved_once(firsts, shift / 100, turn, config.seed)
        fit_folds = tuple(fold for fold in fit_folds for _ in range(1 + COPIES))
    return Split(pictures, fit, firsts, fit_folds, calibrating_folds)


def calibrate(detector: AnomalyDetector, split: Split, heads: list[Head], false_alarm_rate: float) -> None:
    """Sets the thresholds of a fitted detector.

    Args:
        heads: those of the folds; empty if some pictures are held out.
    """
    own = repeat(None) if not heads else (heads[fold] for fold in split.calibrating_folds)
    detector.calibrate((sample.read() for sample in split.calibrating), false_alarm_rate, own)
