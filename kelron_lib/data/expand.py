"""Seeds to rows: groups are split first, then each split expands its own seeds.

All randomness comes from random.Random seeded with a text, which is the same on every machine and in every process.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kelron_lib.errors import KelronError
from kelron_lib.persona import (
    KINDS,
    Persona,
    Seed,
    draw_values,
    expand_phrases,
    fill,
    persona_values,
    slots_of,
)
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
EMPTY_SYSTEM_SHARE = 0.10
"""Share of rows with an explicit empty system message, so that the identity holds without the prompt."""
_MOST_TRIES = 60
_KEEP_CAPITAL = {"I", "I'm", "I'd", "I've", "I'll", "Friday"}


@dataclass
class Expansion:
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Rows by split."""
    duplicates_removed: int = 0
    """Drawn rows that were dropped because the same question and answer were there already."""
    short: dict[str, int] = field(default_factory=dict)
    """Chat rows that the seeds could not give (`split/language`), made up for with business rows."""


def split_groups(seeds: Sequence[Seed], seed: int) -> dict[str, frozenset[str]]:
    """Group ids of every split. Every kind is split alike, one group an intent at a time; train keeps every intent.

    Raises KelronError where a kind has too few groups to hold any out.
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
        for split in ("test", "validation"):
            wanted = max(SPLITS[split].least_groups, round(SPLITS[split].groups * count))
            taken: list[str] = []
            while len(taken) < wanted:
                open_intents = [intent for intent in intents if len(intents[intent]) > 1]
                if not open_intents:
                    raise KelronError(f"too few {kind} seeds for a {split} split: write more seeds for some intent")
                rng.shuffle(open_intents)
                taken += [intents[intent].pop() for intent in open_intents[: wanted - len(taken)]]
            held[split].update(taken)
        held["train"].update(group for groups in intents.values() for group in groups)
    return {split: frozenset(groups) for split, groups in held.items()}


def _decapitalise(text: str) -> str:
    first = text.split()[0].rstrip(",.?!")
    return text if first in _KEEP_CAPITAL or text.startswith("{") else text[0].lower() + text[1:]


def _frame(seed: Seed, question: str, register: str, rng: random.Random) -> str:
    """The question with, now and then, an opener and a closer of its register."""
    opener = rng.choice(seed.openers[register]) if rng.random() < 0.6 else ""
    closer = rng.choice(seed.closers[register]) if rng.random() < 0.25 else ""
    if opener.endswith(",") and seed.language == "en":
        question = _decapitalise(question)
    return ("" if seed.language == "ja" else " ").join(part for part in (opener, question, closer) if part)


def draw_pair(seed: Seed, persona: Persona, rng: random.Random) -> tuple[str, str]:
    """One question and one answer of a seed; they share slot values and nothing else."""
    asked = rng.choice(seed.questions)
    question = expand_phrases(_frame(seed, asked.text, asked.register, rng), seed.phrases, rng)
    answer = expand_phrases(rng.choice(seed.answers), seed.phrases, rng)
    known = persona_values(persona, seed.language)
    slots = [slot for slot in slots_of(question + answer) if slot not in known]
    values = {**known, **draw_values(slots, seed.entries, rng)}
    texts = (fill(text, values, persona.pronunciation) for text in (question, answer))
    first, second = (text[0].upper() + text[1:] if seed.language == "en" else text for text in texts)
    return first, second


class _Expander:
    """Draws unique rows; one for a whole dataset, so that no question and answer come twice, in whatever split."""

    def __init__(self, persona: Persona, seed: int) -> None:
        self.persona = persona
        self.seed = seed
        self.pairs: set[tuple[str, str]] = set()
        self.asked_in: dict[str, str] = {}
        self.serial: dict[str, int] = {}
        self.duplicates = 0

    def _accept(self, split: str, question: str, answer: str) -> bool:
        """Whether a drawn pair is new. A question stays in one split, and is asked once outside of train."""
        other = self.asked_in.get(question)
        if (question, answer) in self.pairs or (other is not None and (other != split or split != "train")):
            self.duplicates += 1
            return False
        self.pairs.add((question, answer))
        self.asked_in[question] = split
        return True

    def _row(self, seed: Seed, question: str, answer: str, rng: random.Random) -> dict[str, Any]:
        number = self.serial[seed.id] = self.serial.get(seed.id, 0) + 1
        system = "" if rng.random() < EMPTY_SYSTEM_SHARE else self.persona.system_prompt[seed.language]
        return {
            "id": f"{seed.id}/{number:05d}",
            "seed_id": seed.id,
            "group": seed.group,
            "kind": seed.kind,
            "intent": seed.intent,
            "language": seed.language,
            "messages": [
                {"role": "system", "content": system},
                {"role": "user", "content": question},
                {"role": "assistant", "content": answer},
            ],
        }

    def take(self, split: str, seeds: Sequence[Seed], count: int) -> list[dict[str, Any]]:
        """Up to `count` new rows, from all seeds alike; fewer once no seed has a new one to give."""
        if not seeds:
            return []
        rng = random.Random(f"{self.seed}:{split}:{seeds[0].language}:{seeds[0].kind}")
        rows: list[dict[str, Any]] = []
        live = list(seeds)
        while live and len(rows) < count:
            rng.shuffle(live)
            for seed in list(live)[: count - len(rows)]:
                for _ in range(_MOST_TRIES):
                    question, answer = draw_pair(seed, self.persona, rng)
                    if self._accept(split, question, answer):
                        rows.append(self._row(seed, question, answer, rng))
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
    groups = split_groups(seeds, settings.seed)
    expander = _Expander(persona, settings.seed)
    result = Expansion({split: [] for split in SPLITS})
    for (split, language), quota in _quotas(settings).items():
        pool = [seed for seed in seeds if seed.language == language and seed.group in groups[split]]
        made: dict[str, list[dict[str, Any]]] = {}
        for kind in ("identity", "chat", "business"):
            wanted = quota[kind] + (quota["chat"] - len(made["chat"]) if kind == "business" else 0)
            made[kind] = expander.take(split, [seed for seed in pool if seed.kind == kind], wanted)
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
