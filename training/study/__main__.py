"""Trains and evaluates categories x methods x seeds x settings, and keeps raw scores, tables and plots.

    python -m training.study study.toml --dry-run       # what would run, and how long it would take
    python -m training.study study.toml                 # runs it; the same command continues
    python -m training.study --data-root mvtec_ad --methods hybrid patchcore --seeds 0 1 2
    accelerate launch --multi_gpu --num_processes 2 -m training.study study.toml
    python -m training.study study.toml --collect       # results of what is finished, while it runs
    python -m training.study --recompute FOLDER         # all numbers and plots again, from raw scores

A job is one model. It is finished if the results contain it, or if its model folder is there. The jobs are spread over
the processes as in `training/train.py`. `training.study.plan.Study` explains the keys of the file, and
`training.study.tables` the files of results. `python -m training.compare` tests differences.
"""

import argparse
import logging
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from hubmodels.interruption import end_interrupted

if __name__ == "__main__":  # before the imports, which take seconds
    sys.excepthook = partial(end_interrupted, "stopped: the same command continues")

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object

from hubmodels.hub.files import limit_waiting, missing_files
from hubmodels.methods import METHODS
from training import train
from training.config import TrainConfig
from training.publishing.publish import HUB_TIMEOUT
from training.study.plan import Setting, Study, StudyJob
from training.study.tables import (
    KEY,
    TABLE_FILE,
    Content,
    Results,
    defect_table,
    estimate,
    full_table,
    require_same,
    summary_table,
)

logger = logging.getLogger("training")

PER_CENT = "per cent: mean ± standard deviation over the seeds."
TIMES = "`minutes`: features and training of a model; `ms`: a verdict with its map."
PUBLISHED = Path(__file__).parents[2] / "benchmarks/results/study"  # times for a study that has none yet


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 1 if a job failed."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    end = given.index("--") if "--" in given else len(given)
    args = _parser().parse_args(given[:end])
    args.options = given[end + 1 :]
    try:
        if args.recompute:
            return recompute(args.recompute)
        study = _study_of(args)
        accelerator = train.start(TrainConfig(study.data_root[0]))
        with train.agreed(accelerator.num_processes > 1):
            jobs = opened(study, accelerator)
        jobs = [job for some in _groups(jobs, "setting", "seed") for job in train.shaped(some, accelerator)]
        if args.collect:
            return collect(study, jobs, accelerator)
        [rows] = broadcast_object_list([Results(study.results_folder).rows])  # of the main process
        with train.agreed(accelerator.num_processes > 1):
            left = unfinished(jobs, rows)
        return run(study, jobs, left, accelerator, dry=args.dry_run)
    except train.EXPECTED as error:
        print(error, file=sys.stderr)
        return 1


def opened(study: Study, accelerator: Accelerator) -> list[StudyJob]:
    """All jobs. Raises ValueError for what cannot run."""
    limit_waiting(HUB_TIMEOUT)
    seen: set[str] = set()
    logger.addFilter(once := lambda record: not (record.getMessage() in seen or seen.add(record.getMessage())))
    try:  # the defaults of all jobs are the same
        jobs = study.jobs(partial(train.fill_defaults, accelerator=accelerator))
        for config in {(job.method, job.setting): job.config for job in jobs}.values():
            train.check_early(config)
    finally:
        logger.removeFilter(once)
    return jobs


def unfinished(jobs: Sequence[StudyJob], rows: Sequence[dict]) -> list[StudyJob]:
    """The jobs that have no row in the results. Raises TrainingError for a row with other settings."""
    known, left = {tuple(row[name] for name in KEY): row for row in rows}, []
    for job in jobs:
        if row := known.get(tuple(job.key.values())):
            require_same(job, row)
        else:
            left.append(job)
    return left


def run(study: Study, jobs: list[StudyJob], left: list[StudyJob], accelerator: Accelerator, dry: bool) -> int:
    """All jobs that are left, seed by seed, so that there are results before the end."""
    results, failures = Results(study.results_folder), {}
    rows, missing = results.rows or Results(PUBLISHED).rows, [job for job in left if missing_files(job.folder)]
    logger.info("%s", plan_text(jobs, missing, rows, accelerator.num_processes))
    for batch in _groups(left, "seed") if not dry else ():
        with train.agreed(accelerator.num_processes > 1):
            blocked = _blocked(batch)
        blocked = train.agree_on_jobs(batch, blocked)
        ready = [job for job in batch if job.title not in blocked]
        done, failed = train.run_jobs(ready, accelerator, "jobs")
        failures |= blocked | failed
        save(study, done, accelerator)
    failures = dict(gather_object(list(failures.items())))
    for name, reason in failures.items() if accelerator.is_main_process else ():
        logger.error("FAILED %s: %s", name, reason)
    accelerator.end_training()
    return 1 if failures else 0


def collect(study: Study, jobs: list[StudyJob], accelerator: Accelerator) -> int:
    """Results of what is finished."""
    finished = [job for job in jobs if not missing_files(job.folder)]
    save(study, finished if accelerator.is_main_process else [], accelerator)
    return 0


def save(study: Study, done: list[StudyJob], accelerator: Accelerator) -> None:
    """Adds the finished models of all processes to the results, which the main process writes."""
    contents = [content for job in done if (content := Content.of(job, study.textures))]
    contents = gather_object(contents)
    if not accelerator.is_main_process:
        return
    results = Results(study.results_folder)
    results.add(contents)
    logger.info("%d models added to %s", len(contents), results.folder)
    if results.rows:
        logger.info("\n%s", write_tables(results))


