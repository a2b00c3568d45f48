"""What a seed's templates may say: known placeholders, nothing invented, the persona named where it should be alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from kelron_lib.config import nearest
from kelron_lib.errors import KelronError
from kelron_lib.persona.josa import PAIRS
from kelron_lib.persona.templates import FACT_SLOTS, PERSONA_SLOTS, PLACEHOLDER

if TYPE_CHECKING:
    from kelron_lib.persona.seed import Seed

_OWN = frozenset((*PERSONA_SLOTS, *FACT_SLOTS))
_MOST_DEPTH = 4


def flat_slots(template: str, phrases: Mapping[str, Sequence[str]], depth: int = 0) -> set[str]:
    """All slot keys that a template may come to use, through its phrases too."""
    found: set[str] = set()
    for match in PLACEHOLDER.finditer(template):
        if match[1] in phrases and depth < _MOST_DEPTH:
            for phrase in phrases[match[1]]:
                found |= flat_slots(phrase, phrases, depth + 1)
        else:
            found.add(match[1] + match[2])
    return found


def always_names(template: str, phrases: Mapping[str, Sequence[str]], depth: int = 0) -> bool:
    """Whether a template says {name} whatever its phrases become."""
    for match in PLACEHOLDER.finditer(template):
        if match[1] == "name":
            return True
        if match[1] in phrases and depth < _MOST_DEPTH:
            texts = phrases[match[1]]  # one without texts takes its template with it
            if all(always_names(text, phrases, depth + 1) for text in texts):
                return True
    return False


def _base(key: str) -> str:
    return key.rstrip("0123456789")


def _check_placeholders(seed: Seed, template: str, where: str) -> None:
    if template.count("{") != len(PLACEHOLDER.findall(template)):
        raise KelronError(f"{where}: broken placeholder in {template!r}")
    for match in PLACEHOLDER.finditer(template):
        if match[3] and match[3] != "a" and match[3] not in PAIRS:
            raise KelronError(f"{where}: unknown josa {match[0]} in {template!r}.{nearest(match[3], PAIRS)}")
    for key in flat_slots(template, seed.phrases):
        if _base(key) not in seed.entries and _base(key) not in _OWN:
            known = [*seed.entries, *seed.phrases, *PERSONA_SLOTS]
            raise KelronError(f"{where}: unknown slot {{{key}}} in {template!r}.{nearest(_base(key), known)}")


def check_seed(seed: Seed, where: str) -> None:
    """Raise KelronError, beginning with `where`, unless every placeholder is known, answers copy only what the turns
    up to theirs always give, identity answers name the persona in some turn, and others never do."""
    given: set[str] = set()
    for turn in seed.turns:
        for template in [*(question.text for question in turn.questions), *turn.answers]:
            _check_placeholders(seed, template, where)
        given |= set.intersection(*(flat_slots(question.text, seed.phrases) for question in turn.questions))
        for answer in turn.answers:
            used = flat_slots(answer, seed.phrases)
            if lacking := sorted(key for key in used - given if _base(key) not in _OWN):
                raise KelronError(f"{where}: answer {answer!r} uses {{{lacking[0]}}}, which some question lacks")
            if seed.kind != "identity" and any(_base(key) in _OWN for key in used):
                raise KelronError(f"{where}: a {seed.kind} answer names the persona: {answer!r}")
    for text in seed.systems:
        _check_placeholders(seed, text, where)
        if strange := sorted(key for key in flat_slots(text, seed.phrases) if key not in PERSONA_SLOTS):
            raise KelronError(f"{where}: a system message uses {{{strange[0]}}}: {', '.join(PERSONA_SLOTS)} only")
    if seed.kind == "identity" and all(turn.answers for turn in seed.turns):
        nameless = [[text for text in turn.answers if not always_names(text, seed.phrases)] for turn in seed.turns]
        if all(nameless):
            raise KelronError(f"{where}: answer {nameless[0][0]!r} may leave the name out: say {{name}} in it")
