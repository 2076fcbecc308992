"""`metrics.json` and `config.json` of a trained model -> its card: metadata for the Hub, then text for people.

Every value on a card comes from these two files. Nothing is measured here; missing values are shown as not measured.
"""

import json
import logging
import shlex
import shutil
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path, PureWindowsPath

from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from PIL import Image

from hubmodels import LIBRARY, REPOSITORY, install_command
from hubmodels.compactnet import COMPACT_BACKBONE
from hubmodels.detector import PIPELINE_TAG
from hubmodels.hub.catalog import model_name
from hubmodels.hub.files import CARD_FILE, CONFIG_FILE, FINISHED_FILES, missing_files
from hubmodels.methods import METHODS
from hubmodels.metric_names import METRICS, PROTOCOLS
from hubmodels.prediction import threshold_in_words
from hubmodels.samples import GOOD, size_text
from hubmodels.sizes import as_pair
from training.evaluation import PANELS, read_report
from training.parts.dataset import DATASET as SAMPLE_PARTS
from training.parts.dataset import DEFECTS
from training.publishing.licences import DatasetLicence, WeightsLicence, dataset_licence, weights_licence

logger = logging.getLogger("training")

TEMPLATES = Path(__file__).parents[2] / "model_cards"
LICENCE_FILE = "LICENSE.md"  # the Hub links to it if it has no id for the licence
SHOWN_PANELS = ("defective_median", "good_highest", "defective_lowest")  # of those that evaluation draws
JPEG_QUALITY = 85

PRIVATE_FINDINGS = ("unreadable", "copies", "leaks", "missing_masks", "bad_masks", "unused")  # they name files
NOT_DECISIONS = (  # of every training
    *("fit", "held_out", "folds", "features_in_memory", "region"),
    *("cache_seconds", "train_seconds", "fold_seconds", "evaluation_seconds"),
)


def write_card(folder: Path, repo_id: str | None = None) -> None:
    """Writes the card of a model folder, and the licence file that it links to if the Hub has no id for the licence.

    Args:
        repo_id: where the model will be published; without it the card shows how to load the folder.
    """
    card = card_of(folder, repo_id=repo_id, panels=find_panels(folder))
    (folder / CARD_FILE).write_text(card, encoding="utf-8")
    licence = _licence_of(read_report(folder))
    if licence.name:
        (folder / LICENCE_FILE).write_text(f"# {licence.name}\n\nThe weights: {licence.words}.\n", encoding="utf-8")


def write_bundled_cards(run: Path, target: Path = TEMPLATES) -> list[Path]:
    """Writes the cards of a run's models as this repository shows them: `target/NAME/README.md` and small panels.

    Raises:
        ValueError: the run contains no finished model.
    """
    places = []
    for folder in finished_models(run):
        place = target / folder.name
        shutil.rmtree(place, ignore_errors=True)
        (place / PANELS).mkdir(parents=True)
        for panel in find_panels(folder):
            Image.open(folder / panel).save(place / Path(panel).with_suffix(".jpg"), quality=JPEG_QUALITY)
        write_bundled_card(folder, place)
        places.append(place)
    return places


def write_bundled_card(folder: Path, place: Path) -> None:
    """Writes the card of a bundled model to `place`, where its panels are."""
    (place / CARD_FILE).write_text(card_of(folder, panels=find_panels(place), bundled=True), encoding="utf-8")


def finished_models(run: Path) -> list[Path]:
    """The finished model folders of a run, by name; the others are named. Raises ValueError if there is none."""
    started = sorted({path.parent for name in FINISHED_FILES for path in run.glob(f"*/{name}")})
    lacking = {folder: missing_files(folder) for folder in started}
    for folder, missing in lacking.items():
        if missing:
            logger.warning("%s is left out, it is no finished model: %s missing", folder, ", ".join(missing))
    folders = [folder for folder, missing in lacking.items() if not missing]
    if not folders:
        raise ValueError(f"{run} contains no finished model: train one with --output {run}")
    return folders


