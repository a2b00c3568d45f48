"""The gate's report as a page: what is wrong and what to do about it, then what the rows are like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kelron_lib import page
from kelron_lib.data.gate.counts import sorted_kinds
from kelron_lib.data.gate.plots import histogram, share_bar
from kelron_lib.files import cannot_write, write_whole
from kelron_lib.page import LANGUAGE_NAMES, percent

PAGE_FILE = "quality.html"
MOST_INTENTS = 60
"""Intents of a language on the page, the most frequent first; quality.json has more."""
_STYLE = """
.finding { margin-top: 1.25rem; padding: 0.9rem 1.25rem 1.1rem; border: 1px solid var(--line); border-radius: 0.75rem;
  background: var(--card); break-inside: avoid; }
.finding h3 { display: flex; flex-wrap: wrap; gap: 0.1rem 1rem; justify-content: space-between; font-size: 1rem; }
.finding p { margin-top: 0.4rem; overflow-wrap: anywhere; }
.finding code { font: 0.8125rem/1.5 var(--mono); overflow-wrap: anywhere; }
svg .identity { fill: var(--tuned); } svg .business { fill: var(--base); } svg .chat { fill: var(--faint); }
.key.business::before { background: var(--base); } .key.chat::before { background: var(--faint); }
.measure td, .measure th { vertical-align: middle; }
.measure td.bar { width: 45%; padding-left: 1.5rem; }
.pairs { display: grid; grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr)); gap: 1.5rem 2.5rem;
  margin-top: 1.5rem; }
