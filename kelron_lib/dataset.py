"""The run's dataset in the store: a later session needs nothing but the store.

It lies in the folder `dataset/` with a MANIFEST.json, written last, that holds every file's size and digest. It goes
there once, before the first checkpoint counts, and no retention touches it. What has no manifest was cut off and counts
as none.
"""

from __future__ import annotations

import shlex
import shutil
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from kelron_lib.config import PRESETS, RunConfig, as_overrides, differing, to_dict
from kelron_lib.data import (
    CONFIG_FILE,
    PAGE_FILE,
    QUALITY_FILE,
    SPLITS,
    changed_since,
    fingerprint,
    is_dataset,
    rows_differ,
    rows_file,
)
from kelron_lib.errors import KelronError
from kelron_lib.files import cannot_write
from kelron_lib.manifest import MANIFEST, FileRecord, digest_problems, record_files, seal, size_problems, unseal
from kelron_lib.runtime import read_json
from kelron_lib.store import DamagedFile, MissingFile, Store

FOLDER = "dataset"
SEAL = f"{FOLDER}/{MANIFEST}"
ROWS = tuple(rows_file(Path(), split).name for split in SPLITS)
"""The files that the fingerprint covers: without them a folder is no dataset."""
ABOUT = (QUALITY_FILE, PAGE_FILE, CONFIG_FILE, "README.md")
"""What `kelron data` writes beside them."""


@dataclass(frozen=True)
class StoredDataset:
    """The dataset of a store, as its manifest tells."""

    fingerprint: str
    """`kelron_lib.data.fingerprint` of it."""
    files: dict[str, FileRecord]
    """By name."""

    def encode(self) -> bytes:
        """The sealed JSON."""
        return seal(asdict(self))

    @classmethod
    def decode(cls, raw: bytes) -> StoredDataset:
        """The manifest in `raw`. Raises DamagedFile for anything but an intact one of a dataset's files."""
        record = unseal(raw, SEAL)
        try:
            files = {name: FileRecord(**entry) for name, entry in record.pop("files").items()}
            stored = cls(files=files, **record)
        except (AttributeError, KeyError, TypeError) as error:
            raise DamagedFile(f"{SEAL} is no manifest of a dataset: {error}") from error
        if not set(ROWS) <= set(files) <= {*ROWS, *ABOUT}:
            raise DamagedFile(f"{SEAL} does not name the files of a dataset")
        return stored


def holds_dataset(folder: Path) -> bool:
    """Whether a folder has the rows of any split, be it as JSON lines, which reading them refuses."""
    return is_dataset(folder)


def data_command(config: RunConfig, folder: Path) -> str:
    """The command that makes a config's dataset in a folder."""
    began = PRESETS.get(config.preset, RunConfig)()
    changed = differing(to_dict(began), to_dict(config), ("data", "train.row_tokens", "evaluate.max_new_tokens"))
    options = [f"--set={text}" for text in as_overrides({key: now for key, (_, now) in changed.items()})]
    return shlex.join(["kelron", "data", "--preset", began.preset, *options, "--out", str(folder)])


def require_dataset(config: RunConfig, folder: Path) -> None:
    """Raise KelronError unless a folder has rows."""
    if not holds_dataset(folder):
        raise KelronError(f"no rows at {folder}: `{data_command(config, folder)}` makes them")


def require_made_for(config: RunConfig, folder: Path) -> None:
    """Raise KelronError where a dataset says that it was made with other values than the config's.

    Only those count that decide its rows. One without a config of its own, from elsewhere, says nothing.
    """
    if not (folder / CONFIG_FILE).is_file():
        return
    made = read_json(folder / CONFIG_FILE)
    if not isinstance(made, dict) or not isinstance(made.get("data"), dict):  # not one of Kelron's
        return
    if changed := rows_differ(made, to_dict(config)):
        then = as_overrides({key: values[0] for key, values in changed.items()})
        now = as_overrides({key: values[1] for key, values in changed.items()})
        raise KelronError(
            f"the dataset in {folder} was made with {', '.join(then)} and the config has {', '.join(now)}: make it "
            f"again with `{data_command(config, folder)} --replace`, or train on it with "
            f"{' '.join(f'--set {shlex.quote(text)}' for text in then)}"
        )
    quality = read_json(folder / QUALITY_FILE) if (folder / QUALITY_FILE).is_file() else {}
    if isinstance(quality, dict) and changed_since(config.data, quality):
        raise KelronError(
            f"{config.data.own} was changed since the dataset in {folder} was made from it: make it again with "
            f"`{data_command(config, folder)} --replace`, or bring the old file back"
        )


