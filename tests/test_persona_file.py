"""What a persona file may say: every field, its defaults, and one clear line with its place for what is wrong."""

import re
import unicodedata
from pathlib import Path

import pytest
import yaml
from persona_files import KELRON, line_of, minimal, named, written

from kelron_lib.errors import KelronError
from kelron_lib.persona import attach_josa, find_never, load_persona, load_seeds, persona_names
from kelron_lib.persona.definition import KEYS, LEAST
from kelron_lib.persona.files import PACKAGED
from kelron_lib.persona.josa import PAIRS
from kelron_lib.settings import LANGUAGES


def refused(path) -> str:
    with pytest.raises(KelronError) as error:
        load_persona(str(path))
    assert "\n" not in str(error.value)
    return str(error.value)


# --- Fields and defaults ----------------------------------------------------------------------------------
@pytest.mark.parametrize("name", persona_names())
def test_packaged_personas_tell_enough_of_themselves(name):
    persona = load_persona(name)
    assert persona.notes == ()
    for language in LANGUAGES:
        assert len(persona.abilities[language]) >= 10
        assert len(persona.limits[language]) >= 6
        assert len(persona.values[language]) >= 5
        assert len(persona.facts[language]) >= 4
        assert persona.tone[language]


def test_a_minimal_file_gets_defaults_and_says_so(tmp_path):
    persona = load_persona(written(tmp_path, minimal()))
    assert persona.speech == dict.fromkeys(LANGUAGES, "polite")
    for key in LEAST:
        assert all(len(getattr(persona, key)[language]) >= LEAST[key] for language in LANGUAGES)
        assert any(f"no {key}: Kelron's own stand in" in note for note in persona.notes), key
    assert any("no tone:" in note for note in persona.notes)
    assert persona.never == ()
    assert persona.phrases == {}


def test_default_facts_have_the_level_of_speech(tmp_path):
    casual = load_persona(written(tmp_path, {**minimal(), "speech": {"ko": "casual"}}))
    assert casual.speech == {"ko": "casual", "en": "polite", "ja": "polite"}
    assert casual.facts["ko"][0] == "나는 사람이 아니라 AI야."
    assert casual.facts["ja"][0] == "私は人間ではなくAIです。"


def test_a_name_typed_in_pieces_is_the_same_name(tmp_path):
    apart = {key: unicodedata.normalize("NFD", text) for key, text in KELRON["name"].items()}
    assert apart["ko"] != "켈론"
    assert load_persona(written(tmp_path, {**minimal(), "name": apart})).name["ko"] == "켈론"


def test_kelron_says_its_own_phrases_and_another_persona_its_abilities(tmp_path):
    def phrases(persona):
        return {seed.language: seed.phrases for seed in load_seeds(persona)}

    own, other = phrases(load_persona("kelron")), phrases(load_persona(written(tmp_path, named())))
    assert own["ko"]["my_role"] == ("제 역할은 업무 지원입니다.",)
    assert other["ko"]["my_role"] == ("제 역할은 {ability}입니다.",)
    assert own["en"]["work"][0] == "I help with schedules, emails and reports."
    texts = [text for lists in other.values() for texts in lists.values() for text in texts]
    assert not [text for text in texts if "업무" in text or "office" in text or "業務" in text]


