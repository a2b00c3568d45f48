"""Texts that repeat themselves: one rule for the rows of the dataset and for answers.

Thresholds and what they were measured on stand beside them.
"""

from __future__ import annotations

import math
import zlib
from collections import Counter
from itertools import pairwise

import regex

MAX_PERIOD = 60
"""Longest unit of a loop, in characters."""
MIN_REPEATS = 4
"""A tail that says the same four times is a loop; a refrain or a list rarely does it three times."""
REP_8 = 0.5
"""Least share of repeated character 8-grams (a legitimate eight-item list reaches 0.49)."""
ZLIB_RATIO = 5.0
"""Least compression ratio beside REP_8 (that list reaches 4.5, a short loop 10.9)."""
LONG_PERIOD = 400
"""Longest unit, in characters, of a tail that says the same LONG_REPEATS times: whole paragraphs."""
LONG_REPEATS = 3
WELL_INTO = 3.25
"""Least times that a unit stands in a tail which breaks off in the next one: a refrain ends with itself."""
TRAILING = 12
"""Shortest such unit, in characters."""
COUNTED_REPEATS = 5
"""Units alike but for one number ("1. Check 2. Check"): a list of four may be meant so."""
COUNTED_WEIGHT = 16
"""Least weight of such a unit without a list's number: "Room 1, Room 2" and "1月、2月" are enumerations."""
SAID_AGAIN = {16: 0.5, 8: 0.75}
"""Share of a text, in characters, by the least weight of a sentence that it says at least MIN_REPEATS times: a song's
refrain is less, and short sentences ("Done.") come back by chance."""

_LAUGHTER = frozenset("ㅋㅎㅠㅜㄱㄷㅇwWｗhHaAeEoO笑草하호히헤흐크키ハヒフヘホはひふへほあえーー")
_RULES = frozenset("-=_.*~─━—–|+:# \t\n·…・、。")
_SQUEEZE = regex.compile(r"[\s|:+─━=_~*·.-]{2,}")
_LAUGH_RUN = regex.compile(r"([ㅋㅎㅠㅜwｗ笑草]|하|ハ|は|ha|ㄱ)\1{2,}", regex.IGNORECASE)
_CIRCLED = frozenset("①②③④⑤⑥⑦⑧⑨⑩⑪⑫⑬⑭⑮⑯⑰⑱⑲⑳")
_NUMBER = regex.compile(r"\d+(?:[.,]\d+)*|[①-⑳]|[一二三四五六七八九十]+(?=[月日年章回番号件条週])")
_LIST_MARK = regex.compile(r"[.):：、）](?!\d)|[ \t][^\n]*\n\Z")
_BLANK = regex.compile(r"_{2,}|[:：]\s*\Z|[:：]\s*\n")  # a form to fill in
_SPEAKER = regex.compile(r"\A\w{1,12}[:：]\s*")
_SENTENCE = regex.compile(r"[^\n.!?。！？]+[.!?。！？]*")


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
    return _breaks_off(text)


def _breaks_off(text: str) -> int:
    """Length of the tail that repeats a unit of TRAILING to MAX_PERIOD characters WELL_INTO times, or 0."""
    size = len(text)
    for period in range(TRAILING, min(MAX_PERIOD, int(size / WELL_INTO)) + 1):
        length = math.ceil(WELL_INTO * period)
        same = text[-1] == text[-1 - period] and text[size - length + period :] == text[size - length : size - period]
        if same and _weight(text[-period:]) >= TRAILING:
            return length
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


def _loop_over_the_middle(text: str) -> tuple[int, int] | None:
    """(start, end) of a loop that makes up at least half of a text, so that it lies over its middle."""
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
            return start, start + length
    return None


def _repeated_cells(text: str, start: int) -> bool:
    """Whether a tail is cells of a table's row that are alike, and no more of them than an earlier row has."""
    line = text.rfind("\n", 0, start + 1) + 1
    row = text[line:]
    if not line or "\n" in row.strip() or not row.lstrip().startswith("|"):
        return False
    return row.count("|") <= max(earlier.count("|") for earlier in text[:line].splitlines())


