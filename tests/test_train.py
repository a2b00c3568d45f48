"""Training on the shipped tiny base: where a run is cut, by what, and what it may cost."""

import contextlib
import json
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from conftest import SMALL, ticking_clock
from dataset_files import drop_first_row

from kelron_lib.config import apply_overrides, to_dict
from kelron_lib.data import fingerprint
from kelron_lib.dataset import require_made_for
from kelron_lib.errors import KelronError
from kelron_lib.lease import LEASE, Lease, ask_to_stop
from kelron_lib.resume import require_this_run
from kelron_lib.runtime import exclusive
from kelron_lib.session import make_status, read_status, write_status
from kelron_lib.store import FolderStore
from kelron_lib.stores import open_store
from kelron_lib.train import train
from kelron_lib.verify import latest, verify_store

STEPS = 12


def silent(line):
    pass


def losses(out):
    return json.loads((out / "losses.json").read_text())


def assert_close(one, other, steps):
    """Two lists of losses are those of the same run but for the order of floating-point additions."""
    assert [entry["step"] for entry in one] == [entry["step"] for entry in other]
    assert one[-1]["step"] == steps
    for a, b in zip(one, other, strict=True):
        assert a.keys() == b.keys()
        assert list(a.values()) == pytest.approx(list(b.values()), rel=1e-4)


def adapter(out):
    return (out / "adapter" / "adapter_model.safetensors").read_bytes()


