"""The shapes in which people keep dialogues, and how each becomes messages.

messages    {"messages": [{"role": "user", "content": "..."}, ...]}, as chat APIs take them
ShareGPT    {"conversations": [{"from": "human", "value": "..."}, ...], "system": "..."}
Alpaca      {"instruction": "...", "input": "...", "output": "...", "system": "...", "history": [["...", "..."]]}
pairs       {"question": "...", "answer": "...", "system": "..."}, and the names in QUESTION and ANSWER: tables, mostly
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Message = dict[str, str]

QUESTION = (
    "question", "prompt", "query", "user", "instruction", "input", "q", "질문", "문의", "물음", "質問", "問い", "入力",
)  # fmt: skip
ANSWER = (
    "answer", "response", "completion", "output", "assistant", "reply", "a", "답변", "대답", "응답", "답",
    "回答", "答え", "返答", "応答", "出力",
)  # fmt: skip
SYSTEM = ("system", "system_prompt", "시스템", "システム")
_ROLES = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "model": "assistant", "bot": "assistant", "ai": "assistant",
    "chatgpt": "assistant", "bard": "assistant", "bing": "assistant", "claude": "assistant",
}  # fmt: skip
_TOOLS = ("tool", "function", "function_call", "observation")


class Misshapen(ValueError):
    """What is wrong with an object, and what to do."""


@dataclass(frozen=True)
class Shape:
    name: str
    fits: Callable[[Mapping[str, Any]], bool]
    read: Callable[[Mapping[str, Any]], list[Message]]
    """The messages of an object. Raises Misshapen."""


def _field(value: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((value[name] for name in names if value.get(name) is not None), None)


def _text(value: Any, what: str) -> str:
    """A message's text; also from the parts of which APIs make one up."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in value):
        return "".join(_text(part.get("text"), what) for part in value)
    if value is None:
        raise Misshapen(f"{what} has no text: write it, or leave the row out")
    raise Misshapen(f"{what} is no text: rows hold nothing else, leave this one out")


def _turns(entries: Any, list_name: str, role_names: tuple[str, ...], text_names: tuple[str, ...]) -> list[Message]:
    if not isinstance(entries, list) or not entries:
        raise Misshapen(f"{list_name!r} is not a list of messages: give it at least a question and an answer")
    messages = []
    for number, entry in enumerate(entries, start=1):
        role = _field(entry, role_names) if isinstance(entry, dict) else None
        if not isinstance(role, str):
            raise Misshapen(f"message {number} has no {role_names[0]!r}: give each message one, and {text_names[0]!r}")
        if role.lower() in _TOOLS:
            raise Misshapen(f"message {number} is a tool's ({role}): rows hold no tools, leave this one out")
        if role.lower() not in _ROLES:
            raise Misshapen(f"message {number} has the role {role!r}: use system, user and assistant")
        messages.append(
            {"role": _ROLES[role.lower()], "content": _text(_field(entry, text_names), f"message {number} ({role})")}
        )
    return messages


def _with_system(value: Mapping[str, Any], messages: list[Message]) -> list[Message]:
    """The messages behind the system message that the object names beside them, if it does; an empty one is none."""
    system = _field(value, SYSTEM)
    if not system or messages[0]["role"] == "system":
        return messages
    return [{"role": "system", "content": _text(system, "the system message")}, *messages]


def _read_messages(value: Mapping[str, Any]) -> list[Message]:
    return _with_system(value, _turns(value["messages"], "messages", ("role", "from"), ("content", "value")))


def _read_sharegpt(value: Mapping[str, Any]) -> list[Message]:
    name = "conversations" if "conversations" in value else "conversation"
    return _with_system(value, _turns(value[name], name, ("from", "role"), ("value", "content", "text")))


def _pair(question: Any, answer: Any) -> list[Message]:
    return [
        {"role": "user", "content": _text(question, "the question")},
        {"role": "assistant", "content": _text(answer, "the answer")},
    ]


def _read_alpaca(value: Mapping[str, Any]) -> list[Message]:
    question = _text(value.get("instruction"), "'instruction'")
    if more := value.get("input"):
        question = f"{question}\n\n{_text(more, 'input')}" if question.strip() else _text(more, "input")
    earlier = value.get("history") or []
    if not isinstance(earlier, list) or any(not isinstance(pair, list) or len(pair) != 2 for pair in earlier):
        raise Misshapen("'history' is not a list of [question, answer]")
    past = [message for pair in earlier for message in _pair(*pair)]
    return _with_system(value, [*past, *_pair(question, value.get("output"))])


def _read_pair(value: Mapping[str, Any]) -> list[Message]:
    return _with_system(value, _pair(_field(value, QUESTION), _field(value, ANSWER)))


SHAPES = (
    Shape("messages", lambda value: "messages" in value, _read_messages),
    Shape("ShareGPT", lambda value: "conversations" in value or "conversation" in value, _read_sharegpt),
    Shape("Alpaca", lambda value: "instruction" in value and "output" in value, _read_alpaca),
    Shape(
        "question and answer",
        lambda value: any(name in value for name in QUESTION) and any(name in value for name in ANSWER),
        _read_pair,
    ),
)


def shape_of(value: Mapping[str, Any]) -> Shape | None:
    """The shape of an object, or None for one of none."""
    return next((shape for shape in SHAPES if shape.fits(value)), None)
