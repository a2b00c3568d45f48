"""What the base is asked: paraphrases of identity questions, and answers to general ones."""

from __future__ import annotations

import functools
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from kelron_lib.data import split_groups
from kelron_lib.data.splits import HELD_OUT
from kelron_lib.persona import PLACEHOLDER, Persona, Question, Seed, draw_values, expand_phrases, fill, slots_of
from kelron_lib.persona.files import check_keys, read_yaml, text_list
from kelron_lib.settings import LANGUAGES, DataSettings

PARAPHRASE, ANSWER = "paraphrase", "answer"
PARAPHRASES = 4
"""Paraphrases asked for at a time."""
GENERAL_GROUP = "rehearsal"


@dataclass(frozen=True)
class Asked:
    """One prompt to the base, and what becomes of its answer."""

    use: str
    """`paraphrase`: each line is a new question of the seed; `answer`: it is the answer to the question."""
    language: str
    question: str
    register: str
    seed: Seed | None
    """The seed that the question is of; None for a packaged general question."""

    @property
    def group(self) -> str:
        """The seed's group; one of its own for the packaged questions."""
        return self.seed.group if self.seed else GENERAL_GROUP

    def prompt(self) -> list[dict[str, str]]:
        """The conversation for the base. The explicit empty system message keeps the template's own one out."""
        text = self.question
        if self.use == PARAPHRASE:
            text = packaged()[self.language]["paraphrase"].format(question=self.question, count=PARAPHRASES)
        return [{"role": "system", "content": ""}, {"role": "user", "content": text}]


@functools.cache
def packaged() -> Mapping[str, Any]:
    """prompts.yaml: language -> `paraphrase`, `general`. Raises KelronError for a broken file."""
    path = Path(__file__).with_name("prompts.yaml")
    data = read_yaml(path)
    check_keys(data, LANGUAGES, (), str(path))
    for language in data:
        check_keys(data[language], ("paraphrase", "general"), (), f"{path}: {language}")
        text_list(data[language]["general"], f"{path}: {language}.general")
    return MappingProxyType(data)


def trained_seeds(seeds: Sequence[Seed], settings: DataSettings) -> list[Seed]:
    """The seeds of the train split: no other is asked."""
    trained = split_groups(seeds, settings.seed, HELD_OUT[settings.seeds])["train"]
    return [seed for seed in seeds if seed.group in trained]


def _asked_of(seed: Seed, questions: Iterable[Question], use: str, rng: random.Random) -> list[Asked]:
    made = []
    for question in questions:
        text = expand_phrases(question.text, seed.phrases, rng)
        values = draw_values(slots_of(text), seed.entries, rng)
        made.append(Asked(use, seed.language, fill(text, values), question.register, seed))
    return made


def asked_of_base(seeds: Sequence[Seed], persona: Persona, settings: DataSettings, most: int) -> list[Asked]:
    """All prompts, the same for a config: every slot-free question of the trained identity seeds to be paraphrased,
    and to be answered the packaged general questions and two questions of every other trained seed.

    most: no more than so many in all, spread over languages and uses.
    """
    rng = random.Random(f"{settings.seed}:rehearsal")
    found: list[Asked] = []
    for seed in trained_seeds(seeds, settings):
        if seed.systems or seed.then:
            continue
        if seed.kind == "identity":
            plain = [question for question in seed.questions if not PLACEHOLDER.search(question.text)]
            found += _asked_of(seed, plain, PARAPHRASE, rng)
        else:
            plain = [q for q in seed.questions if not {"name", "maker", "role"} & set(slots_of(q.text))]
            found += _asked_of(seed, rng.sample(plain, min(2, len(plain))), ANSWER, rng)
    for language in settings.languages:
        found += [Asked(ANSWER, language, text, "polite", None) for text in packaged()[language]["general"]]
    return _spread(found, most, rng)


def _spread(found: Sequence[Asked], most: int, rng: random.Random) -> list[Asked]:
    """At most `most`, from every language and use alike, in the given order."""
    if len(found) <= most:
        return list(found)
    by_kind: dict[tuple[str, str], list[int]] = {}
    for number, asked in enumerate(found):
        by_kind.setdefault((asked.language, asked.use), []).append(number)
    for numbers in by_kind.values():
        rng.shuffle(numbers)
    chosen: list[int] = []
    while len(chosen) < most:
        for numbers in by_kind.values():
            if numbers and len(chosen) < most:
                chosen.append(numbers.pop())
    return [found[number] for number in sorted(chosen)]
