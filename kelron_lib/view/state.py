"""What the events of a run add up to: pure, no widget and no clock of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Event = Mapping[str, Any]
Point = tuple[int, float]


@dataclass
class Progress:
    """A run as its events tell it; `take` goes on with further ones."""

    first_step: int = 0
    """The step that the present session began after."""
    step: int = 0
    total_steps: int = 0
    """0 until a session tells."""
    losses: list[Point] = field(default_factory=list)
    """(step, training loss), over all sessions on this machine."""
    validations: list[Point] = field(default_factory=list)
    """(step, validation loss)."""
    speed: Mapping[str, float] = field(default_factory=dict)
    """samples_per_second and tokens_per_second."""
    memory: tuple[Mapping[str, Any], ...] = ()
    """{"device", "used", "limit"} in bytes."""
    training_ends: float | None = None
    """When, in seconds since the epoch."""
    session_ends: float | None = None
    backup: Event | None = None
    """The newest that was verified in the store."""
    ended: Event | None = None
    """How the session ended; None while it goes on."""

    def take(self, events: Iterable[Event]) -> None:
        """Go on with events in their order. What a killed session did after its last backup is done again: it is
        forgotten where the next one begins before it."""
        for told in events:
            handle = getattr(self, f"_{told['event']}", None)
            if handle is not None:
                handle(told)

    def _begin(self, told: Event) -> None:
        self.first_step = self.step = int(told["first_step"])
        self.total_steps = int(told["total_steps"])
        self.losses = [point for point in self.losses if point[0] <= self.step]
        self.validations = [point for point in self.validations if point[0] <= self.step]
        self.session_ends, self.training_ends = told["time"] + told["session_ends_in"], None
        self.ended, self.speed = None, {}

    def _step(self, told: Event) -> None:
        self.step = int(told["step"])
        if "loss" in told and self.step > self.first_step:
            self.losses.append((self.step, told["loss"]))
        self.speed = {name: told[name] for name in ("samples_per_second", "tokens_per_second") if name in told}
        self.memory = tuple(told.get("memory") or self.memory)
        self.session_ends = told["time"] + told["session_ends_in"]
        if "training_ends_in" in told:
            self.training_ends = told["time"] + told["training_ends_in"]

    def _validation(self, told: Event) -> None:
        self.validations.append((int(told["step"]), told["loss"]))

    def _backup(self, told: Event) -> None:
        self.backup = told

    def _end(self, told: Event) -> None:
        self.ended, self.step = told, max(self.step, int(told["step"]))

    @property
    def share(self) -> float:
        """Of all steps, those that are done."""
        return min(1.0, self.step / self.total_steps) if self.total_steps else 0.0

    @property
    def enough(self) -> bool | None:
        """Whether training ends before the session does; None where that is not known yet."""
        if self.training_ends is None or self.session_ends is None:
            return None
        return self.training_ends <= self.session_ends

    def sessions_left(self, now: float, budget: float) -> int:
        """Further sessions of `budget` seconds that training takes after the present one, at its present speed."""
        if self.training_ends is None or self.session_ends is None or budget <= 0:
            return 0
        over = self.training_ends - max(self.session_ends, now)
        return 0 if over <= 0 else -int(-over // budget)
