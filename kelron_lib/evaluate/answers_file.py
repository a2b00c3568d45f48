"""Answers from elsewhere: a file of them read, checked, scored and written back with flags. No model is touched.

A line is an object: id, language, kind, system, prompt or messages, answer, stopped; see docs/evaluation.md.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

from kelron_lib.config import nearest
from kelron_lib.data.foreign.text import TextFile, into_utf8, open_text
from kelron_lib.errors import KelronError
from kelron_lib.evaluate.detectors import FLAGS, KINDS
from kelron_lib.evaluate.gate import judge
from kelron_lib.evaluate.policy import Policy
from kelron_lib.evaluate.prompt import ATTACKS, SOURCES, SYSTEM_KINDS
from kelron_lib.evaluate.score import (
    OF_FILE,
    SCOREBOARD_FILE,
    Record,
    board_of,
    board_text,
    json_line,
    require_same_kind,
    rivals_of,
    score_dialogue,
    score_prompt,
)
from kelron_lib.files import write_whole, writing_whole
from kelron_lib.runtime import exclusive
from kelron_lib.settings import LANGUAGES

FLAGGED_FILE = "answers.flagged.jsonl"
SHOWN = 5
"""Bad lines that an error tells."""
SYSTEM_WORDS = ("none", "persona", "hostile")
"""What `system` may be in place of its text."""
MODELS = ("tuned", "base")
_KINDS = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
_KEPT = ("id", "language", "kind", "source", "seed_id", "rivals", "prompt", "model", "system_kind", "attack")
"""What the scoreboard and the gate need of a scored answer, beside its turns."""


class BadLine(ValueError):
    """What is wrong with a line, as it stands behind its number."""


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), "a number")


# --- Reading ----------------------------------------------------------------------------------------------
def read_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a file with their line numbers, each checked; blank lines are none.

    Raises KelronError for a file that is missing, empty, no text or in another encoding than UTF-8 (the likely one is
    named), and, with the first SHOWN of them and the number of the others, for lines that cannot be scored.
    """
    text = open_text(path, row="an answer")
    if text.codec != "utf-8":
        raise KelronError(f"{path} is {text.encoding}, not UTF-8: convert it with `{into_utf8(path, text.encoding)}`")
    bad: list[str] = []
    seen: dict[tuple[str, str], int] = {}
    asked: dict[str, tuple[int, str]] = {}
    number = good = 0
    for number, value in _values(text):
        try:
            if isinstance(value, BadLine):
                raise value
            check_line(value)
            key = (value.get("model") or MODELS[0], str(value["id"]))
            if key in seen:
                raise BadLine(f"the id {key[1]!r} is that of line {seen[key]}, too")
            seen[key] = number
            _require_same(asked.setdefault(key[1], (number, _question(value))), value)
        except BadLine as problem:
            bad.append(f"line {number}: {problem}")
            continue
        good += 1
        if not bad:
            yield number, value
    if bad:
        more = f"; and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
        count = "1 line" if len(bad) == 1 else f"{len(bad)} lines"
        raise KelronError(f"{path}: {count} cannot be scored: {'; '.join(bad[:SHOWN])}{more}")
    if not good:
        raise KelronError(f"{path} holds nothing but blank lines: put an answer on every line")


def _values(text: TextFile) -> Iterator[tuple[int, Any]]:
    """Each line that is not blank as JSON, or as the BadLine that it is. Raises KelronError for a file that is JSON
    over several lines."""
    lines = ((number, line) for number, line in text.lines(most=None) if line.strip())
    first = next(lines, None)
    if first is None:
        return
    value, second = _value(first[1]), next(lines, None)
    if isinstance(value, BadLine) and second is not None:
        _require_lines(text.path, first[1].strip(), second[1].strip())
    yield first[0], value
    for number, line in chain([second] if second else [], lines):
        yield number, _value(line)


def _require_lines(path: Path, first: str, second: str) -> None:
    """Raise KelronError where a first line that is no JSON begins a list or an object that goes on in the second."""
    if first[0] == "[" or (first[0] == "{" and first[-1] in "{[," and second[0] != "{"):
        each = ".[]" if first[0] == "[" else "."
        raise KelronError(
            f"{path} is JSON over several lines, not one answer a line: put each answer, {{...}}, on its own line, as "
            f"`jq -c '{each}' {path.name}` does"
        )


def _value(line: str) -> Any:
    """A line as JSON, or as the BadLine that it is."""
    try:
        return json.loads(line.rstrip(), parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_once)
    except BadLine as problem:
        return problem
    except json.JSONDecodeError as error:
        return _no_json(line.rstrip(), error, whole=line.endswith("\n"))
    except (RecursionError, ValueError):  # a ValueError of a number with thousands of digits
        return BadLine("nested too deeply, or a number of thousands of digits")


def _no_json(line: str, error: json.JSONDecodeError, *, whole: bool) -> BadLine:
    """What is wrong with a line, where, and what stands there; not `whole`: it has no line end."""
    at_its_end = error.pos >= len(line)
    where = "at its end" if at_its_end else f"at column {error.pos + 1}, {_short(line[error.pos :])}"
    open_text = error.msg.startswith("Unterminated string")
    cut = "; the file's last line is half written" if (at_its_end or open_text) and not whole else ""
    return BadLine(f"not JSON ({error.msg.removesuffix(' at').removesuffix(' starting')} {where}{cut})")


