import json

import pytest

from kelron_lib.errors import KelronError
from kelron_lib.evaluate import (
    FLAGS,
    METRICS,
    build_prompts,
    evaluate,
    evaluate_answers,
    loss_comparison,
    proportion,
    scoreboard,
    scoreboard_table,
    wilson,
)
from kelron_lib.evaluate.intervals import bootstrap, mcnemar
from kelron_lib.evaluate.metrics import comparison, percent
from kelron_lib.evaluate.prompts import load_unrelated, prompts_from_rows, select_prompts, unrelated_prompts
from kelron_lib.evaluate.tables import width
from kelron_lib.generate import Answer
from kelron_lib.persona import load_persona, rival_names

PERSONA = load_persona("kelron")
RIVALS = rival_names()


VALUE = {"value", "hits", "n", "low", "high", "clusters", "cluster_low", "cluster_high"}


def scored(language="ko", kind="identity", stopped=True, **raised):
    return {"language": language, "kind": kind, "stopped": stopped, "flags": {**dict.fromkeys(FLAGS, False), **raised}}


def row(number, kind="identity", language="ko", question="너는 누구니?", seed="ko/name.who", system="sys"):
    messages = [
        {"role": "system", "content": system},
        {"role": "user", "content": question},
        {"role": "assistant", "content": "답"},
    ]
    row_id = f"{language}-{kind}-{number}"
    return {"id": row_id, "seed_id": seed, "kind": kind, "language": language, "messages": messages}


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [
        (0, 381, 0.0, 0.0099821),
        (381, 381, 0.9900179, 1.0),
        (95, 100, 0.8882496, 0.9784557),
        (1, 10, 0.0178762, 0.4041500),
        (5, 10, 0.2365931, 0.7634069),
        (81, 263, 0.2553, 0.3662),  # this and the next three: Newcombe, Statistics in Medicine 17 (1998), table I
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_matches_known_intervals(hits, n, low, high):
    assert wilson(hits, n) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(("hits", "n"), [(1, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_nonsense(hits, n):
    with pytest.raises(KelronError, match="no interval"):
        wilson(hits, n)


def test_a_proportion_of_nothing_has_no_value():
    found = proportion(0, 0)
    assert (found["n"], found["hits"]) == (0, 0)
    assert {found[key] for key in ("value", "low", "high", "cluster_low", "cluster_high")} == {None}


def test_each_metric_counts_its_own_answers():
    board = scoreboard(
        [
            scored(asserts_persona=True),
            scored(asserts_persona=True, contradiction=True, rival_named=True) | {"rival_in_prompt": True},
            scored(language="en", rival_named=True, stopped=False) | {"rival_in_prompt": False},
            scored(kind="unrelated", over_identity=True, asserts_persona=True, contradiction=True),
            scored(language="en", kind="unrelated", loop=True, wrong_script=True, broken_chars=True)
            | {"rival_in_prompt": False},
            scored(kind="unrelated", rival_named=True) | {"rival_in_prompt": True},  # explains one, as asked
        ]
    )
    assert {name: (board[name]["value"], board[name]["n"]) for name in METRICS} == {
        "identity_recall": (2 / 3, 3),
        "contradiction_rate": (1 / 3, 3),
        "rival_rate": (0.5, 6),
        "rival_unprompted_rate": (0.5, 2),
        "rival_prompted_rate": (1.0, 1),
        "adversarial_hold": (None, 0),
        "over_identity_rate": (1 / 3, 3),
        "termination_rate": (5 / 6, 6),
        "loop_rate": (1 / 6, 6),
        "wrong_script_rate": (1 / 6, 6),
        "broken_char_rate": (1 / 6, 6),
    }
    assert list(board["by_language"]) == ["ko", "en"]
    assert board["by_language"]["en"]["identity_recall"]["value"] == 0
    assert set(board["by_language"]["ko"]) == set(METRICS)
    assert set(board["identity_recall"]) == VALUE


def test_an_empty_answer_has_not_ended():
    board = scoreboard([scored() | {"answer": " \n"}, scored() | {"answer": "네"}])
    assert board["termination_rate"]["hits"] == 1


# --- Slices -----------------------------------------------------------------------------------------------
def asked(language, system, attack, said, **more):
    return scored(language, asserts_persona=said) | {"system_kind": system, "attack": attack, **more}


def test_slices_are_counted_by_hand():
    answers = [
        asked("ja", "none", "override", True),
        asked("ja", "none", "override", False),
        asked("ko", "none", "direct", True),
        asked("ko", "hostile", "direct", False),
        asked("ko", "hostile", "direct", False),
        scored("ko", kind="unrelated") | {"system_kind": "persona", "attack": ""},
    ]
    board = scoreboard(answers)
    recall = {by: {k: v["identity_recall"] for k, v in cut.items()} for by, cut in board.items() if by[:3] == "by_"}
    found = {by: {name: (value["hits"], value["n"]) for name, value in cut.items()} for by, cut in recall.items()}
    assert found == {
        "by_language": {"ko": (1, 3), "ja": (1, 2)},
        "by_system": {"persona": (0, 0), "none": (2, 3), "hostile": (0, 2)},
        "by_attack": {"direct": (1, 3), "override": (1, 2)},
        "by_language_system": {"ko/persona": (0, 0), "ko/none": (1, 1), "ko/hostile": (0, 2), "ja/none": (1, 2)},
        "by_language_attack": {"ko/direct": (1, 3), "ja/override": (1, 2)},
    }
    assert list(found["by_system"]) == ["persona", "none", "hostile"]
    assert board["cross_language_gap"] == pytest.approx(100 * (1 / 2 - 1 / 3))
    assert scoreboard(answers[:2])["cross_language_gap"] is None


def test_a_dialogue_holds_where_no_turn_gives_in():
    def dialogue(says, *claims):
        *before, last = ({**dict.fromkeys(FLAGS, False), "contradiction": claim} for claim in claims)
        made = asked("en", "none", "pressure", says, earlier=[{"flags": found} for found in before])
        made["flags"] |= {"contradiction": last["contradiction"]}
        return made

    answers = [dialogue(True, False, False), dialogue(True, True, False), dialogue(False, False, False)]
    found = scoreboard([*answers, dialogue(True, False, True), asked("en", "none", "direct", True)])["adversarial_hold"]
    assert (found["hits"], found["n"]) == (1, 4)
    untold = asked("en", "none", "pressure", True, earlier=[{"answer": "x"}])
    with pytest.raises(KelronError, match="not every turn of it has flags"):
        scoreboard([untold])


# --- Clusters ---------------------------------------------------------------------------------------------
def test_two_opposite_clusters_tell_nothing():
    assert bootstrap([[10, 0]], [10, 10]) == [(0.0, 1.0)]
    assert bootstrap([[10]], [20]) == [None]


def test_whole_clusters_count_as_one_answer_each():
    """Ten equal answers from each of 100 seeds have the spread of 100 answers, and single ones that of 1,000."""
    for size in (10, 1):
        clusters = 1000 // size
        hits = [size * (seed % 4 == 0) for seed in range(clusters)]
        [(low, high)] = bootstrap([hits], [size] * clusters)
        assert (low + high) / 2 == pytest.approx(0.25, abs=0.01)
        assert (high - low) / 2 == pytest.approx(1.96 * (0.25 * 0.75 / clusters) ** 0.5, rel=0.1)


def test_all_or_none_is_as_sure_as_the_number_of_clusters():
    assert bootstrap([[0] * 30, [4] * 30], [4] * 30) == [wilson(0, 30), wilson(30, 30)]


def test_a_scoreboard_is_the_same_whatever_the_order_of_its_answers():
    answers = [asked("ko", "none", "direct", i % 3 > 0, seed_id=f"ko/{i % 7}") for i in range(60)]
    answers += [asked("ko", "none", "direct", i % 2 > 0) for i in range(9)]
    board, turned = scoreboard(answers), scoreboard(answers[::-1])
    assert board == turned
    recall = board["identity_recall"]
    assert (recall["clusters"], recall["hits"]) == (16, 44)
    assert recall["cluster_low"] < recall["value"] < recall["cluster_high"]
    assert board["by_attack"]["direct"]["identity_recall"]["cluster_low"] is None


# --- Two models -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("base_only", "tuned_only", "p"),
    [
        (0, 0, 1.0),
        (0, 5, 2 / 32),
        (1, 9, 2 * (1 + 10) / 1024),
        (5, 5, 1.0),
        (1, 7, 0.0703),  # this and the next: Fagerland, Lydersen and Laake, BMC Med Res Methodol 13:91 (2013)
        (6, 16, 0.0525),
        (0, 189, 2.0**-188),
    ],
)
def test_mcnemar_matches_known_values(base_only, tuned_only, p):
    assert mcnemar(base_only, tuned_only) == pytest.approx(p, rel=2e-3)
    assert mcnemar(tuned_only, base_only) == mcnemar(base_only, tuned_only)


def test_models_are_compared_on_the_prompts_that_both_answered():
    def answers(*says):
        return [{"id": i, **asked("ko", "none", "direct", said)} for i, said in enumerate(says)]

    found = comparison(answers(True, True, False, False, False), answers(True, False, True, True, False, True))
    recall = found["identity_recall"]
    assert recall == {"n": 5, "both": 1, "base_only": 1, "tuned_only": 2, "neither": 1, "p": 1.0}
    assert found["over_identity_rate"]["n"] == 0
    assert found["over_identity_rate"]["p"] is None


def test_an_empty_slice_is_null_in_json():
    board = scoreboard([scored(kind="unrelated")])
    assert json.loads(json.dumps(board, allow_nan=False))["identity_recall"]["value"] is None


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"language": None}, "no language"),
        ({"kind": "business"}, "kind 'business'"),
        ({"stopped": None}, "stopped by itself"),
        ({"flags": {"loop": True}}, "lacks flags"),
        ({"flags": dict.fromkeys(FLAGS, 1)}, "lacks flags"),
    ],
)
def test_answers_that_are_not_scored_are_named(broken, message):
    with pytest.raises(KelronError, match=f"answer 2.*{message}"):
        scoreboard([scored(), {**scored(), **broken}])


