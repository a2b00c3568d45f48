"""What a run needs next, from what Kaggle shows of it: no requests, no clock."""

from __future__ import annotations

from dataclasses import dataclass

from kelron_lib.kaggle_ops.state import PRODUCT, Pushed, View

WAIT, PUSH, DONE, STOP = "wait", "push", "done", "stop"
UNKNOWN = 2
"""So many times as many sessions of which nobody can tell whether they brought a step are put up with."""


@dataclass(frozen=True)
class Step:
    """What a turn of the chain does."""

    kind: str
    kernel: str = ""
    why: str = ""
    about: Pushed | None = None
    """The session that it waits for, or that ended before it."""


def decide(view: View, *, preflight: bool, most: int, known_step: int | None) -> Step:
    """The next step of a run. `most`: sessions without success after which it stops; `known_step`: the newest step in a
    store on the Hub, 0 where there is none, None where the laptop cannot read it."""
    if view.stopped:
        return Step(STOP, why="the run was stopped by hand: `run --go-on` goes on with it")
    if view.active:
        running = view.active[0]
        return Step(WAIT, running.kernel, f"{running.ref} is {running.session.status.lower()}", running)
    if view.foreign:
        return Step(WAIT, why=f"a session that is not of this run is active: {', '.join(view.foreign)}")
    training = view.training
    if training is None:
        return _before_training(view, preflight, most) or Step(PUSH, "train", "the first training session")
    if not training.done:
        return _next_training(training, most, known_step)
    return _once(view, "evaluate", most) or Step(DONE, "evaluate", about=view.pushed["evaluate"])


def _before_training(view: View, preflight: bool, most: int) -> Step | None:
    if preflight:
        if (step := _once(view, "preflight", most)) is not None:
            return step
        checked = view.pushed["preflight"]
        if not checked.ready:
            why = "preflight found something that has to be mended first (its output says what)"
            return Step(STOP, "preflight", why, checked)
    return _once(view, "data", most)


def _once(view: View, kernel: str, most: int) -> Step | None:
    """A kernel that has to succeed once: pushed until it did, or was tried too often; None where it did."""
    found = view.pushed.get(kernel)
    if found is None:
        return Step(PUSH, kernel, f"the run has no {PRODUCT[kernel]} yet")
    if found.done:
        return None
    if found.record.number >= most:
        return Step(STOP, kernel, f"{kernel} failed {found.record.number} times", found)
    return Step(PUSH, kernel, f"{kernel} left no {PRODUCT[kernel]}", found)


@dataclass(frozen=True)
class Tally:
    """Sessions in a row without a new step that is known of, the one that just ended among them."""

    fruitless: int
    """Those that brought none."""
    unknown: int
    """Those of which nobody can tell."""


def tally(training: Pushed, known_step: int | None) -> Tally:
    """The count after a training session. `known_step` as in `decide`."""
    before = training.record
    if max(training.step, known_step or 0) > before.step or training.done:
        return Tally(0, 0)
    if known_step is None and training.silent:
        return Tally(before.fruitless, before.unknown + 1)
    return Tally(before.fruitless + 1, before.unknown)


def _next_training(training: Pushed, most: int, known_step: int | None) -> Step:
    step, count = max(training.step, known_step or 0), tally(training, known_step)
    if count.fruitless >= most:
        return Step(STOP, training.kernel, f"{count.fruitless} sessions in a row brought no step", training)
    silence = f"{count.unknown} session{'s' * (count.unknown != 1)} left no word of what they kept"
    if count.unknown >= UNKNOWN * most:
        why = f"{silence}, and the store cannot be read from here: set HF_TOKEN here to a token that may, or allow for "
        return Step(STOP, training.kernel, f"{why}more with --give-up-after", training)
    doubt = f" (as far as is known: {silence}; it stops at {UNKNOWN * most})" if count.unknown else ""
    if step == 0:
        return Step(PUSH, "train", f"no session kept a step so far{doubt}", training)
    other = "resume-b" if source_of(training).startswith("resume/") else "resume"
    return Step(PUSH, other, f"step {step} is kept and the run is not finished{doubt}", training)


def source_of(training: Pushed) -> str:
    """The output that holds the newest checkpoint, KERNEL/VERSION; empty where none does."""
    if training.stored_step > 0 and training.stored_step >= training.record.step:
        return f"{training.kernel}/{training.version}"
    return training.record.source


def ending(pushed: Pushed) -> list[str]:
    """How a session ended, in lines, with the end of its log."""
    status = pushed.status
    told = f"; {status.state} at step {status.step}: {status.reason}" if status else ""
    message = f" ({pushed.session.message})" if pushed.session.message else ""
    lines = [f"{pushed.ref} version {pushed.version} ended as {pushed.session.status}{message}{told}"]
    if not pushed.done and (status is None or status.state == "failed"):
        log = pushed.output.last_lines()
        lines += [f"  | {line}" for line in log] or ["  its log is empty"]
    return lines
