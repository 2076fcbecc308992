"""Is A better than B? Paired tests on the same test pictures, with intervals and a sentence in words.

    python -m training.compare runs/hybrid-mvtec-screw runs/simplenet-mvtec-screw    # two models
    python -m training.compare runs/one runs/other                                   # folders of models, all seeds
    python -m training.compare STUDY --methods hybrid simplenet                      # two methods of a study
    python -m training.compare STUDY OTHER --settings default larger                 # settings, studies
    python -m training.compare STUDY                                                 # all pairs of methods

Image AUROC is tested by DeLong's test, pixel AUROC and AUPRO by a bootstrap over the test pictures, verdicts by
McNemar's test, and several categories by Wilcoxon's signed-rank test. Holm's method corrects for several tests. See
`hubmodels.paired_tests` for what intervals contain. A folder of runs can be one that `training.study` wrote.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from hubmodels.hub.files import missing_files
from hubmodels.methods import METHODS
from hubmodels.paired_tests import (
    Difference,
    bootstrap_auroc,
    compare_auroc,
    difference,
    holm,
    mcnemar,
    placements,
    wilcoxon,
)
from hubmodels.sizes import in_words
from training.evaluation import SCORES_FILE, read_report
from training.pixel_curves import CURVES_FILE, PixelCurves
from training.study.tables import KEY, STUDY_FILE, Results, markdown, selected

SAMPLES = 1000  # of a bootstrap
LEAST_CATEGORIES = 6  # for a Wilcoxon p below 0.05: 2 / 2**6
TITLES = {"image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC", "aupro": "AUPRO"}


@dataclass(frozen=True)
class Run:
    """One trained model on its test pictures, in the order of their names.

    Attributes:
        right: whether each verdict is right; None for a model without a threshold.
        threshold: of the verdict.
        curves: None where there are no masks.
    """

    setting: str
    method: str
    dataset: str
    category: str
    seed: int
    names: list[str]
    labels: NDArray
    scores: NDArray
    right: NDArray | None
    threshold: float | None
    curves: PixelCurves | None

    @property
    def has_both(self) -> bool:
        """Whether there are good and defective pictures."""
        return set(self.labels.tolist()) == {0, 1}

    @cached_property
    def image_auroc(self) -> float:
        """Of all pictures."""
        return float(placements(self.scores, self.labels)[0].mean())


def _run(key: dict, scores: pa.Table, curves: pa.Table | None) -> Run | None:
    """From the raw scores of a model; None if it has none."""
    if not scores.num_rows:
        return None
    scores = scores.sort_by("name")
    labels, verdicts = scores["label"].to_numpy(), scores["is_anomalous"].to_pylist()
    right = None if None in verdicts else np.array(verdicts) == labels.astype(bool)
    found = PixelCurves.of(curves.sort_by("name")) if curves is not None and curves.num_rows else None
    return Run(
        **{name: key[name] for name in KEY},
        **{"names": scores["name"].to_pylist(), "labels": labels, "scores": scores["image_score"].to_numpy()},
        **{"right": right, "threshold": scores["threshold"][0].as_py(), "curves": found},
    )


def runs_of(results: Results) -> list[Run]:
    """All models of a study that have test pictures."""
    scores, curves = results.table(SCORES_FILE), results.table(CURVES_FILE)
    if scores is None:
        return []
    keys = [{name: row[name] for name in KEY} for row in results.rows]
    found = [_run(k, selected(scores, k), None if curves is None else selected(curves, k)) for k in keys]
    return [run for run in found if run]


def runs_in(folder: Path) -> list[Run]:
    """All models of a study's results, of a model folder, or of a folder of such.

    Raises:
        ValueError: there are none, or no such folder.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder")
    if (folder / STUDY_FILE).is_file():
        runs = runs_of(Results(folder))
    else:
        runs = [_run_in(file.parent) for file in sorted(folder.rglob(SCORES_FILE)) if not missing_files(file.parent)]
    if not runs:
        raise ValueError(
            f"{folder} has no raw scores ({SCORES_FILE}): give folders of models with test pictures, or results of "
            "`python -m training.study`"
        )
    return runs


