"""Results -> model card; trained models -> the bundle of this package. (Publishing on the Hub builds on this.)

python training/publish.py bundle runs/bundle
"""

import argparse
import json
import shlex
import shutil
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from hubmodels.catalog import BUNDLED_MODELS
from hubmodels.compactnet import COMPACT_BACKBONE
from hubmodels.detector import CONFIG_FILE, WEIGHTS_FILE

TEMPLATES = Path(__file__).parent.parent / "model_cards"


def write_card(folder: Path, name: str) -> None:
    """Renders `README.md` of a model folder from its `metrics.json`; what was not measured says so.

    Args:
        name: of the model's folder and, behind a namespace, of its Hub repository.
    """
    environment = Environment(loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, trim_blocks=True)
    report = json.loads((folder / "metrics.json").read_text())
    panels = sorted(path.name for path in (folder / "panels").glob("*.png"))
    command = shlex.join(map(_without_folders, shlex.split(report["command"])))
    card = environment.get_template("card.md").render(
        report=report,
        name=name,
        panels=panels,
        command=command,
        bundled_backbone=report["backbone"]["name"] == COMPACT_BACKBONE,
    )
    (folder / "README.md").write_text(card)


def bundle(run: Path, target: Path = BUNDLED_MODELS) -> list[Path]:
    """Copies the models of a finished run to where the package carries them: what loading needs, numbers and card.

    Raises:
        ValueError: the run holds no finished model.
    """
    folders = sorted(path.parent for path in run.glob("*/metrics.json"))
    if not folders:
        raise ValueError(f"{run} holds no finished model: train one with --output {run}")
    for folder in folders:
        place = target / folder.name
        place.mkdir(parents=True, exist_ok=True)
        for name in (CONFIG_FILE, WEIGHTS_FILE, "metrics.json"):
            shutil.copy(folder / name, place / name)
        write_card(place, folder.name)
    return [target / folder.name for folder in folders]


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Prepare trained models for others.")
    parser.add_argument("action", choices=["bundle"], help="bundle: copy them into hubmodels/weights/models")
    parser.add_argument("run", type=Path, metavar="DIR", help="folder that training wrote to")
    args = parser.parse_args(arguments)
    print(*bundle(args.run), sep="\n")


def _without_folders(argument: str) -> str:
    """A local path's last component, since the folders are private; a Hub id or any other argument as it is."""
    option, equals, value = argument.partition("=") if argument.startswith("-") else ("", "", argument)
    is_local = Path(value).is_absolute() or value.startswith((".", "~"))
    return option + equals + (Path(value).name if is_local else value)


if __name__ == "__main__":
    main()
