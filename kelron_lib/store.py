"""Where checkpoints outlive the session: one small interface, and the folder behind it.

A store holds files under relative paths such as `step-000120/optimizer.pt`. It knows nothing of checkpoints:
what makes a set of files one is in `manifest.py`, which asks for nothing but this interface.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from kelron_lib.errors import KelronError

TEMPORARY = ".tmp-"
"""How the name of a file that is still being written begins; no listing shows it."""
PROBE = ".probe"
"""A file that proves that a store takes one; it goes at once."""
STALE_SECONDS = 3600.0
"""A temporary file untouched for this long was left by a writer that was killed."""


class DamagedFile(KelronError):
    """One file is missing, unreadable or not what was written, while the store itself answers."""


class MissingFile(DamagedFile):
    """The file is not in the store."""


@dataclass(frozen=True)
class Entry:
    """One file of a store."""

    path: str
    """Relative to the store, with forward slashes."""
    size: int
    """Bytes."""


def unconditionally() -> None:
    """Where nobody else may be writing, a change asks nobody before it is made."""


class Store(Protocol):
    """What a place for checkpoints can do. Paths are relative and plain: no `..`, nothing absolute.

    Every method raises KelronError when the store cannot be reached or is full, and its subclass DamagedFile
    when only the file asked for cannot be had, so that a caller never takes an outage for damage.
    """

    beat_seconds: float
    """How often a session may write its sign of life here."""
    settle_seconds: float
    """How long after two writes at one moment every reader sees which one stayed."""

    def list(self, prefix: str = "") -> Sequence[Entry]:
        """The files under the folder `prefix` (empty: all), sorted by path."""

    def read_bytes(self, path: str) -> bytes:
        """The content of a small file. Raises MissingFile where there is none."""

    def sha256(self, path: str) -> str:
        """Hex digest of what the store holds now, not of what was once sent."""

    def write_bytes(self, path: str, data: bytes, confirm: Callable[[], None] = unconditionally) -> None:
        """Create or replace a small file. A reader sees the old content or the new one, never a part.

        `confirm` is called right before the change, at every try of it, and raises where it must not be made.
        """

    def put_file(self, local: Path, path: str) -> None:
        """Upload a file of any size. It appears under `path` complete, or not at all."""

    def put_files(self, files: Mapping[str, Path]) -> None:
        """Upload several, by their paths in the store, in as few changes as it takes."""

    def get_file(self, path: str, local: Path) -> None:
        """Download a file of any size to `local`, whose folder exists."""

    def delete(self, prefix: str) -> None:
        """Remove a file, or a folder with all that it holds. Nothing there is no error."""

    def describe(self) -> str:
        """The store in words, for messages."""


def sha256_file(path: Path) -> str:
    """Hex digest of a local file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def plain_parts(path: str) -> list[str]:
    """The components of a store path. Raises KelronError for one that is not plain and relative."""
    parts = path.split("/")
    if set(path) & set("\\:\0") or any(part in ("", ".", "..") or part.startswith(TEMPORARY) for part in parts):
        raise KelronError(f"{path!r} is no path inside a store: use plain names joined by /")
    return parts


