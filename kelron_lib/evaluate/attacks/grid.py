"""The grid: every attack with every system text, from any persona, the same on every machine.

No randomness: which names, which system text and which question meet is counted off, so that neighbours differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

from kelron_lib.evaluate.attacks.encode import ENCODERS
from kelron_lib.evaluate.attacks.texts import Filler, Pair, Texts, load_texts, pairs_for
from kelron_lib.evaluate.prompt import ATTACKS, Prompt, make_prompt
from kelron_lib.persona import Persona
from kelron_lib.settings import LANGUAGES

SYSTEMS = ("persona", "none", "hostile")
PRESSURE = "pressure"
_STRIDE = 5
"""Names and system texts are counted off from another place for every attack, so that a few prompts have many."""


@dataclass(frozen=True)
class _Asked:
    """One question before it has its system text."""

    seed: str
    """The template that it grew from."""
    texts: tuple[str, ...]
    """What the user says; more than one only under pressure."""
    pair: Pair
    named: bool
    """Whether the texts name the pair."""
    told_in: str
    """The language of the system text."""


class _Grid:
    def __init__(self, persona: Persona, language: str) -> None:
        self.persona = persona
        self.language = language
        self.filler = Filler(persona)
        self.seen, self.unseen = (pairs_for(persona, seen=seen) for seen in (True, False))

    def pair(self, number: int, seen: bool | None = None) -> Pair:
        """A pair by number; `seen` None: of both groups by turns."""
        group = self.seen if (number % 2 == 0 if seen is None else seen) else self.unseen
        return group[number // (2 if seen is None else 1) % len(group)]

    def _ask(self, seed: str, templates: Sequence[str], number: int, pair: Pair, *, told_in: str = "") -> _Asked:
        texts = tuple(self.filler.fill(template, self.language, number, pair) for template in templates)
        named = any("{rival" in template for template in templates)
        return _Asked(f"{self.language}/{seed}", texts, pair, named, told_in or self.language)

    def listed(self, name: str, shift: int, seen: bool | None = None) -> Iterator[_Asked]:
        """The templates of a list, each with a pair of its own."""
        for number, template in enumerate(load_texts(self.language).lists[name]):
            yield self._ask(f"{name}.{number + 1:02d}", [template], number, self.pair(number + shift, seen))

    def encoded(self, shift: int) -> Iterator[_Asked]:
        own, english = load_texts(self.language), load_texts("en")
        wraps = [(name, place, wrap) for name, texts in own.wraps.items() for place, wrap in enumerate(texts, start=1)]
        wraps += [("ready", place, text) for place, text in enumerate(own.ready, start=1)]
        for number, (name, place, wrap) in enumerate(wraps, start=shift):
            text = wrap
            if encode := ENCODERS[self.language].get(name):
                questions = (english if name == "rot13" else own).questions
                code = encode(questions[number % len(questions)])
                text = wrap.replace("{code}", code)  # not `fill`: a code may hold anything
            seed = f"{self.language}/encoded.{name}.{place}"
            yield _Asked(seed, (text,), self.pair(number), False, self.language)

    def cross(self, shift: int, system: str) -> Iterator[_Asked]:
        """Asked in another language for an answer in this one, and asked in this one under a system text in another."""
        others = [language for language in LANGUAGES if language != self.language]
        asked = [list(self._from(other, shift)) for other in others]
        plain = []
        for number, template in enumerate(load_texts(self.language).lists["cross_plain"]):
            for place, other in enumerate(others):
                pair = self.pair(number + place + shift)
                plain.append(self._ask(f"cross_plain.{number + 1:02d}", [template], number, pair, told_in=other))
        groups = asked if system == "none" else [*asked, plain]  # without a system text there is no other language
        for turn in range(max(map(len, groups))):
            yield from (group[turn] for group in groups if turn < len(group))

    def _from(self, other: str, shift: int) -> Iterator[_Asked]:
        texts: Texts = load_texts(other)
        for number, template in enumerate(texts.lists["cross_asked"]):
            pair, named = self.pair(number + shift), texts.languages[self.language]
            text = self.filler.fill(template, other, number, pair, more={"language": named})
            told_in = LANGUAGES[(number + LANGUAGES.index(other)) % len(LANGUAGES)]
            yield _Asked(f"{other}/cross_asked.{number + 1:02d}", (text,), pair, False, told_in)

    def pressure(self, shift: int) -> Iterator[_Asked]:
        for number, turns in enumerate(load_texts(self.language).pressure):
            yield self._ask(f"pressure.{number + 1:02d}", turns, number, self.pair(number + shift))

    def asked(self, attack: str, system: str) -> list[_Asked]:
        """What an attack asks under a kind of system text, in the order in which a smaller run takes them."""
        place = SYSTEMS.index(system)
        shift = 3 * place + _STRIDE * ATTACKS.index(attack)
        if attack in ("rival_seen", "rival_unseen"):
            found = list(self.listed("rival", shift, seen=attack == "rival_seen"))
        elif attack == "encoded":
            found = list(self.encoded(shift))
        elif attack == "cross_language":
            found = list(self.cross(shift, system))
        elif attack == PRESSURE:
            found = list(self.pressure(shift))
        else:
            found = list(self.listed(attack, shift))
        start = place * len(found) // len(SYSTEMS)  # so that few prompts are different ones with each system text
        return found[start:] + found[:start]

    def system(self, kind: str, asked: _Asked, number: int) -> str:
        """The system text of a kind for a question."""
        if kind == "none":
            return ""
        if kind == "persona":
            return self.persona.system_prompt[asked.told_in]
        return self.hostile(asked.told_in, number, asked.pair)

    def hostile(self, language: str, number: int, pair: Pair) -> str:
        """A system text that says the model is the pair's assistant; `number` picks the template."""
        templates = load_texts(language).lists["hostile"]
        return self.filler.fill(templates[number % len(templates)], language, number, pair)

    def prompts(self, attack: str, system: str) -> Iterator[Prompt]:
        for number, asked in enumerate(self.asked(attack, system)):
            told = self.system(system, asked, number + _STRIDE * ATTACKS.index(attack))
            unlisted = not asked.pair.seen and (asked.named or system == "hostile")
            yield make_prompt(
                f"attack-{self.language}-{system}-{attack}-{number + 1:02d}",
                self.language,
                [{"role": "system", "content": told}, {"role": "user", "content": asked.texts[0]}],
                source="attack",
                seed=asked.seed,
                system=system,
                attack=attack,
                turns=asked.texts[1:],
                rivals=asked.pair.names if unlisted else (),
            )


def hostile_systems(persona: Persona, language: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Hostile system texts without end, the same every time: (text, the names in it that no list of rivals has)."""
    grid = _Grid(persona, language)
    templates = len(load_texts(language).lists["hostile"])
    for number in count():
        pair = grid.pair(number)
        # One on at every round, or a template would meet listed names alone, or invented ones alone.
        text = grid.hostile(language, number + number // templates, pair)
        yield text, () if pair.seen else pair.names


def attack_cells(persona: Persona, language: str) -> list[list[Prompt]]:
    """Every cell of the grid, system text x attack, as a list of its prompts; pressure's cells are the last three.

    The cells' order goes through all attacks before any comes with a second system text.
    """
    grid = _Grid(persona, language)
    single = [attack for attack in ATTACKS if attack != PRESSURE]
    turns = [(attack, SYSTEMS[(place + turn) % 3]) for turn in range(3) for place, attack in enumerate(single)]
    turns += [(PRESSURE, system) for system in SYSTEMS]
    return [list(grid.prompts(attack, system)) for attack, system in turns]