def plan_text(jobs: Sequence[StudyJob], left: Sequence[StudyJob], rows: Sequence[dict], processes: int) -> str:
    """The jobs by setting and method, how many are left, and how long they take."""
    lines = [f"{_jobs(len(jobs))}, {len(jobs) - len(left)} of them finished"]
    known, unknown = 0.0, 0
    groups: dict[tuple[str, str], list[StudyJob]] = {}
    for job in left:
        groups.setdefault((job.setting, job.method), []).append(job)
    for (setting, method), some in groups.items():
        times = [estimate(job, rows) for job in some]
        known += sum(t for t in times if t is not None)
        unknown += times.count(None)
        about = "time unknown" if None in times else _about(sum(times))
        lines.append(f"  {setting}, {METHODS[method].title}: {_jobs(len(some))}, {about}")
    if len(left) > unknown:
        total = f"{_about(known / processes)} on {processes} process{'es' if processes > 1 else ''}"
        missing = f"; {_jobs(unknown)} without such times" if unknown else ""
        lines.append(f"{total}, from the times of {'; '.join(sorted({row['machine'] for row in rows}))}{missing}")
    return "\n".join(lines)


def _about(seconds: float) -> str:
    return f"about {seconds / 60:.0f} min" if seconds >= 60 else "less than 1 min"


def _jobs(count: int) -> str:
    return "1 job" if count == 1 else f"{count} jobs"


def recompute(folder: Path) -> int:
    """Tables and plots again, from raw scores; fails if a metric differs from the recorded one."""
    results = Results(folder)
    count = results.check()
    print(f"{count} models: metrics equal those of their raw scores")
    write_tables(results)
    return 0


def write_tables(results: Results) -> str:
    """Writes `table.md` and the plots; returns the summary."""
    from training.study.plots import draw_all  # matplotlib takes a second

    rows = results.rows
    parts, defects = [], []
    for setting in dict.fromkeys(row["setting"] for row in rows):
        some = [row for row in rows if row["setting"] == setting]
        parts.append(f"## {setting}\n\nImage AUROC / AUPRO@0.3, {PER_CENT}\n\n{summary_table(some)}")
        defects.append(
            f"## {setting}, by kind of defect\n\nImage AUROC, {PER_CENT}\n\n{defect_table(results, setting)}"
        )
    summary = "\n\n".join(parts)
    everything = f"## All\n\nMetrics and rates, {PER_CENT} {TIMES}\n\n{full_table(rows)}"
    text = f"# Results\n\n{summary}\n\n" + "\n\n".join([everything, *defects]) + "\n"
    (results.folder / TABLE_FILE).write_text(text, encoding="utf-8")
    draw_all(results, results.folder)
    return summary


def _blocked(jobs: Sequence[StudyJob]) -> dict[str, str]:
    """Reasons of jobs that cannot be written, by title."""
    found = {}
    for output in dict.fromkeys(job.config.output for job in jobs):
        some = [job for job in jobs if job.config.output == output]
        found |= train.check_places(some, some[0].config)
    return found


def _groups(jobs: Sequence[StudyJob], *names: str) -> list[list[StudyJob]]:
    """Jobs by parts of their keys, in the order of their first."""
    groups: dict[tuple, list[StudyJob]] = {}
    for job in jobs:
        groups.setdefault(tuple(job.key[name] for name in names), []).append(job)
    return list(groups.values())


def _study_of(args: argparse.Namespace) -> Study:
    given = {
        name: getattr(args, name) for name in ("data_root", "categories", "methods", "seeds", "output", "results")
    }
    given = {name: value for name, value in given.items() if value is not None}
    if args.file is None:
        if not {"data_root", "methods"} <= given.keys():
            raise ValueError("give a TOML file, or --data-root and --methods")
        return Study.of(given, {"default": Setting(options=shlex.join(args.options))})
    if "data_root" in given or args.options:
        raise ValueError("the file contains the data and the options: change the file instead")
    study = replace(Study.read(args.file), **given)
    return study.only(args.settings) if args.settings else study


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.study",
        allow_abbrev=False,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=Path, nargs="?", metavar="FILE", help="TOML file of the study")
    parser.add_argument("--data-root", nargs="+", metavar="DIR", help="data sets, as for training/train.py")
    parser.add_argument("--categories", nargs="+", metavar="NAME", help="only these")
    parser.add_argument("--methods", nargs="+", choices=METHODS)
    parser.add_argument("--seeds", nargs="+", type=int, metavar="S", help="default: 0")
    parser.add_argument("--settings", nargs="+", metavar="NAME", help="only these settings of the file")
    parser.add_argument("--output", metavar="DIR", help="folder of the models (default: runs/study)")
    parser.add_argument("--results", metavar="DIR", help="folder of scores, tables and plots (default: --output)")
    parser.add_argument("--dry-run", action="store_true", help="list jobs and time, train nothing")
    parser.add_argument("--collect", action="store_true", help="add what is finished to the results, train nothing")
    parser.add_argument("--recompute", type=Path, metavar="DIR", help="rebuild tables and plots from raw scores")
    parser.usage = "%(prog)s [FILE] [options] [-- options of training/train.py, such as --epochs 24]"
    return parser


if __name__ == "__main__":
    sys.exit(main())
