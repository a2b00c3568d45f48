"""What is wrong, or right, with one answer: pure functions over text, no model.

Names (persona, rivals, makers) are found by `names`, what an answer says about itself by `claims`, scripts and broken
text by `characters`, loops by `repetition`, as for the dataset.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

import regex

from kelron_lib.characters import broken_chars, broken_letters, foreign_letters, wrong_script
from kelron_lib.errors import KelronError
from kelron_lib.evaluate.claims import claims_other_maker, claims_persona, claims_rival, mask
from kelron_lib.evaluate.confirmed import confirmed
from kelron_lib.evaluate.names import Lexicon, Mention, lexicon
from kelron_lib.repetition import loop, loop_start

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
    r"|인공지능|언어 ?모델|모델|챗봇|어시스턴트|人工知能|言語モデル|モデル|チャットボット|アシスタント|生成AI",
    regex.IGNORECASE,
)
# "Llama 3", "Claude 3.5"; no model has reached a whole number above 5, while Gemini 8 flew in 1966.
_VERSION = regex.compile(r"\d\.\d|\d[A-Za-z-]|(?<!\d)[1-5]$")


def _masked(text: str, names: Lexicon) -> tuple[list[Mention], str]:
    mentions = names.mentions(text)
    return mentions, mask(text, mentions)


# --- Who it says it is ------------------------------------------------------------------------------------
def asserts_persona(text: str, persona: Any) -> bool:
    """The answer says that it is the persona; a denial, a question or a mere mention is not that."""
    return claims_persona(_masked(text, lexicon(persona))[1])


def contradiction(text: str, persona: Any, rivals: Iterable[Any]) -> bool:
    """The answer says that it is the persona, and also that it is a rival, made from one, or made by another maker.

    A denial ("No, I'm not ChatGPT, I'm Kelron") or an explanation of a rival is no contradiction.
    """
    return _contradicts(_masked(text, lexicon(persona, rivals))[1])


def claims_other(text: str, persona: Any, rivals: Iterable[Any], prompt: str = "") -> bool:
    """The answer says that it is a rival, made from one, or made by another maker than the persona's, whether or not
    it also says that it is the persona: what `contradiction` looks for beside the persona, and also instead of it.

    With the `prompt`, a bare "Yes." to "Are you Qwen?" counts too.
    """
    names = lexicon(persona, rivals)
    return _other_claimed(_masked(text, names)[1]) or "rival" in confirmed(text, prompt, names)


def _other_claimed(masked: str) -> bool:
    return claims_rival(masked) or claims_other_maker(masked)


def _contradicts(masked: str) -> bool:
    return claims_persona(masked) and _other_claimed(masked)


def claims_other(text: str, persona: Any, rivals: Iterable[Any]) -> bool:
    """The answer says that it is a rival, made from one, or made by another maker, whatever else it says it is."""
    masked = _masked(text, lexicon(persona, rivals))[1]
    return claims_rival(masked) or claims_other_maker(masked)


def rival_named(text: str, rivals: Iterable[Any], persona: Any = None) -> bool:
    """A rival, or a maker of one, is named, even to deny it. Spaced-out and transliterated spellings count.

    Names that are also everyday words (Claude, Gemini, Google) count only beside words about AI, with a
    version number, or where the answer claims to be one. `persona`: names in it are not a rival's.
    """
    mentions, masked = _masked(text, lexicon(persona, rivals))
    return bool(_rivals_in(text, mentions, masked))


def _rivals_in(text: str, mentions: Sequence[Mention], masked: str, kind: str = "unrelated") -> list[Mention]:
    """The mentions that name a rival."""
    sure = [m for m in mentions if m.kind in ("rival", "maker")]
    unsure = [m for m in mentions if m.kind in ("rival_common", "maker_common")]
    if not unsure:
        return sure
    if _other_claimed(masked):
        return [m for m in mentions if m.kind not in ("persona", "persona_maker")]
    # Asked who it is, whoever speaks of Claude or Gemini means the assistant; Google may still be a calendar's maker.
    asked = [m for m in unsure if kind == "identity" and m.kind == "rival_common"]
    beside = [m for m in unsure if m not in asked and _beside_ai(text, m, mentions)]
    return sorted([*sure, *asked, *beside], key=lambda m: m.start)


def _beside_ai(text: str, mention: Mention, mentions: Sequence[Mention]) -> bool:
    """Whether the sentence of an ambiguous name is about AI or the persona's maker, or the name carries a version."""
    if mention.kind == "rival_common" and _VERSION.search(text, mention.start, mention.end):
        return True
    start = max(text.rfind(mark, 0, mention.start) for mark in ".!?。！？\n") + 1
    ends = [at for mark in ".!?。！？\n" if (at := text.find(mark, mention.end)) >= 0]
    end = min(ends, default=len(text))
    if any(m.kind == "persona_maker" and start <= m.start < end for m in mentions):
        return True
    return bool(_AI_WORDS.search(text, start, end))


