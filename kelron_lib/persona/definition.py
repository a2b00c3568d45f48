"""The persona: who the model is to be, in every language."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kelron_lib.config import nearest
from kelron_lib.errors import KelronError
from kelron_lib.persona.document import Document, read_document
from kelron_lib.persona.files import PACKAGED, check_keys, packaged_file, read_yaml, text_list
from kelron_lib.persona.josa import has_reading
from kelron_lib.persona.rivals import rival_of
from kelron_lib.settings import LANGUAGES

SPEECH = ("polite", "casual")
"""Levels that a persona may answer in."""
LEAST: Mapping[str, int] = {"abilities": 3, "limits": 2, "values": 2, "facts": 1}
"""Entries that a list needs: seeds name so many different ones in one text."""
_TEXTS = ("name", "maker", "role", "system_prompt")
_NEEDED = ("id", *_TEXTS)
_OPTIONAL = ("spellings", "pronunciation", "speech", "tone", *LEAST, "never", "phrases", "seeds")
KEYS = (*_NEEDED, *_OPTIONAL)
"""Every key of a persona file."""
_OTHER_FILES = {"lexicon", "rivals", "defaults", "common_words"}
_PHRASE_NAME = re.compile(r"[a-z_]+")
ByLanguage = Mapping[str, str]
Lists = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Persona:
    """One persona file, checked; docs/persona.md tells what each field does to the rows."""

    id: str
    """Short id: the packaged file's name."""
    name: ByLanguage
    """The name to answer with, by language."""
    maker: ByLanguage
    """Who made it, by language."""
    role: ByLanguage
    """What it is, by language: a noun phrase without article."""
    system_prompt: ByLanguage
    """The system message of every row and every conversation, by language."""
    spellings: tuple[str, ...]
    """Every way to write the name, in any script: what counts as asserting it."""
    pronunciation: Mapping[str, str]
    """Hangul readings of names in Latin letters; they decide the Korean particle."""
    seeds: Path
    """Folder of ko.yaml, en.yaml, ja.yaml."""
    speech: ByLanguage
    """Level of its answers, by language: `polite` or `casual`."""
    tone: ByLanguage
    """How it talks, by language: an adjective phrase."""
    abilities: Lists
    """What it does, by language: noun phrases."""
    limits: Lists
    """What it cannot do, by language: noun phrases."""
    values: Lists
    """What matters to it, by language: noun phrases."""
    facts: Lists
    """Sentences about itself that may be told, by language, in the level of `speech`."""
    never: tuple[str, ...] = ()
    """Words that no answer may hold, in any language."""
    phrases: Mapping[str, Lists] = field(default_factory=dict)
    """By language: phrases of the seed files that read otherwise for this persona."""
    notes: tuple[str, ...] = field(default=(), compare=False)
    """What is worth saying to its author: defaults that stand in for missing fields, particles without a reading."""


def _languages(document: Document, key: str, *, needed: bool = True) -> dict[str, Any]:
    """A field's value by language. Raises KelronError for an unknown language, and a missing one if `needed`."""
    value = document.data[key]
    where = f"{document.at(key)}: {key}"
    if not isinstance(value, dict):
        raise KelronError(
            f"{where}: expected a value for each language: {{{', '.join(f'{k}: ...' for k in LANGUAGES)}}}"
        )
    for language in value:
        if language not in LANGUAGES:
            raise KelronError(
                f"{document.at(key, language)}: {key}: unknown language {language!r}: Kelron makes data in "
                f"{', '.join(LANGUAGES)}.{nearest(str(language), LANGUAGES)}"
            )
    if needed:
        check_keys(value, LANGUAGES, (), where)
    return value


def _text(value: Any, language: str, key: str, document: Document) -> str:
    where = document.at(key, language)
    if value is None or (isinstance(value, str) and not value.strip()):
        raise KelronError(f"{where}: {key} is empty for {language}: write it")
    if not isinstance(value, str):
        raise KelronError(f"{where}: {key} for {language} is {value!r}, not a text: put quotes around it")
    if "{" in value or "}" in value:
        raise KelronError(f"{where}: {key} for {language} holds a brace, which templates use: leave it out")
    return value.strip()


