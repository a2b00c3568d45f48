"""Greedy batched answers and streamed ones, on one explicit key-value-cache loop (`decoding`).

It asks the model for logits and nothing else: sampling settings in a base model's generation_config
(Qwen2.5's repetition penalty among them) never reach an answer, and the stop tokens are the given ones.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kelron_lib.decoding import Batch, greedy
from kelron_lib.errors import KelronError
from kelron_lib.prompts import encode_prompt

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

END_OF_TURN = "<|im_end|>"
END_OF_TEXT = "<|endoftext|>"
Messages = list[dict[str, str]]
Progress = Callable[[int, int], None]
"""Called with (prompts answered, prompts in all)."""


@dataclass(frozen=True)
class Answer:
    """What a model said to one prompt."""

    text: str
    """The answer without special tokens, and without a character that the limit or a cancel cut in two."""
    stopped: bool
    """True only if the model ended it with a stop token; False at the length limit or when cancelled."""
    tokens: int
    """Tokens generated, the stop token included."""


def stop_token_ids(tokenizer: Any) -> tuple[int, ...]:
    """Ids of `<|im_end|>` and, where the vocabulary has it, `<|endoftext|>`, looked up by their text.

    Raises KelronError if `<|im_end|>` is not one token: answers would then never end.
    """
    found = []
    for text in (END_OF_TURN, END_OF_TEXT):
        token = tokenizer.convert_tokens_to_ids(text)
        # An unknown token comes back as None or as the id of another token (unk).
        if token is not None and tokenizer.convert_ids_to_tokens(token) == text:
            found.append(int(token))
        elif text == END_OF_TURN:
            raise KelronError(
                f"the tokenizer has no {END_OF_TURN} token, so answers would never end: "
                "use a base model with a ChatML template (Qwen2.5, or tiny)"
            )
    return tuple(found)


def has_adapter(model: Any) -> bool:
    """True for a PeftModel, whose adapter can be switched off to hear the base."""
    from peft import PeftModel

    return isinstance(model, PeftModel)


def base_only(model: Any) -> contextlib.AbstractContextManager[Any]:
    """Within this context a PeftModel answers without its adapter; a plain model is left as it is."""
    return model.disable_adapter() if has_adapter(model) else contextlib.nullcontext()


def window(model: Any) -> int:
    """Positions the model was made for: a prompt and its answer have to fit."""
    return int(model.config.max_position_embeddings)


def generate_answers(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Messages],
    *,
    max_new_tokens: int,
    batch_size: int,
    stop_token_ids: Sequence[int],
    progress: Progress | None = None,
) -> list[Answer]:
    """Greedy answers to `prompts` (message lists that end with the user's turn), in the order given.

    At most `batch_size` are in the batch at a time, padded on the left, the longest first; as answers end, the next
    prompts take their place. Masked padding adds exact zeros, so an answer does not depend on its batch, except that
    matrix products of another shape may round the last bits otherwise: two tokens tied to within that rounding can
    swap, in fp16 sooner than in fp32. Equal prompts in an equal order give equal answers.

    A GPU gets no more rows than have room beside the model's weights. Where it is full all the same (something else is
    on it), the batch is halved, which is logged, and the work goes on. Raises KelronError for an empty
    limit, a prompt that does not fit the model's window, or a GPU too small for a single prompt.
    """
    encoded = [encode_prompt(tokenizer, messages) for messages in prompts]
    said = generate_ids(
        model,
        encoded,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        stop_token_ids=stop_token_ids,
        progress=progress,
    )
    return [_answer(tokenizer, ids, stop_token_ids) for ids in said]


def generate_ids(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    batch_size: int,
    stop_token_ids: Sequence[int],
    progress: Progress | None = None,
) -> list[list[int]]:
    """As `generate_answers`, from token ids to token ids, the stop token included."""
    _check_limits(max_new_tokens, batch_size=batch_size)
    longest = max(map(len, prompts), default=0)
    _check_window(model, longest, max_new_tokens)
    # Longest first: if memory is short, it shows at once.
    order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), i))
    said: dict[int, list[int]] = {}
    rows = min(batch_size, max(1, len(prompts)))
    with _evaluating(model):
        while left := [i for i in order if i not in said]:
            if not _decoded(model, prompts, left, said, rows, max_new_tokens, stop_token_ids, progress):
                rows = _halved(min(rows, len(left)))
    return [said[i] for i in range(len(prompts))]


def _decoded(
    model: Any,
    prompts: Sequence[Sequence[int]],
    left: Sequence[int],
    said: dict[int, list[int]],
    rows: int,
    max_new_tokens: int,
    stop_token_ids: Sequence[int],
    progress: Progress | None,
) -> bool:
    """Fill `said` for the prompts that are left; False where the GPU's memory was too small for so many rows."""
    import torch

    def done(number: int, ids: list[int]) -> None:
        said[left[number]] = ids
        if progress is not None:
            progress(len(said), len(prompts))

    asked = [prompts[i] for i in left]
    try:
        greedy(model, asked, rows=rows, max_new_tokens=max_new_tokens, stops=frozenset(stop_token_ids), done=done)
    except torch.OutOfMemoryError:
        return False  # returning drops the traceback, whose frames hold the batch's cache
    return True