class FolderStore:
    """A folder on a local or mounted disk.

    Files are copied, never hard-linked: a trainer truncates a file that it saves again, which would reach
    through the link into the store.
    """

    beat_seconds = 60.0
    settle_seconds = 0.0

    def __init__(self, root: Path) -> None:
        """Raises KelronError where `root` cannot be a store; creates nothing."""
        try:
            self.root = root.expanduser().resolve()
            exists, parent = self.root.exists(), self.root.parent
            if exists and not self.root.is_dir():
                raise KelronError(f"the store {root} is a file: name a folder")
            if exists and not os.access(self.root, os.R_OK | os.X_OK):
                raise KelronError(f"the store {root} cannot be read: change its permissions or name another")
            if not exists and not parent.is_dir():
                raise KelronError(f"the store {root} cannot be reached: create or mount {parent} first")
        except (OSError, RuntimeError) as error:  # RuntimeError: a home that is unknown, a loop of links
            raise KelronError(f"the store {root} cannot be reached: {error}") from error

    def describe(self) -> str:
        return f"folder {self.root}"

    def prepare(self) -> None:
        """Create the folder, write and remove a probe, and clear what killed writers left half-written."""
        self.write_bytes(PROBE, b"kelron\n")
        self.delete(PROBE)
        with self._explained("clear", "temporary files"):
            for leftover in self.root.rglob(f"{TEMPORARY}*"):
                if time.time() - leftover.stat().st_mtime > STALE_SECONDS:
                    leftover.unlink()

    def list(self, prefix: str = "") -> Sequence[Entry]:
        top = self._local(prefix) if prefix else self.root
        with self._explained("list", prefix or "the files"):
            entries = [
                Entry(path.relative_to(self.root).as_posix(), path.stat().st_size)
                for folder, _, names in os.walk(top, onerror=_raise_unless_missing)
                for path in (Path(folder, name) for name in names if not name.startswith(TEMPORARY))
                if path.is_file()
            ]
        return sorted(entries, key=lambda entry: entry.path)

    def read_bytes(self, path: str) -> bytes:
        with self._explained("read", path, of_one_file=True):
            return self._local(path).read_bytes()

    def sha256(self, path: str) -> str:
        with self._explained("read", path, of_one_file=True):
            return sha256_file(self._local(path))

    def write_bytes(self, path: str, data: bytes, confirm: Callable[[], None] = unconditionally) -> None:
        with self._replacing(path) as temporary:
            temporary.write_bytes(data)
            confirm()

    def put_file(self, local: Path, path: str) -> None:
        with self._replacing(path) as temporary:
            shutil.copyfile(local, temporary)

    def put_files(self, files: Mapping[str, Path]) -> None:
        for path, local in files.items():
            self.put_file(local, path)

    def get_file(self, path: str, local: Path) -> None:
        source = self._local(path)
        with self._explained("read", path, of_one_file=True, target=local.parent):
            shutil.copyfile(source, local)

    def delete(self, prefix: str) -> None:
        target = self._local(prefix)
        with self._explained("delete", prefix):
            if target.is_dir() and not target.is_symlink():
                shutil.rmtree(target)
            else:
                target.unlink(missing_ok=True)
            if target.parent.is_dir():
                _sync(target.parent)

    def _local(self, path: str) -> Path:
        """The place of a store path. Raises DamagedFile where a link on the way leads out of the store."""
        local = self.root.joinpath(*plain_parts(path))
        try:
            inside = local.resolve().is_relative_to(self.root)
        except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links
            raise DamagedFile(f"{path} in {self.describe()} cannot be followed: {error}") from error
        if not inside:
            raise DamagedFile(
                f"{path} in {self.describe()} is a link out of the store: copy the files themselves (cp -rL)"
            )
        return local

    @contextmanager
    def _replacing(self, path: str) -> Iterator[Path]:
        """A temporary file beside `path`; when the block ends well it takes its place, safe on the disk."""
        target = self._local(path)
        temporary = target.with_name(f"{TEMPORARY}{secrets.token_hex(4)}-{target.name}")
        with self._explained("write", path):
            try:
                _make_folder(target.parent)
                yield temporary
                _sync(temporary)
                os.replace(temporary, target)
                _sync(target.parent)
            finally:
                temporary.unlink(missing_ok=True)

    @contextmanager
    def _explained(
        self, doing: str, path: str, *, of_one_file: bool = False, target: Path | None = None
    ) -> Iterator[None]:
        """Turns an OSError into a KelronError that says what to do; `target`: where bytes go (the store)."""
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise KelronError(_no_space(path, target or self.root)) from error
            if of_one_file and isinstance(error, FileNotFoundError):
                raise MissingFile(f"{path} is missing in {self.describe()}") from error
            if of_one_file and error.errno in (errno.EIO, errno.EISDIR, errno.ENOTDIR):
                raise DamagedFile(f"{path} in {self.describe()} cannot be read: {error.strerror}") from error
            raise KelronError(
                f"cannot {doing} {path} in {self.describe()}: {error.strerror or error}; "
                "check that the folder is there and that you may write to it, or name another"
            ) from error


def _no_space(path: str, folder: Path) -> str:
    free = shutil.disk_usage(folder if folder.is_dir() else folder.parent).free
    return (
        f"no disk space for {path} in {folder} ({free / 1e6:.1f} MB free): delete what you need not keep, "
        "or name a folder on another disk; what was saved before is untouched"
    )


def _raise_unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def _make_folder(folder: Path) -> None:
    """Create a folder and its parents, each safe on the disk."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync(folder.parent)


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some mounted file systems cannot sync a folder and say so; the rename itself is atomic there, too.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP) or not path.is_dir():
            raise
    finally:
        os.close(descriptor)
