"""Faster forwards for the layers of Qwen2-like models: norm, rotary embedding, SwiGLU, attention.

They compute what transformers' own forwards compute, with fewer passes over memory, and are used only where a graph
is recorded for fused LoRA layers; `inference` has those for answering.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch.nn.functional import rms_norm

from kelron_lib.engine import kernels
from kelron_lib.engine.attention import Segments, kelron_sdpa, segment_attention
from kelron_lib.engine.lora import lora_linears

ATTENTIONS = ("Qwen2Attention", "Qwen3Attention", "LlamaAttention", "MistralAttention")
MLPS = ("Qwen2MLP", "Qwen3MLP", "LlamaMLP", "MistralMLP")


class _Rotary(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        ctx.angles = cos, sin
        return kernels.rotate(heads, cos, sin, 1.0)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        cos, sin = ctx.angles
        return kernels.rotate(gradient.contiguous(), cos, sin, -1.0), None, None


class _SwiGLU(torch.autograd.Function):
    """silu(gate) * up. The gradient that arrives is overwritten: it must come from a layer that gives it away."""

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gate, up)
        return kernels.swiglu(gate, up)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        gate, up = ctx.saved_tensors
        return kernels.swiglu_backward(gradient, gate, up)


def norm_forward(self: Any, hidden_states: torch.Tensor) -> torch.Tensor:
    """RMS norm in float32 inside one kernel, input and output in the input's dtype."""
    weight = self.weight.to(hidden_states.dtype)
    return rms_norm(hidden_states, weight.shape, weight, self.variance_epsilon)


def _mlp_forward(self: Any, x: torch.Tensor) -> torch.Tensor:
    both = lora_linears(x, (self.gate_proj, self.up_proj))
    if both is None:
        result: torch.Tensor = self._library_forward(x)
        return result
    activated = _SwiGLU.apply(*both)
    del both
    down: torch.Tensor = self.down_proj(activated)
    return down


def _attention_forward(
    self: Any,
    hidden_states: torch.Tensor,
    position_embeddings: tuple[torch.Tensor, torch.Tensor],
    attention_mask: torch.Tensor | None = None,
    past_key_values: Any = None,
    segments: Segments | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    projected = None
    if past_key_values is None:
        projected = lora_linears(hidden_states, (self.q_proj, self.k_proj, self.v_proj))
    if projected is None:
        own: tuple[torch.Tensor, None] = self._library_forward(
            hidden_states,
            position_embeddings=position_embeddings,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            segments=segments,
            **kwargs,
        )
        return own
    query, key, value = (part.view(*part.shape[:-1], -1, self.head_dim) for part in projected)
    del projected
    if hasattr(self, "q_norm"):
        query, key = self.q_norm(query), self.k_norm(key)
    cos, sin = (part[:, :, None, : self.head_dim // 2] for part in position_embeddings)
    query, key = _Rotary.apply(query, cos, sin), _Rotary.apply(key, cos, sin)
    dropout = self.attention_dropout if self.training else 0.0
    attended = _attend(self, query, key, value, attention_mask, segments, dropout)
    return self.o_proj(attended.flatten(2)), None


def _attend(
    self: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    segments: Segments | None,
    dropout: float,
) -> torch.Tensor:
    """Attention over (rows, tokens, heads, size); returns the query's shape."""
    if segments is not None and query.is_cuda:
        groups = query.shape[2] // key.shape[2]
        if groups > 1:
            key, value = key.repeat_interleave(groups, dim=2), value.repeat_interleave(groups, dim=2)
        return segment_attention(query, key, value, segments, self.scaling, dropout)
    query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
    return kelron_sdpa(self, query, key, value, mask, dropout=dropout, scaling=self.scaling)[0]


def swap(module: Any, forward: Any) -> None:
    """Give a module another forward; the library's own stays as `_library_forward`."""
    if not hasattr(module, "_library_forward"):
        module._library_forward = module.forward
        module.forward = MethodType(forward, module)


def is_swiglu(module: Any) -> bool:
    """True for a gated block that is known, with SiLU."""
    return type(module).__name__ in MLPS and type(module.act_fn).__name__ in ("SiLU", "SiLUActivation")


def speed_up_layers(model: Any, *, norms: bool = True, blocks: bool = True) -> int:
    """Swap the forwards of the norms, and of the attention and MLP blocks that are known; returns how many."""
    count = 0
    for module in model.modules():
        name = type(module).__name__
        if norms and name.endswith("RMSNorm") and hasattr(module, "variance_epsilon"):
            swap(module, norm_forward)
        elif blocks and name in ATTENTIONS and getattr(module, "sliding_window", None) is None:
            swap(module, _attention_forward)
        elif blocks and is_swiglu(module):
            swap(module, _mlp_forward)
            if hasattr(module.down_proj, "_ends_layer"):
                module.down_proj._ends_layer = True
        else:
            continue
        count += 1
    return count
