"""Ctrl-C and SIGTERM: a session says what is safe and how to go on, gives its lease back, and leaves no process."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest
from conftest import SMALL

from kelron_lib.__main__ import main
from kelron_lib.interrupt import Interrupted, Terminated, interrupted, terminable
from kelron_lib.lease import read_lease
from kelron_lib.session import read_sessions, read_status
from kelron_lib.stores import open_store
from kelron_lib.train import train
from kelron_lib.verify import newest_verified

LONG = [word for override in (*SMALL, "train.epochs=20", "train.save_steps=2") for word in ("--set", override)]
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


def until(holds, session, seconds=60.0):
    end = time.monotonic() + seconds
    while not holds():
        assert session.poll() is None, session.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("sent", "processes"), [(signal.SIGTERM, 1), (signal.SIGINT, 2)], ids=["SIGTERM", "Ctrl-C, two processes"]
)
def test_an_interrupted_session_says_what_is_safe_and_how_to_go_on(sent, processes, small_data, tmp_path, capsys):
    out = tmp_path / "run of mine"
    passes = ["--set", "train.rows_per_pass=1", "--set", "train.passes_per_step=2"]
    options = [*LONG, *passes, "--processes", str(processes), "--data", str(small_data), "--out", str(out)]
    command = [sys.executable, "-m", "kelron_lib", "train", *options]
    session = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    until((out / "store" / "LATEST.json").exists, session)
    children = psutil.Process(session.pid).children(recursive=True)
    session.send_signal(sent)
    said, told = session.communicate(timeout=180)
    assert session.returncode == CODES[sent]
    store, status = open_store(out / "store"), read_status(out)
    step = newest_verified(store).step
    name = "SIGINT (Ctrl-C)" if sent == signal.SIGINT else "SIGTERM"
    safe = f"interrupted by {name}: step {step} of {status.total_steps} is safe, verified, in {store.describe()}"
    again = shlex.join(["kelron", "resume", *options])
    assert told.splitlines()[-2:] == [
        f"kelron: {safe}; later steps are done again",
        f"kelron: go on with: {again}",
    ]
    assert "Traceback" not in said + told
    assert "taking over" not in said + told
    assert (status.state, status.first_step, status.step) == ("failed", 0, step)
    assert status.reason.startswith(safe)
    assert step > 0
    assert status.total_steps > step
    assert [(one["reason"], one["last_step"]) for one in read_sessions(store)] == [("failed", step)]
    assert read_lease(store) is None
    assert len(children) >= (processes if processes > 1 else 0)
    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    if processes == 1:
        assert main([*shlex.split(again)[1:], "--set", "session.budget_seconds=1"]) == 0
        assert "budget: the session's time was used" in capsys.readouterr().out
        assert read_status(out).step == step


def interrupt(*args, **how):
    raise KeyboardInterrupt


@pytest.mark.parametrize("processes", [1, 2])
def test_a_session_that_is_interrupted_as_it_begins_tells_of_the_steps_of_those_before(
    processes, run, small_data, monkeypatch, capsys
):
    out, step = run
    where = "kelron_lib.train.run_processes" if processes > 1 else "kelron_lib.trainer.build_trainer"
    monkeypatch.setattr(where, interrupt)
    monkeypatch.setattr("kelron_lib.train.processes_for", lambda config, gpus: processes)
    monkeypatch.setattr("kelron_lib.train.check_processes", lambda passes, processes: None)
    small = [word for override in SMALL for word in ("--set", override)]
    assert main(["resume", *small, "--data", str(small_data), "--out", str(out)]) == 130
    told = capsys.readouterr().err
    assert f"step {step}" in told
    assert "go on with: kelron resume" in told
    status = read_status(out)
    assert (status.state, status.step) == ("failed", step)
    assert status.reason.startswith("interrupted by SIGINT (Ctrl-C)")
    assert read_lease(open_store(out / "store")) is None


@pytest.mark.parametrize("fresh", [False, True])
def test_where_no_checkpoint_is_the_same_command_goes_on(fresh, small_data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("kelron_lib.trainer.build_trainer", lambda *args: os.kill(os.getpid(), signal.SIGTERM))
    options = [word for override in SMALL for word in ("--set", override)]
    options += ["--data", str(small_data), "--out", str(tmp_path), *["--fresh"] * fresh]
    assert main(["train", *options]) == 143
    told = capsys.readouterr().err.splitlines()
    assert told == [
        f"kelron: interrupted by SIGTERM: folder {tmp_path / 'store'} holds no checkpoint yet",
        f"kelron: go on with: {shlex.join(['kelron', 'train', *options])}",
    ]
    assert json.loads((tmp_path / "status.json").read_text())["step"] == 0
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_fresh_start_that_is_interrupted_before_it_set_the_old_run_aside_is_not_resumed(
    run, small_config, small_data, monkeypatch
):
    out, step = run
    monkeypatch.setattr("kelron_lib.begin.set_aside", interrupt)
    with pytest.raises(Interrupted, match=f"step {step}") as caught:
        train(small_config, small_data, out, fresh=True, say=lambda line: None)
    assert not caught.value.resumes


def test_the_command_that_goes_on_is_no_fresh_start():
    from kelron_lib.__main__ import _going_on

    assert _going_on(["train", "--fresh", "--out", "a b"], True) == "go on with: kelron resume --out 'a b'"
    assert _going_on(["train", "--fre"], True) == "go on with: kelron resume"
    assert _going_on(["train", "--fresh"], False) == "go on with: kelron train --fresh"


def test_sigterm_is_raised_once_and_only_within_the_block():
    ended = []

    def end_twice():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            ended.append("well")

    with pytest.raises(Terminated), terminable():
        end_twice()
    assert ended == ["well"]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_whoever_handles_sigterm_already_keeps_it():
    seen = []
    signal.signal(signal.SIGTERM, lambda *_: seen.append("mine"))
    try:
        with terminable():
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    assert seen == ["mine"]
    elsewhere = threading.Thread(target=lambda: seen.append(terminable().__enter__()))
    elsewhere.start()
    elsewhere.join()
    assert seen == ["mine", None]


def test_the_line_names_what_ended_the_session():
    told = interrupted(KeyboardInterrupt(), 4, 12, "folder x", resumes=True)
    safe = "step 4 of 12 is safe, verified, in folder x; later steps are done again"
    assert str(told) == f"interrupted by SIGINT (Ctrl-C): {safe}"
    assert told.resumes
    none = interrupted(Terminated(), 0, 0, "folder x", resumes=True)
    assert (none.exit_code, none.resumes) == (143, False)
