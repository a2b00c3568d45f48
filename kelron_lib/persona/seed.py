"""Seeds: question phrasings and answers of one meaning, written by people; the package docstring has the schema."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kelron_lib.config import nearest
from kelron_lib.errors import KelronError
from kelron_lib.persona.check import check_seed
from kelron_lib.persona.definition import Persona
from kelron_lib.persona.files import check_keys, read_yaml, text_list
from kelron_lib.persona.templates import FACT_SLOTS, PLACEHOLDER, load_lexicon
from kelron_lib.settings import LANGUAGES, SEED_SETS

KINDS = ("identity", "business", "chat")
REGISTERS = ("formal", "polite", "casual")
LEVELS = ("polite", "casual")
_NO_OPENER = ("",)


@dataclass(frozen=True)
class Question:
    text: str
    """Template of the question."""
    register: str
    """Speech level, one of REGISTERS: openers, closers and the other turns must share it."""


@dataclass(frozen=True)
class Turn:
    questions: tuple[Question, ...]
    answers: tuple[str, ...]
    """Templates in the persona's speech level; they use no lexicon slot that a question may lack."""


@dataclass(frozen=True)
class Seed:
    id: str
    """`<language>/<group>`."""
    group: str
    """Id shared by the corresponding seeds of the other languages; a group is never in two splits."""
    kind: str
    """`identity` (answers assert the persona), `business` or `chat` (answers never name it)."""
    intent: str
    """What is asked for; correspondence over languages and stratified splits go by it."""
    language: str
    questions: tuple[Question, ...]
    answers: tuple[str, ...]
    """Templates in the persona's speech level; they use no lexicon slot that a question may lack."""
    entries: Mapping[str, tuple[str, ...]]
    """Slot entries: the lexicon's and the persona's facts, narrowed by the seed's `only`."""
    phrases: Mapping[str, tuple[str, ...]]
    """Phrase lists of the seed's file in the persona's speech level, the persona's own in their place."""
    openers: Mapping[str, tuple[str, ...]]
    """Texts that may come before a question, by register; the empty one is always among them."""
    closers: Mapping[str, tuple[str, ...]]
    """Texts that may follow a question, by register; the empty one is always among them."""
    systems: tuple[str, ...] = ()
    """System messages that stand in the place of the persona's; templates of {name}, {maker} and {role}."""
    then: tuple[Turn, ...] = ()
    """The turns after the first."""

    @property
    def turns(self) -> tuple[Turn, ...]:
        """All turns in order."""
        return (Turn(self.questions, self.answers), *self.then)


@dataclass(frozen=True)
class _File:
    """What the seeds of a file share."""

    path: Path
    language: str
    level: str
    entries: Mapping[str, tuple[str, ...]]
    phrases: Mapping[str, tuple[str, ...]]
    openers: Any
    closers: Any


# --- Speech levels and facts ------------------------------------------------------------------------------
def _at_level(value: Any, level: str, where: str, *, strict: bool) -> tuple[str, ...]:
    """The texts of a list (polite ones) or of a mapping by speech level. Where the asked level is missing: nothing if
    `strict`, else the texts of the other level."""
    by_level = value if isinstance(value, dict) else {"polite": value}
    check_keys(by_level, (), LEVELS, where)
    lists = {name: text_list(by_level[name], f"{where}.{name}" if len(by_level) > 1 else where) for name in by_level}
    if not lists:
        raise KelronError(f"{where}: no text: write some under polite or casual")
    return lists.get(level) or (() if strict else next(iter(lists.values())))


def _facts(persona: Persona, language: str) -> dict[str, tuple[str, ...]]:
    """What the fact slots stand for: the persona's own words, none for what it does not tell."""
    tone = persona.tone.get(language, "")
    return {
        "ability": persona.abilities.get(language, ()),
        "limit": persona.limits.get(language, ()),
        "value": persona.values.get(language, ()),
        "tone": (tone,) if tone else (),
        "fact": persona.facts.get(language, ()),
    }


