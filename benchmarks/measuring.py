"""What the speed benchmarks share: cases timed in turns, peak memory in a process of its own, one kind of table.

Cases take turns within one run, so that a busy machine slows all of them alike and their ratios stay meaningful.
"""

import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from training.evaluation import write_json
from training.provenance import machine, versions

RESULTS = Path(__file__).parent / "results"
WARM_UP = 2  # calls: the first ones choose algorithms, fold weights and fill caches


def time_in_turns(
    cases: Mapping[str, Callable[[], Any]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Milliseconds of each round for each case, by `clock`: wall time, or `time.process_time` for CPU time."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(WARM_UP + rounds):
        for name, call in cases.items():
            start = clock()
            call()
            times[name].append(1000 * (clock() - start))
    return {name: measured[WARM_UP:] for name, measured in times.items()}


def spread(times: Sequence[float]) -> dict[str, float]:
    """Median and 95th percentile of milliseconds."""
    return {
        "median_ms": round(statistics.median(times), 2),
        "p95_ms": round(statistics.quantiles(times, n=20, method="inclusive")[-1], 2),
    }


def memory_mb(work: Callable[..., None], *arguments: Any) -> dict[str, int]:
    """What a fresh process that does the work needs.

    Work that counts from a later moment resets the peak: `Path("/proc/self/clear_refs").write_text("5")`.

    Returns:
        `libraries_mb`, resident before it begins, and `peak_mb`, the highest resident memory above that: weights,
        pictures, and all that lies between.
    """
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_memory_of, (work, arguments))


def provenance(command: str) -> dict[str, Any]:
    """What every row records: machine, package versions, and the command that measured it."""
    return {"machine": machine(), "versions": versions(), "command": command}


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Rows as a markdown table; a dash where a row has no such value."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(_cell(row.get(column)) for column in columns) + " |" for row in rows]
    return "\n".join(lines)


def report(name: str, rows: list[dict], columns: Sequence[str]) -> None:
    """Prints the table, with machine and versions, and writes `results/NAME.json`."""
    print(table(rows, columns))
    print(f"\n{rows[0]['machine']}; {rows[0]['versions']}\n{rows[0]['command']}")
    write_json(RESULTS / f"{name}.json", rows)


def _memory_of(work: Callable[..., None], arguments: tuple) -> dict[str, int]:
    libraries = _status_mb("VmRSS")
    work(*arguments)
    # not getrusage's maximum, which a child takes over from its parent
    return {"libraries_mb": libraries, "peak_mb": _status_mb("VmHWM") - libraries}


def _status_mb(name: str) -> int:
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return round(int(status[name].split()[0]) / 1024)


def _cell(value: Any) -> str:
    return "-" if value is None else str(value)
