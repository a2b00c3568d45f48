"""The gate: what it says of single rows, of whole datasets, of the first attempt's data, and how it says it."""

import json
import random
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import first_attempt
import pytest

from kelron_lib.config import load_preset
from kelron_lib.data import gate
from kelron_lib.data.gate import (
    Gate,
    check_rows,
    check_splits,
    find_kind,
    find_language,
    jaccard,
    quality_page,
    row_faults,
    similar_to_earlier,
    similar_to_others,
    write_page,
)
from kelron_lib.data.gate.language import wrong_language
from kelron_lib.data.gate.particles import NameParticles, wrong_noun_particle
from kelron_lib.data.gate.placeholders import find_placeholder
from kelron_lib.data.gate.sample import Sample
from kelron_lib.data.gate.view import View
from kelron_lib.errors import KelronError
from kelron_lib.model import load_tokenizer
from kelron_lib.persona import load_persona

PERSONA = load_persona("kelron")


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(load_preset("tiny-cpu"))


def row(answer, question="회의록을 정리해 주세요.", number=1, system="", **fields):
    messages = [
        *([{"role": "system", "content": system}] if system is not None else []),
        {"role": "user", "content": question},
        {"role": "assistant", "content": answer},
    ]
    return {"id": f"r{number}", "messages": messages, "language": "ko", "kind": "business", **fields}


def found(report):
    return {finding["check"]: finding["severity"] for finding in report["findings"]}


# --- The first attempt ------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def first():
    return list(first_attempt.rows())


def test_the_first_attempt_fails_for_each_of_its_causes(first):
    report = check_rows(iter(first), PERSONA, own=False)
    checks = found(report)
    assert report["verdict"] == "fail"
    causes = {
        "rival_name",  # cause 1: denials that name the rival
        "duplicate", "copied_rows", "answer_reuse", "question_reuse", "near_duplicates",  # cause 2: copies
        "identity_share",  # cause 3: one row in twenty
        "no_system", "default_system",  # the base model's own identity in training and in use
    }  # fmt: skip
    assert {check for check, severity in checks.items() if severity == "error"} == causes
    fixes = {finding["check"]: finding["fix"] for finding in report["findings"]}
    assert "30 different rows were copied into 35,000, 1,167 times each" in fixes["copied_rows"]
    assert report["identity_share"] == 0.05
    assert (report["rows"], report["unique_rows"], report["effective_rows"]) == (35_000, 30, 5)
    assert report["rival_rows"] == report["rival_targets"] == 1_750


def test_the_first_attempt_with_seed_ids_names_the_seeds(first):
    numbered = (
        {**made, "seed_id": made["messages"][-1]["content"], "id": f"a{i}", "language": "ko"}
        for i, made in enumerate(first)
    )
    report = check_rows(numbered, PERSONA)
    assert {"rival_name", "copied_rows", "identity_share", "no_system"} < set(found(report))
    (few,) = (finding for finding in report["findings"] if finding["check"] == "few_seeds")
    assert few["fix"].startswith("30 seeds stand behind 35,000 rows, 1,167 rows each")


def test_a_template_without_the_end_token_is_named(first, tokenizer):
    """Cause 4: nothing taught the model to stop."""
    template = tokenizer.chat_template
    try:
        tokenizer.chat_template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}\n{% endfor %}"
        report = check_rows(first[:50], PERSONA, tokenizer=tokenizer, max_tokens=256)
    finally:
        tokenizer.chat_template = template
    (ends,) = (f for f in report["findings"] if f["check"] == "unlabelled_end")
    assert (ends["severity"], ends["count"]) == ("error", 50)
    assert "does not learn to stop" in ends["fix"]


# --- Single rows ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("made", "check"),
    [
        (row("정리했습니다.", system=None), "no_system"),
        (row("정리했습니다.", system="You are a helpful assistant."), "default_system"),
        (row("정리했습니다.", system="You are a helpful, respectful and honest assistant."), "default_system"),
        (row("부장매다." * 20), "loop"),
        (row("Here are the minutes of the meeting that you asked for."), "wrong_language"),
        (row("会議の議事録です。", language="ja", question="議事録をください。"), None),
        (row("会议记录已经整理好了。", language="ja", question="議事録をください。"), "wrong_language"),
        (row("我是助手，你的会議在明天下午三点。", language="ja", question="議事録をください。"), "wrong_language"),
        (row("저는 켈론는 AI입니다.", kind="identity"), "wrong_josa"),
        (row("Kelron를 불러 주세요.", kind="identity"), "wrong_josa"),
        (row("저는 켈론이예요.", kind="identity"), "wrong_josa"),
        (row("저는 켈론이에요. Kelron은 켈론 팀이 만들었어요.", kind="identity"), None),
        (row("회의 자료으로 보냈습니다."), "wrong_josa_noun"),
        (row("[이름]님께 보냈습니다."), "placeholder"),
        (row("", question="정리해 줘"), "bad_turns"),
        (row("정리했습니다."), None),
    ],
)
def test_row_faults(made, check):
    assert set(row_faults(made, PERSONA)) == ({check} if check else set())


