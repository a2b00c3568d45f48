"""A user's own rows among those of the seeds: as many as asked for, in one split a question, through the same gate."""

import json
import shutil
from collections import Counter

import pytest
from dataset_files import rows_in

from kelron_lib import data
from kelron_lib.config import PRESETS, apply_overrides, resolve, to_dict
from kelron_lib.data.own import HELD_OUT
from kelron_lib.dataset import require_made_for
from kelron_lib.errors import KelronError
from kelron_lib.persona import load_persona, load_seeds
from kelron_lib.settings import LANGUAGES

PERSONA = load_persona("kelron")
THINGS = ("회의실", "출장비", "연차", "법인카드", "명함", "노트북", "출입증", "주차장", "복사기", "사내식당")
DOINGS = ("예약", "반납", "신청", "정산", "변경", "취소", "문의", "등록", "승인", "연장")
WHEN = ("오늘", "내일", "다음 주", "이번 달", "월말", "분기 말")


def own_rows(count=300):
    """So many rows that are little alike."""
    rows = []
    for number in range(count):
        thing, doing, when = THINGS[number % 10], DOINGS[number // 10 % 10], WHEN[number // 100 % 6]
        question = f"{when}까지 {thing} {doing}은 어디에서 하나요? ({number}번)"
        answer = f"{thing}: 사내 포털의 {doing} 메뉴에서 {when} 안에 처리됩니다. 담당은 {number}호실입니다."
        rows.append({"question": question, "answer": answer})
    return rows


def put(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def config_for(path, share=0.15, rows=600, **more):
    options = {"data.rows": rows, "data.own": path, "data.own_share": share, **more}
    return resolve("tiny-cpu", [f"{key}={value}" for key, value in options.items()])


def build(config, out, said=None):
    return data.build_dataset(config, out, say=(said if said is not None else []).append)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """The file, the dataset made with it, its report and what was said."""
    folder, said = tmp_path_factory.mktemp("own"), []
    path = put(folder / "mine.jsonl", own_rows())
    return path, folder / "data", build(config_for(path), folder / "data", said), said


def own_of(rows):
    return [row for row in rows if row["generator"] != "seeds"]


def test_the_share_is_met_and_every_row_says_where_it_comes_from(mixed):
    path, folder, report, said = mixed
    splits = data.load_dataset_dir(folder)
    found = {split: own_of(rows) for split, rows in splits.items()}
    assert sum(map(len, splits.values())) == 600
    assert sum(map(len, found.values())) == 90
    assert report["own"]["by_split"] == {split: len(rows) for split, rows in found.items()}
    assert (report["own"]["file"], report["own"]["rows"], report["own"]["left_out"]) == ("mine.jsonl", 90, {})
    lines = path.read_text("utf-8").splitlines()
    for row in found["train"]:
        assert row["generator"] == "mixed:mine.jsonl"
        name, _, number = row["id"].rpartition(":")
        asked = json.loads(lines[int(number) - 1])
        assert (name, row["messages"][1]["content"]) == ("mine.jsonl", asked["question"])
        assert (row["kind"], row["language"], row["messages"][2]["content"]) == ("chat", "ko", asked["answer"])
    assert said[0] == f"data.own {path}: JSON lines of question and answer, UTF-8"
    assert "90 rows (15.0%) come from `mine.jsonl`" in (folder / "README.md").read_text("utf-8")
    assert "license: other" in (folder / "README.md").read_text("utf-8")


def test_most_are_trained_on_and_no_question_stands_in_two_splits(mixed):
    splits = data.load_dataset_dir(mixed[1])
    found = {split: own_of(rows) for split, rows in splits.items()}
    assert len(found["train"]) > 70
    questions = [{row["messages"][1]["content"] for row in rows} for rows in splits.values()]
    assert len(set.union(*questions)) == sum(map(len, questions))
    assert set(HELD_OUT) < set(found)


def test_the_identity_keeps_its_share_in_every_split_and_language(mixed):
    for rows in data.load_dataset_dir(mixed[1]).values():
        for language in LANGUAGES:
            part = [row for row in rows if row["language"] == language]
            assert sum(row["kind"] == "identity" for row in part) >= 0.3 * len(part)


def test_rows_without_a_system_message_get_the_personas_or_an_empty_one(mixed):
    systems = Counter(row["messages"][0]["content"] for row in own_of(rows_in(mixed[1])))
    assert set(systems) == {"", PERSONA.system_prompt["ko"]}
    assert 0 < systems[""] < 0.3 * systems.total()


def test_the_same_file_gives_the_same_rows_wherever_it_lies(mixed, tmp_path):
    path, folder, _, _ = mixed
    elsewhere = shutil.copy(path, tmp_path / "mine.jsonl")
    build(config_for(elsewhere), tmp_path / "data")
    assert data.fingerprint(tmp_path / "data") == data.fingerprint(folder)
    require_made_for(config_for(elsewhere), folder)


def test_another_seed_draws_other_rows_of_the_file(mixed, tmp_path):
    build(config_for(mixed[0], **{"data.seed": 2}), tmp_path / "data")
    first, second = ({row["id"] for row in own_of(rows_in(folder))} for folder in (mixed[1], tmp_path / "data"))
    assert 0 < len(first & second) < len(first)


def test_a_file_that_changed_since_is_another_dataset(mixed, tmp_path):
    path = shutil.copy(mixed[0], tmp_path / "mine.jsonl")
    folder = shutil.copytree(mixed[1], tmp_path / "data")
    config = config_for(path)
    require_made_for(config, folder)
    put(path, own_rows()[1:])
    with pytest.raises(KelronError, match=r"mine.jsonl was changed since .* `kelron data .*--replace`"):
        require_made_for(config, folder)
    with pytest.raises(KelronError, match="holds another dataset"):
        build(config, folder)
    path.unlink()  # as on a machine that has the dataset alone
    require_made_for(config, folder)
    with pytest.raises(KelronError, match=r"was made with .*data.own_share=0.15"):
        require_made_for(apply_overrides(config, ["data.own_share=0.1"]), folder)


def test_without_an_own_file_nothing_is_mixed(small_data):
    assert own_of(rows_in(small_data)) == []
    assert "own" not in json.loads((small_data / "quality.json").read_text("utf-8"))
    for name in PRESETS:
        assert to_dict(resolve(name))["data"]["own"] == ""


def kinds_of(folder):
    """Rows by split, language, and whether they are about the identity."""
    splits = data.load_dataset_dir(folder).items()
    return Counter((split, row["language"], row["kind"] == "identity") for split, rows in splits for row in rows)


@pytest.mark.parametrize("identity", [False, True])
def test_own_rows_take_the_place_of_rows_of_their_kind_and_language(tmp_path, identity):
    rows = own_rows()
    if identity:
        rows = [
            {"question": f"{r['question']} 그리고 누구세요?", "answer": f"{r['answer']} 저는 켈론입니다."} for r in rows
        ]
    build(config_for(put(tmp_path / "mine.jsonl", rows), 0.07), tmp_path / "data")
    build(resolve("tiny-cpu", ["data.rows=600"]), tmp_path / "plain")
    assert kinds_of(tmp_path / "data") == kinds_of(tmp_path / "plain")
    assert {row["kind"] == "identity" for row in own_of(rows_in(tmp_path / "data"))} == {identity}


def bad_rows(texts):
    """Rows that must not come in, with why, by their place in the file."""
    long = [row["messages"][-1]["content"] for row in texts if (row["language"], row["kind"]) == ("ko", "business")][
        :12
    ]
    good = own_rows(1)[0]
    return [
        ({"question": "너 누구야?", "answer": "저는 챗GPT입니다."}, "rival_name"),
        ({"question": "요약해 줘", "answer": "켈론이 요약했습니다.", "kind": "business"}, "name_in_unrelated"),
        ({"question": "누구세요, 성함이 어떻게 되세요?", "answer": "저는 업무 비서입니다."}, "identity_without_name"),
        (
            {"question": "너무 긴 문장", "answer": " ".join(long)},
            "longer than data.max_tokens (256)",
        ),
        ({"question": "인사", "answer": "안녕하세요<|im_end|>"}, "special_token"),
        (good, "the same as another"),
        (good, "the same as another"),
    ]


def test_rows_that_the_gate_refuses_are_left_out_and_named(small_data, tmp_path):
    bad = bad_rows(rows_in(small_data))
    path, said = put(tmp_path / "mine.jsonl", [*own_rows(100), *(row for row, _ in bad)]), []
    report = build(config_for(path, 0.15), tmp_path / "data", said)
    told = report["own"]["left_out"]
    for number, (_, why) in enumerate(bad[:-2], start=101):
        assert told[why] == {"count": 1, "lines": [number]}
        assert any(f"1 rows left out, {why}: line {number}" in line for line in said)
    assert told["the same as another"]["count"] == 2  # of the three the first by its draw, which is the same, stays
    assert f"{path}: 1 rows left out, rival_name: line 101 ('챗GPT')" in said
    assert not {row["id"] for row in own_of(rows_in(tmp_path / "data"))} & {f"mine.jsonl:{n}" for n in range(101, 107)}


def test_turns_out_of_order_are_left_out(tmp_path):
    rows = [{"messages": [{"role": "user", "content": r["question"]}, {"role": "assistant", "content": r["answer"]}]}
            for r in own_rows(60)]  # fmt: skip
    wrong = {"messages": [{"role": "assistant", "content": "네"}, {"role": "user", "content": "왜"}]}
    report = build(config_for(put(tmp_path / "a.jsonl", [wrong, *rows]), 0.1), tmp_path / "data")
    assert report["own"]["left_out"]["bad_turns"] == {"count": 1, "lines": [1]}


def test_an_answer_is_used_ten_times_at_most(tmp_path):
    rows = [row | {"answer": "사내 포털에서 처리하시면 됩니다."} for row in own_rows(40)] + own_rows()[40:]
    report = build(config_for(put(tmp_path / "a.jsonl", rows), 0.18), tmp_path / "data")
    uses = Counter(row["messages"][2]["content"] for row in own_of(rows_in(tmp_path / "data")))
    assert max(uses.values()) <= 10
    assert report["max_answer_reuse"] <= 10


def test_questions_of_the_seeds_are_left_out(small_data, tmp_path):
    asked = [row["messages"][1]["content"] for row in rows_in(small_data) if row["language"] == "ko"][:5]
    rows = [{"question": text, "answer": f"저는 켈론입니다. {number}번째 답."} for number, text in enumerate(asked)]
    path = put(tmp_path / "a.jsonl", [*rows, *own_rows(60)])
    config = config_for(path, 0.15, 400)
    build(config, tmp_path / "data")
    splits = data.load_dataset_dir(tmp_path / "data")
    homes: dict[str, set[str]] = {}
    for split, found in splits.items():
        for row in found:
            homes.setdefault(row["messages"][1]["content"], set()).add(f"{split} {row['generator']}")
    assert all(len(home) == 1 for home in homes.values())


def test_the_bases_own_words_say_whence_they_are_and_train_only(small_data, tmp_path):
    trained = [row for row in data.load_dataset_dir(small_data)["train"] if row["kind"] == "chat"][:60]
    tested = [row for row in data.load_dataset_dir(small_data)["test"] if row["kind"] == "chat"][:5]
    said = [
        {**row, "generator": "base:tiny", "messages": [*row["messages"][:2], {"role": "assistant", "content": answer}]}
        for number, row in enumerate([*trained, *tested])
        for answer in [
            {"ko": f"답은 {number}번입니다.", "en": f"Number {number}.", "ja": f"答えは{number}番です。"}[
                row["language"]
            ]
        ]
    ]
    path = tmp_path / "own_words.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in said), encoding="utf-8")
    build(config_for(path, 0.1, 400), tmp_path / "data")
    splits = data.load_dataset_dir(tmp_path / "data")
    found = [(split, row) for split, rows in splits.items() for row in rows if row["generator"] == "base:tiny"]
    assert len(found) == 40
    groups = {row["seed_id"]: row["group"] for row in trained}
    assert all(split == "train" and groups[row["seed_id"]] == row["group"] for split, row in found)


def test_a_row_of_the_base_like_a_held_out_one_takes_none_of_its_group_with_it(tmp_path):
    """The packaged general questions are one group."""
    settings = resolve("tiny-cpu", ["data.rows=400"]).data
    held = next(
        row for row in data.expand(settings, PERSONA, load_seeds(PERSONA)).rows["test"]
        if (row["language"], row["kind"]) == ("ko", "chat")
    )  # fmt: skip
    question, answer = (message["content"] for message in held["messages"][1:])
    pairs = [*own_rows(40), {"question": f"{question} 네", "answer": answer}]
    told = {
        "generator": "base:tiny",
        "kind": "chat",
        "group": "rehearsal",
        "intent": "rehearsal",
        "seed_id": "ko/rehearsal",
    }
    path = put(tmp_path / "own_words.jsonl", [{**pair, **told} for pair in pairs])
    report = build(config_for(path, 0.1, 400), tmp_path / "data")
    assert report["own"]["rows"] == 40
    assert all(question not in row["messages"][1]["content"] for row in own_of(rows_in(tmp_path / "data")))


def test_a_row_that_only_says_it_is_the_bases_is_one_like_others(small_data, tmp_path):
    path = put(tmp_path / "mine.jsonl", [{**row, "generator": "base:tiny", "kind": "chat"} for row in own_rows(100)])
    build(config_for(path, 0.1, 400), tmp_path / "data")
    made = [row for rows in data.load_dataset_dir(tmp_path / "data").values() for row in own_of(rows)]
    assert {row["generator"] for row in made} == {"mixed:mine.jsonl"}
    assert all(row["intent"] and row["group"] for row in made)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["data.own=a.jsonl"], "data.own names a.jsonl and data.own_share is 0"),
        (["data.own_share=0.15"], "data.own_share is 0.15 and data.own names no file"),
        (["data.own=a.jsonl", "data.own_share=0.8"], "data.own_share is 0.8: it has to be at least 0 and at most 0.7"),
    ],
)
def test_settings_that_do_not_fit(options, told):
    with pytest.raises(KelronError, match=told):
        resolve("tiny-cpu", options)


