"""What a run needs beside the GPU: host memory and disk, by arithmetic on the plan's workload. Sizes in bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kelron_lib.config import RunConfig
from kelron_lib.placement import ModelShape, Workload
from kelron_lib.placement.memory import GIB, Share, checkpoint_bytes, layer_nf4, optimizer_bytes, phases
from kelron_lib.preflight import machine
from kelron_lib.space import IN_WORK, in_store
from kelron_lib.stores import store_folder

LIBRARIES = {"cpu": 0.42 * GIB, "cuda": 1.9 * GIB}
"""torch, transformers and peft in a process: measured on a CPU (torch 2.13), and with CUDA on an H100 (torch 2.11),
where a 14B's probe with random weights peaked at 3.3 GiB with 1.45 GiB of embedding."""


def host_parts(shape: ModelShape, work: Workload, on_gpu: bool) -> dict[str, float]:
    """Host memory of one process while it loads and trains, part by part.

    On a GPU: the embedding, the optimizer's paged states, and the largest tensor on its way in 16 bits. Without one
    everything is here, activations and 16-bit tensors in float32, twice the size that the planner takes them for.
    """
    adapter = shape.lora(work.lora_rank, work.lora_targets)
    if on_gpu:
        paged = optimizer_bytes(adapter, "adamw_8bit") if work.optimizer == "paged_adamw_8bit" else 0.0
        embedding = 2.0 * shape.embedding if work.embedding == "host" else 0.0
        parts = {"libraries": LIBRARIES["cuda"], "embedding": embedding, "paged optimizer states": paged}
        return {**parts, "tensor being loaded": 2.0 * shape.embedding}
    passing = ("activations", "layer at work", "dequantised linear", "logits and loss", "optimizer buffers")
    worst = max(
        2 * sum(parts.get(name, 0.0) for name in passing) for parts in phases(shape, work, Share(shape.layers)).values()
    )
    return {
        "libraries": LIBRARIES["cpu"],
        "4-bit weights": float(shape.layers * layer_nf4(shape)),
        "embedding and head": 4.0 * shape.embedding * (1 if shape.tied else 2),
        "LoRA, gradients, optimizer": 8.0 * adapter + optimizer_bytes(adapter, work.optimizer),
        "activations and loss": worst,
    }


@dataclass(frozen=True)
class DiskNeed:
    """What is written to one place."""

    place: Path
    size: float
    purpose: str


def disk_needs(config: RunConfig, shape: ModelShape, work: Workload, out: Path, download: bool) -> list[DiskNeed]:
    """Everything a run writes, place by place.

    The work folder and the store hold as many checkpoints as `space` says, and the adapter is exported at the end.
    """
    one = checkpoint_bytes(shape, work)
    adapter = 4.0 * shape.lora(work.lora_rank, work.lora_targets)
    needs = [DiskNeed(out / "work", IN_WORK * one + adapter, "work folder and adapter")]
    store = store_folder(config, out)
    if store is not None:
        needs.append(DiskNeed(store, in_store(config) * one, f"store of {config.store.keep} checkpoints"))
    if download:
        needs.append(DiskNeed(machine.hub_cache(), 2.0 * shape.total, "the base's 16-bit weights"))
    return needs


def by_disk(needs: Sequence[DiskNeed]) -> list[tuple[list[DiskNeed], float]]:
    """The needs grouped by the disk they fall on, each with that disk's free bytes."""
    groups: dict[int, tuple[list[DiskNeed], float]] = {}
    for need in needs:
        number, free = machine.disk(need.place)
        groups.setdefault(number, ([], free))[0].append(need)
    return list(groups.values())
