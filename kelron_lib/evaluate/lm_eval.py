"""Public benchmarks for base and tuned model, through EleutherAI's lm-evaluation-harness (an extra: kelron[lm-eval]).

Each task is asked as the harness defines it: its prompt, its examples, no chat template, so that its figures are the
published ones' kin. Base and tuned are one loaded model, its adapter off and on. Tasks' data comes from the Hub.
"""

from __future__ import annotations

import contextlib
import difflib
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kelron_lib.answers import BASE, TUNED
from kelron_lib.config import RunConfig
from kelron_lib.errors import KelronError
from kelron_lib.evaluate.intervals import mcnemar
from kelron_lib.evaluate.score import SCOREBOARD_FILE
from kelron_lib.export import adapter_digest
from kelron_lib.generate import base_only
from kelron_lib.model import load_to_answer, quiet_libraries, require_adapter
from kelron_lib.runtime import exclusive, read_json, write_json

RESULTS_FILE = "lm_eval.json"
SUITABLE: Mapping[str, str] = {
    "kmmlu": "ko: exams of 45 subjects",
    "haerae": "ko: vocabulary, history, general knowledge",
    "kobest": "ko: five tasks of understanding",
    "click": "ko: culture and language",
    "ja_leaderboard_jcommonsenseqa": "ja: common sense",
    "ja_leaderboard_jnli": "ja: what follows from a sentence",
    "arc_easy": "en: school science",
    "arc_challenge": "en: school science, the harder part",
    "hellaswag": "en: how a text goes on",
    "mmlu": "en: exams of 57 subjects",
    "belebele_kor_Hang": "ko: reading, the same passages in all three",
    "belebele_eng_Latn": "en: reading",
    "belebele_jpn_Jpan": "ja: reading",
    "global_mmlu_ko": "ko: exams, the same questions in all three",
    "global_mmlu_en": "en: exams",
    "global_mmlu_ja": "ja: exams",
}
"""Tasks of lm-eval 0.4.13 that answer by choosing, so that no sampling setting takes part, and what each asks."""

_NAMED = 3
"""Near matches that an unknown task's line has."""


def _nearest(name: str, known: Sequence[str]) -> str:
    """Tasks that hold the word, shortest first, else those spelled alike, else the suitable ones."""
    holding = sorted((task for task in known if name.lower() in task.lower()), key=lambda task: (len(task), task))
    close = holding[:_NAMED] or difflib.get_close_matches(name, known, n=_NAMED, cutoff=0.6)
    return f"did you mean {' or '.join(close)}?" if close else f"suitable are {', '.join(SUITABLE)}"


def _is_file(task: str) -> bool:
    return task.endswith(".yaml") and Path(task).is_file()


