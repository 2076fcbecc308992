"""Connected regions of a mask: how many defects a method outlines."""

import numpy as np
from numpy.typing import NDArray


def count_regions(mask: NDArray[np.bool_]) -> int:
    """Number of 8-connected regions of a mask (H, W), as AUPRO counts them.

    Each row falls into runs of masked pixels; runs of neighbouring rows that touch, corners included, are joined.
    """
    lines = np.flatnonzero(mask.any(1))
    if len(lines) == 0:
        return 0
    found = mask[lines[0] : lines[-1] + 1]  # a defect is small beside a large picture
    columns = np.flatnonzero(found.any(0))
    found = found[:, columns[0] : columns[-1] + 1]
    edges = np.diff(np.pad(found, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, starts = np.nonzero(edges == 1)
    ends = np.nonzero(edges == -1)[1]  # exclusive
    parents = list(range(len(rows)))
    for upper, lower in _touching(rows, starts, ends):
        parents[_root(parents, lower)] = _root(parents, upper)
    return sum(parent == run for run, parent in enumerate(parents))


def _touching(rows: NDArray, starts: NDArray, ends: NDArray):
    """Pairs of runs in neighbouring rows that share a column, or a corner."""
    first = 0  # of the runs above that can still touch
    for run in range(len(rows)):
        while rows[first] < rows[run] - 1 or (rows[first] == rows[run] - 1 and ends[first] < starts[run]):
            first += 1
        above = first
        while rows[above] == rows[run] - 1 and starts[above] <= ends[run]:
            yield above, run
            above += 1


def _root(parents: list[int], run: int) -> int:
    while parents[run] != run:
        parents[run] = run = parents[parents[run]]  # halves the way for the next one
    return run
