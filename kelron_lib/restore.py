"""A checkpoint found, fetched and checked: the newest that is intact, wherever the last writer was killed."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from kelron_lib.errors import KelronError
from kelron_lib.manifest import (
    CONFIG,
    LATEST,
    MANIFEST,
    SCALER,
    TRAINER_STATE,
    Manifest,
    Pointer,
    digest_problems,
    is_checkpoint_file,
    join,
    loading_problem,
    record_files,
    recorded_step,
    required_files,
    size_problems,
    step_of,
)
from kelron_lib.store import DamagedFile, Store, sha256_file
from kelron_lib.verify import read_manifest, step_folders

_TRAINER_FOLDER = re.compile(r"checkpoint-([0-9]{1,12})")


@dataclass(frozen=True)
class Restored:
    """A checkpoint brought back, ready for the trainer's `resume_from_checkpoint`."""

    manifest: Manifest
    folder: Path
    """`checkpoint-N`, holding exactly the manifest's files."""
    problems: list[str]
    """What was wrong with newer checkpoints, so that this one was taken; empty if it is the newest."""

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return self.manifest.step


def restore(
    store: Store, into: Path, *, fp16: bool | None = None, say: Callable[[str], None] = print
) -> Restored | None:
    """Bring the newest intact checkpoint to `into/checkpoint-N`; None where none was ever completed.

    Every file is checked after it has arrived. A damaged checkpoint is passed over for the one before it, which
    `say` tells in one line; the store is only read. Folders without Kelron's manifest serve as well (what a hub
    download of one checkpoint gives, or a trainer's output with `checkpoint-N` folders): they must be complete
    and load. `fp16` asks such a folder for the scaler's state. Raises KelronError where something is there but
    nothing intact, and where the store or `into` fails.
    """
    into = Path(into)
    candidates, problems = _candidates(store)
    for candidate in candidates:
        try:
            manifest, folder = _fetch(store, candidate, into, fp16)
        except DamagedFile as damage:
            problems.append(str(damage))
            continue
        if problems:
            say(_fallback_line(problems, candidates[0], manifest))
        if not candidate.sealed:
            say(
                f"step {manifest.step} has no {MANIFEST} in {store.describe()}: its files are complete and load, "
                "but no checksums prove them"
            )
        return Restored(manifest, folder, problems)
    if problems:
        raise KelronError(
            f"no intact checkpoint in {store.describe()}: {'; '.join(problems)}; nothing was deleted: bring back "
            "what is missing, or name another store to start from step 0"
        )
    if unfinished := step_folders(store):
        say(f"the first save, of step {unfinished[0][0]}, was cut off and never counted: starting from step 0")
    return None


def holds_checkpoint(store: Store) -> bool:
    """Whether there is anything to restore, intact or not."""
    candidates, problems = _candidates(store)
    return bool(candidates or problems)


@dataclass(frozen=True)
class _Candidate:
    """A folder of a store that may hold a checkpoint."""

    prefix: str
    step: int | None
    sealed: bool
    """Whether it has a manifest."""
    pointer: Pointer | None = None
    """LATEST.json, where that names this folder."""


def _candidates(store: Store) -> tuple[list[_Candidate], list[str]]:
    """Where to look, best first: what LATEST.json names, then newest first; and what is wrong with LATEST.json."""
    paths = {entry.path for entry in store.list()}
    folders = [(step, prefix) for step, prefix in step_folders(store) if f"{prefix}/{MANIFEST}" in paths]
    if LATEST not in paths and not folders:
        return _bare_candidates(store, paths), []
    try:
        pointer = Pointer.decode(store.read_bytes(LATEST))
    except DamagedFile as damage:
        return [_Candidate(prefix, step, True) for step, prefix in folders], [str(damage)]
    # Ahead of the pointer lies at most a save that was cut off before it counted: the last resort.
    folders.sort(key=lambda folder: folder[0] > pointer.step)
    others = [_Candidate(prefix, step, True) for step, prefix in folders if prefix != pointer.prefix]
    return [_Candidate(pointer.prefix, pointer.step, True, pointer), *others], []


