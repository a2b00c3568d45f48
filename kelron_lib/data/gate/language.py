"""Which language a text is in, and whether an answer is in another than asked for: by scripts alone.

Languages that share the Latin script are not told apart.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

_HANGUL = re.compile("[가-힣]")
_KANA = re.compile("[ぁ-ゖァ-ヺー]")
_HAN = re.compile("[㐀-䶿一-鿿]")
_LATIN = re.compile("[A-Za-zÀ-ɏ]")
_LATIN_WORD = re.compile("[A-Za-zÀ-ɏ']{2,}")
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]+`|https?://\S+|\S+@\S+|</?[A-Za-z][^<>\n]*>", re.DOTALL)
_ASKS_FOR_ENGLISH = re.compile(
    r"english|translat|in latin|영어|영문|번역|로마자|英語|英文|英訳|翻訳|ローマ字|code|코드|コード"
    r"|sql|python|html|regex|정규식|正規表現|엑셀|excel|수식|数式|json|csv|script|스크립트|スクリプト",
    re.IGNORECASE,
)
_CHINESE = re.compile("[你您吗呢]|我们|我是|我的|的是")
_FEW_WORDS = 6
"""An answer of fewer Latin words may be a title or a term; one of capitalised words may be a list of names."""
_SENTENCE = 12
"""Han letters without any kana from which on a text is no Japanese headline."""


def language_of(text: str) -> str:
    """The language that a text is written in: ko, ja or en; empty where it has no letters of theirs or is Chinese."""
    hangul, kana = len(_HANGUL.findall(text)), len(_KANA.findall(text))
    if hangul or kana:
        return "ko" if hangul >= kana else "ja"
    return "en" if not _HAN.search(text) and _LATIN.search(text) else ""


def find_language(row: Mapping[str, Any]) -> str:
    """The language of a row: its own field, else that of its answers, else that of its questions, else empty."""
    if given := row.get("language"):
        return str(given)
    sides = ("\n".join(str(m.get("content", "")) for m in row["messages"] if m.get("role") == role)
             for role in ("assistant", "user"))  # fmt: skip
    return next((language for side in sides if (language := language_of(side))), "")


@lru_cache(maxsize=16384)
def _in_japanese(char: str) -> bool:
    """Whether Japanese writes a Han letter: those outside JIS X 0208 and its usual extensions are Chinese or rare."""
    try:
        return len(char.encode("cp932")) == 2
    except UnicodeEncodeError:
        return False


def wrong_language(answer: str, language: str, prompt: str = "") -> str:
    """What in an answer shows another language than its own, empty where nothing does.

    ko, ja: sentences in Latin letters alone that the prompt did not ask for; ja: Chinese. `prompt`: what the user
    wrote.
    """
    if language == "ko":
        return "" if _HANGUL.search(answer) else _latin_sentence(answer, prompt)
    if language != "ja":
        return ""
    han = _HAN.findall(answer)
    if not han and not _KANA.search(answer):
        return _latin_sentence(answer, prompt)
    if re.search(r"chinese|중국어|中国語|中文", prompt, re.IGNORECASE):
        return ""
    foreign = [char for char in han if char not in prompt and not _in_japanese(char)]
    if len(foreign) >= 2:
        return "".join(foreign[:8])
    if len(han) >= _SENTENCE and not _KANA.search(answer) and _CHINESE.search(answer):
        return answer[:20]
    return ""


def _latin_sentence(answer: str, prompt: str) -> str:
    words = _LATIN_WORD.findall(_CODE.sub(" ", answer))
    if len(words) < _FEW_WORDS or sum(map(str.islower, words)) < len(words) / 2 or _ASKS_FOR_ENGLISH.search(prompt):
        return ""
    return " ".join(words[:6])
