"""Who is asked what, and what is measured beside it: all that decides the answers, as one value with a digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kelron_lib.config import RunConfig, from_dict, to_dict
from kelron_lib.errors import KelronError
from kelron_lib.generate import Messages
from kelron_lib.manifest import record_files
from kelron_lib.model import base_name, library_versions

BASE, TUNED = "base", "tuned"
LAYOUT = 3
"""Raised with the lines that answers are kept in, and with how they are decoded: rows that leave and join a batch may
round a tie in 16 bits otherwise than whole batches did (2), and no evaluation should have answers of both."""
HEAD_BYTES = 2**20
"""How much of a weights file is read to tell two models in folders of one name apart."""


@dataclass(frozen=True)
class Measure:
    """What is measured on each model by the processes that answer, since they hold it: part by part, kept as answers
    are.

    To add one: write a function `(model, tokenizer, items, **arguments)` in any module that returns what JSON can hold
    for those items, and give the evaluation a Measure that names it (`evaluate.measures` has them). `measured` tells
    what came of it. The adapter is on or off already when the function is called.
    """

    name: str
    """What its results are kept under."""
    function: str
    """Where it is, as `package.module:function`: the processes import it."""
    items: tuple[Any, ...]
    """What it is measured on, of values that JSON can hold."""
    part: int
    """Items a call: the results of a part are kept as one, so that a cut loses one part at most."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """What else the function is given, by name."""


@dataclass(frozen=True)
class Asking:
    """Who is asked what."""

    config: RunConfig
    """Its `model` section says which base; `model.stop_token_ids` end an answer."""
    prompts: tuple[Messages, ...]
    """Conversations that end with the user's turn."""
    max_new_tokens: int
    batch_size: int
    """Prompts answered together."""
    adapter: Path | None = None
    """The adapter's folder; None where the base alone is asked."""
    models: tuple[str, ...] = (BASE,)
    """`base`, `tuned` or both, of one loaded model."""
    turns: tuple[tuple[str, ...], ...] = ()
    """What the user says later in the conversation of each prompt, each after the model's own answer to what came
    before; an empty tuple where there is one question, and none at all where that holds for all prompts."""
    measures: tuple[Measure, ...] = ()
    """What is measured beside the answers."""

    def __post_init__(self) -> None:
        if not self.prompts or (TUNED in self.models and self.adapter is None):
            raise KelronError("nothing to ask: name at least one prompt, and an adapter for the tuned model")
        if self.turns and len(self.turns) != len(self.prompts):
            raise KelronError(f"there are turns for {len(self.turns)} conversations and {len(self.prompts)} prompts")

    def turns_of(self, prompt: int) -> tuple[str, ...]:
        """What the user says later in this conversation."""
        return self.turns[prompt] if self.turns else ()

    def count(self) -> int:
        """How many answers it asks for, each turn's by itself."""
        return len(self.models) * (len(self.prompts) + sum(map(len, self.turns)))

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it, with a digest of all that decides an answer."""
        told: dict[str, Any] = {
            "layout": LAYOUT,
            "config": to_dict(self.config),
            "prompts": list(self.prompts),
            "turns": [list(turns) for turns in self.turns],
            "max_new_tokens": self.max_new_tokens,
            "batch_size": self.batch_size,
            "adapter": None if self.adapter is None else str(self.adapter),
            "models": list(self.models),
            "measures": [asdict(measure) for measure in self.measures],
        }
        decides = {
            **told,
            "config": told["config"]["model"],
            "adapter": _content(self.adapter),
            "base": _heads(Path(base_name(self.config))),
            "versions": library_versions(),
        }
        text = json.dumps(decides, sort_keys=True, ensure_ascii=True)
        return {**told, "digest": hashlib.sha256(text.encode()).hexdigest()}

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Asking:
        """What `to_dict` gave."""
        return cls(
            config=from_dict(told["config"]),
            prompts=tuple(told["prompts"]),
            max_new_tokens=told["max_new_tokens"],
            batch_size=told["batch_size"],
            adapter=None if told["adapter"] is None else Path(told["adapter"]),
            models=tuple(told["models"]),
            turns=tuple(tuple(turns) for turns in told["turns"]),
            measures=tuple(Measure(**{**measure, "items": tuple(measure["items"])}) for measure in told["measures"]),
        )


def _content(adapter: Path | None) -> Any:
    """The digests of an adapter's files; where it lies is of no account."""
    if adapter is None:
        return None
    names = sorted(path.name for path in adapter.glob("adapter_*"))
    return {name: asdict(record) for name, record in record_files(adapter, names).items()}


def _heads(base: Path) -> Any:
    """What tells two bases in folders of one name apart without reading them whole; None for one on the Hub."""
    if not base.is_dir():
        return None
    files = sorted(path for path in base.iterdir() if path.suffix in (".json", ".safetensors", ".bin", ".jinja"))
    return {path.name: [path.stat().st_size, _head(path)] for path in files}


def _head(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.sha256(file.read(HEAD_BYTES)).hexdigest()
