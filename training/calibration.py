"""Which good pictures a head is fitted to, and which set its threshold.

Either some are held out, so that the head never saw them (split conformal prediction, Vovk et al., 2005). Or all are
fitted, and each is scored by another head, fitted without the fifth of the pictures that contains it (cross-fitting,
as the jackknife+ and CV+ of Barber et al., 2021, do for regression). Fifty pictures then calibrate with fifty scores
and not with five. The other heads saw fewer pictures than the one that is published, so their scores tend to be
higher. No theorem covers the published head: CV+ itself would need all heads for each verdict, and guarantees twice
the rate. `benchmarks.promises` measures how the promise is kept.

Good pictures in a folder `corrected` were called defective before. They were chosen because of their scores, so they
are fitted and only raise the threshold. Copies of a held-out picture are not fitted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import PurePosixPath

from hubmodels.detector import AnomalyDetector
from hubmodels.heads import Head
from hubmodels.samples import CORRECTED, Sample
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
        corrected: good pictures that were called defective, which calibrate no promise.
        fit_folds, calibrating_folds, corrected_folds: the number of each one's fold; empty if some are held out.
    """

    pictures: int
    fit: list[Sample]
    calibrating: list[Sample]
    corrected: list[Sample]
    fit_folds: tuple[int, ...] = ()
    calibrating_folds: tuple[int, ...] = ()
    corrected_folds: tuple[int, ...] = ()

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
        ValueError: fewer than two that are no copies of each other, or all were called defective.
    """
    config, train, copies = job.config, job.category.train, job.sanity.copies
    corrected = [sample for sample in train if is_corrected(sample)]
    if len(corrected) == len(train):
        raise ValueError(
            f"all good pictures are in a folder `{CORRECTED}`, and none is left that may set the threshold: "
            "put pictures that were not called defective next to this folder"
        )
    number: dict[str, int] = {}
    if job.folds:
        folds = make_folds(train, job.folds, config.seed, copies)
        number = {sample.name: fold for fold, members in enumerate(folds) for group in members for sample in group}
        fit = sorted(train, key=lambda sample: sample.name)
        draws = ([sample for sample in group if not is_corrected(sample)] for members in folds for group in members)
        calibrating = sorted((group[0] for group in draws if group), key=lambda sample: sample.name)
    else:
        fit, calibrating = hold_out([s for s in train if not is_corrected(s)], config.holdout, config.seed, copies)
        unseen = _with_copies(calibrating, copies)
        fit = sorted([*fit, *(s for s in corrected if s.name not in unseen)], key=lambda sample: sample.name)
    pictures = len(fit)
    fit_folds, *folds_of = (tuple(number[s.name] for s in some if number) for some in (fit, calibrating, corrected))
    if config.position_tolerance:
        shift, turn = config.position_tolerance
        fit = moved_samples(fit, shift / 100, turn, config.seed)
        calibrating = moved_once(calibrating, shift / 100, turn, config.seed)
        fit_folds = tuple(fold for fold in fit_folds for _ in range(1 + COPIES))
    return Split(pictures, fit, calibrating, corrected, fit_folds, *folds_of)


def _with_copies(samples: Sequence[Sample], copies: Sequence[Sequence[str]]) -> set[str]:
    """The names of samples and of their copies."""
    names = {sample.name for sample in samples}
    return names.union(*(group for group in copies if names.intersection(group)))


def is_corrected(sample: Sample) -> bool:
    """Whether a person said that a part is good which was called defective."""
    return CORRECTED in PurePosixPath(sample.name).parts[:-1]


def calibrate(detector: AnomalyDetector, split: Split, heads: list[Head], false_alarm_rate: float) -> None:
    """Sets the thresholds of a fitted detector.

    Args:
        heads: those of the folds; empty if some pictures are held out.
    """
    own, others = (
        (heads[fold] for fold in folds) if heads else repeat(None)
        for folds in (split.calibrating_folds, split.corrected_folds)
    )
    detector.calibrate((sample.read() for sample in split.calibrating), false_alarm_rate, own)
    detector.take_back((sample.read() for sample in split.corrected), others)