def find_panels(folder: Path) -> list[str]:
    """Paths, relative to the folder, of those panels for a card that exist."""
    drawn = [path for stem in SHOWN_PANELS for path in folder.glob(f"{PANELS}/{stem}.*")]
    return [path.relative_to(folder).as_posix() for path in drawn]


def card_of(folder: Path, **options) -> str:
    """The card of a model folder; options as in `render_card`."""
    config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    return render_card(read_report(folder), config, **options)


def render_card(
    report: dict, config: dict, *, repo_id: str | None = None, panels: Sequence[str] = (), bundled: bool = False
) -> str:
    """The card as markdown below its YAML metadata; two equal reports give equal cards.

    Args:
        report: content of `metrics.json`; private parts are left out.
        config: content of `config.json`, with `weights_sha256`.
        repo_id: where the model will be published.
        panels: paths relative to the card, named as `SHOWN_PANELS`.
        bundled: the card is in this repository and describes a model that comes with the library.
    """
    report = public_report(report)
    licence, compact = dataset_licence(report["dataset"]), report["backbone"]["name"] == COMPACT_BACKBONE
    paper = METHODS[report["method"]].paper
    return _template(require_templates()).render(
        metadata=_metadata(report).to_yaml(),
        threshold=threshold_in_words(report["calibration"]),
        report=report,
        config=config,
        repo_id=repo_id,
        panels={Path(panel).stem: panel for panel in panels},
        bundled=bundled,
        install=install_command(),
        title=METHODS[report["method"]].title,
        paper=paper,
        about=METHODS[report["method"]].about,
        repository=REPOSITORY,
        pictures=licence,
        licence=_licence_of(report),
        textures=_foreign_textures(report),
        compact_backbone=compact,
        metrics={key: metric.name for key, metric in METRICS.items()},
        checkpoint=PROTOCOLS[report["protocol"]],
        counts=_counts(report["data"]["counts"]),
        decisions=_decisions(report),
        citations=_citations(filter(None, (paper and paper.citation, *licence.citations))),
        **_sources(report, repo_id),
        picture=(bundled and example_picture(report)) or "photo.png",
    )


def public_report(report: dict) -> dict:
    """The report without its private parts: folders of the computer, and names of files that have a fault."""
    data = report["data"] | {key: _count(report["data"][key]) for key in PRIVATE_FINDINGS}
    settings = {k: last_part(v) if isinstance(v, str) else v for k, v in report["settings"].items()}
    known = report.get("known_defects")
    named = {"known_defects": known | {"missed": _count(known["missed"])}} if known else {}
    return report | named | {"data": data, "settings": settings, "command": _public_command(report)}


def _public_command(report: dict) -> str:
    """The command without folders; the id of a data set on the Hub is kept, although it has a slash, too."""
    python, script, *words = shlex.split(report["command"])
    on_hub = report["data"]["revision"] is not None
    data = {i for i, word in enumerate(words) if (["", *words][i] == "--data-root" or word.startswith("--data-root="))}
    shown = [word if on_hub and i in data else last_part(word) for i, word in enumerate(words)]
    return shlex.join([python, script, *shown])


def last_part(argument: str) -> str:
    """The last component of a path, because folders are private; any other argument unchanged."""
    option, equals, value = argument.partition("=") if argument.startswith("-") else ("", "", argument)
    return option + equals + (PureWindowsPath(value).name or value)  # which supports both kinds of slashes


def example_picture(report: dict) -> str | None:
    """A picture in this repository to try the model on, if it was trained on the sample parts."""
    category = report["category"]
    if report["dataset"] != SAMPLE_PARTS or category not in DEFECTS:
        return None
    return f"examples/{SAMPLE_PARTS}/{category}/{DEFECTS[category][0]}.png"


def require_templates() -> Path:
    """The folder of the templates; raises ValueError, with the remedy, if it is missing."""
    if not TEMPLATES.is_dir():
        raise ValueError(
            f"the templates of the model cards are missing ({TEMPLATES}): training and publishing need a whole clone "
            f"of {REPOSITORY}"
        )
    return TEMPLATES


