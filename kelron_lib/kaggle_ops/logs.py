"""What the lines of a session's log tell of its training."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

PROGRESS = re.compile(r"\bstep (\d+)/(\d+) \|")
"""How `callbacks.ProgressCallback` begins its line."""
KEPT = re.compile(r"\bstep (\d+) is kept in .+, verified")
"""What `keeper.Keeper` says of a checkpoint that arrived in the store."""
LONGEST = 160
"""Characters of a line that are shown."""


@dataclass(frozen=True)
class Told:
    """What a log says so far."""

    last: str = ""
    """Its last line."""
    progress: str = ""
    """The last line with a step in it."""
    step: int = 0
    """The step there; 0 before the first."""
    total: int = 0
    """The steps of the whole run; 0 where no line tells."""
    kept: int = 0
    """The newest step that it says is in the store."""

    def after(self, line: str) -> Told:
        """With another line."""
        line = line.strip()
        if not line:
            return self
        told = replace(self, last=line[:LONGEST])
        if found := PROGRESS.search(line):
            told = replace(told, progress=line[found.start() :], step=int(found[1]), total=int(found[2]))
        if found := KEPT.search(line):
            told = replace(told, kept=max(told.kept, int(found[1])))
        return told


def read_log(lines: Iterable[str]) -> Told:
    """What all lines of a log tell."""
    told = Told()
    for line in lines:
        told = told.after(line)
    return told