def ready(tasks: Sequence[str]) -> Any:
    """The harness's registry with the data of all tasks fetched. Raises KelronError, in one line, where the harness is
    not installed, a task is not there, or its data cannot be had."""
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise KelronError(f"--lm-eval needs lm-eval ({error}): install it with pip install 'kelron[lm-eval]'") from None
    if not tasks:
        raise KelronError(f"--lm-eval names no task: suitable are {', '.join(SUITABLE)}")
    manager = TaskManager()
    for task in tasks:
        if task not in manager.all_tasks and not _is_file(task):
            raise KelronError(f"lm-eval has no task {task!r}: {_nearest(task, manager.all_tasks)}")
    for task in tasks:
        try:
            manager.load([task])
        # RuntimeError: `datasets` from version 4 on loads no dataset that comes as a script.
        except (OSError, ValueError, KeyError, TypeError, ImportError, RuntimeError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise KelronError(
                f"lm-eval's task {task} cannot be made ready ({reason}): its data comes from the Hub, so it takes a "
                "network once; leave the task out, or fetch the data where there is one"
            ) from None
    return manager


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the harness's notes, which are many lines a task; its progress bars are left."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with quiet_libraries():
            yield
    finally:
        logger.setLevel(level)


def _answers(manager: Any, tasks: Sequence[str], model: Any, tokenizer: Any, batch_size: int) -> Mapping[str, Any]:
    """The harness's results for the model as it is."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    harness = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
    found: Mapping[str, Any] = simple_evaluate(
        model=harness, tasks=list(tasks), task_manager=manager, log_samples=True, bootstrap_iters=0
    )
    return found


def _figures(row: Mapping[str, Any]) -> dict[str, float]:
    """The figures of a task: {"acc,none": 0.5}, the metric and the filter that its answers went through."""
    return {
        key: float(value)
        for key, value in row.items()
        if "," in key and "_stderr" not in key and isinstance(value, int | float) and math.isfinite(value)
    }


def _outcomes(samples: Sequence[Mapping[str, Any]], key: str) -> dict[Any, bool] | None:
    """Which questions a model had right by a metric of 0 or 1; None for any other metric."""
    metric, _, chosen_filter = key.partition(",")
    own = [sample for sample in samples if sample.get("filter") == chosen_filter and metric in sample]
    if not own or any(sample[metric] not in (0, 1) for sample in own):
        return None
    return {sample["doc_id"]: bool(sample[metric]) for sample in own}


def _flips(base: Mapping[str, Any], tuned: Mapping[str, Any], task: str, key: str) -> dict[str, Any]:
    """{"lost", "gained", "p"} (McNemar, exact) where every question is right or wrong; else nothing."""
    before, after = (_outcomes(found.get("samples", {}).get(task, ()), key) for found in (base, tuned))
    if before is None or after is None or before.keys() != after.keys():
        return {}
    lost = sum(right and not after[question] for question, right in before.items())
    gained = sum(after[question] and not right for question, right in before.items())
    return {"lost": lost, "gained": gained, "p": mcnemar(lost, gained)}


def compare_results(base: Mapping[str, Any], tuned: Mapping[str, Any]) -> dict[str, Any]:
    """{TASK: {"n", "metrics": {"acc,none": {"base", "tuned", "change", "lost", "gained", "p"}}}} of two results.

    Figures are the harness's own, `change` the tuned less the base. A group's row has no flips, nor has a metric that
    is not right or wrong by question; `n` is then None or the number of questions.
    """
    told = {}
    for task, row in base["results"].items():
        before, after = _figures(row), _figures(tuned["results"].get(task, {}))
        metrics = {
            key: {
                "base": value,
                "tuned": after[key],
                "change": after[key] - value,
                **_flips(base, tuned, task, key),
            }
            for key, value in before.items()
            if key in after
        }
        if metrics:
            told[task] = {"n": base.get("n-samples", {}).get(task, {}).get("effective"), "metrics": metrics}
    return told


def run_lm_eval(
    tasks: Sequence[str], config: RunConfig, adapter: Path, out: Path, say: Callable[[str], None] = print
) -> dict[str, Any]:
    """Ask base and tuned model the harness's tasks, on one GPU; returns {"version", "tasks", "adapter_sha256",
    "results", "seconds"}.

    tasks: names of tasks, groups or tags of lm-eval, or paths of its YAML task files. Writes `lm_eval.json` to `out`,
    and the same as "lm_eval" into its `scoreboard.json` where there is one. `results`: see `compare_results`. Raises
    KelronError before the model is loaded where lm-eval is not installed, a task is unknown or its data cannot be had.
    """
    began = time.monotonic()
    require_adapter(adapter)
    with _quiet():
        manager = ready(tasks)
        model, tokenizer = load_to_answer(config, adapter)
        found = {}
        for name in (BASE, TUNED):
            say(f"lm-eval asks the {name} model {', '.join(tasks)}")
            with base_only(model) if name == BASE else contextlib.nullcontext():
                found[name] = _answers(manager, tasks, model, tokenizer, config.evaluate.batch_size)
    told = {
        "version": found[TUNED].get("lm_eval_version"),
        "tasks": [Path(task).name if _is_file(task) else task for task in tasks],
        "adapter_sha256": adapter_digest(adapter),
        "results": compare_results(found[BASE], found[TUNED]),
        "seconds": round(time.monotonic() - began, 1),
    }
    with exclusive(out):
        write_json(out / RESULTS_FILE, told)
        _join(out, told)
    return told


def _join(out: Path, told: Mapping[str, Any]) -> None:
    if (out / SCOREBOARD_FILE).exists():
        write_json(out / SCOREBOARD_FILE, read_json(out / SCOREBOARD_FILE) | {"lm_eval": told})


def join_earlier(out: Path, digest: str, say: Callable[[str], None] = print) -> dict[str, Any]:
    """{"lm_eval": what an earlier `run_lm_eval` left in `out`}, which joins the scoreboard there; {} where there is
    none, or where it is of another adapter than that of `digest` (`export.adapter_digest`), which is said.

    The caller holds `exclusive(out)`.
    """
    if not (out / RESULTS_FILE).exists():
        return {}
    told = read_json(out / RESULTS_FILE)
    if not isinstance(told, dict) or told.get("adapter_sha256") != digest:
        say(f"{out / RESULTS_FILE} is not known to be of this adapter, and left out: ask again with --lm-eval")
        return {}
    _join(out, told)
    return {"lm_eval": told}


def shown_first(told: Mapping[str, Any]) -> dict[str, Any]:
    """Of what `run_lm_eval` found, the results of the tasks that were named, or all where a name has none of its own
    (a tag, a file)."""
    named = {task: row for task, row in told["results"].items() if task in told["tasks"]}
    return named if len(named) == len(told["tasks"]) else dict(told["results"])


def lines(told: Mapping[str, Any]) -> list[str]:
    """What `run_lm_eval` found, for the terminal: a line for each figure of `shown_first`."""
    said = []
    for task, row in shown_first(told).items():
        for key, value in row["metrics"].items():
            flips = f"; {value['lost']} lost, {value['gained']} gained, p {value['p']:.2g}" if "p" in value else ""
            metric = key.removesuffix(",none")
            said.append(f"{task} {metric}: base {value['base']:.4f}, tuned {value['tuned']:.4f}{flips}")
    return said
