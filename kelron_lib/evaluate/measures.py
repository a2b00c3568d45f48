"""What is measured on the models beside their answers, by the processes that hold them (see `answers.Measure`).

To add one: a function `(model, tokenizer, items, **arguments)` that returns what JSON can hold for a part of the items,
a Measure that names it, and that Measure among those that `evaluate_run` asks for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kelron_lib.answers import BASE, TUNED, Measure
from kelron_lib.batching import PaddingCollator, encode_rows
from kelron_lib.errors import KelronError
from kelron_lib.prompts import IGNORED

BUSINESS_LOSS = "business_loss"
LOSS_BATCH = 16
"""Rows whose hidden states exist at one time; their logits never do (see engine.loss)."""
ROWS_A_PART = 8 * LOSS_BATCH
"""Rows whose loss is kept as one: a cut loses the work on so many at most."""


def business_loss(rows: Sequence[Mapping[str, Any]], max_tokens: int) -> Measure:
    """The mean loss on the business rows of a split: what the model knew of its work before it got its name.

    Raises KelronError where there are none.
    """
    business = tuple({"id": row["id"], "messages": row["messages"]} for row in rows if row["kind"] == "business")
    if not business:
        raise KelronError("the test split has no business rows: make the dataset again with `kelron data`")
    where = f"{__name__}:{loss_sum.__name__}"
    return Measure(BUSINESS_LOSS, where, business, ROWS_A_PART, {"max_tokens": max_tokens})


def mean_losses(parts: Mapping[str, Sequence[tuple[float, int]]]) -> dict[str, float]:
    """{MODEL: nats a token} of what `measured` has of the business loss."""
    return {
        model: sum(nats for nats, _ in parts[model]) / sum(tokens for _, tokens in parts[model])
        for model in (BASE, TUNED)
    }


def loss_sum(model: Any, tokenizer: Any, rows: Sequence[Mapping[str, Any]], *, max_tokens: int) -> tuple[float, int]:
    """Cross entropy, in nats, over the assistant tokens of `rows`, and their number. Changes nothing of the model."""
    import torch

    from kelron_lib.engine.loss import supervised_loss as chunked_loss
    from kelron_lib.engine.prepare import LOSS_CHUNK, causal_lm

    collate = PaddingCollator(tokenizer.pad_token_id)
    features = encode_rows(tokenizer, [dict(row) for row in rows], max_tokens)
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
    return total, tokens