def folder_bytes(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def uninterrupted(small_config, small_data, tmp_path_factory):
    out = tmp_path_factory.mktemp("uninterrupted")
    status = train(small_config, small_data, out, say=silent)
    assert (status.state, status.step, status.total_steps) == ("finished", STEPS, STEPS)
    return out


@pytest.fixture(scope="module")
def off_the_grid(small_config, small_data, tmp_path_factory):
    """Config and results of an uninterrupted run whose last step is none at which it saves or validates anyway."""
    config = apply_overrides(small_config, ["train.save_steps=5", "train.eval_steps=7"])
    assert STEPS % 5
    assert STEPS % 7
    out = tmp_path_factory.mktemp("off_the_grid")
    train(config, small_data, out, say=silent)
    return config, out


@pytest.mark.parametrize("budgets", [(21,), (15, 15)], ids=["in two", "in three"])
def test_a_run_cut_by_its_budget_ends_bit_equal(budgets, uninterrupted, small_config, small_data, tmp_path):
    assert_cut_is_bit_equal(budgets, uninterrupted, small_config, small_data, tmp_path)


def test_a_run_that_ends_between_two_saves_ends_bit_equal_too(off_the_grid, small_data, tmp_path):
    config, whole = off_the_grid
    assert_cut_is_bit_equal((15,), whole, config, small_data, tmp_path)
    saved = sorted(path.name for path in (whole / "store").glob("step-*"))
    assert saved == ["step-000010", "step-000012"]
    assert losses(whole)[-1]["step"] == STEPS


def test_a_run_that_was_asked_to_stop_goes_on_bit_equal(uninterrupted, small_config, small_data, tmp_path, monkeypatch):
    monkeypatch.setattr(FolderStore, "beat_seconds", 0.05)
    told = []

    def say(line):
        if line.startswith("starting at step 0"):  # the session trains now
            told.append(ask_to_stop(FolderStore(tmp_path / "store")))

    first = train(small_config, small_data, tmp_path, say=say)
    assert told[0] is not None
    assert (first.state, first.first_step) == ("stopped", 0)
    assert 0 < first.step < STEPS
    assert first.reason == f"it was asked to stop; {STEPS - first.step} steps are left for the next one"
    last = train(small_config, small_data, tmp_path, must_resume=True, say=silent)
    assert (last.state, last.first_step) == ("finished", first.step)
    assert adapter(tmp_path) == adapter(uninterrupted)
    assert losses(tmp_path) == losses(uninterrupted)


def assert_cut_is_bit_equal(budgets, whole, config, small_data, tmp_path):
    """A run in sessions of these budgets, each with nothing but the store of those before, is the whole one."""
    data, steps, said = tmp_path / "data", [], []
    shutil.copytree(small_data, data)
    for budget in budgets:
        status = train(config, data, tmp_path, clock=ticking_clock(budget), say=silent)
        assert status.state == "budget"
        steps.append(status.step)
        for path in tmp_path.iterdir():  # what the next session's machine does not have
            if path.name != "store":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert steps == sorted(set(steps))
    assert steps[0] > 0
    assert steps[-1] < STEPS
    status = train(config, data, tmp_path, must_resume=True, say=said.append)
    assert [line for line in said if "dataset" in line] == [
        f"{data} held no dataset: it was taken from folder {tmp_path / 'store'}, verified"
    ]
    assert folder_bytes(data) == folder_bytes(small_data)
    assert (status.state, status.first_step, status.step) == ("finished", steps[-1], STEPS)
    assert adapter(tmp_path) == adapter(whole)
    assert losses(tmp_path) == losses(whole)
    recorded = json.loads((tmp_path / "sessions.json").read_text())
    assert [s["reason"] for s in recorded] == ["budget"] * len(budgets) + ["finished"]
    assert [s["last_step"] for s in recorded] == [*steps, STEPS]
    assert [s["first_step"] for s in recorded] == [0, *steps]


def test_training_lowers_the_validation_loss_and_keeps_two_checkpoints(uninterrupted):
    trained = [entry["loss"] for entry in losses(uninterrupted) if "loss" in entry]
    validation = [entry["eval_loss"] for entry in losses(uninterrupted) if "eval_loss" in entry]
    assert len(trained) == STEPS
    # A step's loss is of three samples, identity or business as they come: only the same samples can be compared.
    assert validation == sorted(validation, reverse=True)
    assert validation[-1] < 0.95 * validation[0]
    store = open_store(uninterrupted / "store")
    assert verify_store(store).ok
    assert latest(store).step == STEPS
    assert sorted(p.name for p in (uninterrupted / "store").glob("step-*")) == ["step-000009", "step-000012"]


def test_a_step_is_the_same_in_one_pass_or_in_several(small_config, small_data, tmp_path):
    """Accumulation changes nothing but the order of additions."""
    found = []
    for rows, passes in ((4, 1), (1, 4)):
        overrides = [
            f"train.rows_per_pass={rows}",
            f"train.passes_per_step={passes}",
            "train.epochs=0.2",
            "lora.dropout=0",
        ]
        config = apply_overrides(small_config, [*overrides, "train.learning_rate=1e-3", "train.save_steps=100"])
        train(config, small_data, tmp_path / str(rows), say=silent)
        found.append(losses(tmp_path / str(rows)))
    assert_close(*found, steps=3)


def test_a_sample_that_fits_no_row_is_named(small_config, small_data, tmp_path):
    config = apply_overrides(small_config, ["data.max_tokens=60", "evaluate.max_new_tokens=60"])
    with pytest.raises(KelronError, match=r"row .+: the row has \d+ tokens and data.max_tokens is 60"):
        train(config, small_data, tmp_path, say=silent)


def test_embedding_and_head_are_not_upcast_and_not_trained(small_config):
    """In float16 first, as a T4 holds them: the tiny preset's own float32 could not show an upcast."""
    import torch

    from kelron_lib.engine.prepare import prepare
    from kelron_lib.model import add_lora, load_base

    base, _ = load_base(small_config)
    base.get_input_embeddings().to(torch.float16)
    base.lm_head.to(torch.float16)
    model = prepare(add_lora(base, small_config), embedding="device")
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name for name in trained)
    layers = base.config.num_hidden_layers
    assert len(trained) == 2 * 7 * layers  # A and B on the seven linear layers of each block
    packed = [p for p in model.parameters() if p.dtype == torch.uint8]
    assert len(packed) == 7 * layers
    assert base.lm_head.weight.dtype == base.get_input_embeddings().weight.dtype == torch.float16


