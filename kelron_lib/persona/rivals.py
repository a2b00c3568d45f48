"""Names that are not the persona's: real assistants and makers, and the tiny base's incumbent.

For the data gate and the evaluation only; no training text may contain them.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

from kelron_lib.config import nearest
from kelron_lib.errors import KelronError
from kelron_lib.persona.files import PACKAGED, check_keys, read_yaml, text_list

_KINDS = ("assistant", "maker")
# What may follow a Korean noun: particles and the copula. "메타는" is the maker; "메타데이터" and "드라마" name nobody.
_JOSA_TAIL = (
    r"(?=$|[^가-힣]|[은는이가을를과와의도로야지죠고며다]|에서|에게|에\b|으로|만|보다|처럼|라|아니|인|입니|예요|이에"
    r"|랑|나\b|한테|님|씨|잖|였|사가|사의)"
)


@dataclass(frozen=True)
class Rival:
    name: str
    """The usual Latin spelling."""
    kind: str
    """`assistant` or `maker`."""
    spellings: tuple[str, ...]
    """All spellings, in Latin letters, Hangul, kana and Han."""
    common_word: bool = False
    """Also an ordinary word or a person's name: a bare match in business text proves little."""


@functools.cache
def rival_names() -> tuple[Rival, ...]:
    """All rivals of rivals.yaml, in file order. Raises KelronError for a broken file."""
    path = PACKAGED / "rivals.yaml"
    rivals = []
    for entry in read_yaml(path):
        check_keys(entry, ("name", "kind", "spellings"), ("common_word",), f"{path}: {entry}")
        if entry["kind"] not in _KINDS:
            raise KelronError(f"{path}: kind {entry['kind']!r}.{nearest(str(entry['kind']), _KINDS)}")
        spellings = text_list(entry["spellings"], f"{path}: {entry['name']}")
        rivals.append(Rival(entry["name"], entry["kind"], spellings, bool(entry.get("common_word"))))
    return tuple(rivals)


def _pattern(spelling: str, common_word: bool) -> str:
    escaped = re.escape(spelling).replace(r"\ ", r"[\s\-]?")
    first, last = spelling[0], spelling[-1]
    if first.isascii():
        # No letter or digit of the same script beside it; "GPT-4" and "Qwen2.5" still count.
        head = r"(?<![A-Za-z0-9])"
        escaped = escaped if common_word else f"(?i:{escaped})"
    elif "가" <= first <= "힣":
        head = r"(?<![가-힣])"
    elif "ァ" <= first <= "ヿ":
        head = r"(?<![ァ-ヿ])"
    else:
        head = ""
    if last.isascii():
        tail = r"(?![A-Za-z])"
    elif "가" <= last <= "힣":
        tail = _JOSA_TAIL
    elif "ァ" <= last <= "ヿ":
        tail = r"(?![ァ-ヿ])"
    else:
        tail = ""
    return head + escaped + tail


def _squeeze(text: str) -> str:
    """Lower case without spaces and hyphens: what a spelling is looked for in before its pattern runs."""
    return re.sub(r"[\s\-]", "", text.lower())


@functools.cache
def _patterns() -> tuple[tuple[Rival, tuple[str, ...], re.Pattern[str]], ...]:
    """Every rival with its squeezed spellings and its pattern, the longest spelling first."""
    found = []
    for rival in rival_names():
        spellings = sorted(rival.spellings, key=len, reverse=True)
        pattern = re.compile("|".join(_pattern(spelling, rival.common_word) for spelling in spellings))
        found.append((rival, tuple(map(_squeeze, spellings)), pattern))
    return tuple(found)


def find_rivals(text: str) -> tuple[tuple[Rival, str], ...]:
    """Rivals named in `text`, each with the spelling found, in the order of rivals.yaml."""
    squeezed = _squeeze(text)
    found = []
    for rival, stems, pattern in _patterns():
        # A substring test is 20 times cheaper than the pattern, and nearly all texts name nobody.
        if any(stem in squeezed for stem in stems) and (match := pattern.search(text)):
            found.append((rival, match.group()))
    return tuple(found)


def rival_of(name: str) -> Rival | None:
    """The rival that a name names or is, in whatever case: a name that differs from a rival's in case alone is one."""
    if found := find_rivals(name):
        return found[0][0]
    squeezed = _squeeze(name)
    return next((rival for rival, stems, _ in _patterns() if squeezed in stems), None)
