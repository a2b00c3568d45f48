"""A session on Kaggle before its work: mounts in both layouts, the token, the scratch disk, what is brought."""

import itertools
import json
import os
import shutil
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from conftest import ticking_clock
from test_checkpoint import save, snapshot

from kelron_lib import space
from kelron_lib.aside import ASIDE
from kelron_lib.config import resolve
from kelron_lib.errors import KelronError
from kelron_lib.kaggle_mounts import mounted_model, output_of
from kelron_lib.kaggle_session import TOKEN, TOKEN_FILE, attach, provide_token
from kelron_lib.lease import LEASE, Lease
from kelron_lib.model import base_name
from kelron_lib.preflight.bases import needs_hub
from kelron_lib.session import make_status, write_status
from kelron_lib.space import require_space
from kelron_lib.stores import open_store
from kelron_lib.train import train
from kelron_lib.verify import latest, verify_store

ADAPTER = "adapter/adapter_model.safetensors"
SECRET = "hf_" + "b" * 30
LAYOUTS = ("notebooks/me/kelron-02-train", "kelron-02-train")
ON_HUB = resolve("tiny-cpu", ["store.url=hf://buckets/me/kelron/run-1"])
BIG = resolve("kelron-14b-t4x2")


@pytest.fixture
def kaggle(tmp_path, monkeypatch):
    """An empty /kaggle tree, in whose working folder the test stands."""
    folder = tmp_path / "kaggle"
    (folder / "input").mkdir(parents=True)
    (folder / "working").mkdir()
    begin_session(monkeypatch, folder)
    return folder


def begin_session(monkeypatch, folder):
    """The test stands in this tree's working folder, in a session that begins now: this machine may be up for days."""
    monkeypatch.setenv("KELRON_KAGGLE", str(folder))
    monkeypatch.setenv("KELRON_SESSION_START", repr(time.time()))
    monkeypatch.chdir(folder / "working")


@pytest.fixture
def said():
    return []


def mount(kaggle, place, folder):
    shutil.copytree(folder, kaggle / "input" / place, symlinks=True)
    for path in (kaggle / "input" / place).rglob("*"):
        if path.is_file():
            path.chmod(0o444)


def output_with_store(tmp_path, name, *steps):
    folder = tmp_path / name
    run = folder / "runs" / "kelron"
    run.mkdir(parents=True)
    store = open_store(run / "store", write=True)
    for step in steps:
        save(store, tmp_path / f"{name}-work", step)
    (run / "store" / LEASE).write_text("of a session that was killed")
    return folder


# --- a day's session, and tomorrow's ---


@pytest.mark.parametrize("place", LAYOUTS)
def test_import_run_all_and_resume_tomorrow(place, cut, small_config, small_data, kaggle, said):
    """By hand, too: the output of today's notebook is attached to tomorrow's, wherever it is mounted."""
    today, step = cut
    mount(kaggle, f"{place}/runs/kelron", today)
    run = Path("runs/kelron")
    attach(small_config, run, store=True, say=said.append)
    assert said == [f"store: step {step}, from {kaggle / 'input' / place / 'runs/kelron/store'}"]
    status = train(small_config, run / "data", run, must_resume=True, say=lambda line: None)
    assert (status.state, status.first_step) == ("finished", step)
    assert not (kaggle / "working" / "runs" / "kelron" / "work").resolve().is_relative_to(kaggle / "working")
    assert (run / "adapter" / "adapter_model.safetensors").exists()