def test_a_validation_pass_leaves_gradients_alone(small_config):
    """bitsandbytes repacks 4-bit weights in eval mode on some CPUs, which used to end all learning silently."""
    import torch

    from kelron_lib.model import add_lora, load_base

    base, _ = load_base(small_config)
    model = add_lora(base, small_config)
    ids = torch.arange(40).reshape(2, 20)

    def gradients():
        model.zero_grad()
        model.train()
        torch.manual_seed(0)
        model(input_ids=ids, labels=ids).loss.backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    before = gradients()
    model.eval()
    with torch.no_grad():
        model(input_ids=ids)
    after = gradients()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_finished_run_is_not_trained_again(uninterrupted, small_config, small_data):
    before, recorded = adapter(uninterrupted), (uninterrupted / "sessions.json").read_bytes()
    status = train(small_config, small_data, uninterrupted, say=silent)
    assert (status.state, status.reason) == ("finished", "the run was already finished")
    assert adapter(uninterrupted) == before
    for place in (uninterrupted, uninterrupted / "store"):
        assert (place / "sessions.json").read_bytes() == recorded


def test_a_session_that_only_fetches_a_finished_run_is_none_of_it(uninterrupted, small_config, small_data, tmp_path):
    shutil.copytree(uninterrupted / "store", tmp_path / "store")
    train(small_config, small_data, tmp_path, say=silent)
    assert adapter(tmp_path) == adapter(uninterrupted)
    assert (tmp_path / "sessions.json").read_bytes() == (uninterrupted / "sessions.json").read_bytes()


@pytest.mark.parametrize("override", ["train.learning_rate=1e-4", "lora.alpha=8", "train.seed=2"])
def test_another_config_is_refused_with_the_key_and_leaves_the_runs_own(
    override, uninterrupted, small_config, small_data, tmp_path
):
    shutil.copytree(uninterrupted, tmp_path, dirs_exist_ok=True)
    with pytest.raises(KelronError, match=override.split("=")[0].replace(".", r"\.")):
        train(apply_overrides(small_config, [override]), small_data, tmp_path, say=silent)
    assert verify_store(open_store(tmp_path / "store")).ok
    assert json.loads((tmp_path / "config.json").read_text()) == to_dict(small_config)
    assert adapter(tmp_path) == adapter(uninterrupted)
    for name in ("status.json", "sessions.json"):
        assert (tmp_path / name).read_bytes() == (uninterrupted / name).read_bytes()


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("differing", ["lora.r", "data_fingerprint"])
def test_another_run_is_told_at_once_though_somebody_may_be_writing(
    differing, processes, run, small_config, small_data, monkeypatch
):
    """Nobody is watched for that, no process is started, and nothing is written."""
    config, data = small_config, shutil.copytree(small_data, run[0] / "rows")
    if differing == "lora.r":
        config = apply_overrides(config, ["lora.r=8"])
    else:
        drop_first_row(data)
    store = open_store(run[0] / "store")
    store.write_bytes(LEASE, replace(Lease.of_this_process(), host="another-host").encode())
    before = {path: path.read_bytes() for path in (run[0] / "store").rglob("*") if path.is_file()}
    monkeypatch.setattr("kelron_lib.train.processes_for", lambda config, gpus: processes)
    monkeypatch.setattr("kelron_lib.train.check_processes", lambda passes, processes: None)
    monkeypatch.setattr("kelron_lib.train.run_processes", lambda *args, **how: pytest.fail("processes were started"))
    monkeypatch.setattr("kelron_lib.lease.Writer.acquire", lambda *args: pytest.fail("the lease was asked for"))
    with pytest.raises(KelronError, match=rf"of another run \(differing: {differing}\)"):
        train(config, data, run[0], say=silent)
    assert {path: path.read_bytes() for path in (run[0] / "store").rglob("*") if path.is_file()} == before


