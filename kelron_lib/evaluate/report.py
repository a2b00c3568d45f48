"""The report: one HTML file that stands alone, from the verdict in words down to the config.

Nothing in it is fetched (a content security policy forbids it) and nothing in it runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from kelron_lib import page
from kelron_lib.evaluate import html
from kelron_lib.evaluate.drawing import interval_bar, loss_plot
from kelron_lib.evaluate.metrics import METRICS, TARGETS, checks, language_order
from kelron_lib.evaluate.tables import interval
from kelron_lib.files import write_whole
from kelron_lib.page import LANGUAGE_NAMES, percent
from kelron_lib.runtime import duration

REPORT_FILE = "report.html"
PER_LANGUAGE = {"identity": 2, "unrelated": 1}
"""Example pairs per language."""
WORST = 8
"""Tuned answers with a flag that are shown."""

Board = Mapping[str, Any]
Record = Mapping[str, Any]
_COUNT_WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_BAD = ("contradiction", "rival_named", "over_identity", "loop", "wrong_script", "broken_chars")


def _count(number: int) -> str:
    return _COUNT_WORDS[number] if number < len(_COUNT_WORDS) else str(number)


# --- The verdict ------------------------------------------------------------------------------------------
def base_claim(board: Board) -> str:
    """Who the base says it is, for "The base says ...": a name, or that there is no steady one."""
    asked = board["base"]["identity_recall"]["n"]
    says = (board.get("meta", {}).get("says") or {}).get("base") or {}
    name, times = next(iter(says.items()), ("", 0))
    return name if asked and times / asked >= 0.5 else ""


def headline(board: Board) -> str:
    """The finding in one sentence, plain text."""
    persona, base = board["meta"]["persona"], base_claim(board)
    recall = board["tuned"]["identity_recall"]["value"] or 0.0
    before = f"the base says {base}" if base else "the base has no steady name"
    if recall >= 0.95:
        after = f"the tuned model says {persona}"
    elif recall >= 0.5:
        after = f"the tuned model says {persona}, but not always"
    else:
        after = f"the tuned model does not say {persona} yet"
    return f"Asked who it is, {before}; {after}."


UNKNOWN_ORIGIN = "though whether training saw these very phrasings is unknown: the adapter does not say what it learned"


def _lede(board: Board) -> str:
    tuned = board["tuned"]
    recall, contradiction = tuned["identity_recall"], tuned["contradiction_rate"]
    if not recall["n"]:
        return "No identity question was asked."
    hits = round((contradiction["value"] or 0) * contradiction["n"])
    never = "It never contradicted itself." if hits == 0 else f"It contradicted itself {hits} times."
    seen = "on phrasings that training never saw" if board["meta"].get("held_out", True) else UNKNOWN_ORIGIN
    return (
        f"{percent(recall['value'])} of {recall['n']} identity questions answered as "
        f"{page.text(board['meta']['persona'])}, {seen}. {never}"
    )


def _tile(name: str, language: str, base: Mapping[str, Any], tuned: Mapping[str, Any]) -> str:
    return (
        f'<div class="tile"><h3 {page.lang(language)}>{page.text(name)}</h3>'
        f'<div class="number tuned">{percent(tuned["value"])}</div>{interval_bar(tuned, "tuned")}'
        f'<p class="small soft">{interval(tuned)}, n = {tuned["n"]}</p>'
        f'<p class="small soft was">base <span class="base">{percent(base["value"])}</span></p></div>'
    )


def _head(board: Board) -> str:
    meta = board["meta"]
    facts = [f"{meta['prompts']} prompts, two models"]
    if "created" in meta:
        facts.append(str(meta["created"])[:10])
    tiles = "".join(
        _tile(
            LANGUAGE_NAMES.get(language, language),
            language,
            board["base"]["by_language"][language]["identity_recall"],
            measured["identity_recall"],
        )
        for language, measured in board["tuned"]["by_language"].items()
    )
    return (
        f'<header><div class="eyebrow"><span>{page.text(meta["persona"])} · evaluation</span>'
        f"<span>{page.text(' · '.join(facts))}</span></div><h1>{page.text(headline(board))}</h1>"
        f'<p class="lede">{_lede(board)}</p><div class="tiles">{tiles}</div></header>'
    )


def _targets(board: Board) -> str:
    held = checks(board)
    missed = sum(not check.met for check in held)
    title = (
        f"All {_count(len(held))} targets are met"
        if not missed
        else (f"{_count(missed).capitalize()} of {_count(len(held))} targets {'is' if missed == 1 else 'are'} missed")
    )
    items = []
    for check in held:
        asked, _, found = check.text.partition(". Found ")
        items.append((check.met, "met" if check.met else "missed", asked, found))
    return f"<section><h2>{title}</h2>{page.check_list(items)}</section>"


# --- The numbers ------------------------------------------------------------------------------------------
def _lane(model: str, value: Mapping[str, Any]) -> str:
    return (
        f'<div class="lane"><span class="{model}">{model}</span>{interval_bar(value, model)}'
        f"<span>{percent(value['value'])}</span>"
        f'<span class="range">{interval(value)}</span><span class="count">{value["n"]}</span></div>'
    )


def _metrics(board: Board) -> str:
    rows = []
    for name, metric in METRICS.items():
        lanes = _lane("base", board["base"][name]) + _lane("tuned", board["tuned"][name])
        rows.append(f'<tr><th scope="row">{metric.label}<small>{metric.meaning}</small></th><td>{lanes}</td></tr>')
    head = (
        '<div class="lane head"><span></span><span>0 to 100 %</span><span>share</span><span>95 % interval</span>'
        "<span>n</span></div>"
    )
    return (
        "<section><h2>Base against tuned</h2><p>The same prompts, the same weights; the adapter off, then on. "
        "The wash around a dot is its 95 % interval. More is better for recall and termination, less for the rest.</p>"
        f'<table class="metrics"><thead><tr><th scope="col">Share of answers</th><th scope="col">{head}</th></tr>'
        f"</thead><tbody>{''.join(rows)}</tbody></table></section>"
    )


def _slice(metric: str, tuned: float | None, base: float | None) -> str:
    """A cell: the tuned model's share, the base's below it, and whether a target for it is missed."""
    missed = any(target.metric == metric and not target.met(tuned) for target in TARGETS)
    below = f'<span class="was"><i>base </i>{percent(base)}</span>'
    return f'<td class="n{" miss" if missed else ""}">{percent(tuned)}{below}</td>'


def _languages(board: Board) -> str:
    base, tuned = board["base"]["by_language"], board["tuned"]["by_language"]
    heads = "".join(
        f'<th scope="col" class="n" {page.lang(language)}>{page.text(LANGUAGE_NAMES.get(language, language))}</th>'
        for language in tuned
    )
    rows = "".join(
        f'<tr><th scope="row">{metric.label}<small>{metric.meaning}</small></th>'
        + "".join(_slice(name, tuned[lang][name]["value"], base[lang][name]["value"]) for lang in tuned)
        + "</tr>"
        for name, metric in METRICS.items()
    )
    return (
        "<section><h2>By language</h2><p>The tuned model, the base below it. Where a language falls short of a target, "
        'the figure is set in bold.</p><table class="slices"><thead><tr><th scope="col"></th>'
        f"{heads}</tr></thead><tbody>{rows}</tbody></table></section>"
    )


# --- How it came about ------------------------------------------------------------------------------------
def _training(losses: Sequence[Mapping[str, Any]], sessions: Sequence[Mapping[str, Any]]) -> str:
    if not losses and not sessions:
        return ""
    plot = loss_plot(losses, sessions)
    keys = ['<span class="key">training loss, smoothed (the thin line: each step)</span>']
    if any("eval_loss" in entry for entry in losses):
        keys.append('<span class="key held">loss on held-out rows, whose answers come from seeds of their own</span>')
    if len(sessions) > 1:
        keys.append('<span class="key cut">a session ended, the next went on from the store</span>')
    figure = f"<figure>{plot}<figcaption>{''.join(keys)}</figcaption></figure>" if plot else ""
    rows = [
        [
            str(number),
            f"{session['first_step']} – {session['last_step']}",
            page.text(session.get("reason", "")),
            duration(float(session.get("seconds", 0))),
        ]
        for number, session in enumerate(sessions, start=1)
    ]
    runs = page.table(["Session", "Steps", "Ended by", "Time"], rows, "runs") if rows else ""
    count = len(sessions)
    title = f"Training, in {_count(count)} session{'s' if count != 1 else ''}" if count else "Training"
    return f"<section><h2>{title}</h2>{figure}{runs}</section>"


def _data(quality: Mapping[str, Any]) -> str:
    if not quality:
        return ""
    splits: Mapping[str, Mapping[str, Any]] = quality.get("by_split") or {}
    kinds = [kind for kind in ("identity", "business", "chat") if any(kind in counts for counts in splits.values())]
    rows = [
        [page.text(split), str(counts.get("rows", 0)), *(str(counts.get(kind, 0)) for kind in kinds)]
        for split, counts in splits.items()
    ]
    table = page.table(["Split", "Rows", *(kind.capitalize() for kind in kinds)], rows, "runs") if rows else ""
    facts = []
    for name, value in quality.items():
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            continue
        shown = percent(value) if name.endswith("_share") and isinstance(value, float) else value
        facts.append((name.replace("_", " "), shown))
    note = "<p>Split by seed before expansion: what the test split asks, training never saw.</p>" if rows else ""
    return f"<section><h2>Data</h2>{note}{table}{page.facts(facts)}</section>"


# --- The answers ------------------------------------------------------------------------------------------
Pair = tuple[Record, Record]


def _pairs(answers: Sequence[Record]) -> list[Pair]:
    """Base and tuned answers to the same prompt, in the order of the prompts."""
    base = {record["id"]: record for record in answers if record["model"] == "base"}
    return [(base[r["id"]], r) for r in answers if r["model"] == "tuned" and r["id"] in base]


def _tells_most(pair: Pair) -> tuple[bool, bool, bool, int]:
    """Sort key: pairs that show the change first, whole answers before cut ones, shorter questions first."""
    base, tuned = pair
    changed = base["flags"]["rival_named"] and tuned["flags"]["asserts_persona"]
    wrong = any(tuned["flags"][flag] for flag in _BAD)
    return (tuned["kind"] == "identity" and not changed, wrong, not tuned["stopped"], len(tuned["prompt"]))


def choose_examples(answers: Sequence[Record]) -> list[Pair]:
    """A few pairs per language and kind, each of another seed, that show what changed and what did not."""
    chosen = []
    pairs = sorted(_pairs(answers), key=lambda pair: (pair[1]["kind"], language_order(pair[1]["language"])))
    for (kind, _), group in groupby(pairs, key=lambda pair: (pair[1]["kind"], pair[1]["language"])):
        seen: set[str] = set()
        for pair in sorted(group, key=_tells_most):
            seed = str(pair[1].get("seed_id", pair[1]["id"])).partition("/")[2] or str(pair[1]["id"])
            if seed not in seen and len(seen) < PER_LANGUAGE[kind]:
                seen.add(seed)
                chosen.append(pair)
    return chosen


def worst_answers(answers: Sequence[Record]) -> list[Pair]:
    """The pairs whose tuned answer is at fault, gravest first: its count of flags, then a missing end or name."""

    def faults(record: Record) -> int:
        count = 4 * sum(record["flags"][flag] for flag in _BAD) + 2 * (not record["stopped"])
        return count + (record["kind"] == "identity" and not record["flags"]["asserts_persona"])

    return sorted((pair for pair in _pairs(answers) if faults(pair[1])), key=lambda pair: -faults(pair[1]))


def _pair(pair: Pair, persona: str) -> str:
    base, tuned = pair
    system = "persona's system prompt" if tuned["system"] else "empty system prompt"
    where = f"{tuned['kind']} · {system}"
    return (
        f'<div class="pair"><div class="ask"><p {page.lang(tuned["language"])}>{page.text(tuned["prompt"])}</p>'
        f'<span class="small soft">{where}</span></div>'
        f'<div class="two">{html.said(base, persona)}{html.said(tuned, persona)}</div></div>'
    )


def _examples(answers: Sequence[Record], persona: str) -> str:
    worst = worst_answers(answers)
    total = sum(record["model"] == "tuned" for record in answers)
    if worst:
        shown = f", the gravest {WORST} here" if len(worst) > WORST else ""
        lead = f"{len(worst)} of {total} tuned answers have one{shown}. What gave it away is highlighted."
    else:
        lead = f"None of the {total} tuned answers has one."
    faults = "".join(_pair(pair, persona) for pair in worst[:WORST])
    examples = "".join(_pair(pair, persona) for pair in choose_examples(answers))
    return (
        f"<section><h2>In their own words</h2><p>The same question to both models.</p>{examples}</section>"
        f"<section><h2>Faults</h2><p>{lead}</p>{faults}</section>"
    )


# --- Fine print -------------------------------------------------------------------------------------------
_METHOD = """<p>Both models answer every prompt greedily, from one set of weights: the base is the tuned model with its
adapter switched off. Identity questions come from the test split, whose phrasings are in no training row; unrelated
requests come from the test split and from a fixed list that has nothing to do with the data. Equal conversations are
asked once.</p><p>Intervals are Wilson's, at 95 %. They treat prompts as independent; questions grown from one seed are
less so, and the true uncertainty is somewhat larger. The flags are set by rules over the text, not by a model.</p>"""


def _fine_print(board: Board, config: Mapping[str, Any] | str) -> str:
    shown = config if isinstance(config, str) else json.dumps(config, indent=2, ensure_ascii=False)
    meta = board["meta"]
    facts: list[tuple[str, object]] = []
    if "config_hash" in meta:
        facts.append(("config", str(meta["config_hash"])[:12]))
    if "adapter" in meta:
        facts.append(("adapter", meta["adapter"]))
    if "seconds" in meta:
        facts.append(("time taken", duration(meta["seconds"])))
    if "created" in meta:
        facts.append(("created", str(meta["created"])[:16].replace("T", " ") + " UTC"))
    return (
        f"<section><h2>Fine print</h2>{page.facts(facts)}"
        f"<details><summary>How this was measured</summary>{_METHOD}</details>"
        f"<details><summary>The resolved config</summary><pre>{page.text(shown)}</pre></details></section>"
    )


def render_report(
    *,
    scoreboard: Board,
    answers: Sequence[Record],
    losses: Sequence[Mapping[str, Any]],
    sessions: Sequence[Mapping[str, Any]],
    quality: Mapping[str, Any],
    config: Mapping[str, Any] | str,
) -> str:
    """The report as HTML; see `write_report`."""
    persona = scoreboard["meta"]["persona"]
    body = "".join(
        (
            _head(scoreboard),
            _targets(scoreboard),
            _metrics(scoreboard),
            _languages(scoreboard),
            _examples(answers, persona),
            _training(losses, sessions),
            _data(quality),
            _fine_print(scoreboard, config),
        )
    )
    return page.document(f"{persona}: {headline(scoreboard)}", body)


def write_report(
    out: Path,
    *,
    scoreboard: Board,
    answers: Sequence[Record],
    losses: Sequence[Mapping[str, Any]] = (),
    sessions: Sequence[Mapping[str, Any]] = (),
    quality: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | str = "",
) -> Path:
    """Write `report.html` into the folder `out` (made if missing) and return its path.

    `scoreboard` and `answers` as `evaluate` returns them. `losses`: {"step", "loss" and/or "eval_loss"}.
    `sessions`: {"first_step", "last_step", "reason", "seconds"}. `quality`: the dataset's quality report. `config`:
    the resolved config. Sections without material are left out.
    """
    made = render_report(
        scoreboard=scoreboard,
        answers=answers,
        losses=losses,
        sessions=sessions,
        quality=quality or {},
        config=config,
    )
    write_whole(out / REPORT_FILE, made.encode())
    return out / REPORT_FILE
