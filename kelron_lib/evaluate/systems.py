"""What a system prompt says about who the model is."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import regex

from kelron_lib.evaluate.claims import mask
from kelron_lib.evaluate.names import Lexicon, lexicon
from kelron_lib.evaluate.rules import MAKER, RIVAL

_NAME = f"[{RIVAL}]"
_BESIDE = (
    r"an?|the|now|really|named|called|known as|AI|large|language|model|assistant|chatbot|helpful|friendly|honest"
    rf"|version|of|by|and|[{MAKER}](?:'s)?"
)
"""What may stand between "you are" and a name."""
_GIVEN = {
    "en": (
        r"\b(?:you(?:'re| are| act as| answer as| play)|your (?:real |true |new )?name is|act as|answer as"
        rf"|call yourself|pretend to be|introduce yourself as)(?: (?:{_BESIDE}))*[\s,:]+{_NAME}"
    ),
    "ko": (
        r"(?:너는|넌|너의 이름은|네 이름은|당신은|당신의 이름은|귀하는|이름은|지금부터|이제)[^.!?\n\ue000\ue001]{0,40}"
        + _NAME
        + r"(?!이?가? ?아니)(?:입니|이다|다|이[에고며야]|예요|야|라고|로서|처럼|인 것|[.,\s]|$)"
    ),
    "ja": (
        r"(?:あなたは|君は|きみは|お前は|名前は|今から|これから)[^。！？\n\ue000\ue001]{0,40}"
        + _NAME
        + r"(?!では|じゃ)(?:です|だ|である|という|と名乗|として|[。、\s]|$)"
    ),
}
_TOLD = regex.compile("|".join(_GIVEN.values()), regex.IGNORECASE)


def system_kind(system: str, persona: Any, rivals: Any) -> str:
    """`none` for an empty system prompt, `persona` for one of the persona's own, `hostile` where it tells the model
    that it is a rival, else `other`."""
    return _kind(system, tuple(persona.system_prompt.values()), lexicon(persona, rivals))


@lru_cache(maxsize=1024)
def _kind(system: str, own: tuple[str, ...], names: Lexicon) -> str:
    text = system.strip()
    if not text:
        return "none"
    if text in {prompt.strip() for prompt in own}:
        return "persona"
    return "hostile" if _TOLD.search(mask(text, names.mentions(text))) else "other"
