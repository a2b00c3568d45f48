"""Where an answer is garbled: broken characters, and what only several characters together show.

Text read in the wrong encoding, Korean taken apart into its letters, invisible characters within words. For answers
alone: rows of a dataset are held to `characters.broken_letters`, which judges each character by itself.
"""

from __future__ import annotations

import regex

from kelron_lib.characters import broken_letters

Span = tuple[int, int]

# --- Text in UTF-8 that was read as something else --------------------------------------------------------
_HIGH = "€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ"  # what Windows-1252 makes of bytes 80 to 9F
_PUNCTUATION = "‘’“”–—…›»"  # these may well follow a letter: "café”—"
_NEXT = rf"[\x80-\xbf{_HIGH}]"
_ODD = rf"[[\x80-\xbf{_HIGH}]--[{_PUNCTUATION}\xa0]]"
_MOJIBAKE = regex.compile(
    rf"[ÂÃ]{_ODD}|Ã\xa0|Â\xa0|(?<=\d)Â(?=\s)"  # é, à, a no-break space, °
    rf"|â€{_NEXT}?|ðŸ{_NEXT}*"  # quotes and dashes; emoji
    rf"|[à-ï]{_ODD}{{2}}|(?:[à-ï]{_ODD}){{2,}}"  # letters of three bytes; of two, where a byte shows as nothing
    rf"|(?:[à-ï]{_NEXT}{{2}}){{2,}}|(?:[Î-Ñ]{_NEXT}){{3,}}"  # several; Greek or Cyrillic
    r"|(?<![\xa1-\xfe])(?=[\xc0-\xfe]*+[\xa1-\xbf][\xc0-\xfe]*+[\xa1-\xbf])(?=(?:[\xa1-\xbf]*+[\xc0-\xfe]){3})"
    r"[\xa1-\xfe]{6,}+"  # EUC-KR as Latin-1
    r"|(?:[縺繧繝][^\s]?){2,}|[縺繧繝][^\s]{1,4}[縺繧繝]|锟斤拷|ï»¿",  # as Shift JIS, as GBK; a byte order mark
    regex.VERSION1,
)
# --- Tokens that were not decoded -------------------------------------------------------------------------
_TOKENS = regex.compile(
    r"(?<=[^\s\p{Lu}\p{P}])[ĠĊĉ]+(?=\S)|(?<=[\p{L}\p{P}])▁(?=\p{L})|(?:<0x[0-9A-Fa-f]{2}>)+"  # bytes as letters
)
_ESCAPES = regex.compile(r"(?:\\u[0-9A-Fa-f]{4}){2,}")
_ESCAPES_ASKED = regex.compile(
    r"json|unicode|escape|code|유니코드|이스케이프|코드|ユニコード|エスケープ|コード", regex.IGNORECASE
)
# --- Hangul in pieces -------------------------------------------------------------------------------------
_CHAT = "ㅋㅎㅠㅜㅡ"  # laughter and tears go anywhere
_JAMO = regex.compile(
    rf"[\u1100-\u11ff\ua960-\ua97f\ud7b0-\ud7ff]+"
    rf"|[ㄱ-ㅎ]+[[ㅏ-ㅣ]--[{_CHAT}]][ㄱ-ㅣ]*"  # a consonant and a vowel that make a syllable
    rf"|(?<=[가-힣])[[ㄱ-ㅣ]--[{_CHAT}]]+(?=[가-힣])",
    regex.VERSION1,
)
_LETTERS_ARE_THE_TOPIC = regex.compile(
    r"자음|모음|자모|받침|초성|중성|종성|철자|낱자|jamo|hangul|consonant|vowel|ハングル|母音|子音", regex.IGNORECASE
)
# --- Invisible --------------------------------------------------------------------------------------------
_INVISIBLE = regex.compile(
    r"(?<=[\p{L}\p{N}])[\u200b-\u200f\u2060\u00ad\u180e]+(?=[\p{L}\p{N}])|(?<!^)\ufeff|[\u202a-\u202e\u2066-\u2069]"
    r"|[\ufff9-\ufffc]|(?<![\p{Hiragana}\p{Katakana}])[\u3099\u309a]|\p{Mn}{3,}"
)


def broken_spans(text: str, prompt: str = "") -> list[Span]:
    """(start, end) of each garbled part of an answer, sorted; empty where none is. `prompt`: what it may quote."""
    found = [(i, i + 1) for i in broken_letters(text, prompt)]
    patterns = [_TOKENS] if text.isascii() else [_TOKENS, _MOJIBAKE, _INVISIBLE]
    if not _ESCAPES_ASKED.search(prompt):
        patterns.append(_ESCAPES)
    if not text.isascii() and not (_LETTERS_ARE_THE_TOPIC.search(prompt) or _LETTERS_ARE_THE_TOPIC.search(text)):
        patterns.append(_JAMO)
    for pattern in patterns:
        found += [m.span() for m in pattern.finditer(text) if m[0] not in prompt]
    return sorted(found)


def broken_chars(text: str, prompt: str = "") -> bool:
    """The answer has characters that no one writes. Emoji, symbols and line breaks are fine."""
    return bool(broken_spans(text, prompt))
