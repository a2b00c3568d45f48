"""What a claim's pattern is made of: the tokens it is written over, and when a match counts.

`claims_en`, `claims_ko` and `claims_ja` hold the patterns, `claims` applies them. Each pattern is written for an
affirmation, so that a denial ("I'm not N", "N이 아닙니다", "Nではありません") simply does not match.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import regex

from kelron_lib.evaluate.names import ANY_TOKEN, TOKENS

PERSONA = TOKENS["persona"]
OWN_MAKER = TOKENS["persona_maker"]
RIVAL = TOKENS["rival"] + TOKENS["rival_common"]
MAKER = TOKENS["maker"] + TOKENS["maker_common"]

FLAGS = regex.IGNORECASE | regex.VERSION1
MARKS = rf"[^\w{ANY_TOKEN}]*"
"""Punctuation and spaces, but no name (a token is no word character either)."""

# A maker that nobody listed: a capitalised name in the place of one.
UNKNOWN = (
    r"(?-i:(?!(?:AI|A|An|The|My|Our|I|It|Korea|Korean|Japan|Japanese|English|People|Humans?)\b)"
    r"[A-Z][\w&]*(?:\s[A-Z][\w&]*)*)"
)


def name_of(tokens: str) -> str:
    """A pattern of one of these names, with what may stand in brackets behind it: "N (the assistant)"."""
    return rf"[{tokens}](?:\s?[(（][^()（）\n]{{0,40}}[)）])?"


@dataclass(frozen=True)
class Rule:
    """One way to claim something."""

    pattern: Any
    subject: str = ""
    """`ko` or `ja`: only where no other subject stands before the match, for these languages drop "I". With `!` the
    sentence must name the model, or begin with the match."""
    whole: bool = False
    """The pattern has to match the whole text and not a sentence."""


def rule(*pattern: str, subject: str = "", whole: bool = False) -> Rule:
    """A rule from the parts of its pattern; case is ignored."""
    return Rule(regex.compile("".join(pattern), FLAGS), subject, whole)
