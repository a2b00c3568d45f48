"""Going on with a run: what may change and what never, a fresh start that loses nothing, a store out of reach."""

from __future__ import annotations

import json
import shutil

import pytest
from conftest import SMALL, ticking_clock
from test_checkpoint import RUN, save, snapshot
from test_hub_store import Session
from test_train import STEPS, adapter, losses, silent

from kelron_lib import aside
from kelron_lib import train as train_module
from kelron_lib.__main__ import main
from kelron_lib.aside import set_aside
from kelron_lib.config import RUN_SECTIONS, RunConfig, apply_overrides, flat, to_dict
from kelron_lib.errors import KelronError
from kelron_lib.restore import restore
from kelron_lib.resume import MAY_CHANGE, Start
from kelron_lib.store import FolderStore
from kelron_lib.stores import open_store
from kelron_lib.train import train
from kelron_lib.verify import latest, verify_store

SETTINGS = [word for override in SMALL for word in ("--set", override)]


def rates(out):
    return {entry["step"]: entry["learning_rate"] for entry in losses(out) if "learning_rate" in entry}


def sessions(out):
    return json.loads((out / "sessions.json").read_text())


# --- what may change ---


def test_every_key_of_a_config_is_free_or_may_change_or_is_refused():
    keys = {key for key in flat(to_dict(RunConfig())) if key.partition(".")[0] in RUN_SECTIONS}
    assert MAY_CHANGE.keys() < keys
    for key in [*keys, "data_fingerprint"]:
        if key in MAY_CHANGE:
            Start(accept=[key])
            continue
        with pytest.raises(
            KelronError, match=rf"--accept-change {key}: this decides what the run is .*--fresh"
        ) as told:
            Start(accept=[key])
        assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("start", "words"),
    [
        ({"accept": ["train.learnin_rate"]}, "no such config key. Did you mean train.learning_rate"),
        ({"accept": ["session.budget_seconds"]}, "may differ in every session, leave it out"),
        ({"fresh": True, "must_resume": True}, "--fresh begins at step 0, where resuming has nothing to go on from"),
        ({"fresh": True, "accept": ["train.epochs"]}, "where --accept-change has nothing"),
    ],
)
def test_what_cannot_be_asked_is_one_line(start, words):
    with pytest.raises(KelronError, match=words):
        Start(**start)


def test_a_change_is_refused_until_it_is_accepted_and_acts_at_once(run, small_config, small_data, cut, tmp_path):
    """The rate above all: the optimizer's and the scheduler's own states would bring the old one back."""
    out, step = run
    rate = small_config.train.learning_rate
    config = apply_overrides(small_config, ["train.learning_rate=1e-3", "train.save_steps=100", "train.eval_steps=2"])
    keys = ["train.eval_steps", "train.learning_rate", "train.save_steps"]
    hint = " ".join(f"--accept-change {key}" for key in keys)
    with pytest.raises(KelronError, match=rf"differing: {', '.join(keys)}\).*; or go on with the change: {hint}$"):
        train(config, small_data, out, say=silent)
    assert verify_store(open_store(out / "store")).ok
    with pytest.raises(KelronError, match=r"change: --accept-change train\.save_steps$"):
        train(config, small_data, out, accept_changes=keys[:2], say=silent)
    said = []
    status = train(config, small_data, out, accept_changes=keys, say=said.append)
    assert (status.state, status.first_step, status.step) == ("finished", step, STEPS)
    assert f"accepted after step {step}: train.learning_rate was {rate} and is 0.001 from now on" in said

    whole = tmp_path / "whole"
    train(small_config, small_data, whole, say=silent)
    before, after = rates(whole), rates(out)
    assert [after[n] for n in range(1, step + 1)] == [before[n] for n in range(1, step + 1)]
    assert [after[n] for n in range(step + 1, STEPS + 1)] == pytest.approx(
        [before[n] * 0.001 / rate for n in range(step + 1, STEPS + 1)], rel=1e-12
    )
    evaluated = [entry["step"] for entry in losses(out) if "eval_loss" in entry and entry["step"] > step]
    assert evaluated == [n for n in range(step + 1, STEPS + 1) if n % 2 == 0]
    state = json.loads((out / "store" / f"step-{STEPS:06d}" / "trainer_state.json").read_text())
    assert (state["save_steps"], state["eval_steps"]) == (100, 2)

    changes = [
        {"key": "train.eval_steps", "from": 3, "to": 2, "step": step},
        {"key": "train.learning_rate", "from": rate, "to": 0.001, "step": step},
        {"key": "train.save_steps", "from": 4, "to": 100, "step": step},
    ]
    assert [session.get("accepted") for session in sessions(out)] == [None, changes]
    manifest = latest(open_store(out / "store"))
    assert manifest.changes == changes
    assert manifest.config["train"]["learning_rate"] == 0.001
    assert verify_store(open_store(out / "store")).ok

    # Left in the parameters it does no harm, and what was changed before stays written down.
    assert train(config, small_data, out, accept_changes=keys, say=silent).reason == "the run was already finished"
    assert [session.get("accepted") for session in sessions(out)] == [None, changes]


