"""Looking after a store, from a laptop or wherever: what it holds, a checkpoint brought in, older ones deleted."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from kelron_lib.checkpoint import Prepared, discard, send_checkpoint, surplus
from kelron_lib.errors import KelronError
from kelron_lib.hub_store import RepoStore
from kelron_lib.lease import Writer, read_lease
from kelron_lib.manifest import CONFIG, LATEST, MANIFEST, TRAINER_STATE, Manifest, now, record_files
from kelron_lib.restore import bare_files, bare_manifest
from kelron_lib.store import DamagedFile, Store
from kelron_lib.verify import CheckpointInfo, latest, list_checkpoints, size_words, sound, verify

Say = Callable[[str], None]
IN_HISTORY = (
    "a model repo keeps deleted files in its history, and the Hub counts them until that is squashed: "
    "`kelron store prune URL --squash` makes one commit of it"
)


@dataclass(frozen=True)
class Listing:
    """What a store holds, seen without reading its large files."""

    store: str
    """The store in words."""
    checkpoints: list[CheckpointInfo]
    """Newest first; the best state is `complete`."""
    problem: str
    """What is wrong with LATEST.json or the manifest that it names; empty where nothing is."""
    size: int
    """Bytes of all files, the dataset's included."""
    writer: str
    """Who may be writing, in words."""

    @property
    def ok(self) -> bool:
        """LATEST.json names a complete checkpoint, and nothing that was looked at is damaged."""
        return sound(self.checkpoints, "complete") and not self.problem

    def lines(self) -> list[str]:
        """The listing as lines of text."""
        count = len(self.checkpoints)
        head = f"{self.store}: {count} checkpoint{'s' * (count != 1)}, {size_words(self.size)} in all; {self.writer}"
        note = "complete: every file is there in its size; `kelron store verify` checks every byte"
        problems = [self.problem] if self.problem else []
        return [head, *problems, *(checkpoint.line() for checkpoint in self.checkpoints), note]


def list_store(store: Store) -> Listing:
    """Look at a store. Raises KelronError where it cannot be reached or holds no checkpoint of Kelron's."""
    checkpoints = list_checkpoints(store, bytewise=False)
    entries = store.list()
    if not checkpoints:
        bare = [entry.path for entry in entries if entry.path.rpartition("/")[2] == TRAINER_STATE]
        hint = f"; {bare[0]} is a trainer's, which `kelron store import` makes one of" if bare else ""
        raise KelronError(f"{store.describe()} holds no checkpoint{hint}")
    problem = ""
    try:
        if latest(store) is None:
            problem = f"{LATEST} is missing: no run has completed a checkpoint here, or the file was lost"
    except DamagedFile as damage:
        problem = str(damage)
    return Listing(store.describe(), checkpoints, problem, sum(entry.size for entry in entries), _writer(store))


def _writer(store: Store) -> str:
    try:
        lease = read_lease(store)
    except DamagedFile as damage:
        return str(damage)
    if lease is None:
        return "no session writes to it"
    gone = ", but has ended" if lease.holder_is_gone() else ""
    return f"held by {lease.describe()}, {lease.beat} signs of life{gone}"


def read_checkpoint(folder: Path, say: Say = print) -> Prepared:
    """A checkpoint in a local folder, ready to be sent: what a trainer saved or a download of that (its files complete,
    each of them loading), or what `kelron store pull` brought (checked by its manifest).

    Raises KelronError, naming every file that is missing or damaged.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise KelronError(f"there is no folder {folder}: name the folder of a checkpoint")
    try:
        names = {path.name for path in folder.iterdir() if path.is_file()}
        sealed = MANIFEST in names
        if not sealed and TRAINER_STATE not in names:
            raise KelronError(f"{folder} holds no checkpoint: {TRAINER_STATE} is missing{_steps_below(folder)}")
        manifest = _by_manifest(folder) if sealed else bare_manifest(folder, bare_files(names - {CONFIG}))
        config_json = (folder / CONFIG).read_bytes() if CONFIG in manifest.files else None
    except DamagedFile as damage:
        raise KelronError(
            f"{folder} is no intact checkpoint ({damage}): a run resumed from it would be another run"
        ) from damage
    except OSError as error:
        raise KelronError(f"cannot read the checkpoint {folder}: {error.strerror}") from error
    if left := sorted(names - set(manifest.files) - {MANIFEST}):
        say(f"left out, since no checkpoint needs it: {', '.join(left)}")
    return Prepared(folder, replace(manifest, created=manifest.created or now()), config_json)


def _steps_below(folder: Path) -> str:
    """A hint at the checkpoints within a folder, such as a trainer's, a store's or a run's; empty without any."""
    found = (path.parent for pattern in ("*", "*/*") for path in folder.glob(f"{pattern}/{TRAINER_STATE}"))
    names = sorted(path.relative_to(folder).as_posix() for path in found)
    return f"; name one of the folders in it ({', '.join(names)})" if names else ""


