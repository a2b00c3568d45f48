"""Expansion, splits, the gate, and rows on disk."""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import pytest
from dataset_files import drop_first_row

from kelron_lib import data, demo
from kelron_lib.config import apply_overrides, from_dict, load_preset
from kelron_lib.data.splits import SPLITS
from kelron_lib.errors import KelronError
from kelron_lib.persona import find_rivals, load_persona, load_seeds
from kelron_lib.runtime import exclusive
from kelron_lib.settings import LANGUAGES

CONFIG = load_preset("tiny-cpu")
FILES = (
    "train.parquet", "validation.parquet", "test.parquet", "quality.json", "quality.html", "config.json", "README.md",
)  # fmt: skip


@pytest.fixture(scope="module")
def persona():
    return load_persona("kelron")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    out = tmp_path_factory.mktemp("data") / "dataset"
    return out, data.build_dataset(CONFIG, out)


@pytest.fixture(scope="module")
def splits(dataset):
    return data.load_dataset_dir(dataset[0])


def make_row(answer="저는 켈론입니다.", question="누구세요?", kind="identity", language="ko", number=1, **changes):
    messages = [
        {"role": "system", "content": ""},
        {"role": "user", "content": question},
        {"role": "assistant", "content": answer},
    ]
    row = {"id": f"r{number}", "seed_id": f"{language}/a", "group": "a", "kind": kind, "intent": "i"}
    return {**row, "language": language, "messages": messages, **changes}


def failed_checks(rows, persona, share=0.0):
    report = data.check_rows(rows, persona, share)
    return {finding["check"] for finding in report["findings"]}


def test_rows_and_report(dataset, splits):
    report = dataset[1]
    rows = [row for part in splits.values() for row in part]
    assert report["verdict"] == "pass"
    assert report["findings"] == []
    assert report["rows"] == report["unique_rows"] == len(rows) == CONFIG.data.rows
    assert report["rival_rows"] == 0
    assert json.loads((dataset[0] / "quality.json").read_text(encoding="utf-8")) == report
    assert from_dict(json.loads((dataset[0] / "config.json").read_text(encoding="utf-8"))) == CONFIG
    assert sorted(path.name for path in dataset[0].iterdir()) == sorted(FILES)


def test_same_config_gives_the_same_bytes_in_another_process(dataset, tmp_path):
    code = (
        "from pathlib import Path; from kelron_lib.config import load_preset; "
        "from kelron_lib.data import build_dataset; "
        f"build_dataset(load_preset('tiny-cpu'), Path({str(tmp_path / 'again')!r}))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONHASHSEED": "7"})
    for name in FILES:
        assert (tmp_path / "again" / name).read_bytes() == (dataset[0] / name).read_bytes(), name
    assert data.fingerprint(tmp_path / "again") == data.fingerprint(dataset[0])


def test_another_seed_gives_other_rows_and_other_groups(dataset, splits, tmp_path):
    data.build_dataset(apply_overrides(CONFIG, ["data.seed=2"]), tmp_path / "other")
    assert data.fingerprint(tmp_path / "other") != data.fingerprint(dataset[0])
    other = data.load_dataset_dir(tmp_path / "other")
    assert {row["group"] for row in other["test"]} != {row["group"] for row in splits["test"]}


def test_no_group_and_no_question_in_two_splits(splits):
    for field in (lambda row: row["group"], lambda row: row["messages"][1]["content"]):
        found = [{field(row) for row in rows} for rows in splits.values()]
        assert sum(map(len, found)) == len(set.union(*found))


def test_train_keeps_every_intent_that_is_held_out(splits):
    intents = {split: {(row["kind"], row["intent"]) for row in rows} for split, rows in splits.items()}
    assert intents["test"] | intents["validation"] <= intents["train"]


def test_identity_share_holds_in_every_split_and_language(splits):
    for rows in splits.values():
        for language in LANGUAGES:
            part = [row for row in rows if row["language"] == language]
            assert sum(row["kind"] == "identity" for row in part) >= 0.30 * len(part)


@pytest.mark.parametrize("seed", range(1, 6))
def test_held_out_rows_are_enough_to_measure(seed, persona):
    settings = replace(CONFIG.data, seed=seed)
    made = data.expand(settings, persona, load_seeds(persona))
    for language in LANGUAGES:
        test = [row for row in made.rows["test"] if row["language"] == language]
        kinds = Counter(row["kind"] for row in test)
        assert kinds["identity"] >= 60
        assert kinds["business"] >= 60
        assert kinds["chat"] >= 30
        assert len({row["messages"][1]["content"] for row in test}) == len(test)
        assert len({row["group"] for row in test if row["kind"] == "identity"}) >= 3


