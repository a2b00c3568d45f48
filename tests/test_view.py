"""Training as a notebook shows it: what the events add up to, and what is drawn of it."""

import time

import pytest
from conftest import SMALL, ticking_clock

from kelron_lib.config import resolve
from kelron_lib.errors import KelronError
from kelron_lib.events import EventLog
from kelron_lib.train import train
from kelron_lib.view import training_view, widget
from kelron_lib.view.picture import MOST_POINTS, log, picture
from kelron_lib.view.state import Progress

BEGIN = {"time": 1000.0, "event": "begin", "first_step": 0, "total_steps": 100, "session_ends_in": 600.0}


def step(number, loss=1.0, time=1010.0, training=900.0, session=590.0, **more):
    return {
        "time": time,
        "event": "step",
        "step": number,
        "loss": loss,
        "samples_per_second": 2.0,
        "tokens_per_second": 250.0,
        "training_ends_in": training,
        "session_ends_in": session,
        "memory": [{"device": "GPU 0", "used": 13 * 2**30, "limit": 14 * 2**30}],
        **more,
    }


def told(*events):
    progress = Progress()
    progress.take(events)
    return progress


def test_events_add_up():
    backup = {"time": 1011.0, "event": "backup", "step": 10, "bytes": 2_500_000_000, "place": "folder x"}
    progress = told(
        BEGIN, step(5, 2.0), {"time": 1010.0, "event": "validation", "step": 10, "loss": 3.0}, step(10), backup
    )
    assert (progress.step, progress.total_steps, progress.share) == (10, 100, 0.1)
    assert progress.losses == [(5, 2.0), (10, 1.0)]
    assert progress.validations == [(10, 3.0)]
    assert (progress.training_ends, progress.session_ends) == (1910.0, 1600.0)
    assert progress.backup is backup


def test_whether_the_session_is_enough():
    progress = told(BEGIN, step(10))
    assert progress.enough is False
    assert progress.sessions_left(1010.0, budget=200.0) == 2  # 310 s over, in sessions of 200
    assert told(BEGIN, step(10, training=100.0)).enough is True
    assert told(BEGIN).enough is None


def test_what_a_killed_session_did_after_its_backup_is_forgotten():
    progress = told(BEGIN, step(10, 5.0), step(20, 4.0), {**BEGIN, "first_step": 10}, step(12, 3.0))
    assert progress.losses == [(10, 5.0), (12, 3.0)]
    assert (progress.first_step, progress.step) == (10, 12)


def test_unknown_events_are_passed_over():
    assert told(BEGIN, {"event": "new", "time": 1.0}).total_steps == 100


def shown(*events, now=1010.0):
    return picture(told(*events), now=now, budget=200.0)


def test_the_picture_says_all_that_a_glance_wants():
    text = shown(BEGIN, step(10, 1.25), {"time": 950.0, "event": "backup", "step": 8, "bytes": 7_600_000, "place": "p"})
    for part in ("step 10 of 100", "1.250", "250 tokens/s", "15:00", "9:50", "2 more sessions", "step 8", "verified"):
        assert part in text
    assert "13.0 GiB" in text
    assert "of 14.0 GiB" in text
    assert 'aria-valuenow="10"' in text


def test_before_a_backup_it_says_that_there_is_none():
    assert "none yet" in shown(BEGIN, step(10))
    assert "Last backup" not in shown(BEGIN)
    assert "Getting ready" in shown()


def test_how_the_session_ended_stands_in_the_head_and_clocks_go():
    text = shown(BEGIN, step(10), {"time": 1020.0, "event": "end", "state": "failed", "reason": "<b>x", "step": 8})
    assert "<b>Failed</b>" in text
    assert "&lt;b&gt;x" in text
    assert "Session ends in" not in text


def test_lines_are_text_and_not_markup():
    text = log(["<script>alert(1)</script>"])
    assert "<script>" not in text
    assert "&lt;script&gt;" in text


def test_a_long_run_is_drawn_with_a_few_points():
    progress = told(BEGIN, *(step(n, 1.0 + n % 7) for n in range(1, 5000)))
    drawn = picture(progress, now=1010.0, budget=200.0).split('points="')[1].split('"')[0]
    assert len(drawn.split()) == MOST_POINTS


def test_without_a_front_end_lines_are_printed(tmp_path, small_config, capsys):
    with training_view(small_config, tmp_path) as say:
        say("a line")
    assert capsys.readouterr().out == "a line\n"


@pytest.fixture
def front(monkeypatch):
    """A notebook's front end that keeps what is displayed."""
    displayed = []
    monkeypatch.setattr(widget, "front_end", lambda: (True, "a test"))
    monkeypatch.setattr("IPython.display.display", displayed.append)
    return displayed


def drawn(view):
    """What the widget shows of the run, without its style and its lines."""
    return view.children[1].value


def test_the_widget_follows_a_real_run_and_goes_on_in_a_second_session(
    front, small_config, small_data, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(widget, "LOOK_SECONDS", 0.02)
    with training_view(small_config, tmp_path) as say:
        status = train(small_config, small_data, tmp_path, clock=ticking_clock(15), say=say)
    assert capsys.readouterr().out.startswith("budget: ")
    assert f"step {status.step:,}" in drawn(front[0])
    assert "Session over" in drawn(front[0])
    with training_view(small_config, tmp_path) as say:
        assert "Getting ready" in drawn(front[1])
        assert "Session over" not in drawn(front[1])
        train(small_config, small_data, tmp_path, must_resume=True, say=say)
    assert "Finished" in drawn(front[1])


def test_an_error_goes_on_as_it_came(front, small_config, tmp_path):
    EventLog(tmp_path, print).add("begin", first_step=0, total_steps=9, session_ends_in=60.0)

    def fails():
        with training_view(small_config, tmp_path) as say:
            say("one")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert "one" in front[0].children[2].children[1].value
    assert "<b>Failed</b><span>ZeroDivisionError</span>" in drawn(front[0])


def test_a_session_without_training_does_not_stay_getting_ready(front, small_config, small_data, tmp_path):
    """A run that is finished already, and one that is refused: neither trains, so no event tells of them."""
    for words in ("all ", "the run was already finished"):
        with training_view(small_config, tmp_path) as say:
            status = train(small_config, small_data, tmp_path, say=say)
        assert "<b>Finished</b>" in drawn(front[-1])
        assert words in drawn(front[-1])
        assert 'aria-valuenow="100"' in drawn(front[-1])
    assert status.state == "finished"
    other = resolve("tiny-cpu", [*SMALL, "lora.r=2"])
    with pytest.raises(KelronError, match="lora"), training_view(other, tmp_path) as say:
        train(other, small_data, tmp_path, must_resume=True, say=say)
    assert "<b>Failed</b>" in drawn(front[-1])
    assert "lora.r" in drawn(front[-1])
    assert "Getting ready" not in drawn(front[-1])


def test_the_clocks_tick_without_events(front, small_config, tmp_path, monkeypatch):
    monkeypatch.setattr(widget, "LOOK_SECONDS", 0.01)
    with training_view(small_config, tmp_path):
        EventLog(tmp_path, print).add("begin", first_step=0, total_steps=9, session_ends_in=3600.0)
        seen, until = set(), time.monotonic() + 10
        while len(seen) < 2 and time.monotonic() < until:
            seen |= {value for value in [drawn(front[0])] if "Session ends in" in value}
            time.sleep(0.05)
    assert len(seen) == 2