def test_loss_comparison_checks_its_numbers():
    assert loss_comparison(2.0, 2.1)["ratio"] == pytest.approx(1.05)
    for bad in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(KelronError, match="business rows"):
            loss_comparison(1.0, bad)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        (0.0, "0 %"),
        (1.0, "100 %"),
        (0.9999, "99.9 %"),
        (0.0001, "0.1 %"),
        (0.9866, "98.7 %"),
        (0.5, "50 %"),
    ],
)
def test_percent_keeps_all_and_none_for_all_and_none(value, shown):
    assert percent(value) == shown


# --- Prompts ----------------------------------------------------------------------------------------------
def test_prompts_end_with_the_question_and_keep_the_system_prompt():
    [prompt] = prompts_from_rows([row(1, kind="business", question="메일 써 줘")])
    assert (prompt["kind"], prompt["system"], prompt["prompt"]) == ("unrelated", "sys", "메일 써 줘")
    assert [message["role"] for message in prompt["messages"]] == ["system", "user"]


def test_a_row_without_its_answer_is_refused():
    broken = row(3)
    broken["messages"] = broken["messages"][:2]
    with pytest.raises(KelronError, match="row 'ko-identity-3'"):
        prompts_from_rows([broken])


def test_the_packaged_prompts_are_many_distinct_and_name_nobody():
    packaged = load_unrelated()
    assert set(packaged) == {"ko", "en", "ja"}
    for prompt in unrelated_prompts(PERSONA):
        assert prompt["kind"] == "unrelated"
        assert prompt["messages"][0] == {"role": "system", "content": prompt["system"]}
        if prompt["system_kind"] != "hostile":
            told = PERSONA.system_prompt[prompt["language"]] if prompt["system_kind"] == "persona" else ""
            assert prompt["system"] == told
    for texts in packaged.values():
        assert len(texts) == len(set(texts)) >= 20
        assert not any(name in text for text in texts for name in PERSONA.spellings)


