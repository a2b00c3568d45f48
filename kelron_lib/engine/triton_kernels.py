"""Elementwise kernels in Triton. No tl.dot: matrix products stay with cuBLAS, which is what a T4 needs."""
# mypy: disallow-untyped-defs=False

from __future__ import annotations

import torch
import triton
import triton.language as tl

FLAT = 2048
QUANT_BLOCKS = 64
HEADS = 8


@triton.jit
def _dequantise(packed, scale8, scale2, code8, offset, code4, out, blocks, SECOND: tl.constexpr, BYTES: tl.constexpr,
                QUANT_BLOCKS: tl.constexpr):  # fmt: skip
    block = tl.program_id(0) * QUANT_BLOCKS + tl.arange(0, QUANT_BLOCKS)
    inside = block < blocks
    first = tl.load(scale8 + block, mask=inside, other=0).to(tl.int32)
    scale = tl.load(code8 + first) * tl.load(scale2 + block // SECOND, mask=inside, other=0.0) + tl.load(offset)
    byte = tl.load(packed + block[:, None] * BYTES + tl.arange(0, BYTES)[None, :], mask=inside[:, None], other=0)
    byte = byte.to(tl.int32)
    values = tl.interleave(tl.load(code4 + (byte >> 4)), tl.load(code4 + (byte & 15))) * scale[:, None]
    place = block[:, None] * (2 * BYTES) + tl.arange(0, 2 * BYTES)[None, :]
    tl.store(out + place, values.to(out.dtype.element_ty), mask=inside[:, None])


@triton.jit
def _swiglu(gate, up, out, count, FLAT: tl.constexpr):
    place = tl.program_id(0) * FLAT + tl.arange(0, FLAT)
    inside = place < count
    x = tl.load(gate + place, mask=inside, other=0.0).to(tl.float32)
    y = tl.load(up + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + place, (x * tl.sigmoid(x) * y).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _swiglu_backward(gradient, gate, up, up_gradient, count, FLAT: tl.constexpr):
    place = tl.program_id(0) * FLAT + tl.arange(0, FLAT)
    inside = place < count
    g = tl.load(gradient + place, mask=inside, other=0.0).to(tl.float32)
    x = tl.load(gate + place, mask=inside, other=0.0).to(tl.float32)
    y = tl.load(up + place, mask=inside, other=0.0).to(tl.float32)
    sigmoid = tl.sigmoid(x)
    tl.store(up_gradient + place, (g * x * sigmoid).to(up_gradient.dtype.element_ty), mask=inside)
    gate_gradient = g * y * sigmoid * (1.0 + x * (1.0 - sigmoid))
    tl.store(gradient + place, gate_gradient.to(gradient.dtype.element_ty), mask=inside)


@triton.jit
def _rotate(heads, cos, sin, out, count, cos_stride, direction, HALF: tl.constexpr, HEADS: tl.constexpr):
    token = tl.program_id(0)
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    inside = (head < count)[:, None]
    column = tl.arange(0, HALF)
    c = tl.load(cos + token * cos_stride + column).to(tl.float32)[None, :]
    s = tl.load(sin + token * cos_stride + column).to(tl.float32)[None, :] * direction
    place = (token * count + head[:, None]) * (2 * HALF) + column[None, :]
    first = tl.load(heads + place, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(heads + place + HALF, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + place, (first * c - second * s).to(out.dtype.element_ty), mask=inside)
    tl.store(out + place + HALF, (second * c + first * s).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _add_masked(total, values, kept, scale, count, FLAT: tl.constexpr):
    place = tl.program_id(0) * FLAT + tl.arange(0, FLAT)
    inside = place < count
    before = tl.load(total + place, mask=inside, other=0.0).to(tl.float32)
    value = tl.load(values + place, mask=inside, other=0.0).to(tl.float32)
    keep = tl.load(kept + place, mask=inside, other=0).to(tl.float32)
    tl.store(total + place, (before + value * keep * scale).to(total.dtype.element_ty), mask=inside)


def dequantise(packed: torch.Tensor, state: object, out: torch.Tensor) -> torch.Tensor:
    """A double-quantised 4-bit weight into `out`."""
    blocks, second = out.numel() // state.blocksize, state.state2  # type: ignore[attr-defined]
    _dequantise[(triton.cdiv(blocks, QUANT_BLOCKS),)](
        packed, state.absmax, second.absmax, second.code, state.offset, state.code, out, blocks,  # type: ignore[attr-defined]
        SECOND=second.blocksize, BYTES=state.blocksize // 2, QUANT_BLOCKS=QUANT_BLOCKS,  # type: ignore[attr-defined]
    )  # fmt: skip
    return out


def swiglu(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """silu(gate) * up."""
    out = torch.empty_like(gate)
    _swiglu[(triton.cdiv(gate.numel(), FLAT),)](gate, up, out, gate.numel(), FLAT=FLAT)
    return out


def swiglu_backward(gradient: torch.Tensor, gate: torch.Tensor, up: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of gate (in the place of `gradient`) and up."""
    up_gradient = torch.empty_like(up)
    grid = (triton.cdiv(gate.numel(), FLAT),)
    _swiglu_backward[grid](gradient, gate, up, up_gradient, gate.numel(), FLAT=FLAT)
    return gradient, up_gradient


def rotate(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, direction: float) -> torch.Tensor:
    """`heads` (rows, tokens, heads, size) turned by the angles of (rows, tokens, 1, size / 2)."""
    out = torch.empty_like(heads)
    count, size = heads.shape[2:]
    grid = (heads.shape[0] * heads.shape[1], triton.cdiv(count, HEADS))
    _rotate[grid](heads, cos, sin, out, count, cos.stride(1), direction, HALF=size // 2, HEADS=HEADS)
    return out


def add_masked(total: torch.Tensor, values: torch.Tensor, kept: torch.Tensor, scale: float) -> torch.Tensor:
    """`total += values * kept * scale`, in place; `kept` is bool."""
    grid = (triton.cdiv(total.numel(), FLAT),)
    _add_masked[grid](total, values, kept.view(torch.uint8), scale, total.numel(), FLAT=FLAT)
    return total
