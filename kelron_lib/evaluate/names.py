"""Where a text names the persona, its maker, a rival or a rival's maker, in any spelling and script.

A `Lexicon` replaces every name by one private-use character (a token), so that the patterns in `claims` are
written once, over tokens, and serve every persona. Spans are those of the text as it was given.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import regex

Kind = Literal["persona", "persona_maker", "rival", "rival_common", "maker", "maker_common"]

TOKENS: dict[Kind, str] = {
    "persona_maker": "\ue001",
    "persona": "\ue000",
    "maker": "\ue004",
    "rival": "\ue002",
    "maker_common": "\ue005",
    "rival_common": "\ue003",
}
"""One character per kind of name; where two names match at a place, the longer wins, then this order."""

_COMMON_KIND: dict[Kind, Kind] = {"rival": "rival_common", "maker": "maker_common"}
_ORDER = tuple(TOKENS)
ANY_TOKEN = "".join(TOKENS.values())

# Spellings that are also everyday words, first names or companies that business mail mentions, beyond those that a
# rival's own `common_word` marks. They count only beside words about AI, with a version number, or as a self-claim.
COMMON_WORDS = frozenset(
    {
        *("phi", "siri", "facebook", "microsoft", "apple", "amazon", "naver", "kakao", "samsung", "alibaba", "baidu"),
        *(
            "tencent",
            "nvidia",
            "open ai",
            "시리",
            "페이스북",
            "마이크로소프트",
            "애플",
            "아마존",
            "네이버",
            "카카오",
            "삼성",
        ),
        *(
            "알리바바",
            "바이두",
            "텐센트",
            "엔비디아",
            "シリ",
            "フェイスブック",
            "マイクロソフト",
            "アップル",
            "アマゾン",
        ),
        *("ネイバー", "カカオ", "カカオトーク", "サムスン", "アリババ", "バイドゥ", "テンセント", "エヌビディア"),
        *("阿里巴巴", "微软", "通义", "千问"),
    }
)

_SEPARATORS = " \t\n\u3000._*·-–—/|\u200b\u200c\u200d\u2060\ufeff"
_COMPACT = {ord(char): None for char in _SEPARATORS}
_HALF_WIDTH = "".join(map(chr, range(0xFF66, 0xFF9E)))  # kana
_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}  # full-width ASCII, one to one
_WIDTH |= {ord(half): ord(unicodedata.normalize("NFKC", half)) for half in _HALF_WIDTH}
_ZERO_WIDTH = "[\u200b-\u200d\u2060\ufeff]*"
_JOIN = "[ .*·_\u3000/|-]{1,2}"  # between the letters of a spaced-out name
_VERSION = r"(?:[ -]?\d+(?:\.\d+)*[a-zA-Z]?(?:-[A-Za-z0-9]+)*)?"  # of a model: "2.5-14B"

# What may follow a Korean name inside the same written word: particles and forms of the copula.
_JOSA = (
    "(?:은|는|이|가|을|를|과|와|의|도|만|에|에게|에서|에[는도서]|에게도|에서[는도]|과는|와는|으?로[는도]?|이?고요"
    "|이?지만|이?라도|이?긴|이?기[는에]|만큼|같[은이]|이(?:가|는|도|를|의|랑|한테|에게)|랩스?|연구소|봇|상사|그룹"
    "|소프트|테크|컴퍼니|전자|표|으?로|으?로서|으?로부터|이?라고도?|뿐(?:이|만)?|이?라는|이?라면|처럼|보다|한테|께|께서"
    "|부터|까지|이?나|이?랑|조차|마저|이?며|이?고|이?자|이?든|이?란|아|야|님|씨|팀|사|측|형)?(?![가-힣])"
)
_COPULA = (
    "(?:입니|인|임|이에|에요|예요|이야|이었|였|이다|다|이?[라랍란래]|이?죠|이?지|이?네|이?거든|이?니까|이?요|이?잖"
    "|이[신십세옵올외]|뿐|일세|이?지만|이?고요|이?기도|아니)"
)


@dataclass(frozen=True)
class Mention:
    """A name found in a text: text[start:end], what it is, and the name as its owner writes it."""

    start: int
    end: int
    kind: Kind
    name: str


def flatten(value: Any) -> tuple[str, ...]:
    """Every text inside a text, a mapping's values or a sequence, nested as deep as it comes."""
    if value is None:
        return ()
    if isinstance(value, str):
        return (value,) if value.strip() else ()
    inner: Iterable[Any] = value.values() if isinstance(value, Mapping) else value
    return tuple(text for item in inner for text in flatten(item))


def widen(text: str) -> str:
    """The text with full-width Latin letters and digits as plain ones; length and positions stay."""
    return text.translate(_WIDTH)


def compact(text: str) -> str:
    """The text without separators and case: what `Lexicon` searches first, because that is cheap."""
    return widen(text).translate(_COMPACT).casefold()


def _letters(name: str, joined: str) -> str:
    return joined.join(regex.escape(char) for char in name if not char.isspace())


def _version(kind: Kind) -> str:
    return _VERSION if kind.startswith("rival") else ""


def _latin(name: str, kind: Kind) -> str:
    form = r"[\s-]*".join(_letters(word, _ZERO_WIDTH) for word in name.split())
    if kind in _COMMON_KIND.values():  # an everyday word is a name only when written as one
        form = f"(?-i:{form}|{form.upper()})" if name.isalpha() else f"(?-i:{form})"
    elif sum(char.isalnum() for char in name) >= 4:
        form = f"{form}|{_letters(name.replace('-', ''), _JOIN)}|{_letters(name, '[.*·_-]?')}"
    return rf"(?<![A-Za-z0-9])(?:{form}){_version(kind)}(?![A-Za-z0-9])"


