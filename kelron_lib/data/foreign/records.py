"""Chat files as a stream of objects, each with the line it begins on: JSON lines, a JSON list, or a table."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from typing import Any

from kelron_lib.data.foreign.text import MOST_TEXT, TextFile
from kelron_lib.errors import KelronError

Record = tuple[int, dict[str, Any]]
JSON_LINES, JSON_LIST, TABLE = "JSON lines", "a JSON list", "a table"
_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}
_TABLES = (".csv", ".tsv")
_SPACES = re.compile(r"[ \t\r\n]*")


def form_of(file: TextFile) -> str:
    """JSON_LINES, JSON_LIST or TABLE, by the file's ending and its first letter. Raises KelronError for none."""
    if file.path.suffix.lower() in _TABLES:
        return TABLE
    number = 1
    for block in file.blocks():
        text = block.lstrip()
        number += block[: len(block) - len(text)].count("\n")
        if not text:
            continue
        if text[0] in "{[":
            return JSON_LINES if text[0] == "{" else JSON_LIST
        raise KelronError(
            f"{file.path}:{number}: begins with {text[:12].rstrip()!r}, which is no JSON: put one object on a line, or "
            "call the file .csv if it is a table"
        )
    raise KelronError(f"{file.path} holds nothing but blank lines: put a row on every line")


def records(file: TextFile, form: str) -> Iterator[Record]:
    """The objects of a file, with their lines. Raises KelronError, with the line, for anything else."""
    return {JSON_LINES: _json_lines, JSON_LIST: _json_list, TABLE: _table}[form](file)


def _json_lines(file: TextFile) -> Iterator[Record]:
    for number, line in file.lines():
        if not line.strip():
            continue
        where = f"{file.path}:{number}"
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            if not line.endswith("\n"):
                raise KelronError(
                    f"{where}: the last line is half written ({error.msg}): get the file again, or delete that line"
                ) from None
            raise KelronError(
                f"{where}: not JSON ({error.msg}, column {error.colno}): put one whole object on each line, or all of "
                "them in a list"
            ) from None
        except RecursionError:
            raise KelronError(f"{where}: nested too deeply for a row: give it messages, role and content") from None
        yield number, _object(value, where)


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise KelronError(f"{where}: {_kind(value)} where an object was to be: a row is {{...}}")
    return value


def _kind(value: Any) -> str:
    return {list: "a list", str: "a text", bool: "true or false", type(None): "null"}.get(type(value), "a number")


class _Reader:
    """A JSON text of any length, of which little is in memory."""

    def __init__(self, file: TextFile) -> None:
        self.file, self.blocks = file, file.blocks()
        self.text, self.at, self.line = "", 0, 1
        """`line`: that of `at`."""

    def where(self, beyond: int = 0) -> str:
        return f"{self.file.path}:{self.line + self.text.count(chr(10), self.at, self.at + beyond)}"

    def move(self, to: int) -> None:
        self.line += self.text.count("\n", self.at, to)
        self.at = to

    def more(self) -> bool:
        """Add a block, and forget what was read; whether there was one."""
        block = next(self.blocks, "")
        self.text, self.at = self.text[self.at :] + block, 0
        return bool(block)

    def peek(self) -> str:
        """The next letter that is no space; empty at the end."""
        while True:
            self.move(_SPACES.match(self.text, self.at).end())  # type: ignore[union-attr]
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.more():
                return ""

    def value(self) -> Any:
        """The JSON value that begins here."""
        while True:
            try:
                value, end = json.JSONDecoder().raw_decode(self.text, self.at)
            except RecursionError:
                raise KelronError(f"{self.where()}: nested too deeply for a row") from None
            except json.JSONDecodeError as error:
                if len(self.text) - self.at > MOST_TEXT:
                    raise KelronError(
                        f"{self.where()}: not JSON ({error.msg}), or an object of over {MOST_TEXT:,} characters"
                    ) from None
                if not self.more():
                    raise KelronError(
                        f"{self.where(error.pos - self.at)}: not JSON ({error.msg}), or the file is cut off: the "
                        "object that begins there has no end"
                    ) from None
                continue
            self.move(end)
            return value


def _json_list(file: TextFile) -> Iterator[Record]:
    reader = _Reader(file)
    reader.peek()
    reader.move(reader.at + 1)  # past the bracket
    number = 0
    while (char := reader.peek()) != "]":
        if number and char == ",":
            reader.move(reader.at + 1)
            char = reader.peek()
        elif number and char:
            raise KelronError(f"{reader.where()}: {char!r} where a comma was to be: put commas between the objects")
        if not char:
            raise KelronError(f"{reader.where()}: the list is cut off: it has no closing bracket; get it again, whole")
        where, line = reader.where(), reader.line
        yield line, _object(reader.value(), where)
        number += 1
    reader.move(reader.at + 1)
    if char := reader.peek():
        raise KelronError(f"{reader.where()}: {char!r} after the list's end: one file is one list, or JSON lines")


def column_name(text: str) -> str:
    """A column's name as it is compared: small letters, words joined by _."""
    return "_".join(text.strip().lower().replace("-", " ").replace("_", " ").split())


def _cells(line: str, delimiter: str) -> list[str]:
    return next(csv.reader([line], delimiter=delimiter), [])


def _table(file: TextFile) -> Iterator[Record]:
    lines = file.lines()
    start, head = next(((number, line) for number, line in lines if line.strip()), (1, ""))
    if not head:
        raise KelronError(f"{file.path} holds nothing but blank lines: name the columns in the first line")
    delimiter = max(_DELIMITERS, key=lambda char: len(_cells(head, char)))
    columns = [column_name(cell) for cell in _cells(head, delimiter)]
    if twice := next((name for name in columns if name and columns.count(name) > 1), None):
        raise KelronError(f"{file.path}:{start}: the column {twice!r} is there twice: rename one")
    reader = csv.reader((line for _, line in lines), delimiter=delimiter, strict=True)
    line = start + 1
    try:
        for cells in reader:
            if cells:
                where = f"{file.path}:{line}"
                if len(cells) != len(columns):
                    raise KelronError(
                        f"{where}: {len(cells)} fields and {len(columns)} columns: put quotes around texts that hold "
                        f"{_DELIMITERS[delimiter]} or line ends"
                    )
                yield line, {name: cell for name, cell in zip(columns, cells, strict=True) if name}
            line = start + 1 + reader.line_num
    except csv.Error as error:
        raise KelronError(
            f"{file.path}:{line}: the row that begins here is no CSV ({error}): close its quotes, and double those "
            "inside a text"
        ) from None
