"""Characters that a text in a language must not have: one rule for the rows of the dataset and for answers.

Pure functions over text. `prompt` is what the user wrote: what it holds or asks for is no fault of the answer.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import regex

from kelron_lib.errors import KelronError

# --- Scripts ----------------------------------------------------------------------------------------------
_KANA = r"\p{Katakana}\p{Hiragana}\u30fc\uff70"  # Unicode gives the long mark to no one script
_SCRIPTS = {"ko": r"\p{Hangul}", "ja": rf"\p{{Han}}{_KANA}\u3006", "en": ""}
_ALWAYS = r"\p{Latin}\p{Common}\p{Inherited}"
# One Greek letter alone is a symbol ("5 μm", "α", "3σ") in any language.
_GREEK = regex.compile(r"(?<!\p{Greek})\p{Greek}(?!\p{Greek})")
_REQUESTS = (
    (r"korean|hangul|한국어|한글|韓国語|ハングル", r"\p{Hangul}"),
    (r"japanese|kana\b|일본어|일어|히라가나|가타카나|日本語|和訳|ひらがな|カタカナ", rf"\p{{Han}}{_KANA}"),
    (r"chinese|kanji|hanja|mandarin|중국어|한자|中国語|漢字", r"\p{Han}"),
    (r"russian|ukrainian|cyrillic|러시아어|ロシア語", r"\p{Cyrillic}"),
    (r"greek|그리스|ギリシャ", r"\p{Greek}"),
    (r"arabic|아랍어|アラビア語", r"\p{Arabic}"),
    (r"thai\b|태국어|タイ語", r"\p{Thai}"),
    (r"hindi|힌디어|ヒンディー語", r"\p{Devanagari}"),
    (r"hebrew|히브리어|ヘブライ語", r"\p{Hebrew}"),
)


@lru_cache(maxsize=64)
def _foreign(language: str, requested: str) -> Any:
    kana = "" if _KANA in _SCRIPTS[language] + requested else "|[\u30fc\uff70]"  # "Common", but Japanese
    return regex.compile(rf"[\p{{L}}--[{_ALWAYS}{_SCRIPTS[language]}{requested}]]{kana}", regex.VERSION1)


_REQUEST_PATTERNS = tuple((regex.compile(words, regex.IGNORECASE), scripts) for words, scripts in _REQUESTS)


@lru_cache(maxsize=4096)
def _requested(prompt: str) -> str:
    """The scripts that a prompt asks for by naming a language or a script."""
    return "".join(scripts for words, scripts in _REQUEST_PATTERNS if words.search(prompt))


def foreign_letters(text: str, language: str, prompt: str = "") -> list[int]:
    """Indices of the letters outside the language's scripts that the prompt neither holds nor asks for.

    ko: Hangul and Latin. en: Latin. ja: Han, Kana and Latin. Raises KelronError for another language.
    """
    if language not in _SCRIPTS:
        raise KelronError(f"language {language!r} has no scripts to check: use {', '.join(_SCRIPTS)}")
    if text.isascii():
        return []
    found = [m.start() for m in _foreign(language, _requested(prompt)).finditer(text) if m.group() not in prompt]
    if found:
        symbols = {m.start() for m in _GREEK.finditer(text)}
        found = [index for index in found if index not in symbols]
    return found


def wrong_script(text: str, language: str, prompt: str = "") -> bool:
    """The answer has letters of a script that its language is not written in."""
    return bool(foreign_letters(text, language, prompt))


# --- Broken characters ------------------------------------------------------------------------------------
# Unassigned code points in the emoji blocks may be newer than this Unicode version.
_BROKEN = regex.compile(
    r"[\ufffd\p{Co}\p{Cs}\x00-\x08\x0b\x0e-\x1f\x7f-\x9f]|[\p{Cn}--[\U0001f000-\U0001faff]]", regex.VERSION1
)
# Hangul outside KS X 1001 that people do type: slang, names, dialect and the commonest misspellings.
_TYPED_HANGUL = frozenset("됬떄뙇뜌뷁햏햑똠펲앜윾욬갘숔웈캌팤됔읭잌넼쨰쌰썌쪙챱췤묭읎괞믜뮹슌찦뽝왤즤쨕뾱떙헿뭥")


@lru_cache(maxsize=1)
def _rare_hangul() -> frozenset[str]:
    """Syllables that Korean does not use: outside the 2,350 of KS X 1001. A garbled decoder shows them ("붒")."""
    syllables = (chr(code) for code in range(0xAC00, 0xD7A4))
    # Python's euc_kr writes the others as four composed jamo, eight bytes.
    return frozenset(char for char in syllables if len(char.encode("euc_kr")) != 2) - _TYPED_HANGUL


def broken_letters(text: str, prompt: str = "") -> list[int]:
    """Indices of broken characters: U+FFFD, unassigned, private use, surrogates, controls, unused Hangul."""
    if text.isascii() and text.isprintable():
        return []
    found = [m.start() for m in _BROKEN.finditer(text)]
    rare = _rare_hangul()
    found += [i for i, char in enumerate(text) if char in rare and char not in prompt]
    return sorted(found)


def broken_chars(text: str, prompt: str = "") -> bool:
    """The answer has characters that no one writes. Emoji, symbols and line breaks are fine."""
    return bool(broken_letters(text, prompt))