def _run_in(folder: Path) -> Run:
    report, curves = read_report(folder), folder / CURVES_FILE
    setting = f"{in_words(report['settings']['image_size'])} px, {report['backbone']['name']}"
    key = {"setting": setting, **{name: report[name] for name in KEY[1:]}}
    return _run(key, pq.read_table(folder / SCORES_FILE), pq.read_table(curves) if curves.is_file() else None)


# ---------------------------------------------------------------- one category


@dataclass(frozen=True)
class Row:
    """Two methods in one category; None where a metric or a test does not exist.

    Attributes:
        bootstrapped: 95 % interval of the difference in image AUROC by a bootstrap over the pictures.
        verdicts: p-value of McNemar's test.
        right: share of right verdicts of both.
    """

    category: str
    pictures: int
    image_auroc: Difference
    bootstrapped: tuple[float, float]
    pixel_auroc: Difference | None
    aupro: Difference | None
    verdicts: float | None
    right: tuple[float, float] | None


def compared(ours: Iterable[Run], other: Iterable[Run]) -> list[Row]:
    """A row for each category that both have, over the pictures that all runs have.

    Raises:
        ValueError: they have no picture in common, or not the same labels.
    """
    sides = [_by_category(runs) for runs in (ours, other)]
    shared = [key for key in sides[0] if key in sides[1]]
    return [_row(key[1], sides[0][key], sides[1][key]) for key in sorted(shared, key=lambda key: key[::-1])]


def _by_category(runs: Iterable[Run]) -> dict[tuple[str, str], list[Run]]:
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.dataset, run.category), []).append(run)
    return groups


def _row(category: str, ours: list[Run], other: list[Run]) -> Row:
    names = sorted(set.intersection(*(set(run.names) for run in (*ours, *other))))
    if not names:
        raise ValueError(f"{category}: the two have no test picture in common")
    labels = [run.labels[np.searchsorted(run.names, names)] for run in (*ours, *other)]
    if any(not np.array_equal(each, labels[0]) for each in labels):
        raise ValueError(f"{category}: pictures of the same name are good for one and defective for the other")
    scores = [[run.scores[np.searchsorted(run.names, names)] for run in runs] for runs in (ours, other)]
    right = _verdicts(ours, other, names)
    return Row(
        *(category, len(names), compare_auroc(*scores, labels[0]), bootstrap_auroc(*scores, labels[0], SAMPLES)),
        *(_pixels(ours, other) or (None, None)),
        mcnemar(*right) if right else None,
        (float(right[0].mean()), float(right[1].mean())) if right else None,
    )


def _verdicts(ours: list[Run], other: list[Run], names: list[str]) -> tuple[NDArray, NDArray] | None:
    """Whether each is right on the pictures, by the majority of an odd number of seeds that both have."""
    known = [{run.seed: run for run in runs if run.right is not None} for runs in (ours, other)]
    seeds = sorted(known[0].keys() & known[1].keys()) or [None]
    if None in seeds and not (known[0] and known[1]):
        return None
    chosen = seeds[: len(seeds) - (len(seeds) + 1) % 2]
    sides = [[side.get(seed) or next(iter(side.values())) for seed in chosen] for side in known]
    return tuple(
        np.mean([run.right[np.searchsorted(run.names, names)] for run in runs], axis=0) > 0.5 for runs in sides
    )


