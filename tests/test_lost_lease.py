"""A session that lost its lease in the middle of something harms nothing of the session that took over."""

from __future__ import annotations

from dataclasses import replace

import pytest
from test_checkpoint import RUN, RecordingStore, save, trainer_folder
from test_hub_store import Session, kind, session

from kelron_lib.checkpoint import prepare_checkpoint, send_checkpoint
from kelron_lib.errors import KelronError, RunFailed
from kelron_lib.keeper import Keeper
from kelron_lib.lease import LEASE, Lease, LostLease, Writer, read_lease
from kelron_lib.manifest import LATEST
from kelron_lib.restore import restore
from kelron_lib.stores import open_store
from kelron_lib.verify import latest, verify_store

__all__ = ["kind", "session"]  # fixtures

OTHER = replace(Lease.of_this_process(), session="other", host="another-host")


def prepared(parent, step, **about):
    return prepare_checkpoint(trainer_folder(parent, step), **RUN, **about)


class Halting(RecordingStore):
    """A folder store whose session halts right before its change of this number, for `meanwhile`."""

    def __init__(self, root, halt, meanwhile=lambda: None):
        super().__init__(root)
        self.halt, self.meanwhile, self.seen = halt, meanwhile, 0

    def _change(self):
        self.seen += 1
        if self.seen == self.halt:
            self.meanwhile()

    def write_bytes(self, path, data, *confirm):
        self._change()
        super().write_bytes(path, data, *confirm)

    def put_files(self, files):
        super().put_files(files)
        self._change()  # after it: what is sent in one piece is where a session stays for long


def changes_of_a_save(tmp_path):
    store = Halting(tmp_path / "count", 0)
    for step in (80, 100):
        save(store, tmp_path / "work", step)
    store.seen = 0
    send_checkpoint(store, prepared(tmp_path / "work", 120))
    return store.seen


def test_a_session_that_halts_anywhere_in_a_save_and_wakes_harms_nothing_of_its_successor(tmp_path):
    """The successor saves the very same step meanwhile, and names it."""
    count = changes_of_a_save(tmp_path)
    assert count >= 4
    told = []
    for halt in range(1, count + 1):
        root = tmp_path / str(halt)
        root.mkdir()
        successor = open_store(root / "store", write=True)
        for step in (80, 100):
            save(successor, root / "work", step)

        def take_over(root=root, successor=successor):
            successor.write_bytes(LEASE, OTHER.encode())
            send_checkpoint(successor, prepared(root / "other", 120, versions={"torch": "another"}))

        first = Halting(root / "store", 0, take_over)
        writer = Writer(first, settle_seconds=0)
        writer.acquire(lambda line: None)
        first.halt = first.seen + halt
        try:
            send_checkpoint(first, prepared(root / "work", 120), confirm=writer.confirm)
        except LostLease as lost:
            told.append(str(lost))
        assert first.seen >= first.halt
        named = latest(successor)
        assert named.step == 120, halt
        assert verify_store(successor).ok, halt
        assert restore(successor, root / "into").problems == [], halt
        assert read_lease(successor) == OTHER
        writer.release()
    assert told
    assert all("another-host" in line for line in told)


def test_a_pointer_whose_way_was_cut_is_not_sent_again_without_the_lease(session, tmp_path):
    """While it waits to try again, another session takes over and goes further."""
    save(session.store, tmp_path / "work", 100)
    other = Session(session.hub, session.kind).store
    writer = Writer(session.store, settle_seconds=0)
    writer.acquire(lambda line: None)
    moment, slept = [], session.time.sleep

    def sleep(seconds):
        slept(seconds)
        if not moment:
            other.write_bytes(LEASE, OTHER.encode())
            send_checkpoint(other, prepared(tmp_path / "other", 140))
            moment.append(seconds)

    session.client.sleep = sleep
    real = session.store.write_bytes

    def written(path, data, *confirm):
        if path == LATEST:
            session.hub.fail(session.change, "cut")
        real(path, data, *confirm)

    session.store.write_bytes = written
    with pytest.raises(LostLease, match="another-host"):
        send_checkpoint(session.store, prepared(tmp_path / "work", 120), confirm=writer.confirm)
    assert moment
    reader = Session(session.hub, session.kind).store
    assert latest(reader).step == 140
    assert verify_store(reader).ok
    writer.release()


def test_a_repo_takes_no_pointer_on_top_of_a_lease_that_was_taken_after_the_last_look(session, tmp_path):
    """The commit names its parent, which was read before the lease was: there is no moment in between."""
    if session.kind == "bucket":
        pytest.skip("a bucket has no commits")
    save(session.store, tmp_path / "work", 100)
    other = Session(session.hub, session.kind).store
    writer = Writer(session.store, settle_seconds=0)
    writer.acquire(lambda line: None)
    looks = []

    def look():
        writer.confirm()
        looks.append(1)
        if len(looks) == 1:
            other.write_bytes(LEASE, OTHER.encode())

    with pytest.raises(LostLease):
        session.store.write_bytes(LATEST, b"mine", look)
    assert session.content()[LATEST] != b"mine"
    writer.release()


def test_a_late_heartbeat_does_not_take_the_lease_back(tmp_path):
    store = open_store(tmp_path / "store", write=True)
    writer = Writer(store, beat_seconds=0.02, stale_seconds=1, settle_seconds=0)

    class Late:
        def __getattr__(self, name):
            return getattr(store, name)

        def write_bytes(self, path, data, *confirm):
            store.write_bytes(LEASE, OTHER.encode())  # while the beat was on its way
            store.write_bytes(path, data, *confirm)

    writer.acquire(lambda line: None)
    writer.store = Late()
    writer._thread.join(10)
    assert isinstance(writer.problem, LostLease)
    assert read_lease(store) == OTHER
    writer.release()


def test_training_stops_at_the_next_step_after_the_lease_was_lost(small_config, small_data, tmp_path):
    """Not only when the next checkpoint is due, which may be an hour later."""
    store = open_store(tmp_path / "store", write=True)
    store.beat_seconds = 0.02
    keeper = Keeper(
        store,
        small_config,
        data=small_data,
        data_fingerprint="d" * 64,
        out=tmp_path,
        world_size=1,
        say=lambda line: None,
    )
    keeper.begin()
    keeper.check()
    store.write_bytes(LEASE, OTHER.encode())
    keeper._writer._thread.join(10)
    with pytest.raises(RunFailed, match=r"lost its right to write .*another-host"):
        keeper.check()
    keeper.close()


def test_a_first_error_is_told_and_not_that_the_lease_is_lost_too(tmp_path):
    """What is removed after a failed save is only removed by who may."""
    store = RecordingStore(tmp_path / "store")
    store.prepare()
    lost = []

    def confirm():
        if lost:
            raise LostLease("another session writes")

    def refuse(files):
        lost.append(1)
        raise KelronError("out of quota")

    store.put_files = refuse
    with pytest.raises(KelronError, match="out of quota"):
        send_checkpoint(store, prepared(tmp_path / "work", 120), confirm=confirm)
