"""The answers that make a persona: from options and a file first, then from the person at the terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kelron_lib.characters import foreign_letters
from kelron_lib.config import nearest
from kelron_lib.errors import KelronError
from kelron_lib.persona import has_reading, rival_of
from kelron_lib.persona.definition import LEAST, SPEECH, defaults
from kelron_lib.persona.document import read_document
from kelron_lib.persona_new.fields import FIELDS, Field
from kelron_lib.persona_new.reading import hangul_reading, kana_reading
from kelron_lib.settings import LANGUAGES

Answers = dict[str, Any]
"""As a persona file has them: {"name": {"ko": ...}, "abilities": {"ko": [...]}, "speech": {"ko": ...}, ...}."""
_LANGUAGE_NAMES = {"ko": "Korean", "en": "English", "ja": "Japanese"}
_ROLES = {"ko": "AI 도우미", "en": "AI assistant", "ja": "AIアシスタント"}


_ORDER = ("en", "ko", "ja")
"""The Latin spelling comes first: the others are suggested from it."""


class Asker:
    """Asks in a terminal, or, without one, takes what is suggested and notes what is missing."""

    def __init__(self, ask: Callable[[str], str] | None, say: Callable[[str], None] = print) -> None:
        """`ask`: prints a question and gives the line that was typed; None: nobody is there to answer."""
        self.ask = ask
        self.say = say
        self.missing: list[str] = []

    def answer(self, question: str, suggestion: str, option: str, check: Callable[[str], str | None]) -> str:
        """The answer to a question: what is typed, the suggestion for an empty line; asked again until it passes.

        `option`: what is missing where nobody is there and nothing is suggested; empty where that may be.
        """
        while self.ask is not None:
            typed = self.ask(f"{question}{f' [{suggestion}]' if suggestion else ''}: ").strip() or suggestion
            problem = check(typed) if typed else "write something"
            if problem is None:
                return typed
            self.say(f"  {problem}")
        if not suggestion and option:
            self.missing.append(option)
        return suggestion


def read_answers(path: Path) -> Answers:
    """The content of an answers file: some of the keys of a persona file. Raises KelronError, with the line, for keys
    and languages that persona files do not have."""
    document = read_document(path)
    data = document.data
    keys = [field.key for field in FIELDS]
    known = ("id", "speech", "pronunciation", "spellings", "never", *keys)
    if not isinstance(data, dict):
        raise KelronError(f"{document.at()}: expected keys and values, as in a persona file")
    for key, value in data.items():
        if key not in known:
            raise KelronError(f"{document.at(key)}: unknown key {key!r}.{nearest(str(key), known)}")
        if key not in ("id", "pronunciation", "spellings", "never"):
            if not isinstance(value, dict):
                raise KelronError(
                    f"{document.at(key)}: {key}: expected a value for each language ({', '.join(LANGUAGES)})"
                )
            for language in value:
                if language not in LANGUAGES:
                    raise KelronError(
                        f"{document.at(key, language)}: {key}: unknown language {language!r}: "
                        f"use {', '.join(LANGUAGES)}"
                    )
    return dict(data)


def _check(key: str, language: str) -> Callable[[str], str | None]:
    """What is wrong with an answer, in a few words; None where nothing is."""

    def problem(text: str) -> str | None:
        if key in ("name", "maker") and (rival := rival_of(text)):
            return f"{text!r} names {rival.name}, a rival: the data gate refuses it; choose another"
        if foreign_letters(text, language):
            return f"{text!r} has letters that {_LANGUAGE_NAMES[language]} is not written in"
        if "{" in text or "}" in text:
            return "leave braces out"
        if key in LEAST and len(split_list(text)) < LEAST[key]:
            return f"write {LEAST[key]} or more, with commas between them"
        return None

    return problem


def split_list(text: str) -> list[str]:
    """The parts of a list that was typed in one line, with commas of either width between them."""
    return [part.strip() for part in text.replace("、", ",").replace("，", ",").split(",") if part.strip()]


def _suggested(field: Field, language: str, answers: Mapping[str, Any]) -> str:
    """What an empty answer stands for; empty where only its author can know."""
    latin = answers[field.key].get("en", "") if field.key in ("name", "maker") else ""
    if field.key == "name":
        return {"ko": hangul_reading(latin) or latin, "ja": kana_reading(latin) or latin}.get(language, "")
    if field.key == "maker":
        return str(latin)
    if field.key == "role":
        return _ROLES[language]
    given = defaults()[field.key]
    if field.key == "facts":
        given = given[answers["speech"][language]]
    return ", ".join(given[language]) if field.is_list else str(given[language])


def _ask_speech(answers: Answers, asker: Asker) -> None:
    """One question for all languages, unless they are set already."""
    given = answers.setdefault("speech", {})
    for language, level in given.items():
        if level not in SPEECH:
            raise KelronError(
                f"speech for {language} is {level!r}: use {' or '.join(SPEECH)}.{nearest(str(level), SPEECH)}"
            )
    if len(given) < len(LANGUAGES):
        either = f"use {' or '.join(SPEECH)}"
        level = asker.answer(
            "speech level of its answers, polite or casual",
            SPEECH[0],
            "--speech",
            lambda text: None if text in SPEECH else either,
        )
        answers["speech"] = {language: given.get(language, level) for language in LANGUAGES}


def _ask_field(field: Field, answers: Answers, asker: Asker) -> None:
    given = answers.setdefault(field.key, {})
    for language in _ORDER:
        if language in given:
            continue
        if asker.missing and language != "en":
            return  # the suggestions for this one come of the one that is missing
        suggestion = _suggested(field, language, answers)
        if field.asked:
            question = f"{_LANGUAGE_NAMES[language]}: {field.question}"
            option = f"--{field.option}-{language}"
            answer = asker.answer(question, suggestion, option, _check(field.key, language))
        else:
            answer = suggestion
        if not field.is_list:
            given[language] = answer
        elif answer == suggestion:  # sentences may hold commas
            by_level = defaults()[field.key]
            lists = by_level[answers["speech"][language]] if field.key == "facts" else by_level
            given[language] = list(lists[language])
        else:
            given[language] = split_list(answer)


def _ask_readings(answers: Answers, asker: Asker) -> None:
    """How Korean reads what it writes in other letters: that decides the particles."""
    readings = answers.setdefault("pronunciation", {})
    name, given = answers["name"], set(readings)
    if hangul_reading(name["en"]):
        spoken = name["ko"] if has_reading(name["ko"]) else hangul_reading(name["en"])
        readings.setdefault(name["en"], spoken)
    for key in ("name", "maker", "role"):
        text = answers[key]["ko"]
        if text not in given and (not has_reading(text, readings) or text == name["en"]):
            suggestion = readings.get(text) or hangul_reading(text)
            spoken = asker.answer(
                f"how Korean reads {text!r}, in Hangul",
                suggestion,
                "",
                lambda typed: None if has_reading(typed) and "가" <= typed[-1] <= "힣" else "write it in Hangul",
            )
            if spoken:
                readings[text] = spoken


def gather(given: Answers, asker: Asker) -> Answers:
    """All answers: those given, and the rest asked for or suggested.

    Raises KelronError, naming the options, for what has no suggestion where nobody is there to answer.
    """
    answers = {key: dict(value) if isinstance(value, dict) else value for key, value in given.items()}
    fields = {field.key: field for field in FIELDS}
    for key in ("name", "maker", "role"):
        _ask_field(fields.pop(key), answers, asker)
    if asker.missing:
        raise KelronError(
            f"nobody is asked without a terminal, and there is no answer for {', '.join(asker.missing)}: give these "
            "options, or a file with --from-answers"
        )
    _ask_speech(answers, asker)
    _ask_readings(answers, asker)
    for field in fields.values():
        _ask_field(field, answers, asker)
    return answers
