"""Trains one small model per (category, method) from pictures of good parts; reads as the story of a run.

    python training/train.py --help
    accelerate launch --multi_gpu --num_processes 2 training/train.py --data-root mvtec_ad

A job is one (category, method). With enough jobs every process takes its own and they never talk; with fewer, all
processes share each job's batches. The last checkpoint is what is saved and reported, and no test picture is decoded
before training has ended. Run it again and it continues: finished jobs are kept, an unfinished one goes on.
"""

import logging
import os
import platform
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import fields
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.utils import gather_object

from hubmodels import AnomalyDetector, BackboneError, SimpleNet
from hubmodels.backbone import load_backbone, normalisation
from hubmodels.catalog import METHODS
from training.batches import LocalSynthesis, seed_of
from training.cache import FeatureCache, build_cache, load_images
from training.config import PAPER_NOISE_BACKBONE, TrainConfig
from training.data import hold_out, open_categories
from training.evaluation import PROTOCOL, evaluate, summarise, summary_table, write_json
from training.fitting import Fitting, recompute_statistics
from training.foreground import foreground_masks
from training.hub_data import HubColumns
from training.hypothesis import decide_hypothesis
from training.jobs import Job, TrainingError, is_finished
from training.objectives import OBJECTIVES, REFERENCE_NOISE_STD
from training.publish import write_card
from training.sanity import inspect_category
from training.synthesis import TextureSource
from training.tracking import LOG_FILE

logger = logging.getLogger("training")

NOISE_TO_RMS = 0.35  # noise relative to the features' RMS on other backbones; measured in benchmarks/README.md


def main(arguments: list[str] | None = None) -> int:
    """The whole run; returns the exit status (1 where a job failed)."""
    config = TrainConfig.from_command_line(arguments)
    accelerator = start(config)
    jobs, failures = plan_jobs(config)
    world = accelerator.num_processes
    sharing = world > 1 and (config.parallel == "data" or (config.parallel == "auto" and len(jobs) < world))
    for job in jobs if sharing else jobs[accelerator.process_index :: world]:
        try:
            run_job(job, accelerator, sharing)
        except Exception as error:  # whatever befell this job, the others are worth their hours
            if sharing:
                raise  # the other processes wait inside this job: end the run, a rerun continues
            expected = isinstance(error, (TrainingError, BackboneError, ValueError, OSError))
            logger.error("%s failed: %s", job.name, error, exc_info=not expected)
            failures[job.name] = str(error)
    accelerator.wait_for_everyone()
    failures = dict(pair for pair in gather_object(list(failures.items())))
    if accelerator.is_main_process:
        report([job for job in jobs if job.name not in failures], failures, config)
    accelerator.end_training()
    return 1 if failures else 0


def start(config: TrainConfig) -> Accelerator:
    """Joins the other processes, and refuses to run beside them unnoticed."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
    for chatty in ("httpx2", "timm"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    patience = InitProcessGroupKwargs(timeout=timedelta(hours=24))  # jobs end at very different times
    accelerator = Accelerator(mixed_precision=config.mixed_precision, kwargs_handlers=[patience])
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched != accelerator.num_processes:
        raise SystemExit(
            f"{launched} processes were started but do not see each other (no GPU?). On CPU start them by: "
            "ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes N training/train.py ..."
        )
    logger.setLevel(logging.INFO if accelerator.is_main_process else logging.WARNING)
    return accelerator


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
    """Trains, calibrates, saves, and only then evaluates one model."""
    if is_finished(job):
        logger.info("%s is finished: kept", job.name)
        return
    config, started = job.config, time.perf_counter()
    torch.manual_seed(config.seed)
    job.workplace.mkdir(parents=True, exist_ok=True)

    # data: what is trained on, what calibrates
    fit_samples, held_out = hold_out(job.category.train, config.holdout, config.seed)
    detector = build_detector(job).to(accelerator.device)
    images = load_images(fit_samples, detector.image_size, detector.resize)
    cache = build_cache(detector, images, accelerator, job.workplace)
    cache_seconds = time.perf_counter() - started

    # objective: what each step minimises, decided here and recorded
    objective, synthesis, decisions = build_objective(job, detector, cache)
    objective.to(accelerator.device)

    # training: the last checkpoint is what counts
    names = [sample.name for sample in fit_samples]
    train_seconds = Fitting(job, objective, cache, synthesis, names, accelerator, sharing).run()
    if sharing and not accelerator.is_main_process:
        return
    if "statistics" in config.stabilise:
        torch.manual_seed(seed_of(config.seed, config.epochs_of(job.method)))
        recompute_statistics(objective, cache, config.batch_size, accelerator.device)
    detector.eval()
    detector.calibrate([sample.read() for sample in held_out], config.false_alarm_rate)
    logger.info("%s %s", job.name, detector.calibration.describe())

    # the model, then its evaluation, then into place in one move
    seconds = {"cache_seconds": cache_seconds, "train_seconds": train_seconds}
    decisions |= {"fit": len(fit_samples), "held_out": len(held_out), "features_in_memory": cache.in_memory, **seconds}
    finish(job, detector, decisions)


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


def build_objective(job: Job, detector: AnomalyDetector, cache: FeatureCache):
    """The training objective, GLASS's local synthesis, and the record of what was decided."""
    config = job.config
    noise_std = config.noise_std or default_noise_std(config.backbone, cache)
    decisions = {"noise_std": noise_std, "feature_rms": cache.rms()}
    if job.method == SimpleNet.method:
        return OBJECTIVES[job.method](detector, noise_std), None, decisions
    pictures = cache.images.permute(0, 2, 3, 1).numpy()
    category = job.category
    hypothesis, reason = decide_hypothesis(config.hypothesis, category.dataset, category.name, pictures)
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


def default_noise_std(backbone: str, cache: FeatureCache) -> float:
    """The papers' value on the papers' backbone; elsewhere in proportion to the features, which differ in scale."""
    return REFERENCE_NOISE_STD if backbone == PAPER_NOISE_BACKBONE else NOISE_TO_RMS * cache.rms()


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
    content |= {"backbone": {"name": shipped.backbone_name, "sha256": shipped.backbone_sha256}}
    content |= {"data": job.sanity.as_dict(), "command": command(), "machine": machine(), "versions": versions()}
    write_json(folder / "metrics.json", content)
    write_card(folder, job.name)
    shutil.copy(job.workplace / LOG_FILE, folder / LOG_FILE)
    os.replace(folder, job.folder)
    shutil.rmtree(job.workplace)


def report(jobs: list[Job], failures: dict[str, str], config: TrainConfig) -> None:
    """The table of this run's models, and what failed."""
    folders = [job.folder for job in jobs if (job.folder / "metrics.json").is_file()]
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


def machine() -> str:
    """Processor or GPU, in words."""
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    return f"CPU {platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"


def versions() -> dict[str, str]:
    """Versions of the packages that can change a result."""
    return {name: version(name) for name in ("torch", "torchvision", "timm", "accelerate", "numpy", "pillow")}


if __name__ == "__main__":
    sys.exit(main())
