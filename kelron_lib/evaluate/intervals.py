"""How sure a count is: Wilson intervals, a bootstrap over clusters, and the exact test of two paired counts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from kelron_lib.errors import KelronError

Z_95 = 1.959963984540054
"""The normal distribution's 97.5 % point: a two-sided interval at 95 %."""
DRAWS = 1000
"""Resamples of a bootstrap."""
SEED = 1
"""Of every bootstrap, so that the same answers give the same interval."""
_AT_ONCE = 1 << 21
"""Drawn clusters that are in memory together (16 MiB)."""

Value = dict[str, Any]


def wilson(hits: int, n: int, z: float = Z_95) -> tuple[float, float]:
    """Bounds of the score interval of a proportion, `hits` of `n`.

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927): the
    proportions p with |hits/n - p| <= z sqrt(p (1 - p) / n). Unlike the textbook interval it is sound at 0 and n.
    Raises KelronError unless 0 <= hits <= n and n > 0.
    """
    if n <= 0 or not 0 <= hits <= n:
        raise KelronError(f"no interval for {hits} of {n}: it takes 0 <= hits <= n and n > 0")
    share = hits / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low = 0.0 if hits == 0 else max(0.0, centre - half)
    high = 1.0 if hits == n else min(1.0, centre + half)
    return low, high


def proportion(hits: int, n: int, clusters: int | None = None) -> Value:
    """{"value", "hits", "n", "low", "high", "clusters", "cluster_low", "cluster_high"} of `hits` of `n`.

    `low` and `high` are Wilson's at 95 %; the cluster bounds are None until a bootstrap fills them. Where n is 0,
    nothing was measured: `value` and all bounds are None.
    """
    low, high = wilson(hits, n) if n else (None, None)
    counted = {"value": hits / n if n else None, "hits": hits, "n": n, "low": low, "high": high}
    return {**counted, "clusters": clusters, "cluster_low": None, "cluster_high": None}


def mcnemar(base_only: int, tuned_only: int) -> float:
    """Two-sided p of McNemar's test, exact: how often a fair coin splits the flips at least as unevenly.

    The flips are the answers in which the two models differ; Q. McNemar, Psychometrika 12 (1947). 1.0 for no flips.
    """
    flips, fewer = base_only + tuned_only, min(base_only, tuned_only)
    ways, total = 1, 0
    for k in range(fewer + 1):
        total += ways
        ways = ways * (flips - k) // (k + 1)
    return min(1.0, 2 * total / 2**flips)


def bootstrap(hits: Sequence[Sequence[int]], counted: Sequence[int]) -> list[tuple[float, float] | None]:
    """95 % intervals of several shares over the same clusters, by drawing whole clusters anew.

    `counted`: answers of each cluster, all above 0; `hits`: for each share, the hits of each cluster. Answers of one
    cluster (questions grown from one seed) are alike, and an interval that takes them for independent is too narrow.
    None where there are fewer than two clusters, which say nothing of how clusters differ. A share of 0 or 1 varies in
    no draw; its bounds are Wilson's with the clusters as n, as if answers of a cluster were all the same.
    """
    import numpy as np

    clusters = len(counted)
    if clusters < 2:
        return [None] * len(hits)
    generator = np.random.default_rng(SEED)
    sums = np.array([counted, *hits], dtype=float).T
    rows = max(1, min(DRAWS, _AT_ONCE // clusters))
    drawn = []
    for start in range(0, DRAWS, rows):
        some = min(rows, DRAWS - start)
        chosen = generator.integers(0, clusters, (some, clusters)) + clusters * np.arange(some)[:, None]
        times = np.bincount(chosen.ravel(), minlength=some * clusters).reshape(some, clusters)
        drawn.append(times @ sums)
    totals = np.concatenate(drawn)
    low, high = np.percentile(totals[:, 1:] / totals[:, :1], [2.5, 97.5], axis=0)
    found: list[tuple[float, float] | None] = []
    for index, own in enumerate(hits):
        even = sum(own) in (0, sum(counted))
        found.append(wilson(clusters * bool(sum(own)), clusters) if even else (float(low[index]), float(high[index])))
    return found
