"""The proof as Markdown, and for a terminal: the table, and what it shows in words."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from kelron_lib.errors import KelronError
from kelron_lib.evaluate.metrics import METRICS
from kelron_lib.evaluate.tables import aligned
from kelron_lib.files import write_whole
from kelron_lib.page import percent
from kelron_lib.prove.compare import LEVEL, SHOWN, Cell, Proof
from kelron_lib.prove.recipes import FIRST, FIXES, NOW, without

BEGIN, END = "<!-- from here on by `kelron prove` -->", "<!-- up to here by `kelron prove` -->"

TABLE_FILE = "table.md"
"""In the proof's own folder: its table, whichever page it goes into besides."""
_ADAPTERS = re.compile(r"^(?:one adapter|(\d+) adapters) ", re.MULTILINE)
"""How `about` begins, as it stands in a page."""

Cells = Mapping[str, Sequence[Cell]]


def _figure(cell: Cell) -> str:
    return f"{percent(cell.value)} ({100 * cell.low:.1f}–{100 * cell.high:.1f})"


def markdown(proof: Proof, cells: Cells) -> str:
    """The table and its reading, as Markdown."""
    head = ["recipe", *(METRICS[metric].label for metric in SHOWN)]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for name, row in cells.items():
        figures = (f"**{_figure(cell)}**" if cell.shown else _figure(cell) for cell in row)
        lines.append(f"| {' | '.join([name, *figures])} |")
    return "\n".join([*about(proof), "", *lines, "", *reading(cells)]) + "\n"


def terminal(proof: Proof, cells: Cells) -> str:
    """The table and its reading, for a terminal."""
    head = ["", *(f"{short} " for short in SHOWN.values())]
    rows = [
        [name, *(f"{percent(cell.value)}{'*' if cell.shown else ' '}" for cell in row)] for name, row in cells.items()
    ]
    return "\n".join([*about(proof), "", aligned([head, *rows]), "", *reading(cells)])


def about(proof: Proof) -> list[str]:
    """How the figures were made."""
    steps = " or ".join(map(str, proof.steps))
    adapters = "one adapter" if proof.seeds == 1 else f"{proof.seeds} adapters (training seeds 1 to {proof.seeds})"
    return [
        f"{adapters} of each recipe, {steps} optimizer steps each, asked {proof.prompts} prompts each. Shares, "
        f"with 95 % Wilson intervals. Marked: differs from {NOW.name} on the same prompts (exact McNemar test over "
        f"all adapters, Holm's correction at {LEVEL:g} over the whole table) with the same sign for every seed."
    ]


def reading(cells: Cells) -> list[str]:
    """What each fix does, a line each, and where no effect is shown."""
    now = dict(zip(SHOWN, cells[NOW.name], strict=True))
    lines = [f"- {FIRST.name} against {NOW.name}: {_effects(cells[FIRST.name], now) or 'no effect shown'}."]
    for fix in FIXES:
        found = _effects(cells[without(fix).name], now)
        told = f"without it {found}" if found else "no effect shown at this scale: nothing differs beyond chance"
        lines.append(f"- {fix.label}: {told}.")
    return lines


def _effects(row: Sequence[Cell], now: Mapping[str, Cell]) -> str:
    return ", ".join(
        f"{METRICS[cell.metric].label.lower()} {percent(cell.value)} instead of {percent(now[cell.metric].value)}"
        f"{' (better)' if cell.better > cell.worse else ''}"
        for cell in row
        if cell.shown
    )


def _parts(page: Path) -> tuple[str, str, str]:
    """A page up to the first mark, between both, and after. Raises KelronError where it has no such marks."""
    try:
        before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    except OSError as error:
        raise KelronError(f"cannot read {page}: {error.strerror}") from None
    if END not in rest:
        raise KelronError(f"{page} has no place for the table: put {BEGIN} and {END} into it")
    inside, _, after = rest.partition(END)
    return before, inside, after


def require_no_larger(page: Path, seeds: int) -> None:
    """Raise KelronError where a page has no place for the table, or has one of more than `seeds` adapters a recipe."""
    told = _ADAPTERS.search(_parts(page)[1])
    there = 0 if told is None else int(told[1] or 1)
    if there > seeds:
        raise KelronError(
            f"the table in {page} is of {there} adapters of each recipe, and this one of {seeds} would replace it: add "
            f"--seeds {there}, or leave --report out"
        )


def write_into(page: Path, text: str) -> None:
    """Put the text between the two marks of a Markdown page. Raises KelronError where it has no such marks."""
    before, _, after = _parts(page)
    write_whole(page, f"{before}{BEGIN}\n{text}{END}{after}".encode())