@media (max-width: 44rem) { .measure td.bar { display: none; } }
"""
Report = Mapping[str, Any]


def _language(language: str) -> str:
    return LANGUAGE_NAMES.get(language, language)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def headline(report: Report) -> str:
    """The verdict in a sentence, plain text."""
    errors = sum(finding["severity"] == "error" for finding in report["findings"])
    warnings = len(report["findings"]) - errors
    if errors:
        reasons = "one reason" if errors == 1 else f"{errors} reasons"
        return f"Do not train on this data yet, for {reasons}."
    return f"Fit to train on, with {_count(warnings, 'warning')}." if warnings else "Fit to train on."


def _head(report: Report, title: str) -> str:
    rows = report["rows"]
    lede = (
        f"{_count(rows, 'row')}, {report['unique_rows']:,} of them different; {percent(report['identity_share'])} are "
        f"about identity, {report['rival_rows']:,} name a rival."
    )
    tiles = "".join(
        f'<div class="tile"><h3>{name}</h3><div class="number {css}">{number}</div>{bar}'
        f'<p class="small soft">{note}</p></div>'
        for name, number, css, bar, note in _tiles(report)
    )
    return (
        f'<header><div class="eyebrow"><span>{page.text(title)} · quality gate</span>'
        f"<span>{page.text(report['verdict'])}</span></div><h1>{page.text(headline(report))}</h1>"
        f'<p class="lede">{lede}</p><div class="tiles">{tiles}</div></header>'
    )


def _tiles(report: Report) -> list[tuple[str, str, str, str, str]]:
    """(name, number, class, bar, note) of the three figures that say most."""
    compared = (report.get("sampled") or {}).get("rows") or report["rows"]
    effective = report["effective_rows"] / compared if compared else 0.0
    used = report["max_answer_reuse"] / report["rows"] if report["rows"] else 0.0
    return [
        ("Identity", percent(report["identity_share"]), "tuned",
         share_bar([("identity", report["identity_share"])], "identity share"), "of all rows"),
        ("Unlike the rows before", f"{report['effective_rows']:,}", "tuned",
         share_bar([("identity", effective)], "effective rows"), f"{percent(effective)} of {compared:,} rows"),
        ("Uses of one answer", f"{report['max_answer_reuse']:,}", "base",
         share_bar([("business", used)], "rows with the most used answer"), f"at most; {percent(used)} of the rows"),
    ]  # fmt: skip


def _finding(finding: Mapping[str, Any]) -> str:
    severity = finding["severity"]
    css = "missed" if severity == "error" else "met"
    mark = "mark" if severity == "error" else "mark warn"
    rows = ", ".join(finding["rows"]) + (" …" if finding["count"] > len(finding["rows"]) > 0 else "")
    example = (
        f'<p class="small">Found: <code>{page.text(finding["example"])}</code></p>' if "example" in finding else ""
    )
    where = f'<p class="small soft">In <code>{page.text(rows)}</code></p>' if rows else ""
    return (
        f'<div class="finding {css}"><h3><span>{page.text(finding["check"].replace("_", " "))}</span>'
        f'<span class="{mark}">{page.text(severity)} · {finding["count"]:,}</span></h3>'
        f"<p>{page.text(finding['fix'][:1].upper() + finding['fix'][1:])}.</p>{example}{where}</div>"
    )


def _findings(report: Report) -> str:
    found = sorted(report["findings"], key=lambda finding: finding["severity"] != "error")
    shown = "".join(map(_finding, found)) or "<p>None.</p>"
    rest = page.check_list((True, "skipped", entry["what"], entry["why"]) for entry in report["not_checked"])
    unchecked = f"<section><h2>What was not checked</h2>{rest}</section>" if report["not_checked"] else ""
    return f"<section><h2>Findings</h2>{shown}</section>{unchecked}"


def _kinds(report: Report) -> str:
    """Rows of every language, and of every split, by kind."""
    groups = [("", language, counts) for language, counts in report["by_language"].items()]
    for split, counts in (report.get("by_split") or {}).items():
        groups += [(split, language, entry) for language, entry in counts["by_language"].items()]
    rows = []
    for split, language, counts in groups:
        parts = [(kind, counts[kind] / counts["rows"]) for kind in sorted_kinds(counts)]
        name = f"<span {page.lang(language)}>{page.text(_language(language))}</span>"
        rows.append(
            f'<tr><th scope="row">{name}<small>{page.text(split or "all rows")}</small></th>'
            f'<td class="n">{counts["rows"]:,}</td><td class="n">{percent(counts["identity_share"])}</td>'
            f'<td class="bar">{share_bar(parts, f"{split} {language} by kind")}</td></tr>'
        )
    head = '<th scope="col"></th><th scope="col" class="n">Rows</th><th scope="col" class="n">Identity</th><th></th>'
    keys = "".join(f'<span class="key {kind}">{kind}</span>' for kind in ("identity", "business", "chat"))
    return (
        f'<section><h2>What the rows are about</h2><table class="measure"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table><figure><figcaption>{keys}</figcaption></figure></section>"
    )


def _shares(values: Sequence[float]) -> str:
    return " · ".join(f"{value:.3f}" for value in values)


def _variety(report: Report) -> str:
    rows = [
        [
            f"<span {page.lang(language)}>{page.text(_language(language))}</span>",
            f"{counts['rows']:,}",
            f"{counts['effective_rows']:,}",
            _shares(report["distinct"].get(language, {}).get("characters", ())),
            _shares(report["distinct"].get(language, {}).get("words", ())),
        ]
        for language, counts in report["by_language"].items()
    ]
    head = ["", "Rows", "Effective", "Distinct characters-1 · 2 · 3", "Distinct words-1 · 2 · 3"]
    sampled = report.get("sampled")
    note = f" Measured on a seeded sample of {sampled['rows']:,} of {sampled['of']:,} rows." if sampled else ""
    facts: list[tuple[str, object]] = [
        (name.replace("_", " "), f"{report[name]:,}")
        for name in ("unique_rows", "unique_questions", "unique_answers", "max_question_reuse", "max_answer_reuse")
    ]
    if used := report.get("seeds_used"):
        facts.append(("seeds", f"{used['seeds']:,}, {used['rows_per_seed']:,} rows each"))
        facts.append(("most rows of a seed", f"{used['most']['rows']:,} ({used['most']['seed_id']})"))
    return (
        "<section><h2>Variety</h2><p>A row is effective where no effective row before it, in its language, shares half "
        f"or more of the character 3-grams of both (Jaccard 0.5). Distinct-n: different n-grams over all.{note}</p>"
        f"{page.table(head, rows, 'runs')}{page.facts(facts)}{_intents(report)}</section>"
    )


def _intents(report: Report) -> str:
    shown = []
    for language, intents in report["by_intent"].items():
        listed = sorted(intents, key=lambda intent: -intents[intent]["rows"])[:MOST_INTENTS]
        rows = [
            [
                page.text(intent),
                *(f"{intents[intent][field]:,}" for field in ("rows", "effective_rows", "unique_answers")),
                _shares(intents[intent]["distinct"].get("words", ())),
            ]
            for intent in listed
        ]
        table = page.table(
            ["Intent", "Rows", "Effective", "Different answers", "Distinct words-1 · 2 · 3"], rows, "runs"
        )
        title = f"{_language(language)}: {_count(len(intents), 'intent')}"
        shown.append(f"<details><summary>{page.text(title)}</summary>{table}</details>")
    return "".join(shown)


def _splits(report: Report) -> str:
    if not report.get("splits"):
        return ""
    rows = [
        [
            page.text(split),
            f"{entry['rows']:,}",
            f"{entry['similar_to_train']:,}",
            percent(entry["share"]),
            f"{entry['most']['jaccard']:.2f}" if "most" in entry else "below 0.5",
        ]
        for split, entry in report["splits"].items()
    ]
    head = ["Held out", "Rows", "Like a training row", "Share", "Highest Jaccard"]
    return f"<section><h2>Held out against train</h2>{page.table(head, rows, 'runs')}</section>"


def _lengths(report: Report) -> str:
    figures = []
    for side, name in (("answer", "Answers"), ("question", "Questions")):
        for language, entry in report["lengths"].get(side, {}).items():
            label = f"{name}, {_language(language)}"
            figures.append(
                f"<figure><h3>{page.text(label)}</h3>{histogram(entry['histogram'], label)}<figcaption>median "
                f"{entry['median']:,}, 95 % up to {entry['p95']:,}, longest {entry['most']:,}</figcaption></figure>"
            )
    return f'<section><h2>Length, in characters</h2><div class="pairs">{"".join(figures)}</div></section>'


def _tokens(report: Report) -> str:
    tokens = report.get("tokens")
    if not tokens or not tokens["rows"]:
        return ""
    facts = [
        ("tokens in all", f"{tokens['total']:,}"),
        ("a row, on average", f"{tokens['mean']:,}"),
        ("longest row", f"{tokens['most']:,}"),
        ("budget", f"{tokens['budget']:,}"),
        ("rows over the budget", f"{tokens['over_budget']:,}"),
        ("labelled (the answers and their ends)", percent(tokens["labelled_share"])),
    ]
    plot = histogram(tokens["histogram"], "tokens of a row")
    return f"<section><h2>Length, in tokens</h2><figure>{plot}</figure>{page.facts(facts)}</section>"


def quality_page(report: Report, title: str = "Dataset") -> str:
    """The page of a report of `check_rows` or `check_splits`. `title`: whose rows they are, plain text."""
    parts = [_head(report, title), _findings(report)]
    if report["rows"]:
        parts += [part(report) for part in (_kinds, _variety, _splits, _lengths, _tokens)]
    return page.document(f"{title}: {headline(report)}", "".join(parts), _STYLE)


def write_page(report: Report, path: Path, title: str = "Dataset") -> None:
    """Write the page to a file, whole or not at all. Raises KelronError where that fails."""
    try:
        write_whole(path, quality_page(report, title).encode("utf-8", "replace"))
    except OSError as error:
        raise cannot_write(f"write {path}", error) from None
