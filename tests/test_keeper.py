"""What a session keeps: in the background, under a lease, and never lost without a word."""

from __future__ import annotations

import threading
from dataclasses import replace
from functools import partial

import pytest
from test_checkpoint import trainer_folder

from kelron_lib import keeper as module
from kelron_lib import train as train_module
from kelron_lib.data import fingerprint
from kelron_lib.errors import KelronError, RunFailed
from kelron_lib.keeper import Keeper
from kelron_lib.lease import LEASE, Lease, read_lease
from kelron_lib.session import read_sessions, read_status
from kelron_lib.store import FolderStore
from kelron_lib.stores import open_store
from kelron_lib.train import train
from kelron_lib.upload import Uploader
from kelron_lib.verify import latest, size_words, verify_store


class SlowStore(FolderStore):
    """A store that takes no file until it is opened, and refuses as many as it is told to."""

    def __init__(self, root, refusals=0):
        super().__init__(root)
        self.open, self.refusals = threading.Event(), refusals

    def put_file(self, local, path):
        assert self.open.wait(20)
        if self.refusals and not path.startswith("dataset/"):
            self.refusals -= 1
            raise KelronError("out of quota")
        super().put_file(local, path)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Short pauses between the tries, and a short last wait."""
    monkeypatch.setattr(module, "Uploader", partial(Uploader, first_pause=0.01, longest_pause=0.02))
    monkeypatch.setattr(module, "FLUSH_AT_LEAST", 0.3)


@pytest.fixture
def store(tmp_path):
    return SlowStore(tmp_path / "store")


@pytest.fixture
def keeper(store, small_config, small_data, tmp_path):
    held = Keeper(
        store,
        small_config,
        data=small_data,
        data_fingerprint=fingerprint(small_data),
        out=tmp_path,
        world_size=1,
        say=lambda line: None,
    )
    held.begin()
    held.take_dataset()
    yield held
    store.open.set()
    held.close()


def test_what_is_kept_is_told_with_what_the_store_takes(keeper, store, tmp_path):
    keeper.say, store.open = (said := []).append, threading.Event()
    store.open.set()
    for step in (7, 8):
        keeper.keep(trainer_folder(tmp_path / "work", step, size=1_000_000))
        keeper.flush(20)
    size = size_words(latest(store).size)
    used = size_words(sum(entry.size for entry in store.list()))
    assert said[0].startswith(f"step 7 is kept in {store.describe()}, verified: {size} of the ")
    assert said[1] == f"step 8 is kept in {store.describe()}, verified: {size} of the {used} there"


def test_keeping_does_not_wait_and_rotation_does_no_harm(keeper, store, tmp_path):
    folder = trainer_folder(tmp_path / "work", 7)
    keeper.keep(folder)
    assert keeper.words() == "uploading step 7"
    assert latest(store) is None
    for path in folder.iterdir():
        path.unlink()
    store.open.set()
    keeper.flush(20)
    assert latest(store).step == 7
    assert verify_store(store).ok
    assert list((tmp_path / "work" / "staged").iterdir()) == []
    assert keeper.words() == ""


def test_a_file_that_is_written_over_on_its_way_is_refused(keeper, store, tmp_path):
    folder = trainer_folder(tmp_path / "work", 7)
    keeper.keep(folder)
    with (folder / "optimizer.pt").open("r+b") as file:  # the same length, the same place on the disk
        file.write(b"other")
    store.open.set()
    with pytest.raises(RunFailed, match=r"did not reach.*optimizer\.pt has changed.*nothing of this session"):
        keeper.flush(0)
    assert latest(store) is None


def test_the_newest_wins_and_what_it_replaces_is_gone(keeper, store, tmp_path):
    for step in (1, 2, 3):
        keeper.keep(trainer_folder(tmp_path / "work", step))
    store.open.set()
    keeper.flush(20)
    assert latest(store).step == 3
    assert not list((tmp_path / "store").glob("step-000002*"))


def test_an_incomplete_checkpoint_is_told_at_once(keeper, tmp_path):
    folder = trainer_folder(tmp_path / "work", 7)
    (folder / "scheduler.pt").unlink()
    with pytest.raises(KelronError, match=r"lacks scheduler\.pt"):
        keeper.keep(folder)
    assert list((tmp_path / "work" / "staged").iterdir()) == []


def test_the_time_reserved_follows_what_uploads_took(keeper, store, tmp_path):
    assert keeper.expected_seconds(900.0) == 900.0
    store.open.set()
    keeper.keep(trainer_folder(tmp_path / "work", 7))
    keeper.flush(20)
    once = keeper.expected_seconds(900.0)
    assert 0 < once < 20
    store.open.clear()
    keeper.keep(trainer_folder(tmp_path / "work", 8))
    assert keeper.expected_seconds(900.0) == 2 * once  # one is on its way


def test_a_flush_is_bounded_and_names_what_the_store_has(keeper, store, tmp_path):
    store.open.set()
    keeper.keep(trainer_folder(tmp_path / "work", 7))
    keeper.flush(20)
    store.open.clear()
    keeper.keep(trainer_folder(tmp_path / "work", 8))
    with pytest.raises(RunFailed, match=r"longer than there was time.*the newest there is step 7"):
        keeper.flush(0)


def test_who_lost_the_lease_does_not_move_the_pointer(keeper, store, tmp_path):
    keeper.keep(trainer_folder(tmp_path / "work", 7))
    store.write_bytes(LEASE, replace(Lease.of_this_process(), session="other", host="another-host").encode())
    store.open.set()
    with pytest.raises(RunFailed, match=r"lost its right to write .*another-host"):
        keeper.flush(20)
    with pytest.raises(RunFailed, match="another-host"):
        keeper.check()
    assert latest(store) is None
    keeper.close()
    assert read_lease(store).session == "other"


OTHER = replace(Lease.of_this_process(), session="other", host="another-host")


def test_a_session_that_lost_the_lease_at_its_very_end_is_finished_and_not_recorded(
    small_config, small_data, tmp_path, monkeypatch
):
    (tmp_path / "run").mkdir()
    store, real = open_store(tmp_path / "run" / "store"), train_module.write_status

    def written_and_lost(out, status):
        store.write_bytes(LEASE, OTHER.encode())
        real(out, status)

    monkeypatch.setattr(train_module, "write_status", written_and_lost)
    said = []
    assert train(small_config, small_data, tmp_path / "run", say=said.append).state == "finished"
    assert read_sessions(store) == []
    assert read_lease(store) == OTHER
    assert "missing in the store's list" in said[-2]
    assert "another-host" in said[-2]


def test_a_session_that_failed_without_the_lease_writes_nothing(small_config, small_data, tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    store = open_store(tmp_path / "run" / "store")

    def lost(self, seconds):
        store.write_bytes(LEASE, OTHER.encode())
        raise RunFailed("the connection broke")

    monkeypatch.setattr(Keeper, "flush", lost)
    with pytest.raises(RunFailed, match="the connection broke"):
        train(small_config, small_data, tmp_path / "run", say=lambda line: None)
    assert read_status(tmp_path / "run").state == "failed"
    assert read_sessions(store) == []
    assert read_lease(store) == OTHER


def test_a_run_ends_with_its_lease_given_back(small_config, small_data, tmp_path):
    assert train(small_config, small_data, tmp_path / "run", say=lambda line: None).state == "finished"
    store = open_store(tmp_path / "run" / "store")
    assert read_lease(store) is None
    assert verify_store(store).ok


def test_a_store_that_takes_nothing_ends_the_run_with_the_reason(small_config, small_data, tmp_path, monkeypatch):
    refusing = SlowStore(tmp_path / "store", refusals=10**6)
    refusing.open.set()
    monkeypatch.setattr(train_module, "open_store", lambda *_, **__: refusing)
    config = replace(small_config, store=replace(small_config.store, most_failures=2))
    said = []
    with pytest.raises(RunFailed, match="out of quota"):
        train(config, small_data, tmp_path / "run", say=said.append)
    status = read_status(tmp_path / "run")
    assert (status.state, status.step) == ("failed", 0)
    assert "out of quota" in status.reason
    assert any(line.startswith("upload of step ") and "out of quota" in line for line in said)


def test_an_outage_that_passes_costs_nothing(small_config, small_data, tmp_path, monkeypatch):
    flaky = SlowStore(tmp_path / "store", refusals=3)
    flaky.open.set()
    monkeypatch.setattr(train_module, "open_store", lambda *_, **__: flaky)
    monkeypatch.setattr(module, "FLUSH_AT_LEAST", 20.0)
    status = train(small_config, small_data, tmp_path / "run", say=lambda line: None)
    assert status.state == "finished"
    assert latest(flaky).step == status.step
    assert status.reason.endswith("; 3 uploads failed on the way")


def test_two_sessions_on_one_store_are_not_let_in(small_config, small_data, tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    store = open_store(tmp_path / "run" / "store", write=True)
    other = replace(Lease.of_this_process(), session="other", host="another-host")
    store.write_bytes(LEASE, other.encode())
    stop = threading.Event()

    def live():
        beat = 0
        while not stop.wait(0.005):
            beat += 1
            store.write_bytes(LEASE, replace(other, beat=beat).encode())

    monkeypatch.setattr(FolderStore, "beat_seconds", 0.2)
    thread = threading.Thread(target=live)
    thread.start()
    try:
        with pytest.raises(KelronError, match=r"another session writes.*another-host.*another store\.url"):
            train(small_config, small_data, tmp_path / "run", say=lambda line: None)
    finally:
        stop.set()
        thread.join()
    assert read_status(tmp_path / "run").state == "failed"
    assert read_lease(store).session == "other"
    assert latest(store) is None