def test_selection_spreads_over_seeds_and_drops_equal_conversations():
    rows = [row(i, question=f"q{i}", seed=f"ko/s{i % 3}") for i in range(30)]
    rows += [row(100, question="q1", seed="ko/s9")]
    prompts = prompts_from_rows(rows)
    chosen = select_prompts(prompts, identity=6, unrelated=0)
    assert sorted(prompt["seed_id"] for prompt in chosen) == ["ko/s0", "ko/s0", "ko/s1", "ko/s1", "ko/s2", "ko/s2"]
    assert chosen == select_prompts(prompts, identity=6, unrelated=0)
    assert len(select_prompts(prompts, identity=99, unrelated=0)) == 30


def test_a_language_without_identity_rows_is_refused():
    rows = [row(1), row(2, kind="business", language="ja")]
    with pytest.raises(KelronError, match="no identity rows for ja"):
        build_prompts(rows, PERSONA, identity=5, unrelated=5)


# --- The whole, with a stand-in for the model ---------------------------------------------------------------
def say(messages, tuned):
    asked = messages[-1]["content"]
    if not asked.startswith("너는"):
        return Answer("네, \ud800" if asked == "메일" else "네", asked != "메일", 3)
    return Answer("저는 켈론입니다." if tuned else "저는 쿼린입니다.", True, 3)


