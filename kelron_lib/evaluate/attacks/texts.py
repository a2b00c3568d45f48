"""The texts of attacks as their files have them, checked, and the names that they use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from kelron_lib.characters import wrong_script
from kelron_lib.errors import KelronError
from kelron_lib.evaluate.attacks.encode import ENCODERS
from kelron_lib.persona import Persona
from kelron_lib.persona.files import check_keys, read_yaml, text_list
from kelron_lib.persona.rivals import Rival
from kelron_lib.persona.templates import fill, persona_values
from kelron_lib.settings import LANGUAGES

FOLDER = Path(__file__).parent
_LISTS = (*("direct", "paraphrase", "rival", "roleplay", "override", "cross_plain", "cross_asked", "hostile"),)


@dataclass(frozen=True)
class Texts:
    """The templates of a language, with slots for the persona ({name}, {spelling}, {maker}, {role}) and for a Pair
    ({rival}, {rival_maker})."""

    lists: Mapping[str, tuple[str, ...]]
    """Templates by attack; `rival` is asked with names on the list and with invented ones, `hostile` are system texts,
    `cross_asked` ask for an answer in another {language}, `cross_plain` follow a system text in another."""
    questions: tuple[str, ...]
    """Short questions for the encoders."""
    wraps: Mapping[str, tuple[str, ...]]
    """By encoder: what is said around its {code}."""
    ready: tuple[str, ...]
    """Texts in a form or a code of their own."""
    languages: Mapping[str, str]
    """What the languages are called in this one."""
    pressure: tuple[tuple[str, ...], ...]
    """Dialogues: what the user says, turn by turn."""


@dataclass(frozen=True)
class Pair:
    """An assistant that is not the persona, and its maker, by language."""

    rival: Mapping[str, str]
    maker: Mapping[str, str]
    seen: bool
    """Whether the list of rivals has them."""

    @property
    def names(self) -> tuple[str, ...]:
        """All spellings, the assistant's first."""
        return tuple(dict.fromkeys([*self.rival.values(), *self.maker.values()]))

    @property
    def rivals(self) -> tuple[Rival, Rival]:
        """Both as the detectors take them."""
        spellings = (tuple(dict.fromkeys(names.values())) for names in (self.rival, self.maker))
        first, second = spellings
        return Rival(self.rival["en"], "assistant", first), Rival(self.maker["en"], "maker", second)


def _dialogues(value: Any, where: str) -> tuple[tuple[str, ...], ...]:
    if not isinstance(value, list) or not value:
        raise KelronError(f"{where}: expected a list of dialogues")
    return tuple(text_list(turns, f"{where}, dialogue {number}") for number, turns in enumerate(value, start=1))


@cache
def load_texts(language: str) -> Texts:
    """The templates of a language, with slots for the persona ({name}, {spelling}, {maker}, {role}) and for a Pair
    ({rival}, {rival_maker})."""
    path = FOLDER / f"{language}.yaml"
    data = read_yaml(path)
    check_keys(data, (*_LISTS, "encoded", "languages", "pressure"), (), str(path))
    encoded = data["encoded"]
    check_keys(encoded, ("questions", "ready", *ENCODERS[language]), (), f"{path}: encoded")
    check_keys(data["languages"], LANGUAGES, (), f"{path}: languages")
    return Texts(
        lists={name: text_list(data[name], f"{path}: {name}") for name in _LISTS},
        questions=text_list(encoded["questions"], f"{path}: encoded.questions"),
        wraps={name: text_list(encoded[name], f"{path}: encoded.{name}") for name in ENCODERS[language]},
        ready=text_list(encoded["ready"], f"{path}: encoded.ready"),
        languages=dict(data["languages"]),
        pressure=_dialogues(data["pressure"], f"{path}: pressure"),
    )


@cache
def load_pairs() -> tuple[Pair, ...]:
    """All pairs of names.yaml, seen ones first. Raises KelronError for a broken file."""
    path = FOLDER / "names.yaml"
    data = read_yaml(path)
    check_keys(data, ("seen", "unseen"), (), str(path))
    pairs = []
    for group in ("seen", "unseen"):
        for number, entry in enumerate(data[group], start=1):
            where = f"{path}: {group} {number}"
            check_keys(entry, LANGUAGES, (), where)
            both = {language: text_list(entry[language], f"{where}: {language}") for language in LANGUAGES}
            if any(len(names) != 2 for names in both.values()):
                raise KelronError(f"{where}: expected a name and its maker's in every language")
            rival, maker = ({language: names[place] for language, names in both.items()} for place in (0, 1))
            pairs.append(Pair(rival, maker, seen=group == "seen"))
    return tuple(pairs)


def pairs_for(persona: Persona, *, seen: bool) -> tuple[Pair, ...]:
    """The pairs of one group, without any whose name is the persona's or its maker's."""
    own = {name.casefold() for name in (*persona.spellings, *persona.name.values(), *persona.maker.values())}
    free = [pair for pair in load_pairs() if pair.seen == seen and not own & {name.casefold() for name in pair.names}]
    return tuple(free)


def unseen_rivals(names: Sequence[str]) -> tuple[Rival, ...]:
    """The invented rivals that are called one of `names`; a name of none of them is an assistant's of its own."""
    invented = [rival for pair in load_pairs() if not pair.seen for rival in pair.rivals]
    found = [rival for rival in invented if set(rival.spellings) & set(names)]
    known = {spelling for rival in found for spelling in rival.spellings}
    return (*found, *(Rival(name, "assistant", (name,)) for name in names if name not in known))


class Filler:
    """Fills templates of any language for one persona."""

    def __init__(self, persona: Persona) -> None:
        self._persona = persona
        self._values = {language: persona_values(persona, language) for language in LANGUAGES}
        self._spellings = {
            language: [name for name in persona.spellings if not wrong_script(name, language)]
            or [persona.name[language]]
            for language in LANGUAGES
        }

    def fill(
        self, template: str, language: str, number: int, pair: Pair, more: Mapping[str, str] = MappingProxyType({})
    ) -> str:
        """`template` with the names of the persona and of `pair`; `number` picks the spelling of the former."""
        spellings = self._spellings[language]
        values = {
            **self._values[language],
            "spelling": spellings[number % len(spellings)],
            "rival": pair.rival[language],
            "rival_maker": pair.maker[language],
            **more,
        }
        return fill(template, values, self._persona.pronunciation)
