"""All passes of a run in one order: every epoch's plan one after the other, cut into steps of a fixed number of passes.

A step is the same passes whatever the number of processes, so a run can go on with another number of GPUs. With `n`
processes, process `k` makes the passes k, k + n, k + 2n, ...
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

from kelron_lib.engine.packing import Features, Pass, plan_passes, supervised_in
from kelron_lib.errors import KelronError

EMPTY: Pass = [[]]
"""A pass of one row without samples: it fills up the last step, so that all processes make as many passes."""


@dataclass(frozen=True)
class Schedule:
    """The passes of a whole run."""

    passes: list[Pass]
    """In global order; as many as make whole steps."""
    passes_per_step: int
    tokens: list[int]
    """Supervised tokens of each step: what its summed loss is divided by."""
    samples: list[int]
    """Samples of each step."""
    lengths: list[int]
    """Tokens of each step, labelled or not, without padding."""

    @property
    def steps(self) -> int:
        """Optimizer steps of the run."""
        return len(self.tokens)

    def share(self, process: int, processes: int) -> list[Pass]:
        """The passes of one of several processes. Raises KelronError where they cannot share a step equally."""
        check_processes(self.passes_per_step, processes)
        return self.passes[process::processes]

    def numbers(self, step: int, process: int, processes: int) -> range:
        """Places in the global order of the passes that a process makes in a step, which counts from 0."""
        first = step * self.passes_per_step
        return range(first + process, first + self.passes_per_step, processes)


def check_processes(passes_per_step: int, processes: int) -> None:
    """Raise KelronError unless a step's passes can be shared equally."""
    if passes_per_step % processes:
        raise KelronError(
            f"{processes} processes cannot share the {passes_per_step} passes of a step equally: set "
            f"train.passes_per_step to a multiple of {processes} (in a new run: it decides what a step is), or take a "
            f"number of processes that divides {passes_per_step}"
        )


def plan_run(
    samples: Sequence[Features],
    *,
    row_tokens: int,
    rows_per_pass: int,
    passes_per_step: int,
    epochs: float,
    seed: int,
) -> Schedule:
    """The schedule of `epochs` rounds over `samples`, each packed anew; the last is cut where `epochs` has a fraction.

    Raises KelronError for a sample that fits no row.
    """
    lengths = sample_lengths(samples)
    rows = {"row_tokens": row_tokens, "rows_per_pass": rows_per_pass, "seed": seed}
    passes: list[Pass] = []
    for epoch in range(math.ceil(epochs)):
        planned = plan_passes(lengths, epoch=epoch, **rows)
        share = min(1.0, epochs - epoch)
        passes += planned[: max(1, round(share * len(planned)))]
    passes += [EMPTY] * (-len(passes) % passes_per_step)
    steps = [passes[start : start + passes_per_step] for start in range(0, len(passes), passes_per_step)]
    supervised = [supervised_in(sample) for sample in samples]
    members = [[sample for one in step for row in one for sample in row] for step in steps]
    return Schedule(
        passes=passes,
        passes_per_step=passes_per_step,
        tokens=[sum(supervised[sample] for sample in step) for step in members],
        samples=[len(step) for step in members],
        lengths=[sum(lengths[sample] for sample in step) for step in members],
    )


def sample_lengths(samples: Sequence[Features]) -> list[int]:
    """Tokens of each sample."""
    return [len(sample["input_ids"]) for sample in samples]


def pass_seed(seed: int, number: int) -> int:
    """The seed of the dropout of pass `number`: the same in any process, and after any resume."""
    digest = hashlib.sha256(f"{seed}/pass/{number}".encode()).digest()
    return int.from_bytes(digest[:7], "big")
