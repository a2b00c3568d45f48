"""One process's share of the answers."""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

from kelron_lib.answers.asking import BASE, Asking
from kelron_lib.answers.dialogues import conversation
from kelron_lib.answers.kept import Kept, Unit, stages, together, what_is_asked
from kelron_lib.files import cannot_write
from kelron_lib.generate import Answer, Messages, base_only, generate_answers, window
from kelron_lib.model import load_to_answer, threads_for
from kelron_lib.processes import World
from kelron_lib.prompts import encode_prompt

Progress = Callable[[int, int], None]
"""Called with (units done, units of this process in all)."""


def answer_share(folder: Path, world: World, progress: Progress | None = None) -> None:
    """Do this process's share of what the folder lacks; each unit is kept as soon as it is whole.

    All processes must call it. A stage begins when all have ended the one before. Raises KelronError where the model
    cannot be loaded, a prompt does not fit its window, or the folder cannot be written.
    """
    asking, about = what_is_asked(folder)
    done = Kept.read(folder).lines
    own = [[unit for unit in stage if unit not in done][world.rank :: world.size] for stage in stages(asking)]
    world.wait()  # nobody writes before all have seen what is missing
    share, told = _Share(asking), _Told(progress, sum(map(len, own)), asking.config.session.progress_seconds)
    _append(folder, world, b"")  # ends a line that a cut left half written
    for stage in own:
        share.kept = Kept.read(folder)
        for unit in stage:
            line = share.do(unit) | {**about, "process": world.rank}
            _append(folder, world, json.dumps(line, ensure_ascii=False).encode())
            told.one_more()
        world.wait()


class _Told:
    """Tells how far a process is, not more often than is wanted."""

    def __init__(self, progress: Progress | None, of: int, every: float) -> None:
        self._progress, self._of, self._every = progress, of, every
        self._done, self._at = 0, time.monotonic()

    def one_more(self) -> None:
        self._done += 1
        due = time.monotonic() - self._at >= self._every or self._done == self._of
        if self._progress is not None and due:
            self._at = time.monotonic()
            self._progress(self._done, self._of)


def _append(folder: Path, world: World, line: bytes) -> None:
    try:
        with open(folder / f"answers-{world.rank}.jsonl", "ab") as file:
            file.write(line + b"\n")
    except OSError as error:
        raise cannot_write(f"keep answers in {folder}", error) from None


class _Share:
    """What a process needs for its units, made when it is first needed."""

    def __init__(self, asking: Asking) -> None:
        self.asking = asking
        self.kept = Kept()
        self._prompts_of: dict[tuple[str, int], list[list[int]]] = {}

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        return load_to_answer(self.asking.config, self.asking.adapter)

    def do(self, unit: Unit) -> dict[str, Any]:
        """The unit's line."""
        model = self._loaded[0]
        began = time.monotonic()
        with base_only(model) if unit.model == BASE else nullcontext(), threads_for(model):
            if unit.measure:
                found = {"value": self._measure(unit)}
            else:
                prompts = self._prompts(unit)
                found = {"prompts": prompts, "value": self._answers(unit, prompts)}
        return {**asdict(unit), **found, "seconds": time.monotonic() - began, "device": _device(model)}

    def _measure(self, unit: Unit) -> Any:
        measure = next(measure for measure in self.asking.measures if measure.name == unit.measure)
        module, _, name = measure.function.partition(":")
        start = unit.number * measure.part
        items = measure.items[start : start + measure.part]
        return getattr(importlib.import_module(module), name)(*self._loaded, items, **measure.arguments)

    def _answers(self, unit: Unit, prompts: Sequence[int]) -> list[dict[str, Any] | None]:
        """An answer for each conversation of the unit that goes on, None for those that have ended."""
        asked = {i: messages for i in prompts if (messages := self._goes_on(unit.model, unit.turn, i)) is not None}
        answers: list[Answer] = generate_answers(
            *self._loaded,
            list(asked.values()),
            max_new_tokens=self.asking.max_new_tokens,
            batch_size=self.asking.batch_size,
            stop_token_ids=self.asking.config.model.stop_token_ids,
        )
        by_prompt = dict(zip(asked, answers, strict=True))
        return [asdict(by_prompt[i]) if i in by_prompt else None for i in prompts]

    def _prompts(self, unit: Unit) -> list[int]:
        return self._units_of(unit.model, unit.turn)[unit.number]

    def _goes_on(self, model: str, turn: int, prompt: int) -> Messages | None:
        """The conversation that is to be answered in a turn, None where it ended before: its window was full."""
        said = self.kept.said(model, prompt)
        if len(said) < turn:
            return None
        messages = conversation(self.asking, prompt, said[:turn])
        if turn and len(encode_prompt(self._loaded[1], messages)) > self._room:
            return None
        return messages

    @property
    def _room(self) -> int:
        return window(self._loaded[0]) - self.asking.max_new_tokens

    def _units_of(self, model: str, turn: int) -> list[list[int]]:
        """The prompts of each unit of a turn, the longest conversations first: if memory is short, it shows at once.

        Those that have ended come last, so that the number of units is known from the start.
        """
        if (model, turn) not in self._prompts_of:
            taking = [i for i in range(len(self.asking.prompts)) if len(self.asking.turns_of(i)) >= turn]
            lengths = {i: self._length(model, turn, i) for i in taking}
            order = sorted(lengths, key=lambda i: (-lengths[i], i))
            size = together(len(order), self.asking.batch_size)
            self._prompts_of[model, turn] = [order[start : start + size] for start in range(0, len(order), size)]
        return self._prompts_of[model, turn]

    def _length(self, model: str, turn: int, prompt: int) -> int:
        messages = self._goes_on(model, turn, prompt)
        return 0 if messages is None else len(encode_prompt(self._loaded[1], messages))


def _device(model: Any) -> str:
    """The name of the device that a model is on."""
    import torch

    return torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else "CPU"