def _hangul(name: str, kind: Kind) -> str:
    forms = [r"\s?".join(_letters(word, _ZERO_WIDTH) for word in name.split())]
    if kind not in _COMMON_KIND.values():
        forms.append(_letters(name, _JOIN))
    decomposed = unicodedata.normalize("NFD", name)
    if decomposed != name:
        forms.append(regex.escape(decomposed))
    # A topic particle may be written without the space that belongs after it.
    return rf"(?<![가-힣--[는은인]])(?:{'|'.join(forms)}){_version(kind)}(?=(?:{_COPULA}|{_JOSA}))"


def _kana(name: str, kind: Kind) -> str:
    forms = [r"[\s・]?".join(_letters(word, _ZERO_WIDTH) for word in regex.split(r"[\s・]+", name))]
    if kind not in _COMMON_KIND.values():
        forms += [_letters(name, _JOIN), _letters(name, "[ ・.-]?")]
    inside = r"[\p{Katakana}ー]"
    left = rf"(?<!{inside})" if regex.match(inside, name) else ""
    right = rf"(?!{inside})" if regex.search(rf"{inside}$", name) else ""
    return f"{left}(?:{'|'.join(forms)}){_version(kind)}{right}"


def _pattern(name: str, kind: Kind) -> str:
    """The pattern of one spelling, with the word boundaries of its script."""
    if regex.search(r"\p{Hangul}", name):
        return _hangul(name, kind)
    if regex.search(r"[\p{Katakana}\p{Hiragana}]", name):
        return _kana(name, kind)
    if regex.search(r"\p{Han}", name):
        return _letters(name, _ZERO_WIDTH)
    return _latin(name, kind)


@lru_cache(maxsize=4096)  # a prompt may bring a rival of its own to all the others
def _compiled(spelling: str, kind: Kind) -> Any:
    return regex.compile(_pattern(spelling, kind), regex.IGNORECASE | regex.VERSION1)


class Lexicon:
    """The names of one persona and its rivals, compiled. Build it through `lexicon`, which caches."""

    def __init__(self, names: tuple[tuple[Kind, str, tuple[str, ...]], ...]) -> None:
        """`names`: (kind, the owner's own name, every spelling) for each thing that has a name."""
        entries: dict[tuple[str, str], tuple[Kind, str, str]] = {}  # "ChatGPT" and "Chat GPT" are two
        for kind, owner, spellings in names:
            for spelling in spellings:
                as_kind = _COMMON_KIND.get(kind, kind) if spelling.casefold() in COMMON_WORDS else kind
                key = (compact(spelling), spelling.casefold())
                known = entries.get(key)
                if known is None or _ORDER.index(as_kind) < _ORDER.index(known[0]):
                    entries[key] = (as_kind, owner, spelling)
        self._entries = tuple(
            (needle, kind, owner, _compiled(spelling, kind)) for (needle, _), (kind, owner, spelling) in entries.items()
        )

    def mentions(self, text: str) -> list[Mention]:
        """Every name in the text, left to right, none overlapping another; the longest wins."""
        squeezed = compact(text if text.isascii() else unicodedata.normalize("NFC", text))
        wide = widen(text)
        found = [
            Mention(match.start(), match.end(), kind, owner)
            for needle, kind, owner, pattern in self._entries
            if needle in squeezed
            for match in pattern.finditer(wide)
        ]
        found.sort(key=lambda m: (m.start, -m.end, _ORDER.index(m.kind)))
        apart: list[Mention] = []
        for mention in found:
            if not apart or mention.start >= apart[-1].end:
                apart.append(mention)
        return apart


@lru_cache(maxsize=256)
def _build(names: tuple[tuple[Kind, str, tuple[str, ...]], ...]) -> Lexicon:
    return Lexicon(names)


def lexicon(persona: Any, rivals: Iterable[Any] = ()) -> Lexicon:
    """The compiled names of a persona (or None; `name`, `spellings`, `maker`) and rivals (`name`, `kind`, `spellings`,
    `common_word`); equal names give the same object. A name of the persona's own is never taken for a rival's.
    """
    return _known(_Same(persona), _Same(rivals)) if isinstance(rivals, tuple) else _lexicon(persona, rivals)


class _Same:
    """A thing as a key that equals itself alone: to compare every spelling takes longer than to find the names."""

    def __init__(self, thing: Any) -> None:
        self.thing = thing

    def __hash__(self) -> int:
        return id(self.thing)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.thing is other.thing


@lru_cache(maxsize=256)
def _known(persona: _Same, rivals: _Same) -> Lexicon:
    return _lexicon(persona.thing, rivals.thing)


def _lexicon(persona: Any, rivals: Iterable[Any]) -> Lexicon:
    names: list[tuple[Kind, str, tuple[str, ...]]] = []
    if persona is not None:
        names = [
            ("persona", flatten(persona.name)[0], flatten((persona.name, persona.spellings))),
            ("persona_maker", flatten(persona.maker)[0], flatten(persona.maker)),
        ]
    for rival in rivals:
        kind: Kind = "maker" if rival.kind == "maker" else "rival"
        if rival.common_word:
            kind = _COMMON_KIND[kind]
        names.append((kind, rival.name, tuple(rival.spellings)))
    return _build(tuple(names))
