"""The persona file that answers make: commented YAML, checked before it is written."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from kelron_lib.errors import KelronError
from kelron_lib.files import cannot_write
from kelron_lib.persona import fill
from kelron_lib.persona.document import parse_document
from kelron_lib.persona_check import Report, check_document
from kelron_lib.persona_check.findings import ERROR
from kelron_lib.persona_new.answers import Answers
from kelron_lib.settings import LANGUAGES

_PROMPTS = {
    "polite": {
        "ko": "당신은 {maker|이/가} 만든 {role} {name}입니다. {tone} 말투로 답하세요.",
        "en": "You are {name}, {role|a} made by {maker}. Answer in {tone|a} way.",
        "ja": "あなたは{maker}が開発した{role}、{name}です。{tone}話し方で答えてください。",
    },
    "casual": {
        "ko": "너는 {maker|이/가} 만든 {role} {name|이야/야}. {tone} 말투로, 친구처럼 반말로 답해 줘.",
        "en": "You're {name}, {role|a} made by {maker}. Talk like a friend, in {tone|a} way.",
        "ja": "君は{maker}が作った{role}、{name}だよ。{tone}話し方で、友だちみたいにタメ口で答えてね。",
    },
}
_COMMENTS = {
    "name": "The name to answer with. No word that an ordinary text uses: it could not be counted.",
    "maker": "Who made it.",
    "role": "What it is: a noun phrase without article.",
    "system_prompt": "The system message of every row and every conversation. It has to say the name.",
    "spellings": "Other ways to write the name. An evaluation accepts these and the names above.",
    "pronunciation": "How Korean reads names in Latin letters: it decides the particle.",
    "speech": "The level of its answers: polite or casual.",
    "tone": "How it talks: an adjective phrase.",
    "abilities": "What it does: noun phrases, three or more. The more, the more its answers differ.",
    "limits": "What it cannot do: noun phrases, two or more.",
    "values": "What matters to it: noun phrases, two or more.",
    "facts": "Sentences about itself that it may tell, in the level of `speech`. Only what is true.",
    "never": "Words that no answer may hold.",
    "phrases": "Phrases of the seed files that it says in its own way: language, phrase name, texts. For instance\n"
    '# phrases: {en: {work: ["I help with everything that grows."]}}',
}
_PLAIN = re.compile(r"[\w][\w ·ー・'’-]*")


def _quoted(text: str) -> str:
    """The text as YAML reads it back, without quotes where it needs none."""
    if _PLAIN.fullmatch(text) and yaml.safe_load(f"[{text}]") == [text]:
        return text
    return json.dumps(text, ensure_ascii=False)


def _mapping(values: Mapping[str, str]) -> str:
    return "{" + ", ".join(f"{_quoted(key)}: {_quoted(text)}" for key, text in values.items()) + "}"


def _list(values: Sequence[str]) -> str:
    return "[" + ", ".join(map(_quoted, values)) + "]"


def _prompts(answers: Answers) -> dict[str, str]:
    return {
        language: fill(
            _PROMPTS[answers["speech"][language]][language],
            {key: answers[key][language] for key in ("name", "maker", "role", "tone")},
            answers["pronunciation"],
        )
        for language in LANGUAGES
    }


def _spellings(answers: Answers) -> list[str]:
    """The Latin name in capitals and in small letters, its Hangul reading, and what was given."""
    names = answers["name"]
    latin = names["en"]
    found = [*answers.get("spellings", ()), latin.upper(), latin.lower(), answers["pronunciation"].get(latin, "")]
    return [text for text in dict.fromkeys(found) if text and text not in names.values()]


def _section(key: str, value: Any) -> list[str]:
    comment = f"# {_COMMENTS[key]}"
    if isinstance(value, list):
        return [comment, f"{key}: {_list(value)}"]
    if all(isinstance(item, str) for item in value.values()) and key != "system_prompt":
        return [comment, f"{key}: {_mapping(value)}"]
    lines = [comment, f"{key}:"]
    for language, item in value.items():
        if key == "facts":
            lines += [f"  {language}:", *(f"    - {_quoted(text)}" for text in item)]
        else:
            lines.append(f"  {language}: {_list(item) if isinstance(item, list) else _quoted(item)}")
    return lines


def persona_text(answers: Answers) -> str:
    """The persona file: every field with a line that says what it is for."""
    latin = answers["name"]["en"]
    readings = {**answers["pronunciation"]}
    for form in (latin.upper(), latin.lower()):
        if latin in readings:
            readings.setdefault(form, readings[latin])
    content = {
        **{key: answers[key] for key in ("name", "maker", "role")},
        "system_prompt": _prompts(answers),
        "spellings": _spellings(answers),
        "pronunciation": readings,
        **{key: answers[key] for key in ("speech", "tone", "abilities", "limits", "values", "facts")},
        "never": answers.get("never") or [],
    }
    lines = ["# A persona: who the model is to be. Every language needs every field; `kelron persona check` reads it."]
    lines.append(f"id: {_quoted(answers['id'])}")
    for key, value in content.items():
        lines += _section(key, {k: value[k] for k in LANGUAGES} if set(value) == set(LANGUAGES) else value)
    lines.append(f"# {_COMMENTS['phrases']}")
    return "\n".join(lines) + "\n"


def write_persona(answers: Answers, path: Path) -> Report:
    """Write the file and return what `kelron persona check` says of it.

    Raises KelronError where the path is taken or cannot be written, and where the persona would not pass: nothing is
    written then.
    """
    if path.suffix not in (".yaml", ".yml"):
        raise KelronError(f"{path}: a persona file's name ends in .yaml: name it {path.name}.yaml")
    if path.exists():
        raise KelronError(f"{path} is there already, and stays as it is: name another file")
    text = persona_text(answers)
    try:
        report = check_document(parse_document(path, text.encode("utf-8")))
    except KelronError as error:  # its line is one of a file that is not there
        raise KelronError(
            f"nothing written: {re.sub(rf'^{re.escape(str(path))}(:[0-9]+)?: ', '', str(error))}"
        ) from None
    for finding in report.findings:
        if finding.severity == ERROR:
            raise KelronError(f"nothing written: {finding.text}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8", newline="\n") as file:
            file.write(text)
    except FileExistsError:
        raise KelronError(f"{path} is there already, and stays as it is: name another file") from None
    except OSError as error:
        raise cannot_write(f"write {path}", error) from None
    return report
