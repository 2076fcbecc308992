"""Greedy coreset: a few rows that cover all others (PatchCore, arXiv 2106.08265, section 3.2, algorithm 1)."""

import torch
from torch import Tensor

CANDIDATES = 512  # rows that are compared at a time while they are chosen


def greedy_coreset(rows: Tensor, count: int) -> Tensor:
    """Numbers of at most `count` of the rows (N, R), each the farthest from those before it; the first one is row 0.

    Rare rows are among them, unlike in a random choice. Most rows need not be looked at each time: distances only
    shrink, so a row that was nearer than the candidates were cannot become the farthest while one of them is still
    beyond that distance.
    """
    count = min(count, len(rows))
    chosen, nearest = [0], (rows - rows[0]).square().sum(1)
    nearest[0] = -1
    while len(chosen) < count:
        distances, places = nearest.topk(min(CANDIDATES, len(rows)))
        candidates, bound, new = rows[places], distances[-1], []
        while len(chosen) + len(new) < count:
            best = int(distances.argmax())
            if new and distances[best] < bound:
                break
            new.append(int(places[best]))
            distances = torch.minimum(distances, (candidates - candidates[best]).square().sum(1))
            distances[best] = -1  # equal rows are at distance 0, too
        chosen += new
        parts = [torch.cdist(part, rows[new]).amin(1).square() for part in rows.split(16384)]
        nearest = torch.minimum(nearest, torch.cat(parts))
        nearest[chosen] = -1
    return torch.tensor(chosen, device=rows.device)
