"""The report's drawings, as inline SVG: an interval on a track, and the loss curve with the session cuts.

Positions across are percentages, so that a drawing fills its place at any width without stretching its text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from kelron_lib.errors import KelronError
from kelron_lib.page import percent

POINTS = 500
"""A curve is thinned to about this many points, by means over equal stretches."""
HEIGHT, TOP, BOTTOM = 280, 26, 26
"""Of the loss plot, in pixels: the whole, the strip of session names above, the step numbers below."""
LEVELS = 5
"""About so many lines of equal loss on an axis that is not logarithmic."""
APART = 0.08
"""Share of the plot's height within which two lines' numbers would touch."""
Point = tuple[float, float]
Axis = tuple[float, float]


FULL = (0.0, 1.0)
"""The axis from 0 to 100 %."""
_ENDS = {False: ((0.0, 0.05), (0.0, 0.2)), True: ((0.95, 1.0), (0.8, 1.0))}
"""Shorter axes, by whether more is better, shortest first."""


def axis_for(values: Sequence[Mapping[str, Any]], bounds: Sequence[float], *, higher: bool) -> Axis:
    """The shortest axis that holds both intervals of `values` and every target; 0 to 100 % where none does."""
    ends = ("low", "high", "cluster_low", "cluster_high")
    shown = [value[key] for value in values for key in ends if value.get(key) is not None]
    for low, high in _ENDS[higher] if shown else ():
        if all(low <= place <= high for place in (*shown, *bounds)):
            return low, high
    return FULL


def _across(share: float, axis: Axis) -> float:
    low, high = axis
    return 100 * min(max((share - low) / (high - low), 0.0), 1.0)


def _seeds(value: Mapping[str, Any], model: str, axis: Axis) -> str:
    """The interval over whole seeds as a thin line with ends."""
    if value.get("cluster_low") is None or value.get("cluster_high") is None:
        return ""
    left, right = (_across(value[key], axis) for key in ("cluster_low", "cluster_high"))
    return f'<g class="{model} seeds">' + "".join(
        f'<line x1="{x1:.2f}%" x2="{x2:.2f}%" y1="{y1}" y2="{y2}"/>'
        for x1, x2, y1, y2 in ((left, right, 14.5, 14.5), (left, left, 12.5, 16.5), (right, right, 12.5, 16.5))
    ) + "</g>"  # fmt: skip


def interval_bar(value: Mapping[str, Any], model: str, axis: Axis = FULL, targets: Sequence[float] = ()) -> str:
    """A track with the interval of a proportion, a dot at its value and a mark at each target; empty where n is 0.

    Below it, where `value` has one, the interval over whole seeds as a thin line.
    """
    parts = ['<rect class="track" y="7" width="100%" height="3" rx="1.5"/>']
    if value["value"] is None:
        label = f"{model}: not measured"
    else:
        low, high, at = (_across(value[key], axis) for key in ("low", "high", "value"))
        label = f"{model}: {percent(value['value'])}, between {value['low'] * 100:.1f} and {value['high'] * 100:.1f} %"
        parts.append(
            f'<rect class="{model} reach" x="{low:.2f}%" y="4.5" width="{high - low:.2f}%" height="8" rx="4"/>'
            f"{_seeds(value, model, axis)}"
            f'<circle class="{model}" cx="{at:.2f}%" cy="8.5" r="4"/>'
        )
    for target in targets:
        place = _across(target, axis)
        parts.append(f'<line class="target" x1="{place:.2f}%" x2="{place:.2f}%" y1="0" y2="17"/>')
        label += f", target {percent(target)}"
    return (
        f'<svg height="17" role="img" aria-label="{escape(label)}"><title>{escape(label)}</title>{"".join(parts)}</svg>'
    )


def _series(losses: Sequence[Mapping[str, Any]], key: str) -> list[Point]:
    points = []
    for entry in losses:
        if key in entry and entry[key] is not None:
            step, loss = float(entry["step"]), float(entry[key])
            if not math.isfinite(loss) or not math.isfinite(step):
                raise KelronError(f"the {key} at step {entry['step']} is {entry[key]}: the curve cannot be drawn")
            points.append((step, loss))
    return sorted(points)


def _thin(points: Sequence[Point]) -> list[Point]:
    size = max(1, math.ceil(len(points) / POINTS))
    groups = (points[i : i + size] for i in range(0, len(points), size))
    return [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]


def _smooth(points: Sequence[Point]) -> list[Point]:
    """Mean over a window about each point, a twentieth of the curve wide: no lag, unlike a running mean."""
    reach = max(1, len(points) // 40)
    losses = [loss for _, loss in points]
    smooth = []
    for i, (step, _) in enumerate(points):
        side = min(reach, i, len(points) - 1 - i)  # symmetric at the ends too, so that they do not bend
        window = losses[i - side : i + side + 1]
        smooth.append((step, sum(window) / len(window)))
    return smooth


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) within low..high, at most `most` of them and one."""
    if high <= low:
        return [low]
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    apart = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * (1 - 1e-9))
    first = math.ceil(low / apart - 1e-9)
    return [round(k * apart, 10) for k in range(first, math.floor(high / apart + 1e-9) + 1)]


