"""Where a publication goes: a folder, or a private model repo on the Hub; either holds it whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Protocol

from kelron_lib.errors import KelronError, RunFailed
from kelron_lib.export import MADE_FROM
from kelron_lib.files import cannot_write
from kelron_lib.hub_client import Hub
from kelron_lib.hub_content import Content
from kelron_lib.hub_repo import HubRepo
from kelron_lib.publish.files import Publication, kind_words, read_publication
from kelron_lib.runtime import read_json

HUB = "hf://models/"
_BLANK = {".gitattributes", "README.md", "LICENSE", ".gitignore"}
"""What a repo holds that was made by hand on the Hub and not filled yet."""
_LOADED = (
    *("*.safetensors", "*.bin", "*.pt", "*.pth", "*.index.json", "*config.json"),
    *("tokenizer*", "*tokens*.json", "vocab.json", "merges.txt", "chat_template*", "additional_chat_templates/*"),
)
"""Files by which a loader would take a repo for another model than the one that was published there."""


class Place(Protocol):
    """A place for a publication."""

    words: str
    """The place as it is told."""
    name: str
    """What the publication is called: the repo's or the folder's last name."""
    source: str
    """What loads it from where its card is read: the repo, or the folder that the reader is in."""
    staging: Path
    """The folder to make it in."""

    def check(self) -> Publication | None:
        """The earlier publication that will give way, if any. Changes nothing.

        Raises KelronError where a publication may not go there.
        """

    def staged(self) -> contextlib.AbstractContextManager[None]:
        """`staging`, empty and this process's alone; it is gone afterwards."""

    def put(self) -> str:
        """Move what was staged there, in the place of an earlier publication; returns a line that says where it is."""


class FolderPlace:
    """A folder on a local disk."""

    source = "."

    def __init__(self, folder: Path) -> None:
        self.folder, self._real = folder, folder.resolve()
        self.words, self.name = str(folder), self._real.name
        self.staging, self._old = (self._real.parent / f".{self.name}.{kind}" for kind in ("part", "old"))

    def check(self) -> Publication | None:
        """Refuses a folder that holds anything but an earlier publication, which would be lost."""
        if not self.folder.exists():
            return None
        if not self.folder.is_dir():
            raise KelronError(f"{self.folder} is a file: name a folder with --to")
        if os.path.ismount(self._real):
            raise KelronError(f"{self.folder} is the top of a disk, which no rename replaces: name a folder in it")
        held = {path.name for path in self.folder.iterdir()}
        told = self.folder / MADE_FROM
        earlier = (
            read_publication(read_json(told, "remove this folder, or name another with --to"))
            if told.is_file()
            else None
        )
        if earlier is None:
            if held:
                raise KelronError(
                    f"{self.folder} is not empty and holds no publication of Kelron's that could give way: name "
                    "another folder with --to"
                )
        elif others := sorted(held - earlier.names):
            raise KelronError(
                f"{self.folder} holds {_few(others)} beside an earlier publication, which would be lost with it: move "
                "that out of there, or name another folder with --to"
            )
        return earlier

    @contextlib.contextmanager
    def staged(self) -> Iterator[None]:
        """Beside the folder. Where a kill came between `put`'s two renames, the earlier publication comes back."""
        try:
            self.staging.mkdir(parents=True, exist_ok=True)
            held = os.open(self.staging, os.O_RDONLY)
        except OSError as error:
            raise cannot_write(f"write {self.staging}", error) from None
        try:
            self._lock(held)
            try:
                self._restore()
                _empty(self.staging)
                yield
            finally:
                if self._is_staging(held):
                    shutil.rmtree(self.staging, ignore_errors=True)
        finally:
            os.close(held)

    def _lock(self, held: int) -> None:
        """The system lets go of it when this process dies."""
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if self._is_staging(held):
                return
        raise KelronError(
            f"another process is publishing to {self.folder}: wait for it, or name another folder with --to"
        )

    def _is_staging(self, held: int) -> bool:
        """Whether an open folder is the staging folder still: `put` moves it away, and another may stand there then."""
        return self.staging.exists() and os.path.samestat(os.fstat(held), self.staging.stat())

    def _restore(self) -> None:
        if self._old.exists() and not self._real.exists():
            self._old.rename(self._real)

    def put(self) -> str:
        """By renames alone, so that the folder never holds a part."""
        earlier = self.check()
        try:
            shutil.rmtree(self._old, ignore_errors=True)
            try:
                if self._real.exists():
                    self._real.rename(self._old)
                self.staging.rename(self._real)
            except BaseException:
                self._restore()
                raise
            shutil.rmtree(self._old, ignore_errors=True)
        except OSError as error:
            raise cannot_write(f"write {self.folder}", error) from None
        return f"published to {self.folder}{_instead(earlier)}"