def _tellable(
    texts: tuple[str, ...], facts: Mapping[str, tuple[str, ...]], phrases: Mapping[str, tuple[str, ...]]
) -> tuple[str, ...]:
    """The templates whose facts the persona has: {ability3} asks for three abilities."""

    def tells(text: str) -> bool:
        for match in PLACEHOLDER.finditer(text):
            if match[1] in FACT_SLOTS and len(facts[match[1]]) < int(match[2] or 1):
                return False
            if match[1] in phrases and not phrases[match[1]]:
                return False
        return True

    return tuple(text for text in texts if tells(text))


def _phrases(data: Any, persona: Persona, language: str, level: str, path: Path) -> dict[str, tuple[str, ...]]:
    """The file's phrases at a level, those of the persona in their place, without those it has no facts for."""
    check_keys(data, (), data if isinstance(data, dict) else (), f"{path}: phrases")
    phrases = {name: _at_level(data[name], level, f"{path}: phrases.{name}", strict=False) for name in data}
    phrases.update(persona.phrases.get(language, {}))
    facts = _facts(persona, language)
    while True:  # a phrase that loses all its texts takes the phrases with it that use it
        kept = {name: _tellable(texts, facts, phrases) for name, texts in phrases.items()}
        if kept == phrases:
            return kept
        phrases = kept


# --- One seed ---------------------------------------------------------------------------------------------
def _frames(data: Any, kind: str, where: str) -> dict[str, tuple[str, ...]]:
    """Openers or closers of a kind, by register, with the empty one first."""
    check_keys(data, (), KINDS, where)
    registers = data.get(kind) or {}
    check_keys(registers, (), REGISTERS, f"{where}.{kind}")
    return {
        register: _NO_OPENER + (text_list(registers[register], where) if registers.get(register) else ())
        for register in REGISTERS
    }


def _turn(entry: Any, kind: str, file: _File, where: str) -> Turn:
    check_keys(entry["ask"], (), REGISTERS, f"{where}: ask")
    questions = tuple(
        Question(text, register)
        for register in ("polite", "casual", "formal")
        if register in entry["ask"]
        for text in text_list(entry["ask"][register], f"{where}: ask.{register}")
    )
    if not questions:
        raise KelronError(f"{where}: no question: write some under ask.formal, ask.polite or ask.casual")
    answers = _at_level(entry["answer"], file.level, f"{where}: answer", strict=kind == "identity")
    return Turn(questions, answers)


def _parse(entry: Any, file: _File, where: str) -> Seed:
    check_keys(entry, ("id", "kind", "intent", "ask", "answer"), ("only", "frame", "system", "then"), where)
    kind = entry["kind"]
    for field in ("id", "intent"):
        if not isinstance(entry[field], str) or not entry[field].strip():
            raise KelronError(f"{where}: {field} must be a text")
    check_keys(entry.get("only") or {}, (), load_lexicon(file.language), f"{where}: only")
    if kind not in KINDS:
        raise KelronError(f"{where}: unknown kind {kind!r}.{nearest(str(kind), KINDS)}")
    first = _turn(entry, kind, file, where)
    then = entry.get("then") or []
    for number, turn in enumerate(then, start=2):
        check_keys(turn, ("ask", "answer"), (), f"{where}: turn {number}")
    only = {slot: text_list(items, f"{where}: only.{slot}") for slot, items in (entry.get("only") or {}).items()}
    framed = entry.get("frame", True)
    return Seed(
        id=f"{file.language}/{entry['id']}",
        group=entry["id"],
        kind=kind,
        intent=entry["intent"],
        language=file.language,
        questions=first.questions,
        answers=first.answers,
        entries={**file.entries, **only},
        phrases=file.phrases,
        openers=_frames(file.openers if framed else {}, kind, f"{file.path}: openers"),
        closers=_frames(file.closers if framed else {}, kind, f"{file.path}: closers"),
        systems=text_list(entry["system"], f"{where}: system") if "system" in entry else (),
        then=tuple(_turn(turn, kind, file, f"{where}: turn {n}") for n, turn in enumerate(then, start=2)),
    )


