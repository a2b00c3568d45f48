"""Chat files that others made: JSON lines, a JSON list or a table, in whatever shape, as a stream of rows.

A row has `line`, its number in the file; `language` is its own or that of its scripts. What it does not tell of a row's
fields (kind, intent, group) is an empty text. A system message is there only where the file has one. Whether the turns
are in order, and what they say, is for the gate to judge.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kelron_lib.config import nearest
from kelron_lib.data.foreign.records import JSON_LINES, TABLE, Record, form_of, records
from kelron_lib.data.foreign.shapes import ANSWER, QUESTION, Misshapen, Shape, shape_of
from kelron_lib.data.foreign.text import TextFile, open_text
from kelron_lib.data.gate.language import language_of
from kelron_lib.errors import KelronError
from kelron_lib.persona import KINDS
from kelron_lib.settings import LANGUAGES

_LANGUAGE = ("language", "lang", "locale", "언어", "言語")
_LANGUAGES = {
    "ko": "ko", "kr": "ko", "kor": "ko", "korean": "ko", "한국어": "ko", "韓国語": "ko",
    "en": "en", "eng": "en", "english": "en", "영어": "en", "英語": "en",
    "ja": "ja", "jp": "ja", "jpn": "ja", "japanese": "ja", "일본어": "ja", "日本語": "ja",
}  # fmt: skip
_TOLD = ("seed_id", "group", "intent", "register", "template", "generator")
_HAN = re.compile("[㐀-䶿一-鿿々]")
_NAMED = 10
"""Lines that an error names."""


@dataclass
class ForeignFile:
    """A chat file that somebody made. Its rows can be read as often as one likes."""

    text: TextFile
    form: str
    shape: Shape
    only_han: int = field(default=0, init=False)
    """Rows of the last reading that were taken for Japanese by Chinese characters alone."""

    @property
    def path(self) -> Path:
        return self.text.path

    def describe(self) -> str:
        """What it was recognised as, in a line."""
        form = f"{self.form} of {'messages' if self.shape.name == 'messages' else self.shape.name}"
        return f"{self.path}: {form}, {self.text.encoding}"

    def notes(self) -> list[str]:
        """What is worth saying once the rows were read."""
        if not self.only_han:
            return []
        return [
            f"{self.only_han} rows have Chinese characters and no kana, and count as Japanese: name the language in a "
            "field `language` if that is wrong"
        ]

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows, one at a time. Raises KelronError, with the line, for what is none, and, with up to ten lines, for
        rows whose language neither a field nor the scripts tell."""
        self.only_han = 0
        unknown: list[int] = []
        for line, value in records(self.text, self.form):
            row = self._row(line, value)
            if not row["language"]:
                unknown.append(line)
                if len(unknown) == _NAMED:
                    break
                continue
            yield row
        if unknown:
            lines = ", ".join(map(str, unknown)) + (", ..." if len(unknown) == _NAMED else "")
            raise KelronError(
                f"{self.path}: no telling the language of line {lines}: Kelron knows {', '.join(LANGUAGES)}; add a "
                "field `language` to these rows, or leave them out"
            )

    def _row(self, line: int, value: Mapping[str, Any]) -> dict[str, Any]:
        where = f"{self.path}:{line}"
        if not self.shape.fits(value):
            raise KelronError(f"{where}: {_unlike(value, self.shape)}")
        try:
            messages = self.shape.read(value)
        except Misshapen as problem:
            raise KelronError(f"{where}: {problem}") from None
        if half := _half_letter(messages):
            raise KelronError(f"{where}: {half}")
        told = {name: value[name] if isinstance(value.get(name), str) else "" for name in _TOLD}
        kind = value.get("kind")
        return {
            "id": f"line {line}",
            "line": line,
            **told,
            "kind": kind if kind in KINDS else "",
            "language": self._language(value, messages, where),
            "messages": messages,
        }

    def _language(self, value: Mapping[str, Any], messages: list[dict[str, str]], where: str) -> str:
        given = next((value[name] for name in _LANGUAGE if value.get(name)), None)
        if given is not None:
            name = re.split("[-_ ]", str(given).strip().lower())[0]
            if name not in _LANGUAGES:
                raise KelronError(
                    f"{where}: the language is {given!r}: Kelron knows {', '.join(LANGUAGES)}; leave the row out."
                    f"{nearest(name, LANGUAGES)}"
                )
            return _LANGUAGES[name]
        for role in ("user", "assistant"):  # an answer in another language than its question is a finding
            text = "\n".join(message["content"] for message in messages if message["role"] == role)
            if found := language_of(text):
                return found
            if _HAN.search(text):
                self.only_han += 1
                return "ja"
        return ""


def _unlike(value: Mapping[str, Any], shape: Shape) -> str:
    """What is wrong with an object that is not of its file's shape."""
    other = shape_of(value)
    if other is not None:
        return f"this row is of the shape {other.name} and the file began with {shape.name}: make it one shape"
    return f"has {', '.join(map(repr, value)) or 'nothing'} and not what the shape {shape.name} needs"


def _half_letter(messages: list[dict[str, str]]) -> str | None:
    """A text that cannot be written as UTF-8: half of a pair of code units, as cut emoji leave it."""
    for number, message in enumerate(messages, start=1):
        try:
            message["content"].encode()
        except UnicodeEncodeError as error:
            half = ascii(message["content"][error.start])[1:-1]
            return f"message {number} holds {half}, half a letter of a cut text: take it out"
    return None


def open_foreign(path: Path) -> ForeignFile:
    """A chat file, recognised by its first row.

    Raises KelronError for a path that is no text file, and, with the line, for a first row that is of no known shape.
    """
    text = open_text(path)
    form = form_of(text)
    first: Record | None = next(records(text, form), None)
    if first is None:
        raise KelronError(f"{path} has no rows: put a row on every line")
    line, value = first
    shape = shape_of(value)
    if shape is None:
        raise KelronError(f"{path}:{line if form != TABLE else 1}: {_shapeless(value, form)}")
    return ForeignFile(text, form, shape)


def _shapeless(value: Mapping[str, Any], form: str) -> str:
    has = ", ".join(map(repr, [*value][:8])) or "nothing"
    if form == TABLE:
        return (
            f"the columns are {has}: name one for the question ({', '.join(QUESTION[:3])}, ...) and one for the answer "
            f"({', '.join(ANSWER[:3])}, ...) in the first line"
        )
    rows = next((name for name, held in value.items() if isinstance(held, list) and held), None)
    if form == JSON_LINES and rows is not None and isinstance(value[rows][0], dict):
        return f"an object around the rows: save the list in its {rows!r} alone"
    return (
        f"a row with {has}: use messages, conversations (ShareGPT), instruction and output (Alpaca), or question and "
        "answer"
    )