@pytest.fixture
def next_day(tmp_path, monkeypatch):
    """A function that begins a new session's /kaggle tree with these outputs attached; the test stands in it then."""
    days = itertools.count(2)

    def begin(attached):
        folder = tmp_path / f"day-{next(days)}" / "kaggle"
        (folder / "input").mkdir(parents=True)
        (folder / "working").mkdir()
        begin_session(monkeypatch, folder)
        for place, output in attached.items():
            mount(folder, place, output)
        return folder

    return begin


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("keeps_older", [False, True])
def test_resume_after_a_resume_by_hand(killed, keeps_older, cut, small_config, small_data, next_day, tmp_path, said):
    """The third session gets the output of the second, one of the same notebook, and often still that of the first."""
    whole = train(small_config, small_data, tmp_path / "whole", say=lambda line: None)
    first = tmp_path / "first"
    shutil.copytree(cut[0], first / "runs" / "kelron")
    run, trained = Path("runs/kelron"), "notebooks/me/my-02-train"
    second = next_day({trained: first}) / "working"
    attach(small_config, run, store=True, say=said.append)
    clock = ticking_clock(11)
    status = train(small_config, run / "data", run, clock=clock, must_resume=True, say=lambda line: None)
    assert (status.state, status.first_step) == ("budget", cut[1])
    assert cut[1] < status.step < whole.step
    if killed:  # what a session that ends so leaves
        (run / "status.json").unlink()
        (run / "store" / LEASE).write_bytes(Lease.of_this_process().encode())
    attached = {"notebooks/me/my-03-resume": second} | ({trained: first} if keeps_older else {})
    third = next_day(attached)
    attach(small_config, run, store=True, say=said.append)
    assert said[-1] == f"store: step {status.step}, from {third}/input/notebooks/me/my-03-resume/runs/kelron/store"
    last = train(small_config, run / "data", run, must_resume=True, say=lambda line: None)
    assert (last.state, last.first_step, last.step) == ("finished", status.step, whole.step)
    assert (run / ADAPTER).read_bytes() == (tmp_path / "whole" / ADAPTER).read_bytes()
    assert [one["last_step"] for one in json.loads((run / "sessions.json").read_text())] == [
        cut[1],
        status.step,
        whole.step,
    ]
    assert json.loads((run / "losses.json").read_text()) == json.loads((tmp_path / "whole/losses.json").read_text())


def test_yesterdays_store_in_working_is_not_taken_for_the_newest(kaggle, tmp_path, said):
    """A page that keeps its files still has an earlier day's store; a session in between ran as a saved version."""
    older, newer = output_with_store(tmp_path, "older", 100), output_with_store(tmp_path, "newer", 100, 120)
    run = Path("runs/kelron")
    mount(kaggle, "notebooks/me/a", older)
    attach(resolve("tiny-cpu"), run, store=True, say=said.append)
    before = snapshot(run / "store")
    mount(kaggle, "notebooks/me/b", newer)
    with pytest.raises(KelronError) as caught:
        attach(resolve("tiny-cpu"), run, store=True, say=said.append)
    assert str(caught.value) == (
        f"the store {run / 'store'} is at step 100, and an attached one at step 120 ({kaggle}/input/notebooks/me/b/"
        "runs/kelron/store): delete the first to go on from step 120, or remove that input to go on from step 100"
    )
    assert snapshot(run / "store") == before
    shutil.rmtree(run / "store")
    attach(resolve("tiny-cpu"), run, store=True, say=said.append)
    assert latest(open_store(run / "store")).step == 120


def test_the_newest_store_is_taken_without_the_lease_of_a_killed_session(kaggle, tmp_path, said):
    older, newer = output_with_store(tmp_path, "older", 100), output_with_store(tmp_path, "newer", 100, 120)
    mount(kaggle, "notebooks/me/a", newer)
    mount(kaggle, "notebooks/me/b", older)
    run = Path("runs/kelron")
    attach(resolve("tiny-cpu"), run, store=True, say=said.append)
    store = open_store(run / "store", must_exist=True)
    assert latest(store).step == 120
    assert verify_store(store).ok
    assert not (run / "store" / LEASE).exists()
    before = snapshot(run / "store")
    attach(resolve("tiny-cpu"), run, store=True, say=said.append)  # the same session once more
    assert snapshot(run / "store") == before
    assert len(said) == 1


def test_a_store_elsewhere_in_working_is_filled_and_one_on_the_hub_is_not(kaggle, tmp_path, said, monkeypatch):
    mount(kaggle, "notebooks/me/a", output_with_store(tmp_path, "a", 100))
    place = kaggle / "working" / "store"
    attach(resolve("tiny-cpu", [f"store.url={place}"]), Path("runs/kelron"), store=True, say=said.append)
    assert latest(open_store(place)).step == 100
    monkeypatch.setenv(TOKEN, SECRET)
    attach(ON_HUB, Path("runs/other"), store=True, say=said.append)
    assert not Path("runs/other/store").exists()