def test_changes_of_several_sessions_are_all_kept(run, small_config, small_data):
    out, step = run
    slower = apply_overrides(small_config, ["train.learning_rate=1e-3"])
    accept = ["train.learning_rate", "train.weight_decay"]
    second = train(slower, small_data, out, accept_changes=accept, clock=ticking_clock(9), say=silent)
    assert second.state == "budget"
    assert second.step > step
    decayed = apply_overrides(slower, ["train.weight_decay=0.01"])
    assert train(decayed, small_data, out, accept_changes=accept, say=silent).state == "finished"
    changes = latest(open_store(out / "store")).changes
    assert [(change["key"], change["step"]) for change in changes] == [
        ("train.learning_rate", step),
        ("train.weight_decay", second.step),
    ]


def test_a_changed_weight_decay_reaches_the_optimizer(run, small_config, small_data):
    import torch

    out, _ = run
    config = apply_overrides(small_config, ["train.weight_decay=0.25"])
    train(config, small_data, out, accept_changes=["train.weight_decay"], say=silent)
    groups = torch.load(out / "store" / f"step-{STEPS:06d}" / "optimizer.pt", weights_only=True)["param_groups"]
    assert groups[0]["weight_decay"] == 0.25


def test_a_finished_run_goes_on_with_more_epochs_and_one_with_fewer_is_refused(run, small_config, small_data):
    out, _ = run
    assert train(small_config, small_data, out, say=silent).step == STEPS
    more = apply_overrides(small_config, ["train.epochs=0.8"])
    status = train(more, small_data, out, accept_changes=["train.epochs"], say=silent)
    assert (status.state, status.first_step) == ("finished", STEPS)
    assert status.step == status.total_steps > STEPS
    assert [entry["step"] for entry in losses(out) if "loss" in entry] == [*range(1, status.step + 1)]
    assert rates(out)[status.step] < rates(out)[STEPS + 1]  # the schedule ends at the new end
    fewer = apply_overrides(small_config, ["train.epochs=0.4"])
    with pytest.raises(
        KelronError, match=r"with train\.epochs 0\.4 the run ends at step \d+, and the checkpoint is of"
    ):
        train(fewer, small_data, out, accept_changes=["train.epochs"], say=silent)
    assert latest(open_store(out / "store")).step == status.step


def test_what_a_checkpoint_did_not_know_of_counts_as_its_default(tmp_path, small_config, small_data, cut):
    """A run that was begun by a version without a field goes on."""
    shutil.copytree(cut[0] / "store", tmp_path / "store")
    from kelron_lib.data import fingerprint
    from kelron_lib.manifest import compare

    manifest = latest(open_store(tmp_path / "store"))
    del manifest.config["train"]["weight_decay"]
    here = {"data_fingerprint": fingerprint(small_data)}
    assert compare(manifest, config=to_dict(small_config), **here) == []
    other = apply_overrides(small_config, ["train.weight_decay=0.1"])
    assert compare(manifest, config=to_dict(other), **here) == ["train.weight_decay"]


