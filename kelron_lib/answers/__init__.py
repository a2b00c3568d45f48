"""Answers of a model to many prompts, kept in a folder as they come, by one process a GPU.

Before anybody answers, the prompts are sorted by length and cut into units. A unit is answered whole by one process and
kept in one line, so that neither a cut nor the number of processes changes what a prompt is answered beside, and with
it an answer. Dialogues go turn by turn: a turn's units are made when all answers to the turn before are there. What is
asked and of whom is kept beside the answers; other questions begin anew, which is said.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator
from pathlib import Path

from kelron_lib.answers.asking import BASE, TUNED, Asking, Measure
from kelron_lib.answers.dialogues import Reply
from kelron_lib.answers.kept import (
    Kept,
    all_answers,
    begin,
    forget,
    is_begun,
    measured,
    stages,
    what_is_asked,
    work_done,
)
from kelron_lib.answers.share import answer_share
from kelron_lib.errors import KelronError
from kelron_lib.generate import Answer
from kelron_lib.interrupt import saying
from kelron_lib.launch import run_processes
from kelron_lib.model import load_tokenizer, require_fit
from kelron_lib.processes import World, device_count, prepare_cuda_memory

__all__ = [
    "BASE",
    "TUNED",
    "Asking",
    "Measure",
    "Reply",
    "answer_share",
    "ask",
    "measured",
    "told_when_cut",
    "work_done",
]


def ask(
    asking: Asking, folder: Path, *, processes: int = 0, say: Callable[[str], None] = print
) -> dict[str, list[Answer]]:
    """The answers to all prompts, by model, in the order of the prompts; a dialogue's is a `Reply`.

    Goes on where an earlier call was cut. processes: how many share the work; 0 for one a GPU (one where there is
    none). With several, this one holds no model; alone, it gives the model's memory back. Raises KelronError where the
    base or the adapter cannot be loaded, a prompt does not fit the model's window, or the folder cannot be written.
    """
    load_tokenizer(asking.config)  # a base that is not there, or whose stop tokens are others: one line, from here
    if asking.adapter is not None:
        require_fit(asking.config, asking.adapter)  # before answers to other questions make room
    begin(asking, folder, say)
    units = [unit for stage in stages(asking) for unit in stage]
    left = len(set(units) - Kept.read(folder).lines.keys())
    if left:
        processes = min(_processes(processes), left)
        say(
            f"{left} of {len(units)} parts to answer, {processes} at a time; they are kept in {folder}, so that "
            "after a cut the same command goes on from there"
        )
        _answer(folder, processes, say)
    kept = Kept.read(folder)
    return {model: list(all_answers(asking, kept, model)) for model in asking.models}


@contextlib.contextmanager
def told_when_cut(folder: Path) -> Iterator[None]:
    """Have a Ctrl-C in this block, which asks, say how many answers the folder keeps."""
    try:
        yield
    except KeyboardInterrupt as error:
        if not is_begun(folder):
            raise
        count, of = Kept.read(folder).count(), what_is_asked(folder)[0].count()
        told = f"{count:,} of {of:,} answers are kept in {folder}" if count else f"{folder} keeps no answer yet"
        raise saying(error, told) from None


def _processes(asked: int) -> int:
    gpus = device_count()
    if gpus and asked > gpus:
        raise KelronError(f"session.processes is {asked}, but there is a GPU for {gpus} only: lower it, or set it to 0")
    return asked or max(1, gpus)


def _answer(folder: Path, processes: int, say: Callable[[str], None]) -> None:
    try:
        if processes == 1:
            _alone(folder, say)
        else:
            run_processes(["-m", "kelron_lib.answerer", str(folder)], processes, say=say)
    except KelronError as error:
        if error.exit_code == KelronError.exit_code and not Kept.read(folder).lines:
            forget(folder)  # refused before anything was answered: nothing is left behind
        raise


def _alone(folder: Path, say: Callable[[str], None]) -> None:
    """Answer in this process, and give the memory back, so that what comes next can load the model itself."""
    import torch

    prepare_cuda_memory()
    try:
        answer_share(folder, World(), lambda done, of: say(f"{done} of {of} parts answered"))
    finally:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