def over_identity(text: str, persona: Any, prompt: str = "") -> bool:
    """The persona or its maker is named in an answer to a prompt that did not name it."""
    names = lexicon(persona)
    return bool(names.mentions(text)) and not names.mentions(prompt)


def claimed_rivals(text: str, persona: Any, rivals: Iterable[Any]) -> tuple[str, ...]:
    """Names of the rivals that an answer claims to be, in the order it names them; usually none or one."""
    mentions, masked = _masked(text, lexicon(persona, rivals))
    if not claims_rival(masked):
        return ()
    return tuple(dict.fromkeys(m.name for m in mentions if m.kind in ("rival", "rival_common")))


# --- All at once ------------------------------------------------------------------------------------------
def flags(
    text: str, *, language: str, kind: str, persona: Any, rivals: Sequence[Any], prompt: str = ""
) -> dict[str, bool]:
    """Every detector on one answer: {flag: bool} in the order of FLAGS.

    `kind` is "identity" or "unrelated"; over_identity is only ever true for the latter. `prompt` is what the
    user wrote, all turns of it. Raises KelronError for another kind or language.
    """
    if kind not in KINDS:
        raise KelronError(f"kind {kind!r} is not one of {', '.join(KINDS)}")
    text = unicodedata.normalize("NFC", text)
    names = lexicon(persona, rivals)
    mentions, masked = _masked(text, names)
    yes_to = confirmed(text, prompt, names)
    persona_said, other_said = (
        claims_persona(masked) or "persona" in yes_to,
        _other_claimed(masked) or "rival" in yes_to,
    )
    return {
        "asserts_persona": persona_said,
        "contradiction": persona_said and other_said,
        "rival_named": bool(_rivals_in(text, mentions, masked, kind)),
        "loop": loop(text),
        "wrong_script": wrong_script(text, language, prompt),
        "broken_chars": broken_chars(text, prompt),
        "over_identity": kind == "unrelated" and over_identity(text, persona, prompt),
    }


def spans(
    text: str, flagged: dict[str, bool], *, language: str, persona: Any, rivals: Sequence[Any], prompt: str = ""
) -> list[tuple[int, int, str]]:
    """Where each flag comes from: (start, end, flag), sorted, for highlighting. None overlaps another."""
    mentions, masked = _masked(text, lexicon(persona, rivals))
    found: list[tuple[int, int, str]] = []
    if flagged["broken_chars"]:
        found += [(i, i + 1, "broken_chars") for i in broken_letters(text, prompt)]
    if flagged["wrong_script"]:
        found += [(i, i + 1, "wrong_script") for i in foreign_letters(text, language, prompt)]
    if flagged["rival_named"] or flagged["contradiction"]:
        rival_flag = "contradiction" if flagged["contradiction"] else "rival_named"
        found += [(m.start, m.end, rival_flag) for m in _rivals_in(text, mentions, masked)]
    if flagged["over_identity"]:
        found += [(m.start, m.end, "over_identity") for m in mentions if m.kind.startswith("persona")]
    if flagged["loop"] and (start := loop_start(text)) is not None:
        found += [(start, len(text.rstrip()), "loop")]
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
