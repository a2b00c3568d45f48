"""A run's progress as HTML: one block that stands in a notebook's output, light or dark."""

from __future__ import annotations

import html
from collections.abc import Sequence
from math import ceil

from kelron_lib.runtime import duration
from kelron_lib.verify import age_words, size_words
from kelron_lib.view.state import Point, Progress

# Colours of our own are mixed with the page's text colour: dark on a light page, light on a dark one, whatever a front
# end calls its themes.
STYLE = """<style>
.kelron-view { --kv-ink: var(--jp-ui-font-color0, #1a1d21); --kv-card: var(--jp-layout-color1, #fff);
  --kv-line: rgba(127, 137, 150, .3); --kv-soft: color-mix(in srgb, var(--kv-ink) 70%, var(--kv-card));
  --kv-train: color-mix(in oklab, #c07818 68%, var(--kv-ink));
  --kv-valid: color-mix(in oklab, #0b9a90 68%, var(--kv-ink));
  --kv-bad: color-mix(in oklab, #dd2a50 66%, var(--kv-ink));
  container-type: inline-size; width: 100%; max-width: 960px; box-sizing: border-box; overflow: hidden;
  border: 1px solid var(--kv-line); border-radius: 12px; padding: 14px 16px; color: var(--kv-ink);
  background: var(--kv-card); }
.kelron-view .widget-html { margin: 0; width: auto; }
.kelron-view .widget-html-content { line-height: 1.45; font-size: 14px; color: inherit; }
.kelron-view p { margin: 0; }
.kelron-view .kv-head { display: flex; flex-wrap: wrap; gap: 0 16px; justify-content: space-between;
  align-items: baseline; }
.kelron-view .kv-head b { font-size: 16px; }
.kelron-view .kv-bar { height: 10px; border-radius: 5px; background: var(--kv-line); overflow: hidden;
  margin: 8px 0 12px; }
.kelron-view .kv-bar > div { height: 100%; background: var(--kv-valid); }
.kelron-view .kv-tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(136px, 1fr)); gap: 10px 18px;
  margin: 0; }
@container (min-width: 760px) { .kelron-view .kv-tiles { grid-template-columns: repeat(var(--kv-columns), 1fr); } }
.kelron-view .kv-name { color: var(--kv-soft); font-size: 12px; font-weight: 400; }
.kelron-view .kv-value { margin: 0; font-size: 18px; font-variant-numeric: tabular-nums; }
.kelron-view .kv-value small { display: block; font-size: 12px; color: var(--kv-soft); text-wrap: balance; }
.kelron-view .kv-value .kv-short { color: var(--kv-bad); font-weight: 600; }
.kelron-view .kv-chart { display: grid; grid-template-columns: auto 1fr; gap: 4px 8px; margin-top: 14px;
  font-size: 12px; color: var(--kv-soft); }
.kelron-view svg { display: block; width: 100%; height: 150px; overflow: visible;
  border-bottom: 1px solid var(--kv-line);
  background: linear-gradient(var(--kv-line) 1px, transparent 1px) 0 0 / 100% 75px; }
.kelron-view .kv-up { display: flex; flex-direction: column; justify-content: space-between; text-align: right;
  line-height: 1; font-variant-numeric: tabular-nums; }
.kelron-view .kv-along { grid-column: 2; display: flex; flex-wrap: wrap; justify-content: space-between; }
.kelron-view .kv-keys i { display: inline-block; width: 14px; height: 0; border-top: 3px solid; vertical-align: middle;
  margin: 0 4px 0 10px; }
.kelron-view .kv-fold { margin: 10px 0 0; overflow: visible; }
.kelron-view .kv-fold .widget-checkbox { width: auto; height: auto; margin: 0; overflow: visible; }
.kelron-view .kv-fold label { display: flex; gap: 6px; align-items: center; width: max-content; font-size: 12px;
  color: var(--kv-soft); cursor: pointer; }
.kelron-view .kv-fold input { margin: 0; accent-color: var(--kv-valid); }
.kelron-view .kv-fold input:focus-visible { outline: 2px solid var(--kv-valid) !important; outline-offset: 2px; }
.kelron-view .widget-checkbox:has(:checked) + .widget-html { margin-top: 6px; }
.kelron-view .widget-checkbox:not(:has(:checked)) + .widget-html { display: none; }
.kelron-view .kv-said { display: flex; flex-direction: column-reverse; max-height: 220px; overflow: auto; }
.kelron-view .kv-said pre { flex: none; white-space: pre-wrap; overflow-wrap: anywhere; margin: 0; font-size: 12px;
  color: inherit; background: none; }
</style>"""
WIDTH, HEIGHT = 600, 150
"""The chart's drawing units."""
LINES_SHOWN = 200
MOST_POINTS = 300
"""Of a curve; more would be finer than a screen."""
MOST_COLUMNS = 6
"""Of tiles, where there is room."""
_STATES = {"finished": "Finished", "budget": "Session over", "stopped": "Stopped", "failed": "Failed"}


