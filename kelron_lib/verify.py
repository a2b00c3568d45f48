"""What a checkpoint store holds and whether it is intact: every answer comes from reading the store, file by file."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from kelron_lib.dataset import stored_dataset_line
from kelron_lib.manifest import (
    LATEST,
    MANIFEST,
    Manifest,
    Pointer,
    digest_problems,
    size_problems,
    step_folder,
    step_of,
)
from kelron_lib.store import DamagedFile, MissingFile, Store

CLOCKS_APART = 60.0
"""Seconds by which another machine's clock may be ahead without a word."""


def latest(store: Store) -> Manifest | None:
    """The manifest of the checkpoint that LATEST.json names, or None where no checkpoint was ever completed.

    Raises DamagedFile where LATEST.json or that manifest is damaged; the other files are for `verify`.
    """
    try:
        pointer = Pointer.decode(store.read_bytes(LATEST))
    except MissingFile:
        return None
    manifest = read_manifest(store, pointer.prefix)
    if Pointer.to(manifest) != pointer:
        raise DamagedFile(f"{pointer.prefix}/{MANIFEST} is not the one that {LATEST} names")
    return manifest


def newest_verified(store: Store) -> Manifest | None:
    """The newest checkpoint that is intact, byte for byte, whatever is wrong with others or with LATEST.json; None
    where there is none."""
    pointer = readable_pointer(store)
    prefixes = [prefix for _, prefix in step_folders(store)]
    if pointer is not None and pointer.prefix in prefixes:  # ahead of it lies at most a save that was cut off
        prefixes.remove(pointer.prefix)
        prefixes.insert(0, pointer.prefix)
    intact = (prefix for prefix in prefixes if not folder_problems(store, prefix))
    return next((read_manifest(store, prefix) for prefix in intact), None)


def verify(store: Store, which: int | Manifest) -> list[str]:
    """What is wrong with the checkpoint of a step, one line each; empty if every byte is as it was saved."""
    if isinstance(which, Manifest):
        return folder_problems(store, which.prefix, which)
    pointer = readable_pointer(store)
    folders = [prefix for step, prefix in step_folders(store) if step == which]
    if pointer is not None and pointer.step == which:
        return folder_problems(store, pointer.prefix)
    return folder_problems(store, folders[0] if folders else step_folder(which))


def list_checkpoints(store: Store, *, bytewise: bool = True) -> list[CheckpointInfo]:
    """Every checkpoint of the store, newest first, each verified; without `bytewise` looked at only."""
    pointer = readable_pointer(store)
    best_step = None
    if pointer is not None:
        with suppress(DamagedFile):
            best_step = read_manifest(store, pointer.prefix).best_step
    return [
        _inspect(
            store,
            step,
            prefix,
            latest=pointer is not None and pointer.prefix == prefix,
            best=step == best_step,
            bytewise=bytewise,
        )
        for step, prefix in step_folders(store)
    ]


def verify_store(store: Store) -> StoreReport:
    """Verify every checkpoint of a store, the pointer to the one that a run resumes from, and the dataset."""
    checkpoints = list_checkpoints(store)
    problems, dataset = [], ""
    try:
        if latest(store) is None:
            problems.append(f"{LATEST} is missing: no run has completed a checkpoint here, or the file was lost")
    except DamagedFile as damage:
        problems.append(str(damage))
    try:
        dataset = stored_dataset_line(store)
    except DamagedFile as damage:
        problems.append(str(damage))
    return StoreReport(store.describe(), checkpoints, problems, dataset)


@dataclass(frozen=True)
class CheckpointInfo:
    """One checkpoint of a store."""

    step: int
    prefix: str
    """Its folder in the store."""
    size: int
    """Bytes that the folder takes."""
    age: float | None
    """Seconds since it was saved; None where no intact manifest tells, or it was saved by a clock ahead of this one."""
    latest: bool
    """Whether LATEST.json names it."""
    state: str
    """`verified`; `complete`, where only sizes were looked at; `damaged`; or `unfinished`: without a manifest, since
    its saving or deletion was cut off."""
    problems: list[str]
    """What is wrong, one line each."""
    best: bool = False
    """Whether its validation loss is the lowest of the run, as far as the newest checkpoint knows."""

    def line(self) -> str:
        """The checkpoint in one line of text."""
        age = "age unknown" if self.age is None else f"{age_words(self.age)} old"
        named = [*["latest"] * self.latest, *["best"] * self.best]
        parts = [f"step {self.step}", size_words(self.size), age, *named, self.state]
        return ", ".join(parts) + (": " if self.problems else "") + "; ".join(self.problems)


