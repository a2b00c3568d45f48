"""`kelron persona new`: a file that loads and passes, from options, from a file of answers, or asked for."""

import os
import pty
import subprocess
import sys

import pytest
import yaml
from persona_files import KELRON

from kelron_lib.__main__ import main
from kelron_lib.errors import KelronError
from kelron_lib.persona import load_persona
from kelron_lib.persona_check import check_persona
from kelron_lib.persona_new.answers import Asker, gather, split_list
from kelron_lib.persona_new.reading import hangul_reading, kana_reading
from kelron_lib.persona_new.write import persona_text, write_persona
from kelron_lib.settings import LANGUAGES

NAMED = ("--name-en", "Mintelo", "--maker-en", "Tea House Lab", "--maker-ko", "찻집 연구소", "--maker-ja", "茶館ラボ")


def new(capsys, path, *options):
    code = main(["persona", "new", str(path), "--yes", *options])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_options_alone_make_a_file_that_loads_and_passes(capsys, tmp_path):
    path = tmp_path / "deep" / "mintelo.yaml"
    code, out, err = new(capsys, path, *NAMED)
    assert (code, err) == (0, "")
    assert "mintelo: fit for data (0 errors, 0 warnings)" in out
    assert f"kelron data --set data.persona={path} --out runs/mintelo/data" in out
    persona = load_persona(str(path))
    assert persona.notes == ()
    assert persona.name == {"ko": "민텔로", "en": "Mintelo", "ja": "ミンテロ"}
    assert persona.spellings == ("민텔로", "Mintelo", "ミンテロ", "MINTELO", "mintelo")
    assert (
        persona.system_prompt["ko"]
        == "당신은 찻집 연구소가 만든 AI 도우미 민텔로입니다. 친절하고 차분한 말투로 답하세요."
    )
    assert persona.system_prompt["en"].startswith("You are Mintelo, an AI assistant made by Tea House Lab.")
    assert check_persona(str(path)).findings == ()


def test_every_field_of_the_file_has_its_comment(tmp_path):
    path = tmp_path / "m.yaml"
    write_persona(gather({"id": "m", "name": {"en": "Mintelo"}, "maker": {"en": "Lab"}}, Asker(None)), path)
    lines = path.read_text(encoding="utf-8").splitlines()
    keys = [n for n, line in enumerate(lines) if line[:1].isalpha()]
    assert {lines[n].partition(":")[0] for n in keys} == set(KELRON) - {"phrases"}
    assert all(lines[n - 1].startswith("#") for n in keys)
    assert any(line.startswith("# phrases: ") for line in lines)


def test_casual_speech_makes_prompts_and_facts_of_that_level():
    given = {"id": "m", "name": {"en": "Mintelo"}, "maker": {"en": "Lab", "ko": "연구소"}, "speech": {"ko": "casual"}}
    content = yaml.safe_load(persona_text(gather(given, Asker(None))))
    assert content["speech"] == {"ko": "casual", "en": "polite", "ja": "polite"}
    assert content["system_prompt"]["ko"].startswith("너는 연구소가 만든 AI 도우미 민텔로야.")
    assert content["facts"]["ko"][0] == "나는 사람이 아니라 AI야."
    assert content["facts"]["ja"][0] == "私は人間ではなくAIです。"


def test_lists_and_readings_come_from_options(capsys, tmp_path):
    options = ("--ability-en", "brewing tea", "--ability-en", "naming teas", "--ability-en", 'saying "ah", slowly')
    path = tmp_path / "m.yaml"
    assert new(capsys, path, *NAMED, "--name-ko", "Mintelo", "--pronunciation", "Mintelo=민텔로", *options)[0] == 0
    persona = load_persona(str(path))
    assert persona.abilities["en"] == ("brewing tea", "naming teas", 'saying "ah", slowly')
    assert persona.name["ko"] == "Mintelo"
    assert persona.pronunciation["Mintelo"] == "민텔로"
    assert persona.notes == ()


