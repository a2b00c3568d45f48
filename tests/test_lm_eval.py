"""Benchmarks through lm-evaluation-harness: against a stand-in of its API, and against itself where it is installed."""

import contextlib
import importlib.util
import json
import sys
from types import ModuleType

import pytest

from kelron_lib.config import resolve
from kelron_lib.errors import KelronError
from kelron_lib.evaluate import lm_eval as module
from kelron_lib.evaluate.lm_eval import SUITABLE, compare_results, join_earlier, lines, ready, run_lm_eval
from kelron_lib.evaluate_verb import _names
from kelron_lib.export import adapter_digest

CONFIG = resolve("tiny-cpu")
INSTALLED = importlib.util.find_spec("lm_eval") is not None


def results(right, more=()):
    """What the harness gives for a task of as many questions as `right` has."""
    samples = [{"doc_id": i, "filter": "none", "acc": float(hit)} for i, hit in enumerate(right)]
    figures = {"acc,none": sum(right) / len(right), "acc_stderr,none": "N/A", **dict(more)}
    return {
        "results": {"haerae": {"alias": "haerae", "sample_len": len(right), **figures}},
        "n-samples": {"haerae": {"original": 99, "effective": len(right)}},
        "samples": {"haerae": samples},
        "lm_eval_version": "0.0.0",
    }


class Manager:
    """The registry's stand-in: one task has its data at hand, one does not."""

    all_tasks = ("haerae", "kmmlu", "kmmlu_direct", "ja_leaderboard_jcommonsenseqa", "arc_easy", "away", "script")

    def load(self, tasks):
        if "away" in tasks:
            raise ConnectionError("Couldn't reach 'some/data' on the Hub\n(OfflineModeIsEnabled)")
        if "script" in tasks:
            raise RuntimeError("Dataset scripts are no longer supported, but found data.py")


@pytest.fixture
def harness(monkeypatch):
    """A stand-in for the package; notes which model was asked, with its adapter on or off."""
    asked, state = [], {"adapter": True}

    def simple_evaluate(*, model, tasks, task_manager, log_samples, bootstrap_iters):
        asked.append((model["pretrained"], state["adapter"], tasks, model["batch_size"]))
        assert isinstance(task_manager, Manager)
        assert log_samples
        return results([True, True, False, True] if state["adapter"] else [True, False, True, False])

    names = ("lm_eval", "lm_eval.tasks", "lm_eval.models", "lm_eval.models.huggingface")
    package, tasks, models, huggingface = (ModuleType(name) for name in names)
    package.simple_evaluate, tasks.TaskManager, huggingface.HFLM = simple_evaluate, Manager, dict
    for name, one in zip(names, (package, tasks, models, huggingface), strict=True):
        monkeypatch.setitem(sys.modules, name, one)

    @contextlib.contextmanager
    def base_only(model):
        state["adapter"] = False
        yield
        state["adapter"] = True

    monkeypatch.setattr(module, "base_only", base_only)
    monkeypatch.setattr(module, "load_to_answer", lambda config, adapter: ("model", "tokenizer"))
    monkeypatch.setattr(module, "require_adapter", lambda adapter: None)
    return asked


def test_base_and_tuned_of_one_model_are_asked_and_joined_to_the_scoreboard(harness, tmp_path):
    (tmp_path / "scoreboard.json").write_text('{"layout": 2}')
    said = []
    told = run_lm_eval(["haerae"], CONFIG, tmp_path / "adapter", tmp_path, said.append)
    size = CONFIG.evaluate.batch_size
    assert harness == [("model", False, ["haerae"], size), ("model", True, ["haerae"], size)]
    metric = {"base": 0.5, "tuned": 0.75, "change": 0.25, "lost": 1, "gained": 2, "p": 1.0}
    assert told["results"] == {"haerae": {"n": 4, "metrics": {"acc,none": metric}}}
    assert (told["version"], told["tasks"]) == ("0.0.0", ["haerae"])
    assert json.loads((tmp_path / "lm_eval.json").read_text()) == told
    assert json.loads((tmp_path / "scoreboard.json").read_text()) == {"layout": 2, "lm_eval": told}
    assert lines(told) == ["haerae acc: base 0.5000, tuned 0.7500; 1 lost, 2 gained, p 1"]
    assert len(said) == 2


def test_a_later_evaluation_keeps_them_for_the_same_adapter_alone(harness, tmp_path):
    adapter, board = tmp_path / "adapter", tmp_path / "scoreboard.json"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    said = []
    assert join_earlier(tmp_path, adapter_digest(adapter), said.append) == {}
    told = run_lm_eval(["haerae"], CONFIG, adapter, tmp_path, lambda _: None)
    board.write_text('{"layout": 2}')  # as an evaluation without --lm-eval writes it anew
    assert join_earlier(tmp_path, adapter_digest(adapter), said.append) == {"lm_eval": told}
    assert json.loads(board.read_text()) == {"layout": 2, "lm_eval": told}
    assert said == []
    (adapter / "adapter_config.json").write_text('{"r": 8}')
    board.write_text('{"layout": 2}')
    assert join_earlier(tmp_path, adapter_digest(adapter), said.append) == {}
    assert json.loads(board.read_text()) == {"layout": 2}
    assert said == [
        f"{tmp_path / 'lm_eval.json'} is not known to be of this adapter, and left out: ask again with --lm-eval"
    ]


