"""The arithmetic of time: FLOPs per token, seconds per pass, steps per epoch. Everything here is a projection."""

from __future__ import annotations

import math
from dataclasses import dataclass

from kelron_lib.errors import KelronError
from kelron_lib.placement.memory import Workload
from kelron_lib.placement.shapes import ModelShape

T4_TFLOPS = 20.4
"""Sustained fp16 TFLOP/s of a T4 at its 70 W cap (its data sheet's 65 is never reached for long)."""
T4_BANDWIDTH = 320.0
"""GB/s of a T4's memory."""
PCIE_BANDWIDTH = 6.0
"""GB/s between two T4s without NVLink. Assumed, not measured."""
OVERHEAD = 1.5
"""Published single-T4 runs take this many times the ideal time."""


@dataclass(frozen=True)
class Epoch:
    """One pass over the data."""

    samples: int = 35000
    """Training rows."""
    mean_tokens: float = 110.0
    """Mean length of a row in tokens."""
    packed: bool = True
    """Whether rows share a pass up to its token budget; if not, a pass holds `Workload.rows` of them."""
    fill: float = 0.95
    """Share of the budget that packing fills."""

    def __post_init__(self) -> None:
        if self.samples < 1 or self.mean_tokens <= 0:
            raise KelronError(f"an epoch of {self.samples} samples of {self.mean_tokens} tokens: both must be positive")

    def passes(self, work: Workload) -> int:
        """Forward passes of an epoch, over all GPUs together."""
        per_pass = work.tokens * self.fill / self.mean_tokens if self.packed else work.rows
        return max(1, math.ceil(self.samples / per_pass))

    def steps(self, work: Workload, copies: int) -> int:
        """Optimizer steps of an epoch, shared by `copies` of the model."""
        return math.ceil(self.passes(work) / (work.step_passes or work.accumulation * copies))


@dataclass(frozen=True)
class Rate:
    """How fast one GPU is taken to be."""

    tflops: float = T4_TFLOPS
    """Sustained fp16 TFLOP/s."""
    bandwidth: float = T4_BANDWIDTH
    """Memory bandwidth in GB/s."""
    label: str = "T4, sustained fp16"
    """What the numbers are from."""


def flops_per_token(
    shape: ModelShape, work: Workload, recompute: bool | None = None, context: float = 110.0, supervised: float = 1.0
) -> float:
    """FLOPs per token of one training step.

    Frozen linears: 2 per weight forward and 2 backward (no weight gradient). LoRA: 2 forward, 4 backward. Head: 2
    forward and 2 backward on the `supervised` share of tokens. Attention: 4 x context x query features per layer
    forward, twice that backward. Recomputation (the default where the workload checkpoints) repeats the forward of
    the layers. `context` is the mean number of tokens that a token attends over.
    """
    again = work.checkpointing if recompute is None else recompute
    linear = 2.0 * shape.layers * shape.layer_weights
    adapter = 2.0 * shape.lora(work.lora_rank, work.lora_targets)
    attention = 4.0 * context * shape.query * shape.layers
    head = 2.0 * 2.0 * shape.embedding * supervised
    forward = linear + adapter + attention
    return forward * (2 if again else 1) + linear + 2 * adapter + 2 * attention + head


def head_share(shape: ModelShape, work: Workload, epoch: Epoch) -> float:
    """Share of a step's FLOPs that the head does."""
    supervised = work.supervised if work.loss == "chunked" else 1.0
    head = 4.0 * shape.embedding * supervised
    return head / flops_per_token(shape, work, context=epoch.mean_tokens, supervised=supervised)


def pass_seconds(shape: ModelShape, work: Workload, epoch: Epoch, rate: Rate) -> float:
    """One pass on one GPU at a time: the products at the sustained rate, and the dequantisation of all weights.

    The dequantisation reads half a byte and writes two per weight, once forward, once backward and once more with
    checkpointing, whatever the number of tokens: few tokens a pass make it dear.
    """
    supervised = work.supervised if work.loss == "chunked" else 1.0
    tokens = work.tokens if epoch.packed else work.rows * epoch.mean_tokens
    products = tokens * flops_per_token(shape, work, context=epoch.mean_tokens, supervised=supervised)
    rounds = 3 if work.checkpointing else 2
    moved = rounds * 2.52 * shape.layers * shape.layer_weights
    return products / (rate.tflops * 1e12) + moved / (rate.bandwidth * 1e9)


def exchange_seconds(shape: ModelShape, work: Workload, copies: int) -> float:
    """Averaging float32 adapter gradients over `copies` GPUs in a ring, once per optimizer step."""
    gradients = 4.0 * shape.lora(work.lora_rank, work.lora_targets)
    return 2.0 * (copies - 1) / copies * gradients / (PCIE_BANDWIDTH * 1e9)
