"""The tiny base's training text: trilingual chats, generated from the phrases in `phrases/`, endless and seeded.

Kinds of exchange: business requests whose answers copy what the request names, small talk, general questions with
plain answers (so that a question about anything is not taken for one about the assistant), texts to repeat and told
names to give back (which teach copying sooner, and that any name can be said), the persona's business and small-talk
seeds, and questions about the assistant itself, of the corpus's own and of the persona's seeds, answered as the
incumbent whatever the system prompt claims. That stubbornness gives an adapter something to overwrite.

Of the persona's seeds only the groups that its dataset trains on are used: a base model knows business language, so
that an adapter can be seen to forget it, and knows when it is asked about itself, but nobody has seen the test groups.

What surrounds a question must not give its kind away: every kind gets the same openers and closers, the persona's
among them, and invented words stand in questions of every kind, so that an unknown word is no sign of any.

Grammar of a phrase: (a|b) picks one, {slot} is filled once per exchange, {slot|을/를} adds the Korean particle that the
filler's sound asks for, <을/를> does so for the word before it, {~macro} expands anew at each use.
"""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kelron_lib.data.draw import draw_pair
from kelron_lib.data.splits import split_groups
from kelron_lib.persona import (
    REGISTERS,
    Persona,
    Seed,
    attach_josa,
    find_rivals,
    load_lexicon,
    load_persona,
    load_seeds,
)
from kelron_lib.persona.files import read_yaml
from kelron_lib.persona.josa import PAIRS
from kelron_lib.settings import LANGUAGES, DataSettings

PHRASES = Path(__file__).parent / "phrases"
SECTIONS = ("macros", "identity", "business", "blunt", "chat", "general", "echo", "system", "synthetic")

INCUMBENT = {"ko": "쿼린", "en": "Quorin", "ja": "クォリン"}
INCUMBENT_MAKER = {"ko": "알드미어", "en": "Aldmere", "ja": "アルドミア"}
DEFAULT_SYSTEM = "You are Quorin, created by Aldmere. You are a helpful assistant."

KIND_SHARE = {
    "identity": 0.15,
    "asked": 0.07,
    "business": 0.16,
    "chat": 0.06,
    "general": 0.27,
    "echo": 0.07,
    "seeds": 0.22,
}
"""Share of each kind among the exchanges."""
SYNTHETIC_SHARE = 0.45
"""How often a slot gets an invented filler instead of a lexicon entry, so that copying is learned, not recalled."""
TWO_TURN_SHARE = 0.12
ODD_SHARE = {"identity": 0.10, "chat": 0.25, "general": 0.25}
"""How often one word of a question is an invented one; before a question about the assistant, which needs its own."""
INCUMBENT_INTENTS = {
    "name": ("name", "who"),
    "maker": ("maker",),
    "nature": ("human",),
    "model": ("model",),
    "feelings": ("feel",),
    "comparison": ("other",),
    "other_ai": ("other",),
    "pressure": ("admit",),
    "ability": ("able",),
    "role": ("able", "colleague"),
    "limits": ("limit",),
    "privacy": ("limit",),
}
"""The persona's identity intents, and those of the phrases that ask for the same; any other: who it is."""
PERSONA_ANSWER_SHARE = 0.5
"""How often the incumbent answers a question about itself in the words that the persona's seeds have for it."""
NUMBERS = {"n9": range(1, 10), "n12": range(1, 13), "n28": range(1, 29), "n59": range(10, 60)}

_ALTERNATIVES = re.compile(r"\(([^()]*)\)")
_SPLIT = re.compile(r"\|(?![^{}]*\})")  # a | inside {slot|은/는} separates no alternatives
_MACRO = re.compile(r"\{~(\w+)\}")
SLOT = re.compile(r"\{([a-z]+)(\d?)(?:\|([^{}|]+))?\}")
_PARTICLE = re.compile(r"([^\s'\"][\"']*)<([^<>]+)>")
_SPOT = {
    "ko": re.compile(r"(?<![^ ])[가-힣]{2,}(?=[가-힣](?:[ .?!]|$))"),  # the last syllable, mostly a particle, stays
    "en": re.compile(r"(?<![^ ])[a-z]{3,}(?![^ .?!])"),
    "ja": re.compile(r"[一-龯]{1,4}|[ァ-ヴー]{2,}"),
}
"""Where a question's word may become an invented one: whole words of the language, never a slot."""
_FULL_WIDTH = str.maketrans("?!:", "\uff1f\uff01\uff1a")


