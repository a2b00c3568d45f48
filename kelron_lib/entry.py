"""What a session sees to before it asks to be let in: a store that answers, and the dataset on this machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from kelron_lib.config import RunConfig
from kelron_lib.dataset import fetch_dataset, holds_dataset
from kelron_lib.errors import KelronError
from kelron_lib.hub_client import HubError
from kelron_lib.store import Store
from kelron_lib.stores import own_store

Say = Callable[[str], None]


def without_hub(config: RunConfig, out: Path, reach: Callable[[], None], say: Say) -> RunConfig:
    """For a fresh start only: the config that keeps the run beside its results where `reach` finds that the Hub cannot
    be reached, else the same."""
    try:
        reach()
    except HubError as error:
        if not error.transient:
            raise
        own = own_store(out)
        say(
            f"FRESH START: {error}. This run begins at step 0 and keeps its checkpoints in {own}; the store "
            f"{config.store.url} is not touched. For later sessions of this run: store.url={own}"
        )
        return replace(config, store=replace(config.store, url=own))
    return config


def bring_dataset(data: Path, find: Callable[[], Store], say: Say, make: str) -> bool:
    """See that the folder `data` holds a dataset, from the store that `find` gives if from nowhere else; whether it
    was brought from there.

    Raises KelronError where there is none, naming the command `make` that makes one, or where it is damaged.
    """
    if holds_dataset(data):
        return False
    store = find()
    if fetch_dataset(store, data) is None:
        raise KelronError(f"no rows at {data}, and no dataset in {store.describe()}: make it with `{make}`")
    say(f"{data} held no dataset: it was taken from {store.describe()}, verified")
    return True
