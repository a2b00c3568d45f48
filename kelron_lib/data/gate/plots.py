"""The page's drawings, as inline SVG: bars of shares and histograms.

Positions across are percentages, so that a drawing fills its place at any width without stretching its text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kelron_lib.page import text

BAR = 12
HEIGHT, TOP, BOTTOM = 150, 18, 20
"""Of a histogram, in pixels: the whole, the row counts above the bars, the edges below."""


def share_bar(parts: Sequence[tuple[str, float]], label: str) -> str:
    """One bar from 0 to 100 % with a piece for each (class, share)."""
    at, pieces = 0.0, [f'<rect class="track" y="2" width="100%" height="{BAR}" rx="2"/>']
    for css, share in parts:
        pieces.append(
            f'<rect class="{text(css)}" x="{100 * at:.2f}%" y="2" width="{100 * share:.2f}%" height="{BAR}"/>'
        )
        at += share
    return f'<svg class="bars" height="{BAR + 4}" role="img" aria-label="{text(label)}">{"".join(pieces)}</svg>'


def histogram(bins: Sequence[Mapping[str, Any]], label: str) -> str:
    """Bars over intervals ({"from", "rows"}, the last one open), empty ones at both ends left out; "" for no rows."""
    filled = [place for place, entry in enumerate(bins) if entry["rows"]]
    if not filled:
        return ""
    shown = bins[filled[0] : filled[-1] + 1]
    most, total = max(entry["rows"] for entry in shown), sum(entry["rows"] for entry in shown)
    width, room, pieces = 100 / len(shown), HEIGHT - TOP - BOTTOM, []
    for place, entry in enumerate(shown):
        tall = max(1.0, room * entry["rows"] / most) if entry["rows"] else 0.0
        left, top = place * width, TOP + room - tall
        pieces.append(
            f'<rect class="tuned" x="{left + 0.08 * width:.2f}%" y="{top:.1f}" width="{0.84 * width:.2f}%"'
            f' height="{tall:.1f}" rx="1.5"/>'
            f'<text x="{left + width / 2:.2f}%" y="{top - 4:.1f}" text-anchor="middle">'
            f"{_short(entry['rows'] / total)}</text>"
            f'<text x="{left + width / 2:.2f}%" y="{HEIGHT - 5}" text-anchor="middle">'
            f"{entry['from']:,}{'+' if entry is bins[-1] else '–'}</text>"
        )
    return f'<svg class="plot" height="{HEIGHT}" role="img" aria-label="{text(label)}">{"".join(pieces)}</svg>'


def _short(share: float) -> str:
    if share == 0:
        return ""
    return "&lt;1 %" if share < 0.01 else f"{100 * share:.0f} %"
