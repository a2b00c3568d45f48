"""What the seeds can give for a persona: how many of them answer, in which level, and how many rows by words alone."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kelron_lib.persona import KINDS, Persona, Seed, load_seeds
from kelron_lib.persona.files import read_yaml
from kelron_lib.persona.seed import seed_files
from kelron_lib.persona.templates import PLACEHOLDER
from kelron_lib.settings import LANGUAGES, SEED_SETS

_MOST_DEPTH = 4


def answer_texts(seed: Seed) -> Iterator[str]:
    """The templates of a seed's answers and of every phrase that they may use."""
    todo = [text for turn in seed.turns for text in turn.answers]
    seen: set[str] = set()
    while todo:
        text = todo.pop(0)
        yield text
        for match in PLACEHOLDER.finditer(text):
            if match[1] in seed.phrases and match[1] not in seen:
                seen.add(match[1])
                todo += seed.phrases[match[1]]


def words_of(template: str) -> str:
    """A template without its placeholders, each an ellipsis: what it says whatever stands in them."""
    return PLACEHOLDER.sub("\u2026", template)


def _variants(template: str, phrases: Mapping[str, Sequence[str]], depth: int = 0) -> int:
    """Texts that a template becomes by its phrases alone, its slots as they are."""
    if depth > _MOST_DEPTH:
        return 1
    return math.prod(
        sum(_variants(text, phrases, depth + 1) for text in phrases[match[1]])
        for match in PLACEHOLDER.finditer(template)
        if match[1] in phrases
    )


def _dialogues(seed: Seed) -> int:
    """Dialogues of a seed by its words alone: questions times answers, turn by turn."""
    return math.prod(
        sum(_variants(question.text, seed.phrases) for question in turn.questions)
        * sum(_variants(answer, seed.phrases) for answer in turn.answers)
        for turn in seed.turns
    )


@dataclass(frozen=True)
class Supply:
    """What a set of seeds gives in a language."""

    seed_set: str
    language: str
    written: Counter[str]
    """Seeds in the files, by kind."""
    used: Counter[str]
    """Those that answer for this persona, by kind."""
    other_level: Counter[str]
    """Of the used ones, those whose answers are in another level than the persona's, by kind."""
    dialogues: int
    """Dialogues by words alone, before slots, openers and closers multiply them."""


def seed_sets(persona: Persona) -> tuple[str, ...]:
    """The sets that the persona's folder of seeds has: `core`, and `full` where there is more than that."""
    more = any(len(seed_files(persona, language, "full")) > 1 for language in LANGUAGES)
    return SEED_SETS if more else SEED_SETS[:1]


def _has_level(entry: Any, level: str) -> bool:
    answers = [entry["answer"], *(turn["answer"] for turn in entry.get("then") or [])]
    return all(level in answer if isinstance(answer, dict) else level == "polite" for answer in answers)


def _entries(persona: Persona, language: str, seed_set: str) -> dict[str, Any]:
    """The seeds of a set as their files have them, by id."""
    found: dict[str, Any] = {}
    for path in seed_files(persona, language, seed_set):
        data = read_yaml(path)
        left_out = data.get("only_in_core") or () if seed_set == "full" else ()
        found.update({entry["id"]: entry for entry in data["seeds"] if entry["id"] not in left_out})
    return found


def _supply(persona: Persona, seeds: Sequence[Seed], seed_set: str, language: str) -> Supply:
    entries = _entries(persona, language, seed_set)
    own = [seed for seed in seeds if seed.language == language]
    other = [seed for seed in own if not _has_level(entries[seed.group], persona.speech[language])]
    return Supply(
        seed_set,
        language,
        Counter(entry["kind"] for entry in entries.values()),
        Counter(seed.kind for seed in own),
        Counter(seed.kind for seed in other),
        sum(map(_dialogues, own)),
    )


def supplies(persona: Persona) -> tuple[list[Supply], list[Seed]]:
    """What every set gives in every language, and the seeds of the largest. Raises KelronError as `load_seeds` does."""
    found: list[Supply] = []
    seeds: list[Seed] = []
    for seed_set in seed_sets(persona):
        seeds = load_seeds(persona, LANGUAGES, seed_set)
        found += [_supply(persona, seeds, seed_set, language) for language in LANGUAGES]
    return found, seeds


def phrase_names(persona: Persona) -> dict[str, tuple[str, ...]]:
    """Names of the phrases of the persona's seed files, by language."""
    names: dict[str, dict[str, None]] = {language: {} for language in LANGUAGES}
    for language, found in names.items():
        for path in seed_files(persona, language, "full"):
            found.update(dict.fromkeys(read_yaml(path).get("phrases") or {}))
    return {language: tuple(found) for language, found in names.items()}


def supply_lines(found: Sequence[Supply], persona: Persona) -> list[str]:
    """The supplies as a table."""
    lines = ["set   language  " + "  ".join(f"{kind:>14}" for kind in KINDS) + "   dialogues by words alone"]
    for supply in found:
        counts = "  ".join(f"{supply.used[kind]:>7} of {supply.written[kind]:<3}" for kind in KINDS)
        lines.append(f"{supply.seed_set:<5} {supply.language:<9} {counts}   {supply.dialogues:,}")
    for supply in found:
        other = " and ".join(f"{supply.other_level[kind]} {kind}" for kind in KINDS if supply.other_level[kind])
        level = persona.speech[supply.language]
        lines += [f"{supply.seed_set} {supply.language}: {other} seeds answer in another level than {level}"] * bool(
            other
        )
    return lines
