"""What watches a training run: the session's budget, the store, the progress line, and broken numbers."""

from __future__ import annotations

import math
import shutil
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from kelron_lib.config import RunConfig
from kelron_lib.convergence import best, plateau
from kelron_lib.errors import RunFailed
from kelron_lib.keeper import Keeper
from kelron_lib.manifest import TRAINER_STATE
from kelron_lib.processes import World
from kelron_lib.runtime import SessionClock, duration
from kelron_lib.schedule import Schedule
from kelron_lib.settings import SessionSettings

SAFETY = 1.5
"""The last checkpoint may take this much longer to arrive than the slowest of those before it."""


class BudgetCallback(TrainerCallback):
    """Ends training at the last step boundary from which the next step and the last save still fit, or at the next one
    after the session was asked, through the store, to end.

    The next step is assumed to take as long as the slowest of the last ten, the last save (the trainer's writing, and
    the reading and sealing after it) twice as long as the slowest so far, and its way to the store as long as those
    before it took (`reserve` seconds before any did); validation is added where it is due. Where several processes
    train, one that has to stop stops them all.
    """

    def __init__(self, clock: SessionClock, reserve: float, world: World, keeper: Keeper | None = None) -> None:
        self.clock = clock
        self.reserve = reserve
        self._keeper = keeper
        self._world = world
        self.state = ""
        """How the session ends, as in `session.Status`: `budget`, `stopped`, or empty where this ended nothing."""
        self.slowest_save = 0.0
        self._steps: deque[float] = deque(maxlen=10)
        self._evaluation = 0.0
        self._step_began = 0.0
        self._step_ended = 0.0
        self._saving_since = time.monotonic()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._step_began = self.clock.elapsed()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._step_ended = self.clock.elapsed()
        self._steps.append(self._step_ended - self._step_began)
        self._saving_since = time.monotonic()
        asked = self._keeper is not None and self._keeper.asked_to_stop
        ends = asked or self.clock.left() < self._cost_of_next(state)
        if state.global_step < state.max_steps and self._world.any(ends):
            self.state = "stopped" if self._world.any(asked) else "budget"
            control.should_training_stop = True
            control.should_save = True

    @property
    def reason(self) -> str:
        """`state` in words."""
        return "it was asked to stop" if self.state == "stopped" else "the session's time is used"

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step:  # before the first step, no step's end tells when it began
            self._evaluation = max(self._evaluation, self.clock.elapsed() - self._step_ended)
        self._saving_since = time.monotonic()

    def saved(self) -> None:
        """A save ended, which the trainer began after the step or its validation."""
        self.slowest_save = max(self.slowest_save, time.monotonic() - self._saving_since)

    def _cost_of_next(self, state: Any) -> float:
        following = state.global_step + 1
        evaluates = following % state.eval_steps == 0 or following == state.max_steps
        sending = self._keeper.expected_seconds(self.reserve) if self._keeper is not None else self.reserve
        saving = 2 * self.slowest_save + SAFETY * sending
        return max(self._steps) + (self._evaluation if evaluates else 0.0) + saving


class StoreCallback(TrainerCallback):
    """Hands every checkpoint that the trainer wrote to `keep_checkpoint`, and times it for the budget.

    Process 0 does it, with the random states of all processes in its folder; the others wait. At every step it asks
    whether checkpoints still reach the store, and ends the run where they do not.
    """

    def __init__(
        self,
        keep_checkpoint: Callable[[Path], None],
        budget: BudgetCallback,
        world: World,
        keeper: Keeper | None = None,
    ) -> None:
        self._keep = keep_checkpoint
        self._keeper = keeper
        self._budget = budget
        self._world = world

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._keeper is not None:
            self._keeper.check()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        self._collect_random_states(folder)
        if self._world.first:
            self._keep(folder)
        self._world.wait()
        self._budget.saved()

    def _collect_random_states(self, folder: Path) -> None:
        """Bring the files of processes on other machines to process 0, and leave nothing behind there."""
        if self._world.size == 1:
            return
        own = (folder / f"rng_state_{self._world.rank}.pth").read_bytes()
        for rank, content in enumerate(self._world.gather(own)):
            target = folder / f"rng_state_{rank}.pth"
            if self._world.first and not target.exists():
                target.write_bytes(content)
        if not (folder / TRAINER_STATE).exists():  # process 0 and its folder are on another machine
            shutil.rmtree(folder, ignore_errors=True)


class ConvergenceCallback(TrainerCallback):
    """Has a checkpoint made wherever the validation loss is the lowest so far, and ends training at a plateau.

    `reason` says why it ended training; empty where it did not.
    """

    def __init__(self, config: RunConfig, world: World) -> None:
        self._config = config
        self._world = world
        self.reason = ""

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        lowest = best(state.log_history)
        if self._world.any(lowest is not None and lowest.step == state.global_step):
            control.should_save = True
        reason = plateau(self._config, state.log_history, state.max_steps)
        if self._world.any(bool(reason)) and state.global_step < state.max_steps:
            self.reason = reason
            control.should_training_stop = True
            control.should_save = True