def stream_answer(
    model: Any,
    tokenizer: Any,
    messages: Messages,
    *,
    max_new_tokens: int,
    stop_token_ids: Sequence[int],
    temperature: float = 0.0,
    seed: int | None = None,
    cancel: threading.Event | None = None,
) -> Generator[str, None, Answer]:
    """Yields the answer to `messages` piece by piece, each piece whole characters; returns the Answer.

    The pieces joined are the Answer's text. `temperature` 0 is greedy; above 0 the tokens are drawn on the
    CPU from a generator with `seed`, so that a seed gives the same draws on every device. Setting `cancel`
    ends the answer before its next token. All runs in the caller's thread: errors reach it as they are.

    Raises KelronError for bad limits, a prompt that does not fit the model's window, or a full GPU.
    """
    import torch

    _check_limits(max_new_tokens, temperature=temperature)
    prompt = encode_prompt(tokenizer, messages)
    _check_window(model, len(prompt), max_new_tokens)
    pick = _sampler(temperature, seed)
    stops, ids, text = set(stop_token_ids), list[int](), TextStream(tokenizer)
    cancel = cancel or threading.Event()
    try:
        with _evaluating(model):
            batch: Batch | None = None
            while len(ids) < max_new_tokens and not cancel.is_set():
                batch = batch or Batch(model, [prompt])
                ids.append(int(pick(batch.logits)))
                if ids[-1] in stops:
                    break
                if piece := text.push(ids[-1]):
                    yield piece
                if len(ids) < max_new_tokens and not cancel.is_set():
                    batch.push([ids[-1]])
    except torch.OutOfMemoryError:
        raise KelronError(
            f"the GPU's memory is full at {len(prompt) + len(ids)} tokens: start a new conversation, or "
            "restart the session if another model still holds memory"
        ) from None
    answer = _answer(tokenizer, ids, stop_token_ids)
    if answer.stopped and (rest := text.finish()):
        yield rest
    return answer


class TextStream:
    """Text of a growing list of byte-level BPE tokens, given out in whole characters only.

    A Korean or Japanese character, or an emoji, may span tokens. Decoded early, its bytes show as U+FFFD at
    the end; that one is held back until the next token completes it or proves it broken.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []  # tokens since the last point where every character was complete
        self._given = 0  # characters of their text already given out

    def push(self, token: int) -> str:
        """The text that `token` completes, perhaps empty."""
        self._ids.append(token)
        text = _decode(self._tokenizer, self._ids)
        # An unfinished sequence is always exactly one U+FFFD; any before it can change no more.
        whole = text.removesuffix("\ufffd")
        piece, self._given = whole[self._given :], len(whole)
        if whole == text:
            self._ids, self._given = [], 0
        return piece

    def finish(self) -> str:
        """What is still held back, as the decoder shows it."""
        piece = _decode(self._tokenizer, self._ids)[self._given :]
        self._ids, self._given = [], 0
        return piece


def _halved(rows: int) -> int:
    """Half of a batch that did not fit; says so. Raises KelronError if it was one prompt."""
    import torch

    if rows == 1:
        raise KelronError(
            "the GPU's memory is too small for a single prompt: lower evaluate.max_new_tokens, "
            "or free what else is loaded"
        )
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    log.warning("the GPU's memory is full: going on with %d prompts at once instead of %d", rows // 2, rows)
    return rows // 2


def _sampler(temperature: float, seed: int | None) -> Callable[[Tensor], Tensor]:
    """A function from logits (1, vocabulary) to the next token."""
    import torch

    if temperature == 0:
        return lambda logits: logits.argmax(-1)
    source = torch.Generator()
    source.manual_seed(torch.seed() if seed is None else seed)

    def draw(logits: Tensor) -> Tensor:
        chances = (logits.float().cpu() / temperature).softmax(-1)
        return torch.multinomial(chances, 1, generator=source)

    return draw


@contextlib.contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Dropout off, attention as decoding does it; afterwards every module is in the mode it was in."""
    from kelron_lib.engine.decode import decoding_attention

    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with decoding_attention(model):
            yield
    finally:
        for module in training:
            module.training = True


def _answer(tokenizer: Any, ids: list[int], stops: Sequence[int]) -> Answer:
    if ids and ids[-1] in stops:
        return Answer(_decode(tokenizer, ids[:-1]), True, len(ids))
    # A limit or a cancel may cut inside a character; that is not a broken character of the model's.
    return Answer(_decode(tokenizer, ids).removesuffix("\ufffd"), False, len(ids))


def _decode(tokenizer: Any, ids: list[int]) -> str:
    # Without clean-up of spaces, which would make the text of a part differ from the part of the text.
    text: str = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text


def _check_limits(max_new_tokens: int, *, batch_size: int = 1, temperature: float = 0.0) -> None:
    if max_new_tokens < 1:
        raise KelronError(f"max_new_tokens is {max_new_tokens}: it must be at least 1")
    if batch_size < 1:
        raise KelronError(f"batch_size is {batch_size}: it must be at least 1")
    if not 0 <= temperature < math.inf:
        raise KelronError(f"temperature is {temperature}: use 0 (greedy) or a positive number")


def _check_window(model: Any, prompt_tokens: int, max_new_tokens: int) -> None:
    if prompt_tokens + max_new_tokens > window(model):
        raise KelronError(
            f"a prompt of {prompt_tokens} tokens and an answer of up to {max_new_tokens} do not fit the "
            f"model's window of {window(model)}: shorten the prompt or allow fewer new tokens"
        )
