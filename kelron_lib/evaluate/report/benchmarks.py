"""What public benchmarks found, where `--lm-eval` named any."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kelron_lib import page
from kelron_lib.evaluate.lm_eval import shown_first
from kelron_lib.evaluate.report.numbers import flip_note
from kelron_lib.evaluate.report.parts import Board, folded, scrolling, section

_HEAD = ["Task", "Base", "Tuned", "Change", "Questions"]


def _number(value: float, *, sign: bool = False) -> str:
    return f"{value:{'+' if sign else ''}.4f}".replace("-", "−")


def _rows(results: Mapping[str, Any]) -> list[list[str]]:
    """A row of cells for each measure of each task; a task that does not tell its questions has a dash."""
    rows = []
    for task, found in results.items():
        count = "–" if found.get("n") is None else f"{found['n']:,}"
        for key, value in found["metrics"].items():
            measure = page.text(key.removesuffix(",none").replace(",", ", "))
            figures = (_number(value["base"]), _number(value["tuned"]), _number(value["change"], sign=True))
            flips = f"<small>{flip_note(value['gained'], value['lost'], value['p'])}</small>" if "p" in value else ""
            rows.append([f"<code>{page.text(task)}</code><small>{measure}</small>", *figures, count + flips])
    return rows


def _table(label: str, results: Mapping[str, Any]) -> str:
    return scrolling(label, page.table(_HEAD, _rows(results), "runs benchmarks"))


def benchmarks_section(board: Board) -> str:
    """Both models' figures in every task, those that were named first; empty where none was asked."""
    told = board.get("lm_eval") or {}
    results = told.get("results") or {}
    if not results:
        return ""
    named = shown_first(told)
    rest = {task: row for task, row in results.items() if task not in named}
    version = f" {page.text(told['version'])}" if told.get("version") else ""
    lead = (
        f"Asked by lm-evaluation-harness{version}, as it defines its tasks, with the adapter off and on. The figures "
        "are the harness's own. Flips are questions that only the tuned model has right (+) or only the base (−), with "
        "McNemar's p. No target is held against them."
    )
    within = f"The {len(rest):,} task{'' if len(rest) == 1 else 's'} within them"
    more = folded(within, _table(within, rest)) if rest else ""
    return section("benchmarks", "Public benchmarks", lead, _table("Public benchmarks", named) + more)
