"""Files that are whole or not there."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from kelron_lib.errors import KelronError

FULL = (errno.ENOSPC, errno.EDQUOT)
"""The system's codes for a full disk and a used-up quota."""
FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM)
"""Its codes for a place that may not be written, however much room there is."""


def writing_advice(error: OSError) -> str:
    """What to do where a folder could not be written, by the cause."""
    if error.errno in FULL:
        return "free space there, or name another folder"
    if error.errno in FORBIDDEN:
        return "name a folder that can be written"
    return "name another folder"


def cannot_write(what: str, error: OSError) -> KelronError:
    """The error of a write that failed; `what`: what could not be done, as it stands behind "cannot"."""
    return KelronError(f"cannot {what}: {error.strerror or error}; {writing_advice(error)}")


def write_whole(path: Path, content: bytes) -> None:
    """Write a file, its folder too if missing, so that a reader sees the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    partial.write_bytes(content)
    os.replace(partial, path)


@contextlib.contextmanager
def writing_whole(path: Path) -> Iterator[BinaryIO]:
    """As `write_whole`, a piece at a time; an error within leaves the old file, and of the new one nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    try:
        with partial.open("wb") as file:
            yield file
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
