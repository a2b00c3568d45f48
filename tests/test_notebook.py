"""What a notebook looks at first and says at its end, and that the notebooks run twice without harm."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import SMALL

from kelron_lib import demo, notebook
from kelron_lib.config import resolve, to_json
from kelron_lib.errors import KelronError
from kelron_lib.preflight.checks import FAILED, OK, WARNING, Check
from kelron_lib.preflight.machine import Devices
from kelron_lib.preflight.run import Report
from kelron_lib.session import EarlierStatus, make_status, write_status
from kelron_lib.train import train

NOTEBOOKS = sorted(Path("notebooks").glob("*.ipynb"))
HANGUL = re.compile("[가-힣]")


def prepared(step, run, *overrides, preset="tiny-cpu", **others):
    return notebook.prepare(step, preset=preset, run=str(run), overrides=list(overrides), **others)


def cells_of(path):
    return json.loads(Path(path).read_text(encoding="utf-8"))["cells"]


@pytest.fixture
def kaggle(monkeypatch, tmp_path):
    """An emulated session with nothing attached, and its working folder."""
    for name in ("input", "working"):
        (tmp_path / "kaggle" / name).mkdir(parents=True)
    monkeypatch.setenv("KELRON_KAGGLE", str(tmp_path / "kaggle"))
    return tmp_path / "kaggle" / "working"


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"preset": None}, r'PRESET is None: write a text in quotes, such as PRESET = "kelron-14b-t4x2"$'),
        ({"run": " "}, r"RUN is ' ': write a text in quotes"),
        ({"overrides": "train.epochs=2"}, r"OVERRIDES is 'train.epochs=2': write a list of texts, such as .*epochs=2"),
        ({"accept_changes": "train.epochs"}, r"ACCEPT_CHANGES is 'train.epochs': write a list of texts"),
        ({"fresh": "True"}, r"FRESH is 'True': write True or False, without quotes$"),
        ({"preset": "tiny"}, r"unknown preset 'tiny'. Did you mean tiny-cpu\?$"),
        ({"overrides": ["train.epoch=2"]}, r"unknown config key 'train.epoch'. Did you mean train.epochs\?$"),
        ({"overrides": ["session.budget_seconds=3"]}, r"session.reserve_seconds"),
    ],
)
def test_a_parameter_that_cannot_be_is_told_before_anything_else(wrong, words, tmp_path):
    parameters = {"preset": "tiny-cpu", "run": str(tmp_path / "run"), "overrides": []}
    with pytest.raises(KelronError, match=words):
        notebook.prepare("train", **parameters | wrong)
    assert not (tmp_path / "run").exists()


def test_a_missing_gpu_stops_it_with_the_fix(kaggle, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(KelronError, match=r"kelron-14b-t4x2 needs one: in the notebook's settings choose .* GPU T4 x2"):
        prepared("train", kaggle / "run", preset="kelron-14b-t4x2")


def test_a_base_that_cannot_be_downloaded_stops_it_with_the_fix(kaggle, monkeypatch):
    monkeypatch.setattr("kelron_lib.preflight.machine.hub_unreachable", lambda endpoint: "no route to host")
    with pytest.raises(KelronError, match=r"switch the internet on in the notebook's settings.*, or attach the model"):
        prepared("train", kaggle / "run", "model.base=someone/absent")


@pytest.mark.parametrize(
    ("step", "words", "attach"),
    [
        ("train", "no dataset at .*: run 01_data_prep with the same RUN", "the output of 01_data_prep"),
        ("resume", "no checkpoint at .*: run 02_train first", "the output of the last training session"),
        ("evaluate", "no adapter at .*: run 02_train, and 03_resume until", "the output of the session that finished"),
    ],
)
def test_an_earlier_step_that_is_missing_is_named(step, words, attach, tmp_path, monkeypatch):
    with pytest.raises(KelronError, match=f"{words}.*, with the same RUN$|{words}$"):
        prepared(step, tmp_path / "run")
    for name in ("input", "working"):
        (tmp_path / "kaggle" / name).mkdir(parents=True)
    monkeypatch.setenv("KELRON_KAGGLE", str(tmp_path / "kaggle"))
    with pytest.raises(KelronError, match=rf", or attach {attach} to this notebook \(Add Input, Your Work\)$"):
        prepared(step, tmp_path / "kaggle" / "working" / "run")


def test_what_is_there_is_enough(run, small_data):
    out, step = run
    assert prepared("resume", out, *SMALL) == (resolve("tiny-cpu", SMALL), out)
    assert prepared("train", out, *SMALL, accept_changes=[], fresh=False)[1] == out  # the dataset is in the store
    with pytest.raises(
        KelronError, match=rf"is not finished \(budget, step {step} of \d+\).*run 03_resume until it is$"
    ):
        prepared("evaluate", out, *SMALL)
    assert prepared("data", out / "anew", replace=False)[1] == out / "anew"


def test_a_folder_that_kaggle_does_not_keep_is_told(kaggle, tmp_path, capsys):
    prepared("data", tmp_path / "elsewhere")
    assert f"Kaggle keeps only what lies in {kaggle}" in capsys.readouterr().out
    prepared("data", kaggle / "run")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("preset", ["tiny-cpu", "kelron-14b-t4x2"])
def test_a_run_in_short(preset):
    config = resolve(preset, ["train.epochs=7", "store.url=hf://buckets/me/x/y"])
    lines = notebook.run_summary(config, Path("runs/x")).splitlines()
    assert 5 <= len(lines) <= 10
    assert max(map(len, lines)) <= 120
    assert lines[-1].split(maxsplit=1) == ["changed", "store.url=hf://buckets/me/x/y, train.epochs=7.0"]
    assert any(line.startswith("training  7 epochs, ") for line in lines)
    assert notebook.run_summary(resolve(preset), Path("runs/x")).endswith("changed   nothing of the preset")


def test_the_whole_config_is_folded_away():
    config = resolve("tiny-cpu", ["data.persona=<b>mine</b>"])
    folded = notebook.folded_config(config)
    assert repr(folded).count("\n") == 0
    assert folded.body == to_json(config)
    assert folded._repr_html_().startswith("<details><summary>")
    assert "&lt;b&gt;mine" in folded._repr_html_()
    assert "<b>" not in folded._repr_html_()


@pytest.mark.parametrize(
    ("state", "first", "step", "words"),
    [
        ("finished", 5, 12, "04_evaluate"),
        ("budget", 0, 5, "03_resume in the next session, about 2 more sessions at this speed"),
        ("stopped", 5, 5, "03_resume in the next session (on Kaggle"),
        ("budget", 0, 0, "no step was done"),
        ("failed", 0, 5, "the session failed: so it went. Put that right, then 03_resume"),
        ("failed", 0, 0, "the session failed: so it went. Put that right, then 02_train"),
    ],
)
def test_what_to_do_after_a_session(state, first, step, words, tmp_path):
    before = EarlierStatus(tmp_path)
    status = make_status(state, "so it went", first_step=first, step=step, total_steps=12, seconds=61.0)
    write_status(tmp_path, status)
    english, korean = notebook.after_training(tmp_path, before).splitlines()
    assert words in english
    assert HANGUL.search(korean)
    assert re.findall(r"0\d_\w+", english) == re.findall(r"0\d_[a-z]+", korean)
    table = notebook.status_table(status)
    assert f"{state}: {notebook.MEANINGS[state]}" in table
    assert f"from {first} to {step} of 12 ({step / 12:.0%})" in table
    assert "1:01" in table


def test_where_no_session_ended_it_says_so(tmp_path):
    assert "no session has ended" in notebook.after_training(tmp_path, EarlierStatus(tmp_path))


def test_a_refused_session_is_not_told_by_the_status_of_the_one_before(run, small_data):
    """As the notebook does it: what `train` refuses leaves the earlier status, and the last cell sees that."""
    out, step = run
    earlier = EarlierStatus(out)
    with pytest.raises(KelronError, match="lora"):
        train(resolve("tiny-cpu", [*SMALL, "lora.r=2"]), small_data, out, must_resume=True, say=lambda line: None)
    english, korean = notebook.after_training(out, earlier).splitlines()
    assert (
        f"this session was refused, and {out / 'status.json'} is of the one before it (budget, step {step})" in english
    )
    assert "at this speed" not in english
    assert f"(budget, {step} 스텝)" in korean
    train(resolve("tiny-cpu", SMALL), small_data, out, must_resume=True, say=lambda line: None)
    assert "Next: 04_evaluate" in notebook.after_training(out, earlier)


def test_what_to_do_after_the_preflight():
    """What a test of the preflight finds in English stands here in Korean too."""
    ok, warning, failed = (Check(state[0], state, "found", "do this") for state in (OK, WARNING, FAILED))
    report = Report(resolve("tiny-cpu"), Devices(), (ok, warning), None, False, None, "quick")
    english, korean = notebook.after_preflight(report).splitlines()
    assert english == "Ready: 01_data_prep, then 02_train in this session. Mind the warnings (w)."
    assert korean == "준비 완료: 이 세션에서 01_data_prep, 02_train을 차례로 실행하세요. 경고도 확인하세요 (w)."
    first, fix, korean = notebook.after_preflight(replace(report, checks=(ok, failed))).splitlines()
    assert (first, fix) == ("Not ready. Do this first:", "- f: do this")
    assert HANGUL.search(korean)


def test_what_to_do_after_the_data_and_the_scoreboard(tmp_path):
    assert notebook.after_data({"verdict": "pass"}, tmp_path).startswith("Next: 02_train")
    assert str(tmp_path / "data" / "quality.html") in notebook.after_data({"verdict": "warn"}, tmp_path)
    gate = {"policy": "demo", "passed": True, "checks": [{"met": True, "text": "recall: at least 90 %"}]}
    assert "kelron publish" in notebook.after_evaluation({"gate": gate}, tmp_path)
    look = notebook.after_evaluation({"gate": {**gate, "first_look": True}}, tmp_path)
    assert "too few for publishing" in look
    assert "before `kelron publish`, evaluate it by the policy release" in look
    missed = {**gate, "passed": False, "checks": [{"met": False, "text": "recall: at least 90 %"}]}
    told = notebook.after_evaluation({"gate": missed}, tmp_path)
    assert told.startswith("Does not pass the policy demo")
    assert "kelron publish" not in told
    assert str(tmp_path / "report.html") in told


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_speaks_both_languages_and_ends_with_what_is_next(path):
    cells = cells_of(path)
    for cell in cells:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            assert HANGUL.search(source), source
            assert re.search("[A-Za-z]{4}", source), source
        if "parameters" in cell["metadata"].get("tags", []):
            assert all(" = " in line and "  # " in line and HANGUL.search(line) for line in source.splitlines()), source
    for word in ("**Takes**", "**Needs**", "**Leaves**", "**소요 시간:**", "**필요한 것:**", "**남는 것:**"):
        assert word in "".join(cells[0]["source"]), word
    assert re.search(r"print\(after_\w+\(", "".join(cells[-1]["source"]))


def test_a_frame_in_a_page_has_a_name():
    """A screen reader says it before what is within."""
    sources = ["".join(cell["source"]) for path in NOTEBOOKS for cell in cells_of(path)]
    frames = re.findall("<iframe[^>]*>", "\n".join(sources))
    assert frames
    assert all(re.search(' title="[^"]+"', frame) for frame in frames), frames


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_the_title_says_the_same_in_both_languages(path):
    """As far as names tell: what one language names, in code or of the notebooks, the other names too."""
    title, *lines = "".join(cells_of(path)[0]["source"]).splitlines()
    assert HANGUL.search(title)
    korean = next(number for number, line in enumerate(lines) if HANGUL.search(line))
    named = [set(re.findall(r"`[^`]+`|0\d_[a-z]+", "\n".join(part))) for part in (lines[:korean], lines[korean:])]
    assert named[0] == named[1]


def test_an_error_is_one_line_in_a_notebook(tmp_path):
    """Nothing else of it stands in the executed copy: no traceback."""
    with pytest.raises(KelronError, match=r"03_resume.ipynb, cell \d+: KelronError: no checkpoint at"):
        demo.run_notebook(Path("notebooks/03_resume.ipynb"), tmp_path, {"PRESET": "tiny-cpu", "RUN": str(tmp_path)})
    outputs = [o for cell in cells_of(tmp_path / "notebooks/03_resume.ipynb") for o in cell.get("outputs", ())]
    (error,) = [output for output in outputs if output["output_type"] == "error"]
    (line,) = error["traceback"]
    assert line.startswith("KelronError: no checkpoint at")


def test_so_is_one_of_the_first_cell(tmp_path, kaggle):
    """Also that of a session without the dataset, which has nothing of Kelron's but the cell itself."""
    nbformat = pytest.importorskip("nbformat")
    with pytest.raises(KelronError, match="NotAttached: attach the dataset kelron-library"):
        demo.run_notebook(Path("notebooks/02_train.ipynb"), tmp_path, {"PRESET": "tiny-cpu", "RUN": str(tmp_path)})
    outputs = [o for cell in cells_of(tmp_path / "notebooks/02_train.ipynb") for o in cell.get("outputs", ())]
    (error,) = [output for output in outputs if output["output_type"] == "error"]
    assert error["traceback"] == ["attach the dataset kelron-library (see docs/kaggle.md)"]
    code = "from kelron_lib.kaggle_bootstrap import check_gpus\ncheck_gpus(99)"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)]), tmp_path / "few.ipynb")
    with pytest.raises(KelronError, match="choose the accelerator GPU"):
        demo.run_notebook(tmp_path / "few.ipynb", tmp_path, {})
    (error,) = cells_of(tmp_path / "notebooks" / "few.ipynb")[-1]["outputs"]
    (line,) = error["traceback"]
    assert line.startswith("BootstrapError: GPUs here: ")