def _bare_candidates(store: Store, paths: set[str]) -> list[_Candidate]:
    """Checkpoints as a trainer or a download leaves them: at the root, or in `checkpoint-N` folders."""
    found = []
    telling = {path for path in paths if is_checkpoint_file(path)} | (paths & {MANIFEST})
    if telling - {CONFIG, "adapter_config.json"}:  # a config alone may lie beside anything
        step = None
        with suppress(DamagedFile):
            step = recorded_step(store.read_bytes(TRAINER_STATE), TRAINER_STATE)
        found.append(_Candidate("", step, sealed=MANIFEST in paths))
    tops = {path.split("/")[0] for path in paths if "/" in path}
    found += [
        _Candidate(top, int(match[1]), sealed=f"{top}/{MANIFEST}" in paths)
        for top in tops
        if (match := _TRAINER_FOLDER.fullmatch(top))
    ]
    return sorted(found, key=lambda candidate: -1 if candidate.step is None else candidate.step, reverse=True)


def _fallback_line(problems: list[str], newest: _Candidate, used: Manifest) -> str:
    lost = (newest.step or 0) - used.step
    steps = f", {lost} steps are lost" if lost > 0 else ""
    return f"damaged: {'; '.join(problems)}; step {used.step} is used instead{steps}"


def _fetch(store: Store, candidate: _Candidate, into: Path, fp16: bool | None) -> tuple[Manifest, Path]:
    """Download a checkpoint into an empty folder, check it there, then give it its place under `into`.

    Raises DamagedFile, with all that is wrong, where it is not intact.
    """
    with _empty_folder(into) as scratch:
        if candidate.sealed:
            manifest = _download_sealed(store, candidate, scratch)
        else:
            manifest = _download_bare(store, candidate, scratch, fp16)
        folder = into / f"checkpoint-{manifest.step}"
        if folder.exists():
            shutil.rmtree(folder)
        scratch.rename(folder)
    return manifest, folder


@contextmanager
def _empty_folder(into: Path) -> Iterator[Path]:
    """A scratch folder under `into`, gone at the end unless it was renamed."""
    scratch = into / ".restoring"
    try:
        if scratch.exists():
            shutil.rmtree(scratch)
        scratch.mkdir(parents=True)
        yield scratch
    except OSError as error:
        raise KelronError(
            f"cannot restore a checkpoint into {into}: {error.strerror}; free space there, or name another folder"
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _download_sealed(store: Store, candidate: _Candidate, scratch: Path) -> Manifest:
    """The files of a checkpoint that has a manifest, each with the size and digest that it must have."""
    prefix = candidate.prefix
    if step_of(prefix) is None:
        manifest = Manifest.decode(store.read_bytes(join(prefix, MANIFEST)), join(prefix, MANIFEST))
    else:
        manifest = read_manifest(store, prefix)
    if candidate.pointer is not None and candidate.pointer != Pointer.to(manifest):
        raise DamagedFile(f"{prefix}/{MANIFEST} is not the one that {LATEST} names")

    def fetched_digest(path: str) -> str:
        local = scratch / path.rpartition("/")[2]
        store.get_file(path, local)
        return sha256_file(local)

    problems = [*size_problems(store, prefix, manifest.files).values()]
    if problems := problems or digest_problems(prefix, manifest.files, sorted(manifest.files), fetched_digest):
        raise DamagedFile("; ".join(problems))
    return manifest


def _download_bare(store: Store, candidate: _Candidate, scratch: Path, fp16: bool | None) -> Manifest:
    """The files of a checkpoint without a manifest, complete and loadable, and a manifest made from them."""
    prefix = candidate.prefix
    paths = {entry.path for entry in store.list(prefix)}
    names = sorted(name for path in paths if join(prefix, name := path.rpartition("/")[2]) == path)
    names = [name for name in names if is_checkpoint_file(name)]
    ranks = sum(name.startswith("rng_state_") for name in names)
    world_size = ranks if ranks and "rng_state.pth" not in names else 1
    scaled = SCALER in names if fp16 is None else fp16
    if missing := [name for name in required_files(world_size, scaled) if name not in names]:
        raise DamagedFile("; ".join(f"{join(prefix, name)} is missing" for name in missing))
    for name in names:
        store.get_file(join(prefix, name), scratch / name)
    problems = [loading_problem(scratch / name, join(prefix, name)) for name in names]
    if any(problems):
        raise DamagedFile("; ".join(problem for problem in problems if problem))
    where = join(prefix, TRAINER_STATE)
    step = recorded_step((scratch / TRAINER_STATE).read_bytes(), where)
    if candidate.step not in (None, step):
        raise DamagedFile(f"{where} is of step {step}, its folder of step {candidate.step}")
    return Manifest(
        step=step,
        prefix=prefix,
        files=record_files(scratch, names),
        config={},
        config_hash="",
        data_fingerprint="",
        world_size=world_size,
        fp16=scaled,
        versions={},
        created="",
    )