def _long_tail(text: str) -> int:
    """Length of the tail that repeats one unit of more than MAX_PERIOD characters LONG_REPEATS times, or 0."""
    size = len(text)
    for period in range(MAX_PERIOD + 1, min(LONG_PERIOD, size // LONG_REPEATS) + 1):
        if text[-1] != text[-1 - period] or text[size - period : size] != text[size - 2 * period : size - period]:
            continue
        start = size - 2 * period
        while start > 0 and text[start - 1] == text[start - 1 + period]:
            start -= 1
        if size - start >= LONG_REPEATS * period and any(char.isalpha() for char in text[-period:]):
            return size - start
    return 0


def _weight(text: str) -> int:
    """Letters of a text; those of Hangul, Kana and Han count twice, since a word has half as many."""
    return sum(2 if char >= "\u1100" else 1 for char in text if char.isalpha())


def _counted(text: str) -> tuple[int, int] | None:
    """Where units that are alike but for one number repeat, as (start, end)."""
    numbers = list(_NUMBER.finditer(text))
    if len(numbers) < COUNTED_REPEATS:
        return None
    gaps = [text[a.end() : b.start()] for a, b in pairwise(numbers)]
    first = 0  # a chain of equal gaps between numbers
    for index in range(1, len(gaps) + 1):
        if index < len(gaps) and gaps[index] == gaps[first]:
            continue
        repeats, gap = index - first + 1, gaps[first]
        # The last unit ends the text, or goes on as the gap does, as far as it does.
        end = numbers[index].end() + _common(text, numbers[index].end(), gap)
        start = numbers[first].start()
        loops = _is_counted_loop(gap, repeats, bulleted=text[start] in _CIRCLED)
        if loops and (end == len(text) or 2 * (end - start) >= len(text)):
            return start, end
        first = index
    return None


def _common(text: str, at: int, gap: str) -> int:
    length = 0
    while length < len(gap) and at + length < len(text) and text[at + length] == gap[length]:
        length += 1
    return length


def _is_counted_loop(gap: str, repeats: int, *, bulleted: bool) -> bool:
    weight = _weight(gap)
    if (bulleted or _LIST_MARK.match(gap)) and not _BLANK.search(gap):
        return weight >= 3 and repeats >= (COUNTED_REPEATS if weight >= 8 else COUNTED_REPEATS + 1)
    return weight >= COUNTED_WEIGHT and repeats >= COUNTED_REPEATS


def _said_again(text: str) -> tuple[int, int] | None:
    """Where sentences that a text says again and again make up SAID_AGAIN of it, numbers aside."""
    parts = [
        (m.start(), m.end(), _NUMBER.sub("0", _SPEAKER.sub("", m[0].strip()), count=1))
        for m in _SENTENCE.finditer(text)
    ]
    if len(parts) < MIN_REPEATS:
        return None
    often = {part: _weight(part) for part, times in Counter(part for *_, part in parts).items() if times >= MIN_REPEATS}
    for least, share in SAID_AGAIN.items():
        places = [(start, end) for start, end, part in parts if often.get(part, 0) >= least]
        if places and sum(end - start for start, end in places) >= share * len(text):
            return places[0][0], places[-1][1]
    return None


def loop_span(text: str) -> tuple[int, int] | None:
    """Where an answer loops, as (start, end); None where it does not."""
    body = text.rstrip().rstrip("\ufffd")  # a loop cut by the length limit may end inside a character
    if len(body) < 8:
        return None
    tail = _periodic_tail(body) or _cut_short(body)
    if tail and not _repeated_cells(body, len(body) - tail):
        return len(body) - tail, len(body)
    if text[-1].isspace() and (tail := _periodic_tail(body + text[-1])):  # the unit ends with the line
        return len(body) + 1 - tail, len(body)
    if tail := _long_tail(body):
        return len(body) - tail, len(body)
    if found := _counted(body) or _said_again(body):
        return found
    squeezed = _LAUGH_RUN.sub(r"\1\1", _SQUEEZE.sub(" ", body))
    if len(squeezed) < 40 or _rep_8(squeezed) < REP_8:
        return None
    if (found := _loop_over_the_middle(body)) is not None:  # it found its way out, late
        return found
    data = squeezed.encode("utf-8", "surrogatepass")
    return (0, len(body)) if len(data) / len(zlib.compress(data, 9)) >= ZLIB_RATIO else None


def loop_start(text: str) -> int | None:
    """Where the loop of an answer begins, as an index; None where it does not loop."""
    found = loop_span(text)
    return None if found is None else found[0]


def loop(text: str) -> bool:
    """The answer repeats itself: a periodic tail, units alike but for one number, mostly sentences said again, or
    most of its 8-grams again and either one long loop or well compressible.
    """
    return loop_span(text) is not None
