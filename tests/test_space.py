"""A disk that is full before a run, or in the midst of one: one line, exit code 2, nothing of what was saved lost."""

import errno
import os
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
from conftest import SMALL

from kelron_lib import runtime, space
from kelron_lib.__main__ import main
from kelron_lib.config import apply_overrides, load_preset
from kelron_lib.errors import KelronError
from kelron_lib.placement import checkpoint_bytes, workload
from kelron_lib.runtime import no_space
from kelron_lib.session import read_status
from kelron_lib.space import base_shape, require_space
from kelron_lib.stores import open_store
from kelron_lib.verify import latest, verify_store

SETTINGS = [word for override in SMALL for word in ("--set", override)]
Usage = namedtuple("Usage", "total used free")


def kelron(capsys, verb, out, *more):
    """Run a verb; its exit code and what it printed as errors."""
    code = main([verb, *SETTINGS, "--out", str(out), *map(str, more)])
    return code, capsys.readouterr().err


def assert_one_line(err):
    assert err.startswith("kelron: ")
    assert err.count("\n") == 1, err


def assert_nothing_lost(out, step):
    """The failed session is told, and the checkpoint before it is whole and the newest."""
    status = read_status(out)
    assert (status.state, status.step) == ("failed", step)
    store = open_store(out / "store")
    assert verify_store(store).ok
    assert latest(store).step == step


def test_a_checkpoint_takes_what_the_estimate_says(cut, small_config):
    found = latest(open_store(cut[0] / "store")).size
    said = checkpoint_bytes(base_shape(small_config), workload(small_config))
    assert said < found < 1.2 * said


def test_the_14b_is_known_without_a_network():
    config = load_preset("kelron-14b-t4x2")
    size = checkpoint_bytes(base_shape(config), workload(config))
    assert size == pytest.approx(550e6 * (4 + 2), rel=0.02)  # float32 weights, two 8-bit states


def test_a_base_that_cannot_be_had_is_one_line(small_config):
    with pytest.raises(KelronError, match=r"^cannot load the config of 'nobody/nothing': [^\n]+$"):
        base_shape(apply_overrides(small_config, ["model.base=nobody/nothing"]))


