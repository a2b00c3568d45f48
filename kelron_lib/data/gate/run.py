"""The gate itself: one pass over the rows, then what compares them, then the verdict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from kelron_lib.data.gate.checks import ERROR, Finding, Tally, finding, row_checks
from kelron_lib.data.gate.counts import Counts
from kelron_lib.data.gate.kind import Names
from kelron_lib.data.gate.sample import Sample
from kelron_lib.data.gate.splits import Leaks, held_out_similarity
from kelron_lib.data.gate.tokens import Tokens
from kelron_lib.data.gate.variety import measure
from kelron_lib.data.gate.view import Row, View
from kelron_lib.persona import Persona
from kelron_lib.settings import LANGUAGES


class Gate:
    """Takes rows one at a time and gives the report on them.

    own: the rows are Kelron's own and all have to be right. Otherwise they are a file of others', where a rival in a
    prompt is a warning, and faults of single rows are errors only from `checks.FOREIGN_SHARE` of the rows on.
    identity_share: least share of identity rows in every language, and in every language of every split.
    tokenizer, max_tokens: with both, every row is rendered and masked as training does it.
    """

    def __init__(
        self,
        persona: Persona,
        identity_share: float = 0.30,
        *,
        own: bool = True,
        tokenizer: Any = None,
        max_tokens: int | None = None,
        seed: int = 1,
    ) -> None:
        self.persona = persona
        self.identity_share = identity_share
        self.counts = Counts()
        self.sample = Sample(seed=seed)
        self._names = Names(persona)
        self._tally = Tally(row_checks(persona, own=own), own=own)
        self._leaks = Leaks()
        self._tokens = Tokens(tokenizer, max_tokens) if tokenizer is not None and max_tokens is not None else None
        self._rivals = {"rival_rows": 0, "rival_targets": 0}
        self._without = dict.fromkeys(("seed_id", "group", "kind", "language"), 0)

    def add(self, row: Row, split: str = "") -> None:
        """One row: {"messages": [...]} is enough, other fields may be missing or empty. `split`: where it belongs."""
        view = View(row, self.persona, self._names, self.counts.rows + 1)
        self.counts.add(view, split)
        self.sample.add(view, split)
        self._tally.add(view)
        if split:
            self._leaks.add(view, split)
        if self._tokens is not None:
            self._tokens.add(view)
        self._rivals["rival_targets"] += bool(view.rivals_said)
        self._rivals["rival_rows"] += bool(view.rivals_said or view.rivals_asked)
        self._without["language"] += view.language not in LANGUAGES
        for field in ("seed_id", "group", "kind"):
            self._without[field] += not row.get(field)

    def report(self, splits: Iterable[str] = ()) -> dict[str, Any]:
        """The report on the rows so far, as quality.json holds it; with `splits`, of each of them and between them."""
        splits = list(splits)
        kept = list(self.sample)
        measured, poor = measure(kept)
        between, alike = held_out_similarity(kept) if splits else ({}, [])
        findings = [
            *self._tally.findings(self.counts.rows),
            *self.counts.findings(self.sample),
            *poor,
            *(self._tokens.findings() if self._tokens else []),
            *self._share_findings(None),
        ]
        for split in splits:
            findings += self._share_findings(split)
        if splits:
            findings += [*self._business_findings(), *self._leaks.findings(), *alike]
        return {
            "verdict": _verdict(findings),
            **self._numbers(measured),
            "findings": findings,
            **({"by_split": {split: self._counted(split) for split in splits}, "splits": between} if splits else {}),
            "by_intent": measured["by_intent"],
            "distinct": measured["distinct"],
            "lengths": self.counts.lengths(),
            **({"seeds_used": used} if (used := self.counts.seeds_used()) else {}),
            **({"tokens": self._tokens.measured()} if self._tokens else {}),
            "sampled": None if self.sample.whole else {"rows": len(self.sample), "of": self.sample.seen},
            "not_checked": self._not_checked(splits),
        }

    def _numbers(self, measured: Mapping[str, Any]) -> dict[str, Any]:
        counts = self.counts
        by_language = {}
        for language in counts.languages():
            entry = {**counts.count_kinds(None, language), "identity_share": round(counts.share(None, language), 4)}
            entry["unique_rows"] = counts.different_in[language]
            entry["effective_rows"] = measured["effective_by_language"].get(language, 0)
            by_language[language or "unknown"] = entry
        return {
            "rows": counts.rows,
            "unique_rows": counts.different,
            "unique_questions": len(counts.questions),
            "unique_answers": len(counts.answers),
            "max_answer_reuse": max(counts.answers.values(), default=0),
            "max_question_reuse": max(counts.questions.values(), default=0),
            "effective_rows": measured["effective_rows"],
            "near_duplicate_share": measured["near_duplicate_share"],
            "identity_share": round(counts.share(), 4),
            **self._rivals,
            "by_language": by_language,
        }

    def _counted(self, split: str) -> dict[str, Any]:
        def counted(language: str | None) -> dict[str, Any]:
            kinds = self.counts.count_kinds(split, language)
            return {**kinds, "identity_share": round(self.counts.share(split, language), 4)}

        languages = {language or "unknown": counted(language) for language in self.counts.languages(split)}
        return {**counted(None), "by_language": languages}

    def _share_findings(self, split: str | None) -> list[Finding]:
        found = []
        for language in self.counts.languages(split):
            share, where = self.counts.share(split, language), f"{split}/{language}" if split else language
            if share < self.identity_share:
                fix = f"identity is {share:.1%} of {where}, at least {self.identity_share:.0%} is asked for"
                found.append(finding("identity_share", [where], fix))
        return found

    def _business_findings(self) -> list[Finding]:
        """The evaluation compares losses on business rows: told here, it costs no training."""
        if self.counts.count_kinds("test").get("business"):
            return []
        fix = "the evaluation needs some in test: lower data.identity_share, raise data.rows or write business seeds"
        return [finding("no_business_rows", ["test/"], fix)]

    def _not_checked(self, splits: list[str]) -> list[dict[str, str]]:
        """What could not be checked, and why."""
        rows, missing = self.counts.rows, self._without
        reasons = [
            ("end tokens, label mask, length in tokens", "no tokenizer was given", self._tokens is None),
            ("rows per seed", f"{missing['seed_id']:,} rows name no seed", missing["seed_id"] > 0),
            ("leaks between splits", "there is one file, without splits", not splits),
            ("groups in two splits", f"{missing['group']:,} rows name no group", bool(splits) and missing["group"] > 0),
            ("the name in unrelated answers", f"{missing['kind']:,} rows name no kind: it was found by what they say",
             missing["kind"] > 0),
            ("scripts and language", f"{missing['language']:,} rows are in none of {', '.join(LANGUAGES)}",
             missing["language"] > 0),
        ]  # fmt: skip
        return [{"what": what, "why": why} for what, why, applies in reasons if rows and applies]


def _verdict(findings: Iterable[Mapping[str, Any]]) -> str:
    severities = {finding["severity"] for finding in findings}
    return "fail" if ERROR in severities else "warn" if severities else "pass"


def check_rows(rows: Iterable[Row], persona: Persona, identity_share: float = 0.30, **options: Any) -> dict[str, Any]:
    """The gate's report on rows of any origin, read once: verdict (pass, warn, fail), counts, measures, and findings
    {check, severity, count, rows (the first ten), fix, example}. `options`: as `Gate` takes them."""
    gate = Gate(persona, identity_share, **options)
    for row in rows:
        gate.add(row)
    return gate.report()


def check_splits(
    splits: Mapping[str, Iterable[Row]], persona: Persona, identity_share: float = 0.30, **options: Any
) -> dict[str, Any]:
    """`check_rows` over all splits, and besides: the share in every split and language, business rows in the test
    split, and leaks and likeness between splits."""
    gate = Gate(persona, identity_share, **options)
    for split, rows in splits.items():
        for row in rows:
            gate.add(row, split)
    return gate.report(splits)
