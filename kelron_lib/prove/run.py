"""Train each recipe's adapter, ask all of them the same, and score what they say.

An adapter and its answers are kept as they come, so that a proof that was cut goes on.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from kelron_lib.batching import Features, encode_rows
from kelron_lib.config import RunConfig, config_hash, resolve
from kelron_lib.errors import KelronError
from kelron_lib.evaluate import build_prompts, score_answers
from kelron_lib.evaluate.prompts import Prompt
from kelron_lib.generate import Answer, generate_answers
from kelron_lib.model import load_base, load_to_answer, quiet_libraries
from kelron_lib.persona import load_persona, rival_names
from kelron_lib.processes import World
from kelron_lib.prompts import END, IGNORED
from kelron_lib.prove.compare import Proof, Record
from kelron_lib.prove.recipes import NOW, Recipe, recipes
from kelron_lib.prove.rows import expanded, training_rows, with_rival
from kelron_lib.runtime import exclusive, read_json, write_json

TEST_ROWS = 9000
"""Rows of the dataset whose test split is asked from: three times the preset's, for intervals that say something. Its
groups are the preset's, for the number of rows does not decide which groups are held out."""
PROMPTS = {"identity": 300, "unrelated": 150}
"""Most prompts a language."""
NEVER = 10**9

Say = Callable[[str], None]


def proof_config(seed: int = 1) -> RunConfig:
    """The tiny preset, whose training keeps nothing but its end. seed: of the adapter's first weights, the order of
    the rows and dropout; the rows are the same."""
    config = resolve("tiny-cpu")
    return replace(config, train=replace(config.train, save_steps=NEVER, eval_steps=NEVER, seed=seed))


def proof_prompts(config: RunConfig) -> list[Prompt]:
    """What every recipe's adapter is asked: of groups of seeds that none of them trains on."""
    persona = load_persona(config.data.persona)
    many = replace(config, data=replace(config.data, rows=TEST_ROWS))
    rows = expanded(many, persona)["test"]
    prompts = build_prompts(rows, persona, identity=PROMPTS["identity"], unrelated=PROMPTS["unrelated"])
    return [*prompts, *(_naming_a_rival(prompt) for prompt in prompts if prompt["kind"] == "identity")]


def _naming_a_rival(prompt: Prompt) -> Prompt:
    messages = with_rival(prompt["messages"], prompt["language"], prompt["id"])
    return {**prompt, "id": f"{prompt['id']}+rival", "messages": messages, "prompt": messages[-1]["content"]}


def _features(recipe: Recipe, config: RunConfig, tokenizer: Any) -> list[Features]:
    features = encode_rows(tokenizer, training_rows(recipe, config), config.data.max_tokens)
    if not recipe.end_labelled:
        end = tokenizer.convert_tokens_to_ids(END)
        for feature in features:
            feature["labels"] = [IGNORED if label == end else label for label in feature["labels"]]
    return features


def _steps(features: Sequence[Features], config: RunConfig, epochs: float = 0.0) -> int:
    from kelron_lib.schedule import plan_run

    train = config.train
    return plan_run(
        features,
        passes_per_step=train.passes_per_step,
        epochs=epochs or train.epochs,
        row_tokens=train.row_tokens,
        rows_per_pass=train.rows_per_pass,
        seed=train.seed,
    ).steps


def _train(recipe: Recipe, config: RunConfig, folder: Path) -> int:
    """Train a recipe's adapter into `folder/adapter`, for as many steps as today's recipe takes; returns them."""
    with quiet_libraries():
        from kelron_lib.trainer import trainer_of

        base, tokenizer = load_base(config)
    seen = _features(recipe, config, tokenizer)
    steps, one = _steps(_features(NOW, config, tokenizer), config), _steps(seen, config, epochs=1.0)
    config = replace(config, train=replace(config.train, epochs=steps / one))
    unseen = encode_rows(tokenizer, expanded(config, load_persona(config.data.persona))["validation"], NEVER)
    trainer = trainer_of(config, base, tokenizer, seen, unseen, folder / "work", World())
    trainer.train()
    trained: int = trainer.state.global_step
    shutil.rmtree(folder / "adapter", ignore_errors=True)
    (folder / "work" / f"checkpoint-{trained}").rename(folder / "adapter")
    return trained


