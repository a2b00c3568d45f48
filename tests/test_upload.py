"""Uploads behind training's back: staged, newest first, tried again, bounded, and never silent."""

from __future__ import annotations

import os
import threading

import pytest

from kelron_lib.errors import KelronError
from kelron_lib.lease import LostLease
from kelron_lib.upload import Uploader, stage


@pytest.fixture
def checkpoint(tmp_path):
    folder = tmp_path / "work" / "checkpoint-7"
    folder.mkdir(parents=True)
    for name in ("optimizer.pt", "trainer_state.json", "training_args.bin"):
        (folder / name).write_bytes(name.encode())
    return folder


NAMES = ("optimizer.pt", "trainer_state.json")


def staged_folder(tmp_path, name="checkpoint-7"):
    folder = tmp_path / "staging" / name
    folder.mkdir(parents=True)
    return folder


class Gate:
    """A `send` that waits for `open`, then fails as often as it is told to."""

    def __init__(self, *errors):
        self.errors = list(errors)
        self.open, self.reached = threading.Event(), threading.Event()
        self.sent = []

    def __call__(self, content):
        self.reached.set()
        assert self.open.wait(10)
        if self.errors:
            raise self.errors.pop(0)
        self.sent.append(content)


def uploader(send, **changes):
    return Uploader(send, **{"most_failures": 5, "first_pause": 0.01, "longest_pause": 0.02, "say": print} | changes)


def test_a_staged_checkpoint_survives_rotation_and_takes_no_second_copy(checkpoint, tmp_path):
    staged = stage(checkpoint, NAMES, tmp_path / "staging")
    assert sorted(path.name for path in staged.iterdir()) == sorted(NAMES)
    assert os.stat(staged / "optimizer.pt").st_ino == os.stat(checkpoint / "optimizer.pt").st_ino
    for path in checkpoint.iterdir():
        path.unlink()
    assert (staged / "optimizer.pt").read_bytes() == b"optimizer.pt"


