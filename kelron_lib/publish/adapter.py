"""The adapter: whether it is plain LoRA that fits its base, and its weights in 16 bits."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kelron_lib.errors import KelronError
from kelron_lib.placement import ModelShape
from kelron_lib.publish.tensors import TensorFile, read_header
from kelron_lib.runtime import read_json

SETTINGS, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_NAME = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<factor>[AB])\.weight")
_NOT_PLAIN = (
    *("use_dora", "lora_bias", "use_qalora", "fan_in_fan_out", "rank_pattern", "alpha_pattern", "modules_to_save"),
    *("layer_replication", "trainable_token_indices", "target_parameters"),
)
"""Settings of PEFT that make an update more than scale * B A; Kelron's training sets none of them."""
_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter on the disk, its weights not read."""

    folder: Path
    rank: int
    scale: float
    """The update of a weight is scale * B A."""
    targets: tuple[str, ...]
    """Names of the linears that it is on, sorted."""
    modules: tuple[str, ...]
    """The modules that it changes, by the base's own names."""
    settings: Mapping[str, Any]
    """adapter_config.json."""

    def open(self) -> TensorFile:
        """Its weights."""
        return TensorFile(self.folder / WEIGHTS)


def tensor_name(module: str, factor: str) -> str:
    """The name of a module's factor, `A` (rank x in) or `B` (out x rank)."""
    return f"base_model.model.{module}.lora_{factor}.weight"


def read_adapter(folder: Path) -> Adapter:
    """What a folder's adapter is. Raises KelronError where it is not plain LoRA, or a factor is missing."""
    settings = _settings(folder / SETTINGS)
    if not (folder / WEIGHTS).is_file():
        raise KelronError(f"no {WEIGHTS} in {folder}: save the adapter again, as safetensors")
    if special := [name for name in _NOT_PLAIN if settings.get(name)]:
        raise KelronError(f"the adapter in {folder} has {', '.join(special)} set: only plain LoRA can be published")
    names = read_header(folder / WEIGHTS)
    found: dict[str, set[str]] = {}
    for name in names:
        if not (match := _NAME.fullmatch(name)):
            raise KelronError(f"{name} in {folder} is no LoRA factor: only plain LoRA can be published")
        found.setdefault(match["module"], set()).add(match["factor"])
    for module, factors in found.items():
        if missing := {"A", "B"} - factors:
            raise KelronError(f"{tensor_name(module, missing.pop())} is missing in {folder}: export the adapter again")
    rank, alpha = settings.get("r"), settings.get("lora_alpha")
    if not isinstance(rank, int) or not isinstance(alpha, int | float):
        raise KelronError(f"{folder / SETTINGS} has r {rank!r} and lora_alpha {alpha!r}, no numbers: copy it again")
    if not found or rank < 1 or alpha <= 0:
        raise KelronError(
            f"the adapter in {folder} changes nothing (rank {rank}, alpha {alpha:g}, {len(found)} layers)"
        )
    targets = tuple(sorted({module.rpartition(".")[2] for module in found}))
    scale = alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)
    return Adapter(folder, rank, scale, targets, tuple(found), settings)


def _settings(file: Path) -> dict[str, Any]:
    settings = read_json(file, "copy it again, or name another adapter with --adapter")
    if not isinstance(settings, dict) or settings.get("peft_type") != "LORA":
        raise KelronError(f"{file} is not of a LoRA adapter: name the adapter that `kelron train` left")
    return settings


def linears_of(shape: ModelShape, targets: Sequence[str]) -> dict[str, tuple[int, int]]:
    """(in, out) features of every module of a base that an adapter on `targets` is on, by the base's own names."""
    return {
        f"model.layers.{layer}.{'self_attn' if name in _ATTENTION else 'mlp'}.{name}": size
        for layer in range(shape.layers)
        for name, size in shape.linears.items()
        if name in targets
    }


def require_fit(adapter: Adapter, linears: Mapping[str, tuple[int, int]], base: str) -> None:
    """Raise KelronError, naming the first tensor, unless the adapter covers every module of `linears` once and no
    other, in its shape."""
    with adapter.open() as file:
        for module in sorted(adapter.modules):
            for factor in "AB":
                name = tensor_name(module, factor)
                if module not in linears:
                    raise _unfit(adapter, base, f"{name} belongs to no layer of it")
                features, out = linears[module]
                wanted = (adapter.rank, features) if factor == "A" else (out, adapter.rank)
                if (shape := file.places[name].shape) != wanted:
                    raise _unfit(adapter, base, f"{name} is {_times(shape)} where {_times(wanted)} is due")
    if missing := sorted(linears.keys() - set(adapter.modules)):
        raise _unfit(adapter, base, f"{tensor_name(missing[0], 'A')} is missing")


def _unfit(adapter: Adapter, base: str, why: str) -> KelronError:
    return KelronError(
        f"the adapter in {adapter.folder} does not fit the base {base}: {why}; use the --preset and the model.base "
        "that it was trained with"
    )


def _times(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def write_half(adapter: Adapter, out: Path) -> dict[str, Any]:
    """Write its weights to `out` in float16, from the masters that training kept in float32.

    Returns {"from": dtypes, "largest": largest absolute value, "vanished": share of nonzero values that float16 rounds
    to zero}. Raises KelronError for a value that is not finite, or that float16 cannot hold.
    """
    import torch
    from safetensors.torch import save_file

    halves, largest, vanished, nonzero = {}, 0.0, 0, 0
    with adapter.open() as file:
        dtypes = sorted({place.dtype for place in file.places.values()})
        for name in file.places:
            master = file.read(name)
            half = master.to(torch.float16)
            if not torch.isfinite(master).all():
                raise KelronError(f"{name} in {adapter.folder} has values that are not finite: train again")
            if not torch.isfinite(half).all():
                raise KelronError(
                    f"{name} in {adapter.folder} has values up to {master.abs().max():.3g}, which float16 cannot hold "
                    f"(at most {torch.finfo(torch.float16).max:.0f}): train again at a lower train.learning_rate"
                )
            halves[name] = half
            largest = max(largest, master.abs().max().item())
            nonzero += int(master.count_nonzero())
            vanished += int(((half == 0) & (master != 0)).sum())
    save_file(halves, out, metadata={"format": "pt"})
    out.chmod(0o644)  # the library gives it to its owner alone
    return {"from": dtypes, "largest": largest, "vanished": vanished / max(1, nonzero)}
