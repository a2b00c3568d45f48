"""One finding about a persona file, and the texts of its own that are looked at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kelron_lib.persona import Persona
from kelron_lib.persona.document import Document

ERROR, WARNING = "error", "warning"


@dataclass(frozen=True)
class Finding:
    where: str
    """`file:line`."""
    severity: str
    """`error`: data of it would fail the gate or teach what is wrong. `warning`: worth a look."""
    text: str
    """What it is, and what to do."""

    def __str__(self) -> str:
        return f"{self.where}: {self.severity}: {self.text}"


@dataclass(frozen=True)
class OwnText:
    """A text of the persona file."""

    keys: tuple[Any, ...]
    """Where it stands, as `Document.at` takes it."""
    language: str
    text: str
    is_answer: bool
    """Whether answers may say it (the system prompt is none)."""

    @property
    def field(self) -> str:
        """The field's name, with the phrase's where it is one."""
        return "phrases " + str(self.keys[2]) if self.keys[0] == "phrases" else str(self.keys[0])


def own_texts(document: Document, persona: Persona) -> Iterator[OwnText]:
    """All texts that the file itself holds, by field and language; not the defaults."""
    for field in ("name", "maker", "role", "system_prompt", "tone"):
        if document.data.get(field) is not None:
            for language, text in getattr(persona, field).items():
                yield OwnText((field, language), language, text, field != "system_prompt")
    for field in ("abilities", "limits", "values", "facts"):
        if document.data.get(field) is not None:
            for language, texts in getattr(persona, field).items():
                for index, text in enumerate(texts):
                    yield OwnText((field, language, index), language, text, True)
    for language, lists in persona.phrases.items():
        for name, texts in lists.items():
            for index, text in enumerate(texts):
                yield OwnText(("phrases", language, name, index), language, text, True)
