"""A checkpoint found, fetched and checked: the newest that is intact, wherever the last writer was killed."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from kelron_lib.errors import KelronError
from kelron_lib.files import cannot_write
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
from kelron_lib.runtime import require_disk
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
    found = _first_intact(candidates, problems, lambda candidate: _fetch(store, candidate, into, fp16), say)
    if found is not None:
        candidate, manifest = found
        if not candidate.sealed:
            say(
                f"step {manifest.step} has no {MANIFEST} in {store.describe()}: its files are complete and load, "
                "but no checksums prove them"
            )
        return Restored(manifest, into / _trainer_folder(manifest.step), problems)
    if problems:
        raise KelronError(
            f"no intact checkpoint in {store.describe()}: {'; '.join(problems)}; nothing was deleted: bring back "
            "what is missing, or start from step 0: `kelron train --fresh` sets aside what is there, another store.url "
            "leaves it"
        )
    if unfinished := step_folders(store):
        say(f"the first save, of step {unfinished[0][0]}, was cut off and never counted: starting from step 0")
    return None


def pull(
    store: Store, folder: Path, *, step: int | None = None, say: Callable[[str], None] = print
) -> tuple[Manifest, Path]:
    """Bring a checkpoint with its MANIFEST.json to `folder`: the newest that is intact, or that of one step.

    Every byte is checked, and `folder`, which must be empty or absent, appears whole or not at all. Raises KelronError
    where it holds anything, and where there is no such checkpoint, or none that is intact.
    """
    folder = Path(folder).expanduser().absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise KelronError(f"{folder} is not an empty folder: name another, or empty it")
    candidates, problems = _candidates(store)
    sealed = [candidate for candidate in candidates if candidate.sealed]
    if step is not None:
        problems = []
    wanted = [candidate for candidate in sealed if step in (None, candidate.step)]
    if not wanted:
        raise KelronError(_nothing_to_pull(store, step, [candidate.step for candidate in sealed], problems))

    def fetch(candidate: _Candidate) -> Manifest:
        size = sum(entry.size for entry in store.list(candidate.prefix))
        require_disk(folder, size, f"step {candidate.step}")
        return _fetch(store, candidate, folder.parent, None, place=folder)

    found = _first_intact(wanted, problems, fetch, say)
    if found is None:
        raise KelronError(f"no intact checkpoint to pull from {store.describe()}: {'; '.join(problems)}")
    return found[1], folder


def _nothing_to_pull(store: Store, step: int | None, steps: list[int | None], problems: list[str]) -> str:
    if step is None:
        return "; ".join([f"{store.describe()} holds no checkpoint with a {MANIFEST}", *problems])
    there = f"it has {', '.join(map(str, steps))}" if steps else "it has none"
    return f"{store.describe()} holds no checkpoint of step {step}: {there}"


def manifests(store: Store) -> list[Manifest]:
    """Those of all checkpoints that `restore` would try, best first, without their files; empty where one has none."""
    found = []
    for candidate in _candidates(store)[0]:
        if not candidate.sealed:
            return []
        with suppress(DamagedFile):
            found.append(_sealed_manifest(store, candidate))
    return found


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


def _first_intact(
    candidates: list[_Candidate],
    problems: list[str],
    fetch: Callable[[_Candidate], Manifest],
    say: Callable[[str], None],
) -> tuple[_Candidate, Manifest] | None:
    """The first that can be fetched; what was wrong with those before it is added to `problems`."""
    for candidate in candidates:
        try:
            manifest = fetch(candidate)
        except DamagedFile as damage:
            problems.append(str(damage))
            continue
        if problems:
            say(_fallback_line(problems, candidates[0], manifest))
        return candidate, manifest
    return None


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
    steps = f", {lost} {'step is' if lost == 1 else 'steps are'} lost" if lost > 0 else ""
    return f"damaged: {'; '.join(problems)}; step {used.step} is used instead{steps}"


def _trainer_folder(step: int) -> str:
    """What the trainer calls the folder of a step."""
    return f"checkpoint-{step}"


def _fetch(
    store: Store, candidate: _Candidate, into: Path, fp16: bool | None, *, place: Path | None = None
) -> Manifest:
    """Download a checkpoint into an empty folder, check it there, then give it its place: `into/checkpoint-N`, or
    `place`, where it keeps its manifest.

    Raises DamagedFile, with all that is wrong, where it is not intact.
    """
    with _empty_folder(into, f".{place.name}.part" if place else ".restoring") as scratch:
        if candidate.sealed:
            manifest = _download_sealed(store, candidate, scratch, fp16)
        else:
            manifest = _download_bare(store, candidate, scratch, fp16)
        if place is not None:
            (scratch / MANIFEST).write_bytes(manifest.encode())
        folder = place or into / _trainer_folder(manifest.step)
        if folder.exists():
            shutil.rmtree(folder)
        scratch.rename(folder)
    return manifest


@contextmanager
def _empty_folder(into: Path, name: str) -> Iterator[Path]:
    """A scratch folder under `into`, gone at the end unless it was renamed."""
    scratch = into / name
    try:
        if scratch.exists():
            shutil.rmtree(scratch)
        scratch.mkdir(parents=True)
        yield scratch
    except OSError as error:
        raise cannot_write(f"restore a checkpoint into {into}", error) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _sealed_manifest(store: Store, candidate: _Candidate) -> Manifest:
    """The manifest of a checkpoint that has one. Raises DamagedFile where it is not intact."""
    prefix = candidate.prefix
    if step_of(prefix) is None:
        manifest = Manifest.decode(store.read_bytes(join(prefix, MANIFEST)), join(prefix, MANIFEST))
    else:
        manifest = read_manifest(store, prefix)
    if candidate.pointer is not None and candidate.pointer != Pointer.to(manifest):
        raise DamagedFile(f"{prefix}/{MANIFEST} is not the one that {LATEST} names")
    return manifest


def _download_sealed(store: Store, candidate: _Candidate, scratch: Path, fp16: bool | None) -> Manifest:
    """The files of a checkpoint that has a manifest, each with the size and digest that it must have."""
    prefix, manifest = candidate.prefix, _sealed_manifest(store, candidate)
    if fp16 and not manifest.fp16 and not manifest.config:  # brought in from elsewhere: no config would tell
        raise DamagedFile(f"{join(prefix, SCALER)} is missing")

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
    names = [name for path in paths if join(prefix, name := path.rpartition("/")[2]) == path]
    bare = bare_files(names, prefix, fp16)
    for name in bare.names:
        store.get_file(join(prefix, name), scratch / name)
    return bare_manifest(scratch, bare, prefix, candidate.step)


@dataclass(frozen=True)
class BareFiles:
    """The files of a checkpoint without a manifest."""

    names: list[str]
    world_size: int
    """Processes that trained, by their random states."""
    fp16: bool
    """Whether a scaler is among them."""


def bare_files(names: Iterable[str], prefix: str = "", fp16: bool | None = None) -> BareFiles:
    """Those among `names` that make up a checkpoint. Raises DamagedFile, naming what is missing (under `prefix`);
    with `fp16` that includes the scaler."""
    own = sorted(name for name in names if is_checkpoint_file(name))
    ranks = sum(name.startswith("rng_state_") for name in own)
    world_size = ranks if ranks and "rng_state.pth" not in own else 1
    scaled = SCALER in own if fp16 is None else fp16
    if missing := [name for name in required_files(world_size, scaled) if name not in own]:
        raise DamagedFile("; ".join(f"{join(prefix, name)} is missing" for name in missing))
    return BareFiles(own, world_size, scaled)


def bare_manifest(folder: Path, bare: BareFiles, prefix: str = "", step: int | None = None) -> Manifest:
    """A manifest of files in a local folder, each of which loads. Raises DamagedFile, naming them as under `prefix`,
    where one does not, or where they are not of `step`."""
    problems = [loading_problem(folder / name, join(prefix, name)) for name in bare.names]
    if any(problems):
        raise DamagedFile("; ".join(problem for problem in problems if problem))
    where = join(prefix, TRAINER_STATE)
    found = recorded_step((folder / TRAINER_STATE).read_bytes(), where)
    if step not in (None, found):
        raise DamagedFile(f"{where} is of step {found}, its folder of step {step}")
    return Manifest(
        step=found,
        prefix=prefix,
        files=record_files(folder, bare.names),
        config={},
        config_hash="",
        data_fingerprint="",
        world_size=bare.world_size,
        fp16=bare.fp16,
        versions={},
        created="",
    )