def _refuse(word: str) -> None:
    raise BadLine(f"{word} is no JSON: leave it out, or write null")


def _finite(digits: str) -> float:
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise BadLine(f"{digits} is too large a number")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        keys = [key for key, _ in pairs]
        raise BadLine(f"the key {next(key for key in keys if keys.count(key) > 1)!r} is there twice")
    return made


# --- Checking ---------------------------------------------------------------------------------------------
def _one_of(value: Any, choices: Sequence[str], key: str, why: str = "") -> None:
    if value not in choices:
        named = ", ".join(choice for choice in choices if choice)
        none = ' (or "" for none)' if "" in choices else ""
        raise BadLine(f"{key} is {_short(value)}: {why or 'use'} {named}{none}")


def _short(value: Any) -> str:
    shown = repr(value) if isinstance(value, str | int | float | bool) else _kind(value)
    return shown if len(shown) <= 40 else f"{shown[:37]}..."


def _text(value: Any, key: str) -> None:
    if not isinstance(value, str):
        raise BadLine(f"{key} is {_short(value)}, not a text")


def _flag(value: Any, key: str) -> None:
    if not isinstance(value, bool):
        raise BadLine(f"{key} is {_short(value)}: it takes true or false")


def _messages(value: Any, key: str) -> None:
    if not isinstance(value, list) or not value:
        raise BadLine(f"{key} is {_short(value)}: it takes a list of {{role, content}}")
    for message in value:
        if not isinstance(message, dict):
            raise BadLine(f"{key} has {_kind(message)} where {{role, content}} was to be")
        _one_of(message.get("role"), ("system", "user", "assistant"), "a message's role")
        _text(message.get("content"), "a message's content")
    if value[-1]["role"] != "user":
        raise BadLine(f"{key} ends with a message of the {value[-1]['role']}: it ends with what the user asked")


def _earlier(value: Any, key: str) -> None:
    if not isinstance(value, list):
        raise BadLine(f"{key} is {_short(value)}: it takes the answers of the turns before, as a list")
    for turn in value:
        if not isinstance(turn, dict) or "answer" not in turn or "stopped" not in turn:
            raise BadLine(f"{key} takes objects with answer and stopped")
        _text(turn["answer"], f"{key}'s answer")
        _flag(turn["stopped"], f"{key}'s stopped")


def _rivals(value: Any, key: str) -> None:
    if not isinstance(value, list) or not all(isinstance(name, str) and name.strip() for name in value):
        raise BadLine(f"{key} is {_short(value)}: it takes a list of names")


def _name(value: Any, key: str) -> None:
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise BadLine(f"{key} is {_short(value)}: it takes a text or a whole number")


_REQUIRED: dict[str, Callable[[Any, str], None]] = {
    "id": _name,
    "language": lambda value, key: _one_of(value, LANGUAGES, key, "the detectors know"),
    "kind": lambda value, key: _one_of(value, KINDS, key),
    "answer": _text,
    "stopped": _flag,
}
_OPTIONAL: dict[str, Callable[[Any, str], None]] = {
    "system": _text,
    "prompt": _text,
    "messages": _messages,
    "model": lambda value, key: _one_of(value, MODELS, key),
    "attack": lambda value, key: _one_of(value, ("", *ATTACKS), key),
    "system_kind": lambda value, key: _one_of(value, SYSTEM_KINDS, key),
    "source": lambda value, key: _one_of(value, SOURCES, key),
    "seed_id": _name,
    "rivals": _rivals,
    "earlier": _earlier,
}


def without_nulls(line: Mapping[str, Any]) -> dict[str, Any]:
    """The line without optional keys that are null: what writes tables as JSON has every key in every line."""
    return {key: value for key, value in line.items() if value is not None or key not in _OPTIONAL}


def check_line(value: Any) -> None:
    """Raise BadLine unless `value` is an answer that can be scored. Keys that are not Kelron's own are left alone."""
    if not isinstance(value, dict):
        raise BadLine(f"{_kind(value)}, not an object: put one answer, {{...}}, on each line")
    for key, check in _REQUIRED.items():
        if key not in value:
            raise _missing(key, value)
        check(value[key], key)
    value = without_nulls(value)
    for key, check in _OPTIONAL.items():
        if key in value:
            check(value[key], key)
    messages = value.get("messages")
    if messages is None and "prompt" not in value:
        raise _missing("prompt", value, " (or messages)")
    if "system" not in value and not (messages and messages[0]["role"] == "system"):
        raise _missing("system", value, ' ("" for none)')
    if messages:
        _require_one_question(value, messages)


