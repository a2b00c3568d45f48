"""Checkpoints that count: saved, proven, named, kept, and found again by the next session.

In the store a checkpoint is a folder `step-000120/` whose MANIFEST.json is written last. Only when every file's digest,
as the store tells it, matches is LATEST.json moved to it, and only after that do older ones go. So LATEST.json names a
complete, verified checkpoint at every moment, wherever the writer is killed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kelron_lib.convergence import Validation, best
from kelron_lib.errors import KelronError
from kelron_lib.manifest import (
    CONFIG,
    LATEST,
    MANIFEST,
    TRAINER_STATE,
    FileRecord,
    Manifest,
    Pointer,
    is_checkpoint_file,
    now,
    record_files,
    recorded_step,
    required_files,
    step_folder,
    step_of,
)
from kelron_lib.store import DamagedFile, Store, unconditionally
from kelron_lib.verify import (
    folder_problems,
    read_manifest,
    readable_pointer,
    step_folders,
    verify,
)


@dataclass(frozen=True)
class Prepared:
    """A checkpoint read and sealed, ready to be sent."""

    folder: Path
    """Its files; nothing may change them until it has arrived."""
    manifest: Manifest
    """What it must be where it arrives; its place in the store is settled when it is sent."""
    config_json: bytes | None
    """None where no config was recorded."""


def prepare_checkpoint(
    folder: Path,
    *,
    config: dict[str, Any],
    config_hash: str,
    data_fingerprint: str,
    world_size: int,
    fp16: bool,
    versions: dict[str, str] | None = None,
    changes: Sequence[dict[str, Any]] = (),
) -> Prepared:
    """Read the trainer's checkpoint `folder` and seal it, with `config` and its `changes` so far beside it.

    A file that changes afterwards no longer fits its seal: such a checkpoint is refused when it is sent. With several
    processes, call it in one of them after all have written. Raises KelronError where the folder is incomplete.
    """
    config_json = (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode()
    step, lowest, files = _read_folder(folder, required_files(world_size, fp16))
    files[CONFIG] = FileRecord(len(config_json), hashlib.sha256(config_json).hexdigest())
    manifest = Manifest(
        step=step,
        prefix=step_folder(step),
        files=files,
        config=json.loads(config_json),
        config_hash=config_hash,
        data_fingerprint=data_fingerprint,
        world_size=world_size,
        fp16=fp16,
        versions=versions or {},
        created=now(),
        changes=json.loads(json.dumps([*changes])),
        best_step=lowest.step if lowest else None,
        best_loss=lowest.loss if lowest else None,
    )
    return Prepared(folder, manifest, config_json)


def send_checkpoint(
    store: Store, prepared: Prepared, *, keep: int = 2, confirm: Callable[[], None] = unconditionally
) -> Manifest:
    """Keep a prepared checkpoint in the store and return its manifest as it stands there.

    Uploads, reads everything back, moves LATEST.json, then deletes what is older than the newest `keep` verified
    checkpoints, but for the one with the lowest validation loss. What the store already holds is not sent again, so it
    may be called again after a failure. `confirm` is called before every change that could harm another session's work,
    the pointer's above all, and raises where this session may not make it. Raises KelronError where the store is full
    or out of reach, or what arrived differs; LATEST.json then still names the checkpoint before.
    """
    if keep < 1:
        raise KelronError(f"{keep} checkpoints cannot be kept: keep at least 1")
    manifest = replace(prepared.manifest, prefix=_free_prefix(store, prepared.manifest.step))
    stored = _already_stored(store, manifest) or _upload(store, replace(prepared, manifest=manifest), confirm)
    if readable_pointer(store) != Pointer.to(stored):
        store.write_bytes(LATEST, Pointer.to(stored).encode(), confirm)
    for prefix in surplus(store, stored, keep):
        discard(store, prefix, confirm)
    return stored


def _read_folder(folder: Path, required: tuple[str, ...]) -> tuple[int, Validation | None, dict[str, FileRecord]]:
    """Step, best validation and files of a trainer's folder. Raises KelronError where one is missing or unreadable."""
    try:
        names = {path.name for path in folder.iterdir() if is_checkpoint_file(path.name)} - {CONFIG}
        if missing := [name for name in required if name not in names]:
            raise KelronError(
                f"{folder} lacks {', '.join(missing)}: a run resumed from it would be another run; save it again"
            )
        where = folder / TRAINER_STATE
        state = where.read_bytes()
        step = recorded_step(state, str(where))
        return step, best(json.loads(state).get("log_history", [])), record_files(folder, names)
    except OSError as error:
        raise KelronError(f"cannot read the checkpoint {folder}: {error.strerror}; save it again") from error


def _free_prefix(store: Store, step: int) -> str:
    """The folder to save a step in: never the one that LATEST.json names, which must stay whole."""
    pointer = readable_pointer(store)
    taken = pointer is not None and pointer.prefix == step_folder(step)
    return step_folder(step, second=taken)


def _already_stored(store: Store, manifest: Manifest) -> Manifest | None:
    """The same checkpoint as the store holds it, verified, or None."""
    for second in (False, True):
        with suppress(DamagedFile):
            stored = read_manifest(store, step_folder(manifest.step, second=second))
            if stored.same_checkpoint(manifest) and not verify(store, stored):
                return stored
    return None


def _upload(store: Store, prepared: Prepared, confirm: Callable[[], None]) -> Manifest:
    """Send the files, the manifest last, and read all of it back."""
    folder, manifest = prepared.folder, prepared.manifest
    discard(store, manifest.prefix, confirm)
    try:
        store.put_files({f"{manifest.prefix}/{name}": folder / name for name in manifest.files if name != CONFIG})
        # That may have taken long enough for another session to take over, and to save this very step here.
        if prepared.config_json is not None:
            store.write_bytes(f"{manifest.prefix}/{CONFIG}", prepared.config_json, confirm)
        store.write_bytes(f"{manifest.prefix}/{MANIFEST}", manifest.encode(), confirm)
        if problems := verify(store, manifest):
            raise KelronError(
                f"step {manifest.step} did not arrive intact in {store.describe()} ({'; '.join(problems)}): "
                "check the disk; the checkpoint before it stays the newest"
            )
    except KelronError:
        # The first error is the one to report; what this cannot remove, the next save overwrites. Where another session
        # writes now, what lies there may be its own.
        with suppress(KelronError):
            discard(store, manifest.prefix, confirm)
        raise
    return manifest


def discard(store: Store, prefix: str, confirm: Callable[[], None] = unconditionally) -> None:
    """Delete a checkpoint, its manifest first: cut off halfway it is an unfinished one, not a damaged one. `confirm` is
    called before each of the two."""
    for path in (f"{prefix}/{MANIFEST}", prefix):
        confirm()
        store.delete(path)


def surplus(store: Store, newest: Manifest, keep: int) -> list[str]:
    """The folders of what is older than the newest `keep` verified checkpoints and not the best, newest first; none
    until there are as many. `newest`, which LATEST.json names, is verified and never among them."""
    older = [prefix for step, prefix in step_folders(store) if step <= newest.step and prefix != newest.prefix]
    kept: list[str] = []
    for prefix in older:
        if len(kept) < keep - 1 and not folder_problems(store, prefix):
            kept.append(prefix)
    if len(kept) < keep - 1:
        return []
    return [prefix for prefix in older if prefix not in kept and step_of(prefix) != newest.best_step]
