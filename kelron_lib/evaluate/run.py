"""The evaluation of a run: its adapter, its test split, its report."""

from __future__ import annotations

import gc
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kelron_lib.batching import PaddingCollator, encode_rows
from kelron_lib.config import RunConfig, as_overrides, config_hash, differing, to_dict, to_json
from kelron_lib.data import fingerprint, load_dataset_dir
from kelron_lib.dataset import require_dataset
from kelron_lib.errors import KelronError
from kelron_lib.evaluate import evaluate, write_report
from kelron_lib.evaluate.policy import load_policy
from kelron_lib.evaluate.score import require_same_kind
from kelron_lib.export import MadeFrom, made_from
from kelron_lib.generate import base_only, generate_answers
from kelron_lib.model import load_tuned, quiet_libraries, require_adapter
from kelron_lib.persona import load_persona, rival_names
from kelron_lib.prompts import IGNORED
from kelron_lib.runtime import exclusive, read_json, write_json

LOSS_BATCH = 16
"""Rows whose hidden states exist at one time; their logits never do (see engine.loss)."""
ABOUT_THE_RUN = ("model.base", "lora", "data")
"""Parts of a config that decide what an adapter is and what it is asked."""


def supervised_loss(model: Any, tokenizer: Any, rows: Sequence[dict[str, Any]], max_tokens: int) -> float:
    """Mean cross entropy, in nats, over the assistant tokens of `rows`. Changes nothing of the model."""
    import torch

    from kelron_lib.engine.loss import supervised_loss as chunked_loss
    from kelron_lib.engine.prepare import LOSS_CHUNK, causal_lm

    collate = PaddingCollator(tokenizer.pad_token_id)
    features = encode_rows(tokenizer, rows, max_tokens)
    lm, total, tokens = causal_lm(model), 0.0, 0
    for start in range(0, len(features), LOSS_BATCH):
        batch = {
            name: values.to(model.device) for name, values in collate(features[start : start + LOSS_BATCH]).items()
        }
        labels = batch.pop("labels")
        with torch.inference_mode():
            hidden = lm.model(**batch).last_hidden_state
            total += chunked_loss(hidden, labels, lm.lm_head, chunk=LOSS_CHUNK, denominator=1).item()
        tokens += int((labels[:, 1:] != IGNORED).sum())
    return total / tokens


def _business_loss(model: Any, tokenizer: Any, rows: Sequence[dict[str, Any]], max_tokens: int) -> dict[str, float]:
    business = [row for row in rows if row["kind"] == "business"]
    if not business:
        raise KelronError("the test split has no business rows: make the dataset again with `kelron data`")
    tuned = supervised_loss(model, tokenizer, business, max_tokens)
    with base_only(model):
        base = supervised_loss(model, tokenizer, business, max_tokens)
    return {"base": base, "tuned": tuned}


def _optional(path: Path, missing: Any) -> Any:
    """The JSON in `path`, or `missing` where the run left none (an adapter from elsewhere has no losses)."""
    return read_json(path) if path.exists() else missing


def _require_its_config(config: RunConfig, adapter: Path) -> MadeFrom | None:
    """What the adapter was made from, as far as it says. Raises KelronError where the config is not its run's: another
    persona would be looked for, or other rows be asked."""
    made = made_from(adapter)
    if made is None:
        return None
    if changed := differing(made.config, to_dict(config), ABOUT_THE_RUN):
        values = as_overrides({key: then for key, (then, _) in changed.items()})
        raise KelronError(
            f"the adapter in {adapter} is of a run with {', '.join(values)}: evaluate it with that config "
            f"({' '.join(f'--set {shlex.quote(value)}' for value in values)})"
        )
    return made


def _require_the_run(config: RunConfig, data: Path, adapter: Path) -> bool:
    """Whether the adapter says which dataset it was trained on. Raises KelronError where that is not `data`, or the
    config is not the run's: rows that it was trained on would be taken for held-out ones."""
    made = _require_its_config(config, adapter)
    if made is None:
        return False
    if fingerprint(data) != made.data_fingerprint:
        raise KelronError(
            f"{data} is not the dataset that the adapter in {adapter} was trained on, so its test rows may be known: "
            "name the run's own with --data (`kelron resume --data` with an empty folder brings it from the store)"
        )
    return True


def _release_memory() -> None:
    """Give the evaluation's GPU memory back, so that what comes next can load the model itself."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def evaluate_run(config: RunConfig, *, data: Path, adapter: Path, out: Path) -> dict[str, Any]:
    """Ask base and tuned model the held-out prompts; returns the scoreboard.

    Writes `scoreboard.json`, `answers.jsonl`, `evaluate_config.json` and `report.html` to `out`. Raises KelronError
    for a missing or foreign adapter, dataset or persona, and where the adapter was trained on other data.
    """
    policy = load_policy(config.evaluate.policy)
    require_same_kind(out, of_file=False)
    require_adapter(adapter)
    _require_its_config(config, adapter)  # before the dataset, which of another persona is not there either
    persona = load_persona(config.data.persona)
    require_dataset(config, data)
    rows = load_dataset_dir(data)["test"]
    held_out = _require_the_run(config, data, adapter)
    about = {
        "losses": _optional(out / "losses.json", []),
        "sessions": _optional(out / "sessions.json", []),
        "quality": _optional(data / "quality.json", None),
    }
    with exclusive(out):
        with quiet_libraries():
            model, tokenizer = load_tuned(config, adapter)
        scoreboard, answers = evaluate(
            rows,
            persona,
            rival_names(),
            model,
            tokenizer,
            generate_answers,
            out,
            identity=config.evaluate.identity_prompts,
            unrelated=config.evaluate.unrelated_prompts,
            max_new_tokens=config.evaluate.max_new_tokens,
            batch_size=config.evaluate.batch_size,
            stop_token_ids=config.model.stop_token_ids,
            business_loss=_business_loss(model, tokenizer, rows, config.data.max_tokens),
            meta={"config_hash": config_hash(config), "adapter": adapter.name, "held_out": held_out},
            policy=policy,
        )
        write_json(out / "evaluate_config.json", to_dict(config))
        write_report(
            out,
            scoreboard=scoreboard,
            answers=answers,
            config=to_json(config),
            **about,
        )
    del model
    _release_memory()
    return scoreboard
