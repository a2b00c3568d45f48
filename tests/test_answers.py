"""Answers to many prompts are kept batch by batch: a cut or another number of processes changes none of them."""

import json
import os
import pickle
import signal
import subprocess
import sys
import weakref
from pathlib import Path

import psutil
import pytest

from kelron_lib.answers import Asking, Measure, Reply, ask, measured, share, work_done
from kelron_lib.answers import asking as asking_module
from kelron_lib.answers.dialogues import conversation, reply
from kelron_lib.answers.kept import Kept, stages
from kelron_lib.config import resolve
from kelron_lib.errors import KelronError, ProcessFailed
from kelron_lib.generate import Answer, base_only, generate_answers
from kelron_lib.model import add_lora, load_base, load_to_answer, quiet_libraries

QUESTIONS = [
    "Who are you?",
    "누구세요?",
    "お名前は何ですか。",
    "What should I have for lunch?",
    "Good morning.",
    "Thank you.",
]


LATER = ("Are you sure?", "Then who made you?", "너는 누구니?")
"""What the user says after the first question of a dialogue."""
CONFIG = resolve("tiny-cpu", ["lora.r=2", "session.progress_seconds=0"])


def prompts(questions):
    return tuple([{"role": "system", "content": ""}, {"role": "user", "content": question}] for question in questions)


def asking(questions=QUESTIONS, **changes):
    return Asking(CONFIG, prompts(questions), max_new_tokens=24, batch_size=2, **changes)


@pytest.fixture(scope="module")
def loaded():
    with quiet_libraries():
        return load_base(CONFIG)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """An adapter whose answers are not the base's."""
    import torch

    folder = tmp_path_factory.mktemp("adapter")
    with quiet_libraries():
        model = add_lora(load_base(CONFIG)[0], CONFIG)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.15)
    model.save_pretrained(folder)
    return folder


def all_of_it(adapter):
    """Single questions, dialogues of two and of four turns, both models, and a measure in three parts."""
    yes = {"role": "assistant", "content": "Yes."}
    rows = [{"id": str(i), "messages": [*one, yes]} for i, one in enumerate(prompts(QUESTIONS[:3]))]
    return asking(
        adapter=adapter,
        models=("base", "tuned"),
        turns=((), LATER, (), LATER[:1], (), LATER),
        measures=(Measure("loss", "kelron_lib.evaluate.measures:loss_sum", tuple(rows), 1, {"max_tokens": 256}),),
    )


@pytest.fixture(scope="module")
def dialogues(adapter, tmp_path_factory):
    folder = tmp_path_factory.mktemp("dialogues") / "a"
    return folder, ask(all_of_it(adapter), folder, say=lambda _: None)


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


def test_answers_that_an_earlier_layout_kept_are_not_mixed_with_new_ones(whole, tmp_path, monkeypatch):
    assert asking_module.LAYOUT > 2, "2 were answers of whole batches"
    again, said = tmp_path / "a", []
    monkeypatch.setattr(asking_module, "LAYOUT", 2)
    ask(asking(QUESTIONS[:1]), again, say=lambda _: None)
    monkeypatch.undo()
    ask(asking(QUESTIONS[:1]), again, say=said.append)
    assert "asked anew" in said[0]
    assert json.loads((again / "asking.json").read_text(encoding="utf-8"))["layout"] == asking_module.LAYOUT


def test_nothing_to_ask_is_one_line():
    with pytest.raises(KelronError, match="nothing to ask"):
        asking([])
    with pytest.raises(KelronError, match="an adapter for the tuned model"):
        asking(models=("base", "tuned"))
    with pytest.raises(KelronError, match="turns for 1 conversations and 6 prompts"):
        asking(turns=(LATER,))


