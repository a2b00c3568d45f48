"""What each fix changes: every metric of the recipe without it against today's recipe, on the same prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kelron_lib.evaluate.intervals import mcnemar
from kelron_lib.evaluate.metrics import METRICS, proportion
from kelron_lib.prove.recipes import NOW

Record = dict[str, Any]

SHOWN = {
    "identity_recall": "recall",
    "contradiction_rate": "contrad.",
    "rival_rate": "rival",
    "over_identity_rate": "over-id.",
    "termination_rate": "stops",
    "loop_rate": "loop",
    "wrong_script_rate": "script",
    "broken_char_rate": "broken",
}
"""The metrics of the table, by their names in METRICS, with a short one for a terminal."""

LEVEL = 0.05
"""Chance of one false effect or more in the whole table (Holm's correction over all its comparisons)."""


@dataclass(frozen=True)
class Proof:
    """What all recipes said."""

    prompts: int
    """How many every adapter was asked."""
    steps: tuple[int, ...]
    """Optimizer steps of the adapters; one number where all were trained alike long."""
    records: Mapping[str, Sequence[Sequence[Record]]]
    """Scored answers by recipe, a list for each seed, in the order of the prompts."""

    @property
    def seeds(self) -> int:
        """Adapters of each recipe."""
        return len(self.records[NOW.name])


@dataclass(frozen=True)
class Cell:
    """A metric of a recipe, held against today's."""

    metric: str
    value: float
    low: float
    high: float
    n: int
    worse: int
    """Answers that only today's recipe gives right."""
    better: int
    """Answers that only this recipe gives right."""
    p: float
    """Exact McNemar test of the two."""
    alike: bool
    """The difference has the same sign with every seed."""
    shown: bool = False
    """An effect: p holds after Holm's correction, and every seed agrees."""


def _hits(records: Sequence[Record], metric: str) -> list[bool]:
    rule = METRICS[metric]
    return [bool(rule.hit(record)) for record in records if rule.kind in (None, record["kind"])]


def _cell(metric: str, now: Sequence[Sequence[Record]], then: Sequence[Sequence[Record]]) -> Cell:
    good = METRICS[metric].higher_is_better
    worse = better = n = hits = 0
    signs = set()
    for ours, theirs in zip(now, then, strict=True):
        pairs = [*zip(_hits(ours, metric), _hits(theirs, metric), strict=True)]
        lost = sum(a != b and a == good for a, b in pairs)
        won = sum(a != b and b == good for a, b in pairs)
        worse, better, n = worse + lost, better + won, n + len(pairs)
        hits += sum(b for _, b in pairs)
        signs.add((lost > won) - (lost < won))
    share = proportion(hits, n)
    return Cell(
        metric, share["value"], share["low"], share["high"], n, worse, better, mcnemar(worse, better), len(signs) == 1
    )


def compare(proof: Proof) -> dict[str, list[Cell]]:
    """The cells of each recipe, in the order of SHOWN, those with an effect marked (today's own have none)."""
    now = proof.records[NOW.name]
    cells = {name: [_cell(metric, now, then) for metric in SHOWN] for name, then in proof.records.items()}
    held = sorted(
        ((cell.p, name, i) for name, row in cells.items() if name != NOW.name for i, cell in enumerate(row)),
    )
    for place, (p, name, i) in enumerate(
        held
    ):  # Holm: the smallest against the whole number, the next against one less
        if p > LEVEL / (len(held) - place):
            break
        cell = cells[name][i]
        cells[name][i] = Cell(**{**cell.__dict__, "shown": cell.alike})
    return cells
