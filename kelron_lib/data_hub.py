"""A dataset on the Hugging Face Hub: one commit to a private dataset repo, which `datasets.load_dataset` reads."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kelron_lib.data import QUALITY_FILE, SPLITS, fingerprint, old_file
from kelron_lib.dataset import ABOUT, ROWS
from kelron_lib.errors import KelronError
from kelron_lib.hub_base import BRANCH
from kelron_lib.hub_client import TOKENS_PAGE, Hub, HubError, no_progress_bars
from kelron_lib.hub_content import Content, Stored
from kelron_lib.runtime import read_json

KIND = "dataset"
"""The Hub's word for such a repo."""
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_OURS = {*ROWS, *ABOUT, *(old_file(Path(), split).name for split in SPLITS)}
"""What a push replaces or removes; whatever else a repo holds stays."""


def push_dataset(folder: Path, repo: str, *, allow_foreign: bool = False, hub: Hub | None = None) -> str:
    """Send the dataset in `folder` to the dataset repo OWNER/NAME, which is made, private, if there is none; returns a
    line that says where it is.

    Raises KelronError for a folder without a sound dataset or with one that its own report fails, a name that is none,
    a token that is missing or may not write there, another's namespace unless `allow_foreign`, and a public repo.
    """
    files = _files(folder)
    target = _Repo(repo, hub or Hub(), allow_foreign)
    target.require_private()
    size = sum(content.size for content in files.values())
    sent = target.put(files)
    done = f"{len(files)} files, {size / 1e6:.1f} MB, {'sent to' if sent else 'are already in'}"
    return f"{done} the private dataset repo {repo}: datasets.load_dataset({repo!r}) reads them"


def _files(folder: Path) -> dict[str, Content]:
    """The files of a sound dataset, by name."""
    fingerprint(folder)  # reads every row
    report = read_json(folder / QUALITY_FILE) if (folder / QUALITY_FILE).is_file() else None
    if not isinstance(report, dict):
        raise KelronError(f"{folder} has no {QUALITY_FILE}: `kelron data check {folder} --report {folder}` writes one")
    if report.get("verdict") == "fail":
        raise KelronError(f"{folder} fails the quality gate: `kelron data check {folder}` tells by what; mend it first")
    return {name: Content(folder / name) for name in (*ROWS, *ABOUT) if (folder / name).is_file()}


class _Repo:
    """A dataset repo on the Hub. Creating this reaches nothing."""

    def __init__(self, name: str, hub: Hub, allow_foreign: bool) -> None:
        owner, _, rest = name.partition("/")
        if not all(_NAME.fullmatch(part) and ".." not in part for part in (owner, rest)):
            raise KelronError(f"{name!r} is no name of a repo: use OWNER/NAME, such as me/kelron-data")
        self.name, self.owner, self.hub, self.allow_foreign = name, owner, hub, allow_foreign
        self.words = f"the dataset repo {name}"

    def require_private(self) -> None:
        """Make it where there is none. Raises KelronError unless it is private and may be written."""
        account = self.hub.account()
        if self.owner != account["name"] and not self.allow_foreign:
            raise KelronError(
                f"{self.words} is not in your own namespace ({account['name']}): name {account['name']}/..., or add "
                "--allow-foreign where this one is meant"
            )
        if account.get("auth", {}).get("accessToken", {}).get("role") == "read":
            raise KelronError(f"the token can only read: use one with write access from {TOKENS_PAGE}")
        private = self.hub.ask(f"look at {self.words}", self._privacy)
        if private is None:
            self.hub.run(f"create {self.words}", self._create, arrived=lambda: self._privacy() is not None)
            private = self.hub.ask(f"look at {self.words}", self._privacy)
        if not private:
            raise KelronError(
                f"{self.words} is public, and datasets are pushed to private ones alone: make it private in its "
                "settings on the Hub, or name another"
                if private is not None
                else f"{self.words} exists, but the token may not see it: use one with access from {TOKENS_PAGE}"
            )

    def put(self, files: Mapping[str, Content]) -> bool:
        """Make these the repo's dataset, in one commit; whether there was anything to change."""
        if not self.hub.ask(f"look at {self.words}", lambda: self._pending(files)):
            return False
        self.hub.run(f"write {self.words}", lambda: self._send(files), arrived=lambda: not self._pending(files))
        return True

    # --- these call the hub client, within `Hub.once` or `Hub.run` ---

    def _privacy(self) -> bool | None:
        try:
            return bool(self.hub.once(lambda: self.hub.api.dataset_info(self.name)).private)
        except HubError as error:
            if error.absent == "repo":
                return None
            raise

    def _create(self) -> None:
        self.hub.api.create_repo(self.name, repo_type=KIND, private=True, exist_ok=True)

    def _pending(self, files: Mapping[str, Content]) -> dict[str, Content | None]:
        """What the repo does not hold as it is here, and, as None, what it holds of another dataset."""
        items = self.hub.api.get_paths_info(self.name, sorted(_OURS), repo_type=KIND, revision=BRANCH)
        there = {item.path: Stored.in_repo(item) for item in items if hasattr(item, "blob_id")}
        changed: dict[str, Content | None] = {
            name: content for name, content in files.items() if not content.same_as(there.get(name))
        }
        return changed | {name: None for name in there if name not in files}

    def _send(self, files: Mapping[str, Content]) -> None:
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        # With its parent named, a try that seemed lost and arrives late cannot become a second commit.
        parent = str(self.hub.api.dataset_info(self.name, revision=BRANCH).sha)
        operations: list[Any] = [
            CommitOperationDelete(name) if content is None else CommitOperationAdd(name, content.readable())
            for name, content in self._pending(files).items()
        ]
        if not operations:
            return
        with no_progress_bars():
            self.hub.api.create_commit(
                self.name,
                operations,
                repo_type=KIND,
                commit_message="kelron: push the dataset",
                revision=BRANCH,
                parent_commit=parent,
            )