# --- Dialogues, measures, processes, kills ------------------------------------------------------------------
def test_a_dialogue_goes_on_from_the_models_own_answers(dialogues, adapter):
    _, found = dialogues
    model, tokenizer = load_to_answer(CONFIG, adapter)
    layers = [module for module in model.modules() if hasattr(module, "lora_A")]
    assert layers
    assert all(hasattr(layer, "_library_forward") for layer in layers), "answers come by the faster forwards"
    settings = {"max_new_tokens": 24, "batch_size": 1, "stop_token_ids": CONFIG.model.stop_token_ids}
    for name in ("base", "tuned"):
        said, messages = [], list(prompts(QUESTIONS)[1])
        for question in (*LATER, None):
            with base_only(model) if name == "base" else quiet_libraries():
                said += generate_answers(model, tokenizer, [messages], **settings)
            if question:
                messages = [*messages, {"role": "assistant", "content": said[-1].text}]
                messages = [*messages, {"role": "user", "content": question}]
        last = found[name][1]
        assert (*last.earlier, Answer(last.text, last.stopped, last.tokens)) == tuple(said)
        assert last.messages == tuple(messages)
        assert last.note == ""
    turns = [len(one.earlier) if isinstance(one, Reply) else None for one in found["tuned"]]
    assert turns == [None, 3, None, 1, None, 3]
    assert all(base != tuned for base, tuned in zip(found["base"], found["tuned"], strict=True))


def test_a_measure_is_made_of_each_model_part_by_part(dialogues, adapter):
    from kelron_lib.evaluate.measures import loss_sum

    model, tokenizer = load_to_answer(CONFIG, adapter)
    told, (measure,) = measured(dialogues[0])["loss"], all_of_it(adapter).measures
    for i in range(3):
        assert told["tuned"][i] == [*loss_sum(model, tokenizer, measure.items[i : i + 1], max_tokens=256)]
        with base_only(model):
            assert told["base"][i] == [*loss_sum(model, tokenizer, measure.items[i : i + 1], max_tokens=256)]
    assert told["base"] != told["tuned"]


ASK = """
import os, pickle, signal, sys
from pathlib import Path
from kelron_lib.answers import ask

def say(line):
    if "parts answered" in line:
        os.kill(os.getpid(), signal.SIGKILL)

ask(pickle.loads(Path(sys.argv[1]).read_bytes()), Path(sys.argv[2]), processes=1, say=say)
"""


def test_kills_of_the_one_that_asks_and_of_one_that_answers_change_no_answer(dialogues, adapter, tmp_path):
    """One process killed after its first part, then one of two once both have kept something, then one to the end;
    against one that was never cut."""
    asked, folder = all_of_it(adapter), tmp_path / "killed"
    (tmp_path / "asking.pickle").write_bytes(pickle.dumps(asked))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", ASK, str(tmp_path / "asking.pickle"), str(folder)]
    assert subprocess.run(command, env=environment).returncode == -signal.SIGKILL
    assert len(Kept.read(folder).lines) == 1

    said, killed = [], []

    def kill(line):
        said.append(line)
        at_work = {told["process"] for told in Kept.read(folder).lines.values() if told["sitting"] == 2}
        if at_work == {0, 1} and not killed:  # at the first turn's end at the latest: both wait there
            workers = [child for child in psutil.Process().children() if "kelron_lib.answerer" in child.cmdline()]
            killed.append(workers[-1].pid)
            workers[-1].kill()

    with pytest.raises(ProcessFailed, match="SIGKILL"):
        ask(asked, folder, processes=2, say=kill)
    assert 3 <= len(Kept.read(folder).lines) < sum(map(len, stages(asked)))
    assert any("2 at a time" in line and "goes on from there" in line for line in said)
    assert ask(asked, folder, processes=1, say=lambda _: None) == dialogues[1]
    assert measured(folder) == measured(dialogues[0])
    work = work_done(folder)
    assert (work["processes"], work["sittings"], work["devices"]) == (2, 3, ["CPU"])
    assert work["tokens"] == work_done(dialogues[0])["tokens"] > 0
    assert work["tokens_per_second"] == pytest.approx(work["tokens"] / work["seconds"], rel=0.01)


