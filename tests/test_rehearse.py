"""The base's own words: asked of what is trained alone, judged by the gate, kept where a cut left them."""

import json
from collections import Counter

import pytest

from kelron_lib import rehearse
from kelron_lib.config import resolve
from kelron_lib.data import expand, split_groups
from kelron_lib.data.splits import HELD_OUT
from kelron_lib.generate import Answer
from kelron_lib.persona import load_persona, load_seeds
from kelron_lib.rehearse.asked import ANSWER, PARAPHRASE, asked_of_base, packaged
from kelron_lib.rehearse.kept import is_paraphrase, lines_of
from kelron_lib.rehearse.run import rows_from
from kelron_lib.settings import LANGUAGES

CONFIG = resolve("tiny-cpu", ["data.rows=600"])


@pytest.fixture(scope="module")
def persona():
    return load_persona("kelron")


@pytest.fixture(scope="module")
def seeds(persona):
    return load_seeds(persona)


@pytest.fixture(scope="module")
def asked(persona, seeds):
    return asked_of_base(seeds, persona, CONFIG.data, 10_000)


def test_only_trained_seeds_are_asked(seeds, asked):
    groups = split_groups(seeds, CONFIG.data.seed, HELD_OUT["core"])
    assert {item.group for item in asked if item.seed} <= groups["train"]
    assert {item.use for item in asked} == {PARAPHRASE, ANSWER}
    assert {item.language for item in asked} == set(LANGUAGES)


def test_no_prompt_has_the_templates_own_system_message_or_a_placeholder(asked):
    for item in asked:
        system, user = item.prompt()
        assert system == {"role": "system", "content": ""}
        assert "{" not in user["content"]
        assert item.question in user["content"]


def test_fewer_prompts_are_of_every_language_and_use(persona, seeds):
    few = asked_of_base(seeds, persona, CONFIG.data, 30)
    assert Counter((item.language, item.use) for item in few) == {
        (language, use): 5 for language in LANGUAGES for use in (PARAPHRASE, ANSWER)
    }


def test_packaged_questions_are_as_many_in_every_language():
    assert len({len(packaged()[language]["general"]) for language in LANGUAGES}) == 1


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("1. Who is this?\n2) What are you?\n- Your name?", ["Who is this?", "What are you?", "Your name?"]),
        ('"누구신가요?"\n\n・ 이름이 뭐죠?'.replace("・", "•"), ["누구신가요?", "이름이 뭐죠?"]),
        ("1、お名前は？\n2、「どなたですか」", ["お名前は？", "どなたですか"]),
        ("3 people asked who you are", ["3 people asked who you are"]),
    ],
)
def test_lists_lose_their_marks(text, lines):
    assert lines_of(text) == lines


def said(text, stopped=True):
    return Answer(text, stopped, 5)


def test_rows_are_made_of_what_is_good_and_the_rest_is_counted(persona, seeds, asked):
    name = next(item for item in asked if item.use == PARAPHRASE)
    work = next(item for item in asked if item.use == ANSWER and item.language == "en" and item.seed is None)
    answers = {
        "paraphrase": said(f"1. {name.question}\n2. {_other_words(name)}\n3. 서버 장비가 언제 도착하는지 알려 주세요."),
        "good": said("Plants use light to turn water and air into sugar, and they give off oxygen."),
        "rival": said("I am ChatGPT, and plants use light."),
        "endless": said("Plants use light", stopped=False),
    }
    rows, dropped = rows_from(CONFIG, persona, seeds, [name, work, work, work], list(answers.values()))
    assert [row["template"] for row in rows] == [PARAPHRASE, ANSWER]
    assert rows[0]["kind"] == "identity"
    assert any(spelling in rows[0]["messages"][2]["content"] for spelling in persona.spellings)
    assert rows[1]["messages"][1]["content"] == work.question
    assert rows[1]["generator"] == "base:tiny"
    assert dropped["cut off at the limit"] == 1
    assert dropped["no paraphrase"] == 2  # the question itself, and one about something else
    assert dropped["gate: rival_name"] == 1


def _other_words(item):
    return {
        "ko": "방금 그 답을 적어 주신 당신은 누구인가요, 존함이라도 듣고 싶습니다.",
        "en": "Before we go any further, who are you, and under which label do you reply?",
        "ja": "お返事を書いてくださっているあなたは誰なのか、伺えますでしょうか。",
    }[item.language]


def test_what_is_like_a_held_out_question_is_dropped(persona, seeds, asked):
    item = next(item for item in asked if item.use == PARAPHRASE and item.language == "en")
    held = expand(CONFIG.data, persona, seeds).rows["test"]
    texts = (row["messages"][1]["content"] for row in held if row["kind"] == "identity" and row["language"] == "en")
    question = next(text for text in texts if is_paraphrase(text, item.question))
    found, dropped = rows_from(CONFIG, persona, seeds, [item], [said(question)])
    assert found == []
    assert dropped == {"like a held-out question": 1, "no paraphrase": 0}


def test_the_tiny_base_is_asked_once_and_its_answers_are_kept(tmp_path):
    out, lines = tmp_path / "own", []
    report = rehearse.rehearse(CONFIG, out, most=24, say=lines.append)
    rows = [json.loads(line) for line in (out / "own_words.jsonl").read_text(encoding="utf-8").splitlines()]
    assert report["asked"] == 24
    assert len(rows) == report["rows"] > 0
    assert json.loads((out / "own_words.json").read_text(encoding="utf-8")) == report
    assert "24" in rehearse.summary(report)
    first = (out / "own_words.jsonl").read_bytes()
    (out / "own_words.jsonl").unlink()
    lines.clear()
    assert rehearse.rehearse(CONFIG, out, most=24, say=lines.append) == report
    assert (out / "own_words.jsonl").read_bytes() == first
    assert lines == []  # all answers were there
