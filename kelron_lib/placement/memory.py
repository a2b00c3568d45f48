"""The memory of one training step on one GPU, term by term. Sizes are bytes unless a name says GiB.

Every coefficient that is not a size of the model stands in `Coefficients`, each with where it comes from.
The peak is the highest of the phases a run goes through: loading, preparing, the loss, the backward pass and
the optimizer step; a phase is a dict of parts, so that a peak can be shown as what it is made of.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from kelron_lib.errors import KelronError
from kelron_lib.placement.shapes import ModelShape, lora_names

GIB = 2**30
HEAD_SLICE = 64 * 2**20
"""Elements of a 4-bit head that the loss dequantises at a time: 128 MiB in half precision, where a 14B's whole head
would be 1.5 GiB."""


@dataclass(frozen=True)
class Coefficients:
    """The numbers that no config holds."""

    context: float = 0.54 * GIB
    """CUDA context, cuBLAS and driver: a T4's 14.74 GiB leave about 14.2 to the allocator."""
    slack: float = 0.04
    """Reserved but not allocated, as a share of the peak: 2 % under a hard cap, 4-6 % without (H200, torch 2.11)."""
    rounding: float = 0.0107
    """The allocator's rounding of 4-bit blocks: 6.42 GiB allocated where the tensors add up to 6.35 (H200)."""
    chunk_logit: int = 10
    """Bytes per logit of the chunked loss: fp16 logits, their float32 copy, the gradient."""
    full_logit: int = 14
    """Bytes per logit of transformers' loss: fp16 logits, float32 log-softmax, and two float32 gradients at once."""
    exchange: float = 0.05 * GIB
    """NCCL's buffers; the gradients themselves are summed where they lie. Assumed, not measured."""


DEFAULT = Coefficients()