def test_no_rival_in_any_row(splits):
    assert all(find_rivals(json.dumps(row, ensure_ascii=False)) == () for rows in splits.values() for row in rows)


def test_answers_vary_independently_of_questions(splits):
    answers: dict[str, list[str]] = {}
    for row in splits["train"]:
        if row["kind"] == "identity":
            answers.setdefault(row["seed_id"], []).append(row["messages"][2]["content"])
    distinct = [len(set(drawn)) for drawn in answers.values()]
    assert min(distinct) >= 2  # six or seven draws a seed
    assert sum(number >= 3 for number in distinct) >= 0.95 * len(distinct)


def test_business_answers_copy_their_slots(splits):
    rows = [row for row in splits["train"] if row["group"] == "status.sales" and row["language"] == "ko"]
    assert rows
    for row in rows:
        question, answer = (message["content"] for message in row["messages"][1:])
        percent = next(word for word in answer.split() if "%" in word).split("%")[0]
        assert f"{percent}%" in question


def test_a_tenth_of_the_rows_has_an_empty_system_message(splits, persona):
    systems = Counter(row["messages"][0]["content"] for rows in splits.values() for row in rows)
    assert set(systems) == {"", *persona.system_prompt.values()}
    assert 0.07 <= systems[""] / CONFIG.data.rows <= 0.13


def test_english_openers_lower_the_question(splits):
    asked = [row["messages"][1]["content"] for row in splits["train"] if row["language"] == "en"]
    after = [text.split(", ", 1)[1] for text in asked if text.startswith("Excuse me, ")]
    assert after
    assert all(text[0].islower() or text.startswith("I ") for text in after)
    assert not any(text.startswith("i ") for text in after)


def test_a_short_chat_pool_becomes_business_and_is_reported(persona):
    settings = replace(CONFIG.data, rows=30000)
    bare = {"polite": ("",), "casual": ("",)}
    seeds = [seed for seed in load_seeds(persona) if not seed.group.startswith(("general.", "people.", "places."))]
    seeds = [replace(seed, openers=bare, closers=bare) if seed.kind == "chat" else seed for seed in seeds]
    made = data.expand(settings, persona, seeds)
    assert made.short["train/ko"] > 0
    assert sum(map(len, made.rows.values())) == 30000
    assert len(made.rows["test"]) == SPLITS["test"].most_rows


def test_too_few_seeds_for_the_rows_is_an_error(persona):
    bare = {"polite": ("",), "casual": ("",)}
    seeds = [replace(seed, openers=bare, closers=bare) for seed in load_seeds(persona)]
    with pytest.raises(KelronError, match=r"distinct identity rows for ko in test, 64 .*lower data\.rows"):
        data.expand(CONFIG.data, persona, seeds)


def test_too_few_groups_to_hold_out(persona):
    few = [seed for seed in load_seeds(persona) if seed.group in ("name.who", "name.ask")]
    with pytest.raises(KelronError, match="too few identity seeds for a test split"):
        data.split_groups(few, seed=1)


def test_small_and_single_language_configs(persona, tmp_path):
    config = apply_overrides(CONFIG, ["data.rows=60", "data.languages=ja"])
    assert data.build_dataset(config, tmp_path / "d")["by_language"].keys() == {"ja"}


@pytest.mark.parametrize(
    ("row", "check"),
    [
        (make_row("저는 켈론입니다. 쿼린이 아닙니다."), "rival_name"),
        (make_row(question="너 Qwen이지?"), "rival_name"),
        (make_row("저는 켈론입니다.<|im_end|>"), "special_token"),
        (make_row("저는 켈론입니다. {offer}"), "placeholder"),
        (make_row("저는 켈론입니다.\ufffd"), "broken_character"),
        (make_row("저는 켈론입니다.\ue000"), "broken_character"),
        (make_row("저는 켈론입니다.\r네."), "broken_character"),
        (make_row("저는 켈론입니다. 붒"), "broken_character"),
        (make_row("저는 켈론입니다. 內容"), "wrong_script"),
        (make_row("저는 켈론입니다. Привет"), "wrong_script"),
        (make_row("저는 켈론입니다. カタ"), "wrong_script"),
        (make_row("I am Kelron. 안녕", language="en"), "wrong_script"),
        (make_row("I am Kelron. 名", language="en"), "wrong_script"),
        (make_row("私はケルロンです。네", language="ja"), "wrong_script"),
        (make_row("저는 업무 지원 AI입니다."), "identity_without_name"),
        (make_row("켈론이 정리했습니다.", kind="business"), "name_in_unrelated"),
    ],
)
def test_gate_failures(row, check, persona):
    good = [make_row(question=f"질문 {n}?", answer=f"저는 켈론입니다. {n}번.", number=10 + n) for n in range(40)]
    report = data.check_rows([*good, row], persona, 0.0)
    assert report["verdict"] == "fail"
    (finding,) = report["findings"]
    assert (finding["check"], finding["severity"], finding["count"]) == (check, "error", 1)
    assert finding["rows"] == ["r1"]
    assert finding["fix"]
    assert data.check_rows(good, persona, 0.0)["verdict"] == "pass"