def _pixels(ours: list[Run], other: list[Run]) -> tuple[Difference, Difference] | None:
    """Pixel AUROC and AUPRO, by bootstraps over the pictures that all have; good and defective ones apart."""
    if any(run.curves is None for run in (*ours, *other)):
        return None
    names = sorted(set.intersection(*(set(run.curves.names) for run in (*ours, *other))))
    first = ours[0].curves
    defective = first.defect_pixels[np.searchsorted(first.names, names)] > 0
    groups = [group for group in (np.flatnonzero(defective), np.flatnonzero(~defective)) if len(group) > 1]
    draws = _draws(len(names), groups)
    values = {key: ([], []) for key in ("pixel_auroc", "aupro")}
    for side, runs in enumerate((ours, other)):
        for run in runs:
            weights = np.zeros((len(draws), len(run.curves.names)))
            weights[:, np.searchsorted(run.curves.names, names)] = draws
            for key, value in run.curves.metrics(weights).items():
                values[key][side].append(value)
    return tuple(_bootstrapped(*(np.array(runs) for runs in sides), groups) for sides in values.values())


def _draws(count: int, groups: Sequence[NDArray]) -> NDArray:
    """How often each picture counts: once, then SAMPLES times for each group drawn again, the others once."""
    rng, draws = np.random.default_rng(0), [np.ones((1, count))]
    for group in groups:
        some = np.ones((SAMPLES, count))
        some[:, group] = rng.multinomial(len(group), [1 / len(group)] * len(group), SAMPLES)
        draws.append(some)
    return np.vstack(draws)


def _bootstrapped(ours: NDArray, other: NDArray, groups: Sequence[NDArray]) -> Difference:
    """From the metrics (R, 1 + groups x SAMPLES) of each run: of all pictures, then of the bootstrap samples."""
    parts, twice = [], np.zeros(2)
    for i in range(len(groups)):
        some = np.s_[:, 1 + i * SAMPLES : 1 + (i + 1) * SAMPLES]
        parts.append(float(np.var(ours[some].mean(0) - other[some].mean(0), ddof=1)))
        twice += [_interaction(side[some]) for side in (ours, other)]
    freedom = [len(group) - 1 for group in groups]
    return difference(*(side[:, 0].tolist() for side in (ours, other)), parts, freedom, twice)


def _interaction(samples: NDArray) -> float:
    """Variance of the mean of (R, n) bootstrap samples because each run has other difficult pictures."""
    runs = len(samples)
    return float(np.var(samples - samples.mean(0), axis=1, ddof=1).sum() / (runs - 1) / runs) if runs > 1 else 0.0


# ---------------------------------------------------------------- in words


def sentence(one: str, two: str, row: Row, p: float) -> str:
    """What the image AUROC of one category shows; `p` is corrected for the number of categories."""
    gap = row.image_auroc
    low, high = (100 * bound for bound in gap.interval)
    evidence = f"{100 * gap.value:+.1f} points, 95 % interval {low:.1f} to {high:.1f}, p {p_text(p)}"
    models = "" if min(gap.counts) > 1 else " This is about these trained models: seeds are not in the interval."
    if p < 0.05:
        better, worse = (one, two) if gap.value > 0 else (two, one)
        return f"{row.category}: {better} is better than {worse} in image AUROC ({evidence}).{models}"
    if not gap.error:
        evidence = f"no picture tells them apart; 95 % interval {low:.1f} to {high:.1f}"
    worst = max(0.0, -100 * gap.at_least)
    return (
        f"{row.category}: no significant difference in image AUROC ({evidence}). {one} is not worse than {two} by "
        f"more than {worst:.1f} points (one-sided 95 %).{models}"
    )


def overall(one: str, two: str, rows: Sequence[Row]) -> str:
    """What all categories show together."""
    gaps, p = [row.image_auroc.value for row in rows], over_categories(rows)
    mean, ahead = 100 * float(np.mean(gaps)), sum(gap > 0 for gap in gaps)
    comparison = f"{abs(mean):.1f} points {'higher' if mean > 0 else 'lower'} than that of {two}"
    result = "significant" if p < 0.05 else "not significant"
    if len(rows) < LEAST_CATEGORIES:
        result = f"not significant, as with all that have fewer than {LEAST_CATEGORIES} categories"
    return (
        f"Over {len(rows)} categories, the mean image AUROC of {one} is {comparison}. It is higher in {ahead} of "
        f"them. The difference is {result} (Wilcoxon p {p_text(p)})."
    )


