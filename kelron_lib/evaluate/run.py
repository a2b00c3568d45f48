"""The evaluation of a run: its adapter, its test split, its report."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kelron_lib.batching import PaddingCollator, encode_rows
from kelron_lib.config import RunConfig, config_hash, to_dict, to_json
from kelron_lib.data import load_dataset_dir
from kelron_lib.errors import KelronError
from kelron_lib.evaluate import evaluate, write_report
from kelron_lib.generate import base_only, generate_answers
from kelron_lib.model import load_tuned, quiet_libraries, require_adapter
from kelron_lib.persona import load_persona, rival_names
from kelron_lib.prompts import IGNORED
from kelron_lib.runtime import exclusive, read_json, write_json

LOSS_BATCH = 16


def supervised_loss(model: Any, tokenizer: Any, rows: Sequence[dict[str, Any]], max_tokens: int) -> float:
    """Mean cross entropy, in nats, over the assistant tokens of `rows`. Changes nothing of the model."""
    import torch

    collate = PaddingCollator(tokenizer.pad_token_id)
    features = encode_rows(tokenizer, rows, max_tokens)
    total, tokens = 0.0, 0
    for start in range(0, len(features), LOSS_BATCH):
        batch = {
            name: values.to(model.device) for name, values in collate(features[start : start + LOSS_BATCH]).items()
        }
        with torch.inference_mode():
            supervised = int((batch["labels"][:, 1:] != IGNORED).sum())
            total += model(**batch).loss.item() * supervised
        tokens += supervised
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


def _release_memory() -> None:
    """Give the evaluation's GPU memory back, so that what comes next can load the model itself."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def evaluate_run(config: RunConfig, *, data: Path, adapter: Path, out: Path) -> dict[str, Any]:
    """Ask base and tuned model the held-out prompts; returns the scoreboard.

    Writes `scoreboard.json`, `answers.jsonl`, `evaluate_config.json` and `report.html` to `out`. Raises KelronError
    for a missing or foreign adapter, dataset or persona.
    """
    require_adapter(adapter)
    persona = load_persona(config.data.persona)
    rows = load_dataset_dir(data)["test"]
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
            meta={"config_hash": config_hash(config), "adapter": adapter.name},
        )
        write_json(out / "evaluate_config.json", to_dict(config))
        write_report(
            out,
            scoreboard=scoreboard,
            answers=answers,
            losses=_optional(out / "losses.json", []),
            sessions=_optional(out / "sessions.json", []),
            quality=_optional(data / "quality.json", None),
            config=to_json(config),
        )
    del model
    _release_memory()
    return scoreboard
