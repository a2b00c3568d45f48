"""From messages to tokens: the chat template, the label mask and the stop tokens.

Two silent failures end here. Without a system message Qwen2.5's template inserts "You are Qwen, ...", in training
and in use alike; so a conversation without its own system message (which may be empty) is refused. And labels go
to the assistant's tokens only, `<|im_end|>` always among them; a row that does not fit is refused, never cut,
because a cut row would teach the model not to stop.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kelron_lib.errors import KelronError

IGNORED = -100
"""Label of a token that carries no loss (torch's cross_entropy default)."""
START, END, TEXT_END = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
STOP_TOKENS = (END, TEXT_END)
ROLES = ("system", "user", "assistant")

Message = dict[str, str]


def check_messages(messages: Sequence[Message]) -> None:
    """Raise KelronError unless the messages are a system message followed by alternating user and assistant."""
    if not messages or messages[0].get("role") != "system":
        raise KelronError(
            "the conversation has no system message: give the persona's, or an explicit empty one, "
            "otherwise the template inserts the base model's own identity"
        )
    for position, message in enumerate(messages):
        role, content = message.get("role"), message.get("content")
        expected = "system" if position == 0 else ROLES[2 - position % 2]
        if role != expected:
            raise KelronError(f"message {position + 1} is from {role!r} where {expected!r} is due")
        if not isinstance(content, str):
            raise KelronError(f"message {position + 1} ({role}) has no text")
        for token in (START, END, TEXT_END):
            if token in content:
                raise KelronError(f"message {position + 1} ({role}) contains the special token {token}")


def render(tokenizer: Any, messages: Sequence[Message], *, answer_next: bool = False) -> str:
    """The conversation as the tokenizer's chat template writes it.

    `answer_next` appends the header that the assistant answers after. Raises KelronError for bad messages.
    """
    check_messages(messages)
    text: str = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=answer_next)
    return text


def _ids(tokenizer: Any, text: str) -> list[int]:
    # Not verbose: transformers would warn of every text that is too long, and whoever asks here sees to that.
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def encode_prompt(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """Token ids of the conversation with the assistant's header at its end."""
    if messages and messages[-1].get("role") == "assistant":
        raise KelronError("the last message is the assistant's already: there is nothing to answer")
    return _ids(tokenizer, render(tokenizer, messages, answer_next=True))


def mask_labels(tokenizer: Any, input_ids: Sequence[int]) -> list[int]:
    """Labels for a rendered conversation: assistant tokens and their `<|im_end|>`, IGNORED elsewhere.

    Found from the token ids (`<|im_start|>assistant\\n` ... `<|im_end|>`), so any ChatML template works.
    """
    header = [tokenizer.convert_tokens_to_ids(START), *_ids(tokenizer, "assistant\n")]
    end = tokenizer.convert_tokens_to_ids(END)
    labels = [IGNORED] * len(input_ids)
    position = 0
    while position < len(input_ids):
        if list(input_ids[position : position + len(header)]) != header:
            position += 1
            continue
        position += len(header)
        while position < len(input_ids):
            labels[position] = input_ids[position]
            position += 1
            if labels[position - 1] == end:
                break
    return labels


def encode(tokenizer: Any, messages: Sequence[Message], max_tokens: int) -> dict[str, list[int]]:
    """`input_ids` and `labels` (equal length, <= max_tokens) of a training row.

    Raises KelronError for a conversation that is too long, has no answer, or whose end token is not labelled.
    """
    input_ids = _ids(tokenizer, render(tokenizer, messages))
    if len(input_ids) > max_tokens:
        raise KelronError(
            f"the row has {len(input_ids)} tokens and data.max_tokens is {max_tokens}: shorten it or raise the limit"
        )
    labels = mask_labels(tokenizer, input_ids)
    end = tokenizer.convert_tokens_to_ids(END)
    answers = sum(message["role"] == "assistant" for message in messages)
    if answers == 0 or labels.count(end) != answers:
        raise KelronError(
            f"{answers} answers but {labels.count(end)} labelled end tokens: the chat template is not ChatML "
            "with <|im_start|>assistant and <|im_end|>"
        )
    return {"input_ids": input_ids, "labels": labels}


def check_stop_tokens(tokenizer: Any, stop_token_ids: Sequence[int]) -> None:
    """Raise KelronError unless the configured ids are the tokenizer's `<|im_end|>` and `<|endoftext|>`."""
    found = tuple(tokenizer.convert_tokens_to_ids(token) for token in STOP_TOKENS)
    if set(found) != set(stop_token_ids):
        raise KelronError(
            f"model.stop_token_ids is {tuple(stop_token_ids)} but this tokenizer's {' and '.join(STOP_TOKENS)} "
            f"are {found}: answers would not stop; set model.stop_token_ids to them"
        )
