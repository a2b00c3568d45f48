"""The full set of seeds: speech levels, facts, turns, dialogues, questions as typed, splits of whole intents."""

import hashlib
import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from kelron_lib.config import resolve
from kelron_lib.data import build_dataset
from kelron_lib.data.dialogue import Pools, compose, estimated_tokens, fits
from kelron_lib.data.draw import draw
from kelron_lib.data.expand import MOST_USES, expand
from kelron_lib.data.splits import HELD_OUT, split_groups
from kelron_lib.data.typed import SHARE, as_typed
from kelron_lib.errors import KelronError
from kelron_lib.persona import find_rivals, load_persona, load_seeds
from kelron_lib.persona.check import flat_slots
from kelron_lib.persona.templates import FACT_SLOTS, PERSONA_SLOTS
from kelron_lib.settings import LANGUAGES, DataSettings

FULL = resolve("kelron-14b-t4x2", ["data.rows=2400"]).data
DIALOGUE = {
    "id": "pressure.repeat",
    "kind": "identity",
    "intent": "pressure",
    "ask": {"polite": ["누구세요?"], "casual": ["너 누구야?"]},
    "answer": {"polite": ["저는 {name}입니다."], "casual": ["난 {name|이야/야}."]},
    "then": [
        {"ask": {"polite": ["정말인가요?"]}, "answer": {"polite": ["네, {still}"], "casual": ["응, {still}"]}},
    ],
}
PHRASES = {"still": {"polite": ["여전히 {name}입니다."], "casual": ["여전히 {name|이야/야}."]}}


@pytest.fixture(scope="module")
def persona():
    return load_persona("kelron")


@pytest.fixture(scope="module")
def expansion(persona):
    return expand(FULL, persona, load_seeds(persona, LANGUAGES, "full"))


def seeds_of(persona, folder: Path, *entries, seed_set="core", **shared):
    content = {"language": "ko", "phrases": PHRASES, "seeds": list(entries), **shared}
    (folder / "ko.yaml").write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    return load_seeds(replace(persona, seeds=folder), ["ko"], seed_set)


# --- Seeds ------------------------------------------------------------------------------------------------
def test_tiny_rows_are_the_ones_that_its_base_was_built_for(persona):
    """The demo's targets were met with these very rows: another word in them asks for a new base."""
    rows = expand(DataSettings(), persona, load_seeds(persona)).rows
    digest = hashlib.sha256()
    for split in ("train", "validation", "test"):
        for row in rows[split]:
            digest.update(json.dumps([row["id"], row["messages"]], ensure_ascii=False).encode())
    assert digest.hexdigest() == "152e9c721208ba6bab9a6d6521de93b3eb8123c5999ad6ae8ca5b67def0be7f7"


def test_answers_have_the_personas_speech_level(persona, tmp_path):
    (polite,) = seeds_of(persona, tmp_path, DIALOGUE)
    assert draw(polite, persona, random.Random(1)).pairs[1][1] == "네, 여전히 켈론입니다."
    casual = replace(persona, speech={**persona.speech, "ko": "casual"})
    (friendly,) = seeds_of(casual, tmp_path, DIALOGUE)
    assert draw(friendly, casual, random.Random(1)).pairs[1][1] == "응, 여전히 켈론이야."


def test_an_identity_seed_without_the_level_is_left_out_and_others_keep_their_answers(persona, tmp_path):
    casual = replace(persona, speech={**persona.speech, "ko": "casual"})
    polite_only = {**DIALOGUE, "answer": ["저는 {name}입니다."], "then": []}
    work = {"id": "w", "kind": "business", "intent": "w", "ask": {"polite": ["{day}?"]}, "answer": ["{day}입니다."]}
    found = seeds_of(casual, tmp_path, polite_only, work)
    assert [seed.group for seed in found] == ["w"]


def test_facts_that_the_persona_does_not_tell_take_their_templates_with_them(persona, tmp_path):
    tells = {**DIALOGUE, "then": [], "answer": ["{name|은/는} {ability|과/와} {ability2|을/를} 돕습니다.", "{more}"]}
    phrases = {"more": ["{name|은/는} {ability3|을/를} 돕습니다."]}
    (both,) = seeds_of(replace(persona, abilities={"ko": ("가", "나", "다")}), tmp_path, tells, phrases=phrases)
    assert len(both.answers) == 2
    (one,) = seeds_of(replace(persona, abilities={"ko": ("가", "나")}), tmp_path, tells, phrases=phrases)
    assert one.answers == (tells["answer"][0],)
    assert seeds_of(replace(persona, abilities={}), tmp_path, tells, phrases=phrases) == []


