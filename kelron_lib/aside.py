"""A run begun anew in a store that holds another: what is there is set aside, and nothing of it is lost.

It goes to the folder `before-N` of the store, which is a store itself: its URL lists, verifies and resumes the old
run. Everything is copied and proven before anything is removed; LATEST.json is the last to be copied and the first to
go, so that at each moment one of the two places holds the whole old run and names its newest checkpoint.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path

from kelron_lib.errors import KelronError
from kelron_lib.lease import LEASE, STOP
from kelron_lib.manifest import LATEST, MANIFEST
from kelron_lib.store import Store, sha256_file, unconditionally

ASIDE = "before-"


def is_aside(path: str) -> bool:
    """Whether a path of a store belongs to a run that was set aside there."""
    return path.startswith(ASIDE)


def set_aside(store: Store, scratch: Path, confirm: Callable[[], None] = unconditionally) -> str:
    """Move all that the store holds, but for the lease, to a folder of its own in it; its name, or `` for an empty one.

    To be called by the one that holds the lease; `confirm`, called before each deletion, raises once it does not,
    as copying may take long. `scratch` is a folder for one checkpoint at a time, gone at the end. Cut off and called
    again, it takes another folder: what is there twice then is never taken for one run. Raises KelronError where the
    store fails or something in it cannot be read; whatever is removed was copied before.
    """
    paths = [entry.path for entry in store.list()]
    old = [path for path in paths if not is_aside(path) and path not in (LEASE, STOP)]
    if not old:
        return ""
    taken = {path.split("/")[0] for path in paths}
    folder = next(name for number in itertools.count(1) if (name := f"{ASIDE}{number}") not in taken)
    old.sort(key=lambda path: (path == LATEST, "/" not in path, path))
    for _, members in itertools.groupby(old, key=lambda path: LATEST if path == LATEST else path.rpartition("/")[0]):
        _copy(store, list(members), folder, scratch)
    manifests = [path for path in old if path.rpartition("/")[2] == MANIFEST]
    for path in [*([LATEST] if LATEST in old else []), *manifests, *sorted({path.split("/")[0] for path in old})]:
        confirm()
        store.delete(path)
    return folder


def _copy(store: Store, paths: list[str], folder: str, scratch: Path) -> None:
    """Copy files to `folder`, by way of `scratch`, and read them back."""
    local = {path: scratch / str(number) for number, path in enumerate(paths)}
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        for path, file in local.items():
            store.get_file(path, file)
        store.put_files({f"{folder}/{path}": file for path, file in local.items()})
        for path, file in local.items():
            if store.sha256(f"{folder}/{path}") != sha256_file(file):
                raise KelronError(
                    f"{path} did not arrive intact in {folder} of {store.describe()}: nothing was removed; try again, "
                    "or name another store.url"
                )
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
