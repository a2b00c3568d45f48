"""The report: one HTML file that stands alone, from the verdict in words down to the config.

Nothing in it is fetched (a content security policy forbids it) and nothing in it runs. It has no links either, not even
to its own parts: within a notebook's frame such a link would open the notebook once more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kelron_lib import page
from kelron_lib.errors import KelronError
from kelron_lib.evaluate.report.answers import (
    choose_examples,
    examples_section,
    failing_section,
    worst_answers,
    worst_section,
)
from kelron_lib.evaluate.report.background import data_section, fine_print, forgetting_section, training_section
from kelron_lib.evaluate.report.benchmarks import benchmarks_section
from kelron_lib.evaluate.report.earlier import Earlier, earlier_section, load_earlier
from kelron_lib.evaluate.report.heat import heat_section
from kelron_lib.evaluate.report.numbers import languages_section, metrics_section
from kelron_lib.evaluate.report.parts import Board, Record
from kelron_lib.evaluate.report.style import STYLE
from kelron_lib.evaluate.report.verdict import checks_section, head, headline
from kelron_lib.files import write_whole

__all__ = [
    "REPORT_FILE",
    "choose_examples",
    "headline",
    "load_earlier",
    "read_earlier",
    "render_report",
    "worst_answers",
    "write_report",
]

REPORT_FILE = "report.html"


def render_report(
    *,
    scoreboard: Board,
    answers: Sequence[Record],
    losses: Sequence[Mapping[str, Any]],
    sessions: Sequence[Mapping[str, Any]],
    quality: Mapping[str, Any],
    config: Mapping[str, Any] | str,
    earlier: Earlier | None = None,
) -> str:
    """The report as HTML; see `write_report`."""
    persona = scoreboard["meta"]["persona"]
    parts = (
        head(scoreboard),
        checks_section(scoreboard),
        metrics_section(scoreboard),
        heat_section(answers),
        languages_section(scoreboard),
        examples_section(answers, persona),
        worst_section(answers, persona),
        failing_section(scoreboard, answers),
        forgetting_section(scoreboard),
        benchmarks_section(scoreboard),
        training_section(losses, sessions),
        data_section(quality),
        earlier_section(earlier, scoreboard, answers, config) if earlier else "",
        fine_print(scoreboard, config),
    )
    return page.document(f"{persona}: {headline(scoreboard)}", "".join(parts), STYLE)


def read_earlier(against: Path | None, out: Path) -> Earlier | None:
    """The evaluation in the folder `against`, if one is named. Raises KelronError where it cannot be read, or is that
    of `out`."""
    if against is None:
        return None
    if against.resolve() == out.resolve():
        raise KelronError(f"{against} is this run's own folder: name the folder of another run to compare with")
    return load_earlier(against)


def write_report(
    out: Path,
    *,
    scoreboard: Board,
    answers: Sequence[Record],
    losses: Sequence[Mapping[str, Any]] = (),
    sessions: Sequence[Mapping[str, Any]] = (),
    quality: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | str = "",
    against: Path | None = None,
) -> Path:
    """Write `report.html` into the folder `out` (made if missing) and return its path.

    `scoreboard` and `answers` as `evaluate` returns them. `losses`: {"step", "loss" and/or "eval_loss"}.
    `sessions`: {"first_step", "last_step", "reason", "seconds"}. `quality`: the dataset's quality report. `config`:
    the resolved config. `against`: the folder of an earlier evaluation, to compare with. Sections without material are
    left out. Raises KelronError where the earlier run cannot be read, or is the one in `out`.
    """
    earlier = read_earlier(against, out)
    made = render_report(
        scoreboard=scoreboard,
        answers=answers,
        losses=losses,
        sessions=sessions,
        quality=quality or {},
        config=config,
        earlier=earlier,
    )
    write_whole(out / REPORT_FILE, made.encode())
    return out / REPORT_FILE
