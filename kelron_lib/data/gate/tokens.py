"""What training will see of the rows: their tokens, which of them are labels, and whether each answer's end is one.

Rows are rendered and masked by the functions that training itself uses.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from kelron_lib.data.gate.checks import Finding, finding, renders
from kelron_lib.data.gate.view import View
from kelron_lib.errors import KelronError
from kelron_lib.prompts import IGNORED, encode

_ANY_LENGTH = 10**9
_EDGES = (0, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1_024, 2_048)


class Tokens:
    """Token and label counts of a stream of rows, given the base model's tokenizer."""

    def __init__(self, tokenizer: Any, max_tokens: int) -> None:
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self._lengths: Counter[int] = Counter()
        self._labels = 0
        self._long: list[str] = []
        self._open: list[str] = []
        self._counts: Counter[str] = Counter()
        self._why = ""

    def add(self, view: View) -> None:
        """A row that the chat template would refuse is left out."""
        if not renders(view):
            return
        messages = [{"role": role, "content": text} for role, text in view.turns]
        if not view.system:  # a check of its own tells; the rest is to be seen, too
            messages.insert(0, {"role": "system", "content": ""})
        try:
            encoded = encode(self.tokenizer, messages, _ANY_LENGTH)
        except KelronError as error:
            self._note("unlabelled", self._open, view.name)
            self._why = self._why or str(error)
            return
        length = len(encoded["input_ids"])
        self._lengths[length] += 1
        self._labels += sum(label != IGNORED for label in encoded["labels"])
        if length > self.max_tokens:
            self._note("long", self._long, view.name)

    def _note(self, what: str, named: list[str], name: str) -> None:
        self._counts[what] += 1
        if len(named) < 10:
            named.append(name)

    def measured(self) -> dict[str, Any]:
        """Tokens of a row (mean, most, histogram), those that carry a label, rows over the budget."""
        rows = self._lengths.total()
        if not rows:
            return {"rows": 0, "budget": self.max_tokens}
        total = sum(length * count for length, count in self._lengths.items())
        bins = Counter(max(edge for edge in _EDGES if edge <= length) for length in self._lengths.elements())
        return {
            "rows": rows,
            "budget": self.max_tokens,
            "total": total,
            "mean": round(total / rows, 1),
            "most": max(self._lengths),
            "labelled": self._labels,
            "labelled_share": round(self._labels / total, 4),
            "over_budget": self._counts["long"],
            "histogram": [{"from": edge, "rows": bins[edge]} for edge in _EDGES],
        }

    def findings(self) -> list[Finding]:
        found = []
        if count := self._counts["unlabelled"]:
            fix = f"the end of an answer has to be a label, or the model does not learn to stop: {self._why}"
            found.append(finding("unlabelled_end", self._open, fix, count=count))
        if count := self._counts["long"]:
            fix = (
                f"shorten these rows or raise data.max_tokens ({self.max_tokens}; the longest has {max(self._lengths)} "
                "tokens): a row that is cut loses its end token"
            )
            found.append(finding("truncated_end", self._long, fix, count=count))
        return found
