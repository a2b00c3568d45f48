"""A session that is asked, through its store, to end: it keeps a checkpoint, and the run loses nothing."""

from __future__ import annotations

import time

import pytest
from test_lease import elsewhere

from kelron_lib.lease import LEASE, STOP, Writer, ask_to_stop
from kelron_lib.store import FolderStore


@pytest.fixture
def store(tmp_path):
    (tmp_path / "store").mkdir()
    return FolderStore(tmp_path / "store")


def held(store, beats=1):
    """A session that holds the store, after so many heartbeats at least."""
    writer = Writer(store, beat_seconds=0.01, stale_seconds=1, settle_seconds=0)
    writer.acquire(lambda line: None)
    until(lambda: writer.lease.beat >= beats)
    return writer


def until(holds, seconds=10.0):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_the_session_that_holds_the_store_sees_that_it_is_asked(store):
    writer = held(store)
    assert not writer.asked_to_stop
    assert ask_to_stop(store).session == writer.lease.session
    until(lambda: writer.asked_to_stop)
    writer.release()
    later = held(store, beats=3)  # the mark is still there, and names another
    assert (store.root / STOP).exists()
    assert not later.asked_to_stop
    later.release()


def test_nobody_is_asked_where_nobody_holds_the_store(store):
    assert ask_to_stop(store) is None
    assert not (store.root / STOP).exists()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"17", b'{"session": null}', b"\xff"])
def test_a_mark_that_is_none_stops_nothing(content, store):
    store.write_bytes(STOP, content)
    writer = held(store, beats=3)
    assert (writer.asked_to_stop, writer.problem) == (False, None)
    writer.release()


def test_a_lease_of_another_session_is_the_one_that_is_asked(store):
    store.write_bytes(LEASE, elsewhere().encode())
    assert ask_to_stop(store).session == elsewhere().session
