"""Whether a stored checkpoint may go on as this run."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from kelron_lib.config import RunConfig, to_dict
from kelron_lib.errors import KelronError
from kelron_lib.manifest import compare
from kelron_lib.restore import Restored, restore
from kelron_lib.store import Store


def restore_run(
    config: RunConfig, store: Store, data_fingerprint: str, work: Path, say: Callable[[str], None]
) -> Restored | None:
    """The newest verified checkpoint in `work`, or None for an empty store.

    Raises KelronError where the checkpoint belongs to another config or other data.
    """
    for stale in work.glob("checkpoint-*"):
        shutil.rmtree(stale)
    restored = restore(store, work, fp16=config.model.dtype == "float16", say=say)
    if restored is None:
        return None
    differing = compare(restored.manifest, config=to_dict(config), data_fingerprint=data_fingerprint)
    if differing:
        raise KelronError(
            f"the checkpoint in {store.describe()} is of another run (differing: {', '.join(differing)}): use the "
            "config and data it was made with, or another store.url"
        )
    return restored
