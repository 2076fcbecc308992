"""`metrics.json` and `config.json` of a trained model -> its card: metadata for the Hub, then text for people.

Nothing on a card is typed by hand, and nothing is measured here: what was not measured says so.
"""

import hashlib
import json
import shlex
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from PIL import Image

from hubmodels.backbone import WEIGHTS_FILE
from hubmodels.compactnet import COMPACT_BACKBONE
from hubmodels.detector import CARD_FILE, PIPELINE_TAG
from hubmodels.hub.files import CONFIG_FILE, LIBRARY, REPORT_FILE
from hubmodels.hub.listing import METHODS, model_name
from hubmodels.hub.model_info import METRICS
from training.evaluation import PANELS, read_report
from training.parts.dataset import DATASET as SAMPLE_PARTS
from training.parts.dataset import DEFECTS
from training.publishing.licences import DatasetTerms, WeightsLicence, terms_of, weights_licence
from training.samples import is_normal

TEMPLATES = Path(__file__).parents[2] / "model_cards"
LICENCE_FILE = "LICENSE.md"  # what the Hub links to where it has no word for a licence
NOTICE = "../../NOTICE.md"  # the same, seen from a card in this repository
SHOWN_PANELS = ("defective_median", "good_highest", "defective_lowest")  # of those that evaluation draws
JPEG_QUALITY = 85

PRIVATE_FINDINGS = ("unreadable", "duplicates", "leaks", "missing_masks", "bad_masks")  # they name files


@dataclass(frozen=True)
class Paper:
    """A method's paper, and its own means over the 15 categories of MVTec AD: the best epoch on the test pictures."""

    arxiv: str
    citation: str
    image_auroc: float
    pixel_auroc: float


PAPERS = {
    "simplenet": Paper("2303.15140", "liu2023simplenet", 0.996, 0.981),
    "glass": Paper("2407.09359", "chen2024glass", 0.999, 0.993),
}


def write_card(folder: Path, repo_id: str | None = None) -> None:
    """Writes the card of a model folder, and where the Hub has no word for the licence, the file it links to.

    Args:
        repo_id: where the model is to be published; without it the card tells how to load the folder.
    """
    card = card_of(folder, repo_id=repo_id, panels=find_panels(folder))
    (folder / CARD_FILE).write_text(card, encoding="utf-8")
    licence = _licence_of(read_report(folder))
    if licence.name:
        (folder / LICENCE_FILE).write_text(f"# {licence.name}\n\nThe weights: {licence.words}.\n")


def ship_cards(run: Path, target: Path = TEMPLATES) -> list[Path]:
    """Writes the cards of a run's models as this repository shows them: `target/NAME/README.md` and small panels.

    Raises:
        ValueError: the run holds no finished model.
    """
    places = []
    for folder in finished_models(run):
        place = target / folder.name
        shutil.rmtree(place, ignore_errors=True)
        (place / PANELS).mkdir(parents=True)
        for panel in find_panels(folder):
            Image.open(folder / panel).save(place / Path(panel).with_suffix(".jpg"), quality=JPEG_QUALITY)
        (place / CARD_FILE).write_text(card_of(folder, panels=find_panels(place), bundled=True), encoding="utf-8")
        places.append(place)
    return places


def finished_models(run: Path) -> list[Path]:
    """The model folders of a run, by name; raises ValueError where there is none."""
    folders = sorted(path.parent for path in run.glob(f"*/{REPORT_FILE}"))
    if not folders:
        raise ValueError(f"{run} holds no finished model: train one with --output {run}")
    return folders


def find_panels(folder: Path) -> list[str]:
    """Paths, relative to the folder, of the panels that a card shows, as far as they were drawn."""
    drawn = [path for stem in SHOWN_PANELS for path in folder.glob(f"{PANELS}/{stem}.*")]
    return [path.relative_to(folder).as_posix() for path in drawn]


def card_of(folder: Path, **options) -> str:
    """The card of a model folder; options as in `render_card`."""
    config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    if "weights_sha256" not in config:  # of models saved before the config told it
        config["weights_sha256"] = hashlib.sha256((folder / WEIGHTS_FILE).read_bytes()).hexdigest()
    return render_card(read_report(folder), config, **options)


def render_card(
    report: dict, config: dict, *, repo_id: str | None = None, panels: Sequence[str] = (), bundled: bool = False
) -> str:
    """The card as markdown under its YAML metadata; two equal reports give equal cards.

    Args:
        report: content of `metrics.json`; what is private in it does not show.
        config: content of `config.json`, with `weights_sha256`.
        repo_id: where the model is to be published.
        panels: paths relative to the card, named as `SHOWN_PANELS`.
        bundled: the card lies in this repository and describes a model that comes with the package.
    """
    report = public_report(report)
    return _template().render(
        metadata=_metadata(report, NOTICE if bundled else LICENCE_FILE).to_yaml(),
        report=report,
        config=config,
        repo_id=repo_id,
        panels={Path(panel).stem: panel for panel in panels},
        bundled=bundled,
        picture=(bundled and example_picture(report)) or "photo.png",
        **_names(report, repo_id),
        **_facts(report),
    )


def public_report(report: dict) -> dict:
    """The report without what is private: folders of the machine, and names of the files that have a fault."""
    data = report["data"] | {key: _count(report["data"][key]) for key in PRIVATE_FINDINGS}
    settings = {k: without_folders(v) if isinstance(v, str) else v for k, v in report["settings"].items()}
    return report | {"data": data, "settings": settings, "command": _public_command(report)}


