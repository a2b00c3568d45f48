"""The end at a plateau, the same wherever a run is cut; the best checkpoint kept, and exported where it should be."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
from conftest import ticking_clock
from test_checkpoint import save
from test_processes import config as processes_config  # noqa: F401
from test_processes import data as few_data  # noqa: F401
from test_train import STEPS, adapter, folder_bytes, losses, silent

from kelron_lib.config import RunConfig, apply_overrides, load_preset
from kelron_lib.convergence import Validation, best, plateau, validations
from kelron_lib.errors import KelronError
from kelron_lib.manifest import Manifest, Pointer
from kelron_lib.store_tools import list_store
from kelron_lib.stores import open_store
from kelron_lib.train import train
from kelron_lib.verify import latest, list_checkpoints, verify_store

RISING = ("train.learning_rate=3e-2", "train.eval_steps=2", "train.save_steps=5", "train.min_improvement=0.02")
"""A rate at which the small run's validation loss rises from its first validation on."""
BEST, END = 2, 6
"""The lowest loss, and the second validation without an improvement after it."""


def log(*losses, every=100):
    """A trainer's log with these validation losses, training losses between them."""
    entries = []
    for number, loss in enumerate(losses, start=1):
        entries += [{"step": number * every, "loss": 9.0}, {"step": number * every, "eval_loss": loss}]
    return entries


def ends(losses, *, total=1000, **train):
    """The number of the validation at which a run with these losses ends; None where it does not."""
    overrides = [f"train.{name}={value}" for name, value in {"epochs": 1, "least_epochs": 0, **train}.items()]
    config = apply_overrides(RunConfig(), overrides)
    reasons = [plateau(config, log(*losses[:number]), total) for number in range(1, len(losses) + 1)]
    return next((number for number, reason in enumerate(reasons, start=1) if reason), None)


# --- the judgement ---


@pytest.mark.parametrize(
    ("losses", "train", "at"),
    [
        ([3.0, 2.0, 1.0, 0.5, 0.25], {"patience": 1}, None),
        ([3.0, 2.0, 2.0, 2.0, 2.0], {"patience": 2}, 4),
        ([3.0, 2.0, 2.0, 2.0, 2.0], {"patience": 0}, None),
        ([3.0, 2.0, 2.5, 1.9, 2.5, 1.8], {"patience": 2}, None),  # every second one is better
        ([2.0, 1.995, 1.99, 1.985], {"patience": 3, "min_improvement": 0.01}, 4),  # falls, but by too little
        ([2.0, 1.99, 1.975, 1.97, 1.955], {"patience": 2, "min_improvement": 0.01}, None),  # small falls add up
        ([2.0, 1.9999], {"patience": 1, "min_improvement": 0}, None),
        ([2.0, 2.0], {"patience": 1, "min_improvement": 0}, 2),
        ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], {"patience": 1, "least_epochs": 0.5}, 5),  # 1000 steps, one every 100
        ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], {"patience": 1, "epochs": 3, "least_epochs": 1}, 4),
    ],
)
def test_a_run_ends_when_the_loss_no_longer_falls(losses, train, at):
    assert ends(losses, **train) == at


def test_the_first_attempts_loss_would_have_ended_it():
    """Its loss moved between 0.051 and 0.056 from step 2020 to 4240."""
    before = [1.2, 0.4, 0.12, 0.07]
    moving = [0.053, 0.051, 0.055, 0.052, 0.056, 0.0515, 0.054, 0.053]
    assert ends([*before, *moving], total=4375, patience=3) == len(before) + 5
    assert ends([*before, *moving], total=4375, patience=3, least_epochs=1) is None  # one whole epoch was right


def test_the_reason_says_all_that_one_needs():
    config = apply_overrides(RunConfig(), ["train.patience=2", "train.least_epochs=0"])
    assert plateau(config, log(2.0, 1.5, 1.6, 1.499), 1000) == (
        "plateau: no fall of the validation loss by 1 % in 2 validations (lowest 1.4990 at step 400); ended after step "
        "400 of 1000"
    )
    assert plateau(config, [], 1000) == ""


