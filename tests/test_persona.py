"""Persona files, particles, templates, seeds and rivals."""

import random
from pathlib import Path

import pytest
import yaml

from kelron_lib.errors import KelronError
from kelron_lib.persona import (
    attach_josa,
    draw_values,
    expand_phrases,
    fill,
    find_rivals,
    has_reading,
    load_lexicon,
    load_persona,
    load_seeds,
    rival_names,
    slots_of,
)
from kelron_lib.persona.files import PACKAGED
from kelron_lib.settings import LANGUAGES

KELRON = yaml.safe_load((PACKAGED / "kelron.yaml").read_text(encoding="utf-8"))


def write_persona(folder: Path, **changes) -> str:
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({**KELRON, **changes}, allow_unicode=True), encoding="utf-8")
    return str(path)


def without(mapping: dict, key: str) -> dict:
    return {name: value for name, value in mapping.items() if name != key}


def write_seeds(folder: Path, **changes):
    """A persona whose Korean seed file has one seed with `changes`."""
    seed = {"id": "a", "kind": "business", "intent": "i", "ask": {"polite": ["{day}?"]}, "answer": ["{day}."]}
    content = {"language": "ko", "seeds": [{**seed, **changes}]}
    (folder / "ko.yaml").write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    return load_persona(write_persona(folder, seeds="."))


def test_packaged_persona_has_every_language():
    persona = load_persona("kelron")
    assert persona.name == {"ko": "켈론", "en": "Kelron", "ja": "ケルロン"}
    assert set(persona.spellings) >= {"켈론", "Kelron", "ケルロン"}
    assert all(persona.name[language] in persona.system_prompt[language] for language in LANGUAGES)


def test_persona_from_a_path_equals_the_packaged_one(tmp_path):
    assert load_persona(write_persona(tmp_path)) == load_persona("kelron")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": without(KELRON["name"], "ja")}, "name: 'ja' is missing: add it"),
        ({"name": {**KELRON["name"], "en": "  "}}, "name is empty for en"),
        ({"maker": {**KELRON["maker"], "ko": ""}}, "maker is empty for ko"),
        ({"naem": "x"}, "unknown key 'naem'. Did you mean name?"),
        ({"id": ""}, "id is empty"),
        ({"system_prompt": {**KELRON["system_prompt"], "en": "You help."}}, "does not say 'Kelron'"),
        ({"pronunciation": ["Kelron"]}, "pronunciation must map"),
    ],
)
def test_broken_persona_is_one_clear_error(tmp_path, changes, message):
    with pytest.raises(KelronError) as error:
        load_persona(write_persona(tmp_path, **changes))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_unknown_persona_names_the_nearest():
    with pytest.raises(KelronError, match=r"unknown persona 'kelorn'.*Did you mean kelron\?"):
        load_persona("kelorn")


@pytest.mark.parametrize("name", ["lexicon", "rivals"])
def test_other_packaged_files_are_no_personas(name):
    with pytest.raises(KelronError, match="unknown persona"):
        load_persona(name)


