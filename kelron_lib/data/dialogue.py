"""Dialogues of several turns, put together from seeds: identity asked for in the middle of work, work after it.

Every turn has the speech level of the first; the seeds of a dialogue differ, and all are of one split.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kelron_lib.data.draw import Drawn, draw
from kelron_lib.data.typed import as_typed
from kelron_lib.persona import Persona, Seed

PLANS: Mapping[str, Mapping[str, float]] = {
    "identity": {"alone": 0.52, "after": 0.16, "before": 0.14, "more": 0.18},
    "business": {"alone": 0.70, "more": 0.30},
    "chat": {"alone": 0.70, "more": 0.30},
}
"""Share of each plan by kind. after: work or talk first, then the identity question; before: the other way round;
more: two or three questions of the kind (business and chat mixed)."""
_FURTHER = (1, 1, 2)
"""Turns beside the first one or ones, each as likely as the others."""
_TOKENS_OF_A_MESSAGE = 5
_PLAIN = re.compile("[A-Za-z ]")


@dataclass(frozen=True)
class Pools:
    """The seeds of one split and language, by what they may do in a dialogue: those of one turn without an own system
    message."""

    identity: Sequence[Seed]
    other: Sequence[Seed]
    """Business and chat."""
    held_out: bool
    """Of a held-out split: its identity question comes last, so that the answer asked for is the identity's."""

    @classmethod
    def of(cls, seeds: Sequence[Seed], *, held_out: bool) -> Pools:
        plain = [seed for seed in seeds if not seed.then and not seed.systems]
        identity = [seed for seed in plain if seed.kind == "identity"]
        return cls(identity, [seed for seed in plain if seed.kind != "identity"], held_out)


def estimated_tokens(text: str) -> float:
    """About the most tokens that Qwen2.5's tokenizer makes of a text: one for three Latin letters or spaces, one for
    each digit and mark of ASCII, twelve for ten other characters. Of 18,000 rows of both packaged personas, Qwen's own
    vocabulary of 151,643 made at most 0.97 times as many. An estimate, for choosing; the encoder counts, and refuses
    what does not fit."""
    ascii_ones = len(text.encode("ascii", "ignore"))
    plain = len(_PLAIN.findall(text))
    return plain / 3 + (ascii_ones - plain) + 1.2 * (len(text) - ascii_ones)


def fits(pairs: Sequence[tuple[str, str]], system: str, max_tokens: int) -> bool:
    """Whether a dialogue stays under `max_tokens`, by the estimate."""
    texts = [system, *(text for pair in pairs for text in pair)]
    return sum(estimated_tokens(text) + _TOKENS_OF_A_MESSAGE for text in texts) <= max_tokens


def _plan(kind: str, pools: Pools, rng: random.Random) -> str:
    plans = PLANS[kind]
    plan: str = rng.choices(list(plans), weights=list(plans.values()))[0]
    return "alone" if pools.held_out and plan != "after" else plan


def _others(seed: Seed, plan: str, pools: Pools, rng: random.Random) -> list[Seed]:
    """Seeds for the other turns, of different intents."""
    pool = pools.identity if plan == "more" and seed.kind == "identity" else pools.other
    chosen: list[Seed] = []
    for _ in range(rng.choice(_FURTHER)):
        intents = {seed.intent, *(other.intent for other in chosen)}
        if open_seeds := [other for other in pool if other.intent not in intents]:
            chosen.append(rng.choice(open_seeds))
    return chosen


def compose(seed: Seed, pools: Pools, persona: Persona, rng: random.Random) -> Drawn:
    """A dialogue around a seed: as its plan has it, or as the seed's own turns do."""
    first = draw(seed, persona, rng, vary=as_typed)
    if seed.then or seed.systems:
        return first
    plan = _plan(seed.kind, pools, rng)
    if plan == "alone":
        return first
    others = [
        (other, draw(other, persona, rng, register=first.register, framed=False, vary=as_typed))
        for other in _others(seed, plan, pools, rng)
    ]
    drawn = [*others, (seed, first)] if plan == "after" else [(seed, first), *others]
    return Drawn(
        pairs=tuple(pair for _, part in drawn for pair in part.pairs),
        register=first.register,
        template=" + ".join(part.template if own is seed else f"{own.group} {part.template}" for own, part in drawn),
        system=None,
    )