def test_what_the_store_holds_needs_no_room(small_config, small_data, cut, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(space, "require_disk", lambda folder, needed, purpose: asked.append((folder, needed)))
    empty, full = open_store(tmp_path / "store"), open_store(cut[0] / "store")
    require_space(small_config, tmp_path, empty)
    require_space(small_config, tmp_path, full)
    held = sum(entry.size for entry in full.list())
    work = tmp_path / "work"
    assert asked == [(work, pytest.approx(asked[1][1] + held, abs=1)), (work, asked[1][1])]
    one = checkpoint_bytes(base_shape(small_config), workload(small_config))
    assert asked[0][1] == pytest.approx(one * (4 + 1 / 3 + small_config.store.keep + 2))


@pytest.mark.parametrize("begun", [False, True], ids=["fresh", "resumed"])
def test_no_room_is_told_before_anything_begins(begun, run, small_data, tmp_path, capsys, monkeypatch):
    out, step = run if begun else (tmp_path / "fresh", 0)
    before = read_status(out) if begun else None
    with monkeypatch.context() as patch:
        patch.setattr(runtime.shutil, "disk_usage", lambda folder: Usage(10**9, 10**9, 1000))
        code, err = kelron(capsys, "train", out, "--data", small_data)
    assert code == 2
    assert_one_line(err)
    assert "no disk space for the work folder and the store" in err
    if begun:
        assert read_status(out) == before
        assert latest(open_store(out / "store")).step == step
        assert verify_store(open_store(out / "store")).ok
    else:
        assert not out.exists()


@pytest.mark.parametrize("name", ["optimizer.pt", "adapter_model.safetensors", "trainer_state.json"])
def test_a_disk_that_fills_up_while_the_trainer_saves(name, run, small_data, capsys, monkeypatch):
    """torch, safetensors and transformers each say it in their own way."""
    import kelron_lib.trainer as module

    out, step = run
    built = module.build_trainer

    def on_full_disk(*arguments):
        trainer = built(*arguments)
        save = module.Trainer._save_checkpoint

        def full(self, *arguments, **named):
            folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            folder.mkdir()
            if name == "adapter_model.safetensors":  # it writes beside and renames: no device can stand in
                raise module.SafetensorError(f"I/O error: {os.strerror(errno.ENOSPC)} (os error 28)")
            (folder / name).symlink_to("/dev/full")
            save(self, *arguments, **named)

        patch.setattr(module.Trainer, "_save_checkpoint", full)
        return trainer

    with monkeypatch.context() as patch:
        patch.setattr(module, "build_trainer", on_full_disk)
        code, err = kelron(capsys, "resume", out, "--data", small_data)
    assert code == 2
    assert_one_line(err)
    assert "could be written to" in err
    assert "free some disk space" in err
    assert [path.name for path in (out / "work").glob("checkpoint-*")] == [f"checkpoint-{step}"]
    assert_nothing_lost(out, step)
    if name == "optimizer.pt":
        assert kelron(capsys, "resume", out, "--data", small_data)[0] == 0
        assert (read_status(out).state, read_status(out).first_step) == ("finished", step)


def full_for(monkeypatch, names, code=errno.ENOSPC):
    """Writing a file of these names half succeeds, and then the disk is full."""

    def filling(write):
        def write_half(self, content, *arguments, **named):
            if self.name.startswith(names):
                write(self, content[: len(content) // 2], *arguments, **named)
                raise OSError(code, os.strerror(code))
            return write(self, content, *arguments, **named)

        return write_half

    for method in ("write_text", "write_bytes"):
        monkeypatch.setattr(Path, method, filling(getattr(Path, method)))


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_up_as_the_session_begins(code, run, small_data, capsys, monkeypatch):
    out, step = run
    before = (out / "config.json").read_bytes()
    with monkeypatch.context() as patch:
        full_for(patch, "config.json", code)
        found, err = kelron(capsys, "resume", out, "--data", small_data)
    assert found == 2
    assert_one_line(err)
    assert err.startswith("kelron: no disk space: free some")
    assert (out / "config.json").read_bytes() == before
    assert_nothing_lost(out, step)


def test_no_room_for_the_status_either_hides_nothing(run, small_data, capsys, monkeypatch):
    out, step = run
    with monkeypatch.context() as patch:
        full_for(patch, ("config.json", "status.json"))
        assert main(["resume", *SETTINGS, "--out", str(out), "--data", str(small_data)]) == 2
    printed = capsys.readouterr()
    assert_one_line(printed.err)
    assert "could not be written down: [Errno 28]" in printed.out
    assert not (out / "status.json").exists()
    assert latest(open_store(out / "store")).step == step


def test_the_dataset_of_an_earlier_run_survives_a_full_disk(small_data, tmp_path, capsys, monkeypatch):
    shutil.copytree(small_data, tmp_path / "data")
    with monkeypatch.context() as patch:
        full_for(patch, "validation.parquet")
        code, err = kelron(capsys, "data", tmp_path / "data", "--set", "data.seed=2", "--replace")
    assert code == 2
    assert_one_line(err)
    assert os.strerror(errno.ENOSPC) in err
    for file in small_data.iterdir():
        assert (tmp_path / "data" / file.name).read_bytes() == file.read_bytes()
    assert list(tmp_path.iterdir()) == [tmp_path / "data"]


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.EROFS, "name a folder that can be written"),
        (errno.EACCES, "name a folder that can be written"),
        (errno.ENOSPC, "free space there, or name another folder"),
        (errno.EDQUOT, "free space there, or name another folder"),
        (errno.EIO, "name another folder"),
    ],
)
@pytest.mark.parametrize("verb", ["data", "pull"])
def test_the_advice_is_for_the_cause(verb, code, advice, cut, tmp_path, capsys, monkeypatch):
    make = Path.mkdir

    def refused(self, *arguments, **named):
        if self.is_relative_to(tmp_path / "place"):
            raise OSError(code, os.strerror(code), str(self))
        make(self, *arguments, **named)

    monkeypatch.setattr(Path, "mkdir", refused)
    if verb == "data":
        found, err = kelron(capsys, "data", tmp_path / "place" / "data")
    else:
        found = main(["store", "pull", str(cut[0] / "store"), str(tmp_path / "place" / "checkpoint")])
        err = capsys.readouterr().err
    assert found == 2
    assert_one_line(err)
    assert err.endswith(f": {os.strerror(code)}; {advice}\n")


def test_other_errors_keep_their_own_words(capsys, monkeypatch, tmp_path):
    assert no_space(OSError(errno.EIO, os.strerror(errno.EIO))) is None
    assert no_space(ValueError("no such value")) is None
    assert no_space(KelronError(f"no disk space ({os.strerror(errno.ENOSPC)})")) is None

    def broken(*arguments, **options):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("kelron_lib.data.build_dataset", broken)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        kelron(capsys, "data", tmp_path / "data")
