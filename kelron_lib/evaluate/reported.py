"""Words that an answer reports and does not say itself: quoted questions, other people's claims."""

from __future__ import annotations

import regex

from kelron_lib.evaluate.names import ANY_TOKEN
from kelron_lib.evaluate.rules import FLAGS

_BLANK = "\u25a1"  # in the place of a name: neither a letter nor a token
_PAIRS = (('"', '"'), ("“", "”"), ("‘", "’"), ("「", "」"), ("『", "』"), ("«", "»"), ("'", "'"))
_QUOTED = "|".join(
    rf"(?<!\w){a}[^{a}\n]{{1,200}}?{b}(?!\w)" if a == b else rf"{a}[^{a}{b}\n]{{1,200}}{b}" for a, b in _PAIRS
)
_TELLING = (
    r"(?:said|says?|saying|asked|asks?|asking|tells?|told|repl(?:y|ies|ied)|wrote|write|writes|claim(?:s|ed)?"
    r"|shout(?:s|ed)?|whisper(?:s|ed)?|answer(?:s|ed)?|announce[sd]?|repeat|type|phrase|words?|question|line|sentence"
    r"|prompt|message|instruction|request)"
)
_BEFORE = regex.compile(
    rf"(?<!\bI\s)(?<!\bI'll\s)(?<!\bI'd\s)\b{_TELLING}(?: (?:me|you|us"
    rf"|him|her|that|to|is|was|:|(?:the|a|an|my) \w+)){{0,2}}\W{{0,3}}$"
    r"|(?:말했|외쳤|물었|대답했|말하길|외치길|적었|썼)[가-힣]{0,4}[\s.,:]{0,3}$|(?:言った|尋ねた|答えた|叫んだ)[。、：:\s]{0,3}$",
    FLAGS,
)
_AFTER = regex.compile(
    rf"^\W{{0,3}}(?:(?:he|she|it|they|you|(?:the|a|an|my) (?:\w+ ){{0,2}}?\w+) )?{_TELLING}\b"
    r"|^\s?[가-힣]+(?:이|가|은|는)\s(?:[가-힣]+\s){0,2}?(?:말했|말하|외쳤|물었|대답했|속삭|중얼|되물|답했)"
    r"|^(?:이?라고|이?라는|이?라며|이?라면서|하고|고)(?!\s*(?:합니다|해요|해[.!\s]|불러|소개))"
    r"|^(?:と|って)(?!(?:申し|言います|いいます|呼|お呼び))|^という(?!名|者|もの)",
    FLAGS,
)
_TOKENS = regex.compile(f"[{ANY_TOKEN}]")
_LETTERS = regex.compile(r"\w")
_MARKS = regex.compile(r"[\"“”‘’「」『』«»']")


def without_reports(masked: str) -> str:
    """The masked text, the names inside reported quotations blanked; a name alone in quotation marks stays."""
    if not _MARKS.search(masked):
        return masked

    def blank(match: regex.Match[str]) -> str:
        inside = match.group()
        if not _TOKENS.search(inside) or len(_LETTERS.findall(inside)) < 2:
            return str(inside)
        before, after = masked[max(0, match.start() - 60) : match.start()], masked[match.end() : match.end() + 60]
        if _BEFORE.search(before) or _AFTER.search(after):
            return str(_TOKENS.sub(_BLANK, inside))
        return str(inside)

    return str(regex.sub(_QUOTED, blank, masked))
