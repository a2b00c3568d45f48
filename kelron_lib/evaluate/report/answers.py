"""The answers that the report shows: some that tell the change, the worst, and those that fail a check."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain, groupby
from typing import Any

from kelron_lib import page
from kelron_lib.evaluate.gate import slice_value
from kelron_lib.evaluate.metrics import language_order
from kelron_lib.evaluate.report.parts import Board, Record, count_word, folded, section, slice_name
from kelron_lib.evaluate.report.said import card, legend, turns
from kelron_lib.evaluate.report.verdict import failing, split_text

PER_LANGUAGE = {"identity": 2, "unrelated": 1}
"""Example pairs per language."""
WORST = 12
"""Tuned answers with a fault that are shown."""
ALIKE = 2
"""Of the worst, so many of one language with the same fault come before others have been shown."""
MOST_NAMED = 10
"""Slices, and answers, that are shown of a metric that fails."""
_BAD = ("contradiction", "rival_named", "over_identity", "loop", "wrong_script", "broken_chars")

Pair = tuple[Record | None, Record]
"""The base's answer, where it was asked the same, and the tuned model's."""


def _pairs(answers: Sequence[Record]) -> list[Pair]:
    """Base and tuned answers to the same prompt, in the order of the prompts."""
    base = {record["id"]: record for record in answers if record["model"] == "base"}
    return [(base.get(record["id"]), record) for record in answers if record["model"] == "tuned"]


# --- Examples ---------------------------------------------------------------------------------------------
def _tells_most(pair: Pair) -> tuple[bool, bool, bool, bool, int]:
    """Sort key: pairs that show the change first, whole answers before cut ones, shorter questions first."""
    base, tuned = pair
    changed = bool(base and base["flags"]["rival_named"]) and tuned["flags"]["asserts_persona"]
    wrong = any(tuned["flags"][flag] for flag in _BAD)
    identity = tuned["kind"] == "identity"
    return (bool(turns(tuned)), identity and not changed, wrong, not tuned["stopped"], len(tuned["prompt"]))


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


def examples_section(answers: Sequence[Record], persona: str) -> str:
    """The same questions to both models; empty without answers."""
    chosen = choose_examples(answers)
    if not chosen:
        return ""
    lead = "The same question to both models." if any(base for base, _ in chosen) else "A few of its answers."
    return section("examples", "In their own words", lead, "".join(card(t, persona, base) for base, t in chosen))


# --- The worst --------------------------------------------------------------------------------------------
def faults(record: Record) -> int:
    """How gravely an answer is at fault, 0 for not at all: its flags, then a missing end or name."""
    named = record["kind"] == "unrelated" and record.get("rival_in_prompt")  # it was asked to tell of one
    wrong = sum(record["flags"][flag] for flag in _BAD if not (named and flag == "rival_named"))
    gravity = 4 * wrong + 2 * (not record["stopped"])
    for turn in record.get("earlier") or ():
        gravity += any(turn["flags"][flag] for flag in _BAD)
    return gravity + (record["kind"] == "identity" and not record["flags"]["asserts_persona"])


def worst_answers(answers: Sequence[Record]) -> list[Pair]:
    """The pairs whose tuned answer is at fault, the gravest first."""
    return sorted((pair for pair in _pairs(answers) if faults(pair[1])), key=lambda pair: -faults(pair[1]))


def _varied(worst: Sequence[Pair], most: int) -> list[Pair]:
    """The gravest, in their order, but not all of one fault in one language while there are others."""
    alike: Counter[tuple[Any, ...]] = Counter()
    first: list[int] = []
    rest: list[int] = []
    for number, (_, record) in enumerate(worst):
        likeness = (record["language"], *(flag for flag in _BAD if record["flags"][flag]))
        alike[likeness] += 1
        (first if alike[likeness] <= ALIKE else rest).append(number)
    return [worst[number] for number in sorted([*first, *rest][:most])]


def worst_section(answers: Sequence[Record], persona: str) -> str:
    """The worst answers of the tuned model, what gave each away highlighted."""
    worst = worst_answers(answers)
    total = sum(record["model"] == "tuned" for record in answers)
    if not total:
        return ""
    if not worst:
        return section("worst", "Faults", f"None of the {total:,} answers of the tuned model has one.", "")
    shown = f", {count_word(WORST)} of the gravest here" if len(worst) > WORST else ""
    lead = f"{len(worst):,} of {total:,} tuned answers are at fault{shown}. What gave it away is highlighted."
    cards = "".join(card(tuned, persona, base) for base, tuned in _varied(worst, WORST))
    return section("worst", "The worst answers", lead, legend() + cards)


# --- What fails the policy --------------------------------------------------------------------------------
def _example(example: Mapping[str, Any], records: Mapping[tuple[str, str], Record], persona: str) -> str:
    known = records.get((str(example["model"]), str(example["id"])))
    return card(known or {"kind": "unrelated", "system": "", **example}, persona)


def _lost_item(item: Mapping[str, Any]) -> str:
    """A multiple-choice item that only the base has right."""
    asked, right, tuned = (page.text(item[key]) for key in ("question", "right", "tuned"))
    return f'<li>{asked} <span class="soft">Right, and the base: {right}. Tuned: {tuned}.</span></li>'


def _distinct(groups: Iterable[Sequence[Any]], key: Callable[[Any], object]) -> list[Any]:
    """The entries of several lists in turn, at most MOST_NAMED, none twice by its `key`."""
    found: dict[object, Any] = {}
    for entry in chain.from_iterable(groups):
        found.setdefault(key(entry), entry)
    return list(found.values())[:MOST_NAMED]


def _failing_metric(
    checks: Sequence[Mapping[str, Any]], records: Mapping[tuple[str, str], Record], persona: str
) -> str:
    """The failing checks of one metric, which share their slices and answers as a rule."""
    heads = []
    for asked, found in map(split_text, checks):
        told = f'<p class="soft">Found {page.text(found)}</p>' if found else ""
        heads.append(f"<h3>{page.text(asked)}</h3>{told}")
    slices = "".join(
        f"<li><span>{page.text(slice_name(str(found['slice'])))}</span> "
        f'<span class="soft">{page.text(slice_value(checks[0], found))}</span></li>'
        for found in _distinct((c["failing"] for c in checks), lambda entry: entry["slice"])
    )
    where = f'<ul class="where-fails" aria-label="Slices that fail, worst first">{slices}</ul>' if slices else ""
    chosen = _distinct((c["examples"] for c in checks), lambda entry: (entry.get("model"), entry["id"]))
    lost = checks[0]["metric"] == "forgetting"
    shown = [_lost_item(example) if lost else _example(example, records, persona) for example in chosen]
    examples = f"<ul>{''.join(shown)}</ul>" if lost else "".join(shown)
    s = "s" if len(chosen) != 1 else ""
    name = f"{count_word(len(chosen))} {f'item{s} lost' if lost else f'answer{s}'}".capitalize()
    return f'<div class="finding missed">{"".join(heads)}{where}{folded(name, examples) if chosen else ""}</div>'


def failing_section(board: Board, answers: Sequence[Record]) -> str:
    """The checks that fail: in which slices, and up to ten answers of each; empty where all hold."""
    missed = failing(board)
    if not missed:
        return ""
    records = {(str(record["model"]), str(record["id"])): record for record in answers}
    by_metric: dict[str, list[Mapping[str, Any]]] = {}
    for check in missed:
        by_metric.setdefault(check["metric"], []).append(check)
    body = "".join(_failing_metric(checks, records, board["meta"]["persona"]) for checks in by_metric.values())
    lead = "Each check of the policy that is not met: the slices that fail it, worst first, and answers that do."
    return section("failing", "What fails the policy", lead, body)
