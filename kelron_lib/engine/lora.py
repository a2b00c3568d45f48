"""LoRA over bitsandbytes 4-bit layers, forward and backward fused in one autograd function.

PEFT's own forward clones the result, casts per call and leaves a dozen nodes in the graph. Here a layer costs one
dequantisation and three matrix products, keeps its input (and, under dropout, one byte per element of it), and
several layers with the same input (query, key and value; gate and up) share that input and its gradient.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from torch.nn.functional import linear

from kelron_lib.engine import kernels
from kelron_lib.errors import KelronError

_state = threading.local()


@contextlib.contextmanager
def recomputing() -> Iterator[None]:
    """Marks a checkpointed layer's recomputation, in which the output of its last layer is read by nobody."""
    _state.recomputing = True
    try:
        yield
    finally:
        _state.recomputing = False


@dataclass(frozen=True, slots=True)
class LoraLayer:
    """One PEFT layer as the fused function sees it."""

    base: Any
    """The bitsandbytes Linear4bit."""
    scaling: float
    """Factor of the update (alpha / r)."""
    dropout: float
    """Probability of dropping an element of the adapter's input; 0 outside training."""
    ends_layer: bool
    """Nothing after this layer in its checkpointed block needs its output again."""


_workspaces: dict[tuple[torch.device, torch.dtype], torch.Tensor] = {}


