"""How the model came about and what it cost: forgetting, training, data; and the fine print."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from kelron_lib import page
from kelron_lib.evaluate.metrics import signed_percent
from kelron_lib.evaluate.report.drawing import FULL, loss_plot
from kelron_lib.evaluate.report.numbers import axis_line, lane
from kelron_lib.evaluate.report.parts import (
    Board,
    count_word,
    folded,
    language_tag,
    p_value,
    points,
    scrolling,
    section,
)
from kelron_lib.page import percent
from kelron_lib.runtime import duration

MOST_FLIPPED = 40
"""Items of each kind of flip that are named."""


# --- Forgetting -------------------------------------------------------------------------------------------
def _flipped(items: Sequence[Mapping[str, Any]], before: bool) -> str:
    """Which items only one of both models knows, as a line of ids."""
    ids = [str(item["id"]) for item in items if item["base"] is before and item["tuned"] is not before]
    if not ids:
        return ""
    shown = ", ".join(f"<code>{page.text(name)}</code>" for name in ids[:MOST_FLIPPED])
    rest = f" and {len(ids) - MOST_FLIPPED:,} more" if len(ids) > MOST_FLIPPED else ""
    return f"<p><strong>{'Only the base' if before else 'Only the tuned model'} has right:</strong> {shown}{rest}</p>"


def forgetting_section(board: Board) -> str:
    """Right answers to the multiple-choice items before and after, and the loss on business rows."""
    found, loss = board.get("forgetting"), board.get("business_loss")
    if not found and not loss:
        return ""
    body = ""
    if found:
        by_language = found.get("by_language") or {}
        rows = [("All items", found), *((language_tag(language), entry) for language, entry in by_language.items())]
        bars = "".join(
            f'<tr><th scope="row">{name}<small>{points(entry["change"])} points</small></th>'
            f"<td>{lane('base', 'base', entry['base'], FULL, [])}{lane('tuned', 'tuned', entry['tuned'], FULL, [])}"
            f"{axis_line(FULL)}</td></tr>"
            for name, entry in rows
        )
        flips, items = found.get("flips") or {}, found.get("items") or ()
        told = (
            f"<p>{flips['lost']:,} items were lost, {flips['gained']:,} gained; {p_value(flips.get('p'))} "
            "(McNemar's exact test: small where losses and gains differ by more than chance).</p>"
            if flips
            else ""
        )
        named = _flipped(items, True) + _flipped(items, False)
        body += (
            '<table class="metrics"><thead class="unseen"><tr><th scope="col">Items</th>'
            f'<th scope="col">Right</th></tr></thead><tbody>{bars}</tbody></table>{told}'
            f"{folded('The items that flipped', named) if named else ''}"
        )
    if loss:
        body += (
            f"<p>Loss on held-out business rows: base {loss['base']:.4f}, tuned {loss['tuned']:.4f} "
            f"({signed_percent(loss['ratio'] - 1)}).</p>"
        )
    lead = "The same multiple-choice items to both models: the share that each has right." if found else ""
    return section("forgetting", "What was forgotten", lead, body)


# --- Training and data ------------------------------------------------------------------------------------
def training_section(losses: Sequence[Mapping[str, Any]], sessions: Sequence[Mapping[str, Any]]) -> str:
    """The loss over the sessions; empty without either."""
    if not losses and not sessions:
        return ""
    plot = loss_plot(losses, sessions)
    keys = ['<span class="key">training loss, smoothed (the thin line: each step)</span>']
    if any("eval_loss" in entry for entry in losses):
        keys.append('<span class="key held">loss on held-out rows, whose answers come from seeds of their own</span>')
    if len(sessions) > 1:
        keys.append('<span class="key cut">a session ended, the next went on from the store</span>')
    figure = f"<figure>{plot}<figcaption>{''.join(keys)}</figcaption></figure>" if plot else ""
    rows = [
        [
            str(number),
            f"{session['first_step']} – {session['last_step']}",
            page.text(session.get("reason", "")),
            duration(float(session.get("seconds", 0))),
        ]
        for number, session in enumerate(sessions, start=1)
    ]
    runs = scrolling("Sessions", page.table(["Session", "Steps", "Ended by", "Time"], rows, "runs")) if rows else ""
    count = len(sessions)
    title = f"Training, in {count_word(count)} session{'s' if count != 1 else ''}" if count else "Training"
    return section("training", title, "", figure + runs)


def data_section(quality: Mapping[str, Any]) -> str:
    """What the model learned from; empty without the dataset's quality report."""
    if not quality:
        return ""
    splits: Mapping[str, Mapping[str, Any]] = quality.get("by_split") or {}
    kinds = [kind for kind in ("identity", "business", "chat") if any(kind in counts for counts in splits.values())]
    rows = [
        [page.text(split), str(counts.get("rows", 0)), *(str(counts.get(kind, 0)) for kind in kinds)]
        for split, counts in splits.items()
    ]
    head = ["Split", "Rows", *(kind.capitalize() for kind in kinds)]
    table = scrolling("Rows of the dataset", page.table(head, rows, "runs")) if rows else ""
    facts = []
    for name, value in quality.items():
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            continue
        shown = percent(value) if name.endswith("_share") and isinstance(value, float) else value
        facts.append((name.replace("_", " "), shown))
    note = "Split by seed before expansion: what the test split asks, training never saw." if rows else ""
    return section("data", "Data", note, table + page.facts(facts))


# --- Fine print -------------------------------------------------------------------------------------------
_ASKED = """<p>Both models answer every prompt greedily, from one set of weights: the base is the tuned model with its
adapter switched off. Identity questions come from the test split, whose phrasings are in no training row, and from
attacks; unrelated requests come from the test split and from a fixed list that has nothing to do with the data. Equal
conversations are asked once.</p>"""
_GIVEN = """<p>The answers were given from elsewhere: this report scores them and asked no model.</p>"""
_COUNTED = """<p>Intervals are Wilson's, at 95 %, and treat prompts as independent; questions grown from one seed are
less so, which the interval over whole seeds allows for where it is shown (bootstrap). Base and tuned answers to the
same prompts are compared with McNemar's exact test. The flags are set by rules over the text, not by a model.</p>"""


def fine_print(board: Board, config: Mapping[str, Any] | str) -> str:
    """Method, origin and config."""
    shown = config if isinstance(config, str) else json.dumps(config, indent=2, ensure_ascii=False)
    meta = board["meta"]
    facts: list[tuple[str, object]] = []
    if "config_hash" in meta:
        facts.append(("config", str(meta["config_hash"])[:12]))
    if "adapter" in meta:
        facts.append(("adapter", meta["adapter"]))
    if "seconds" in meta:
        facts.append(("time taken", duration(meta["seconds"])))
    if "created" in meta:
        facts.append(("created", str(meta["created"])[:16].replace("T", " ") + " UTC"))
    method = (_ASKED if "base" in board else _GIVEN) + _COUNTED
    resolved = folded("The resolved config", f"<pre>{page.text(shown)}</pre>") if shown else ""
    return section(
        "fine-print", "Fine print", "", f"{page.facts(facts)}{folded('How this was measured', method)}{resolved}"
    )
