"""What both kinds of stores on the Hugging Face Hub have in common."""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kelron_lib.errors import KelronError
from kelron_lib.files import cannot_write
from kelron_lib.hub_client import TOKENS_PAGE, Hub, HubError, Sink
from kelron_lib.hub_content import Content, Stored
from kelron_lib.store import PROBE, DamagedFile, Entry, MissingFile, plain_parts, unconditionally

BRANCH = "main"
_WRITE_TOKEN = f"use one with write access from {TOKENS_PAGE}"


class HubStore(ABC):
    """A store on the Hub. All its files lie under the folder `prefix`; nothing else is touched."""

    kind: str
    beat_seconds: float
    settle_seconds = 5.0

    def __init__(self, name: str, prefix: str, hub: Hub, *, allow_foreign: bool = False) -> None:
        """`name`: NAMESPACE/NAME. Raises KelronError for a prefix that is no plain path."""
        plain_parts(prefix)
        self.name, self.prefix, self.hub, self.allow_foreign = name, prefix, hub, allow_foreign
        self._may_read = self._may_write = self._foreign = False
        self._known: dict[str, str] = {}  # by xet hash, the sha256 of contents that passed through here

    def describe(self) -> str:
        return f"Hub {self.kind} {self.name}/{self.prefix}"

    def exists(self) -> bool:
        """Whether there is such a bucket or repo; it may hold nothing of this run yet."""
        self._check_namespace()
        return self._private() is not None

    def prepare(self) -> None:
        """Create it, private, if there is none, and prove that it is private and takes a file."""
        self._ready()
        self.write_bytes(PROBE, b"kelron\n")
        self.delete(PROBE)

    def list(self, prefix: str = "") -> Sequence[Entry]:
        top = self._full(prefix) if prefix else self.prefix
        files = self._ask(f"list {prefix or 'the files'}", lambda: self._under(top))
        cut = len(self.prefix) + 1
        return sorted((Entry(path[cut:], file.size) for path, file in files.items()), key=lambda entry: entry.path)

    def read_bytes(self, path: str) -> bytes:
        sink = io.BytesIO()
        self._fetch(path, sink, self._revision_of(path))
        return sink.getvalue()

    def sha256(self, path: str) -> str:
        revision = self._revision_of(path)
        return self._sha256(path, self._stored(path, revision), revision)

    def write_bytes(self, path: str, data: bytes, confirm: Callable[[], None] = unconditionally) -> None:
        self._put({self._full(path): Content(data)}, path, confirm)

    def put_file(self, local: Path, path: str) -> None:
        self._put({self._full(path): Content(local)}, path)

    def put_files(self, files: Mapping[str, Path]) -> None:
        """Send several files, by their paths in the store: one commit of a repo, one batch of a bucket."""
        if files:
            self._put({self._full(path): Content(local) for path, local in files.items()}, f"{len(files)} files")

    def get_file(self, path: str, local: Path) -> None:
        revision = self._revision_of(path)
        stored = self._stored(path, revision)
        try:
            with local.open("w+b") as sink:
                self._fetch(path, sink, revision, stored.size)
            content = Content(local)
            if not content.same_as(stored):
                raise DamagedFile(f"{path} in {self.describe()} is not what its listing says: its digest differs")
            self._learn(content)
        except OSError as error:
            raise cannot_write(f"write {local}", error) from error

    def delete(self, prefix: str) -> None:
        full = self._full(prefix)
        if not self._ask(f"list {prefix}", lambda: self._under(full)):
            return
        self.hub.run(
            f"delete {prefix} in {self.describe()}",
            lambda: self._remove(full),
            arrived=lambda: not self._under(full),
        )

    # --- what both share ---

    def _full(self, path: str) -> str:
        return "/".join([self.prefix, *plain_parts(path)])

    def _ask(self, doing: str, call: Callable[[], Any]) -> Any:
        self._check_namespace()
        return self.hub.ask(f"{doing} in {self.describe()}", call)

    def _check_namespace(self) -> None:
        """Raises KelronError where the token is refused, or belongs to someone else than the namespace."""
        if self._may_read:
            return
        own = self.hub.account()["name"]
        self._foreign = self.name.partition("/")[0] != own
        if self._foreign and not self.allow_foreign:
            raise KelronError(
                f"{self.describe()} is not in your own namespace ({own}): name {own}/..., or add --allow-foreign "
                "(store.allow_foreign=true) where this one is meant"
            )
        self._may_read = True

    def _ready(self) -> None:
        """Raises KelronError unless there is a private one now, made here if need be."""
        if self._may_write:
            return
        self._check_namespace()
        if self.hub.account().get("auth", {}).get("accessToken", {}).get("role") == "read":
            raise KelronError(f"the token can only read, so nothing can be kept in {self.describe()}: {_WRITE_TOKEN}")
        if self._private() is None:
            doing = f"create the private {self.kind} {self.name}"
            self.hub.run(doing, self._create, arrived=lambda: self._privacy() is not None)
        if (private := self._private()) is None:
            raise KelronError(f"{self.describe()} exists, but the token may not see it: {_WRITE_TOKEN}")
        if not private:
            raise KelronError(
                f"{self.describe()} is public, and checkpoints are private: make it private in its settings on the "
                "Hub, or name another"
            )
        self._may_write = True

    def _private(self) -> bool | None:
        return self.hub.ask(f"look at {self.describe()}", self._privacy)

    def _privacy(self) -> bool | None:
        try:
            return bool(self.hub.once(self._info).private)
        except HubError as error:
            if error.absent == "repo":
                return None
            raise

    def _under(self, full: str) -> dict[str, Stored]:
        """The file of that name, or those of the folder."""
        try:
            files = self.hub.once(lambda: {**self._listed(full), **self._looked_up([full])})
        except HubError as error:
            # What is absent from another's namespace may only be hidden from this token.
            if error.absent == "file" or (error.absent and not self._foreign):
                return {}
            raise
        return {path: file for path, file in files.items() if path == full or path.startswith(f"{full}/")}

    def _revision_of(self, path: str) -> str:
        """What to read from now on, so that a change meanwhile does not matter. Raises MissingFile for no repo."""
        self._full(path)
        return str(self._ask_of_file(path, self._revision))

    def _stored(self, path: str, revision: str) -> Stored:
        full = self._full(path)
        found: dict[str, Stored] = self._ask_of_file(path, lambda: self._looked_up([full], revision))
        if full not in found:
            raise MissingFile(f"{path} is missing in {self.describe()}")
        return found[full]

    def _ask_of_file(self, path: str, call: Callable[[], Any]) -> Any:
        with self._about_one_file(path):
            return self._ask(f"look up {path}", call)

    def _fetch(self, path: str, sink: Sink, revision: str, size: int | None = None) -> None:
        with self._about_one_file(path):
            self.hub.fetch(f"read {path} in {self.describe()}", self._address(self._full(path), revision), sink, size)

    @contextmanager
    def _about_one_file(self, path: str) -> Iterator[None]:
        try:
            yield
        except HubError as error:
            if error.absent:
                raise MissingFile(f"{path} is missing in {self.describe()}") from None
            raise

    def _put(self, contents: dict[str, Content], what: str, confirm: Callable[[], None] = unconditionally) -> None:
        self._ready()
        send = self._sender(contents, what, confirm)
        self.hub.run(f"write {what} in {self.describe()}", send, arrived=lambda: not self._not_arrived(contents))
        for content in contents.values():
            self._learn(content)

    def _not_arrived(self, contents: dict[str, Content]) -> dict[str, Content]:
        stored = self._looked_up(list(contents))
        return {path: content for path, content in contents.items() if not content.same_as(stored.get(path))}

    # --- what differs; these call the hub client, within `Hub.once` or `Hub.run` ---

    @abstractmethod
    def _info(self) -> Any: ...

    @abstractmethod
    def _create(self) -> Any: ...

    @abstractmethod
    def _revision(self) -> str: ...

    @abstractmethod
    def _listed(self, full: str) -> dict[str, Stored]:
        """At least the files under a folder, by full path."""

    @abstractmethod
    def _looked_up(self, paths: Sequence[str], revision: str = BRANCH) -> dict[str, Stored]: ...

    @abstractmethod
    def _address(self, full: str, revision: str) -> str: ...

    @abstractmethod
    def _sender(self, contents: dict[str, Content], what: str, confirm: Callable[[], None]) -> Callable[[], None]:
        """One try at sending; called again, it goes on with what is left. `confirm` comes right before the change."""

    @abstractmethod
    def _remove(self, full: str) -> None: ...

    @abstractmethod
    def _sha256(self, path: str, stored: Stored, revision: str) -> str: ...

    @abstractmethod
    def _learn(self, content: Content) -> None:
        """Note what was sent or fetched."""
