"""Answers as HTML: what a model wrote is never markup, and what gave a fault away is highlighted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kelron_lib.page import lang, text

FLAG_LABELS = {
    "contradiction": "contradicts itself",
    "rival_named": "names a rival",
    "loop": "loops",
    "wrong_script": "wrong script",
    "broken_chars": "broken characters",
    "over_identity": "names itself unasked",
}
LONGEST = 900
"""Characters of an answer that the report shows."""


def highlighted(answer: str, spans: Sequence[Sequence[Any]]) -> str:
    """The answer with its flagged spans in <mark>, cut at LONGEST characters. `spans`: sorted (start, end, flag)."""
    pieces, position = [], 0
    shown = answer[:LONGEST]
    for start, end, flag in spans:
        start, end = max(start, position), min(end, len(shown))
        if start >= end:
            continue
        title = text(FLAG_LABELS.get(flag, flag))
        pieces += [text(shown[position:start]), f'<mark title="{title}">{text(shown[start:end])}</mark>']
        position = end
    pieces.append(text(shown[position:]))
    if len(answer) > LONGEST:
        pieces.append(f'<span class="soft"> … {len(answer) - LONGEST} more characters</span>')
    return "".join(pieces)


def marks(record: Mapping[str, Any], persona: str) -> str:
    """The findings on an answer as small labels; empty where there is nothing to say."""
    found = []
    if record["kind"] == "identity":
        says = record["flags"]["asserts_persona"]
        found.append(
            f'<span class="mark {"good" if says else "warn"}">{"says" if says else "not"} {text(persona)}</span>'
        )
    found += [f'<span class="mark">{label}</span>' for flag, label in FLAG_LABELS.items() if record["flags"][flag]]
    if not record["stopped"]:
        found.append('<span class="mark warn">cut off at the limit</span>')
    return f'<div class="marks">{"".join(found)}</div>' if found else ""


def said(record: Mapping[str, Any], persona: str) -> str:
    """One model's answer: who speaks, the text with its flags highlighted, the labels."""
    answer = highlighted(record["answer"], record.get("spans") or ())
    body = (
        f"<p {lang(record['language'])}>{answer}</p>" if record["answer"].strip() else '<p class="empty">(no text)</p>'
    )
    model = text(record["model"])
    return f'<div class="said"><h3 class="{model}">{model}</h3>{body}{marks(record, persona)}</div>'