def run(out, **more):
    rows = [row(i, question=f"너는 누구니? {i}") for i in range(4)] + [row(9, kind="business", question="메일")]
    prompts = build_prompts(rows, PERSONA, identity=4, unrelated=25)
    answers = {model: [say(prompt["messages"], model == "tuned") for prompt in prompts] for model in ("base", "tuned")}
    return evaluate(prompts, answers, PERSONA, RIVALS, out, **more)


def test_evaluate_writes_scoreboard_and_answers(tmp_path):
    board, records = run(
        tmp_path,
        business_loss={"base": 1.0, "tuned": 1.02},
        meta={"config_hash": "abc", "adapter": "adapter", "seconds": 2.5},
    )
    written = json.loads((tmp_path / "scoreboard.json").read_text(encoding="utf-8"))
    assert written == board
    assert (written["base"]["identity_recall"]["value"], written["tuned"]["identity_recall"]["value"]) == (0, 1)
    assert written["base"]["rival_rate"]["value"] == 4 / 29
    assert written["business_loss"] == {"base": 1.0, "tuned": 1.02, "ratio": 1.02}
    meta = written["meta"]
    assert meta["says"] == {"base": {"Quorin": 4}, "tuned": {"Kelron": 4}}
    assert (meta["prompts"], meta["config_hash"], meta["seconds"]) == (29, "abc", 2.5)
    assert meta["counts"] == {"identity.ko": 4, "unrelated.ko": 25}
    lines = (tmp_path / "answers.jsonl").read_bytes().splitlines()
    assert len(lines) == len(records) == 58
    first, broken = json.loads(lines[0]), next(json.loads(line) for line in lines if b"ud800" in line)
    wanted = {"id", "language", "kind", "system", "prompt", "messages", "model", "answer", "stopped", "flags"}
    assert wanted <= set(first)
    assert first["model"] == "base"
    assert tuple(first["flags"]) == FLAGS
    assert broken["flags"]["broken_chars"]
    assert broken["stopped"] is False


def test_every_prompt_needs_an_answer():
    prompts = prompts_from_rows([row(1)])
    with pytest.raises(KelronError, match="tuned model gave 0 answers to 1 prompts"):
        evaluate_answers(prompts, {"tuned": []}, PERSONA, RIVALS)


def test_tables_align_wide_letters_and_show_both_models(tmp_path):
    board, _ = run(tmp_path, business_loss={"base": 1.0, "tuned": 0.99})
    lines = scoreboard_table(board).split("\n")
    assert max(map(width, lines)) == width(lines[1]), "the rule under the head is as wide as the table"
    assert "한국어" in lines[3]
    assert any(line.endswith("(−1.0 %)") for line in lines)
