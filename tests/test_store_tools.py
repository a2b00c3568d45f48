"""`kelron store ls | pull | import | prune`: what they print, what they refuse, and that nothing of value is lost."""

import json
import os
import shutil
import subprocess
import sys
import time

import pytest
from test_checkpoint import (
    ALL_FILES,
    BARE_FILES,
    FILES,
    RUN,
    bare,
    content,
    damage,
    save,
    send,
    snapshot,
    store,
    trainer_folder,
    two,
)

from kelron_lib import store_tools
from kelron_lib.__main__ import main
from kelron_lib.errors import KelronError
from kelron_lib.lease import LEASE, Lease, Writer
from kelron_lib.manifest import LATEST, MANIFEST, compare
from kelron_lib.restore import restore
from kelron_lib.store import FolderStore
from kelron_lib.store_tools import list_store, prune
from kelron_lib.stores import open_store
from kelron_lib.verify import age_words, latest, size_words, verify_store

__all__ = ["bare", "store", "two"]  # fixtures


def kelron(capsys, *arguments):
    """Exit code, what was printed, and the error."""
    code = main(["store", *map(str, arguments)])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def refused(capsys, *arguments):
    """The one line with which an action ends that cannot be done."""
    code, _, err = kelron(capsys, *arguments)
    assert code == 2
    assert err.startswith("kelron: ")
    assert err.count("\n") == 1, err
    return err


@pytest.fixture(autouse=True)
def short_beats(monkeypatch):
    monkeypatch.setattr(FolderStore, "beat_seconds", 0.05)


@pytest.fixture
def three(two, tmp_path):
    """A store with steps 100, 120 and 140; 140 is the newest."""
    save(two, tmp_path / "work", 140, keep=9)
    return two


def steps(store):
    return sorted(int(path.name.split("-")[1]) for path in store.root.glob("step-*"))


class Writing:
    """Another session, on another machine, that writes to the store."""

    def __init__(self, store, beats):
        self.store, self.beats = store, beats
        self.lease = Lease("s" * 16, "far-away", 17, 0.0, "2026-11-24T10:00:00+00:00", 3)
        store.write_bytes(LEASE, self.lease.encode())

    def __enter__(self):
        code = (
            "import sys, json, time, pathlib\n"
            "path, count = pathlib.Path(sys.argv[1]), 0\n"
            "while True:\n"
            "    lease = json.loads(path.read_text()); lease['beat'] += 1; count += 1\n"
            "    part = path.with_name('.tmp-beat'); part.write_text(json.dumps(lease)); part.replace(path)\n"
            "    time.sleep(0.02)\n"
        )
        if self.beats:
            self.process = subprocess.Popen([sys.executable, "-c", code, str(self.store.root / LEASE)])
            while json.loads(self.store.read_bytes(LEASE))["beat"] == self.lease.beat:
                time.sleep(0.01)
        return self

    def __exit__(self, *_):
        if self.beats:
            self.process.kill()
            self.process.wait()


# --- ls ---


def test_ls_shows_what_is_there(two, capsys):
    (two.root / "step-000140").mkdir()
    two.write_bytes("step-000140/optimizer.pt", b"half")
    two.write_bytes("dataset/train.parquet", bytes(2_000_000))
    size = sum(len(data) for data in snapshot(two.root).values())
    code, out, _ = kelron(capsys, "ls", two.root)
    assert code == 0
    assert out.splitlines() == [
        f"folder {two.root}: 3 checkpoints, {size / 1e6:.1f} MB in all; no session writes to it",
        f"step 140, 0.0 MB, age unknown, unfinished: step-000140/{MANIFEST} is missing in folder {two.root}",
        "step 120, 0.0 MB, 0 min old, latest, complete",
        "step 100, 0.0 MB, 0 min old, complete",
        "complete: every file is there in its size; `kelron store verify` checks every byte",
    ]


