"""The smallest defect of a part that counts, as a visitor gave it: kept next to the part's pictures."""

import json
import math
from pathlib import Path

FILE = "least_size.json"  # in the folder of a part's pictures
MOST = 10**9  # pixels


def checked_least_size(value: object) -> int | None:
    """What a browser sent, as whole pixels; None = every size counts."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return max(1, round(min(value, MOST))) if is_number and value > 0 else None


def save_least_size(folder: Path, pixels: int | None) -> None:
    """Keeps it for a part."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE).write_text(json.dumps(pixels), encoding="utf-8")


def saved_least_size(folder: Path) -> int | None:
    """What was kept for a part."""
    try:
        return checked_least_size(json.loads((folder / FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None
