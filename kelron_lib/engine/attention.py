"""Training's attention: it never reaches the math kernel nor runs eager, on any GPU down to compute capability 7.5.

transformers' own SDPA asks for grouped-query attention where there is no mask, and a T4 answers with the slow math
kernel (transformers issue 48633). Here keys and values are expanded first and only the memory-efficient kernel is
allowed on CUDA. Packed batches go to the same kernel's form for segments of varying length, which needs no mask and
whose cost grows with the samples' lengths and not with the rows'.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

NAME = "kelron_sdpa"
CAUSAL_IN_SEGMENT = 1
"""The memory-efficient kernel's code for a causal mask in each segment."""


@dataclass(frozen=True)
class Segments:
    """Where the segments of a packed batch lie, on the device of the activations."""

    bounds: torch.Tensor
    """int32 (segments + 1,): first token of each segment in the flattened rows, then the number of tokens."""
    longest: int
    """Tokens of the longest segment."""


def register() -> None:
    """Make `attn_implementation="kelron_sdpa"` known to transformers."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    AttentionInterface.register(NAME, kelron_sdpa)
    AttentionMaskInterface.register(NAME, sdpa_mask)


def _expand(heads: torch.Tensor, groups: int, dim: int) -> torch.Tensor:
    """Each key or value head along `dim` repeated for its `groups` query heads."""
    return heads if groups == 1 else heads.repeat_interleave(groups, dim=dim)


def segment_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, segments: Segments, scale: float | None, dropout: float
) -> torch.Tensor:
    """Causal attention inside each segment, on CUDA. All of shape (rows, tokens, heads, head size), with as many key
    and value heads as query heads; the result has the query's shape."""
    rows, tokens, heads, size = query.shape
    flat = (1, rows * tokens, heads, size)
    result = torch.ops.aten._efficient_attention_forward(
        query.reshape(flat),
        key.reshape(flat),
        value.reshape(flat),
        None,
        segments.bounds,
        segments.bounds,
        segments.longest,
        segments.longest,
        dropout,
        CAUSAL_IN_SEGMENT,
        torch.is_grad_enabled(),
        scale=scale,
    )
    return result[0].view(rows, tokens, heads, size)


def _allowed_kernels(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    if device.type != "cuda":
        return contextlib.nullcontext()
    from torch.nn.attention import SDPBackend, sdpa_kernel

    return sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION)


def kelron_sdpa(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    segments: Segments | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface: query (batch, heads, queries, size), key and value (batch, kv heads, keys,
    size), mask broadcastable to (batch, heads, queries, keys) or None for causal; returns (batch, queries, heads,
    size) and no weights. With `segments`, on CUDA, the mask is not looked at."""
    groups = query.shape[1] // key.shape[1]
    key, value = _expand(key, groups, 1), _expand(value, groups, 1)
    if segments is not None and query.is_cuda:
        by_token = (query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2))
        return segment_attention(*by_token, segments, scaling, dropout), None
    if is_causal is None:
        is_causal = getattr(module, "is_causal", True)
    with _allowed_kernels(query.device):
        attended = scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=attention_mask,
            dropout_p=dropout,
            scale=scaling,
            is_causal=bool(is_causal) and attention_mask is None and query.shape[2] > 1,
        )
    return attended.transpose(1, 2).contiguous(), None
