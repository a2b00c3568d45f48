"""Seeds: question phrasings and answers of one meaning, written by people; the package docstring has the schema."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kelron_lib.config import nearest
from kelron_lib.errors import KelronError
from kelron_lib.persona.definition import Persona
from kelron_lib.persona.files import check_keys, read_yaml, text_list
from kelron_lib.persona.josa import PAIRS
from kelron_lib.persona.templates import PERSONA_SLOTS, PLACEHOLDER, load_lexicon
from kelron_lib.settings import LANGUAGES

KINDS = ("identity", "business", "chat")
REGISTERS = ("polite", "casual")
_NO_OPENER = ("",)


@dataclass(frozen=True)
class Question:
    text: str
    """Template of the question."""
    register: str
    """Speech level, `polite` or `casual`: openers and closers must share it."""


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
    """Templates; they use no slot that a question lacks."""
    entries: Mapping[str, tuple[str, ...]]
    """Slot entries: the lexicon's, narrowed by the seed's `only`."""
    phrases: Mapping[str, tuple[str, ...]]
    """Phrase lists of the seed's file."""
    openers: Mapping[str, tuple[str, ...]]
    """Texts that may come before a question, by register; the empty one is always among them."""
    closers: Mapping[str, tuple[str, ...]]
    """Texts that may follow a question, by register; the empty one is always among them."""


def _flat_slots(template: str, phrases: Mapping[str, Sequence[str]], depth: int = 0) -> set[str]:
    """All slot keys that a template may come to use, through its phrases too."""
    found: set[str] = set()
    for match in PLACEHOLDER.finditer(template):
        if match[1] in phrases and depth < 4:
            for phrase in phrases[match[1]]:
                found |= _flat_slots(phrase, phrases, depth + 1)
        else:
            found.add(match[1] + match[2])
    return found


def _check_seed(seed: Seed, where: str) -> None:
    """Placeholders are known, answers copy only what every question gives, only identity answers name the persona."""
    given = [_flat_slots(question.text, seed.phrases) for question in seed.questions]
    common = set.intersection(*given) | set(PERSONA_SLOTS)
    for template in [*(question.text for question in seed.questions), *seed.answers]:
        if template.count("{") != len(PLACEHOLDER.findall(template)):
            raise KelronError(f"{where}: broken placeholder in {template!r}")
        for match in PLACEHOLDER.finditer(template):
            if match[3] and match[3] != "a" and match[3] not in PAIRS:
                raise KelronError(f"{where}: unknown josa {match[0]} in {template!r}.{nearest(match[3], PAIRS)}")
        for key in _flat_slots(template, seed.phrases):
            base = key.rstrip("0123456789")
            if base not in seed.entries and base not in PERSONA_SLOTS:
                known = [*seed.entries, *seed.phrases, *PERSONA_SLOTS]
                raise KelronError(f"{where}: unknown slot {{{key}}} in {template!r}.{nearest(base, known)}")
    for answer in seed.answers:
        used = _flat_slots(answer, seed.phrases)
        if lacking := sorted(used - common):
            raise KelronError(f"{where}: answer {answer!r} uses {{{lacking[0]}}}, which some question lacks")
        if seed.kind != "identity" and used & set(PERSONA_SLOTS):
            raise KelronError(f"{where}: a {seed.kind} answer names the persona: {answer!r}")


def _frames(data: Any, kind: str, where: str) -> dict[str, tuple[str, ...]]:
    """Openers or closers of a kind, by register, with the empty one first."""
    check_keys(data, (), KINDS, where)
    registers = data.get(kind) or {}
    check_keys(registers, (), REGISTERS, f"{where}.{kind}")
    return {
        register: _NO_OPENER + (text_list(registers[register], where) if registers.get(register) else ())
        for register in REGISTERS
    }


def _parse(entry: Any, data: Mapping[str, Any], phrases: dict[str, tuple[str, ...]], path: Path) -> Seed:
    label = entry.get("id", entry) if isinstance(entry, dict) else entry
    where = f"{path}: seed {label}"
    check_keys(entry, ("id", "kind", "intent", "ask", "answer"), ("only", "frame"), where)
    kind, language = entry["kind"], data["language"]
    for field in ("id", "intent"):
        if not isinstance(entry[field], str) or not entry[field].strip():
            raise KelronError(f"{where}: {field} must be a text")
    check_keys(entry.get("only") or {}, (), load_lexicon(language), f"{where}: only")
    if kind not in KINDS:
        raise KelronError(f"{where}: unknown kind {kind!r}.{nearest(str(kind), KINDS)}")
    check_keys(entry["ask"], (), REGISTERS, f"{where}: ask")
    questions = tuple(
        Question(text, register)
        for register in REGISTERS
        if register in entry["ask"]
        for text in text_list(entry["ask"][register], f"{where}: ask.{register}")
    )
    if not questions:
        raise KelronError(f"{where}: no question: write some under ask.polite or ask.casual")
    only = {slot: text_list(items, f"{where}: only.{slot}") for slot, items in (entry.get("only") or {}).items()}
    framed = entry.get("frame", True)
    seed = Seed(
        id=f"{language}/{entry['id']}",
        group=entry["id"],
        kind=kind,
        intent=entry["intent"],
        language=language,
        questions=questions,
        answers=text_list(entry["answer"], f"{where}: answer"),
        entries={**load_lexicon(language), **only},
        phrases=phrases,
        openers=_frames(data.get("openers", {}) if framed else {}, kind, f"{path}: openers"),
        closers=_frames(data.get("closers", {}) if framed else {}, kind, f"{path}: closers"),
    )
    _check_seed(seed, where)
    return seed


def _load_language(path: Path, language: str) -> list[Seed]:
    data = read_yaml(path)
    check_keys(data, ("language", "seeds"), ("phrases", "openers", "closers"), str(path))
    if data["language"] != language:
        raise KelronError(f"{path}: language is {data['language']!r}, expected {language!r}")
    phrases = {name: text_list(texts, f"{path}: phrases.{name}") for name, texts in (data.get("phrases") or {}).items()}
    if not isinstance(data["seeds"], list) or not data["seeds"]:
        raise KelronError(f"{path}: seeds is empty: write at least one")
    seeds = [_parse(entry, data, phrases, path) for entry in data["seeds"]]
    groups = [seed.group for seed in seeds]
    if len(set(groups)) < len(groups):
        twice = next(group for group in groups if groups.count(group) > 1)
        raise KelronError(f"{path}: seed id {twice!r} is used twice")
    return seeds


def load_seeds(persona: Persona, languages: Sequence[str] = LANGUAGES) -> list[Seed]:
    """The persona's seeds, language by language in file order.

    Raises KelronError for a missing or broken file, unknown keys, slots or registers, an id used twice, an answer
    that uses what its questions do not give, and a group whose kind or intent differs between languages.
    """
    seeds = [seed for language in languages for seed in _load_language(persona.seeds / f"{language}.yaml", language)]
    meaning: dict[str, Seed] = {}
    for seed in seeds:
        first = meaning.setdefault(seed.group, seed)
        if (first.kind, first.intent) != (seed.kind, seed.intent):
            raise KelronError(f"seeds {first.id} and {seed.id} share an id but not kind and intent")
    return seeds
