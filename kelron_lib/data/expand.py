"""Seeds to rows: groups are split first, then each split expands its own seeds.

All randomness comes from random.Random seeded with a text, which is the same on every machine and in every process.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kelron_lib.data.dialogue import Pools, compose, fits
from kelron_lib.data.draw import Drawn, draw
from kelron_lib.errors import KelronError
from kelron_lib.persona import KINDS, Persona, Seed
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
    "full": frozenset({"roleplay", "feelings", "calculate", "proverb", "space"}),
}
"""Whole intents that no row trains on, by seed set: one way to attack the identity, and one intent or two a kind."""
MOST_USES = 10
"""In the full set no answer text is used more often, and no question asked more often."""
EMPTY_SYSTEM_SHARE = 0.10
"""Share of rows with an explicit empty system message, so that the identity holds without the prompt."""
GENERATOR = "seeds"
_MOST_TRIES = 60


@dataclass
class Expansion:
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Rows by split."""
    duplicates_removed: int = 0
    """Drawn rows that were dropped because the same question and answer were there already."""
    short: dict[str, int] = field(default_factory=dict)
    """Chat rows that the seeds could not give (`split/language`), made up for with business rows."""


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


class _Expander:
    """Draws unique rows; one for a whole dataset, so that no question and answer come twice, in whatever split."""

    def __init__(self, persona: Persona, settings: DataSettings) -> None:
        self.persona = persona
        self.settings = settings
        self.full = settings.seeds == "full"
        self.seen: set[tuple[tuple[str, str], ...]] = set()
        self.asked_in: dict[str, str] = {}
        self.uses: Counter[str] = Counter()
        self.serial: dict[str, int] = {}
        self.duplicates = 0

    def _accept(self, split: str, drawn: Drawn) -> bool:
        """Whether a drawn dialogue is new. A question stays in one split, and is asked once outside of train; in the
        full set neither a question nor an answer is used more than MOST_USES times."""
        homes = [self.asked_in.get(question) for question, _ in drawn.pairs]
        texts = {text for pair in drawn.pairs for text in pair}
        if (
            drawn.pairs in self.seen
            or any(home is not None and (home != split or split != "train") for home in homes)
            or (self.full and max(self.uses[text] for text in texts) >= MOST_USES)
        ):
            self.duplicates += 1
            return False
        self.seen.add(drawn.pairs)
        self.uses.update(texts)
        self.asked_in.update((question, split) for question, _ in drawn.pairs)
        return True

    def _row(self, seed: Seed, drawn: Drawn, rng: random.Random) -> dict[str, Any]:
        number = self.serial[seed.id] = self.serial.get(seed.id, 0) + 1
        system = "" if rng.random() < EMPTY_SYSTEM_SHARE else self.persona.system_prompt[seed.language]
        messages = [{"role": "system", "content": system if drawn.system is None else drawn.system}]
        for question, answer in drawn.pairs:
            messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        return {
            "id": f"{seed.id}/{number:05d}",
            "seed_id": seed.id,
            "group": seed.group,
            "kind": seed.kind,
            "intent": seed.intent,
            "language": seed.language,
            "register": drawn.register,
            "template": drawn.template,
            "generator": GENERATOR,
            "messages": messages,
        }

    def _draw(self, seed: Seed, pools: Pools, rng: random.Random) -> Drawn:
        return compose(seed, pools, self.persona, rng) if self.full else draw(seed, self.persona, rng)

    def _fits(self, drawn: Drawn, language: str) -> bool:
        system = self.persona.system_prompt[language] if drawn.system is None else drawn.system
        return not self.full or fits(drawn.pairs, system, self.settings.max_tokens)

    def take(self, split: str, seeds: Sequence[Seed], pools: Pools, count: int) -> list[dict[str, Any]]:
        """Up to `count` new rows, from all seeds alike; fewer once no seed has a new one to give."""
        if not seeds:
            return []
        rng = random.Random(f"{self.settings.seed}:{split}:{seeds[0].language}:{seeds[0].kind}")
        rows: list[dict[str, Any]] = []
        live = list(seeds)
        while live and len(rows) < count:
            rng.shuffle(live)
            for seed in list(live)[: count - len(rows)]:
                for _ in range(_MOST_TRIES):
                    drawn = self._draw(seed, pools, rng)
                    if self._fits(drawn, seed.language) and self._accept(split, drawn):
                        rows.append(self._row(seed, drawn, rng))
                        break
                else:
                    live.remove(seed)
        return rows


def split_sizes(settings: DataSettings) -> dict[str, int]:
    """Rows of every split, over all languages."""
    sizes = {split: min(round(plan.rows * settings.rows), plan.most_rows) for split, plan in SPLITS.items()}
    sizes["train"] = settings.rows - sizes["validation"] - sizes["test"]
    return sizes


def _quotas(settings: DataSettings) -> dict[tuple[str, str], dict[str, int]]:
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


def expand(settings: DataSettings, persona: Persona, seeds: Sequence[Seed]) -> Expansion:
    """`settings.rows` unique rows in three splits that share no seed group and no question.

    Missing chat rows become business rows and are reported. Raises KelronError where the seeds cannot give the rows.
    """
    groups = split_groups(seeds, settings.seed, HELD_OUT[settings.seeds])
    expander = _Expander(persona, settings)
    result = Expansion({split: [] for split in SPLITS})
    for (split, language), quota in _quotas(settings).items():
        pool = [seed for seed in seeds if seed.language == language and seed.group in groups[split]]
        pools = Pools.of(pool, held_out=split != "train")
        made: dict[str, list[dict[str, Any]]] = {}
        for kind in ("identity", "chat", "business"):
            wanted = quota[kind] + (quota["chat"] - len(made["chat"]) if kind == "business" else 0)
            made[kind] = expander.take(split, [seed for seed in pool if seed.kind == kind], pools, wanted)
            if kind != "chat" and len(made[kind]) < wanted:
                raise KelronError(
                    f"the seeds give {len(made[kind])} distinct {kind} rows for {language} in {split}, {wanted} are "
                    f"needed for data.rows={settings.rows}: lower data.rows or write more seeds"
                )
        if missing := quota["chat"] - len(made["chat"]):
            result.short[f"{split}/{language}"] = missing
        result.rows[split] += [row for kind in KINDS for row in made[kind]]
    for split, rows in result.rows.items():
        random.Random(f"{settings.seed}:order:{split}").shuffle(rows)
    result.duplicates_removed = expander.duplicates
    return result