def test_a_file_of_answers_and_options_before_it(capsys, tmp_path):
    answers = {"id": "teapot", "name": {"en": "Mintelo", "ko": "민텔루"}, "maker": {"en": "Lab"}, "never": ["damn"]}
    file = tmp_path / "answers.yaml"
    file.write_text(yaml.safe_dump(answers, allow_unicode=True), encoding="utf-8")
    assert new(capsys, tmp_path / "m.yaml", "--from-answers", str(file), "--name-ko", "민텔로")[0] == 0
    persona = load_persona(str(tmp_path / "m.yaml"))
    assert (persona.id, persona.name["ko"], persona.never) == ("teapot", "민텔로", ("damn",))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "nobody is asked without a terminal, and there is no answer for --name-en, --maker-en: give these"),
        (("--name-en", "Claude", "--maker-en", "X"), "nothing written: name 'Claude' names Claude, a rival"),
        (("--name-en", "Mintelo", "--maker-en", "Google"), "nothing written: maker 'Google' names Google, a rival"),
        (("--name-en", "Минтело", "--maker-en", "Lab"), "has 'М' in 'Минтело': write it in"),
        ((*NAMED, "--speech", "polit"), "use polite or casual. Did you mean polite?"),
        ((*NAMED, "--pronunciation", "Mintelo"), "write it as NAME=READING"),
        ((*NAMED, "--ability-en", "one"), "has 1, seeds need 3 different ones"),
        ((*NAMED, "--role-en", "a {b}"), "holds a brace"),
        ((*NAMED, "--from-answers", "{tmp}/absent.yaml"), "no file at"),
    ],
)
def test_what_does_not_pass_is_not_written(capsys, tmp_path, options, words):
    path = tmp_path / "m.yaml"
    code, out, err = new(capsys, path, *(option.replace("{tmp}", str(tmp_path)) for option in options))
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1
    assert not path.exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("naem: {en: x}\n", ":1: unknown key 'naem'. Did you mean name?"),
        ("id: x\nrole: guide\n", ":2: role: expected a value for each language"),
        ("role:\n  en: guide\n  fr: guide\n", ":3: role: unknown language 'fr'"),
        ("- x\n", ":1: expected keys and values"),
    ],
)
def test_a_broken_file_of_answers_names_its_line(capsys, tmp_path, content, words):
    (tmp_path / "answers.yaml").write_text(content, encoding="utf-8")
    code, _, err = new(capsys, tmp_path / "m.yaml", *NAMED, "--from-answers", str(tmp_path / "answers.yaml"))
    assert code == 2
    assert words in err


def test_what_is_there_stays(capsys, tmp_path):
    path = tmp_path / "m.yaml"
    path.write_text("mine", encoding="utf-8")
    code, _, err = new(capsys, path, *NAMED)
    assert code == 2
    assert "is there already, and stays as it is" in err
    assert path.read_text(encoding="utf-8") == "mine"
    answers = gather({"id": "m", "name": {"en": "Mintelo"}, "maker": {"en": "Lab"}}, Asker(None))
    with pytest.raises(KelronError, match="is there already"):
        write_persona(answers, path)
    with pytest.raises(KelronError, match=r"name it mine\.txt\.yaml"):
        write_persona(answers, tmp_path / "mine.txt")


# --- Questions --------------------------------------------------------------------------------------------
def asked(*lines):
    """An asker that is given these lines, and what it asked and said."""
    typed, told = iter(lines), []

    def ask(question):
        told.append(question)
        return next(typed)

    return Asker(ask, told.append), told


