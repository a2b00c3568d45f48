"""The finished adapter: a checkpoint's, as its user will load it."""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from kelron_lib.config import RunConfig, as_overrides, differing, to_dict
from kelron_lib.convergence import Validation, best
from kelron_lib.errors import KelronError
from kelron_lib.manifest import TRAINER_STATE, digest_problems, step_folder
from kelron_lib.model import name_base
from kelron_lib.runtime import read_json, write_json
from kelron_lib.store import DamagedFile, Store, sha256_file
from kelron_lib.verify import read_manifest

ADAPTER_FILES = ("adapter_model.safetensors", "adapter_config.json")
MADE_FROM = "kelron.json"
"""In an exported adapter's folder: the config and the data that it was made from."""
ABOUT_THE_RUN = ("model.base", "lora", "data")
"""Parts of a config that decide what an adapter is and what it is asked."""


@dataclass(frozen=True)
class MadeFrom:
    """What an adapter was made from."""

    base: str
    """The base's name, for whoever loads the adapter."""
    data_fingerprint: str
    """`kelron_lib.data.fingerprint` of its dataset."""
    config: Mapping[str, Any]
    """The run's config, as `to_dict` gives it."""


def made_from(adapter: Path) -> MadeFrom | None:
    """What an adapter says that it was made from; None where it does not say, having come from elsewhere.

    Raises KelronError for a file that cannot be read.
    """
    file = adapter / MADE_FROM
    if not file.is_file():
        return None
    try:
        told = read_json(file)
        return MadeFrom(**{field.name: told[field.name] for field in fields(MadeFrom)})
    except (KelronError, KeyError, TypeError):
        raise KelronError(
            f"{file} does not tell what the adapter was made from: export it again, or remove it"
        ) from None


def require_its_config(config: RunConfig, made: MadeFrom, adapter: Path, advice: str) -> None:
    """Raise KelronError where a config is not of the run that made an adapter; `advice` stands before its values."""
    if changed := differing(made.config, to_dict(config), ABOUT_THE_RUN):
        values = as_overrides({key: then for key, (then, _) in changed.items()})
        raise KelronError(
            f"the adapter in {adapter} is of a run with {', '.join(values)}: {advice} "
            f"({' '.join(f'--set {shlex.quote(value)}' for value in values)})"
        )


def adapter_digest(adapter: Path) -> str:
    """sha256 (hex) over an adapter's weights and settings: two adapters are one only where these are."""
    files = {path.name: sha256_file(path) for path in sorted(adapter.glob("adapter_*")) if path.is_file()}
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()


def export_adapter(checkpoint: Path, out: Path, made: MadeFrom) -> None:
    """Copy a checkpoint's adapter to `out/adapter`, with what it was `made` from, replacing an older one."""
    target, fresh = out / "adapter", out / "adapter.part"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    for name in ADAPTER_FILES:
        shutil.copyfile(checkpoint / name, fresh / name)
    name_base(fresh, made.base)
    write_json(fresh / MADE_FROM, asdict(made))
    if target.exists():
        shutil.rmtree(target)
    fresh.rename(target)


def wants_best(config: RunConfig, *, early: bool) -> bool:
    """Whether the adapter is to be the best checkpoint's; `early`: a plateau ended training."""
    return config.store.export == "best" or (config.store.export == "auto" and early)


def export_best(store: Store, last: Path, out: Path, made: MadeFrom, scratch: Path) -> str:
    """Export the adapter with the lowest validation loss in place of the last one's, as the log in `last` tells.

    Returns what there is to say of it; empty where the last checkpoint is the best.
    """
    lowest = best(read_json(last / TRAINER_STATE)["log_history"])
    if lowest is None or last.name == f"checkpoint-{lowest.step}":
        return ""
    for second in (True, False):
        if _export_stored(store, step_folder(lowest.step, second=second), lowest, out, made, scratch):
            return f"; the adapter is of step {lowest.step}, where the validation loss was lowest ({lowest.loss:.4f})"
    return f"; the adapter is the last one: the store does not hold the best one, of step {lowest.step}, intact"


def _export_stored(store: Store, prefix: str, wanted: Validation, out: Path, made: MadeFrom, scratch: Path) -> bool:
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        manifest = read_manifest(store, prefix)
        for name in ADAPTER_FILES:
            store.get_file(f"{prefix}/{name}", scratch / name)
        if manifest.best_loss not in (None, wanted.loss) or digest_problems(
            prefix, manifest.files, [*ADAPTER_FILES], lambda path: sha256_file(scratch / path.rpartition("/")[2])
        ):
            return False
        export_adapter(scratch, out, made)
    except DamagedFile:
        return False
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return True