def test_the_personas_phrases_stand_in_for_the_files(persona, tmp_path):
    own = replace(persona, phrases={"ko": {"still": ("늘 {name}입니다.",)}})
    (seed,) = seeds_of(own, tmp_path, DIALOGUE)
    assert draw(seed, own, random.Random(1)).pairs[1][1] == "네, 늘 켈론입니다."


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answer": {"polit": ["{name}."]}}, "unknown key 'polit'. Did you mean polite?"),
        ({"answer": ["저는 AI입니다."], "then": []}, "may leave the name out"),
        ({"system": ["{day}에는 이름이 없습니다."]}, "a system message uses {day}"),
        ({"system": []}, "expected a list of texts"),
        ({"then": [{"ask": {"polite": ["왜?"]}}]}, "turn 2: 'answer' is missing"),
        ({"then": [{"ask": {"polite": ["왜?"]}, "answer": ["{day}."]}]}, "uses {day}, which some question lacks"),
    ],
)
def test_a_broken_dialogue_is_one_line(persona, tmp_path, changes, message):
    with pytest.raises(KelronError) as error:
        seeds_of(persona, tmp_path, {**DIALOGUE, **changes})
    assert message in str(error.value)


def test_an_answer_may_copy_from_an_earlier_turn(persona, tmp_path):
    later = {
        "id": "b",
        "kind": "business",
        "intent": "b",
        "ask": {"polite": ["{day}에 회의를 잡아 주세요."]},
        "answer": ["네."],
        "then": [{"ask": {"polite": ["언제였죠?"]}, "answer": ["{day}입니다."]}],
    }
    (seed,) = seeds_of(persona, tmp_path, later)
    drawn = draw(seed, persona, random.Random(3))
    assert drawn.pairs[0][0].startswith(drawn.pairs[1][1].removesuffix("입니다."))


def test_an_id_of_the_core_cannot_come_again_in_the_folder(persona, tmp_path):
    (tmp_path / "ko").mkdir()
    again = {"language": "ko", "phrases": PHRASES, "seeds": [DIALOGUE]}
    (tmp_path / "ko" / "more.yaml").write_text(yaml.safe_dump(again, allow_unicode=True), encoding="utf-8")
    assert len(seeds_of(persona, tmp_path, DIALOGUE)) == 1
    with pytest.raises(KelronError, match=r"more\.yaml: seed id 'pressure\.repeat' is used twice"):
        seeds_of(persona, tmp_path, DIALOGUE, seed_set="full")


def test_seeds_only_for_the_core_are_left_out_of_the_full_set(persona, tmp_path):
    other = {**DIALOGUE, "id": "other"}
    assert len(seeds_of(persona, tmp_path, DIALOGUE, other, only_in_core=["other"])) == 2
    kept = seeds_of(persona, tmp_path, DIALOGUE, other, only_in_core=["other"], seed_set="full")
    assert [seed.group for seed in kept] == ["pressure.repeat"]
    with pytest.raises(KelronError, match="only_in_core names 'othr'"):
        seeds_of(persona, tmp_path, DIALOGUE, only_in_core=["othr"])


@pytest.mark.parametrize("name", ["kelron", "folimi"])
def test_the_full_set_has_enough_seeds_that_correspond_over_languages(name):
    seeds = load_seeds(load_persona(name), LANGUAGES, "full")
    for language in LANGUAGES:
        kinds = Counter(seed.kind for seed in seeds if seed.language == language)
        assert kinds["identity"] >= 100
        assert kinds["business"] >= 150
        assert kinds["chat"] >= 80
    groups = {language: {seed.group for seed in seeds if seed.language == language} for language in LANGUAGES}
    assert groups["ko"] == groups["en"] == groups["ja"]


@pytest.mark.parametrize("name", ["kelron", "folimi"])
def test_every_trait_of_a_persona_is_trained_in_every_language(name):
    seeds = load_seeds(load_persona(name), LANGUAGES, "full")
    trained = split_groups(seeds, FULL.seed, HELD_OUT["full"])["train"]
    told = {
        (seed.language, key.rstrip("0123456789"))
        for seed in seeds
        if seed.group in trained
        for turn in seed.turns
        for answer in turn.answers
        for key in flat_slots(answer, seed.phrases)
    }
    assert {(language, slot) for language in LANGUAGES for slot in (*PERSONA_SLOTS, *FACT_SLOTS)} <= told


def test_no_seed_names_a_rival_or_the_persona_by_hand(persona):
    for path in sorted((persona.seeds).glob("*/*.yaml")):
        text = path.read_text(encoding="utf-8")
        assert find_rivals(text) == (), path
        assert not [spelling for spelling in persona.spellings if spelling in text], path


# --- Questions as typed -----------------------------------------------------------------------------------
@pytest.mark.parametrize("language", LANGUAGES)
def test_typing_never_touches_a_slot_and_changes_what_its_register_allows(language):
    templates = {
        "ko": "{person|은/는} 어떻게 {day}에 회의를 알려 줘?",
        "en": "Please tell me what's on {day} for {person}, about the meeting?",
        "ja": "{person}は、{day}に教えてください。",
    }
    rng = random.Random(1)
    for register, share in SHARE.items():
        typed = [as_typed(templates[language], language, register, rng) for _ in range(400)]
        slots = "{person|은/는}" if language == "ko" else "{person}"
        assert all(slots in text and "{day}" in text for text in typed)
        changed = sum(text != templates[language] for text in typed) / len(typed)
        assert 0 < changed <= share + 0.08, register
        if register != "casual":
            assert not any(mark in text for text in typed for mark in ("ㅋㅋ", " lol", "笑"))


