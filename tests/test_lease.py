"""One writer a store: who holds it, who is gone, who may not go on."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace

import psutil
import pytest

from kelron_lib.errors import KelronError
from kelron_lib.lease import LEASE, Lease, LostLease, Writer, _started, read_lease
from kelron_lib.store import DamagedFile
from kelron_lib.stores import open_store


@pytest.fixture
def store(tmp_path):
    return open_store(tmp_path / "store")


def elsewhere(**changes):
    """A lease of a session on another machine."""
    return replace(Lease.of_this_process(), session="other", host="another-host", **changes)


class Clock:
    """Counts the seconds slept; `during` may act at each sleep."""

    def __init__(self, during=lambda slept: None):
        self.slept, self.during = 0.0, during

    def sleep(self, seconds):
        self.slept += seconds
        self.during(self.slept)


def test_a_lease_is_held_and_released(store):
    with Writer(store, settle_seconds=0) as writer:
        held = read_lease(store)
        assert held.session == writer.lease.session
        writer.confirm()
    assert read_lease(store) is None


def test_a_living_session_is_left_alone_and_named(store):
    beating = elsewhere()
    store.write_bytes(LEASE, beating.encode())

    def beat(slept):
        store.write_bytes(LEASE, replace(beating, beat=int(slept)).encode())

    clock = Clock(beat)
    with pytest.raises(KelronError, match=r"another session writes .*another-host.*store\.url"):
        Writer(store, sleep=clock.sleep).acquire(lambda line: None)
    assert clock.slept == 30.0  # seen at the first look
    assert read_lease(store).session == "other"


def test_a_silent_session_is_taken_over_after_the_wait_whatever_the_clocks_say(store):
    store.write_bytes(LEASE, elsewhere(since="2199-01-01T00:00:00+00:00").encode())
    clock, said = Clock(), []
    writer = Writer(store, sleep=clock.sleep, settle_seconds=0)
    writer.acquire(said.append)
    assert clock.slept == 180.0
    assert "watching it for 180 s" in said[0]
    assert "taking over from process" in said[1]
    writer.confirm()
    writer.release()


def test_who_has_no_patience_takes_only_what_is_proven_to_be_free(store):
    living = Writer(store, settle_seconds=0)
    living.acquire()
    impatient = Writer(store, settle_seconds=0, sleep=lambda seconds: pytest.fail("it waited") if seconds else None)
    with pytest.raises(KelronError, match=r"is held by another session \(process"):
        impatient.acquire(patient=False)
    living.release()
    impatient.acquire(patient=False)
    impatient.release()
    store.write_bytes(LEASE, replace(Lease.of_this_process(), process_start=1.0).encode())
    again = Writer(store, settle_seconds=0)
    again.acquire(patient=False)
    again.release()


def test_a_session_that_ends_while_it_is_watched_gives_way_at_once(store):
    store.write_bytes(LEASE, elsewhere().encode())
    looked = []
    clock = Clock(lambda slept: looked or looked.append(store.delete(LEASE)))
    writer = Writer(store, sleep=clock.sleep, settle_seconds=0)
    writer.acquire(lambda line: None)
    assert clock.slept == 30.0
    writer.release()


def test_a_killed_process_of_this_machine_is_taken_over_without_waiting(store):
    code = (
        f"from kelron_lib.lease import Writer; from kelron_lib.stores import open_store; import os, signal\n"
        f"Writer(open_store({str(store.root)!r}), settle_seconds=0).acquire(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    killed, clock, said = read_lease(store), Clock(), []
    writer = Writer(store, sleep=clock.sleep, settle_seconds=0)
    writer.acquire(said.append)
    assert clock.slept == 0.0
    assert str(killed.pid) in said[0]
    assert "without a word" in said[0]
    writer.release()


@pytest.fixture
def living(store):
    """Another process of this machine whose lease is in the store."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    began = _started(psutil.Process(process.pid))
    lease = replace(Lease.of_this_process(), session="other", pid=process.pid, process_start=began)
    store.write_bytes(LEASE, lease.encode())
    yield process
    process.kill()
    process.communicate()


def test_a_process_of_this_machine_that_ends_while_it_is_watched_is_noticed_at_once(store, living):
    def end(slept):
        if slept == 40.0:
            living.kill()
            living.wait()

    clock, said = Clock(end), []
    writer = Writer(store, sleep=clock.sleep, settle_seconds=0)
    writer.acquire(said.append)
    assert clock.slept == 40.0  # of 180
    assert re.fullmatch(rf"process {living.pid} on .* has ended: taking over from it", said[-1])
    writer.release()