def sound(checkpoints: list[CheckpointInfo], intact: str) -> bool:
    """Whether LATEST.json names one whose state is `intact`, and none is damaged."""
    named = any(checkpoint.latest and checkpoint.state == intact for checkpoint in checkpoints)
    return named and not any(checkpoint.state == "damaged" for checkpoint in checkpoints)


def size_words(size: int) -> str:
    """Bytes, for people."""
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def age_words(seconds: float) -> str:
    """How long ago, for people."""
    minutes = seconds / 60
    if minutes < 120:
        return f"{minutes:.0f} min"
    return f"{minutes / 60:.0f} h" if minutes < 48 * 60 else f"{minutes / 60 / 24:.0f} days"


@dataclass(frozen=True)
class StoreReport:
    """The state of a store."""

    store: str
    """The store in words."""
    checkpoints: list[CheckpointInfo]
    """Newest first."""
    problems: list[str]
    """What is wrong with LATEST.json or the dataset."""
    dataset: str
    """The dataset in a line; empty where it is damaged."""

    @property
    def ok(self) -> bool:
        """LATEST.json names a verified checkpoint, and nothing is damaged (what is unfinished is only ignored)."""
        return sound(self.checkpoints, "verified") and not self.problems

    def lines(self) -> list[str]:
        """The report as lines of text."""
        head = f"{self.store}: {'all is well' if self.ok else 'something is wrong'}"
        dataset = [self.dataset] if self.dataset and self.checkpoints else []
        return [head, *self.problems, *(checkpoint.line() for checkpoint in self.checkpoints), *dataset]


def step_folders(store: Store) -> list[tuple[int, str]]:
    """Step and name of every step folder that holds anything, newest first."""
    tops = {entry.path.split("/")[0] for entry in store.list() if "/" in entry.path}
    return sorted(((step, top) for top in tops if (step := step_of(top)) is not None), reverse=True)


def readable_pointer(store: Store) -> Pointer | None:
    """LATEST.json, or None where it is missing or damaged."""
    try:
        return Pointer.decode(store.read_bytes(LATEST))
    except DamagedFile:
        return None


def read_manifest(store: Store, prefix: str) -> Manifest:
    """The manifest of a folder of the store. Raises DamagedFile where it is missing, damaged or of another."""
    where = f"{prefix}/{MANIFEST}"
    manifest = Manifest.decode(store.read_bytes(where), where)
    if manifest.prefix != prefix or manifest.step != step_of(prefix):
        raise DamagedFile(f"{where} belongs to {manifest.prefix}")
    return manifest


def folder_problems(store: Store, prefix: str, expected: Manifest | None = None, *, bytewise: bool = True) -> list[str]:
    """What is wrong with a folder of the store, by its own manifest, which must be `expected` if that is given.

    Without `bytewise` files are only looked for and their sizes compared.
    """
    return _read_folder(store, prefix, expected, bytewise)[1]


def _read_folder(
    store: Store, prefix: str, expected: Manifest | None, bytewise: bool
) -> tuple[Manifest | None, list[str]]:
    """The manifest of a folder, None where it cannot be read, and what is wrong with the folder."""
    try:
        manifest = read_manifest(store, prefix)
    except DamagedFile as damage:
        return None, [str(damage)]
    if expected is not None and manifest != expected:
        return manifest, [f"{prefix}/{MANIFEST} is another checkpoint's than the one asked for"]
    wrong = size_problems(store, prefix, manifest.files)
    intact = manifest.files.keys() - wrong.keys() if bytewise else set()
    changed = digest_problems(prefix, manifest.files, sorted(intact), store.sha256)
    return manifest, [*wrong.values(), *changed]


def _inspect(
    store: Store, step: int, prefix: str, *, latest: bool, best: bool, bytewise: bool = True
) -> CheckpointInfo:
    """One checkpoint, verified; without `bytewise` only its manifest is read, and its files' sizes are compared."""
    entries = store.list(prefix)
    finished = any(entry.path == f"{prefix}/{MANIFEST}" for entry in entries)
    manifest, problems = _read_folder(store, prefix, None, bytewise)
    intact = "verified" if bytewise else "complete"
    state = intact if not problems else "damaged" if finished or latest else "unfinished"
    age = None
    if manifest is not None and not problems:
        age = (datetime.now(UTC) - datetime.fromisoformat(manifest.created)).total_seconds()
        age = max(0.0, age) if age > -CLOCKS_APART else None
    return CheckpointInfo(step, prefix, sum(entry.size for entry in entries), age, latest, state, problems, best)
