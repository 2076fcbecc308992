"""What a visitor need not know: where things lie on this machine. A Space is public."""

import re
from pathlib import Path

from huggingface_hub import constants

from hubmodels.hub.catalog import Catalog
from hubmodels.hub.listing import BUNDLE, FOLDER

PATH = re.compile(r"(?<![\w/:.~<-])(?:~|\.{1,2})?(?:/[^\s/'\":;,()<>]+)+/?")  # and not the path of a web address


def without_folders(text: str, catalog: Catalog) -> str:
    """A text without the folders of this machine: of a path only its last component is left."""
    weights = [str(e.backbone_weights) for e in catalog.entries if e.backbone_weights]
    paths = map(Path, [*_folders(catalog), *weights, constants.HF_HUB_CACHE])
    parents = {str(parent) for path in paths for parent in path.parents[:2] if len(parent.parts) > 1}
    for parent in sorted(parents, key=len, reverse=True):  # known ones first: a name may hold spaces
        text = text.replace(f"{parent}/", "")
    return PATH.sub(lambda match: Path(match[0]).name, text)


def _folders(catalog: Catalog) -> list[str]:
    sources = [*catalog.problems, *(e.source for e in catalog.entries if e.origin in (FOLDER, BUNDLE))]
    return [source for source in sources if Path(source).is_absolute()]
