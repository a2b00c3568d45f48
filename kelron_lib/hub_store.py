"""Stores on the Hugging Face Hub: a private bucket for rolling checkpoints, a private model repo as the alternative.

A bucket forgets what is deleted, but a change of several files is no transaction: what arrived is read back, and only
the rest is sent again. A repo changes by whole commits, but keeps every version until `squash`.

How a store knows what it holds without downloading it: a repo lists the sha256 of large files and the git hash of
small ones. A bucket lists only xet hashes, which say nothing of a sha256; hf_xet computes them for local files, too.
So the sha256 of what was sent from here, or fetched, is remembered under its xet hash, and a file whose listed hash
is not among these is downloaded to be read.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import quote

from kelron_lib.errors import KelronError
from kelron_lib.hub_base import BRANCH, HubStore
from kelron_lib.hub_client import Hub, HubError, no_progress_bars
from kelron_lib.hub_content import Content, HashingSink, Stored
from kelron_lib.store import unconditionally

SCHEME = "hf://"
BUCKETS = "buckets/"
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_OTHER_KINDS = ("datasets", "spaces", "models", "buckets", "kernels")


def open_hub_store(url: str, *, hub: Hub | None = None, allow_foreign: bool = False) -> HubStore:
    """The store behind `hf://buckets/NAMESPACE/NAME/RUN` or `hf://NAMESPACE/NAME/RUN`; reaches nothing yet.

    `allow_foreign`: the namespace may be another's than the token's. Raises KelronError for a URL that is neither.
    """
    rest = url.removeprefix(SCHEME)
    kind = BucketStore if rest.startswith(BUCKETS) else RepoStore
    namespace, _, rest = rest.removeprefix(BUCKETS).partition("/")
    name, _, run = rest.partition("/")
    names_fit = all(_NAME.fullmatch(part) and ".." not in part for part in (namespace, name))
    if not url.startswith(SCHEME) or not names_fit or not run or namespace in _OTHER_KINDS:
        raise KelronError(
            f"{url!r} is no store on the Hub: use hf://buckets/NAMESPACE/NAME/RUN for a bucket, or "
            "hf://NAMESPACE/NAME/RUN for a model repo"
        )
    return kind(f"{namespace}/{name}", run.rstrip("/"), hub or Hub(), allow_foreign=allow_foreign)


class RepoStore(HubStore):
    """A private model repo: every change is one commit, on top of the one that was read before."""

    kind = "repo"
    beat_seconds = 300.0  # each is a commit

    def squash(self) -> None:
        """Make one commit of the whole history, so that deleted files take no storage; they cannot come back."""
        self._check_namespace()
        self.hub.run(
            f"squash {self.describe()}",
            lambda: self.hub.api.super_squash_history(self.name, branch=BRANCH, commit_message="kelron: squash"),
            arrived=lambda: len(self.hub.api.list_repo_commits(self.name, revision=BRANCH)) == 1,
        )

    def _info(self) -> Any:
        return self.hub.api.model_info(self.name)

    def _create(self) -> Any:
        return self.hub.api.create_repo(self.name, private=True, exist_ok=True)

    def _revision(self) -> str:
        return str(self.hub.api.model_info(self.name, revision=BRANCH).sha)

    def _listed(self, full: str) -> dict[str, Stored]:
        revision = self._revision()
        items = self.hub.api.list_repo_tree(self.name, full, recursive=True, revision=revision)
        try:
            return self.hub.once(
                lambda: {item.path: Stored.in_repo(item) for item in items if hasattr(item, "blob_id")}
            )
        except HubError as error:
            if error.absent == "file":
                return {}
            raise

    def _looked_up(self, paths: Sequence[str], revision: str = BRANCH) -> dict[str, Stored]:
        items = self.hub.api.get_paths_info(self.name, [*paths], revision=revision)
        return {item.path: Stored.in_repo(item) for item in items if hasattr(item, "blob_id")}

    def _address(self, full: str, revision: str) -> str:
        return f"{self.hub.api.endpoint}/{self.name}/resolve/{revision}/{quote(full)}"

    def _sender(self, contents: dict[str, Content], what: str, confirm: Callable[[], None]) -> Callable[[], None]:
        from huggingface_hub import CommitOperationAdd

        added: dict[str, Any] = {}

        def send() -> None:
            for path, content in contents.items():
                source = content.readable()
                added.setdefault(path, CommitOperationAdd(path, source))
            # The content goes first: that takes long, and then the commit follows what was read right before it.
            with no_progress_bars():
                api = self.hub.api
                api.preupload_lfs_files(self.name, additions=[*added.values()], revision=BRANCH, free_memory=False)
                self._commit([*added.values()], f"kelron: write {what}", confirm)

        return send

    def _remove(self, full: str) -> None:
        from huggingface_hub import CommitOperationDelete

        is_file = full in self._looked_up([full])
        operation = CommitOperationDelete(full if is_file else f"{full}/", is_folder=not is_file)
        self._commit([operation], f"kelron: delete {full[len(self.prefix) + 1 :]}")

    def _commit(self, operations: Sequence[Any], message: str, confirm: Callable[[], None] = unconditionally) -> None:
        # With its parent named, a try that seemed lost and arrives late cannot become a second commit, and none lands
        # on a change that came after `confirm`.
        onto = {"revision": BRANCH, "parent_commit": self._revision()}
        # The run's dataset belongs into its store. For the whole process: filters are no thread's own.
        warnings.filterwarnings("ignore", "It seems that you are about to commit a data file")
        confirm()
        self.hub.api.create_commit(self.name, [*operations], commit_message=message, **onto)

    def _sha256(self, path: str, stored: Stored, revision: str) -> str:
        if stored.scheme == "sha256":
            return stored.digest
        sink = HashingSink()
        self._fetch(path, sink, revision, stored.size)
        return sink.hexdigest()

    def _learn(self, content: Content) -> None:
        pass  # its listings tell enough


class BucketStore(HubStore):
    """A private bucket: what is deleted is gone at once, and large files share what they have in common."""

    kind = "bucket"
    beat_seconds = 60.0

    def _info(self) -> Any:
        return self.hub.api.bucket_info(self.name)

    def _create(self) -> Any:
        return self.hub.api.create_bucket(self.name, private=True, exist_ok=True)

    def _revision(self) -> str:
        return ""

    def _listed(self, full: str) -> dict[str, Stored]:
        items = self.hub.api.list_bucket_tree(self.name, prefix=full, recursive=True)
        return {item.path: Stored.in_bucket(item) for item in items if item.type == "file"}

    def _looked_up(self, paths: Sequence[str], revision: str = "") -> dict[str, Stored]:
        return {item.path: Stored.in_bucket(item) for item in self.hub.api.get_bucket_paths_info(self.name, [*paths])}

    def _address(self, full: str, revision: str) -> str:
        return f"{self.hub.api.endpoint}/buckets/{self.name}/resolve/{quote(full)}"

    def _sender(self, contents: dict[str, Content], what: str, confirm: Callable[[], None]) -> Callable[[], None]:
        def send() -> None:
            pending = self._not_arrived(contents)
            with no_progress_bars():
                adds = [(content.readable(), path) for path, content in pending.items()]
                confirm()
                self.hub.api.batch_bucket_files(self.name, add=adds)
            if left := self._not_arrived(contents):
                raise HubError(f"{len(left)} of {len(contents)} did not arrive as they are here", transient=True)

        return send

    def _remove(self, full: str) -> None:
        self.hub.api.batch_bucket_files(self.name, delete=[*self._under(full)])
        if left := self._under(full):
            raise HubError(f"{len(left)} files are still there", transient=True)

    def _sha256(self, path: str, stored: Stored, revision: str) -> str:
        if stored.digest in self._known:
            return self._known[stored.digest]
        sink = HashingSink()
        self._fetch(path, sink, revision, stored.size)
        if self._stored(path, revision) == stored:  # so these bytes are those of that hash
            self._known[stored.digest] = sink.hexdigest()
        return sink.hexdigest()

    def _learn(self, content: Content) -> None:
        xet, sha256 = content.digest("xet"), content.digest("sha256")
        if content.steady:
            self._known[xet] = sha256
