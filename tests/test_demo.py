"""The demo's own promises: a session that was really cut, one that really resumed, and nothing left behind."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from dataset_files import drop_first_row

from kelron_lib import demo
from kelron_lib.__main__ import main
from kelron_lib.config import apply_overrides, config_hash, to_dict
from kelron_lib.data import fingerprint
from kelron_lib.errors import KelronError
from kelron_lib.export import MadeFrom
from kelron_lib.runtime import exclusive, write_json
from kelron_lib.session import make_status, write_status
from kelron_lib.train import train

NOTEBOOKS = ["01_data_prep", "02_train", "03_resume", "04_evaluate"]


def ended(state, first_step, step):
    return make_status(state, "so it went", first_step=first_step, step=step, total_steps=12, seconds=1.0)


@pytest.fixture
def stand_in(monkeypatch, small_config):
    """Runs the demo with notebooks that only leave the given statuses; returns what ran, with its overrides."""

    def run(out, first, second):
        ran, firsts = [], iter(first if isinstance(first, list) else [first] * demo.TRIES)

        def run_notebook(notebook, out, parameters):
            ran.append((notebook.stem, parameters["OVERRIDES"]))
            if notebook.stem == "01_data_prep":
                (out / "data").mkdir()
            if notebook.stem == "02_train":
                assert sorted(path.name for path in out.iterdir()) == ["data"], "each begins with the dataset alone"
                write_status(out, status := next(firsts))
                if status.step:
                    (out / "work").mkdir()
                    (out / "store").mkdir()
            if notebook.stem == "03_resume":
                assert not (out / "work").exists()
                assert not (out / "data").exists()
                write_status(out, second)
                write_json(out / "sessions.json", [])
            return 1.0

        monkeypatch.setattr(demo, "run_notebook", run_notebook)
        monkeypatch.setattr(demo, "first_budget", lambda config, data: 12.34)
        demo._run_notebooks(small_config, out, Path("notebooks"))
        return ran

    return run


def test_the_first_session_has_a_budget_and_the_second_the_store_alone(stand_in, tmp_path):
    ran = stand_in(tmp_path, ended("budget", 0, 5), ended("finished", 5, 12))
    assert ran == list(zip(NOTEBOOKS, [[], ["session.budget_seconds=12.3"], [], []], strict=True))


def test_a_first_session_that_was_not_cut_is_done_again_with_another_budget(stand_in, small_config, tmp_path, capsys):
    """One second long and over: the next gets its share of that, and the time for a checkpoint. Then the double."""
    firsts = [ended("finished", 0, 12), ended("budget", 0, 0), ended("budget", 0, 5)]
    ran = stand_in(tmp_path, firsts, ended("finished", 5, 12))
    reserve = small_config.session.reserve_seconds
    budgets = [12.34, demo.CUT_AT * 1.0 + reserve, 2 * demo.CUT_AT * 1.0 + reserve]
    assert [overrides for name, overrides in ran if name == "02_train"] == [
        [f"session.budget_seconds={budget:.1f}"] for budget in budgets
    ]
    assert capsys.readouterr().out.count("this machine's speed changed meanwhile; once more") == 2


@pytest.mark.parametrize("first", [("finished", 0, 12), ("budget", 0, 0)], ids=["finished", "never begun"])
def test_a_first_session_that_is_never_cut_shows_nothing(first, stand_in, tmp_path):
    told = rf"was to be cut by its budget and ended as {first[0]} at step {first[2]}.*, 3 times"
    with pytest.raises(KelronError, match=told):
        stand_in(tmp_path, ended(*first), ended("finished", 0, 12))


def test_a_first_session_that_failed_is_not_done_again(stand_in, tmp_path):
    with pytest.raises(KelronError, match=r"ended as stopped at step 3 .*: see what its notebook says"):
        stand_in(tmp_path, [ended("stopped", 0, 3)], ended("finished", 0, 12))


@pytest.mark.parametrize("second", [("finished", 0, 12), ("budget", 5, 9)], ids=["from the start", "cut again"])
def test_a_second_session_that_did_not_finish_the_first_ones_run_shows_nothing(second, stand_in, tmp_path):
    with pytest.raises(KelronError, match="was to finish the run and ended as"):
        stand_in(tmp_path, ended("budget", 0, 5), ended(*second))


def test_a_notebooks_kernel_has_nothing_to_warn_of(tmp_path, capfd):
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("print(6 * 7)")])
    nbformat.write(notebook, tmp_path / "small.ipynb")
    demo.run_notebook(tmp_path / "small.ipynb", tmp_path, {})
    printed = capfd.readouterr()
    assert printed.out == "42\n"
    assert "IPKernelApp" not in printed.err
    (cell,) = json.loads((tmp_path / "notebooks" / "small.ipynb").read_text(encoding="utf-8"))["cells"]
    assert cell["outputs"][0]["text"] == ["42\n"]


def test_the_first_budget_ends_in_the_midst_of_training(small_config, small_data, monkeypatch):
    from kelron_lib import measure

    monkeypatch.setattr(measure, "measure_steps", lambda config, data: measure.Measured(3.0, 0.5, 100))
    budget = demo.first_budget(small_config, small_data)
    assert budget == pytest.approx(3.0 + demo.CUT_AT * 50.0 + small_config.session.reserve_seconds)


def test_only_an_earlier_demo_is_cleared(small_config, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(KelronError, match=r"holds thesis\.txt and is not an earlier demo"):
        demo.run_demo(small_config, tmp_path, Path("notebooks"))
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.fixture
def earlier(run, small_config, small_data):
    """A folder with what a demo leaves: the files of a run, and those that the notebooks add."""
    out = run[0]
    shutil.copytree(small_data, out / "data", dirs_exist_ok=True)
    (out / "notebooks").mkdir()
    for name in NOTEBOOKS:
        (out / "notebooks" / f"{name}.ipynb").write_text("{}")
    for name in ("scoreboard.json", "answers.jsonl", "report.html", "evaluate_config.json", "losses.json.part"):
        (out / name).write_text("{}")
    (out / "adapter.part").mkdir()
    write_json(out / "demo.json", {"preset": "tiny-cpu", "config_hash": config_hash(small_config)})
    return out


def everything(out):
    return {path: path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file() and path.suffix != ".lock"}


def test_all_that_a_demo_writes_is_cleared(earlier):
    demo._clear(earlier)
    assert all(path.name.endswith(".lock") for path in earlier.iterdir())


@pytest.mark.parametrize(
    "name",
    [
        "thesis.txt",
        "notebooks/mine.ipynb",
        "data/more.parquet",
        "my.lock",
        "store/trainer_state.json",
        "store/before-1/LATEST.json",
    ],
)
def test_a_users_file_in_an_earlier_demo_is_named_and_nothing_goes(name, earlier, small_config):
    (earlier / name).parent.mkdir(exist_ok=True)
    (earlier / name).write_text("years of work")
    before, named = everything(earlier), name.removesuffix("/LATEST.json")
    with pytest.raises(KelronError, match=rf"{re.escape(named)} is not of an earlier demo: move it away"):
        demo.run_demo(small_config, earlier, Path("notebooks"))
    assert everything(earlier) == before
    assert (earlier / name).read_text() == "years of work"


@pytest.mark.parametrize("differing", ["config", "data"])
def test_a_store_of_another_run_in_an_earlier_demo_is_named_and_nothing_goes(differing, earlier, small_config):
    if differing == "config":  # such as that of a training that somebody copied there
        write_json(earlier / "demo.json", {"preset": "tiny-cpu"})
    else:
        drop_first_row(earlier / "data")
    before = everything(earlier)
    with pytest.raises(KelronError, match=r"store/step-\d+ is not of an earlier demo: move it away, or choose another"):
        demo.run_demo(small_config, earlier, Path("notebooks"))
    assert everything(earlier) == before


def test_an_adapter_of_another_run_in_an_earlier_demo_is_named(earlier, small_config):
    shutil.rmtree(earlier / "store")
    made = MadeFrom("tiny", fingerprint(earlier / "data"), to_dict(small_config))
    write_json(earlier / "adapter" / "kelron.json", asdict(made))
    assert demo._of_other_runs(earlier) == []
    write_json(earlier / "adapter" / "kelron.json", asdict(replace(made, data_fingerprint="another's")))
    with pytest.raises(KelronError, match=r"adapter is not of an earlier demo: move it away"):
        demo.run_demo(small_config, earlier, Path("notebooks"))


def test_who_trains_in_a_demos_folder_keeps_it_from_the_next_demo(earlier, small_config):
    """Also where it is the very run of the demo that somebody goes on with."""
    said = []
    assert train(small_config, earlier / "data", earlier, say=said.append).state == "finished"
    assert sum("was a demo's folder" in line for line in said) == 1
    before = everything(earlier)
    with pytest.raises(KelronError, match=r"is not an earlier demo: choose another --out$"):
        demo.run_demo(small_config, earlier, Path("notebooks"))
    assert everything(earlier) == before


def test_a_session_that_a_demo_asks_for_leaves_it_a_demo(earlier, small_config, monkeypatch):
    monkeypatch.setenv("KELRON_DEMO", "1")
    train(small_config, earlier / "data", earlier, say=lambda line: None)
    monkeypatch.delenv("KELRON_DEMO")
    demo._clear(earlier)
    assert all(path.name.endswith(".lock") for path in earlier.iterdir())


HOLDER = """
import sys
from pathlib import Path
from kelron_lib.runtime import exclusive
with exclusive(Path(sys.argv[1]), "demo"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def going_on(earlier):
    """The folder of a demo that another process runs, and the number of that process."""
    command = [sys.executable, "-c", HOLDER, str(earlier)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        yield earlier, holder.pid
        holder.stdin.close()


@pytest.mark.parametrize("verb", ["train", "resume", "data", "evaluate"])
def test_nothing_else_is_let_into_the_folder_of_a_running_demo(verb, going_on, capsys):
    out, pid = going_on
    (out / "adapter").mkdir(exist_ok=True)
    before = everything(out)
    where = out / "data" if verb == "data" else out
    options = ["--set", "data.rows=240"] if verb == "data" else []
    if verb == "evaluate":
        (out / "adapter" / "adapter_config.json").write_text("{}")
        (out / "adapter" / "adapter_model.safetensors").write_bytes(b"")
        before = everything(out)
    assert main([verb, *options, "--out", str(where)]) == 2
    assert capsys.readouterr().err == (
        f"kelron: a demo (process {pid}) is using {out}: wait for it, or choose another --out\n"
    )
    assert everything(out) == before


def test_the_kernels_of_a_running_demo_are_let_into_its_folder(going_on, small_config, monkeypatch):
    out, pid = going_on
    monkeypatch.setenv("KELRON_BATCH", "1")
    with pytest.raises(KelronError, match="a demo"):
        train(small_config, out / "data", out, say=lambda line: None)
    monkeypatch.setenv("KELRON_DEMO", str(pid))
    assert train(small_config, out / "data", out, say=lambda line: None).state == "finished"
    assert (out / "demo.json").exists()


@pytest.mark.parametrize("lacking", ["a notebook", "a GPU"])
def test_a_demo_that_could_not_run_deletes_nothing(lacking, earlier, small_config, tmp_path, monkeypatch):
    notebooks = shutil.copytree("notebooks", tmp_path / "notebooks")
    config, words = small_config, r"04_evaluate\.ipynb is missing: run from the project's folder"
    if lacking == "a notebook":
        (notebooks / "04_evaluate.ipynb").unlink()
    else:
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
        config, words = apply_overrides(small_config, ["model.dtype=float16"]), "no CUDA device"
    before = everything(earlier)
    with pytest.raises(KelronError, match=words):
        demo.run_demo(config, earlier, notebooks)
    assert everything(earlier) == before


def test_a_demo_waits_for_no_run_in_its_folder_and_deletes_nothing_of_it(earlier, small_config):
    before = everything(earlier)
    with exclusive(earlier), pytest.raises(KelronError, match="another run"):
        demo.run_demo(small_config, earlier, Path("notebooks"))
    assert everything(earlier) == before


def test_the_notebooks_can_hold_the_run_themselves(earlier, small_config, monkeypatch):
    class Reached(Exception):
        """The notebooks would run now."""

    def notebooks_run(config, out, notebooks):
        with exclusive(out):
            raise Reached

    monkeypatch.setattr(demo, "_run_notebooks", notebooks_run)
    with pytest.raises(Reached):
        demo.run_demo(small_config, earlier, Path("notebooks"))
    assert sorted(path.name for path in earlier.iterdir()) == [".demo.lock", ".run.lock", "demo.json"]


PROBE = """
import os, sys
print("kernel says", os.environ["KELRON_BATCH"], os.environ["KELRON_DEMO"] == str(os.getppid()), RUN)
"""


def test_a_notebook_runs_as_nobody_there_and_this_process_stays_as_it_was(tmp_path, capsys, monkeypatch):
    nbformat = pytest.importorskip("nbformat")
    cells = [nbformat.v4.new_code_cell("RUN = 'nowhere'", metadata={"tags": ["parameters"]})]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    probe = nbformat.v4.new_notebook(cells=[*cells, nbformat.v4.new_code_cell(PROBE)], metadata=kernel)
    nbformat.write(probe, tmp_path / "probe.ipynb")
    demo.run_notebook(tmp_path / "probe.ipynb", tmp_path / "out", {"RUN": "here"})
    assert "kernel says 1 True here" in capsys.readouterr().out
    assert not {"KELRON_BATCH", "KELRON_DEMO"} & set(os.environ)
    assert (tmp_path / "out" / "notebooks" / "probe.ipynb").exists()
    monkeypatch.setenv("KELRON_BATCH", "0")
    probe.cells[-1].source = "raise ValueError('no such thing')"
    nbformat.write(probe, tmp_path / "probe.ipynb")
    with pytest.raises(KelronError, match=r"probe.ipynb, cell \d+: ValueError: no such thing"):
        demo.run_notebook(tmp_path / "probe.ipynb", tmp_path / "out", {"RUN": "here"})
    assert os.environ["KELRON_BATCH"] == "0"


def test_the_report_lies_within_the_executed_notebook(tmp_path):
    """The cell as it stands, on a page with every kind of quote: what the iframe holds is the page."""
    import html
    import re

    page = """<!doctype html><p title="a 'b'">1 &lt; 2 &amp; {run}</p>"""
    (tmp_path / "report.html").write_text(page, encoding="utf-8")
    notebook = json.loads(Path("notebooks/04_evaluate.ipynb").read_text(encoding="utf-8"))
    (cell,) = [cell for cell in notebook["cells"] if "iframe" in "".join(cell["source"])]
    *before, last = "".join(cell["source"]).splitlines()
    names = {"run": tmp_path}
    exec("\n".join(before), names)
    shown = eval(last, names).data
    assert html.unescape(re.search(r'srcdoc="([^"]*)"', shown)[1]) == page
    assert str(tmp_path) not in shown
