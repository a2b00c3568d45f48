"""The progress line, what a user sees of a run while it goes on; and the guard against a loss that is no number."""

from types import SimpleNamespace

import pytest

from kelron_lib import callbacks
from kelron_lib.callbacks import BudgetCallback, GuardCallback, ProgressCallback, StoreCallback
from kelron_lib.errors import RunFailed
from kelron_lib.processes import World
from kelron_lib.runtime import SessionClock

STEPS = 400


class Training:
    """A run of steps of five samples and two seconds each, on a clock of its own."""

    def __init__(self, *, first_step=0, budget=3600.0, interval=0.0):
        self.time = 100.0  # of the session, when training begins
        clock = SessionClock(budget=budget, now=lambda: self.time)
        clock._origin = 0.0
        self.said = []
        self.callback = ProgressCallback(clock, [5] * STEPS, self.said.append, interval)
        self.state = SimpleNamespace(global_step=first_step, max_steps=STEPS)
        self.callback.on_train_begin(None, self.state, None)

    def steps(self, count, **logs):
        for _ in range(count):
            self.time += 2.0
            self.state.global_step += 1
            self.callback.on_log(None, self.state, None, logs=logs)


def test_the_line_has_step_loss_rate_and_both_times_left():
    training = Training()
    training.steps(10, loss=2.34567)
    assert training.said[-1] == (
        "step 10/400 | loss 2.346 | 2.5 samples/s | training ends in 13:00 | session ends in 58:00"
    )


def test_a_resumed_run_counts_its_own_steps_only():
    """The rate and the time left are this session's: the earlier ones ran on other machines."""
    training = Training(first_step=300)
    training.steps(50, loss=1.0)
    assert training.said[-1] == (
        "step 350/400 | loss 1.000 | 2.5 samples/s | training ends in 1:40 | session ends in 56:40"
    )


def test_the_session_may_end_before_the_training():
    training = Training(budget=600.0)
    training.steps(1, loss=1.0)
    assert training.said[-1].endswith("training ends in 13:18 | session ends in 8:18")
    training.steps(299, loss=1.0)
    assert training.said[-1].endswith("training ends in 3:20 | session ends in 0:00")


def test_validation_is_told_at_once_and_from_then_on():
    training = Training(interval=60.0)
    training.steps(1, loss=2.0)
    training.steps(4, loss=1.9)
    training.steps(1, eval_loss=1.75)
    training.steps(29, loss=1.5)
    assert [line.split(" | ")[:3] for line in training.said] == [
        ["step 1/400", "loss 2.000", "2.5 samples/s"],
        ["step 6/400", "loss 1.900", "validation 1.750"],
    ]
    training.steps(1, loss=1.5)  # a minute after the last line
    assert training.said[-1].split(" | ")[:3] == ["step 36/400", "loss 1.500", "validation 1.750"]


def test_before_the_first_step_no_end_of_training_is_invented():
    training = Training()
    training.callback.on_log(None, training.state, None, logs={"eval_loss": 3.0})
    assert training.said == ["step 0/400 | validation 3.000 | session ends in 58:20"]


@pytest.mark.parametrize(("interval", "lines"), [(0.0, 30), (2.0, 30), (10.0, 6), (1000.0, 1)])
def test_lines_come_at_most_once_an_interval(interval, lines):
    training = Training(interval=interval)
    training.steps(30, loss=1.0)
    assert len(training.said) == lines


@pytest.mark.parametrize("name", ["loss", "eval_loss"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_fails_the_run_and_not_the_input(name, value):
    state = SimpleNamespace(global_step=7)
    GuardCallback().on_log(None, state, None, logs={name: 1.0})
    with pytest.raises(RunFailed, match=f"^{name} is {value} at step 7") as caught:
        GuardCallback().on_log(None, state, None, logs={name: value})
    assert caught.value.exit_code == 1
    state.global_step = 0  # there the first step tells more: which layer gave it
    GuardCallback().on_log(None, state, None, logs={name: value})


@pytest.mark.parametrize("validates", [False, True])
def test_a_save_counts_from_when_the_trainer_begins_to_write(validates, monkeypatch, tmp_path):
    """Its own writing is most of a large checkpoint's save; a validation before it is no part of it."""
    time = [0.0]
    monkeypatch.setattr(callbacks.time, "monotonic", lambda: time[0])
    clock = SessionClock(budget=3600.0, now=lambda: time[0])
    budget = BudgetCallback(clock, 5.0, World())
    saver = StoreCallback(lambda folder: time.__setitem__(0, time[0] + 2.0), budget, World())
    state = SimpleNamespace(global_step=4, max_steps=400, eval_steps=100)
    control = SimpleNamespace(should_training_stop=False, should_save=False)
    budget.on_step_begin(None, state, control)
    time[0] += 3.0
    budget.on_step_end(None, state, control)
    if validates:
        time[0] += 50.0
        budget.on_evaluate(None, state, control)
    time[0] += 9.0  # the trainer writes
    saver.on_save(SimpleNamespace(output_dir=str(tmp_path)), state, control)
    assert budget.slowest_save == 11.0
