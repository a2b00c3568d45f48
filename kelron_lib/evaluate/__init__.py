"""The proof: base against tuned on the same prompts, scored by detectors, with intervals.

prompts -> answers of both models -> flags (`detectors`) -> scoreboard (`metrics`) -> files, tables and the report.
Nothing here touches a model: `run` has it asked by `answers`, one process a GPU.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kelron_lib.answers import BASE, TUNED
from kelron_lib.errors import KelronError
from kelron_lib.evaluate import detectors
from kelron_lib.evaluate.detectors import FLAGS, claimed_rivals, flags
from kelron_lib.evaluate.metrics import METRICS, checks, loss_comparison, proportion, scoreboard, wilson
from kelron_lib.evaluate.prompts import (
    Prompt,
    prompts_from_rows,
    select_prompts,
    unrelated_prompts,
    user_text,
)
from kelron_lib.evaluate.report import write_report
from kelron_lib.evaluate.tables import scoreboard_table
from kelron_lib.files import write_whole

__all__ = [
    "FLAGS",
    "METRICS",
    "MODELS",
    "build_prompts",
    "checks",
    "evaluate",
    "evaluate_answers",
    "flags",
    "loss_comparison",
    "proportion",
    "score_answers",
    "scoreboard",
    "scoreboard_table",
    "wilson",
    "write_report",
    "write_results",
]

MODELS = (BASE, TUNED)
SCOREBOARD_FILE = "scoreboard.json"
ANSWERS_FILE = "answers.jsonl"

Record = dict[str, Any]


def build_prompts(rows: Sequence[Mapping[str, Any]], persona: Any, *, identity: int, unrelated: int) -> list[Prompt]:
    """The prompts of an evaluation, per language at most `identity` and `unrelated` of each kind.

    `rows`: the test split; its languages are the evaluation's. Unrelated prompts are the packaged ones first, then
    the split's business and chat rows. Raises KelronError where a language has no identity prompt.
    """
    languages = list(dict.fromkeys(row["language"] for row in rows))
    systems = {language: persona.system_prompt[language] for language in languages}
    prompts = select_prompts(
        [*prompts_from_rows(rows), *unrelated_prompts(systems)], identity=identity, unrelated=unrelated
    )
    asked = {prompt["language"] for prompt in prompts if prompt["kind"] == "identity"}
    if not languages or asked != set(languages):
        missing = ", ".join(sorted(set(languages) - asked)) or "any language"
        raise KelronError(f"the test split has no identity rows for {missing}: prepare more rows, or another seed")
    return prompts


def _record(prompt: Prompt, model: str, answer: Any, persona: Any, rivals: Sequence[Any]) -> Record:
    asked = user_text(prompt)
    found = flags(
        answer.text,
        language=prompt["language"],
        kind=prompt["kind"],
        persona=persona,
        rivals=rivals,
        prompt=asked,
    )
    spans = detectors.spans(
        answer.text, found, language=prompt["language"], persona=persona, rivals=rivals, prompt=asked
    )
    kept = {key: prompt[key] for key in ("id", "language", "kind", "system", "prompt", "messages", "source", "seed_id")}
    return {**kept, "model": model, "answer": answer.text, "stopped": answer.stopped, "flags": found, "spans": spans}


def score_answers(
    prompts: Sequence[Prompt],
    answers_by_model: Mapping[str, Sequence[Any]],
    persona: Any,
    rivals: Sequence[Any],
) -> list[Record]:
    """One record per answer, base first: the prompt, "model", "answer", "stopped", "flags" and the flagged "spans".

    An answer has `text` and `stopped`. Raises KelronError unless every model answered every prompt.
    """
    records = []
    for name, answers in answers_by_model.items():
        if len(answers) != len(prompts):
            raise KelronError(f"the {name} model gave {len(answers)} answers to {len(prompts)} prompts")
        records += [
            _record(prompt, name, answer, persona, rivals) for prompt, answer in zip(prompts, answers, strict=True)
        ]
    return records


def _self_names(records: Sequence[Record], persona: Any, rivals: Sequence[Any]) -> dict[str, int]:
    """How often one model's identity answers claim which name, most often first."""
    names: Counter[str] = Counter()
    for record in records:
        if record["kind"] == "identity":
            names.update(claimed_rivals(record["answer"], persona, rivals))
            if record["flags"]["asserts_persona"]:
                names[persona.name["en"]] += 1
    return dict(names.most_common())


def evaluate_answers(
    prompts: Sequence[Prompt],
    answers_by_model: Mapping[str, Sequence[Any]],
    persona: Any,
    rivals: Sequence[Any],
) -> tuple[dict[str, Any], list[Record]]:
    """The scoreboard {MODEL: {METRIC: ..., "by_language": ...}, "meta": {"counts", "says"}} and the scored records.

    `meta.says`: per model, the names it claims in identity answers, with counts.
    """
    records = score_answers(prompts, answers_by_model, persona, rivals)
    board: dict[str, Any] = {}
    says = {}
    for name in answers_by_model:
        own = [record for record in records if record["model"] == name]
        board[name] = scoreboard(own)
        says[name] = _self_names(own, persona, rivals)
    counts = Counter(f"{prompt['kind']}.{prompt['language']}" for prompt in prompts)
    board["meta"] = {"persona": persona.name["en"], "prompts": len(prompts), "counts": dict(counts), "says": says}
    return board, records


def _json_line(record: Record) -> bytes:
    """A record as UTF-8 JSON. A lone surrogate, which a broken answer may hold, is escaped."""
    try:
        return json.dumps(record, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        return json.dumps(record, ensure_ascii=True, allow_nan=False).encode()


def write_results(out: Path, board: Mapping[str, Any], records: Sequence[Record]) -> None:
    """Write `scoreboard.json` and `answers.jsonl` into `out` (made if missing)."""
    write_whole(out / ANSWERS_FILE, b"".join(_json_line(record) + b"\n" for record in records))
    text = json.dumps(board, indent=2, ensure_ascii=False, allow_nan=False)
    write_whole(out / SCOREBOARD_FILE, text.encode() + b"\n")


def evaluate(
    prompts: Sequence[Prompt],
    answers_by_model: Mapping[str, Sequence[Any]],
    persona: Any,
    rivals: Sequence[Any],
    out: Path,
    *,
    business_loss: Mapping[str, float] | None = None,
    meta: Mapping[str, Any] | None = None,
) -> tuple[dict[str, Any], list[Record]]:
    """Score and write: the whole evaluation but the asking and the report. Returns the scoreboard and the records.

    `answers_by_model`: what `answers.ask` gave. `business_loss`: {"base", "tuned"}, mean losses (nats a token) on the
    test split's business rows. `meta`: joins the scoreboard's own (persona, prompts, counts, says, created); give it
    "config_hash", "adapter" and what `answers.work_done` gives. Raises KelronError for answers that cannot be scored.
    """
    board, records = evaluate_answers(prompts, answers_by_model, persona, rivals)
    if business_loss is not None:
        board["business_loss"] = loss_comparison(business_loss["base"], business_loss["tuned"])
    board["meta"] |= {**(meta or {}), "created": datetime.now(UTC).isoformat(timespec="seconds")}
    write_results(out, board, records)
    return board, records
