"""The report: one HTML file that stands alone, from the verdict in words down to the config.

Nothing in it is fetched (a content security policy forbids it) and nothing in it runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kelron_lib import page
from kelron_lib.errors import KelronError
from kelron_lib.evaluate.report.answers import choose_examples, examples_section, failing_section, worst_answers
from kelron_lib.evaluate.report.answers import worst_section as _worst
from kelron_lib.evaluate.report.background import data_section, fine_print, forgetting_section, training_section
from kelron_lib.evaluate.report.earlier import Earlier, earlier_section, load_earlier
from kelron_lib.evaluate.report.heat import heat_section
from kelron_lib.evaluate.report.numbers import languages_section, metrics_section
from kelron_lib.evaluate.report.parts import Board, Record, contents
from kelron_lib.evaluate.report.style import STYLE
from kelron_lib.evaluate.report.verdict import checks_section, head, headline
from kelron_lib.files import write_whole

__all__ = [
    "REPORT_FILE",
    "choose_examples",
    "headline",
    "load_earlier",
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
        ("Policy", checks_section(scoreboard)),
        ("Figures", metrics_section(scoreboard)),
        ("Map", heat_section(answers)),
        ("Slices", languages_section(scoreboard)),
        ("Examples", examples_section(answers, persona)),
        ("Worst answers", _worst(answers, persona)),
        ("Failing checks", failing_section(scoreboard, answers)),
        ("Forgetting", forgetting_section(scoreboard)),
        ("Training", training_section(losses, sessions)),
        ("Data", data_section(quality)),
        ("Earlier run", earlier_section(earlier, scoreboard, answers, config) if earlier else ""),
        ("Fine print", fine_print(scoreboard, config)),
    )
    made = [(name, part) for name, part in parts if part]
    links = contents([(part.split('"', 2)[1], name) for name, part in made])
    body = head(scoreboard) + links + "".join(part for _, part in made)
    return page.document(f"{persona}: {headline(scoreboard)}", body, STYLE)


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
    if against and against.resolve() == out.resolve():
        raise KelronError(f"{against} is this run's own folder: name the folder of another run to compare with")
    made = render_report(
        scoreboard=scoreboard,
        answers=answers,
        losses=losses,
        sessions=sessions,
        quality=quality or {},
        config=config,
        earlier=load_earlier(against) if against else None,
    )
    write_whole(out / REPORT_FILE, made.encode())
    return out / REPORT_FILE
