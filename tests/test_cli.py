"""The command line as a user meets it: exit codes, one-line errors, what it prints."""

import importlib.util
import io
import json
import re
import shlex
import shutil
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import pytest
from conftest import SMALL
from dataset_files import break_row, drop_first_row, rows_in

from kelron_lib import __version__
from kelron_lib.__main__ import main
from kelron_lib.answers import share
from kelron_lib.config import PRESETS, from_dict, load_preset, resolve, to_dict
from kelron_lib.evaluate import FLAGS, judge, scoreboard
from kelron_lib.runtime import exclusive
from kelron_lib.tiny import base_path
from kelron_lib.tiny.build import Recipe

SETTINGS = [part for override in SMALL for part in ("--set", override)]
VERBS = ("preflight", "data", "train", "resume", "evaluate", "plan", "chat", "demo")

PROMISED = (
    "identity_recall",
    "contradiction_rate",
    "rival_rate",
    "over_identity_rate",
    "termination_rate",
    "loop_rate",
    "wrong_script_rate",
    "broken_char_rate",
)
"""The metrics that other tools read from scoreboard.json."""


def run(capsys, *arguments):
    code = main([str(a) for a in arguments])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a small run, made with the command line alone."""
    out = tmp_path_factory.mktemp("run")
    assert main(["data", *SETTINGS, "--out", str(out / "data")]) == 0
    assert main(["train", *SETTINGS, "--out", str(out)]) == 0
    return out


@pytest.mark.parametrize("preset", sorted(PRESETS))
@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_prints_the_resolved_config_of_every_preset(capsys, verb, preset):
    code, out, _ = run(capsys, verb, "--preset", preset, "--set", "train.learning_rate=2e-5", "--dry-run")
    assert code == 0
    config = from_dict(json.loads(out))
    assert config.train.learning_rate == 2e-5
    assert config.lora == load_preset(preset).lora


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("data", "--preset", "tiny"), "Did you mean tiny-cpu"),
        (("data", "--set", "data.row=5"), "Did you mean data.rows"),
        (("data", "--set", "data.persona=kelrom"), "Did you mean kelron"),
        (("data", "--set", "data.persona=README.md/x.yaml"), "no file at README.md/x.yaml"),
        (("train", "--data", "README.md", "--out", "{tmp}/run"), "no rows at README.md"),
        (("train", "--data", "{tmp}/absent", "--out", "{tmp}/run"), "absent"),
        (("resume", "--out", "{tmp}/run"), "no checkpoint"),
        (("evaluate", "--out", "{tmp}/run"), "no adapter"),
        (("plan", "--gpus", "two"), "two"),
        (("chat", "--adapter", "{tmp}/absent"), "no adapter"),
        (("store", "verify", "{tmp}/absent"), "absent"),
        (("store", "verify", "{tmp}"), "no checkpoint"),
        (("store", "ls", "hf://buckets/a/b"), "hf://"),
        (("store", "ls", "{tmp}"), "no checkpoint"),
        (("store", "pull", "{tmp}", "{tmp}/here"), "no checkpoint"),
        (("store", "import", "{tmp}", "{tmp}/new"), "trainer_state.json is missing"),
        (("store", "prune", "{tmp}"), "LATEST.json"),
        (("store", "ls", "kaggle://me"), "kaggle://OWNER/KERNEL"),
        (("demo", "--out", "{tmp}/run", "--notebooks", "{tmp}/absent"), "01_data_prep.ipynb is missing"),
        (("tiny-base", "--steps", "0", "--out", "{tmp}/tiny"), "--steps is 0"),
        (("chat", "--set", "model.base={tmp}/absent"), "cannot load"),
        (("chat", "--set", "model.dtype=float16"), "no CUDA device"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(capsys, tmp_path, arguments, words):
    code, _, err = run(capsys, *(a.format(tmp=tmp_path) for a in arguments))
    assert code == 2
    assert words in err
    assert err.startswith("kelron: ")
    assert err.count("\n") == 1, err
    assert not list(tmp_path.iterdir()), "what was refused leaves nothing"


def tree(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--data", "{data}", "--set", "model.dtype=float16"), "no CUDA device"),
        (("--data", "{data}", "--set", "model.base={tmp}/no-model"), "no-model"),
        (("--data", "{data}", "--processes", "3"), "session.processes is 3"),
        (
            ("--data", "{data}", "--set", "data.max_tokens=60", "--set", "evaluate.max_new_tokens=60"),
            "max_tokens is 60",
        ),
        (("--data", "{broken}"), "train.parquet is no Parquet file"),
        (
            ("--data", "{broken}", "--processes", "2", "--set", "train.passes_per_step=2"),
            "train.parquet is no Parquet file",
        ),
        (("--data", "{data}", "--set", "store.url={tmp}/nowhere/store"), "create or mount"),
        (("--set", "store.url={store}", "--set", "lora.r=8"), "differing: lora.r"),
        (("--data", "{data}", "--fresh", "--set", "store.url={tmp}/nowhere/store"), "create or mount"),
    ],
)
@pytest.mark.parametrize("there", [False, True], ids=["a new folder", "a folder of somebody's"])
def test_a_training_that_is_refused_leaves_nothing_behind(capsys, tmp_path, trained, there, options, words):
    broken, out = shutil.copytree(trained / "data", tmp_path / "broken"), tmp_path / "typo" / "run"
    (broken / "train.parquet").write_text("{broken\n")
    if there:
        out.mkdir(parents=True)
        (out / "letter.txt").write_text("mine")
    places = {"data": trained / "data", "broken": broken, "store": trained / "store", "tmp": tmp_path}
    before = tree(tmp_path), tree(trained / "store")
    given = [option.format(**places) for option in options]
    code, _, err = run(capsys, "train", *SETTINGS, "--out", out, *given)
    assert (code, err.count("\n")) == (2, 1), err
    assert words in err
    assert (tree(tmp_path), tree(trained / "store")) == before


def test_a_run_that_is_refused_keeps_its_own_and_says_why(capsys, tmp_path, trained):
    """Its folder is no typing error: tools look there for how a session ended."""
    out = tmp_path / "run"
    shutil.copytree(trained / "data", out / "data")
    code, _, err = run(capsys, "train", *SETTINGS, "--out", out, "--set", "model.dtype=float16")
    assert (code, err.count("\n")) == (2, 1)
    status = read(out / "status.json")
    assert (status["state"], status["reason"]) == ("failed", err.removeprefix("kelron: ").rstrip())
    assert sorted(path.name for path in out.iterdir()) == ["data", "status.json"]


@pytest.mark.parametrize("there", [False, True], ids=["a new folder", "a folder of somebody's"])
def test_an_evaluation_and_a_demo_that_are_refused_leave_nothing_behind(capsys, tmp_path, trained, there):
    adapter, out = shutil.copytree(trained / "adapter", tmp_path / "adapter"), tmp_path / "typo" / "run"
    (adapter / "adapter_model.safetensors").write_bytes(b"")
    if there:
        out.mkdir(parents=True)
        (out / "letter.txt").write_text("mine")
    before = tree(tmp_path)
    options = ("--data", trained / "data", "--adapter", adapter, "--out", out)
    verbs = [("evaluate", *SETTINGS, *options), *[("demo", "--out", out)] * there]
    for verb in verbs:
        code, _, err = run(capsys, *verb)
        assert (code, err.count("\n")) == (2, 1), err
    assert tree(tmp_path) == before


@pytest.mark.parametrize("verb", VERBS)
def test_a_value_out_of_its_range_is_told_alike_by_every_verb(capsys, verb):
    line = "kelron: train.learning_rate is -1: it has to be above 0 and below 1\n"
    assert run(capsys, verb, "--set", "train.learning_rate=-1") == (2, "", line)


@pytest.mark.parametrize("verb", VERBS)
def test_a_dry_run_of_every_verb_looks_the_persona_up(capsys, tmp_path, verb):
    for persona, words in (
        ("kelrom", "kelron: unknown persona 'kelrom': use a packaged one or a .yaml path. Did you mean kelron?\n"),
        (f"{tmp_path}/mine.yaml", f"kelron: no file at {tmp_path}/mine.yaml\n"),
    ):
        assert run(capsys, verb, "--set", f"data.persona={persona}", "--dry-run") == (2, "", words)


def test_adapters_name_their_base_and_no_place_on_this_machine(trained):
    """The exported one, and those of the checkpoints, which other machines resume from."""
    settings = sorted(trained.rglob("adapter_config.json"))
    assert {path.parent.name for path in settings} >= {"adapter", "step-000012"}  # the newest is always kept
    for path in settings:
        text = path.read_text(encoding="utf-8")
        assert json.loads(text)["base_model_name_or_path"] == "tiny"
        assert "/" not in text


def test_an_adapter_that_was_cut_off_is_named(capsys, tmp_path, trained):
    adapter = shutil.copytree(trained / "adapter", tmp_path / "adapter")
    weights = adapter / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    code, _, err = run(capsys, "chat", "--adapter", adapter)
    assert code == 2
    assert err.startswith(f"kelron: cannot load the adapter of '{adapter}': ")
    assert err.endswith(
        "; copy it again, or fetch a checkpoint with `kelron store pull URL DIR` and name it with --adapter DIR\n"
    )
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda tensors, name: {**tensors, name: tensors[name][:, :8].contiguous()}, " is 4 x 8 where {due} is due"),
        (lambda tensors, name: {key: tensors[key] for key in tensors if key != name}, " is missing"),
        (
            lambda tensors, name: {**tensors, f"{name}.x.lora_A.weight": tensors[name].clone()},
            ".x.lora_A.weight belongs to no layer of it",
        ),
    ],
)
def test_an_adapter_that_does_not_fit_the_base_is_told_by_its_first_tensor(capsys, tmp_path, trained, change, why):
    from safetensors.torch import load_file, save_file

    adapter = shutil.copytree(trained / "adapter", tmp_path / "adapter")
    tensors = load_file(adapter / "adapter_model.safetensors")
    name = sorted(tensors)[0]
    save_file(change(tensors, name), adapter / "adapter_model.safetensors")
    code, _, err = run(capsys, "chat", "--adapter", adapter)
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith(f"kelron: the adapter in {adapter} does not fit the base tiny: base_model.model.")
    why = why.format(due=" x ".join(map(str, tensors[name].shape)))
    assert f"{name}{why}; it was made for another base than this tiny (name that with --set model.base" in err


def test_what_is_no_adapter_says_what_to_do_next(capsys, tmp_path, trained):
    def told(verb, folder):
        code, _, err = run(capsys, verb, "--adapter", folder)
        assert (code, err.count("\n")) == (2, 1)
        return err

    fetch = "fetch a checkpoint with `kelron store pull URL DIR` and name it with --adapter DIR\n"
    for verb in ("chat", "evaluate"):
        absent = tmp_path / "absent"
        assert told(verb, absent) == (
            f"kelron: no adapter in {absent}: train first (`kelron train` leaves it in OUT/adapter), name its folder "
            f"with --adapter, or {fetch}"
        )
        words = f"kelron: no adapter in {trained} itself: name one in it with --adapter ({trained / 'adapter'})\n"
        assert told(verb, trained) == words
        assert str(trained / "store" / "step-000012") in told(verb, trained / "store")
        for name in ("adapter_model.safetensors", "adapter_config.json"):
            half = shutil.copytree(trained / "adapter", tmp_path / verb / name)
            (half / name).unlink()
            assert told(verb, half) == f"kelron: no adapter in {half}, which lacks {name}: copy it again, or {fetch}"


def test_an_adapter_of_another_base_says_so(capsys, tmp_path, trained):
    adapter = shutil.copytree(trained / "adapter", tmp_path / "adapter")
    settings = read(adapter / "adapter_config.json")
    (adapter / "adapter_config.json").write_text(
        json.dumps(settings | {"base_model_name_or_path": "Qwen/other", "r": 2})
    )
    code, _, err = run(capsys, "chat", "--adapter", adapter)
    assert (code, err.count("\n")) == (2, 1)
    assert err.endswith("; it is for the base Qwen/other and the config has tiny: use the run's --preset\n")


def test_a_pulled_checkpoint_is_an_adapter_to_chat_with(capsys, tmp_path, trained, monkeypatch):
    assert run(capsys, "store", "pull", trained / "store", tmp_path / "here")[0] == 0
    monkeypatch.setattr("sys.stdin", io.StringIO("/quit\n"))
    code, out, err = run(capsys, "chat", "--adapter", tmp_path / "here")
    assert (code, err) == (0, "")
    assert "the tuned model answers" in out


@pytest.mark.parametrize(
    ("verb", "purpose"),
    [*((verb, "run") for verb in ("train", "resume", "data", "evaluate", "demo")), ("demo", "demo")],
)
def test_a_second_run_in_a_folder_is_one_line_and_exit_code_2(capsys, trained, verb, purpose):
    out = trained / "data" if verb == "data" else trained
    settings = [] if verb == "demo" else SETTINGS
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*") if path.suffix != ".lock"}
    with exclusive(trained, purpose):
        code, _, err = run(capsys, verb, *settings, "--out", out)
    assert code == 2
    assert re.fullmatch(rf"kelron: another {purpose} \(process \d+\) is using {re.escape(str(trained))}: .*\n", err)
    kept = {path: path.stat().st_mtime_ns for path in trained.rglob("*") if path.suffix != ".lock"}
    assert {path: time for path, time in kept.items() if path != trained} == {
        path: time for path, time in before.items() if path != trained
    }


def test_a_demo_in_a_folder_with_other_things_is_one_line_and_exit_code_2(capsys, trained):
    code, _, err = run(capsys, "demo", "--out", trained)
    assert code == 2
    assert re.fullmatch(r"kelron: .* is not an earlier demo: choose another --out\n", err)
    assert (trained / "adapter").is_dir()


def test_data_is_made_anew_only_when_told_to(capsys, tmp_path, trained):
    at = ("--out", shutil.copytree(trained / "data", tmp_path / "data"))
    rows = (tmp_path / "data" / "train.parquet").read_bytes()
    code, out, _ = run(capsys, "data", *SETTINGS, *at)
    assert (code, out.splitlines()[0]) == (
        0,
        f"{tmp_path / 'data'} is already there, with these very rows: left as it is",
    )
    other = (*SETTINGS, "--set", "data.seed=2", *at)
    code, _, err = run(capsys, "data", *other)
    assert code == 2
    assert err.startswith(f"kelron: {tmp_path / 'data'} holds another dataset (data.seed 1 there, 2 now): replace it")
    assert err.count("\n") == 1
    assert (tmp_path / "data" / "train.parquet").read_bytes() == rows
    assert run(capsys, "data", "--replace", *other)[0] == 0
    assert (tmp_path / "data" / "train.parquet").read_bytes() != rows


def test_the_same_rows_of_another_config_are_left_and_named_by_the_new_one(capsys, tmp_path, trained):
    folder = shutil.copytree(trained / "data", tmp_path / "data")
    right = read(folder / "config.json")
    (folder / "config.json").write_text(json.dumps(right | {"data": right["data"] | {"identity_share": 0.2}}))
    rows = (folder / "train.parquet").stat().st_mtime_ns
    code, _, err = run(capsys, "train", *SETTINGS, "--data", folder, "--out", tmp_path / "run")
    assert code == 2
    assert "was made with data.identity_share=0.2 and the config has data.identity_share=0.3" in err
    assert err.count("\n") == 1
    assert run(capsys, "data", *SETTINGS, "--out", folder)[0] == 0
    assert read(folder / "config.json") == right
    assert (folder / "train.parquet").stat().st_mtime_ns == rows


def test_the_command_that_an_error_names_makes_the_dataset(capsys, tmp_path):
    at = tmp_path / "my data"
    code, _, err = run(capsys, "evaluate", *SETTINGS, "--set=data.languages=en,ko", "--data", at, "--out", tmp_path)
    assert code == 2  # no adapter is told first
    (tmp_path / "adapter").mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / "adapter" / name).write_text("{}")
    code, _, err = run(capsys, "evaluate", *SETTINGS, "--set=data.languages=en,ko", "--data", at, "--out", tmp_path)
    assert (code, err.count("\n")) == (2, 1)
    command = shlex.split(re.search(r"`kelron (.*)` makes them", err)[1])
    assert run(capsys, *command)[0] == 0
    assert read(at / "config.json")["data"]["languages"] == ["en", "ko"]
    assert read(at / "config.json")["data"]["rows"] == 240


def test_the_demo_without_its_extra_says_what_to_install(capsys, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "papermill" else find(name))
    code, _, err = run(capsys, "demo", "--out", tmp_path)
    assert code == 2
    assert err == "kelron: papermill not installed: pip install 'kelron[notebooks]'\n"


def test_data_writes_what_other_tools_read(capsys, tmp_path):
    out = tmp_path / "data"
    code, printed, _ = run(capsys, "data", "--preset", "tiny-cpu", "--set", "data.rows=240", "--out", out)
    assert code == 0
    assert "identity" in printed
    quality = json.loads((out / "quality.json").read_text(encoding="utf-8"))
    assert quality["verdict"] == "pass"
    assert quality["identity_share"] >= 0.3
    assert {p.name for p in out.iterdir()} >= {"train.parquet", "validation.parquet", "test.parquet", "config.json"}


def test_a_broken_row_is_named_by_file_and_number(capsys, tmp_path, small_data):
    shutil.copytree(small_data, tmp_path / "data")
    break_row(tmp_path / "data", 5, kind="other")
    code, _, err = run(capsys, "train", *SETTINGS, "--data", tmp_path / "data", "--out", tmp_path / "run")
    assert code == 2
    assert "train.parquet, row 5: kind is 'other'" in err


def test_a_session_leaves_what_other_tools_read(trained):
    (session,) = read(trained / "sessions.json")
    steps = read(trained / "status.json")["total_steps"]
    assert (session["first_step"], session["last_step"], session["reason"]) == (0, steps, "finished")
    assert session["seconds"] > 0
    assert read(trained / "config.json") == to_dict(resolve("tiny-cpu", SMALL))
    pointer = read(trained / "store" / "LATEST.json")
    versions = read(trained / "store" / pointer["prefix"] / "MANIFEST.json")["versions"]
    assert versions == {name: version(name) for name in ("torch", "transformers", "peft", "bitsandbytes")} | {
        "kelron": __version__
    }


def test_resume_goes_on_from_the_store_alone(capsys, tmp_path, trained):
    store = shutil.copytree(trained / "store" / "step-000009", tmp_path / "store")
    at = ("--data", trained / "data", "--out", tmp_path / "run", "--set", f"store.url={store}")
    code, out, err = run(capsys, "resume", *SETTINGS, *at)
    assert code == 0, err
    assert "resuming after step 9" in out
    (session,) = read(tmp_path / "run" / "sessions.json")
    assert (session["first_step"], session["reason"]) == (9, "finished")
    weights = ("adapter", "adapter_model.safetensors")
    assert (tmp_path / "run").joinpath(*weights).read_bytes() == trained.joinpath(*weights).read_bytes()


def test_evaluate_scores_a_trained_adapter(capsys, trained):
    few = (
        *("identity_prompts=3", "unrelated_prompts=3", "attack_prompts=0", "pressure_dialogues=0"),
        *("choice_items=7", "max_new_tokens=24"),
    )
    settings = [part for setting in few for part in ("--set", f"evaluate.{setting}")]
    code, out, err = run(capsys, "evaluate", *SETTINGS, *settings, "--out", trained)
    board = read(trained / "scoreboard.json")
    missed = [check["text"] for check in board["gate"]["checks"] if not check["met"]]
    assert code == (1 if missed else 0), err
    assert all(text in out for text in missed)
    for model in (board["base"], board["tuned"]):
        assert {*PROMISED, "by_language", "by_system", "by_language_system"} <= set(model)
        for values in (model, *model["by_language"].values()):
            assert all({"value", "hits", "n", "low", "high"} <= set(values[metric]) for metric in PROMISED)
        assert {language: values["identity_recall"]["n"] for language, values in model["by_language"].items()} == {
            "ko": 3, "en": 3, "ja": 3
        }  # fmt: skip
    assert board["base"]["identity_recall"]["value"] == 0
    forgotten = board["forgetting"]  # seven items a language are more than one part
    assert (forgotten["base"]["n"], forgotten["tuned"]["n"], len(forgotten["items"])) == (21, 21, 21)
    assert [item["language"] for item in forgotten["items"]] == ["ko"] * 7 + ["en"] * 7 + ["ja"] * 7
    assert "Multiple choice: base" in out
    assert (trained / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")


FEW = [
    f"--set=evaluate.{setting}"
    for setting in (
        *("identity_prompts=1", "unrelated_prompts=1", "attack_prompts=0", "pressure_dialogues=0"),
        *("choice_items=0", "max_new_tokens=4"),
    )
]


def test_evaluate_refuses_what_the_adapter_was_not_made_from(capsys, trained, tmp_path):
    code, _, err = run(capsys, "evaluate", *SETTINGS, *FEW, "--set", "lora.r=2", "--out", trained)
    assert code == 2
    assert "is of a run with lora.r=" in err
    code, _, err = run(capsys, "evaluate", *SETTINGS, *FEW, "--persona", "folimi", "--adapter", trained / "adapter")
    assert (code, err.count("\n")) == (2, 1)
    assert "is of a run with data.persona=kelron: evaluate it with that config (--set data.persona=kelron)" in err
    other = shutil.copytree(trained / "data", tmp_path / "data")
    drop_first_row(other, "test")
    told = (trained / "scoreboard.json").stat().st_mtime_ns if (trained / "scoreboard.json").exists() else None
    code, _, err = run(capsys, "evaluate", *SETTINGS, *FEW, "--data", other, "--out", trained)
    assert code == 2
    assert "is not the dataset that the adapter in" in err
    assert told == ((trained / "scoreboard.json").stat().st_mtime_ns if told else None)


def test_an_adapter_of_unknown_origin_is_evaluated_and_said_to_be_one(capsys, trained, tmp_path):
    adapter = shutil.copytree(trained / "adapter", tmp_path / "adapter")
    (adapter / "kelron.json").unlink()
    options = ("--data", trained / "data", "--adapter", adapter, "--out", tmp_path / "run")
    code, out, err = run(capsys, "evaluate", *SETTINGS, *FEW, *options)
    assert code in (0, 1), err
    assert "The adapter does not say what it was trained on" in out
    assert "forgetting" not in read(tmp_path / "run" / "scoreboard.json"), "no item was asked"
    assert "is unknown" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    (adapter / "kelron.json").write_text("{}")
    code, _, err = run(capsys, "evaluate", *SETTINGS, *FEW, *options)
    assert code == 2
    assert "does not tell what the adapter was made from" in err


def test_an_evaluation_that_is_run_again_asks_nothing_again(capsys, trained, tmp_path, monkeypatch):
    from safetensors.torch import load_file, save_file

    options = ("--data", trained / "data", "--adapter", trained / "adapter", "--out", tmp_path / "run")
    code, out, err = run(capsys, "evaluate", *SETTINGS, *FEW, *options)
    assert code in (0, 1), err
    assert f"they are kept in {tmp_path / 'run' / 'asked'}, so that after a cut the same command goes on" in out
    first = (tmp_path / "run" / "answers.jsonl").read_bytes()
    board = read(tmp_path / "run" / "scoreboard.json")
    said = {"processes": 1, "devices": ["CPU"], "sittings": 1, "empty": {"base": 0, "tuned": 0}}
    assert {name: board["meta"][name] for name in said} == said
    assert board["meta"]["tokens"] > len(first.splitlines()) > board["meta"]["prompts"]
    assert min(board["meta"][name] for name in ("seconds", "tokens_per_second", "measuring_seconds")) > 0
    (tmp_path / "run" / "answers.jsonl").unlink()
    code, out, err = run(capsys, "evaluate", *SETTINGS, *FEW, *options)
    assert code in (0, 1), err
    assert "to answer" not in out
    assert (tmp_path / "run" / "answers.jsonl").read_bytes() == first
    again = read(tmp_path / "run" / "scoreboard.json")
    del board["meta"]["created"], again["meta"]["created"]
    assert again == board
    row = {"n": 4, "metrics": {"acc,none": {"base": 0.5, "tuned": 0.75, "change": 0.25}}}
    benchmarks = {"version": "0", "tasks": ["haerae"], "results": {"haerae": row}}
    monkeypatch.setattr("kelron_lib.evaluate.lm_eval.ready", lambda tasks: None)
    monkeypatch.setattr("kelron_lib.evaluate.run.run_lm_eval", lambda tasks, *args: benchmarks | {"tasks": [*tasks]})
    code, out, err = run(capsys, "evaluate", *SETTINGS, *FEW, *options, "--lm-eval", "haerae")
    assert code in (0, 1), err
    assert "haerae acc: base 0.5000, tuned 0.7500" in out
    assert "<code>haerae</code>" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    left = benchmarks | {"adapter_sha256": again["meta"]["adapter_sha256"]}
    (tmp_path / "run" / "lm_eval.json").write_text(json.dumps(left))
    code, out, err = run(capsys, "evaluate", *SETTINGS, *FEW, *options)
    assert code in (0, 1), err
    assert read(tmp_path / "run" / "scoreboard.json")["lm_eval"] == left, "asked earlier, of this adapter"
    assert "<code>haerae</code>" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    foreign = shutil.copytree(trained / "adapter", tmp_path / "foreign")
    tensors = load_file(foreign / "adapter_model.safetensors")
    save_file(dict(list(tensors.items())[1:]), foreign / "adapter_model.safetensors")
    before = tree(tmp_path)
    code, out, err = run(capsys, "evaluate", *SETTINGS, *FEW, *options, "--adapter", foreign)
    assert (code, out) == (2, ""), err
    assert "does not fit the base tiny" in err
    assert tree(tmp_path) == before, "the answers of the adapter that does fit stay"


def test_an_interrupted_evaluation_says_what_is_kept_and_how_to_go_on(capsys, trained, tmp_path, monkeypatch):
    def until_the_second(*args, **more):
        calls.append(args)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return real(*args, **more)

    calls, real = [], share.generate_answers
    out = tmp_path / "a run"
    command = ["evaluate", *SETTINGS, *FEW, *map(str, ("--data", trained / "data", "--adapter", trained / "adapter"))]
    command += ["--out", str(out)]
    monkeypatch.setattr(share, "generate_answers", until_the_second)
    code, _, err = run(capsys, *command)
    kept = len(calls[0][2])
    assert code == 130
    assert err.splitlines() == [
        f"kelron: interrupted by SIGINT (Ctrl-C): {kept} of {2 * kept} answers are kept in {out / 'asked'}",
        f"kelron: go on with: {shlex.join(['kelron', *command])}",
    ]
    monkeypatch.setattr(share, "generate_answers", real)
    code, told, _ = run(capsys, *command)
    assert code in (0, 1)
    assert "3 of 4 parts to answer" in told
    assert read(out / "scoreboard.json")["meta"]["sittings"] == 2


def test_the_measured_loss_is_the_models_own(trained):
    import torch

    from kelron_lib.batching import PaddingCollator, encode_rows
    from kelron_lib.evaluate.measures import LOSS_BATCH, loss_sum
    from kelron_lib.model import load_tuned

    config = resolve("tiny-cpu", SMALL)
    model, tokenizer = load_tuned(config, trained / "adapter")
    rows = rows_in(trained / "data", "test")[:LOSS_BATCH]
    batch = PaddingCollator(tokenizer.pad_token_id)(encode_rows(tokenizer, rows, config.data.max_tokens))
    with torch.inference_mode():
        expected = model(**batch).loss.item()
    nats, tokens = loss_sum(model, tokenizer, rows, max_tokens=config.data.max_tokens)
    assert nats / tokens == pytest.approx(expected, rel=1e-5)
    parts = [loss_sum(model, tokenizer, [row], max_tokens=config.data.max_tokens) for row in rows]
    assert min(nats / tokens for nats, tokens in parts) < expected < max(nats / tokens for nats, tokens in parts)
    assert sum(tokens for _, tokens in parts) == tokens


def test_the_adapter_loads_with_plain_peft(trained):
    import torch
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    ids = torch.arange(100, 120)[None]
    base = AutoModelForCausalLM.from_pretrained(base_path())
    with torch.inference_mode():
        before = base(input_ids=ids).logits
        tuned = PeftModel.from_pretrained(base, str(trained / "adapter"))
        assert not torch.equal(tuned(input_ids=ids).logits, before)
    saved = load_file(trained / "adapter" / "adapter_model.safetensors")
    loaded = get_peft_model_state_dict(tuned)
    assert loaded.keys() == saved.keys()
    assert all(torch.equal(loaded[name], saved[name]) for name in saved)


@pytest.mark.parametrize(("recall", "code"), [(1.0, 0), (0.5, 1)])
def test_evaluate_succeeds_only_where_every_target_holds(capsys, monkeypatch, tmp_path, recall, code):
    asked = [{"id": str(i), "model": "tuned", "language": "en", "kind": "identity", "stopped": True} for i in range(10)]
    told = {"source": "test", "system_kind": "persona", "prompt": "Who are you?", "answer": "I am ..."}
    says = [{**dict.fromkeys(FLAGS, False), "asserts_persona": i < 10 * recall} for i in range(10)]
    records = [{**prompt, **told, "flags": flags} for prompt, flags in zip(asked, says, strict=True)]
    records += [{**record, "id": f"u{record['id']}", "kind": "unrelated"} for record in records]
    counts = {"identity.en": 10, "unrelated.en": 10}
    board = {"tuned": scoreboard(records), "meta": {"persona": "Kelron", "prompts": 20, "counts": counts}}
    board["gate"] = judge(board, records, "tiny")
    monkeypatch.setattr("kelron_lib.evaluate.run.evaluate_run", lambda *args, **kwargs: board)
    found, out, _ = run(capsys, "evaluate", "--out", tmp_path)
    assert found == code
    assert ("every measured target holds" in out) == (code == 0)
    assert ("targets missed:\nIdentity recall" in out) == (code == 1)


def test_the_tiny_base_prints_the_recipe_that_its_options_decide(capsys):
    code, out, _ = run(capsys, "tiny-base", "--device", "cuda", "--dry-run")
    assert code == 0
    assert json.loads(out) == read(base_path() / "tiny_base.json")["recipe"], "the shipped weights' own recipe"
    code, out, _ = run(capsys, "tiny-base", "--steps", "7", "--dry-run")
    assert json.loads(out) == asdict(Recipe(steps=7))
    with pytest.raises(SystemExit) as refused:
        main(["tiny-base", "--set", "lora.r=8"])
    assert refused.value.code == 2


def test_the_tiny_base_says_beforehand_that_a_cpu_takes_hours(capsys):
    with pytest.raises(SystemExit):
        main(["tiny-base", "--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert "hours on a CPU and minutes on a GPU (--device cuda)" in told


def test_the_picture_in_the_pages_is_what_the_plan_draws(capsys, tmp_path):
    """`kelron plan --preset kelron-14b-t4x2 --svg docs/plan.svg` makes it again."""
    code, out, _ = run(capsys, "plan", "--preset", "kelron-14b-t4x2", "--svg", str(tmp_path / "a" / "plan.svg"))
    assert code == 0
    assert "Use ddp" in out
    drawn = (tmp_path / "a" / "plan.svg").read_text(encoding="utf-8")
    assert drawn.startswith("<svg ")
    assert Path("docs/plan.svg").read_text(encoding="utf-8") == drawn
    code, _, err = run(capsys, "plan", "--svg", str(tmp_path / "a" / "plan.svg" / "b.svg"))
    assert code == 2
    assert err.count("\n") == 1
    assert "b.svg" in err


def test_the_plan_says_what_fits_and_why(capsys):
    code, out, _ = run(capsys, "plan", "--preset", "kelron-14b-t4x2", "--json")
    assert code == 0
    assert {"ddp", "sandwich", "balanced", "single"} <= set(str(out).replace('"', " ").split())
    assert json.loads(out)["epoch"]["samples"] == 35000 - 600 - 1500
    code, out, _ = run(capsys, "plan", "--preset", "kelron-14b-t4x2", "--gpus", "14.74", "--set", "data.rows=9000")
    assert "The preset is made for 2 GPUs and there is 1" in out
    assert "epoch of 7,020 samples" in out
    code, out, _ = run(capsys, "plan", "--gpus", "14.74")
    assert "made for" not in out
    code, out, _ = run(capsys, "plan", "--attempts")
    assert code == 0
    assert "rotary" in out
