"""Trains one small model per (category, method) from pictures of good parts; reads as the story of a run.

    python training/train.py --help
    accelerate launch --multi_gpu --num_processes 2 training/train.py --data-root mvtec_ad

A job is one (category, method). With enough jobs every process takes its own and they never talk; with fewer, all
processes share each job's batches. The last checkpoint is what is saved and reported, and no test picture is decoded
before training has ended. Run it again and it continues: finished jobs are kept, an unfinished one goes on.
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
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the clone, from which this script runs

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.utils import gather_object
from huggingface_hub.utils import validate_repo_id

from hubmodels import GLASS, AnomalyDetector, BackboneError, SimpleNet
from hubmodels.backbone import find_weights, load_backbone, normalisation
from hubmodels.compactnet import COMPACT_BACKBONE, COMPACT_IMAGE_SIZE
from hubmodels.hub.files import REPORT_FILE, limit_waiting
from hubmodels.hub.listing import METHODS
from training.batches import LocalSynthesis, seed_of
from training.cache import AUTOCAST, FeatureCache, build_cache, load_images
from training.config import PAPER_BACKBONE, PAPER_IMAGE_SIZE, TrainConfig
from training.data import hold_out, open_categories
from training.evaluation import PROTOCOL, evaluate, summarise, summary_table, write_json
from training.fitting import Fitting, recompute_statistics
from training.foreground import foreground_masks
from training.hub_data import HubColumns
from training.hypothesis import decide_hypothesis
from training.jobs import Job, TrainingError, is_finished
from training.objectives import OBJECTIVES, REFERENCE_NOISE_STD
from training.provenance import commit, machine, versions
from training.publishing.card import write_card
from training.publishing.latency import measure_on_devices
from training.publishing.publish import HUB_TIMEOUT, Publication, check_login, publish
from training.samples import Sample
from training.sanity import inspect_category
from training.synthesis import TextureSource
from training.tracking import LOG_FILE, find_tracker

logger = logging.getLogger("training")

NOISE_TO_RMS = 0.35  # noise relative to the features' RMS on other backbones; measured in benchmarks/README.md
EXPECTED = (TrainingError, BackboneError, ValueError, OSError)  # their messages say it all, without a traceback


def main(arguments: list[str] | None = None) -> int:
    """The whole run; returns the exit status (1 where a job failed)."""
    config = TrainConfig.from_command_line(arguments)
    accelerator = start(config)
    try:
        limit_waiting(HUB_TIMEOUT)
        config = settle(config, accelerator)
        refuse_early(config)
        jobs, failures = plan_jobs(config)
        for job in jobs if config.push_to_hub else ():
            validate_repo_id(f"{config.push_to_hub}/{job.name}")
    except EXPECTED as error:
        logger.error("%s", error)
        return 1
    failures |= run_jobs(jobs, accelerator, config.parallel)
    accelerator.wait_for_everyone()
    failures = dict(pair for pair in gather_object(list(failures.items())))
    if accelerator.is_main_process:
        done = [job for job in jobs if job.name not in failures]
        failures |= push(done, config)
        report(done, failures, config)
    accelerator.end_training()
    return 1 if failures else 0


def run_jobs(jobs: list[Job], accelerator: Accelerator, parallel: str) -> dict[str, str]:
    """Runs this process's share of the jobs, or its share of each; returns those that failed, and why.

    Ctrl-C ends the run: raises SystemExit, which names the job that it met.
    """
    world, failures = accelerator.num_processes, {}
    sharing = world > 1 and (parallel == "data" or (parallel == "auto" and len(jobs) < world))
    for job in jobs if sharing else jobs[accelerator.process_index :: world]:
        try:
            run_job(job, accelerator, sharing)
        except KeyboardInterrupt:
            raise SystemExit(f"{job.name} was stopped: the same command goes on from its last saved epoch") from None
        except Exception as error:  # whatever befell this job, the others are worth their hours
            if sharing and not isinstance(error, TrainingError):
                raise  # met inside a step, where the other processes wait: end the run, a rerun continues
            origin = (sharing and error.__cause__) or error
            logger.error("%s failed: %s", job.name, error, exc_info=not isinstance(origin, EXPECTED))
            failures[job.name] = str(error)
    return failures


def start(config: TrainConfig) -> Accelerator:
    """Joins the other processes, and refuses to run beside them unnoticed."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
    for chatty in ("httpx2", "timm"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    patience = InitProcessGroupKwargs(timeout=timedelta(hours=24))  # jobs end at very different times
    accelerator = Accelerator(mixed_precision="no", kwargs_handlers=[patience])  # `extract` alone is mixed
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched != accelerator.num_processes:
        raise SystemExit(
            f"{launched} processes were started but do not see each other (no GPU?). On CPU start them by: "
            "ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes N training/train.py ..."
        )
    if accelerator.device.type == "cpu" and "ACCELERATE_MIXED_PRECISION" in os.environ:
        share_cores(int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    logger.setLevel(logging.INFO if accelerator.is_main_process else logging.WARNING)
    return accelerator


def share_cores(processes: int) -> None:
    """`accelerate launch` gives each process one thread on a CPU; take this process's share of the cores instead."""
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes))


