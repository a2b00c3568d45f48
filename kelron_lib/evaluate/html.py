"""HTML from untrusted text: escaping, highlighted answers, tables. What a model wrote is never markup."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import regex

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

# Control characters, surrogates and noncharacters are not allowed in HTML: show that there was one.
_NOT_HTML = regex.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")


def text(value: object) -> str:
    """A value as escaped text, safe between tags and in quoted attributes."""
    return html.escape(_NOT_HTML.sub("\ufffd", str(value)), quote=True)


def lang(language: str) -> str:
    """The lang attribute: it picks the glyphs of Han letters and how lines break."""
    return f'lang="{text(language)}"'


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


def table(head: Sequence[str], rows: Sequence[Sequence[str]], css: str) -> str:
    """A table of ready HTML cells, the first of each row its header; the others are numbers, to the right."""
    heads = "".join(f'<th scope="col"{" class=n" if i else ""}>{cell}</th>' for i, cell in enumerate(head))
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>' + "".join(f'<td class="n">{cell}</td>' for cell in row[1:]) + "</tr>"
        for row in rows
    )
    return f'<table class="{css}"><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>'
