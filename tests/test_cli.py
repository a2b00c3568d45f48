"""The command line as a user meets it: exit codes, one-line errors, what it prints."""

import json

import pytest

from kelron_lib.__main__ import main
from kelron_lib.config import PRESETS, from_dict, load_preset

VERBS = ("preflight", "data", "train", "resume", "evaluate", "plan", "chat", "tiny-base", "demo")


def run(capsys, *arguments):
    code = main([str(a) for a in arguments])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


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
        (("train", "--data", "{tmp}/absent", "--out", "{tmp}/run"), "absent"),
        (("resume", "--out", "{tmp}/run"), "no checkpoint"),
        (("evaluate", "--out", "{tmp}/run"), "no adapter"),
        (("plan", "--gpus", "two"), "two"),
        (("chat", "--adapter", "{tmp}/absent"), "no adapter"),
        (("store", "verify", "{tmp}/absent"), "absent"),
        (("store", "verify", "{tmp}"), "no checkpoint"),
        (("store", "ls", "hf://buckets/a/b"), "hf://"),
        (("demo", "--out", "{tmp}/run", "--notebooks", "{tmp}/absent"), "01_data_prep.ipynb is missing"),
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


def test_data_writes_what_other_tools_read(capsys, tmp_path):
    out = tmp_path / "data"
    code, printed, _ = run(capsys, "data", "--preset", "tiny-cpu", "--set", "data.rows=240", "--out", out)
    assert code == 0
    assert "identity" in printed
    quality = json.loads((out / "quality.json").read_text(encoding="utf-8"))
    assert quality["verdict"] == "pass"
    assert quality["identity_share"] >= 0.3
    assert {p.name for p in out.iterdir()} >= {"train.jsonl", "validation.jsonl", "test.jsonl", "config.json"}


def test_a_broken_row_is_named_by_file_and_line(capsys, tmp_path, small_data):
    import shutil

    shutil.copytree(small_data, tmp_path / "data")
    path = tmp_path / "data" / "train.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([*lines[:4], "{broken", *lines[5:]]) + "\n", encoding="utf-8")
    code, _, err = run(capsys, "train", "--data", tmp_path / "data", "--out", tmp_path / "run")
    assert code == 2
    assert "train.jsonl:5" in err


def test_the_plan_says_what_fits_and_why(capsys):
    code, out, _ = run(capsys, "plan", "--preset", "kelron-14b-t4x2", "--json")
    assert code == 0
    assert {"ddp", "sandwich", "balanced", "single"} <= set(str(out).replace('"', " ").split())
    code, out, _ = run(capsys, "plan", "--attempts")
    assert code == 0
    assert "rotary" in out