def test_a_process_that_ended_and_was_not_waited_for_counts_as_gone(store, living):
    living.kill()
    until_zombie = psutil.Process(living.pid)
    while until_zombie.status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    clock = Clock()
    writer = Writer(store, sleep=clock.sleep, settle_seconds=0)
    writer.acquire(lambda line: None)
    assert clock.slept == 0.0
    writer.release()


def test_a_process_that_has_the_number_of_a_dead_one_is_not_taken_for_it(store):
    mine = Lease.of_this_process()
    assert not mine.holder_is_gone()
    assert replace(mine, process_start=mine.process_start - 1000).holder_is_gone()
    assert not replace(mine, host="another-host", pid=2**22).holder_is_gone()


@pytest.mark.parametrize("jump", [3600.0, -86400.0])
def test_a_clock_that_is_set_does_not_make_a_living_session_pass_for_a_dead_one(store, monkeypatch, jump):
    mine, real = Lease.of_this_process(), psutil._psplatform.boot_time
    told = psutil.Process().create_time()
    monkeypatch.setattr(psutil._psplatform, "boot_time", lambda: real() + jump)  # what it reads then from the kernel
    assert psutil.Process().create_time() == pytest.approx(told + jump)
    assert not mine.holder_is_gone()
    assert Lease.of_this_process().process_start == pytest.approx(mine.process_start)


def test_who_lost_the_lease_may_not_go_on_and_does_not_take_it_back(store):
    writer = Writer(store, settle_seconds=0)
    writer.acquire(lambda line: None)
    store.write_bytes(LEASE, elsewhere().encode())
    with pytest.raises(LostLease, match=r"lost its right to write .*another-host"):
        writer.confirm()
    writer.release()
    assert read_lease(store).session == "other"


def test_a_removed_lease_is_a_lost_one(store):
    with Writer(store, settle_seconds=0) as writer:
        store.delete(LEASE)
        with pytest.raises(LostLease, match="removed"):
            writer.confirm()


def test_heartbeats_count_and_stop_for_another_session(store):
    seen = threading.Event()

    class Watched:
        def __getattr__(self, name):
            return getattr(store, name)

        def write_bytes(self, path, data, *confirm):
            store.write_bytes(path, data, *confirm)
            if json.loads(data)["beat"] >= 2:
                seen.set()

    writer = Writer(Watched(), beat_seconds=0.02, stale_seconds=1, settle_seconds=0)
    writer.acquire(lambda line: None)
    assert seen.wait(10)
    store.write_bytes(LEASE, elsewhere().encode())
    writer._thread.join(10)
    assert not writer._thread.is_alive()
    assert isinstance(writer.problem, LostLease)
    assert read_lease(store).session == "other"
    writer.release()


def test_an_outage_is_kept_as_the_problem_and_the_next_beat_tries_again(store):
    down, failed, back = threading.Event(), threading.Event(), threading.Event()

    class Flaky:
        def __getattr__(self, name):
            return getattr(store, name)

        def read_bytes(self, path):
            if down.is_set():
                failed.set()
                raise KelronError("the store cannot be reached")
            return store.read_bytes(path)

        def write_bytes(self, path, data, *confirm):
            store.write_bytes(path, data, *confirm)
            if failed.is_set():
                back.set()

    writer = Writer(Flaky(), beat_seconds=0.02, stale_seconds=1, settle_seconds=0)
    writer.acquire(lambda line: None)
    down.set()
    assert failed.wait(10)
    down.clear()
    assert back.wait(10)
    writer.release()
    assert read_lease(store) is None


def test_of_two_that_begin_at_one_moment_one_goes_on(store):
    def other_writes(slept):
        store.write_bytes(LEASE, elsewhere().encode())

    with pytest.raises(LostLease):
        Writer(store, sleep=Clock(other_writes).sleep).acquire(lambda line: None)
    assert read_lease(store).session == "other"


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"session": "x"}', json.dumps(asdict(elsewhere()) | {"x": 1}).encode()]
)
def test_a_broken_lease_is_replaced_and_told(store, content):
    store.write_bytes(LEASE, content)
    with pytest.raises(DamagedFile, match="is no lease"):
        read_lease(store)
    said = []
    writer = Writer(store, settle_seconds=0)
    writer.acquire(said.append)
    assert "it is replaced" in said[0]
    writer.release()


def test_a_lease_that_one_late_beat_would_end_is_refused(store):
    with pytest.raises(KelronError, match="allow at least two"):
        Writer(store, beat_seconds=60, stale_seconds=100)
