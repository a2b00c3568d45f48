"""Speech levels that a sentence surely has: Korean and Japanese mark them at its end, English does not."""

from __future__ import annotations

import re
from collections.abc import Iterator

from kelron_lib.persona import Persona
from kelron_lib.persona.document import Document
from kelron_lib.persona_check.findings import WARNING, Finding, own_texts

_SENTENCES = re.compile(r"[^.!?。！？…~]+")
_ENDINGS = {
    "ko": (
        re.compile(r"(?:요|니다|니까|시오|죠)$"),
        re.compile(r"(?:[^부]야|어|아|해|줘|지|게|걸|래|자|냐|니|거든|[었았했였겠]다|는다|한다|[^입니]다)$"),
    ),
    "ja": (
        re.compile(r"(?:です|ます|ません|でした|ました|でしょう|ましょう|ください|くださいませ)(?:か|ね|よ|よね)?$"),
        re.compile(r"(?:だ|だよ|だね|だよね|んだ|るよ|るね|ないよ|ないね|たよ|てね|うよ|うね|じゃん|かな|ないか)$"),
    ),
}
# Words by which a prompt or a tone asks for a level.
_ASKED = {
    "polite": re.compile(r"존댓말|높임말|정중|깍듯|敬語|丁寧|\bpolite(?:ly)?\b|\bformal(?:ly)?\b", re.IGNORECASE),
    "casual": re.compile(r"반말|タメ口|ため口|\bcasual(?:ly)?\b|\bslang\b", re.IGNORECASE),
}
_TEMPLATE = re.compile(r"\{[^{}]*\}")


def level_of(sentence: str, language: str) -> str | None:
    """`polite` or `casual` where the sentence's ending says so; None where it does not, and in English."""
    if language not in _ENDINGS:
        return None
    polite, casual = _ENDINGS[language]
    text = sentence.strip().rstrip("\"'”’」』)）")
    if polite.search(text):
        return "polite"
    return "casual" if casual.search(text) else None


def level_findings(document: Document, persona: Persona) -> Iterator[Finding]:
    """Sentences that answers would say in another level than `speech`, and a prompt or tone that asks for another."""
    for own in own_texts(document, persona):
        speech = persona.speech[own.language]
        if own.keys[0] in ("facts", "phrases"):
            for sentence in _SENTENCES.findall(_TEMPLATE.sub("", own.text)):
                level = level_of(sentence, own.language)
                if level not in (None, speech):
                    yield Finding(
                        document.at(*own.keys),
                        WARNING,
                        f"{own.field}: {sentence.strip()!r} is {level}, and speech for {own.language} is {speech}: "
                        "write it in that level",
                    )
                    break
        elif own.keys[0] in ("system_prompt", "tone"):
            other = "casual" if speech == "polite" else "polite"
            asks = _ASKED[other].search(own.text)
            if asks and not _ASKED[speech].search(own.text):
                yield Finding(
                    document.at(*own.keys),
                    WARNING,
                    f"{own.field} for {own.language} says {asks.group()!r}, and speech is {speech}: change one of the "
                    "two, or the model learns to ignore it",
                )
