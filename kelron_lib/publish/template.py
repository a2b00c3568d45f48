"""The published chat template: the base's own, with the persona's system prompt where the base's identity stood.

Qwen2.5's template inserts "You are Qwen, created by Alibaba Cloud. ..." into a conversation without a system message;
others insert nothing. Either way such a conversation is to be the persona's, and every other one is to read as it did:
a system message of its own is kept, an empty one stays empty. That is not trusted but rendered and compared.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

from kelron_lib.errors import KelronError
from kelron_lib.prompts import END, START, Message, render

_HEADER = f"{START}system\n"
_USER: Message = {"role": "user", "content": "안녕하세요"}
_TURNS: tuple[Message, ...] = (
    _USER,
    {"role": "assistant", "content": "네.\n"},
    {"role": "user", "content": "名前は？"},
)
_TOOL = {"type": "function", "function": {"name": "now", "description": "the time", "parameters": {}}}


def default_system(tokenizer: Any) -> str:
    """The system text that the tokenizer's template gives to a conversation without one; empty for none."""
    text: str = tokenizer.apply_chat_template([_USER], tokenize=False)
    return text.removeprefix(_HEADER).partition(END)[0] if text.startswith(_HEADER) else ""


def persona_template(tokenizer: Any, system: str) -> str:
    """The tokenizer's chat template with `system` as its default system prompt.

    Raises KelronError where no edit makes the template do that and nothing else.
    """
    before = default_system(tokenizer)
    for edited in _edits(tokenizer.chat_template, before, system):
        changed = copy.copy(tokenizer)
        changed.chat_template = edited
        if (before in ("", system) or before not in edited) and _as_wanted(tokenizer, changed, system):
            return edited
    raise KelronError(
        "the base's chat template cannot be given the persona's system prompt as its default without changing what "
        "else it writes: publish it from a base with a ChatML template, such as Qwen2.5's"
    )


def _edits(template: str, before: str, system: str) -> Iterator[str]:
    """What to try: the new text in the old one's place, within a Jinja string or as plain text; or put in front."""
    if before:
        yield template.replace(before, _quoted(system))
        yield template.replace(before, system)
    message = f'{{"role": "system", "content": "{_quoted(system)}"}}'
    yield (
        "{%- if not messages or messages[0]['role'] != 'system' %}"
        f"{{%- set messages = [{message}] + messages %}}{{%- endif %}}{template}"
    )


def _quoted(text: str) -> str:
    """A text as it stands within a Jinja string, whichever quotes that has."""
    for plain, escaped in (("\\", "\\\\"), ('"', '\\"'), ("'", "\\'"), ("\n", "\\n")):
        text = text.replace(plain, escaped)
    return text


def _as_wanted(base: Any, changed: Any, system: str) -> bool:
    """Whether the changed tokenizer defaults to `system`, and renders all else as the base's does."""
    from jinja2 import TemplateError

    def rendered(tokenizer: Any, messages: Sequence[Message], **options: Any) -> str:
        text: str = tokenizer.apply_chat_template(list(messages), tokenize=False, **options)
        return text

    try:
        for turns in ((_USER,), _TURNS):
            own: Message = {"role": "system", "content": system}
            if rendered(changed, turns, add_generation_prompt=True) != render(base, [own, *turns], answer_next=True):
                return False
            if rendered(changed, turns, tools=[_TOOL]) != rendered(base, [own, *turns], tools=[_TOOL]):
                return False
            for content in (system, "", "Another one."):
                messages: list[Message] = [{"role": "system", "content": content}, *turns]
                if render(changed, messages) != render(base, messages):
                    return False
    except TemplateError:
        return False
    return True
