"""The elementwise steps between the matrix products: in Triton where that works, in plain torch everywhere else.

What is used is decided once, by `choose`, which tries the kernels on the device and compares them with torch's
results; it says what it chose and why.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch.nn.functional import silu

from kelron_lib.errors import KelronError

_fast: ModuleType | None = None
MOST_ELEMENTS = 2**31 - 1


def _usable(*tensors: torch.Tensor) -> bool:
    return all(tensor.is_cuda and tensor.is_contiguous() and tensor.numel() <= MOST_ELEMENTS for tensor in tensors)


def dequantise_into(packed: torch.Tensor, state: Any, out: torch.Tensor) -> bool:
    """Write a 4-bit weight with double-quantised scales to `out`; False where bitsandbytes has to do it."""
    plain = (
        _fast is not None
        and state.nested
        and state.quant_type == "nf4"
        and state.offset.is_cuda
        and out.numel() % state.blocksize == 0
        and _usable(packed, out)
    )
    if plain:
        assert _fast is not None
        _fast.dequantise(packed, state, out)
    return plain


def swiglu(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """silu(gate) * up."""
    if _fast is not None and _usable(gate, up):
        result: torch.Tensor = _fast.swiglu(gate, up)
        return result
    return silu(gate).mul_(up)


def swiglu_backward(gradient: torch.Tensor, gate: torch.Tensor, up: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of gate and up; `gradient` is overwritten."""
    if _fast is not None and _usable(gradient, gate, up):
        result: tuple[torch.Tensor, torch.Tensor] = _fast.swiglu_backward(gradient, gate, up)
        return result
    up_gradient = silu(gate).mul_(gradient)
    gradient = gradient.mul_(up)
    torch.ops.aten.silu_backward.grad_input(gradient, gate, grad_input=gradient)
    return gradient, up_gradient


def rotate(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, direction: float) -> torch.Tensor:
    """Each pair (i, i + size/2) of `heads` (rows, tokens, heads, size) turned by its angle; `direction` -1: back.

    `cos` and `sin` are (rows, tokens, 1, size / 2).
    """
    half = heads.shape[-1] // 2
    power_of_two = half & (half - 1) == 0
    if _fast is not None and _usable(heads) and power_of_two and _same_tokens(heads, cos, sin):
        result: torch.Tensor = _fast.rotate(heads, cos, sin, direction)
        return result
    first, second = heads[..., :half], heads[..., half:]
    turned = torch.empty_like(heads)
    torch.mul(first, cos, out=turned[..., :half]).addcmul_(second, sin, value=-direction)
    torch.mul(second, cos, out=turned[..., half:]).addcmul_(first, sin, value=direction)
    return turned


def _same_tokens(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> bool:
    """Whether the angles lie one row of memory a token, for exactly the tokens of `heads`."""
    tokens = heads.shape[1]
    return (
        cos.shape[:2] == heads.shape[:2] == sin.shape[:2]
        and cos.stride() == sin.stride()
        and (cos.shape[0] == 1 or cos.stride(0) == tokens * cos.stride(1))
        and cos.stride(-1) == 1
    )


def add_masked(total: torch.Tensor, values: torch.Tensor, kept: torch.Tensor, scale: float) -> torch.Tensor:
    """`total += values * kept * scale`, in place; `kept` is bool."""
    if _fast is not None and _usable(total, values, kept):
        result: torch.Tensor = _fast.add_masked(total, values, kept, scale)
        return result
    return total.add_(torch.ops.aten.native_dropout_backward(values, kept, scale))


def _cases(device: torch.device) -> list[Callable[[], Any]]:
    """Each kernel on small data, as calls that give tensors to compare."""
    import bitsandbytes

    generator = torch.Generator(device).manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, device=device).half()

    gate, up, gradient = draw(3, 5000), draw(3, 5000), draw(3, 5000)
    heads, angles = draw(2, 7, 5, 128), draw(2, 7, 128).float()
    cos, sin = (part[:, :, None, :64].half() for part in (angles.cos(), angles.sin()))
    kept = draw(3, 5000) > 0
    packed, state = bitsandbytes.functional.quantize_4bit(
        draw(520, 192), blocksize=64, compress_statistics=True, quant_type="nf4"
    )

    def weight() -> torch.Tensor:
        out = torch.empty(520, 192, dtype=torch.float16, device=device)
        if not dequantise_into(packed, state, out):
            out.copy_(bitsandbytes.functional.dequantize_4bit(packed, state))
        return out

    return [
        weight,
        lambda: swiglu(gate, up),
        lambda: torch.stack(swiglu_backward(gradient.clone(), gate, up)),
        lambda: rotate(heads, cos, sin, 1.0),
        lambda: rotate(heads, cos, sin, -1.0),
        lambda: add_masked(gradient.clone(), gate, kept, 1.25),
    ]


def _disagreement(device: torch.device, fast: ModuleType) -> float:
    """The largest relative difference between the kernels and torch."""
    global _fast
    worst = 0.0
    for case in _cases(device):
        _fast = None
        expected = case().float()
        _fast = fast
        worst = max(worst, ((case().float() - expected).norm() / expected.norm()).item())
    return worst


def choose(kind: str, device: torch.device) -> str:
    """Use "triton", "torch", or with "auto" whichever works on `device`; returns what is used and why.

    Raises KelronError where "triton" is asked for and does not work.
    """
    global _fast
    _fast = None
    if kind not in ("auto", "torch", "triton"):
        raise KelronError(f"kernels can be auto, torch or triton, not {kind!r}")
    if kind == "torch":
        return "torch: as asked"
    reason = "no CUDA device"
    if device.type == "cuda":
        # Anything may go wrong in a just-in-time compiler on an unknown machine: whatever it is, torch still works.
        try:
            from kelron_lib.engine import triton_kernels

            worst = _disagreement(device, triton_kernels)
            if worst < 1e-3:
                return f"triton: agrees with torch to {worst:.0e} on this device"
            reason = f"triton's results differ from torch's by {worst:.0e}"
        except Exception as error:
            reason = f"triton does not work here ({type(error).__name__}: {str(error).strip().splitlines()[-1:]})"
        _fast = None
    if kind == "triton":
        raise KelronError(f"kernels=triton cannot be used: {reason}")
    return f"torch: {reason}"
