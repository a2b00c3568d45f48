"""A YAML file that a person wrote: its content, and on which line each part of it stands."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import yaml

from kelron_lib.errors import KelronError

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_MARKS = ((b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16"))


class Document:
    """What `read_document` gives: `data`, texts in Unicode's composed form (NFC), and the lines."""

    def __init__(self, path: Path, data: Any, lines: dict[tuple[Any, ...], int]) -> None:
        self.path = path
        self.data = data
        self._lines = lines

    def line(self, *keys: Any) -> int | None:
        """The line, from 1, of the value under `keys`, or of what stands nearest above it; None in an empty file."""
        while keys and keys not in self._lines:
            keys = keys[:-1]
        return self._lines.get(keys)

    def at(self, *keys: Any) -> str:
        """`path:line` of the value under `keys`, as errors begin."""
        line = self.line(*keys)
        return f"{self.path}:{line}" if line else str(self.path)


def _decoded(path: Path, content: bytes) -> str:
    """The text of a file. Raises KelronError where it is empty, binary, or not (or not everywhere) in UTF-8."""
    if not content.strip():
        raise KelronError(f"{path}: is empty: `kelron persona new` writes a persona file")
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            raise KelronError(f"{path}: is in {encoding}; save it as UTF-8")
    if (zero := content.find(b"\0")) >= 0:
        raise KelronError(f"{path}: holds a zero byte (at {zero}), so it is not a text file: name a YAML file")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        before = content[: error.start]
        mixed = " (the text before it is: the file mixes encodings)" if not before.isascii() else ""
        raise KelronError(
            f"{path}:{line}: byte 0x{content[error.start]:02x} is not UTF-8{mixed}; save the file as UTF-8"
        ) from None


def _composed(value: Any) -> Any:
    """`value` with every text in NFC: a name that was typed in pieces (some file systems do) is the same name."""
    if isinstance(value, str):
        return unicodedata.normalize("NFC", value)
    if isinstance(value, list):
        return [_composed(item) for item in value]
    if isinstance(value, dict):
        return {_composed(key): _composed(item) for key, item in value.items()}
    return value


def _walk(node: Any, keys: tuple[Any, ...], lines: dict[tuple[Any, ...], int], path: Path) -> None:
    """Note the line of every value; a mapping's value counts as standing where its key does."""
    lines.setdefault(keys, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            name = _composed(key.value) if isinstance(key.value, str) else str(key.value)
            line = key.start_mark.line + 1
            if (*keys, name) in lines:
                first = lines[(*keys, name)]
                raise KelronError(f"{path}:{line}: {name!r} is there already, on line {first}: leave one of the two")
            lines[(*keys, name)] = line
            _walk(value, (*keys, name), lines, path)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _walk(value, (*keys, index), lines, path)


def read_document(path: Path) -> Document:
    """The content of a YAML file with its lines; raises as `parse_document` does, and for a file that is missing."""
    try:
        return parse_document(path, path.read_bytes())
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise KelronError(f"no file at {path}") from None
    except OSError as error:
        raise KelronError(f"cannot read {path}: {error.strerror or error}") from None


def parse_document(path: Path, content: bytes) -> Document:
    """The document that the file `path` has with this content.

    Raises KelronError, with the line where there is one, for content that is empty, binary, not in UTF-8, no YAML, or
    names a key twice.
    """
    text = _decoded(path, content)
    lines: dict[tuple[Any, ...], int] = {}
    try:
        loader = _LOADER(text)
        node = loader.get_single_node()
        if node is not None:
            _walk(node, (), lines, path)
        return Document(path, _composed(loader.construct_document(node)) if node is not None else None, lines)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise KelronError(f"{path}:{line}: holds a character that YAML does not allow ({error.reason})") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line_of = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise KelronError(f"{path}{line_of}: not YAML ({problem})") from None
    except RecursionError:
        raise KelronError(f"{path}: nests too deeply, or contains itself: write it flat") from None
