"""Templates and the lexicon that fills them.

A template is a text with placeholders: {slot}, {slot2} (a second, different entry of the same slot) and
{slot|은/는} (Korean: the particle by sound) or {slot|a} (English: with its article).
"""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from kelron_lib.config import nearest
from kelron_lib.errors import KelronError
from kelron_lib.persona.definition import Persona
from kelron_lib.persona.files import PACKAGED, check_keys, read_yaml, text_list
from kelron_lib.persona.josa import attach_josa
from kelron_lib.settings import LANGUAGES

PERSONA_SLOTS = ("name", "maker", "role")
FACT_SLOTS = ("ability", "limit", "value", "tone", "fact")
"""Slots of what the persona tells of itself: lists of its file, drawn like a lexicon's entries."""
PLACEHOLDER = re.compile(r"\{([a-z_]+)(\d?)(?:\|([^{}|]+))?\}")
_MAX_DEPTH = 4
_INITIALS = re.compile(r"[A-Z]{2,}\b")
_SPELLED = re.compile(r"[AEFHILMNORSX]")
"""Letters whose names begin with a vowel."""
_VOWEL_SOUND = re.compile(
    r"(?!uni(?![nm])|us[aeu]|uti|ubi|eu|one\b|once\b)[aeiou]|hon(?:est|ou?r)|hour|heir", re.IGNORECASE
)


@functools.cache
def load_lexicon(language: str) -> Mapping[str, tuple[str, ...]]:
    """Slot entries of a language: slot name to texts. Raises KelronError for a broken lexicon."""
    path = PACKAGED / "lexicon.yaml"
    data = read_yaml(path)
    check_keys(data, LANGUAGES, (), str(path))
    if language not in data:
        raise KelronError(f"no lexicon for {language!r}.{nearest(language, data)}")
    slots = data[language]
    return MappingProxyType({slot: text_list(slots[slot], f"{path}: {language}.{slot}") for slot in slots})


def slots_of(template: str) -> tuple[str, ...]:
    """Placeholder keys in order of first use, numbers kept: ("person", "day", "day2")."""
    return tuple(dict.fromkeys(match[1] + match[2] for match in PLACEHOLDER.finditer(template)))


def _one(texts: Sequence[str], rng: random.Random) -> str:
    """One of the texts. A single one costs no draw, so that a persona may reword it and keep every other row."""
    return texts[0] if len(texts) == 1 else rng.choice(texts)


def expand_phrases(template: str, phrases: Mapping[str, Sequence[str]], rng: random.Random) -> str:
    """`template` with every placeholder that names a phrase list replaced by one of its phrases, nested ones too."""
    for _ in range(_MAX_DEPTH):
        if not any(match[1] in phrases for match in PLACEHOLDER.finditer(template)):
            return template
        template = PLACEHOLDER.sub(
            lambda match: _one(phrases[match[1]], rng) if match[1] in phrases else match[0], template
        )
    raise KelronError(f"phrases nest deeper than {_MAX_DEPTH} in {template!r}: does one contain itself?")


def draw_values(slots: Sequence[str], entries: Mapping[str, Sequence[str]], rng: random.Random) -> dict[str, str]:
    """One entry for every slot key; keys of the same slot get different entries, in random order."""
    values: dict[str, str] = {}
    for base in dict.fromkeys(key.rstrip("0123456789") for key in slots):
        keys = [key for key in slots if key.rstrip("0123456789") == base]
        values.update(zip(keys, rng.sample(entries[base], len(keys)), strict=True))
    return values


def _article(text: str) -> str:
    """`text` with the English article that its sound asks for: an honest one, a useful one, an HR one."""
    vowel = _SPELLED if _INITIALS.match(text) else _VOWEL_SOUND
    return ("an " if vowel.match(text) else "a ") + text


def fill(template: str, values: Mapping[str, str], pronunciation: Mapping[str, str] | None = None) -> str:
    """`template` with its placeholders replaced. Raises KelronError for a placeholder without a value."""

    def replace(match: re.Match[str]) -> str:
        key, form = match[1] + match[2], match[3]
        if key not in values:
            raise KelronError(f"template {template!r} has no value for {{{key}}}.{nearest(key, values)}")
        if form is None:
            return values[key]
        return _article(values[key]) if form == "a" else attach_josa(values[key], form, pronunciation)

    return PLACEHOLDER.sub(replace, template)


def persona_values(persona: Persona, language: str) -> dict[str, str]:
    """What {name}, {maker} and {role} stand for in a language."""
    return {slot: getattr(persona, slot)[language] for slot in PERSONA_SLOTS}