class RepoPlace:
    """A model repo on the Hub: made private; one that is public already is used only where that is wanted."""

    def __init__(self, url: str, run: Path, hub: Hub, *, allow_foreign: bool, public: bool) -> None:
        self.source = url.removeprefix(HUB).rstrip("/")
        options = {"allow_foreign": allow_foreign, "allow_public": public}
        self.repo = HubRepo(self.source, "model", hub, example="hf://models/me/kelron", **options)
        self.words, self.name = self.repo.words, self.source.rpartition("/")[2]
        self.staging = run / "publish.part"

    def check(self) -> Publication | None:
        """Refuses what the token may not write, and a repo with files of others that somebody could load."""
        return self._earlier() if self.repo.require_usable() else None

    def _earlier(self) -> Publication | None:
        held = set(self.repo.names())
        earlier = self._told() if MADE_FROM in held else None
        if earlier is None:
            if others := sorted(held - _BLANK):
                raise KelronError(
                    f"{self.words} holds no publication of Kelron's that could give way but {others[0]}: name another "
                    "repo with --to"
                )
        elif others := _loaded(held - earlier.names):
            raise KelronError(
                f"{self.words} holds {_few(others)} beside an earlier publication, and who loads the repo could get "
                "that instead: remove it there, or name another repo with --to"
            )
        return earlier

    def _told(self) -> Publication | None:
        try:
            return read_publication(json.loads(self.repo.read(MADE_FROM)))
        except ValueError:
            raise KelronError(
                f"{MADE_FROM} in {self.words} is not readable JSON: remove that file there, or name another repo with "
                "--to"
            ) from None

    @contextlib.contextmanager
    def staged(self) -> Iterator[None]:
        """In the run's folder, which is held for this process."""
        try:
            self.staging.mkdir(exist_ok=True)
            _empty(self.staging)
        except OSError as error:
            raise cannot_write(f"write {self.staging}", error) from None
        try:
            yield
        finally:
            shutil.rmtree(self.staging, ignore_errors=True)

    def put(self) -> str:
        """In one commit, which also removes what the earlier publication had and this one has not; then every file is
        fetched anew and its digest compared."""
        self.repo.make()
        earlier = self._earlier()
        files = {path.name: Content(path) for path in sorted(self.staging.iterdir())}
        sent = self.repo.put(files, earlier.names if earlier else {MADE_FROM}, "kelron: publish")
        self._compare({name: content.digest("sha256") for name, content in files.items()})
        done = f"published to {self.words}{_instead(earlier)}" if sent else f"already in {self.words}"
        return f"{done}; what it holds was fetched anew and is the same"

    def _compare(self, wanted: Mapping[str, str]) -> None:
        found = self.repo.digests(wanted)
        if wrong := [name for name in wanted if found[name] != wanted[name]]:
            raise RunFailed(
                f"{self.words} gives other bytes than were sent for {', '.join(wrong)}: publish again, and do not use "
                "what is there"
            )
        if others := _loaded(set(self.repo.names()) - wanted.keys()):
            raise RunFailed(
                f"{self.words} got {_few(others)} from elsewhere at the same time: remove that there, or it may be "
                "loaded instead"
            )


def _empty(folder: Path) -> None:
    """Remove what a cut may have left in it. Raises OSError where something stays."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _loaded(names: Collection[str]) -> list[str]:
    """Those that a loader would read: in the repo's top folder, or a template of its own."""
    found = [name for name in names if any(fnmatchcase(name, pattern) for pattern in _LOADED)]
    return sorted(name for name in found if "/" not in name or name.startswith("additional_chat_templates/"))


def _few(names: list[str]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def _instead(earlier: Publication | None) -> str:
    return f", in the place of {kind_words(merged=earlier.merged)} from {earlier.created}" if earlier else ""


def open_place(
    to: str, run: Path, hub: Hub | None = None, *, allow_foreign: bool = False, public: bool = False
) -> Place:
    """The place that `--to` names. Raises KelronError for one that is neither a folder nor hf://models/OWNER/NAME."""
    if to.startswith(HUB):
        return RepoPlace(to, run, hub or Hub(), allow_foreign=allow_foreign, public=public)
    if "://" in to or not to.strip():
        raise KelronError(f"cannot publish to {to!r}: name a folder, or hf://models/OWNER/NAME on the Hub")
    return FolderPlace(Path(to).expanduser())
