"""Answers scored: the flags of each, the scoreboard of all, and both written to files. No model is touched."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kelron_lib.errors import KelronError
from kelron_lib.evaluate import detectors
from kelron_lib.evaluate.detectors import claimed_rivals, flags
from kelron_lib.evaluate.metrics import scoreboard
from kelron_lib.evaluate.prompts import Prompt, user_text
from kelron_lib.files import write_whole

SCOREBOARD_FILE = "scoreboard.json"
ANSWERS_FILE = "answers.jsonl"

Record = dict[str, Any]


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