def test_the_best_is_the_lowest_and_the_first_of_equals():
    assert best(log(3.0, 1.0, 2.0, 1.0)) == Validation(200, 1.0)
    assert best([{"step": 1, "loss": 0.1}]) is None
    assert len(validations(log(1.0, 2.0))) == 2


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["train.patience=-1"], "patience is -1"),
        (["train.min_improvement=1"], "min_improvement is 1: it has to be at least 0 and below 1"),
        (["train.least_epochs=-1"], "least_epochs is -1"),
        (["train.patience=1", "train.least_epochs=3"], "least_epochs 3 is beyond train.epochs .2."),
        (["store.export=newest"], "export is 'newest': use auto, best or last"),
    ],
)
def test_a_bad_setting_is_one_clear_line(overrides, words):
    with pytest.raises(KelronError, match=words) as told:
        apply_overrides(RunConfig(), overrides)
    assert "\n" not in str(told.value)
    assert load_preset("kelron-14b-t4x2").train.patience == 3
    assert RunConfig().train.patience == 0


# --- a run ---


@pytest.fixture(scope="module")
def rising(small_config):
    return apply_overrides(small_config, [*RISING, "train.patience=2", "train.least_epochs=0"])


@pytest.fixture(scope="module")
def ended(rising, small_data, tmp_path_factory):
    """A run that its plateau ended."""
    out = tmp_path_factory.mktemp("ended") / "run"
    status = train(rising, small_data, out, say=silent)
    assert (status.state, status.step, status.total_steps) == ("finished", END, STEPS)
    return out, status


def stored_adapter(out, step):
    return (out / "store" / f"step-{step:06d}" / "adapter_model.safetensors").read_bytes()


def test_the_loss_before_the_first_step_is_no_state_of_the_run():
    before = {"step": 0, "eval_loss": 0.5}
    assert best([before]) is None
    assert best([before, {"step": 4, "eval_loss": 2.0}]) == Validation(4, 2.0)
    assert plateau(apply_overrides(RunConfig(), ["train.patience=1"]), [before], 100) == ""


def test_a_plateau_ends_it_and_the_best_is_kept_named_and_exported(ended):
    out, status = ended
    evaluated = {entry["step"]: entry["eval_loss"] for entry in losses(out) if "eval_loss" in entry}
    assert list(evaluated) == [0, 2, 4, END]
    assert min(evaluated, key=evaluated.get) == BEST
    loss = f"{evaluated[BEST]:.4f}"
    assert status.reason == (
        f"plateau: no fall of the validation loss by 2 % in 2 validations (lowest {loss} at step {BEST}); ended after "
        f"step {END} of {STEPS}; the adapter is of step {BEST}, where the validation loss was lowest ({loss})"
    )
    store = open_store(out / "store")
    manifest = latest(store)
    assert (manifest.step, manifest.best_step, manifest.best_loss) == (END, BEST, evaluated[BEST])
    assert verify_store(store).ok
    assert {info.step: info.best for info in list_checkpoints(store) if info.best} == {BEST: True}
    assert [line.split(",")[0] for line in verify_store(store).lines() if ", best, " in line] == [f"step {BEST}"]
    assert [line.split(",")[0] for line in list_store(store).lines() if ", best, " in line] == [f"step {BEST}"]
    assert adapter(out) == stored_adapter(out, BEST) != stored_adapter(out, END)
    recorded = json.loads((out / "sessions.json").read_text())
    assert [(session["reason"], session["detail"]) for session in recorded] == [("finished", status.reason)]
    assert not (out / "work" / "best").exists()


@pytest.mark.parametrize("budget", [9, 12, 15])
def test_a_cut_run_ends_at_the_same_step_bit_equal(budget, ended, rising, small_data, tmp_path):
    whole, done = ended
    first = train(rising, small_data, tmp_path, clock=ticking_clock(budget), say=silent)
    assert first.state == "budget"
    assert 0 < first.step < END
    for path in tmp_path.iterdir():
        if path.name != "store":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    last = train(rising, tmp_path / "data", tmp_path, must_resume=True, say=silent)
    assert (last.state, last.first_step, last.step, last.reason) == ("finished", first.step, END, done.reason)
    assert losses(tmp_path) == losses(whole)
    assert adapter(tmp_path) == adapter(whole)
    assert stored_adapter(tmp_path, END) == stored_adapter(whole, END)


