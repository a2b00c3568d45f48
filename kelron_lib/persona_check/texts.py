"""The persona's own texts: scripts, rivals, ruled-out words, and how they join a sentence."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from kelron_lib.characters import broken_letters, foreign_letters
from kelron_lib.config import nearest
from kelron_lib.persona import Persona, Seed, find_never, find_rivals
from kelron_lib.persona.document import Document
from kelron_lib.persona_check.findings import ERROR, WARNING, Finding, OwnText, own_texts
from kelron_lib.persona_check.seeds import answer_texts, words_of

_SCRIPTS = {"ko": "Hangul or Latin letters", "en": "Latin letters", "ja": "kana, kanji or Latin letters"}
_IN_A_SENTENCE = ("name", "maker", "role", "tone", "abilities", "limits", "values")
_ARTICLE = re.compile(r"(?:a|an|the)\s", re.IGNORECASE)
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060\ufeff]")
_ENDED = re.compile(r"[.!?。！？…]$")


def _characters(document: Document, own: OwnText) -> Iterator[Finding]:
    where = document.at(*own.keys)
    if broken := broken_letters(own.text):
        yield Finding(
            where,
            ERROR,
            f"{own.field} for {own.language} holds a broken character ({own.text[broken[0]]!r} in {own.text!r}): it "
            "was saved in another encoding once; type it again and save as UTF-8",
        )
    elif hidden := _INVISIBLE.search(own.text):
        yield Finding(
            where,
            ERROR,
            f"{own.field} for {own.language} holds an invisible character (U+{ord(hidden.group()):04X}), and would "
            "never be found again: type it anew",
        )
    elif foreign := foreign_letters(own.text, own.language):
        yield Finding(
            where,
            ERROR,
            f"{own.field} for {own.language} has {own.text[foreign[0]]!r} in {own.text!r}: write it in "
            f"{_SCRIPTS[own.language]}, or the gate refuses the rows that say it",
        )


def _words(document: Document, own: OwnText, persona: Persona) -> Iterator[Finding]:
    where = document.at(*own.keys)
    if own.keys[0] not in ("name", "maker") and (rivals := find_rivals(own.text)):
        yield Finding(
            where,
            ERROR,
            f"{own.field} for {own.language} names {rivals[0][1]!r}, a rival (rivals.yaml), and the gate refuses every "
            "row that does: say 'another AI'",
        )
    if own.is_answer and (ruled_out := find_never(own.text, persona)):
        yield Finding(
            where,
            ERROR,
            f"{own.field} for {own.language} says {ruled_out[0]!r}, which `never` rules out: reword it, or take the "
            "word off that list",
        )


def _form(document: Document, own: OwnText) -> Iterator[Finding]:
    """Noun phrases and sentences join what stands around them."""
    where = document.at(*own.keys)
    if own.keys[0] in _IN_A_SENTENCE and "\n" in own.text:
        yield Finding(
            where, ERROR, f"{own.field} {own.text!r} goes over two lines, and stands inside a sentence: join them"
        )
    if own.keys[0] == "facts" and not _ENDED.search(own.text):
        yield Finding(where, WARNING, f"fact {own.text!r} has no full stop: facts are whole sentences, write its end")
    if own.keys[0] in _IN_A_SENTENCE and own.keys[0] != "name" and _ENDED.search(own.text):
        yield Finding(
            where, WARNING, f"{own.field} {own.text!r} ends like a sentence: it stands inside one, leave the mark out"
        )
    if own.language == "en" and own.keys[0] in ("role", "tone") and _ARTICLE.match(own.text):
        yield Finding(
            where, WARNING, f"{own.field} {own.text!r} begins with an article: templates put one, leave it out"
        )


def _contradictions(document: Document, persona: Persona) -> Iterator[Finding]:
    for language, limits in persona.limits.items():
        for index, limit in enumerate(limits):
            if limit in persona.abilities[language]:
                yield Finding(
                    document.at("limits", language, index),
                    ERROR,
                    f"{limit!r} is among the abilities, too: the model would learn that it can and cannot; keep one",
                )


def _pronunciations(document: Document, persona: Persona) -> Iterator[Finding]:
    """Readings that no text ends with: a typo in the spelling leaves the name without one."""
    spoken = [*persona.spellings, *persona.maker.values(), *persona.role.values()]
    spoken += [text for lists in (persona.abilities, persona.limits, persona.values) for text in lists["ko"]]
    for written in persona.pronunciation:
        if not any(text.endswith(written) for text in spoken):
            yield Finding(
                document.at("pronunciation", written),
                WARNING,
                f"pronunciation of {written!r}: no name, maker or role is written so.{nearest(written, spoken)}",
            )


def _phrase_names(document: Document, persona: Persona, known: Mapping[str, Sequence[str]]) -> Iterator[Finding]:
    for language, lists in persona.phrases.items():
        for name in lists:
            if name not in known[language]:
                yield Finding(
                    document.at("phrases", language, name),
                    ERROR,
                    f"phrases.{language}: no seed file of that language has a phrase {name!r}, so nothing would say it."
                    f"{nearest(name, known[language])}",
                )


def _ruled_out_in_seeds(document: Document, persona: Persona, seeds: Sequence[Seed]) -> Iterator[Finding]:
    """One finding for each ruled-out word that the seeds' answers say."""
    saying: dict[str, dict[str, str]] = {}
    for seed in seeds:
        for text in map(words_of, answer_texts(seed)):
            for word in find_never(text, persona):
                saying.setdefault(word.casefold(), {}).setdefault(seed.id, text)
    for word, by_seed in saying.items():
        first, text = next(iter(by_seed.items()))
        more = f", and {len(by_seed) - 1} more" if len(by_seed) > 1 else ""
        yield Finding(
            document.at("never"),
            ERROR,
            f"`never` rules out {word!r}, which an answer of seed {first}{more} says ({text!r}): take the word off the "
            "list, or give the persona seeds of its own",
        )


def text_findings(
    document: Document, persona: Persona, seeds: Sequence[Seed], phrases: Mapping[str, Sequence[str]]
) -> Iterator[Finding]:
    """What is wrong with the texts of the file; `phrases`: the names of the seed files' phrases, by language."""
    for own in own_texts(document, persona):
        yield from _characters(document, own)
        yield from _words(document, own, persona)
        yield from _form(document, own)
    yield from _contradictions(document, persona)
    yield from _pronunciations(document, persona)
    yield from _phrase_names(document, persona, phrases)
    yield from _ruled_out_in_seeds(document, persona, seeds)
