"""The finished adapter: a checkpoint's, as its user will load it."""

from __future__ import annotations

import shutil
from pathlib import Path

from kelron_lib.model import name_base

ADAPTER_FILES = ("adapter_model.safetensors", "adapter_config.json")


def export_adapter(checkpoint: Path, out: Path, base: str) -> None:
    """Copy a checkpoint's adapter to `out/adapter`, as one of `base`, replacing an older one."""
    target, fresh = out / "adapter", out / "adapter.part"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    for name in ADAPTER_FILES:
        shutil.copyfile(checkpoint / name, fresh / name)
    name_base(fresh, base)
    if target.exists():
        shutil.rmtree(target)
    fresh.rename(target)
