"""Dialogues of several turns: the user's are given, the model's are its own answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kelron_lib.answers.asking import Asking
from kelron_lib.generate import Answer, Messages


@dataclass(frozen=True)
class Reply(Answer):
    """The last answer of a dialogue, with all that led to it."""

    earlier: tuple[Answer, ...] = ()
    """The answers to the turns before."""
    messages: tuple[dict[str, str], ...] = ()
    """The whole dialogue up to the last question that was asked."""
    note: str = ""
    """What was unusual about it, for people: an answer that was empty, a dialogue that outgrew the window."""


def conversation(asking: Asking, prompt: int, said: Sequence[Answer]) -> Messages:
    """A prompt's conversation up to the question after these answers.

    An answer that spells out `<|im_end|>` or its like in ordinary tokens stands there with a space in it: else no
    prompt that holds it could be rendered. An empty answer stands there as one.
    """
    messages = list(asking.prompts[prompt])
    for answer, question in zip(said, asking.turns_of(prompt), strict=False):
        messages.append({"role": "assistant", "content": answer.text.replace("<|", "< |")})
        messages.append({"role": "user", "content": question})
    return messages


def reply(asking: Asking, prompt: int, said: Sequence[Answer]) -> Reply:
    """The answers of a dialogue as one: its last is the dialogue's."""
    *earlier, last = said
    turns = 1 + len(asking.turns_of(prompt))
    notes = [
        f"the answer to turn {turn} of {turns} is empty" for turn, one in enumerate(said, 1) if not one.text.strip()
    ]
    if len(said) < turns:
        notes.append(
            f"turn {len(said) + 1} of {turns} was not asked: with an answer it would outgrow the model's window"
        )
    return Reply(
        text=last.text,
        stopped=last.stopped,
        tokens=last.tokens,
        earlier=tuple(earlier),
        messages=tuple(conversation(asking, prompt, earlier)),
        note="; ".join(notes),
    )