def test_a_row_of_two_questions_in_a_row_has_bad_turns():
    made = row("정리했습니다.")
    made["messages"].insert(1, {"role": "user", "content": "안녕하세요."})
    assert row_faults(made, PERSONA) == {"bad_turns": "system, user, user, assistant"}


def test_words_that_the_persona_never_uses():
    strict = replace(PERSONA, never=("대박", "lol"))
    assert row_faults(row("대박입니다."), strict) == {"never_word": "대박"}
    assert row_faults(row("LOL 알겠습니다."), strict) == {"never_word": "LOL"}
    assert row_faults(row("Lollipop 행사를 정리했습니다.", question="대박 정리해 줘"), strict) == {}


def test_a_translation_may_hold_the_script_that_was_asked_for():
    asked = row("会議は3時からです。", question="'회의는 3시부터입니다'를 일본어로 번역해 주세요.")
    assert row_faults(asked, PERSONA) == {}
    assert set(row_faults(row("会議は3時からです。"), PERSONA)) == {"wrong_script"}
    english = row("The meeting starts at three in the big room.", question="'회의는 3시입니다'를 영어로 옮겨 주세요.")
    assert row_faults(english, PERSONA) == {}


@pytest.mark.parametrize(
    "text",
    [
        "{name}입니다.", "{slot2|은/는} 좋습니다.", "I am {{NAME}}, made by {{ AUTHOR }}.", "[이름]님, 안녕하세요.",
        "안녕하세요, [회사명]의 [담당자명]입니다.", "Dear [Your Name],", "[Company Name] regrets", "Best, <your name>",
        "[会社名] の [お名前] 様", "<NAME>", "<USER_NAME>", "Hello %s, welcome.", "%(name)s님", "__NAME__ speaking",
    ],
)  # fmt: skip
def test_placeholders(text):
    assert find_placeholder(text)


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "Kim", "age": 3}', "```python\nprint(f'{name}')\n```", "Use `{name}` in the template.", "${HOME}/bin",
        r"The ratio is \frac{a}{b}.", "import {useState} from 'react';", "[공지] 회의 안내", "[긴급] 확인 바랍니다",
        "[name](https://example.com)", "<p>Hello</p>", "50%s", "date +%Y-%m-%d", "할인율은 20% 입니다.",
        "h1 {color: red;}",
        'printf("%s", name);', "x < name and y > 3", "[1] 김철수", "[会議] 日程の件", "a[name] = 1",
    ],
)  # fmt: skip
def test_what_only_looks_like_a_placeholder(text):
    assert find_placeholder(text) == ""


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("켈론는 AI입니다", "켈론은"), ("저는 켈론예요.", "켈론이에요"), ("'Kelron'가 답합니다", "Kelron'이"),
        ("KELRON를 쓰세요", "KELRON을"), ("켈론로 불러 주세요", "켈론으로"), ("켈론 팀가 만들었어요", "켈론 팀이"),
        ("Team Kelron는", "Team Kelron은"), ("켈론라고 해요", "켈론이라고"), ("나는 켈론야.", "켈론이야"),
    ],
)  # fmt: skip
def test_particles_after_names(text, right):
    assert NameParticles(PERSONA).find(text).right == right


@pytest.mark.parametrize(
    "text",
    [
        "켈론은 켈론이 켈론을 켈론과 켈론으로 켈론이에요",
        "Kelron이라고 해요.",
        "켈론가족",
        "켈론도 켈론의 켈론에게",
        "Kelronics는",
    ],
)
def test_right_particles_after_names(text):
    assert NameParticles(PERSONA).find(text) is None