def test_figures_that_are_no_right_or_wrong_are_compared_without_flips():
    base, tuned = (results([True, False], {"perplexity,none": value}) for value in (9.5, 8.0))
    found = compare_results(base, tuned)["haerae"]["metrics"]
    assert found["perplexity,none"] == {"base": 9.5, "tuned": 8.0, "change": -1.5}
    base["samples"]["haerae"][0]["acc"] = 0.5
    assert "lost" not in compare_results(base, tuned)["haerae"]["metrics"]["acc,none"]
    group = {"results": {"kmmlu": {"acc,none": 0.25, "alias": "kmmlu"}}}
    assert compare_results(group, group) == {
        "kmmlu": {"n": None, "metrics": {"acc,none": {"base": 0.25, "tuned": 0.25, "change": 0.0}}}
    }


def test_a_tag_without_a_row_is_told_by_its_tasks_and_a_group_by_its_own():
    row = {"n": 1, "metrics": {"acc,none": {"base": 0.1, "tuned": 0.2, "change": 0.1}}}
    told = {"tasks": ["kmmlu"], "results": {"kmmlu": row, "kmmlu_law": row}}
    assert lines(told) == ["kmmlu acc: base 0.1000, tuned 0.2000"]
    assert len(lines(told | {"tasks": ["some_tag"]})) == 2


@pytest.mark.parametrize(
    ("tasks", "told"),
    [
        (["arc_easy", "jcommonsenseqa"], "no task 'jcommonsenseqa': did you mean ja_leaderboard_jcommonsenseqa?"),
        (["KMMLU"], "no task 'KMMLU': did you mean kmmlu or kmmlu_direct?"),
        (["arc_eazy"], "did you mean arc_easy?"),
        (["zzz"], "no task 'zzz': suitable are kmmlu, haerae"),
        ([], "names no task: suitable are kmmlu"),
        (["missing.yaml"], "no task 'missing.yaml'"),
        (
            ["haerae", "away"],
            "away cannot be made ready (Couldn't reach 'some/data' on the Hub (OfflineModeIsEnabled))",
        ),
        (["script"], "script cannot be made ready (Dataset scripts are no longer supported, but found data.py)"),
    ],
)
def test_tasks_that_cannot_be_asked_are_refused_in_one_line_before_a_model_is_loaded(
    harness, monkeypatch, tmp_path, tasks, told
):
    monkeypatch.setattr(module, "load_to_answer", lambda config, adapter: pytest.fail("the model was loaded"))
    with pytest.raises(KelronError) as caught:
        run_lm_eval(tasks, CONFIG, tmp_path / "adapter", tmp_path)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_the_package_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(KelronError, match=r"pip install 'kelron\[lm-eval\]'"):
        ready(["arc_easy"])


def test_the_command_line_takes_names_with_commas_and_checks_them_before_it_evaluates(monkeypatch, capsys, tmp_path):
    from kelron_lib.__main__ import main

    assert _names(" kmmlu, haerae,") == ("kmmlu", "haerae")
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    assert main(["evaluate", "--lm-eval", "haerae", "--out", str(tmp_path / "none")]) == 2
    assert "kelron[lm-eval]" in capsys.readouterr().err
    answers = tmp_path / "answers.jsonl"
    assert main(["evaluate", "--answers", str(answers), "--lm-eval", "haerae", "--out", str(tmp_path)]) == 2
    assert "--answers asks no model, so --lm-eval says nothing" in capsys.readouterr().err


# --- The package itself -----------------------------------------------------------------------------------
needs_it = pytest.mark.skipif(not INSTALLED, reason="lm-eval is not installed (pip install 'kelron[lm-eval]')")


@pytest.fixture
def doubling(tmp_path):
    """A task of the harness over data that lies on the disk."""
    rows = [
        {"ask": f"What is {i} + {i}?", "options": [str(2 * i), str(3 * i), str(i + 9)], "right": 0} for i in range(1, 9)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {
        "task": "doubling",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.jsonl")}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{ask}}",
        "doc_to_choice": "{{options}}",
        "doc_to_target": "right",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    (tmp_path / "doubling.yaml").write_text(json.dumps(task))  # JSON is YAML
    return str(tmp_path / "doubling.yaml")


@pytest.fixture
def adapter(tmp_path):
    """An adapter that changes what the tiny base says."""
    import torch

    from kelron_lib.model import add_lora, load_base

    tuned = add_lora(load_base(CONFIG)[0], CONFIG)
    torch.manual_seed(1)
    for name, values in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(values, std=0.2)
    tuned.save_pretrained(str(tmp_path / "adapter"))
    return tmp_path / "adapter"


@needs_it
def test_the_harness_asks_base_and_tuned(doubling, adapter, tmp_path):
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    from kelron_lib.model import load_base

    told = run_lm_eval([doubling], CONFIG, adapter, tmp_path)
    found = told["results"]["doubling"]
    assert (told["tasks"], found["n"]) == (["doubling.yaml"], 8)
    figures = found["metrics"]["acc,none"]
    assert figures["tuned"] - figures["base"] == pytest.approx((figures["gained"] - figures["lost"]) / 8)
    assert figures["lost"] + figures["gained"] > 0, "the adapter was on for one of the two"
    model, tokenizer = load_base(CONFIG)
    alone = simple_evaluate(
        model=HFLM(pretrained=model, tokenizer=tokenizer), tasks=[doubling], task_manager=TaskManager()
    )
    assert figures["base"] == alone["results"]["doubling"]["acc,none"]
    assert lines(told)[0].startswith("doubling acc: base ")


@needs_it
def test_the_harness_has_the_suitable_tasks_and_says_in_one_line_that_it_cannot_fetch_them(monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    from lm_eval.tasks import TaskManager

    assert set(SUITABLE) <= set(TaskManager().all_tasks)
    with pytest.raises(KelronError) as caught:
        ready(["arc_easy"])
    assert "arc_easy cannot be made ready" in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(KelronError, match="did you mean ja_leaderboard_jcommonsenseqa"):
        ready(["jcommonsenseqa"])