def test_ls_reads_no_large_file(two, monkeypatch):
    def read(self, path, *_):
        raise AssertionError(path)

    monkeypatch.setattr(FolderStore, "sha256", read)
    monkeypatch.setattr(FolderStore, "get_file", read)
    assert list_store(two).ok


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda root: damage(root / "step-000100" / "optimizer.pt", "truncated"), "has 150 bytes instead of 300"),
        (lambda root: damage(root / "step-000120" / "scheduler.pt", "removed"), "step-000120/scheduler.pt is missing"),
        (lambda root: damage(root / "step-000120" / MANIFEST, "flipped"), f"step-000120/{MANIFEST} is "),
        (lambda root: damage(root / LATEST, "flipped"), f"{LATEST} is "),
        (lambda root: (root / LATEST).unlink(), f"{LATEST} is missing: no run has completed"),
        (lambda root: shutil.rmtree(root / "step-000120"), f"step-000120/{MANIFEST} is missing"),
    ],
)
def test_ls_fails_where_something_is_wrong(two, capsys, harm, words):
    harm(two.root)
    code, out, _ = kelron(capsys, "ls", two.root)
    assert code == 2
    assert words in out


def test_ls_names_who_holds_the_store(two, capsys):
    with Writing(two, beats=False) as other:
        assert f"; held by {other.lease.describe()}, 3 signs of life\n" in kelron(capsys, "ls", two.root)[1]
    two.write_bytes(LEASE, b"no lease")
    assert f"{LEASE} in folder {two.root} is no lease" in kelron(capsys, "ls", two.root)[1]
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    lease = Lease.of_this_process()
    two.write_bytes(LEASE, Lease(**{**lease.__dict__, "pid": int(gone.stdout)}).encode())
    assert "0 signs of life, but has ended\n" in kelron(capsys, "ls", two.root)[1]


def test_ls_of_what_holds_none(tmp_path, bare, capsys):
    assert "absent: check the path" in refused(capsys, "ls", tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    assert refused(capsys, "ls", tmp_path / "empty").endswith("empty holds no checkpoint\n")
    assert "trainer_state.json is a trainer's, which `kelron store import` makes one of" in refused(capsys, "ls", bare)


@pytest.mark.parametrize("flag", ["--preset", "--set"])
@pytest.mark.parametrize("action", ["ls", "verify"])
def test_no_action_takes_a_config(two, flag, action):
    with pytest.raises(SystemExit) as ended:
        main(["store", action, str(two.root), flag, "tiny-cpu"])
    assert ended.value.code == 2


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "0 min"), (7100, "118 min"), (7300, "2 h"), (170_000, "47 h"), (300_000, "3 days")]
)
def test_ages_read_well(seconds, words):
    assert age_words(seconds) == words


def test_sizes_read_well():
    assert [size_words(size) for size in (0, 999_000_000, 3_300_000_000)] == ["0.0 MB", "999.0 MB", "3.30 GB"]


# --- pull ---


@pytest.mark.parametrize(("more", "step"), [((), 120), (("--step", 100), 100), (("--step", 120), 120)])
def test_pull_brings_a_checkpoint_whole(two, tmp_path, capsys, more, step):
    before = snapshot(two.root)
    code, out, _ = kelron(capsys, "pull", two.root, tmp_path / "here", *more)
    assert code == 0
    assert out.endswith(f"step {step}: {len(FILES) + 1} files, 0.0 MB, verified, in {tmp_path / 'here'}\n")
    assert content(tmp_path / "here") == content(two.root / f"step-{step:06d}")
    assert {*content(tmp_path / "here")} == {*ALL_FILES}
    assert snapshot(two.root) == before
    assert {path.name for path in tmp_path.iterdir()} == {"store", "work", "here"}
    assert restore(open_store(tmp_path / "here"), tmp_path / "into").step == step


def test_pull_takes_the_one_before_where_the_newest_is_damaged(two, tmp_path, capsys):
    damage(two.root / "step-000120" / "optimizer.pt", "flipped")
    (tmp_path / "here").mkdir()  # empty
    code, out, _ = kelron(capsys, "pull", two.root, tmp_path / "here")
    assert code == 0
    assert out.startswith("damaged: step-000120/optimizer.pt has changed: its sha256 differs; step 100 is used instead")
    assert json.loads((tmp_path / "here" / "trainer_state.json").read_text())["global_step"] == 100
    err = refused(capsys, "pull", two.root, tmp_path / "there", "--step", 120)
    assert "no intact checkpoint to pull" in err
    assert "step-000120/optimizer.pt has changed" in err
    assert not (tmp_path / "there").exists()


