"""Whether a text says who the model is, or who made it, read from its sentences with the names as tokens.

The patterns of a language run on every sentence that holds its script: answers mix languages.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from types import ModuleType

import regex

from kelron_lib.evaluate import claims_en, claims_ja, claims_ko
from kelron_lib.evaluate.names import ANY_TOKEN, TOKENS, Mention
from kelron_lib.evaluate.reported import without_reports
from kelron_lib.evaluate.rules import FLAGS, MAKER, MARKS, OWN_MAKER, PERSONA, RIVAL, UNKNOWN, Rule, name_of, rule

_PACKS: tuple[tuple[str, ModuleType], ...] = (("en", claims_en), ("ko", claims_ko), ("ja", claims_ja))
_SCRIPTS = {
    "en": regex.compile(r"[A-Za-z]"),
    "ko": regex.compile(r"[가-힣]"),
    "ja": regex.compile(r"[\p{Hiragana}\p{Katakana}\p{Han}]"),
}
_TOKEN = regex.compile(f"[{ANY_TOKEN}]")
_SENTENCE = regex.compile(r"[^.!?。！？\n]+[.!?。！？\n]*")
_SPACE = regex.compile(r"[^\S\n]+")
_QUOTES = regex.compile(r"[*_`\"“”「」『』«»<>]+")
_TYPOGRAPHY = str.maketrans({"’": "'", "‘": "'", "\u200b": None, "\u200d": None, "\ufeff": None})
_JAPANESE = r"[\p{Hiragana}\p{Katakana}\p{Han}]"
_GAPS = regex.compile(rf"(?<=[{ANY_TOKEN}]) (?={_JAPANESE})|(?<={_JAPANESE}) (?=[{ANY_TOKEN}])")  # "Q w e n です"
# "켈론(Kelron)" says one name twice; "Kelron (Qwen)" says two and stays.
_TWICE = regex.compile(rf"([{ANY_TOKEN}])(?: ?[(（] ?\1(?: ?[,/、·] ?\1)* ?[)）])+")
_NOTHING = regex.compile(  # "사실은 M의", "でも本当はMが作った"
    r"^\W*(?:(?:"
    + "|".join((claims_ko.FILLER, claims_ja.FILLER))
    + rf")[\s,、.…]*)*(?:[{MAKER}](?:\s?(?:의|에서|이|가|사의|の|が|社の|製の|によって)(?:\s?[^\s、,]{{2,6}})?\s?)?)?$"
)
_BEFORE = 300
"""Characters before a sentence without a subject in which its subject is looked for."""


@dataclass(frozen=True)
class _Part:
    """A sentence, what stands before it, and the languages whose script it holds."""

    text: str
    before: str
    languages: frozenset[str]


def mask(text: str, mentions: Sequence[Mention]) -> str:
    """The text with each mention as its token, other people's words without theirs, quotation marks and Markdown
    emphasis gone, spaces single.
    """
    plain = _TOKEN.sub("\ufffd", text)  # private-use letters of the text's own
    pieces, position = [], 0
    for mention in mentions:
        pieces += [plain[position : mention.start], TOKENS[mention.kind]]
        position = mention.end
    masked = "".join([*pieces, plain[position:]])
    if mentions:
        masked = without_reports(masked)
    masked = _SPACE.sub(" ", _QUOTES.sub("", masked.translate(_TYPOGRAPHY)))
    return str(_TWICE.sub(r"\1", _GAPS.sub("", masked)))


def _parts(masked: str, named: bool = True) -> list[_Part]:
    """The sentences, or those alone that hold a name."""
    return [
        _Part(
            match.group().strip(),
            masked[max(0, match.start() - _BEFORE) : match.start()],
            frozenset(language for language, script in _SCRIPTS.items() if script.search(match.group())),
        )
        for match in _SENTENCE.finditer(masked)
        if not named or _TOKEN.search(match.group())
    ]


@cache
def _persona_rules() -> tuple[tuple[str, Rule], ...]:
    n, maker = name_of(PERSONA), f"[{OWN_MAKER}]"
    bare = rule(rf"^{MARKS}{n}(?!.*[?？]){MARKS}$")
    packs = (
        (language, found)
        for language, pack in _PACKS
        for found in (*pack.names(n), *pack.persona_only(n), *pack.makers(maker, maker))
    )
    return (("", bare), *packs)


@cache
def _rival_rules() -> tuple[tuple[str, Rule], ...]:
    sure, common, n = name_of(TOKENS["rival"]), name_of(TOKENS["rival_common"]), name_of(RIVAL)
    # One line of a list of rivals is no claim; an answer that is nothing but a rival's name is.
    bare = rule(f"{MARKS}{n}{MARKS}", whole=True)
    bracketed = rule(rf"[{PERSONA}][^\w.!?\n]{{0,6}}[(（/]\s*(?:also |aka |formerly |즉 |=\s*)?{n}")
    packs = (
        (language, found)
        for language, pack in _PACKS
        for found in (*pack.names(sure), *_strict(pack.names(common)), *pack.origins(n))
    )
    return (("", bare), ("", bracketed), *packs)


def _strict(rules: Iterable[Rule]) -> list[Rule]:
    """For everyday words: "6월 10일은 쌍둥이자리, 영어로 Gemini입니다" is no claim, though no other subject is seen."""
    return [Rule(r.pattern, f"{r.subject[:2]}!", r.whole) if r.subject else r for r in rules]


@cache
def _other_maker_rules() -> tuple[tuple[str, Rule], ...]:
    known = f"[{MAKER}{RIVAL}]"
    named = f"(?:{known}|{UNKNOWN})"
    return tuple((language, found) for language, pack in _PACKS for found in pack.makers(known, named))


@cache
def _field_rules() -> tuple[regex.Pattern[str], ...]:
    """Lines of a table or a list about oneself: "- Maker: M"."""
    labels = "|".join(pack.FIELDS for _, pack in _PACKS)
    return (regex.compile(rf"(?:^|[.!?]\s)[\W\d]*(?:{labels})\s*[:：|=]\W*[{MAKER}{RIVAL}]", FLAGS | regex.MULTILINE),)


@cache
def _subjects(language: str) -> tuple[regex.Pattern[str], regex.Pattern[str]]:
    pack = {"ko": claims_ko, "ja": claims_ja}[language]
    return regex.compile(pack.SELF, FLAGS), regex.compile(pack.OTHER, FLAGS)


def _last_subject(text: str, language: str) -> str:
    """ "own", "other" or "": whom the last subject in a text names."""
    own, other = _subjects(language)
    last_own = max((match.end() for match in own.finditer(text)), default=-1)
    last_other = max((match.end() for match in other.finditer(text)), default=-1)
    return "" if last_own == last_other == -1 else "own" if last_own >= last_other else "other"


def _about_itself(prefix: str, before: str, subject: str) -> bool:
    """Whether what stands before a match leaves the model itself as the subject: the last one named decides.

    `prefix`: the sentence up to the match; `before`: the sentences before it, where the subject of one that has none
    is looked for.
    """
    language = subject[:2]
    last = _last_subject(prefix, language)
    if last:
        return last == "own"
    if not subject.endswith("!"):
        return True
    if PERSONA in prefix or OWN_MAKER in prefix:
        return True
    return bool(_NOTHING.match(prefix)) and _last_subject(before, language) != "other"


def _holds(claim: Rule, language: str, masked: str, parts: Sequence[_Part]) -> bool:
    if claim.whole:
        return bool(claim.pattern.fullmatch(masked))
    return any(
        not claim.subject or _about_itself(part.text[: match.start()], part.before, claim.subject)
        for part in parts
        if not language or language in part.languages
        for match in claim.pattern.finditer(part.text)
    )


def _any_holds(rules: Iterable[tuple[str, Rule]], masked: str, parts: Sequence[_Part]) -> bool:
    return any(_holds(claim, language, masked, parts) for language, claim in rules)


def claims_persona(masked: str) -> bool:
    """The masked text says "I am the persona", or that the persona's maker made the model."""
    if PERSONA not in masked and OWN_MAKER not in masked:
        return False
    return _any_holds(_persona_rules(), masked, _parts(masked))


def claims_rival(masked: str) -> bool:
    """The masked text says "I am a rival", or that the model is made from one."""
    if not any(token in masked for token in RIVAL):
        return False
    return _any_holds(_rival_rules(), masked, _parts(masked)) or _in_a_field(masked)


def claims_other_maker(masked: str) -> bool:
    """The masked text says that another than the persona's maker made the model: a listed one, or, where the
    sentence leaves no doubt, any capitalised name.
    """
    return _any_holds(_other_maker_rules(), masked, _parts(masked, named=False)) or _in_a_field(masked)


def _in_a_field(masked: str) -> bool:
    """A list or table that names the persona first gives a rival or its maker as the model or maker."""
    first = _TOKEN.search(masked)
    if not first or first.group() not in PERSONA + OWN_MAKER:
        return False
    return any(pattern.search(masked) for pattern in _field_rules())
