"""A clock that is set, by a day and back, while a run trains and keeps: nothing that counts is read from it."""

from __future__ import annotations

import itertools
import os
import shutil
import time

import pytest
from conftest import ticking_clock
from test_checkpoint import save, store
from test_train import STEPS, adapter, losses, uninterrupted

from kelron_lib import checkpoint as module
from kelron_lib.errors import KelronError
from kelron_lib.restore import restore
from kelron_lib.stores import open_store
from kelron_lib.train import train
from kelron_lib.verify import list_checkpoints, verify_store

__all__ = ["store", "uninterrupted"]  # fixtures
DAY = 86400.0


@pytest.fixture
def jumping(monkeypatch):
    """Every look at the time of day finds another day: today, tomorrow, yesterday."""
    real, jumps = time.time, itertools.cycle([0.0, DAY, -DAY])
    monkeypatch.setattr(time, "time", lambda: real() + next(jumps))
    dates = itertools.cycle(["2027-01-01T00:00:00+00:00", "2026-01-01T00:00:00+00:00", "2031-01-01T00:00:00+00:00"])
    monkeypatch.setattr(module, "now", lambda: next(dates))


def test_a_cut_run_is_bit_equal_whatever_day_the_clock_shows(
    jumping, uninterrupted, small_config, small_data, tmp_path
):
    first = train(small_config, small_data, tmp_path / "run", clock=ticking_clock(15), say=lambda line: None)
    assert (first.state, 0 < first.step < STEPS) == ("budget", True)
    shutil.rmtree(tmp_path / "run" / "work")
    last = train(small_config, small_data, tmp_path / "run", clock=ticking_clock(10**6), say=lambda line: None)
    assert (last.state, last.first_step, last.step) == ("finished", first.step, STEPS)
    assert adapter(tmp_path / "run") == adapter(uninterrupted)
    assert losses(tmp_path / "run") == losses(uninterrupted)
    assert verify_store(open_store(tmp_path / "run" / "store")).ok


def test_a_clock_set_back_between_two_checkpoints_costs_neither(
    small_config, small_data, tmp_path, monkeypatch, caplog
):
    """In the trainer's folder the newest is the one just written, whatever time its files have; and transformers says
    nothing of those times."""
    from transformers.utils import logging

    from kelron_lib import trainer

    monkeypatch.setattr(logging.get_logger("transformers"), "propagate", True)
    name_base = trainer.name_base

    def tomorrow(folder, base):
        name_base(folder, base)
        os.utime(folder, (time.time() + DAY, time.time() + DAY))

    monkeypatch.setattr(trainer, "name_base", tomorrow)
    status = train(small_config, small_data, tmp_path / "run", clock=ticking_clock(10**6), say=lambda line: None)
    assert (status.state, status.step) == ("finished", STEPS)
    assert [path.name for path in (tmp_path / "run" / "work").glob("checkpoint-*")] == [f"checkpoint-{STEPS}"]
    assert not [record for record in caplog.records if "mtime" in record.message]


def test_the_newest_is_the_one_of_the_highest_step_whatever_day_it_was_saved(jumping, store, tmp_path):
    for step in (100, 120, 140):
        save(store, tmp_path / "work", step, keep=9)
    assert restore(store, tmp_path / "into").step == 140
    assert [info.step for info in list_checkpoints(store)] == [140, 120, 100]
    lines = [info.line() for info in list_checkpoints(store)]
    assert "age unknown" in lines[0]  # saved in 2031, it seems
    assert "days old" in lines[1]


def test_a_clock_that_runs_ahead_costs_another_writer_a_try_and_nothing_stored(store, tmp_path, monkeypatch):
    """A file that is being written looks forgotten then, and is cleared."""
    source = tmp_path / "source"
    source.write_bytes(b"new")
    store.write_bytes("a", b"old")
    copy = shutil.copyfile

    def interrupted(local, temporary):
        copy(local, temporary)
        tomorrow = time.time() + DAY
        with monkeypatch.context() as patch:
            patch.setattr(time, "time", lambda: tomorrow)
            open_store(store.root, write=True)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", interrupted)
        with pytest.raises(KelronError, match="cannot write a in folder"):
            store.put_file(source, "a")
    assert store.read_bytes("a") == b"old"
    store.put_file(source, "a")
    assert store.read_bytes("a") == b"new"
