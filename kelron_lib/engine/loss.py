"""The loss on supervised positions alone, chunk by chunk, with the gradient computed on the way.

Full logits of the 14B cost 1.5 MB a token. Here the head sees only the positions that are predicted, `chunk` of them
at a time, and each chunk's gradient of the hidden states is made before the next chunk's logits: what is kept for the
backward pass has the size of the supervised hidden states.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from kelron_lib.engine.lora import dequantised_scales, product_fp32, unpack_4bit
from kelron_lib.errors import KelronError
from kelron_lib.placement.memory import HEAD_SLICE
from kelron_lib.prompts import IGNORED


def _slices(head: Any, dtype: torch.dtype) -> Iterator[tuple[int, int, torch.Tensor]]:
    """The head's weight as (first row, last row + 1, rows as (n, hidden) of `dtype`); a slice lives until the next."""
    state = getattr(head.weight, "quant_state", None)
    if state is None:
        yield 0, head.weight.shape[0], head.weight.to(dtype)
        return
    vocabulary, width = state.shape
    rows = vocabulary if width % state.blocksize else max(1, HEAD_SLICE // width)
    rows = rows // 64 * 64 or rows  # an odd number of rows would send cuBLAS to a slow, unaligned kernel
    packed, scales = head.weight.data.view(-1), dequantised_scales(state)
    for start in range(0, vocabulary, rows):
        stop = min(start + rows, vocabulary)
        values = packed[start * width // 2 : (stop * width + 1) // 2]
        blocks = scales[start * width // state.blocksize : -(-stop * width // state.blocksize)]
        yield start, stop, unpack_4bit(values, blocks, state, torch.Size((stop - start, width)), dtype)


def _logits(hidden: torch.Tensor, head: Any) -> torch.Tensor:
    """float32 (rows, vocabulary)."""
    logits: torch.Tensor | None = None
    for start, stop, weight in _slices(head, hidden.dtype):
        part = product_fp32(hidden, weight.t())
        if stop - start == head.out_features:
            return part
        if logits is None:
            logits = part.new_empty(len(hidden), head.out_features)
        logits[:, start:stop] = part
    assert logits is not None
    return logits


def _hidden_gradient(gradient: torch.Tensor, head: Any) -> torch.Tensor:
    """`gradient` (rows, vocabulary) times the head's weight, summed in float32."""
    total: torch.Tensor | None = None
    for start, stop, weight in _slices(head, gradient.dtype):
        part = product_fp32(gradient[:, start:stop], weight)
        total = part if total is None else total.add_(part)
    assert total is not None
    return total


class _SupervisedLoss(torch.autograd.Function):
    """Summed cross-entropy of selected rows of `hidden`, over `denominator`."""

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, head: Any, positions: torch.Tensor, targets: torch.Tensor, chunk: int, over: Any
    ) -> torch.Tensor:
        selected = hidden.reshape(-1, hidden.shape[-1]).index_select(0, positions)
        wants_gradient = ctx.needs_input_grad[0]
        gradients = torch.empty_like(selected) if wants_gradient else None
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        for start in range(0, len(selected), chunk):
            rows = selected[start : start + chunk]
            wanted = targets[start : start + chunk, None]
            logits = _logits(rows, head)
            normaliser = logits.logsumexp(dim=1, keepdim=True)
            total += (normaliser - logits.gather(1, wanted)).sum()
            if gradients is not None:
                # Softmax minus one-hot, unscaled: divided by the step's tokens it would vanish in half precision.
                logits.sub_(normaliser).exp_()
                logits.scatter_add_(1, wanted, logits.new_full((1, 1), -1.0).expand_as(wanted))
                gradients[start : start + chunk] = _hidden_gradient(logits.to(selected.dtype), head)
        ctx.save_for_backward(gradients, positions)
        ctx.shape, ctx.over = hidden.shape, over
        return total / over

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        gradients, positions = ctx.saved_tensors
        scaled = (gradients * (gradient / ctx.over)).to(gradients.dtype)
        full = gradients.new_zeros(ctx.shape.numel() // ctx.shape[-1], ctx.shape[-1])
        return full.index_copy_(0, positions, scaled).view(ctx.shape), None, None, None, None, None


def supervised_positions(labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Flattened positions whose next token is supervised, and those tokens; both int64 (n,), on the labels' device.

    `labels` (rows, tokens) must carry IGNORED on every sample's first token, as `pack` does.
    """
    shifted = torch.full_like(labels, IGNORED)
    shifted[:, :-1] = labels[:, 1:]
    shifted = shifted.flatten()
    positions = (shifted != IGNORED).nonzero().flatten()
    return positions, shifted[positions]


def to_device(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """`values` on `device` without waiting for the work queued there."""
    if values.device.type == "cpu" and device.type == "cuda":
        values = values.pin_memory()
    return values.to(device, non_blocking=True)


def supervised_loss(
    hidden: torch.Tensor, labels: torch.Tensor, head: Any, *, chunk: int, denominator: float | torch.Tensor
) -> torch.Tensor:
    """Summed float32 cross-entropy of the supervised tokens, divided by `denominator`.

    `hidden` (rows, tokens, width), `labels` int64 (rows, tokens) on any device (on the CPU nothing waits for the GPU),
    `head` a frozen Linear or bitsandbytes Linear4bit without bias, `chunk` positions a head call. With the number of
    supervised tokens of the whole optimizer step as `denominator`, the gradients of its passes add up to those of one
    big batch; where gradients are averaged over processes, with that number over the number of processes.
    """
    if head.bias is not None:
        raise KelronError("the output head has a bias, which the chunked loss does not know: use the model's own loss")
    if head.weight.requires_grad:
        raise KelronError("the output head is being trained, which the chunked loss does not do: freeze it")
    positions, targets = supervised_positions(labels)
    loss: torch.Tensor = _SupervisedLoss.apply(
        hidden, head, to_device(positions, hidden.device), to_device(targets, hidden.device), chunk, denominator
    )
    return loss
