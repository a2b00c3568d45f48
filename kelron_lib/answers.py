"""Answers of a model to many prompts, kept in a folder as they come, by one process a GPU.

Before anybody answers, the prompts are sorted by length and cut into batches. A batch is answered whole by one process
and kept in one line, so that neither a cut nor the number of processes changes what stands in a batch, and with it an
answer. What is asked and of whom is kept beside the answers; other questions begin anew, which is said.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kelron_lib.config import RunConfig, from_dict, to_dict
from kelron_lib.errors import KelronError
from kelron_lib.files import cannot_write
from kelron_lib.generate import Answer, Messages, base_only, generate_answers
from kelron_lib.launch import run_processes
from kelron_lib.manifest import record_files
from kelron_lib.model import load_base, load_tokenizer, load_tuned, quiet_libraries
from kelron_lib.processes import World, device_count
from kelron_lib.prompts import encode_prompt
from kelron_lib.runtime import read_json, write_json

ASKING_FILE = "asking.json"
BASE, TUNED = "base", "tuned"
_PARTS = "answers-*.jsonl"


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

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it, with a digest of all that decides an answer."""
        told: dict[str, Any] = {
            "config": to_dict(self.config),
            "prompts": list(self.prompts),
            "max_new_tokens": self.max_new_tokens,
            "batch_size": self.batch_size,
            "adapter": None if self.adapter is None else str(self.adapter),
            "models": list(self.models),
        }
        decides = {**told, "config": told["config"]["model"], "adapter": _content(self.adapter)}
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
        )


def _content(adapter: Path | None) -> Any:
    """The digests of an adapter's files; where it lies is of no account."""
    if adapter is None:
        return None
    names = sorted(path.name for path in adapter.glob("adapter_*"))
    return {name: asdict(record) for name, record in record_files(adapter, names).items()}


def batches_of(asking: Asking, tokenizer: Any) -> list[list[int]]:
    """The numbers of the prompts of each batch, the longest prompts first: if memory is short, it shows at once."""
    lengths = [len(encode_prompt(tokenizer, messages)) for messages in asking.prompts]
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    return [order[start : start + asking.batch_size] for start in range(0, len(order), asking.batch_size)]


def _kept(folder: Path) -> dict[tuple[str, int], list[Answer]]:
    """The batches that were answered whole, by model and number. A last line that was cut off counts as none."""
    found = {}
    for path in sorted(folder.glob(_PARTS)):
        for line in path.read_text(encoding="utf-8").split("\n"):
            try:
                told = json.loads(line)
            except ValueError:
                continue
            found[told["model"], told["batch"]] = [Answer(**answer) for answer in told["answers"]]
    return found


def _begin(asking: Asking, folder: Path, say: Callable[[str], None]) -> Path:
    """The asking's file in the folder, which holds no answers to other questions."""
    told, file = asking.to_dict(), folder / ASKING_FILE
    try:
        if file.exists() and read_json(file).get("digest") != told["digest"]:
            say(f"{folder} holds answers to other questions or of another model: they are asked anew")
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(file, told)
    except OSError as error:
        raise cannot_write(f"keep answers in {folder}", error) from None
    return file


def _missing(asking: Asking, count: int, folder: Path) -> set[tuple[str, int]]:
    kept = _kept(folder)
    return {(model, number) for model in asking.models for number in range(count)} - kept.keys()


def answer_share(folder: Path, world: World, progress: Callable[[int, int], None] | None = None) -> None:
    """Answer this process's share of the batches that are not answered yet; each is kept as soon as it is whole."""
    asking = Asking.from_dict(read_json(folder / ASKING_FILE))
    batches = batches_of(asking, load_tokenizer(asking.config))
    missing = _missing(asking, len(batches), folder)
    own = [(model, n) for model in asking.models for n in range(len(batches)) if (model, n) in missing]
    own = [(model, n) for model, n in own if n % world.size == world.rank]
    world.wait()  # nobody writes before all have seen what is missing
    if not own:
        return
    with quiet_libraries():
        loaded = load_base(asking.config) if asking.adapter is None else load_tuned(asking.config, asking.adapter)
    with open(folder / f"answers-{world.rank}.jsonl", "a", encoding="utf-8") as file:
        file.write("\n")  # ends a line that a cut left half written
        for done, (model, number) in enumerate(own, start=1):
            told = {"model": model, "batch": number, "answers": _answers(asking, loaded, model, batches[number])}
            file.write(json.dumps(told, ensure_ascii=False) + "\n")
            file.flush()
            if progress is not None:
                progress(done, len(own))


def _answers(asking: Asking, loaded: tuple[Any, Any], model: str, batch: Sequence[int]) -> list[dict[str, Any]]:
    with base_only(loaded[0]) if model == BASE else nullcontext():
        answers = generate_answers(
            *loaded,
            [asking.prompts[i] for i in batch],
            max_new_tokens=asking.max_new_tokens,
            batch_size=asking.batch_size,
            stop_token_ids=asking.config.model.stop_token_ids,
        )
    return [asdict(answer) for answer in answers]


def ask(
    asking: Asking, folder: Path, *, processes: int = 0, say: Callable[[str], None] = print
) -> dict[str, list[Answer]]:
    """The answers to all prompts, by model, in the order of the prompts. Goes on where an earlier call was cut.

    processes: how many share the work; 0 for one a GPU (one where there is none). Raises KelronError where the base or
    the adapter cannot be loaded, a prompt does not fit the model's window, or the folder cannot be written.
    """
    if not asking.prompts or (TUNED in asking.models and asking.adapter is None):
        raise KelronError("nothing to ask: name at least one prompt, and an adapter for the tuned model")
    file = _begin(asking, folder, say)
    batches = batches_of(asking, load_tokenizer(asking.config))
    left = len(_missing(asking, len(batches), folder))
    if left:
        processes = min(processes or max(1, device_count()), left)
        say(f"{left} of {len(batches) * len(asking.models)} batches to answer, {processes} at a time")
        if processes == 1:
            answer_share(folder, World(), lambda done, of: say(f"{done} of {of} batches answered"))
        else:
            run_processes(["-m", "kelron_lib.answerer", str(file.parent)], processes, say=say)
    kept = _kept(folder)
    return {model: list(_in_order(kept, model, batches)) for model in asking.models}


def _in_order(
    kept: Mapping[tuple[str, int], Sequence[Answer]], model: str, batches: Sequence[Sequence[int]]
) -> Iterator[Answer]:
    by_prompt = {i: answer for n, batch in enumerate(batches) for i, answer in zip(batch, kept[model, n], strict=True)}
    yield from (by_prompt[i] for i in range(len(by_prompt)))
