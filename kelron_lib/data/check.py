"""The gate on what lies on disk: a dataset of Kelron's, or a chat file that others made."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from kelron_lib.data.foreign import open_foreign
from kelron_lib.data.gate import PAGE_FILE, check_rows, check_splits, write_page
from kelron_lib.data.rows import iter_rows, old_file, rows_file
from kelron_lib.data.splits import SPLITS
from kelron_lib.files import cannot_write, write_whole
from kelron_lib.persona import Persona

SAID_EVERY = 20_000
"""Rows between two lines about the progress."""
QUALITY_FILE = "quality.json"


def is_dataset(path: Path) -> bool:
    """Whether a path is a folder with rows of Kelron's, be it as JSON lines, which reading them refuses."""
    return any(where(path, split).exists() for where in (rows_file, old_file) for split in SPLITS)


def check_path(
    path: Path,
    persona: Persona,
    identity_share: float,
    *,
    tokenizer: Any = None,
    max_tokens: int | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """The gate's report on a dataset folder or a chat file, read once and as a stream.

    `tokenizer`, `max_tokens`: as `gate.Gate` takes them. Raises KelronError for what cannot be read, with the line.
    """
    tokens = {"tokenizer": tokenizer, "max_tokens": max_tokens}
    if is_dataset(path):
        say(f"{path}: a dataset of Kelron's")
        return check_splits(
            {split: iter_rows(rows_file(path, split)) for split in SPLITS}, persona, identity_share, **tokens
        )
    foreign = open_foreign(path)
    say(foreign.describe())
    report = check_rows(_told(foreign.rows(), say), persona, identity_share, own=False, **tokens)
    for note in foreign.notes():
        say(note)
    return report


def _told(rows: Iterable[dict[str, Any]], say: Callable[[str], None]) -> Iterator[dict[str, Any]]:
    """The rows, with a word now and then of how many there were, and one before they are compared."""
    count = 0
    for count, row in enumerate(rows, start=1):
        if count % SAID_EVERY == 0:
            say(f"{count:,} rows read")
        yield row
    if count >= SAID_EVERY:
        say(f"{count:,} rows read; now they are compared with each other, which takes minutes")


def quality_text(report: dict[str, Any]) -> str:
    """What quality.json holds."""
    return json.dumps(report, indent=2, ensure_ascii=False) + "\n"


def write_report(report: dict[str, Any], folder: Path, title: str) -> None:
    """Write quality.json and quality.html. Raises KelronError where the folder cannot be written."""
    try:
        write_whole(folder / QUALITY_FILE, quality_text(report).encode())
    except OSError as error:
        raise cannot_write(f"write {folder / QUALITY_FILE}", error) from None
    write_page(report, folder / PAGE_FILE, title)