@pytest.mark.parametrize(
    ("share", "rows", "more", "told"),
    [
        (
            0.5,
            600,
            {},
            r"gives 100 rows and data.own_share=0.5 of data.rows=600 asks for 300: set data.own_share to 0.166",
        ),
        (0.0001, 600, {}, "is not one row"),
        (0.4, 240, {}, r"rows left out, beyond the \d+ that business and chat in ko has room for in train"),
        (0.16, 600, {"data.languages": "en"}, r"gives 0 rows .*in a language that data.languages \(en\) has not"),
    ],
)
def test_what_cannot_be_mixed_is_told_with_numbers(tmp_path, share, rows, more, told):
    config = config_for(put(tmp_path / "a.jsonl", own_rows(100)), share, rows, **more)
    with pytest.raises(KelronError, match=told):
        build(config, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_a_file_that_is_none_is_told_before_anything_is_made(tmp_path):
    with pytest.raises(KelronError, match=r"none\.jsonl does not exist"):
        build(config_for(tmp_path / "none.jsonl"), tmp_path / "data")
    (tmp_path / "a.jsonl").write_text("{broken\n")
    with pytest.raises(KelronError, match=r"a.jsonl:1: not JSON"):
        build(config_for(tmp_path / "a.jsonl"), tmp_path / "data")
