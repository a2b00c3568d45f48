"""The disk that a run takes: asked for before it begins, and told in one line where it runs out nevertheless."""

from __future__ import annotations

from pathlib import Path

from kelron_lib.aside import is_aside
from kelron_lib.config import RunConfig
from kelron_lib.errors import KelronError
from kelron_lib.model import base_name
from kelron_lib.placement import ModelShape, checkpoint_bytes, find_config, read_shape, workload
from kelron_lib.runtime import existing_parent, require_disk
from kelron_lib.store import Store
from kelron_lib.stores import store_folder


def base_shape(config: RunConfig) -> ModelShape:
    """The shape of a run's base, without its weights. Raises KelronError where the base cannot be had."""
    name = base_name(config)
    try:
        return read_shape(find_config(name))
    except KelronError:  # no folder and no well-known base: the hub's own word
        from transformers import AutoConfig

    try:
        return read_shape(AutoConfig.from_pretrained(name))
    except (OSError, ValueError) as error:
        raise KelronError(f"cannot load the config of {name!r}: {str(error).strip().splitlines()[0]}") from None


IN_WORK = 4
"""Checkpoints in the work folder: one, the next while that is written, one on its way to the store, and the best so
far where that still waits."""


def in_store(config: RunConfig) -> int:
    """Checkpoints in the store: the newest, the best, and a new one before the oldest goes."""
    return config.store.keep + 2


def require_space(config: RunConfig, out: Path, store: Store) -> None:
    """Raise KelronError unless there is room for what a run writes, by the size of its adapter.

    What the store holds already needs no room.
    """
    shape, work = base_shape(config), workload(config)
    one, adapter = checkpoint_bytes(shape, work), 4.0 * shape.lora(work.lora_rank, work.lora_targets)
    stored = sum(entry.size for entry in store.list() if not is_aside(entry.path))
    here, there = IN_WORK * one + adapter, max(0.0, in_store(config) * one - stored)
    place, work_folder = store_folder(config, out), out / "work"
    if place is None:
        require_disk(work_folder, round(here), "the work folder")
    elif existing_parent(place).stat().st_dev == existing_parent(work_folder).stat().st_dev:
        require_disk(work_folder, round(here + there), "the work folder and the store")
    else:
        require_disk(work_folder, round(here), "the work folder")
        require_disk(place, round(there), "the store")
