"""The widget's HTML: everything a model or a person wrote is escaped first, then lightly formatted."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from kelron_lib.chat.dialogue import visible
from kelron_lib.chat.flags import Findings

_FENCE = re.compile(r"^```[^\n`]*\n(.*?)(?:^```[ \t]*$\n?|\Z)", re.MULTILINE | re.DOTALL)
_BOLD = re.compile(r"\*\*(?=\S)([^*\n]+)\*\*")
_CODE = re.compile(r"`([^`\n]+)`")
_MARKS = {"\ue200": "<mark>", "\ue201": "</mark>"}  # private use: they stand for tags until all is escaped
_HEADING = re.compile(r"^#{1,6} +(.+)$", re.MULTILINE)

# Colours of our own are mixed with the page's text colour: dark on a light page, light on a dark one, whatever a front
# end calls its themes.
STYLE = """
<style>
.kelron-chat { --kc-ink: var(--jp-ui-font-color0, #1a1d21); --kc-card: var(--jp-layout-color1, #fff);
  --kc-soft: rgba(127, 137, 150, .1); --kc-line: rgba(127, 137, 150, .35);
  --kc-quiet: color-mix(in srgb, var(--kc-ink) 74%, var(--kc-card)); --kc-accent: #2457c5;
  --kc-focus: color-mix(in oklab, #2f6fe4 72%, var(--kc-ink));
  --kc-bad: color-mix(in oklab, #dd2a50 58%, var(--kc-ink));
  --kc-bad-soft: color-mix(in oklab, #dd2a50 14%, var(--kc-card));
  --jp-widgets-dropdown-arrow: url("data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 18 18'%3E\
%3Cpath d='m5 7.5 4 4 4-4' fill='none' stroke='%237f8996' stroke-width='2'/%3E%3C/svg%3E");
  container-type: inline-size; width: 100%; max-width: 960px; border: 1px solid var(--kc-line); border-radius: 12px;
  background: var(--kc-card); color: var(--kc-ink); padding: 14px 16px 12px; overflow: hidden;
  box-sizing: border-box; }
.kelron-chat :is(button, select, input, textarea, summary):focus-visible, .kelron-chat .kc-transcript:focus-visible {
  outline: 2px solid var(--kc-focus) !important; outline-offset: 1px; }
.kelron-chat > .widget-html { margin: 0; }
.kelron-chat .kc-row { flex-wrap: wrap; gap: 8px 14px; align-items: center; overflow: visible; }
.kelron-chat .kc-row > * { margin: 0; max-width: 100%; }
.kelron-chat .kc-row + .kc-row { margin-top: 8px; }
.kelron-chat .widget-textarea { margin: 8px 0 0; max-width: 100%; box-sizing: border-box; }
.kelron-chat .kc-probes { gap: 6px 8px; margin-top: 10px; }
.kelron-chat :lang(ko) { word-break: keep-all; }
.kelron-chat .kc-probes button { border-radius: 999px; padding: 0 12px; font-size: 12px; line-height: 26px;
  height: 26px; }
.kelron-chat input[type="number"] { min-width: 0; }
.kelron-chat option { background: var(--kc-card); color: var(--kc-ink); }
/* Labels that only a screen reader needs */
.kelron-chat .kc-hidden, .kelron-chat .kc-nolabel > .widget-label { position: absolute; width: 1px; height: 1px;
  overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
/* Radio buttons as one segmented control: arrow keys and names come with them */
.kelron-chat .kc-modes { width: auto; height: auto; overflow: visible; padding: 3px; border-radius: 9px;
  background: var(--kc-soft); position: relative; }
.kelron-chat .kc-modes .widget-radio-box { display: flex; flex-direction: row; margin: 0; gap: 2px; width: auto; }
.kelron-chat .kc-modes label { margin: 0; padding: 0 12px; height: 26px; line-height: 26px; border-radius: 7px;
  width: auto; cursor: pointer; color: var(--kc-quiet); }
.kelron-chat .kc-modes label:has(:checked) { background: var(--kc-card); color: inherit; font-weight: 600;
  box-shadow: 0 0 0 1px var(--kc-line), 0 1px 2px rgba(0, 0, 0, .2); }
.kelron-chat .kc-modes label:has(:focus-visible) { outline: 2px solid var(--kc-focus); }
.kelron-chat .kc-modes input { position: absolute; opacity: 0; width: 1px; height: 1px; margin: 0; }
.kelron-chat .kc-transcript { display: flex; flex-direction: column-reverse; overflow-y: auto;
  overscroll-behavior: contain; position: relative; margin: 12px 0 4px; padding: 6px 12px 12px; border-radius: 10px;
  background: var(--kc-soft); box-sizing: border-box; }
.kelron-chat .kc-turns { overflow: visible; flex: 0 0 auto; width: 100%; }
.kelron-chat .kc-turns .widget-html { margin: 0; width: 100%; }
.kelron-chat .kc-turns .widget-html-content { line-height: 1.6; font-size: 14px; }
.kelron-chat .kc-bubble { position: relative; border-radius: 12px; padding: 8px 12px; white-space: pre-wrap;
  overflow-wrap: anywhere; min-width: 0; box-sizing: border-box; }
.kelron-chat .kc-user { margin: 12px 0 10px auto; width: fit-content; max-width: 80%;
  background: var(--kc-accent); color: #fff; border-bottom-right-radius: 4px; }
.kelron-chat .kc-answers { display: grid; gap: 10px; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(min(260px, 100%), 1fr)); }
.kelron-chat .kc-answers.kc-one { max-width: 88%; }
.kelron-chat .kc-answer { background: var(--kc-card); border: 1px solid var(--kc-line);
  border-left: 3px solid #8a93a0; border-bottom-left-radius: 4px; }
.kelron-chat .kc-tuned { border-left-color: #0d8a72; }
.kelron-chat .kc-error { border-left-color: #c4314b; grid-column: 1 / -1; }
.kelron-chat .kc-who { display: block; white-space: normal; font-size: 11px; line-height: 18px;
  font-weight: 600; letter-spacing: .05em; text-transform: uppercase; color: var(--kc-quiet); }
.kelron-chat .kc-note { display: block; white-space: normal; font-size: 12px; color: var(--kc-quiet); }
.kelron-chat .kc-flag { display: inline-block; margin: 6px 6px 2px 0; padding: 0 9px; border-radius: 999px;
  font-size: 12px; line-height: 20px; background: var(--kc-bad-soft); color: var(--kc-bad); }
.kelron-chat mark { background: var(--kc-bad-soft); color: var(--kc-bad); border-bottom: 2px solid #c4314b; }
.kelron-chat .kc-answer code, .kelron-chat .kc-answer pre { font-size: 13px; color: inherit;
  background: var(--kc-soft); border-radius: 5px; }
.kelron-chat .kc-answer code { padding: 1px 4px; }
.kelron-chat .kc-answer pre { margin: 6px 0; padding: 8px 10px; overflow-x: auto; white-space: pre; }
.kelron-chat .kc-answer pre code { padding: 0; background: none; }
.kelron-chat .kc-answer summary { cursor: pointer; font-size: 12px; color: var(--kc-quiet); }
.kelron-chat .kc-caret::after { content: ""; display: inline-block; width: 7px; height: 1em; margin-left: 2px;
  vertical-align: text-bottom; background: currentColor; opacity: .5; animation: kc-blink 1s steps(2) infinite; }
.kelron-chat .kc-empty { display: grid; place-items: center; height: 430px; text-align: center;
  color: var(--kc-quiet); }
.kelron-chat .kc-status { overflow-wrap: anywhere; font-size: 12px; line-height: 20px; color: var(--kc-quiet); }
.kelron-chat .kc-warn { display: inline-block; padding: 0 8px; border-radius: 6px; color: var(--kc-bad);
  background: var(--kc-bad-soft); }
.kelron-chat .kc-entry { flex-wrap: nowrap; gap: 8px; }
.kelron-chat .kc-input { flex: 1 1 auto; min-width: 0; width: auto; position: relative; }
.kelron-chat .kc-input input { border-radius: 7px; }
.kelron-chat .kc-row button { flex: none; border-radius: 7px; }
@container (max-width: 520px) {
  .kelron-chat .kc-settings { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 6px 12px;
    align-items: end; }
  .kelron-chat .kc-settings > .kc-modes { grid-column: 1 / -1; justify-self: start; }
  .kelron-chat .kc-settings > :not(.kc-modes) { flex-direction: column; align-items: stretch; height: auto;
    width: auto !important; }
  .kelron-chat .kc-settings > :not(.kc-modes) > label { width: auto; margin: 0; text-align: left; line-height: 20px; }
  .kelron-chat .kc-settings > :not(.kc-modes) > :is(select, input) { flex: none; width: 100%; height: 28px; }
}
@keyframes kc-blink { to { opacity: 0; } }
@media (prefers-reduced-motion: reduce) { .kelron-chat .kc-caret::after { animation: none; } }
</style>
"""


@dataclass(frozen=True)
class Bubble:
    """One answer as it is shown."""

    who: str
    """base, tuned or error."""
    text: str
    findings: Findings = field(default_factory=Findings)
    note: str = ""
    """A short remark under the answer, such as that it was stopped."""
    details: str = ""
    """What only somebody who looks for it needs, folded away: a traceback."""
    writing: bool = False
    """Still growing."""


def safe(text: str) -> str:
    """Plain text without markup, for HTML."""
    return html.escape(visible(text), quote=True)


def formatted(text: str, spans: Sequence[tuple[int, int, str]] = ()) -> str:
    """Text as HTML: escaped; then code, bold, headings and the spans (start, end, label) are marked up.

    Line breaks are kept by the style.
    """
    parts, position = [], 0
    escaped = safe(_with_marks(text, spans))
    for fence in _FENCE.finditer(escaped):
        parts += [_inline(escaped[position : fence.start()]), f"<pre><code>{fence.group(1)}</code></pre>"]
        position = fence.end()
    marked = "".join([*parts, _inline(escaped[position:])])
    for mark, tag in _MARKS.items():
        marked = marked.replace(mark, tag)
    return marked


def _with_marks(text: str, spans: Sequence[tuple[int, int, str]]) -> str:
    start_mark, end_mark = _MARKS
    plain = text.replace(start_mark, "\ufffd").replace(end_mark, "\ufffd")
    for start, end, _ in reversed(spans):
        plain = f"{plain[:start]}{start_mark}{plain[start:end]}{end_mark}{plain[end:]}"
    return plain


def _inline(escaped: str) -> str:
    pieces = _CODE.split(escaped)  # text, code, text, ...: nothing is marked up inside code
    for i in range(0, len(pieces), 2):
        pieces[i] = _HEADING.sub(r"<strong>\1</strong>", _BOLD.sub(r"<strong>\1</strong>", pieces[i]))
    for i in range(1, len(pieces), 2):
        pieces[i] = f"<code>{pieces[i]}</code>"
    return "".join(pieces)


def turn(prompt: str, language: str, bubbles: Sequence[Bubble]) -> str:
    """A question and the answers to it, side by side where there is room."""
    spoken = f'lang="{safe(language)}"'
    user = (
        f'<div class="kc-bubble kc-user"><span class="kc-hidden">You: </span><span {spoken}>{safe(prompt)}</span></div>'
    )
    one = " kc-one" if len(bubbles) == 1 else ""
    return f'{user}<div class="kc-answers{one}" {spoken}>{"".join(map(_bubble, bubbles))}</div>'


def _bubble(bubble: Bubble) -> str:
    caret = "kc-text kc-caret" if bubble.writing else "kc-text"
    flags = "".join(f'<span class="kc-flag">{safe(label)}</span>' for label in bubble.findings.labels)
    folded = f"<details><summary>Details</summary><pre>{safe(bubble.details)}</pre></details>"
    note = f'<span class="kc-note">{safe(bubble.note)}</span>' if bubble.note else ""
    return (
        f'<div class="kc-bubble kc-answer kc-{safe(bubble.who)}"><span class="kc-who">{safe(bubble.who)}</span>'
        f'<span class="{caret}">{formatted(bubble.text, bubble.findings.spans)}</span>{note}'
        + (f'<div role="group" aria-label="Flags">{flags}</div>' if flags else "")
        + (folded if bubble.details else "")
        + "</div>"
    )


def status(text: str, *, warn: bool = False) -> str:
    """The line under the transcript, which screen readers announce."""
    inner = f'<span class="kc-warn">{safe(text)}</span>' if warn else safe(text)
    return f'<div class="kc-status" role="status" aria-live="polite">{inner or "&nbsp;"}</div>'


def empty(name: str) -> str:
    """What an empty transcript shows."""
    return f'<div class="kc-empty">Ask {safe(name)} something, for example who it is.</div>'
