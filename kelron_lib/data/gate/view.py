"""One row as the checks see it: parts that several of them need, found once."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property, lru_cache
from typing import Any

from kelron_lib.data.gate.kind import Names, find_kind
from kelron_lib.data.gate.language import find_language
from kelron_lib.persona import Persona, Rival, find_rivals

Row = Mapping[str, Any]
_system_rivals = lru_cache(maxsize=1024)(find_rivals)  # a dataset has few system messages


class View:
    """A row, whatever it lacks. A message without text counts as an empty one."""

    def __init__(self, row: Row, persona: Persona, names: Names, number: int = 0) -> None:
        self.row = row
        self.persona = persona
        self.names = names
        self.name = str(row.get("id") or f"line {row.get('line') or number}")
        """The row's id, else its line, else its place in the stream."""
        self.turns = [(str(m.get("role")), m["content"] if isinstance(m.get("content"), str) else "")
                      for m in row["messages"]]  # fmt: skip
        self.system = [text for role, text in self.turns if role == "system"]
        self.asked = [text for role, text in self.turns if role == "user"]
        self.said = [text for role, text in self.turns if role == "assistant"]
        self.language = find_language(row)
        self.group = str(row.get("group") or "")
        self.seed = str(row.get("seed_id") or "")
        self.intent = str(row.get("intent") or "")

    @cached_property
    def kind(self) -> str:
        return find_kind(self.row, self.persona, self.names)

    @cached_property
    def prompt(self) -> str:
        """What the user wrote, in all turns."""
        return "\n".join(self.asked)

    @cached_property
    def texts(self) -> list[str]:
        return [text for _, text in self.turns]

    @cached_property
    def text(self) -> str:
        """What the user and the assistant wrote, as similar rows are told by."""
        return "\n".join(text for role, text in self.turns if role != "system")

    @cached_property
    def named(self) -> str:
        """The first spelling of the persona's name in an answer; empty for none."""
        return next((found for text in self.said if (found := self.names.find(text))), "")

    @cached_property
    def rivals_said(self) -> list[tuple[Rival, str]]:
        return [found for text in self.said for found in find_rivals(text)]

    @cached_property
    def rivals_asked(self) -> list[tuple[Rival, str]]:
        """Rivals in what the user wrote and in the system message."""
        found = [rival for text in self.system for rival in _system_rivals(text)]
        return [*found, *(rival for text in self.asked for rival in find_rivals(text))]
