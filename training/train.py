"""Trains one small model per (category, method) from pictures of good parts: the steps of a run, top to bottom.

    python training/train.py --help
    accelerate launch --multi_gpu --num_processes 2 training/train.py --data-root mvtec_ad

A job is one (category, method). If there are enough jobs, every process takes its own. With fewer jobs, all processes
share each job's batches. The last checkpoint is saved and reported, and no test picture is decoded before training has
ended. The same command continues an interrupted run: finished jobs are kept.
"""

import logging
import os
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the clone, from which this script runs

from hubmodels.interruption import end_interrupted

if __name__ == "__main__":  # before the imports, which take seconds
    sys.excepthook = partial(end_interrupted, "stopped: the same command continues")

import torch

if torch.distributed.is_available():  # some builds of torch have one process only
    import torch.distributed.nn.functional  # imported after `start`, its defaults would keep the group and its threads

from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.utils import gather_object
from huggingface_hub.utils import validate_repo_id

from hubmodels import AnomalyDetector, BackboneError
from hubmodels.backbone import feature_strides, find_weights
from hubmodels.compactnet import COMPACT_BACKBONE
from hubmodels.hub.errors import NO_ROOM
from hubmodels.hub.files import REPORT_FILE, TITLE_FILE, limit_waiting, put_in_place
from hubmodels.methods import METHODS
from hubmodels.metric_names import HEADLINE
from hubmodels.region import Region, read_region
from hubmodels.samples import CORRECTED, Category, as_text, shorten, size_text
from hubmodels.sizes import as_pair
from training.auto_size import shaped
from training.batches import AUTOCAST, build_cache, load_images, seed_of
from training.calibration import Split, calibrate, split_pictures
from training.config import TrainConfig
from training.data import open_categories
from training.evaluation import (
    PROTOCOL,
    evaluate,
    git_commit,
    judge_defects,
    machine,
    read_report,
    suiting_methods,
    summarise,
    summary_table,
    versions,
    write_json,
)
from training.fitting import DirectFitting, Fitting, make_fitting
from training.hub_data import HubColumns
from training.input_shape import AUTO, border_in_words, default_side, require_multiples, squashed, too_small
from training.jobs import Job, TrainingError, build_detector, is_finished, is_whole, open_backbone
from training.objectives import OBJECTIVES, PAPER_BACKBONE, GradientObjective, objective_of
from training.progress import end_with_parent
from training.publishing.card import require_templates, write_card
from training.publishing.latency import measure_on_devices
from training.publishing.publish import HUB_TIMEOUT, Publication, check_login, publish
from training.sanity import inspect_category
from training.state import LOG_FILE, find_tracker

logger = logging.getLogger("training")

NO_SPACE = ": free some space for --output, and give the same command again."
EXPECTED = (TrainingError, BackboneError, ValueError, OSError)  # their messages explain enough without a traceback


def main(arguments: list[str] | None = None) -> int:
    """The whole run; returns the exit status (1 if a job failed)."""
    config = TrainConfig.from_command_line(arguments)
    accelerator = start(config)
    try:
        with agreed(accelerator.num_processes > 1):
            limit_waiting(HUB_TIMEOUT)
            config = fill_defaults(config, accelerator)
            check_early(config)
            jobs, failures = plan_jobs(config)
            blocked = check_places(jobs, config)
        blocked = agree_on_jobs(jobs, blocked)
        jobs = shaped([job for job in jobs if job.title not in blocked], accelerator)
    except EXPECTED as error:
        logger.error("%s", error)
        return 1
    done, failed = run_jobs(jobs, accelerator, config.parallel)
    failures |= blocked | failed
    if config.push_to_hub:  # each process what it made, which may be on a disk of its own; if it fails, repeat
        publication = Publication(config.push_to_hub, private=config.private)
        failures |= publish([job.folder for job in done], publication)
    reports = gather_object([read_report(job.folder) for job in done])
    failures = dict(gather_object(list(failures.items())))
    if accelerator.is_main_process:
        write_summary(reports, failures, config)
    accelerator.end_training()
    return 1 if failures else 0


