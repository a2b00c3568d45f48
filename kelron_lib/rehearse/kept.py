"""What is kept of the base's words: whole, in the right language, new, and nothing of what was held out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kelron_lib.data.gate import asks_for_identity, jaccard, row_faults, similar_to_others
from kelron_lib.generate import Answer
from kelron_lib.persona import Persona
from kelron_lib.rehearse.asked import PARAPHRASE, Asked

HELD_OUT_LIKENESS = 0.5
"""A question as similar as this to a held-out one is dropped (Jaccard of character 3-grams)."""
_LIKENESS = 0.25
"""A paraphrase that does not plainly ask for the identity shares so much of its question (Jaccard of 3-grams)."""
_NUMBERING = re.compile(r"^\s*(?:[-*•·]\s+|\(?\d{1,2}[.):、]\)?(?!\d)\s*)")
_QUOTES = "\"'“”‘’「」『』"
_LENGTHS = (0.4, 2.5)
"""A paraphrase is between so many times as long as its question."""
_ALWAYS = 40
"""Characters that a paraphrase may have in any case: a question of two words grows by more than that factor."""


def lines_of(text: str) -> list[str]:
    """The questions in a list that a model wrote: without numbers, marks and quotes."""
    lines = (_NUMBERING.sub("", line).strip().strip(_QUOTES).strip() for line in text.splitlines())
    return [line for line in lines if line]


def is_paraphrase(line: str, question: str) -> bool:
    """Whether a line asks what a question about the identity asks, in about as many words: a question about something
    else would be answered with the persona's name."""
    least, most = _LENGTHS
    fits = line != question and least * len(question) <= len(line) <= max(_ALWAYS, most * len(question))
    return fits and (asks_for_identity(line) or jaccard(line, question) >= _LIKENESS)


def candidates(asked: Sequence[Asked], answers: Sequence[Answer], dropped: Counter[str]) -> list[tuple[Asked, str]]:
    """What each answer gives: every line of a list of paraphrases, or the answer itself. Why others are dropped is
    counted in `dropped`."""
    found = []
    for item, answer in zip(asked, answers, strict=True):
        if not answer.stopped:
            dropped["cut off at the limit"] += 1
        elif item.use == PARAPHRASE:
            lines = lines_of(answer.text)
            good = [line for line in lines if is_paraphrase(line, item.question)]
            dropped["no paraphrase"] += len(lines) - len(good)
            found += [(item, line) for line in dict.fromkeys(good)]
        elif answer.text.strip():
            found.append((item, answer.text.strip()))
        else:
            dropped["empty"] += 1
    return found


def not_held_out(
    questions: Sequence[str], held_out: Sequence[str], dropped: Counter[str], likeness: float = HELD_OUT_LIKENESS
) -> list[bool]:
    """For each question whether it is unlike every held-out one."""
    near = similar_to_others(list(questions), list(held_out), likeness)
    dropped["like a held-out question"] += sum(found is not None for found in near)
    return [found is None for found in near]


def good_rows(rows: Iterable[Mapping[str, Any]], persona: Persona, dropped: Counter[str]) -> list[Mapping[str, Any]]:
    """The rows that pass every check of the gate for single rows, each question and answer once."""
    kept, seen = [], set()
    for row in rows:
        faults = row_faults(row, persona)
        if faults:
            dropped.update(f"gate: {check}" for check in faults)
            continue
        key = tuple(message["content"] for message in row["messages"][1:])
        if key in seen:
            dropped["twice"] += 1
            continue
        seen.add(key)
        kept.append(row)
    return kept
