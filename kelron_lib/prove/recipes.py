"""The recipes that are held against one another, each of the tiny base and of the same number of steps."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Recipe:
    """What an adapter is trained on and how it is asked. The defaults are today's recipe."""

    name: str
    """For tables."""
    copied: bool = False
    """Thirty seeds' rows, copied as they are, instead of rows that are drawn anew from every seed."""
    rivals: bool = False
    """Answers about the identity deny rivals by name."""
    identity_share: float = 0.30
    """Share of the rows that are about the identity."""
    end_labelled: bool = True
    """Whether the token that ends an answer is learned."""
    stopped: bool = True
    """Whether that token ends an answer when the model is asked; else the base's end of text alone does."""
    own_system: bool = True
    """Whether rows have the persona's system message; else the one that the base's chat template puts in."""

    def trained_as(self) -> Recipe:
        """The recipe as far as training goes: recipes that agree in it share an adapter."""
        return replace(self, name="", stopped=True)


@dataclass(frozen=True)
class Fix:
    """One thing that the first attempt did not do."""

    field: str
    """Of Recipe."""
    first: object
    """Its value in the first attempt."""
    short: str
    """What today's recipe does instead, for tables."""
    label: str
    """The same in words."""


FIXES = (
    Fix("copied", True, "drawn rows", "drawn rows instead of 30 copied ones"),
    Fix("rivals", True, "no rivals", "no rival's name in an answer"),
    Fix("identity_share", 0.05, "30 % identity", "30 % of the rows about the identity, not 5 %"),
    Fix("end_labelled", False, "end learned", "the end token is learned"),
    Fix("stopped", False, "end stops", "the end token ends an answer"),
    Fix("own_system", False, "own system", "the persona's system message in training, not the base's"),
)
NOW = Recipe("V2")
FIRST = replace(NOW, name="V1", **{fix.field: fix.first for fix in FIXES})  # type: ignore[arg-type]


def without(fix: Fix) -> Recipe:
    """Today's recipe but for one fix."""
    return replace(NOW, name=f"{NOW.name} − {fix.short}", **{fix.field: fix.first})  # type: ignore[arg-type]


def recipes() -> tuple[Recipe, ...]:
    """The first attempt's, today's, and today's without each fix."""
    return (FIRST, NOW, *(without(fix) for fix in FIXES))