def picture(progress: Progress, *, now: float, budget: float) -> str:
    """The whole block but for STYLE. now: seconds since the epoch; budget: seconds that a session has."""
    tiles = _tiles(progress, now, budget)
    columns = ceil(len(tiles) / ceil(len(tiles) / MOST_COLUMNS)) if tiles else 1  # rows as even as can be
    shown = f'<div class="kv-tiles" style="--kv-columns: {columns}">{"".join(tiles)}</div>'
    body = f"{_head(progress)}{_bar(progress)}{shown}{_chart(progress)}"
    return f'<div role="group" aria-label="Training">{body}</div>'


def log(lines: Sequence[str]) -> str:
    """What was said, its end in view."""
    said = html.escape("\n".join(lines[-LINES_SHOWN:]))
    return f'<div class="kv-said" role="region" aria-label="What it said" tabindex="0"><pre>{said}</pre></div>'


def _head(progress: Progress) -> str:
    if progress.ended is not None:
        word = _STATES.get(progress.ended["state"], progress.ended["state"])
        told = html.escape(str(progress.ended["reason"]))
        return f'<p class="kv-head"><b>{html.escape(str(word))}</b><span>{told}</span></p>'
    word = "Training" if progress.total_steps else "Getting ready: model, data, checkpoint"
    return f'<p class="kv-head"><b>{word}</b><span>{_steps(progress)}</span></p>'


def _steps(progress: Progress) -> str:
    if not progress.total_steps:
        return ""
    resumed = f", from step {progress.first_step:,} on" if progress.first_step else ""
    return f"step {progress.step:,} of {progress.total_steps:,}{resumed}"


def _bar(progress: Progress) -> str:
    done = 100 * progress.share
    return (
        f'<div class="kv-bar" role="progressbar" aria-label="Steps done" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{done:.0f}"><div style="width: {done:.1f}%"></div></div>'
    )


def _tile(name: str, value: str, small: str = "", css: str = "") -> str:
    small = f"<small{f' class={css}' if css else ''}>{small}</small>" if small else ""
    return f'<div><div class="kv-name">{name}</div><div class="kv-value">{value}{small}</div></div>'


def _tiles(progress: Progress, now: float, budget: float) -> list[str]:
    tiles = [*_loss_tiles(progress), *_speed_tiles(progress)]
    if progress.ended is None:
        tiles += _clocks(progress, now, budget)
    if progress.backup is not None or progress.losses:
        tiles.append(_backup_tile(progress, now))
    return tiles + _memory_tiles(progress)


def _loss_tiles(progress: Progress) -> list[str]:
    tiles = []
    if progress.losses:
        tiles.append(_tile("Loss", f"{progress.losses[-1][1]:.3f}"))
    if progress.validations:
        step, loss = min(progress.validations, key=lambda point: point[1])
        tiles.append(_tile("Validation", f"{progress.validations[-1][1]:.3f}", f"lowest {loss:.3f}, step {step:,}"))
    return tiles


