"""Checkpoints that survive: every file damaged in every way, a full disk, and a SIGKILL at any moment."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from kelron_lib import store as store_module
from kelron_lib.checkpoint import prepare_checkpoint, send_checkpoint
from kelron_lib.errors import KelronError
from kelron_lib.manifest import LATEST, MANIFEST, Manifest, Pointer, compare, required_files, step_folder, step_of
from kelron_lib.restore import restore
from kelron_lib.store import DamagedFile, FolderStore
from kelron_lib.stores import open_store
from kelron_lib.verify import latest, list_checkpoints, verify, verify_store

RUN = {
    "config": {"preset": "tiny-cpu", "train": {"seed": 1}, "store": {"url": "a"}},
    "config_hash": "c" * 64,
    "data_fingerprint": "d" * 64,
    "world_size": 1,
    "fp16": False,
}
FILES = required_files(1, fp16=False)
ALL_FILES = [*FILES, "config.json", MANIFEST]


def trainer_folder(parent, step, *, world_size=1, fp16=False, size=300, salt=""):
    """What the trainer leaves for a step: the same bytes whenever it is made again with the same salt."""
    folder = parent / f"checkpoint-{step}"
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*required_files(world_size, fp16), "training_args.bin", "README.md"):
        (folder / name).write_bytes(random.Random(f"{step} {name} {salt}").randbytes(size))
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": step, "salt": salt}))
    return folder


def send(store, folder, *, keep=2, **run):
    """Prepare a trainer's folder and send it, as a session does in two threads."""
    return send_checkpoint(store, prepare_checkpoint(folder, **run), keep=keep)


def save(store, parent, step, *, salt="", size=300, **changes):
    run = RUN | changes
    folder = trainer_folder(parent, step, world_size=run["world_size"], fp16=run["fp16"], salt=salt, size=size)
    return send(store, folder, **run)


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def snapshot(root):
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def store(tmp_path):
    return open_store(tmp_path / "store", write=True)


@pytest.fixture
def two(store, tmp_path):
    """A store with steps 100 and 120; 120 is the newest."""
    save(store, tmp_path / "work", 100)
    save(store, tmp_path / "work", 120)
    return store


class RecordingStore(FolderStore):
    """A folder store that writes down every change, and fails at one of them if told to."""

    def __init__(self, root):
        super().__init__(root)
        self.changes = []

    def write_bytes(self, path, data, *confirm):
        self.changes.append(f"write {path}")
        super().write_bytes(path, data, *confirm)

    def put_file(self, local, path):
        self.changes.append(f"write {path}")
        super().put_file(local, path)

    def delete(self, prefix):
        if (self.root / prefix).exists():
            self.changes.append(f"delete {prefix}")
        super().delete(prefix)


# --- saving ---


def test_a_checkpoint_comes_back_as_it_was_and_nothing_else_with_it(store, tmp_path):
    manifest = save(store, tmp_path / "work", 120, versions={"torch": "2.13"})
    assert latest(store) == manifest
    assert (manifest.step, manifest.prefix, manifest.versions) == (120, "step-000120", {"torch": "2.13"})
    assert set(manifest.files) == {*FILES, "config.json"}
    stored = {entry.path for entry in store.list()}
    assert stored == {LATEST, *(f"step-000120/{name}" for name in ALL_FILES)}

    shutil.rmtree(tmp_path / "work")
    said = []
    restored = restore(store, tmp_path / "next" / "session", say=said.append)
    assert restored.folder == tmp_path / "next" / "session" / "checkpoint-120"
    assert (restored.step, restored.problems, said) == (120, [], [])
    original = content(trainer_folder(tmp_path / "again", 120))
    back = content(restored.folder)
    assert json.loads(back.pop("config.json")) == RUN["config"]
    assert back == {name: original[name] for name in FILES}
    assert list((tmp_path / "next" / "session").iterdir()) == [restored.folder]


def test_an_empty_or_absent_store_has_nothing_to_restore(store, tmp_path):
    assert restore(store, tmp_path / "into") is None
    assert latest(store) is None
    assert restore(open_store(tmp_path / "never"), tmp_path / "into") is None
    store.write_bytes("sessions.json", b"[]")
    assert restore(store, tmp_path / "into") is None