@cache
def _template(folder: Path) -> Template:
    environment = Environment(
        loader=FileSystemLoader(folder), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["percent"] = lambda value: "not measured" if value is None else f"{100 * value:.1f} %"
    environment.filters["size"] = lambda size: size_text(as_pair(size))
    return environment.get_template("card.md")


def _sources(report: dict, repo_id: str | None) -> dict:
    """What `load` takes for this model, where the other methods' models may be, and their titles."""
    place = repo_id.split("/")[0] if repo_id else "."
    others = [m.title for name, m in METHODS.items() if name != report["method"] and not m.baseline]
    return {"place": place, "source": repo_id or f"./{name_of(report)}", "others": others}


def _decisions(report: dict) -> dict[str, str]:
    """What the method's objective recorded, as rows of a table."""
    return {
        key.replace("_", " "): f"{value:.4g}" if isinstance(value, float) else str(value)
        for key, value in report["training"].items()
        if key not in NOT_DECISIONS
    }


def name_of(identity: dict) -> str:
    """Name of a model's folder and repository, from its report or config."""
    return model_name(*(identity[key] for key in ("method", "dataset", "category")))


def _licence_of(report: dict) -> WeightsLicence:
    compact = report["backbone"]["name"] == COMPACT_BACKBONE
    return weights_licence(report["dataset"], compact, bool(_foreign_textures(report)))


def _foreign_textures(report: dict) -> str | None:
    """What training pasted into the pictures; None if nothing, or only what this project renders."""
    textures = report["training"].get("textures")
    return None if textures == "procedural" else textures


def _metadata(report: dict) -> ModelCardData:
    """What the Hub reads; `model-index` contains every measured metric as a fraction."""
    licence, data, backbone = _licence_of(report), dataset_licence(report["dataset"]), report["backbone"]["name"]
    measured = [key for key in METRICS if key in report["metrics"]]
    paper = METHODS[report["method"]].paper
    on_hub = {"base_model": f"timm/{backbone}", "base_model_relation": "adapter"}
    tags = ["anomaly-detection", "industrial-inspection", report["method"], data.tag]
    return ModelCardData(
        license=licence.id,
        license_name=licence.name,
        license_link=LICENCE_FILE if licence.name else None,
        library_name=LIBRARY,
        pipeline_tag=PIPELINE_TAG,
        tags=[*filter(None, tags), *([f"arxiv:{paper.arxiv}"] if paper else [])],
        datasets=[data.tag] if data.tag and data.link else None,
        metrics=list(dict.fromkeys(METRICS[key].hub_type for key in measured)) or None,
        model_name=name_of(report),
        eval_results=[_result(report, data, key) for key in measured] or None,
        **({} if backbone == COMPACT_BACKBONE else on_hub),
    )


def _result(report: dict, data: DatasetLicence, key: str) -> EvalResult:
    return EvalResult(
        task_type=PIPELINE_TAG,
        task_name="anomaly detection",
        dataset_type=(data.link and data.tag) or report["dataset"],
        dataset_name=f"{data.title}, {report['category']}",
        dataset_config=report["category"],
        dataset_split="test",
        dataset_revision=report["data"]["revision"],
        metric_type=METRICS[key].hub_type,
        metric_name=METRICS[key].name,
        metric_value=report["metrics"][key],
        metric_args={"protocol": report["protocol"], "seed": report["seed"]},
    )


def _count(finding) -> int:
    return finding if isinstance(finding, int) else len(finding)  # a report that is public already has numbers


def _counts(splits: dict[str, dict[str, int]]) -> dict[str, int]:
    """Numbers of training, good test and defective test pictures."""
    test = splits["test"]
    good = sum(count for defect_type, count in test.items() if defect_type == GOOD)
    return {"train": sum(splits["train"].values()), "good": good, "defective": sum(test.values()) - good}


def _citations(keys: Iterable[str]) -> str:
    entries = (require_templates() / "citations.bib").read_text(encoding="utf-8").strip().split("\n\n")
    by_key = {entry.partition("{")[2].partition(",")[0]: entry for entry in entries}
    return "\n\n".join(by_key[key] for key in keys)