def test_an_older_checkpoint_that_fits_is_left_for_restoring_to_judge(run, small_config, small_data, monkeypatch):
    store, own = open_store(run[0] / "store"), fingerprint(small_data)
    fits, other = latest(store), replace(latest(store), data_fingerprint="another's")
    for found, refused in (([other, fits], False), ([fits], False), ([], False), ([other], True)):
        monkeypatch.setattr("kelron_lib.resume.manifests", lambda store, found=found: found)
        with pytest.raises(KelronError) if refused else contextlib.nullcontext():
            require_this_run(small_config, store, own, data=small_data)


def test_other_data_is_refused(uninterrupted, small_config, small_data, tmp_path):
    shutil.copytree(uninterrupted / "store", tmp_path / "store")
    shutil.copytree(small_data, tmp_path / "data")
    drop_first_row(tmp_path / "data")
    place = f"name an empty folder with --data instead of {tmp_path / 'data'}, and it is taken from there"
    own = f"the run's own dataset is in the store: {place}"
    with pytest.raises(KelronError, match=rf"differing: data_fingerprint\).*; {re.escape(own)}$"):
        train(small_config, tmp_path / "data", tmp_path, say=silent)
    assert train(small_config, tmp_path / "own", tmp_path, say=silent).state == "finished"


def test_other_data_is_refused_without_a_hint_where_the_store_has_none(
    uninterrupted, small_config, small_data, tmp_path
):
    flat = shutil.copytree(uninterrupted / "store" / "step-000009", tmp_path / "download")
    shutil.copytree(small_data, tmp_path / "data")
    drop_first_row(tmp_path / "data")
    with pytest.raises(KelronError, match=r"differing: data_fingerprint\).*another store\.url$"):
        train(apply_overrides(small_config, [f"store.url={flat}"]), tmp_path / "data", tmp_path, say=silent)


def test_what_a_run_was_trained_on_is_recorded_though_the_folder_changes_meanwhile(small_config, small_data, tmp_path):
    shutil.copytree(small_data, tmp_path / "data")

    def change(line):
        if line.startswith("starting at step 0"):
            drop_first_row(tmp_path / "data")

    train(small_config, tmp_path / "data", tmp_path, clock=ticking_clock(15), say=change)
    assert fingerprint(tmp_path / "data") != fingerprint(small_data)
    assert latest(open_store(tmp_path / "store")).data_fingerprint == fingerprint(small_data)
    with pytest.raises(KelronError, match="data_fingerprint"):
        train(small_config, tmp_path / "data", tmp_path, say=silent)


def test_a_dataset_that_changes_while_it_is_loaded_is_not_trained_on(small_config, small_data, tmp_path, monkeypatch):
    import kelron_lib.trainer as module

    built = module.build_trainer
    shutil.copytree(small_data, tmp_path / "data")

    def changed(*args):
        drop_first_row(tmp_path / "data")
        return built(*args)

    monkeypatch.setattr(module, "build_trainer", changed)
    with pytest.raises(KelronError, match="was changed while the session began"):
        train(small_config, tmp_path / "data", tmp_path, say=silent)
    assert latest(open_store(tmp_path / "store")) is None


def test_a_damaged_dataset_in_the_store_is_refused_and_replaced_by_the_runs_own(
    uninterrupted, small_config, small_data, tmp_path
):
    shutil.copytree(uninterrupted / "store", tmp_path / "store")
    drop_first_row(tmp_path / "store" / "dataset")
    store = open_store(tmp_path / "store")
    assert not verify_store(store).ok
    with pytest.raises(KelronError, match=r"the dataset in .* is damaged \(dataset/train.parquet has \d+ bytes"):
        train(small_config, tmp_path / "data", tmp_path, say=silent)
    assert not (tmp_path / "data").exists()
    train(small_config, small_data, tmp_path, say=silent)
    assert verify_store(store).ok
    assert folder_bytes(tmp_path / "store" / "dataset").keys() == {*folder_bytes(small_data), "MANIFEST.json"}


