"""A run whose checkpoints lie on the Hub: cut, the machine lost, resumed from the Hub alone, bit for bit the same."""

from __future__ import annotations

import pytest
from conftest import ticking_clock
from test_hub_store import HOLDER, Session
from test_train import STEPS, adapter, losses

from kelron_lib import train as train_module
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

    def open_again(url, *, write=False):
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


def test_a_hub_out_of_reach_stops_the_run_before_it_begins(hub, small_config, small_data, tmp_path, monkeypatch):
    session = Session(hub, "bucket", endpoint="http://127.0.0.1:9")
    monkeypatch.setattr(train_module, "open_store", lambda url, **how: session.store.prepare() or session.store)
    with pytest.raises(KelronError, match="reach"):
        train(small_config, small_data, tmp_path / "run", say=silent)
    assert not list((tmp_path / "run").glob("**/checkpoint-*"))