class GuardCallback(TrainerCallback):
    """Stops a run whose loss is no number, before a checkpoint can be made of it."""

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        logs = kwargs["logs"]
        if not state.global_step:  # nothing was learned yet: the first step names the layer that gave it
            return
        for name in ("loss", "eval_loss"):
            value = logs.get(name)
            if value is not None and not math.isfinite(value):
                raise RunFailed(
                    f"{name} is {value} at step {state.global_step}: the run is stopped and its last good "
                    "checkpoint kept; lower train.learning_rate"
                )


class TimingCallback(TrainerCallback):
    """Times the first `steps` steps and ends training after them."""

    def __init__(self, steps: int) -> None:
        self.began_at = 0.0
        self.seconds: list[float] = []
        self._steps = steps
        self._step_began = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._step_began = time.monotonic()
        self.began_at = self.began_at or self._step_began

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seconds.append(time.monotonic() - self._step_began)
        if len(self.seconds) >= self._steps:
            control.should_training_stop = True


class ProgressCallback(TrainerCallback):
    """Every `interval` seconds one plain line and one event: step, losses, rate, the time left of training and session;
    at each validation, too."""

    def __init__(
        self,
        clock: SessionClock,
        samples: Sequence[int],
        say: Callable[[str], None],
        interval: float,
        words: Callable[[], str] = str,
        *,
        tokens: Sequence[int] = (),
        events: Callable[..., None] | None = None,
    ) -> None:
        """`samples` and `tokens` say how many of them each step of the run holds, `words` what there is to say of the
        store; `events` is told the figures, as RunEvents.add is."""
        self._clock = clock
        self._samples, self._tokens = samples, tokens
        self._say, self._events = say, events
        self._interval = interval
        self._words = words
        self._began = 0.0
        self._first_step = 0
        self._last_line = -math.inf
        self._loss = math.nan
        self._validation = math.nan

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._began = self._clock.elapsed()
        self._first_step = state.global_step

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        logs = kwargs["logs"]
        self._loss = logs.get("loss", self._loss)
        self._validation = logs.get("eval_loss", self._validation)
        now = self._clock.elapsed()
        ends = "eval_loss" in logs
        if not ends and now - self._last_line < self._interval:
            return
        self._last_line = now
        session = self._clock.left()
        self._say(self.line(state, now, session))
        if self._events is None:
            return
        if ends:
            self._events("validation", step=state.global_step, loss=self._validation)
        self._events(
            "step",
            step=state.global_step,
            total_steps=state.max_steps,
            loss=self._loss,
            samples_per_second=self._rate(self._samples, state, now),
            tokens_per_second=self._rate(self._tokens, state, now),
            training_ends_in=self._left(state, now),
            session_ends_in=session,
        )

    def _seconds(self, now: float) -> float:
        return max(now - self._began, 1e-9)

    def _rate(self, each: Sequence[int], state: Any, now: float) -> float:
        """Of what each step holds so many, how many this session does a second; NaN before its first step."""
        done = state.global_step - self._first_step
        return sum(each[self._first_step : state.global_step]) / self._seconds(now) if done else math.nan

    def _left(self, state: Any, now: float) -> float:
        """Seconds until training ends; NaN before this session's first step."""
        done = state.global_step - self._first_step
        return (state.max_steps - state.global_step) * self._seconds(now) / done if done else math.nan

    def line(self, state: Any, now: float, session: float) -> str:
        """The progress line for a trainer state at `now` seconds into the session, which has `session` seconds left."""
        done = state.global_step - self._first_step
        left = self._left(state, now)
        parts = [f"step {state.global_step}/{state.max_steps}"]
        if done:
            parts.append(f"loss {self._loss:.3f}")
        if math.isfinite(self._validation):
            parts.append(f"validation {self._validation:.3f}")
        if done:
            parts.append(f"{self._rate(self._samples, state, now):.1f} samples/s")
        if math.isfinite(left):
            parts.append(f"training ends in {duration(left)}")
        parts.append(f"session ends in {duration(session)}")
        if words := self._words():
            parts.append(words)
        return " | ".join(parts)


def progress(
    clock: SessionClock,
    schedule: Schedule,
    say: Callable[[str], None],
    session: SessionSettings,
    keeper: Keeper | None,
) -> ProgressCallback:
    """The progress of a run; process 0, which has the keeper, tells of the store and the events, too."""
    words = keeper.words if keeper is not None else str
    events = keeper.events.add if keeper is not None else None
    seconds = session.progress_seconds
    return ProgressCallback(clock, schedule.samples, say, seconds, words, tokens=schedule.lengths, events=events)
