"""The evaluation of a run: its adapter, its test split, its report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from kelron_lib.answers import Asking, Measure, ask, measured, told_when_cut, work_done
from kelron_lib.config import COUNTS, RunConfig, config_hash, to_dict, to_json
from kelron_lib.data import fingerprint, load_dataset_dir
from kelron_lib.dataset import require_dataset
from kelron_lib.errors import KelronError
from kelron_lib.evaluate import MODELS, evaluate, write_report
from kelron_lib.evaluate.choices import CHOICES, choices, forgetting, load_items
from kelron_lib.evaluate.listing import prompts_table
from kelron_lib.evaluate.lm_eval import join_earlier, run_lm_eval
from kelron_lib.evaluate.measures import BUSINESS_LOSS, business_loss, mean_losses
from kelron_lib.evaluate.policy import load_policy
from kelron_lib.evaluate.prompts import Prompt, prompts_of
from kelron_lib.evaluate.report import read_earlier
from kelron_lib.evaluate.score import Record, require_same_kind
from kelron_lib.export import MadeFrom, adapter_digest, made_from, require_its_config
from kelron_lib.model import require_adapter
from kelron_lib.persona import load_persona, rival_names
from kelron_lib.runtime import exclusive, read_json, write_json

ASKED = "asked"
"""The folder in OUT that keeps the answers as they come."""


def _optional(path: Path, missing: Any) -> Any:
    """The JSON in `path`, or `missing` where the run left none (an adapter from elsewhere has no losses)."""
    return read_json(path) if path.exists() else missing


def _require_its_data(made: MadeFrom, data: Path, adapter: Path) -> None:
    """Raise KelronError where the adapter was trained on other data: rows that it was trained on would be taken for
    held-out ones."""
    if fingerprint(data) != made.data_fingerprint:
        raise KelronError(
            f"{data} is not the dataset that the adapter in {adapter} was trained on, so its test rows may be known: "
            "name the run's own with --data (`kelron resume --data` with an empty folder brings it from the store)"
        )


def _asking(config: RunConfig, adapter: Path, prompts: Sequence[Prompt], measures: Sequence[Measure]) -> Asking:
    return Asking(
        config=config,
        prompts=tuple(prompt["messages"] for prompt in prompts),
        turns=tuple(tuple(prompt.get("turns", ())) for prompt in prompts),
        max_new_tokens=config.evaluate.max_new_tokens,
        batch_size=config.evaluate.batch_size,
        adapter=adapter,
        models=MODELS,
        measures=tuple(measures),
    )


def _report(
    out: Path,
    config: RunConfig,
    against: Path | None,
    about: Mapping[str, Any],
    scoreboard: Mapping[str, Any],
    records: Sequence[Record],
) -> None:
    """Write the report of what was found; `about`: losses, sessions and quality, as `write_report` takes them."""
    write_report(out, scoreboard=scoreboard, answers=records, config=to_json(config), against=against, **about)


def list_prompts(config: RunConfig, data: Path) -> str:
    """What an evaluation with this config would ask, as a table; no model is needed. Raises KelronError as
    `evaluate_run` does for dataset, persona and prompts."""
    require_dataset(config, data)
    splits = load_dataset_dir(data)
    persona = load_persona(config.data.persona)
    return prompts_table(prompts_of(config.evaluate, splits["test"], persona, train=splits["train"]))


def evaluate_run(
    config: RunConfig,
    *,
    data: Path,
    adapter: Path,
    out: Path,
    against: Path | None = None,
    benchmarks: Sequence[str] = (),
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Ask base and tuned model the held-out prompts, in one process a GPU; returns the scoreboard.

    Writes `scoreboard.json`, `answers.jsonl`, `evaluate_config.json` and `report.html` to `out`, and the answers as
    they come to `out`/asked, from where a later call goes on after a cut. `benchmarks`: tasks of lm-eval, asked when
    all that is there; they join the scoreboard as "lm_eval", and the report. Raises KelronError for a missing or
    foreign adapter, dataset or persona, where the adapter was trained on other data, and where `against`, the folder of
    an earlier evaluation that the report compares with, cannot be read; after Ctrl-C Interrupted, which says how many
    answers are kept.
    """
    policy = load_policy(config.evaluate.policy)
    require_same_kind(out, of_file=False)
    read_earlier(against, out)  # what cannot be compared with is told before hours of asking
    require_adapter(adapter)
    if (made := made_from(adapter)) is not None:  # before the dataset, which of another persona is not there either
        require_its_config(config, made, adapter, "evaluate it with that config")
    persona = load_persona(config.data.persona)
    require_dataset(config, data)
    splits = load_dataset_dir(data)
    if made is not None:
        _require_its_data(made, data, adapter)
    about = {
        "losses": _optional(out / "losses.json", []),
        "sessions": _optional(out / "sessions.json", []),
        "quality": _optional(data / "quality.json", None),
    }
    report = partial(_report, out, config, against, about)
    prompts = prompts_of(config.evaluate, splits["test"], persona, train=splits["train"], tell=say)
    items = load_items(config.data.languages, config.evaluate.choice_items)
    measures = [business_loss(splits["test"], config.data.max_tokens), choices(items, config.evaluate.batch_size)]
    asking = _asking(config, adapter, prompts, measures if items else measures[:1])
    with exclusive(out), told_when_cut(out / ASKED):
        answers = ask(asking, out / ASKED, processes=config.session.processes, say=say)
        found, work = measured(out / ASKED), work_done(out / ASKED)
        scoreboard, records = evaluate(
            prompts,
            answers,
            persona,
            rival_names(),
            out,
            business_loss=mean_losses(found[BUSINESS_LOSS]),
            forgetting=forgetting(found[CHOICES], items) if items else None,
            meta={
                "config_hash": config_hash(config),
                "counts": {key: getattr(config.evaluate, key) for key in COUNTS},
                "adapter": adapter.name,
                "adapter_sha256": adapter_digest(adapter),
                "held_out": made is not None,
                **work,
            },
            policy=policy,
        )
        scoreboard |= {} if benchmarks else join_earlier(out, scoreboard["meta"]["adapter_sha256"], say)
        write_json(out / "evaluate_config.json", to_dict(config))
        report(scoreboard, records)
    if benchmarks:
        scoreboard["lm_eval"] = run_lm_eval(benchmarks, config, adapter, out, say)
        with exclusive(out):
            report(scoreboard, records)
    return scoreboard
