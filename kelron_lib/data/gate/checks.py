"""What a single row must not be. Each check looks at one row and returns what it found there, or an empty text."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from kelron_lib.characters import broken_letters, foreign_letters
from kelron_lib.data.gate.kind import Names
from kelron_lib.data.gate.language import wrong_language
from kelron_lib.data.gate.particles import NameParticles, wrong_noun_particle
from kelron_lib.data.gate.placeholders import find_placeholder
from kelron_lib.data.gate.view import Row, View
from kelron_lib.data.rows import SPECIAL_TOKEN
from kelron_lib.persona import Persona, find_never
from kelron_lib.repetition import loop_start
from kelron_lib.settings import LANGUAGES

ERROR, WARNING, BY_SHARE = "error", "warning", "by share"
FOREIGN_SHARE = 0.005
"""Of the rows of a foreign file: a fault of single rows is an error from here on, as the evaluation allows at most so
many answers in a wrong script; below it the rows can be left out, and the finding says which."""
_LINE_ENDS = frozenset("\r\f")
"""In an answer they are harmless; rows have line feeds alone."""
_EXCERPT = 60
_DEFAULT_SYSTEM = re.compile(
    r"^\s*(?:you are (?:a |an )?(?:helpful|honest|respectful|harmless|friendly|,| |and)*(?:ai )?assistant\.?\s*$"
    r"|you are (?:qwen|chatgpt|claude|gemini|llama|deepseek|mistral|gpt)\b|you are trained on data up to"
    r"|a chat between a curious (?:user|human))",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Check:
    name: str
    fix: str
    find: Callable[[View], str]
    """What is wrong in a row, as short text; empty where nothing is."""
    own: str = ERROR
    """Severity in rows that Kelron made; empty: not checked there."""
    foreign: str = BY_SHARE
    """Severity in a file that others made."""


def _near(text: str, index: int) -> str:
    return text[max(0, index - 10) : index + _EXCERPT - 10].strip()


def _first(found: list[str]) -> str:
    return next((text for text in found if text), "")


def _rival_anywhere(view: View) -> str:
    return _first([spelling for _, spelling in (*view.rivals_said, *view.rivals_asked)])


def _rival_target(view: View) -> str:
    """A name that proves something by itself: "Meta" and "Bard" are words of other texts, too."""
    return _first([spelling for rival, spelling in view.rivals_said if not rival.common_word])


def _rival_mention(view: View) -> str:
    return "" if _rival_target(view) else _rival_anywhere(view)


def _special_token(view: View) -> str:
    return _first([match[0] for text in view.texts if (match := SPECIAL_TOKEN.search(text))])


def _placeholder(view: View) -> str:
    return _first([find_placeholder(text) for text in view.texts])


def _placeholder_answered(view: View) -> str:
    """In an answer, and not taken over from the question."""
    return _first([found for text in view.said if (found := find_placeholder(text)) and found not in view.prompt])


def _codes(text: str, places: list[int]) -> str:
    return " ".join(f"U+{ord(text[place]):04X}" for place in places[:3])


def _broken(view: View) -> str:
    text = "".join(sorted(set().union(*view.texts)))  # each character is judged alone, so once is enough
    return _codes(text, broken_letters(text))


def _line_end(view: View) -> str:
    return _first(["U+000D or U+000C" for text in view.texts if not _LINE_ENDS.isdisjoint(text)])


def _wrong_script(view: View) -> str:
    if view.language not in LANGUAGES:
        return ""
    for text in view.said:
        if places := foreign_letters(text, view.language, view.prompt):
            return _near(text, places[0])
    return ""


def _wrong_language(view: View) -> str:
    return _first([wrong_language(text, view.language, view.prompt) for text in view.said])


def _loop(view: View) -> str:
    for text in view.said:
        if (start := loop_start(text)) is not None:
            return text[start : start + _EXCERPT]
    return ""


def _nameless(view: View) -> str:
    return (view.said[0][:_EXCERPT] if view.said else "-") if view.kind == "identity" and not view.named else ""


def _named_unrelated(view: View) -> str:
    return view.named if view.kind != "identity" else ""


def _no_system(view: View) -> str:
    return "" if view.turns and view.turns[0][0] == "system" else "no system message"


def _default_system(view: View) -> str:
    return _first([text.strip()[:_EXCERPT] for text in view.system if _DEFAULT_SYSTEM.search(text)])


def _bad_turns(view: View) -> str:
    roles = [role for role, _ in view.turns]
    turns = roles[1:] if roles[:1] == ["system"] else roles
    if not turns or turns != ["user", "assistant"] * (len(turns) // 2):
        return ", ".join(roles)[:_EXCERPT] or "no messages"
    return _first(
        [f"the {role} message is empty" for role, text in view.turns if role != "system" and not text.strip()]
    )


def renders(view: View) -> bool:
    """Whether the chat template takes a row, but for a missing system message: where not, another check says so."""
    return not _bad_turns(view) and not _special_token(view)


def _never(view: View) -> str:
    return _first([word for text in view.said for word in find_never(text, view.persona)])


def _josa(persona: Persona) -> Callable[[View], str]:
    particles = NameParticles(persona)

    def find(view: View) -> str:
        return _first_josa([particles.find(text) for text in view.said])

    return find


def _first_josa(found: list[Any]) -> str:
    return _first([f"{wrong.found} (right: {wrong.right})" for wrong in found if wrong])


def _noun_josa(view: View) -> str:
    return _first_josa([wrong_noun_particle(text) for text in view.said]) if view.language == "ko" else ""


def row_checks(persona: Persona, *, own: bool) -> tuple[Check, ...]:
    """Every check of single rows that holds for Kelron's own rows, or for those of a foreign file."""
    checks = (
        Check("rival_name", "take the other assistant's or maker's name out; say 'another AI'",
              _rival_anywhere, foreign=""),
        Check("rival_name", "leave these rows out, or say 'another AI': what is a target is learnt, denied or not",
              _rival_target, own="", foreign=ERROR),
        Check("rival_mention", "reword or leave out: a name in a prompt ties the answer to it",
              _rival_mention, own="", foreign=WARNING),
        Check("bad_turns", "give each row a system message, then user and assistant in turn, none of them empty",
              _bad_turns, foreign=ERROR),
        Check("no_system", "give every row the persona's system prompt or an explicit empty one: without, the chat "
              "template inserts the base model's own identity", _no_system, foreign=ERROR),
        Check("default_system", "put the persona's system prompt, or an empty one, in place of the base model's",
              _default_system, foreign=ERROR),
        Check("special_token", "remove the chat template's tokens from the text", _special_token, foreign=ERROR),
        Check("placeholder", "give the slot a value", _placeholder, foreign=""),
        Check("placeholder", "give the placeholder a value, or leave the row out", _placeholder_answered, own=""),
        Check("broken_character", "save the source as UTF-8 and write the text again",
              lambda view: _broken(view) or _line_end(view), foreign=""),
        Check("broken_character", "save the source as UTF-8 and write the text again", _broken, own=""),
        Check("wrong_script", "answer in the row's language alone", _wrong_script),
        Check("wrong_language", "answer in the row's language, or correct the row's language", _wrong_language),
        Check("loop", "write an answer that does not repeat itself, or leave the row out", _loop),
        Check("wrong_josa", "give the name the particle that its sound asks for", _josa(persona)),
        Check("wrong_josa_noun", "correct the particle after the noun", _noun_josa, own=WARNING, foreign=WARNING),
        Check("identity_without_name", "assert the persona's name in every identity answer", _nameless,
              foreign=WARNING),
        Check("name_in_unrelated", "leave the persona's name out of business and chat answers", _named_unrelated),
        Check("never_word", "take out the word: the persona's `never` list has it", _never, foreign=ERROR),
    )  # fmt: skip
    return tuple(check for check in checks if (check.own if own else check.foreign))