@pytest.mark.parametrize("name", ["LATEST.json", "step-000012/MANIFEST.json", "step-000012/optimizer.pt"])
@pytest.mark.parametrize("must_resume", [False, True], ids=["train", "resume"])
def test_a_damaged_newest_checkpoint_costs_only_its_own_steps(
    name, must_resume, uninterrupted, small_config, small_data, tmp_path
):
    shutil.copytree(uninterrupted / "store", tmp_path / "store")
    damaged = tmp_path / "store" / name
    damaged.write_bytes(damaged.read_bytes()[:-1])
    found = STEPS if name == "LATEST.json" else 9
    said = []
    status = train(small_config, small_data, tmp_path, must_resume=must_resume, say=said.append)
    assert (status.first_step, status.step, status.state) == (found, STEPS, "finished")
    assert any(name in line and f"step {found} is used instead" in line for line in said), said
    assert adapter(tmp_path) == adapter(uninterrupted)


@pytest.mark.parametrize("name", ["LATEST.json", "step-000012/MANIFEST.json"])
def test_a_session_that_fails_on_a_damaged_store_tells_its_own_error(
    name, uninterrupted, small_config, small_data, tmp_path
):
    shutil.copytree(uninterrupted / "store", tmp_path / "store")
    (tmp_path / "store" / name).write_bytes(b"{}")
    with pytest.raises(KelronError, match=r"of another run \(differing: lora.alpha\)"):
        train(apply_overrides(small_config, ["lora.alpha=8"]), small_data, tmp_path, say=silent)
    status = read_status(tmp_path)
    assert (status.state, status.step) == ("failed", STEPS if name == "LATEST.json" else 9)
    assert "lora.alpha" in status.reason


def test_the_flat_layout_of_a_hub_download_resumes(uninterrupted, small_config, small_data, tmp_path):
    flat = tmp_path / "download"
    shutil.copytree(uninterrupted / "store" / "step-000009", flat)
    config = apply_overrides(small_config, [f"store.url={flat}"])
    command = r"`kelron data --preset tiny-cpu --set=data.rows=240 --out .*/out/data`$"
    with pytest.raises(KelronError, match=rf"no dataset in .*download: make it with {command}"):
        train(config, tmp_path / "out" / "data", tmp_path / "out", must_resume=True, say=silent)
    status = train(config, small_data, tmp_path / "out", must_resume=True, say=silent)
    assert (status.first_step, status.step) == (9, STEPS)
    shutil.rmtree(tmp_path / "out")
    status = train(config, tmp_path / "out" / "data", tmp_path / "out", must_resume=True, say=silent)
    assert (status.state, status.reason) == ("finished", "the run was already finished")
    assert adapter(tmp_path / "out") == adapter(uninterrupted)


def test_an_empty_store_is_not_resumed(small_config, small_data, tmp_path):
    with pytest.raises(KelronError, match="no checkpoint to resume from"):
        train(small_config, small_data, tmp_path / "run", must_resume=True, say=silent)
    assert not (tmp_path / "run").exists()
    shutil.copytree(small_data, tmp_path / "run" / "data")
    with pytest.raises(KelronError, match="no checkpoint to resume from"):
        train(small_config, tmp_path / "run" / "data", tmp_path / "run", must_resume=True, say=silent)
    assert read_status(tmp_path / "run").state == "failed"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("store.url={out}/nowhere/store", "create or mount"),
        ("store.url=hf://me/run", "no store on the Hub"),
    ],
)
def test_a_session_that_cannot_start_leaves_the_status_of_the_one_before(
    override, words, small_config, small_data, tmp_path
):
    config = apply_overrides(small_config, [override.format(out=tmp_path)])
    shutil.copytree(small_data, tmp_path / "data")
    with pytest.raises(KelronError, match=words):
        train(config, small_data, tmp_path, say=silent)
    status = read_status(tmp_path)
    assert (status.state, status.step) == ("failed", 0)
    assert re.search(words, status.reason)
    done = make_status("finished", "done", first_step=0, step=12, total_steps=12, seconds=1.0)
    write_status(tmp_path, done)
    with pytest.raises(KelronError, match=words):
        train(config, small_data, tmp_path, say=silent)
    assert read_status(tmp_path) == done


