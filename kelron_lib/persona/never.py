"""Words that a persona's answers never hold."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

from kelron_lib.persona.definition import Persona


@functools.lru_cache(maxsize=32)
def _pattern(words: tuple[str, ...]) -> re.Pattern[str]:
    """Any of the words, the longest first. A Latin word stands by itself; in other scripts words are not spaced apart,
    so that it counts wherever it stands."""
    forms = []
    for word in sorted(words, key=len, reverse=True):
        head = r"(?<![A-Za-z0-9])" if word[0].isascii() and word[0].isalnum() else ""
        tail = r"(?![A-Za-z0-9])" if word[-1].isascii() and word[-1].isalnum() else ""
        forms.append(head + re.escape(word) + tail)
    return re.compile("|".join(forms), re.IGNORECASE)


def find_never(text: str, words: Persona | Sequence[str]) -> tuple[str, ...]:
    """The words in `text`, as written there, that the persona (or a list) rules out; case does not matter."""
    listed = tuple(words.never if isinstance(words, Persona) else words)
    if not listed:
        return ()
    return tuple(dict.fromkeys(match.group() for match in _pattern(listed).finditer(text)))
