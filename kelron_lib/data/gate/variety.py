"""How much variety the rows have: effective rows and distinct n-grams, by language and by intent."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import regex

from kelron_lib.data.gate.checks import ERROR, WARNING, Finding, finding
from kelron_lib.data.gate.counts import SCALE
from kelron_lib.data.gate.sample import Kept
from kelron_lib.data.gate.similar import THRESHOLD, ngram_codes, similar_to_earlier

LEAST_EFFECTIVE, POOR_EFFECTIVE = 0.05, 0.15
"""Effective rows over rows: below the first an error, below the second a warning. The first attempt had 0.0009; a slot
grammar without constraints kept 0.17 of its unique strings (and made nonsense)."""
MOST_INTENTS = 300
"""Intents that are listed for a language; a foreign file may have one for every row."""
_ORDERS = (1, 2, 3)
# Japanese has no spaces: a run of one script is a rough word.
_WORDS = regex.compile(r"[\p{Han}々]+|\p{Hiragana}+|[\p{Katakana}ー]+|[\p{L}\p{M}\p{N}]+")
_AT_ONCE = 4_000_000


class _Distinct:
    """Counts n-grams of texts, all and different ones, a few million at a time."""

    def __init__(self) -> None:
        self.total = dict.fromkeys(_ORDERS, 0)
        self._waiting: dict[int, list[Any]] = {order: [] for order in _ORDERS}
        self._held = dict.fromkeys(_ORDERS, 0)

    def add(self, order: int, codes: Any) -> None:
        self.total[order] += len(codes)
        self._waiting[order].append(codes)
        self._held[order] += len(codes)
        if self._held[order] > _AT_ONCE:
            self._merge(order)
            self._held[order] = 0

    def _merge(self, order: int) -> None:
        import numpy as np

        if len(self._waiting[order]) > 1:
            self._waiting[order] = [np.unique(np.concatenate(self._waiting[order]))]

    def shares(self) -> list[float]:
        """Different n-grams over all, for n = 1, 2, 3; 0.0 where there are none."""
        import numpy as np

        shares = []
        for order in _ORDERS:
            different = len(np.unique(np.concatenate(self._waiting[order]))) if self._waiting[order] else 0
            shares.append(round(different / self.total[order], 4) if self.total[order] else 0.0)
        return shares


class _Words:
    """Word n-grams as int64: every word gets a number of 21 bits, so a vocabulary of two million is told apart."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def codes(self, text: str) -> dict[int, Any]:
        import numpy as np

        known = self._numbers
        numbers = [known.setdefault(word, len(known)) for word in _WORDS.findall(text.lower())]
        ids = np.array(numbers, dtype=np.int64) & 0x1FFFFF
        found = {}
        for order in _ORDERS:
            count = max(0, len(ids) - order + 1)
            codes = np.zeros(count, dtype=np.int64)
            for place in range(order):
                codes = (codes << 21) | ids[place : place + count]
            found[order] = codes
        return found


def distinct(answers: Iterable[tuple[str, str]]) -> dict[str, dict[str, list[float]]]:
    """Distinct-1, -2 and -3 of characters and of words for every group of (group, text), groups in order of coming.

    Words are runs of letters; in Japanese, runs of one script.
    """
    groups: dict[str, tuple[_Distinct, _Distinct]] = {}
    words = _Words()
    for group, text in answers:
        of_characters, of_words = groups.setdefault(group, (_Distinct(), _Distinct()))
        for order in _ORDERS:
            of_characters.add(order, ngram_codes(text, order))
        for order, codes in words.codes(text).items():
            of_words.add(order, codes)
    return {group: {"characters": pair[0].shares(), "words": pair[1].shares()} for group, pair in groups.items()}


def _similar(rows: Sequence[Kept]) -> list[int | None]:
    """For each row the index of the row that it is similar to, within its language; None where it counts."""
    by_language: dict[str, list[int]] = {}
    for index, kept in enumerate(rows):
        by_language.setdefault(kept.language, []).append(index)
    result: list[int | None] = [None] * len(rows)
    for places in by_language.values():
        found = similar_to_earlier([rows[place].text for place in places])
        for place, earlier in zip(places, found, strict=True):
            result[place] = None if earlier is None else places[earlier]
    return result


def _intents(rows: Sequence[Kept], similar: Sequence[int | None], language: str) -> dict[str, Any]:
    counts: dict[str, list[Any]] = {}
    for kept, earlier in zip(rows, similar, strict=True):
        if kept.language == language:
            entry = counts.setdefault(kept.intent or "(none)", [0, 0, set(), set()])
            entry[0] += 1
            entry[1] += earlier is None
            entry[2].update(kept.said)
            entry[3].add((kept.asked, kept.said))
    listed = sorted(counts, key=lambda intent: (-counts[intent][0], intent))[:MOST_INTENTS]
    told = distinct(
        (intent, text) for kept in rows if kept.language == language and (intent := kept.intent or "(none)") in listed
        for text in kept.said
    )  # fmt: skip
    return {
        intent: {"rows": counts[intent][0], "unique_rows": len(counts[intent][3]),
                 "effective_rows": counts[intent][1], "unique_answers": len(counts[intent][2]),
                 "distinct": told.get(intent, {})}
        for intent in sorted(listed)
    }  # fmt: skip


def measure(rows: Sequence[Kept]) -> tuple[dict[str, Any], list[Finding]]:
    """effective_rows (by language and in all), distinct by language and by_intent of the rows, and what is wrong.

    effective_rows: rows that are not similar (Jaccard of character 3-grams >= 0.5) to an earlier row of their language
    that counts.
    """
    similar = _similar(rows)
    languages = sorted({kept.language for kept in rows})
    effective = {
        language: sum(earlier is None for kept, earlier in zip(rows, similar, strict=True) if kept.language == language)
        for language in languages
    }
    measured = {
        "effective_rows": sum(effective.values()),
        "effective_by_language": effective,
        "near_duplicate_share": round(1 - sum(effective.values()) / len(rows), 4) if rows else 0.0,
        "distinct": distinct((kept.language, text) for kept in rows for text in kept.said),
        "by_intent": {language: _intents(rows, similar, language) for language in languages},
    }
    return measured, _findings(rows, similar, sum(effective.values()))


def _findings(rows: Sequence[Kept], similar: Sequence[int | None], effective: int) -> list[Finding]:
    if len(rows) < SCALE or effective >= POOR_EFFECTIVE * len(rows):
        return []
    severity = ERROR if effective < LEAST_EFFECTIVE * len(rows) else WARNING
    named = [kept.name for kept, earlier in zip(rows, similar, strict=True) if earlier is not None]
    fix = (
        f"only {effective:,} of {len(rows):,} rows are unlike the rows before them (character 3-grams, Jaccard below "
        f"{THRESHOLD}): vary wording and structure, not single words"
    )
    return [finding("near_duplicates", named, fix, severity)]