@pytest.mark.parametrize(("export", "step"), [("auto", BEST), ("best", BEST), ("last", END)])
def test_a_run_that_ended_is_not_trained_on_and_gives_the_adapter_that_is_asked_for(
    export, step, ended, rising, small_data, tmp_path
):
    out = tmp_path / "run"
    shutil.copytree(ended[0] / "store", out / "store")
    config = apply_overrides(rising, [f"store.export={export}"])
    status = train(config, small_data, out, say=silent)
    assert (status.state, status.first_step, status.step) == ("finished", END, END)
    assert status.reason.startswith("the run was already finished (plateau: ")
    assert adapter(out) == stored_adapter(out, step)


def test_it_goes_on_when_its_patience_is_changed_and_the_last_is_exported(ended, rising, small_data, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(ended[0] / "store", out / "store")
    config = apply_overrides(rising, ["train.patience=0"])
    status = train(config, small_data, out, accept_changes=["train.patience"], say=silent)
    assert (status.first_step, status.step, status.reason) == (END, STEPS, f"all {STEPS} steps are done")
    assert adapter(out) == stored_adapter(out, STEPS)
    manifest = latest(open_store(out / "store"))
    assert manifest.best_step == BEST
    assert (out / "store" / f"step-{BEST:06d}").is_dir()  # from another session, and older than the last two
    assert len(list((out / "store").glob("step-*"))) == 3


def test_a_best_that_is_lost_is_said(ended, rising, small_data, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(ended[0] / "store", out / "store")
    damaged = out / "store" / f"step-{BEST:06d}" / "adapter_model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    status = train(rising, small_data, out, say=silent)
    assert status.reason.endswith(
        f"the adapter is the last one: the store does not hold the best one, of step {BEST}, intact"
    )
    assert adapter(out) == stored_adapter(out, END)


def test_where_the_loss_falls_to_the_end_nothing_changes(small_config, small_data, tmp_path):
    """Looking for a plateau, and making a checkpoint of every best, leave the run as it was."""
    train(small_config, small_data, tmp_path / "without", say=silent)
    overrides = ["train.patience=1", "train.least_epochs=0.1", "store.export=best"]
    config = apply_overrides(small_config, overrides)
    status = train(config, small_data, tmp_path / "with", say=silent)
    assert (status.step, status.reason) == (STEPS, f"all {STEPS} steps are done")
    assert adapter(tmp_path / "with") == adapter(tmp_path / "without")
    assert losses(tmp_path / "with") == losses(tmp_path / "without")


def test_two_processes_end_at_the_same_plateau(processes_config, few_data, tmp_path):  # noqa: F811
    overrides = ["train.eval_steps=1", "train.patience=2", "train.least_epochs=0", "train.min_improvement=0.9"]
    config = apply_overrides(processes_config, overrides)
    one = train(config, few_data, tmp_path / "one", say=silent)
    two = train(apply_overrides(config, ["session.processes=2"]), few_data, tmp_path / "two", say=silent)
    assert (one.state, one.step) == (two.state, two.step) == ("finished", 3)
    assert two.reason.startswith("plateau: ")
    again = train(apply_overrides(config, ["session.processes=2"]), few_data, tmp_path / "two", say=silent)
    assert (again.first_step, again.step) == (3, 3)
    assert folder_bytes(tmp_path / "two" / "adapter").keys() == folder_bytes(tmp_path / "one" / "adapter").keys()


# --- the store ---


def test_manifests_of_before_stay_as_they_were_sealed(tmp_path):
    """What is absent is not written, so that their pointers still fit."""
    store = open_store(tmp_path / "store", write=True)
    manifest = save(store, tmp_path / "work", 100)
    assert (manifest.best_step, manifest.best_loss, manifest.changes) == (None, None, [])
    assert not {"best_step", "best_loss", "changes"} & set(json.loads(manifest.encode()))
    best_of_all = replace(manifest, best_step=0, best_loss=0.0)
    assert Manifest.decode(best_of_all.encode(), "here") == best_of_all
    assert Pointer.to(best_of_all) != Pointer.to(manifest)
