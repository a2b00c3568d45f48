"""The scoreboard as text: aligned for a terminal (Korean and Japanese letters are two columns wide), or as Markdown."""

from __future__ import annotations

import textwrap
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import regex

from kelron_lib.evaluate.detectors import KINDS
from kelron_lib.evaluate.gate import FIRST_LOOK
from kelron_lib.evaluate.metrics import METRICS, language_order, signed_percent
from kelron_lib.page import LANGUAGE_NAMES, percent

Board = Mapping[str, Any]
COLUMNS = 80
"""A terminal's width, which no line of the table exceeds."""
NOT_MEASURED: Mapping[str, Any] = {"value": None, "n": 0, "low": None, "high": None}
UNKNOWN_ORIGIN = "The adapter does not say what it was trained on: whether these questions are new to it is unknown."
_MARKUP = regex.compile(r"[\\`*_\[\]|~$]|^[-+#]|(?<=^\d+)[.)](?=\s|$)")
_TAGS = regex.compile(r"[<>&]|:(?=//)")


def width(text: str) -> int:
    """Columns that a text takes in a terminal."""
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )


def _cut(text: str, columns: int) -> str:
    """The text in at most `columns` columns, with an ellipsis where it was longer."""
    if width(text) <= columns:
        return text
    shown = text
    while width(shown) > columns - 1:
        shown = shown[:-1]
    return shown.rstrip() + "…"


def _pad(text: str, columns: int, right: bool) -> str:
    space = " " * (columns - width(text))
    return space + text if right else text + space


def aligned(rows: Sequence[Sequence[str]], most: int | None = None) -> str:
    """Rows as columns, the first to the left, the others to the right, a rule under the head.

    Where they would take more than `most` columns of a terminal, the first is cut.
    """
    columns = [max(width(row[i]) for row in rows) for i in range(len(rows[0]))]
    taken = sum(columns[1:]) + 2 * (len(columns) - 1)
    if most is not None:
        columns[0] = min(columns[0], max(1, most - taken))
    cells = [[_cut(row[0], columns[0]), *row[1:]] for row in rows]
    lines = ["  ".join(_pad(cell, columns[i], right=i > 0) for i, cell in enumerate(row)).rstrip() for row in cells]
    lines.insert(1, "─" * (columns[0] + taken))
    return "\n".join(lines)


def interval(value: Mapping[str, Any], digits: int = 1) -> str:
    """`95.3–99.1 %`, or a dash where nothing was measured."""
    if value["value"] is None:
        return "–"
    return f"{value['low'] * 100:.{digits}f}–{value['high'] * 100:.{digits}f} %"


def short_p(p: float | None) -> str:
    """McNemar's p as `0.034` or `<.001`; a dash for None."""
    return "–" if p is None else "<.001" if p < 0.001 else f"{p:.3f}".lstrip("0") if p < 0.9995 else "1"


# --- The rows of both tables ------------------------------------------------------------------------------
def _models(board: Board) -> list[str]:
    return [model for model in ("base", "tuned") if model in board]


def _values(board: Board, name: str) -> list[tuple[str, list[Mapping[str, Any]]]]:
    """(label, value of each model) of a metric, recall by language too; empty where nobody was asked."""
    models = _models(board)
    values = [board[model].get(name, NOT_MEASURED) for model in models]
    if not any(value["n"] for value in values):
        return []
    found = [(METRICS[name].label, values)]
    if name == "identity_recall":
        for language in board[models[-1]]["by_language"]:
            own = [board[model]["by_language"].get(language, {}).get(name, NOT_MEASURED) for model in models]
            found.append(("  " + LANGUAGE_NAMES.get(language, language), own))
    return found


def _asked(values: Sequence[Mapping[str, Any]]) -> str:
    """How many answers count: one number where it is the same for every model."""
    return "/".join(dict.fromkeys(f"{value['n']}" for value in values))


def _rows(board: Board) -> list[list[str]]:
    """Head and rows: of each model share and interval, then n, then McNemar's p where the models were compared."""
    compared = board.get("comparison") or {}
    head = ["", *(cell for model in _models(board) for cell in (model, "95 % interval")), "n"]
    rows = [[*head, "p"] if compared else head]
    for name in METRICS:
        for number, (label, values) in enumerate(_values(board, name)):
            row = [label, *(cell for value in values for cell in (percent(value["value"]), interval(value)))]
            row.append(_asked(values))
            if compared:
                row.append(short_p((compared.get(name) or {}).get("p")) if number == 0 else "")
            rows.append(row)
    return rows


# --- In words ---------------------------------------------------------------------------------------------
def _loss_line(loss: Mapping[str, float]) -> str:
    change = signed_percent(loss["ratio"] - 1)
    return f"Loss on business rows: base {loss['base']:.4f}, tuned {loss['tuned']:.4f} ({change})"


