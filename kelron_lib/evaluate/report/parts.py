"""What the report's sections share: names for slices, tables that scroll, folded parts, a section around it all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from kelron_lib import page
from kelron_lib.page import LANGUAGE_NAMES

Board = Mapping[str, Any]
Record = Mapping[str, Any]
Value = Mapping[str, Any]

SYSTEMS = {"none": "no system prompt", "persona": "persona's prompt", "hostile": "hostile prompt", "other": "other"}
"""Kinds of system prompt, in the order of the report."""
ATTACKS = {
    "direct": "direct",
    "paraphrase": "paraphrase",
    "rival_seen": "known rival named",
    "rival_unseen": "unknown rival named",
    "roleplay": "role-play",
    "override": "override",
    "encoded": "encoded",
    "cross_language": "cross-language",
    "pressure": "pressure dialogue",
}
"""Ways to ask, in the order of the report."""
_COUNT_WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def count_word(number: int) -> str:
    """A small number as a word."""
    return _COUNT_WORDS[number] if number < len(_COUNT_WORDS) else f"{number:,}"


def models(board: Board) -> list[str]:
    """The models that were asked, the base first."""
    return [model for model in ("base", "tuned") if model in board]


def measured(model: Mapping[str, Any], metric: str) -> Value:
    """A metric of one model; "n" 0 and no value where the scoreboard does not have it."""
    return model.get(metric) or {"value": None, "n": 0, "low": None, "high": None}


def in_order(found: Iterable[str], names: Mapping[str, str]) -> list[str]:
    """The keys of `names` that were found, in its order, then those it does not have."""
    given = set(found)
    return [*(key for key in names if key in given), *sorted(given - names.keys())]


def slice_name(name: str) -> str:
    """`ko/none/direct` in words, plain text."""
    known = {**SYSTEMS, **ATTACKS, **LANGUAGE_NAMES}
    return " · ".join(known.get(part, part.replace("_", " ")) for part in name.split("/"))


def system_kind(record: Record) -> str:
    """A record's kind of system prompt; answers from before there were kinds have an empty one or another."""
    return str(record.get("system_kind") or ("other" if record.get("system") else "none"))


def p_value(p: float | None) -> str:
    """`p = 0.034`, or `p < 0.001`; empty for None."""
    if p is None:
        return ""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.9995 else "p = 1"


def points(change: float) -> str:
    """A change in percentage points, with its sign: `+1.2`, `−0.4`, `±0`."""
    shown = f"{change:+.1f}".replace("-", "−")
    return "±0" if shown[1:] == "0.0" else shown


def language_tag(language: str) -> str:
    """A language's own name, as a label."""
    return f'<span class="tag" {page.lang(language)}>{page.text(LANGUAGE_NAMES.get(language, language))}</span>'


def section(anchor: str, title: str, lead: str, body: str) -> str:
    """A part of the report under its heading. `lead` and `body`: ready HTML."""
    opening = f"<p>{lead}</p>" if lead else ""
    return f'<section id="{anchor}"><h2>{page.text(title)}</h2>{opening}{body}</section>'


def scrolling(label: str, table: str) -> str:
    """A table in a box of its own, which scrolls where the screen is too narrow; the page does not."""
    return f'<div class="scroll" role="region" aria-label="{page.text(label)}" tabindex="0">{table}</div>'


def folded(summary: str, body: str, *, opened: bool = False) -> str:
    """A part that opens on a click, and in print. `summary`: plain text; `body`: ready HTML."""
    state = " open" if opened else ""
    return f"<details{state}><summary>{page.text(summary)}</summary><div>{body}</div></details>"