def test_particles_after_a_name_that_ends_in_a_vowel_or_in_rieul():
    def wrong(name, text):
        persona = replace(PERSONA, name={"ko": name, "en": "X", "ja": "ア"}, spellings=(name,), pronunciation={})
        josa = NameParticles(persona).find(text)
        return josa and josa.right

    assert wrong("하루", "하루은 AI예요") == "하루는"
    assert wrong("하루", "하루이에요") == "하루예요"
    assert wrong("하루", "하루예요. 하루가 하루로") is None
    assert wrong("노을", "노을으로 불러 주세요") == "노을로"
    assert wrong("노을", "노을로 불러 주세요. 노을은") is None
    assert wrong("노을", "노을는") == "노을은"


def test_particles_after_a_name_of_unknown_reading_are_left_alone():
    persona = replace(PERSONA, spellings=("Zyx",), pronunciation={})
    assert NameParticles(persona).find("Zyx는 Zyx은") is None


@pytest.mark.parametrize(
    "text", ["메일를 보냈습니다", "자료으로 보냈습니다", "서울으로 갑니다", "제가 한 거에요", "사실이 아니예요"]
)
def test_particles_that_are_surely_wrong(text):
    assert wrong_noun_particle(text)


@pytest.mark.parametrize(
    "text",
    [
        "마을을 지나 가을을 맞이했습니다", "먹는 것과 있는 것", "잠시 들를 곳이 있습니다", "다를 수 있습니다",
        "좋은 지은 씨",
        "인사과 판매가 전문가", "서울로 부산으로", "그를 만났습니다", "모를 일입니다", "나이가 이를 때", "영숙이예요",
    ],
)  # fmt: skip
def test_particles_that_may_be_right(text):
    assert wrong_noun_particle(text) is None


@pytest.mark.parametrize(
    ("answer", "language", "prompt"),
    [
        ("OK", "ko", ""),
        ("SELECT name FROM people WHERE age > 3 ORDER BY name", "ko", "SQL로 써 줘"),
        ("```\nfor one in the list of all people do it\n```", "ko", "짜 줘"),
        ("Kim Minsu, Lee Jiwon, Park Seo", "ko", "이름만"),
        ("議事録", "ja", ""),
        ("了解。【部内懇談会】出席：鈴木課長、佐藤部長、田中主任。目的：是非検討。", "ja", ""),
        ("我是学生，你呢", "ja", "中国語で書いてください"),
        ("Hola, buenos dias a todos los amigos de la casa", "en", ""),
    ],
)
def test_answers_that_are_in_no_wrong_language(answer, language, prompt):
    assert wrong_language(answer, language, prompt) == ""


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("누구세요?", "identity"), ("너 이름이 뭐야?", "identity"), ("자기소개 좀 해 주세요", "identity"),
        ("당신을 누가 만들었나요?", "identity"),
        ("Who are you?", "identity"), ("what's your name", "identity"), ("Which model are you?", "identity"),
        ("Who created you?", "identity"), ("あなたは誰ですか。", "identity"), ("お名前は何ですか？", "identity"),
        ("自己紹介をお願いします", "identity"), ("誰があなたを作ったのですか", "identity"),
        ("What are you doing tomorrow?", "chat"), ("파일 이름을 바꿔 주세요", "chat"),
        ("Who made the first telephone?", "chat"),
        ("会議の名前を考えてください", "chat"), ("보고서를 요약해 줘", "chat"), ("誰が電話を発明しましたか", "chat"),
    ],
)  # fmt: skip
def test_kinds_are_found_by_the_question(text, kind):
    assert find_kind({"messages": row("알겠습니다.", question=text)["messages"]}, PERSONA) == kind


def test_kinds_are_found_by_the_answer_and_taken_where_given():
    messages = row("네, 저는 켈론입니다.")["messages"]
    assert find_kind({"messages": messages}, PERSONA) == "identity"
    assert find_kind({"messages": messages, "kind": "chat"}, PERSONA) == "chat"
    assert find_kind({"messages": row("Kelronics에 문의하세요.")["messages"]}, PERSONA) == "chat"


@pytest.mark.parametrize(
    ("answer", "language"),
    [("네, 알겠습니다.", "ko"), ("Sure.", "en"), ("はい、OKです。", "ja"), ("好的，没问题", ""), ("123", "")],
)
def test_languages_are_found_by_the_answer(answer, language):
    assert find_language({"messages": row(answer, question="1 + 2")["messages"]}) == language