def settle(config: TrainConfig, accelerator: Accelerator) -> TrainConfig:
    """What the command line left open depends on the machine: the papers' choice on a GPU, a lighter one on a CPU."""
    on_gpu = accelerator.device.type != "cpu"
    backbone = config.backbone or default_backbone(on_gpu, config.backbone_weights)
    settled = replace(
        config,
        methods=config.methods or (list(METHODS) if on_gpu else [SimpleNet.method]),
        backbone=backbone,
        image_size=config.image_size or (COMPACT_IMAGE_SIZE if backbone == COMPACT_BACKBONE else PAPER_IMAGE_SIZE),
        mixed_precision=config.mixed_precision or os.environ.get("ACCELERATE_MIXED_PRECISION", "no"),
    )
    if settled.methods != config.methods:
        logger.info("methods: %s (choose by --methods %s)", " ".join(settled.methods), " ".join(METHODS))
    if settled.backbone != config.backbone:
        logger.info("backbone: %s (choose by --backbone NAME)", settled.backbone)
    return settled


def default_backbone(on_gpu: bool, weights: str | None) -> str:
    """The papers' network where it is fast and to be had, or where its weights are given; else the bundled one."""
    if not on_gpu and weights is None:
        return COMPACT_BACKBONE
    try:
        weights or find_weights(PAPER_BACKBONE)
    except BackboneError as error:
        logger.warning("%s Until then this run uses %s.", error, COMPACT_BACKBONE)
        return COMPACT_BACKBONE
    return PAPER_BACKBONE


def refuse_early(config: TrainConfig) -> None:
    """Raises ValueError for what a job would else find only after hours."""
    if config.mixed_precision not in ("no", *AUTOCAST):
        raise ValueError(f"no mixed precision {config.mixed_precision} here: choose no, {', '.join(AUTOCAST)}")
    if config.tracker:
        find_tracker(config.tracker)
    if config.push_to_hub:
        check_login(config.push_to_hub)
    if GLASS.method in config.methods:
        TextureSource(config.image_size, config.textures)


def plan_jobs(config: TrainConfig) -> tuple[list[Job], dict[str, str]]:
    """Sanity report of every category, then its jobs, dearest method first so that processes end together."""
    columns = hub_columns(config.hub_columns or ())
    found = open_categories(
        config.data_root,
        config.categories,
        dataset_name=config.dataset_name,
        hub=columns,
        revision=config.revision,
    )
    healthy, failures = [], {}
    for category in found:
        try:
            category, sanity = inspect_category(category, config.skip_bad)
        except ValueError as error:
            logger.error("%s", error)
            failures[category.name] = str(error)
        else:
            logger.info("%s", "\n".join(sanity.lines()))
            healthy.append((category, sanity))
    methods = sorted(set(config.methods), key=list(METHODS).index, reverse=True)
    return [Job(category, method, config, sanity) for method in methods for category, sanity in healthy], failures


def hub_columns(pairs: Sequence[str]) -> HubColumns:
    """`image=photo label=kind` -> what a Hub data set's columns and splits are called."""
    try:
        return HubColumns(**dict(pair.split("=", 1) for pair in pairs))
    except (TypeError, ValueError) as error:
        roles = ", ".join(field.name for field in fields(HubColumns))
        raise ValueError(f"--hub-columns takes ROLE=NAME with the roles {roles}") from error