def test_bad_yaml_names_file_and_line(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text("id: x\nname: {ko: a\nmaker: b\n", encoding="utf-8")
    with pytest.raises(KelronError, match=r"bad\.yaml:\d+: not YAML"):
        load_persona(str(path))


def test_missing_persona_file(tmp_path):
    with pytest.raises(KelronError, match="no file at"):
        load_persona(str(tmp_path / "none.yaml"))


@pytest.mark.parametrize(
    ("name", "forms"),
    [
        ("Kelron", "Kelron은 Kelron이 Kelron을 Kelron과 Kelron으로 Kelron이에요 Kelron이라고"),
        ("켈론", "켈론은 켈론이 켈론을 켈론과 켈론으로 켈론이에요 켈론이라고"),
        ("두리", "두리는 두리가 두리를 두리와 두리로 두리예요 두리라고"),
        ("가을", "가을은 가을이 가을을 가을과 가을로 가을이에요 가을이라고"),
        ("80%", "80%는 80%가 80%를 80%와 80%로 80%예요 80%라고"),
        ("PDF", "PDF는 PDF가 PDF를 PDF와 PDF로 PDF예요 PDF라고"),
        ("1", "1은 1이 1을 1과 1로 1이에요 1이라고"),
        ("10", "10은 10이 10을 10과 10으로 10이에요 10이라고"),
        ("'켈론'", "'켈론'은 '켈론'이 '켈론'을 '켈론'과 '켈론'으로 '켈론'이에요 '켈론'이라고"),
    ],
)
def test_josa_table(name, forms):
    pairs = ["은/는", "이/가", "을/를", "과/와", "으로/로", "이에요/예요", "이라고/라고"]
    made = [attach_josa(name, pair, {"Kelron": "켈론"}) for pair in pairs]
    assert " ".join(made) == forms


def test_japanese_name_takes_particles_by_its_reading():
    assert attach_josa("ケルロン", "은/는", {"ケルロン": "켈론"}) == "ケルロン은"
    assert not has_reading("ケルロン")
    assert attach_josa("ケルロン", "은/는") == "ケルロン은(는)"


def test_unknown_josa_pair():
    with pytest.raises(KelronError, match="unknown josa pair '는/은'"):
        attach_josa("켈론", "는/은")


def test_every_lexicon_entry_takes_every_particle():
    for entries in load_lexicon("ko").values():
        for entry in entries:
            assert has_reading(entry), entry


def test_lexicon_has_the_same_slots_in_every_language():
    lexica = [load_lexicon(language) for language in LANGUAGES]
    assert lexica[0].keys() == lexica[1].keys() == lexica[2].keys()
    assert all(len(entries) >= 24 for lexicon in lexica for entries in lexicon.values())


def test_numbered_slots_get_different_entries():
    for seed in range(50):
        values = draw_values(("day", "day2", "day3"), {"day": ("a", "b", "c")}, random.Random(seed))
        assert sorted(values.values()) == ["a", "b", "c"]


def test_fill_with_particle_and_article():
    values = {"document": "견적서", "role": "office assistant", "name": "Kelron"}
    assert fill("{document|을/를} 보내요", values) == "견적서를 보내요"
    assert fill("{name} is {role|a}", values) == "Kelron is an office assistant"
    assert slots_of("{day2} {day|은/는} {day2}") == ("day2", "day")
    with pytest.raises(KelronError, match=r"no value for \{documnt\}\. Did you mean document\?"):
        fill("{documnt}", values)


@pytest.mark.parametrize(
    "text",
    [
        "an honest and calm way",
        "a useful helper",
        "a universal guide",
        "an unimportant one",
        "an hourly report",
        "an HR assistant",
        "an AI",
        "a UI guide",
        "a European guide",
        "a one-line answer",
        "an only child",
        "a helper",
    ],
)
def test_english_articles_go_by_sound(text):
    assert fill("{role|a}", {"role": text.split(maxsplit=1)[1]}) == text


def test_phrases_nest_but_do_not_loop():
    assert expand_phrases("{a}!", {"a": ["{b}"], "b": ["x {day}"]}, random.Random(1)) == "x {day}!"
    with pytest.raises(KelronError, match="contain itself"):
        expand_phrases("{a}", {"a": ["{a}"]}, random.Random(1))


def test_seeds_correspond_over_languages():
    seeds = load_seeds(load_persona("kelron"))
    by_language = {
        language: {(s.group, s.kind, s.intent) for s in seeds if s.language == language} for language in LANGUAGES
    }
    assert by_language["ko"] == by_language["en"] == by_language["ja"]
    counts = {kind: sum(k == kind for _, k, _ in by_language["ko"]) for kind in ("identity", "business", "chat")}
    assert counts["identity"] >= 30
    assert counts["business"] >= 40
    assert counts["chat"] >= 10


def test_seeds_name_no_rival_and_no_persona_by_hand():
    spellings = load_persona("kelron").spellings
    for language in LANGUAGES:
        text = (PACKAGED / "seeds" / f"{language}.yaml").read_text(encoding="utf-8")
        assert find_rivals(text) == ()
        assert not [spelling for spelling in spellings if spelling in text]


def test_questions_and_openers_are_whole_texts():
    """A comma inside an unquoted YAML list cuts a text in two; its pieces end without a mark."""
    for seed in load_seeds(load_persona("kelron")):
        for text in [question.text for question in seed.questions] + list(seed.answers):
            assert text[-1] in ".?!。？！}", (seed.id, text)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "buisness"}, "Did you mean business?"),
        ({"answr": ["x"]}, "unknown key 'answr'. Did you mean answer?"),
        ({"answer": ["{time}."]}, "uses {time}, which some question lacks"),
        ({"answer": ["{name}."]}, "a business answer names the persona"),
        ({"ask": {"polite": ["{dya}?"]}}, "unknown slot {dya}"),
        ({"ask": {"polite": ["{day|을/은}?"]}}, "unknown josa {day|을/은}"),
        ({"ask": {"polite": ["{day?"]}}, "broken placeholder"),
        ({"ask": {"formel": ["{day}?"]}}, "unknown key 'formel'. Did you mean formal?"),
        ({"ask": {}}, "no question"),
        ({"answer": []}, "expected a list of texts"),
        ({"answer": ["{day}.", "{day}."]}, "is listed twice"),
        ({"only": {"dya": ["x"]}}, "unknown key 'dya'. Did you mean day?"),
        ({"id": 7}, "id must be a text"),
    ],
)
def test_broken_seed_names_file_and_seed(tmp_path, changes, message):
    persona = write_seeds(tmp_path, **changes)
    with pytest.raises(KelronError) as error:
        load_seeds(persona, ["ko"])
    assert message in str(error.value)
    assert "ko.yaml: seed" in str(error.value)


