"""Answers scored: the flags of each, the scoreboard of all, and both written to files. No model is touched."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from kelron_lib.errors import KelronError
from kelron_lib.evaluate import detectors
from kelron_lib.evaluate.detectors import claimed_rivals, flags
from kelron_lib.evaluate.metrics import comparison, is_empty, scoreboard
from kelron_lib.evaluate.names import lexicon
from kelron_lib.evaluate.prompts import Prompt, user_text
from kelron_lib.evaluate.systems import system_kind
from kelron_lib.files import write_whole
from kelron_lib.persona.rivals import Rival
from kelron_lib.runtime import read_json

LAYOUT = 2
"""Of scoreboard.json; 1 had neither slices by system prompt and attack nor a gate."""
SCOREBOARD_FILE = "scoreboard.json"
ANSWERS_FILE = "answers.jsonl"
OF_FILE = "answers_file"
"""Key of a scoreboard's `meta` that names the file whose answers were scored; a model's has none."""

Record = dict[str, Any]


def rivals_of(prompt: Mapping[str, Any], rivals: Sequence[Any]) -> Sequence[Any]:
    """The rivals, and those that the prompt names beside them."""
    named = tuple(prompt.get("rivals") or ())
    return _with_named(tuple(rivals), named) if named else rivals


@lru_cache(maxsize=256)
def _with_named(rivals: tuple[Any, ...], named: tuple[str, ...]) -> tuple[Any, ...]:
    """The same object for the same names, so that their patterns are made once."""
    return (*rivals, *(Rival(name, "assistant", (name,)) for name in named))


def rival_in(texts: Iterable[str], persona: Any, rivals: Sequence[Any]) -> bool:
    """Whether a text names a rival or a maker of one, be it as an everyday word."""
    names = lexicon(persona, rivals)
    return any(not mention.kind.startswith("persona") for text in texts for mention in names.mentions(text))


def score_turn(answer: str, stopped: bool, prompt: Mapping[str, Any], persona: Any, rivals: Sequence[Any]) -> Record:
    """{"answer", "stopped", "flags"} of one answer; `prompt` has language, kind and messages."""
    found = flags(
        answer,
        language=prompt["language"],
        kind=prompt["kind"],
        persona=persona,
        rivals=rivals,
        prompt=user_text(prompt),
    )
    return {"answer": answer, "stopped": stopped, "flags": found}


def score_prompt(prompt: Prompt, persona: Any, rivals: Sequence[Any]) -> Record:
    """The prompt's keys, "system_kind" and "attack" where it does not tell them, and "rival_in_prompt"."""
    asked = prompt.get("system_kind") or system_kind(prompt["system"], persona, rivals)
    attack = prompt.get("attack") or ""
    named = rival_in([prompt["system"], user_text(prompt)], persona, rivals)
    return {**prompt, "system_kind": asked, "attack": attack, "rival_in_prompt": named}


def score_dialogue(
    turns: Sequence[tuple[str, bool]], scored: Record, persona: Any, rivals: Sequence[Any]
) -> tuple[Record, list[Record]]:
    """The last answer of a dialogue and those before, each (text, stopped) scored by what the user wrote up to it.

    `scored`: the prompt with the whole dialogue, up to the last question, as its messages.
    """
    talk = scored["messages"]
    asked = [number for number, message in enumerate(talk, start=1) if message["role"] == "user"]
    ends = asked if len(asked) == len(turns) else [len(talk)] * len(turns)
    *earlier, last = (
        score_turn(text, stopped, {**scored, "messages": talk[:end]}, persona, rivals)
        for (text, stopped), end in zip(turns, ends, strict=True)
    )
    return last, earlier


def _record(prompt: Prompt, model: str, answer: Any, persona: Any, rivals: Sequence[Any]) -> Record:
    """The record of a prompt and its answer; a dialogue has the messages that came of it, and its earlier turns."""
    before = getattr(answer, "earlier", ())
    asked = {**prompt, "messages": list(answer.messages)} if before else prompt
    scored = score_prompt(asked, persona, rivals)
    turns = [(one.text, one.stopped) for one in (*before, answer)]
    last, earlier = score_dialogue(turns, scored, persona, rivals)
    spans = detectors.spans(
        answer.text,
        last["flags"],
        language=scored["language"],
        persona=persona,
        rivals=rivals,
        prompt=user_text(scored),
    )
    record = {**scored, "model": model, **last, "spans": spans}
    if earlier:
        record["earlier"] = earlier
    if note := getattr(answer, "note", ""):
        record["note"] = note
    return record


