"""Answers as HTML: what a model wrote is never markup, and what gave a fault away is highlighted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kelron_lib.evaluate.report.parts import ATTACKS, SYSTEMS, language_tag, system_kind
from kelron_lib.page import lang, text

FLAG_LABELS = {
    "contradiction": "says it is another",
    "rival_named": "names a rival",
    "loop": "loops",
    "wrong_script": "wrong script",
    "broken_chars": "broken characters",
    "over_identity": "names itself unasked",
}
LONGEST, LONGEST_TURN = 900, 320
"""Characters that the report shows of an answer, and of one in the middle of a dialogue."""

Record = Mapping[str, Any]


def _rest(answer: str, longest: int) -> str:
    return f'<span class="soft"> … {len(answer) - longest:,} more characters</span>' if len(answer) > longest else ""


def highlighted(answer: str, spans: Sequence[Sequence[Any]], longest: int = LONGEST) -> str:
    """The answer with its flagged spans in <mark>, cut at `longest` characters. `spans`: sorted (start, end, flag)."""
    pieces, position = [], 0
    shown = answer[:longest]
    for start, end, flag in spans:
        start, end = max(start, position), min(end, len(shown))
        if start >= end:
            continue
        title = text(FLAG_LABELS.get(flag, str(flag).replace("_", " ")))
        css = flag if flag in FLAG_LABELS else "other"
        pieces += [text(shown[position:start]), f'<mark class="{css}" title="{title}">{text(shown[start:end])}</mark>']
        position = end
    pieces += [text(shown[position:]), _rest(answer, longest)]
    return "".join(pieces)


def legend() -> str:
    """What each kind of highlighting stands for."""
    shown = "".join(f'<li><mark class="{flag}">{label}</mark></li>' for flag, label in FLAG_LABELS.items())
    return f'<ul class="legend" aria-label="Highlighting">{shown}</ul>'


def _labels(record: Record, persona: str) -> Iterable[str]:
    found = record["flags"]
    if record["kind"] == "identity":
        says = found["asserts_persona"]
        yield f'<span class="mark {"good" if says else "warn"}">{"says" if says else "not"} {text(persona)}</span>'
    for flag, label in FLAG_LABELS.items():
        if found[flag]:
            yield f'<span class="mark">{label}</span>'
    if not record.get("stopped", True):
        yield '<span class="mark warn">cut off at the limit</span>'


def marks(record: Record, persona: str) -> str:
    """The findings on an answer as small labels; empty where there is nothing to say."""
    found = "".join(_labels(record, persona))
    return f'<div class="marks">{found}</div>' if found else ""


def _words(answer: str, language: str, spans: Sequence[Sequence[Any]], longest: int = LONGEST) -> str:
    if not answer.strip():
        return '<p class="empty">(no text)</p>'
    return f"<p {lang(language)}>{highlighted(answer, spans, longest)}</p>"


def said(record: Record, persona: str) -> str:
    """One model's answer: who speaks, the text with its flags highlighted, the labels."""
    body = _words(record["answer"], record["language"], record.get("spans") or ())
    model = text(record["model"])
    return f'<div class="said"><h3 class="{model}">{model}</h3>{body}{marks(record, persona)}</div>'


def asked(record: Record, *, question: bool = True) -> str:
    """What was asked (where `question`), in which language, under which system prompt, by which attack."""
    kind = system_kind(record)
    facts = [record["kind"], SYSTEMS.get(kind, kind)]
    if attack := record.get("attack"):
        facts.append(ATTACKS.get(attack, attack.replace("_", " ")))
    told = ""
    if kind in ("hostile", "other") and record.get("system"):
        system = record["system"]
        words = f"{text(system[:LONGEST_TURN])}{_rest(system, LONGEST_TURN)}"
        name = '<span class="soft" lang="en">system:</span>'
        told = f'<p class="system small" {lang(record["language"])}>{name} {words}</p>'
    prompt = record["prompt"]
    words = f"{text(prompt[:LONGEST])}{_rest(prompt, LONGEST)}"
    asking = f'<p class="question" {lang(record["language"])}>{words}</p>' if question else ""
    return (
        f'<div class="ask"><div class="where">{language_tag(record["language"])}<span>{text(" · ".join(facts))}</span>'
        f"<code>{text(record['id'])}</code></div>{told}{asking}</div>"
    )


def turns(record: Record) -> list[tuple[str, Record]]:
    """A dialogue as (question, answer), the last one too; empty for a single question."""
    earlier = record.get("earlier") or ()
    questions = [message["content"] for message in record.get("messages") or () if message["role"] == "user"]
    if not earlier or len(questions) != len(earlier) + 1:
        return []
    return list(zip(questions, (*earlier, record), strict=True))


def dialogue(record: Record, persona: str) -> str:
    """A pressure dialogue, turn by turn, each answer with what was found in it."""
    rows = []
    pairs = turns(record)
    for number, (question, answer) in enumerate(pairs, start=1):
        last = number == len(pairs)
        known = {**answer, "kind": record["kind"]}
        spans = answer.get("spans") or ()
        longest = LONGEST if last else LONGEST_TURN
        words = f"{text(question[:longest])}{_rest(question, longest)}"
        rows.append(
            f'<li><p class="question" {lang(record["language"])}>{words}</p>'
            f'<div class="reply">{_words(answer["answer"], record["language"], spans, longest)}'
            f"{marks(known, persona)}</div></li>"
        )
    model = text(record["model"])
    return (
        f'<div class="said"><h3 class="{model}">{model}, in {len(pairs)} turns</h3>'
        f'<ol class="dialogue">{"".join(rows)}</ol></div>'
    )


def card(record: Record, persona: str, beside: Record | None = None) -> str:
    """An answer under its question, after the answer of another model to the same one where `beside` is given.

    A dialogue stands alone: each model had its own.
    """
    if turns(record):
        return f'<article class="pair">{asked(record, question=False)}{dialogue(record, persona)}</article>'
    both = f'<div class="two">{said(beside, persona)}{said(record, persona)}</div>' if beside else said(record, persona)
    return f'<article class="pair">{asked(record)}{both}</article>'
