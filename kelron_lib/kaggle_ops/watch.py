"""Watching a session from the laptop: its state, and what its log says while it is written, in one plain line now and
then."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from kelron_lib.errors import KelronError
from kelron_lib.kaggle_ops.client import Kaggle
from kelron_lib.kaggle_ops.logs import Told
from kelron_lib.kaggle_ops.state import Pushed
from kelron_lib.runtime import duration

INTERVAL = 60.0
"""Least seconds between two lines about a session whose state does not change."""
SILENCE = 600.0
"""Seconds after which a session with nothing new to tell is spoken of all the same."""
AGAIN = (10.0, 30.0, 60.0, 300.0)
"""Seconds until a log that broke off is asked for again, the last one again and again."""
GLANCE = 3.0
"""Seconds that one look waits for the log."""


class Listener:
    """Follows a session's log in a thread of its own, since a server may send nothing for as long as it likes."""

    def __init__(self, kaggle: Kaggle, pushed: Pushed) -> None:
        self.told = Told()
        self.trouble = ""
        """Why the log cannot be followed now."""
        self._kaggle, self._ref = kaggle, f"{pushed.ref}/{pushed.version}"
        self._seconds, self._heard = 0.0, time.monotonic()
        self._news, self._closed = threading.Event(), threading.Event()
        threading.Thread(target=self._listen, name="log", daemon=True).start()

    def seconds(self) -> float:
        """How long the session has run at least, by its last line."""
        return self._seconds + time.monotonic() - self._heard if self._seconds else 0.0

    def close(self) -> None:
        """Heed it no more; the thread ends when the server sends something, or with the process."""
        self._closed.set()

    def wait(self, most: float) -> None:
        """Until nothing came for a while, at most so many seconds."""
        end = time.monotonic() + most
        while time.monotonic() < end and self._news.wait(end - time.monotonic()):
            self._news.clear()
            if not self._news.wait(min(0.5, most)):
                return

    def _listen(self) -> None:
        failures = 0
        while not self._closed.is_set():
            try:
                told = Told()  # the server sends a log from its beginning
                for seconds, line in self._kaggle.events(self._ref):
                    if self._closed.is_set():
                        return
                    told, failures = told.after(line), 0
                    self._take(told, seconds)
                self.trouble = ""
            except KelronError as error:
                self.trouble = str(error)
            self._closed.wait(AGAIN[min(failures, len(AGAIN) - 1)])
            failures += 1

    def _take(self, told: Told, seconds: float) -> None:
        if told.step >= self.told.step:  # not what is sent once more after a break
            self.told, self.trouble = told, ""
        self._seconds, self._heard = max(self._seconds, seconds), time.monotonic()
        self._news.set()


class Watch:
    """Says how the session goes that a chain waits for: at once when its state changes, else once in INTERVAL."""

    def __init__(self, kaggle: Kaggle, now: Callable[[], float] = time.monotonic) -> None:
        self._kaggle, self._now = kaggle, now
        self._session, self._status, self._text = ("", 0), "", ""
        self._since = self._said = 0.0
        self._listener: Listener | None = None

    def show(self, pushed: Pushed, known_step: Callable[[Pushed], int | None], *, glance: bool = False) -> None:
        """Say how an active session goes, if it is time to. `known_step`: the newest step in a store that can be read
        from here; `glance`: wait a little for what its log says, for one who looks only once, as is done for the first
        line about a session, which may have begun long ago."""
        now, first = self._now(), (pushed.ref, pushed.version) != self._session
        changed = self._changed(pushed)
        if self._listener is None and pushed.session.status != "QUEUED":
            self._listener = Listener(self._kaggle, pushed)
        if self._listener is not None and (glance or first):
            self._listener.wait(GLANCE)
        text = self._words(pushed)
        due = now - self._said >= (INTERVAL if text != self._text else SILENCE)
        if not changed and not due:
            return
        self._said, self._text = now, text
        kept = max(self._listener.told.kept if self._listener else 0, known_step(pushed) or 0)
        parts = [
            f"{pushed.ref} is {pushed.session.status.lower().replace('_', ' ')}",
            f"{duration(self._age())} so far",
        ]
        self._kaggle.say(" | ".join([*parts, *([text] if text else []), *([f"kept: step {kept}"] if kept else [])]))

    def close(self) -> None:
        """Nothing is watched any more."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _changed(self, pushed: Pushed) -> bool:
        session, status = (pushed.ref, pushed.version), pushed.session.status
        if session != self._session:
            self.close()
        if (session, status) == (self._session, self._status):
            return False
        if session != self._session or self._status == "QUEUED":
            self._since = self._now()
        self._session, self._status = session, status
        return True

    def _age(self) -> float:
        """Seconds that the session waits or runs: since this process saw it do so, or longer by its log."""
        return max(self._now() - self._since, self._listener.seconds() if self._listener else 0.0)

    def _words(self, pushed: Pushed) -> str:
        """What the log says of it."""
        if self._listener is None:
            return ""
        told = self._listener.told
        if told.progress or told.last:
            return told.progress or f"its last line: {told.last}"
        return f"no word from it: {self._listener.trouble}" if self._listener.trouble else ""