def test_the_page_on_persona_files_tells_every_field_and_every_phrase_as_it_is():
    page = (Path(__file__).parent.parent / "docs" / "persona.md").read_text(encoding="utf-8")
    fields = re.search(r"\| field \|.*?\n\n", page, re.DOTALL).group()
    assert set(re.findall(r"^\| `(\w+)`", fields, re.MULTILINE)) == set(KEYS)
    table = re.search(r"\| phrase \|.*?\n\n", page, re.DOTALL).group()
    seeds = yaml.load((PACKAGED / "seeds" / "en.yaml").read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)["phrases"]
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \|$", table, re.MULTILINE)
    assert {name for name, _, _ in rows} == set(KELRON["phrases"]["en"])
    for name, generic, own in rows:
        texts = seeds[name] if isinstance(seeds[name], list) else seeds[name]["polite"]
        assert texts[0] == generic.removesuffix(" ...")
        assert KELRON["phrases"]["en"][name][0] == own.removesuffix(" ...")
    example = yaml.safe_load(re.search(r"```yaml\n(.*?)```", page, re.DOTALL).group(1))
    folimi = yaml.load((PACKAGED / "folimi.yaml").read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
    assert all(folimi[key] == value for key, value in example.items())


# --- Bad input --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("changes", "at", "words"),
    [
        ({"tone": {**KELRON["tone"], "fr": "poli"}}, "fr:", "unknown language 'fr': Kelron makes data in ko, en, ja"),
        ({"name": {**KELRON["name"], "kr": "켈론"}}, "kr:", "unknown language 'kr'"),
        ({"abilities": {"ko": ["가", "나", "다"], "en": ["a", "b", "c"]}}, "abilities:", "'ja' is missing: add it"),
        ({"limits": {**KELRON["limits"], "en": ["x"]}}, "  en:\n  - x", "has 1, seeds need 2 different ones"),
        ({"values": {**KELRON["values"], "en": "calm"}}, "en: calm", "expected a list of texts"),
        ({"facts": {**KELRON["facts"], "en": ["I {can}."]}}, "  en:\n  - I {can}", "holds a brace"),
        ({"speech": {"ko": "casuall"}}, "ko: casuall", "use polite or casual. Did you mean casual?"),
        ({"never": "damn"}, "never:", "expected a list of texts"),
        ({"phrases": {"ko": ["x"]}}, "ko:\n  - x", "expected phrase names with their texts"),
        ({"phrases": {"ko": {"My Phrase": ["x"]}}}, "ko:\n    My", "'My Phrase' is no phrase name"),
        ({"phrases": {"de": {"work": ["x"]}}}, "de:", "unknown language 'de'"),
        ({"pronunciation": {"Kelron": "kelron"}}, "Kelron: kelron", "write it in Hangul"),
        ({"role": {**KELRON["role"], "en": 7}}, "en: 7", "is 7, not a text"),
        ({"name": {"ko": "퀜", "en": "Kelron", "ja": "ケルロン"}}, "ko: 퀜", "names Qwen, a rival"),
        ({"maker": {"ko": "켈론 팀", "en": "openai", "ja": "チーム"}}, "en: openai", "names OpenAI, a rival"),
        ({"spellings": ["claude"]}, "- claude", "names Claude, a rival"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path, changes, at, words):
    path = written(tmp_path, {**minimal(), **changes})
    first = at.split("\n")[0]
    whole = (tmp_path / "mine.yaml").read_text(encoding="utf-8")
    line = whole[: whole.index(at)].count("\n") + 1 if "\n" in at else line_of(path, first)
    message = refused(path)
    assert words in message
    assert message.startswith(f"{path}:{line}: "), (message, line)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty: `kelron persona new` writes a persona file"),
        (b" \n\n", "is empty"),
        (b"# a comment\n", "expected a mapping of keys"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "holds a zero byte (at 8), so it is not a text file"),
        ("id: x\nname: 켈론\n".encode("utf-16"), "is in UTF-16; save it as UTF-8"),
        (b"id: x\n" + "name: 켈론\n".encode("cp949"), ":2: byte 0xc4 is not UTF-8; save the file"),
        (
            "id: 켈론\n".encode() + "name: 켈론\n".encode("cp949"),
            ":2: byte 0xc4 is not UTF-8 (the text before it is: the",
        ),
        ("id: ケルロン\nrole: ".encode() + "業務\n".encode("shift_jis"), "the file mixes encodings"),
        (b"id: a\nname: b\nid: c\n", ":3: 'id' is there already, on line 1"),
        (b"id: a\x07b\n", ":1: holds a character that YAML does not allow"),
        (b"&a [*a]\n", "contains itself: write it flat"),
        (b"id: x\nname: [1, 2\nmaker: y\n", ": not YAML"),
    ],
)
def test_a_file_that_is_no_persona_at_all(tmp_path, content, words):
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    message = refused(path)
    assert words in message
    assert message.startswith(str(path))


def test_a_file_with_a_byte_order_mark_is_read(tmp_path):
    path = written(tmp_path, minimal())
    (tmp_path / "marked.yaml").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "mine.yaml").read_bytes())
    assert load_persona(str(tmp_path / "marked.yaml")) == load_persona(path)


# --- Particles without a reading --------------------------------------------------------------------------
def test_a_name_without_reading_gets_particles_that_read_right(tmp_path):
    persona = load_persona(written(tmp_path, named("Nabiko", ko="Nabiko", pronunciation={})))
    assert any("no Korean reading for 'Nabiko' (name)" in note and "Nabiko은(는)" in note for note in persona.notes)
    pairs = [
        "은/는",
        "이/가",
        "을/를",
        "과/와",
        "으로/로",
        "이에요/예요",
        "이라고/라고",
        "이고/고",
        "이야/야",
        "이어서/여서",
    ]
    assert " ".join(attach_josa("Nabiko", pair) for pair in pairs) == (
        "Nabiko은(는) Nabiko이(가) Nabiko을(를) Nabiko와(과) Nabiko(으)로 Nabiko이에요 Nabiko(이)라고 Nabiko이고 "
        "Nabiko(이)야 Nabiko이어서"
    )


@pytest.mark.parametrize("pair", sorted(PAIRS))
def test_every_pair_has_a_form_for_an_unknown_sound(pair):
    first, second = pair.split("/")
    form = attach_josa("Nabiko", pair).removeprefix("Nabiko")
    plain = form.replace("(", "").replace(")", "")
    without = "".join(part.partition(")")[2] if ")" in part else part for part in form.split("("))
    assert {first, second} & {plain, without}, form


# --- Words never to be used -------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("LOL, that is fine.", ("LOL",)),
        ("lol", ("lol",)),
        ("A lollipop.", ()),
        ("아 그래요ㅋㅋㅋ", ("ㅋㅋ",)),
        ("それはワロタね", ("ワロタ",)),
        ("Nothing here.", ()),
    ],
)
def test_ruled_out_words_are_found(text, found):
    assert find_never(text, load_persona("kelron")) == found
    assert find_never(text, []) == ()
