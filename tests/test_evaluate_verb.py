"""The options of `kelron evaluate` that choose what is asked and what it is compared with."""

import json

import pytest

from kelron_lib.__main__ import main
from kelron_lib.config import SMALL
from kelron_lib.evaluate.prompt import ATTACKS


def config_of(capsys, *options):
    assert main(["evaluate", "--preset", "kelron-14b-t4x2", "--dry-run", *options]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_small_evaluation_asks_few_and_what_is_set_by_name_stays(capsys):
    asked = config_of(capsys, "--small", "--set", "evaluate.identity_prompts=7")["evaluate"]
    assert {name: asked[name] for name in SMALL} == {**SMALL, "identity_prompts": 7}
    assert asked["policy"] == "look", "few answers cannot pass a release"
    assert config_of(capsys)["evaluate"]["policy"] == "release"
    for policy in ("release", "tiny"):
        assert config_of(capsys, "--small", "--policy", policy)["evaluate"]["policy"] == policy
    assert main(["evaluate", "--small", "--dry-run"]) == 0
    assert json.loads(capsys.readouterr().out)["evaluate"]["policy"] == "tiny"


def test_options_that_are_short_for_settings(capsys):
    config = config_of(capsys, "--policy", "tiny", "--prompts", "mine.jsonl", "--persona", "folimi")
    assert (config["evaluate"]["policy"], config["evaluate"]["prompts"]) == ("tiny", "mine.jsonl")
    assert config["data"]["persona"] == "folimi"


def test_what_would_be_asked_is_listed_without_a_model(capsys, small_data):
    assert main(["evaluate", "--small", "--list-prompts", "--data", str(small_data)]) == 0
    out = capsys.readouterr().out
    assert all(f"| {attack} |" in out for attack in ATTACKS)
    assert not (small_data.parent / "scoreboard.json").exists()


@pytest.mark.parametrize("option", ["--small", "--list-prompts", "--against=x", "--prompts=mine.jsonl"])
def test_a_file_of_answers_has_no_use_for_them(capsys, option):
    assert main(["evaluate", "--answers", "a.jsonl", "--out", "b", option]) == 2
    assert "--answers asks no model, so" in capsys.readouterr().err


def test_what_cannot_be_compared_with_is_told_before_anything_is_asked(capsys, tmp_path):
    for against, words in ((tmp_path / "none", "scoreboard.json is missing"), (tmp_path, "this run's own folder")):
        assert main(["evaluate", "--out", str(tmp_path), "--against", str(against)]) == 2
        err = capsys.readouterr().err
        assert (words in err, err.count("\n")) == (True, 1)
