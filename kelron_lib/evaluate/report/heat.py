"""The heat map: where, by language, system prompt and attack, the tuned model's identity gives way."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

from kelron_lib import page
from kelron_lib.evaluate.metrics import METRICS, language_order
from kelron_lib.evaluate.report.parts import ATTACKS, SYSTEMS, Record, in_order, scrolling, section, system_kind
from kelron_lib.page import LANGUAGE_NAMES

VIEWS = {"identity_recall": "Recall", "contradiction_rate": "Contradiction", "rival_rate": "Rival named"}
"""Metrics that the map can show."""
STEPS = (0.0, 0.02, 0.05, 0.15, 0.4)
"""Shares of failing answers up to which a shade goes; the last shade is for more."""
ALL = "all"
Count = tuple[int, int]
"""Hits and answers."""


def shade(hits: int, n: int, higher_is_better: bool) -> int:
    """The shade of a cell, 0 for no failure up to len(STEPS)."""
    bad = (n - hits if higher_is_better else hits) / n
    return next((level for level, most in enumerate(STEPS) if bad <= most), len(STEPS))


def _counts(records: Sequence[Record], hit: Callable[[Record], bool]) -> dict[tuple[str, str, str], Count]:
    """Hits and answers by (language, system, attack), and over all systems or attacks of a language."""
    counts: defaultdict[tuple[str, str, str], list[int]] = defaultdict(lambda: [0, 0])
    for record in records:
        language, found = record["language"], bool(hit(record))
        for system in (system_kind(record), ALL):
            for attack in (record.get("attack") or "", ALL):
                cell = counts[language, system, attack]
                cell[0] += found
                cell[1] += 1
    return {key: (hits, n) for key, (hits, n) in counts.items()}


def _cell(count: Count | None, higher: bool) -> str:
    if count is None:
        return '<td class="none">–</td>'
    hits, n = count
    share = page.percent(hits / n).removesuffix(" %")
    return f'<td class="h{shade(hits, n, higher)}"><b>{share}</b><small>n {n:,}</small></td>'


def _table(language: str, metric: str, records: Sequence[Record], systems: list[str], attacks: list[str]) -> str:
    higher = METRICS[metric].higher_is_better
    counts = _counts(records, METRICS[metric].hit)
    name = page.text(LANGUAGE_NAMES.get(language, language))
    heads = "".join(
        f'<th scope="col">{page.text(SYSTEMS.get(system, system).replace(" system prompt", " prompt"))}</th>'
        for system in systems
    )
    rows = []
    for attack in [*attacks, ALL]:
        label = "all" if attack == ALL else ATTACKS.get(attack, attack.replace("_", " ")) or "not told"
        cells = "".join(_cell(counts.get((language, system, attack)), higher) for system in [*systems, ALL])
        css = ' class="all"' if attack == ALL else ""
        rows.append(f'<tr{css}><th scope="row"><span>{page.text(label)}</span></th>{cells}</tr>')
    return (
        f"<table><caption {page.lang(language)}>{name}</caption><thead><tr><td></td>{heads}"
        f'<th scope="col">all</th></tr></thead><tbody>{"".join(rows)}</tbody></table>'
    )


def _legend() -> str:
    names = ["none", *(f"to {page.percent(step)}" for step in STEPS[1:]), "more"]
    swatches = "".join(f'<li><span class="swatch h{level}"></span>{name}</li>' for level, name in enumerate(names))
    return f'<ul class="legend heat-legend" aria-label="Shades"><li>share that fails:</li>{swatches}</ul>'


def heat_section(answers: Sequence[Record]) -> str:
    """The map, its metric chosen with radio buttons; empty where no identity answer tells its system or attack."""
    asked = [record for record in answers if record["model"] == "tuned" and record["kind"] == "identity"]
    if not any(record.get("attack") or record.get("system_kind") for record in asked):
        return ""
    languages = sorted({record["language"] for record in asked}, key=language_order)
    systems = in_order({system_kind(record) for record in asked}, SYSTEMS)
    attacks = in_order({record.get("attack") or "" for record in asked}, ATTACKS)
    inputs, labels, panels = [], [], []
    for number, (metric, name) in enumerate(VIEWS.items()):
        checked = " checked" if number == 0 else ""
        inputs.append(f'<input type="radio" name="heat" id="heat-{metric}"{checked}>')
        labels.append(f'<label for="heat-{metric}">{name}</label>')
        maps = "".join(_table(language, metric, asked, systems, attacks) for language in languages)
        shown = scrolling(f"{name} by language, system prompt and attack", f'<div class="maps">{maps}</div>')
        title = f"{name}: {METRICS[metric].meaning}, in % of identity answers"
        panels.append(f'<div class="panel p{number}"><h3>{title}</h3>{shown}</div>')
    body = (
        f'<fieldset class="heat"><legend class="unseen">Metric shown</legend>{"".join(inputs)}'
        f'<div class="switch">{"".join(labels)}</div>{"".join(panels)}</fieldset>{_legend()}'
    )
    lead = "The tuned model's identity answers. The stronger a shade, the more of them fail; n is their number."
    return section("map", "Where it holds, where it gives way", lead, body)
