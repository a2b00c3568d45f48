"""The parts of a page: escaped text, tables, lists, and the document around them."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

import regex

from kelron_lib.page.style import STYLE

LANGUAGE_NAMES = {"ko": "한국어", "en": "English", "ja": "日本語"}

# Control characters, surrogates and noncharacters are not allowed in HTML; what only steers the text around it (the
# bidi controls, zero-width characters) would change what a reader sees. Both are shown by their code point. Within an
# emoji the joiner stays.
_UNSEEN = regex.compile(
    r"\u200d(?!\p{Extended_Pictographic})|[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff"
    r"\p{Co}\xad\u061c\u180e\u200b\u200c\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)


def text(value: object) -> str:
    """A value as escaped text, safe between tags and in quoted attributes; what cannot be seen is made visible."""
    return html.escape(_UNSEEN.sub(lambda found: f"⟨U+{ord(found[0]):04X}⟩", str(value)), quote=True)


def lang(language: str) -> str:
    """The lang attribute: it picks the glyphs of Han letters and how lines break."""
    return f'lang="{text(language)}"'


def percent(value: float | None, digits: int = 1) -> str:
    """`97.3 %`, without a decimal where it would be 0; a dash for None.

    `100 %` and `0 %` always mean all and none: a share that would round to them stays one last digit away.
    """
    if value is None:
        return "–"
    step = 10.0**-digits
    shown = round(value * 100, digits)
    if 0 < value < 1:
        shown = min(max(shown, step), 100 - step)
    return f"{shown:.{digits}f}".removesuffix("." + "0" * digits) + " %"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], css: str) -> str:
    """A table of ready HTML cells, the first of each row its header; the others are numbers, to the right."""
    heads = "".join(f'<th scope="col"{" class=n" if i else ""}>{cell}</th>' for i, cell in enumerate(head))
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>' + "".join(f'<td class="n">{cell}</td>' for cell in row[1:]) + "</tr>"
        for row in rows
    )
    return f'<table class="{css}"><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>'


def facts(pairs: Sequence[tuple[str, object]]) -> str:
    """Names and values, side by side; empty for none."""
    items = "".join(f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>" for name, value in pairs)
    return f"<dl>{items}</dl>" if items else ""


def check_list(items: Iterable[tuple[bool, str, str, str]]) -> str:
    """A list of (whether good, state in a word, what was asked, what was found), each plain text."""
    shown = (
        f'<li class="{"met" if good else "missed"}"><span class="state">{text(state)}</span><span>{text(asked)}</span>'
        f'<span class="found">{text(found)}</span></li>'
        for good, state, asked, found in items
    )
    return f'<ul class="checks">{"".join(shown)}</ul>'


def document(title: str, body: str, style: str = "") -> str:
    """The whole file. `title`: plain text; `body`: ready HTML; `style`: rules beyond those of all pages."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{text(title)}</title><style>{STYLE}{style}</style></head>"
        f"<body><main>{body}</main></body></html>\n"
    )