def test_where_links_are_impossible_it_copies(checkpoint, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    staged = stage(checkpoint, NAMES, tmp_path / "staging")
    assert os.stat(staged / "optimizer.pt").st_ino != os.stat(checkpoint / "optimizer.pt").st_ino
    assert (staged / "optimizer.pt").read_bytes() == b"optimizer.pt"


def test_staging_that_fails_leaves_nothing(checkpoint, tmp_path):
    with pytest.raises(OSError, match="scaler"):
        stage(checkpoint, (*NAMES, "scaler.pt"), tmp_path / "staging")
    assert list((tmp_path / "staging").iterdir()) == []


def test_the_same_step_staged_twice_has_two_folders(checkpoint, tmp_path):
    first, second = (stage(checkpoint, NAMES, tmp_path / "staging") for _ in range(2))
    assert first != second


def test_the_caller_does_not_wait_and_the_newest_wins(tmp_path):
    send = Gate()
    carrier = uploader(send)
    folders = [staged_folder(tmp_path, f"checkpoint-{step}") for step in (1, 2, 3)]
    carrier.offer("step 1", 1, folders[0])
    assert send.reached.wait(10)
    carrier.offer("step 2", 2, folders[1])
    carrier.offer("step 3", 3, folders[2])
    assert carrier.words() == "uploading step 1"
    assert not folders[1].exists()
    send.open.set()
    assert carrier.flush(10)
    assert send.sent == [1, 3]
    assert carrier.sent == "step 3"
    assert not any(folder.exists() for folder in folders)
    assert carrier.words() == ""
    assert carrier.expected_seconds > 0
    carrier.close()


def test_a_failure_is_told_and_tried_again(tmp_path):
    said = []
    send = Gate(KelronError("the hub answers 503"), KelronError("the hub answers 503"))
    send.open.set()
    carrier = uploader(send, say=said.append)
    assert carrier.expected_seconds is None
    carrier.offer("step 7", 7, staged_folder(tmp_path))
    assert carrier.flush(10)
    assert send.sent == [7]
    assert said == [f"upload of step 7 failed ({n} in a row): the hub answers 503" for n in (1, 2)]
    assert carrier.failures == 0
    assert carrier.problem is None
    carrier.check()
    carrier.close()


def test_a_newer_checkpoint_replaces_one_that_keeps_failing(tmp_path):
    tried = []

    def send(step):
        tried.append(step)
        if step == 1:
            raise KelronError("refused")

    carrier = uploader(send, most_failures=10**6, first_pause=30, longest_pause=30)
    old, new = staged_folder(tmp_path, "a"), staged_folder(tmp_path, "b")
    carrier.offer("step 1", 1, old)
    while not carrier.failures:
        pass
    assert carrier.words() == "upload failed once: refused"
    carrier.offer("step 2", 2, new)  # wakes the thread from its pause
    assert carrier.flush(10)
    assert tried == [1, 2]
    assert not old.exists()
    carrier.close()


def test_too_many_failures_stop_training_but_not_the_tries(tmp_path):
    send = Gate(*[KelronError("out of quota")] * 4)
    send.open.set()
    carrier = uploader(send, most_failures=3, first_pause=0.05)
    carrier.offer("step 7", 7, staged_folder(tmp_path))
    assert not carrier.flush(10)
    with pytest.raises(KelronError, match=r"3 uploads in a row failed.*out of quota.*nothing was stored"):
        carrier.check()
    carrier.close()


@pytest.mark.parametrize("error", [LostLease("another session writes"), ZeroDivisionError("a bug")])
def test_a_lost_lease_or_an_error_nobody_expected_ends_all_tries_at_once(tmp_path, error):
    send = Gate(error)
    send.open.set()
    carrier = uploader(send)
    carrier.offer("step 7", 7, staged_folder(tmp_path))
    assert not carrier.flush(10)
    with pytest.raises(KelronError, match=str(error)) as raised:
        carrier.check()
    assert raised.value.__cause__ is error
    assert send.sent == []
    carrier.close()


def test_a_flush_is_bounded_and_leaves_what_did_not_arrive(tmp_path):
    send = Gate()
    carrier = uploader(send)
    folder = staged_folder(tmp_path)
    carrier.offer("step 7", 7, folder)
    assert send.reached.wait(10)
    assert not carrier.flush(0.05)
    assert folder.exists()
    send.open.set()
    assert carrier.flush(10)
    carrier.close()


def test_one_that_lasts_is_sent_before_what_is_only_newer(tmp_path):
    gate = Gate()
    sender = uploader(gate)
    try:
        folders = {name: staged_folder(tmp_path, name) for name in ("one", "two", "best", "three", "four")}
        sender.offer("one", "one", folders["one"])
        assert gate.reached.wait(10)
        sender.offer("two", "two", folders["two"])
        assert sender.ahead == 1
        sender.offer("best", "best", folders["best"], lasting=True)
        sender.offer("three", "three", folders["three"])
        assert sender.ahead == 2
        sender.offer("four", "four", folders["four"])
        assert {name for name, folder in folders.items() if folder.exists()} == {"one", "best", "four"}
        gate.open.set()
        assert sender.flush(10)
        assert gate.sent == ["one", "best", "four"]
        assert sender.ahead == 0
        assert not any(folder.exists() for folder in folders.values())
    finally:
        sender.close()


@pytest.mark.parametrize("better", [False, True])
def test_one_that_lasts_is_tried_again_until_a_better_one_waits(tmp_path, better):
    gate = Gate(*[KelronError("out of quota")] * 3)
    sender = uploader(gate)
    try:
        best, newer = (staged_folder(tmp_path, name) for name in ("best", "newer"))
        sender.offer("best", "best", best, lasting=True)
        assert gate.reached.wait(10)
        sender.offer("newer", "newer", newer, lasting=better)
        gate.open.set()
        assert sender.flush(10)
        assert gate.sent == (["newer"] if better else ["best", "newer"])
        assert not best.exists()
        assert not newer.exists()
    finally:
        sender.close()
