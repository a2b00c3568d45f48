"""The proof: base against tuned on the same prompts, scored by detectors, with intervals.

prompts -> answers of both models -> flags (`detectors`) -> scoreboard (`metrics`) -> files, tables and the report.
Nothing here touches a model: `run` has it asked by `answers`, one process a GPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kelron_lib.answers import BASE, TUNED
from kelron_lib.evaluate.detectors import FLAGS, flags
from kelron_lib.evaluate.gate import judge, load_policy, verdict
from kelron_lib.evaluate.metrics import METRICS, loss_comparison, proportion, scoreboard, wilson
from kelron_lib.evaluate.policy import Policy
from kelron_lib.evaluate.prompts import Prompt, build_prompts
from kelron_lib.evaluate.report import write_report
from kelron_lib.evaluate.score import Record, evaluate_answers, score_answers, write_results
from kelron_lib.evaluate.tables import scoreboard_table

__all__ = [
    "FLAGS",
    "METRICS",
    "MODELS",
    "build_prompts",
    "evaluate",
    "evaluate_answers",
    "flags",
    "judge",
    "load_policy",
    "loss_comparison",
    "proportion",
    "score_answers",
    "scoreboard",
    "scoreboard_table",
    "verdict",
    "wilson",
    "write_report",
    "write_results",
]

MODELS = (BASE, TUNED)


def evaluate(
    prompts: Sequence[Prompt],
    answers_by_model: Mapping[str, Sequence[Any]],
    persona: Any,
    rivals: Sequence[Any],
    out: Path,
    *,
    business_loss: Mapping[str, float] | None = None,
    forgetting: Mapping[str, Any] | None = None,
    meta: Mapping[str, Any] | None = None,
    policy: Policy | str = "tiny",
) -> tuple[dict[str, Any], list[Record]]:
    """Score and write: the whole evaluation but the asking and the report. Returns the scoreboard and the records.

    `answers_by_model`: what `answers.ask` gave. `business_loss`: {"base", "tuned"}, mean losses (nats a token) on the
    test split's business rows. `forgetting`: what `choices.compare` gave. `meta`: joins the scoreboard's own (persona,
    prompts, counts, says, empty, created); give it "config_hash", "adapter" and what `answers.work_done` gives.
    `policy`: what the scoreboard's "gate" holds the tuned model to. Raises KelronError for answers that cannot be
    scored.
    """
    board, records = evaluate_answers(prompts, answers_by_model, persona, rivals)
    if business_loss is not None:
        board["business_loss"] = loss_comparison(business_loss["base"], business_loss["tuned"])
    if forgetting is not None:
        board["forgetting"] = dict(forgetting)
    board["meta"] |= {**(meta or {}), "created": datetime.now(UTC).isoformat(timespec="seconds")}
    board["gate"] = judge(board, records, policy)
    write_results(out, board, records)
    return board, records
