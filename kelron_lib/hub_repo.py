"""A whole repo on the Hugging Face Hub that Kelron fills: private, in one's own namespace, changed by one commit."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any
from urllib.parse import quote

from kelron_lib.errors import KelronError
from kelron_lib.hub_base import BRANCH
from kelron_lib.hub_client import TOKENS_PAGE, Hub, HubError, no_progress_bars
from kelron_lib.hub_content import Content, HashingSink, Stored

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")


class HubRepo:
    """A repo of one kind, `model` or `dataset`. Creating this reaches nothing."""

    def __init__(
        self,
        name: str,
        kind: str,
        hub: Hub,
        *,
        allow_foreign: bool = False,
        allow_public: bool | None = None,
        example: str,
    ) -> None:
        """`example`: a name as it should be, for who gave none; `allow_public`: None where the verb has no such option.

        Raises KelronError where `name` is no OWNER/NAME.
        """
        owner, _, rest = name.partition("/")
        if not all(_NAME.fullmatch(part) and ".." not in part for part in (owner, rest)):
            raise KelronError(f"{name!r} is no name of a repo: use OWNER/NAME, such as {example}")
        self.name, self.kind, self.owner, self.hub = name, kind, owner, hub
        self.allow_foreign, self.allow_public = allow_foreign, allow_public
        self.words = f"the {kind} repo {name}"

    def require_usable(self) -> bool:
        """Whether there is one. Raises KelronError where the token may not write there, the namespace is another's, or
        it is public and that is not wanted."""
        account = self.hub.account()
        if self.owner != account["name"] and not self.allow_foreign:
            raise KelronError(
                f"{self.words} is not in your own namespace ({account['name']}): name {account['name']}/..., or add "
                "--allow-foreign where this one is meant"
            )
        if account.get("auth", {}).get("accessToken", {}).get("role") == "read":
            raise KelronError(f"the token can only read: use one with write access from {TOKENS_PAGE}")
        private = self.hub.ask(f"look at {self.words}", self._privacy)
        if private is False and not self.allow_public:
            meant = "" if self.allow_public is None else ", or add --public where this one is meant"
            raise KelronError(
                f"{self.words} is public, and {self.kind}s are pushed to private ones alone: make it private in its "
                f"settings on the Hub, or name another{meant}"
            )
        return private is not None

    def make(self) -> None:
        """Make it, private, where there is none. Raises KelronError as `require_usable` does."""
        if self.require_usable():
            return
        self.hub.run(f"create {self.words}", self._create, arrived=lambda: self._privacy() is not None)
        if not self.require_usable():
            raise KelronError(f"{self.words} exists, but the token may not see it: use one with access, {TOKENS_PAGE}")

    def put(self, files: Mapping[str, Content], ours: Collection[str], message: str) -> bool:
        """Make these the repo's files of those that are `ours`, in one commit; whether there was anything to change.

        What is `ours`, there and not in `files`, is removed; all other files stay.
        """
        if not self.hub.ask(f"look at {self.words}", lambda: self._pending(files, ours)):
            return False
        send = self._sender(files, ours, message)
        self.hub.run(f"write {self.words}", send, arrived=lambda: not self._pending(files, ours))
        return True

    def names(self) -> list[str]:
        """The files that it holds."""
        api = self.hub.api
        listed: list[str] = self.hub.ask(
            f"list {self.words}", lambda: api.list_repo_files(self.name, repo_type=self.kind)
        )
        return listed

    def read(self, path: str) -> bytes:
        """The content of a small file."""
        sink = io.BytesIO()
        self.hub.fetch(f"read {path} in {self.words}", self._address(path, BRANCH), sink)
        return sink.getvalue()

    def digests(self, paths: Collection[str]) -> dict[str, str]:
        """The sha256 of files as they come when they are downloaded anew, of one revision."""
        revision = self.hub.ask(f"look at {self.words}", self._revision)
        found = {}
        for path in paths:
            sink = HashingSink()
            self.hub.fetch(f"read {path} in {self.words}", self._address(path, revision), sink)
            found[path] = sink.hexdigest()
        return found

    # --- these call the hub client, within `Hub.once` or `Hub.run` ---

    def _privacy(self) -> bool | None:
        try:
            return bool(self.hub.once(lambda: self.hub.api.repo_info(self.name, repo_type=self.kind)).private)
        except HubError as error:
            if error.absent == "repo":
                return None
            raise

    def _create(self) -> None:
        self.hub.api.create_repo(self.name, repo_type=self.kind, private=True, exist_ok=True)

    def _revision(self) -> str:
        return str(self.hub.api.repo_info(self.name, repo_type=self.kind, revision=BRANCH).sha)

    def _address(self, path: str, revision: str) -> str:
        top = "" if self.kind == "model" else f"{self.kind}s/"
        return f"{self.hub.api.endpoint}/{top}{self.name}/resolve/{revision}/{quote(path)}"

    def _pending(self, files: Mapping[str, Content], ours: Collection[str]) -> dict[str, Content | None]:
        """What the repo does not hold as it is here, and, as None, what it holds of ours and is not here."""
        asked = sorted({*ours, *files})
        items = self.hub.api.get_paths_info(self.name, asked, repo_type=self.kind, revision=BRANCH)
        there = {item.path: Stored.in_repo(item) for item in items if hasattr(item, "blob_id")}
        changed: dict[str, Content | None] = {
            name: content for name, content in files.items() if not content.same_as(there.get(name))
        }
        return changed | {name: None for name in there if name not in files}

    def _sender(self, files: Mapping[str, Content], ours: Collection[str], message: str) -> Callable[[], None]:
        """One try; a further one does not send again what has arrived of the large files."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        added: dict[str, Any] = {}

        def send() -> None:
            # With its parent named, a try that seemed lost and arrives late cannot become a second commit.
            parent = self._revision()
            pending = self._pending(files, ours)
            for name, content in pending.items():
                if content is not None:
                    added.setdefault(name, CommitOperationAdd(name, content.readable()))
            adds = [added[name] for name, content in pending.items() if content is not None]
            deletes = [CommitOperationDelete(name) for name, content in pending.items() if content is None]
            if not pending:
                return
            about: dict[str, Any] = {"repo_type": self.kind, "revision": BRANCH}
            with no_progress_bars():
                self.hub.api.preupload_lfs_files(self.name, additions=adds, free_memory=False, **about)
                self.hub.api.create_commit(
                    self.name, [*adds, *deletes], commit_message=message, parent_commit=parent, **about
                )

        return send
