"""Checkpoints on the Hub: damaged there, changed on their way, two writers, and the token in every line and file."""

from __future__ import annotations

import logging
import os
import shutil
import threading
from functools import partial
from pathlib import Path

import hub_stand_in
import pytest
from conftest import SMALL
from test_checkpoint import ALL_FILES, RUN, save, trainer_folder
from test_hub_store import Session, kind, session
from test_train import adapter, losses, uninterrupted

from kelron_lib import hub_client
from kelron_lib import keeper as keeper_module
from kelron_lib import train as train_module
from kelron_lib.__main__ import main
from kelron_lib.checkpoint import prepare_checkpoint, send_checkpoint
from kelron_lib.config import apply_overrides
from kelron_lib.errors import KelronError, RunFailed
from kelron_lib.hub_base import HubStore
from kelron_lib.hub_client import Backoff
from kelron_lib.hub_store import BucketStore, RepoStore
from kelron_lib.lease import LostLease, Writer, read_lease
from kelron_lib.manifest import LATEST
from kelron_lib.restore import restore
from kelron_lib.session import read_status
from kelron_lib.store import sha256_file
from kelron_lib.train import train
from kelron_lib.upload import Uploader
from kelron_lib.verify import latest, verify_store

__all__ = ["kind", "session", "uninterrupted"]  # fixtures


def silent(line):
    pass


DAMAGES = {
    "removed": lambda data: None,
    "truncated": lambda data: data[:-1],
    "flipped": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
}


@pytest.mark.parametrize("how", DAMAGES)
def test_every_damage_to_every_file_is_named_and_passed_over(session, tmp_path, how):
    for step in (100, 120):
        save(session.store, tmp_path / "work", step)
    hub, intact = session.hub, session.content()
    holder = hub.buckets["me/cells"] if session.kind == "bucket" else hub.repos["me/cells"]["commits"][-1]
    files = dict(holder["files"])
    for path in [*(f"step-000120/{name}" for name in ALL_FILES), LATEST]:
        hub.tamper(session.holder, f"run-1/{path}", DAMAGES[how](intact[path]))
        said = []
        reader = Session(hub, session.kind).store
        restored = restore(reader, tmp_path / "into", say=said.append)
        # Without its pointer the store still tells which is the newest; any other damage costs that checkpoint.
        assert restored.step == (120 if path == LATEST else 100), path
        assert path in said[0] or (path == LATEST and how == "removed"), said
        assert not verify_store(reader).ok, path
        holder["files"] = dict(files)
    assert restore(Session(hub, session.kind).store, tmp_path / "into").step == 120


@pytest.mark.parametrize("moment", ["before it is sent", "at the first request", "before the change"])
def test_a_file_that_changes_on_its_way_never_becomes_the_newest(session, tmp_path, monkeypatch, moment):
    """What was sealed arrives, or is refused: the store never names anything else."""
    save(session.store, tmp_path / "work", 100)
    folder = trainer_folder(tmp_path / "work", 120, size=100_000)
    prepared = prepare_checkpoint(folder, **RUN)
    optimizer = folder / "optimizer.pt"

    def change(*_):
        optimizer.write_bytes(bytes(100_000))

    if moment == "before it is sent":
        change()
    else:
        first = {"bucket": "xet_token", "repo": "xet_token", "repo without xet": "lfs_batch"}[session.kind]
        route = f"on_{first if moment == 'at the first request' else session.change}"
        real = getattr(hub_stand_in.Handler, route)
        monkeypatch.setattr(hub_stand_in.Handler, route, lambda *given: change() or real(*given))
    try:
        send_checkpoint(session.store, prepared)
        refused = False
    except KelronError:
        refused = True
    assert refused or moment == "before the change"
    assert sha256_file(optimizer) != prepared.manifest.files["optimizer.pt"].sha256
    reader = Session(session.hub, session.kind).store
    assert verify_store(reader).ok
    assert latest(reader).step == (100 if refused else 120)
    assert restore(reader, tmp_path / "into", say=silent).step == (100 if refused else 120)


def test_of_two_sessions_the_second_stops_and_who_lost_the_lease_cannot_move_the_pointer(session, tmp_path):
    def writer():
        store = Session(session.hub, session.kind).store
        return Writer(store, beat_seconds=0.05, stale_seconds=1.0, settle_seconds=0.0)

    save(session.store, tmp_path / "work", 100)
    first, second = writer(), writer()
    first.acquire(silent)
    with pytest.raises(KelronError, match=rf"another session writes to Hub .* \(process {first.lease.pid} on "):
        second.acquire(silent)
    first._stop.set()  # as if it slept: no more signs of life
    first._thread.join()
    said = []
    second.acquire(said.append)
    assert "no sign of life in 1 s: taking over" in said[-1]
    prepared = prepare_checkpoint(trainer_folder(tmp_path / "work", 120), **RUN)
    with pytest.raises(LostLease, match="lost its right to write to Hub"):
        send_checkpoint(first.store, prepared, confirm=first.confirm)
    assert latest(session.store).step == 100
    send_checkpoint(second.store, prepared, confirm=second.confirm)
    assert latest(session.store).step == 120
    first.release()
    assert read_lease(session.store).session == second.lease.session
    second.release()
    assert read_lease(session.store) is None