def _with_facts(seed: Seed, persona: Persona) -> Seed | None:
    """The seed with the templates alone that the persona has facts for; None where a turn is left without any."""
    facts = _facts(persona, seed.language)
    turns = []
    for turn in seed.turns:
        texts = {question.text for question in turn.questions}
        asked = set(_tellable(tuple(texts), facts, seed.phrases))
        questions = tuple(question for question in turn.questions if question.text in asked)
        turns.append(Turn(questions, _tellable(turn.answers, facts, seed.phrases)))
    if not all(turn.questions and turn.answers for turn in turns):
        return None
    first, *then = turns
    return Seed(**{**vars(seed), "questions": first.questions, "answers": first.answers, "then": tuple(then)})


# --- Files ------------------------------------------------------------------------------------------------
def _load_file(path: Path, persona: Persona, language: str, seed_set: str) -> list[Seed]:
    data = read_yaml(path)
    check_keys(data, ("language", "seeds"), ("phrases", "openers", "closers", "only_in_core"), str(path))
    if data["language"] != language:
        raise KelronError(f"{path}: language is {data['language']!r}, expected {language!r}")
    if not isinstance(data["seeds"], list) or not data["seeds"]:
        raise KelronError(f"{path}: seeds is empty: write at least one")
    level = persona.speech[language]
    file = _File(
        path=path,
        language=language,
        level=level,
        entries={**load_lexicon(language), **_facts(persona, language)},
        phrases=_phrases(data.get("phrases") or {}, persona, language, level, path),
        openers=data.get("openers") or {},
        closers=data.get("closers") or {},
    )
    seeds = []
    for entry in data["seeds"]:
        where = f"{path}: seed {entry.get('id', entry) if isinstance(entry, dict) else entry}"
        seed = _parse(entry, file, where)
        check_seed(seed, where)
        seeds.append(seed)
    core = text_list(data["only_in_core"], f"{path}: only_in_core") if data.get("only_in_core") else ()
    if strange := set(core) - {seed.group for seed in seeds}:
        raise KelronError(f"{path}: only_in_core names {min(strange)!r}, which is no seed of it")
    wanted = [seed for seed in seeds if seed_set == "core" or seed.group not in core]
    return [told for seed in wanted if (told := _with_facts(seed, persona))]


def seed_files(persona: Persona, language: str, seed_set: str) -> list[Path]:
    """The files of a set of seeds in a language."""
    further = sorted((persona.seeds / language).glob("*.yaml")) if seed_set == "full" else []
    return [persona.seeds / f"{language}.yaml", *further]


def _load_language(persona: Persona, language: str, seed_set: str) -> list[Seed]:
    seeds: list[Seed] = []
    home: dict[str, Path] = {}
    for path in seed_files(persona, language, seed_set):
        for seed in _load_file(path, persona, language, seed_set):
            if seed.group in home:
                raise KelronError(f"{path}: seed id {seed.group!r} is used twice (also in {home[seed.group]})")
            home[seed.group] = path
            seeds.append(seed)
    return seeds


def load_seeds(
    persona: Persona, languages: tuple[str, ...] | list[str] = LANGUAGES, seed_set: str = SEED_SETS[0]
) -> list[Seed]:
    """The persona's seeds, language by language in file order, with the answers in its speech level.

    seed_set: `core` for the files <language>.yaml alone, `full` for those of the folders <language>/ besides, without
    the seeds that are `only_in_core`. Seeds that have no identity answer in the persona's speech level, or that ask
    for facts the persona does not tell, are left out; `kelron persona check` counts them.

    Raises KelronError for a missing or broken file, unknown keys, slots or registers, an id used twice, an answer
    that uses what its questions do not give, and a group whose kind or intent differs between languages.
    """
    if seed_set not in SEED_SETS:
        raise KelronError(f"unknown seed set {seed_set!r}.{nearest(seed_set, SEED_SETS)}")
    seeds = [seed for language in languages for seed in _load_language(persona, language, seed_set)]
    meaning: dict[str, Seed] = {}
    for seed in seeds:
        first = meaning.setdefault(seed.group, seed)
        if (first.kind, first.intent) != (seed.kind, seed.intent):
            raise KelronError(f"seeds {first.id} and {seed.id} share an id but not kind and intent")
    return seeds