def _texts(document: Document, key: str) -> dict[str, str]:
    value = _languages(document, key)
    return {language: _text(value[language], language, key, document) for language in LANGUAGES}


def _entries(value: Any, document: Document, key: str, language: str) -> tuple[str, ...]:
    """A list of texts without slots, stripped, of at least the length that seeds need."""
    where = f"{document.at(key, language)}: {key}.{language}"
    found = tuple(text.strip() for text in text_list(value, where))
    if braced := next((text for text in found if "{" in text or "}" in text), None):
        raise KelronError(f"{where}: {braced!r} holds a brace, which templates use: leave it out")
    if len(found) < LEAST[key]:
        raise KelronError(f"{where}: has {len(found)}, seeds need {LEAST[key]} different ones: write more")
    return found


@functools.cache
def defaults() -> Mapping[str, Any]:
    """What stands in for fields that a persona file leaves out, by field; facts by speech level besides."""
    return dict(read_yaml(PACKAGED / "defaults.yaml"))


def _speech(document: Document) -> dict[str, str]:
    if document.data.get("speech") is None:
        return dict.fromkeys(LANGUAGES, SPEECH[0])
    value = _languages(document, "speech", needed=False)
    for language, level in value.items():
        if level not in SPEECH:
            raise KelronError(
                f"{document.at('speech', language)}: speech for {language} is {level!r}: use {' or '.join(SPEECH)}."
                f"{nearest(str(level), SPEECH)}"
            )
    return {language: value.get(language, SPEECH[0]) for language in LANGUAGES}


def _traits(document: Document, speech: ByLanguage) -> tuple[dict[str, Any], list[str]]:
    """Tone, abilities, limits, values and facts, with a note for each that a default stands in for."""
    found: dict[str, Any] = {}
    notes = []
    for key in ("tone", *LEAST):
        if document.data.get(key) is not None:
            if key == "tone":
                found[key] = _texts(document, key)
            else:
                value = _languages(document, key)
                found[key] = {language: _entries(value[language], document, key, language) for language in LANGUAGES}
            continue
        given = defaults()[key]
        by_level = {
            language: given[speech[language]][language] if key == "facts" else given[language] for language in LANGUAGES
        }
        found[key] = {k: text if key == "tone" else tuple(text) for k, text in by_level.items()}
        shown = by_level["en"] if key == "tone" else ", ".join(by_level["en"])
        notes.append(
            f"{document.path}: no {key}: Kelron's own stand in ({shown}); write {key} to say what is true of it"
        )
    return found, notes


def _pronunciation(document: Document) -> dict[str, str]:
    value = document.data.get("pronunciation") or {}
    where = document.at("pronunciation")
    if not isinstance(value, dict) or not all(
        isinstance(item, str) and item for pair in value.items() for item in pair
    ):
        raise KelronError(f"{where}: pronunciation must map spellings to Hangul readings")
    for written, reading in value.items():
        if not "가" <= reading[-1] <= "힣":
            raise KelronError(
                f"{document.at('pronunciation', written)}: pronunciation of {written!r} is {reading!r}: "
                "write it in Hangul (`kelron persona new` takes it with --pronunciation)"
            )
    return dict(value)


def _phrases(document: Document) -> dict[str, dict[str, tuple[str, ...]]]:
    if document.data.get("phrases") is None:
        return {}
    value = _languages(document, "phrases", needed=False)
    found: dict[str, dict[str, tuple[str, ...]]] = {}
    for language, lists in value.items():
        where = document.at("phrases", language)
        if not isinstance(lists, dict):
            raise KelronError(f"{where}: phrases.{language}: expected phrase names with their texts")
        for name in lists:
            if not isinstance(name, str) or not _PHRASE_NAME.fullmatch(name):
                raise KelronError(f"{where}: phrases.{language}: {name!r} is no phrase name (small letters and _)")
        found[language] = {
            name: text_list(texts, f"{document.at('phrases', language, name)}: phrases.{language}.{name}")
            for name, texts in lists.items()
        }
    return found