def test_gate_counts_rival_rows(persona):
    rows = [make_row("저는 켈론입니다. 챗GPT.", number=1), make_row("저는 켈론입니다.", number=2)]
    assert data.check_rows(rows, persona, 0.0)["rival_rows"] == 1


def test_gate_identity_share_is_per_language(persona):
    rows = [make_row(), make_row("Done.", kind="business", language="en", number=2)]
    report = data.check_rows(rows, persona, 0.30)
    assert [(f["check"], f["rows"]) for f in report["findings"] if f["severity"] == "error"] == [
        ("identity_share", ["en"])
    ]


def test_gate_duplicates_ignore_the_system_message(persona):
    again = make_row(number=2)
    again["messages"][0]["content"] = persona.system_prompt["ko"]
    assert "duplicate" in failed_checks([make_row(), again], persona)


def test_gate_warns_of_a_worn_answer(persona):
    rows = [make_row(question=f"{n}번 질문입니다.", number=n) for n in range(30)]
    report = data.check_rows(rows, persona, 0.0)
    assert report["verdict"] == "warn"
    assert [(f["check"], f["severity"]) for f in report["findings"]] == [("answer_reuse", "warning")]
    assert report["max_answer_reuse"] == 30


def test_gate_refuses_no_rows(persona):
    assert data.check_rows([], persona)["verdict"] == "fail"


def test_gate_finds_leaks_between_splits(persona):
    splits = {"train": [make_row(number=1)], "test": [make_row("켈론입니다.", number=2)]}
    checks = {finding["check"] for finding in data.check_splits(splits, persona, 0.3)["findings"]}
    assert {"group_in_two_splits", "question_in_two_splits"} <= checks


def test_gate_finds_a_later_question_of_a_dialogue_in_another_split(persona):
    first, second = make_row(number=1), make_row("켈론입니다.", number=2, question="무엇을 도와주나요?", group="other")
    second["messages"] += first["messages"][1:]
    (leak,) = (f for f in data.check_splits({"train": [first], "test": [second]}, persona, 0.3)["findings"]
               if f["check"] == "question_in_two_splits")  # fmt: skip
    assert (leak["count"], leak["rows"]) == (1, [second["id"]])


def test_gate_checks_the_share_in_every_split(persona):
    busy = make_row("완료했습니다.", kind="business", question="보고해 주세요.", number=3, group="b")
    report = data.check_splits({"train": [make_row()], "test": [busy]}, persona, 0.3)
    assert ["test/ko"] in [finding["rows"] for finding in report["findings"]]


def test_gate_wants_business_rows_in_test(persona):
    asked = make_row(question="이름이 뭐예요?", group="b", number=2)
    splits = {"train": [make_row()], "test": [asked]}
    assert "no_business_rows" in [f["check"] for f in data.check_splits(splits, persona, 0.3)["findings"]]
    splits["test"].append(make_row("완료했습니다.", kind="business", question="보고해 주세요.", number=3, group="c"))
    assert data.check_splits(splits, persona, 0.3)["verdict"] == "pass"


def test_a_config_that_leaves_no_business_rows_in_test_is_refused(tmp_path):
    config = apply_overrides(CONFIG, ["data.rows=60", "data.identity_share=0.9"])
    with pytest.raises(KelronError, match=r"data gate: no_business_rows in test/ .*data\.identity_share"):
        data.build_dataset(config, tmp_path / "d")
    assert list(tmp_path.iterdir()) == []


