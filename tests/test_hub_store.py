"""Stores on the Hub against a stand-in: one contract for all stores, and every fault of the Hub and of the way."""

import hashlib
import json
import logging
import os
import subprocess
import sys
import traceback
from pathlib import Path

import hub_stand_in
import pytest
from test_checkpoint import FILES, RUN, content, save, send, trainer_folder

from kelron_lib import hub_client
from kelron_lib.errors import KelronError
from kelron_lib.hub_client import Backoff, Hub, scrub
from kelron_lib.hub_store import RepoStore, open_hub_store
from kelron_lib.manifest import LATEST, MANIFEST
from kelron_lib.restore import pull, restore
from kelron_lib.store import DamagedFile, Entry, MissingFile
from kelron_lib.store_tools import IN_HISTORY, list_store, prune
from kelron_lib.stores import open_store
from kelron_lib.verify import latest, list_checkpoints, verify, verify_store

URLS = {
    "bucket": "hf://buckets/me/cells/run-1",
    "repo": "hf://me/cells/run-1",
    "repo without xet": "hf://me/cells/run-1",
}
HOLDER = {"bucket": "buckets/me/cells", "repo": "me/cells", "repo without xet": "me/cells"}
CHANGE = {"bucket": "bucket_batch", "repo": "commit", "repo without xet": "commit"}
LOOK = {"bucket": "bucket_paths", "repo": "paths", "repo without xet": "paths"}


class Time:
    """A clock that only sleeping moves."""

    def __init__(self):
        self.now, self.slept = 0.0, []

    def clock(self):
        return self.now

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds


class Session:
    """A store of some kind on the stand-in, and all that was said, slept and asked for."""

    def __init__(self, hub, kind, **options):
        self.hub, self.kind, self.time, self.said = hub, kind, Time(), []
        url, foreign = options.pop("url", URLS[kind]), options.pop("allow_foreign", False)
        backoff = Backoff(**options.pop("backoff", {}))
        options = {"token": hub.token, "endpoint": hub.url} | options
        self.client = Hub(
            backoff=backoff, say=self.said.append, sleep=self.time.sleep, clock=self.time.clock, **options
        )
        self.store = open_hub_store(url, hub=self.client, allow_foreign=foreign)
        self.change, self.look, self.holder = CHANGE[kind], LOOK[kind], HOLDER[kind]

    def content(self):
        """What the store's folder holds, as the server sees it."""
        files = self.hub.content(self.holder)
        return {path.removeprefix("run-1/"): data for path, data in files.items() if path.startswith("run-1/")}

    def changes(self):
        """Commits (a repo), or None."""
        return None if self.kind == "bucket" else len(self.hub.commits(self.holder))

    def asked(self, route):
        return self.hub.requests.count(route)


@pytest.fixture(params=["bucket", "repo", "repo without xet"])
def kind(request, online, monkeypatch):
    monkeypatch.setattr(online, "HF_HUB_DISABLE_XET", request.param == "repo without xet")
    return request.param


@pytest.fixture
def session(stand_in, kind):
    """A store that is ready, as a run that has begun has it."""
    session = Session(stand_in, kind)
    session.store.prepare()
    stand_in.requests.clear()
    return session


@pytest.fixture(params=["folder", "bucket", "repo", "repo without xet"])
def store(request, tmp_path, online, monkeypatch, stand_in):
    if request.param == "folder":
        return open_store(tmp_path / "store", write=True)
    monkeypatch.setattr(online, "HF_HUB_DISABLE_XET", request.param == "repo without xet")
    store = Session(stand_in, request.param).store
    store.prepare()
    return store


# --- the contract of every store ---


