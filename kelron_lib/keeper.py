"""What a session keeps, and its right to: the lease, the dataset, and checkpoints sent behind training's back."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from kelron_lib.checkpoint import Prepared, prepare_checkpoint, send_checkpoint
from kelron_lib.config import RunConfig, config_hash, to_dict
from kelron_lib.data import fingerprint
from kelron_lib.dataset import copy_dataset, has_dataset, save_dataset
from kelron_lib.errors import KelronError, RunFailed
from kelron_lib.events import RunEvents
from kelron_lib.lease import LostLease, Writer
from kelron_lib.manifest import Manifest, is_checkpoint_file
from kelron_lib.model import library_versions
from kelron_lib.store import Store
from kelron_lib.upload import Uploader, stage
from kelron_lib.verify import size_words

FLUSH_AT_LEAST = 60.0
"""Seconds that the last checkpoint gets to arrive even where the budget is spent: the budget ends before the session
does (on Kaggle an hour before), and what did not arrive is lost."""

SETTLE_SECONDS = 5.0
"""How long a session that ends before its time waits for what it is sending: less than launch.GRACE_SECONDS, after
which its process is killed. What is not there then never counts, since the lease is given back."""


class Keeper:
    """One session's hold on the run's store, from `begin` to `close`. Only process 0 has one."""

    def __init__(
        self,
        store: Store,
        config: RunConfig,
        *,
        data: Path,
        data_fingerprint: str,
        out: Path,
        world_size: int,
        say: Callable[[str], None],
    ) -> None:
        """out: the run's folder, with the work folder in it."""
        self.store, self.config, self.data, self.data_fingerprint = store, config, data, data_fingerprint
        self.world_size, self.say = world_size, say
        self.changes: list[dict[str, Any]] = []  # of the config since the run began; each checkpoint records them
        self.dataset_copy, self.staging = out / "work" / "dataset", out / "work" / "staged"
        self.events = RunEvents(out, say, tensorboard=config.session.tensorboard)
        self._writer = Writer.of(store)
        self._uploader: Uploader[Prepared] | None = None
        self._one_at_a_time = threading.Lock()

    def begin(self) -> None:
        """Take the lease. Raises KelronError where another session writes to the store."""
        for stale in (self.staging, self.dataset_copy):
            shutil.rmtree(stale, ignore_errors=True)
        self._writer.acquire(self.say)
        self._uploader = Uploader(self._send, most_failures=self.config.store.most_failures, say=self.say)

    def take_dataset(self) -> None:
        """A copy of the dataset for the store, where that has none yet: the folder may change before the first save."""
        if not has_dataset(self.store, self.data_fingerprint):
            copy_dataset(self.data, self.dataset_copy)
            self.require_unchanged(self.dataset_copy)

    def require_unchanged(self, folder: Path) -> None:
        """Raise KelronError where the dataset in `folder` is not the one that the session began with."""
        if fingerprint(folder) != self.data_fingerprint:
            raise KelronError(f"the dataset in {self.data} was changed while the session began: start it again")

    def keep(self, checkpoint: Path) -> None:
        """Seal the trainer's checkpoint and put it on its way to the store; does not wait for it to arrive."""
        assert self._uploader is not None
        names = [path.name for path in checkpoint.iterdir() if is_checkpoint_file(path.name)]
        staged = stage(checkpoint, names, self.staging)
        try:
            prepared = prepare_checkpoint(
                staged,
                config=to_dict(self.config),
                config_hash=config_hash(self.config),
                data_fingerprint=self.data_fingerprint,
                world_size=self.world_size,
                fp16=self.config.model.dtype == "float16",
                versions=library_versions(),
                changes=self.changes,
            )
        except KelronError:
            shutil.rmtree(staged, ignore_errors=True)
            raise
        manifest = prepared.manifest
        self._uploader.offer(f"step {manifest.step}", prepared, staged, lasting=manifest.step == manifest.best_step)

    def _send(self, prepared: Prepared) -> None:
        self.keep_dataset()
        kept = send_checkpoint(self.store, prepared, keep=self.config.store.keep, confirm=self._writer.confirm)
        self._tell_use(kept)

    def _tell_use(self, kept: Manifest) -> None:
        line = f"step {kept.step} is kept in {self.store.describe()}, verified: {size_words(kept.size)}"
        with suppress(KelronError):  # the checkpoint is there; how full the store is can be told the next time
            used = sum(entry.size for entry in self.store.list())
            line += f" of the {size_words(used)} there"
        self.say(line)
        self.events.add("backup", step=kept.step, bytes=kept.size, place=self.store.describe())

    def keep_dataset(self) -> None:
        """Send the dataset if the store does not have it; the thread that sends may be at it as well."""
        with self._one_at_a_time:
            if self.dataset_copy.exists():
                self._writer.confirm()
                save_dataset(self.store, self.dataset_copy)
                shutil.rmtree(self.dataset_copy)

    def confirm(self) -> None:
        """Raise LostLease where another session writes to the store now."""
        self._writer.confirm()

    @property
    def asked_to_stop(self) -> bool:
        """Whether somebody asked this session, through the store, to end."""
        return self._writer.asked_to_stop

    def check(self) -> None:
        """Raise RunFailed where checkpoints no longer reach the store, or another session took it."""
        if isinstance(lost := self._writer.problem, LostLease):  # seen at a heartbeat, long before the next checkpoint
            raise RunFailed(str(lost)) from lost
        if self._uploader is not None:
            self._uploader.check()

    def words(self) -> str:
        """What the progress line says about the store; empty while all is well."""
        return self._uploader.words() if self._uploader is not None else ""

    def told(self, reason: str) -> str:
        """Why a session ended, with how many uploads failed on the way and were made good."""
        failed = self._uploader.all_failures if self._uploader is not None else 0
        return f"{reason}; {failed} upload{'s' * (failed > 1)} failed on the way" if failed else reason

    def expected_seconds(self, otherwise: float) -> float:
        """How long a checkpoint offered now may take to arrive, one on its way included; `otherwise` before any did."""
        assert self._uploader is not None
        measured = self._uploader.expected_seconds
        if measured is None:
            return otherwise
        return measured * (1.0 + self._uploader.ahead)

    def flush(self, seconds: float) -> None:
        """Wait until the last checkpoint has arrived, at most `seconds` (and FLUSH_AT_LEAST).

        Raises RunFailed where it has not: with the reason, and what the store holds instead.
        """
        assert self._uploader is not None
        if self._uploader.flush(max(seconds, FLUSH_AT_LEAST)):
            return
        why = self._uploader.problem or "it takes longer than there was time"
        newest = self._uploader.sent or "nothing of this session"
        raise RunFailed(
            f"the last checkpoint did not reach {self.store.describe()} ({why}): the newest there is {newest}"
        )

    def settle(self) -> None:
        """End the thread; what it is sending gets a moment to arrive. From then on no checkpoint is added."""
        if self._uploader is not None:
            self._uploader.close()
            self._uploader.join(SETTLE_SECONDS)

    def close(self, status: Any = None) -> None:
        """Settle and give the lease back. What cannot be given back is told: the next session waits it out.

        status: how the session ended, a `session.Status`, for its events.
        """
        self.settle()
        self.events.end(status)
        try:
            self._writer.release()
        except KelronError as error:
            self.say(f"the lease of this session stays in the store: {error}")
