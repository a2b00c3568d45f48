"""What is wrong, or right, with one answer: pure functions over text, no model.

Names (persona, rivals, makers) are found by `names`. What an answer says about itself is found by `claims` in its
words, by `implied` in what it puts beside itself, and by `confirmed` where it is a bare yes to the prompt; what it
reports of others is left out (`reported`), as is a bare name where nobody asked for the model's own (`bare`). Wrong
scripts and languages are found by `language`, broken text by `garbled`, loops by `repetition`, and whether it ends by
`ending`.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import regex

from kelron_lib.errors import KelronError
from kelron_lib.evaluate.bare import is_bare
from kelron_lib.evaluate.claims import claims_other_maker, claims_persona, claims_rival, implies_another, mask
from kelron_lib.evaluate.confirmed import confirmed
from kelron_lib.evaluate.ending import terminated as terminated
from kelron_lib.evaluate.garbled import broken_chars, broken_spans
from kelron_lib.evaluate.language import foreign_spans, wrong_script
from kelron_lib.evaluate.names import Lexicon, Mention, lexicon
from kelron_lib.repetition import loop, loop_span

FLAGS = (
    "asserts_persona",
    "contradiction",
    "rival_named",
    "loop",
    "wrong_script",
    "broken_chars",
    "over_identity",
)
KINDS = ("identity", "unrelated")

_AI_WORDS = regex.compile(
    r"(?-i:\bAI\b|\bLLMs?\b)|\b(?:assistants?|(?:language|AI|chat) models?|chatbots?|artificial intelligence)\b"
    r"|\b(?:made?|makes?|buil[dt]s?|created?|creates|trains?|trained|develops?|developed|owns?|owned) me\b"
    r"|(?:저|나)를 (?:만|개발|학습|훈련)|私を(?:作|開発|訓練|学習)"
    r"|인공지능|언어 ?모델|모델|챗봇|어시스턴트|人工知能|言語モデル|モデル|チャットボット|アシスタント|生成AI",
    regex.IGNORECASE,
)
_SENTENCE_END = regex.compile(r"[.!?。！？\n]")
# "Llama 3", "Claude 3.5"; a whole number above 5 proves nothing: Gemini 8 flew in 1966.
_VERSION = regex.compile(r"\d\.\d|\d[A-Za-z-]|(?<!\d)[1-5]$")


@dataclass(frozen=True)
class _Said:
    """What one answer names, and says about itself."""

    mentions: tuple[Mention, ...]
    persona: bool
    claimed: bool
    """In so many words that it is another, or another's."""
    other: bool
    """In so many words, or by what it puts beside itself."""


@lru_cache(maxsize=64)  # several detectors look at one answer in turn
def _said(text: str, names: Lexicon, kind: str = "identity") -> _Said:
    mentions = names.mentions(text)
    masked = mask(text, mentions)
    if kind == "unrelated" and is_bare(masked):  # the app, the word or the sign that was asked for
        return _Said(tuple(mentions), claims_persona(masked), claimed=False, other=False)
    claimed = claims_rival(masked) or claims_other_maker(masked)
    return _Said(tuple(mentions), claims_persona(masked), claimed, claimed or implies_another(masked))


# --- Who it says it is ------------------------------------------------------------------------------------
def asserts_persona(text: str, persona: Any) -> bool:
    """The answer says that it is the persona; a denial, a question or a mere mention is not that."""
    return _said(text, lexicon(persona)).persona


def contradiction(text: str, persona: Any, rivals: Iterable[Any], prompt: str = "") -> bool:
    """The answer says that it is a rival, made from one, or made by another maker than the persona's: beside saying
    that it is the persona, or instead of it.

    A denial ("No, I'm not ChatGPT, I'm Kelron") or an explanation of a rival is no contradiction. With the `prompt`, a
    bare "Yes." to "Are you Qwen?" is one.
    """
    names = lexicon(persona, rivals)
    return _said(text, names).other or "rival" in confirmed(text, prompt, names)


def rival_named(text: str, rivals: Iterable[Any], persona: Any = None) -> bool:
    """A rival, or a maker of one, is named, even to deny it. Spaced-out and transliterated spellings count.

    Names that are also everyday words (Claude, Gemini, Google) count only beside words about AI, with a
    version number, or where the answer claims to be one. `persona`: names in it are not a rival's.
    """
    return bool(_rivals_in(text, _said(text, lexicon(persona, rivals))))


def _rivals_in(text: str, said: _Said, kind: str = "unrelated") -> list[Mention]:
    """The mentions that name a rival."""
    mentions = said.mentions
    sure = [m for m in mentions if m.kind in ("rival", "maker")]
    unsure = [m for m in mentions if m.kind in ("rival_common", "maker_common")]
    if not unsure:
        return sure
    if said.claimed or (kind == "identity" and said.other):
        return [m for m in mentions if m.kind not in ("persona", "persona_maker")]
    about_ai = _sentences_about_ai(text, mentions)
    return [
        m
        for m in mentions
        if m.kind in ("rival", "maker")
        # Asked who it is, whoever speaks of Gemini means the assistant; Google may still be a calendar's maker.
        or (m.kind == "rival_common" and (kind == "identity" or _VERSION.search(text, m.start, m.end)))
        or (m.kind in ("rival_common", "maker_common") and about_ai(m))
    ]