@dataclass(frozen=True)
class Workload:
    """What one GPU does in one pass, and how."""

    rows: int = 4
    """Rows of a pass."""
    row_tokens: int = 512
    """Tokens of a row."""
    supervised: float = 0.5
    """Share of the tokens that the loss is taken on."""
    accumulation: int = 1
    """Passes per optimizer step on each GPU; above 1 the gradients stay through every pass."""
    step_passes: int = 0
    """Passes of an optimizer step over all GPUs, which then says what `accumulation` is; 0: as many as there are."""
    lora_rank: int = 128
    """Rank of the adapter."""
    lora_targets: str = "all-linear"
    """`all-linear` or `attention`."""
    lora_dropout: float = 0.0
    """Dropout on the adapter's input; above 0 its masks are kept for the backward pass."""
    adapter: str = "fused"
    """`fused` (fp16 stream, one autograd function) or `peft` (its own forward: float32 stream, a copy per linear)."""
    checkpointing: bool = True
    """Keep each layer's input only and compute the rest again in the backward pass."""
    optimizer: str = "paged_adamw_8bit"
    """`paged_adamw_8bit` (states in host memory at rest), `adamw_8bit`, or `adamw` (float32)."""
    loss: str = "chunked"
    """`chunked` (supervised rows only) or `full` (logits of every token at once)."""
    loss_chunk: int = 512
    """Rows of one loss chunk."""
    embedding: str = "host"
    """`host` (0 on the GPU), `8bit`, or `gpu` (16-bit)."""
    head: str = "16bit"
    """`16bit` or `nf4` (dequantised as a whole when the loss needs it)."""
    upcast: bool = False
    """PEFT's preparation: embedding and head to float32."""
    double_quant: bool = True
    """Quantise the 4-bit scales as well."""

    def __post_init__(self) -> None:
        choices = {
            "lora_targets": ("all-linear", "attention"),
            "adapter": ("fused", "peft"),
            "optimizer": ("paged_adamw_8bit", "adamw_8bit", "adamw"),
            "loss": ("chunked", "full"),
            "embedding": ("host", "8bit", "gpu"),
            "head": ("16bit", "nf4"),
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise KelronError(f"{name} is {getattr(self, name)!r}: use one of {', '.join(known)}")
        for name in ("rows", "row_tokens", "accumulation", "lora_rank", "loss_chunk"):
            if getattr(self, name) < 1:
                raise KelronError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if not 0 < self.supervised <= 1:
            raise KelronError(f"supervised is {self.supervised}: a share in (0, 1]")

    def shared_by(self, copies: int) -> Workload:
        """The same with the passes of a step shared by `copies` of the model."""
        if not self.step_passes:
            return self
        return replace(self, accumulation=math.ceil(self.step_passes / copies))

    @property
    def tokens(self) -> int:
        """Tokens of one pass on one GPU."""
        return self.rows * self.row_tokens

    @property
    def stream_bytes(self) -> int:
        """Bytes per value of the residual stream: PEFT's float32 outputs make it float32."""
        return 2 if self.adapter == "fused" else 4


@dataclass(frozen=True)
class Share:
    """What one GPU holds of the model."""

    layers: int
    """Decoder layers on it."""
    embedding: bool = True
    """Whether the embedding is its (it may still rest in host memory)."""
    head: bool = True
    """Whether the head and the loss are here."""
    exchange: bool = False
    """Whether it exchanges gradients with other GPUs."""


def nf4_bytes(parameters: int, double_quant: bool = True) -> int:
    """A 4-bit tensor as bitsandbytes stores it (nf4, blocks of 64).

    Packed values n/2; one scale per block, float32, or with double quantisation uint8 with one float32 per 256
    scales, an offset and a 256-entry table; the 16 nf4 values in float32.
    """
    blocks = math.ceil(parameters / 64)
    table = 16 * 4
    if not double_quant:
        return math.ceil(parameters / 2) + 4 * blocks + table
    return math.ceil(parameters / 2) + blocks + 4 * math.ceil(blocks / 256) + 256 * 4 + 4 + table


def layer_nf4(shape: ModelShape, double_quant: bool = True) -> int:
    """The 4-bit linears of one layer."""
    return sum(nf4_bytes(rows * columns, double_quant) for rows, columns in shape.linears.values())


def weight_parts(shape: ModelShape, work: Workload, share: Share, coef: Coefficients = DEFAULT) -> dict[str, float]:
    """Weights at rest on a GPU: 4-bit layers, norms and biases, embedding, head."""
    layers = share.layers * layer_nf4(shape, work.double_quant) * (1 + coef.rounding)
    small = share.layers * (4 * shape.layer_norms + (4 if work.upcast else 2) * shape.layer_biases)
    parts = {"4-bit weights": layers, "norms and biases": float(small + (4 * shape.hidden if share.head else 0))}
    wide = 4 if work.upcast else 2
    if share.embedding:
        parts["embedding"] = float(
            {"host": 0, "8bit": shape.embedding + 4 * shape.vocab, "gpu": wide * shape.embedding}[work.embedding]
        )
    if share.head:
        shared = shape.tied and share.embedding and work.embedding == "gpu"
        nf4 = nf4_bytes(shape.embedding, work.double_quant)
        parts["head"] = 0.0 if shared else float(nf4 if work.head == "nf4" else wide * shape.embedding)
    return parts


def optimizer_bytes(parameters: int, optimizer: str) -> float:
    """Optimizer states at rest on the GPU: two float32, or two 8-bit with a float32 scale per block of 256; paged: 0.

    Paged states live in host memory and pass through whatever the GPU has free during the optimizer step; the
    allocator does not count them, and the driver evicts them when a tensor needs the room.
    """
    eight_bit = parameters * 2 * (1 + 4 / 256)
    return {"paged_adamw_8bit": 0.0, "adamw_8bit": eight_bit, "adamw": 8.0 * parameters}[optimizer]


def checkpoint_bytes(shape: ModelShape, work: Workload) -> float:
    """One checkpoint: the adapter in float32 and the optimizer's two states."""
    adapter = shape.lora(work.lora_rank, work.lora_targets)
    kind = "adamw_8bit" if work.optimizer == "paged_adamw_8bit" else work.optimizer
    return 4.0 * adapter + optimizer_bytes(adapter, kind)


def saved_per_token(shape: ModelShape, work: Workload) -> dict[str, float]:
    """Bytes per token that one layer's forward keeps for its backward (what checkpointing computes again).

    `fused`: fp16 values: the norms keep their inputs, attention the expanded keys and values alone, the MLP gate, up
    and their product. `peft`: float32 values (float32 norm weights make the stream float32), one fp16 copy of each
    adapted linear's input for the matrix products, and the MLP's activated gate besides.
    """
    wide = work.stream_bytes
    names = lora_names(work.lora_targets)
    inputs = sum(size[0] for name, size in shape.linears.items() if name in names)
    fused = work.adapter == "fused"
    key_value = 2.0 * 2 * shape.key_value
    if shape.kv_heads < shape.heads:
        expanded = 2.0 * 2 * shape.query
        key_value = expanded if fused else key_value + expanded
    parts = {
        "norms": 2.0 * (wide if fused else 2 * 4) * shape.hidden,
        "norm outputs": 2.0 * wide * shape.hidden,
        "queries, keys, values": 2.0 * shape.query + key_value,
        "attention output": 2.0 * shape.query,
        "MLP": (3.0 if fused else 4.0) * wide * shape.intermediate,
        "adapter": 2.0 * work.lora_rank * len(names) + (0 if fused else 2 * inputs),
    }
    if shape.qk_norm:
        parts["query and key norms"] = 4.0 * (shape.query + shape.key_value)
    if work.lora_dropout > 0:
        # The fused function keeps a byte per value; PEFT keeps the dropped copy too.
        parts["dropout masks"] = inputs * (1.0 if fused else 3.0)
    return parts


def backward_per_token(shape: ModelShape, work: Workload) -> float:
    """Bytes per token of the gradients alive while a layer's MLP goes backward: wide ones, and one of the stream.

    `fused`: two wide ones (the input's gradient and, with dropout, the adapter's share of it; then those of gate and
    up, one of which takes the place of theirs). `peft`: three.
    """
    if work.adapter == "fused":
        return work.stream_bytes * (2.0 * shape.intermediate + shape.hidden)
    return 3.0 * work.stream_bytes * shape.intermediate + 4.0 * shape.hidden


def layer_work(shape: ModelShape, work: Workload) -> dict[str, float]:
    """What the one layer in backward needs on top: its activations, their gradients, one dequantised linear (fp16)."""
    saved: float = sum(saved_per_token(shape, work).values()) if work.checkpointing else 0.0
    return {
        "layer at work": work.tokens * (saved + backward_per_token(shape, work)),
        "dequantised linear": 2.0 * shape.largest_linear,
    }


def kept_activations(shape: ModelShape, work: Workload, layers: int) -> float:
    """Activations kept from the forward pass: each layer's input, or without checkpointing all it needs."""
    per_token = float(work.stream_bytes * shape.hidden)
    if not work.checkpointing:
        per_token = sum(saved_per_token(shape, work).values())
    return work.tokens * per_token * layers


def loss_parts(shape: ModelShape, work: Workload, coef: Coefficients = DEFAULT) -> dict[str, float]:
    """The loss: logits of one chunk (or of all tokens), and the head in fp16 where it is stored as something else."""
    supervised = math.ceil(work.tokens * work.supervised)
    rows = work.tokens if work.loss == "full" else min(work.loss_chunk, supervised)
    per_logit = coef.full_logit if work.loss == "full" else coef.chunk_logit
    parts = {"logits and loss": float(rows * shape.vocab * per_logit)}
    if work.upcast or work.head == "nf4":
        # Autocast copies a float32 head to fp16 for the product; a 4-bit head is dequantised slice by slice, the next
        # while the last one still lives.
        whole = 2.0 * shape.embedding
        parts["head in fp16"] = whole if work.upcast else min(whole, 2 * 2.0 * HEAD_SLICE)
    return parts


def phases(
    shape: ModelShape, work: Workload, share: Share, coef: Coefficients = DEFAULT
) -> dict[str, dict[str, float]]:
    """The parts alive in each phase of a run, by phase name."""
    adapter = shape.lora(work.lora_rank, work.lora_targets, share.layers)
    weights = weight_parts(shape, work, share, coef)
    rest = {**weights, "LoRA": 4.0 * adapter, "optimizer": optimizer_bytes(adapter, work.optimizer)}
    if share.exchange:
        rest["gradient exchange"] = coef.exchange
    gradients = 4.0 * adapter
    carried = {"gradients": gradients} if work.accumulation > 1 else {}
    kept = kept_activations(shape, work, share.layers)
    found = {"loading": loading_parts(shape, work, share, weights)}
    if work.upcast:
        found["preparing"] = preparing_parts(shape, work, share, coef)
    if share.head:
        found["loss"] = {**rest, **carried, "activations": kept, **loss_parts(shape, work, coef)}
    if share.layers:
        at_work = layer_work(shape, work)
        one = 1 / share.layers
        first = carried or {"gradients": gradients * one}
        found["backward, last layer"] = {**rest, **first, "activations": kept, **at_work}
        found["backward, first layer"] = {**rest, "gradients": gradients, "activations": kept * one, **at_work}
        found["optimizer step"] = {**rest, "gradients": gradients, **optimizer_work(adapter, work)}
    return found


def optimizer_work(adapter: int, work: Workload) -> dict[str, float]:
    """The step's own buffers: torch's AdamW holds one float32 value per parameter; the 8-bit one works in place."""
    return {"optimizer buffers": 4.0 * adapter} if work.optimizer == "adamw" else {}


def loading_parts(shape: ModelShape, work: Workload, share: Share, weights: dict[str, float]) -> dict[str, float]:
    """Loading: 4-bit layers, both tables in 16 bits wherever they rest later, and what is being quantised.

    A layer's 16-bit matrix stands beside its 4-bit one; so does the head, which comes last, once an embedding for the
    host has left.
    """
    parts = dict(weights)
    if work.upcast:
        parts["norms and biases"] = weights["norms and biases"] / 2
    if share.embedding:
        parts["embedding"] = 2.0 * shape.embedding
    if share.head:
        parts["head"] = 0.0 if shape.tied and share.embedding else 2.0 * shape.embedding
    beside = 2.0 * shape.largest_linear if share.layers else 0.0
    if share.head and work.head == "nf4" and work.embedding == "gpu":
        beside = max(beside, weights["head"])
    parts["being quantised"] = beside
    return parts


def preparing_parts(shape: ModelShape, work: Workload, share: Share, coef: Coefficients = DEFAULT) -> dict[str, float]:
    """The upcast's highest point: all in float32 but for one 16-bit original that its copy has not yet replaced."""
    parts = weight_parts(shape, work, share, coef)
    if (share.embedding and work.embedding == "gpu") or (share.head and work.head == "16bit"):
        parts["16-bit original"] = 2.0 * shape.embedding
    return parts


@dataclass(frozen=True)
class GpuMemory:
    """One GPU's memory through a run. GiB."""

    gpu: int
    """Its index."""
    total: float
    """What the device has."""
    used: float
    """What other jobs hold of it."""
    share: Share
    """What it holds of the model."""
    phases: dict[str, dict[str, float]]
    """Phase -> part -> GiB."""
    context: float
    """The CUDA context."""
    slack: float
    """What the allocator holds on top of the peak."""

    @property
    def peak_phase(self) -> str:
        """The phase with the highest sum."""
        return max(self.phases, key=lambda name: sum(self.phases[name].values()))

    @property
    def peak(self) -> float:
        """Highest allocated memory, as torch's max_memory_allocated counts it."""
        return sum(self.phases[self.peak_phase].values())

    @property
    def step_peak(self) -> float:
        """GiB allocated at the highest point of the steps; loading and preparing come before them."""
        return max(sum(parts.values()) for name, parts in self.phases.items() if name not in ("loading", "preparing"))

    @property
    def needed(self) -> float:
        """What the run takes from the device: peak, slack, context."""
        return self.peak + self.slack + self.context

    @property
    def margin(self) -> float:
        """What is left; below 0 it does not fit."""
        return self.total - self.used - self.needed

    @property
    def stack(self) -> dict[str, float]:
        """The device's memory at the peak, part by part, from the bottom up."""
        others = {"other jobs": self.used} if self.used else {}
        parts = {name: size for name, size in self.phases[self.peak_phase].items() if size > 0}
        return {**others, "CUDA context": self.context, **parts, "allocator slack": self.slack}


def gpu_memory(
    shape: ModelShape,
    work: Workload,
    share: Share,
    gpu: int = 0,
    total: float = 14.74,
    used: float = 0.0,
    coef: Coefficients = DEFAULT,
) -> GpuMemory:
    """The memory of GPU number `gpu` with `total` GiB, `used` of them by other jobs, holding `share` of the model."""
    in_gib = {
        phase: {part: size / GIB for part, size in parts.items()}
        for phase, parts in phases(shape, work, share, coef).items()
    }
    peak = max(sum(parts.values()) for parts in in_gib.values())
    return GpuMemory(gpu, total, used, share, in_gib, coef.context / GIB, peak * coef.slack)
