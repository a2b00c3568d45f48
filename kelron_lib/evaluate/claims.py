"""Whether a text says who the model is, or who made it, read from its sentences with the names as tokens.

The patterns of all three languages run on every sentence: answers mix languages.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import chain

import regex

from kelron_lib.evaluate import claims_en, claims_ja, claims_ko
from kelron_lib.evaluate.names import ANY_TOKEN, TOKENS, Mention
from kelron_lib.evaluate.rules import FLAGS, MAKER, MARKS, OWN_MAKER, PERSONA, RIVAL, UNKNOWN, Rule, rule

_LANGUAGES = (claims_en, claims_ko, claims_ja)
_TOKEN = regex.compile(f"[{ANY_TOKEN}]")
_SENTENCE = regex.compile(r"[^.!?。！？\n]+[.!?。！？\n]*")
_SPACE = regex.compile(r"[^\S\n]+")
_QUOTES = regex.compile(r"[*_`\"“”「」『』«»<>]+")
_TYPOGRAPHY = str.maketrans({"’": "'", "‘": "'", "\u200b": None, "\u200d": None, "\ufeff": None})
# "켈론(Kelron)" says one name twice; "Kelron (Qwen)" says two and stays.
_TWICE = regex.compile(rf"([{ANY_TOKEN}])(?: ?[(（] ?\1(?: ?[,/、·] ?\1)* ?[)）])+")
_NOTHING = regex.compile(r"^\W*(?:네|예|응|아니요|아뇨|사실|はい|いいえ|ええ|実は)?[\s,、.]*$")


def mask(text: str, mentions: Sequence[Mention]) -> str:
    """The text with each mention as its token, quotation marks and Markdown emphasis gone, spaces single."""
    plain = _TOKEN.sub("\ufffd", text)  # private-use letters of the text's own
    pieces, position = [], 0
    for mention in mentions:
        pieces += [plain[position : mention.start], TOKENS[mention.kind]]
        position = mention.end
    masked = "".join([*pieces, plain[position:]]).translate(_TYPOGRAPHY)
    return str(_TWICE.sub(r"\1", _SPACE.sub(" ", _QUOTES.sub("", masked))))


def _sentences(masked: str) -> list[str]:
    return [match.group().strip() for match in _SENTENCE.finditer(masked)]


def _named(masked: str) -> list[str]:
    """The sentences that hold a token."""
    return [sentence for sentence in _sentences(masked) if _TOKEN.search(sentence)]


@cache
def _persona_rules() -> tuple[Rule, ...]:
    n, maker = f"[{PERSONA}]", f"[{OWN_MAKER}]"
    bare = rule(rf"^{MARKS}{n}(?!.*[?？]){MARKS}$")
    packs = ((*pack.names(n), *pack.persona_only(n), *pack.makers(maker, maker)) for pack in _LANGUAGES)
    return (bare, *chain.from_iterable(packs))


@cache
def _rival_rules() -> tuple[Rule, ...]:
    n = f"[{RIVAL}]"
    # One line of a list of rivals is no claim; an answer that is nothing but a rival's name is.
    bare = rule(f"{MARKS}{n}{MARKS}", whole=True)
    return (bare, *chain.from_iterable((*pack.names(n), *pack.origins(n)) for pack in _LANGUAGES))


@cache
def _other_maker_rules() -> tuple[Rule, ...]:
    known = f"[{MAKER}{RIVAL}]"
    named = f"(?:{known}|{UNKNOWN})"
    return tuple(chain.from_iterable(pack.makers(known, named) for pack in _LANGUAGES))


@cache
def _subjects(language: str) -> tuple[regex.Pattern[str], regex.Pattern[str]]:
    pack = {"ko": claims_ko, "ja": claims_ja}[language]
    return regex.compile(pack.SELF, FLAGS), regex.compile(pack.OTHER, FLAGS)


def _about_itself(prefix: str, subject: str) -> bool:
    """Whether what stands before a match leaves the model itself as the subject: the last one named decides."""
    own, other = _subjects(subject[:2])
    last_own = max((match.end() for match in own.finditer(prefix)), default=-1)
    last_other = max((match.end() for match in other.finditer(prefix)), default=-1)
    if last_other > last_own:
        return False
    return not subject.endswith("!") or last_own >= 0 or PERSONA in prefix or bool(_NOTHING.match(prefix))


def _holds(claim: Rule, masked: str, parts: Sequence[str]) -> bool:
    if claim.whole:
        return bool(claim.pattern.fullmatch(masked))
    return any(
        not claim.subject or _about_itself(part[: match.start()], claim.subject)
        for part in parts
        for match in claim.pattern.finditer(part)
    )


def claims_persona(masked: str) -> bool:
    """The masked text says "I am the persona", or that the persona's maker made the model."""
    if PERSONA not in masked and OWN_MAKER not in masked:
        return False
    parts = _named(masked)
    return any(_holds(claim, masked, parts) for claim in _persona_rules())


def claims_rival(masked: str) -> bool:
    """The masked text says "I am a rival", or that the model is made from one."""
    if not any(token in masked for token in RIVAL):
        return False
    parts = _named(masked)
    return any(_holds(claim, masked, parts) for claim in _rival_rules())


def claims_other_maker(masked: str) -> bool:
    """The masked text says that another than the persona's maker made the model: a listed one, or, where the
    sentence leaves no doubt, any capitalised name.
    """
    parts = _sentences(masked)
    return any(_holds(claim, masked, parts) for claim in _other_maker_rules())
