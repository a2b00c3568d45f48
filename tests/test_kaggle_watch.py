"""What `run` says while a session trains, from its state, its log and the store."""

import itertools
import threading
import time
from types import SimpleNamespace

import pytest
from kaggle_stand_in import USER, use_client
from kaggle_world import Played, World

from kelron_lib.callbacks import ProgressCallback
from kelron_lib.kaggle_ops import watch as watch_module
from kelron_lib.kaggle_ops.client import Kaggle, Session
from kelron_lib.kaggle_ops.kernels import Record
from kelron_lib.kaggle_ops.logs import Told, read_log
from kelron_lib.kaggle_ops.state import Pushed
from kelron_lib.kaggle_ops.watch import Watch
from kelron_lib.runtime import SessionClock
from kelron_lib.train import train

TRAIN = f"{USER}/kelron-02-train"
LINE = "step {0}/100 | loss 0.512 | 3.1 samples/s | training ends in 9:00 | session ends in 10:00:00"


def test_the_lines_of_a_real_session_are_understood(small_config, small_data, tmp_path):
    said = []
    clock = SessionClock(budget=25, now=itertools.count().__next__)
    status = train(small_config, small_data, tmp_path / "run", clock=clock, say=said.append)
    told = read_log(said)
    assert (told.kept, told.total) == (status.step, status.total_steps)
    assert 0 < told.step <= status.step
    assert told.progress.startswith(f"step {told.step}/{told.total} | ")


def test_a_progress_line_is_found_after_a_prefix_and_before_the_first_step():
    callback = ProgressCallback(SessionClock(60.0), [1] * 9, print, 1.0)
    line = callback.line(SimpleNamespace(global_step=0, max_steps=9), 1.0, 59.0)
    assert read_log(["loading", f"[process 0] {line}"]) == Told(f"[process 0] {line}", line, 0, 9, 0)
    assert read_log(["step 3 of many | 4", "", "last\n"]) == Told(last="last")


class Playing:
    """A session that stays active until it is told to end, whose lines the test writes."""

    def __init__(self):
        self.version, self.ended = None, threading.Event()

    def __call__(self, world, ref, version):
        self.version = version
        self.ended.wait(60)
        return Played()


@pytest.fixture
def session(monkeypatch):
    """A session that runs, and a watch on it whose clock the test moves."""
    play = Playing()
    with World(play) as world:
        use_client(monkeypatch, world)
        world.save_kernel({"slug": TRAIN, "newTitle": "Kelron 02 Train", "text": "{}"})
        while play.version is None:
            time.sleep(0.01)
        said = []
        made = SimpleNamespace(said=said, time=0.0, lines=play.version.lines, world=world)
        watch = Watch(Kaggle(say=said.append), now=lambda: made.time)

        def show(status="RUNNING", known=None, until=None):
            """Until the log was heard so far."""
            watch.show(Pushed("train", TRAIN, 1, Record("", ""), Session(status)), lambda _: known)
            end = time.monotonic() + 20
            while until is not None and until not in watch._listener.told.last:
                assert time.monotonic() < end
                time.sleep(0.01)

        made.show, made.watch = show, watch
        yield made
        watch.close()
        play.ended.set()


def test_a_session_is_spoken_of_when_its_state_changes_and_once_a_minute(session):
    session.show("QUEUED")
    session.show("QUEUED")
    assert session.said == [f"{TRAIN} is queued | 0:00 so far"]
    session.time = 30.0
    session.show()
    assert session.said[1:] == [f"{TRAIN} is running | 0:00 so far"]
    session.lines.append("loading the base\n")
    session.show(until="loading")
    assert len(session.said) == 2
    session.time = 95.0
    session.show(known=None)
    assert session.said[2:] == [f"{TRAIN} is running | 1:05 so far | its last line: loading the base"]
    session.lines += [f"{LINE.format(12)}\n", "step 10 is kept in the store, verified: 1 MB\n"]
    session.show(until="is kept")
    session.time = 154.0
    session.show()
    assert len(session.said) == 3
    session.time = 156.0
    session.show()
    assert session.said[3:] == [f"{TRAIN} is running | 2:06 so far | {LINE.format(12)} | kept: step 10"]
    for session.time in (200.0, 400.0, 700.0):  # nothing new
        session.show(known=12)
    assert len(session.said) == 4
    session.time = 757.0
    session.show(known=12)
    assert session.said[4:] == [f"{TRAIN} is running | 12:07 so far | {LINE.format(12)} | kept: step 12"]
    session.show("CANCEL_REQUESTED")
    assert session.said[5].startswith(f"{TRAIN} is cancel requested | 12:07 so far")


def test_one_that_looks_only_once_waits_for_the_log(session):
    session.lines.append(f"{LINE.format(7)}\n")
    session.watch.show(Pushed("train", TRAIN, 1, Record("", ""), Session("RUNNING")), lambda _: None, glance=True)
    assert session.said == [f"{TRAIN} is running | 0:00 so far | {LINE.format(7)}"]


def test_the_time_of_a_session_that_began_before_comes_from_its_log(session, monkeypatch):
    monkeypatch.setattr(session.world, "events", lambda version: [{"time": 7200.5, "data": "a line\n"}])
    session.show()
    assert session.said[0].startswith(f"{TRAIN} is running | 2:00:0")


def test_a_log_that_breaks_off_is_asked_for_again_and_one_that_cannot_be_had_is_told(session, monkeypatch):
    monkeypatch.setattr(watch_module, "AGAIN", (0.02,))
    session.world.faults["stream"] = [1, -1, 2]
    session.lines += ["one\n", "two\n", f"{LINE.format(5)}\n"]
    session.show(until="step 5")
    session.watch.close()
    monkeypatch.setattr(session.world, "_version", lambda asked: None)
    session.watch.show(Pushed("train", TRAIN, 1, Record("", ""), Session("RUNNING")), lambda _: None)
    time.sleep(0.5)
    session.time = 61.0
    session.watch.show(Pushed("train", TRAIN, 1, Record("", ""), Session("RUNNING")), lambda _: None)
    assert "no word from it: cannot follow the log of" in session.said[-1]