def _sentences_about_ai(text: str, mentions: Sequence[Mention]) -> Callable[[Mention], bool]:
    """Tells of a mention whether its sentence is about AI or the persona's maker; each sentence is read once."""
    ends = [match.start() for match in _SENTENCE_END.finditer(text)]
    own = [m.start for m in mentions if m.kind == "persona_maker"]

    @cache
    def about(start: int, end: int) -> bool:
        return bisect_left(own, start) < bisect_left(own, end) or bool(_AI_WORDS.search(text, start, end))

    def tell(mention: Mention) -> bool:
        first, last = bisect_left(ends, mention.start), bisect_left(ends, mention.end)
        return about(ends[first - 1] + 1 if first else 0, ends[last] if last < len(ends) else len(text))

    return tell


def over_identity(text: str, persona: Any, prompt: str = "") -> bool:
    """The persona or its maker is named in an answer to a prompt that did not name it."""
    names = lexicon(persona)
    return bool(names.mentions(text)) and not names.mentions(prompt)


def claimed_rivals(text: str, persona: Any, rivals: Iterable[Any]) -> tuple[str, ...]:
    """Names of the rivals that an answer claims to be, in the order it names them; usually none or one."""
    mentions = lexicon(persona, rivals).mentions(text)
    if not claims_rival(mask(text, mentions)):
        return ()
    return tuple(dict.fromkeys(m.name for m in mentions if m.kind in ("rival", "rival_common")))


# --- All at once ------------------------------------------------------------------------------------------
def flags(
    text: str, *, language: str, kind: str, persona: Any, rivals: Sequence[Any], prompt: str = ""
) -> dict[str, bool]:
    """Every detector on one answer: {flag: bool} in the order of FLAGS.

    `kind` is "identity" or "unrelated"; over_identity is only ever true for the latter, of which a rival's bare name
    is no self-claim. `prompt` is what the user wrote, all turns of it. Raises KelronError for another kind or language.
    """
    if kind not in KINDS:
        raise KelronError(f"kind {kind!r} is not one of {', '.join(KINDS)}")
    broken = broken_chars(text, prompt)  # before Hangul in pieces is put together
    text = unicodedata.normalize("NFC", text)
    names = lexicon(persona, rivals)
    said, yes_to = _said(text, names, kind), confirmed(text, prompt, names)
    persona_said, other_said = said.persona or "persona" in yes_to, said.other or "rival" in yes_to
    return {
        "asserts_persona": persona_said,
        "contradiction": other_said,
        "rival_named": bool(_rivals_in(text, said, kind)),
        "loop": loop(text),
        "wrong_script": wrong_script(text, language, prompt),
        "broken_chars": broken,
        "over_identity": kind == "unrelated" and over_identity(text, persona, prompt),
    }


def spans(
    text: str, flagged: dict[str, bool], *, language: str, persona: Any, rivals: Sequence[Any], prompt: str = ""
) -> list[tuple[int, int, str]]:
    """Where each flag comes from: (start, end, flag), sorted, for highlighting. None overlaps another."""
    said = _said(text, lexicon(persona, rivals))
    found: list[tuple[int, int, str]] = []
    if flagged["broken_chars"]:
        found += [(start, end, "broken_chars") for start, end in broken_spans(text, prompt)]
    if flagged["wrong_script"]:
        found += [(start, end, "wrong_script") for start, end in foreign_spans(text, language, prompt)]
    if flagged["rival_named"] or flagged["contradiction"]:
        rival_flag = "contradiction" if flagged["contradiction"] else "rival_named"
        found += [(m.start, m.end, rival_flag) for m in _rivals_in(text, said)]
    if flagged["over_identity"]:
        found += [(m.start, m.end, "over_identity") for m in said.mentions if m.kind.startswith("persona")]
    if flagged["loop"] and (looped := loop_span(text)):
        found.append((*looped, "loop"))
    return _apart(found)


def _apart(found: list[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
    """Earlier entries win over later ones that overlap them; neighbours of one flag become one span."""
    taken: list[tuple[int, int, str]] = []
    for start, end, flag in found:
        for other_start, other_end, _ in sorted(taken):
            if other_start < end and start < other_end:  # keep the part before, go on after
                if start < other_start:
                    taken.append((start, other_start, flag))
                start = other_end
        if start < end:
            taken.append((start, end, flag))
    merged: list[tuple[int, int, str]] = []
    for start, end, flag in sorted(taken):
        if merged and merged[-1][2] == flag and merged[-1][1] == start:
            merged[-1] = (merged[-1][0], end, flag)
        else:
            merged.append((start, end, flag))
    return merged