def run_jobs(jobs: list[Job], accelerator: Accelerator, parallel: str) -> tuple[list[Job], dict[str, str]]:
    """Runs this process's share of the jobs, or its share of each; a job that is fitted at once is never shared.

    Ctrl-C ends the run with a SystemExit that names the interrupted job.

    Returns:
        The jobs whose models this process wrote or kept, and the reasons of those that failed, by title.
    """
    world, done, failures = accelerator.num_processes, [], {}
    sharing = world > 1 and (parallel == "data" or (parallel == "auto" and len(jobs) < world))
    shared = [job for job in jobs if sharing and job.epochs]
    alone = [job for job in jobs if not (sharing and job.epochs)][accelerator.process_index :: world]
    for job, together in (*((job, True) for job in shared), *((job, False) for job in alone)):
        try:
            run_job(job, accelerator, together)
            done += [job] if accelerator.is_main_process or not together else []
        except KeyboardInterrupt:
            raise SystemExit(f"{job.title} was stopped: the same command continues from what was saved last") from None
        except Exception as error:  # one failed job must not stop the others
            if together and not isinstance(error, TrainingError):
                raise  # the other processes wait inside a step: end the run, a rerun continues
            origin = (together and error.__cause__) or error
            reason = f"{error}{NO_SPACE if getattr(origin, 'errno', None) in NO_ROOM else ''}"
            logger.error("%s failed: %s", job.title, reason, exc_info=not isinstance(origin, EXPECTED))
            failures[job.title] = reason
    return done, failures


def start(config: TrainConfig) -> Accelerator:
    """Joins the other processes; fails if the processes do not see each other."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
    for chatty in ("httpx2", "timm"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    waiting = InitProcessGroupKwargs(timeout=timedelta(hours=24))  # jobs end at very different times
    accelerator = Accelerator(mixed_precision="no", kwargs_handlers=[waiting])  # only `extract` uses mixed precision
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched != accelerator.num_processes:
        raise SystemExit(
            f"{launched} processes were started but do not see each other (no GPU?). On CPU start them by: "
            "ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes N training/train.py ..."
        )
    if accelerator.device.type == "cpu" and "ACCELERATE_MIXED_PRECISION" in os.environ:
        # the launcher gives each process one thread on a CPU: take this process's share of the cores instead
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
    logger.setLevel(logging.INFO if accelerator.is_main_process else logging.WARNING)
    return accelerator


def fill_defaults(config: TrainConfig, accelerator: Accelerator) -> TrainConfig:
    """Fills what the command line left open: the papers' choice on a GPU, a lighter one on a CPU."""
    on_gpu = accelerator.device.type != "cpu"
    backbone = config.backbone or default_backbone(on_gpu, config.backbone_weights)
    filled = replace(
        config,
        methods=config.methods or default_methods(on_gpu),
        backbone=backbone,
        image_size=config.image_size or default_side(backbone),
        mixed_precision=config.mixed_precision or os.environ.get("ACCELERATE_MIXED_PRECISION", "no"),
    )
    if filled.methods != config.methods:
        logger.info("methods: %s (choose by --methods %s)", " ".join(filled.methods), " ".join(OBJECTIVES))
    if filled.backbone != config.backbone:
        logger.info("backbone: %s (choose by --backbone NAME)", filled.backbone)
    return filled


def default_methods(on_gpu: bool) -> list[str]:
    """All methods but baselines; on a CPU those of them that are fitted at once, which takes a minute or two."""
    known = [name for name, method in METHODS.items() if name in OBJECTIVES and not method.baseline]
    return known if on_gpu else [name for name in known if not OBJECTIVES[name].epochs] or known


def default_backbone(on_gpu: bool, weights: str | None) -> str:
    """The papers' network on a GPU if it is available, or if its weights are given; else the bundled one."""
    if not on_gpu and weights is None:
        return COMPACT_BACKBONE
    try:
        weights or find_weights(PAPER_BACKBONE)
    except BackboneError as error:
        logger.warning("%s Until then this run uses %s.", error, COMPACT_BACKBONE)
        return COMPACT_BACKBONE
    return PAPER_BACKBONE