def _require_one_question(value: Mapping[str, Any], messages: Sequence[Mapping[str, str]]) -> None:
    """Raise BadLine where `prompt` or `system` says other than `messages`: which was asked would be unknown.

    A dialogue's prompt may be what the user wrote first, as in Kelron's own answers.
    """
    asked = [message["content"] for message in messages if message["role"] == "user"]
    if value.get("prompt", asked[-1]) not in (asked[0], asked[-1]):
        raise BadLine(
            f"prompt is {_short(value['prompt'])}, but messages asks {_short(asked[-1])}: leave one of them out"
        )
    told = messages[0]["content"] if messages[0]["role"] == "system" else None
    system = value.get("system", told)
    if told is not None and system not in (told, "persona", "hostile") and (system, told) != ("none", ""):
        raise BadLine(f"system is {_short(system)}, but that of messages is {_short(told)}: leave one of them out")


def _question(value: Mapping[str, Any]) -> str:
    """What a line asks first."""
    asked: str = next((said["content"] for said in value.get("messages") or () if said["role"] == "user"), "")
    return asked or str(value["prompt"])


def _require_same(first: tuple[int, str], value: Mapping[str, Any]) -> None:
    """Raise BadLine where base and tuned answer two questions under one id: they would be compared as one."""
    if _question(value) != first[1]:
        raise BadLine(
            f"asks {_short(_question(value))} under the id {value['id']!r}, and line {first[0]} {_short(first[1])}: "
            "an id is one question's, whichever model answers it"
        )


def _missing(key: str, value: Mapping[str, Any], more: str = "") -> BadLine:
    hint = nearest(key, unknown) if (unknown := value.keys() - {*_REQUIRED, *_OPTIONAL}) else ""
    return BadLine(f"has no {key}{more}" + (f", but {hint.split()[-1].rstrip('?')}" if "Did you mean" in hint else ""))


# --- Scoring ----------------------------------------------------------------------------------------------
def _prompt(line: Mapping[str, Any], persona: Any) -> dict[str, Any]:
    """The prompt of a line, as Kelron's own prompts are."""
    given = list(line.get("messages") or [{"role": "user", "content": line["prompt"]}])
    told = given[0]["content"] if given[0]["role"] == "system" else ""
    system = line.get("system", told)
    asked = line.get("system_kind")
    if system in SYSTEM_WORDS:
        asked = asked or system
        system = persona.system_prompt[line["language"]] if system == "persona" else told
    talk = given[1:] if given[0]["role"] == "system" else given
    return {
        **{key: line[key] for key in _KEPT if key in line},
        "model": line.get("model") or MODELS[0],
        "source": line.get("source") or "user",
        "prompt": line.get("prompt", talk[-1]["content"]),
        "system": system,
        "system_kind": asked,
        "messages": [{"role": "system", "content": system}, *talk],
    }


def score_line(line: Mapping[str, Any], persona: Any, rivals: Sequence[Any]) -> Record:
    """The record of a checked line, without its messages, which the scoreboard does not need."""
    line = without_nulls(line)
    prompt = _prompt(line, persona)
    names = rivals_of(prompt, rivals)
    scored = score_prompt(prompt, persona, names)
    if scored["system_kind"] == "hostile" and not scored["system"]:
        scored["rival_in_prompt"] = True  # a word stands for the text, which names one
    said = [message["content"] for message in prompt["messages"] if message["role"] == "assistant"]
    before = line.get("earlier") or [{"answer": text, "stopped": True} for text in said]
    turns = [(turn["answer"], turn["stopped"]) for turn in (*before, line)]
    last, earlier = score_dialogue(turns, scored, persona, names)
    record = scored | last | ({"earlier": earlier} if earlier else {})
    del record["messages"], record["system"]
    return record


def flagged(line: Mapping[str, Any], record: Record) -> dict[str, Any]:
    """The line's own keys in their order, and "flags"."""
    return {**line, "flags": {name: record["flags"][name] for name in FLAGS}}


def score_file(path: Path, persona: Any, rivals: Sequence[Any], out: Path, policy: Policy) -> dict[str, Any]:
    """Score a file of answers; returns the scoreboard, its verdict under "gate".

    Writes `scoreboard.json` and `answers.flagged.jsonl` (each line's own keys in their order, and "flags" with the
    seven of FLAGS as booleans) to `out`. Raises KelronError, having written nothing, for a file that `read_lines`
    refuses or that has no answer of the tuned model, and where `out` holds the scoreboard of an evaluation of a model.
    """
    started = time.monotonic()
    models = {line.get("model") or MODELS[0] for _, line in read_lines(path)}  # all of them, before anything is written
    if MODELS[0] not in models:
        raise KelronError(f'{path} has answers of the base alone: leave "model" out where one model answered')
    with exclusive(out):
        require_same_kind(out, of_file=True)
        records = []
        with writing_whole(out / FLAGGED_FILE) as flagged_file:
            for _, line in read_lines(path):
                record = score_line(line, persona, rivals)
                flagged_file.write(json_line(flagged(line, record)))
                records.append(record)
            board = board_of(records, persona, rivals)
            created = datetime.now(UTC).isoformat(timespec="seconds")
            seconds = round(time.monotonic() - started, 1)
            board["meta"] |= {OF_FILE: path.name, "seconds": seconds, "created": created}
            board["gate"] = judge(board, records, policy)
        write_whole(out / SCOREBOARD_FILE, board_text(board))
    return board
