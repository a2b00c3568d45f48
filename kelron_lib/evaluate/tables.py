"""The scoreboard as text, aligned for a terminal (Korean and Japanese letters are two columns wide)."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from kelron_lib.evaluate.metrics import METRICS, signed_percent
from kelron_lib.page import LANGUAGE_NAMES, percent

Board = Mapping[str, Any]


def width(text: str) -> int:
    """Columns that a text takes in a terminal."""
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )


def _pad(text: str, columns: int, right: bool) -> str:
    space = " " * (columns - width(text))
    return space + text if right else text + space


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows as columns, the first to the left, the others to the right, a rule under the head."""
    columns = [max(width(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(_pad(cell, columns[i], right=i > 0) for i, cell in enumerate(row)).rstrip() for row in rows]
    lines.insert(1, "─" * (sum(columns) + 2 * (len(columns) - 1)))
    return "\n".join(lines)


def interval(value: Mapping[str, Any], digits: int = 1) -> str:
    """`95.3–99.1 %`, or a dash where nothing was measured."""
    if value["value"] is None:
        return "–"
    return f"{value['low'] * 100:.{digits}f}–{value['high'] * 100:.{digits}f} %"


def _rows(board: Board, models: Sequence[str]) -> list[list[str]]:
    head = ["", *(cell for model in models for cell in (model, "95 % interval", "n"))]
    languages = list(board[models[-1]]["by_language"])
    rows = [head]
    for name, metric in METRICS.items():
        slices: list[tuple[str, list[Mapping[str, Any]]]] = [(metric.label, [board[m][name] for m in models])]
        if name == "identity_recall":
            slices += [
                ("  " + LANGUAGE_NAMES.get(lang, lang), [board[m]["by_language"][lang][name] for m in models])
                for lang in languages
            ]
        for label, values in slices:
            cells = (cell for v in values for cell in (percent(v["value"]), interval(v), str(v["n"])))
            rows.append([label, *cells])
    return rows


def _models(board: Board) -> list[str]:
    return [model for model in ("base", "tuned") if model in board]


def _loss_line(loss: Mapping[str, float]) -> str:
    change = signed_percent(loss["ratio"] - 1)
    return f"Loss on business rows: base {loss['base']:.4f}, tuned {loss['tuned']:.4f} ({change})"


def scoreboard_table(board: Board) -> str:
    """The scoreboard for a terminal, base beside tuned, recall per language too. No newline at the end."""
    lines = [aligned(_rows(board, _models(board)))]
    if loss := board.get("business_loss"):
        lines.append(_loss_line(loss))
    if not board.get("meta", {}).get("held_out", True):
        lines.append(
            "The adapter does not say what it was trained on: whether these questions are new to it is unknown."
        )
    return "\n".join(lines)