def _speed_tiles(progress: Progress) -> list[str]:
    if not progress.speed:
        return []
    tokens, samples = (progress.speed.get(f"{name}_per_second", 0.0) for name in ("tokens", "samples"))
    return [_tile("Speed", f"{tokens:,.0f} tokens/s", f"{samples:.1f} samples/s")]


def _clocks(progress: Progress, now: float, budget: float) -> list[str]:
    tiles = []
    if progress.training_ends is not None:
        left, css = "", ""
        if progress.enough:
            left = "within this session"
        elif progress.enough is False:
            more = progress.sessions_left(now, budget)
            left, css = f"{more} more session{'s' * (more > 1)} after this one", "kv-short"
        tiles.append(_tile("Training ends in", duration(progress.training_ends - now), left, css))
    if progress.session_ends is not None:
        tiles.append(_tile("Session ends in", duration(progress.session_ends - now)))
    return tiles


def _backup_tile(progress: Progress, now: float) -> str:
    told = progress.backup
    if told is None:
        return _tile("Last backup", "none yet", "what was learned so far would be lost", "kv-short")
    seconds = max(0.0, now - told["time"])
    age = f"{age_words(seconds)} ago" if seconds >= 60 else "just now"
    small = f"{age}, verified, {size_words(told['bytes'])}"
    return _tile("Last backup", f"step {told['step']:,}", html.escape(small))


def _memory_tiles(progress: Progress) -> list[str]:
    tiles = []
    for part in progress.memory:
        used, limit = part["used"] / 2**30, part["limit"] / 2**30
        tight = "kv-short" if used > 0.97 * limit else ""
        tiles.append(_tile(html.escape(f"Memory, {part['device']}"), f"{used:.1f} GiB", f"of {limit:.1f} GiB", tight))
    return tiles


# --- The curve --------------------------------------------------------------------------------------------
def _thinned(points: Sequence[Point]) -> Sequence[Point]:
    """At most MOST_POINTS of them: means of equal stretches, the last point itself."""
    size = len(points) / MOST_POINTS
    if size <= 1:
        return points
    parts = [points[int(i * size) : int((i + 1) * size)] for i in range(MOST_POINTS)]
    means = [(part[-1][0], sum(loss for _, loss in part) / len(part)) for part in parts]
    return [*means[:-1], points[-1]]


def _chart(progress: Progress) -> str:
    """The curves, stretched to the width there is; labels are text beside them, which is not."""
    curves = [
        ("var(--kv-train)", "training loss", _thinned(progress.losses)),
        ("var(--kv-valid)", "validation loss", _thinned(progress.validations)),
    ]
    if len(progress.losses) < 2 or not progress.total_steps:
        return ""
    top = max(loss for _, _, curve in curves for _, loss in curve) or 1.0

    def place(point: Point) -> tuple[float, float]:
        return WIDTH * min(1.0, point[0] / progress.total_steps), HEIGHT * (1 - point[1] / top)

    drawn = "".join(_curve(colour, [place(point) for point in curve]) for colour, _, curve in curves)
    keys = "".join(f'<i style="color: {colour}"></i>{name}' for colour, name, curve in curves if curve)
    return (
        f'<div class="kv-chart" role="img" aria-label="Loss until step {progress.step}">'
        f'<div class="kv-up"><span>{top:.2f}</span><span>{top / 2:.2f}</span><span>0</span></div>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" aria-hidden="true">{drawn}</svg>'
        f'<div class="kv-along"><span>step 0</span><span class="kv-keys">{keys}</span>'
        f"<span>{progress.total_steps:,}</span></div></div>"
    )


def _curve(colour: str, places: Sequence[tuple[float, float]]) -> str:
    if len(places) == 1:  # a line of no length with round ends: a dot
        places = [*places, *places]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    return (
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2" stroke-linecap="round" '
        'stroke-linejoin="round" vector-effect="non-scaling-stroke"/>'
    )