def copy_dataset(folder: Path, into: Path) -> None:
    """Copy the files of a dataset to a fresh folder `into`."""
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir(parents=True)
    for name in _names(folder):
        shutil.copyfile(folder / name, into / name)


def stored_dataset(store: Store) -> StoredDataset | None:
    """The dataset of a store with every file verified; None where none was ever completed.

    Raises DamagedFile, with all that is wrong, where it is not intact.
    """
    try:
        stored = StoredDataset.decode(store.read_bytes(SEAL))
    except MissingFile:
        return None
    wrong = size_problems(store, FOLDER, stored.files)
    intact = sorted(stored.files.keys() - wrong.keys())
    if problems := [*wrong.values(), *digest_problems(FOLDER, stored.files, intact, store.sha256)]:
        raise DamagedFile("; ".join(problems))
    return stored


def stored_dataset_line(store: Store) -> str:
    """What a store holds of the run's dataset, in a line. Raises DamagedFile where it is not intact."""
    stored = stored_dataset(store)
    if stored is None:
        return "dataset: none here; where the run's own is gone, make it again with `kelron data`"
    size = sum(record.size for record in stored.files.values())
    return f"dataset: {len(stored.files)} files, {size / 1e6:.1f} MB, verified"


def has_dataset(store: Store, data_fingerprint: str) -> bool:
    """Whether the store holds this very dataset, intact."""
    with suppress(DamagedFile):  # what is damaged is sent again
        stored = stored_dataset(store)
        return stored is not None and stored.fingerprint == data_fingerprint
    return False


def save_dataset(store: Store, folder: Path) -> None:
    """Keep the dataset in `folder` in the store, in the place of any other, and read it all back.

    Raises KelronError where the store is full or out of reach, or where what arrived differs; there is no dataset
    in the store then.
    """
    files = record_files(folder, _names(folder))
    _discard(store)
    try:
        store.put_files({f"{FOLDER}/{name}": folder / name for name in files})
        store.write_bytes(SEAL, StoredDataset(fingerprint(folder), files).encode())
        stored_dataset(store)
    except KelronError as error:
        with suppress(KelronError):  # the first error is the one to report
            _discard(store)
        if isinstance(error, DamagedFile):
            raise KelronError(
                f"the dataset did not arrive intact in {store.describe()} ({error}): check the disk"
            ) from error
        raise


def fetch_dataset(store: Store, folder: Path) -> StoredDataset | None:
    """Bring the store's dataset to `folder`, which appears whole or not at all; None where the store has none.

    Raises KelronError where it is damaged, or where `folder` holds other things or cannot be written.
    """
    try:
        stored = stored_dataset(store)
        if stored is None:
            return None
        _bring(store, stored, folder)
    except DamagedFile as damage:
        raise KelronError(
            f"the dataset in {store.describe()} is damaged ({damage}): make it again with `kelron data`"
        ) from damage
    return stored


def _names(folder: Path) -> list[str]:
    return [*ROWS, *(name for name in ABOUT if (folder / name).is_file())]


def _discard(store: Store) -> None:
    """Delete the dataset, its manifest first: cut off halfway it is an unfinished one, not a damaged one."""
    store.delete(SEAL)
    store.delete(FOLDER)


def _bring(store: Store, stored: StoredDataset, folder: Path) -> None:
    if folder.is_dir() and any(folder.iterdir()):
        raise KelronError(f"{folder} holds files, but no dataset: name another folder with --data, or empty this one")
    scratch = folder.with_name(f".{folder.name}.part")
    try:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        for name in stored.files:
            store.get_file(f"{FOLDER}/{name}", scratch / name)
        if record_files(scratch, stored.files) != stored.files or fingerprint(scratch) != stored.fingerprint:
            raise DamagedFile("what arrived differs from its manifest")
        if folder.is_dir():
            folder.rmdir()
        scratch.rename(folder)
    except OSError as error:
        raise cannot_write(f"write the dataset to {folder}", error) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
