"""Device maps: which module sits on which device, in transformers' module names, complete.

A map that leaves a module out leaves it on the CPU; the first attempt lost a run to a missing rotary_emb.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kelron_lib.placement.memory import Share
from kelron_lib.placement.shapes import ModelShape

Device = int | str
DeviceMap = dict[str, Device]


@dataclass(frozen=True)
class Split:
    """A placement of one model copy: layers per GPU, and the GPU with embedding, rotary, norm and head."""

    layers: tuple[int, ...]
    """Decoder layers on each GPU, in order."""
    ends: int = 0
    """The GPU that holds input and output."""

    def shares(self) -> tuple[Share, ...]:
        """What each GPU holds."""
        return tuple(
            Share(layers=count, embedding=gpu == self.ends, head=gpu == self.ends)
            for gpu, count in enumerate(self.layers)
        )


def modules(shape: ModelShape) -> list[str]:
    """Every module that a device map has to place, in the order of the forward pass."""
    layers = [f"model.layers.{index}" for index in range(shape.layers)]
    return ["model.embed_tokens", "model.rotary_emb", *layers, "model.norm", "lm_head"]


def device_map(shape: ModelShape, split: Split, embedding: str = "gpu") -> DeviceMap:
    """The map of one copy. With `embedding="host"` the embedding is on the CPU.

    transformers refuses a CPU entry for a 4-bit model unless llm_int8_enable_fp32_cpu_offload is set.
    """
    places = [gpu for gpu, count in enumerate(split.layers) for _ in range(count)]
    found: DeviceMap = dict.fromkeys(modules(shape), split.ends)
    found.update({f"model.layers.{index}": gpu for index, gpu in enumerate(places)})
    if embedding == "host":
        found["model.embed_tokens"] = "cpu"
    return found


def missing(found: DeviceMap, shape: ModelShape) -> list[str]:
    """Modules that a map does not place."""
    return [name for name in modules(shape) if name not in found]


def spread(layers: int, free: Sequence[float]) -> tuple[int, ...]:
    """`layers` over GPUs in proportion to their free memory (largest remainder), in order."""
    room = [max(size, 0.0) for size in free]
    whole = sum(room) or 1.0
    exact = [layers * size / whole for size in room]
    counts = [int(value) for value in exact]
    by_remainder = sorted(range(len(room)), key=lambda gpu: counts[gpu] - exact[gpu])
    for gpu in by_remainder[: layers - sum(counts)]:
        counts[gpu] += 1
    return tuple(counts)


def sandwich(shape: ModelShape, free: Sequence[float]) -> Split:
    """Input and output on GPU 0, all layers on the others."""
    return Split(layers=(0, *spread(shape.layers, free[1:])))


def balanced_choices(shape: ModelShape, free: Sequence[float]) -> Iterable[Split]:
    """Every split with input, output and some layers on GPU 0, the rest of the layers on the others."""
    for here in range(shape.layers):
        yield Split(layers=(here, *spread(shape.layers - here, free[1:])))


def auto_layers(shape: ModelShape, limits: Sequence[float], balance: bool = True) -> tuple[int, int]:
    """Layers on GPU 0 and on GPU 1 that `device_map="auto"` gives, with `limits` as max_memory in bytes.

    transformers 5.23: half the model and 1.25 x the largest module on GPU 0 at most, times 0.9 for 4-bit models,
    less the largest module kept free on GPU 0; without `balance` GPU 0 is filled up to its limit. The head, the norm
    and rotary_emb end up on GPU 1.
    """
    layer = shape.layer_weights / 2 + 2.0 * (shape.layer_norms + shape.layer_biases)
    embedding = 2.0 * shape.embedding
    whole = shape.layers * layer + 2 * embedding + 2 * shape.hidden
    largest = max(layer, embedding)
    half = whole / 2 + 1.25 * largest if balance else limits[0]
    room = 0.9 * min(limits[0], half) - largest - embedding
    here = max(0, min(shape.layers, int(room / layer)))
    return here, shape.layers - here
