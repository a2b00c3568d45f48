"""A preflight's findings as text, as a picture and as plain JSON types."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from kelron_lib.config import to_dict
from kelron_lib.placement import plan_dict, plan_svg, plan_table
from kelron_lib.placement.text import grid
from kelron_lib.preflight.checks import OK, Check
from kelron_lib.preflight.probe import Comparison
from kelron_lib.preflight.run import Report
from kelron_lib.runtime import duration

WIDTH = 100
"""Characters of a finding's line before it is wrapped."""


def checks_table(checks: Sequence[Check]) -> str:
    """One check a line (longer findings wrapped), and under each that is not ok what to do."""
    name_width = max(len(check.name) for check in checks)
    state_width = max(len(check.state) for check in checks)
    indent = " " * (name_width + state_width + 4)
    lines: list[str] = []
    for check in checks:
        head = f"{check.name:<{name_width}}  {check.state:<{state_width}}  "
        said = [check.found, *([f"-> {check.fix}"] if check.fix and check.state != OK else [])]
        for number, text in enumerate(said):
            wrapped = textwrap.wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False) or [""]
            first = head if number == 0 else indent
            lines += [first + wrapped[0], *(indent + line for line in wrapped[1:])]
    return "\n".join(lines) + "\n"


def _number(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if unit == "tokens/s" else f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def _row(line: Comparison) -> list[str]:
    numbers = [_number(value, line.unit) for value in (line.predicted, line.measured)]
    difference = "" if line.difference is None else f"{line.difference:+.0%}"
    return [line.what, line.unit, *numbers, difference, line.note]


def probe_table(report: Report) -> str:
    """Predicted against measured, and what it means for the run; or why there was no probe."""
    probe = report.probe
    if probe is None:
        return f"No probe: {report.skipped}.\n"
    kind = "random weights" if probe.random_weights else "the base's own weights"
    layers = f"{probe.layers} layers of {report.plan.shape.layers}" if report.plan else f"{probe.layers} layers"
    lines = [f"Measured on {', '.join(probe.devices)} with {kind}, {layers}."]
    if report.projected:
        lines.append("There is no GPU here: times are predicted for the plan's GPUs, but measured on this CPU.")
    header = ["", "unit", "predicted", "measured", "difference", ""]
    lines += ["", *grid(header, [_row(line) for line in probe.comparisons], frozenset({2, 3, 4})), ""]
    found = probe.projection
    how = "measured on the run's rows" if found.measured_rows else "assumed"
    lines += [
        f"An epoch: {found.samples:,} rows of {found.mean_tokens:.0f} tokens ({how}), {found.steps:,} optimizer steps "
        f"of {found.seconds_per_step:.2f} s: {duration(found.hours * 3600)} (projection).",
        f"The run: {report.config.train.epochs:g} epochs, {duration(found.total_hours * 3600)} of training in "
        f"{found.sessions} session{'s' if found.sessions > 1 else ''} of "
        f"{duration(report.config.session.budget_seconds)} (projection; validation and saving come on top).",
    ]
    return "\n".join(lines) + "\n"


def plan_text(report: Report) -> str:
    """The plan, and plainly that it is a projection where there is no GPU."""
    if report.plan is None:
        return "No plan: the base's config was not found, or is of a kind that is not known.\n"
    sizes = ", ".join(f"{size:g}" for size in report.plan.gpus)
    first = f"There is no GPU on this machine. Projection for GPUs of {sizes} GiB:\n\n" if report.projected else ""
    return first + plan_table(report.plan)


def plan_picture(report: Report) -> str:
    """The plan's bars as SVG; a line of text where there is no plan."""
    if report.plan is None:
        return (
            '<svg xmlns="http://www.w3.org/2000/svg" width="480" height="28"><text x="4" y="19" font-size="14" '
            'font-family="sans-serif">No plan: see the check of the base.</text></svg>'
        )
    return plan_svg(report.plan)


def next_steps(report: Report) -> str:
    """What to do now."""
    if report.failed:
        lines = ["Not ready. Do this first:"]
        return "\n".join([*lines, *(f"- {check.name}: {check.fix or check.found}" for check in report.failed)]) + "\n"
    sessions = report.probe.projection.sessions if report.probe else 1
    later = f"; then 03_resume in {sessions - 1} more" if sessions > 1 else ""
    cautions = [check.name for check in report.checks if check.state != OK]
    seen = f" Mind the warnings ({', '.join(cautions)})." if cautions else ""
    return f"Ready: 01_data_prep, then 02_train in this session{later}.{seen}\n"


def report_table(report: Report) -> str:
    """Everything as text."""
    parts = (checks_table(report.checks), plan_text(report), probe_table(report), next_steps(report))
    return "\n".join(parts)


def report_dict(report: Report) -> dict[str, Any]:
    """Everything as JSON types. Sizes in GiB, times in seconds or hours as the names say."""
    probe = report.probe
    return {
        "ready": not report.failed,
        "config": to_dict(report.config),
        "devices": asdict(report.devices),
        "checks": [asdict(check) for check in report.checks],
        "plan": plan_dict(report.plan) if report.plan else None,
        "plan_is_projection": report.projected,
        "probe": asdict(probe) if probe else None,
        "probe_skipped": report.skipped,
    }
