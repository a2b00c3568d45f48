"""What the Hub's listings tell of a file's content, and how a content here is compared with it."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kelron_lib.errors import KelronError
from kelron_lib.store import sha256_file


@dataclass(frozen=True)
class Stored:
    """A file as a listing of the Hub shows it."""

    size: int
    scheme: str
    """What `digest` is: `sha256`, `git` (sha1 of a git blob) or `xet`."""
    digest: str

    @classmethod
    def in_repo(cls, item: Any) -> Stored:
        """From the hub client's RepoFile."""
        return cls(item.size, "sha256", item.lfs.sha256) if item.lfs else cls(item.size, "git", item.blob_id)

    @classmethod
    def in_bucket(cls, item: Any) -> Stored:
        """From the hub client's BucketFile."""
        return cls(item.size, "xet", item.xet_hash)


class Content:
    """Something to send, from memory or from the disk, and its digests, each computed once."""

    def __init__(self, source: Path | bytes) -> None:
        """Raises KelronError where a file cannot be read, as do all methods."""
        self.source = source
        self._digests: dict[str, str] = {}
        self.readable()

    def readable(self) -> Path | bytes:
        """The source, which is there now."""
        with _explained(self.source):
            if isinstance(self.source, Path):
                self.source.open("rb").close()
        return self.source

    @property
    def size(self) -> int:
        return self._now()[1]

    def digest(self, scheme: str) -> str:
        """Hex digest; see Stored."""
        if scheme not in self._digests:
            if not self._digests:
                self._state = self._now()
            with _explained(self.source):
                self._digests[scheme] = _DIGESTS[scheme](self.source)
        return self._digests[scheme]

    def same_as(self, stored: Stored | None) -> bool:
        """Whether a listing shows this content."""
        return stored is not None and stored.size == self.size and stored.digest == self.digest(stored.scheme)

    @property
    def steady(self) -> bool:
        """Whether all digests are of the same bytes: the file has not changed since the first was computed."""
        return not self._digests or self._now() == self._state

    def _now(self) -> tuple[int, int]:
        if isinstance(self.source, bytes):
            return 0, len(self.source)
        with _explained(self.source):
            facts = self.source.stat()
        return facts.st_mtime_ns, facts.st_size


@contextmanager
def _explained(source: Path | bytes) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = source if isinstance(source, Path) else "a temporary file"
        raise KelronError(f"cannot read {where}: {error.strerror or error}; save it again") from error


class HashingSink:
    """Takes a download and keeps only its sha256."""

    def __init__(self) -> None:
        self._hash, self._size = hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self._hash.update(data)
        self._size += len(data)
        return len(data)

    def tell(self) -> int:
        return self._size

    def seek(self, start: int) -> None:
        """Only to the start, to be truncated there."""
        assert start == 0

    def truncate(self) -> None:
        """Forget what came so far."""
        self._hash, self._size = hashlib.sha256(), 0

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


def _sha256(source: Path | bytes) -> str:
    return hashlib.sha256(source).hexdigest() if isinstance(source, bytes) else sha256_file(source)


def _git_hash(source: Path | bytes) -> str:
    data = source if isinstance(source, bytes) else source.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _xet_hash(source: Path | bytes) -> str:
    import hf_xet

    if isinstance(source, Path):
        return str(hf_xet.hash_files([str(source)])[0].hash)
    with tempfile.NamedTemporaryFile(prefix="kelron-") as file:
        file.write(source)
        file.flush()
        return _xet_hash(Path(file.name))


_DIGESTS: dict[str, Callable[[Path | bytes], str]] = {"sha256": _sha256, "git": _git_hash, "xet": _xet_hash}
