"""A run whose checkpoints lie on the Hub: cut, the machine lost, resumed from the Hub alone, bit for bit the same."""

from __future__ import annotations

import re

import pytest
from conftest import SMALL, ticking_clock
from test_checkpoint import RUN, send, trainer_folder
from test_hub_store import HOLDER, Session
from test_train import STEPS, adapter, losses

from kelron_lib import train as train_module
from kelron_lib.__main__ import main
from kelron_lib.errors import KelronError
from kelron_lib.lease import read_lease
from kelron_lib.train import train
from kelron_lib.verify import list_checkpoints, verify_store


def silent(line):
    pass


@pytest.mark.parametrize("kind", ["bucket", "repo"])
def test_a_run_over_the_hub_survives_the_loss_of_its_machine(
    kind, hub, small_config, small_data, tmp_path, monkeypatch
):
    whole = tmp_path / "whole"
    train(small_config, small_data, whole, say=silent)

    def open_again(url, *, write=False, allow_foreign=False):
        store = Session(hub, kind).store
        if write:
            store.prepare()
        return store

    monkeypatch.setattr(train_module, "open_store", open_again)
    first = train(small_config, small_data, tmp_path / "first", clock=ticking_clock(15), say=silent)
    assert first.state == "budget"
    assert 0 < first.step < STEPS

    # Another machine: neither work nor data of the first.
    said = []
    last = train(small_config, tmp_path / "no-data", tmp_path / "second", must_resume=True, say=said.append)
    assert (last.state, last.first_step, last.step) == ("finished", first.step, STEPS)
    assert any("held no dataset: it was taken from Hub" in line for line in said)
    assert adapter(tmp_path / "second") == adapter(whole)
    assert losses(tmp_path / "second") == losses(whole)

    store = open_again("")
    report = verify_store(store)
    assert report.ok, report
    assert [info.state for info in list_checkpoints(store)] == ["verified", "verified"]
    assert read_lease(store) is None
    names = set(hub.content(HOLDER[kind]))
    assert not [name for name in names if "training_args" in name]


ORGANISATION = "hf://buckets/us/cells/run-1"
REFUSAL = r"not in your own namespace \(me\): name me/\.\.\., or add --allow-foreign \(store\.allow_foreign=true\)"


@pytest.fixture
def named(hub, online, monkeypatch):
    """The stand-in as the command line finds the Hub."""
    monkeypatch.setattr(online, "ENDPOINT", hub.url)
    monkeypatch.setenv("HF_TOKEN", hub.token)
    return hub


def test_a_run_keeps_its_checkpoints_with_an_organisation_where_that_is_allowed(named, small_data, tmp_path, capsys):
    settings = [text for pair in SMALL for text in ("--set", pair)]
    run = [*settings, "--set", f"store.url={ORGANISATION}", "--data", str(small_data), "--out", str(tmp_path / "run")]
    assert main(["train", *run]) == 2
    assert re.search(REFUSAL, capsys.readouterr().err)
    assert named.buckets == {}
    assert main(["train", *run, "--allow-foreign"]) == 0
    assert list(named.buckets) == ["us/cells"]
    assert main(["resume", *run, "--set", "store.allow_foreign=true"]) == 0
    assert "the run was already finished" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [["ls", ORGANISATION], ["verify", ORGANISATION], ["pull", ORGANISATION, "HERE"], ["prune", ORGANISATION],
     ["prune", ORGANISATION, "--dry-run"], ["import", "FOLDER", ORGANISATION]],
    ids=" ".join,
)  # fmt: skip
def test_every_store_verb_asks_before_it_enters_another_namespace(arguments, named, tmp_path, capsys):
    folder = trainer_folder(tmp_path / "work", 100)
    store = Session(named, "bucket", url=ORGANISATION, allow_foreign=True).store
    store.prepare()
    send(store, folder, **RUN)
    assert main(["store", "pull", ORGANISATION, str(tmp_path / "mine"), "--allow-foreign"]) == 0
    given = [{"HERE": str(tmp_path / "here"), "FOLDER": str(tmp_path / "mine")}.get(text, text) for text in arguments]
    capsys.readouterr()
    assert main(["store", *given]) == 2
    refusal = capsys.readouterr().err
    assert re.search(REFUSAL, refusal)
    assert refusal.count("\n") == 1
    assert main(["store", *given, "--allow-foreign"]) == 0


def test_a_hub_out_of_reach_stops_the_run_before_it_begins(hub, small_config, small_data, tmp_path, monkeypatch):
    session = Session(hub, "bucket", endpoint="http://127.0.0.1:9")
    monkeypatch.setattr(train_module, "open_store", lambda url, **how: session.store.prepare() or session.store)
    with pytest.raises(KelronError, match="reach"):
        train(small_config, small_data, tmp_path / "run", say=silent)
    assert not list((tmp_path / "run").glob("**/checkpoint-*"))
