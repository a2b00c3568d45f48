"""What the detectors say about one answer of a chat, in words for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kelron_lib.persona import Persona, rival_names

LABELS = {
    "contradiction": "contradiction",
    "rival_named": "rival named",
    "loop": "loop",
    "wrong_script": "wrong script",
    "broken_chars": "broken characters",
    "over_identity": "names itself unasked",
}


@dataclass(frozen=True)
class Findings:
    """What is wrong with an answer; empty where nothing is."""

    labels: Sequence[str] = ()
    spans: Sequence[tuple[int, int, str]] = ()
    """(start, end, label) in the answer's text, sorted, none overlapping another."""


def examine(record: dict[str, Any], persona: Persona, *, sure: bool = True) -> Findings:
    """The findings on a record of a chat or a probe.

    Its kind says what is due: an answer about identity must name the persona, an unrelated one must not. `sure`
    False: the kind was found by the question's phrasing, which misses some that ask for identity, so naming itself
    is no flag.
    """
    from kelron_lib.evaluate import detectors

    answer, language, rivals = record["answer"], record["language"], rival_names()
    prompt = "\n".join(message["content"] for message in record["messages"] if message["role"] == "user")
    kind = record["kind"]
    found = detectors.flags(answer, language=language, kind=kind, persona=persona, rivals=rivals, prompt=prompt)
    if not sure:
        found["over_identity"] = False
    labels = [label for flag, label in LABELS.items() if found[flag]]
    if record["kind"] == "identity" and not found["asserts_persona"]:
        labels.insert(0, f"not {persona.name[language]}")
    if not record["stopped"]:
        labels.append("cut off at the length limit")
    spans = detectors.spans(answer, found, language=language, persona=persona, rivals=rivals, prompt=prompt)
    return Findings(labels, [(start, end, LABELS[flag]) for start, end, flag in spans])
