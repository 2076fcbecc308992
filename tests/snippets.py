"""Runs the Python of a Markdown page as a reader would, in a folder that looks like a clone."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
NOT_RUN = (r"<!-- api examples -->.*?<!-- end of api examples -->", r"<!-- not run: [^>]*-->\n```python.*?```")


def snippets(page: Path) -> list[str]:
    """The Python blocks of a page, without those that need a server or a file of the reader."""
    text = page.read_text()
    for pattern in NOT_RUN:
        text = re.sub(pattern, "", text, flags=re.DOTALL)
    return re.findall(r"(?ms)^```python\n(.*?)^```", text)


def run_snippets(page: Path, folder: Path, monkeypatch) -> None:
    """Runs one block after the other, with the same names; what they write goes into the folder."""
    for name in ("examples", "hubmodels"):
        (folder / name).symlink_to(ROOT / name)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    names = {}
    for snippet in snippets(page):
        exec(snippet, names)
