"""The quality gate: what a row must never be, checked before anything is written."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from kelron_lib.characters import broken_chars, wrong_script
from kelron_lib.data.rows import SPECIAL_TOKEN
from kelron_lib.persona import Persona, find_rivals

Row = Mapping[str, Any]
_PLACEHOLDER = re.compile(r"[{}]")
_LINE_ENDS = frozenset("\r\f")
"""In an answer they are harmless; rows have line feeds alone."""
_MOST_ANSWER_SHARE = 0.05
_NAMED = 10


def _texts(row: Row, role: str | None = None) -> list[str]:
    return [m["content"] for m in row["messages"] if role is None or m["role"] == role]


def _is_broken(row: Row) -> bool:
    characters = set().union(*_texts(row))  # each is judged alone, so once is enough
    return not characters.isdisjoint(_LINE_ENDS) or broken_chars("".join(characters))


def _is_foreign(row: Row) -> bool:
    return any(wrong_script(text, row["language"]) for text in _texts(row, "assistant"))


def _names_persona(row: Row, persona: Persona) -> bool:
    return any(spelling in text for text in _texts(row, "assistant") for spelling in persona.spellings)


def _row_checks(persona: Persona) -> tuple[tuple[str, str, Callable[[Row], bool]], ...]:
    """Checks of single rows: name, fix, and whether a row fails."""
    return (
        ("rival_name", "take the other assistant's or maker's name out; say 'another AI'",
         lambda row: any(find_rivals(text) for text in _texts(row))),
        ("special_token", "remove the chat template's tokens from the text",
         lambda row: any(SPECIAL_TOKEN.search(text) for text in _texts(row))),
        ("placeholder", "give the slot a value; braces are for templates only",
         lambda row: any(_PLACEHOLDER.search(text) for text in _texts(row))),
        ("broken_character", "save the source as UTF-8 and write the text again",
         _is_broken),
        ("wrong_script", "answer in the row's language alone",
         _is_foreign),
        ("identity_without_name", "assert the persona's name in every identity answer",
         lambda row: row["kind"] == "identity" and not _names_persona(row, persona)),
        ("name_in_unrelated", "leave the persona's name out of business and chat answers",
         lambda row: row["kind"] != "identity" and _names_persona(row, persona)),
    )  # fmt: skip


def _finding(check: str, rows: Sequence[str], fix: str, severity: str = "error") -> dict[str, Any]:
    return {"check": check, "severity": severity, "count": len(rows), "rows": list(rows[:_NAMED]), "fix": fix}


def _identity_share(rows: Sequence[Row]) -> float:
    return sum(row["kind"] == "identity" for row in rows) / len(rows) if rows else 0.0


def _by_language(rows: Sequence[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["language"], []).append(row)
    return dict(sorted(found.items()))


def _share_findings(rows: Sequence[Row], least: float, where: str) -> list[dict[str, Any]]:
    return [
        _finding("identity_share", [f"{where}{language}"],
                 f"identity is {_identity_share(part):.1%} of {where}{language}, at least {least:.0%} is asked for")
        for language, part in _by_language(rows).items()
        if _identity_share(part) < least
    ]  # fmt: skip


def _duplicates(rows: Sequence[Row]) -> list[str]:
    """Ids of rows whose question and answer an earlier row has, whatever their system messages."""
    seen: set[tuple[str, ...]] = set()
    again = []
    for row in rows:
        key = tuple(message["content"] for message in row["messages"] if message["role"] != "system")
        if key in seen:
            again.append(row["id"])
        seen.add(key)
    return again


def _verdict(findings: Iterable[Mapping[str, Any]]) -> str:
    return "fail" if any(finding["severity"] == "error" for finding in findings) else "pass"


def check_rows(rows: Sequence[Row], persona: Persona, identity_share: float = 0.30) -> dict[str, Any]:
    """The gate's report on rows of any origin: verdict, counts, and findings {check, severity, count, rows, fix}.

    identity_share: least share of identity rows in every language. `rows` of a finding names the first ten.
    """
    findings = []
    for check, fix, fails in _row_checks(persona):
        if failing := [row["id"] for row in rows if fails(row)]:
            findings.append(_finding(check, failing, fix))
    again = _duplicates(rows)
    if again:
        findings.append(_finding("duplicate", again, "remove rows that repeat a question and its answer"))
    if not rows:
        findings.append(_finding("no_rows", [], "give at least one row"))
    findings += _share_findings(rows, identity_share, "")
    reuse = Counter(text for row in rows for text in _texts(row, "assistant"))
    answer, most = reuse.most_common(1)[0] if reuse else ("", 0)
    if most > 1 and most > _MOST_ANSWER_SHARE * len(rows):
        named = [row["id"] for row in rows if answer in _texts(row, "assistant")]
        findings.append(_finding("answer_reuse", named, "vary the answer: one text is over 5 % of rows", "warning"))
    return {
        "verdict": _verdict(findings),
        "rows": len(rows),
        "unique_rows": len(rows) - len(again),
        "unique_questions": len({(row["language"], text) for row in rows for text in _texts(row, "user")}),
        "unique_answers": len(reuse),
        "max_answer_reuse": most,
        "identity_share": round(_identity_share(rows), 4),
        "rival_rows": sum(finding["count"] for finding in findings if finding["check"] == "rival_name"),
        "by_language": {language: _count_kinds(part) for language, part in _by_language(rows).items()},
        "findings": findings,
    }


def _count_kinds(rows: Sequence[Row]) -> dict[str, Any]:
    kinds = Counter(row["kind"] for row in rows)
    return {"rows": len(rows), **dict(sorted(kinds.items())), "identity_share": round(_identity_share(rows), 4)}


def _leaks(splits: Mapping[str, Sequence[Row]]) -> list[dict[str, Any]]:
    """Findings for seed groups and questions that stand in two splits."""
    home: dict[tuple[str, ...], str] = {}
    leaking: dict[str, list[str]] = {"group_in_two_splits": [], "question_in_two_splits": []}
    for split, rows in splits.items():
        for row in rows:
            if home.setdefault(("group", row["group"]), split) != split:
                leaking["group_in_two_splits"].append(row["id"])
            for text in _texts(row, "user")[:1]:
                if home.setdefault(("question", row["language"], text), split) != split:
                    leaking["question_in_two_splits"].append(row["id"])
    fix = "split by seed group before expansion, and word every seed's questions its own way"
    return [_finding(check, rows, fix) for check, rows in leaking.items() if rows]


def _business_findings(test: Sequence[Row]) -> list[dict[str, Any]]:
    """The evaluation compares losses on business rows: told here, it costs no training."""
    if any(row["kind"] == "business" for row in test):
        return []
    fix = "the evaluation needs some in test: lower data.identity_share, raise data.rows or write business seeds"
    return [_finding("no_business_rows", ["test/"], fix)]


def check_splits(splits: Mapping[str, Sequence[Row]], persona: Persona, identity_share: float = 0.30) -> dict[str, Any]:
    """`check_rows` over all splits, and besides: the share in every split and language, business rows in the test
    split, and leaks between splits."""
    report = check_rows([row for rows in splits.values() for row in rows], persona, identity_share)
    for split, rows in splits.items():
        report["findings"] += _share_findings(rows, identity_share, f"{split}/")
    report["findings"] += _business_findings(splits.get("test", ()))
    report["findings"] += _leaks(splits)
    report["verdict"] = _verdict(report["findings"])
    report["by_split"] = {
        split: {
            **_count_kinds(rows),
            "by_language": {language: _count_kinds(part) for language, part in _by_language(rows).items()},
        }
        for split, rows in splits.items()
    }
    return report
