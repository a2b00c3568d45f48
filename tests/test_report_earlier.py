import json

import pytest
from scoreboards import ASK, BASE, HOSTILE, TUNED, board, prompt, scored
from test_report import Elements, evaluated

from kelron_lib.__main__ import main
from kelron_lib.errors import KelronError
from kelron_lib.evaluate import METRICS, write_report, write_results
from kelron_lib.evaluate.report import load_earlier
from kelron_lib.evaluate.report.earlier import config_changes, flipped, shared


def answered(wrong=(), languages=tuple(ASK), count=4):
    """Tuned and base answers to `count` questions a language; `wrong`: (language, number) answered as the base does."""
    asked = []
    for language in languages:
        for n in range(count):
            said = BASE if (language, n) in wrong else TUNED
            asked.append((prompt(language, n), BASE[language], said[language], True, None))
    return scored(asked)


def earlier_run(folder, records, config=None):
    write_results(folder, board(records), records)
    if config:
        (folder / "evaluate_config.json").write_text(json.dumps(config))
    return folder


def compared(tmp_path, then, now, config="", config_then=None):
    earlier = earlier_run(tmp_path / "run-a", then, config_then)
    path = write_report(tmp_path, scoreboard=board(now), answers=now, config=config, against=earlier)
    text = path.read_text(encoding="utf-8")
    Elements(text)
    return text.split('id="earlier"')[1].split("</section>")[0]


def test_figures_and_flips_of_an_earlier_run(tmp_path):
    then = answered(wrong={("ko", 0), ("ko", 1), ("en", 0)})
    now = answered(wrong={("ja", 3)})
    shown = compared(tmp_path, then, now, json.dumps({"train": {"epochs": 2}}))
    assert "Both runs asked the same 12 prompts." in shown
    assert "flips +3 −1; p = 0.625" in shown
    assert "+16.7 points" in shown
    assert "3 of the shared prompts: now says Kelron" in shown
    assert "1 of the shared prompts: no longer says Kelron" in shown
    assert "One of the runs left no config" in shown


def test_what_differs_in_the_config(tmp_path):
    then, now = {"train": {"epochs": 1, "seed": 1}, "old": "<b>"}, {"train": {"epochs": 2, "seed": 1}, "new": [1]}
    assert config_changes(then, now) == [
        ("new", "–", "[1]"),
        ("old", '"<b>"', "–"),
        ("train.epochs", "1", "2"),
    ]
    shown = compared(tmp_path, answered(), answered(), json.dumps(now), then)
    assert "<code>train.epochs</code>" in shown
    assert "<code>train.seed</code>" not in shown
    assert "&lt;b&gt;" in shown


def test_another_set_of_prompts_is_said(tmp_path):
    shown = compared(tmp_path, answered(count=3), answered(languages=("ko",), count=4))
    assert "The prompts differ:</strong> 9 then, 4 now, 3 in both" in shown


def test_prompts_are_the_same_only_word_for_word():
    now = answered(languages=("en",), count=2)
    assert len(shared(now, now)) == 4
    for change in ({"id": "x"}, {"system": HOSTILE["en"]}, {"messages": [{"role": "user", "content": "Who?"}]}):
        assert shared([{**now[0], **change}], now[:1]) == []
    later = {**now[0], "messages": [*now[0]["messages"], {"role": "assistant", "content": "Another answer."}]}
    assert shared([later], now[:1]), "a model's own answers are not part of the question"


def test_a_metric_flips_only_over_answers_that_count():
    pairs = shared(answered(wrong={("ko", 0)}), answered())
    came, went, counted = flipped(METRICS["over_identity_rate"], pairs)
    assert (came, went, counted) == ([], [], 0)


def test_a_run_without_answers_or_of_the_first_layout_is_compared_by_its_figures(tmp_path):
    records = answered()
    old = {key: value for key, value in board(records, gate=False).items() if key not in ("layout", "comparison")}
    folder = tmp_path / "old"
    folder.mkdir()
    (folder / "scoreboard.json").write_text(json.dumps(old))
    path = write_report(tmp_path, scoreboard=board(records), answers=records, against=folder)
    text = path.read_text(encoding="utf-8")
    assert "answers are not at hand" in text
    assert ">then<" in text


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({"layout": 3}, "layout 3, this version reads 1 and 2"),
        ([], "layout None"),
        ({"layout": 2, "meta": {"persona": "Kelron"}}, "no scoreboard of `kelron evaluate`"),
        ({"tuned": {"identity_recall": {"value": 1}}, "meta": {"persona": "K"}}, "identity_recall has no value with"),
        (None, "scoreboard.json is missing"),
    ],
)
def test_another_layout_is_refused_in_a_line(tmp_path, written, message):
    if written is not None:
        (tmp_path / "scoreboard.json").write_text(json.dumps(written))
    with pytest.raises(KelronError, match=message) as caught:
        load_earlier(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_broken_answer_of_an_earlier_run_is_named_by_its_line(tmp_path):
    made, records = evaluated()
    write_results(tmp_path, made, records)
    lines = (tmp_path / "answers.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "answers.jsonl").write_bytes(b"".join([*lines[:3], b'{"model": "tuned"}\n']))
    with pytest.raises(KelronError, match=r"answers\.jsonl, line 4: not an answer"):
        load_earlier(tmp_path)


def test_a_run_is_not_compared_with_itself(tmp_path):
    made, records = evaluated()
    write_results(tmp_path, made, records)
    with pytest.raises(KelronError, match="name the folder of another run"):
        write_report(tmp_path, scoreboard=made, answers=records, against=tmp_path / ".")


def test_the_command_refuses_an_earlier_run_before_it_asks_anything(tmp_path, capsys):
    assert main(["evaluate", "--out", str(tmp_path), "--against", str(tmp_path / "nowhere")]) == 2
    told = capsys.readouterr().err
    assert "nowhere/scoreboard.json is missing" in told
    assert told.count("\n") == 1


def test_answers_from_a_file_are_no_earlier_run(tmp_path, capsys):
    line = {"id": 1, "language": "en", "kind": "identity", "system": "", "prompt": "Who?", "answer": "I'm Kelron."}
    (tmp_path / "mine.jsonl").write_text(json.dumps({**line, "stopped": True}))
    scored_to = tmp_path / "scored"
    assert main(["evaluate", "--answers", str(tmp_path / "mine.jsonl"), "--out", str(scored_to)]) in (0, 1)
    capsys.readouterr()
    assert main(["evaluate", "--out", str(tmp_path), "--against", str(scored_to)]) == 2
    told = capsys.readouterr().err
    assert "scored holds the scores of a file of answers (mine.jsonl)" in told
    assert told.count("\n") == 1
