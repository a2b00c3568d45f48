"""A user's own prompts, from a JSON-lines file: checked whole before anything is asked."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kelron_lib.config import nearest
from kelron_lib.errors import KelronError
from kelron_lib.evaluate.prompt import ATTACKS, Prompt, digest, make_prompt
from kelron_lib.evaluate.systems import system_kind
from kelron_lib.persona import Persona, rival_names
from kelron_lib.persona.rivals import Rival
from kelron_lib.prompts import ROLES, STOP_TOKENS, check_messages
from kelron_lib.prompts import START as HEADER
from kelron_lib.settings import LANGUAGES

KINDS = ("identity", "unrelated")
KEYS = ("language", "prompt", "messages", "id", "kind", "system", "attack", "rivals", "turns")
_SPECIAL = (HEADER, *STOP_TOKENS)
_SHOWN = 5


def _text(value: Any, key: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise KelronError(f"{key} has to be a text, not {value!r}")
    return value


def _texts(line: Mapping[str, Any], key: str) -> list[str]:
    value = line.get(key, [])
    if not isinstance(value, list):
        raise KelronError(f"{key} has to be a list of texts, not {value!r}")
    return [_text(item, key) for item in value]


def _choice(value: Any, key: str, choices: Iterable[str]) -> str:
    known = list(choices)
    if value not in known:
        raise KelronError(f"{key} is {value!r}: use {', '.join(known)}")
    return str(value)


def _conversation(line: Mapping[str, Any], persona: Persona, language: str) -> list[dict[str, str]]:
    """The messages of a line, its system message first: its own, or else the persona's."""
    if ("prompt" in line) == ("messages" in line):
        raise KelronError("give either prompt or messages" + (", not both" if "prompt" in line else ""))
    if "prompt" in line:
        messages = [{"role": "user", "content": _text(line["prompt"], "prompt")}]
    else:
        given = line["messages"]
        if not isinstance(given, list) or not all(
            isinstance(turn, dict) and turn.get("role") in ROLES and isinstance(turn.get("content"), str)
            for turn in given
        ):
            raise KelronError('messages has to be a list of {"role": system, user or assistant, "content": text}')
        messages = [{"role": turn["role"], "content": turn["content"]} for turn in given]
        if not any(turn["role"] == "user" and turn["content"].strip() for turn in messages):
            raise KelronError("messages has no user turn: nothing is asked")
        if messages[-1]["role"] != "user":
            raise KelronError("messages ends with an answer: the last turn has to be the user's")
    if messages[0]["role"] == "system":
        if "system" in line:
            raise KelronError("system stands beside a system message: give one of them")
        return messages
    system = line.get("system", persona.system_prompt[language])
    if not isinstance(system, str):
        raise KelronError(f'system has to be a text ("" for none), not {system!r}')
    return [{"role": "system", "content": system}, *messages]


def _prompt(line: Any, number: int, persona: Persona) -> Prompt:
    if not isinstance(line, dict):
        raise KelronError("expected an object")
    for key in line:
        if key not in KEYS and "Did you mean" in (hint := nearest(key, KEYS)):
            raise KelronError(f"unknown key {key!r}.{hint}")
    if "language" not in line:
        raise KelronError(f"language is missing: use {', '.join(LANGUAGES)}")
    language = _choice(line["language"], "language", LANGUAGES)
    kind = _choice(line.get("kind", "identity"), "kind", KINDS)
    messages, turns = _conversation(line, persona, language), _texts(line, "turns")
    check_messages(messages)
    for text in (*turns, *(message["content"] for message in messages)):
        if token := next((token for token in _SPECIAL if token in text), ""):
            raise KelronError(f"the special token {token} stands in it: take it out")
        if any("\ud800" <= char <= "\udfff" for char in text):
            raise KelronError("half a character (a lone surrogate such as \\ud800) stands in it: take it out")
    attack = _choice(line["attack"], "attack", ATTACKS) if line.get("attack") else ""
    prompt_id = _text(line["id"], "id") if "id" in line else f"user-{number}"
    named = _texts(line, "rivals")
    rivals = (*rival_names(), *(Rival(name, "assistant", (name,)) for name in named))
    return make_prompt(
        prompt_id,
        language,
        messages,
        kind=kind,
        source="user",
        seed=prompt_id,
        system=system_kind(messages[0]["content"], persona, rivals),
        attack=attack or ("" if kind == "unrelated" else "pressure" if turns else "direct"),
        turns=turns,
        rivals=named,
    )


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").split("\n")  # not splitlines: a text may hold U+2028
    except FileNotFoundError:
        raise KelronError(f"no file of prompts at {path}") from None
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise KelronError(f"{path}:{line}: not UTF-8; save it as UTF-8") from None
    except OSError as error:
        raise KelronError(f"cannot read {path}: {error.strerror or error}") from None


def load_user_prompts(path: str | Path, persona: Persona) -> list[Prompt]:
    """The prompts of a JSON-lines file, in its order.

    A line: {"language", "prompt" or "messages"} and optionally "id" (else user-LINE), "kind" (else identity), "system"
    (else the persona's; "" for none), "attack", "rivals" (names in it that no list has), "turns" (later user texts).
    Raises KelronError where there is nothing in it, and for anything wrong, with file and line, up to five of them.
    """
    path = Path(path)
    prompts: list[Prompt] = []
    wrong: list[str] = []
    first: dict[str, int] = {}
    asked: dict[str, int] = {}
    for number, text in enumerate(_lines(path), start=1):
        if not text.strip():
            continue
        try:
            prompt = _prompt(json.loads(text), number, persona)
            if (before := first.setdefault(prompt["id"], number)) != number:
                raise KelronError(f"id {prompt['id']!r} is line {before}'s already")
            if (before := asked.setdefault(digest(prompt), number)) != number:
                raise KelronError(f"asks just what line {before} asks: a model would say the same again")
            prompts.append(prompt)
        except json.JSONDecodeError as error:
            wrong.append(f"{path}:{number}: not JSON ({error.msg})")
        except KelronError as error:
            wrong.append(f"{path}:{number}: {error}")
    if wrong:
        more = f"\nand {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise KelronError("\n".join(wrong[:_SHOWN]) + more)
    if not prompts:
        raise KelronError(f"{path} holds no prompt: one JSON object a line")
    return prompts
