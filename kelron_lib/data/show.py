"""A dataset for the eye: the gate's report and rows as text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from kelron_lib.data.rows import Row, iter_rows, rows_file
from kelron_lib.persona import KINDS

_NAMED = 5
"""Rows that a line names."""


def _finding_line(finding: Mapping[str, Any]) -> str:
    named, more = finding["rows"][:_NAMED], len(finding["rows"]) > _NAMED
    where = f" ({', '.join(named)}{', ...' if more else ''})" if named else ""
    example = f"; there: {finding['example']!r}" if finding.get("example") else ""
    return f"  {finding['severity']}: {finding['check']}, {finding['count']} rows{where}: {finding['fix']}{example}"


def _variety_line(language: str, report: Mapping[str, Any]) -> str:
    counts = report["by_language"][language]
    line = f"  {language:<10} {counts['rows']:>6} rows: "
    line += f"{counts['unique_rows']} unique, {counts['effective_rows']} effective"
    if told := report["distinct"].get(language):
        shares = ("/".join(f"{share:.4f}" for share in told[kind]) for kind in ("characters", "words"))
        line += ", distinct-1/2/3 of characters {}, of words {}".format(*shares)
    return line


def quality_summary(report: Mapping[str, Any]) -> str:
    """The gate's report as a few lines: verdict, sizes, rows by split and kind, variety by language, findings, what was
    not checked."""
    lines = [
        f"quality gate: {report['verdict']}",
        f"{report['rows']} rows, {report['unique_rows']} unique, {report['effective_rows']} effective, identity share "
        f"{report['identity_share']:.1%}, rows that name a rival {report['rival_rows']}, most uses of one answer "
        f"{report['max_answer_reuse']}",
    ]
    for part, counts in {**report.get("by_split", report["by_language"])}.items():
        kinds = ", ".join(f"{kind} {counts[kind]}" for kind in KINDS if kind in counts)
        lines.append(f"  {part:<10} {counts['rows']:>6} rows: {kinds}")
    lines += [_variety_line(language, report) for language in report["by_language"]]
    lines += [_finding_line(finding) for finding in report["findings"]]
    lines += [
        f"  not checked: {entry['what']}: {entry['why']} (`kelron data check FOLDER` does, with the base's tokenizer)"
        if "token" in entry["what"]
        else f"  not checked: {entry['what']}: {entry['why']}"
        for entry in report.get("not_checked", ())
    ]
    return "\n".join(lines)


def sample_text(folder: Path, kinds: tuple[str, ...] = ("identity", "business")) -> str:
    """The first training row of each language and kind, as questions and answers."""
    chosen: dict[tuple[str, str], str] = {}
    for row in iter_rows(rows_file(folder, "train")):
        key = (row["language"], row["kind"])
        if row["kind"] in kinds and key not in chosen:
            chosen[key] = "\n".join([f"{key[0]} {key[1]}", *(f"  - {text}" for text in _texts(row))])
    return "\n".join(chosen[key] for key in sorted(chosen))


def _texts(row: Row) -> list[str]:
    return [message["content"] for message in row["messages"] if message["role"] != "system"]


def find_rows(folder: Path, split: str, wanted: Mapping[str, str], most: int) -> Iterator[Row]:
    """The first rows of a split whose fields have these values; an empty value is any."""
    asked = {name: value for name, value in wanted.items() if value}
    rows = (row for row in iter_rows(rows_file(folder, split)) if all(row[n] == v for n, v in asked.items()))
    return islice(rows, most)


def rows_text(rows: Iterable[Row]) -> Iterator[str]:
    """Each row as text: what it is, then its messages."""
    for row in rows:
        told = ", ".join(row[name] for name in ("language", "kind", "intent", "register") if row[name])
        lines = [f"{row['id']} ({told})"]
        lines += [f"  {message['role']:<9} {message['content']}" for message in row["messages"]]
        yield "\n".join(lines)


def rows_json(rows: Iterable[Row]) -> Iterator[str]:
    """Each row as a line of JSON, for other tools."""
    return (json.dumps(row, ensure_ascii=False) for row in rows)
