"""What a persona is asked for. The command line's options come of it, so this imports nothing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Field:
    key: str
    """Of the persona file."""
    option: str
    """Of the command line, before the language: `--OPTION-ko`."""
    question: str
    asked: bool = True
    """Whether the terminal asks; what it does not ask gets the suggestion."""
    is_list: bool = False


FIELDS = (
    Field("name", "name", "its name"),
    Field("maker", "maker", "who made it"),
    Field("role", "role", "what it is, without article (as in 'plant care companion')"),
    Field("tone", "tone", "how it talks (as in 'warm and easygoing')"),
    Field("abilities", "ability", "what it does (as in 'drafting emails', three or more, with commas)", is_list=True),
    Field("limits", "limit", "what it cannot do", asked=False, is_list=True),
    Field("values", "value", "what matters to it", asked=False, is_list=True),
    Field("facts", "fact", "sentences about itself that it may tell", asked=False, is_list=True),
)
