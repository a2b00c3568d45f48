"""Merged weights: W + scale * B A in float32, put into a copy of the base's own checkpoint, shard by shard.

Each shard is copied and its tensors are changed where they lie, so that no more than one matrix and its update is in
memory, and all that no adapter touches (biases, norms, embedding, tied or not) stays byte for byte what it was. The
full-precision checkpoint is changed, not the 4-bit copy of it that training ran on, whose rounding would stay in the
weights for good.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kelron_lib.errors import KelronError
from kelron_lib.hub_client import Hub, no_progress_bars
from kelron_lib.publish.adapter import Adapter, require_fit, tensor_name
from kelron_lib.publish.tensors import Place, TensorFile, read_header
from kelron_lib.runtime import read_json

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
CONFIG = "config.json"


def shards_of(base: Path) -> list[str]:
    """The names of a checkpoint's safetensors files, in order. Raises KelronError where one is missing."""
    if (base / INDEX).is_file():
        index = read_json(base / INDEX)
        names = sorted(set(index.get("weight_map", {}).values()))
    else:
        names = [SINGLE]
    lacking = [name for name in names if not (base / name).is_file()]
    if not names or lacking:
        raise KelronError(
            f"the base in {base} has no {lacking[0] if lacking else SINGLE}: merged weights are made from a whole "
            "checkpoint in safetensors"
        )
    return names


def merged_bytes(base: Path) -> int:
    """Bytes that the merged weights take."""
    return sum((base / name).stat().st_size for name in shards_of(base))


def plan_merge(base: Path, adapter: Adapter) -> dict[str, dict[str, Place]]:
    """The tensors of every shard, read from the headers alone.

    Raises KelronError unless the adapter's every factor fits a weight that is there exactly once, as a float.
    """
    found = {name: read_header(base / name) for name in shards_of(base)}
    weights: dict[str, Place] = {}
    for shard, places in found.items():
        for name, place in places.items():
            if name in weights:
                raise KelronError(
                    f"{name} stands twice in the base in {base}, the second time in {shard}: get it again"
                )
            weights[name] = place
    linears: dict[str, tuple[int, int]] = {}
    for module in adapter.modules:
        held = weights.get(f"{module}.weight")
        if held is not None and len(held.shape) == 2:
            linears[module] = (held.shape[1], held.shape[0])
    if packed := [name for name in weights if name.endswith((".quant_map", ".absmax"))]:
        raise KelronError(
            f"the base in {base} is quantised ({packed[0]}): merge into its full-precision checkpoint, named with "
            "--set model.base"
        )
    require_fit(adapter, linears, base.name)
    return found


def merge(base: Path, adapter: Adapter, out: Path, say: Callable[[str], None]) -> None:
    """Write the base's weights with the adapter in them, its config and its index, into the folder `out`.

    What a cut leaves has no config.json, which is written last, and so loads nowhere. Raises KelronError where they do
    not fit (before anything is written), or a merged value is not finite in the checkpoint's dtype.
    """
    found = plan_merge(base, adapter)
    left = set(adapter.modules)
    for number, (shard, places) in enumerate(found.items(), start=1):
        modules = [name.removesuffix(".weight") for name in places if name.removesuffix(".weight") in left]
        shutil.copyfile(base / shard, out / shard)
        _merge_shard(out / shard, adapter, modules)
        left -= set(modules)
        say(
            f"{number} of {len(found)} shards merged: {len(modules)} weights changed, {len(places) - len(modules)} kept"
        )
    assert not left, left
    if (base / INDEX).is_file():
        shutil.copyfile(base / INDEX, out / INDEX)
    (out / CONFIG).write_text(json.dumps(_config(base), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _merge_shard(shard: Path, adapter: Adapter, modules: list[str]) -> None:
    import torch

    with TensorFile(shard, change=True) as weights, adapter.open() as factors:
        for module in modules:
            name = f"{module}.weight"
            weight = weights.read(name)
            a, b = (factors.read(tensor_name(module, factor)).float() for factor in "AB")
            merged = weight.float().addmm_(b, a, alpha=adapter.scale).to(weight.dtype)
            if not torch.isfinite(merged).all():
                raise KelronError(
                    f"{name} with the adapter in it has values that {weights.places[name].dtype} cannot hold: publish "
                    "the adapter itself, without --merge"
                )
            weights.write(name, merged)


def _config(base: Path) -> Mapping[str, Any]:
    """The base's config.json without the place that it was once loaded from."""
    config: dict[str, Any] = read_json(base / CONFIG)
    config.pop("_name_or_path", None)
    return config


def base_folder(name: str, hub: Hub | None = None) -> Path:
    """The folder with a base's whole checkpoint, fetched into the Hub client's cache where `name` is none here.

    Raises KelronError where it cannot be had.
    """
    if Path(name).is_dir():
        return Path(name)
    asked = hub or Hub()
    wanted = ["*.safetensors", INDEX, CONFIG]
    with no_progress_bars():
        return Path(
            asked.ask(f"fetch the weights of {name}", lambda: asked.api.snapshot_download(name, allow_patterns=wanted))
        )