def test_the_command_line_takes_both(run, small_data, capsys):
    out, _ = run
    arguments = [*SETTINGS, "--set", "lora.r=8", "--data", str(small_data), "--out", str(out)]
    assert main(["resume", *arguments, "--accept-change", "lora.r"]) == 2
    assert capsys.readouterr().err.startswith("kelron: --accept-change lora.r: this decides what the run is")
    assert main(["train", *arguments, "--fresh", "--accept-change", "train.epochs"]) == 2
    assert "leave one out" in capsys.readouterr().err
    arguments = [*SETTINGS, "--set", "train.learning_rate=1e-3", "--data", str(small_data), "--out", str(out)]
    assert main(["resume", *arguments, "--accept-change", "train.learning_rate"]) == 0


# --- a fresh start ---


def test_a_fresh_start_loses_nothing_and_the_old_run_can_go_on(run, small_config, small_data, tmp_path):
    out, step = run
    before = snapshot(out / "store")
    config = apply_overrides(small_config, ["train.seed=2"])
    said = []
    status = train(config, small_data, out, fresh=True, clock=ticking_clock(12), say=said.append)
    assert (status.state, status.first_step) == ("budget", 0)
    loud = [line for line in said if line.startswith("FRESH START")]
    assert loud == [
        f"FRESH START: what folder {out / 'store'} held is kept in {out / 'store'}/before-1, a store itself; this run "
        "begins at step 0"
    ]
    assert snapshot(out / "store" / "before-1") == before
    assert len(sessions(out)) == 1
    assert sessions(out)[0]["fresh"] == "what the store held before is in its folder before-1"
    assert verify_store(open_store(out / "store")).ok
    new = train(config, small_data, out, must_resume=True, say=silent)
    assert (new.first_step, new.step) == (status.step, STEPS)

    old = apply_overrides(small_config, [f"store.url={out / 'store' / 'before-1'}"])
    assert verify_store(open_store(old.store.url)).ok
    again = train(old, tmp_path / "no-data", tmp_path / "old", must_resume=True, say=silent)
    assert (again.state, again.first_step) == ("finished", step)
    whole = train(small_config, small_data, tmp_path / "whole", say=silent)
    assert whole.state == "finished"
    assert adapter(tmp_path / "old") == adapter(tmp_path / "whole")
    assert adapter(out) != adapter(tmp_path / "whole")


def test_a_fresh_start_in_an_empty_store_says_so(small_config, small_data, tmp_path):
    said = []
    train(small_config, small_data, tmp_path, fresh=True, clock=ticking_clock(12), say=said.append)
    assert f"FRESH START: folder {tmp_path / 'store'} is empty; this run begins at step 0" in said
    assert not list((tmp_path / "store").glob("before-*"))


class Cut(Exception):
    """Where a process is killed."""


@pytest.mark.parametrize("number", range(10))
def test_set_aside_cut_off_at_any_change_loses_nothing(tmp_path, monkeypatch, number):
    """After a cut the old run is whole in one of the two places, and never a mixture of runs."""
    store = open_store(tmp_path / "store", write=True)
    for step in (100, 120):
        save(store, tmp_path / "work", step)
    store.write_bytes("sessions.json", b"[]\n")
    before = snapshot(store.root)
    changes = [0]

    def counted(method):
        def change(self, *args):
            if changes[0] == number:
                raise Cut
            changes[0] += 1
            return method(self, *args)

        return change

    with monkeypatch.context() as patched:
        for name in ("put_files", "delete"):
            patched.setattr(FolderStore, name, counted(getattr(FolderStore, name)))
        with pytest.raises(Cut):
            set_aside(store, tmp_path / "scratch")
    here = {path: content for path, content in snapshot(store.root).items() if not path.startswith(aside.ASIDE)}
    there = snapshot(store.root / "before-1") if (store.root / "before-1").exists() else {}
    assert here == before or there == before
    if here != before:
        assert "LATEST.json" not in here
        assert latest(open_store(tmp_path / "store" / "before-1")).step == 120
        # What may be left of it here is never taken for a checkpoint once its manifests are gone.
        if not any("MANIFEST" in path for path in here):
            assert restore(store, tmp_path / "into", say=silent) is None
    else:
        assert verify_store(store).checkpoints[0].latest
    set_aside(store, tmp_path / "scratch")
    assert not [path for path in snapshot(store.root) if not path.startswith(aside.ASIDE)]
    copies = [snapshot(folder) for folder in sorted(store.root.glob("before-*"))]
    assert before in copies
    assert not (tmp_path / "scratch").exists()