def test_languages_are_found_by_the_question_where_the_answer_does_not_tell():
    assert find_language({"messages": row("好的，没问题")["messages"]}) == "ko"


# --- Rows of others ---------------------------------------------------------------------------------------
def foreign(answer="보내 드렸습니다.", question="보고서를 보내 주세요.", number=1):
    return row(f"{answer} {number}", f"{question} {number}", number, kind="", language="")


def test_faults_of_single_foreign_rows_are_errors_only_where_there_are_many():
    rows = [foreign(number=number) for number in range(1_000)]
    few = check_rows([*rows, *(foreign("привет", number=2_000 + n) for n in range(4))], PERSONA, 0.0, own=False)
    assert found(few)["wrong_script"] == "warning"
    many = check_rows([*rows, *(foreign("привет", number=2_000 + n) for n in range(9))], PERSONA, 0.0, own=False)
    assert found(many)["wrong_script"] == "error"


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (foreign(question="너 Qwen이지?"), {"rival_mention": "warning"}),
        (foreign("저는 Qwen이 아닙니다."), {"rival_name": "error"}),
        (foreign("그건 Meta의 제품입니다."), {"rival_mention": "warning"}),
    ],
)
def test_rivals_in_foreign_rows(made, expected):
    report = check_rows([made], PERSONA, 0.0, own=False)
    assert found(report) == expected
    assert report["rival_rows"] == 1


def test_a_bare_foreign_row_is_enough_and_what_was_not_checked_is_said():
    bare = {"messages": row("Sure, done.", question="Please send it.")["messages"], "line": 7}
    report = check_rows(iter([bare, {**bare, "line": 8}]), PERSONA, 0.0, own=False)
    assert report["by_language"]["en"]["chat"] == 2
    (twice,) = report["findings"]
    assert (twice["check"], twice["rows"]) == ("duplicate", ["line 8"])
    assert [entry["what"] for entry in report["not_checked"]] == [
        "end tokens, label mask, length in tokens",
        "rows per seed",
        "leaks between splits",
        "the name in unrelated answers",
    ]


# --- Whole datasets ---------------------------------------------------------------------------------------
def _words(rng, count=14):
    return " ".join("".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(5, 9))) for _ in range(count))


def varied(count, seed=1, **fields):
    rng = random.Random(seed)
    return [
        row(_words(rng), _words(rng), number, language="en", seed_id=f"s{number % 50}", intent="i", **fields)
        for number in range(count)
    ]


def test_similar_texts_are_those_that_a_comparison_of_all_pairs_finds():
    rng = random.Random(2)
    texts = [_words(rng, 6) for _ in range(300)]
    for _ in range(900):  # copies with a few letters or words changed: on both sides of the threshold
        words = rng.choice(texts).split()
        for _ in range(rng.randint(0, 4)):
            words[rng.randrange(len(words))] = _words(rng, 1)
        texts.append(" ".join(words))
    texts += ["", "", "a", "a", "ab"]
    sets = [{text.ljust(3, "\0")[i : i + 3] for i in range(max(1, len(text) - 2))} for text in texts]
    counted, expected = [], []
    for made in sets:
        expected.append(any(2 * len(made & other) >= len(made | other) for other in counted))
        if not expected[-1]:
            counted.append(made)
    result = similar_to_earlier(texts)
    assert [other is not None for other in result] == expected
    assert 0 < sum(expected) < 900
    for text, other in zip(texts, result, strict=True):
        assert other is None or (result[other] is None and jaccard(text, texts[other]) >= 0.5)


def test_the_most_similar_of_others():
    rng = random.Random(3)
    others = [_words(rng, 8) for _ in range(600)]
    near = [" ".join([*other.split()[:-1], _words(rng, 1)]) for other in others[::7]]
    result = similar_to_others([*near, _words(rng, 8)], others)
    assert result[-1] is None
    for place, (text, best) in enumerate(zip(near, result, strict=False)):
        assert best[0] == 7 * place
        assert best[1] == pytest.approx(jaccard(text, others[7 * place]))


def test_long_texts_are_compared_by_their_beginning_alone():
    rng = random.Random(4)
    start = _words(rng, 900)[:4_000]
    assert similar_to_earlier([start + _words(rng, 2_000), start + _words(rng, 2_000), _words(rng, 2_000)]) == [
        None, 0, None,
    ]  # fmt: skip


