"""The week's GPU hours against what a run still needs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from kelron_lib.config import MADE_FOR, RunConfig
from kelron_lib.kaggle_ops.client import Quota

STARTUP_HOURS = 0.25
"""Of a session, before the first step: installing, loading the base, restoring. Assumed."""
LEAST_HOURS = 0.75
"""A session shorter than this is not worth its start."""
KEPT_BACK = 10 / 60
"""Hours of the quota left over, so that a session ends by its budget and not by Kaggle."""


@dataclass(frozen=True)
class Need:
    """What is left of a run's training."""

    hours: float
    sessions: int
    how: str
    """Where the figure is from."""


@dataclass(frozen=True)
class Gate:
    """Whether the next session may start now."""

    start: bool
    line: str
    """In words, with the quota."""
    until: datetime | None = None
    """When the quota is renewed, where that is what it waits for."""
    budget: float | None = None
    """Seconds of a shortened session."""


@dataclass(frozen=True)
class Reached:
    """How far a run is."""

    step: int
    """The newest step that is kept."""
    total: int
    """Steps of the whole run; 0 where no session has told."""
    pace: float = 0.0
    """Seconds a step, of the newest session that told; 0 where none has."""

    @property
    def left(self) -> float:
        """The part of the run that is left."""
        return max(0.0, 1 - self.step / self.total) if self.total else 1.0


def need(config: RunConfig, reached: Reached | None, preflight: Any = None) -> Need | None:
    """Hours of training left: by the last known speed, else by what preflight measured, else by arithmetic for two T4s.
    None for a preset that needs no GPU."""
    if MADE_FOR.get(config.preset, 0) == 0:
        return None
    reached = reached or Reached(0, 0)
    if reached.pace and reached.total:
        return _sessions(config, reached.pace * reached.left * reached.total / 3600, "by the last session's speed")
    try:
        whole = float(preflight["probe"]["projection"]["total_hours"])
        return _sessions(config, reached.left * whole, "by preflight's measurement")
    except (TypeError, KeyError):
        return _sessions(config, reached.left * _planned_hours(config), "a projection for two T4s")


def _planned_hours(config: RunConfig) -> float:
    from kelron_lib.placement import Epoch, find_config, parse_gpus, plan, workload
    from kelron_lib.placement.speed import OVERHEAD

    work, gpus = workload(config), parse_gpus("2x14.74")
    best = plan(find_config(config.model.base), work, gpus, epoch=Epoch(samples=config.data.rows), wanted=2).best
    return best.hours * OVERHEAD * config.train.epochs if best else math.inf


def _sessions(config: RunConfig, hours: float, how: str) -> Need:
    usable = usable_hours(config)
    if not math.isfinite(hours):
        return Need(hours, 1, "no placement fits two T4s")
    sessions = max(1, math.ceil(hours / usable))
    return Need(hours + sessions * STARTUP_HOURS, sessions, how)


def usable_hours(config: RunConfig) -> float:
    """Hours of a session in which it trains."""
    session = config.session
    return max(0.1, (session.budget_seconds - session.reserve_seconds) / 3600 - STARTUP_HOURS)


def gate(config: RunConfig, wanted: Need | None, quota: Quota | None, *, now: bool, today: datetime) -> Gate:
    """Whether the next session may start: where the quota does not hold it, only with `now`, and shortened."""
    if wanted is None:
        return Gate(True, "this preset needs no GPU")
    text = f"needs {wanted.sessions} session{'s' * (wanted.sessions != 1)}, {wanted.hours:.1f} h ({wanted.how})"
    if quota is None:
        return Gate(True, f"{text}; Kaggle does not tell the quota")
    text = text.replace(" h (", f" of your {quota.total:.0f} h a week (", 1)
    session = min(config.session.budget_seconds / 3600, wanted.hours)
    if quota.left >= session + KEPT_BACK:
        return Gate(True, f"{text}; {quota.left:.1f} h left{_until(quota, today)}")
    if now and quota.left >= LEAST_HOURS:
        hours = quota.left - KEPT_BACK
        return Gate(True, f"{text}; starts now, shortened to {hours:.1f} h", budget=hours * 3600)
    then = "with --now in a shortened session" if quota.left >= LEAST_HOURS else "there is too little for a session now"
    line = f"{text}; {quota.left:.1f} h left{_until(quota, today)}: starts then, or {then}"
    if quota.left < LEAST_HOURS:
        line = f"{text}; {quota.left:.1f} h left{_until(quota, today)}: starts then ({then})"
    return Gate(False, line, until=quota.refresh)


def _until(quota: Quota, today: datetime) -> str:
    if quota.refresh is None:
        return " this week"
    hours = max(0.0, (quota.refresh - today).total_seconds() / 3600)
    return f" until {quota.refresh.astimezone(UTC):%A %H:%M} UTC (in {hours:.0f} h)"