def check_early(config: TrainConfig) -> None:
    """Raises ValueError or BackboneError for what a job would otherwise find only after hours."""
    if config.mixed_precision not in ("no", *AUTOCAST):
        raise ValueError(f"no mixed precision {config.mixed_precision} here: choose no, {', '.join(AUTOCAST)}")
    if config.tracker:
        find_tracker(config.tracker)
    require_templates()
    if config.image_size != AUTO:
        require_multiples(config.image_size, config.backbone)
    if config.backbone_weights:
        open_backbone(config.backbone, config.backbone_weights)
    if config.push_to_hub:
        check_login(config.push_to_hub)
    if config.title and len(config.categories or ()) != 1:
        raise ValueError("--title names one category: give it with --category NAME")
    if config.region and config.image_size != AUTO:
        stride, size = feature_strides(config.backbone)[0], as_pair(config.image_size)
        Region(size, stride, (0, 0, 0)).set(read_region(config.region, size))
    for method in config.methods:
        objective_of(method).check(config, config.own_settings(method))
    _warn_of_unused(config)


def _warn_of_unused(config: TrainConfig) -> None:
    """Names the options that were given and that some methods do not read."""
    default = TrainConfig(config.data_root)
    for method in config.methods:
        given = [n for n in objective_of(method).unused if getattr(config, n) != getattr(default, n)]
        if given:
            options = ", ".join("--" + name.replace("_", "-") for name in given)
            logger.warning("%s does not use %s", METHODS[method].title, options)


def plan_jobs(config: TrainConfig) -> tuple[list[Job], dict[str, str]]:
    """Sanity report of every category, then its jobs, slowest method first to balance the processes."""
    healthy, failures = [], {}
    for category in open_data(config):
        try:
            category, sanity = inspect_category(category, config.skip_bad)
        except ValueError as error:
            logger.error("%s", error)
            failures[category.name] = str(error)
        else:
            logger.info("%s", "\n".join(sanity.lines()))
            healthy.append((category, sanity))
    chosen = [method for method in METHODS if method in config.methods]
    methods = sorted(chosen, key=lambda method: objective_of(method).epochs, reverse=True)
    return [Job(category, method, config, sanity) for method in methods for category, sanity in healthy], failures


def open_data(config: TrainConfig) -> list[Category]:
    """The categories that the options name, as `open_categories`."""
    return open_categories(
        config.data_root,
        config.categories,
        dataset_name=config.dataset_name,
        normal_folder=config.normal_folder,
        hub=hub_columns(config.hub_columns or ()),
        revision=config.revision,
    )


def agree_on_jobs(jobs: list[Job], blocked: dict[str, str]) -> dict[str, str]:
    """What blocks jobs on any of the processes, which may be on machines with different disks.

    Raises:
        ValueError: the processes would train on different pictures.
    """
    plans = gather_object([({job.title: job.sanity.train_sha256 for job in jobs}, blocked)])
    if any(plan != plans[0][0] for plan, _ in plans):
        raise ValueError("the machines find different training pictures: give the same data to all of them")
    return {name: reason for _, reasons in plans for name, reason in reasons.items()}


def check_places(jobs: list[Job], config: TrainConfig) -> dict[str, str]:
    """Why models cannot be written where they belong, by the jobs' titles; empty if all can.

    Raises:
        ValueError: nothing can be written into the output folder, or the Hub takes no repository of a model's name.
    """
    output = Path(config.output)
    try:
        output.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=output):
            pass
    except OSError as error:
        raise ValueError(f"nothing can be written into {output} ({error.strerror}): give another --output") from error
    blocked = {}
    for job in jobs:
        if config.push_to_hub:
            validate_repo_id(f"{config.push_to_hub}/{job.name}")
        try:
            is_whole(job)
        except ValueError as error:
            logger.error("%s", error)
            blocked[job.title] = str(error)
    return blocked


def hub_columns(pairs: Sequence[str]) -> HubColumns:
    """`image=photo label=kind` -> names of a Hub data set's columns and splits."""
    try:
        return HubColumns(**dict(pair.split("=", 1) for pair in pairs))
    except (TypeError, ValueError) as error:
        roles = ", ".join(field.name for field in fields(HubColumns))
        raise ValueError(f"--hub-columns takes ROLE=NAME with the roles {roles}") from error