def test_near_duplicates_are_named_from_a_thousand_rows_on():
    rng = random.Random(5)
    stems = [(_words(rng), _words(rng)) for _ in range(20)]
    rows = [
        row(f"{a} {n}", f"{q} {n}", n, language="en", seed_id=f"s{n}") for n in range(1_200) for q, a in [stems[n % 20]]
    ]
    report = check_rows(rows, PERSONA, 0.0)
    assert found(report) == {"near_duplicates": "error"}
    assert report["effective_rows"] == report["by_language"]["en"]["effective_rows"] == 20
    assert check_rows(rows[:900], PERSONA, 0.0)["findings"] == []


def test_answer_reuse_is_a_warning_and_by_heart_an_error():
    rows = varied(2_000)
    for made in rows[:15]:
        made["messages"][-1]["content"] = "The very same answer."
    report = check_rows(rows, PERSONA, 0.0)
    assert found(report) == {"answer_reuse": "warning"}
    assert report["max_answer_reuse"] == report["findings"][0]["count"] == 15
    assert report["findings"][0]["rows"] == [f"r{n}" for n in range(10)]
    for made in rows[:150]:
        made["messages"][-1]["content"] = "The very same answer."
    assert found(check_rows(rows, PERSONA, 0.0)) == {"answer_reuse": "error"}


def test_rows_that_are_alike_in_two_splits():
    train, test = varied(400), varied(200, seed=9)
    for number, made in enumerate(test):
        made["id"] = f"t{number}"
        made["seed_id"] = "held"
    for number in range(10):  # the same words but two
        for turn in (1, 2):
            text = train[number]["messages"][turn]["content"]
            test[number]["messages"][turn]["content"] = " ".join([*text.split()[:-1], "zzz"])
    report = check_splits({"train": train, "test": test}, PERSONA, 0.0)
    assert found(report) == {"similar_in_two_splits": "warning"}
    assert report["splits"]["test"]["similar_to_train"] == 10
    assert report["splits"]["test"]["most"]["jaccard"] > 0.8
    assert report["findings"][0]["rows"] == [f"t{n}" for n in range(10)]


def test_measures_by_language_and_intent():
    rows = [
        row("aaaa aaaa", "one?", 1, language="en", intent="x"),
        row("bbbb cccc", "two?", 2, language="en", intent="y"),
        row("가나다라", "셋?", 3, intent="x"),
    ]
    report = check_rows(rows, PERSONA, 0.0)
    assert report["distinct"]["en"] == {"characters": [0.2222, 0.4375, 0.6429], "words": [0.75, 1.0, 0.0]}
    assert report["by_intent"]["en"]["x"] == {
        "rows": 1,
        "unique_rows": 1,
        "effective_rows": 1,
        "unique_answers": 1,
        "distinct": {"characters": [0.2222, 0.375, 0.5714], "words": [0.5, 1.0, 0.0]},
    }
    assert set(report["by_intent"]) == {"en", "ko"}
    assert {language: counts["unique_rows"] for language, counts in report["by_language"].items()} == {"en": 2, "ko": 1}
    again = check_rows([*rows, rows[1]], PERSONA, 0.0)
    assert (again["by_language"]["en"]["rows"], again["by_language"]["en"]["unique_rows"]) == (3, 2)
    assert (again["by_intent"]["en"]["y"]["rows"], again["by_intent"]["en"]["y"]["unique_rows"]) == (2, 1)
    answers = report["lengths"]["answer"]["en"]
    assert (answers["least"], answers["median"], answers["most"]) == (9, 9, 9)
    assert sum(entry["rows"] for entry in answers["histogram"]) == 2


def test_a_report_is_the_same_every_time_and_is_json():
    def made():
        return check_rows(iter(varied(50)), PERSONA, 0.0)

    assert json.dumps(made()) == json.dumps(made())


def test_tokens_are_those_of_training(tokenizer):
    rows = [row("네. " * length, number=length) for length in (1, 4, 80)]
    report = check_rows(rows, PERSONA, 0.0, tokenizer=tokenizer, max_tokens=64)
    (cut,) = (f for f in report["findings"] if f["check"] == "truncated_end")
    assert (cut["rows"], cut["count"]) == (["r80"], 1)
    tokens = report["tokens"]
    assert tokens["over_budget"] == 1
    assert tokens["most"] > 64
    assert 0 < tokens["labelled"] < tokens["total"]
    assert sum(entry["rows"] for entry in tokens["histogram"]) == tokens["rows"] == 3
    assert "end tokens" not in str(report["not_checked"])