DUMPED = re.compile(r"Warning\b|Traceback|object at 0x|^\s*[\[{]['\"{]|\x1b|\bnan\b|\bNone\b", re.MULTILINE)
"""What a person is not to read in a notebook: warnings, raw lists and dictionaries, objects, missing values."""
DRAWN = ("<IPython.core.display.SVG object>", "<IPython.core.display.HTML object>", "The whole config · 전체 설정")
"""Beside what is printed: pictures and what is folded away, as text."""


def texts_of(path):
    """What an executed notebook prints; nothing of it comes from a library's own mouth or is a dump."""
    printed = ""
    for output in (output for cell in cells_of(path) for output in cell.get("outputs", ())):
        if output["output_type"] == "stream":
            assert output["name"] == "stdout", output["text"]
            printed += "".join(output["text"])
        else:
            assert "".join(output["data"]["text/plain"]) in DRAWN
    assert not DUMPED.search(printed), DUMPED.search(printed)
    return printed


@pytest.mark.slow
def test_the_notebooks_run_twice_without_harm(tmp_path):
    few = ("identity_prompts=3", "unrelated_prompts=3", "attack_prompts=0", "pressure_dialogues=0", "choice_items=1")
    overrides = [*SMALL, *(f"evaluate.{text}" for text in few), "evaluate.max_new_tokens=8"]
    run, shown, kept = tmp_path / "run", {}, {}
    for turn in (1, 2):
        for path in NOTEBOOKS:
            out = tmp_path / f"turn-{turn}"
            demo.run_notebook(path, out, {"PRESET": "tiny-cpu", "RUN": str(run), "OVERRIDES": overrides})
            shown[path.stem, turn] = texts_of(out / "notebooks" / path.name)
        kept[turn] = {
            path.relative_to(run): path.read_bytes()
            for part in ("data", "adapter", "store/dataset")
            for path in sorted((run / part).rglob("*"))
            if path.is_file()
        } | {name: (run / name).read_bytes() for name in ("losses.json", "sessions.json", "answers.jsonl")}
    assert kept[1] == kept[2]
    assert json.loads((run / "status.json").read_text())["state"] == "finished"
    for turn in (1, 2):
        assert "Ready: 01_data_prep" in shown["00_preflight", turn]
        assert "Next: 02_train" in shown["01_data_prep", turn]
        assert "Next: 04_evaluate" in shown["02_train", turn]
        assert "Next: 04_evaluate" in shown["03_resume", turn]
        assert "Next: " in shown["04_evaluate", turn]
        assert "Probe dialogue instead of the chat widget: this is a batch run." in shown["04_evaluate", turn]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_papermill_finds_every_parameter(path, caplog):
    """An equals sign in a comment is enough for it to miss one, of which it warns as if something were wrong."""
    from papermill.inspection import inspect_notebook

    cell = next(cell for cell in cells_of(path) if "parameters" in cell["metadata"].get("tags", []))
    found = inspect_notebook(str(path))
    assert list(found) == [line.split(" = ")[0] for line in cell["source"]]
    assert not caplog.records
