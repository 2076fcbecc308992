"""Shared by the benchmarks: the origin of a row, and markdown tables."""

import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from training.evaluation import git_commit, machine, versions, write_json

RESULTS = Path(__file__).parent / "results"
NUMBER = re.compile(r"-|[\d.]+( ± [\d.]+)?( px)?")


def provenance(command: str, *packages: str) -> dict[str, Any]:
    """Recorded in every row: machine, versions (also of the given packages), command and commit."""
    further = {name: version(name) for name in packages}
    return {"machine": machine(), "versions": versions() | further, "command": command, "commit": git_commit()}


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Rows as a markdown table with numbers to the right; a dash where a row has no such value."""
    cells = [[_cell(row.get(column)) for column in columns] for row in rows]
    rules = ["--:" if all(map(NUMBER.fullmatch, values)) else "---" for values in zip(*cells, strict=True)]
    return "\n".join("| " + " | ".join(line) + " |" for line in (columns, rules, *cells))


def origin(row: Mapping[str, Any]) -> str:
    """Machine, versions and command of a row, for the line below a table."""
    versions = ", ".join(f"{name} {number}" for name, number in row["versions"].items())
    return f"{row['machine']}; {versions}; `.venv/bin/{row['command']}`."


def report(name: str, rows: list[dict], columns: Sequence[str]) -> None:
    """Prints the table, with machine and versions, and writes `results/NAME.json`."""
    print(table(rows, columns))
    print(f"\n{rows[0]['machine']}; {rows[0]['versions']}\n{rows[0]['command']}")
    write_json(RESULTS / f"{name}.json", rows)


def _cell(value: Any) -> str:
    return "-" if value is None else str(value)
