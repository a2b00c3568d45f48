"""Korean particles that do not fit the sound before them: 켈론는, Kelron를, 켈론이예요, 자료으로.

Of the persona's names every particle is checked, by the way they are read aloud. Of other words only what no Korean
word ends in otherwise: 는 after a consonant is also a verb's ending ("먹는"), 을 after a vowel a noun's ("가을").
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from kelron_lib.persona import Persona, attach_josa, has_reading, load_lexicon

_CLOSERS = "[\"'”’」』)\\]》〉*_`]*"
_RIEUL = 8

# Wrong after a consonant, wrong after ㄹ, wrong after a vowel: each with what it should be.
_AFTER_CONSONANT = {
    "는": "은", "가": "이", "를": "을", "와": "과", "예요": "이에요", "이예요": "이에요", "에요": "이에요",
    "야": "이야", "라고": "이라고", "라는": "이라는", "라": "이라", "란": "이란",
    "나": "이나", "랑": "이랑", "며": "이며",
}  # fmt: skip
_NOT_AFTER_RIEUL = {"로": "으로", "로서": "으로서", "로써": "으로써"}
_AFTER_RIEUL = {wrong: right for right, wrong in _NOT_AFTER_RIEUL.items()}
_AFTER_VOWEL = {
    "은": "는", "이": "가", "을": "를", "과": "와", "이에요": "예요", "이예요": "예요", "에요": "예요",
    "이라고": "라고", "이라는": "라는", "이란": "란", "이랑": "랑", **_AFTER_RIEUL,
}  # fmt: skip

_WORD = re.compile(r"(?<![가-힣])([가-힣]+?)(이예요|으로서|으로써|으로|은|는|을|를|와)(?![가-힣])")
_ALWAYS_WRONG_COPULA = {"것이예요": "것이에요", "거에요": "거예요", "아니예요": "아니에요"}
_ALWAYS_WRONG = re.compile(rf"(?<![가-힣])(?:{'|'.join(_ALWAYS_WRONG_COPULA)})(?![가-힣])")


class WrongJosa(NamedTuple):
    found: str
    """The word with its particle, as written."""
    right: str
    """As it should be."""


def _final(syllable: str) -> int:
    """The final consonant of a Hangul syllable; 0: it ends in a vowel."""
    return (ord(syllable) - ord("가")) % 28


def _wrong_after(name: str, persona: Persona) -> dict[str, str]:
    """The particles that are wrong after a name, by how it is read; none where no reading is known."""
    if not has_reading(name, persona.pronunciation):
        return {}
    topic, way = (attach_josa(name, pair, persona.pronunciation)[len(name) :] for pair in ("은/는", "으로/로"))
    if topic == "는":
        return _AFTER_VOWEL
    return {**_AFTER_CONSONANT, **(_NOT_AFTER_RIEUL if way == "으로" else _AFTER_RIEUL)}


class NameParticles:
    """Wrong particles after the names of one persona and of its maker."""

    def __init__(self, persona: Persona) -> None:
        names = sorted({*persona.spellings, *persona.name.values(), *persona.maker.values()}, key=len, reverse=True)
        self._wrong = {name: wrong for name in names if (wrong := _wrong_after(name, persona))}
        patterns = [
            (r"(?<![A-Za-z0-9])" if name[0].isascii() else r"(?<![가-힣])")
            + f"({re.escape(name)})({_CLOSERS})({'|'.join(sorted(wrong, key=len, reverse=True))})(?![가-힣])"
            for name, wrong in self._wrong.items()
        ]
        self._patterns = [re.compile(pattern) for pattern in patterns]

    def find(self, text: str) -> WrongJosa | None:
        for name, pattern in zip(self._wrong, self._patterns, strict=True):
            if name in text and (match := pattern.search(text)):
                return WrongJosa(match[0], match[1] + match[2] + self._wrong[name][match[3]])
        return None


@lru_cache(maxsize=1)
def _nouns() -> frozenset[str]:
    """Last words of the lexicon's Korean entries, of two syllables or more: known to be nouns."""
    words: Iterable[str] = (entry.split()[-1] for entries in load_lexicon("ko").values() for entry in entries)
    return frozenset(word for word in words if re.fullmatch("[가-힣]{2,}", word))


def _right_of_noun(stem: str, particle: str) -> str:
    """What the particle should be after a Hangul word; empty where it may be right."""
    final = _final(stem[-1])
    if particle == "를":  # but 들르다: "잠시 들를 곳"
        return "을" if final and stem[-1] != "들" else ""
    if particle.startswith("으로"):
        return particle[1:] if final in (0, _RIEUL) else ""
    if stem not in _nouns():
        return ""
    wrong = {"는": "은", "와": "과", "이예요": "이에요"} if final else {"은": "는", "을": "를", "이예요": "예요"}
    return wrong.get(particle, "")


def wrong_noun_particle(text: str) -> WrongJosa | None:
    """A particle after any Hangul word that is surely wrong, or a copula that is always misspelt."""
    for match in _WORD.finditer(text):
        if right := _right_of_noun(match[1], match[2]):
            return WrongJosa(match[0], match[1] + right)
    if always := _ALWAYS_WRONG.search(text):
        return WrongJosa(always[0], _ALWAYS_WRONG_COPULA[always[0]])
    return None