def test_only_narrows_a_slot(tmp_path):
    (seed,) = load_seeds(write_seeds(tmp_path, only={"day": ["월요일", "화요일"]}), ["ko"])
    assert seed.entries["day"] == ("월요일", "화요일")
    assert seed.entries["time"] == load_lexicon("ko")["time"]


def test_missing_seed_language(tmp_path):
    with pytest.raises(KelronError, match=r"no file at .*en\.yaml"):
        load_seeds(write_seeds(tmp_path), ["ko", "en"])


def test_rivals_include_the_incumbent_and_three_scripts():
    rivals = {rival.name: rival for rival in rival_names()}
    assert {"Quorin", "Aldmere", "Qwen", "Alibaba", "ChatGPT", "OpenAI", "Claude", "Gemini"} <= rivals.keys()
    assert rivals["Quorin"].kind == "assistant"
    assert rivals["Aldmere"].kind == "maker"
    assert rivals["Claude"].common_word
    assert not rivals["Qwen"].common_word


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("I'm Qwen2.5, by Alibaba Cloud.", ["Qwen", "Alibaba"]),
        ("저는 쿼린입니다. 알드미어가 만들었습니다.", ["Quorin", "Aldmere"]),
        ("私はクォリンです。アルドミアが開発しました。", ["Quorin", "Aldmere"]),
        ("챗GPT와 다른가요?", ["ChatGPT"]),
        ("我是通义千问，来自阿里云。", ["Qwen", "Alibaba"]),
        ("chat-gpt or QWEN?", ["Qwen", "ChatGPT"]),
        ("저는 구글에서 만든 제미나이예요.", ["Gemini", "Google"]),
    ],
)
def test_rivals_are_found(text, found):
    assert [rival.name for rival, _ in find_rivals(text)] == found


@pytest.mark.parametrize(
    "text",
    [
        "메타데이터와 드라마, 시리즈를 정리했습니다.",
        "ドラマとメタルの資料です。",
        "the llama farm meets a bard who can grok meta-analysis",
        "I am Kelron, made by Team Kelron.",
    ],
)
def test_ordinary_text_names_no_rival(text):
    assert find_rivals(text) == ()
