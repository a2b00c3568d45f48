"""One writer a store: a lease with a heartbeat, so that two sessions never write to one run.

The lease is a small file in the store that names the session and counts its heartbeats. Whether a session lives is
seen by watching that count for a while on this machine's own steady clock: no two clocks are ever compared, so a
clock that jumps or differs changes nothing. A session that ended well takes its lease along; the lease of one that was
killed is taken over, on its own machine as soon as its process is gone, elsewhere after the count stood still.

Who may write to the store can also ask the session that holds it to end: a mark beside the lease names that session,
which sees it at its next heartbeat. No other session heeds it, so that a mark left behind stops nothing.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from kelron_lib.errors import KelronError
from kelron_lib.store import DamagedFile, MissingFile, Store

LEASE = "LEASE.json"
STOP = "STOP.json"
LOOK_SECONDS = 1.0
"""How often a process on this machine that is watched is looked for."""
STALE_AFTER_BEATS = 3
"""Heartbeats that may fail to come before a session counts as gone."""


class LostLease(KelronError):
    """Another session writes to the store now."""


@dataclass(frozen=True)
class Lease:
    """Who may write to a store."""

    session: str
    """Random, one of a kind."""
    host: str
    pid: int
    process_start: float
    """When the process began, in seconds since its machine did: tells a process from a later one with its number."""
    since: str
    """UTC, ISO 8601."""
    beat: int = 0
    """Heartbeats so far."""

    @classmethod
    def of_this_process(cls) -> Lease:
        """A new session's lease, held by the calling process."""
        import psutil

        return cls(
            session=secrets.token_hex(8),
            host=socket.gethostname(),
            pid=os.getpid(),
            process_start=_started(psutil.Process()),
            since=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    def encode(self) -> bytes:
        """As JSON."""
        return (json.dumps(asdict(self), indent=1) + "\n").encode()

    def describe(self) -> str:
        """The session in words."""
        return f"process {self.pid} on {self.host}, since {self.since}"

    def is_of_this_machine(self) -> bool:
        """Whether the session's process is, or was, one that can be looked for here."""
        return self.host == socket.gethostname()

    def holder_is_gone(self) -> bool:
        """Whether the process was on this machine and has ended. False where that cannot be known from here."""
        import psutil

        if not self.is_of_this_machine():
            return False
        try:
            process = psutil.Process(self.pid)
            if process.status() == psutil.STATUS_ZOMBIE:  # it has ended, and nobody has asked how
                return True
            return abs(_started(process) - self.process_start) > 1.0
        except psutil.NoSuchProcess:
            return True
        except psutil.AccessDenied:
            return False


def _started(process: Any) -> float:
    """When a process began, in seconds since the machine did. Its time of day would move where the clock is set, and a
    living session would pass for one that is gone."""
    import psutil

    began = psutil.boot_time()  # first: older versions of psutil count from what this read last
    created: float = process.create_time()
    return created - began


def read_lease(store: Store) -> Lease | None:
    """The lease in a store, None where there is none. Raises DamagedFile for one that cannot be read."""
    try:
        record: Any = json.loads(store.read_bytes(LEASE))
        return Lease(**record)
    except MissingFile:
        return None
    except (ValueError, TypeError) as error:
        raise DamagedFile(f"{LEASE} in {store.describe()} is no lease: {error}") from error


def ask_to_stop(store: Store) -> Lease | None:
    """Ask the session that holds a store to keep a checkpoint and end; its lease, None where none holds the store.

    Raises KelronError where the store cannot be reached or written, and where its lease is damaged.
    """
    holder = read_lease(store)
    if holder is not None:
        store.write_bytes(STOP, (json.dumps({"session": holder.session}) + "\n").encode())
    return holder


def _session_to_stop(store: Store) -> str:
    """The session that is asked to end; empty where none is."""
    try:
        return str(json.loads(store.read_bytes(STOP))["session"])
    except MissingFile:
        return ""
    except (ValueError, TypeError, KeyError):  # not what `ask_to_stop` writes, so it asks nobody
        return ""


class Writer:
    """The right to write to a store, from `acquire` to `release`; heartbeats come from a thread of its own.

    Also a context manager. All waits are in seconds of the monotonic clock.
    """

    def __init__(
        self,
        store: Store,
        *,
        beat_seconds: float = 60.0,
        stale_seconds: float = 180.0,
        settle_seconds: float = 1.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`stale_seconds`: how long another session's count must stand still to be taken over; at least two beats.
        `settle_seconds`: after which two sessions that began at one moment see which of them holds the lease."""
        if stale_seconds < 2 * beat_seconds:
            raise KelronError(
                f"a lease of {beat_seconds:g} s beats cannot be stale after {stale_seconds:g} s: allow at least two"
            )
        self.store, self.lease = store, Lease.of_this_process()
        self.beat_seconds, self.stale_seconds, self.settle_seconds = beat_seconds, stale_seconds, settle_seconds
        self._sleep = sleep
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._problem: KelronError | None = None
        self.asked_to_stop = False
        """Whether somebody asked this session to end; seen at a heartbeat."""

    @classmethod
    def of(cls, store: Store) -> Writer:
        """With the times that this kind of store asks for."""
        beat = store.beat_seconds
        return cls(
            store,
            beat_seconds=beat,
            stale_seconds=STALE_AFTER_BEATS * beat,
            settle_seconds=store.settle_seconds,
        )

    def acquire(self, say: Callable[[str], None] = print, *, patient: bool = True) -> None:
        """Take the lease. Raises KelronError, with its holder's name, where another session writes; unless `patient`,
        also where that could only be told by watching it."""
        try:
            other = read_lease(self.store)
        except DamagedFile as damage:
            say(f"{damage}; it is replaced")
            other = None
        if other is not None:
            self._outlive(other, say, patient)
        self._write()
        self._sleep(self.settle_seconds)
        self.confirm()
        self._thread = threading.Thread(target=self._beats, name="lease", daemon=True)
        self._thread.start()

    def _outlive(self, other: Lease, say: Callable[[str], None], patient: bool) -> None:
        """Return when the other session is proven to be gone; raise KelronError when it shows a sign of life."""
        if other.holder_is_gone():
            say(f"taking over from a session that ended without a word ({other.describe()})")
            return
        if not patient:
            raise KelronError(f"{self.store.describe()} is held by another session ({other.describe()})")
        say(
            f"another session may be writing to {self.store.describe()} ({other.describe()}): watching it for "
            f"{self.stale_seconds:.0f} s"
        )
        waited = 0.0
        while waited < self.stale_seconds:
            step = min(self.beat_seconds / 2, self.stale_seconds - waited)
            if self._ends_within(step, other):
                say(f"{other.describe()} has ended: taking over from it")
                return
            waited += step
            seen = read_lease(self.store)
            if seen is None:
                return
            if seen != other:
                raise KelronError(
                    f"another session writes to {self.store.describe()} ({seen.describe()}, last sign of life less "
                    f"than {step:.0f} s ago): wait for its end, stop it, or use another store.url"
                )
        say(f"no sign of life in {waited:.0f} s: taking over from {other.describe()}")

    def _ends_within(self, seconds: float, other: Lease) -> bool:
        """Wait so long, or until the other session's process on this machine has ended; whether it has."""
        if not other.is_of_this_machine():
            self._sleep(seconds)
            return False
        left = seconds
        while left > 0 and not other.holder_is_gone():
            step = min(LOOK_SECONDS, left)
            self._sleep(step)
            left -= step
        return other.holder_is_gone()

    def confirm(self) -> None:
        """Raise LostLease where the store names another session, KelronError where it cannot be asked.

        To be called before whatever only one writer may do, such as moving the pointer.
        """
        holder = read_lease(self.store)
        if holder is None or holder.session != self.lease.session:
            who = holder.describe() if holder else "nobody: its lease was removed"
            raise LostLease(
                f"this session lost its right to write to {self.store.describe()} (now {who}): it stops here, and "
                "what it saved before stays"
            )

    @property
    def problem(self) -> KelronError | None:
        """Why the last heartbeat failed, None where it did not."""
        return self._problem

    def _write(self) -> None:
        self.store.write_bytes(LEASE, self.lease.encode())

    def _beats(self) -> None:
        while not self._stop.wait(self.beat_seconds):
            try:
                self.lease = replace(self.lease, beat=self.lease.beat + 1)
                # At every try: one that was late must not take the lease back from who has it now.
                self.store.write_bytes(LEASE, self.lease.encode(), self.confirm)
                self.asked_to_stop = self.asked_to_stop or _session_to_stop(self.store) == self.lease.session
                self._problem = None
            except LostLease as error:
                self._problem = error
                return
            except KelronError as error:  # an outage: the next beat may reach the store again
                self._problem = error

    def release(self) -> None:
        """End the heartbeats and remove the lease if it is still this session's."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        holder = read_lease(self.store)
        if holder is not None and holder.session == self.lease.session:
            self.store.delete(LEASE)

    def __enter__(self) -> Writer:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
