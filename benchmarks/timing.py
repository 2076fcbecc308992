"""Time and memory for all benchmarks; standard library only, so that anomalib's environment can use it.

Cases take turns in one run, so that a busy machine slows all of them alike and their ratios stay meaningful.
"""

import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

THREADS = 2
WARM_UP = 2  # calls that are not timed: they choose algorithms, fold weights and fill caches


def time_in_turns(
    cases: Mapping[str, Callable[[], Any]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Milliseconds of each round for each case; `time.process_time` as clock gives CPU time."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(WARM_UP + rounds):
        for name, call in cases.items():
            times[name].append(milliseconds(call, clock))
    return {name: measured[WARM_UP:] for name, measured in times.items()}


def milliseconds(call: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> float:
    """Time of one call."""
    start = clock()
    call()
    return 1000 * (clock() - start)


def spread(times: Sequence[float]) -> dict[str, float]:
    """Median and 95th percentile of milliseconds."""
    return {
        "median_ms": round(statistics.median(times), 2),
        "p95_ms": round(statistics.quantiles(times, n=20, method="inclusive")[-1], 2),
    }


def resident_mb(name: str = "VmHWM") -> int:
    """Resident memory of this process, MB of 2**20 bytes: the highest until now, or with "VmRSS" the present one.

    The maximum of getrusage is not used, because a child inherits it from its parent.
    """
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return round(int(status[name].split()[0]) / 1024)


def memory_mb(work: Callable[..., None], *arguments: Any) -> dict[str, int]:
    """Memory that a fresh process needs for the work.

    To measure from a later moment, the work resets the peak: `Path("/proc/self/clear_refs").write_text("5")`.

    Returns:
        `libraries_mb`: resident memory before the work starts. `peak_mb`: the highest resident memory above that, for
        weights, pictures and everything in between.
    """
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_memory_of, (work, arguments))


def _memory_of(work: Callable[..., None], arguments: tuple) -> dict[str, int]:
    libraries = resident_mb("VmRSS")
    work(*arguments)
    return {"libraries_mb": libraries, "peak_mb": resident_mb() - libraries}
