"""A persona file looked at from all sides: findings with their lines, then what it will say."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kelron_lib.data.draw import draw
from kelron_lib.persona import Persona, Seed, attach_josa, persona_file
from kelron_lib.persona.definition import LEAST, persona_from
from kelron_lib.persona.document import Document, read_document
from kelron_lib.persona_check.findings import ERROR, WARNING, Finding
from kelron_lib.persona_check.levels import level_findings
from kelron_lib.persona_check.names import name_findings
from kelron_lib.persona_check.seeds import Supply, phrase_names, supplies, supply_lines
from kelron_lib.persona_check.texts import text_findings
from kelron_lib.settings import LANGUAGES

_SAMPLE_INTENTS = ("name", "ability", "limits")
_PARTICLES = ("은/는", "이/가", "을/를", "과/와", "으로/로", "이에요/예요")


@dataclass(frozen=True)
class Report:
    persona: Persona
    findings: tuple[Finding, ...]
    supplies: tuple[Supply, ...]
    seeds: tuple[Seed, ...]
    """The seeds of the largest set."""

    @property
    def ok(self) -> bool:
        """Whether data can be made of it: no finding is an error."""
        return all(finding.severity != ERROR for finding in self.findings)

    def lines(self) -> list[str]:
        """Everything, as printed."""
        errors = sum(finding.severity == ERROR for finding in self.findings)
        warnings = len(self.findings) - errors
        return [
            *map(str, self.findings),
            *persona_lines(self.persona),
            "",
            *supply_lines(self.supplies, self.persona),
            *sample_lines(self.persona, self.seeds),
            "",
            f"{self.persona.id}: {'fit for data' if self.ok else 'not fit for data yet'} "
            f"({_counted(errors, 'error')}, {_counted(warnings, 'warning')})",
        ]


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _supply_findings(found: Sequence[Supply], persona: Persona, document: Document) -> Iterator[Finding]:
    for supply in found:
        if not supply.used["identity"]:
            level = persona.speech[supply.language]
            yield Finding(
                document.at("speech", supply.language),
                ERROR,
                f"no identity seed of the {supply.seed_set} set answers in {level} for {supply.language}: set speech "
                "to another level, or give the seeds answers in it",
            )


def check_persona(name_or_path: str) -> Report:
    """Look a persona file through.

    Raises KelronError for a file that cannot be used at all (the first thing that is wrong, with its line), and for
    broken seeds of its own.
    """
    return check_document(read_document(persona_file(name_or_path)))


def check_document(document: Document) -> Report:
    """Look the content of a persona file through; raises as `check_persona` does."""
    path = document.path
    persona = persona_from(document)
    found, seeds = supplies(persona)
    findings = [
        *(Finding(str(path), WARNING, note.removeprefix(f"{path}: ")) for note in persona.notes),
        *name_findings(document, persona, seeds),
        *text_findings(document, persona, seeds, phrase_names(persona)),
        *level_findings(document, persona),
        *_supply_findings(found, persona, document),
    ]
    return Report(persona, tuple(findings), tuple(found), tuple(seeds))


def persona_lines(persona: Persona) -> list[str]:
    """Who the persona is: names, particles, and what it tells of itself, by language."""
    name = persona.name["ko"]
    particles = " ".join(attach_josa(name, pair, persona.pronunciation) for pair in _PARTICLES)
    lines = [
        f"{persona.id}: {', '.join(persona.spellings)}",
        f"  particles: {particles}",
    ]
    for language in LANGUAGES:
        lines += [
            f"  {language}: {persona.name[language]}, {persona.role[language]}, by {persona.maker[language]}; "
            f"{persona.tone[language]}, {persona.speech[language]}",
            f"      system: {persona.system_prompt[language]}",
        ]
        lines += [f"      {key}: {_few(getattr(persona, key)[language])}" for key in LEAST]
    if persona.never:
        lines.append(f"  never: {', '.join(persona.never)}")
    return lines


def _few(texts: Sequence[str], most: int = 3) -> str:
    more = f" (and {len(texts) - most} more)" if len(texts) > most else ""
    return " / ".join(texts[:most]) + more


def sample_lines(persona: Persona, seeds: Sequence[Seed]) -> list[str]:
    """A short dialogue in every language, put together from identity seeds; the same each time."""
    lines: list[str] = []
    for language in LANGUAGES:
        rng = random.Random(f"sample:{language}")
        lines += ["", f"{language} system: {persona.system_prompt[language]}"]
        for intent in _SAMPLE_INTENTS:
            pool = [
                s for s in seeds if (s.language, s.kind, s.intent) == (language, "identity", intent) and not s.systems
            ]
            for question, answer in draw(rng.choice(pool), persona, rng).pairs if pool else ():
                lines += [f"   > {question}", f"   {answer}"]
    return lines
