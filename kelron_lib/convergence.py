"""Whether the validation loss still falls, and where it was lowest: read from a run's log alone.

The log is part of every checkpoint, so a run that was cut judges as the uncut one does: there is no other state.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from kelron_lib.config import RunConfig


@dataclass(frozen=True)
class Validation:
    """One validation of a run."""

    step: int
    """Optimizer steps done."""
    loss: float
    """Validation loss, nats a token."""


def validations(log: Iterable[dict[str, Any]]) -> list[Validation]:
    """Those in the `log_history` of a trainer's state, oldest first, but for the one before the first step: it is the
    base's, of which there is no checkpoint."""
    return [Validation(entry["step"], entry["eval_loss"]) for entry in log if "eval_loss" in entry and entry["step"]]


def best(log: Iterable[dict[str, Any]]) -> Validation | None:
    """The one with the lowest loss, the first of equals; None before any."""
    return min(validations(log), key=lambda one: one.loss, default=None)


def plateau(config: RunConfig, log: Iterable[dict[str, Any]], total_steps: int) -> str:
    """Why training should end at the last validation in the log; empty where it should go on.

    It ends when `train.patience` validations in a row did not bring the loss below the last real improvement by the
    share `train.min_improvement`, and `train.least_epochs` of the run's `total_steps` are done.
    """
    train, seen = config.train, validations(log)
    level, waited = math.inf, 0
    for one in seen:
        if one.loss < level * (1 - train.min_improvement):
            level, waited = one.loss, 0
        else:
            waited += 1
    if not train.patience or waited < train.patience or seen[-1].step * train.epochs < train.least_epochs * total_steps:
        return ""
    lowest = min(seen, key=lambda one: one.loss)
    return (
        f"plateau: no fall of the validation loss by {100 * train.min_improvement:g} % in {waited} validations "
        f"(lowest {lowest.loss:.4f} at step {lowest.step}); ended after step {seen[-1].step} of {total_steps}"
    )
