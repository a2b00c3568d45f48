"""Checkpoints on their way to the store, behind training's back: staged, sent by one thread, the newest first.

What is offered is staged at once: hard links where the disk allows, so that the trainer's rotation can delete its own
names and no second copy is made. One thread sends; a newer checkpoint replaces one that still waits or keeps failing,
unless that one is to last: the best of a run is not given up for one that is only newer.
A failure is tried again with growing pauses, is there to read at any moment, and at the end of a session `flush` waits
for what is left, for a bounded time.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from kelron_lib.errors import KelronError, RunFailed
from kelron_lib.lease import LostLease

T = TypeVar("T")
SLOWEST_OF = 3
"""How many uploads the expected time looks back on."""


def stage(folder: Path, names: Iterable[str], staging: Path) -> Path:
    """Link or copy the files `names` of `folder` into a new folder under `staging`, and return that.

    Raises OSError, with nothing left behind, where that fails.
    """
    staging.mkdir(parents=True, exist_ok=True)
    staged = Path(tempfile.mkdtemp(prefix=f"{folder.name}-", dir=staging))
    try:
        for name in names:
            try:
                os.link(folder / name, staged / name)
            except OSError:  # another disk, or one without links
                shutil.copyfile(folder / name, staged / name)
    except OSError:
        shutil.rmtree(staged, ignore_errors=True)
        raise
    return staged


@dataclass(frozen=True)
class _Item(Generic[T]):
    name: str
    content: T
    staged: Path
    lasting: bool


class Uploader(Generic[T]):
    """One thread that sends what it is offered, in that order; the newest wins, and beside it the newest that lasts."""

    def __init__(
        self,
        send: Callable[[T], None],
        *,
        most_failures: int,
        first_pause: float = 5.0,
        longest_pause: float = 300.0,
        say: Callable[[str], None] = print,
    ) -> None:
        """`send` delivers one checkpoint whole or raises KelronError; it is called again with what failed, so it
        must look at the store before it sends. Pauses are in seconds, doubled from the first to the longest."""
        self._send, self._most_failures, self._say = send, most_failures, say
        self._first_pause, self._longest_pause = first_pause, longest_pause
        self._changed = threading.Condition()
        self._waiting: list[_Item[T]] = []
        self._sending: _Item[T] | None = None
        self._closed = False
        self._seconds: list[float] = []
        self._failures = self._all_failures = 0
        self._problem: Exception | None = None
        self._gave_up = False
        self._sent = ""
        self._thread = threading.Thread(target=self._work, name="upload", daemon=True)
        self._thread.start()

    @property
    def sent(self) -> str:
        """The name of the newest checkpoint that arrived, empty before the first."""
        return self._sent

    @property
    def failures(self) -> int:
        """Failures since the last success."""
        return self._failures

    @property
    def all_failures(self) -> int:
        """Failures since the start, those that a later try made good included."""
        return self._all_failures

    @property
    def problem(self) -> Exception | None:
        """The last failure, None after a success."""
        return self._problem

    @property
    def expected_seconds(self) -> float | None:
        """How long an upload may take, by the slowest of the last few; None before the first."""
        return max(self._seconds[-SLOWEST_OF:]) if self._seconds else None

    def words(self) -> str:
        """The state for a progress line; empty while all is well and nothing is on its way."""
        with self._changed:
            item = self._sending or next(iter(self._waiting), None)
            if self._failures:
                tries = "once" if self._failures == 1 else f"{self._failures} times"
                return f"upload failed {tries}: {_first_line(self._problem)}"
            return f"uploading {item.name}" if item else ""

    @property
    def ahead(self) -> int:
        """How many are to be sent before one that is offered now."""
        with self._changed:
            passing = sum(not item.lasting for item in self._waiting)  # replaced, unless its turn comes at once
            return len(self._waiting) - passing + (1 if self._sending is not None else passing)

    def check(self) -> None:
        """Raise RunFailed where the uploader gave up: too many failures in a row, or the lease was lost."""
        if self._gave_up:
            raise RunFailed(
                f"{self._failures} uploads in a row failed, the last one with: {_first_line(self._problem)}; "
                f"{f'{self._sent} is the newest in the store' if self._sent else 'nothing was stored this session'}"
            ) from self._problem

    def offer(self, name: str, content: T, staged: Path, *, lasting: bool = False) -> None:
        """Queue a checkpoint in place of those that still wait, but for one that is `lasting`, which only another such
        replaces; `staged` is deleted when it has arrived or is replaced."""
        with self._changed:
            replaced = [item for item in self._waiting if lasting or not item.lasting]
            self._waiting = [item for item in self._waiting if item not in replaced]
            self._waiting.append(_Item(name, content, staged, lasting))
            self._changed.notify_all()
        for item in replaced:
            shutil.rmtree(item.staged, ignore_errors=True)

    def flush(self, seconds: float) -> bool:
        """Wait until all that was offered has arrived, at most `seconds`; whether it has."""
        with self._changed:
            return (
                self._changed.wait_for(
                    lambda: (not self._waiting and self._sending is None) or self._gave_up,
                    timeout=max(0.0, seconds),
                )
                and not self._gave_up
            )

    def close(self) -> None:
        """End the thread after what it is doing now; what still waits stays staged."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def join(self, seconds: float) -> None:
        """After `close`: wait for the thread's end, at most so long."""
        self._thread.join(seconds)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return
                self._sending = self._waiting.pop(0)
            try:
                self._deliver()
            finally:
                with self._changed:
                    self._sending = None
                    self._changed.notify_all()

    def _deliver(self) -> None:
        """Send the one at hand until it arrives, one that replaces it waits, or there is no more hope."""
        item, pause = self._sending, self._first_pause
        assert item is not None
        while True:
            began = time.monotonic()
            try:
                self._send(item.content)
            except Exception as error:  # whatever it is, training must learn of it, and this thread must live
                self._failed(item, error)
                with self._changed:
                    self._changed.wait_for(lambda: self._superseded(item) or self._closed, timeout=pause)
                    superseded = self._superseded(item)
                    if self._closed or isinstance(error, LostLease) or not isinstance(error, KelronError):
                        return
                if superseded:
                    shutil.rmtree(item.staged, ignore_errors=True)
                    return
                pause = min(2 * pause, self._longest_pause)
            else:
                self._seconds.append(time.monotonic() - began)
                self._sent, self._failures, self._problem, self._gave_up = item.name, 0, None, False
                shutil.rmtree(item.staged, ignore_errors=True)
                return

    def _superseded(self, item: _Item[T]) -> bool:
        return any(waiting.lasting or not item.lasting for waiting in self._waiting)

    def _failed(self, item: _Item[T], error: Exception) -> None:
        with self._changed:
            self._failures += 1
            self._all_failures += 1
            self._problem = error
            hopeless = isinstance(error, LostLease) or not isinstance(error, KelronError)
            self._gave_up = hopeless or self._failures >= self._most_failures
            self._changed.notify_all()
        self._say(f"upload of {item.name} failed ({self._failures} in a row): {_first_line(error)}")


def _first_line(error: Exception | None) -> str:
    words = str(error).strip() if error else ""
    return words.splitlines()[0] if words else type(error).__name__
