"""Which session of a run a person means who names a kernel, and perhaps a number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kelron_lib.errors import KelronError
from kelron_lib.kaggle_ops.client import Kaggle
from kelron_lib.kaggle_ops.kernels import TRAINING, Kernel, find_record
from kelron_lib.kaggle_ops.state import View


@dataclass(frozen=True)
class Place:
    """A session that Kaggle holds."""

    kernel: str
    ref: str
    version: int | None
    """None: the newest, which is no push of ours."""
    number: int
    """Which session of its kind in the run, as `status` tells; 0 where it is not of the run."""

    @property
    def name(self) -> str:
        """For a folder: that of the kernel, and among training sessions the number."""
        return f"{self.kernel}-{self.number}" if self.kernel in TRAINING and self.number else self.kernel

    def describe(self) -> str:
        """In words."""
        if self.version is None:
            return f"{self.ref}, whose newest version is not of this run"
        kind = "training session" if self.kernel in TRAINING else f"session of {self.kernel}"
        return f"{self.ref} version {self.version}, {kind} {self.number} of the run"


def find_session(kaggle: Kaggle, kernels: Mapping[str, Kernel], view: View, kernel: str, number: int | None) -> Place:
    """The newest session of a kernel (of `resume`: of both that take turns), or the run's session of that number, which
    training sessions share. Raises KelronError where there is none."""
    if number is not None:
        return _numbered(kaggle, kernels, view, kernel, number)
    names = ("resume", "resume-b") if kernel == "resume" else (kernel,)
    pushed = [view.pushed[name] for name in names if name in view.pushed]
    if not pushed:
        ref = f"{kaggle.owner}/{kernels[kernel].slug}"
        if kernel not in view.newest:
            raise KelronError(f"Kaggle shows no kernel {ref}: nothing was pushed there yet; `status` says what was")
        return Place(kernel, ref, None, 0)
    last = max(pushed, key=lambda one: one.record.number)
    return Place(last.kernel, last.ref, last.version, last.record.number)


def _numbered(kaggle: Kaggle, kernels: Mapping[str, Kernel], view: View, kernel: str, number: int) -> Place:
    there = []
    for name in TRAINING if kernel in TRAINING else (kernel,):
        last = view.pushed.get(name)
        for version in range(last.version if last is not None else 0, 0, -1):
            saved = kaggle.saved(f"{kaggle.owner}/{kernels[name].slug}", version)
            record = find_record(saved.source) if saved is not None else None
            if record is not None and record.begun < view.begun:
                break
            if record is not None and record.begun == view.begun:
                there.append(record.number)
                if record.number == number:
                    return Place(name, f"{kaggle.owner}/{kernels[name].slug}", version, number)
    kind = "training" if kernel in TRAINING else kernel
    held = ", ".join(map(str, sorted({*there}))) or "none"
    raise KelronError(f"the run has no {kind} session {number}: Kaggle holds {held}")