def test_what_cannot_be_read_is_not_removed(tmp_path, monkeypatch):
    store = open_store(tmp_path / "store", write=True)
    save(store, tmp_path / "work", 100)
    before = snapshot(store.root)
    monkeypatch.setattr(FolderStore, "sha256", lambda self, path: "0" * 64)
    with pytest.raises(KelronError, match=r"did not arrive intact in before-1 .*nothing was removed"):
        set_aside(store, tmp_path / "scratch")
    assert before.items() <= snapshot(store.root).items()


# --- on the Hub ---


@pytest.mark.parametrize("kind", ["bucket", "repo"])
def test_on_the_hub_what_is_set_aside_is_a_store_too(kind, hub, tmp_path):
    store = Session(hub, kind).store
    for step in (100, 120):
        save(store, tmp_path / "work", step)
    assert set_aside(store, tmp_path / "scratch") == "before-1"
    assert restore(store, tmp_path / "none", say=silent) is None
    save(store, tmp_path / "work", 10, salt="new")
    assert latest(store).step == 10
    old = Session(hub, kind).store
    old.prefix += "/before-1"
    assert verify_store(old).ok
    assert restore(old, tmp_path / "into", say=silent).step == 120
    assert latest(old).data_fingerprint == RUN["data_fingerprint"]


@pytest.fixture
def unreachable(hub, tmp_path, monkeypatch):
    """Stores under hf:// are out of reach; folders are not."""

    def open_one(url, **how):
        if not str(url).startswith("hf://"):
            return open_store(url, **how)
        store = Session(hub, "bucket", endpoint="http://127.0.0.1:9").store
        store.prepare()
        return store

    monkeypatch.setattr(train_module, "open_store", open_one)


def test_out_of_reach_never_begins_from_scratch_unless_told(unreachable, small_config, small_data, tmp_path):
    out = tmp_path / "run"
    config = apply_overrides(small_config, ["store.url=hf://buckets/me/kelron/run-1"])
    for how in ({}, {"must_resume": True}, {"accept_changes": ["train.epochs"]}):
        with pytest.raises(KelronError, match="cannot be reached"):
            train(config, small_data, out, say=silent, **how)
        assert not list(out.glob("**/checkpoint-*"))
        assert not (out / "store").exists()
    said = []
    status = train(config, small_data, out, fresh=True, say=said.append)
    assert (status.state, status.first_step) == ("finished", 0)
    loud = next(line for line in said if line.startswith("FRESH START"))
    assert "cannot be reached" in loud
    assert f"run-1 is not touched. For later sessions of this run: store.url={out / 'store'}" in loud
    assert verify_store(open_store(out / "store")).ok
    assert json.loads((out / "config.json").read_text())["store"]["url"] == str(out / "store")


def test_a_refusal_of_the_hub_is_no_outage(hub, small_config, small_data, tmp_path, monkeypatch):
    def refused(url, **how):
        store = Session(hub, "bucket", token="hf_wrong").store
        store.prepare()
        return store

    monkeypatch.setattr(train_module, "open_store", refused)
    with pytest.raises(KelronError, match="token"):
        train(small_config, small_data, tmp_path / "run", fresh=True, say=silent)
    assert not (tmp_path / "run" / "store").exists()