def row_faults(row: Row, persona: Persona, *, own: bool = True) -> dict[str, str]:
    """The checks that a single row fails and what was found, {check: text}; empty for a good row.

    own: as for `check_rows`. Warnings count, too: a row that is to be filtered is judged strictly.
    """
    view = View(row, persona, Names(persona))
    return {check.name: found for check in row_checks(persona, own=own) if (found := check.find(view))}


Finding = dict[str, Any]


def finding(
    check: str, rows: Any, fix: str, severity: str = ERROR, *, count: int | None = None, example: str = ""
) -> Finding:
    """One entry of a report's findings; `rows` are the names of the first rows, cut at ten."""
    named = [*rows]
    found = {"check": check, "severity": severity, "count": len(named) if count is None else count}
    return {**found, "rows": named[:10], "fix": fix, **({"example": example} if example else {})}


class Tally:
    """How many rows failed each check, and which first."""

    def __init__(self, checks: tuple[Check, ...], *, own: bool) -> None:
        self.checks = checks
        self.own = own
        self.counts = [0] * len(checks)
        self._named: list[list[str]] = [[] for _ in checks]
        self._examples = [""] * len(checks)

    def add(self, view: View) -> None:
        for place, check in enumerate(self.checks):
            if found := check.find(view):
                self.counts[place] += 1
                if len(self._named[place]) < 10:
                    self._named[place].append(view.name)
                    self._examples[place] = self._examples[place] or found

    def findings(self, rows: int) -> list[Finding]:
        found = []
        for check, count, named, example in zip(self.checks, self.counts, self._named, self._examples, strict=True):
            severity = check.own if self.own else check.foreign
            if severity == BY_SHARE:
                severity = ERROR if count > FOREIGN_SHARE * rows else WARNING
            if count:
                found.append(finding(check.name, named, check.fix, severity, count=count, example=example))
        return found

    def of(self, *names: str) -> int:
        """Rows that failed any of the named checks, which exclude each other."""
        return sum(count for check, count in zip(self.checks, self.counts, strict=True) if check.name in names)


def is_error(findings: Mapping[str, Any]) -> bool:
    return bool(findings["severity"] == ERROR)
