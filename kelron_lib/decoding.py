"""Greedy decoding on one explicit key-value cache: rows leave it as they end, and others take their place."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

JOIN_SHARE = 4
"""Prompts join when a fourth of the rows is free: each time, all that is cached is copied."""

USABLE = 0.9
"""Of a GPU's memory: the rest is the driver's, a dequantised weight's, and lost between the blocks."""


class Batch:
    """Left-padded prompts with their key-value cache."""

    logits: Tensor
    """(rows, vocabulary), for the next token."""

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]]) -> None:
        import torch
        from transformers import DynamicCache

        self._model, self._device = model, _device_of(model)
        width = max(map(len, prompts))
        # The padding id is never seen: its positions are masked. Any valid id will do.
        ids = torch.tensor([[0] * (width - len(p)) + list(p) for p in prompts], device=self._device)
        lengths = torch.tensor([len(p) for p in prompts], device=self._device)
        columns = torch.arange(width, device=self._device)
        self._mask = (columns >= width - lengths[:, None]).long()
        self._cache = DynamicCache(config=model.config)
        self._next_position = lengths
        self._forward(ids, (self._mask.cumsum(-1) - 1).clamp(min=0))

    def push(self, tokens: Sequence[int]) -> None:
        """Append one token per row and compute the logits after it."""
        import torch

        ids = torch.tensor(tokens, device=self._device)[:, None]
        self._mask = torch.cat([self._mask, torch.ones_like(self._mask[:, :1])], dim=1)
        positions = self._next_position[:, None]
        self._next_position = self._next_position + 1
        self._forward(ids, positions)

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows only; the others' cache is freed."""
        import torch

        chosen = torch.tensor(rows)  # on the CPU: it indexes every layer, whichever GPU that is on
        with torch.inference_mode():
            self._mask, self._next_position = self._mask[chosen], self._next_position[chosen]
            self._cache.batch_select_indices(chosen)

    @property
    def takes_others(self) -> bool:
        """Whether rows may join: not where a layer forgets what is far behind, which goes by columns, not positions."""
        return not any(getattr(layer, "is_sliding", False) for layer in self._cache.layers)

    def join(self, other: Batch, width: int) -> None:
        """Take in the rows of another batch behind the own. `width`: tokens of the longest row of both, so that columns
        which only rows long gone had filled are dropped."""
        import torch

        with torch.inference_mode():
            self._mask = torch.cat([_widened(part._mask, width, 1) for part in (self, other)])
            self._next_position = torch.cat([self._next_position, other._next_position])
            self.logits = torch.cat([self.logits, other.logits])
            pairs: Any = zip(self._cache.layers, other._cache.layers, strict=True)
            for own, its in pairs:
                own.keys = torch.cat([_widened(own.keys, width, 2), _widened(its.keys, width, 2)])
                own.values = torch.cat([_widened(own.values, width, 2), _widened(its.values, width, 2)])

    def _forward(self, ids: Tensor, positions: Tensor) -> None:
        import torch

        # Per step and not around the loop: a generator suspended inside would leave its caller in this mode.
        with torch.inference_mode():
            self.logits = self._model(
                input_ids=ids,
                attention_mask=self._mask,
                position_ids=positions,
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]


def _device_of(model: Any) -> Any:
    """Where its embedded tokens are: a table that rests on the host (engine.prepare.HostEmbedding) says it itself."""
    embedding = model.get_input_embeddings()
    return getattr(embedding, "device", None) or embedding.weight.device


def _widened(values: Tensor, width: int, dim: int) -> Tensor:
    """Zeros before a dimension's first place, or places taken away there, until it has `width`."""
    import torch

    have = values.shape[dim]
    if have >= width:
        return values.narrow(dim, have - width, width)
    shape = [*values.shape]
    shape[dim] = width - have
    return torch.cat([values.new_zeros(shape), values], dim)


def room_for(model: Any, new_tokens: int) -> Callable[[int], int]:
    """A function from the tokens of the longest prompt to how many such, with answers of up to `new_tokens`, a GPU has
    room for beside the model's weights; as many as one likes where it is no GPU.

    Goes by the GPU's size and not by what is free just now, so that it is the same each time. A row's cache holds keys
    and values of every layer; while a prompt is read, an MLP's inner values stand beside it.
    """
    import torch

    device = _device_of(model)
    if device.type != "cuda":
        return lambda prompt_tokens: sys.maxsize
    config = model.config
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    cached = 2 * config.num_hidden_layers * config.num_key_value_heads * head * model.dtype.itemsize
    reading = (4 * config.intermediate_size + 8 * config.hidden_size) * model.dtype.itemsize
    held = sum(weights.nbytes for weights in model.parameters() if weights.device == device)
    share = torch.cuda.get_per_process_memory_fraction(device)
    room = torch.cuda.get_device_properties(device).total_memory * share * USABLE - held

    def rows(prompt_tokens: int) -> int:
        return max(1, int(room // ((prompt_tokens + new_tokens) * cached + prompt_tokens * reading)))

    return rows


def greedy(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    rows: int,
    max_new_tokens: int,
    stops: Collection[int],
    done: Callable[[int, list[int]], None],
) -> None:
    """Answer all prompts in their order, at most `rows` at a time and no more than fit the GPU beside the longest of
    them; `done(prompt, ids)` as each ends.

    `ids` are the new tokens, the stop token included. Which prompts are in the batch with which is decided by the
    prompts, `rows`, the answers and the GPU's size alone.
    """
    waiting, alive, said = list(range(len(prompts))), list[int](), dict[int, list[int]]()
    batch: Batch | None = None
    room = room_for(model, max_new_tokens)
    while waiting or alive:
        most = min(rows, room(max(len(prompts[prompt]) for prompt in [*alive, *waiting[:rows]])))
        free = most - len(alive)
        if waiting and (batch is None or (free >= max(1, most // JOIN_SHARE) and batch.takes_others)):
            new, waiting = waiting[:free], waiting[free:]
            said.update((prompt, []) for prompt in new)
            alive += new
            joining = Batch(model, [prompts[prompt] for prompt in new])
            if batch is None:
                batch = joining
            else:
                batch.join(joining, max(len(prompts[prompt]) + len(said[prompt]) for prompt in alive))
            del joining
        assert batch is not None
        tokens = batch.logits.argmax(-1).tolist()
        going = []
        for row, (prompt, token) in enumerate(zip(alive, tokens, strict=True)):
            said[prompt].append(token)
            if token in stops or len(said[prompt]) == max_new_tokens:
                done(prompt, said.pop(prompt))
            else:
                going.append(row)
        if len(going) < len(alive):
            alive = [alive[row] for row in going]
            if alive:
                batch.keep(going)
        if alive:
            batch.push([tokens[row] for row in going])
        else:
            batch = None
