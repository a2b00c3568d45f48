"""How sessions end, in files: `status.json` for this one, `sessions.json` for all, `losses.json` for the curve.

The list of sessions lives in the store, because the machine of an earlier session is gone; `out` holds a copy.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kelron_lib.errors import KelronError
from kelron_lib.keeper import Keeper
from kelron_lib.lease import Writer
from kelron_lib.runtime import read_json, write_json
from kelron_lib.store import DamagedFile, Store
from kelron_lib.verify import latest, newest_verified

SESSIONS_FILE = "sessions.json"
STATUS_FILE = "status.json"
LOSSES_FILE = "losses.json"


@dataclass(frozen=True)
class Status:
    """How a session ended."""

    state: str
    """`finished`, `budget` (the session's time is used: resume in the next one), `stopped` (it was asked to end:
    resume it likewise) or `failed`."""
    reason: str
    """The state in words."""
    first_step: int
    """The step this session resumed from; 0 for a new run."""
    step: int
    """The last step with a verified checkpoint in the store."""
    total_steps: int
    """Steps of the whole run; 0 where the session failed before that was known."""
    seconds: float
    """Length of the session, from its start."""
    time: str
    """When this was written: ISO 8601, UTC."""


def make_status(state: str, reason: str, *, first_step: int, step: int, total_steps: int, seconds: float) -> Status:
    """A Status stamped with the current time."""
    stamp = datetime.now(UTC).isoformat(timespec="seconds")
    return Status(state, reason, first_step, step, total_steps, round(seconds, 1), stamp)


def write_status(out: Path, status: Status) -> None:
    """Write `status.json` in the run folder."""
    write_json(out / STATUS_FILE, asdict(status))


def read_status(out: Path) -> Status:
    """The `status.json` of a run folder. Raises KelronError where it is missing or broken."""
    try:
        return Status(**read_json(out / STATUS_FILE))
    except TypeError:
        raise KelronError(f"{out / STATUS_FILE} is not a session's status: run the session again") from None


class EarlierStatus:
    """The `status.json` that a run folder held when a session began to look at the run.

    It goes as soon as the session is let in, so that it never passes for that session's own; a session that is refused
    before that leaves it.
    """

    def __init__(self, out: Path) -> None:
        self._path = out / STATUS_FILE
        self._content = self._read()

    def _read(self) -> bytes | None:
        return self._path.read_bytes() if self._path.is_file() else None

    def remove(self) -> None:
        """The session is let in."""
        self._path.unlink(missing_ok=True)

    def still_there(self) -> bool:
        """Whether there was one and neither this process nor those that it started touched it."""
        return self._content is not None and self._read() == self._content


def kept_step(find: Callable[[], Store | None], *, verified: bool = False) -> int:
    """The last step with an intact checkpoint in the store that `find` gives (`verified`: what LATEST names is known to
    be); 0 where there is none, or the store cannot be reached or does not tell."""
    try:
        if (store := find()) is None:
            return 0
        if verified:
            with suppress(DamagedFile):
                newest = latest(store)
                return newest.step if newest else 0
        newest = newest_verified(store)
    except KelronError:
        return 0
    return newest.step if newest else 0


def did_nothing(status: Status, about: dict[str, Any]) -> bool:
    """Whether a session came to a run that was finished, or had no time left, and changed nothing of it."""
    return status.state != "failed" and status.step == status.first_step and not about


def read_sessions(store: Store) -> list[dict[str, Any]]:
    """The sessions recorded in a store, oldest first."""
    if not any(entry.path == SESSIONS_FILE for entry in store.list()):
        return []
    try:
        sessions: list[dict[str, Any]] = json.loads(store.read_bytes(SESSIONS_FILE))
    except json.JSONDecodeError:
        raise KelronError(f"{SESSIONS_FILE} in {store.describe()} is damaged: delete it, it is only a record") from None
    return sessions


def record(
    store: Store,
    out: Path,
    status: Status,
    about: dict[str, Any],
    keeper: Keeper | None,
) -> None:
    """Add the session to the store's list, as the one that may write there, and copy the list to `out`.

    `about`: what was special about it, such as changes that were accepted. One that did nothing is no session of the
    run. The process that only watches has no `keeper` and takes the lease for it, where those that trained left none or
    their own; raises KelronError where another session has it.
    """
    if did_nothing(status, about):
        write_json(out / SESSIONS_FILE, read_sessions(store))
        return
    if keeper is not None:
        keeper.confirm()
        _add(store, out, status, about)
        return
    writer = Writer.of(store)
    writer.acquire(lambda line: None, patient=False)
    try:
        _add(store, out, status, about)
    finally:
        writer.release()


def _add(store: Store, out: Path, status: Status, about: dict[str, Any]) -> None:
    sessions = read_sessions(store)
    sessions.append(
        {
            "session": len(sessions) + 1,
            "first_step": status.first_step,
            "last_step": status.step,
            "reason": status.state,
            "detail": status.reason,
            "seconds": status.seconds,
            "ended": status.time,
            **about,
        }
    )
    store.write_bytes(SESSIONS_FILE, json.dumps(sessions, indent=2).encode() + b"\n")
    write_json(out / SESSIONS_FILE, sessions)


def write_losses(checkpoint: Path, out: Path) -> None:
    """The losses of the run so far, over all its sessions, from the trainer's state to `out/losses.json`."""
    kept = [
        {key: entry[key] for key in ("step", "loss", "eval_loss", "learning_rate") if key in entry}
        for entry in read_json(checkpoint / "trainer_state.json")["log_history"]
        if "loss" in entry or "eval_loss" in entry
    ]
    write_json(out / LOSSES_FILE, kept)
