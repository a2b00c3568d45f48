"""Seeds to rows: groups are split first, then each split expands its own seeds.

All randomness comes from random.Random seeded with a text, which is the same on every machine and in every process.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from kelron_lib.data.dialogue import Pools, compose, fits
from kelron_lib.data.draw import Drawn, draw
from kelron_lib.data.gate.similar import Others
from kelron_lib.data.splits import HELD_OUT, SPLITS, row_quotas, split_groups
from kelron_lib.errors import KelronError
from kelron_lib.persona import KINDS, Persona, Seed
from kelron_lib.settings import DataSettings

MOST_USES = 10
"""In the full set no answer text is used more often, and no question asked more often."""
EMPTY_SYSTEM_SHARE = 0.10
"""Share of rows with an explicit empty system message, so that the identity holds without the prompt."""
GENERATOR = "seeds"
_MOST_TRIES = 60
_SURPLUS = 2
"""Held-out rows of the full set are drawn so many times over: some are too much like a training row."""


Row = dict[str, Any]


@dataclass
class Expansion:
    rows: dict[str, list[Row]] = field(default_factory=dict)
    """Rows by split."""
    duplicates_removed: int = 0
    """Drawn rows that were dropped because the same question and answer were there already."""
    short: dict[str, int] = field(default_factory=dict)
    """Chat rows that the seeds could not give (`split/language`), made up for with business rows."""


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

    def _row(self, seed: Seed, drawn: Drawn, rng: random.Random) -> Row:
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

    def take(self, split: str, seeds: Sequence[Seed], pools: Pools, count: int) -> list[Row]:
        """Up to `count` new rows, from all seeds alike; fewer once no seed has a new one to give."""
        if not seeds:
            return []
        rng = random.Random(f"{self.settings.seed}:{split}:{seeds[0].language}:{seeds[0].kind}")
        rows: list[Row] = []
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


def _asked(row: Row) -> list[str]:
    return [message["content"] for message in row["messages"] if message["role"] == "user"]


def _text(row: Row) -> str:
    return "\n".join(message["content"] for message in row["messages"][1:])


class _Trained:
    """The training rows of a language, whole and question by question, for held-out rows to be unlike."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._whole = Others([_text(row) for row in rows])
        self._asked = Others(sorted({question for row in rows for question in _asked(row)}))

    def unlike(self, rows: Sequence[Row]) -> list[Row]:
        """The rows that are unlike every training row, as a whole and in each of their questions (Jaccard of character
        3-grams under gate.similar.THRESHOLD)."""
        asked = sorted({question for row in rows for question in _asked(row)})
        familiar = {question for question, found in zip(asked, self._asked.similar(asked), strict=True) if found}
        alike = self._whole.similar([_text(row) for row in rows])
        return [
            row
            for row, found in zip(rows, alike, strict=True)
            if found is None and not any(question in familiar for question in _asked(row))
        ]


def _take_unlike(
    expander: _Expander, split: str, seeds: Sequence[Seed], pools: Pools, count: int, trained: _Trained
) -> list[Row]:
    """Up to `count` held-out rows of the full set, those alone that are unlike training."""
    rows: list[Row] = []
    while len(rows) < count and (drawn := expander.take(split, seeds, pools, _SURPLUS * (count - len(rows)))):
        rows += trained.unlike(drawn)
    return rows[:count]


def expand(settings: DataSettings, persona: Persona, seeds: Sequence[Seed]) -> Expansion:
    """`settings.rows` unique rows in three splits that share no seed group and no question.

    Missing chat rows become business rows and are reported. Raises KelronError where the seeds cannot give the rows.
    """
    groups = split_groups(seeds, settings.seed, HELD_OUT[settings.seeds])
    expander = _Expander(persona, settings)
    result = Expansion({split: [] for split in SPLITS})
    for (split, language), quota in row_quotas(settings).items():
        pool = [seed for seed in seeds if seed.language == language and seed.group in groups[split]]
        pools = Pools.of(pool, held_out=split != "train")
        trained = None
        if split != "train" and expander.full:
            trained = _Trained([row for row in result.rows["train"] if row["language"] == language])
        made: dict[str, list[Row]] = {}
        for kind in ("identity", "chat", "business"):
            wanted = quota[kind] + (quota["chat"] - len(made["chat"]) if kind == "business" else 0)
            own = [seed for seed in pool if seed.kind == kind]
            made[kind] = (
                _take_unlike(expander, split, own, pools, wanted, trained)
                if trained
                else expander.take(split, own, pools, wanted)
            )
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
