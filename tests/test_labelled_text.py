"""The detectors of loops, of wrong scripts and languages, of broken characters and of unended answers, on labelled
answers in three languages: precision and recall, and what they highlight."""

import time
import unicodedata
from functools import cache

import labelled_sets
import pytest

from kelron_lib.evaluate.detectors import flags, spans, terminated
from kelron_lib.persona import load_persona, rival_names

PERSONA = load_persona("kelron")
RIVALS = rival_names()
NEEDED = {"all": 0.98, "ko": 0.95, "en": 0.95, "ja": 0.95}

judged = cache(labelled_sets.judged)


@pytest.mark.parametrize("detector", labelled_sets.TEXT)
def test_the_set_is_large_and_has_both_sides_in_every_language(detector):
    cases = labelled_sets.load(detector)
    assert len(cases) >= 60
    assert {case["set"] for case in cases} >= {"first", "second"}
    assert len({(case["prompt"], case["answer"], case.get("stopped")) for case in cases}) == len(cases)
    for language in ("ko", "en", "ja"):
        labels = [case["label"] for case in cases if case["language"] == language]
        assert len(labels) >= 30
        assert 0.35 <= sum(labels) / len(labels) <= 0.65
    assert all(isinstance(case["label"], bool) and case["why"] for case in cases)


@pytest.mark.parametrize("language", NEEDED)
@pytest.mark.parametrize("detector", labelled_sets.TEXT)
def test_precision_and_recall(detector, language):
    pairs = [pair for pair in judged(detector) if language in ("all", pair[0]["language"])]
    precision, recall = labelled_sets.precision_and_recall(pairs)
    print(*labelled_sets.mistakes(pairs), sep="\n")
    assert min(precision, recall) >= NEEDED[language], f"precision {precision:.3f}, recall {recall:.3f}"


def test_a_verdict_that_is_wrong_lowers_the_figures():
    pairs = [({"label": label}, found) for label, found in [(True, True), (True, False), (False, True), (False, False)]]
    assert labelled_sets.precision_and_recall(pairs) == (0.5, 0.5)
    assert labelled_sets.precision_and_recall([({"label": True}, False)]) == (1.0, 0.0)


def highlighted(answer, language, prompt=""):
    found = flags(answer, language=language, kind="unrelated", persona=PERSONA, rivals=RIVALS, prompt=prompt)
    places = spans(answer, found, language=language, persona=PERSONA, rivals=RIVALS, prompt=prompt)
    return [(answer[start:end], flag) for start, end, flag in places]


HIGHLIGHTED = [  # language, answer with what is highlighted in 〔 〕, flag
    ("ko", "네. 〔Please contact the team for any details.〕 감사합니다.", "wrong_script"),
    ("ja", "有給休暇は年に15日です。〔我是你的助手，可以回答〕。", "wrong_script"),
    ("ja", "この〔报〕告は売上です。", "wrong_script"),
    ("en", "It is fine. 〔No puedo ayudar con la cuenta de los clientes.〕", "wrong_script"),
    ("en", "We meet at the caf〔Ã©〕 at noon.", "broken_chars"),
    ("ko", "〔ㅇㅏㄴ〕녕하세요.", "broken_chars"),
    ("ko", "순서: 〔1. 확인 2. 확인 3. 확인 4. 확인 5. 확인 6. 확인〕", "loop"),
    ("en", "We are〔 " + "very sorry, " * 9 + "〕yours.", "loop"),
]


@pytest.mark.parametrize(("language", "answer", "flag"), HIGHLIGHTED)
def test_what_is_flagged_is_highlighted(language, answer, flag):
    before, rest = answer.split("〔")
    inside, after = rest.split("〕")
    assert highlighted(before + inside + after, language) == [(inside, flag)]


@pytest.mark.parametrize("detector", ["loop", "wrong_script", "broken_chars"])
def test_every_flagged_answer_has_a_place_to_highlight(detector):
    for case, found in judged(detector):
        if found and unicodedata.is_normalized("NFC", case["answer"]):
            assert detector in {flag for _, flag in highlighted(case["answer"], case["language"], case["prompt"])}, case


@pytest.mark.parametrize(
    ("answer", "language", "prompt", "flagged"),
    [
        ("I am Kelron, made for your work.", "ko", "Please tell me in Korean who you are.", True),
        ("I am Kelron, made for your work.", "ko", "Who are you?", False),  # in the language of the question
        ("저는 켈론입니다.", "ko", "自己紹介を韓国語で一行だけお願い。", False),
        ("私はケルロンです。", "ko", "自己紹介を韓国語で一行だけお願い。", True),
        ("My name is Kelron.", "ja", "英語で自己紹介して。", False),
    ],
)
def test_an_answer_is_held_to_the_language_that_was_asked_for(answer, language, prompt, flagged):
    found = flags(answer, language=language, kind="identity", persona=PERSONA, rivals=RIVALS, prompt=prompt)
    assert found["wrong_script"] is flagged


def test_ten_thousand_answers_in_five_seconds():
    cases = [case for detector in labelled_sets.TEXT for case in labelled_sets.load(detector)]
    labelled_sets.verdict("loop", cases[0], PERSONA, RIVALS)  # patterns are compiled once
    began = time.process_time()
    for case in cases:
        _text_half(case["answer"], case["language"], case["prompt"])
    assert (time.process_time() - began) * 10_000 / len(cases) < 5


def _text_half(answer, language, prompt):
    labelled_sets.detectors.loop(answer)
    labelled_sets.detectors.wrong_script(answer, language, prompt)
    labelled_sets.detectors.broken_chars(answer, prompt)
    terminated(answer, True, prompt)


HOSTILE = {
    "a word": "가" * 50_000,
    "letters of one language": "会" * 50_000,
    "a list": "".join(f"{i}. 확인 {i * 7 % 13}\n" for i in range(4000)),
    "sentences": "".join(f"문장 {i % 50}입니다. " for i in range(5000)),
    "accented letters": "é" * 50_000,
    "mojibake": "ì•ˆë…" * 8000,
    "Hangul in pieces": "ㅇㅏㄴ" * 16_000,
    "quotes": "'a " * 16_000,
    "code that never ends": "```a" * 12_000,
    "formulas that never end": "\\(" * 25_000,
    "words": "word " * 10_000,
    "e-mail without a name": "a." * 25_000,
    "roles": "User: a\n" * 6000,
    "units that nearly repeat": ("abcdefgh" * 60 + "x") * 100,
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_fifty_thousand_characters_take_no_half_second(text):
    for language in ("ko", "en", "ja"):
        _text_half("warm", language, "")
        began = time.process_time()
        _text_half(text, language, "질문")
        assert time.process_time() - began < 0.5
