"""Attention of one new token a row, as generation asks for it: keys and values stand as they are in the cache.

transformers' own expands each key and value head to all the query heads that share it, five times the cache of a 14B
at every step. Here the query heads that share a head go to the kernel as if they were so many queries of it: the same
numbers, read once. Where there is no padding, transformers' asks for grouped-query attention instead, which a T4
answers with the slow math kernel (transformers issue 48633); this has no need of it. cuDNN's attention, which newer
GPUs than a T4 would take, is left out: it makes a plan for every new length of the cache, a millisecond a layer and
token on an H100.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

NAME = "kelron_decode"
OWN = "sdpa"
"""Of transformers: what it stands in for."""


def decode_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface: query (rows, heads, queries, size), key and value (rows, kv heads, keys,
    size), mask (rows, 1, queries, keys) or None where all is seen; returns (rows, queries, heads, size) and no weights.
    With several queries it is transformers' own."""
    rows, heads, queries, size = query.shape
    if queries != 1:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        attended, _ = sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **more)
        return attended, None
    grouped = query.reshape(rows, key.shape[1], heads // key.shape[1], size)
    found = scaled_dot_product_attention(grouped, key, value, attn_mask=attention_mask, scale=scaling)
    return found.reshape(rows, 1, heads, size), None


def _register() -> None:
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    AttentionInterface.register(NAME, decode_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)


@contextlib.contextmanager
def decoding_attention(model: Any) -> Iterator[None]:
    """Within this context a model that attends by transformers' SDPA decodes by `decode_attention`; others as ever."""
    lm = model.get_base_model() if hasattr(model, "get_base_model") else model
    if getattr(lm.config, "_attn_implementation", None) != OWN or not hasattr(lm, "set_attn_implementation"):
        yield
        return
    _register()
    lm.set_attn_implementation(NAME)
    cudnn = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(cudnn)
        lm.set_attn_implementation(OWN)
