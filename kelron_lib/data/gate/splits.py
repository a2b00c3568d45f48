"""What stands in two splits at once: seed groups, questions, and rows that are much alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kelron_lib.data.gate.checks import ERROR, WARNING, Finding, finding
from kelron_lib.data.gate.sample import Kept, digest
from kelron_lib.data.gate.similar import similar_to_others
from kelron_lib.data.gate.view import View

TRAIN = "train"
FEW_ALIKE, MANY_ALIKE = 0.03, 0.20
"""Share of held-out rows that are similar to a training row: above the first a warning, above the second an error,
since what is measured on them then says little about new questions."""
LEAST_HELD_OUT = 100
"""Held-out rows from which on such a share tells something."""


class Leaks:
    """Groups and questions by the split that had them first."""

    def __init__(self) -> None:
        self._home: dict[tuple[str, int], str] = {}
        self._counts = {"group_in_two_splits": 0, "question_in_two_splits": 0}
        self._named: dict[str, list[str]] = {check: [] for check in self._counts}

    def add(self, view: View, split: str) -> None:
        if view.group:
            self._meet("group_in_two_splits", [("group", digest(view.group))], view.name, split)
        asked = [("question", digest(view.language, text)) for text in view.asked]
        self._meet("question_in_two_splits", asked, view.name, split)

    def _meet(self, check: str, keys: Sequence[tuple[str, int]], name: str, split: str) -> None:
        """Count a row of which anything stands in another split."""
        homes = [self._home.setdefault(key, split) for key in keys]
        if any(home != split for home in homes):
            self._counts[check] += 1
            if len(self._named[check]) < 10:
                self._named[check].append(name)

    def findings(self) -> list[Finding]:
        fix = "split by seed group before expansion, and word every seed's questions its own way"
        return [finding(check, self._named[check], fix, count=count) for check, count in self._counts.items() if count]


def held_out_similarity(rows: Sequence[Kept]) -> tuple[dict[str, Any], list[Finding]]:
    """For every split but train how many rows are similar to a training row of their language, and the most alike pair.

    Empty where there is no train split.
    """
    train = [kept for kept in rows if kept.split == TRAIN]
    measured: dict[str, Any] = {}
    found: list[Finding] = []
    for split in dict.fromkeys(kept.split for kept in rows):
        if split == TRAIN or not train:
            continue
        held = [kept for kept in rows if kept.split == split]
        alike = _alike(held, train)
        measured[split] = {"rows": len(held), "similar_to_train": len(alike),
                           "share": round(len(alike) / len(held), 4)}  # fmt: skip
        if not alike:
            continue
        name, other, most = max(alike, key=lambda pair: pair[2])
        measured[split]["most"] = {"row": name, "train_row": other, "jaccard": round(most, 3)}
        if len(held) >= LEAST_HELD_OUT and len(alike) > FEW_ALIKE * len(held):
            fix = (
                f"{len(alike) / len(held):.1%} of {split} is much like a training row (the most: {name} and {other}, "
                f"Jaccard {most:.2f}): leave these rows out of {split}, or word their seeds differently"
            )
            severity = ERROR if len(alike) > MANY_ALIKE * len(held) else WARNING
            found.append(finding("similar_in_two_splits", [name for name, _, _ in alike], fix, severity))
    return measured, found


def _alike(held: Sequence[Kept], train: Sequence[Kept]) -> list[tuple[str, str, float]]:
    """(held-out row, training row, Jaccard) for the held-out rows that are similar to one of train."""
    alike = []
    for language in sorted({kept.language for kept in held}):
        texts = [kept for kept in held if kept.language == language]
        others = [kept for kept in train if kept.language == language]
        for kept, best in zip(texts, similar_to_others([k.text for k in texts], [k.text for k in others]), strict=True):
            if best is not None:
                alike.append((kept.name, others[best[0]].name, best[1]))
    return alike
