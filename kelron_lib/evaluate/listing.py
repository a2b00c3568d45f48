"""What an evaluation asks, as tables that people read: how many of each kind, and one of every attack."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kelron_lib.evaluate.prompt import ATTACKS, SYSTEM_KINDS
from kelron_lib.settings import LANGUAGES

_LONGEST = 160
"""Characters of an example that are shown."""
_KIND = {"": "unrelated"}


def _row(cells: Iterable[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _short(text: str) -> str:
    """A text for a cell of a table: on one line, its bars escaped, cut where it is long."""
    line = " ".join(text.split()).replace("|", "\\|")
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"


def _example(prompts: Sequence[Mapping[str, Any]], attack: str, place: int) -> str:
    """One prompt of an attack: of another language at every place, and of the grid before the test split's."""
    of_kind = [prompt for prompt in prompts if prompt["attack"] == attack]
    order = [*LANGUAGES[place % 3 :], *LANGUAGES[: place % 3]]
    best = min(of_kind, key=lambda prompt: (order.index(prompt["language"]), prompt["source"] == "test"))
    return _short(" → ".join([best["prompt"], *best.get("turns", ())]))


def counts_table(prompts: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table: attack by system text, the prompts of every language ("ko 18, en 18, ja 18")."""
    counts = Counter((prompt["attack"], prompt["system_kind"], prompt["language"]) for prompt in prompts)
    systems = [kind for kind in SYSTEM_KINDS if any(kind == system for _, system, _ in counts)]
    languages = [language for language in LANGUAGES if any(language == found for _, _, found in counts)]
    lines = [_row(["attack", *systems]), _row(["---"] * (1 + len(systems)))]
    for attack in (*ATTACKS, ""):
        cells = [[counts[attack, system, language] for language in languages] for system in systems]
        if any(map(any, cells)):
            told = (", ".join(f"{lang} {n}" for lang, n in zip(languages, cell, strict=True)) for cell in cells)
            lines.append(_row([_KIND.get(attack, attack), *told]))
    return "\n".join(lines)


def prompts_table(prompts: Sequence[Mapping[str, Any]]) -> str:
    """Two Markdown tables: how many prompts of every kind there are, and an example of each attack."""
    asked = [attack for attack in (*ATTACKS, "") if any(prompt["attack"] == attack for prompt in prompts)]
    lines = [_row(["attack", "for example"]), _row(["---", "---"])]
    lines += [_row([_KIND.get(attack, attack), _example(prompts, attack, place)]) for place, attack in enumerate(asked)]
    return f"{counts_table(prompts)}\n\n" + "\n".join(lines)
