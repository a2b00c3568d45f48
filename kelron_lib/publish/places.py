"""Where a publication goes: a folder, or a private model repo on the Hub; either holds it whole or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from kelron_lib.errors import KelronError, RunFailed
from kelron_lib.export import MADE_FROM
from kelron_lib.files import cannot_write
from kelron_lib.hub_client import Hub
from kelron_lib.hub_content import Content
from kelron_lib.hub_repo import HubRepo
from kelron_lib.publish.files import files_told, published_files

HUB = "hf://models/"
_BLANK = {".gitattributes", "README.md", "LICENSE", ".gitignore"}
"""What a repo holds that was made by hand on the Hub and not filled yet."""


class Place(Protocol):
    """A place for a publication."""

    name: str
    """What the publication is called: the repo, or the folder's name."""
    staging: Path
    """The folder to make it in."""

    def check(self) -> None:
        """Raise KelronError where a publication may not go there. Changes nothing."""

    def put(self) -> str:
        """Move what was staged there, in the place of an earlier publication; returns a line that says where it is."""


class FolderPlace:
    """A folder on a local disk."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._real = folder, folder.resolve()
        self.name = self._real.name
        self.staging, self._old = (self._real.parent / f"{self.name}.{kind}" for kind in ("part", "old"))

    def check(self) -> None:
        """Refuses a folder that holds anything but an earlier publication."""
        if self.folder.exists() and not self.folder.is_dir():
            raise KelronError(f"{self.folder} is a file: name a folder with --to")
        if self.folder.is_dir() and any(self.folder.iterdir()) and published_files(self.folder) is None:
            raise KelronError(
                f"{self.folder} is not empty and holds no publication of Kelron's that could give way: name another "
                "folder with --to"
            )

    def put(self) -> str:
        """By renames alone, so that the folder never holds a part."""
        self.check()
        try:
            shutil.rmtree(self._old, ignore_errors=True)
            if self._real.exists():
                self._real.rename(self._old)
            self.staging.rename(self._real)
            shutil.rmtree(self._old, ignore_errors=True)
        except OSError as error:
            raise cannot_write(f"write {self.folder}", error) from None
        return f"published to {self.folder}"


class RepoPlace:
    """A model repo on the Hub: made private; one that is public already is used only where that is wanted."""

    def __init__(self, url: str, run: Path, hub: Hub, *, allow_foreign: bool, public: bool) -> None:
        self.name = url.removeprefix(HUB).rstrip("/")
        options = {"allow_foreign": allow_foreign, "allow_public": public}
        self.repo = HubRepo(self.name, "model", hub, example="hf://models/me/kelron", **options)
        self.staging = run / "publish.part"

    def check(self) -> None:
        """Refuses what the token may not write, and a repo with files of others."""
        if self.repo.require_usable():
            self._earlier()

    def _earlier(self) -> dict[str, str]:
        """The files of an earlier publication in the repo. Raises KelronError where it holds others."""
        held = set(self.repo.names())
        told = json.loads(self.repo.read(MADE_FROM)) if MADE_FROM in held else None
        files = files_told(told)
        if files is None and (others := sorted(held - _BLANK)):
            raise KelronError(
                f"{self.repo.words} holds no publication of Kelron's that could give way but {others[0]}: name another "
                "repo with --to"
            )
        return files or {}

    def put(self) -> str:
        """In one commit; then every file is fetched anew and its digest compared."""
        self.repo.make()
        ours = {*self._earlier(), MADE_FROM}
        files = {path.name: Content(path) for path in sorted(self.staging.iterdir())}
        sent = self.repo.put(files, ours, "kelron: publish")
        self._compare({name: content.digest("sha256") for name, content in files.items()})
        done = "published to" if sent else "already in"
        return f"{done} {self.repo.words}; what it holds was fetched anew and is the same"

    def _compare(self, wanted: Mapping[str, str]) -> None:
        found = self.repo.digests(wanted)
        if wrong := [name for name in wanted if found[name] != wanted[name]]:
            raise RunFailed(
                f"{self.repo.words} gives other bytes than were sent for {', '.join(wrong)}: publish again, and do not "
                "use what is there"
            )


def open_place(
    to: str, run: Path, hub: Hub | None = None, *, allow_foreign: bool = False, public: bool = False
) -> Place:
    """The place that `--to` names. Raises KelronError for one that is neither a folder nor hf://models/OWNER/NAME."""
    if to.startswith(HUB):
        return RepoPlace(to, run, hub or Hub(), allow_foreign=allow_foreign, public=public)
    if "://" in to or not to.strip():
        raise KelronError(f"cannot publish to {to!r}: name a folder, or hf://models/OWNER/NAME on the Hub")
    return FolderPlace(Path(to).expanduser())
