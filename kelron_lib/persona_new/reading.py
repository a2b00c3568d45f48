"""How a name in Latin letters may be read aloud: a suggestion in Hangul and in katakana, for its owner to confirm.

Letters are read as in Italian or Japanese, which suits invented names best (Kelron: 켈론, ケルロン). An English word
with a silent letter or a long vowel comes out wrong; what matters most, the last sound, usually does not.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

_SOUND = re.compile(
    r"(sch|sh|ch|th|ph|ck|ng(?![aeiouy])|qu|[bcdfghjklmnpqrstvwxz]|y(?=[aeiou]))?(ee|oo|ai|ei|au|[aeiouy])?"
)
_SPELT = {"sch": "sh", "ph": "f", "ck": "k", "q": "k", "qu": "kw", "th": "s", "c": "k", "x": "ks", "ee": "i", "oo": "u"}

_LEADS = {
    **dict(zip("kgntdrlmbps", (15, 0, 2, 16, 3, 5, 5, 6, 7, 17, 9), strict=True)),
    **{"f": 17, "v": 7, "z": 12, "j": 12, "ch": 14, "sh": 9, "h": 18, "": 11, "w": 11, "y": 11, "ng": 11},
}  # fmt: skip
_VOWELS = {"a": 0, "e": 5, "o": 8, "u": 13, "i": 20, "y": 20, "": 18}
_GLIDES = {
    "y": {"a": 2, "e": 7, "o": 12, "u": 17, "i": 20},
    "sh": {"a": 2, "e": 7, "o": 12, "u": 17, "i": 20, "": 20},
    "w": {"a": 9, "e": 15, "o": 14, "u": 13, "i": 16},
}
_FINALS = {"n": 4, "l": 8, "m": 16, "ng": 21}

_KANA_ROWS = {
    "": "アイウエオ", "k": "カキクケコ", "g": "ガギグゲゴ", "s": "サシスセソ", "z": "ザジズゼゾ", "n": "ナニヌネノ",
    "h": "ハヒフヘホ", "b": "バビブベボ", "p": "パピプペポ", "m": "マミムメモ", "r": "ラリルレロ", "l": "ラリルレロ",
}  # fmt: skip
_KANA_PAIRS = {
    "t": ("タ", "ティ", "トゥ", "テ", "ト"),
    "d": ("ダ", "ディ", "ドゥ", "デ", "ド"),
    "f": ("ファ", "フィ", "フ", "フェ", "フォ"),
    "v": ("ヴァ", "ヴィ", "ヴ", "ヴェ", "ヴォ"),
    "w": ("ワ", "ウィ", "ウ", "ウェ", "ウォ"),
    "y": ("ヤ", "イ", "ユ", "イェ", "ヨ"),
    "j": ("ジャ", "ジ", "ジュ", "ジェ", "ジョ"),
    "ch": ("チャ", "チ", "チュ", "チェ", "チョ"),
    "sh": ("シャ", "シ", "シュ", "シェ", "ショ"),
}
_ALONE = {"n": "ン", "ng": "ング", "m": "ム", "t": "ト", "d": "ド", "j": "ジ", "ch": "チ", "sh": "シュ", "y": "イ"}


def _sounds(name: str) -> Iterator[tuple[str, str]]:
    """Consonant and vowel, either of which may be missing, one after the other."""
    plain = unicodedata.normalize("NFKD", name.lower())
    letters = re.sub(r"[^a-z]", "", plain)
    letters = re.sub(r"([bcdfghjklmnpqrstvwxz])\1", r"\1", letters)
    if len(letters) > 3 and re.search(r"[aeiouy][bcdfgklmnprstvz]e$", letters):
        letters = letters[:-1]  # a final e after one consonant is silent more often than not
    for match in _SOUND.finditer(letters):
        lead, vowel = match[1] or "", match[2] or ""
        lead, vowel = _SPELT.get(lead, lead), _SPELT.get(vowel, vowel)
        for extra in lead[:-1] if lead in ("ks", "kw") else "":
            yield extra, ""
        lead = lead[-1:] if lead in ("ks", "kw") else lead
        if lead or vowel:
            yield lead, vowel[:1]
        if len(vowel) > 1:
            yield "", vowel[1:]


def _syllable(lead: str, vowel: str, final: int = 0) -> str:
    row = _GLIDES.get(lead, _VOWELS)
    return chr(ord("가") + (_LEADS[lead] * 21 + row.get(vowel, _VOWELS[vowel])) * 28 + final)


def hangul_reading(name: str) -> str:
    """The name in Hangul, word by word; empty where it has no Latin letters."""
    return " ".join(filter(None, map(_hangul_word, name.split())))


def _hangul_word(word: str) -> str:
    text = ""
    for lead, vowel in _sounds(word):
        open_before = bool(text) and (ord(text[-1]) - ord("가")) % 28 == 0 and "가" <= text[-1] <= "힣"
        if not vowel and lead in _FINALS and open_before:
            text = text[:-1] + chr(ord(text[-1]) + _FINALS[lead])
            continue
        if vowel and lead == "l" and open_before:  # between vowels Korean doubles it: 폴리
            text = text[:-1] + chr(ord(text[-1]) + _FINALS["l"])
        text += _syllable(lead, vowel)
    return text


def kana_reading(name: str) -> str:
    """The name in katakana, words joined by a middle dot; empty where it has no Latin letters."""
    return "・".join(filter(None, map(_kana_word, name.split())))


def _kana_word(word: str) -> str:
    text = ""
    for lead, vowel in _sounds(word):
        row = _KANA_PAIRS.get(lead) or _KANA_ROWS.get(lead, _KANA_ROWS[""])
        text += row["aiueo".index("i" if vowel == "y" else vowel)] if vowel else _ALONE.get(lead, row[2])
    return text