@pytest.mark.parametrize(
    ("kind", "fault", "reason"),
    [
        ("bucket", {"kind": "quota"}, "the Hub has no space left"),
        ("repo", {"kind": "status", "status": 403}, "the token may not do this"),
        ("bucket", {"kind": "cut"}, "the Hub cannot be reached or broke off"),
    ],
    ids=["bucket, quota", "repo, 403", "bucket, cut"],
)
def test_a_run_whose_uploads_are_refused_ends_with_the_reason_and_goes_on_bit_equal(
    kind, fault, reason, hub, uninterrupted, small_config, small_data, tmp_path, monkeypatch
):
    """From its first checkpoint on; later the Hub takes them again."""
    for store_kind in (BucketStore, RepoStore):
        monkeypatch.setattr(store_kind, "beat_seconds", 0.05)
    monkeypatch.setattr(keeper_module, "Uploader", partial(Uploader, first_pause=0.01, longest_pause=0.02))
    config = apply_overrides(small_config, ["store.most_failures=2"])

    def open_again(url, *, fails, **how):
        # The first session's last heartbeat may still be on its way when the next one begins: a conflict or two.
        session = Session(hub, kind, backoff={"attempts": 2 if fails else 8})
        session.store.prepare()
        real = session.store.write_bytes

        def written(path, data, *confirm):
            real(path, data, *confirm)
            if fails and path == LATEST:
                hub.fail(session.change, times=10**6, **fault)

        monkeypatch.setattr(session.store, "write_bytes", written)
        return session.store

    out = tmp_path / "run"
    monkeypatch.setattr(train_module, "open_store", partial(open_again, fails=True))
    with pytest.raises(RunFailed, match=reason):
        train(config, small_data, out, say=silent)
    for thread in threading.enumerate():  # a last heartbeat may still be on its way, and would be in the next one's
        if thread.name == "lease":
            thread.join(60)
            assert not thread.is_alive()
    hub.faults.clear()
    status = read_status(out)
    assert status.state == "failed"
    assert reason in status.reason
    assert status.step == latest(Session(hub, kind).store).step > 0
    shutil.rmtree(out)
    monkeypatch.setattr(train_module, "open_store", partial(open_again, fails=False))
    last = train(config, tmp_path / "no-data", out, must_resume=True, say=silent)
    assert (last.state, last.first_step) == ("finished", status.step)
    assert adapter(out) == adapter(uninterrupted)
    assert losses(out) == losses(uninterrupted)


CANARY = "canary-token-4711"


@pytest.mark.parametrize(("url", "processes"), [("hf://buckets/me/cells/run-1", 1), ("hf://me/cells/run-1", 2)])
def test_the_token_is_in_no_line_and_no_file(processes, url, small_data, tmp_path, online, monkeypatch, capfd, caplog):
    """A whole run with a Hub whose errors repeat the token, then all that looks at its store."""
    monkeypatch.setattr(HubStore, "settle_seconds", 0.0)
    monkeypatch.setattr(keeper_module, "Uploader", partial(Uploader, first_pause=0.01))
    monkeypatch.setattr(hub_client, "Backoff", partial(Backoff, attempts=3, first_wait=0.01))
    caplog.set_level(logging.DEBUG)
    out, pulled = tmp_path / "run", tmp_path / "pulled"
    given = [*SMALL, f"store.url={url}", "train.passes_per_step=2", f"session.processes={processes}"]
    training = [*(text for one in given for text in ("--set", one)), "--data", str(small_data), "--out", str(out)]
    with hub_stand_in.StandIn(tmp_path / "hub", token=CANARY) as hub:
        monkeypatch.setattr(online, "ENDPOINT", hub.url)
        for name, value in {"HF_ENDPOINT": hub.url, "HF_TOKEN": CANARY, "HF_HUB_OFFLINE": "0"}.items():
            monkeypatch.setenv(name, value)
        told = f"{CANARY}, Bearer {CANARY} at {hub.url}/x?X-Amz-Signature={hub.signature} failed"
        for skip in (3, 20, 20, 20):
            hub.fail("*", "status", status=503, message=told, skip=skip)
        codes = [main(["train", *training])]
        codes += [
            main(["store", *arguments]) for arguments in (["ls", url], ["verify", url], ["pull", url, str(pulled)])
        ]
        assert codes == [0, 0, 0, 0]
        assert hub.faults == []
        for status in (401, 403, 500):
            hub.fail("*", "status", status=status, message=told, times=99)
            assert main(["store", "ls", url]) == 2
            assert main(["resume", *training]) in (1, 2)
            hub.faults.clear()
        stored = hub.content("buckets/me/cells" if "buckets" in url else "me/cells")
    printed = capfd.readouterr()
    lines = [printed.out, printed.err, *(record.getMessage() for record in caplog.records)]
    assert "<secret>" in "".join(lines)
    places = tmp_path, Path(os.environ["HOME"])  # the run, what was pulled, the stand-in's state; the client's caches
    files = {path: path.read_bytes() for place in places for path in place.rglob("*") if path.is_file()}
    assert {"status.json", "config.json", "MANIFEST.json", "adapter_config.json"} <= {path.name for path in files}
    assert {"LATEST.json", "sessions.json"} <= {name.rpartition("/")[2] for name in stored}
    assert [line for line in lines if CANARY in line] == []
    assert [path for path, data in (files | stored).items() if CANARY.encode() in data] == []
