"""Whether a text says who the model is, or who made it, read from its sentences with the names as tokens.

The patterns of a language run on every sentence that holds its script: answers mix languages.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from types import ModuleType

import regex

from kelron_lib.evaluate import claims_en, claims_ja, claims_ko
from kelron_lib.evaluate.implied import implied
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
_CLAUSE_END = regex.compile(r"(?:けど|けれども?|[すだ]が|ので|から)、")
"""Where the subject of a Japanese clause stops being the next one's."""
_BEFORE = 300
"""Characters before a claim, and before its sentence, in which its subject is looked for."""


@dataclass(frozen=True)
class _Part:
    """A sentence, what stands before it, the languages whose script it holds and the names' tokens in it."""

    text: str
    before: str
    languages: frozenset[str]
    tokens: frozenset[str]


@dataclass(frozen=True)
class _Claim:
    """A rule, the language whose script a sentence must hold, and the tokens of which it must hold one ("": any)."""

    rule: Rule
    language: str = ""
    needs: frozenset[str] = frozenset()


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


@lru_cache(maxsize=8)  # three questions are asked of each text
def _parts(masked: str) -> tuple[_Part, ...]:
    return tuple(
        _Part(
            match.group().strip(),
            masked[max(0, match.start() - _BEFORE) : match.start()],
            frozenset(language for language, script in _SCRIPTS.items() if script.search(match.group())),
            frozenset(_TOKEN.findall(match.group())),
        )
        for match in _SENTENCE.finditer(masked)
    )


def _claims(language: str, rules: Iterable[Rule], needs: str) -> list[_Claim]:
    return [_Claim(found, language, frozenset(needs)) for found in rules]


@cache
def _persona_claims() -> tuple[_Claim, ...]:
    n, maker = name_of(PERSONA), f"[{OWN_MAKER}]"
    claims = [_Claim(rule(rf"^{MARKS}{n}(?!.*[?？]){MARKS}$"), needs=frozenset(PERSONA))]
    for language, pack in _PACKS:
        claims += _claims(language, (*pack.names(n), *pack.persona_only(n)), PERSONA)
        claims += _claims(language, pack.makers(maker, maker), OWN_MAKER)
    return tuple(claims)


@cache
def _rival_claims() -> tuple[_Claim, ...]:
    sure, common = TOKENS["rival"], TOKENS["rival_common"]
    n = name_of(RIVAL)
    claims = [
        # One line of a list of rivals is no claim; an answer that is nothing but a rival's name is.
        _Claim(rule(f"{MARKS}{n}{MARKS}", whole=True)),
        _Claim(
            rule(rf"[{PERSONA}][^\w.!?\n]{{0,6}}[(（/]\s*(?:also |aka |formerly |즉 |=\s*)?{n}"), needs=frozenset(RIVAL)
        ),
    ]
    for language, pack in _PACKS:
        claims += _claims(language, pack.names(name_of(sure)), sure)
        claims += _claims(language, _strict(pack.names(name_of(common))), common)
        claims += _claims(language, pack.origins(n), RIVAL)
    return tuple(claims)


def _strict(rules: Iterable[Rule]) -> list[Rule]:
    """For everyday words: "6월 10일은 쌍둥이자리, 영어로 Gemini입니다" is no claim, though no other subject is seen."""
    return [Rule(r.pattern, f"{r.subject[:2]}!", r.whole) if r.subject else r for r in rules]


@cache
def _other_maker_claims() -> tuple[_Claim, ...]:
    known = f"[{MAKER}{RIVAL}]"
    named = f"(?:{known}|{UNKNOWN})"
    claims: list[_Claim] = []
    for language, pack in _PACKS:
        for found in pack.makers(known, named):
            unlisted = named in found.pattern.pattern or known not in found.pattern.pattern
            claims += _claims(language, [found], "" if unlisted else MAKER + RIVAL)
    return tuple(claims)


@cache
def _field() -> regex.Pattern[str]:
    """Lines of a table or a list about oneself: "- Maker: M"."""
    labels = "|".join(pack.FIELDS for _, pack in _PACKS)
    return regex.compile(rf"(?:^|[.!?]\s)[\W\d]*(?:{labels})\s*[:：|=]\W*[{MAKER}{RIVAL}]", FLAGS | regex.MULTILINE)


@cache
def _subjects(language: str) -> tuple[regex.Pattern[str], regex.Pattern[str]]:
    pack = {"ko": claims_ko, "ja": claims_ja}[language]
    return regex.compile(pack.SELF, FLAGS), regex.compile(pack.OTHER, FLAGS)


def _last_subject(text: str, language: str) -> str:
    """ "own", "other" or "": whom the last subject in a text names."""
    own, other = _subjects(language)
    last_own = max((match.end() for match in own.finditer(text)), default=-1)
    last_other = max((match.end() for match in other.finditer(text)), default=-1)
    if last_own >= last_other:
        return "own" if last_own >= 0 else ""
    return "" if _CLAUSE_END.search(text, last_other) else "other"


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


def _holds(claim: _Claim, masked: str, parts: Sequence[_Part]) -> bool:
    if claim.rule.whole:
        return bool(claim.rule.pattern.fullmatch(masked))
    for part in parts:
        if (claim.language and claim.language not in part.languages) or (
            claim.needs and claim.needs.isdisjoint(part.tokens)
        ):
            continue
        for match in claim.rule.pattern.finditer(part.text):
            prefix = part.text[max(0, match.start() - _BEFORE) : match.start()]
            if not claim.rule.subject or _about_itself(prefix, part.before, claim.rule.subject):
                return True
    return False


def claims_persona(masked: str) -> bool:
    """The masked text says "I am the persona", or that the persona's maker made the model."""
    if PERSONA not in masked and OWN_MAKER not in masked:
        return False
    parts = _parts(masked)
    return any(_holds(claim, masked, parts) for claim in _persona_claims())


def claims_rival(masked: str) -> bool:
    """The masked text says "I am a rival", or that the model is made from one."""
    if not any(token in masked for token in RIVAL):
        return False
    parts = _parts(masked)
    return any(_holds(claim, masked, parts) for claim in _rival_claims()) or _in_a_field(masked)


def claims_other_maker(masked: str) -> bool:
    """The masked text says that another than the persona's maker made the model: a listed one, or, where the
    sentence leaves no doubt, any capitalised name.
    """
    parts = _parts(masked)
    return any(_holds(claim, masked, parts) for claim in _other_maker_claims()) or _in_a_field(masked)


def implies_another(masked: str) -> bool:
    """A sentence of the masked text puts a rival or its maker beside the model itself, without an excuse."""
    for part in _parts(masked):
        if part.tokens.isdisjoint(RIVAL + MAKER):
            continue
        if implied(part.text, partial(_subject_is_other, part.languages)):
            return True
    return False


def _subject_is_other(languages: frozenset[str], prefix: str) -> bool:
    prefix = prefix[-_BEFORE:]
    return any(_last_subject(prefix, language) == "other" for language in languages & {"ko", "ja"})


def _in_a_field(masked: str) -> bool:
    """A list or table that names the persona first gives a rival or its maker as the model or maker."""
    first = _TOKEN.search(masked)
    if not first or first.group() not in PERSONA + OWN_MAKER:
        return False
    return bool(_field().search(masked))
