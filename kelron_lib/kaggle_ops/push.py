"""Pushing one kernel, and believing nothing but the server's answer."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kelron_lib.errors import KelronError
from kelron_lib.kaggle_ops.client import Arrived, Kaggle, KaggleError
from kelron_lib.kaggle_ops.kernels import Record, find_record

BUSY = re.compile(r"session count|concurrent|too many .*sessions|busy|capacity|try again", re.IGNORECASE)
"""What a server says that cannot start a session now."""
QUOTA = re.compile(r"quota|weekly|no .*hours", re.IGNORECASE)
BUSY_WAITS = (60.0, 120.0, 300.0)
"""Seconds between tries while all GPUs or both batch sessions are taken; the last one again and again."""
MOST_BREAKS = 5
"""Breaks of a log in a row without a new line, after which it is given up."""
REJECTED = {
    "invalid_dataset_sources": "datasets",
    "invalid_kernel_sources": "outputs of kernels",
    "invalid_competition_sources": "competitions",
}


class Refused(KelronError):
    """The server took the request and started nothing."""

    def __init__(self, line: str, *, busy: bool = False) -> None:
        super().__init__(line)
        self.busy = busy
        """Whether it has no room for a session now."""


class Rejected(Refused):
    """The session started without something that it needs, and is bound to fail."""


class NoQuota(Refused):
    """The week's GPU hours are used."""


@dataclass(frozen=True)
class Pushed:
    """A push that arrived."""

    ref: str
    version: int
    url: str


def push(kaggle: Kaggle, folder: Path, ref: str, record: Record, timeout: int, *, patience: float = 900.0) -> Pushed:
    """Push a staged kernel and start its session, waiting up to `patience` seconds where all sessions are taken.

    A push whose answer was lost is looked for before it is sent again. Raises Refused with the server's reason, and
    Rejected where a dataset or an output that the kernel attaches was rejected; without a model, the session takes the
    base from the Hub.
    """
    waited = 0.0
    for number in range(10_000):
        try:
            return _push_once(kaggle, folder, ref, record, timeout)
        except NoQuota:
            raise
        except Refused as refusal:
            if not refusal.busy or waited >= patience:
                raise
            wait = BUSY_WAITS[min(number, len(BUSY_WAITS) - 1)]
            kaggle.say(f"{refusal}; trying again in {wait:.0f} s")
            kaggle.sleep(wait)
            waited += wait
    raise AssertionError("a refusal ends it before")


def _push_once(kaggle: Kaggle, folder: Path, ref: str, record: Record, timeout: int) -> Pushed:
    try:
        answer = kaggle.tried(
            f"push {ref}", lambda: kaggle.push(folder, timeout), arrived=lambda: arrived(kaggle, ref, record)
        )
    except Arrived:
        saved = kaggle.saved(ref)
        return Pushed(ref, saved.version if saved else 0, page_of(ref))
    except KaggleError as error:
        if error.status == 409:
            raise Refused(f"{error}") from None
        raise
    if answer is None or answer.error:
        words = " ".join(str(answer.error if answer else "without a reason").split())
        kind = NoQuota if QUOTA.search(words) else Refused
        raise kind(f"Kaggle refused to run {ref}: {words}", busy=bool(BUSY.search(words)))
    _check_sources(ref, answer, kaggle.say)
    version = int(answer.version_number or 0)
    return Pushed(ref, version, str(answer.url or page_of(ref)))


def arrived(kaggle: Kaggle, ref: str, record: Record) -> bool:
    """Whether this very push is what Kaggle holds."""
    saved = kaggle.saved(ref)
    found = find_record(saved.source) if saved else None
    return found is not None and found.push == record.push


def _check_sources(ref: str, answer: Any, say: Callable[[str], None]) -> None:
    """The client's command line prints some of these and none of the models, and calls the push successful."""
    wrong = [
        f"{what} {', '.join(map(str, names))}" for field, what in REJECTED.items() if (names := getattr(answer, field))
    ]
    if wrong:
        raise Rejected(
            f"Kaggle started {ref} without {'; '.join(wrong)}, which it does not know or you may not use: see "
            "that they exist and are yours (a new dataset takes some minutes), then push again"
        )
    if models := ", ".join(map(str, answer.invalid_model_sources)):
        say(f"Kaggle did not attach the model {models}: the session takes the base from the Hub instead")


def page_of(ref: str) -> str:
    """A kernel's page."""
    return f"https://www.kaggle.com/code/{ref}"


def follow(kaggle: Kaggle, ref: str, say: Callable[[str], None], version: int | None = None) -> None:
    """Print a session's log until the session ends; after a break of the connection go on with the next line.

    `version`: that of the kernel, the newest where it is not given.
    """
    seen, failures, place = 0, 0, ref if version is None else f"{ref}/{version}"
    while True:
        before = seen
        try:
            for index, (_, line) in enumerate(kaggle.events(place)):
                if index >= seen:
                    seen = index + 1
                    say(line.rstrip("\n"))
            session = kaggle.session(ref, version)
            if session is None or not session.active:  # a server in between may end a log as if it were whole
                return
        except KaggleError as error:
            session = kaggle.session(ref, version) if not error.status else None
            quiet = session is not None and session.active  # a session that says nothing for minutes is none of it
            failures = 0 if seen > before or quiet else failures + 1
            if not error.passing or failures >= MOST_BREAKS:
                raise
        kaggle.sleep(1.0 if seen > before else 5.0)