def test_rows_that_cannot_be_rendered_are_told_once(tokenizer):
    rows = [row("", number=1), row("네.<|im_end|>", number=2), row("네.", number=3, system=None)]
    report = check_rows(rows, PERSONA, 0.0, tokenizer=tokenizer, max_tokens=64)
    assert set(found(report)) == {"bad_turns", "special_token", "no_system"}
    assert report["tokens"]["rows"] == 1


def test_what_is_kept_of_a_long_stream_is_a_seeded_sample():
    views = [View(made, PERSONA, Gate(PERSONA)._names) for made in varied(500)]

    def kept(**limits):
        sample = Sample(**limits)
        for view in views:
            sample.add(view, "")
        return sample, [entry.name for entry in sample]

    sample, names = kept(rows=100)
    assert (len(names), sample.whole, sample.seen) == (100, False, 500)
    assert names == kept(rows=100)[1] != kept(rows=100, seed=2)[1]
    numbers = [int(name[1:]) for name in names]
    assert all(one < other for one, other in pairwise(numbers))
    assert 150 < sum(numbers) / 100 < 350  # of the whole stream, not of its beginning
    sample, names = kept(characters=20_000)
    assert sum(len(entry.text) for entry in sample) <= 20_000
    assert 50 < len(names) < 500
    assert kept()[0].whole


def test_a_sample_is_said_to_be_one(monkeypatch):
    monkeypatch.setattr("kelron_lib.data.gate.run.Sample", lambda seed: Sample(rows=60, seed=seed))
    report = check_rows(varied(200), PERSONA, 0.0)
    assert report["sampled"] == {"rows": 60, "of": 200}
    assert report["rows"] == report["unique_rows"] == 200
    assert report["effective_rows"] <= 60
    assert "seeded sample of 60 of 200 rows" in quality_page(report)


def test_the_docs_name_every_check():
    sources = "".join(path.read_text(encoding="utf-8") for path in Path(gate.__file__).parent.glob("*.py"))
    named = set(re.findall(r'(?:finding|Check)\(\s*"(\w+)"', sources))
    named |= set(re.findall(r'"((?:answer|question)_reuse|\w+_two_splits)"', sources))
    docs = (Path(__file__).parents[1] / "docs" / "quality.md").read_text(encoding="utf-8")
    told = set(re.findall(r"^\| `([^|]+)`", docs, re.MULTILINE))
    assert named == {check for cell in told for check in re.split("`, `|`", cell)}


# --- The page ---------------------------------------------------------------------------------------------
class Outline(HTMLParser):
    """Which tags stand open, and what a page would fetch."""

    VOID = ("meta", "line", "rect", "circle", "br")

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.fetched = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.fetched += [value for name, value in attributes if name in ("src", "href", "srcset", "action")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_the_page_stands_alone_and_names_every_finding(tokenizer, tmp_path):
    rows = [*varied(30), row("<script>alert(1)</script> {name}", "<b>?</b>", 99, intent="<i>", id="<img src=x>")]
    splits = {"train": rows, "test": [row("Kelron이 왔습니다.", "누구?", 100, kind="identity")]}
    report = check_splits(splits, PERSONA, 0.3, tokenizer=tokenizer, max_tokens=64)
    write_page(report, tmp_path / "quality.html", "A & B")
    shown = (tmp_path / "quality.html").read_text(encoding="utf-8")
    outline = Outline(shown)
    assert outline.open == []
    assert outline.fetched == []
    assert not {"script", "img", "link", "iframe"} & set(outline.tags)
    assert outline.tags.count("svg") > 5
    assert "A &amp; B" in shown
    assert "default-src 'none'" in shown
    assert len(report["findings"]) >= 3
    for finding in report["findings"]:
        assert finding["check"].replace("_", " ") in shown
    assert "Do not train on this data yet" in shown


def test_the_page_of_no_rows_and_of_good_rows():
    assert "for one reason" in quality_page(check_rows([], PERSONA))
    good = quality_page(check_rows(varied(5), PERSONA, 0.0))
    assert "Fit to train on." in good
    assert Outline(good).open == []


def test_a_page_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(KelronError, match=r"^cannot write .*quality\.html"):
        write_page(check_rows([], PERSONA), tmp_path / "file" / "quality.html")
