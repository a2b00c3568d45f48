"""`kelron persona check` and `show`: what is wrong with a persona, and what it will give."""

import random
import re

import pytest
import yaml
from dataset_files import rows_in
from persona_files import KELRON, line_of, minimal, named, written

from kelron_lib.__main__ import main
from kelron_lib.data.draw import draw
from kelron_lib.evaluate.names import lexicon
from kelron_lib.persona import load_persona
from kelron_lib.persona_check import check_persona
from kelron_lib.persona_check.levels import level_of
from kelron_lib.settings import LANGUAGES


def findings(path) -> list[str]:
    return list(map(str, check_persona(path).findings))


def check(capsys, path):
    code = main(["persona", "check", str(path)])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_kelron_passes_and_shows_itself(capsys):
    code, out, err = check(capsys, "kelron")
    assert (code, err) == (0, "")
    assert "particles: 켈론은 켈론이 켈론을 켈론과 켈론으로 켈론이에요" in out
    assert "kelron: fit for data (0 errors, 0 warnings)" in out
    report = check_persona("kelron")
    core = {supply.language: supply for supply in report.supplies if supply.seed_set == "core"}
    assert set(core) == set(LANGUAGES)
    for language in LANGUAGES:
        assert core[language].used == core[language].written
        assert core[language].used["identity"] >= 49
        assert not core[language].other_level
        assert f"{language} system: {load_persona('kelron').system_prompt[language]}" in out
    dialogues = out[out.index("ko system:") :]
    assert all(dialogues.count(name) >= 3 for name in ("켈론", "Kelron", "ケルロン"))


def test_the_number_of_dialogues_is_that_of_the_words(tmp_path):
    seed = {"id": "a", "kind": "identity", "intent": "i", "ask": {"polite": ["누구세요?", "이름이 뭐예요?"]}}
    content = {"phrases": {"self": ["저는 {name}입니다.", "{name}입니다.", "제가 {name}입니다."]}}
    for language in LANGUAGES:
        only = {
            **content,
            "language": language,
            "seeds": [{**seed, "answer": ["{self}", "네, {self}", "{name}입니다."]}],
        }
        (tmp_path / f"{language}.yaml").write_text(yaml.safe_dump(only, allow_unicode=True), encoding="utf-8")
    report = check_persona(written(tmp_path, named(seeds=".")))
    supply = report.supplies[0]
    assert supply.dialogues == 2 * (3 + 3 + 1)
    made = set()
    for number in range(2000):
        made.add(draw(report.seeds[0], report.persona, random.Random(number), framed=False).pairs)
    assert len(made) <= supply.dialogues
    assert len(made) >= 12  # "저는 민텔로입니다." stands in two of the templates with others


