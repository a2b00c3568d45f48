"""Questions as people type them: marks left out or doubled, lower case, chat spelling, typing errors.

Only the words around placeholders change, never what stands in a slot: an answer copies that. The speech level
decides what may happen: nobody writes "ㅋㅋ" or "thx" in a formal request.
"""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from kelron_lib.persona.files import check_keys, read_yaml
from kelron_lib.settings import LANGUAGES

_SLOT = re.compile(r"(\{[^{}]*\})")
_ENDS = ".?!。？！"
SHARE: Mapping[str, float] = {"formal": 0.10, "polite": 0.30, "casual": 0.60}
"""Share of questions that are changed at all, by register."""


@functools.cache
def _words() -> Mapping[str, Any]:
    """typed.yaml: `errors` and `chat` (language -> right -> wrong), `tails` (language -> texts)."""
    path = Path(__file__).with_name("typed.yaml")
    words = read_yaml(path)
    check_keys(words, ("errors", "chat", "tails"), (), str(path))
    for section in words:
        check_keys(words[section], LANGUAGES, (), f"{path}: {section}")
    return MappingProxyType(words)


def _unmark(text: str, language: str, rng: random.Random) -> str:
    """Without its last mark."""
    return text.rstrip(_ENDS) or text


def _double(text: str, language: str, rng: random.Random) -> str:
    return text + text[-1] if text and text[-1] in "?!？！" else text


def _lower(text: str, language: str, rng: random.Random) -> str:
    parts = _SLOT.split(text)
    return "".join(part if part.startswith("{") else part.lower() for part in parts) if language == "en" else text


def _respell(section: str) -> Callable[[str, str, random.Random], str]:
    def respell(text: str, language: str, rng: random.Random) -> str:
        parts = _SLOT.split(text)
        edge = r"(?<![A-Za-z])" if language == "en" else ""
        spots = [
            (n, match, wrong)
            for right, wrong in _words()[section][language].items()
            for n, part in enumerate(parts)
            if n % 2 == 0 and (match := re.search(edge + re.escape(right), part))
        ]
        if spots:
            n, match, wrong = rng.choice(spots)
            parts[n] = parts[n][: match.start()] + wrong + parts[n][match.end() :]
        return "".join(parts)

    return respell


# A name of a language stays: it is what asks for that language's letters.
_SWAPPED = {
    "en": re.compile(r"(?<![A-Za-z])(?!korean|japanese|english)[a-z]{5,}"),
    "ko": re.compile(r"(?<=[가-힣]) (?=[가-힣])"),
    "ja": re.compile("、"),
}


def _swap(text: str, language: str, rng: random.Random) -> str:
    """Two neighbouring letters inside a word in the wrong order (English), a space lost (Korean), a comma lost."""
    parts = _SLOT.split(text)
    spots = [(n, match) for n, part in enumerate(parts) if n % 2 == 0 for match in _SWAPPED[language].finditer(part)]
    if not spots:
        return text
    n, match = rng.choice(spots)
    if language == "en":
        at = rng.randrange(match.start() + 1, match.end() - 2)
        parts[n] = parts[n][:at] + parts[n][at + 1] + parts[n][at] + parts[n][at + 2 :]
    else:
        parts[n] = parts[n][: match.start()] + parts[n][match.end() :]
    return "".join(parts)


def _close_up(text: str, language: str, rng: random.Random) -> str:
    """Korean without any space between its words, as on a telephone."""
    parts = _SLOT.split(text)
    if language != "ko" or len(text) > 24:
        return text
    return "".join(part if n % 2 else re.sub(r"(?<=[가-힣]) (?=[가-힣])", "", part) for n, part in enumerate(parts))


def _tail(text: str, language: str, rng: random.Random) -> str:
    return text.rstrip(_ENDS) + rng.choice(_words()["tails"][language])


_Change = Callable[[str, str, random.Random], str]
_CHANGES: Mapping[str, Sequence[_Change]] = {
    "formal": (_swap,),
    "polite": (_unmark, _unmark, _respell("errors"), _swap, _lower, _double),
    "casual": (_unmark, _unmark, _lower, _respell("errors"), _respell("chat"), _swap, _double, _close_up, _tail, _tail),
}


def as_typed(template: str, language: str, register: str, rng: random.Random) -> str:
    """A question's template as somebody might type it: most often as it is, else with one or two changes that its
    speech level allows. Placeholders and their particles stay."""
    if rng.random() >= SHARE[register]:
        return template
    text = template
    for change in rng.sample(range(len(_CHANGES[register])), k=min(rng.choice((1, 1, 2)), len(_CHANGES[register]))):
        text = _CHANGES[register][change](text, language, rng)
    return text