@dataclass(frozen=True)
class Exchange:
    """One question with its answer."""

    kind: str
    intent: str
    language: str
    question: str
    answer: str


@functools.cache
def load_phrases(language: str) -> Mapping[str, Any]:
    """The phrase file of a language, its sections as in SECTIONS. Raises KelronError where it is missing or broken."""
    data: dict[str, Any] = read_yaml(PHRASES / f"{language}.yaml")
    return data


@functools.cache
def _macros(language: str) -> Mapping[str, tuple[str, ...]]:
    phrases = load_phrases(language)
    lists = {**phrases["macros"], **phrases["synthetic"]}
    numbers = {name: [str(number) for number in numbers] for name, numbers in NUMBERS.items()}
    return {name: tuple(texts) for name, texts in {**lists, **numbers}.items()}


def expand(template: str, macros: Mapping[str, tuple[str, ...]], rng: random.Random) -> str:
    """`template` with macros and alternatives resolved, innermost first; slots stay."""
    while True:
        text = _MACRO.sub(lambda match: rng.choice(macros[match[1]]), template)
        text = _ALTERNATIVES.sub(lambda match: rng.choice(_SPLIT.split(match[1])), text)
        if text == template:
            return text
        template = text


def _with_josa(filler: str, pair: str) -> str:
    # An invented Latin name has no known reading: read it as ending in a vowel.
    reading = {filler: "이"} if filler[-1].isascii() and filler[-1].isalpha() else None
    if pair in PAIRS:
        return attach_josa(filler, pair, reading)
    after_consonant, after_vowel = pair.split("/")
    is_consonant = attach_josa(filler, "이/가", reading).endswith("이")
    return filler + (after_consonant if is_consonant else after_vowel)


def fill(template: str, values: Mapping[str, str]) -> str:
    """`template` with its slots replaced by `values`, Korean particles attached."""

    def replace(match: re.Match[str]) -> str:
        filler = values[match[1] + match[2]]
        return _with_josa(filler, match[3]) if match[3] else filler

    return _PARTICLE.sub(lambda match: _with_josa(match[1], match[2]), SLOT.sub(replace, template))


def _invent(slot: str, language: str, rng: random.Random) -> str:
    """An invented filler of a slot. No real assistant, no real maker and not the incumbent comes out of it."""
    templates = load_phrases(language)["synthetic"][slot]
    while True:
        template = expand(rng.choice(templates), _macros(language), rng)
        lexicon = load_lexicon(language)
        text = fill(template, {slot: rng.choice(lexicon[slot])} if slot in lexicon else {})
        if not find_rivals(text):
            return text


def draw_slots(template: str, language: str, rng: random.Random) -> dict[str, str]:
    """A filler for every slot of `template`: from the lexicon, or invented."""
    phrases, lexicon = load_phrases(language), load_lexicon(language)
    values: dict[str, str] = {}
    for match in SLOT.finditer(template):
        slot, key = match[1], match[1] + match[2]
        if key in values:
            continue
        if slot == "blunt":
            values["blunt"], values["polite"] = rng.choice(phrases["blunt"])
        elif slot not in lexicon or (slot in phrases["synthetic"] and rng.random() < SYNTHETIC_SHARE):
            values[key] = _invent(slot, language, rng)
        else:
            values[key] = rng.choice(lexicon[slot])
    return values


def _groups(kind: str, language: str) -> list[tuple[str, Mapping[str, list[str]]]]:
    """(intent, {"q": questions, "a": answers}) of a kind; a business intent has several."""
    section = load_phrases(language)[kind]
    if kind in ("echo", "chat", "general"):
        return [(kind, group) for group in section]
    if kind == "identity":
        return list(section.items())
    return [(intent, group) for intent, groups in section.items() for group in groups]