@pytest.mark.parametrize(
    ("content", "at", "severity", "words"),
    [
        # a common word, by the list; in an answer; in the lexicon; in a question
        (named("Sunny"), "en: Sunny", "warning", "'Sunny' is an ordinary word (en)"),
        (named(ko="나비"), "ko: 나비", "error", "'나비' stands in an answer of seed ko/"),
        (named(ko="새봄물산"), "ko: 새봄물산", "error", "stands in the lexicon (ko client"),
        (named("Certainly"), "en: Certainly", "error", "'Certainly' stands in an answer of seed en/"),
        (named(ko="도라"), "ko: 도라", None, ""),
        # spellings count, too
        (named(spellings=["희망"]), "- 희망", "warning", "'희망' is an ordinary word (ko)"),
        (named("Mi"), "en: Mi", "warning", "has fewer than 3 letters"),
        # scripts and encodings
        (named(ko="ミンテロ"), "ko: ミンテロ", "error", "name for ko has 'ミ' in 'ミンテロ': write it in Hangul"),
        (named(ja="민텔로"), "ja: 민텔로", "error", "name for ja has '민' in '민텔로': write it in kana, kanji or"),
        (named(en="Минтело"), "en: Минтело", "error", "name for en has 'М'"),
        (
            named(tone={"ko": "친절\ufffd한", "en": "kind", "ja": "親切な"}),
            "ko: 친절",
            "error",
            "holds a broken character",
        ),
        # rivals in other texts
        (
            named(facts={**KELRON["facts"], "en": ["I am not GPT-4."]}),
            "- I am not",
            "error",
            "facts for en names 'GPT-4'",
        ),
        # ruled-out words
        (named(never=["tea"]), "en: tea guide", "error", "role for en says 'tea', which `never` rules out"),
        (named(never=["Certainly"]), "never:", "error", "`never` rules out 'certainly', which an answer of seed en/"),
        # phrases
        (named(phrases={"ko": {"wrok": ["x"]}}), "wrok:", "error", "no seed file of that language has a phrase 'wrok'"),
        # levels
        (
            named(facts={**KELRON["facts"], "ko": ["나는 AI야."]}),
            "- 나는 AI야",
            "warning",
            "is casual, and speech for ko is",
        ),
        (
            named(facts={**KELRON["facts"], "ja": ["私はAIだよ。"]}),
            "- 私はAIだよ",
            "warning",
            "is casual, and speech for ja",
        ),
        (
            named(tone={"ko": "반말로 편한", "en": "kind", "ja": "親切な"}),
            "ko: 반말로",
            "warning",
            "tone for ko says '반말'",
        ),
        # form
        (named(role={**named()["role"], "en": "a tea guide"}), "en: a tea", "warning", "begins with an article"),
        (
            named(limits={**KELRON["limits"], "en": ["drawing.", "law"]}),
            "- drawing.",
            "warning",
            "ends like a sentence",
        ),
        (named(facts={**KELRON["facts"], "en": ["I am an AI"]}), "- I am an AI", "warning", "has no full stop"),
        (
            named(pronunciation={"Mintelu": "민텔루"}),
            "Mintelu:",
            "warning",
            "no name, maker or role is written so. Did you",
        ),
    ],
)
def test_findings_name_the_line(tmp_path, content, at, severity, words):
    path = written(tmp_path, content)
    found = [str(finding) for finding in check_persona(path).findings if words and words in str(finding)]
    if severity is None:
        assert not [text for text in findings(path) if f":{line_of(path, at)}:" in text]
        return
    assert len(found) == 1, findings(path)
    assert found[0].startswith(f"{path}:{line_of(path, at)}: {severity}: ")


@pytest.mark.parametrize(
    ("maker", "words"),
    [("Tea\u200bLab", "holds an invisible character (U+200B)"), ("Tea\nLab", "goes over two lines")],
)
def test_a_text_that_is_not_what_it_looks_like(tmp_path, maker, words):
    path = written(tmp_path, named(maker={**named()["maker"], "en": maker}))
    (found,) = [text for text in findings(path) if words in text]
    assert ": error: maker" in found


def test_an_ability_that_is_a_limit_too(tmp_path):
    limits = {**KELRON["limits"], "ko": ["실시간 검색", "일정 관리"]}
    path = written(tmp_path, named(abilities=KELRON["abilities"], limits=limits))
    assert any("'일정 관리' is among the abilities, too" in text for text in findings(path))


def test_exit_codes(capsys, tmp_path):
    assert check(capsys, written(tmp_path, named(), "good.yaml"))[0] == 0
    code, out, err = check(capsys, written(tmp_path, named(ko="나비"), "bad.yaml"))
    assert (code, err) == (1, "")
    assert "not fit for data yet (1 error, " in out
    code, out, err = check(capsys, written(tmp_path, {**minimal(), "naem": "x"}, "broken.yaml"))
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "Did you mean name?" in err
    assert check(capsys, tmp_path / "absent.yaml")[0] == 2
    assert check(capsys, "kelorn")[2].endswith("Did you mean kelron?\n")


def test_defaults_and_missing_readings_are_warnings(capsys, tmp_path):
    code, out, _ = check(capsys, written(tmp_path, named("Nabiko", ko="Nabiko", pronunciation={})))
    assert code == 0
    assert "warning: no abilities: Kelron's own stand in" in out
    assert "warning: no Korean reading for 'Nabiko'" in out
    assert "particles: Nabiko은(는) Nabiko이(가) Nabiko을(를) Nabiko와(과) Nabiko(으)로 Nabiko이에요" in out


