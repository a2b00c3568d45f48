"""The run's store on the Hub, as far as this laptop may look into it."""

from __future__ import annotations

from collections.abc import Callable

from kelron_lib.config import RunConfig
from kelron_lib.errors import KelronError
from kelron_lib.hub_store import SCHEME
from kelron_lib.kaggle_ops.kernels import TRAINING
from kelron_lib.kaggle_ops.state import Pushed
from kelron_lib.lease import ask_to_stop
from kelron_lib.manifest import LATEST, Pointer
from kelron_lib.store import DamagedFile, MissingFile
from kelron_lib.stores import open_store


class HubSide:
    """What the store of a config tells; nothing, and no request, where that is none on the Hub."""

    def __init__(self, config: RunConfig, say: Callable[[str], None]) -> None:
        self._config, self._say = config, say
        self._trouble = ""

    @property
    def there(self) -> bool:
        """Whether the run's store is on the Hub."""
        return self._config.store.url.startswith(SCHEME)

    def _pointer(self) -> Pointer | None:
        """What LATEST names, None for nothing. Raises KelronError where this laptop may not read the store."""
        try:
            return Pointer.decode(open_store(self._config.store.url).read_bytes(LATEST))
        except (MissingFile, DamagedFile):
            return None

    def known_step(self, training: Pushed | None) -> int | None:
        """The newest step that the run has in its store, None where this laptop may not read it; 0 for one in outputs.

        `training`: the run's newest training session. A run that was begun anew has none as long as the store holds
        what it held before.
        """
        if not self.there:
            return 0
        try:
            pointer = self._pointer()
        except KelronError as error:
            line = f"the store cannot be read from here ({error}); the sessions' status files and logs count"
            if line != self._trouble:
                self._say(line)
                self._trouble = line
            return None
        if pointer is None or (training is not None and pointer.manifest_sha256 == training.record.before):
            return 0
        return pointer.step

    def before(self, training: Pushed | None) -> str:
        """What marks the checkpoint that a run begun anew finds in its store: its manifest's sha256, empty for none.

        Raises KelronError where this laptop may not read the store.
        """
        if training is not None:
            return training.record.before
        try:
            pointer = self._pointer() if self.there else None
        except KelronError as error:
            raise KelronError(
                f"--fresh has to see what the store holds before, and it cannot be read from here ({error}): set "
                "HF_TOKEN to a token that may, or give the new run another store.url"
            ) from None
        return pointer.manifest_sha256 if pointer is not None else ""

    def begins_anew(self, training: Pushed | None) -> bool:
        """Whether a first training session is still to set aside what the store held before a run was begun anew."""
        if not self.there or training is None:
            return self.there
        known = self.known_step(training)
        return training.reached <= 0 and (known == 0 or (known is None and not training.silent))

    def ask_to_stop(self, pushed: Pushed) -> str:
        """Ask a session that trains to keep a checkpoint and end, which it sees in a store on the Hub: what will come
        of it, in words; empty where it cannot be asked."""
        url = pushed.record.store
        if pushed.kernel not in TRAINING or not url.startswith(SCHEME):
            return ""
        try:
            store = open_store(url, allow_foreign=self._config.store.allow_foreign)
            holder = ask_to_stop(store)
        except KelronError as error:
            self._say(f"it could not be asked to end: {error}")
            return ""
        if holder is None:
            self._say("it cannot be asked to end before it trains: say `stop` again then")
            return ""
        return (
            f"the session that holds the store ({holder.describe()}) was asked to end, sees it within "
            f"{store.beat_seconds:.0f} s, and keeps a checkpoint"
        )
