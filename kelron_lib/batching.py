"""Rows to batches of token tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kelron_lib.errors import KelronError
from kelron_lib.prompts import IGNORED, encode

Features = dict[str, list[int]]


def encode_rows(tokenizer: Any, rows: Sequence[dict[str, Any]], max_tokens: int) -> list[Features]:
    """`input_ids` and `labels` of every row. Raises KelronError naming the first row that does not encode."""
    features = []
    for row in rows:
        try:
            features.append(encode(tokenizer, row["messages"], max_tokens))
        except KelronError as error:
            raise KelronError(f"row {row['id']}: {error}") from None
    return features


@dataclass(frozen=True)
class PaddingCollator:
    """Pads a list of features on the right into int64 tensors of shape (rows, longest row)."""

    pad_token_id: int

    def __call__(self, features: Sequence[Features]) -> dict[str, Any]:
        """`input_ids`, `labels` (padding is IGNORED) and `attention_mask` (1 on tokens, 0 on padding)."""
        import torch

        longest = max(len(feature["input_ids"]) for feature in features)

        def padded(values: Sequence[int], fill: int) -> list[int]:
            return [*values, *[fill] * (longest - len(values))]

        return {
            "input_ids": torch.tensor([padded(f["input_ids"], self.pad_token_id) for f in features]),
            "labels": torch.tensor([padded(f["labels"], IGNORED) for f in features]),
            "attention_mask": torch.tensor([padded([1] * len(f["input_ids"]), 0) for f in features]),
        }
