"""One URL chooses the store: a folder, a bucket or a model repo on the Hugging Face Hub, a Kaggle kernel's output."""

from __future__ import annotations

from pathlib import Path

from kelron_lib.config import RunConfig
from kelron_lib.errors import KelronError
from kelron_lib.hub_store import SCHEME as HUB_SCHEME
from kelron_lib.hub_store import open_hub_store
from kelron_lib.kaggle_store import SCHEME as KAGGLE_SCHEME
from kelron_lib.kaggle_store import DownloadedStore, MountedStore, open_kaggle_store
from kelron_lib.store import FolderStore, Store


def own_store(out: Path) -> str:
    """The store of a run that names none: a folder beside its other results."""
    return str(out / "store")


def store_url(config: RunConfig, out: Path) -> str:
    """Where a run's checkpoints survive."""
    return config.store.url or own_store(out)


def store_folder(config: RunConfig, out: Path) -> Path | None:
    """The same as a folder on this machine; None where it is elsewhere."""
    url = store_url(config, out)
    return None if "://" in url else Path(url).expanduser()


def is_read_only(url: str) -> bool:
    """Whether a store of this kind can only be read."""
    return url.strip().startswith(KAGGLE_SCHEME)


def open_store(url: str | Path, *, write: bool = False, must_exist: bool = False, allow_foreign: bool = False) -> Store:
    """The store behind `path/`, `hf://buckets/NAMESPACE/NAME/RUN` (a bucket), `hf://NAMESPACE/NAME/RUN` (a repo) or
    `kaggle://OWNER/KERNEL` (the output of a kernel, which can only be read).

    It is made on the first write: a folder if its parent exists, on the Hub private, and in the token's own namespace
    unless `allow_foreign`.
    With `write` it is made and proven to take a file now, so that a run does not learn at its first save that it
    cannot keep anything; with `must_exist` an absent one is an error. Raises KelronError for these, for a kind of
    store that this version does not have, and for one that cannot be used.
    """
    text = str(url).strip()
    if not text:
        raise KelronError("the store's URL is empty: name a folder")
    if text.startswith(HUB_SCHEME):
        hub = open_hub_store(text, allow_foreign=allow_foreign)
        if must_exist and not hub.exists():
            raise KelronError(f"there is no {hub.describe()}: check the URL, and that your token may see it")
        if write:
            hub.prepare()
        return hub
    if text.startswith(KAGGLE_SCHEME):
        return _open_kaggle(text, write, must_exist)
    if "://" in text:
        raise KelronError(f"cannot open {text!r}: name a folder, or hf://buckets/NAMESPACE/NAME/RUN on the Hub")
    folder = FolderStore(Path(text))
    if must_exist and not folder.root.exists():
        raise KelronError(f"there is no store at {text}: check the path")
    if write:
        folder.prepare()
    return folder


def _open_kaggle(url: str, write: bool, must_exist: bool) -> MountedStore | DownloadedStore:
    output = open_kaggle_store(url)
    if write:
        output.prepare()
    if must_exist and isinstance(output, DownloadedStore):
        output.locate()
    return output
