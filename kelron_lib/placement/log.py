"""The first attempt's ten placements as they were logged: settings and outcome.

Logged in January 2026 on two T4s with a 14B model in 4 bits: transformers' Trainer, PEFT's usual preparation, LoRA
r=64, fp16 autocast, reentrant checkpointing, rows of at most 1,024 tokens. What the log does not say is assumed:
adapters on the attention only (with more, attempt 2 would have failed on a smaller allocation than the logged 1.45
GiB), rows at their full length, batches of 2 except where it says 1, 8-bit Adam.
"""

from __future__ import annotations

from dataclasses import dataclass

from kelron_lib.placement.maps import auto_layers
from kelron_lib.placement.memory import GIB
from kelron_lib.placement.shapes import ModelShape

T4 = 14.74
"""GiB that torch reports for a T4."""
MODEL = "Qwen/Qwen2.5-14B-Instruct"


@dataclass(frozen=True)
class Outcome:
    """What an attempt comes to."""

    kind: str
    """`oom`, `device`, `no gradient` or `works`."""
    stage: str
    """The stage it fails in; empty where it works."""
    gpu: int | None
    """The GPU that runs out of memory."""
    allocation: float
    """GiB of the allocation that fails."""
    held: tuple[float, ...]
    """GiB in use on each GPU at the end, or the highest where it works; the context included."""
    cause: str
    """The cause in a sentence."""
    model: tuple[float, ...] = ()
    """GiB of weights and adapter on each GPU, which the process holds as long as the trainer lives."""

    @property
    def short(self) -> str:
        """The outcome in a few words."""
        if self.kind == "oom":
            return f"out of memory on GPU {self.gpu}, {self.stage}, {self.allocation:.2f} GiB asked"
        if self.kind == "device":
            return f"device mismatch at the {self.stage}"
        return "no gradient" if self.kind == "no gradient" else "works"


@dataclass(frozen=True)
class Attempt:
    """One logged attempt: its settings, and what happened."""

    number: int
    title: str
    layers: tuple[int, ...]
    """Layers on each visible GPU."""
    head: int
    """GPU of norm and head; the embedding is on GPU 0."""
    layers_now: tuple[int, ...] = ()
    """The layers that today's libraries give for the same settings, where that differs."""
    rotary: bool = True
    """Whether the map names rotary_emb."""
    prepare: bool = True
    """Whether prepare_model_for_kbit_training runs: float32 embedding and head, inputs that require grad."""
    rows: int = 2
    """Rows of 1,024 tokens in a pass."""
    fresh: bool = False
    """Whether the attempt needs a new process (CUDA_VISIBLE_DEVICES is read once)."""
    logged: str = ""
    """The logged outcome in a few words."""
    logged_kind: str = ""
    """`oom`, `device`, `no gradient` or `works`."""
    logged_stage: str = ""
    """Where it failed, if the log says so."""
    logged_gpu: int | None = None
    """On which GPU, if the log says so."""
    logged_allocation: float | None = None
    """GiB of the failed allocation, if the log says so."""
    notes: tuple[str, ...] = ()
    """What today's libraries do, and what remains open."""

    def matches(self, found: Outcome) -> bool:
        """Whether `found` is the logged outcome in everything that the log states."""
        return (
            found.kind == self.logged_kind
            and self.logged_stage in ("", found.stage)
            and self.logged_gpu in (None, found.gpu)
            and (self.logged_allocation is None or abs(found.allocation - self.logged_allocation) < 0.01)
        )


def logged_attempts(shape: ModelShape) -> tuple[Attempt, ...]:
    """The ten, in order. Automatic maps are computed as transformers computes them."""
    return (*_first_five(shape), *_last_five(shape))


def _first_five(shape: ModelShape) -> tuple[Attempt, ...]:
    count, half = shape.layers, shape.layers // 2
    balanced, ten = auto_layers(shape, (T4 * GIB, T4 * GIB)), auto_layers(shape, (10e9, 15e9))
    filled = auto_layers(shape, (10e9, 15e9), balance=False)
    fills = (
        f"the log speaks of 10 GB given to GPU 0, so it is replayed filled to that limit: {filled[0]} layers, 13.9 GiB "
        f"in use against the log's 13.99; auto as computed today puts {ten[0]} there, and 2.9 GiB stay unexplained"
    )
    return (
        Attempt(
            1, "auto map", balanced, 1, logged="device mismatch", logged_kind="device",
            notes=("transformers 5 moves labels and count to the logits; 4.51 left the count (its issue 37886)",),
        ),
        Attempt(
            2, "single GPU, 1 x 1024", (count,), 0, rows=1, fresh=True, logged="out of memory, 1.45 GiB asked",
            logged_kind="oom", logged_gpu=0, logged_allocation=1.45,
            notes=("PEFT 0.21 still casts embedding and head to float32; Kelron does without the call",),
        ),
        Attempt(
            3, "half the layers on each GPU, head on GPU 1", (half, count - half), 1, fresh=True,
            logged="device mismatch", logged_kind="device",
            notes=("the log does not say whether the map named rotary_emb; without it the mismatch comes earlier",),
        ),
        Attempt(
            4, "auto map, max_memory 10GB/15GB", filled, 1, layers_now=ten, logged="out of memory on GPU 0, 2.9 GiB",
            logged_kind="oom", logged_gpu=0, logged_allocation=2.90, notes=(fills,),
        ),
        Attempt(
            5, "auto map, max_memory 4GiB/15GiB", auto_layers(shape, (4 * GIB, 15 * GIB)), 1,
            logged="device mismatch, labels and logits", logged_kind="device", logged_stage="loss",
            notes=("the labels would move today, and the loss would go on to ask for what GPU 1 does not have",),
        ),
    )  # fmt: skip


def _last_five(shape: ModelShape) -> tuple[Attempt, ...]:
    count, third = shape.layers, shape.layers // 3
    return (
        Attempt(
            6, "sandwich: all layers on GPU 1", (0, count), 0, logged="out of memory on GPU 1 while loading",
            logged_kind="oom", logged_stage="loading", logged_gpu=1,
            notes=("same map as attempt 10; the log reads 14.62 of 14.74 in use",),
        ),
        Attempt(
            7, "balanced sandwich without rotary_emb", (third, count - third), 0, rotary=False,
            logged="device mismatch, cpu and cuda:0, at rotary_emb", logged_kind="device",
            logged_stage="rotary embedding",
            notes=("transformers 5 moves rotary frequencies to their input; accelerate checks maps for weights only",),
        ),
        Attempt(
            8, "balanced sandwich, complete", (third, count - third), 0,
            logged="out of memory, preparing, 2.90 GiB asked", logged_kind="oom", logged_stage="preparing",
            logged_allocation=2.90, notes=("same layers as attempt 7, which got past this",),
        ),
        Attempt(
            9, "balanced sandwich, no preparation", (third, count - third), 0, prepare=False,
            logged="no gradient (element 0 does not require grad)", logged_kind="no gradient",
            notes=("transformers 5 checkpoints non-reentrantly by default and lets the inputs require grad",),
        ),
        Attempt(
            10, "sandwich again, prepared", (0, count), 0, logged="works", logged_kind="works",
            notes=("the log reads about 12 GB on GPU 1 while the layers load: 11.6 GiB are 12.5 GB",),
        ),
    )  # fmt: skip
