"""What is kept of a stream of rows: all of them up to a limit, beyond it a seeded sample."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterator
from typing import NamedTuple

from kelron_lib.data.gate.view import View

MOST_ROWS = 100_000
"""Rows that are kept: measures that compare rows are exact up to here."""
MOST_CHARACTERS = 15_000_000
"""Characters of rows that are kept: 100,000 rows of the usual length. Comparing more of them takes many minutes."""


def digest(*parts: str) -> int:
    """A 64-bit number for texts, the same on every machine; two of a few million texts hardly ever share one."""
    return int.from_bytes(hashlib.blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=8).digest())


class Kept(NamedTuple):
    """What is kept of a row."""

    name: str
    language: str
    kind: str
    intent: str
    split: str
    asked: tuple[str, ...]
    said: tuple[str, ...]
    text: str
    """What the user and the assistant wrote, line by line."""


class Sample:
    """Rows with the smallest of seeded random numbers, in the order in which they came."""

    def __init__(self, rows: int = MOST_ROWS, characters: int = MOST_CHARACTERS, seed: int = 1) -> None:
        self.rows, self.characters, self.seed = rows, characters, seed
        self.seen = 0
        self._heap: list[tuple[int, int, Kept]] = []
        self._held = 0
        self._limit = 0

    def add(self, view: View, split: str) -> None:
        self.seen += 1
        priority = -digest(str(self.seed), str(self.seen))
        if self._limit and priority < self._limit:
            return  # one with a smaller number was given up already
        kept = Kept(
            view.name, view.language, view.kind, view.intent, split, tuple(view.asked), tuple(view.said), view.text
        )
        self._held += len(kept.text)
        heapq.heappush(self._heap, (priority, self.seen, kept))
        while len(self._heap) > self.rows or (self._held > self.characters and len(self._heap) > 1):
            self._limit, _, gone = heapq.heappop(self._heap)
            self._held -= len(gone.text)

    def __iter__(self) -> Iterator[Kept]:
        for _, _, kept in sorted(self._heap, key=lambda entry: entry[1]):
            yield kept

    def __len__(self) -> int:
        return len(self._heap)

    @property
    def whole(self) -> bool:
        """Whether every row was kept."""
        return len(self._heap) == self.seen
