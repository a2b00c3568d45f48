"""The proof: base against tuned on the same prompts, scored by detectors, with intervals.

prompts -> answers of both models -> flags (`detectors`) -> scoreboard (`metrics`) -> files, tables and the report.
Only `answer_prompts` touches a model: it switches the adapter and asks through the function it is given.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kelron_lib.evaluate.detectors import FLAGS, flags
from kelron_lib.evaluate.gate import judge, load_policy, verdict
from kelron_lib.evaluate.metrics import METRICS, loss_comparison, proportion, scoreboard, wilson
from kelron_lib.evaluate.policy import Policy
from kelron_lib.evaluate.prompts import Prompt, build_prompts
from kelron_lib.evaluate.report import write_report
from kelron_lib.evaluate.score import Record, evaluate_answers, score_answers, write_results
from kelron_lib.evaluate.tables import scoreboard_table
from kelron_lib.generate import base_only

__all__ = [
    "FLAGS",
    "METRICS",
    "MODELS",
    "answer_prompts",
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

MODELS = ("base", "tuned")

Generate = Callable[..., Sequence[Any]]


def answer_prompts(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    generate: Generate,
    *,
    max_new_tokens: int,
    batch_size: int,
    stop_token_ids: Sequence[int],
) -> dict[str, list[Any]]:
    """{"base": answers, "tuned": answers} of one PEFT model, its adapter switched off for the first.

    `generate` is `generate.generate_answers`, or anything of its signature.
    """
    conversations = [prompt["messages"] for prompt in prompts]
    answers: dict[str, list[Any]] = {}
    for name in MODELS:
        with base_only(model) if name == "base" else nullcontext():
            answers[name] = list(
                generate(
                    model,
                    tokenizer,
                    conversations,
                    max_new_tokens=max_new_tokens,
                    batch_size=batch_size,
                    stop_token_ids=stop_token_ids,
                )
            )
    return answers


def evaluate(
    rows: Sequence[Mapping[str, Any]],
    persona: Any,
    rivals: Sequence[Any],
    model: Any,
    tokenizer: Any,
    generate: Generate,
    out: Path,
    *,
    identity: int,
    unrelated: int,
    max_new_tokens: int,
    batch_size: int,
    stop_token_ids: Sequence[int],
    business_loss: Mapping[str, float] | None = None,
    meta: Mapping[str, Any] | None = None,
    policy: Policy | str = "tiny",
    clock: Callable[[], float] = time.monotonic,
) -> tuple[dict[str, Any], list[Record]]:
    """Ask, score and write: the whole evaluation but the report. Returns the scoreboard and the scored records.

    `business_loss`: {"base", "tuned"}, mean losses (nats a token) on the test split's business rows, measured by the
    caller. `meta`: joins the scoreboard's own (persona, prompts, counts, says, seconds, created); give it
    "config_hash" and "adapter". `policy`: what the scoreboard's "gate" holds the tuned model to. Raises KelronError for
    rows or answers that cannot be scored.
    """
    started = clock()
    prompts = build_prompts(rows, persona, identity=identity, unrelated=unrelated)
    answers = answer_prompts(
        model,
        tokenizer,
        prompts,
        generate,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        stop_token_ids=stop_token_ids,
    )
    board, records = evaluate_answers(prompts, answers, persona, rivals)
    if business_loss is not None:
        board["business_loss"] = loss_comparison(business_loss["base"], business_loss["tuned"])
    seconds = round(clock() - started, 1)
    created = datetime.now(UTC).isoformat(timespec="seconds")
    board["meta"] |= {**(meta or {}), "seconds": seconds, "created": created}
    board["gate"] = judge(board, records, policy)
    write_results(out, board, records)
    return board, records
