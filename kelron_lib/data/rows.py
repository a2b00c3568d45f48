"""Rows on disk: Parquet, checked as it is read.

A dataset's splits are train.parquet, validation.parquet and test.parquet, which `datasets.load_dataset(FOLDER)` reads,
too. A row is the texts of FIELDS and PROVENANCE and its messages: system, then user and assistant in turn.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from kelron_lib.data.splits import SPLITS
from kelron_lib.errors import KelronError
from kelron_lib.persona import KINDS
from kelron_lib.settings import LANGUAGES

Row = Mapping[str, Any]

FIELDS = ("id", "seed_id", "group", "kind", "intent", "language")
"""Texts that every row has."""
PROVENANCE = ("register", "template", "generator")
"""Texts that may be empty: the question's register, which templates made the row, and who wrote it."""
SPECIAL_TOKEN = re.compile(r"<\|[^|<>\s]*\|>")
BATCH_ROWS = 1000
"""Rows that are decoded at one time; as many are in one of the file's row groups."""


def rows_file(folder: Path, split: str) -> Path:
    """Where a split of the dataset in `folder` lies."""
    return folder / f"{split}.parquet"


def old_file(folder: Path, split: str) -> Path:
    """Where it lay when rows were JSON lines."""
    return folder / f"{split}.jsonl"


def message_problem(messages: Any) -> str | None:
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
    """What is wrong with a row, or None."""
    if not isinstance(row, dict):
        return "not an object"
    for field in FIELDS:
        if not isinstance(row.get(field), str) or not row[field]:
            return f"field {field!r} is missing or empty"
    if row["kind"] not in KINDS:
        return f"kind is {row['kind']!r}: use {', '.join(KINDS)}"
    if row["language"] not in LANGUAGES:
        return f"language is {row['language']!r}: use {', '.join(LANGUAGES)}"
    return message_problem(row.get("messages"))


def _schema() -> Any:
    import pyarrow as pa

    message = pa.struct([("role", pa.string()), ("content", pa.string())])
    return pa.schema([*((name, pa.string()) for name in (*FIELDS, *PROVENANCE)), ("messages", pa.list_(message))])


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write rows as Parquet (zstd). The same rows give the same bytes with the same version of pyarrow.

    Raises OSError where the file cannot be written.
    """
    import pyarrow as pa
    from pyarrow import parquet

    schema, left, sink = _schema(), iter(rows), pa.BufferOutputStream()
    with parquet.ParquetWriter(sink, schema, compression="zstd") as writer:
        while part := [*islice(left, BATCH_ROWS)]:
            writer.write_table(pa.Table.from_pylist(part, schema))
    path.write_bytes(sink.getvalue().to_pybytes())


def no_rows(path: Path) -> KelronError:
    """The error of a split's file that is not there."""
    folder = path.parent
    if (old := old_file(folder, path.stem)).is_file():
        return KelronError(
            f"{old} holds JSON lines, as earlier versions of Kelron wrote them, and rows are Parquet now: `kelron data "
            f"--out {folder} --replace` with the run's config makes them again"
        )
    return KelronError(f"no rows at {path}: `kelron data --out {folder}` with the run's config makes them")


def _decoded(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a Parquet file as they are, a batch at a time."""
    import pyarrow as pa
    from pyarrow import parquet

    if not path.is_file():
        raise no_rows(path)
    try:
        with parquet.ParquetFile(path) as file:
            if lacking := sorted({*FIELDS, "messages"} - set(file.schema_arrow.names)):
                raise KelronError(f"{path}: no column {lacking[0]!r}: a dataset of Kelron's has one")
            for batch in file.iter_batches(batch_size=BATCH_ROWS, use_threads=False):
                yield from batch.to_pylist()
    except (pa.ArrowException, ValueError) as error:
        told = " ".join(str(error).split())
        raise KelronError(f"{path} is no Parquet file, or a damaged one ({told[:120]}): make it again") from None
    except OSError as error:  # pyarrow's own for pages that are damaged is one without a number
        told = error.strerror or " ".join(str(error).split())[:120]
        raise KelronError(f"cannot read {path}: {told}: make the dataset again if it is damaged") from None


def iter_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a split's file, in order, with a batch of them in memory.

    Raises KelronError, with file and row (counted from 1), for a missing, empty or damaged file, a row without one of
    the texts, a wrong role order, a special token inside a message, no assistant answer, and an id used twice.
    """
    seen: set[str] = set()
    shared: dict[str, str] = {}  # a text that thousands of rows have is in memory once
    for number, row in enumerate(_decoded(path), start=1):
        if problem := row_problem(row):
            raise KelronError(f"{path}, row {number}: {problem}")
        if row["id"] in seen:
            raise KelronError(f"{path}, row {number}: id {row['id']!r} is used twice")
        seen.add(row["id"])
        for name in (*FIELDS[1:], *PROVENANCE):
            text = row.get(name) or ""
            row[name] = shared.setdefault(text, text)
        for message in row["messages"]:
            message["role"] = shared.setdefault(message["role"], message["role"])
        system = row["messages"][0]
        system["content"] = shared.setdefault(system["content"], system["content"])
        yield row
    if not seen:
        raise KelronError(f"{path}: no rows in it")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a split's file, in order. Raises KelronError as `iter_rows` does."""
    return [*iter_rows(path)]


def load_dataset_dir(path: Path) -> dict[str, list[dict[str, Any]]]:
    """The three splits of a dataset folder, by name. Raises KelronError as `iter_rows` does."""
    return {split: read_rows(rows_file(path, split)) for split in SPLITS}


def rows_fingerprint(splits: Mapping[str, Sequence[Row] | Iterator[Row]]) -> str:
    """sha256 (hex) over the rows of the three splits: all that is in them, and their order.

    Files of other bytes may hold the same rows: another version of pyarrow writes them otherwise.
    """
    digest = hashlib.sha256()
    for split in SPLITS:
        digest.update(f"{split}\n".encode())
        for row in splits[split]:
            texts = [row.get(name) or "" for name in (*FIELDS, *PROVENANCE)]
            messages = [[message["role"], message["content"]] for message in row["messages"]]
            digest.update(json.dumps([texts, messages], ensure_ascii=False).encode())
            digest.update(b"\n")
    return digest.hexdigest()


def fingerprint(path: Path) -> str:
    """`rows_fingerprint` of a dataset folder. Raises KelronError as `iter_rows` does."""
    for split in SPLITS:
        if not rows_file(path, split).is_file():
            raise no_rows(rows_file(path, split))
    return rows_fingerprint({split: iter_rows(rows_file(path, split)) for split in SPLITS})
