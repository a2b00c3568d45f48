"""A session that is ended from outside: by Ctrl-C, or by SIGTERM, as a system sends it that wants its machine back.

Both end it in the same way: an error passes through it, so that it gives its lease back and writes down how it ended.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any


class Interrupted(KeyboardInterrupt):
    """A session was ended by Ctrl-C; the line says what is safe."""

    exit_code = 130
    """128 and the signal's number, as shells count."""
    how = "SIGINT (Ctrl-C)"
    resumes = False
    """Whether a later session can go on with `kelron resume`; else only the same command leads on."""


class Terminated(Interrupted):
    """A session was ended by SIGTERM; the line says what is safe."""

    exit_code = 143
    how = "SIGTERM"


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """In this block SIGTERM raises Terminated in the main thread, once; further ones do not disturb what that ends.

    Outside the main thread, and where somebody else handles the signal, nothing changes.
    """
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def end(*_: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Terminated

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def interrupted(error: KeyboardInterrupt, step: int, total_steps: int, store: str, *, resumes: bool) -> Interrupted:
    """The error that tells what is safe: `step`, the newest verified checkpoint in the store (0: none)."""
    of_all = f" of {total_steps}" if total_steps else ""
    safe = f"step {step}{of_all} is safe, verified, in {store}; later steps are done again"
    told = saying(error, safe if step else f"{store} holds no checkpoint yet")
    told.resumes = resumes and step > 0
    return told


def saying(error: KeyboardInterrupt, safe: str) -> Interrupted:
    """The error that says by what it was interrupted, and what is `safe`."""
    kind = type(error) if isinstance(error, Interrupted) else Interrupted
    return kind(f"interrupted by {kind.how}: {safe}")
