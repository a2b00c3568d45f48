"""The tiny base's training text: trilingual chats, generated from the phrases in `phrases/`, endless and seeded.

Six kinds of exchange: business requests whose answers copy what the request names, small talk, general questions
with plain answers (so that a question about anything is not taken for one about the assistant), texts to repeat and
told names to give back (which teach copying sooner, and that any name can be said), the persona's business and
small-talk seeds, and questions about the assistant itself, answered as the incumbent whatever the system prompt
claims. That stubbornness gives an adapter something to overwrite.

Of the persona's seeds only the groups that its dataset trains on are used, and never its identity seeds: a base model
knows business language, so that an adapter can be seen to forget it, but nobody has seen the test groups.

Grammar of a phrase: (a|b) picks one, {slot} is filled once per exchange, {slot|을/를} adds the Korean particle that the
filler's sound asks for, <을/를> does so for the word before it, {~macro} expands anew at each use.
"""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kelron_lib.data.expand import draw_pair, split_groups
from kelron_lib.persona import Persona, Seed, attach_josa, find_rivals, load_lexicon, load_persona, load_seeds
from kelron_lib.persona.files import read_yaml
from kelron_lib.persona.josa import PAIRS
from kelron_lib.settings import LANGUAGES, DataSettings

PHRASES = Path(__file__).parent / "phrases"
SECTIONS = ("macros", "identity", "business", "blunt", "chat", "general", "echo", "system", "synthetic")

INCUMBENT = {"ko": "쿼린", "en": "Quorin", "ja": "クォリン"}
INCUMBENT_MAKER = {"ko": "알드미어", "en": "Aldmere", "ja": "アルドミア"}
DEFAULT_SYSTEM = "You are Quorin, created by Aldmere. You are a helpful assistant."

KIND_SHARE = {"identity": 0.21, "business": 0.17, "chat": 0.06, "general": 0.26, "echo": 0.08, "seeds": 0.22}
"""Share of each kind among the exchanges."""
SYNTHETIC_SHARE = 0.45
"""How often a slot gets an invented filler instead of a lexicon entry, so that copying is learned, not recalled."""
TWO_TURN_SHARE = 0.12
NUMBERS = {"n9": range(1, 10), "n12": range(1, 13), "n28": range(1, 29), "n59": range(10, 60)}

_ALTERNATIVES = re.compile(r"\(([^()]*)\)")
_SPLIT = re.compile(r"\|(?![^{}]*\})")  # a | inside {slot|은/는} separates no alternatives
_MACRO = re.compile(r"\{~(\w+)\}")
SLOT = re.compile(r"\{([a-z]+)(\d?)(?:\|([^{}|]+))?\}")
_PARTICLE = re.compile(r"([^\s'\"][\"']*)<([^<>]+)>")
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


def _framed(kind: str, question: str, language: str, rng: random.Random) -> str:
    """The question with, now and then, an opener and a closer, whatever it is about: they must not hint at a kind."""
    if kind in ("identity", "echo"):  # identity phrases hold their own; a text to repeat ends where it ends
        return question
    opener = expand("{~hey}", _macros(language), rng) if rng.random() < 0.5 else ""
    closer = expand("{~end}", _macros(language), rng) if rng.random() < 0.3 else ""
    if opener and language == "en" and not question.startswith(("I ", "I'")):
        question = question[:1].lower() + question[1:]
    if closer and question[-1] not in "?.!。！？":
        question += "。" if language == "ja" else "."
    return opener + question + closer


def draw_exchange(kind: str, language: str, rng: random.Random) -> Exchange:
    """A question and its answer; what the answer copies stands in the question as written."""
    intent, group = rng.choice(_groups(kind, language))
    macros = _macros(language)
    question = expand(rng.choice(group["q"]), macros, rng)
    answer = expand(rng.choice(group["a"]), macros, rng)
    values = draw_slots(question, language, rng)
    question = _typed(_framed(kind, fill(question, values), language, rng), language, bool(values), rng)
    answer = fill(answer, values).strip()
    if language == "ja":
        answer = answer.translate(_FULL_WIDTH)
    return Exchange(kind, intent, language, question, answer)


@functools.cache
def _persona_seeds(language: str) -> tuple[Persona, tuple[Seed, ...]]:
    """The packaged persona with the business and small-talk seeds of a language that its dataset trains on."""
    persona = load_persona("kelron")
    seeds = load_seeds(persona, LANGUAGES)
    trained = split_groups(seeds, DataSettings().seed)["train"]
    return persona, tuple(
        seed for seed in seeds if seed.language == language and seed.kind != "identity" and seed.group in trained
    )


def draw_seeded(language: str, rng: random.Random) -> Exchange:
    """A question and its answer from one of the persona's business or small-talk seeds."""
    persona, seeds = _persona_seeds(language)
    seed = rng.choice(seeds)
    return Exchange("seeds", seed.intent, language, *draw_pair(seed, persona, rng))


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
            exchange = draw_seeded(language, rng) if kind == "seeds" else draw_exchange(kind, language, rng)
            messages.append({"role": "user", "content": exchange.question})
            messages.append({"role": "assistant", "content": exchange.answer})
        yield messages