@pytest.mark.parametrize(
    ("world_size", "fp16", "names"),
    [
        (1, False, ["rng_state.pth"]),
        (1, True, ["rng_state.pth", "scaler.pt"]),
        (2, True, ["rng_state_0.pth", "rng_state_1.pth", "scaler.pt"]),
    ],
)
def test_what_each_setup_requires(store, tmp_path, world_size, fp16, names):
    always = [
        "adapter_model.safetensors",
        "adapter_config.json",
        "optimizer.pt",
        "scheduler.pt",
        "trainer_state.json",
    ]
    assert list(required_files(world_size, fp16)) == always + names
    for name in always + names:
        folder = trainer_folder(tmp_path / name, 10, world_size=world_size, fp16=fp16)
        (folder / name).unlink()
        with pytest.raises(KelronError, match=f"lacks {name}: a run resumed from it would be another run"):
            send(store, folder, **RUN | {"world_size": world_size, "fp16": fp16})
    assert store.list() == []
    save(store, tmp_path / "whole", 10, world_size=world_size, fp16=fp16)
    assert verify_store(store).ok


def test_a_folder_that_is_no_checkpoint_is_refused(store, tmp_path):
    with pytest.raises(KelronError, match="cannot read the checkpoint"):
        send(store, tmp_path / "nothing", **RUN)
    folder = trainer_folder(tmp_path, 10)
    for state, reason in (
        ("{", "no JSON object with a global_step"),
        ('{"global_step": -1}', "which is no step"),
    ):
        (folder / "trainer_state.json").write_text(state)
        with pytest.raises(KelronError, match=reason):
            send(store, folder, **RUN)
    with pytest.raises(KelronError, match="keep at least 1"):
        save(store, tmp_path, 10, keep=0)
    assert store.list() == []


def test_the_pointer_moves_after_all_files_and_before_any_deletion(tmp_path):
    store = RecordingStore(tmp_path / "store")
    for step in (100, 110):
        save(store, tmp_path / "work", step)
    store.changes.clear()
    save(store, tmp_path / "work", 120)
    files, (manifest, pointer, *deleted) = store.changes[:-4], store.changes[-4:]
    assert sorted(files) == sorted(f"write step-000120/{name}" for name in (*FILES, "config.json"))
    assert manifest == f"write step-000120/{MANIFEST}"
    assert pointer == f"write {LATEST}"
    assert deleted == [f"delete step-000100/{MANIFEST}", "delete step-000100"]


def test_exactly_the_newest_are_kept(store, tmp_path):
    kept = []
    for step in range(10, 70, 10):
        save(store, tmp_path / "work", step)
        kept.append([info.step for info in list_checkpoints(store)])
    assert kept == [[10], [20, 10], [30, 20], [40, 30], [50, 40], [60, 50]]
    save(store, tmp_path / "work", 70, keep=1)
    assert [info.step for info in list_checkpoints(store)] == [70]


def test_a_damaged_checkpoint_does_not_count_among_the_kept(store, tmp_path):
    save(store, tmp_path / "work", 10)
    save(store, tmp_path / "work", 20)
    (store.root / "step-000020" / "optimizer.pt").write_bytes(b"")
    save(store, tmp_path / "work", 30)
    assert [(info.step, info.state) for info in list_checkpoints(store)] == [
        (30, "verified"),
        (10, "verified"),
    ]


def test_saving_the_same_again_changes_nothing(tmp_path):
    store = RecordingStore(tmp_path / "store")
    first = save(store, tmp_path / "work", 120)
    before = snapshot(store.root)
    store.changes.clear()
    assert save(store, tmp_path / "work", 120) == first
    assert store.changes == []
    assert snapshot(store.root) == before


def test_a_save_cut_off_before_the_pointer_is_taken_up_by_the_next(tmp_path):
    store = RecordingStore(tmp_path / "store")
    save(store, tmp_path / "work", 100)
    pointer = store.read_bytes(LATEST)
    save(store, tmp_path / "work", 120)
    store.write_bytes(LATEST, pointer)  # as if killed just before it moved
    assert latest(store).step == 100
    store.changes.clear()
    save(store, tmp_path / "work", 120)
    assert store.changes == [f"write {LATEST}"]
    assert latest(store).step == 120


def test_leftovers_of_a_cut_off_save_are_replaced(store, tmp_path):
    save(store, tmp_path / "work", 100)
    store.write_bytes("step-000110/optimizer.pt", b"left by another save, never finished")
    store.write_bytes("step-000120/optimizer.pt", b"half")
    store.write_bytes("step-000120/scaler.pt", b"from another setup")
    save(store, tmp_path / "work", 120)
    assert verify_store(store).ok
    assert {entry.path.split("/")[0] for entry in store.list()} == {"step-000100", "step-000120", LATEST}
    assert not (store.root / "step-000120" / "scaler.pt").exists()