def run_job(job: Job, accelerator: Accelerator, sharing: bool) -> None:
    """Trains, calibrates, saves, and only then evaluates one model; unless it is finished."""
    with agreed(sharing):
        prepared = prepare(job, accelerator, sharing)
    if sharing:
        require_one_disk(prepared and prepared[0].first_epoch)
    if prepared is None:
        logger.info("%s is finished: kept", job.title)
        write_title(job, job.folder)
        return
    fitting, split, record = prepared

    # training: the last checkpoint is what counts
    record["train_seconds"] = fitting.run()

    # calibration, the model, its evaluation, then one move into place
    with agreed(sharing):
        if fitting.saves:
            stabilise(fitting)
            calibrate(fitting.objective.detector, split, fitting.fold_heads, job.config.false_alarm_rate)
            logger.info("%s %s", job.title, fitting.objective.detector.calibration.describe())
            fitting.cache.layers.clear()  # Windows deletes no mapped file
            finish(job, fitting.objective.detector, fitting.objective.decisions | record | fitting.record)


def require_one_disk(first_epoch: int | None) -> None:
    """Raises TrainingError where processes that share a job begin it at different epochs, or some find it finished."""
    if len(set(gather_object([first_epoch]))) > 1:
        raise TrainingError(
            "the processes share this job, but find different states of it in their output folders: give an --output "
            "on a disk that all machines share, or --parallel jobs"
        )


@contextmanager
def agreed(sharing: bool) -> Iterator[None]:
    """If processes share a job, an error of one becomes a TrainingError of all, so that no process blocks for ever."""
    if not sharing:
        yield
        return
    failure = None
    try:
        yield
    except Exception as error:
        failure = error
    met = [message for message in gather_object([failure and str(failure)]) if message is not None]
    if met:
        raise TrainingError(met[0]) from failure


def prepare(job: Job, accelerator: Accelerator, sharing: bool) -> tuple[Fitting | DirectFitting, Split, dict] | None:
    """The training, ready to run, its pictures, and the record of both; None if the job is finished."""
    config, started = job.config, time.perf_counter()
    torch.manual_seed(config.seed)
    detector = build_detector(job).to(accelerator.device)
    front_end = detector.front_end
    if is_finished(job, front_end.backbone_sha256):
        return None
    job.workplace.mkdir(parents=True, exist_ok=True)
    shape = size_text(as_pair(config.image_size))
    logger.info("%s: the input has %s pixels (height x width); %s", job.title, shape, job.resolution["in_words"])
    if (region := front_end.region) is not None:
        border = border_in_words(front_end.backbone.fields, job.resolution["scale"])
        logger.info("%s: the region is %.3g %% of the picture; %s", job.title, 100 * region.share, border)
    if hint := squashed(job.resolution["scale"]):
        logger.warning("%s: %s", job.title, hint)
    if job.least_size and (hint := too_small(job.least_size["least_size"], job.resolution["smallest_defect"])):
        logger.warning("%s: %s", job.title, hint)

    # data: pictures to train on, pictures to calibrate with
    split = split_pictures(job)
    if split.corrected:
        words = "%s: %d pictures in a folder `%s` only raise the threshold; no promise counts them"
        logger.info(words, job.title, len(split.corrected), CORRECTED)
    images = load_images(split.fit, front_end.image_size, front_end.resize)
    images = images if region is None else region.cover_levels(images)
    cache = build_cache(detector, images, job.workplace, config.mixed_precision, split.fit_folds)
    cache_seconds = time.perf_counter() - started

    # objective: everything that the method needs from the pictures
    objective = objective_of(job.method).prepare(detector, job, cache, split.fit).to(accelerator.device)
    record = {"fit": split.pictures, "held_out": split.held_out, "folds": split.folds}
    record |= {"features_in_memory": cache.in_memory, "cache_seconds": cache_seconds}
    if region is not None:
        record["region"] = region.share
    names = [sample.name for sample in split.fit]
    fitting = make_fitting(job, objective, cache, names, accelerator, sharing)
    return fitting, split, record