def test_questions_suggest_readings_and_ask_again():
    asker, told = asked(
        *("", "Mintelo", "", ""),
        *("Google", "Lab", "", "研究室{", "研究室"),
        *("tea guide", "차 안내 AI", "お茶案内AI"),
        *("rude", "casual"),
        "",  # how Korean reads "Lab"
        *("warm", "따뜻한", "温かい"),
        *("tea, cake", "tea, cake, talk", "차, 과자, 이야기", "お茶、お菓子，おしゃべり"),
    )
    answers = gather({"id": "m"}, asker)
    assert answers["name"] == {"en": "Mintelo", "ko": "민텔로", "ja": "ミンテロ"}
    assert answers["maker"] == {"en": "Lab", "ko": "Lab", "ja": "研究室"}
    assert answers["speech"] == dict.fromkeys(LANGUAGES, "casual")
    assert answers["pronunciation"] == {"Mintelo": "민텔로", "Lab": "라브"}
    assert answers["abilities"] == {
        "en": ["tea", "cake", "talk"],
        "ko": ["차", "과자", "이야기"],
        "ja": ["お茶", "お菓子", "おしゃべり"],
    }
    assert "Korean: its name [민텔로]: " in told
    said = [line.strip() for line in told if line.startswith("  ")]
    assert said == [
        "write something",
        "'Google' names Google, a rival: the data gate refuses it; choose another",
        "leave braces out",
        "use polite or casual",
        "write 3 or more, with commas between them",
    ]


def test_a_name_in_latin_letters_is_asked_for_its_reading_unless_it_is_given():
    given = {"id": "m", "name": {"en": "Ruvimo", "ko": "Ruvimo"}, "maker": {"en": "Lab", "ko": "연구소"}}
    asker, told = asked(*[""] * 5, "Roo-vee-mo", "루비모", *[""] * 6)
    readings = gather({**given, "speech": dict.fromkeys(LANGUAGES, "polite")}, asker)["pronunciation"]
    assert readings == {"Ruvimo": "루비모"}
    assert told.count("how Korean reads 'Ruvimo', in Hangul [루비모]: ") == 2
    assert "  write it in Hangul" in told
    quiet = gather({**given, "pronunciation": {"Ruvimo": "르비모"}}, Asker(None))
    assert quiet["pronunciation"] == {"Ruvimo": "르비모"}


def test_a_terminal_is_asked_and_may_end_early(tmp_path):
    path = tmp_path / "m.yaml"
    command = [sys.executable, "-m", "kelron_lib", "persona", "new", str(path), *NAMED]

    def typed(text: bytes) -> tuple[int, str]:
        lead, follow = pty.openpty()
        process = subprocess.Popen(
            command, stdin=follow, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ}
        )
        os.close(follow)
        os.write(lead, text)
        out, _ = process.communicate(timeout=60)
        os.close(lead)
        return process.returncode, out.decode()

    code, out = typed(b"\n\x04")
    assert code == 2
    assert "kelron: the questions ended early: nothing written" in out
    assert not path.exists()
    code, out = typed(b"\n" * 20)
    assert code == 0, out
    assert "mintelo" in out
    assert load_persona(str(path)).role["en"] == "AI assistant"


# --- Readings ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "hangul", "kana"),
    [
        ("Kelron", "켈론", "ケルロン"),
        ("Folimi", "폴리미", "フォリミ"),
        ("Nabi", "나비", "ナビ"),
        ("Shelly", "셸리", "シェリ"),
        ("Wendy", "웬디", "ウェンディ"),
        ("Quinta", "크윈타", "クウィンタ"),
        ("Team Tabori", "테암 타보리", "テアム・タボリ"),
        ("Ångström", "앙스트롬", "アングストロム"),
        ("켈론", "", ""),
    ],
)
def test_readings_that_are_suggested(name, hangul, kana):
    assert hangul_reading(name) == hangul
    assert kana_reading(name) == kana


def test_every_word_of_latin_letters_has_some_reading():
    letters = "abcdefghijklmnopqrstuvwxyz"
    for first in letters:
        for second in letters:
            for word in (first + second, first + second + "a", "a" + first + second):
                assert all("가" <= char <= "힣" for char in hangul_reading(word)), word
                assert hangul_reading(word), word
                assert kana_reading(word), word


def test_lists_are_split_at_commas_of_either_width():
    assert split_list("a, b，c、 d,,") == ["a", "b", "c", "d"]