def test_a_session_that_fails_once_it_was_let_in_replaces_the_status_of_the_one_before(
    run, small_config, small_data, monkeypatch
):
    import kelron_lib.trainer as module

    def broken(*args):
        raise KelronError("no model here")

    out, step = run
    monkeypatch.setattr(module, "build_trainer", broken)
    with pytest.raises(KelronError, match="no model here"):
        train(small_config, small_data, out, say=silent)
    status = read_status(out)
    assert (status.state, status.reason, status.step) == ("failed", "no model here", step)


def test_a_session_that_was_killed_leaves_no_status_of_the_one_before(small_config, small_data, tmp_path):
    write_status(tmp_path, make_status("finished", "done", first_step=0, step=12, total_steps=12, seconds=1.0))
    code = (
        "import json, os, signal, sys\n"
        "from pathlib import Path\n"
        "from kelron_lib.config import from_dict\n"
        "from kelron_lib.train import train\n"
        "config, data, out = from_dict(json.loads(sys.argv[1])), Path(sys.argv[2]), Path(sys.argv[3])\n"
        "train(config, data, out, say=lambda line: os.kill(os.getpid(), signal.SIGKILL))\n"
    )
    arguments = [json.dumps(to_dict(small_config)), str(small_data), str(tmp_path)]
    killed = subprocess.run([sys.executable, "-c", code, *arguments], check=False)
    assert killed.returncode == -signal.SIGKILL
    with pytest.raises(KelronError, match=r"status\.json is missing"):
        read_status(tmp_path)


def test_a_used_up_session_says_so_before_it_loads_anything(small_config, small_data, tmp_path):
    status = train(small_config, small_data, tmp_path, clock=ticking_clock(0.5), say=silent)
    assert (status.state, status.step) == ("budget", 0)


def test_a_second_run_in_the_same_folder_is_refused(small_config, small_data, tmp_path):
    with exclusive(tmp_path), pytest.raises(KelronError, match="another run"):
        train(small_config, small_data, tmp_path, say=silent)


def test_numbers_that_are_none_stop_the_run_with_the_layers_name(small_data, tmp_path, monkeypatch, capsys):
    import kelron_lib.trainer as module
    from kelron_lib.__main__ import main

    settings = [word for override in SMALL for word in ("--set", override)]
    built = module.build_trainer

    def poisoned(*args):
        import torch

        trainer = built(*args)
        weight = next(p for name, p in trainer.model.named_parameters() if "layers.1" in name and "lora_B" in name)
        with torch.no_grad():
            weight.fill_(float("nan"))
        return trainer

    monkeypatch.setattr(module, "build_trainer", poisoned)
    code = main(["train", *settings, "--data", str(small_data), "--out", str(tmp_path)])
    err = capsys.readouterr().err
    assert code == 1  # the input is not to blame
    assert re.fullmatch(r"kelron: layer 1 \(.*gave NaN.*\n", err)
    status = json.loads((tmp_path / "status.json").read_text())
    assert (status["state"], status["step"]) == ("failed", 0)
    assert latest(open_store(tmp_path / "store")) is None


# --- the dataset and the config ---


