"""Rows on disk: JSON lines in, checked rows out."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from kelron_lib.data.splits import SPLITS
from kelron_lib.errors import KelronError
from kelron_lib.persona import KINDS
from kelron_lib.settings import LANGUAGES

FIELDS = ("id", "seed_id", "group", "kind", "intent", "language")
SPECIAL_TOKEN = re.compile(r"<\|[^|<>\s]*\|>")


def _message_problem(messages: Any) -> str | None:
    """What is wrong with a row's messages, or None."""
    if not isinstance(messages, list) or not messages:
        return "messages is not a list of messages"
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("content"), str):
            return "a message is not an object with role and content texts"
        if token := SPECIAL_TOKEN.search(message["content"]):
            return f"special token {token[0]} inside a message: remove it"
        if message.get("role") != "system" and not message["content"].strip():
            return f"the {message.get('role')} message is empty"
    roles = [message.get("role") for message in messages]
    if "assistant" not in roles:
        return "no assistant answer"
    turns = roles[1:]
    if roles[0] != "system" or turns != ["user", "assistant"] * (len(turns) // 2) or not turns:
        return f"roles are {', '.join(map(str, roles))}: expected system, then user and assistant in turn"
    return None


def row_problem(row: Any) -> str | None:
    """What is wrong with a parsed row, or None."""
    if not isinstance(row, dict):
        return "not an object"
    for field in FIELDS:
        if not isinstance(row.get(field), str) or not row[field]:
            return f"field {field!r} is missing or empty"
    if row["kind"] not in KINDS:
        return f"kind is {row['kind']!r}: use {', '.join(KINDS)}"
    if row["language"] not in LANGUAGES:
        return f"language is {row['language']!r}: use {', '.join(LANGUAGES)}"
    return _message_problem(row.get("messages"))


def _no_rows(path: Path) -> KelronError:
    return KelronError(f"no rows at {path}: `kelron data --out {path.parent}` with the run's config makes them")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON lines file, in order.

    Raises KelronError, with file and line, for a missing or empty file, a row that is not UTF-8, bad JSON, a missing
    field, a wrong role order, a special token inside a message, no assistant answer, and an id used twice.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except (FileNotFoundError, NotADirectoryError):
        raise _no_rows(path) from None
    except OSError as error:
        raise KelronError(f"cannot read {path}: {error.strerror or error}") from None
    rows: list[dict[str, Any]] = []
    seen: set[str] = set()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError:
            raise KelronError(f"{path}:{number}: not UTF-8: mend that row, or make the dataset again") from None
        except json.JSONDecodeError as error:
            raise KelronError(f"{path}:{number}: not JSON ({error.msg})") from None
        if problem := row_problem(row):
            raise KelronError(f"{path}:{number}: {problem}")
        if row["id"] in seen:
            raise KelronError(f"{path}:{number}: id {row['id']!r} is used twice")
        seen.add(row["id"])
        rows.append(row)
    if not rows:
        raise KelronError(f"{path}: no rows in it")
    return rows


def load_dataset_dir(path: Path) -> dict[str, list[dict[str, Any]]]:
    """The three splits of a dataset folder, by name. Raises KelronError as `read_rows` does."""
    return {split: read_rows(path / f"{split}.jsonl") for split in SPLITS}


def fingerprint(path: Path) -> str:
    """sha256 (hex) over the names and bytes of the three split files of a dataset folder."""
    digest = hashlib.sha256()
    for split in SPLITS:
        file = path / f"{split}.jsonl"
        if not file.is_file():
            raise _no_rows(file)
        content = file.read_bytes()
        digest.update(f"{file.name} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()