def _never(document: Document) -> tuple[str, ...]:
    if not document.data.get("never"):
        return ()
    return tuple(word.strip() for word in text_list(document.data["never"], f"{document.at('never')}: never"))


def _refuse_rivals(document: Document, names: Mapping[str, ByLanguage], spellings: tuple[str, ...]) -> None:
    """Raise KelronError where a name of the persona or its maker is a rival's: no row may hold that."""
    told: list[tuple[tuple[str, Any], str]]
    told = [((key, language), text) for key, texts in names.items() for language, text in texts.items()]
    told += [(("spellings", index), text) for index, text in enumerate(spellings)]
    for keys, text in told:
        if rival := rival_of(text):
            raise KelronError(
                f"{document.at(*keys)}: {keys[0]} {text!r} names {rival.name}, a rival (rivals.yaml): the data gate "
                "refuses every row that says it; choose another name"
            )


def _silent_particles(texts: Mapping[str, Any], pronunciation: Mapping[str, str], path: Path) -> list[str]:
    """A note for each text whose Korean particle cannot be told from its spelling."""
    spoken = [(key, texts[key]["ko"]) for key in ("name", "maker", "role")]
    spoken += [(key, text) for key in ("abilities", "limits", "values") for text in texts[key]["ko"]]
    return [
        f"{path}: no Korean reading for {text!r} ({key}): its particles are written both ways, {text}은(는), "
        f"{text}이(가); add it to `pronunciation`"
        for key, text in spoken
        if not has_reading(text, pronunciation)
    ]


def persona_names() -> tuple[str, ...]:
    """Ids of the packaged personas."""
    return tuple(sorted({file.stem for file in PACKAGED.glob("*.yaml")} - _OTHER_FILES))


def persona_file(name_or_path: str) -> Path:
    """The file of a packaged persona, or the path itself. Raises KelronError for an unknown name (nearest match)."""
    return packaged_file("persona", name_or_path, persona_names(), PACKAGED)


def load_persona(name_or_path: str) -> Persona:
    """A packaged persona by name, or one from a YAML file.

    Raises KelronError, with file and line, for an unknown name (nearest match), a file that is missing, empty, binary
    or broken, an unknown or missing field or language, an empty text, a list too short for the seeds, a system prompt
    that does not say the name, and a rival as its name or its maker's. What is left out and has a default, and a name
    without Korean reading, is in `notes`.
    """
    path = persona_file(name_or_path)
    return persona_from(read_document(path))


def persona_from(document: Document) -> Persona:
    """The persona of a document; raises as `load_persona` does."""
    path, data = document.path, document.data
    check_keys(data, _NEEDED, _OPTIONAL, document.at())
    if not isinstance(data["id"], str) or not data["id"].strip():
        raise KelronError(f"{document.at('id')}: id is empty: give the persona a short id")
    texts = {key: _texts(document, key) for key in _TEXTS}
    extra = text_list(data["spellings"], f"{document.at('spellings')}: spellings") if data.get("spellings") else ()
    pronunciation = _pronunciation(document)
    _refuse_rivals(document, {key: texts[key] for key in ("name", "maker")}, extra)
    for language in LANGUAGES:
        if texts["name"][language] not in texts["system_prompt"][language]:
            raise KelronError(
                f"{document.at('system_prompt', language)}: system_prompt for {language} does not say "
                f"{texts['name'][language]!r}"
            )
    speech = _speech(document)
    traits, notes = _traits(document, speech)
    return Persona(
        id=data["id"].strip(),
        spellings=tuple(dict.fromkeys([*texts["name"].values(), *extra])),
        pronunciation=pronunciation,
        seeds=path.parent / data["seeds"] if data.get("seeds") else PACKAGED / "seeds",
        speech=speech,
        never=_never(document),
        phrases=_phrases(document),
        notes=(*notes, *_silent_particles({**texts, **traits}, pronunciation, path)),
        name=texts["name"],
        maker=texts["maker"],
        role=texts["role"],
        system_prompt=texts["system_prompt"],
        **traits,
    )