def test_a_new_run_on_a_dataset_of_another_config_is_refused_and_says_how_to_go_on(small_config, small_data, tmp_path):
    shutil.copytree(small_data, tmp_path / "data")
    other = apply_overrides(small_config, ["data.rows=300", "data.seed=2"])
    for fresh in (False, True):
        with pytest.raises(KelronError) as refused:
            train(other, tmp_path / "data", tmp_path / "run", fresh=fresh, say=silent)
        assert str(refused.value) == (
            f"the dataset in {tmp_path / 'data'} was made with data.rows=240, data.seed=1 and the config has "
            "data.rows=300, data.seed=2: make it again with `kelron data --preset tiny-cpu --set=data.rows=300 "
            f"--set=data.seed=2 --out {tmp_path / 'data'} --replace`, or train on it with --set data.rows=240 "
            "--set data.seed=1"
        )
        assert not (tmp_path / "run" / "losses.json").exists()


def test_a_fresh_start_with_the_wrong_dataset_sets_nothing_aside(uninterrupted, small_config, small_data, tmp_path):
    shutil.copytree(uninterrupted, tmp_path / "run")
    before = sorted(path for path in (tmp_path / "run" / "store").iterdir())
    with pytest.raises(KelronError, match=r"was made with data\.seed=1 and the config has data\.seed=2"):
        train(apply_overrides(small_config, ["data.seed=2"]), small_data, tmp_path / "run", fresh=True, say=silent)
    assert sorted(path for path in (tmp_path / "run" / "store").iterdir()) == before


@pytest.mark.parametrize(
    ("then", "now"),
    [
        ({"max_tokens": 128}, "data.max_tokens=256"),
        ({"persona": "elsewhere/mine.yaml"}, "data.persona=mine.yaml"),
        ({"rows": None}, "data.rows=3000"),
        (None, "data.rows=300"),
        ("foreign", "data.rows=300"),
    ],
    ids=["longest row", "another place", "a key that was not there", "no config", "no config of Kelron's"],
)
def test_what_does_not_change_the_rows_is_not_refused(then, now, small_config, small_data, tmp_path):
    folder = shutil.copytree(small_data, tmp_path / "data")
    made = json.loads((folder / "config.json").read_text())
    if isinstance(then, dict):
        made["data"] = {key: value for key, value in (made["data"] | then).items() if value is not None}
    (folder / "config.json").write_text(json.dumps({"features": []} if then == "foreign" else made))
    if then is None:
        (folder / "config.json").unlink()
    require_made_for(apply_overrides(small_config, [now]), folder)


def test_a_run_that_was_begun_goes_on_with_its_dataset_whatever_that_says(run, small_config, small_data, tmp_path):
    folder = shutil.copytree(small_data, tmp_path / "data")
    made = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(made | {"data": made["data"] | {"seed": 9}}))
    assert train(small_config, folder, run[0], say=silent).state == "finished"


def test_a_cpu_has_no_number_for_the_trainer(monkeypatch, tmp_path):
    """transformers before 5.23 loads an optimizer's states to it, and torch knows no "cpu:0" there."""
    from transformers import TrainingArguments

    from kelron_lib.trainer import _Arguments

    monkeypatch.setattr(TrainingArguments, "device", property(lambda self: torch.device("cpu", 0)))
    assert str(_Arguments(output_dir=str(tmp_path)).device) == "cpu"
    monkeypatch.setattr(TrainingArguments, "device", property(lambda self: torch.device("cuda", 1)))
    assert str(_Arguments(output_dir=str(tmp_path)).device) == "cuda:1"


def test_a_small_model_trains_on_one_thread_and_leaves_the_others_to_whoever_asked(small_config, small_data, tmp_path):
    """Two threads wait for each other at every step where other work wants a processor: ten times as long was seen."""
    import torch
    from transformers import TrainerCallback

    from kelron_lib.processes import World
    from kelron_lib.trainer import build_trainer

    seen, before = set(), torch.get_num_threads()

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            seen.add(torch.get_num_threads())
            control.should_training_stop = True

    torch.set_num_threads(2)
    try:
        trainer = build_trainer(small_config, small_data, tmp_path, World())
        trainer.add_callback(Watch())
        trainer.train()
        assert (seen, torch.get_num_threads()) == ({1}, 2)
    finally:
        torch.set_num_threads(before)