# --- Dialogues --------------------------------------------------------------------------------------------
def test_dialogues_keep_one_register_and_mix_kinds_as_planned(persona):
    seeds = load_seeds(persona, ["en"], "full")
    pools, rng = Pools.of(seeds, held_out=False), random.Random(2)
    name = next(seed for seed in seeds if seed.group == "name.who")
    drawn = [compose(name, pools, persona, rng) for _ in range(300)]
    turns = Counter(len(one.pairs) for one in drawn)
    assert turns[1] > turns[2] > turns[3] > 0
    last = ["Kelron" in one.pairs[-1][1] for one in drawn if len(one.pairs) > 1]
    assert any(last)
    assert not all(last)
    held = Pools.of(seeds, held_out=True)
    assert all("Kelron" in compose(name, held, persona, rng).pairs[-1][1] for _ in range(100))


def test_a_row_surely_fits_the_token_budget(expansion):
    for rows in expansion.rows.values():
        for row in rows:
            pairs = [(m["content"], "") for m in row["messages"][1:]]
            assert fits(pairs, row["messages"][0]["content"], FULL.max_tokens + 5 * len(row["messages"]))


@pytest.mark.parametrize(
    ("text", "tokens"),  # as Qwen's own vocabulary of 151,643 made them
    [
        ("저는 켈론 팀이 만든 업무 지원 AI 켈론입니다.", 22),
        ("I am Kelron, a business assistant.", 9),
        ("私はケルロンです。", 6),
        ("| 1 | 교통비 | 45,000원 | [ ] |", 20),
        ("안녕하세요. 정산표는 12월 3일까지 됩니다.", 19),
        ("Q3: $45,000 (+12 %), 3:30 PM", 21),
    ],
)
def test_the_estimate_is_a_little_above_what_the_tokenizer_makes(text, tokens):
    assert tokens < estimated_tokens(text) < 2 * tokens


# --- Rows -------------------------------------------------------------------------------------------------
def test_rows_say_where_they_come_from(expansion):
    for rows in expansion.rows.values():
        for row in rows:
            assert row["register"] in ("formal", "polite", "casual")
            assert row["generator"] == "seeds"
            assert "q" in row["template"]
            assert row["seed_id"] == f"{row['language']}/{row['group']}"


def test_no_text_is_used_too_often(expansion):
    uses = Counter(m["content"] for rows in expansion.rows.values() for row in rows for m in row["messages"][1:])
    assert uses.most_common(1)[0][1] <= MOST_USES


def test_whole_intents_are_held_out(expansion):
    trained = {row["intent"] for row in expansion.rows["train"]}
    assert not HELD_OUT["full"] & trained
    tested = {row["intent"] for row in expansion.rows["test"]}
    assert HELD_OUT["full"] & tested


def test_no_group_of_any_turn_is_in_two_splits(persona, expansion):
    groups = split_groups(load_seeds(persona, LANGUAGES, "full"), FULL.seed, HELD_OUT["full"])
    for split, rows in expansion.rows.items():
        for row in rows:
            assert row["group"] in groups[split]
            for part in row["template"].split(" + "):
                if " " in part:
                    assert part.split()[0] in groups[split]


def test_no_rival_is_named_anywhere(expansion):
    texts = {m["content"] for rows in expansion.rows.values() for row in rows for m in row["messages"]}
    assert [text for text in texts if find_rivals(text)] == []


@pytest.mark.slow  # about two minutes a persona on two busy cores
@pytest.mark.parametrize("name", ["kelron", "folimi"])
def test_the_full_preset_meets_its_targets(name, tmp_path):
    config = resolve("kelron-14b-t4x2", [f"data.persona={name}"])
    report = build_dataset(config, tmp_path / "data", say=lambda _: None)
    assert report["rows"] == report["unique_rows"] == 35_000
    assert report["verdict"] == "pass", report["findings"]
    assert report["effective_rows"] >= 8_000
    assert report["max_answer_reuse"] <= 10
    assert report["rival_rows"] == 0
    for counts in report["by_language"].values():
        assert counts["rows"] in (11_666, 11_667)
        assert counts["identity_share"] >= 0.30
    assert {split: found["similar_to_train"] for split, found in report["splits"].items()} == {
        "validation": 0,
        "test": 0,
    }


def test_the_same_seed_gives_the_same_rows(persona, expansion):
    again = expand(FULL, persona, load_seeds(persona, LANGUAGES, "full"))
    assert again.rows == expansion.rows
    other = expand(replace(FULL, seed=2), persona, load_seeds(persona, LANGUAGES, "full"))
    assert other.rows != expansion.rows