def over_categories(rows: Sequence[Row]) -> float:
    """Wilcoxon's p-value of image AUROC."""
    return wilcoxon(*([getattr(row.image_auroc, side) for row in rows] for side in ("ours", "other")))


def table(rows: Sequence[Row]) -> str:
    """Metrics of both, differences with intervals, and p-values; in per cent."""
    header = ["category", "pictures", "runs"]
    for title in TITLES.values():
        header += [title, "difference", "p"]
    header += ["bootstrap of image AUROC", "p of image AUROC (Holm)", "right verdicts", "p (McNemar)"]
    corrected = holm([row.image_auroc.p for row in rows])
    return markdown(header, [_line(row, p) for row, p in zip(rows, corrected, strict=True)])


def _line(row: Row, p: float) -> list:
    cells = [row.category, row.pictures, "{} / {}".format(*row.image_auroc.counts)]
    for key in TITLES:
        cells += difference_cells(getattr(row, key))
    drawn = "{:.1f} to {:.1f}".format(*(100 * bound for bound in row.bootstrapped))
    right = "-" if row.right is None else "{:.1f} / {:.1f}".format(*(100 * share for share in row.right))
    return [*cells, drawn, p_text(p), right, "-" if row.verdicts is None else p_text(row.verdicts)]


def difference_cells(gap: Difference | None) -> list[str]:
    """Both values, the difference with its interval, and p."""
    if gap is None:
        return ["-"] * 3
    low, high = (100 * bound for bound in gap.interval)
    return [
        f"{100 * gap.ours:.1f} / {100 * gap.other:.1f}",
        f"{100 * gap.value:+.1f} ({low:.1f} to {high:.1f})",
        p_text(gap.p),
    ]


def p_text(p: float) -> str:
    """A p-value."""
    return f"{p:.3f}" if p >= 0.001 else "<0.001"


def report(one: str, two: str, ours: Sequence[Run], other: Sequence[Run]) -> str:
    """Table and sentences for two methods."""
    rows = compared(ours, other)
    names = [{f"{run.category} (data set {run.dataset})" for run in runs} for runs in (ours, other)]
    if not rows:
        has = " and ".join(", ".join(sorted(each)) for each in names)
        raise ValueError(f"{one} and {two} have no category in common, but {has}")
    corrected = holm([row.image_auroc.p for row in rows])
    words = [sentence(one, two, row, p) for row, p in zip(rows, corrected, strict=True)]
    words += [overall(one, two, rows)] if len(rows) > 1 else []
    if alone := sorted(names[0] ^ names[1]):
        words.append(f"Only one of the two has {', '.join(alone)}: not compared.")
    caption = "Metrics in per cent. Differences are the first minus the second, in points, with 95 % intervals."
    return "\n".join([f"# {one} and {two}", "", caption, "", table(rows), "", *words])


def all_pairs(runs: Sequence[Run]) -> str:
    """A line for each pair of methods over the categories that both have; Holm's correction over all of its tests."""
    methods = [method for method in METHODS if any(run.method == method for run in runs)]
    runs, found = [replace(run, curves=None) for run in runs], []  # pixels are not compared: that takes longest
    for pair in combinations(methods, 2):
        if rows := compared(*([run for run in runs if run.method == method] for method in pair)):
            found.append((pair, rows))
    single = iter(holm([row.image_auroc.p for _, rows in found for row in rows]))
    overall_p = [over_categories(rows) for _, rows in found]
    lines = []
    for (pair, rows), p, corrected in zip(found, overall_p, holm(overall_p), strict=True):
        signs = [np.sign(row.image_auroc.value) * (next(single) < 0.05) for row in rows]
        mean = 100 * float(np.mean([row.image_auroc.value for row in rows]))
        counts = [len(rows), f"{mean:+.1f}", signs.count(1), signs.count(-1)]
        lines.append([*(METHODS[method].title for method in pair), *counts, p_text(p), p_text(corrected)])
    header = ("one", "other", "categories", "mean difference", "one better", "other better", "Wilcoxon p", "p (Holm)")
    return markdown(header, lines)


