"""Texts that repeat themselves: one rule for the rows of the dataset and for answers.

Thresholds and what they were measured on stand beside them.
"""

from __future__ import annotations

import zlib

import regex

MAX_PERIOD = 60
"""Longest unit of a loop, in characters."""
MIN_REPEATS = 4
"""A tail that says the same four times is a loop; a refrain or a list rarely does it three times."""
REP_8 = 0.5
"""Least share of repeated character 8-grams (a legitimate eight-item list reaches 0.49)."""
ZLIB_RATIO = 5.0
"""Least compression ratio beside REP_8 (that list reaches 4.5, a short loop 10.9)."""

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