def _workspace(shape: torch.Size, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """A buffer for one dequantised weight, reused by all layers: each is used up before the next is written."""
    buffer = _workspaces.get((device, dtype))
    if buffer is None or buffer.numel() < shape.numel():
        buffer = _workspaces[device, dtype] = torch.empty(shape.numel(), device=device, dtype=dtype)
    return buffer[: shape.numel()].view(shape)


def dequantised_scales(state: Any) -> torch.Tensor:
    """The float32 scale of every block of a 4-bit weight, double quantisation undone."""
    if not state.nested:
        scales: torch.Tensor = state.absmax
        return scales
    second = state.state2
    scales = torch.ops.bitsandbytes.dequantize_blockwise(
        state.absmax, second.absmax, second.code, second.blocksize, second.dtype
    )
    return scales.add_(state.offset).float()


def unpack_4bit(packed: torch.Tensor, scales: torch.Tensor, state: Any, shape: torch.Size, dtype: torch.dtype) -> Any:
    """Packed 4-bit values and their float32 scales as a weight of `shape` and `dtype`; on CUDA in the workspace."""
    arguments = (packed.view(-1, 1), scales, state.blocksize, state.quant_type, shape, dtype)
    if not packed.is_cuda:
        return torch.ops.bitsandbytes.dequantize_4bit(*arguments)
    buffer = _workspace(shape, packed.device, dtype)
    torch.ops.bitsandbytes.dequantize_4bit.out(*arguments, out=buffer)
    return buffer


def dequantise(weight: Any, dtype: torch.dtype) -> torch.Tensor:
    """A 4-bit weight as (out, in) of `dtype`. On CUDA the next call on that device overwrites it."""
    state = weight.quant_state
    if weight.is_cuda:
        buffer = _workspace(state.shape, weight.device, dtype)
        if kernels.dequantise_into(weight.data, state, buffer):
            return buffer
    result: torch.Tensor = unpack_4bit(weight.data, dequantised_scales(state), state, state.shape, dtype)
    return result


def product_fp32(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """`left @ right` in float32, accumulated and returned: half operands give no half result on the way."""
    if left.is_cuda and left.dtype != torch.float32:
        return torch.mm(left, right, out_dtype=torch.float32)
    return torch.mm(left, right).float()


def _scaled(factor: torch.Tensor, scaling: float, dtype: torch.dtype) -> torch.Tensor:
    """A LoRA factor times the layer's scaling, in `dtype`, by one kernel."""
    return torch.mul(factor, scaling, out=torch.empty_like(factor, dtype=dtype, requires_grad=False))


def _drop(values: torch.Tensor, probability: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Dropout and its mask, drawing random numbers exactly as nn.Dropout does on the same device."""
    if values.is_cuda:
        return torch.native_dropout(values, probability, True)
    mask = torch.empty_like(values).bernoulli_(1 - probability).bool()
    return _masked(values, mask, probability), mask


def _masked(values: torch.Tensor, mask: torch.Tensor, probability: float) -> torch.Tensor:
    return torch.ops.aten.native_dropout_backward(values, mask, 1 / (1 - probability))


class _LoraLinears(torch.autograd.Function):
    """x (..., in) to one output (..., out) for each of several LoRA layers with that input."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, layers: tuple[LoraLayer, ...], *factors: torch.Tensor) -> Any:
        dtype = layers[0].base.compute_dtype or x.dtype
        rows = x.reshape(-1, x.shape[-1]).to(dtype)
        saved, outputs = [rows], []
        for layer, down, up in zip(layers, factors[::2], factors[1::2], strict=True):
            adapted = rows
            if layer.dropout:
                adapted, mask = _drop(rows, layer.dropout)
                saved.append(mask)
            low = linear(adapted, _scaled(down, layer.scaling, dtype))
            saved.append(low)
            outputs.append(_output(rows, layer, low, up).view(*x.shape[:-1], -1).to(x.dtype))
        ctx.save_for_backward(*saved)
        ctx.layers, ctx.factors, ctx.input_like = layers, factors, (x.shape, x.dtype)
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        rows, *rest = ctx.saved_tensors
        shape, dtype = ctx.input_like
        wants_input, input_gradient, results = ctx.needs_input_grad[0], None, []
        for layer, gradient, down, up in zip(ctx.layers, gradients, ctx.factors[::2], ctx.factors[1::2], strict=True):
            mask = rest.pop(0) if layer.dropout else None
            low = rest.pop(0)
            gradient = gradient.reshape(-1, gradient.shape[-1]).to(rows.dtype)
            low_gradient = torch.mm(gradient, _scaled(up, layer.scaling, rows.dtype))
            adapted = rows if mask is None else _masked(rows, mask, layer.dropout)
            results += [product_fp32(low_gradient.t(), adapted), product_fp32(gradient.t(), low)]
            del adapted
            if wants_input:
                input_gradient = _add_input_gradient(input_gradient, gradient, layer, low_gradient, down, mask)
        if input_gradient is not None:
            input_gradient = input_gradient.view(shape).to(dtype)
        return input_gradient, None, *results


def _output(rows: torch.Tensor, layer: LoraLayer, low: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """x W^T + bias + low B^T, or a stand-in of that shape where nobody will read it."""
    base = layer.base
    if layer.ends_layer and getattr(_state, "recomputing", False):
        return rows.new_zeros(1, 1).expand(rows.shape[0], up.shape[0])
    bias = None if base.bias is None else base.bias.to(rows.dtype)
    output = linear(rows, dequantise(base.weight, rows.dtype), bias)
    return output.addmm_(low, up.to(rows.dtype).t())


def _add_input_gradient(
    total: torch.Tensor | None,
    gradient: torch.Tensor,
    layer: LoraLayer,
    low_gradient: torch.Tensor,
    down: torch.Tensor,
    mask: torch.Tensor | None,
) -> torch.Tensor:
    """`total` plus this layer's gradient of the input, in place."""
    weight = dequantise(layer.base.weight, gradient.dtype)
    total = torch.mm(gradient, weight) if total is None else total.addmm_(gradient, weight)
    down = down.to(gradient.dtype)
    if mask is None:
        return total.addmm_(low_gradient, down)
    return kernels.add_masked(total, torch.mm(low_gradient, down), mask, 1 / (1 - layer.dropout))


def fusable(module: Any) -> bool:
    """True where a PEFT layer is a plain LoRA over a 4-bit weight in the layout that can be dequantised."""
    if not hasattr(module, "lora_A") or not hasattr(module, "get_base_layer"):
        return False
    state = getattr(getattr(module.get_base_layer(), "weight", None), "quant_state", None)
    return state is not None and not getattr(state, "packing_format_for_cpu", False)


def active_factors(module: Any) -> tuple[str, torch.Tensor, torch.Tensor] | None:
    """The active adapter's name and its A (r, in) and B (out, r), or None where PEFT's own forward has to run: the
    adapter is off or merged, several are active, or it is a variant (DoRA and the like) or has a bias."""
    if module.disable_adapters or module.merged or len(module.active_adapters) != 1:
        return None
    name = module.active_adapters[0]
    if name not in module.lora_A or name in module.lora_variant or module.lora_B[name].bias is not None:
        return None
    return name, module.lora_A[name].weight, module.lora_B[name].weight


def lora_linears(x: torch.Tensor, modules: tuple[Any, ...]) -> tuple[torch.Tensor, ...] | None:
    """The outputs of fused PEFT layers with the same input x (..., in); None where their own forwards have to run."""
    if not torch.is_grad_enabled():  # a validation pass
        return None
    layers, factors = [], []
    for module in modules:
        found = active_factors(module)
        if found is None or not hasattr(module, "_peft_forward"):
            return None
        name, down, up = found
        dropout = module.lora_dropout[name]
        probability = dropout.p if module.training and isinstance(dropout, torch.nn.Dropout) else 0.0
        layers.append(LoraLayer(module.get_base_layer(), module.scaling[name], probability, module._ends_layer))
        factors += [down, up]
    outputs: tuple[torch.Tensor, ...] = _LoraLinears.apply(x, tuple(layers), *factors)
    return outputs


def _forward(self: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    outputs = None if args or kwargs else lora_linears(x, (self,))
    result: torch.Tensor = self._peft_forward(x, *args, **kwargs) if outputs is None else outputs[0]
    return result


def fuse_lora(model: Any) -> int:
    """Swap the forward of every LoRA layer over a 4-bit weight for the fused one; returns how many there are.

    In generation, with the adapter off or merged, PEFT's own forward still runs. Raises KelronError if there is no
    such layer.
    """
    count = 0
    for module in model.modules():
        if not fusable(module) or hasattr(module, "_peft_forward"):
            continue
        # Its inference layout for CPUs cannot be dequantised again (bitsandbytes 0.50).
        module.get_base_layer().support_avx512bf16_for_cpu = False
        module._peft_forward, module._ends_layer = module.forward, False
        module.forward = MethodType(_forward, module)
        count += 1
    if count == 0:
        raise KelronError("no LoRA layer over a 4-bit weight in this model: load it in 4 bits and add an adapter first")
    return count