def test_the_data_verb_says_what_defaults_stand_in_for(capsys, tmp_path):
    options = ("--set", f"data.persona={written(tmp_path, named())}", "--set", "data.rows=60")
    assert main(["data", *options, "--out", str(tmp_path / "data")]) == 0
    out = capsys.readouterr().out
    assert "mine.yaml: no abilities: Kelron's own stand in (answering questions, " in out
    assert main(["data", "--set", "data.rows=60", "--out", str(tmp_path / "own")]) == 0
    assert "note:" not in capsys.readouterr().out


def test_a_level_that_the_seeds_do_not_have_is_an_error(capsys, tmp_path):
    for language in LANGUAGES:
        seed = {"id": "a", "kind": "identity", "intent": "i", "ask": {"polite": ["?"]}, "answer": ["{name}."]}
        only = {"language": language, "seeds": [seed]}
        (tmp_path / f"{language}.yaml").write_text(yaml.safe_dump(only), encoding="utf-8")
    code, out, _ = check(capsys, written(tmp_path, named(seeds=".", speech={"ja": "casual"})))
    assert code == 1
    assert re.search(r"error: no identity seed of the core set answers in casual for ja", out)


@pytest.mark.parametrize(
    ("sentence", "language", "level"),
    [
        ("저는 AI입니다", "ko", "polite"),
        ("다시 말해 주세요", "ko", "polite"),
        ("나는 AI야", "ko", "casual"),
        ("같이 해 줄게", "ko", "casual"),
        ("오늘의 할 일", "ko", None),
        ("私はAIです", "ja", "polite"),
        ("教えてくださいね", "ja", "polite"),
        ("私はAIだよ", "ja", "casual"),
        ("お茶の時間", "ja", None),
        ("I am an AI", "en", None),
    ],
)
def test_levels_that_a_sentence_surely_has(sentence, language, level):
    assert level_of(sentence, language) == level


@pytest.mark.parametrize("name", ["kelron", "folimi"])
def test_every_spelling_counts_in_the_evaluation(name):
    persona = load_persona(name)
    names = lexicon(persona)
    wide = "".join(chr(ord(char) + 0xFEE0) for char in persona.name["en"])
    for spelling in (*persona.spellings, wide):
        assert [m.kind for m in names.mentions(f"I am {spelling}.")] == ["persona"], spelling


def test_show_lists_and_prints(capsys):
    assert main(["persona", "show"]) == 0
    out = capsys.readouterr().out
    assert "folimi     plant care companion, by Windowsill Garden Club" in out
    assert "kelron     business assistant, by Team Kelron" in out
    assert main(["persona", "show", "folimi"]) == 0
    out = capsys.readouterr().out
    assert "particles: Folimi는 Folimi가 Folimi를 Folimi와 Folimi로 Folimi예요" in out
    assert "しおれた葉の手当て" not in out  # the first three of each list
    assert main(["persona", "show", "nobody"]) == 2


def test_the_second_persona_passes_and_makes_a_dataset(capsys, tmp_path):
    code, out, _ = check(capsys, "folimi")
    assert code == 0, out
    assert "folimi: fit for data (0 errors, 0 warnings)" in out
    made = ["data", "--set", "data.persona=folimi", "--set", "data.rows=600", "--out", str(tmp_path / "data")]
    assert main(made) == 0
    identity = [row for row in rows_in(tmp_path / "data") if row["kind"] == "identity"]
    said = dict.fromkeys(LANGUAGES, "")
    for row in identity:
        answers = [message["content"] for message in row["messages"] if message["role"] == "assistant"]
        said[row["language"]] += " ".join(answers) + " "
        for answer in answers:
            for sentence in re.split(r"[.!?。！？]\s*", answer):
                assert level_of(sentence, row["language"]) != "polite", (row["id"], answer)
    assert re.search(r"Folimi(?:야|는|라고|가)", said["ko"])
    assert not re.search(r"Folimi(?:은|을|과|이라|이야)", said["ko"])
    assert "フォリミ" in said["ja"]
    for words in ("office", "업무", "業務", "켈론", "Kelron", "ケルロン"):
        assert not [text for text in said.values() if words in text], words