def test_what_was_set_aside_in_a_store_is_not_taken_for_it(kaggle, tmp_path, said):
    folder = output_with_store(tmp_path, "a", 100)
    store = folder / "runs" / "kelron" / "store"
    aside = output_with_store(tmp_path, "old", 900) / "runs" / "kelron" / "store"
    shutil.copytree(aside, store / f"{ASIDE}1")
    mount(kaggle, "notebooks/me/a", folder)
    attach(resolve("tiny-cpu"), Path("run"), store=True, say=said.append)
    assert latest(open_store(Path("run/store"))).step == 100
    assert not list(Path("run/store").glob(f"{ASIDE}*"))


def test_the_dataset_comes_from_the_data_kernel(kaggle, small_data, small_config, said):
    mount(kaggle, "notebooks/me/kelron-01-data/runs/kelron/data", small_data)
    attach(small_config, Path("run"), store=True, say=said.append)
    assert snapshot(Path("run/data")) == snapshot(small_data)
    assert len(said) == 1


def test_a_table_of_somebody_elses_is_not_taken_for_the_dataset(kaggle, small_data, small_config, said):
    """Many datasets and competitions on Kaggle hold a train.parquet."""
    other = kaggle / "input" / "a-competition"
    other.mkdir(parents=True)
    (other / "train.parquet").write_bytes(b"PAR1")
    attach(small_config, Path("run"), store=True, say=said.append)
    assert not Path("run/data").exists()
    mount(kaggle, "notebooks/me/kelron-01-data/runs/kelron/data", small_data)
    attach(small_config, Path("run"), store=True, say=said.append)
    assert snapshot(Path("run/data")) == snapshot(small_data)


def finished_run(folder, adapter, time):
    (folder / "adapter").mkdir(parents=True)
    (folder / "adapter" / "adapter_config.json").write_text(adapter)
    (folder / "data").mkdir()
    for split in ("train", "validation", "test"):
        (folder / "data" / f"{split}.parquet").write_text("{}\n")
    (folder / "losses.json").write_text("[]")
    status = make_status("finished", "", first_step=0, step=9, total_steps=9, seconds=1.0)
    write_status(folder, status)
    (folder / "status.json").write_text(json.dumps(json.loads((folder / "status.json").read_text()) | {"time": time}))


def test_the_evaluation_takes_the_run_that_finished_last(kaggle, tmp_path, said):
    finished_run(tmp_path / "a", '{"which": "older"}', "2026-11-01T00:00:00+00:00")
    finished_run(tmp_path / "b", '{"which": "newer"}', "2026-11-02T00:00:00+00:00")
    for name in "ab":
        mount(kaggle, f"notebooks/me/{name}/runs/kelron", tmp_path / name)
    attach(resolve("tiny-cpu"), Path("run"), results=True, say=said.append)
    assert json.loads(Path("run/adapter/adapter_config.json").read_text()) == {"which": "newer"}
    assert Path("run/data/test.parquet").is_file()
    assert Path("run/losses.json").is_file()
    assert not Path("run/work").is_symlink()


def test_elsewhere_nothing_happens(tmp_path, monkeypatch, said):
    monkeypatch.setenv("KELRON_KAGGLE", str(tmp_path / "nowhere"))
    attach(ON_HUB, tmp_path / "run", store=True, results=True, say=said.append)
    assert said == []
    assert not (tmp_path / "run").exists()


# --- the disk ---


def test_the_work_folder_needs_no_room_in_the_output(kaggle, monkeypatch, said):
    """What the 14B's run keeps in the output fits into its 20 GB, since the work folder lies on another disk."""
    run, asked = Path("runs/kelron"), {}
    attach(BIG, run, store=True, say=said.append)
    assert (run / "work").is_symlink()

    def on_disk(folder):
        return SimpleNamespace(stat=lambda: SimpleNamespace(st_dev=folder.resolve().is_relative_to(kaggle)))

    monkeypatch.setattr(space, "existing_parent", on_disk)
    monkeypatch.setattr(space, "require_disk", lambda folder, needed, what: asked.update({what: needed}))
    require_space(BIG, run, open_store(run / "store"))
    assert asked.keys() == {"the work folder", "the store"}
    assert asked["the store"] < 20e9 < sum(asked.values())
    (run / "work").unlink()
    require_space(BIG, run, open_store(run / "store"))
    assert asked["the work folder and the store"] > 20e9