def test_pull_refuses_what_it_cannot_bring(two, tmp_path, capsys, monkeypatch):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_bytes(b"x")
    assert "full is not an empty folder" in refused(capsys, "pull", two.root, tmp_path / "full")
    assert content(tmp_path / "full") == {"mine": b"x"}
    assert "not an empty folder" in refused(capsys, "pull", two.root, tmp_path / "full" / "mine")
    assert "no checkpoint of step 110: it has 120, 100" in refused(
        capsys, "pull", two.root, tmp_path / "here", "--step", 110
    )
    (tmp_path / "empty").mkdir()
    assert "holds no checkpoint with a MANIFEST.json" in refused(capsys, "pull", tmp_path / "empty", tmp_path / "here")
    assert "of step 1: it has none" in refused(capsys, "pull", tmp_path / "empty", tmp_path / "here", "--step", "1")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))
    assert "no disk space for step 120: " in refused(capsys, "pull", two.root, tmp_path / "here")
    assert not (tmp_path / "here").exists()


# --- import ---


def test_import_makes_a_checkpoint_that_a_run_resumes_from(bare, tmp_path, capsys):
    before = snapshot(bare)
    code, out, _ = kelron(capsys, "import", bare, tmp_path / "new")
    assert code == 0
    assert out.splitlines() == [
        "left out, since no checkpoint needs it: README.md, training_args.bin",
        f"step 500 (0.0 MB) is the newest checkpoint in folder {tmp_path / 'new'} now",
    ]
    assert snapshot(bare) == before
    new = open_store(tmp_path / "new")
    assert verify_store(new).ok
    assert {entry.path for entry in new.list()} == {
        LATEST, *(f"step-000500/{name}" for name in (*BARE_FILES, MANIFEST))
    }  # fmt: skip
    said = []
    restored = restore(new, tmp_path / "into", fp16=True, say=said.append)
    assert content(restored.folder) == {name: (bare / name).read_bytes() for name in BARE_FILES}
    assert said == []
    assert compare(restored.manifest, config=RUN["config"], data_fingerprint="x") == []
    assert kelron(capsys, "ls", tmp_path / "new")[0] == 0
    assert kelron(capsys, "import", bare, tmp_path / "new")[0] == 0  # once more changes nothing
    assert steps(new) == [500]


@pytest.mark.parametrize("how", ["removed", "truncated"])
@pytest.mark.parametrize("name", [name for name in BARE_FILES if name != "scaler.pt"])
def test_import_names_what_is_missing_or_damaged(bare, tmp_path, capsys, name, how):
    damage(bare / name, how)
    err = refused(capsys, "import", bare, tmp_path / "new")
    assert (f"{name} is missing" if how == "removed" else f"{name} does not load") in err
    assert not (tmp_path / "new").exists()


def test_a_scaler_that_was_not_imported_is_missed_by_a_run_that_needs_it(bare, tmp_path, capsys):
    (bare / "scaler.pt").unlink()
    assert kelron(capsys, "import", bare, tmp_path / "new")[0] == 0
    assert restore(open_store(tmp_path / "new"), tmp_path / "into", fp16=False).step == 500
    with pytest.raises(KelronError, match=r"step-000500/scaler.pt is missing"):
        restore(open_store(tmp_path / "new"), tmp_path / "into", fp16=True)


def test_import_of_what_is_no_checkpoint(bare, tmp_path, capsys):
    new = tmp_path / "new"
    assert "there is no folder" in refused(capsys, "import", tmp_path / "absent", new)
    (tmp_path / "output").mkdir()
    assert refused(capsys, "import", tmp_path / "output", new).endswith("trainer_state.json is missing\n")
    for step in (500, 1000):
        shutil.copytree(bare, tmp_path / "output" / f"checkpoint-{step}")
    err = refused(capsys, "import", tmp_path / "output", new)
    assert "name one of the folders in it (checkpoint-1000, checkpoint-500)" in err
    assert not new.exists()


