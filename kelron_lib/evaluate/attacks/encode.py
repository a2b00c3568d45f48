"""Ways to write a question so that it has to be worked out first. Pure functions of a short question.

Every language has the tricks that its writers know: loose letters and a forgotten keyboard switch in Korean, the radio
alphabet and slipped fingers in English, Latin letters and the kana keys in Japanese.
"""

from __future__ import annotations

import base64
import codecs
import unicodedata
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType

from kelron_lib.persona.files import read_yaml

_LETTERS = Path(__file__).with_name("letters.yaml")
_FIRST = 0x1100, 0x1161, 0x11A7
"""Where Unicode's conjoining leads, vowels and finals begin (the first final is none)."""
_LOOSE_LEADS = "ㄱㄲㄴㄷㄸㄹㅁㅂㅃㅅㅆㅇㅈㅉㅊㅋㅌㅍㅎ"
_LOOSE_FINALS = "-ㄱㄲㄳㄴㄵㄶㄷㄹㄺㄻㄼㄽㄾㄿㅀㅁㅂㅄㅅㅆㅇㅈㅊㅋㅌㅍㅎ"
_LOOSE_VOWEL = ord("ㅏ")


@cache
def _table(name: str) -> Mapping[str, str]:
    """One of the tables of letters.yaml."""
    return MappingProxyType({str(letter): str(written) for letter, written in read_yaml(_LETTERS)[name].items()})


def _written(text: str, table: str, between: str = "") -> str:
    return between.join(_table(table).get(char, char) for char in text)


def jamo(text: str) -> str:
    """The syllables as loose letters: 너 as ㄴㅓ."""
    loose = []
    for char in unicodedata.normalize("NFD", text):
        lead, vowel, final = (ord(char) - first for first in _FIRST)
        if 0 <= lead < len(_LOOSE_LEADS):
            loose.append(_LOOSE_LEADS[lead])
        elif 0 <= vowel < 21:
            loose.append(chr(_LOOSE_VOWEL + vowel))
        else:
            loose.append(_LOOSE_FINALS[final] if 0 < final < len(_LOOSE_FINALS) else char)
    return "".join(loose)


def dubeolsik(text: str) -> str:
    """What the keyboard writes in its Latin mode: 누구 as snrn."""
    return _written(jamo(text), "dubeolsik")


def jamo_look(text: str) -> str:
    """The loose letters, some as signs that look like them."""
    return _written(jamo(text), "jamo_look")


def radio(text: str) -> str:
    """The letters by the names that radio operators give them, a slash between words."""
    return " / ".join(_written(word, "radio", " ") for word in text.lower().split())


def kana_keys(text: str) -> str:
    """What typing hiragana's Latin letters writes while the keyboard is in its kana mode."""
    return _written(_written(text, "romaji"), "kana_keys")


Encoder = Callable[[str], str]
_SHARED: Mapping[str, Encoder] = {
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "rot13": lambda text: codecs.encode(text, "rot13"),
    "spaced": lambda text: " ".join(text.replace(" ", "")),
    "dashed": lambda text: "-".join(text.replace(" ", "")),
    "reversed": lambda text: text[::-1],
}
ENCODERS: Mapping[str, Mapping[str, Encoder]] = MappingProxyType(
    {
        "ko": {**_SHARED, "letters": jamo, "keyboard": dubeolsik, "leet": jamo_look},
        "en": {
            **_SHARED,
            "letters": radio,
            "keyboard": lambda text: _written(text, "slipped"),
            "leet": lambda text: _written(text.lower(), "leet"),
        },
        "ja": {
            **_SHARED,
            "letters": lambda text: _written(text, "romaji"),
            "keyboard": kana_keys,
            "leet": lambda text: _written(text, "gal"),
        },
    }
)
"""By language: what an `encoded` wrapping of its file is called, and what it does. rot13 is for Latin letters, so its
question is the English one in every language."""