def test_another_save_of_the_newest_step_never_touches_it(tmp_path):
    store = RecordingStore(tmp_path / "store")
    for step in (100, 120):
        save(store, tmp_path / "work", step)
    store.changes.clear()
    again = save(store, tmp_path / "work", 120, salt="other")
    assert again.prefix == "step-000120-2"
    moved = store.changes.index(f"write {LATEST}")
    assert not any("step-000120/" in change for change in store.changes[:moved])
    assert latest(store) == again
    assert [info.prefix for info in list_checkpoints(store)] == ["step-000120-2", "step-000120"]
    assert save(store, tmp_path / "work", 120, salt="third").prefix == "step-000120"
    assert verify_store(store).ok
    save(store, tmp_path / "work", 130)
    assert [info.prefix for info in list_checkpoints(store)] == ["step-000130", "step-000120-2"]


def test_what_arrives_changed_never_becomes_the_newest(two, tmp_path):
    class LossyStore(FolderStore):
        def put_file(self, local, path):
            super().put_file(local, path)
            if path.endswith("optimizer.pt"):
                (self.root / path).write_bytes(b"x" * local.stat().st_size)

    before = snapshot(two.root)
    with pytest.raises(KelronError, match=r"step 140 did not arrive intact .*optimizer.pt has changed"):
        save(LossyStore(two.root), tmp_path / "work", 140)
    assert snapshot(two.root) == before


# --- damage ---


