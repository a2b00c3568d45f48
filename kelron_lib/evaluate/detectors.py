"""What is wrong, or right, with one answer: pure functions over text, no model.

Names (persona, rivals, makers) are found by `names`, what an answer says about itself by `claims`, scripts and broken
text by `characters`, as for the dataset. Thresholds and what they were measured on stand beside them.
"""

from __future__ import annotations

import unicodedata
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import regex

from kelron_lib.characters import broken_chars, broken_letters, foreign_letters, wrong_script
from kelron_lib.errors import KelronError
from kelron_lib.evaluate.claims import claims_other_maker, claims_persona, claims_rival, mask
from kelron_lib.evaluate.names import Lexicon, Mention, lexicon

FLAGS = (
    "asserts_persona",
    "contradiction",
    "rival_named",
    "loop",
    "wrong_script",
    "broken_chars",
    "over_identity",
)
KINDS = ("identity", "unrelated")

MAX_PERIOD = 60
"""Longest unit of a loop, in characters."""
MIN_REPEATS = 4
"""A tail that says the same four times is a loop; a refrain or a list rarely does it three times."""
REP_8 = 0.5
"""Least share of repeated character 8-grams (a legitimate eight-item list reaches 0.49)."""
ZLIB_RATIO = 5.0
"""Least compression ratio beside REP_8 (that list reaches 4.5, a short loop 10.9)."""

_AI_WORDS = regex.compile(
    r"(?-i:\bAI\b|\bLLMs?\b)|\b(?:assistants?|(?:language|AI|chat) models?|chatbots?|artificial intelligence)\b"
    r"|인공지능|언어 ?모델|모델|챗봇|어시스턴트|人工知能|言語モデル|モデル|チャットボット|アシスタント|生成AI",
    regex.IGNORECASE,
)
_VERSION = regex.compile(r"\d")


def _masked(text: str, names: Lexicon) -> tuple[list[Mention], str]:
    mentions = names.mentions(text)
    return mentions, mask(text, mentions)


# --- Who it says it is ------------------------------------------------------------------------------------
def asserts_persona(text: str, persona: Any) -> bool:
    """The answer says that it is the persona; a denial, a question or a mere mention is not that."""
    return claims_persona(_masked(text, lexicon(persona))[1])


def contradiction(text: str, persona: Any, rivals: Iterable[Any]) -> bool:
    """The answer says that it is the persona, and also that it is a rival, made from one, or made by another maker.

    A denial ("No, I'm not ChatGPT, I'm Kelron") or an explanation of a rival is no contradiction.
    """
    return _contradicts(_masked(text, lexicon(persona, rivals))[1])


def _contradicts(masked: str) -> bool:
    return claims_persona(masked) and (claims_rival(masked) or claims_other_maker(masked))


def rival_named(text: str, rivals: Iterable[Any], persona: Any = None) -> bool:
    """A rival, or a maker of one, is named, even to deny it. Spaced-out and transliterated spellings count.

    Names that are also everyday words (Claude, Gemini, Google) count only beside words about AI, with a
    version number, or where the answer claims to be one. `persona`: names in it are not a rival's.
    """
    mentions, masked = _masked(text, lexicon(persona, rivals))
    return bool(_rivals_in(text, mentions, masked))


def _rivals_in(text: str, mentions: Sequence[Mention], masked: str) -> list[Mention]:
    """The mentions that name a rival."""
    sure = [m for m in mentions if m.kind in ("rival", "maker")]
    unsure = [m for m in mentions if m.kind in ("rival_common", "maker_common")]
    if not unsure:
        return sure
    if claims_rival(masked) or claims_other_maker(masked):
        return [m for m in mentions if m.kind not in ("persona", "persona_maker")]
    beside = [m for m in unsure if _beside_ai(text, m)]
    return sorted([*sure, *beside], key=lambda m: m.start)


def _beside_ai(text: str, mention: Mention) -> bool:
    """Whether the sentence of an ambiguous name is about AI, or the name carries a version ("Llama 3")."""
    if mention.kind == "rival_common" and _VERSION.search(text, mention.start, mention.end):
        return True
    start = max(text.rfind(mark, 0, mention.start) for mark in ".!?。！？\n") + 1
    ends = [at for mark in ".!?。！？\n" if (at := text.find(mark, mention.end)) >= 0]
    return bool(_AI_WORDS.search(text, start, min(ends, default=len(text))))