def test_import_of_a_store_or_a_run_names_the_steps_in_it(two, tmp_path, capsys):
    err = refused(capsys, "import", two.root, tmp_path / "new")
    assert "trainer_state.json is missing; name one of the folders in it (step-000100, step-000120)" in err
    shutil.copytree(two.root, tmp_path / "run" / "store")
    err = refused(capsys, "import", tmp_path / "run", tmp_path / "new")
    assert "name one of the folders in it (store/step-000100, store/step-000120)" in err
    assert kelron(capsys, "import", tmp_path / "run" / "store" / "step-000120", tmp_path / "new")[0] == 0


def test_what_was_pulled_is_imported_with_its_config(two, tmp_path, capsys):
    assert kelron(capsys, "pull", two.root, tmp_path / "here")[0] == 0
    assert kelron(capsys, "import", tmp_path / "here", tmp_path / "new")[0] == 0
    assert latest(open_store(tmp_path / "new")) == latest(two)
    assert snapshot(tmp_path / "new" / "step-000120") == snapshot(two.root / "step-000120")
    damage(tmp_path / "here" / "optimizer.pt", "flipped")
    assert "optimizer.pt has changed" in refused(capsys, "import", tmp_path / "here", tmp_path / "other")
    (tmp_path / "here" / "optimizer.pt").unlink()
    assert "optimizer.pt is missing" in refused(capsys, "import", tmp_path / "here", tmp_path / "other")


def test_an_import_never_sets_a_run_back_and_deletes_nothing(bare, two, tmp_path, capsys):
    code, _, err = kelron(capsys, "import", bare, two.root)
    assert (code, err) == (0, "")
    assert steps(two) == [100, 120, 500]
    (bare / "trainer_state.json").write_text('{"global_step": 120}')
    before = snapshot(two.root)
    assert "is at step 500 already, which step 120 would replace" in refused(capsys, "import", bare, two.root)
    (bare / "trainer_state.json").write_text('{"global_step": 500, "other": 1}')
    assert "is at step 500 already, which step 500 would replace" in refused(capsys, "import", bare, two.root)
    assert snapshot(two.root) == before


# --- prune ---


@pytest.mark.parametrize(("more", "left"), [((), [120, 140]), (("--keep", 1), [140]), (("--keep", 3), [100, 120, 140])])
def test_prune_keeps_the_newest(three, capsys, more, left):
    sizes = {step: sum(map(len, content(three.root / f"step-{step:06d}").values())) for step in steps(three)}
    before = snapshot(three.root)
    code, out, _ = kelron(capsys, "prune", three.root, *more, "--dry-run")
    assert code == 0
    assert snapshot(three.root) == before
    assert out.count("would delete step ") == 3 - len(left)
    code, out, _ = kelron(capsys, "prune", three.root, *more)
    assert code == 0
    freed = sum(size for step, size in sizes.items() if step not in left)
    assert out.splitlines()[-1] == f"{size_words(freed)} freed in folder {three.root}"
    assert [line.split(",")[0] for line in out.splitlines()[:-1]] == [
        f"deleted step {step}" for step in (120, 100) if step not in left
    ]
    assert steps(three) == left
    assert verify_store(three).ok
    assert not (three.root / LEASE).exists()


def test_prune_says_why_the_best_stays(store, tmp_path, capsys):
    seen = []
    for step, loss in ((10, 3.0), (20, 1.0), (30, 2.0), (40, 2.5)):
        seen.append({"step": step, "eval_loss": loss})
        folder = trainer_folder(tmp_path / "work", step)
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": step, "log_history": seen}))
        send(store, folder, keep=9, **RUN)
    why = "step 20 stays beside the newest 1: its validation loss is the lowest, and the adapter may be taken from it"
    for more in (["--dry-run"], []):
        code, out, _ = kelron(capsys, "prune", store.root, "--keep", 1, *more)
        assert code == 0
        assert [line.split(" (")[0].split(",")[0] for line in out.splitlines() if "stays" in line] == [
            why.split(",")[0]
        ]
        assert why in out
    assert steps(store) == [20, 40]
    code, out, _ = kelron(capsys, "prune", store.root, "--keep", 2)
    assert (code, "stays" in out, steps(store)) == (0, False, [20, 40])  # it is one of the newest two


