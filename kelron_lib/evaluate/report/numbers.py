"""The report's figures: every metric with its interval, and the metrics by slice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kelron_lib import page
from kelron_lib.evaluate.metrics import METRICS
from kelron_lib.evaluate.report.drawing import FULL, Axis, axis_for, interval_bar
from kelron_lib.evaluate.report.parts import (
    SYSTEMS,
    Board,
    Value,
    in_order,
    language_tag,
    measured,
    models,
    p_value,
    scrolling,
    section,
    slice_name,
)
from kelron_lib.evaluate.report.verdict import misses, targets_of
from kelron_lib.evaluate.tables import interval
from kelron_lib.page import percent


def lane(name: str, css: str, value: Value, axis: Axis, targets: list[float]) -> str:
    """One line of a chart: who, the bar, the share, its interval, n."""
    return (
        f'<div class="lane"><span class="{css}">{page.text(name)}</span>{interval_bar(value, css, axis, targets)}'
        f"<span>{percent(value['value'])}</span>"
        f'<span class="range">{interval(value)}</span><span class="count">{value["n"]:,}</span></div>'
    )


def axis_line(axis: Axis, note: str = "") -> str:
    """The ends of a chart's axis, and a remark beside them."""
    low, high = axis
    css = "" if axis == FULL else " short"
    ends = f'<span class="ends"><i>{percent(low)}</i><i>{percent(high)}</i></span>'
    return f'<div class="lane axis{css}"><span></span>{ends}<span class="note">{note}</span></div>'


def flip_note(came: int, went: int, p: float | None) -> str:
    """`flips +12 −3; p = 0.035`: answers that became a hit, those that were one before, McNemar's p."""
    return f"flips +{came:,} −{went:,}; {p_value(p)}"


def flips(changed: Mapping[str, Any] | None) -> str:
    """How many answers the tuning turned each way, with McNemar's p; empty where the base was not asked."""
    if not changed or not changed.get("n"):
        return ""
    return flip_note(changed["tuned_only"], changed["base_only"], changed.get("p"))


def _row(board: Board, name: str) -> str:
    metric, targets = METRICS[name], targets_of(board, name)
    values = {model: measured(board[model], name) for model in models(board)}
    axis = axis_for(list(values.values()), targets, higher=metric.higher_is_better)
    lanes = "".join(lane(model, model, value, axis, targets) for model, value in values.items())
    note = flips((board.get("comparison") or {}).get(name))
    return (
        f'<tr><th scope="row">{metric.label}<small>{metric.meaning}</small></th>'
        f"<td>{lanes}{axis_line(axis, note)}</td></tr>"
    )


def _gap(board: Board) -> str:
    gaps = [(model, board[model].get("cross_language_gap")) for model in models(board)]
    told = [f'<span class="{model}">{model}</span> {gap:.1f}' for model, gap in gaps if gap is not None]
    if not told:
        return ""
    return (
        "<p>Between the language with the highest recall and that with the lowest lie, in percentage points: "
        f"{', '.join(told)}.</p>"
    )


def metrics_section(board: Board) -> str:
    """Every metric with its interval as a bar, base and tuned on one axis."""
    asked = models(board)
    shown = [name for name in METRICS if any(measured(board[model], name)["n"] for model in asked)]
    has_seeds = any("cluster_low" in measured(board[model], name) for model in asked for name in shown)
    head = (
        '<div class="lane head"><span></span><span></span><span>share</span><span>95 % interval</span>'
        "<span>n</span></div>"
    )
    title = "Base against tuned" if "base" in board else "The figures"
    lead = "The same prompts, the same weights; the adapter off, then on. " if "base" in board else ""
    lead += "The wash around a dot is its 95 % interval"
    lead += ", the thin line below it the interval over whole seeds. " if has_seeds else ". "
    lead += "A row's axis is shortened where all its figures fit; its ends say so. "
    if board.get("comparison"):
        lead += "Flips are answers that only the tuned model (+) or only the base (−) has, p is McNemar's. "
    if any(targets_of(board, name) for name in shown):
        lead += "An upright mark is the policy's target."
    table = (
        f'<table class="metrics"><thead><tr><th scope="col">Share of answers</th><th scope="col">{head}</th></tr>'
        f"</thead><tbody>{''.join(_row(board, name) for name in shown)}</tbody></table>"
    )
    return section("figures", title, lead, f"{table}{_gap(board)}")


# --- By slice ---------------------------------------------------------------------------------------------
def _cell(tuned: Value, base: Value | None, missed: bool) -> str:
    below = f'<span class="was"><i>base </i>{percent(base["value"])}</span>' if base and base["n"] else ""
    return f'<td class="n{" miss" if missed else ""}">{percent(tuned["value"])}{below}</td>'


def languages_section(board: Board) -> str:
    """Every metric by language and by kind of system prompt, the base's figures below the tuned model's."""
    tuned, base = board["tuned"], board.get("base")
    groups = [("by_language", name) for name in tuned.get("by_language") or {}]
    groups += [("by_system", name) for name in in_order(tuned.get("by_system") or {}, SYSTEMS)]
    if not groups:
        return ""
    heads = "".join(
        f'<th scope="col" class="n">{language_tag(name) if key == "by_language" else page.text(slice_name(name))}</th>'
        for key, name in groups
    )
    rows = []
    for metric_name, metric in METRICS.items():
        if not measured(tuned, metric_name)["n"]:
            continue
        cells = "".join(
            _cell(
                measured(tuned[key][name], metric_name),
                measured((base.get(key) or {}).get(name, {}), metric_name) if base else None,
                misses(board, metric_name, measured(tuned[key][name], metric_name)["value"]),
            )
            for key, name in groups
        )
        rows.append(f'<tr><th scope="row">{metric.label}</th>{cells}</tr>')
    table = f'<table class="slices"><thead><tr><td></td>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    lead = "The tuned model" + (", the base below it" if base else "") + "."
    if any(targets_of(board, name) for name in METRICS):
        lead += " A slice that alone would miss the policy's target for the whole is in bold, with a mark."
    return section("slices", "By language and system prompt", lead, scrolling("Metrics by slice", table))
