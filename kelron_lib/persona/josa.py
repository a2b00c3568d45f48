"""Korean particles by sound: 켈론은 but 자료는, 서울로 but 부산으로, and Kelron read as 켈론."""

from __future__ import annotations

from collections.abc import Mapping

from kelron_lib.errors import KelronError

# fmt: off
PAIRS = frozenset({
    "은/는", "이/가", "을/를", "과/와", "으로/로", "으로서/로서", "으로써/로써", "이에요/예요",
    "이라고/라고", "이라는/라는", "이라/라", "이란/란", "이나/나", "이든/든", "이랑/랑", "이며/며",
    "이고/고", "아/야", "이었/였", "이야/야", "이지/지", "이죠/죠", "이네/네", "이거든/거든", "이니까/니까",
    "이라서/라서", "이라면/라면", "이잖아/잖아", "이랍니다/랍니다", "이래/래", "이야말로/야말로",
    "이라도/라도", "이면/면", "이자/자", "이구나/구나", "이니/니", "이냐/냐", "이라며/라며", "이어서/여서",
})
# fmt: on
# Finals of the Sino-Korean digits; 0 also stands for 십, 백, 천 and 만, which all end in a consonant other than ㄹ.
_DIGITS = {"0": "영", "1": "일", "2": "이", "3": "삼", "4": "사", "5": "오", "6": "육", "7": "칠", "8": "팔", "9": "구"}
_LETTERS = {"L": "엘", "M": "엠", "N": "엔", "R": "알"}
_SYMBOLS = {"%": "퍼센트"}
_CLOSERS = "\"'”’」』)]》〉"
_RIEUL = 8


# Where the sound is not known: both forms, or the longer one where it is right after a vowel, too (Nabi이에요).
_BOTH = {"과/와": "와(과)", "아/야": "아(야)"} | {
    pair: pair.split("/")[0] for pair in ("이에요/예요", "이고/고", "이며/며", "이었/였", "이어서/여서")
}


def _both(pair: str) -> str:
    """The particles of a pair, written for a noun whose sound is not known: 은(는), (으)로, (이)라고."""
    first, second = pair.split("/")
    if pair in _BOTH:
        return _BOTH[pair]
    if first.endswith(second):  # 으로/로: the first is the second with a syllable before it
        return f"({first.removesuffix(second)}){second}"
    return f"{first}({second})"


def _reading(text: str, pronunciation: Mapping[str, str]) -> str | None:
    """A Hangul text that ends the way `text` is read aloud; None where that is not known."""
    for written in sorted(pronunciation, key=len, reverse=True):
        if text.endswith(written):
            return pronunciation[written]
    last = text[-1:]
    if "가" <= last <= "힣":
        return last
    if last in _DIGITS or last in _SYMBOLS:
        return _DIGITS.get(last) or _SYMBOLS[last]
    if last.isascii() and last.isupper():
        return _LETTERS.get(last, "이")  # spelled out: every other letter's name ends in a vowel
    return None


def has_reading(text: str, pronunciation: Mapping[str, str] | None = None) -> bool:
    """Whether the particles of `text` are known from its spelling or from `pronunciation`."""
    return _reading(text.rstrip(_CLOSERS), pronunciation or {}) is not None


def attach_josa(name: str, pair: str, pronunciation: Mapping[str, str] | None = None) -> str:
    """`name` with the particle of `pair` ("after a consonant/after a vowel") that its sound asks for.

    pronunciation: Hangul readings of words in other scripts, by spelling ({"Kelron": "켈론"}). A word whose reading is
    not known gets a form that reads right either way: Nabi은(는), Nabi(으)로, Nabi이에요; `has_reading` tells.
    Raises KelronError for an unknown pair.
    """
    if pair not in PAIRS:
        raise KelronError(f"unknown josa pair {pair!r}: use one of {' '.join(sorted(PAIRS))}")
    after_consonant, after_vowel = pair.split("/")
    reading = _reading(name.rstrip(_CLOSERS), pronunciation or {})
    if reading is None:
        return name + _both(pair)
    final = (ord(reading[-1]) - ord("가")) % 28
    if final == 0 or (final == _RIEUL and after_consonant.startswith("으로")):
        return name + after_vowel
    return name + after_consonant