def _forgetting_line(found: Mapping[str, Any]) -> str:
    flips = found.get("flips")
    told = f"; {flips['lost']} items lost, {flips['gained']} gained, p {short_p(flips.get('p'))}" if flips else ""
    before, after = percent(found["base"]["value"]), percent(found["tuned"]["value"])
    return f"Multiple choice: base {before}, tuned {after} of {found['tuned']['n']}{told}"


def _gap_line(board: Board) -> str:
    gaps = [(model, board[model].get("cross_language_gap")) for model in _models(board)]
    told = ", ".join(f"{model} {gap:.1f}" for model, gap in gaps if gap is not None)
    return f"Recall, best language less worst, in points: {told}" if told else ""


def _remarks(board: Board) -> list[str]:
    """What the table has no column for, a line each."""
    lines = [_gap_line(board)]
    if found := board.get("forgetting"):
        lines.append(_forgetting_line(found))
    if loss := board.get("business_loss"):
        lines.append(_loss_line(loss))
    if not board.get("meta", {}).get("held_out", True):
        lines.append(UNKNOWN_ORIGIN)
    return [line for line in lines if line]


def asked_line(board: Board) -> str:
    """How many prompts were asked, by kind and language: "Asked: 5 prompts, identity 3 (ko 2, en 1), ..."."""
    counts: dict[str, dict[str, int]] = {}
    for name, count in board["meta"]["counts"].items():
        kind, _, language = name.partition(".")
        counts.setdefault(kind, {})[language] = count
    told = []
    for kind in (kind for kind in KINDS if kind in counts):
        languages = sorted(counts[kind], key=language_order)
        told.append(
            f"{kind} {sum(counts[kind].values()):,} "
            f"({', '.join(f'{language} {counts[kind][language]:,}' for language in languages)})"
        )
    total = board["meta"]["prompts"]
    return f"Asked: {total:,} prompt{'' if total == 1 else 's'}, {', '.join(told)}"


def verdict_line(gate: Mapping[str, Any], *, named: bool = True) -> str:
    """Whether the policy is passed, and which checks fail (by name, where `named`), in a sentence or two."""
    checks, skipped = gate["checks"], len(gate.get("not_measured") or ())
    missed = [check for check in checks if not check["met"]]
    more = f" {skipped} more {'was' if skipped == 1 else 'were'} not measured." if skipped else ""
    if gate["passed"]:
        more += f" {FIRST_LOOK}" if gate.get("first_look") else ""
        return f"Passes the policy {gate['policy']}: {len(checks)} of {len(checks)} checks are met.{more}"
    if not checks:
        return f"Does not pass the policy {gate['policy']}: nothing that it asks for was measured."
    often = Counter(str(check["text"]).partition(":")[0] for check in missed)
    names = ", ".join(name if count == 1 else f"{name} {count} times" for name, count in often.items())
    return (
        f"Does not pass the policy {gate['policy']}: {len(checks) - len(missed)} of {len(checks)} checks are met, "
        f"{len(missed)} {'is' if len(missed) == 1 else 'are'} not{f' ({names})' if named else ''}.{more}"
    )


# --- The tables -------------------------------------------------------------------------------------------
def scoreboard_table(board: Board) -> str:
    """The scoreboard for a terminal of 80 columns: base beside tuned, recall per language too, then the verdict.

    No newline at the end.
    """
    lines = [aligned(_rows(board), COLUMNS)]
    for line in _remarks(board):
        lines += textwrap.wrap(line, COLUMNS, subsequent_indent="  ")
    if gate := board.get("gate"):
        lines += textwrap.wrap(verdict_line(gate), COLUMNS, subsequent_indent="  ")
    return "\n".join(lines)


def markdown_text(text: str) -> str:
    """Plain text for Markdown: nothing in it is markup, a link or a tag, and it stays on one line."""
    plain = _MARKUP.sub(lambda found: "\\" + found[0], " ".join(text.split()))
    return _TAGS.sub(lambda found: f"&#{ord(found[0])};", plain)


def markdown_table(board: Board) -> str:
    """The scoreboard for a model card, in GitHub's Markdown: the verdict, the failing checks, the table, the remarks.

    No newline at the end.
    """
    blocks = []
    if gate := board.get("gate"):
        blocks.append(f"**{markdown_text(verdict_line(gate, named=False))}**")
        if missed := [check["text"] for check in gate["checks"] if not check["met"]]:
            blocks.append("\n".join(f"- {markdown_text(text)}" for text in missed))
    head, *rows = _rows(board)
    lines = [[markdown_text(cell) for cell in head], ["---", *(["---:"] * (len(head) - 1))]]
    for row in rows:
        label = row[0].strip()
        indent = "&emsp;" if row[0].startswith(" ") else ""
        lines.append([indent + markdown_text(label), *(markdown_text(cell) for cell in row[1:])])
    blocks.append("\n".join(f"| {' | '.join(cells)} |" for cells in lines))
    if remarks := _remarks(board):
        blocks.append("\n".join(f"- {markdown_text(line)}" for line in remarks))
    return "\n\n".join(blocks)