# ---------------------------------------------------------------- command line

PAIRS = (
    "Image AUROC, in points. Categories count as better if p < 0.05 after Holm's correction. With fewer than "
    f"{LEAST_CATEGORIES} categories, Wilcoxon's p cannot be below 0.05. --methods A B prints all about two methods."
)


def _chosen(folder: Path, method: str | None, setting: str | None) -> list[Run]:
    """The runs of a folder, of one setting and each once.

    Raises:
        ValueError: there are none, or they are of several settings or several times there.
    """
    runs = runs_in(folder)
    found = [run for run in runs if method in (None, run.method) and setting in (None, run.setting) and run.has_both]
    if not found:
        known = sorted({f"{run.method} ({run.setting})" for run in runs})
        wanted = f"{method or 'any method'}, {setting or 'any setting'}, with good and defective test pictures"
        raise ValueError(f"{folder} has no runs of {wanted}; it has {', '.join(known)}")
    if len(settings := {run.setting for run in found}) > 1:
        raise ValueError(f"{folder} has several settings: choose one by --settings ({', '.join(sorted(settings))})")
    keys = Counter((run.method, run.dataset, run.category, run.seed) for run in found)
    if twice := [key for key, count in keys.items() if count > 1]:
        raise ValueError(
            f"{folder} has several runs of {' '.join(map(str, twice[0]))}: give a folder with one of them"
        )
    return found


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 1 if nothing can be compared."""
    parser = argparse.ArgumentParser(
        prog="python -m training.compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="+", metavar="DIR", help="A, and B if it is another folder")
    parser.add_argument("--methods", nargs="+", metavar="NAME", help="the method of A and B, or one for both")
    parser.add_argument("--settings", nargs="+", metavar="NAME", help="the setting of A and B, or one for both")
    args = parser.parse_args(arguments)
    try:
        print(_answer(args))
    except (OSError, ValueError, pa.ArrowException) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _answer(args: argparse.Namespace) -> str:
    if len(args.folders) > 2 or any(len(values or ()) > 2 for values in (args.methods, args.settings)):
        raise ValueError("two can be compared: give at most two folders, methods and settings")
    sides = list(zip(*map(_pair, (args.folders, args.methods, args.settings)), strict=True))
    ours, other = (_chosen(*side) for side in sides)
    if sides[0] == sides[1]:
        if len({run.method for run in ours}) < 2:
            raise ValueError(f"{sides[0][0]} has one method only: give another folder, method or setting to compare")
        return f"{PAIRS}\n\n{all_pairs(ours)}"
    methods = [[method for method in METHODS if any(run.method == method for run in runs)] for runs in (ours, other)]
    if [len(each) for each in methods] == [1, 1]:
        return report(*_titles(sides, methods), ours, other)
    if not (both := [method for method in methods[0] if method in methods[1]]):
        raise ValueError(f"{sides[0][0]} and {sides[1][0]} have no method in common: choose by --methods")
    reports = []
    for method in both:
        runs = ([run for run in side if run.method == method] for side in (ours, other))
        reports.append(report(*_titles(sides, [[method], [method]]), *runs))
    return "\n\n".join(reports)


def _pair(values: list | None) -> list:
    return (values or [None])[:2] * (1 if values and len(values) == 2 else 2)


def _titles(sides: Sequence[tuple], methods: Sequence[Sequence[str]]) -> list[str]:
    """A name for each side: its method, and the setting or folder if the methods are the same."""
    titles = [METHODS[method].title for [method] in methods]
    if titles[0] != titles[1]:
        return titles
    place = 2 if sides[0][2] != sides[1][2] else 0
    return [f"{title} ({side[place]})" for title, side in zip(titles, sides, strict=True)]


if __name__ == "__main__":
    sys.exit(main())