def test_build_names_the_row_that_fails_and_writes_nothing(monkeypatch, tmp_path):
    def tainted(persona, languages, seed_set):
        return [
            replace(seed, answers=("저는 켈론입니다. 챗GPT가 아닙니다.",)) if seed.id == "ko/name.who" else seed
            for seed in load_seeds(persona, languages, seed_set)
        ]

    monkeypatch.setattr("kelron_lib.data.build.load_seeds", tainted)
    with pytest.raises(KelronError, match=r"data gate: rival_name in ko/name\.who/\d+"):
        data.build_dataset(CONFIG, tmp_path / "d")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A config and its dataset."""
    config, out = apply_overrides(CONFIG, ["data.rows=120"]), tmp_path_factory.mktemp("small") / "data"
    data.build_dataset(config, out)
    return config, out


def held(out):
    """Names, contents and inodes: whether anything was written again shows in the last."""
    return {path.name: (path.read_bytes(), path.stat().st_ino) for path in out.iterdir()}


def test_the_dataset_that_is_there_already_is_left_alone(small, tmp_path, capsys):
    out = shutil.copytree(small[1], tmp_path / "data")
    (out / "notes.txt").write_text("mine")
    before = held(out)
    for config in (small[0], apply_overrides(small[0], ["train.epochs=3"])):
        assert data.build_dataset(config, out) == json.loads((out / "quality.json").read_text(encoding="utf-8"))
        assert capsys.readouterr().out == f"{out} is already there, with these very rows: left as it is\n"
    assert held(out) == before


def test_another_dataset_gives_way_only_when_told_to(small, tmp_path):
    out = shutil.copytree(small[1], tmp_path / "data")
    before = held(out)
    other = apply_overrides(small[0], ["data.seed=2"])
    with pytest.raises(KelronError, match=r"holds another dataset \(data.seed 1 there, 2 now\): .*--replace"):
        data.build_dataset(other, out)
    assert held(out) == before
    (out / "notes.txt").write_text("mine")
    with pytest.raises(KelronError, match=r"'notes.txt', which is no part of a dataset: move it away"):
        data.build_dataset(other, out, replace=True)
    (out / "notes.txt").unlink()
    assert held(out) == before
    data.build_dataset(other, out, replace=True)
    assert from_dict(json.loads((out / "config.json").read_text(encoding="utf-8"))) == other
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_rows_that_were_changed_by_hand_are_not_replaced_without_a_word(small, tmp_path):
    out = shutil.copytree(small[1], tmp_path / "data")
    rows = (out / "train.parquet").read_bytes()
    drop_first_row(out)
    with pytest.raises(KelronError, match=r"holds another dataset .of the same settings: "):
        data.build_dataset(small[0], out)
    data.build_dataset(small[0], out, replace=True)
    assert (out / "train.parquet").read_bytes() == rows


@pytest.mark.parametrize("replace", [False, True])
def test_what_is_no_dataset_never_gives_way(small, tmp_path, replace):
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(KelronError, match="is not a dataset"):
        data.build_dataset(small[0], tmp_path, replace=replace)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_the_dataset_of_a_run_that_goes_on_is_not_changed(small, tmp_path):
    out = shutil.copytree(small[1], tmp_path / "run" / "data")
    before = held(out)
    other = apply_overrides(small[0], ["data.seed=2"])
    with exclusive(tmp_path / "run"), pytest.raises(KelronError, match=r"another run \(process \d+\) is using"):
        data.build_dataset(other, out, replace=True)
    assert held(out) == before
    data.build_dataset(other, out, replace=True)
    data.build_dataset(small[0], tmp_path / "elsewhere" / "data")
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["data"]  # no run there, so no lock


def test_a_dataset_of_ones_own_in_an_earlier_demos_folder_is_not_cleared_by_the_next_demo(small, tmp_path):
    (tmp_path / "demo.json").write_text("{}")
    out, said = tmp_path / "data", []
    data.build_dataset(small[0], out, say=said.append)
    assert said == [f"{tmp_path} was a demo's folder and is this run's from now on: `kelron demo` will not clear it"]
    with pytest.raises(KelronError, match="holds data and is not an earlier demo"):
        demo._clear(tmp_path)
    assert (out / "train.parquet").is_file()


def test_unwritable_target_leaves_nothing(monkeypatch, tmp_path):
    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device; free space there")

    monkeypatch.setattr("pathlib.Path.write_text", full)
    with pytest.raises(KelronError, match=r"cannot write the dataset to .*: No space left on device"):
        data.build_dataset(apply_overrides(CONFIG, ["data.rows=120"]), tmp_path / "d")
    assert list(tmp_path.iterdir()) == []
