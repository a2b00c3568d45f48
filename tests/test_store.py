"""The folder store: whole files or none, plain names only, and one clear line for whatever the disk does."""

import errno
import os
import subprocess
import time
from contextlib import contextmanager

import pytest

from kelron_lib import store as store_module
from kelron_lib.errors import KelronError
from kelron_lib.store import DamagedFile, Entry, MissingFile
from kelron_lib.stores import open_store


@pytest.fixture
def store(tmp_path):
    return open_store(tmp_path / "store", write=True)


def names_on_disk(store):
    return sorted(path.relative_to(store.root).as_posix() for path in store.root.rglob("*") if path.is_file())


@contextmanager
def full_disk(folder, kilobytes):
    """A real file system of that size where the system lets us mount one; otherwise skips."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("mounting needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_write_read_list_delete(store, tmp_path):
    source = tmp_path / "big.bin"
    source.write_bytes(bytes(range(256)) * 100)
    store.put_file(source, "step-000001/big.bin")
    store.write_bytes("step-000001/a.json", b"{}")
    store.write_bytes("LATEST.json", b"1")
    store.write_bytes("LATEST.json", b"22")
    assert store.list() == [
        Entry("LATEST.json", 2),
        Entry("step-000001/a.json", 2),
        Entry("step-000001/big.bin", 25600),
    ]
    assert [entry.path for entry in store.list("step-000001")] == ["step-000001/a.json", "step-000001/big.bin"]
    assert store.list("step-00000") == []
    assert store.read_bytes("LATEST.json") == b"22"
    assert store.sha256("LATEST.json") == "785f3ec7eb32f30b90cd0fcf3657d388b5ff4297f2f9716ff66e9b69c05ddd09"
    store.get_file("step-000001/big.bin", tmp_path / "back.bin")
    assert (tmp_path / "back.bin").read_bytes() == source.read_bytes()
    store.delete("step-000001")
    store.delete("step-000001")
    assert names_on_disk(store) == ["LATEST.json"]


def test_a_stored_file_does_not_follow_its_source(store, tmp_path):
    source = tmp_path / "optimizer.pt"
    source.write_bytes(b"step 1")
    store.put_file(source, "a/optimizer.pt")
    with source.open("r+b") as file:  # in place, as a trainer rewrites it
        file.write(b"step 2")
    assert store.read_bytes("a/optimizer.pt") == b"step 1"


@pytest.mark.parametrize(
    "path",
    ["", "/etc/passwd", "..", "a/../b", "a//b", "./a", "a/", "a\\b", "c:x", "a\0b", ".tmp-x", "a/.tmp-x/b"],
)
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
    assert names_on_disk(store) == []


def test_links_out_of_the_store_are_refused(store, tmp_path):
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_bytes(b"secret")
    (store.root / "file").symlink_to(secret / "key")
    (store.root / "folder").symlink_to(secret)
    for path in ("file", "folder/key"):
        with pytest.raises(DamagedFile, match="link out of the store"):
            store.read_bytes(path)
        with pytest.raises(DamagedFile, match="link out of the store"):
            store.get_file(path, tmp_path / "copy")
        with pytest.raises(DamagedFile, match="link out of the store"):
            store.write_bytes(path, b"overwritten")
    with pytest.raises(DamagedFile, match="link out of the store"):
        store.delete("folder")
    assert (secret / "key").read_bytes() == b"secret"
    assert [entry.path for entry in store.list()] == ["file"]


def test_deleting_a_folder_leaves_what_its_links_lead_to(store, tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "kept").write_bytes(b"x")
    store.write_bytes("step/a", b"x")
    (store.root / "step" / "link").symlink_to(tmp_path / "outside")
    store.delete("step")
    assert (tmp_path / "outside" / "kept").exists()
    assert not (store.root / "step").exists()


def test_a_root_that_is_a_link_works(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    open_store(tmp_path / "link").write_bytes("a/b", b"x")
    assert (tmp_path / "real" / "a" / "b").read_bytes() == b"x"


def test_missing_and_unreadable_files_are_told_from_an_outage(store):
    store.write_bytes("folder/a", b"x")
    for path in ("nothing", "folder/nothing"):
        with pytest.raises(MissingFile, match=f"{path} is missing in folder "):
            store.read_bytes(path)
        with pytest.raises(MissingFile, match="is missing"):
            store.sha256(path)
    with pytest.raises(DamagedFile, match="cannot be read"):
        store.read_bytes("folder")


def test_a_bad_sector_is_damage_and_a_refusal_is_not(store, monkeypatch, tmp_path):
    store.write_bytes("a", b"x")

    def fails(code):
        def read(*_):
            raise OSError(code, os.strerror(code))

        return read

    monkeypatch.setattr(store_module, "sha256_file", fails(errno.EIO))
    with pytest.raises(DamagedFile, match=r"a in folder .* cannot be read: Input/output error"):
        store.sha256("a")
    monkeypatch.setattr(store_module, "sha256_file", fails(errno.EACCES))
    with pytest.raises(KelronError, match="Permission denied") as caught:
        store.sha256("a")
    assert not isinstance(caught.value, DamagedFile)


@pytest.mark.parametrize("url", ["hf://buckets/me/run", "hf://me/run", "hf://", "s3://x"])
def test_a_url_that_is_no_store_says_what_would_be_one(url):
    with pytest.raises(KelronError, match=r"hf://buckets/NAMESPACE/NAME/RUN"):
        open_store(url)


@pytest.mark.parametrize("url", ["hf://buckets/me/cells/run", "hf://me/cells/run"])
def test_a_hub_store_is_opened_without_reaching_for_it(url):
    assert open_store(url).describe() == f"Hub {'bucket' if 'buckets' in url else 'repo'} me/cells/run"


def test_stores_that_cannot_be_reached(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(KelronError, match="is a file: name a folder"):
        open_store(tmp_path / "file")
    with pytest.raises(KelronError, match=r"create or mount .*nowhere first"):
        open_store(tmp_path / "nowhere" / "store")
    with pytest.raises(KelronError, match=r"create or mount .*file first"):
        open_store(tmp_path / "file" / "store")
    with pytest.raises(KelronError, match=r"there is no store at .*absent: check the path"):
        open_store(tmp_path / "absent", must_exist=True)
    with pytest.raises(KelronError, match="URL is empty"):
        open_store(" ")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(KelronError, match=r"cannot be reached|create or mount"):
        open_store(tmp_path / "loop" / "store")


def test_reading_creates_nothing_and_writing_proves_itself(tmp_path, monkeypatch):
    store = open_store(str(tmp_path / "store"))
    assert store.list() == []
    assert not (tmp_path / "store").exists()
    open_store(tmp_path / "store", write=True)
    assert list((tmp_path / "store").iterdir()) == []

    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(store_module.Path, "mkdir", refuse)
    with pytest.raises(KelronError, match=r"cannot write .probe in folder .*: Permission denied; check"):
        open_store(tmp_path / "other", write=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")
def test_folders_without_permission(tmp_path):
    (tmp_path / "store").mkdir(mode=0o500)
    with pytest.raises(KelronError, match="Permission denied"):
        open_store(tmp_path / "store", write=True)
    (tmp_path / "store").chmod(0)
    with pytest.raises(KelronError, match="cannot be read"):
        open_store(tmp_path / "store")


@pytest.mark.parametrize("step", ["write_bytes", "fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_failed_write_leaves_the_old_content_and_no_leftover(store, monkeypatch, step, code):
    store.write_bytes("LATEST.json", b"old")

    def fail(*_):
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(store_module.Path if step == "write_bytes" else store_module.os, step, fail)
        with pytest.raises(KelronError, match=r"no disk space for LATEST.json|Input/output error"):
            store.write_bytes("LATEST.json", b"new")
    assert names_on_disk(store) == ["LATEST.json"]
    assert store.read_bytes("LATEST.json") == b"old"


def test_a_disk_that_is_really_full(tmp_path):
    (tmp_path / "local").write_bytes(os.urandom(200_000))
    with full_disk(tmp_path / "disk", 64) as disk:
        store = open_store(disk / "store", write=True)
        store.write_bytes("kept", b"x" * 1000)
        with pytest.raises(KelronError, match=r"no disk space for a/big in .*MB free\): delete what you need not"):
            store.put_file(tmp_path / "local", "a/big")
        assert names_on_disk(store) == ["kept"]
        assert store.read_bytes("kept") == b"x" * 1000
        elsewhere = open_store(tmp_path)
        with pytest.raises(KelronError, match=f"no disk space for local in {disk} "):
            elsewhere.get_file("local", disk / "local")


def test_leftovers_of_killed_writers_are_hidden_then_cleared(store):
    (store.root / "step").mkdir()
    old, young = store.root / "step" / ".tmp-0-a", store.root / ".tmp-1-b"
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    assert store.list() == []
    open_store(store.root, write=True)
    assert (old.exists(), young.exists()) == (False, True)  # the young one's writer may be alive


def test_every_write_is_synced_before_its_name_appears(store, monkeypatch):
    events = []
    sync, replace = store_module._sync, os.replace
    monkeypatch.setattr(store_module, "_sync", lambda path: (events.append(f"sync {path.name}"), sync(path)))
    monkeypatch.setattr(store_module.os, "replace", lambda a, b: (events.append(f"name {b.name}"), replace(a, b)))
    store.write_bytes("step/a", b"x")
    assert events[0] == "sync store"  # the new folder
    assert events[1].startswith("sync .tmp-")
    assert events[2:] == ["name a", "sync step"]