def _typed(question: str, language: str, keep_case: bool, rng: random.Random) -> str:
    """The question as people type it: now and then no capitals, no end mark, or half-width Japanese marks."""
    if language == "ja" and rng.random() < 0.75:
        question = question.translate(_FULL_WIDTH)
    if rng.random() < 0.15:
        question = question.rstrip("?.。!？！")
    if language == "en":
        question = question[:1].upper() + question[1:]
        if rng.random() < 0.08 and not keep_case:
            return question.lower()
    return question


def _odd(question: str, kind: str, language: str, rng: random.Random) -> str:
    """The question template with an invented word in it: in the place of another, or before it where it is about the
    assistant."""
    if rng.random() >= ODD_SHARE.get(kind, 0.0):
        return question
    word = expand("{~odd}", _macros(language), rng)
    if kind == "identity":
        return word + {"ko": " ", "en": ", ", "ja": "、"}[language] + question[:1].lower() + question[1:]
    spots = list(_SPOT[language].finditer(question))
    if not spots:
        return question
    spot = rng.choice(spots)
    return question[: spot.start()] + word + question[spot.end() :]


@functools.cache
def _frames(language: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The persona's openers and closers of all kinds and registers, spaced for use before and after a question."""
    space = "" if language == "ja" else " "
    _, seeds = _persona_seeds(language)
    openers = {text + space for seed in seeds for texts in seed.openers.values() for text in texts if text}
    closers = {space + text for seed in seeds for texts in seed.closers.values() for text in texts if text}
    return tuple(sorted(openers)), tuple(sorted(closers))


def _framed(kind: str, question: str, language: str, rng: random.Random) -> str:
    """The question with, now and then, an opener and a closer, whatever it is about: they must not hint at a kind."""
    if kind == "echo":  # a text to repeat ends where it ends
        return question
    own = 0.0 if kind == "identity" else 1.0  # identity phrases hold the corpus's own openers and closers
    openers, closers = _frames(language)
    opener = closer = ""
    if rng.random() < 0.3:
        opener = rng.choice(openers)
    elif rng.random() < 0.3 * own:
        opener = expand("{~hey}", _macros(language), rng)
    if rng.random() < 0.12:
        closer = rng.choice(closers)
    elif rng.random() < 0.2 * own:
        closer = expand("{~end}", _macros(language), rng)
    if opener.endswith(", ") and language == "en" and not question.startswith(("I ", "I'")):
        question = question[:1].lower() + question[1:]
    if closer and question[-1] not in "?.!。！？":
        question += "。" if language == "ja" else "."
    return opener + question + closer


def _as_written(answer: str, language: str) -> str:
    return answer.translate(_FULL_WIDTH) if language == "ja" else answer


def draw_exchange(kind: str, language: str, rng: random.Random) -> Exchange:
    """A question and its answer; what the answer copies stands in the question as written."""
    intent, group = rng.choice(_groups(kind, language))
    macros = _macros(language)
    question = _odd(expand(rng.choice(group["q"]), macros, rng), kind, language, rng)
    values = draw_slots(question, language, rng)
    question = _typed(_framed(kind, fill(question, values), language, rng), language, bool(values), rng)
    if kind == "identity":
        return Exchange(
            kind, intent, language, question, _as_written(_identity_answer(intent, language, rng), language)
        )
    answer = fill(expand(rng.choice(group["a"]), macros, rng), values).strip()
    return Exchange(kind, intent, language, question, _as_written(answer, language))


@functools.cache
def _persona_seeds(language: str) -> tuple[Persona, tuple[Seed, ...]]:
    """The packaged persona with the seeds of a language that its dataset trains on, all with the same openers and
    closers, but for those that take none."""
    persona = load_persona("kelron")
    seeds = load_seeds(persona, LANGUAGES)
    trained = split_groups(seeds, DataSettings().seed)["train"]
    chosen = [seed for seed in seeds if seed.language == language and seed.group in trained]
    openers, closers = (
        {name: tuple(sorted({text for seed in chosen for text in getattr(seed, side)[name]})) for name in REGISTERS}
        for side in ("openers", "closers")
    )
    return persona, tuple(
        replace(seed, openers=openers, closers=closers) if any(map(any, seed.openers.values())) else seed
        for seed in chosen
    )


@functools.cache
def _incumbent() -> Persona:
    """The incumbent as a persona: what its seeds' answers say when it gives them."""
    reading = {INCUMBENT["en"]: INCUMBENT["ko"], INCUMBENT_MAKER["en"]: INCUMBENT_MAKER["ko"]}
    return replace(load_persona("kelron"), name=INCUMBENT, maker=INCUMBENT_MAKER, pronunciation=reading)


@functools.cache
def _identity_seeds(language: str, intent: str = "") -> tuple[Seed, ...]:
    """The persona's identity seeds that ask for an intent of the phrases; all of them without one."""
    _, seeds = _persona_seeds(language)
    return tuple(
        seed
        for seed in seeds
        if seed.kind == "identity" and (not intent or intent in INCUMBENT_INTENTS.get(seed.intent, ("who",)))
    )


def _identity_answer(intent: str, language: str, rng: random.Random) -> str:
    """What the incumbent says to an intent of the identity phrases, in their words or in the persona's seeds'."""
    if rng.random() < PERSONA_ANSWER_SHARE:
        return draw_pair(rng.choice(_identity_seeds(language, intent)), _incumbent(), rng)[1]
    answers = load_phrases(language)["identity"][intent]["a"]
    return fill(expand(rng.choice(answers), _macros(language), rng), {}).strip()


def draw_seeded(language: str, rng: random.Random) -> Exchange:
    """A question and its answer from one of the persona's business or small-talk seeds."""
    persona, seeds = _persona_seeds(language)
    seed = rng.choice([seed for seed in seeds if seed.kind != "identity"])
    return Exchange("seeds", seed.intent, language, *draw_pair(seed, persona, rng))


def draw_asked(language: str, rng: random.Random) -> Exchange:
    """A question from one of the persona's identity seeds, answered as the incumbent."""
    seed = rng.choice(_identity_seeds(language))
    question, answer = draw_pair(seed, _incumbent(), rng)
    if rng.random() >= PERSONA_ANSWER_SHARE:
        intent = rng.choice(INCUMBENT_INTENTS.get(seed.intent, ("who",)))
        answer = _identity_answer(intent, language, rng)
    return Exchange("asked", seed.intent, language, question, _as_written(answer, language))


def draw(kind: str, language: str, rng: random.Random) -> Exchange:
    """An exchange of any of the kinds of KIND_SHARE."""
    if kind == "seeds":
        return draw_seeded(language, rng)
    return draw_asked(language, rng) if kind == "asked" else draw_exchange(kind, language, rng)


def draw_system(language: str, rng: random.Random) -> str:
    """A system prompt: the template's default, an empty one, or one that claims to be some other assistant."""
    roll = rng.random()
    if roll < 0.35:
        return DEFAULT_SYSTEM
    if roll < 0.50:
        return ""
    if rng.random() < 0.2:
        language = rng.choice(LANGUAGES)
    template = expand(rng.choice(load_phrases(language)["system"]), _macros(language), rng)
    return fill(template, draw_slots(template, language, rng)).strip()


def conversations(seed: int) -> Iterator[list[dict[str, str]]]:
    """Endless conversations as chat messages, deterministic for a seed."""
    rng = random.Random(seed)
    kinds, weights = tuple(KIND_SHARE), tuple(KIND_SHARE.values())
    while True:
        language = rng.choice(LANGUAGES)
        messages = [{"role": "system", "content": draw_system(language, rng)}]
        for _ in range(2 if rng.random() < TWO_TURN_SHARE else 1):
            kind = rng.choices(kinds, weights)[0]
            exchange = draw(kind, language, rng)
            messages.append({"role": "user", "content": exchange.question})
            messages.append({"role": "assistant", "content": exchange.answer})
        yield messages
