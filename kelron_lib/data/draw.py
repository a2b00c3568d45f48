"""One dialogue from a seed: questions and answers drawn independently, sharing slot values and a speech level alone.

All randomness comes from a random.Random, which draws the same on every machine and in every process.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from kelron_lib.persona import (
    REGISTERS,
    Persona,
    Question,
    Seed,
    draw_values,
    expand_phrases,
    fill,
    persona_values,
    slots_of,
)

_KEEP_CAPITAL = {"I", "I'm", "I'd", "I've", "I'll", "Friday"}
_OPENER_SHARE, _CLOSER_SHARE = 0.6, 0.25
Variation = Callable[[str, str, str, random.Random], str]
"""A question template as people type it: (template, language, register, rng) -> template."""


@dataclass(frozen=True)
class Drawn:
    pairs: tuple[tuple[str, str], ...]
    """Questions and answers, one a turn."""
    register: str
    """Speech level of all questions."""
    template: str
    """Which question and answer of the seed were drawn, by number: `q3/a1`, turns joined by `+`."""
    system: str | None
    """The system message that the seed asks for; None for the persona's."""


def _decapitalise(text: str) -> str:
    first = text.split()[0].rstrip(",.?!")
    return text if first in _KEEP_CAPITAL or text.startswith("{") else text[0].lower() + text[1:]


def _frame(seed: Seed, question: str, register: str, rng: random.Random) -> str:
    """The question with, now and then, an opener and a closer of its register."""
    opener = rng.choice(seed.openers[register]) if rng.random() < _OPENER_SHARE else ""
    closer = rng.choice(seed.closers[register]) if rng.random() < _CLOSER_SHARE else ""
    if opener.endswith(",") and seed.language == "en":
        question = _decapitalise(question)
    return ("" if seed.language == "ja" else " ").join(part for part in (opener, question, closer) if part)


def _capital(text: str, language: str) -> str:
    return text[0].upper() + text[1:] if language == "en" else text


def _asked(questions: tuple[Question, ...], register: str | None, rng: random.Random) -> int:
    """The number of a question, of the register where one of it is there, else of the nearest."""
    if register is None:
        return rng.choice(range(len(questions)))
    rank = REGISTERS.index(register)
    nearest = min(abs(REGISTERS.index(question.register) - rank) for question in questions)
    return rng.choice(
        [n for n, question in enumerate(questions) if abs(REGISTERS.index(question.register) - rank) == nearest]
    )


def draw(
    seed: Seed,
    persona: Persona,
    rng: random.Random,
    *,
    register: str | None = None,
    framed: bool = True,
    vary: Variation | None = None,
) -> Drawn:
    """One dialogue of a seed.

    register: the speech level to ask in, as near as the seed has it; None for any. framed: whether an opener and a
    closer may stand around the first question. vary: what typing does to a question's template.
    """
    templates: list[tuple[str, str]] = []
    numbers: list[str] = []
    for turn in seed.turns:
        q = _asked(turn.questions, register, rng)
        asked = turn.questions[q]
        first = register is None or not templates
        register = asked.register if first else register
        text = _frame(seed, asked.text, asked.register, rng) if framed and not templates else asked.text
        question = expand_phrases(text, seed.phrases, rng)
        a = rng.choice(range(len(turn.answers)))
        answer = expand_phrases(turn.answers[a], seed.phrases, rng)
        templates.append((vary(question, seed.language, asked.register, rng) if vary else question, answer))
        numbers.append(f"q{q}/a{a}")
    known = persona_values(persona, seed.language)
    joined = "".join(text for pair in templates for text in pair)
    values = {**known, **_values(seed, joined, known, rng)}
    system = fill(rng.choice(seed.systems), values, persona.pronunciation) if seed.systems else None

    def finished(text: str, said: bool) -> str:
        filled = fill(text, values, persona.pronunciation)
        return _capital(filled, seed.language) if said or vary is None else filled

    pairs = tuple((finished(question, False), finished(answer, True)) for question, answer in templates)
    return Drawn(pairs, register or asked.register, "+".join(numbers), system)


def _values(seed: Seed, joined: str, known: Mapping[str, str], rng: random.Random) -> dict[str, str]:
    return draw_values([slot for slot in slots_of(joined) if slot not in known], seed.entries, rng)


def draw_pair(seed: Seed, persona: Persona, rng: random.Random) -> tuple[str, str]:
    """The first question and answer of a dialogue of a seed."""
    return draw(seed, persona, rng).pairs[0]
