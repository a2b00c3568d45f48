"""What a session that is refused must not leave behind: a mistyped folder stays, or stays away, as it was."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

from kelron_lib.config import RunConfig
from kelron_lib.dataset import holds_dataset
from kelron_lib.job import BEGUN_FILE, JOB_FILE
from kelron_lib.lease import LEASE
from kelron_lib.manifest import CONFIG, LATEST
from kelron_lib.runtime import on_kaggle
from kelron_lib.session import LOSSES_FILE, SESSIONS_FILE, STATUS_FILE
from kelron_lib.stores import own_store, store_folder


class Traces:
    """How a run's folder and its store were before a session. Only what was not there is removed again."""

    def __init__(self, config: RunConfig, out: Path) -> None:
        files = [out / name for name in (CONFIG, JOB_FILE, BEGUN_FILE)]
        own, elsewhere = Path(own_store(out)), store_folder(config, out)
        stores = [own, *([elsewhere] if elsewhere else [])]
        self._files = [path for path in files if not path.exists()]
        self._folders = [path for path in (out / "work",) if not path.exists()]
        self._stores = [path for path in stores if not path.exists()]
        told = any((out / name).exists() for name in (STATUS_FILE, SESSIONS_FILE, LOSSES_FILE))
        kept = any((own / name).exists() for name in (LATEST, LEASE))
        self.in_a_run = told or kept or holds_dataset(out / "data") or on_kaggle()
        """Whether the folder was a run's already, or must be: then somebody looks there for how the session ended."""

    def add(self, folder: Path) -> None:
        """The session brings this folder, which was not there."""
        self._folders.append(folder)

    def remove(self) -> None:
        """Remove what the session made; a store only where it is empty."""
        for file in self._files:
            file.unlink(missing_ok=True)
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)
        for store in self._stores:
            with suppress(OSError):
                store.rmdir()