def run_job(job: Job, accelerator: Accelerator, sharing: bool) -> None:
    """Trains, calibrates, saves, and only then evaluates one model; unless it is finished."""
    with agreed(sharing):
        prepared = prepare(job, accelerator, sharing)
    if prepared is None:
        logger.info("%s is finished: kept", job.name)
        return
    fitting, held_out, decisions = prepared

    # training: the last checkpoint is what counts
    decisions["train_seconds"] = fitting.run()

    # the verdict, the model, then its evaluation, then into place in one move
    with agreed(sharing):
        if fitting.saves:
            calibrate(fitting, held_out)
            finish(job, fitting.objective.detector, decisions)


@contextmanager
def agreed(sharing: bool) -> Iterator[None]:
    """Where processes share a job, an error of one becomes a TrainingError of all, so that none waits in vain."""
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


def prepare(job: Job, accelerator: Accelerator, sharing: bool) -> tuple[Fitting, list[Sample], dict] | None:
    """The training, ready to run, the held-out normals, and what was decided; None where the job is finished."""
    config, started = job.config, time.perf_counter()
    torch.manual_seed(config.seed)
    detector = build_detector(job).to(accelerator.device)
    if is_finished(job, detector.backbone_sha256):
        return None
    job.workplace.mkdir(parents=True, exist_ok=True)

    # data: what is trained on, what calibrates
    fit_samples, held_out = hold_out(job.category.train, config.holdout, config.seed)
    images = load_images(fit_samples, detector.image_size, detector.resize)
    cache = build_cache(detector, images, job.workplace, config.mixed_precision)
    cache_seconds = time.perf_counter() - started

    # objective: what each step minimises, decided here and recorded
    objective, synthesis, decisions = build_objective(job, detector, cache, fit_samples)
    objective.to(accelerator.device)
    decisions |= {"fit": len(fit_samples), "held_out": len(held_out), "features_in_memory": cache.in_memory}
    decisions["cache_seconds"] = cache_seconds
    names = [sample.name for sample in fit_samples]
    return Fitting(job, objective, cache, synthesis, names, accelerator, sharing), held_out, decisions


def calibrate(fitting: Fitting, held_out: list[Sample]) -> None:
    """Steadies the trained detector, and sets its thresholds with the held-out normals."""
    job, detector = fitting.job, fitting.objective.detector
    if "statistics" in job.config.stabilise:
        torch.manual_seed(seed_of(job.config.seed, job.config.epochs_of(job.method)))
        recompute_statistics(fitting.objective, fitting.cache, job.config.batch_size, detector.device)
    detector.eval()
    detector.calibrate((sample.read() for sample in held_out), job.config.false_alarm_rate)
    logger.info("%s %s", job.name, detector.calibration.describe())


def build_detector(job: Job) -> AnomalyDetector:
    """The untrained head on its verified backbone."""
    config = job.config
    backbone = load_backbone(config.backbone, weights=config.backbone_weights)
    mean, std = normalisation(config.backbone)
    return METHODS[job.method](
        backbone=config.backbone,
        backbone_sha256=backbone.fingerprint,
        mean=mean,
        std=std,
        image_size=config.image_size,
        resize=config.resize_of(job.method, job.category.name),
        dataset=job.category.dataset,
        category=job.category.name,
    )


def build_objective(job: Job, detector: AnomalyDetector, cache: FeatureCache, samples: Sequence[Sample]):
    """The training objective, GLASS's local synthesis, and the record of what was decided."""
    config = job.config
    noise_std = config.noise_std or default_noise_std(config.backbone, cache)
    decisions = {"noise_std": noise_std, "feature_rms": cache.rms()}
    if job.method == SimpleNet.method:
        return OBJECTIVES[job.method](detector, noise_std), None, decisions
    pictures = cache.images.permute(0, 2, 3, 1).numpy()
    hypothesis, reason = judge_hypothesis(job, detector, cache, samples)
    masks, mask_reason = None, "full picture (as asked)"
    if config.foreground == "auto":
        foreground = foreground_masks(pictures)
        masks, mask_reason = foreground.masks, foreground.reason
    textures = TextureSource(config.image_size, config.textures)
    decisions |= {"hypothesis": hypothesis, "hypothesis_reason": reason, "foreground": mask_reason}
    decisions["textures"] = textures.name
    logger.info("%s: %s (%s); foreground: %s; textures: %s", job.name, hypothesis, reason, mask_reason, textures.name)
    grid = tuple(cache.layers[0].shape[-2:])
    synthesis = LocalSynthesis(cache.images, textures, masks, grid, config.seed)
    return OBJECTIVES[job.method](detector, noise_std, hypothesis), synthesis, decisions


