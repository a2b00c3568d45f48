"""A dataset for the eye: the gate's report and a few rows as text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kelron_lib.data.rows import iter_rows, rows_file
from kelron_lib.persona import KINDS


def quality_summary(report: Mapping[str, Any]) -> str:
    """The gate's report as a few lines: verdict, rows by split and kind, shares, findings."""
    lines = [
        f"quality gate: {report['verdict']}",
        f"{report['rows']} rows, {report['unique_rows']} unique, identity share {report['identity_share']:.1%}, "
        f"rows that name a rival {report['rival_rows']}, most uses of one answer {report['max_answer_reuse']}",
    ]
    for split, counts in report["by_split"].items():
        kinds = ", ".join(f"{kind} {counts[kind]}" for kind in KINDS if kind in counts)
        lines.append(f"  {split:<10} {counts['rows']:>6} rows: {kinds}")
    lines += [f"  {f['severity']}: {f['check']}, {f['count']} rows: {f['fix']}" for f in report["findings"]]
    return "\n".join(lines)


def sample_text(folder: Path, kinds: tuple[str, ...] = ("identity", "business")) -> str:
    """The first training row of each language and kind, as question and answer."""
    chosen: dict[tuple[str, str], str] = {}
    for row in iter_rows(rows_file(folder, "train")):
        key = (row["language"], row["kind"])
        if row["kind"] in kinds and key not in chosen:
            *_, question, answer = row["messages"]
            chosen[key] = f"{key[0]} {key[1]}\n  - {question['content']}\n  - {answer['content']}"
    return "\n".join(chosen[key] for key in sorted(chosen))