def stabilise(fitting: Fitting | DirectFitting) -> None:
    """Ends the training of a detector: with BatchNorm's statistics over all features, if its options say so."""
    job, objective, detector = fitting.job, fitting.objective, fitting.objective.detector
    if "statistics" in job.config.stabilise and isinstance(objective, GradientObjective):
        torch.manual_seed(seed_of(job.config.seed, job.epochs))
        objective.recompute_statistics(fitting.cache, job.config.batch_size)
    detector.eval()


def write_title(job: Job, folder: Path) -> None:
    """Writes what people call the part, if they said so."""
    if job.config.title:
        (folder / TITLE_FILE).write_text(job.config.title, encoding="utf-8")


def finish(job: Job, detector: AnomalyDetector, record: dict) -> None:
    """Saves the model, evaluates what was saved, describes it, and moves the whole folder into place."""
    category, folder = job.category, job.workplace / "model"
    shutil.rmtree(folder, ignore_errors=True)
    detector.save_pretrained(folder)
    shipped = METHODS[job.method].detector.from_pretrained(folder, map_location=detector.device)
    started = time.perf_counter()
    metrics = evaluate(shipped, category, folder, job.config.skip_bad)
    record["evaluation_seconds"] = time.perf_counter() - started
    calibration = {
        "false_alarm_rate": job.config.false_alarm_rate,
        "guaranteed_rate": shipped.calibration.guaranteed_rate(),
        "bound": shipped.calibration.bound(),
        "pictures": shipped.calibration.size,
        "folds": record["folds"],
        "in_words": shipped.calibration.describe(),
    }
    if shipped.least_size is not None:
        calibration["least_size"] = shipped.least_size.in_words
    content = {"method": job.method, "dataset": category.dataset, "category": category.name}
    if job.config.title:
        content["title"] = job.config.title
    content |= {"protocol": PROTOCOL, "seed": job.config.seed, "epochs": job.epochs}
    if known := judge_defects(folder, shipped.calibration.guaranteed_rate()):
        content |= {"known_defects": known}
        missed = f"; missed: {shorten(known['missed'])}" if known["missed"] else ""
        logger.info("%s %s%s", job.title, known["in_words"], missed)
    content |= {"metrics": metrics, "calibration": calibration, "training": record, "settings": job.settings}
    content |= {"input": job.resolution}
    content |= {"latency": measure_on_devices(shipped, category.train[0].read())}  # test pictures may be unreadable
    content |= {"backbone": {"name": shipped.front_end.backbone_name, "sha256": shipped.front_end.backbone_sha256}}
    content |= {"data": job.sanity.as_dict() | {"revision": category.revision}}
    command = job.command or as_text(shlex.join(["python", "training/train.py", *sys.argv[1:]]))
    content |= {"command": command, "commit": git_commit(), "machine": machine(), "versions": versions()}
    write_json(folder / REPORT_FILE, content)
    write_card(folder)
    write_title(job, folder)
    shutil.copy(job.workplace / LOG_FILE, folder / LOG_FILE)
    put_in_place(folder, job.folder)
    shutil.rmtree(job.workplace)


def write_summary(reports: list[dict], failures: dict[str, str], config: TrainConfig) -> None:
    """Writes and logs the table of this run's models if a metric was measured, and logs what failed."""
    rows = summarise(sorted(reports, key=lambda r: (list(METHODS).index(r["method"]), r["category"])))
    output = Path(config.output)
    if any(row[key] is not None for row in rows for key in HEADLINE):
        write_json(output / "summary.json", rows)
        (output / "summary.md").write_text(summary_table(rows) + "\n", encoding="utf-8")
        logger.info("\n%s\n", summary_table(rows))
    if reports:
        logger.info("models in %s", output)
    for title, method in suiting_methods(reports).items():
        logger.info("%s: %s suits this part better: it finds significantly more defects", title, method)
    for name, reason in failures.items():
        logger.error("FAILED %s: %s", name, reason)


if __name__ == "__main__":
    end_with_parent()
    sys.exit(main())
