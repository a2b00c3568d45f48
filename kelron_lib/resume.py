"""Whether a stored checkpoint may go on as this run, and what may change on the way.

A checkpoint is of a run: its config and its data decide what every step does. Where they differ from those of the
session, the session is refused with the keys, unless each of them is in MAY_CHANGE and was accepted by name.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kelron_lib.config import RUN_SECTIONS, RunConfig, differing, flat, nearest, to_dict
from kelron_lib.dataset import has_dataset
from kelron_lib.errors import KelronError
from kelron_lib.manifest import Manifest, compare
from kelron_lib.restore import Restored, manifests, restore
from kelron_lib.store import Store

MAY_CHANGE = {
    "train.learning_rate": "the schedule goes on at its step, scaled to the new peak",
    "train.warmup_share": "the schedule goes on at its step, in its new shape",
    "train.epochs": "the rows seen so far stay seen; the schedule goes on at its step, stretched or shortened",
    "train.weight_decay": "it acts from the next step on",
    "train.max_grad_norm": "it acts from the next step on",
    "train.save_steps": "when a checkpoint is made decides nothing that is learned",
    "train.eval_steps": "when the validation loss is taken decides nothing that is learned",
    "train.patience": "it only decides when to end",
    "train.min_improvement": "it only decides when to end",
    "train.least_epochs": "it only decides when to end",
    "train.checkpointing": "the same gradients, by another way through the memory",
    "model.embedding": "the same numbers, in another memory",
}
"""Keys that may change between two sessions of a run, and why: what was learned so far stays valid, every row is still
seen as often as planned, and the state of the optimizer still fits. All others would break one of these: the adapter's
shape and scale, the base and its precision, the rows and their order (data, seed, packing, passes of a step), the
kind of optimizer state."""


@dataclass(frozen=True)
class Start:
    """How a session may begin. Raises KelronError for what cannot be asked."""

    must_resume: bool = False
    """Refuse a store without a checkpoint."""
    accept: Sequence[str] = ()
    """Keys of MAY_CHANGE in which the checkpoint may differ from the config."""
    fresh: bool = False
    """Begin at step 0 although the store holds checkpoints, which are set aside, or is out of reach."""

    def __post_init__(self) -> None:
        if self.fresh and (self.must_resume or self.accept):
            other = "resuming" if self.must_resume else "--accept-change"
            raise KelronError(f"--fresh begins at step 0, where {other} has nothing to go on from: leave one out")
        for key in self.accept:
            if key not in MAY_CHANGE:
                raise KelronError(_why_not(key))


def _why_not(key: str) -> str:
    known = {*flat(to_dict(RunConfig())), "data_fingerprint"}
    if key not in known:
        return f"--accept-change {key}: there is no such config key.{nearest(key, MAY_CHANGE)}"
    if key.partition(".")[0] not in (*RUN_SECTIONS, "data_fingerprint"):
        return f"--accept-change {key}: this may differ in every session, leave it out"
    return (
        f"--accept-change {key}: this decides what the run is and can never change within it; use the value that it "
        f"was begun with, or begin another run (--fresh, or another store.url). May change: {', '.join(MAY_CHANGE)}"
    )


@dataclass(frozen=True)
class Resumed:
    """A checkpoint that this session goes on from."""

    restored: Restored
    changes: list[dict[str, Any]] = field(default_factory=list)
    """What was accepted now: `key`, `from`, `to`, and the `step` from which on it holds."""

    @property
    def all_changes(self) -> list[dict[str, Any]]:
        """Those of earlier sessions, too, oldest first."""
        return [*self.restored.manifest.changes, *self.changes]


def clear_work(work: Path) -> None:
    """Remove the checkpoints that an earlier session left in the work folder: the store's count."""
    for stale in work.glob("checkpoint-*"):
        shutil.rmtree(stale)


def resume_run(
    config: RunConfig,
    store: Store,
    data_fingerprint: str,
    work: Path,
    *,
    accept: Sequence[str] = (),
    data: Path | None = None,
    say: Callable[[str], None],
) -> Resumed | None:
    """The newest verified checkpoint in `work`, or None for an empty store.

    Raises KelronError where the checkpoint belongs to another config or other data, but for the keys in `accept`;
    `data` is the dataset's folder, for what the error says.
    """
    clear_work(work)
    restored = restore(store, work, fp16=config.model.dtype == "float16", say=say)
    if restored is None:
        return None
    manifest = restored.manifest
    keys = _differing_keys(config, manifest, data_fingerprint)
    if any(key not in accept for key in keys):
        raise _refusal(store, manifest, keys, accept, data)
    values = differing(manifest.config, to_dict(config))
    changes = [{"key": key, "from": values[key][0], "to": values[key][1], "step": restored.step} for key in keys]
    for change in changes:
        what = f"{change['key']} was {change['from']} and is {change['to']} from now on"
        say(f"accepted after step {restored.step}: {what}")
    return Resumed(restored, changes)


def require_this_run(
    config: RunConfig, store: Store, data_fingerprint: str | None, *, accept: Sequence[str] = (), data: Path
) -> None:
    """Raise KelronError where all checkpoints of a store are of another run, as their manifests alone tell: nothing
    else is read, and nobody else is in the way of that. `data_fingerprint` is None where the dataset will be the run's.
    """
    found = [
        (manifest, _differing_keys(config, manifest, data_fingerprint or manifest.data_fingerprint))
        for manifest in manifests(store)
    ]
    if found and all(set(keys) - set(accept) for _, keys in found):
        raise _refusal(store, *found[0], accept, data)


def _differing_keys(config: RunConfig, manifest: Manifest, data_fingerprint: str) -> list[str]:
    return compare(manifest, config=to_dict(config), data_fingerprint=data_fingerprint)


def _refusal(
    store: Store, manifest: Manifest, keys: list[str], accept: Sequence[str], data: Path | None
) -> KelronError:
    refused = [key for key in keys if key not in accept]
    line = (
        f"the checkpoint in {store.describe()} is of another run (differing: {', '.join(keys)}): use the "
        "config and data it was made with, or another store.url"
    )
    if all(key in MAY_CHANGE for key in refused):
        line += f"; or go on with the change: {' '.join(f'--accept-change {key}' for key in refused)}"
    if "data_fingerprint" in refused and has_dataset(store, manifest.data_fingerprint):
        line += (
            "; the run's own dataset is in the store: name an empty folder with --data instead of "
            f"{data or 'this one'}, and it is taken from there"
        )
    return KelronError(line)
