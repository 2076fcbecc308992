"""Results -> model card. (Publishing on the Hub builds on this.)"""

import json
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

TEMPLATES = Path(__file__).parent.parent / "model_cards"


def write_card(folder: Path, name: str) -> None:
    """Renders `README.md` of a model folder from its `metrics.json`; what was not measured says so.

    Args:
        name: of the repository to load it from in the card's snippet.
    """
    environment = Environment(loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, trim_blocks=True)
    report = json.loads((folder / "metrics.json").read_text())
    panels = sorted(path.name for path in (folder / "panels").glob("*.png"))
    card = environment.get_template("card.md").render(report=report, name=name, panels=panels)
    (folder / "README.md").write_text(card)