def test_write_read_list_delete(store, tmp_path):
    source = tmp_path / "big.pt"
    source.write_bytes(bytes(range(256)) * 1000)
    store.put_file(source, "step-000001/big.pt")
    store.write_bytes("step-000001/a.json", b"{}")
    store.write_bytes("step-000001/empty.pt", b"")
    store.write_bytes("LATEST.json", b"1")
    store.write_bytes("LATEST.json", b"22")
    assert store.list() == [
        Entry("LATEST.json", 2),
        Entry("step-000001/a.json", 2),
        Entry("step-000001/big.pt", 256000),
        Entry("step-000001/empty.pt", 0),
    ]
    assert [entry.path for entry in store.list("step-000001")][:1] == ["step-000001/a.json"]
    assert store.list("step-00000") == []
    assert store.read_bytes("LATEST.json") == b"22"
    for path, data in (
        ("LATEST.json", b"22"),
        ("step-000001/big.pt", source.read_bytes()),
        ("step-000001/empty.pt", b""),
    ):
        assert store.sha256(path) == hashlib.sha256(data).hexdigest()
        store.get_file(path, tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == data
    store.delete("step-000001/a.json")
    assert [entry.path for entry in store.list("step-000001")] == ["step-000001/big.pt", "step-000001/empty.pt"]
    store.delete("step-000001")
    store.delete("step-000001")
    assert store.list() == [Entry("LATEST.json", 2)]


def test_a_store_is_looked_at_pruned_and_pulled_from(store, tmp_path, monkeypatch):
    for step in (100, 120, 140):
        save(store, tmp_path / "work", step, keep=9)
    monkeypatch.setattr(store, "settle_seconds", 0.0)
    listing = list_store(store)
    assert listing.ok
    assert [(info.step, info.state, info.latest) for info in listing.checkpoints] == [
        (140, "complete", True), (120, "complete", False), (100, "complete", False)
    ]  # fmt: skip
    said = []
    assert prune(store, 2, say=said.append) == ["step-000100"]
    assert [info.step for info in list_store(store).checkpoints] == [140, 120]
    assert (said[-1] == IN_HISTORY) == isinstance(store, RepoStore)
    manifest, folder = pull(store, tmp_path / "here", step=120)
    assert content(folder).keys() == {*manifest.files, MANIFEST}
    assert verify_store(store).ok


def test_names_with_spaces_and_letters_of_all_kinds(store, tmp_path):
    for path in ("a b/c#d?e.json", "모델/체크.json", "100%/+.pt"):
        store.write_bytes(path, path.encode())
        assert store.read_bytes(path) == path.encode()
        assert store.sha256(path) == hashlib.sha256(path.encode()).hexdigest()
    assert [entry.path for entry in store.list()] == ["100%/+.pt", "a b/c#d?e.json", "모델/체크.json"]
    store.delete("a b")
    assert [entry.path for entry in store.list()] == ["100%/+.pt", "모델/체크.json"]


@pytest.mark.parametrize("path", ["", "/etc/passwd", "..", "a/../b", "a//b", "./a", "a/", "a\\b", "c:x", ".tmp-x"])
def test_only_plain_relative_names(store, tmp_path, path):
    (tmp_path / "local").write_bytes(b"x")
    for call in (
        lambda: store.read_bytes(path),
        lambda: store.sha256(path),
        lambda: store.write_bytes(path, b"x"),
        lambda: store.put_file(tmp_path / "local", path),
        lambda: store.get_file(path, tmp_path / "copy"),
        lambda: store.delete(path),
    ):
        with pytest.raises(KelronError, match="no path inside a store"):
            call()
    assert store.list() == []


def test_a_missing_file_is_told_from_an_outage(store, tmp_path):
    store.write_bytes("folder/a", b"x")
    for path in ("nothing", "folder/nothing"):
        for call in (store.read_bytes, store.sha256, lambda path: store.get_file(path, tmp_path / "copy")):
            with pytest.raises(MissingFile, match=f"{path} is missing in "):
                call(path)


def test_checkpoints_are_saved_verified_and_restored_unchanged(store, tmp_path):
    for step in (100, 120, 140):
        manifest = save(store, tmp_path / "work", step)
    assert latest(store) == manifest
    assert verify_store(store).ok
    assert {entry.path.split("/")[0] for entry in store.list()} == {LATEST, "step-000120", "step-000140"}
    said = []
    restored = restore(store, tmp_path / "into", say=said.append)
    assert (restored.step, restored.problems, said) == (140, [], [])
    original = content(trainer_folder(tmp_path / "again", 140))
    back = content(restored.folder)
    assert {name: back[name] for name in FILES} == {name: original[name] for name in FILES}


def test_the_best_is_kept_beside_the_newest_and_named(store, tmp_path):
    seen = []
    for step, loss, best, kept in (
        (10, 3.0, 10, [10]),
        (20, 1.0, 20, [10, 20]),
        (30, 2.0, 20, [20, 30]),
        (40, 2.0, 20, [20, 30, 40]),
        (50, 2.0, 20, [20, 40, 50]),
        (60, 0.5, 60, [50, 60]),
    ):
        seen.append({"step": step, "eval_loss": loss})
        folder = trainer_folder(tmp_path / "work", step)
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": step, "log_history": seen}))
        send(store, folder, **RUN)
        assert sorted(info.step for info in list_checkpoints(store)) == kept
        assert [info.step for info in list_checkpoints(store) if info.best] == [best]
        assert latest(store).best_step == best
    assert verify_store(store).ok


def test_an_empty_store_has_nothing_to_restore(store, tmp_path):
    assert restore(store, tmp_path / "into") is None
    assert latest(store) is None


# --- what a Hub store adds ---


def test_several_files_are_one_change(session, tmp_path):
    files = {}
    for index in range(6):
        local = tmp_path / f"{index}.pt"
        local.write_bytes(os.urandom(50_000))
        files[f"step-000001/{index}{'.json' if index % 2 else '.pt'}"] = local
    before = session.changes()
    session.store.put_files(files)
    session.store.put_files({})
    assert session.content() == {path: local.read_bytes() for path, local in files.items()}
    assert session.asked(session.change) == 1
    assert session.changes() == (before and before + 1)
    assert session.asked("lfs_put") == (3 if session.kind == "repo without xet" else 0)
    assert session.asked("xet_token") == 0 if session.kind == "repo without xet" else session.asked("xet_token") > 0


def test_what_it_wrote_is_proven_without_downloading_it(session, tmp_path):
    (tmp_path / "big.pt").write_bytes(os.urandom(100_000))
    session.store.put_file(tmp_path / "big.pt", "big.pt")
    digest = hashlib.sha256((tmp_path / "big.pt").read_bytes()).hexdigest()
    session.hub.requests.clear()
    assert session.store.sha256("big.pt") == digest
    assert session.asked("cdn") == 0
    fresh = Session(session.hub, session.kind).store
    assert [fresh.sha256("big.pt"), fresh.sha256("big.pt")] == [digest, digest]
    assert session.asked("cdn") == (1 if session.kind == "bucket" else 0)  # a bucket lists no sha256


def test_tampering_is_seen(session, tmp_path):
    manifest = save(session.store, tmp_path / "work", 100)
    before = session.content()["step-000100/optimizer.pt"]
    session.hub.tamper(session.holder, "run-1/step-000100/optimizer.pt", bytes([before[0] ^ 1]) + before[1:])
    assert verify(session.store, manifest) == ["step-000100/optimizer.pt has changed: its sha256 differs"]
    with pytest.raises(KelronError, match=r"no intact checkpoint .*optimizer.pt has changed"):
        restore(session.store, tmp_path / "into")
    session.hub.tamper(session.holder, "run-1/step-000100/scheduler.pt", None)
    assert "step-000100/scheduler.pt is missing" in verify(session.store, manifest)


def test_a_download_that_is_not_what_the_listing_says_is_damage(session, tmp_path):
    session.store.write_bytes("a.pt", b"right")
    blob = session.hub.blob(hashlib.sha256(b"right").hexdigest())
    blob.write_bytes(b"wrong")
    with pytest.raises(DamagedFile, match=r"a.pt in Hub .* is not what its listing says"):
        session.store.get_file("a.pt", tmp_path / "copy")


def test_a_file_that_changes_after_its_sha256_was_taken_is_not_trusted(stand_in, tmp_path):
    session = Session(stand_in, "bucket")
    local = tmp_path / "a.pt"
    local.write_bytes(b"old")
    known = []
    real = session.store._learn

    def learn(content):
        content.digest("sha256")
        local.write_bytes(b"newer")
        content._digests.pop("xet", None)
        real(content)
        known.append(dict(session.store._known))

    session.store._learn = learn
    session.store.put_file(local, "a.pt")
    assert known == [{}]
    assert session.store.sha256("a.pt") == hashlib.sha256(b"old").hexdigest()


def test_it_lies_within_its_run_and_leaves_the_rest_alone(session, stand_in):
    other = Session(stand_in, session.kind, url=URLS[session.kind] + "0")
    other.store.write_bytes("a", b"other")
    session.store.write_bytes("a", b"own")
    session.store.delete("a")
    assert session.store.list() == []
    assert other.store.read_bytes("a") == b"other"
    assert [entry.path for entry in other.store.list()] == ["a"]


def test_long_listings_come_in_pages(tmp_path, online, kind):
    with hub_stand_in.StandIn(tmp_path / "hub", page=3) as hub:
        session = Session(hub, kind)
        (tmp_path / "x").write_bytes(b"x")
        session.store.put_files({f"folder/{index}.json": tmp_path / "x" for index in range(8)})
        assert len(session.store.list()) == 8


def test_it_is_made_private_at_the_first_write_and_not_before(stand_in, kind):
    session = Session(stand_in, kind)
    assert session.store.list() == []
    session.store.delete("a")
    with pytest.raises(MissingFile):
        session.store.read_bytes("a")
    assert not session.store.exists()
    assert stand_in.repos == stand_in.buckets == {}
    session.store.write_bytes("a", b"x")
    assert [holder["private"] for holder in (stand_in.repos | stand_in.buckets).values()] == [True]
    assert session.store.exists()


def test_a_public_one_is_refused(session, stand_in):
    holder = (stand_in.repos | stand_in.buckets)["me/cells"]
    holder["private"] = False
    for write in (lambda store: store.prepare(), lambda store: store.write_bytes("a", b"x")):
        with pytest.raises(KelronError, match=r"is public, and checkpoints are private: make it private"):
            write(Session(stand_in, session.kind).store)
    assert session.content() == {}


def test_only_the_own_namespace_unless_told(stand_in, kind):
    url = URLS[kind].replace("/me/", "/you/")
    for call in (lambda store: store.list(), lambda store: store.write_bytes("a", b"x"), lambda store: store.exists()):
        with pytest.raises(KelronError, match=r"is not in your own namespace \(me\).* --allow-foreign"):
            call(Session(stand_in, kind, url=url).store)
    allowed = Session(stand_in, kind, url=url, allow_foreign=True)
    with pytest.raises(KelronError, match="check the name, and that the token may see it"):
        allowed.store.list()  # absent or hidden: who knows, so it is not taken for empty
    with pytest.raises(KelronError, match=r"cannot create the private .* the token may not do this"):
        allowed.store.write_bytes("a", b"x")


def test_an_organisations_store_is_used_like_ones_own_where_that_is_allowed(stand_in, kind, tmp_path):
    url = URLS[kind].replace("/me/", "/us/")
    with pytest.raises(KelronError, match="--allow-foreign"):
        Session(stand_in, kind, url=url).store.prepare()
    assert stand_in.repos == stand_in.buckets == {}
    session = Session(stand_in, kind, url=url, allow_foreign=True)
    session.store.prepare()
    assert [holder["private"] for holder in (stand_in.repos | stand_in.buckets).values()] == [True]
    assert session.store.list() == []
    manifest = save(session.store, tmp_path / "work", 100)
    assert latest(Session(stand_in, kind, url=url, allow_foreign=True).store) == manifest
    assert restore(session.store, tmp_path / "into").step == 100


@pytest.mark.parametrize(
    "url",
    ["hf://", "hf://me", "hf://me/x", "hf://me/x/", "hf://buckets/me/x", "hf://datasets/me/x", "hf://me/../x", "x/y/z",
     "hf://me/x/../y", "hf://.me/x/y", "hf://me/x/y//z", "hf://buckets/me/x/", "hf://me@host/x/y"],
)  # fmt: skip
def test_urls_that_name_no_store(url):
    with pytest.raises(KelronError, match=r"is no store on the Hub|is no path inside a store"):
        open_hub_store(url)


def test_a_history_is_squashed_on_request(stand_in, tmp_path):
    session = Session(stand_in, "repo")
    for step in (100, 120):
        save(session.store, tmp_path / "work", step)
    before = session.content()
    for fault in ("lost", "cut"):
        session.store.write_bytes("note.json", fault.encode())
        stand_in.fail("squash", fault)
        session.store.squash()
        assert stand_in.commits("me/cells") == ["kelron: squash"]
    assert session.content() == before | {"note.json": b"cut"}
    assert verify_store(session.store).ok
    session.store.write_bytes("more.json", b"x")


def test_pruning_squashes_where_that_is_asked_for(stand_in, tmp_path):
    store = Session(stand_in, "repo").store
    for step in (100, 120, 140):
        save(store, tmp_path / "work", step, keep=9)
    store.settle_seconds, said = 0.0, []
    assert prune(store, 2, dry_run=True, squash=True, say=said.append) == ["step-000100"]
    assert "would squash" in said[-1]
    assert len(stand_in.commits("me/cells")) > 2
    assert prune(store, 2, squash=True, say=said.append) == ["step-000100"]
    assert "squashed" in said[-1]
    assert stand_in.commits("me/cells") == ["kelron: squash", "kelron: delete LEASE.json"]
    assert [info.step for info in list_checkpoints(store)] == [140, 120]
    assert verify_store(store).ok
    with pytest.raises(KelronError, match="no history to squash"):
        prune(open_store(tmp_path / "store", write=True), 2, squash=True)


# --- faults ---


@pytest.mark.parametrize(
    "fault",
    [
        ("status", {"status": 429, "retry_after": 7}),
        ("status", {"status": 500}),
        ("status", {"status": 503}),
        ("cut", {}),
        ("lost", {}),
    ],
    ids=["429", "500", "503", "cut", "lost"],
)
def test_one_fault_makes_one_change_and_no_error(session, tmp_path, fault):
    (tmp_path / "big.pt").write_bytes(os.urandom(10_000))
    before = session.changes()
    session.hub.fail(session.change, fault[0], **fault[1])
    session.store.put_file(tmp_path / "big.pt", "step/big.pt")
    assert session.content() == {"step/big.pt": (tmp_path / "big.pt").read_bytes()}
    assert session.changes() == (before and before + 1)
    assert session.asked(session.change) == (1 if fault[0] == "lost" else 2)
    assert len(session.said) == 1
    assert sum(session.time.slept) >= fault[1].get("retry_after", 0.5)
    assert sum(session.time.slept) <= fault[1].get("retry_after", 1.0)

    session.hub.fail(session.change, fault[0], **fault[1])
    session.store.delete("step")
    assert session.content() == {}
    assert session.changes() == (before and before + 2)


def test_before_anything_is_sent_again_the_hub_is_read(session):
    session.hub.fail(session.change, "status", status=503)
    session.hub.requests.clear()
    session.store.write_bytes("a.json", b"x")
    sent = [index for index, route in enumerate(session.hub.requests) if route == session.change]
    assert session.look in session.hub.requests[sent[0] : sent[1]]


def test_an_answer_lost_at_the_last_try_is_no_error(session):
    session.client.backoff = Backoff(attempts=1)
    before = session.changes()
    session.hub.fail(session.change, "lost")
    session.store.write_bytes("a.json", b"x")
    assert session.content() == {"a.json": b"x"}
    assert session.changes() == (before and before + 1)


def test_a_change_of_somebody_else_meanwhile_is_no_error(session):
    if session.kind == "bucket":
        pytest.skip("a bucket has no commits")
    real = session.store._revision
    parents = []

    def overtaken():
        parents.append(real())
        if len(parents) == 1:
            Session(session.hub, session.kind).store.write_bytes("other.json", b"o")
        return parents[-1]

    session.store._revision = overtaken
    session.store.write_bytes("a.json", b"x")
    assert session.content() == {"a.json": b"x", "other.json": b"o"}
    assert session.asked("commit") == 3
    assert "answered 412" in session.said[0]


@pytest.mark.parametrize(
    ("fault", "sending", "deleting"),
    [
        ("partial", "only a part was done", "only a part was done"),
        ("silent", "3 of 5 did not arrive as they are here", "1 files are still there"),
    ],
)
def test_a_batch_of_which_only_a_part_was_done_is_completed(stand_in, tmp_path, fault, sending, deleting):
    session = Session(stand_in, "bucket")
    session.store.prepare()
    files = {}
    for index in range(5):
        files[f"{index}.pt"] = tmp_path / str(index)
        files[f"{index}.pt"].write_bytes(os.urandom(1000))
    stand_in.fail("bucket_batch", fault)
    session.store.put_files(files)
    assert session.content() == {path: local.read_bytes() for path, local in files.items()}
    assert sending in session.said[0]
    stand_in.fail("bucket_batch", fault)
    session.store.delete("0.pt")
    assert session.content().keys() == {"1.pt", "2.pt", "3.pt", "4.pt"}
    assert deleting in session.said[1]


@pytest.mark.parametrize("fault", [{"kind": "status", "status": 503}, {"kind": "cut"}], ids=["503", "cut"])
def test_every_way_of_reading_survives_a_fault(session, tmp_path, fault):
    session.store.write_bytes("folder/a.pt", b"content")
    routes = ["bucket_tree", "bucket_paths", "bucket_resolve", "cdn"]
    routes = routes if session.kind == "bucket" else ["tree", "paths", "info", "resolve", "cdn"]
    for route in routes:
        session.hub.fail(route, **fault)
        fresh = Session(session.hub, session.kind)
        assert fresh.store.list() == [Entry("folder/a.pt", 7)]
        assert fresh.store.sha256("folder/a.pt") == hashlib.sha256(b"content").hexdigest()
        assert fresh.store.read_bytes("folder/a.pt") == b"content"
        fresh.store.get_file("folder/a.pt", tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == b"content"
        assert len(fresh.said) == 1, route
    assert session.hub.faults == []


def test_a_download_goes_on_where_it_was_cut(session, tmp_path, monkeypatch):
    data = os.urandom(3_000_000)
    (tmp_path / "big.pt").write_bytes(data)
    session.store.put_file(tmp_path / "big.pt", "big.pt")
    session.hub.fail("cdn", "cut_body", times=2)
    sizes = []
    ranged = hub_stand_in.Handler.ranged

    def watched(self, *arguments):
        reply = ranged(self, *arguments)
        sizes.append(len(reply[1]))
        return reply

    monkeypatch.setattr(hub_stand_in.Handler, "ranged", watched)
    session.store.get_file("big.pt", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == data
    assert len(sizes) == 3
    assert sizes[0] == len(data)
    assert sizes[0] > sizes[1] > sizes[2]


def test_uploads_without_xet_survive_a_fault_of_the_storage(stand_in, online, monkeypatch, tmp_path):
    monkeypatch.setattr(online, "HF_HUB_DISABLE_XET", True)
    session = Session(stand_in, "repo")
    session.store.prepare()
    (tmp_path / "a.pt").write_bytes(os.urandom(1000))
    for route, fault in (("lfs_batch", "cut"), ("lfs_put", "cut"), ("lfs_verify", "status"), ("preupload", "status")):
        before = session.changes()
        (tmp_path / "a.pt").write_bytes(os.urandom(1000))
        stand_in.fail(route, fault)
        session.store.put_file(tmp_path / "a.pt", "a.pt")
        assert session.changes() == before + 1
        assert session.content() == {"a.pt": (tmp_path / "a.pt").read_bytes()}


def test_a_full_account_is_said_at_once(session):
    session.hub.fail(session.change, "quota", times=9)
    with pytest.raises(KelronError, match=r"the Hub has no space left for it \(Private repository storage limit"):
        session.store.write_bytes("a.json", b"x")
    assert session.asked(session.change) == 1
    assert session.content() == {}


def test_a_name_that_sounds_like_a_full_account_is_none():
    """An answer without words of its own is told with its address, which holds the repo's name."""
    from huggingface_hub.utils import hf_raise_for_status  # reads its settings: not before a test has set them

    http = hub_client._http_library()
    answer = http.Response(
        503, request=http.Request("POST", "https://hub.example/api/models/me/quota-test/commit/main")
    )
    with pytest.raises(http.HTTPError) as raised:
        hf_raise_for_status(answer)
    assert "quota-test" in str(raised.value)
    explained = hub_client.explain(raised.value, "")
    assert explained.transient
    assert "the Hub answered 503" in str(explained)


def test_a_refusal_is_said_at_once(session):
    session.hub.fail(session.change, "status", status=403, times=9)
    with pytest.raises(KelronError, match=r"the token may not do this .*: make one with write access at https"):
        session.store.write_bytes("a.json", b"x")
    assert session.asked(session.change) == 1


def test_tokens_that_cannot_write_or_are_wrong_or_absent(stand_in, kind):
    with pytest.raises(KelronError, match=r"the token can only read, so nothing can be kept"):
        Session(stand_in, kind, token=stand_in.read_token).store.prepare()
    for call in (lambda store: store.list(), lambda store: store.prepare()):
        with pytest.raises(KelronError, match=r"the Hub refused the token \(.*\): run `hf auth login`") as caught:
            call(Session(stand_in, kind, token="hf_wrong").store)
        assert not isinstance(caught.value, DamagedFile)
        with pytest.raises(KelronError, match=r"no token was found: run `hf auth login`"):
            call(Session(stand_in, kind, token=None).store)


def test_an_outage_ends_after_so_many_tries(session, tmp_path):
    session.hub.fail(session.change, "status", status=503, times=99)
    with pytest.raises(KelronError, match=r"cannot write a.json in Hub .* answered 503 .*given up after 6 tries"):
        session.store.write_bytes("a.json", b"x")
    assert session.asked(session.change) == 6
    waits = session.time.slept
    assert len(waits) == 5
    assert all(0.5 * 2**n <= wait <= 2**n for n, wait in enumerate(waits))
    session.hub.faults.clear()
    session.hub.fail("*", "cut", times=999)
    for call in (session.store.list, lambda: session.store.read_bytes("a"), lambda: restore(session.store, tmp_path)):
        with pytest.raises(KelronError, match=r"the Hub cannot be reached or broke off") as caught:
            call()
        assert not isinstance(caught.value, DamagedFile)


def test_an_outage_ends_at_the_deadline(session):
    session.client.backoff = Backoff(attempts=99, deadline=100)
    session.hub.fail(session.change, "status", status=503, times=99)
    with pytest.raises(KelronError, match="given up after"):
        session.store.write_bytes("a.json", b"x")
    assert 40 <= session.time.now <= 100


def test_a_wait_beyond_the_deadline_is_not_waited_for(session):
    session.hub.fail(session.change, "status", status=429, retry_after=3600)
    with pytest.raises(KelronError, match=r"answered 429 .*given up after 1 tries; it asks to wait 3600 s"):
        session.store.write_bytes("a.json", b"x")
    assert session.time.slept == []


def test_a_server_that_never_answers_is_left(session, monkeypatch):
    monkeypatch.setattr(hub_client, "ANSWER_SECONDS", 0.1)
    session.hub.fail(session.change, "slow", seconds=0.3)
    session.store.write_bytes("a.json", b"x")
    assert session.content() == {"a.json": b"x"}
    assert "Timeout" in session.said[0]


def test_a_hub_that_is_not_there(stand_in, kind, tmp_path):
    session = Session(stand_in, kind, endpoint="http://127.0.0.1:9", backoff={"attempts": 2})
    with pytest.raises(KelronError, match=r"cannot be reached .*check the connection") as caught:
        restore(session.store, tmp_path / "into")
    assert not isinstance(caught.value, DamagedFile)


def test_offline_mode_is_named(stand_in, online, monkeypatch):
    monkeypatch.setattr(online, "HF_HUB_OFFLINE", True)
    with pytest.raises(KelronError, match="HF_HUB_OFFLINE is set: unset it"):
        Session(stand_in, "repo").store.list()


def test_local_files_that_vanish_or_find_no_room(session, tmp_path):
    local = tmp_path / "a.pt"
    with pytest.raises(KelronError, match=r"cannot read .*a.pt: No such file"):
        session.store.put_file(local, "a.pt")
    local.write_bytes(b"x" * 1000)
    session.hub.fail(session.change, "status", status=503)
    session.client.sleep = lambda _: local.unlink()
    with pytest.raises(KelronError, match=r"cannot read .*a.pt: No such file"):
        session.store.put_file(local, "a.pt")
    session.store.write_bytes("b.pt", b"x" * 1000)
    with pytest.raises(KelronError, match=r"cannot write /dev/full: No space left"):
        session.store.get_file("b.pt", Path("/dev/full"))


@pytest.mark.parametrize("fault", ["cut", "lost", "status"])
def test_a_fault_at_any_request_of_a_save_is_survived(stand_in, kind, tmp_path, fault):
    """Sampled: every seventeenth request of a save, the first that creates it included."""
    folder = trainer_folder(tmp_path / "work", 100)
    skip, finished = {"cut": 0, "lost": 2, "status": 4}[fault], False
    while not finished:
        stand_in.repos.clear()
        stand_in.buckets.clear()
        stand_in.fail("*", fault, skip=skip)
        session = Session(stand_in, kind)
        send(session.store, folder, **RUN)
        finished = bool(stand_in.faults)
        stand_in.faults.clear()
        assert verify_store(session.store).ok
        if kind != "bucket":
            titles = stand_in.commits("me/cells")
            # the first one, all files at once, config, manifest, pointer
            assert len(titles) == len(set(titles)) == 5
        skip += 17
    assert skip > 30


def test_other_libraries_requests_go_as_before(session, monkeypatch):
    from huggingface_hub import HfApi
    from huggingface_hub.utils import _http

    slept = []
    monkeypatch.setattr(_http.time, "sleep", slept.append)
    session.store.write_bytes("a.json", b"x")
    session.hub.fail("preupload", "status", status=503)
    session.hub.fail("bucket_paths", "status", status=503)
    api = HfApi(endpoint=session.hub.url, token=session.hub.token)
    if session.kind == "bucket":
        assert len(list(api.get_bucket_paths_info("me/cells", ["run-1/a.json"]))) == 1
    else:
        api.upload_file(path_or_fileobj=b"x", path_in_repo="b.json", repo_id="me/cells")
    assert slept == [1]


# --- secrets ---


def test_no_fault_shows_the_token(stand_in, kind, tmp_path, caplog, capfd, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_DEBUG", True)
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(logging.getLogger("huggingface_hub"), "propagate", True)
    (tmp_path / "a.pt").write_bytes(os.urandom(1000))
    shown = []

    def attempt(session, call):
        try:
            call(session.store)
        except KelronError as error:
            shown.append("".join(traceback.format_exception(error)) + repr(error) + repr(error.__cause__))
        shown.extend(session.said)
        stand_in.faults.clear()

    calls = [
        lambda store: store.prepare(),
        lambda store: store.put_file(tmp_path / "a.pt", "a.pt"),
        lambda store: store.get_file("a.pt", tmp_path / "copy"),
        lambda store: store.delete("a.pt"),
    ]
    for status in (401, 403, 404, 429, 500):
        for call in calls:
            message = f"Bearer {stand_in.token} and {stand_in.url}/x?X-Amz-Signature={stand_in.signature} failed"
            stand_in.fail("*", "status", status=status, times=99, message=message, skip=1)
            attempt(Session(stand_in, kind, backoff={"attempts": 2}), call)
    for fault in ("cut", "lost", "quota"):
        for call in calls:
            stand_in.fail("*", fault, times=99, skip=3)
            attempt(Session(stand_in, kind, backoff={"attempts": 2}), call)
    attempt(Session(stand_in, kind, token=stand_in.read_token), lambda store: store.prepare())
    output = capfd.readouterr()
    text = "\n".join([*shown, *(record.getMessage() for record in caplog.records), output.out, output.err])
    assert len(shown) > 30
    assert "<secret>" in text
    assert stand_in.token not in text
    assert stand_in.read_token not in text
    assert not [line for line in shown if stand_in.signature in line]
    state = "".join(path.read_text() for path in (tmp_path / "hub").glob("*.json"))
    assert stand_in.token not in state


def test_what_is_scrubbed():
    assert scrub("Bearer abc.def failed") == "Bearer <secret> failed"
    assert scrub("for https://u:p@host/x?sig=1&b=2 now") == "for https://<secret>@host/x?<secret> now"
    assert scrub(f"token hf_{'a' * 34}\n\n twice mytoken", "mytoken") == "token <secret> twice <secret>"
    assert scrub("hf_hub_download failed") == "hf_hub_download failed"


# --- other processes ---

SAVE = """
import sys
from pathlib import Path
from kelron_lib.checkpoint import prepare_checkpoint, send_checkpoint
from kelron_lib.hub_store import open_hub_store
from kelron_lib.restore import restore
from kelron_lib.verify import verify_store
import json
store = open_hub_store(sys.argv[1])
if store.list():
    print(restore(store, Path(sys.argv[3])).step)
else:
    store.prepare()
    send_checkpoint(store, prepare_checkpoint(Path(sys.argv[2]), **json.loads(sys.argv[4])))
print(verify_store(store).ok)
"""


def test_processes_use_it_by_the_environment_and_its_state_outlives_it(tmp_path):
    folder = trainer_folder(tmp_path / "work", 100)
    script = [sys.executable, hub_stand_in.__file__, "--folder", str(tmp_path / "hub"), "--token", "hf_canary"]
    said = []
    for round_ in range(2):
        server = subprocess.Popen(script, stdout=subprocess.PIPE, text=True)
        try:
            settings = json.loads(server.stdout.readline())
            environment = os.environ | settings | {"HF_HUB_OFFLINE": "0"}
            for url in URLS["bucket"], URLS["repo"]:
                arguments = [url, str(folder), str(tmp_path / f"into-{round_}"), json.dumps(RUN)]
                command = [sys.executable, "-c", SAVE, *arguments]
                done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
                assert done.returncode == 0, done.stderr
                said.append(done.stdout.split())
                assert "hf_canary" not in done.stdout + done.stderr
        finally:
            server.terminate()
            server.wait()
            server.stdout.close()
    assert said == [["True"], ["True"], ["100", "True"], ["100", "True"]]
