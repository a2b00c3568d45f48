"""Whether the persona's names can be told from ordinary words: what an evaluation counts stands and falls by that."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kelron_lib.evaluate.names import Lexicon, lexicon
from kelron_lib.persona import Persona, Seed, attach_josa, load_lexicon
from kelron_lib.persona.document import Document
from kelron_lib.persona.files import PACKAGED, read_yaml, text_list
from kelron_lib.persona_check.findings import ERROR, WARNING, Finding
from kelron_lib.persona_check.seeds import answer_texts, words_of
from kelron_lib.settings import LANGUAGES

_SHORTEST = {True: 3, False: 2}
"""Letters that a name needs to be found in a text: in Latin letters, and in others."""


@dataclass(frozen=True)
class _Name:
    keys: tuple[Any, ...]
    text: str


@functools.cache
def common_words() -> Mapping[str, frozenset[str]]:
    """Ordinary words by language, in small letters."""
    path = PACKAGED / "common_words.yaml"
    data = read_yaml(path)
    return {k: frozenset(word.casefold() for word in text_list(data[k], f"{path}: {k}")) for k in data}


def _names(document: Document, persona: Persona) -> Iterator[_Name]:
    """The names and the further spellings, each text once."""
    seen: set[str] = set()
    told = [(("name", language), persona.name[language]) for language in LANGUAGES]
    extra = document.data.get("spellings") or []
    for keys, text in [*told, *((("spellings", index), text) for index, text in enumerate(extra))]:
        if text.casefold() not in seen:
            seen.add(text.casefold())
            yield _Name(keys, text)


def _counted(text: str, name: str, names: Lexicon) -> bool:
    """Whether the evaluation finds the name in the text."""
    return any(m.kind == "persona" and text[m.start : m.end] == name for m in names.mentions(text))


def _says(text: str, name: str, names: Lexicon) -> bool:
    """Whether the evaluation, or the gate, which looks for the letters alone, takes the text for one with the name."""
    return name in text or _counted(text, name, names)


def _common(document: Document, name: _Name) -> Iterator[Finding]:
    for language, words in common_words().items():
        if name.text.casefold() in words:
            yield Finding(
                document.at(*name.keys),
                WARNING,
                f"the name {name.text!r} is an ordinary word ({language}): wherever an answer uses the word, the "
                "evaluation counts it as naming itself, so recall and over-identity read too high; choose a name that "
                "is no word",
            )
            return


def _in_seeds(document: Document, name: _Name, names: Lexicon, seeds: Sequence[Seed]) -> Iterator[Finding]:
    """Where business and small talk say the name. The gate refuses such answers; a question only blurs the figures."""
    asked: list[str] = []
    for seed in seeds:
        if seed.kind == "identity":
            continue
        if hit := next((text for text in answer_texts(seed) if _says(words_of(text), name.text, names)), None):
            yield Finding(
                document.at(*name.keys),
                ERROR,
                f"the name {name.text!r} stands in an answer of seed {seed.id} ({hit!r}): rows of it would name the "
                "persona where they must not, and the gate refuses them; choose a name that no answer says",
            )
            return
        if any(
            _counted(words_of(question.text), name.text, names) for turn in seed.turns for question in turn.questions
        ):
            asked.append(seed.id)
    for language in LANGUAGES:
        for slot, entries in load_lexicon(language).items():
            if hit := next((entry for entry in entries if _says(entry, name.text, names)), None):
                yield Finding(
                    document.at(*name.keys),
                    ERROR,
                    f"the name {name.text!r} stands in the lexicon ({language} {slot}: {hit!r}), so business rows "
                    "would name the persona, and the gate refuses them; choose another name",
                )
                return
    if asked:
        yield Finding(
            document.at(*name.keys),
            WARNING,
            f"the name {name.text!r} stands in a question of seed {asked[0]}, which is not about the persona"
            f"{f' (and of {len(asked) - 1} more)' if len(asked) > 1 else ''}: choose a name that is no word",
        )


def _countable(document: Document, name: _Name, names: Lexicon, persona: Persona) -> Iterator[Finding]:
    """A name is found again in the sentences that assert it."""
    sentences = (
        f"{attach_josa(name.text, '이에요/예요', persona.pronunciation)}. 저는 {name.text}입니다.",
        f"I am {name.text}.",
        f"私は{name.text}です。",
    )
    latin = name.text.isascii()
    least = _SHORTEST[latin]
    if sum(char.isalnum() for char in name.text) < least:
        yield Finding(
            document.at(*name.keys),
            WARNING,
            f"the name {name.text!r} has fewer than {least} letters, so it is found inside other words: choose a "
            "longer one",
        )
    elif not all(any(m.kind == "persona" for m in names.mentions(text)) for text in sentences):
        yield Finding(
            document.at(*name.keys),
            ERROR,
            f"the evaluation does not find {name.text!r} in 'I am {name.text}.': leave out signs that are no letters, "
            "or give the maker another name",
        )


def name_findings(document: Document, persona: Persona, seeds: Sequence[Seed]) -> Iterator[Finding]:
    """Names that are ordinary words, stand in the seeds, or cannot be found."""
    names = lexicon(persona)
    for name in _names(document, persona):
        yield from _common(document, name)
        yield from _in_seeds(document, name, names, seeds)
        yield from _countable(document, name, names, persona)