def test_prune_never_deletes_the_named_one(three, tmp_path, capsys):
    two_files = snapshot(three.root / "step-000120")
    three.write_bytes(LATEST, _pointer_to(three, "step-000120"))
    assert kelron(capsys, "prune", three.root, "--keep", 1)[0] == 0
    assert snapshot(three.root / "step-000120") == two_files
    assert steps(three) == [120, 140]  # what lies ahead of it was never named, and is not older


def _pointer_to(store, prefix):
    from kelron_lib.manifest import Pointer
    from kelron_lib.verify import read_manifest

    return Pointer.to(read_manifest(store, prefix)).encode()


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda root: damage(root / "step-000140" / "optimizer.pt", "flipped"), "the newest checkpoint is damaged"),
        (lambda root: damage(root / LATEST, "flipped"), f"{LATEST} is "),
        (lambda root: (root / LATEST).unlink(), f"has no {LATEST}"),
    ],
)
def test_prune_deletes_nothing_where_the_newest_is_in_doubt(three, capsys, harm, words):
    harm(three.root)
    before = snapshot(three.root)
    for more in ((), ("--dry-run",)):
        err = refused(capsys, "prune", three.root, "--keep", 1, *more)
        assert "nothing was deleted" in err
        assert words in err
    assert snapshot(three.root) == before


def test_prune_deletes_nothing_until_enough_are_verified(three, capsys):
    damage(three.root / "step-000120" / "optimizer.pt", "flipped")
    assert kelron(capsys, "prune", three.root, "--keep", 3)[0] == 0
    assert steps(three) == [100, 120, 140]
    assert kelron(capsys, "prune", three.root, "--keep", 2)[0] == 0
    assert steps(three) == [100, 140]


def test_prune_refuses_while_another_session_writes(three, capsys):
    with Writing(three, beats=True):
        before = snapshot(three.root / "step-000100")
        err = refused(capsys, "prune", three.root, "--keep", 1)
    assert "another session writes to" in err
    assert "process 17 on far-away" in err
    assert steps(three) == [100, 120, 140]
    assert snapshot(three.root / "step-000100") == before


def test_prune_takes_over_from_a_session_that_is_gone(three, capsys):
    with Writing(three, beats=False):
        code, out, _ = kelron(capsys, "prune", three.root, "--keep", 1)
    assert code == 0
    assert "no sign of life in" in out
    assert steps(three) == [140]


def test_prune_stops_where_it_lost_the_lease(three, monkeypatch):
    def steal(store, prefix):
        deleted.append(prefix)
        Writing(store, beats=False)

    deleted = []
    monkeypatch.setattr(store_tools, "discard", steal)
    with pytest.raises(KelronError, match="lost its right to write"):
        prune(three, 1, say=lambda line: None)
    assert deleted == ["step-000120"]


@pytest.mark.parametrize("keep", [0, -1])
def test_prune_keeps_at_least_one(three, capsys, keep):
    assert f"--keep is {keep}: at least 1 stays" in refused(capsys, "prune", three.root, "--keep", keep)
    assert steps(three) == [100, 120, 140]


# --- on a laptop ---


def test_looking_fetching_and_pruning_take_no_torch(three, tmp_path):
    code = (
        "import sys\nfrom kelron_lib.__main__ import main\n"
        "assert main(['store', *sys.argv[1:]]) == 0\n"
        "heavy = {'torch', 'transformers', 'peft', 'huggingface_hub'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    for arguments in (
        ("ls", three.root),
        ("verify", three.root),
        ("pull", three.root, tmp_path / "here"),
        ("import", tmp_path / "here", tmp_path / "new"),  # by its manifest
        ("prune", three.root, "--keep", "1"),
    ):
        subprocess.run([sys.executable, "-c", code, *map(str, arguments)], check=True, env=os.environ)


def test_one_lease_for_all(three):
    writer = Writer.of(three)
    assert (writer.beat_seconds, writer.stale_seconds, writer.settle_seconds) == (0.05, pytest.approx(0.15), 0.0)