def damage(path, how):
    data = path.read_bytes()
    if how == "removed":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif how == "emptied":
        path.write_bytes(b"")
    elif how == "longer":
        path.write_bytes(data + b"\n")
    else:
        place = random.Random(path.name).randrange(len(data) * 8)
        path.write_bytes(data[: place // 8] + bytes([data[place // 8] ^ 1 << place % 8]) + data[place // 8 + 1 :])


@pytest.mark.parametrize("how", ["removed", "truncated", "emptied", "longer", "flipped"])
@pytest.mark.parametrize("name", ALL_FILES)
def test_every_damage_to_every_file_is_named_and_passed_over(two, tmp_path, name, how):
    damage(two.root / "step-000120" / name, how)
    before = snapshot(two.root)

    problems = verify(two, 120)
    assert len(problems) == 1
    assert problems[0].startswith(f"step-000120/{name} ")
    assert verify(two, 100) == []
    report = verify_store(two)
    assert not report.ok
    assert any(f"step-000120/{name} " in line for line in report.lines())

    said = []
    restored = restore(two, tmp_path / "into", say=said.append)
    assert restored.step == 100
    assert restored.problems == problems
    assert said == [f"damaged: {problems[0]}; step 100 is used instead, 20 steps are lost"]
    expected = content(trainer_folder(tmp_path / "again", 100))
    assert all((restored.folder / file).read_bytes() == expected[file] for file in FILES)
    assert list((tmp_path / "into").iterdir()) == [restored.folder]
    assert snapshot(two.root) == before


@pytest.mark.parametrize("how", ["truncated", "emptied", "longer", "flipped"])
@pytest.mark.parametrize("name", [f"step-000120/{MANIFEST}", LATEST])
def test_no_flipped_bit_of_the_sealed_files_passes(two, name, how):
    """All of them for a flip, since a seal that misses a single one would be no seal."""
    path = two.root / name
    data = path.read_bytes()
    decode = Pointer.decode if name == LATEST else lambda raw: Manifest.decode(raw, name)
    decode(data)
    if how != "flipped":
        damage(path, how)
        with pytest.raises(DamagedFile, match=name):
            decode(path.read_bytes())
        return
    for place in range(0, len(data) * 8, 1 if name == LATEST else 5):
        flipped = bytearray(data)
        flipped[place // 8] ^= 1 << place % 8
        with pytest.raises(DamagedFile, match=name):
            decode(bytes(flipped))


@pytest.mark.parametrize("how", ["removed", "truncated", "flipped"])
def test_without_its_pointer_a_store_still_gives_the_newest(two, tmp_path, how):
    damage(two.root / LATEST, how)
    report = verify_store(two)
    assert not report.ok
    assert report.problems[0].startswith(LATEST)
    said = []
    assert restore(two, tmp_path / "into", say=said.append).step == 120
    assert len(said) == 1
    assert said[0].startswith(f"damaged: {LATEST} ")
    assert said[0].endswith("step 120 is used instead")
    save(two, tmp_path / "work", 140)
    assert verify_store(two).ok


def test_a_pointer_to_another_manifest_is_damage(two, tmp_path):
    pointer = Pointer.decode(two.read_bytes(LATEST))
    two.write_bytes(LATEST, replace(pointer, manifest_sha256="0" * 64).encode())
    with pytest.raises(DamagedFile, match=r"is not the one that LATEST.json names"):
        latest(two)
    assert restore(two, tmp_path / "into", say=lambda _: None).step == 100


def test_swapped_folders_are_damage(two, tmp_path):
    shutil.rmtree(two.root / "step-000120")
    shutil.copytree(two.root / "step-000100", two.root / "step-000120")
    assert verify(two, 120) == [f"step-000120/{MANIFEST} belongs to step-000100"]
    assert restore(two, tmp_path / "into", say=lambda _: None).step == 100


def test_nothing_intact_stops_instead_of_starting_over(two, tmp_path):
    damage(two.root / "step-000120" / "optimizer.pt", "flipped")
    damage(two.root / "step-000100" / "scheduler.pt", "removed")
    before = snapshot(two.root)
    with pytest.raises(
        KelronError, match=r"no intact checkpoint in folder .*optimizer.pt has changed.*missing.*`kelron train --fresh`"
    ):
        restore(two, tmp_path / "into")
    shutil.rmtree(two.root / "step-000100")
    with pytest.raises(KelronError, match="no intact checkpoint"):
        restore(two, tmp_path / "into")
    shutil.rmtree(two.root / "step-000120")
    with pytest.raises(KelronError, match=f"step-000120/{MANIFEST} is missing"):
        restore(two, tmp_path / "into")
    assert before[LATEST] == two.read_bytes(LATEST)
    assert list((tmp_path / "into").iterdir()) == []


def test_a_first_save_that_was_cut_off_counts_as_none(store, tmp_path):
    store.write_bytes("step-000010/optimizer.pt", b"half")
    said = []
    assert restore(store, tmp_path / "into", say=said.append) is None
    assert said == ["the first save, of step 10, was cut off and never counted: starting from step 0"]
    assert [info.state for info in list_checkpoints(store)] == ["unfinished"]


def test_after_a_fallback_the_run_goes_on_and_replaces_what_was_damaged(two, tmp_path):
    damage(two.root / "step-000120" / "optimizer.pt", "flipped")
    save(two, tmp_path / "work", 110)
    assert latest(two).step == 110
    assert [info.step for info in list_checkpoints(two)] == [120, 110, 100]  # none of them was deleted
    save(two, tmp_path / "work", 120)
    assert verify_store(two).ok
    assert [info.step for info in list_checkpoints(two)] == [120, 110]


def test_a_damaged_newest_is_saved_anew_beside_itself(two, tmp_path):
    damage(two.root / "step-000120" / "optimizer.pt", "flipped")
    assert save(two, tmp_path / "work", 120).prefix == "step-000120-2"
    assert verify_store(two).ok
    assert [info.prefix for info in list_checkpoints(two)] == ["step-000120-2", "step-000100"]


@pytest.mark.parametrize(
    "name", ["../evil.pt", "/etc/passwd", "training_args.bin", "a/optimizer.pt", "rng_state_01.pth", MANIFEST]
)
def test_names_in_a_manifest_that_are_no_checkpoint_files_are_refused(two, tmp_path, name):
    manifest = latest(two)
    forged = replace(manifest, files=manifest.files | {name: manifest.files["optimizer.pt"]})
    two.write_bytes(f"step-000120/{MANIFEST}", forged.encode())
    two.write_bytes(LATEST, Pointer.to(forged).encode())
    said = []
    assert restore(two, tmp_path / "into", say=said.append).step == 100
    assert f"{name!r}, which is no checkpoint file" in said[0]
    assert not verify_store(two).ok


@pytest.mark.parametrize("prefix", ["../outside", "/tmp", "step-120", "step-000119", "step-0000120"])
def test_a_pointer_that_names_no_step_folder_is_refused(two, prefix):
    two.write_bytes(LATEST, replace(Pointer.decode(two.read_bytes(LATEST)), prefix=prefix).encode())
    with pytest.raises(DamagedFile, match=r"LATEST.json names"):
        latest(two)


def test_manifests_that_are_incomplete_or_of_another_format_are_refused(two):
    manifest = latest(two)
    less = {name: record for name, record in manifest.files.items() if name != "optimizer.pt"}
    with pytest.raises(DamagedFile, match=r"x lacks optimizer.pt"):
        Manifest.decode(replace(manifest, files=less).encode(), "x")
    with pytest.raises(DamagedFile, match=r"x lacks rng_state_0.pth, rng_state_1.pth"):
        Manifest.decode(replace(manifest, world_size=2).encode(), "x")
    with pytest.raises(DamagedFile, match="x is no manifest"):
        Manifest.decode(Pointer.to(manifest).encode(), "x")
    with pytest.raises(DamagedFile, match="is no pointer"):
        Pointer.decode(manifest.encode())
    for raw in (b"", b"{}", b"[]", b"null", b"\xff", b"[" * 100_000):
        with pytest.raises(DamagedFile, match=r"not valid JSON|altered"):
            Manifest.decode(raw, "x")


def test_step_folders_have_one_spelling():
    for step in (0, 7, 999_999, 1_000_000):
        assert step_of(step_folder(step)) == step
        assert step_of(step_folder(step, second=True)) == step
    for name in ("step-12", "step-0000012", "step-000012-3", "step-00001２", "xstep-000012", "step-000012\n"):
        assert step_of(name) is None


def test_links_out_of_the_store_are_damage(two, tmp_path):
    inside = two.root / "step-000120" / "optimizer.pt"
    shutil.move(inside, tmp_path / "blob")
    inside.symlink_to(tmp_path / "blob")
    assert "link out of the store" in verify(two, 120)[0]
    assert restore(two, tmp_path / "into", say=lambda _: None).step == 100


def test_restoring_replaces_what_lies_in_the_way(two, tmp_path):
    into = tmp_path / "into"
    (into / "checkpoint-120").mkdir(parents=True)
    (into / "checkpoint-120" / "scaler.pt").write_bytes(b"stale")
    (into / ".restoring").mkdir()
    (into / ".restoring" / "optimizer.pt").write_bytes(b"left by a killed session")
    restored = restore(two, into)
    assert set(content(restored.folder)) == {*FILES, "config.json"}
    assert list(into.iterdir()) == [restored.folder]
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(KelronError, match="cannot restore a checkpoint into"):
        restore(two, tmp_path / "file")


# --- the disk is full ---


@pytest.mark.parametrize("how", ["tmpfs", "patched"])
def test_a_full_disk_costs_nothing_that_was_saved(tmp_path, monkeypatch, how):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", str(disk)]
    if how == "tmpfs" and subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting needs root")
    try:
        store = open_store(disk / "store", write=True)
        save(store, tmp_path / "work", 10)
        save(store, tmp_path / "work", 20)
        before = snapshot(store.root)
        if how == "patched":
            limit_copies(monkeypatch, after=3)
        with pytest.raises(KelronError, match=r"no disk space for step-000030/.*delete what you need not keep"):
            save(store, tmp_path / "work", 30, size=30_000)
        assert snapshot(store.root) == before
        monkeypatch.undo()
        assert verify_store(store).ok
        assert restore(store, tmp_path / "into").step == 20
        save(store, tmp_path / "work", 30)
        assert latest(store).step == 30
    finally:
        if how == "tmpfs":
            subprocess.run(["umount", str(disk)], check=True)


def limit_copies(monkeypatch, after):
    """After so many copies the disk is full: the next one writes half a file, then fails."""
    copy, done = shutil.copyfile, []

    def copy_until_full(source, target):
        if len(done) == after:
            target.write_bytes(source.read_bytes()[:100])
            raise OSError(28, "No space left on device")
        done.append(source)
        return copy(source, target)

    monkeypatch.setattr(store_module.shutil, "copyfile", copy_until_full)


def test_no_space_for_the_download_is_not_taken_for_damage(two, tmp_path, monkeypatch):
    limit_copies(monkeypatch, after=2)
    with pytest.raises(KelronError, match=f"no disk space for step-000120/.* in {tmp_path}/into"):
        restore(two, tmp_path / "into")
    assert list((tmp_path / "into").iterdir()) == []


# --- killed at any moment ---

SERVER = """
# Forks a saver per line of input: its pid is answered, then how it ended.
import os, select, signal, sys
from pathlib import Path
from test_checkpoint import latest, open_store, save

CHANGES = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir")

def die_before_change(number):
    seen = 0
    def hook(event, arguments):
        nonlocal seen
        if event in CHANGES and not (event == "open" and (arguments[2] or 0) & 3 == os.O_RDONLY):
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)
            seen += 1
    sys.addaudithook(hook)

def save_forever(store, work):
    step = getattr(latest(store), "step", 0)
    while not select.select([sys.stdin], [], [], 0)[0]:  # closed where the tests ended or were killed: so does this
        step += 10
        save(store, work, step, size=40_000)

def save_prepared(store, folder, number):
    from test_checkpoint import RUN, send
    die_before_change(number)
    send(store, folder, **RUN)

for line in sys.stdin:
    mode, root, folder, number = line.split()
    pid = os.fork()
    if pid == 0:
        store, folder = open_store(root), Path(folder)
        if mode == "forever":
            save_forever(store, folder)
        else:
            save_prepared(store, folder, int(number))
        os._exit(0)
    print(pid, flush=True)
    print(os.waitpid(pid, 0)[1], flush=True)
"""


@contextlib.contextmanager
def savers():
    """Starts a saving process: returns its pid and a function that waits for its wait status."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *sys.path])}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", SERVER], env=environment, **pipes) as server:

        def start(mode, root, folder, number=0):
            server.stdin.write(f"{mode} {root} {folder} {number}\n")
            server.stdin.flush()
            return int(server.stdout.readline()), lambda: int(server.stdout.readline())

        try:
            yield start
        finally:
            server.stdin.close()


@pytest.fixture
def saver():
    with savers() as start:
        yield start


def never_named(store, into):
    """Without a pointer there is nothing, or a first save that lacked nothing but its pointer."""
    restored = restore(store, into, say=lambda _: None)
    return restored is None or restored.problems == [f"{LATEST} is missing in {store.describe()}"]


def test_a_saver_ends_with_the_tests_that_started_it(store, tmp_path):
    """A test run that is killed leaves nobody behind who goes on until the disk is full."""
    with savers() as start:
        pid, _ = start("forever", store.root, tmp_path / "work")
        time.sleep(0.1)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_forty_kills_at_random_moments(store, tmp_path, saver):
    """One run, killed and resumed again and again: what LATEST names is always whole, and never goes back."""
    chance, reached, kills, patience = random.Random(1), 0, 0, 0.1
    while kills < 40 or (reached < 100 and kills < 400):
        kills, before = kills + 1, reached
        pid, wait = saver("forever", store.root, tmp_path / "work")
        time.sleep(chance.uniform(0, patience))
        os.kill(pid, signal.SIGKILL)
        assert wait() == signal.SIGKILL

        newest = latest(store)
        if newest is None:
            assert reached == 0
            assert never_named(store, tmp_path / "into")
            patience *= 1.5
            continue
        assert newest.step >= reached
        assert all(info.state != "damaged" for info in list_checkpoints(store))
        restored = restore(store, tmp_path / "into")
        assert (restored.step, restored.problems) == (newest.step, [])
        reached = newest.step
        # A busy machine gets longer between the kills, so that the run comes forward whatever its speed.
        patience = max(0.1, patience / 1.5) if reached > before else patience * 1.5
    assert reached >= 100
    save(store, tmp_path / "work", reached + 10, size=40_000)
    assert [info.state for info in list_checkpoints(store)] == ["verified", "verified"]


@pytest.mark.parametrize("case", ["first", "third", "newest again", "over a leftover"])
def test_a_kill_before_every_single_change_on_the_disk(tmp_path, saver, case):
    """Every change that one save makes, from its first to its last: a kill before it loses nothing."""
    begun = open_store(tmp_path / "begun", write=True)
    for step in [] if case == "first" else [100, 120]:
        save(begun, tmp_path / "work", step)
    if case == "over a leftover":
        begun.write_bytes("step-000140/optimizer.pt", b"half")
    old = latest(begun)
    step = 120 if case == "newest again" else 140
    folder = trainer_folder(tmp_path / "next", step, salt="next")
    new = send(open_store(tmp_path / "uncut"), folder, **RUN)
    for number in range(200):
        root = tmp_path / f"store-{number}"
        shutil.copytree(begun.root, root)
        status = saver("once", root, folder, number)[1]()
        store = open_store(root)
        newest = latest(store)
        assert newest == old or newest.same_checkpoint(new)
        assert all(info.state != "damaged" for info in list_checkpoints(store))
        if newest is None:
            assert never_named(store, tmp_path / "into")
        else:
            assert restore(store, tmp_path / "into").manifest == newest
        assert send(store, folder, **RUN) == latest(store)
        assert verify_store(store).ok
        shutil.rmtree(root)
        if status == 0:
            break
        assert status == signal.SIGKILL
    assert status == 0
    assert number > 20


# --- folders without a manifest of Kelron's ---


@pytest.fixture
def bare(tmp_path):
    """A real trainer's checkpoint of step 500 as a hub download leaves it: files at the root, no manifest."""
    import numpy as np
    import torch
    from safetensors.numpy import save_file

    folder = trainer_folder(tmp_path, 500, fp16=True)
    save_file({"lora_A": np.ones((4, 8), np.float32)}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text('{"r": 4}')
    torch.save({"state": {0: {"exp_avg": torch.ones(4, 8)}}, "param_groups": []}, folder / "optimizer.pt")
    torch.save({"last_epoch": 500}, folder / "scheduler.pt")
    torch.save({"scale": 65536.0}, folder / "scaler.pt")
    rng = {"python": random.getstate(), "numpy": np.random.get_state(), "cpu": torch.get_rng_state()}
    torch.save(rng, folder / "rng_state.pth")
    return folder


BARE_FILES = required_files(1, fp16=True)


@pytest.mark.parametrize("layout", ["flat", "trainer"])
def test_a_folder_without_a_manifest_restores_and_says_what_it_lacks(bare, tmp_path, layout):
    store = open_store(bare if layout == "flat" else bare.parent)
    said = []
    restored = restore(store, tmp_path / "into", say=said.append)
    assert restored.folder == tmp_path / "into" / "checkpoint-500"
    assert content(restored.folder) == {name: (bare / name).read_bytes() for name in BARE_FILES}
    assert (restored.manifest.fp16, restored.manifest.world_size) == (True, 1)
    assert said == [
        f"step 500 has no {MANIFEST} in {store.describe()}: its files are complete and load, "
        "but no checksums prove them"
    ]
    same = {"config": RUN["config"], "data_fingerprint": "x"}
    assert compare(restored.manifest, **same) == []


@pytest.mark.parametrize("how", ["removed", "truncated", "emptied"])
@pytest.mark.parametrize("name", BARE_FILES)
def test_a_flat_folder_that_is_damaged_stops(bare, tmp_path, name, how):
    damage(bare / name, how)
    reason = "is missing" if how == "removed" else "does not load"
    with pytest.raises(KelronError, match=f"no intact checkpoint in folder .*{name} {reason}"):
        restore(open_store(bare), tmp_path / "into", fp16=True)
    assert list((tmp_path / "into").iterdir()) == []


@pytest.mark.parametrize("name", ["optimizer.pt", "rng_state.pth"])
def test_a_flipped_bit_in_a_torch_file_shows_even_without_a_manifest(bare, tmp_path, name):
    data = bytearray((bare / name).read_bytes())
    record = data.index(b"\x00\x00\x80\x3f" * 8 if name == "optimizer.pt" else b"PK\x03\x04", 1)
    data[record + 2] ^= 1
    (bare / name).write_bytes(data)
    with pytest.raises(KelronError, match=f"{name} does not load"):
        restore(open_store(bare), tmp_path / "into")


def test_a_file_that_wants_to_run_code_is_not_loaded(bare, tmp_path):
    import torch

    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "owned"),))

    torch.save(Evil(), bare / "scheduler.pt")
    with pytest.raises(KelronError, match=r"scheduler.pt does not load"):
        restore(open_store(bare), tmp_path / "into")
    assert not (tmp_path / "owned").exists()


def test_a_flat_folder_of_two_processes_needs_the_state_of_both(bare, tmp_path):
    for rank in (0, 1):
        shutil.copy(bare / "rng_state.pth", bare / f"rng_state_{rank}.pth")
    (bare / "rng_state.pth").unlink()
    assert restore(open_store(bare), tmp_path / "into", say=lambda _: None).manifest.world_size == 2
    (bare / "rng_state_1.pth").rename(bare / "rng_state_2.pth")
    with pytest.raises(KelronError, match=r"rng_state_1.pth is missing"):
        restore(open_store(bare), tmp_path / "into")


def test_a_flat_folder_with_its_manifest_is_checked_by_it(two, tmp_path):
    flat = tmp_path / "flat"
    shutil.copytree(two.root / "step-000120", flat)
    said = []
    restored = restore(open_store(flat), tmp_path / "into", say=said.append)
    assert (restored.step, said) == (120, [])
    for name in ALL_FILES:
        shutil.rmtree(flat)
        shutil.copytree(two.root / "step-000120", flat)
        damage(flat / name, "flipped")
        with pytest.raises(KelronError, match=f"no intact checkpoint in folder .*: {name} "):
            restore(open_store(flat), tmp_path / "into")


def test_of_a_trainers_folders_the_newest_complete_one_counts(bare, tmp_path):
    output = tmp_path / "output"
    for step in (999, 1000):
        shutil.copytree(bare, output / f"checkpoint-{step}")
        (output / f"checkpoint-{step}" / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    store = open_store(output)
    assert restore(store, tmp_path / "into", say=lambda _: None).step == 1000
    (output / "checkpoint-1000" / "scheduler.pt").unlink()
    said = []
    assert restore(store, tmp_path / "into", say=said.append).step == 999
    assert said[0] == ("damaged: checkpoint-1000/scheduler.pt is missing; step 999 is used instead, 1 step is lost")
    (output / "checkpoint-999" / "trainer_state.json").write_text('{"global_step": 400}')
    with pytest.raises(KelronError, match="is of step 400, its folder of step 999"):
        restore(store, tmp_path / "into")


# --- is it the same run? ---


def test_compare_names_what_changes_the_run(store, tmp_path):
    config = {
        "preset": "a",
        "model": {"base": "tiny", "stop_token_ids": [1, 2]},
        "train": {"learning_rate": 1e-4, "deep": {"x": 1}},
        "session": {"budget_seconds": 1},
        "store": {"url": "a"},
        "evaluate": {"batch_size": 1},
    }
    manifest = save(store, tmp_path / "work", 10, config=config)
    here = {"data_fingerprint": RUN["data_fingerprint"]}
    assert compare(manifest, config=config, **here) == []
    free = {"preset": "b", "session": {}, "store": {"url": "b"}, "evaluate": {"batch_size": 2}}
    assert compare(manifest, config=config | free, **here) == []
    as_tuples = config | {"model": {"base": "tiny", "stop_token_ids": (1, 2)}}
    assert compare(manifest, config=as_tuples, **here) == []
    other = config | {
        "model": {"base": "tiny", "stop_token_ids": [1]},
        "train": {"learning_rate": 2e-4, "deep": {"x": 2}, "new": None},
    }
    assert compare(manifest, config=other, data_fingerprint="e" * 64) == [
        "model.stop_token_ids",
        "train.deep.x",
        "train.learning_rate",
        "train.new",
        "data_fingerprint",
    ]


# --- what the command line prints ---


NO_DATASET = "dataset: none here; where the run's own is gone, make it again with `kelron data`"


def test_reports_read_well(two, tmp_path):
    report = verify_store(two)
    assert report.ok
    assert report.lines() == [
        f"folder {two.root}: all is well",
        "step 120, 0.0 MB, 0 min old, latest, verified",
        "step 100, 0.0 MB, 0 min old, verified",
        NO_DATASET,
    ]
    sizes = {info.step: info.size for info in list_checkpoints(two)}
    assert sizes[120] == sum(len(data) for data in content(two.root / "step-000120").values())
    damage(two.root / "step-000100" / "optimizer.pt", "truncated")
    (two.root / "step-000140").mkdir()
    two.write_bytes("step-000140/optimizer.pt", b"half")
    assert verify_store(two).lines() == [
        f"folder {two.root}: something is wrong",
        f"step 140, 0.0 MB, age unknown, unfinished: step-000140/{MANIFEST} is missing in folder {two.root}",
        "step 120, 0.0 MB, 0 min old, latest, verified",
        "step 100, 0.0 MB, age unknown, damaged: step-000100/optimizer.pt has 150 bytes instead of 300",
        NO_DATASET,
    ]
    assert verify_store(open_store(tmp_path / "none")).lines() == [
        f"folder {tmp_path / 'none'}: something is wrong",
        "LATEST.json is missing: no run has completed a checkpoint here, or the file was lost",
    ]