def _public_command(report: dict) -> str:
    """The command without folders; but a data set's id on the Hub, which looks like one, stays."""
    python, script, *words = shlex.split(report["command"])
    on_hub = report["data"]["revision"] is not None
    data = {i for i, word in enumerate(words) if (["", *words][i] == "--data-root" or word.startswith("--data-root="))}
    shown = [word if on_hub and i in data else without_folders(word) for i, word in enumerate(words)]
    return shlex.join([python, script, *shown])


def without_folders(argument: str) -> str:
    """A path's last component, since the folders are private; any other argument as it is."""
    option, equals, value = argument.partition("=") if argument.startswith("-") else ("", "", argument)
    return option + equals + (PureWindowsPath(value).name or value)  # which knows both kinds of slashes


def example_picture(report: dict) -> str | None:
    """A picture in this repository to try the model on, where it learned the sample parts."""
    category = report["category"]
    if report["dataset"] != SAMPLE_PARTS or category not in DEFECTS:
        return None
    return f"examples/{SAMPLE_PARTS}/{category}/{DEFECTS[category][0]}.png"


def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["percent"] = lambda value: "not measured" if value is None else f"{100 * value:.1f} %"
    return environment.get_template("card.md")


def _names(report: dict, repo_id: str | None) -> dict[str, str]:
    """Classes of this model and of its twin, the other method's, and what `from_pretrained` takes for each."""
    twin = next(method for method in METHODS if method != report["method"])
    place = repo_id.split("/")[0] if repo_id else "."
    names = {"source": repo_id or f"./{name_of(report)}", "class_name": METHODS[report["method"]].__name__}
    names |= {"twin": twin, "twin_class": METHODS[twin].__name__}
    return names | {"place": place, "twin_source": f"{place}/{name_of(report | {'method': twin})}"}


def _facts(report: dict) -> dict:
    """What the template says of the method, the data and the licence."""
    terms, paper = terms_of(report["dataset"]), PAPERS[report["method"]]
    return {
        "terms": terms,
        "paper": paper,
        "licence": _licence_of(report),
        "compact_backbone": report["backbone"]["name"] == COMPACT_BACKBONE,
        "metric_names": {key: name for key, (name, _) in METRICS.items()},
        "counts": _counts(report["data"]["counts"]),
        "citations": _citations((paper.citation, *terms.citations)),
    }


def name_of(identity: dict) -> str:
    """What a model's folder and repository are called, by its report or config."""
    return model_name(*(identity[key] for key in ("method", "dataset", "category")))


def _licence_of(report: dict) -> WeightsLicence:
    return weights_licence(report["dataset"], report["backbone"]["name"] == COMPACT_BACKBONE)


def _metadata(report: dict, licence_link: str) -> ModelCardData:
    """What the Hub reads; `model-index` holds every measured metric as a fraction."""
    licence, terms, backbone = _licence_of(report), terms_of(report["dataset"]), report["backbone"]["name"]
    measured = [key for key in METRICS if key in report["metrics"]]
    on_hub = {"base_model": f"timm/{backbone}", "base_model_relation": "adapter"}
    tags = ["anomaly-detection", "industrial-inspection", report["method"], terms.tag]
    return ModelCardData(
        license=licence.id,
        license_name=licence.name,
        license_link=licence_link if licence.name else None,
        library_name=LIBRARY,
        pipeline_tag=PIPELINE_TAG,
        tags=[*filter(None, tags), f"arxiv:{PAPERS[report['method']].arxiv}"],
        datasets=[terms.tag] if terms.link else None,
        metrics=list(dict.fromkeys(METRICS[key][1] for key in measured)) or None,
        model_name=name_of(report),
        eval_results=[_result(report, terms, key) for key in measured] or None,
        **({} if backbone == COMPACT_BACKBONE else on_hub),
    )


def _result(report: dict, terms: DatasetTerms, key: str) -> EvalResult:
    name, kind = METRICS[key]
    return EvalResult(
        task_type=PIPELINE_TAG,
        task_name="anomaly detection",
        dataset_type=(terms.link and terms.tag) or report["dataset"],
        dataset_name=f"{terms.title}, {report['category']}",
        dataset_config=report["category"],
        dataset_split="test",
        dataset_revision=report["data"]["revision"],
        metric_type=kind,
        metric_name=name,
        metric_value=report["metrics"][key],
        metric_args={"protocol": report["protocol"], "seed": report["seed"]},
    )


def _count(finding) -> int:
    return finding if isinstance(finding, int) else len(finding)  # a public report is public already


def _counts(splits: dict[str, dict[str, int]]) -> dict[str, int]:
    """How many training, good test and defective test pictures there are."""
    test = splits["test"]
    good = sum(count for defect_type, count in test.items() if is_normal(defect_type))
    return {"train": sum(splits["train"].values()), "good": good, "defective": sum(test.values()) - good}


def _citations(keys: Iterable[str]) -> str:
    entries = (TEMPLATES / "citations.bib").read_text().strip().split("\n\n")
    by_key = {entry.partition("{")[2].partition(",")[0]: entry for entry in entries}
    return "\n\n".join(by_key[key] for key in keys)
