"""Which seeds, and how many rows, each split has.

All randomness comes from random.Random seeded with a text, which is the same on every machine and in every process.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kelron_lib.errors import KelronError
from kelron_lib.persona import KINDS, Seed
from kelron_lib.settings import DataSettings


@dataclass(frozen=True)
class SplitPlan:
    rows: float
    """Share of all rows."""
    most_rows: int
    """No more rows than this over all languages: beyond, held-out groups would only repeat themselves."""
    groups: float
    """Share of the seed groups of a kind."""
    least_groups: int
    """At least this many groups of a kind."""
    identity: float
    """Identity rows over all rows, where the config does not ask for more."""
    chat: float
    """Chat rows over the rows that are not identity; the others are business rows."""


# The test split holds more identity and chat than the training mix: a rate needs n, whatever the mix.
SPLITS: Mapping[str, SplitPlan] = {
    "train": SplitPlan(rows=0.78, most_rows=10**9, groups=0.77, least_groups=1, identity=0.0, chat=0.50),
    "validation": SplitPlan(rows=0.06, most_rows=600, groups=0.08, least_groups=1, identity=0.0, chat=0.20),
    "test": SplitPlan(rows=0.16, most_rows=1500, groups=0.15, least_groups=3, identity=0.40, chat=0.34),
}
HELD_OUT: Mapping[str, frozenset[str]] = {
    "core": frozenset(),
    "full": frozenset({"roleplay", "override", "feelings", "calculate", "proverb", "space"}),
}
"""Whole intents that no row trains on, by seed set: two ways to attack the identity, and one intent or two a kind."""


def split_groups(seeds: Sequence[Seed], seed: int, held_out: frozenset[str] = frozenset()) -> dict[str, frozenset[str]]:
    """Group ids of every split. Every kind is split alike, one group an intent at a time.

    held_out: intents that go to the test split whole; train keeps every other. Raises KelronError where a kind has too
    few groups to hold any out.
    """
    held: dict[str, set[str]] = {split: set() for split in SPLITS}
    for kind in KINDS:
        rng = random.Random(f"{seed}:groups:{kind}")
        intents: dict[str, list[str]] = {}
        for group, intent in sorted({(s.group, s.intent) for s in seeds if s.kind == kind}):
            intents.setdefault(intent, []).append(group)
        for groups in intents.values():
            rng.shuffle(groups)
        count = sum(map(len, intents.values()))
        whole = [group for intent in sorted(held_out & intents.keys()) for group in intents.pop(intent)]
        for split in ("test", "validation"):
            wanted = max(SPLITS[split].least_groups, round(SPLITS[split].groups * count))
            taken = whole if split == "test" else []
            while len(taken) < wanted:
                open_intents = [intent for intent in intents if len(intents[intent]) > 1]
                if not open_intents:
                    raise KelronError(f"too few {kind} seeds for a {split} split: write more seeds for some intent")
                rng.shuffle(open_intents)
                taken += [intents[intent].pop() for intent in open_intents[: wanted - len(taken)]]
            held[split].update(taken)
        held["train"].update(group for groups in intents.values() for group in groups)
    return {split: frozenset(groups) for split, groups in held.items()}


def split_sizes(settings: DataSettings) -> dict[str, int]:
    """Rows of every split, over all languages."""
    sizes = {split: min(round(plan.rows * settings.rows), plan.most_rows) for split, plan in SPLITS.items()}
    sizes["train"] = settings.rows - sizes["validation"] - sizes["test"]
    return sizes


def row_quotas(settings: DataSettings) -> dict[tuple[str, str], dict[str, int]]:
    """Rows of every kind by split and language; the identity share holds in each."""
    quotas: dict[tuple[str, str], dict[str, int]] = {}
    sizes = split_sizes(settings)
    for split, plan in SPLITS.items():
        for index, language in enumerate(settings.languages):
            size = (sizes[split] + index) // len(settings.languages)
            identity = math.ceil(max(settings.identity_share, plan.identity) * size - 1e-9)
            chat = round(plan.chat * (size - identity))
            quotas[split, language] = {"identity": identity, "business": size - identity - chat, "chat": chat}
    return quotas