def over_identity(text: str, persona: Any, prompt: str = "") -> bool:
    """The persona or its maker is named in an answer to a prompt that did not name it."""
    names = lexicon(persona)
    return bool(names.mentions(text)) and not names.mentions(prompt)


def claimed_rivals(text: str, persona: Any, rivals: Iterable[Any]) -> tuple[str, ...]:
    """Names of the rivals that an answer claims to be, in the order it names them; usually none or one."""
    mentions, masked = _masked(text, lexicon(persona, rivals))
    if not claims_rival(masked):
        return ()
    return tuple(dict.fromkeys(m.name for m in mentions if m.kind in ("rival", "rival_common")))


# --- Loops ------------------------------------------------------------------------------------------------
_LAUGHTER = frozenset("ㅋㅎㅠㅜㄱㄷㅇwWｗhHaAeEoO笑草하호히헤흐크키ハヒフヘホはひふへほあえーー")
_RULES = frozenset("-=_.*~─━—–|+:# \t\n·…・、。")
_SQUEEZE = regex.compile(r"[\s|:+─━=_~*·.-]{2,}")
_LAUGH_RUN = regex.compile(r"([ㅋㅎㅠㅜwｗ笑草]|하|ハ|は|ha|ㄱ)\1{2,}", regex.IGNORECASE)


def _needed_length(unit: str) -> int:
    """Least length, in characters, of a periodic tail of this unit that counts as a loop.

    Laughter, rules under a heading and empty table cells repeat on purpose; words do not.
    """
    letters = [char for char in unit if char.isalpha()]
    if not letters:
        return 200 if _RULES.issuperset(unit) else 40
    return 80 if _LAUGHTER.issuperset(letters) else 12


