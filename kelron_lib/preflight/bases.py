"""Where the base model is, and its config, without loading it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kelron_lib.config import RunConfig
from kelron_lib.errors import KelronError
from kelron_lib.model import base_name
from kelron_lib.placement import find_config
from kelron_lib.placement.shapes import KNOWN_CONFIGS
from kelron_lib.preflight import machine

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
WEIGHTS = ("*.safetensors", "*.bin")
INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"


@dataclass(frozen=True)
class Base:
    """A base model that was found."""

    fields: Mapping[str, Any]
    """What its config.json holds."""
    where: str
    """In words."""
    download: bool = False
    """Whether its weights have to come from the hub."""
    tokenizer: bool = False
    """Whether its tokenizer is at hand."""


def is_local(config: RunConfig) -> bool:
    """Whether the base is the packaged one, attached to a Kaggle session, or names a folder (there or not)."""
    name = base_name(config)
    return Path(name).exists() or not HUB_ID.fullmatch(name)


def _in_cache(name: str) -> bool:
    """Whether the hub client's cache has the config and all weights of a base."""
    if machine.cached_file(name, "config.json") is None:
        return False
    index = machine.cached_file(name, INDEX)
    if index is None:
        return machine.cached_file(name, SINGLE) is not None
    try:
        files = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError):
        return False
    return all(machine.cached_file(name, file) is not None for file in files)


def needs_hub(config: RunConfig, random_weights: bool) -> bool:
    """Whether a run (or, with random weights, this preflight) has to ask the hub for the base."""
    name = config.model.base
    if is_local(config) or (random_weights and name in KNOWN_CONFIGS):
        return False
    return not _in_cache(name)


def _local(config: RunConfig, random_weights: bool) -> Base:
    name = base_name(config)
    if not Path(name).exists():
        raise KelronError(f"{name!r} is no folder and no hub id (owner/name): check model.base")
    fields = find_config(name)
    folder = Path(name)
    weights = [file for pattern in WEIGHTS for file in sorted(folder.glob(pattern))] if folder.is_dir() else []
    if not weights and not random_weights:
        raise KelronError(f"{name} has a config but no weights (*.safetensors): check model.base")
    where = "the packaged tiny base" if config.model.base == "tiny" else f"{name}, {len(weights)} weight files"
    return Base(fields, where, tokenizer=(folder / "tokenizer_config.json").is_file())


def find_base(config: RunConfig, random_weights: bool, reachable: bool) -> Base:
    """The config's base: the packaged one, a folder, the hub client's cache, or the hub.

    With `random_weights` its config is enough. Raises KelronError where it cannot be found; what kind of model it is,
    is not looked at.
    """
    name = config.model.base
    if is_local(config):
        return _local(config, random_weights)
    if not needs_hub(config, random_weights):
        cached = machine.cached_file(name, "config.json")
        if cached is not None:
            tokenizer = machine.cached_file(name, "tokenizer_config.json") is not None
            return Base(find_config(str(cached)), f"{name}, in {machine.hub_cache()}", tokenizer=tokenizer)
        return Base(find_config(name), f"{name}: its config is known, weights are not needed")
    endpoint = machine.hub_endpoint()
    if not reachable:
        raise KelronError(
            f"{name!r} is not on this machine and {endpoint} cannot be reached: see network, or set model.base to a "
            "folder that holds it"
        )
    return Base(machine.hub_config(name, endpoint), f"{name}, to be downloaded from {endpoint}", download=True)


def known_fields(config: RunConfig) -> dict[str, Any] | None:
    """The base's config as far as this machine knows it, whether or not its weights can be had."""
    try:
        return find_config(base_name(config))
    except KelronError:
        return None
