"""Is A better than B? Paired tests on the same test pictures, with intervals and a sentence in words.

    python -m training.compare runs/hybrid-mvtec-screw runs/simplenet-mvtec-screw    # two models
    python -m training.compare runs/one runs/other                                   # folders of models, all seeds
    python -m training.compare STUDY --methods hybrid simplenet                      # two methods of a study
    python -m training.compare STUDY OTHER --settings default larger                 # settings, studies
    python -m training.compare STUDY                                                 # all pairs of methods

Image AUROC is tested by DeLong's test, pixel AUROC and AUPRO by a bootstrap over the test pictures, verdicts by
McNemar's test, and several categories by Wilcoxon's signed-rank test; Holm's method corrects for several tests. See
`hubmodels.paired_tests` for what intervals contain. A folder of runs can be one that `training.study` wrote.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from hubmodels.methods import METHODS
from hubmodels.paired_tests import Difference, compare_auroc, difference, holm, mcnemar, wilcoxon
from training.evaluation import SCORES_FILE, read_report
from training.pixel_curves import CURVES_FILE, PixelCurves
from training.study.tables import KEY, STUDY_FILE, Results, markdown, selected

SAMPLES = 1000  # of a bootstrap
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
        return compare_auroc([self.scores], [self.scores], self.labels).ours


def _run(key: dict, scores, curves) -> Run:
    scores = scores.sort_by("name")
    labels, verdicts = scores["label"].to_numpy(), scores["is_anomalous"].to_pylist()
    right = None if None in verdicts else np.array(verdicts) == labels.astype(bool)
    found = PixelCurves.of(curves.sort_by("name")) if curves is not None and curves.num_rows else None
    return Run(
        **{name: key[name] for name in ("setting", "method", "category", "seed")},
        **{"names": scores["name"].to_pylist(), "labels": labels, "scores": scores["image_score"].to_numpy()},
        **{"right": right, "threshold": scores["threshold"][0].as_py(), "curves": found},
    )


def runs_of(results: Results) -> list[Run]:
    """All models of a study."""
    scores = results.table(SCORES_FILE)
    curves = results.table(CURVES_FILE) if (results.folder / CURVES_FILE).is_file() else None
    keys = [{name: row[name] for name in KEY} for row in results.rows]
    return [_run(k, selected(scores, k), None if curves is None else selected(curves, k)) for k in keys]


def runs_in(folder: Path) -> list[Run]:
    """All models of a study's results, of a model folder, or of a folder of such.

    Raises:
        ValueError: there are none.
    """
    if (folder / STUDY_FILE).is_file():
        return runs_of(Results(folder))
    runs = []
    for file in sorted(folder.rglob(SCORES_FILE)):
        report = read_report(file.parent)
        setting = f"{report['settings']['image_size']} px, {report['backbone']['name']}"
        curves = file.with_name(CURVES_FILE)
        key = {"setting": setting, **{name: report[name] for name in ("method", "category", "seed")}}
        runs.append(_run(key, pq.read_table(file), pq.read_table(curves) if curves.is_file() else None))
    if not runs:
        raise ValueError(
            f"{folder} has no raw scores ({SCORES_FILE}): give folders of models with test pictures, or results of "
            "`python -m training.study`"
        )
    return runs


# ---------------------------------------------------------------- one category


@dataclass(frozen=True)
class Row:
    """Two methods in one category; None where a metric or a test does not exist."""

    category: str
    pictures: int
    image_auroc: Difference
    pixel_auroc: Difference | None
    aupro: Difference | None
    verdicts: float | None
    right: tuple[float, float] | None


def compared(ours: Iterable[Run], other: Iterable[Run]) -> list[Row]:
    """A row for each category that both have, over the pictures that all runs have."""
    sides = [_by_category(runs) for runs in (ours, other)]
    shared = [name for name in sides[0] if name in sides[1]]
    return [_row(name, sides[0][name], sides[1][name]) for name in sorted(shared)]


def _by_category(runs: Iterable[Run]) -> dict[str, list[Run]]:
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.category, []).append(run)
    return groups


def _row(category: str, ours: list[Run], other: list[Run]) -> Row:
    names = sorted(set.intersection(*(set(run.names) for run in (*ours, *other))))
    if not names:
        raise ValueError(f"{category}: the two have no test picture in common")
    places = {id(run): np.searchsorted(run.names, names) for run in (*ours, *other)}
    labels = ours[0].labels[places[id(ours[0])]]
    scores = [[run.scores[places[id(run)]] for run in runs] for runs in (ours, other)]
    pixels = _pixels(ours, other)
    right = [
        _majority([run.right[places[id(run)]] for run in runs if run.right is not None]) for runs in (ours, other)
    ]
    both = right[0] is not None and right[1] is not None
    return Row(
        category,
        len(names),
        compare_auroc(*scores, labels),
        *(pixels or (None, None)),
        mcnemar(*right) if both else None,
        (float(right[0].mean()), float(right[1].mean())) if both else None,
    )


def _majority(verdicts: list[NDArray]) -> NDArray | None:
    """Whether most runs are right on each picture; half of them are not enough."""
    return np.mean(verdicts, axis=0) > 0.5 if verdicts else None


def _pixels(ours: list[Run], other: list[Run]) -> tuple[Difference, Difference] | None:
    """Pixel AUROC and AUPRO, by a bootstrap over the pictures that all have."""
    if any(run.curves is None for run in (*ours, *other)):
        return None
    names = sorted(set.intersection(*(set(run.curves.names) for run in (*ours, *other))))
    rng = np.random.default_rng(0)
    draws = rng.multinomial(len(names), [1 / len(names)] * len(names), SAMPLES)
    draws = np.vstack([np.ones(len(names), int), draws])
    values = {key: ([], []) for key in ("pixel_auroc", "aupro")}
    for side, runs in enumerate((ours, other)):
        for run in runs:
            weights = np.zeros((len(draws), len(run.curves.names)))
            weights[:, np.searchsorted(run.curves.names, names)] = draws
            for key, value in run.curves.metrics(weights).items():
                values[key][side].append(value)
    return tuple(_bootstrapped(*sides, len(names)) for sides in values.values())


def _bootstrapped(ours: list[NDArray], other: list[NDArray], pictures: int) -> Difference:
    """From the metric of each run: the first is that of all pictures, the others are bootstrap samples."""
    sides = [np.array(runs) for runs in (ours, other)]
    gaps = sides[0].mean(0)[1:] - sides[1].mean(0)[1:]
    return difference(
        *(side[:, 0].tolist() for side in sides),
        pictures=[float(np.var(gaps, ddof=1))],
        freedom=[pictures - 1],
        both=[_interaction(side[:, 1:]) for side in sides],
    )


def _interaction(samples: NDArray) -> float:
    """Variance of the mean of (R, n) bootstrap samples because each run has other difficult pictures."""
    runs = len(samples)
    return float(np.var(samples - samples.mean(0), axis=1, ddof=1).sum() / (runs - 1) / runs) if runs > 1 else 0.0


# ---------------------------------------------------------------- in words


def sentence(one: str, two: str, row: Row) -> str:
    """What the image AUROC of one category shows."""
    gap = row.image_auroc
    low, high = (100 * bound for bound in gap.interval)
    evidence = f"{100 * gap.value:+.1f} points, 95 % interval {low:.1f} to {high:.1f}, p {p_text(gap.p)}"
    models = "" if min(gap.counts) > 1 else " This is about these trained models: seeds are not in the interval."
    if gap.p < 0.05:
        better, worse = (one, two) if gap.value > 0 else (two, one)
        return f"{row.category}: {better} is better than {worse} in image AUROC ({evidence}).{models}"
    worst = max(0.0, -100 * gap.at_least)
    return (
        f"{row.category}: no significant difference in image AUROC ({evidence}). {one} is not worse than {two} by "
        f"more than {worst:.1f} points (one-sided 95 %).{models}"
    )


def overall(one: str, two: str, rows: Sequence[Row], p: float) -> str:
    """What all categories show together."""
    gaps = [row.image_auroc.value for row in rows]
    wins = sum(gap > 0 for gap in gaps)
    mean = 100 * float(np.mean(gaps))
    result = "significant" if p < 0.05 else "not significant"
    return (
        f"Over {len(rows)} categories: {one} is {mean:+.1f} points from {two} on average, ahead on {wins}; {result} "
        f"(Wilcoxon p {p_text(p)})."
    )


def table(rows: Sequence[Row]) -> str:
    """Metrics of both, differences with intervals, and p-values; in per cent."""
    header = ["category", "pictures", "runs"]
    for title in TITLES.values():
        header += [title, "difference", "p"]
    corrected = holm([row.image_auroc.p for row in rows])
    lines = []
    for row, p in zip(rows, corrected, strict=True):
        cells = [row.category, row.pictures, "{} / {}".format(*row.image_auroc.counts)]
        for key in TITLES:
            cells += difference_cells(getattr(row, key))
        right = "-" if row.right is None else "{:.1f} / {:.1f}".format(*(100 * share for share in row.right))
        lines.append([*cells, p_text(p), right, "-" if row.verdicts is None else p_text(row.verdicts)])
    return markdown([*header, "p of image AUROC (Holm)", "right verdicts", "p (McNemar)"], lines)


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
    if not rows:
        raise ValueError(f"{one} and {two} have no category in common")
    lines = [f"# {one} and {two}", "", table(rows), "", *(sentence(one, two, row) for row in rows)]
    if len(rows) > 1:
        gaps = [[getattr(row.image_auroc, side) for row in rows] for side in ("ours", "other")]
        lines.append(overall(one, two, rows, wilcoxon(*gaps)))
    return "\n".join(lines)


def all_pairs(runs: Sequence[Run]) -> str:
    """A line for each pair of methods over the categories that both have."""
    methods = [method for method in METHODS if any(run.method == method for run in runs)]
    found = []
    for one, two in combinations(methods, 2):
        rows = compared([r for r in runs if r.method == one], [r for r in runs if r.method == two])
        if rows:
            gaps = [[getattr(row.image_auroc, side) for row in rows] for side in ("ours", "other")]
            found.append((one, two, rows, wilcoxon(*gaps)))
    lines = []
    for (one, two, rows, p), corrected in zip(found, holm([p for *_, p in found]), strict=True):
        better = [
            sum(row.image_auroc.p < 0.05 and sign * row.image_auroc.value > 0 for row in rows) for sign in (1, -1)
        ]
        mean = 100 * float(np.mean([row.image_auroc.value for row in rows]))
        titles = (METHODS[one].title, METHODS[two].title)
        lines.append([*titles, len(rows), f"{mean:+.1f}", *better, p_text(p), p_text(corrected)])
    header = ("one", "other", "categories", "mean difference", "one better", "other better", "Wilcoxon p", "p (Holm)")
    return markdown(header, lines)


def _chosen(runs: Sequence[Run], method: str | None, setting: str | None) -> list[Run]:
    found = [run for run in runs if method in (None, run.method) and setting in (None, run.setting) and run.has_both]
    if not found:
        known = {(run.method, run.setting) for run in runs}
        raise ValueError(
            f"no runs of {method or 'any method'}, {setting or 'any setting'}; there are: {sorted(known)}"
        )
    return found


def _name(runs: Sequence[Run], folder: Path, differ: bool) -> str:
    """A title: the method, and what else distinguishes it."""
    methods, settings = ({getattr(run, key) for run in runs} for key in ("method", "setting"))
    parts = [METHODS[method].title for method in METHODS if method in methods]
    return ", ".join([" and ".join(parts), *(sorted(settings) if differ else [])]) or str(folder)


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
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _answer(args: argparse.Namespace) -> str:
    if len(args.folders) > 2 or any(len(values or ()) > 2 for values in (args.methods, args.settings)):
        raise ValueError("two can be compared: give at most two folders, methods and settings")
    folders = args.folders * 2 if len(args.folders) == 1 else args.folders
    methods, settings = ((values or [None]) * 2 for values in (args.methods, args.settings))
    same = [folders[0] == folders[1], methods[0] == methods[1], settings[0] == settings[1]]
    ours = _chosen(runs_in(folders[0]), methods[0], settings[0])
    if all(same):
        if len({run.setting for run in ours}) > 1:
            raise ValueError(f"several settings: choose one by --settings ({sorted({run.setting for run in ours})})")
        return all_pairs(ours)
    other = _chosen(runs_in(folders[1]), methods[1], settings[1])
    titles = [_name(runs, folder, False) for runs, folder in zip((ours, other), folders, strict=True)]
    if titles[0] == titles[1]:
        titles = [_name(runs, folder, True) for runs, folder in zip((ours, other), folders, strict=True)]
    if titles[0] == titles[1]:
        titles = [str(folder) for folder in folders]
    return report(*titles, ours, other)


if __name__ == "__main__":
    sys.exit(main())