# --- the base ---


@pytest.mark.parametrize(
    "place", ["models/qwen-lm/qwen2.5/transformers/14b-instruct/1", "qwen2.5/transformers/14b-instruct/1"]
)
def test_the_base_is_taken_from_kaggle_models_where_it_is_attached(place, kaggle, said):
    assert base_name(BIG) == "Qwen/Qwen2.5-14B-Instruct"
    assert needs_hub(BIG, random_weights=False)
    folder = kaggle / "input" / place
    folder.mkdir(parents=True)
    assert mounted_model(BIG.model.base) is None  # no config.json: the hub it is
    (folder / "config.json").write_text("{}")
    other = folder.parent.parent / "7b-instruct" / "1"
    other.mkdir(parents=True)
    (other / "config.json").write_text("{}")
    assert base_name(BIG) == str(folder)
    assert not needs_hub(BIG, random_weights=False)
    attach(BIG, Path("run"), say=said.append)
    assert said == [f"base: {folder}, attached"]
    assert mounted_model("tiny") is None


def test_outputs_are_found_in_both_layouts(kaggle):
    for place in LAYOUTS:
        (kaggle / "input" / place).mkdir(parents=True)
        assert output_of("me", "kelron-02-train") == kaggle / "input" / place
        (kaggle / "input" / place).rmdir()
    assert output_of("me", "kelron-02-train") is None


# --- the token ---


@pytest.fixture
def kaggle_secrets(monkeypatch):
    """Kaggle's own module; its client answers what the test says."""
    module = ModuleType("kaggle_secrets")
    module.answer = lambda name: SECRET if name == TOKEN else None

    class UserSecretsClient:
        def get_secret(self, name):
            return module.answer(name)

    module.UserSecretsClient = UserSecretsClient
    monkeypatch.setitem(sys.modules, "kaggle_secrets", module)
    monkeypatch.setattr("os.environ", dict(os.environ))
    return module


def token_dataset(kaggle, place="datasets/me/kelron-token"):
    folder = kaggle / "input" / place
    folder.mkdir(parents=True)
    (folder / TOKEN_FILE).write_text(json.dumps({TOKEN: SECRET}))
    return folder


def refuses(name):
    raise ConnectionError("Connection error trying to communicate with service.")


def test_the_environments_token_comes_first(kaggle, kaggle_secrets, monkeypatch, said):
    os.environ[TOKEN] = "mine"
    provide_token(ON_HUB, said.append)
    assert (os.environ[TOKEN], said) == ("mine", ["token: from the environment"])


def test_then_kaggles_secret(kaggle, kaggle_secrets, said):
    token_dataset(kaggle)
    provide_token(ON_HUB, said.append)
    assert (os.environ[TOKEN], said) == (SECRET, ["token: Kaggle's secret HF_TOKEN"])


@pytest.mark.parametrize("place", ["datasets/me/kelron-token", "kelron-token"])
def test_then_the_private_dataset(place, kaggle, kaggle_secrets, said):
    kaggle_secrets.answer = refuses
    folder = token_dataset(kaggle, place)
    provide_token(ON_HUB, said.append)
    assert (os.environ[TOKEN], said) == (SECRET, [f"token: from the dataset at {folder}"])


def test_without_any_it_says_what_to_do_where_one_is_needed(kaggle, kaggle_secrets, said):
    kaggle_secrets.answer = refuses
    with pytest.raises(KelronError) as caught:
        provide_token(ON_HUB, said.append)
    line = str(caught.value)
    assert "Kaggle's secret: ConnectionError" in line
    assert "run `scripts/push_kernels.sh secret` on your laptop and push again, or leave store.url out" in line
    provide_token(resolve("tiny-cpu"), said.append)  # outputs need none
    assert said == []
