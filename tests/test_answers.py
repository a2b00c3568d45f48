"""Answers to many prompts are kept batch by batch: a cut or another number of processes changes none of them."""

import json

import pytest

from kelron_lib.answers import Asking, ask, share
from kelron_lib.config import resolve
from kelron_lib.errors import KelronError

QUESTIONS = [
    "Who are you?",
    "누구세요?",
    "お名前は何ですか。",
    "What should I have for lunch?",
    "Good morning.",
    "Thank you.",
]


def asking(questions=QUESTIONS, **changes):
    prompts = tuple(
        [{"role": "system", "content": ""}, {"role": "user", "content": question}] for question in questions
    )
    return Asking(resolve("tiny-cpu"), prompts, max_new_tokens=24, batch_size=2, **changes)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "a"
    return folder, ask(asking(), folder, say=lambda _: None)


def test_answers_come_in_the_order_of_the_prompts(whole):
    _, found = whole
    assert list(found) == ["base"]
    assert len(found["base"]) == len(QUESTIONS)
    assert "Quorin" in found["base"][0].text
    assert "쿼린" in found["base"][1].text
    assert "クォリン" in found["base"][2].text


def test_a_cut_goes_on_with_what_is_missing(whole, tmp_path, monkeypatch):
    folder, found = whole
    lines = [line for line in (folder / "answers-0.jsonl").read_text(encoding="utf-8").splitlines() if line]
    assert len(lines) == 3
    cut = tmp_path / "cut"
    cut.mkdir()
    (cut / "asking.json").write_text((folder / "asking.json").read_text(encoding="utf-8"), encoding="utf-8")
    (cut / "answers-0.jsonl").write_text(lines[0] + "\n" + lines[1][: len(lines[1]) // 2], encoding="utf-8")
    asked = []
    real = share.generate_answers
    monkeypatch.setattr(share, "generate_answers", lambda *args, **more: asked.append(args[2]) or real(*args, **more))
    assert ask(asking(), cut, say=lambda _: None) == found
    assert len(asked) == 2
    asked.clear()
    assert ask(asking(), cut, say=lambda _: None) == found
    assert asked == []


def test_two_processes_give_the_same_answers(whole, tmp_path):
    said = []
    assert ask(asking(), tmp_path / "two", processes=2, say=said.append) == whole[1]
    assert {path.name for path in (tmp_path / "two").glob("answers-*")} == {"answers-0.jsonl", "answers-1.jsonl"}
    assert any("2 at a time" in line for line in said)


def test_other_questions_begin_anew_and_say_so(whole, tmp_path):
    folder, found = whole
    again = tmp_path / "a"
    again.mkdir()
    for path in folder.iterdir():
        (again / path.name).write_bytes(path.read_bytes())
    said = []
    other = ask(asking([*QUESTIONS[:5], "Good night."]), again, say=said.append)
    assert "asked anew" in said[0]
    assert other["base"][:3] == found["base"][:3]
    assert json.loads((again / "asking.json").read_text(encoding="utf-8"))["prompts"][5][1]["content"] == "Good night."


def test_nothing_to_ask_is_one_line(tmp_path):
    with pytest.raises(KelronError, match="nothing to ask"):
        ask(asking([]), tmp_path / "a")
    with pytest.raises(KelronError, match="an adapter for the tuned model"):
        ask(asking(models=("base", "tuned")), tmp_path / "a")