def _round_up(value: float) -> float:
    """The next number with one digit that counts: 4 for 3.2, 0.05 for 0.047."""
    power = 10.0 ** math.floor(math.log10(value))
    return float(f"{math.ceil(value / power - 1e-9) * power:.12g}")


def _whole_ticks(high: float) -> float:
    """The first tick at `high` or above it, of an axis from 0; 1 where there is nothing to show."""
    if high <= 0:
        return 1.0
    marks = ticks(0.0, high, LEVELS)
    return marks[-1] if marks[-1] >= high * (1 - 1e-9) else round(marks[-1] + marks[1] - marks[0], 10)


class _Frame:
    """From steps and losses to places: across in per cent, down in pixels. Logarithmic where the loss spans far."""

    def __init__(self, steps: Sequence[float], losses: Sequence[float]) -> None:
        self.last = max(1.0, *steps)
        high, low = max(losses), min(losses)
        self.log = low > 0 and high / low > 12
        self.low = low * 0.9 if self.log else 0.0
        self.high = _round_up(high) if self.log else _whole_ticks(high)

    def across(self, step: float) -> float:
        return 100 * step / self.last

    def share(self, loss: float) -> float:
        """Height of a loss as a share of the plot's, 0 at its floor."""
        if self.log:
            return math.log(loss / self.low) / math.log(self.high / self.low)
        return (loss - self.low) / (self.high - self.low)

    def down(self, loss: float) -> float:
        return TOP + (1 - self.share(loss)) * (HEIGHT - TOP - BOTTOM)

    def levels(self) -> list[float]:
        """Where the lines go; the highest stands at the top, above every loss."""
        if not self.log:
            return ticks(self.low, self.high, LEVELS)
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        marks = [factor * 10.0**decade for decade in decades for factor in (1, 2, 5)]
        return [*(mark for mark in marks if self.low <= mark and self.share(mark) < 1 - APART), self.high]


def _line(points: Sequence[Point], frame: _Frame, name: str) -> str:
    if not points:
        return ""
    path = " ".join(f"{10 * frame.across(x):.1f},{1000 * (1 - frame.share(y)):.1f}" for x, y in points)
    return f'<polyline class="{name}" points="{path}"/>'


def _grid(frame: _Frame) -> str:
    parts = []
    for level in frame.levels():
        y = frame.down(level)
        parts.append(f'<line x1="0" x2="100%" y1="{y:.1f}" y2="{y:.1f}"/>')
    for step in ticks(0, frame.last, 6):
        anchor = "start" if step == 0 else "end" if step > 0.97 * frame.last else "middle"
        parts.append(
            f'<text x="{frame.across(step):.2f}%" y="{HEIGHT - 6}" text-anchor="{anchor}">'
            f"{'step ' if step == 0 else ''}{step:g}</text>"
        )
    return "".join(parts)


def _levels(frame: _Frame) -> str:
    """The grid's figures, which stand on the curves."""
    return "".join(f'<text class="level" x="0" y="{frame.down(y) - 4:.1f}">{y:g}</text>' for y in frame.levels())


def _cuts(sessions: Sequence[Mapping[str, Any]], frame: _Frame) -> str:
    """A dashed line where a session ended and the next went on, and the sessions' numbers above."""
    parts = []
    for number, session in enumerate(sessions, start=1):
        start, end = frame.across(session["first_step"]), frame.across(session["last_step"])
        if number < len(sessions):
            parts.append(f'<line class="cut" x1="{end:.2f}%" x2="{end:.2f}%" y1="{TOP - 8}" y2="{HEIGHT - BOTTOM}"/>')
        name = f"session {number}" if len(sessions) <= 4 and end - start > 18 else str(number)
        if end - start > 4:
            parts.append(f'<text x="{(start + end) / 2:.2f}%" y="12" text-anchor="middle">{name}</text>')
    return "".join(parts)


def loss_plot(losses: Sequence[Mapping[str, Any]], sessions: Sequence[Mapping[str, Any]]) -> str:
    """The loss over all steps, training and held-out, with the cuts between sessions; empty without losses.

    `losses`: {"step", "loss" and/or "eval_loss"}; `sessions`: {"first_step", "last_step"}.
    """
    train, held = _series(losses, "loss"), _series(losses, "eval_loss")
    if not train and not held:
        return ""
    both = [*train, *held]
    steps = [x for x, _ in both] + [float(session["last_step"]) for session in sessions]
    frame = _Frame(steps, [y for _, y in both])
    dots = "".join(
        f'<circle class="dot" cx="{frame.across(x):.2f}%" cy="{frame.down(y):.1f}" r="3"/>'
        for x, y in (held if len(held) <= 40 else [])
    )
    lines = (
        _line(_thin(train), frame, "raw") + _line(_thin(_smooth(train)), frame, "smooth") + _line(held, frame, "held")
    )
    label = f"Loss over {frame.last:g} steps, {len(sessions)} sessions"
    return (
        f'<svg class="plot" height="{HEIGHT}" role="img" aria-label="{label}"><title>{label}</title>'
        f"{_grid(frame)}{_cuts(sessions, frame)}"
        f'<svg y="{TOP}" width="100%" height="{HEIGHT - TOP - BOTTOM}" viewBox="0 0 1000 1000"'
        f' preserveAspectRatio="none">'
        f"{lines}</svg>{dots}{_levels(frame)}</svg>"
    )