def score_answers(
    prompts: Sequence[Prompt],
    answers_by_model: Mapping[str, Sequence[Any]],
    persona: Any,
    rivals: Sequence[Any],
) -> list[Record]:
    """One record per answer, base first: the prompt, "model", "answer", "stopped", "flags" and the flagged "spans".

    An answer has `text` and `stopped`, and one that ends a dialogue `earlier` (such answers) and `messages` (all but
    itself). Raises KelronError unless every model answered every prompt.
    """
    records = []
    for name, answers in answers_by_model.items():
        if len(answers) != len(prompts):
            raise KelronError(f"the {name} model gave {len(answers)} answers to {len(prompts)} prompts")
        records += [
            _record(prompt, name, answer, persona, rivals_of(prompt, rivals))
            for prompt, answer in zip(prompts, answers, strict=True)
        ]
    return records


def _self_names(records: Sequence[Record], persona: Any, rivals: Sequence[Any]) -> dict[str, int]:
    """How often one model's identity answers claim which name, most often first."""
    names: Counter[str] = Counter()
    for record in records:
        if record["kind"] == "identity":
            if record["flags"]["contradiction"]:
                names.update(claimed_rivals(record["answer"], persona, rivals_of(record, rivals)))
            if record["flags"]["asserts_persona"]:
                names[persona.name["en"]] += 1
    return dict(names.most_common())


def board_of(records: Sequence[Record], persona: Any, rivals: Sequence[Any]) -> dict[str, Any]:
    """The scoreboard of scored records: {"layout", MODEL: {METRIC: ..., "by_language": ...}, "comparison", "meta"}.

    `comparison` is there where both models answered. `meta`: the persona, how many prompts, `counts` of them by kind
    and language, `says`: per model, the names it claims in identity answers, with counts, and `empty`: how many
    answers of each hold nothing.
    """
    models = list(dict.fromkeys(record["model"] for record in records))
    own = {name: [record for record in records if record["model"] == name] for name in models}
    board: dict[str, Any] = {"layout": LAYOUT}
    board |= {name: scoreboard(own[name]) for name in models}
    if len(models) > 1:
        board["comparison"] = comparison(own["base"], own["tuned"])
    prompts = {record["id"]: f"{record['kind']}.{record['language']}" for record in records}
    says = {name: _self_names(own[name], persona, rivals) for name in models}
    meta = {"persona": persona.name["en"], "prompts": len(prompts), "counts": dict(Counter(prompts.values()))}
    empty = {name: sum(map(is_empty, own[name])) for name in models}
    return {**board, "meta": {**meta, "says": says, "empty": empty}}


def evaluate_answers(
    prompts: Sequence[Prompt],
    answers_by_model: Mapping[str, Sequence[Any]],
    persona: Any,
    rivals: Sequence[Any],
) -> tuple[dict[str, Any], list[Record]]:
    """The scoreboard (see `board_of`) and the scored records."""
    records = score_answers(prompts, answers_by_model, persona, rivals)
    return board_of(records, persona, rivals), records


def json_line(record: Mapping[str, Any]) -> bytes:
    """A record as a line of UTF-8 JSON. A lone surrogate, which a broken answer may hold, is escaped."""
    try:
        return json.dumps(record, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(record, ensure_ascii=True, allow_nan=False).encode() + b"\n"


def board_text(board: Mapping[str, Any]) -> bytes:
    """A scoreboard as indented JSON; what it holds of broken answers is escaped."""
    text = json.dumps(board, indent=2, ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "backslashreplace") + b"\n"


def require_same_kind(out: Path, *, of_file: bool) -> None:
    """Raise KelronError where `out` holds a scoreboard of the other kind: of a model, or of a file of answers."""
    if not (out / SCOREBOARD_FILE).exists():
        return
    told = read_json(out / SCOREBOARD_FILE)
    meta = told.get("meta") if isinstance(told, dict) else None
    if (isinstance(meta, dict) and OF_FILE in meta) != of_file:
        kind = "an evaluation of a model" if of_file else "answers from a file"
        raise KelronError(f"{out} holds the scoreboard of {kind}, which this would replace: name another --out")


def write_results(out: Path, board: Mapping[str, Any], records: Sequence[Record]) -> None:
    """Write `scoreboard.json` and `answers.jsonl` into `out` (made if missing)."""
    write_whole(out / ANSWERS_FILE, b"".join(map(json_line, records)))
    write_whole(out / SCOREBOARD_FILE, board_text(board))