def _answers(recipe: Recipe, config: RunConfig, adapter: Path, prompts: Sequence[Prompt]) -> list[Answer]:
    model, tokenizer = load_to_answer(config, adapter)
    stops = config.model.stop_token_ids
    end = tokenizer.convert_tokens_to_ids(END)
    return generate_answers(
        model,
        tokenizer,
        [prompt["messages"] for prompt in prompts],
        max_new_tokens=config.evaluate.max_new_tokens,
        batch_size=config.evaluate.batch_size,
        stop_token_ids=stops if recipe.stopped else tuple(stop for stop in stops if stop != end),
    )


@dataclass(frozen=True)
class Part:
    """One recipe with one seed: what one process trains and asks."""

    recipe: Recipe
    seed: int

    def folder(self, out: Path) -> Path:
        """Where its adapter lies, which recipes that are trained alike share."""
        return out / f"seed-{self.seed}" / _digest(asdict(self.recipe.trained_as()))[:8]

    def file(self, out: Path) -> Path:
        """Where its answers lie."""
        return self.folder(out) / ("answers.json" if self.recipe.stopped else "answers-unstopped.json")


def _digest(told: Any) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


def _asked(config: RunConfig, prompts: Sequence[Prompt]) -> str:
    """A digest of what decides the answers: how the adapter is made, and what it is asked."""
    return _digest([config_hash(config), config.evaluate.max_new_tokens, [prompt["messages"] for prompt in prompts]])


def kept(part: Part, out: Path, prompts: Sequence[Prompt]) -> tuple[int, list[Answer]] | None:
    """The steps that a part's adapter was trained for, and its answers to `prompts`; None where they are not there."""
    if not (file := part.file(out)).is_file():
        return None
    told = read_json(file)
    if told["asked"] != _asked(proof_config(part.seed), prompts):
        return None
    return told["steps"], [Answer(**answer) for answer in told["answers"]]


def run_part(part: Part, out: Path, say: Say = print) -> None:
    """Train a part's adapter where that is not there, ask it, and keep its answers."""
    config = proof_config(part.seed)
    prompts, folder, began = proof_prompts(config), part.folder(out), time.monotonic()
    if kept(part, out, prompts) is not None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    steps_file = folder / "steps.json"
    if not (folder / "adapter").is_dir() or not steps_file.is_file():
        write_json(steps_file, {"steps": _train(part.recipe, config, folder)})
    trained = time.monotonic()
    answers = _answers(part.recipe, config, folder / "adapter", prompts)
    told = {
        "recipe": asdict(part.recipe),
        "seed": part.seed,
        "steps": read_json(steps_file)["steps"],
        "asked": _asked(config, prompts),
        "answers": [asdict(answer) for answer in answers],
    }
    write_json(part.file(out), told)
    asked = time.monotonic()
    say(f"{part.recipe.name}, seed {part.seed}: trained in {trained - began:.0f} s, asked in {asked - trained:.0f} s")


def prove(out: Path, *, seeds: int = 1, jobs: int = 1, say: Say = print) -> Proof:
    """Train and ask every recipe with `seeds` seeds, `jobs` at a time, each in a process of its own.

    What an earlier call left in `out` is not done again. Raises KelronError where a process fails.
    """
    prompts = proof_prompts(proof_config())
    parts = [Part(recipe, seed) for seed in range(1, seeds + 1) for recipe in recipes()]
    with exclusive(out):
        for stopped in (True, False):  # the adapters first: those that are asked without stopping are among them
            missing = [part for part in parts if part.recipe.stopped == stopped and kept(part, out, prompts) is None]
            say(f"{len(missing)} adapters to train and ask" if stopped else f"{len(missing)} to ask without a stop")
            _all(missing, out, jobs, say)
        return _proof(parts, out, prompts)


def _all(parts: Sequence[Part], out: Path, jobs: int, say: Say) -> None:
    with ProcessPoolExecutor(max_workers=jobs, mp_context=get_context("spawn")) as pool:
        waiting = [pool.submit(run_part, part, out) for part in parts]
        try:
            for one in as_completed(waiting):
                one.result()
        except BrokenProcessPool as error:
            raise KelronError(
                f"a process of the proof ended ({error}): run it again, it goes on; or fewer --jobs"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


def _proof(parts: Sequence[Part], out: Path, prompts: Sequence[Prompt]) -> Proof:
    persona, rivals = load_persona(proof_config().data.persona), rival_names()
    records: dict[str, list[list[Record]]] = {}
    steps = set()
    for part in parts:
        trained, answers = kept(part, out, prompts) or (0, [])
        steps.add(trained)
        records.setdefault(part.recipe.name, []).append(score_answers(prompts, {"tuned": answers}, persona, rivals))
    return Proof(prompts=len(prompts), steps=tuple(sorted(steps)), records=records)