def _by_manifest(folder: Path) -> Manifest:
    manifest = Manifest.decode((folder / MANIFEST).read_bytes(), MANIFEST)
    missing = [f"{name} is missing" for name in manifest.files if not (folder / name).is_file()]
    if missing:
        raise DamagedFile("; ".join(missing))
    found = record_files(folder, manifest.files)
    if changed := [f"{name} has changed" for name, record in manifest.files.items() if found[name] != record]:
        raise DamagedFile("; ".join(changed))
    return manifest


def import_checkpoint(store: Store, prepared: Prepared, say: Say = print) -> Manifest:
    """Keep a prepared checkpoint in the store as the newest there; nothing is deleted for it.

    Raises KelronError where the store is at that step or a later one with another checkpoint, where another session
    writes to it, and as send_checkpoint.
    """
    with _writing(store, say) as writer:
        newest, step = latest(store), prepared.manifest.step
        if newest is not None and newest.step >= step and not newest.same_checkpoint(prepared.manifest):
            raise KelronError(
                f"{store.describe()} is at step {newest.step} already, which step {step} would replace: import it "
                "into another store"
            )
        return send_checkpoint(store, prepared, keep=sys.maxsize, confirm=writer.confirm)


def prune(store: Store, keep: int, *, dry_run: bool = False, squash: bool = False, say: Say = print) -> list[str]:
    """Delete what is older than the newest `keep` verified checkpoints, and say what that frees; the folders' names.

    The checkpoint that LATEST.json names stays, whatever `keep`, and so does the one with the lowest validation loss;
    where fewer than `keep` are verified, all do. `squash`: then make one commit of a model repo's whole history, so
    that what was ever deleted there takes no storage.
    Raises KelronError where another session writes to the store, or where the named checkpoint is not intact.
    """
    if keep < 1:
        raise KelronError(f"--keep is {keep}: at least 1 stays, the one that {LATEST} names")
    if squash and not isinstance(store, RepoStore):
        raise KelronError(f"{store.describe()} has no history to squash: leave --squash out")
    if dry_run:
        doomed = _surplus(store, keep)
    else:
        with _writing(store, say) as writer:
            doomed = _surplus(store, keep)
            for checkpoint in doomed:
                writer.confirm()
                discard(store, checkpoint.prefix)
            if squash and isinstance(store, RepoStore):
                writer.confirm()
                store.squash()
    freed = sum(checkpoint.size for checkpoint in doomed)
    for checkpoint in doomed:
        say(f"{'would delete' if dry_run else 'deleted'} {checkpoint.line()}")
    for line in _beside(store, keep, [checkpoint.prefix for checkpoint in doomed]):
        say(line)
    say(f"{size_words(freed)} {'would be ' if dry_run else ''}freed in {store.describe()}")
    if squash:
        say(f"{'would squash' if dry_run else 'squashed'} the history: what is not there now cannot come back")
    elif doomed and isinstance(store, RepoStore):
        say(IN_HISTORY)
    return [checkpoint.prefix for checkpoint in doomed]


def _surplus(store: Store, keep: int) -> list[CheckpointInfo]:
    try:
        newest = latest(store)
    except DamagedFile as damage:
        raise KelronError(f"nothing was deleted: {damage}") from damage
    if newest is None:
        raise KelronError(f"nothing was deleted: {store.describe()} has no {LATEST}")
    if problems := verify(store, newest):
        raise KelronError(f"nothing was deleted: the newest checkpoint is damaged ({'; '.join(problems)})")
    doomed = surplus(store, newest, keep)
    return [checkpoint for checkpoint in list_checkpoints(store, bytewise=False) if checkpoint.prefix in doomed]


def _beside(store: Store, keep: int, doomed: list[str]) -> list[str]:
    """Why an older checkpoint stays beside the newest `keep`, in a line; none where none does."""
    left = [one for one in list_checkpoints(store, bytewise=False) if one.prefix not in doomed]
    newest = next((number for number, one in enumerate(left) if one.latest), 0)
    stays = [one for one in left[newest + keep :] if one.best and one.state == "complete"]
    return [
        f"step {one.step} stays beside the newest {keep}: its validation loss is the lowest, and the adapter may be "
        "taken from it (store.export)"
        for one in stays
    ]


@contextmanager
def _writing(store: Store, say: Say) -> Iterator[Writer]:
    """The store's lease for the length of a block."""
    writer = Writer.of(store)
    writer.acquire(say)
    try:
        yield writer
    finally:
        writer.release()
