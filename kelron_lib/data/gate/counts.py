"""What is counted over a stream of rows: kinds, repeats, reuse of questions and answers, rows per seed, lengths.

Texts are held as 64-bit numbers, so that a million rows take some hundred megabytes.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from kelron_lib.data.gate.checks import ERROR, WARNING, Finding, finding
from kelron_lib.data.gate.sample import Sample, digest
from kelron_lib.data.gate.view import View
from kelron_lib.persona import KINDS

SCALE = 1_000
"""Rows from which on repeats over the whole dataset tell something: fewer are an example, not a dataset."""
MOST_USES = 10
"""Uses of one answer text that are nothing to speak of, in as many rows as there are."""
LEARNT_BY_HEART = 100
"""Uses of one text, once through the data, that are as many as 100 epochs over it: an error where they are also more
than HEAVY_SHARE of the rows (short answers of a large mixture, "Yes.", are used often and are few all the same)."""
HEAVY_SHARE = 0.01
MOST_ROWS_PER_SEED = 350
"""Rows behind one seed on average: 35,000 rows of 100 seeds. The first attempt had 1,167."""
MOST_COPIES = 2.0
"""Rows over different rows from which on a dataset counts as copied."""
EDGES = (0, 20, 40, 80, 160, 320, 640, 1_280, 2_560)
"""Of the length histograms, in characters; the last interval is open."""


class Counts:
    def __init__(self) -> None:
        self.rows = 0
        self.kinds: Counter[tuple[str, str, str]] = Counter()
        """By split, language and kind."""
        self._pairs: set[int] = set()
        self.different_in: Counter[str] = Counter()
        """Rows that repeat no earlier one, by language."""
        self._again: list[str] = []
        self.repeated = 0
        self.questions: Counter[int] = Counter()
        self.answers: Counter[int] = Counter()
        self._seeds: dict[str, list[int]] = {}
        """Seed id to rows and different rows."""
        self._lengths: dict[tuple[str, str], Counter[int]] = {}
        """By language and side (question, answer): characters to rows."""

    def add(self, view: View, split: str) -> None:
        self.rows += 1
        self.kinds[split, view.language, view.kind] += 1
        pair = digest(*view.asked, "\0", *view.said)
        new = pair not in self._pairs
        if new:
            self._pairs.add(pair)
            self.different_in[view.language] += 1
        else:
            self.repeated += 1
            if len(self._again) < 10:
                self._again.append(view.name)
        for text in view.asked:
            self.questions[digest(view.language, text)] += 1
        for text in view.said:
            self.answers[digest(text)] += 1
        if view.seed:
            used = self._seeds.setdefault(view.seed, [0, 0])
            used[0] += 1
            used[1] += new
        for side, texts in (("question", view.asked), ("answer", view.said)):
            self._lengths.setdefault((view.language, side), Counter())[sum(map(len, texts))] += 1

    # --- What the report says ---
    def share(self, split: str | None = None, language: str | None = None) -> float:
        """Identity rows over all rows of a split and a language, or of all."""
        counts = self.count_kinds(split, language)
        return counts.get("identity", 0) / counts["rows"] if counts["rows"] else 0.0

    def count_kinds(self, split: str | None = None, language: str | None = None) -> dict[str, Any]:
        kinds: Counter[str] = Counter()
        for (of_split, of_language, kind), count in self.kinds.items():
            if split in (None, of_split) and language in (None, of_language):
                kinds[kind] += count
        return {"rows": kinds.total(), **dict(sorted(kinds.items()))}

    def languages(self, split: str | None = None) -> list[str]:
        return sorted({language for of, language, _ in self.kinds if split in (None, of)})

    @property
    def different(self) -> int:
        return len(self._pairs)

    def seeds_used(self) -> dict[str, Any]:
        """How many rows stand behind the seeds; empty where no row names one."""
        if not self._seeds:
            return {}
        seed, (rows, different) = max(self._seeds.items(), key=lambda item: item[1][0])
        named = sum(used for used, _ in self._seeds.values())
        return {
            "seeds": len(self._seeds),
            "rows_per_seed": round(named / len(self._seeds), 1),
            "most": {"seed_id": seed, "rows": rows, "different_rows": different},
        }

    def lengths(self) -> dict[str, Any]:
        """Characters of questions and answers by language: least, median, 95th percentile, most, and a histogram."""
        return {
            side: {
                language: _summary(counts)
                for (language, of), counts in sorted(self._lengths.items())
                if of == side
            }
            for side in ("question", "answer")
        }  # fmt: skip

    def findings(self, sample: Sample) -> list[Finding]:
        found = []
        if self.repeated:
            found.append(finding("duplicate", self._again, "remove rows that repeat a question and its answer",
                                 count=self.repeated))  # fmt: skip
        if not self.rows:
            return [finding("no_rows", [], "give at least one row")]
        return [*found, *self._copied(), *self._few_seeds(), *self._reused(sample)]

    def _copied(self) -> list[Finding]:
        if self.rows < SCALE or self.rows < MOST_COPIES * self.different:
            return []
        fix = (
            f"{self.different:,} different rows were copied into {self.rows:,}, {self.rows / self.different:,.0f} "
            "times each: write more seeds, and vary question and answer independently, instead of copying"
        )
        return [finding("copied_rows", self._again, fix, count=self.repeated)]

    def _few_seeds(self) -> list[Finding]:
        used = self.seeds_used()
        if not used or self.rows < SCALE or used["rows_per_seed"] <= MOST_ROWS_PER_SEED:
            return []
        fix = (
            f"{used['seeds']:,} seeds stand behind {self.rows:,} rows, {used['rows_per_seed']:,.0f} rows each (most: "
            f"{used['most']['seed_id']}, {used['most']['rows']:,}): write more seeds, or make fewer rows"
        )
        return [finding("few_seeds", [used["most"]["seed_id"]], fix, count=self.rows)]

    def _reused(self, sample: Sample) -> list[Finding]:
        """The most-used answer and the most-used question, where their uses are too many."""
        found = []
        for check, counts, texts in (
            ("answer_reuse", self.answers, lambda kept: [(digest(t), t) for t in kept.said]),
            (
                "question_reuse",
                self.questions,
                lambda kept: [(digest(kept.language, t), t) for t in kept.asked],
            ),
        ):
            text, uses = counts.most_common(1)[0] if counts else (0, 0)
            heavy = uses > max(LEARNT_BY_HEART, HEAVY_SHARE * self.rows)
            if not heavy and (uses <= MOST_USES or check == "question_reuse"):
                continue
            used = [(kept.name, told) for kept in sample for number, told in texts(kept) if number == text]
            over = sum(count > MOST_USES for count in counts.values())
            noun = check.removesuffix("_reuse")
            fix = (
                f"vary the {noun}: one stands in {uses:,} rows ({uses / self.rows:.1%}), and {over:,} of "
                f"{len(counts):,} in more than {MOST_USES}"
            )
            found.append(finding(check, [name for name, _ in used], fix, ERROR if heavy else WARNING, count=uses,
                                 example=used[0][1][:60] if used else ""))  # fmt: skip
        return found


def _summary(counts: Counter[int]) -> dict[str, Any]:
    rows = counts.total()
    ordered = sorted(counts.items())

    def at(share: float) -> int:
        seen = 0
        for length, count in ordered:
            seen += count
            if seen >= share * rows:
                return length
        return ordered[-1][0]

    bins = [0] * len(EDGES)
    for length, count in ordered:
        bins[max(place for place, edge in enumerate(EDGES) if edge <= length)] += count
    return {
        "least": ordered[0][0],
        "median": at(0.5),
        "p95": at(0.95),
        "most": ordered[-1][0],
        "histogram": [{"from": edge, "rows": count} for edge, count in zip(EDGES, bins, strict=True)],
    }


def sorted_kinds(counts: dict[str, Any]) -> list[str]:
    """The kinds of a count, Kelron's own first."""
    return [kind for kind in KINDS if kind in counts]