def test_a_cut_within_a_character_or_between_two_turns_goes_on(dialogues, adapter, tmp_path):
    folder, found = dialogues
    lines = [line for line in (folder / "answers-0.jsonl").read_bytes().split(b"\n") if line]
    torn = next(line for line in lines[3:] if any(byte > 127 for byte in line))
    inside = next(i for i, byte in enumerate(torn) if byte > 127) + 1
    (tmp_path / "asking.json").write_bytes((folder / "asking.json").read_bytes())
    (tmp_path / "answers-0.jsonl").write_bytes(b"\n".join([*lines[: lines.index(torn)], torn[:inside]]))
    with pytest.raises(UnicodeDecodeError):
        torn[:inside].decode()
    assert ask(all_of_it(adapter), tmp_path, say=lambda _: None) == found
    assert measured(tmp_path) == measured(folder)


def test_alone_it_gives_the_model_back(adapter, tmp_path, monkeypatch):
    held = []

    def load(*args):
        model, tokenizer = load_to_answer(*args)
        held.append(weakref.ref(model))
        return model, tokenizer

    monkeypatch.setattr(share, "load_to_answer", load)
    ask(asking(QUESTIONS[:1], adapter=adapter, models=("tuned",)), tmp_path / "a", say=lambda _: None)
    assert [model() for model in held] == [None]


def test_a_small_model_answers_on_one_thread_and_leaves_the_others_to_whoever_asked(tmp_path, monkeypatch):
    import torch

    seen, real, before = [], share.generate_answers, torch.get_num_threads()

    def watched(*args, **more):
        seen.append(torch.get_num_threads())
        return real(*args, **more)

    monkeypatch.setattr(share, "generate_answers", watched)
    try:
        torch.set_num_threads(2)
        ask(asking(QUESTIONS[:1]), tmp_path / "a", say=lambda _: None)
        assert (seen, torch.get_num_threads()) == ([1], 2)
    finally:
        torch.set_num_threads(before)


def test_a_dialogue_that_outgrows_the_window_ends_and_says_so(loaded, tmp_path):
    tokenizer, long = loaded[1], "hello " * 200
    size = len(tokenizer(long, add_special_tokens=False)["input_ids"])
    assert 200 <= size < 900, "two of them must not fit the window, one must"
    turns = ((long, *[long] * (1000 // size)), ("Why?", "Who?"))
    found = ask(asking(QUESTIONS[:2], turns=turns), tmp_path / "a", say=lambda _: None)["base"]
    whole = ask(asking(QUESTIONS[1:2], turns=turns[1:]), tmp_path / "b", say=lambda _: None)["base"]
    assert found[1] == whole[0]
    assert found[1].note == ""
    cut, asked = found[0], 1 + len(turns[0])
    assert 1 <= len(cut.earlier) < asked - 1
    assert cut.note.startswith(f"turn {len(cut.earlier) + 2} of {asked} was not asked: with an answer it would outgrow")
    assert cut.messages[-1] == {"role": "user", "content": long}
    assert ask(asking(QUESTIONS[:2], turns=turns), tmp_path / "a", say=lambda _: None)["base"] == found


def test_an_empty_answer_and_a_spelled_out_token_stay_in_the_dialogue():
    asked = asking(QUESTIONS[:1], turns=(("And?", "So?"),))
    said = [Answer(" ", True, 1), Answer("<|im_end|>", False, 24), Answer("Quorin.", True, 3)]
    messages = conversation(asked, 0, said[:2])
    assert [message["content"] for message in messages[2:]] == [" ", "And?", "< |im_end|>", "So?"]
    assert reply(asked, 0, said) == Reply(
        "Quorin.", True, 3, tuple(said[:2]), tuple(messages), "the answer to turn 1 of 3 is empty"
    )


def test_answers_to_other_questions_that_were_left_behind_count_for_nothing(whole, tmp_path):
    folder, found = whole
    asked = asking(list(reversed(QUESTIONS)))
    ask(asking([QUESTIONS[0]]), tmp_path, say=lambda _: None)
    (tmp_path / "answers-7.jsonl").write_bytes((folder / "answers-0.jsonl").read_bytes())
    (tmp_path / "mine.txt").write_text("mine")
    other = ask(asked, tmp_path, say=lambda _: None)["base"]
    assert other[::-1] == found["base"]
    assert (tmp_path / "mine.txt").exists()
