"""What has been answered, in a folder: a line for each unit of work, written when it is whole.

All that there is to do is known beforehand as units: those of the first questions, those of every later turn, the parts
of the measures. Which conversations a later turn's unit holds is decided by the answers before it alone.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kelron_lib.answers.asking import Asking
from kelron_lib.errors import KelronError
from kelron_lib.files import cannot_write
from kelron_lib.generate import Answer
from kelron_lib.runtime import read_json, write_json

ASKING_FILE = "asking.json"
_PARTS = "answers-*.jsonl"
MOST_BATCHES = 8
FEWEST_UNITS = 8
"""Of a model and a turn, as far as there are as many batches."""


@dataclass(frozen=True, order=True)
class Unit:
    """A piece of work that one process does whole."""

    model: str
    measure: str
    """The measure's name; empty for answers."""
    turn: int
    """Which turn of the conversations it answers, from 0; 0 for a measure."""
    number: int
    """Which of them."""


def parts_of(count: int, size: int) -> range:
    """The numbers of as many parts of `size` as hold `count`."""
    return range(-(-count // size))


def together(count: int, batch_size: int) -> int:
    """How many of `count` prompts one process answers in one go, as one unit.

    In it the prompts of up to eight batches follow each other as rows become free, which takes half the steps of
    batches that each wait for their longest answer. Few prompts make smaller units, for several processes to share.
    """
    return batch_size * max(1, min(MOST_BATCHES, count // (FEWEST_UNITS * batch_size)))


def stages(asking: Asking) -> list[list[Unit]]:
    """All units, in stages: those of a stage need the answers of all the stages before it, and none of its own."""
    found = []
    for turn in range(1 + max(map(len, asking.turns), default=0)):
        count = sum(len(asking.turns_of(i)) >= turn for i in range(len(asking.prompts)))
        batches = parts_of(count, together(count, asking.batch_size))
        found.append([Unit(model, "", turn, number) for model in asking.models for number in batches])
    measures = [
        Unit(model, measure.name, 0, number)
        for measure in asking.measures
        for model in asking.models
        for number in parts_of(len(measure.items), measure.part)
    ]
    return [*found, measures] if measures else found


@dataclass
class Kept:
    """What a folder holds of an asking."""

    lines: dict[Unit, dict[str, Any]] = field(default_factory=dict)
    """The units that were done whole."""
    answers: dict[tuple[str, int], dict[int, Answer | None]] = field(default_factory=dict)
    """By model and turn, then by prompt; None where the conversation had ended before that turn."""

    @classmethod
    def read(cls, folder: Path) -> Kept:
        """What the folder holds. A last line that was cut off counts as none, and so does an answer to what is not
        asked any more."""
        kept, digest = cls(), read_json(folder / ASKING_FILE)["digest"]
        for path in sorted(folder.glob(_PARTS)):
            for line in path.read_bytes().split(b"\n"):
                try:
                    told = json.loads(line)
                except ValueError:  # cut off, perhaps within a character
                    continue
                if told["digest"] == digest:
                    kept._add(told)
        return kept

    def _add(self, told: dict[str, Any]) -> None:
        unit = Unit(told["model"], told["measure"], told["turn"], told["number"])
        self.lines[unit] = told
        if not unit.measure:
            answers = self.answers.setdefault((unit.model, unit.turn), {})
            for prompt, answer in zip(told["prompts"], told["value"], strict=True):
                answers[prompt] = None if answer is None else Answer(**answer)

    def count(self) -> int:
        """How many answers there are, each turn's by itself."""
        return sum(map(len, self.answers.values()))

    def said(self, model: str, prompt: int) -> list[Answer]:
        """The model's answers in the conversation of a prompt, turn by turn, as far as there are any."""
        found: list[Answer] = []
        while (answer := self.answers.get((model, len(found)), {}).get(prompt)) is not None:
            found.append(answer)
        return found


def begin(asking: Asking, folder: Path, say: Callable[[str], None]) -> None:
    """Write down in the folder what is asked. Answers to other questions are removed, which is said.

    Raises KelronError where it cannot be written.
    """
    told, before = asking.to_dict(), _earlier(folder)
    try:
        if before and before.get("digest") != told["digest"]:
            say(f"{folder} holds answers to other questions or of another model: they are asked anew")
            forget(folder)
            before = {}
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / ASKING_FILE, {**told, "sitting": before.get("sitting", 0) + 1})
    except OSError as error:
        raise cannot_write(f"keep answers in {folder}", error) from None


def is_begun(folder: Path) -> bool:
    """Whether the folder says what is asked."""
    return (folder / ASKING_FILE).exists()


def forget(folder: Path) -> None:
    """Remove an asking and its answers, and the folder where it holds nothing else."""
    for path in (folder / ASKING_FILE, *folder.glob(_PARTS)):
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()


def _earlier(folder: Path) -> dict[str, Any]:
    """What was asked before; one that cannot be read counts as another."""
    if not is_begun(folder):
        return {}
    try:
        told = read_json(folder / ASKING_FILE)
    except KelronError:
        told = None
    return told if isinstance(told, dict) else {"digest": ""}


def what_is_asked(folder: Path) -> tuple[Asking, dict[str, Any]]:
    """The asking in a folder, and what each line of its answers says beside them: the asking's digest, and how often
    it was begun."""
    told = read_json(folder / ASKING_FILE)
    return Asking.from_dict(told), {"digest": told["digest"], "sitting": told["sitting"]}


def measured(folder: Path) -> dict[str, dict[str, list[Any]]]:
    """{MEASURE: {MODEL: [what its function returned, part by part]}} of an asking that is done."""
    asking, lines = what_is_asked(folder)[0], Kept.read(folder).lines
    return {
        measure.name: {
            model: [
                lines[Unit(model, measure.name, 0, number)]["value"]
                for number in parts_of(len(measure.items), measure.part)
            ]
            for model in asking.models
        }
        for measure in asking.measures
    }


def work_done(folder: Path) -> dict[str, Any]:
    """What the answers in a folder took: {"seconds", "tokens", "tokens_per_second", "measuring_seconds", "processes",
    "devices", "sittings"}.

    `seconds` is that of the process that took longest in each sitting and turn, over all sittings (a cut ends one);
    loading the model is not in it.
    """
    lines = Kept.read(folder).lines
    answered = {unit: line for unit, line in lines.items() if not unit.measure}
    tokens = sum(answer["tokens"] for line in answered.values() for answer in line["value"] if answer)
    seconds = _longest(answered)
    return {
        "seconds": round(seconds, 3),
        "tokens": tokens,
        "tokens_per_second": round(tokens / seconds, 1) if seconds else None,
        "measuring_seconds": round(_longest({unit: line for unit, line in lines.items() if unit.measure}), 3),
        "processes": len({line["process"] for line in lines.values()}),
        "devices": sorted({line["device"] for line in lines.values()}),
        "sittings": len({line["sitting"] for line in lines.values()}),
    }


def _longest(lines: Mapping[Unit, Mapping[str, Any]]) -> float:
    busy: dict[tuple[Any, ...], dict[int, float]] = {}
    for unit, line in lines.items():
        of_process = busy.setdefault((line["sitting"], unit.turn), {})
        of_process[line["process"]] = of_process.get(line["process"], 0.0) + line["seconds"]
    return sum(max(of_process.values()) for of_process in busy.values())


def all_answers(asking: Asking, kept: Kept, model: str) -> Iterator[Answer]:
    """A model's answers in the order of the prompts; for a dialogue, its last with all that led to it."""
    from kelron_lib.answers.dialogues import reply

    for prompt in range(len(asking.prompts)):
        said = kept.said(model, prompt)
        yield reply(asking, prompt, said) if asking.turns_of(prompt) else said[0]