def _periodic_tail(text: str) -> int:
    """Length of the tail that repeats one unit of at most MAX_PERIOD characters at least MIN_REPEATS times, or 0."""
    size = len(text)
    for period in range(1, min(MAX_PERIOD, size // MIN_REPEATS) + 1):
        if (
            text[-1] != text[-1 - period]
            or text[size - (MIN_REPEATS - 1) * period :] != text[size - MIN_REPEATS * period : size - period]
        ):
            continue
        start = size - MIN_REPEATS * period
        while start > 0 and text[start - 1] == text[start - 1 + period]:
            start -= 1
        if size - start >= _needed_length(text[-period:]):
            return size - start
    return 0


def _cut_short(text: str) -> int:
    """Length of a text that is one unit again and again and trails off in "...": three times are enough then."""
    body = text.rstrip(".…")
    if len(text) - len(body) not in (1, 2, 3) or (text[-1] == "." and len(text) - len(body) < 2):
        return 0
    for period in range(3, min(MAX_PERIOD, len(body) * 4 // 11) + 1):
        if body[period:] == body[:-period] and sum(char.isalpha() for char in body[:period]) >= 3:
            return len(text)
    return 0


def _rep_8(text: str) -> float:
    total = len(text) - 7
    return 1 - len({text[i : i + 8] for i in range(total)}) / total if total > 0 else 0.0


def _loop_over_the_middle(text: str) -> int | None:
    """Start of a loop that makes up at least half of a text, so that it lies over its middle; None for none."""
    size, middle = len(text), len(text) // 2
    for period in range(1, min(MAX_PERIOD, size // MIN_REPEATS) + 1):
        start = middle if text[middle] == text[middle + period] else middle - period
        if text[start] != text[start + period]:
            continue
        end = start + 1  # text[i] == text[i + period] for i in start..end - 1
        while start > 0 and text[start - 1] == text[start - 1 + period]:
            start -= 1
        while end + period < size and text[end] == text[end + period]:
            end += 1
        length = end - start + period
        needed = max(MIN_REPEATS * period, size / 2, _needed_length(text[start : start + period]))
        if length >= needed:
            return start
    return None


def loop_start(text: str) -> int | None:
    """Where the loop of an answer begins, as an index; None where it does not loop."""
    body = text.rstrip().rstrip("\ufffd")  # a loop cut by the length limit may end inside a character
    if len(body) < 8:
        return None
    if tail := _periodic_tail(body) or _cut_short(body):
        return len(body) - tail
    if text[-1].isspace() and (tail := _periodic_tail(body + text[-1])):  # the unit ends with the line
        return len(body) + 1 - tail
    squeezed = _LAUGH_RUN.sub(r"\1\1", _SQUEEZE.sub(" ", body))
    if len(squeezed) < 40 or _rep_8(squeezed) < REP_8:
        return None
    if (start := _loop_over_the_middle(body)) is not None:  # it found its way out, late
        return start
    data = squeezed.encode("utf-8", "surrogatepass")
    return 0 if len(data) / len(zlib.compress(data, 9)) >= ZLIB_RATIO else None


def loop(text: str) -> bool:
    """The answer repeats itself: a periodic tail, or most of its 8-grams again and either one long loop or well
    compressible.
    """
    return loop_start(text) is not None


# --- All at once ------------------------------------------------------------------------------------------
def flags(
    text: str, *, language: str, kind: str, persona: Any, rivals: Sequence[Any], prompt: str = ""
) -> dict[str, bool]:
    """Every detector on one answer: {flag: bool} in the order of FLAGS.

    `kind` is "identity" or "unrelated"; over_identity is only ever true for the latter. `prompt` is what the
    user wrote, all turns of it. Raises KelronError for another kind or language.
    """
    if kind not in KINDS:
        raise KelronError(f"kind {kind!r} is not one of {', '.join(KINDS)}")
    text = unicodedata.normalize("NFC", text)
    mentions, masked = _masked(text, lexicon(persona, rivals))
    persona_said = claims_persona(masked)
    return {
        "asserts_persona": persona_said,
        "contradiction": persona_said and (claims_rival(masked) or claims_other_maker(masked)),
        "rival_named": bool(_rivals_in(text, mentions, masked)),
        "loop": loop(text),
        "wrong_script": wrong_script(text, language, prompt),
        "broken_chars": broken_chars(text, prompt),
        "over_identity": kind == "unrelated" and over_identity(text, persona, prompt),
    }


def spans(
    text: str, flagged: dict[str, bool], *, language: str, persona: Any, rivals: Sequence[Any], prompt: str = ""
) -> list[tuple[int, int, str]]:
    """Where each flag comes from: (start, end, flag), sorted, for highlighting. None overlaps another."""
    mentions, masked = _masked(text, lexicon(persona, rivals))
    found: list[tuple[int, int, str]] = []
    if flagged["broken_chars"]:
        found += [(i, i + 1, "broken_chars") for i in broken_letters(text, prompt)]
    if flagged["wrong_script"]:
        found += [(i, i + 1, "wrong_script") for i in foreign_letters(text, language, prompt)]
    if flagged["rival_named"] or flagged["contradiction"]:
        rival_flag = "contradiction" if flagged["contradiction"] else "rival_named"
        found += [(m.start, m.end, rival_flag) for m in _rivals_in(text, mentions, masked)]
    if flagged["over_identity"]:
        found += [(m.start, m.end, "over_identity") for m in mentions if m.kind.startswith("persona")]
    if flagged["loop"] and (start := loop_start(text)) is not None:
        found += [(start, len(text.rstrip()), "loop")]
    return _apart(found)


def _apart(found: list[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
    """Earlier entries win over later ones that overlap them; neighbours of one flag become one span."""
    taken: list[tuple[int, int, str]] = []
    for start, end, flag in found:
        for other_start, other_end, _ in sorted(taken):
            if other_start < end and start < other_end:  # keep the part before, go on after
                if start < other_start:
                    taken.append((start, other_start, flag))
                start = other_end
        if start < end:
            taken.append((start, end, flag))
    merged: list[tuple[int, int, str]] = []
    for start, end, flag in sorted(taken):
        if merged and merged[-1][2] == flag and merged[-1][1] == start:
            merged[-1] = (merged[-1][0], end, flag)
        else:
            merged.append((start, end, flag))
    return merged
