"""A 4-bit model with its adapter made ready for answering: LoRA factors in 16 bits, a third of the kernels a token.

A new token costs a GPU little: what it waits for is Python and the launches of PEFT's and transformers' forwards, a
hundred a layer. Here a LoRA layer is one 4-bit product and two small ones, without copies and casts; norms and rotary
embedding are one kernel each. The factors are kept in the dtype in which training computes with them.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch.nn.functional import linear

from kelron_lib.engine import kernels
from kelron_lib.engine.layers import ATTENTIONS, is_swiglu, norm_forward, swap
from kelron_lib.engine.lora import active_factors, fusable


def _without_graph(forward: Any) -> Any:
    """`forward` where no graph is recorded, the library's own where one is."""

    @functools.wraps(forward)
    def chosen(self: Any, *args: Any, **kwargs: Any) -> Any:
        if torch.is_grad_enabled():
            return self._library_forward(*args, **kwargs)
        return forward(self, *args, **kwargs)

    return chosen


@_without_graph
def _lora_forward(self: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """x W^T + bias + scaling x A^T B^T, x (..., in); PEFT's own forward where it is asked for more."""
    found = None if args or kwargs else active_factors(self)
    if found is None:
        own: torch.Tensor = self._library_forward(x, *args, **kwargs)
        return own
    name, down, up = found
    result: torch.Tensor = self.base_layer(x)
    low = linear(x.to(down.dtype), down)
    result.view(-1, result.shape[-1]).addmm_(low.view(-1, low.shape[-1]), up.t(), alpha=self.scaling[name])
    return result


@_without_graph
def _mlp_forward(self: Any, x: torch.Tensor) -> torch.Tensor:
    down: torch.Tensor = self.down_proj(kernels.swiglu(self.gate_proj(x), self.up_proj(x)))
    return down


@_without_graph
def _attention_forward(
    self: Any,
    hidden_states: torch.Tensor,
    position_embeddings: tuple[torch.Tensor, torch.Tensor],
    attention_mask: torch.Tensor | None = None,
    past_key_values: Any = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, Any]:
    """transformers' attention with the rotary embedding as one kernel: hidden states (rows, tokens, width)."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    shape = hidden_states.shape[:-1]
    query, key, value = (
        projection(hidden_states).view(*shape, -1, self.head_dim)
        for projection in (self.q_proj, self.k_proj, self.v_proj)
    )
    if hasattr(self, "q_norm"):
        query, key = self.q_norm(query), self.k_norm(key)
    cos, sin = (part[:, :, None, : self.head_dim // 2] for part in position_embeddings)
    query, key = (kernels.rotate(heads, cos, sin, 1.0).transpose(1, 2) for heads in (query, key))
    value = value.transpose(1, 2)
    if past_key_values is not None:
        key, value = past_key_values.update(key, value, self.layer_idx)
    attend = ALL_ATTENTION_FUNCTIONS[self.config._attn_implementation]
    attended, weights = attend(
        self, query, key, value, attention_mask, dropout=0.0, scaling=self.scaling, sliding_window=None, **kwargs
    )
    return self.o_proj(attended.reshape(*shape, -1)), weights


def speed_up_inference(model: Any, kind: str = "auto") -> str:
    """Make a 4-bit base, or a PeftModel over one, answer faster where no gradient is recorded; returns which kernels it
    uses and why (see `kernels.choose`).

    LoRA factors go to the dtype that the base computes in, for good: 1.0 GiB less for a 14B at r=128, and no longer fit
    to be trained. The model has to attend by transformers' SDPA. Layers of an unknown kind stay as they are.
    """
    for module in model.modules():
        name = type(module).__name__
        if fusable(module):
            _keep_in(module, module.base_layer.compute_dtype)
            swap(module, _lora_forward)
        elif name.endswith("RMSNorm") and hasattr(module, "variance_epsilon"):
            swap(module, norm_forward)
        elif name in ATTENTIONS and getattr(module, "sliding_window", None) is None:
            swap(module, _attention_forward)
        elif is_swiglu(module):
            swap(module, _mlp_forward)
    return kernels.choose(kind, model.device)


def _keep_in(module: Any, dtype: torch.dtype | None) -> None:
    for factors in (module.lora_A, module.lora_B):
        for factor in factors.values():
            factor.weight.data = factor.weight.data.to(dtype or factor.weight.dtype)