def judge_hypothesis(
    job: Job, detector: AnomalyDetector, cache: FeatureCache, samples: Sequence[Sample]
) -> tuple[str, str]:
    """GLASS's hypothesis and why; judged as in its code from whole pictures, even where the model sees a crop."""
    images = cache.images
    if detector.resize != detector.image_size:
        images = load_images(samples, detector.image_size, detector.image_size)
    pictures = images.permute(0, 2, 3, 1).numpy()
    return decide_hypothesis(job.config.hypothesis, job.category.dataset, job.category.name, pictures)


def default_noise_std(backbone: str, cache: FeatureCache) -> float:
    """The papers' value on the papers' backbone; elsewhere in proportion to the features, which differ in scale."""
    return REFERENCE_NOISE_STD if backbone == PAPER_BACKBONE else NOISE_TO_RMS * cache.rms()


def finish(job: Job, detector: AnomalyDetector, decisions: dict) -> None:
    """Saves the model, evaluates what was saved, describes it, and moves the whole folder into place."""
    category, folder = job.category, job.workplace / "model"
    shutil.rmtree(folder, ignore_errors=True)
    detector.save_pretrained(folder)
    shipped = METHODS[job.method].from_pretrained(folder, map_location=detector.device)
    metrics = evaluate(shipped, category, folder, job.config.skip_bad)
    calibration = {
        "false_alarm_rate": job.config.false_alarm_rate,
        "guaranteed_rate": shipped.calibration.guaranteed_rate(),
        "held_out": shipped.calibration.size,
        "in_words": shipped.calibration.describe(),
    }
    content = {"method": job.method, "dataset": category.dataset, "category": category.name}
    content |= {"protocol": PROTOCOL, "seed": job.config.seed, "epochs": job.config.epochs_of(job.method)}
    content |= {"metrics": metrics, "calibration": calibration, "training": decisions, "settings": job.settings}
    content |= {"latency": measure_on_devices(shipped, category.train[0].read())}  # readable, as the test need not be
    content |= {"backbone": {"name": shipped.backbone_name, "sha256": shipped.backbone_sha256}}
    content |= {"data": job.sanity.as_dict() | {"revision": category.revision}}
    content |= {"command": command(), "commit": commit(), "machine": machine(), "versions": versions()}
    write_json(folder / REPORT_FILE, content)
    write_card(folder)
    shutil.copy(job.workplace / LOG_FILE, folder / LOG_FILE)
    os.replace(folder, job.folder)
    shutil.rmtree(job.workplace)


def push(jobs: list[Job], config: TrainConfig) -> dict[str, str]:
    """Publishes the finished models where that was asked for; what failed is told, and pushed by the same command."""
    if not config.push_to_hub:
        return {}
    return publish([job.folder for job in jobs], Publication(config.push_to_hub, private=config.private))


def report(jobs: list[Job], failures: dict[str, str], config: TrainConfig) -> None:
    """The table of this run's models, and what failed."""
    folders = [job.folder for job in jobs if (job.folder / REPORT_FILE).is_file()]
    if folders:
        rows = summarise(folders)
        output = Path(config.output)
        write_json(output / "summary.json", rows)
        (output / "summary.md").write_text(summary_table(rows) + "\n")
        logger.info("\n%s\n\nmodels in %s", summary_table(rows), output)
    for name, reason in failures.items():
        logger.error("FAILED %s: %s", name, reason)


def command() -> str:
    """The command line of this run, as it can be typed again."""
    return shlex.join(["python", "training/train.py", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
