"""Packing: samples to short rows under a token budget, rows to passes; no sample sees another.

The plan depends on the lengths, the seed and the epoch alone, never on the number of GPUs: with `n` processes, process
`k` takes the passes `k`, `k + n`, and so on, and together they have seen the samples in the same global order.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kelron_lib.errors import KelronError
from kelron_lib.prompts import IGNORED

Row = list[int]
"""Indices of the samples in one row."""
Pass = list[Row]
"""The rows that go through the model together."""
Features = dict[str, list[int]]

WINDOW_ROWS = 256
"""Rows filled from one window of the shuffled order: enough to choose from, few enough to keep the order random."""
RETURNED_ROWS = 16
"""At most so many of a window's least filled rows are taken apart again for the next window."""


def _first_fit(pool: Sequence[int], lengths: Sequence[int], row_tokens: int) -> tuple[list[Row], list[int]]:
    """Rows from the pool, longest samples first, each into the first row with room; and the room left in each row."""
    rows: list[Row] = []
    room: list[int] = []
    first_open = 0  # rows before this one are full to the last token
    for sample in sorted(pool, key=lambda index: -lengths[index]):  # a stable sort: ties stay shuffled
        length = lengths[sample]
        for row in range(first_open, len(rows)):
            if room[row] >= length:
                rows[row].append(sample)
                room[row] -= length
                break
        else:
            rows.append([sample])
            room.append(row_tokens - length)
        while first_open < len(rows) and room[first_open] == 0:
            first_open += 1
    return rows, room


def _split_off_worst(rows: list[Row], room: list[int], row_tokens: int) -> tuple[list[Row], list[int]]:
    """The rows worth keeping, and the samples of the least filled ones (those more than 1/64 empty)."""
    worst = sorted((row for row in range(len(rows)) if room[row] * 64 > row_tokens), key=lambda row: -room[row])
    taken = set(worst[:RETURNED_ROWS])
    return [row for index, row in enumerate(rows) if index not in taken], [
        sample for index in sorted(taken) for sample in rows[index]
    ]


def _check_lengths(lengths: Sequence[int], row_tokens: int, rows_per_pass: int) -> None:
    if row_tokens < 1 or rows_per_pass < 1:
        raise KelronError(f"{row_tokens} tokens a row and {rows_per_pass} rows a pass: both must be at least 1")
    for sample, length in enumerate(lengths):
        if length < 1:
            raise KelronError(f"sample {sample} has no tokens: leave it out of the training data")
        if length > row_tokens:
            raise KelronError(
                f"sample {sample} has {length} tokens, a row holds {row_tokens}: allow rows of {length} tokens, "
                "or shorten the sample"
            )


def plan_passes(lengths: Sequence[int], *, row_tokens: int, rows_per_pass: int, seed: int, epoch: int) -> list[Pass]:
    """One epoch's passes: every sample in exactly one row, every row's lengths summing to at most `row_tokens`.

    All passes but the last have `rows_per_pass` rows. The samples are shuffled by seed and epoch, then packed window
    by window with first-fit decreasing; a window's least filled rows go back into the next window.
    Raises KelronError for a sample that fits no row.
    """
    _check_lengths(lengths, row_tokens, rows_per_pass)
    generator = random.Random(f"{seed}/{epoch}")
    order = list(range(len(lengths)))
    generator.shuffle(order)
    rows: list[Row] = []
    pool: list[int] = []
    tokens = 0
    for sample in order:
        pool.append(sample)
        tokens += lengths[sample]
        if tokens >= WINDOW_ROWS * row_tokens:
            packed, room = _first_fit(pool, lengths, row_tokens)
            kept, pool = _split_off_worst(packed, room, row_tokens)
            rows += kept
            tokens = sum(lengths[sample] for sample in pool)
    rows += _first_fit(pool, lengths, row_tokens)[0]
    generator.shuffle(rows)
    return [rows[start : start + rows_per_pass] for start in range(0, len(rows), rows_per_pass)]


def utilisation(passes: Sequence[Pass], lengths: Sequence[int], row_tokens: int) -> float:
    """Share of the rows' tokens that belong to samples, from 0 to 1."""
    rows = [row for one in passes for row in one]
    return sum(lengths[sample] for row in rows for sample in row) / (len(rows) * row_tokens) if rows else 1.0


def pack(rows: Sequence[Sequence[Features]], *, row_tokens: int, pad_id: int) -> dict[str, Any]:
    """Tensors of shape (rows, row_tokens) from each row's samples (`input_ids` and `labels`).

    `input_ids` and `labels` (int64; IGNORED on padding and on each sample's first token, which nothing predicts),
    `position_ids` (int64, from 0 in every sample), `segment_ids` (int32: 1, 2, ... by sample, 0 on padding).
    Raises KelronError for a row that is too long.
    """
    import torch

    shape = (len(rows), row_tokens)
    batch = {
        "input_ids": torch.full(shape, pad_id),
        "labels": torch.full(shape, IGNORED),
        "position_ids": torch.zeros(shape, dtype=torch.int64),
        "segment_ids": torch.zeros(shape, dtype=torch.int32),
    }
    for index, samples in enumerate(rows):
        start = 0
        for segment, sample in enumerate(samples, start=1):
            stop = start + len(sample["input_ids"])
            if stop > row_tokens:
                raise KelronError(f"row {index} of a pass has at least {stop} tokens, over its {row_tokens}")
            batch["input_ids"][index, start:stop] = torch.tensor(sample["input_ids"])
            batch["labels"][index, start:stop] = torch.tensor(sample["labels"])
            batch["labels"][index, start] = IGNORED
            batch["position_ids"][index, start:stop] = torch.arange(stop - start)
            batch["segment_ids"][index, start:stop] = segment
            start = stop
        batch["position_ids"][index, start:] = torch.arange(row_tokens - start)
    return batch


def supervised_in(sample: Features) -> int:
    """Tokens of a sample that are predicted once it is packed: its labelled ones, less the first."""
    return sum(label != IGNORED for label in sample["labels"][1:])


def supervised_tokens(batch: dict[str, Any]) -> int:
    """Tokens of a packed batch that are predicted: what the losses of a step are divided by, summed over its passes."""
    return int((batch["labels"][:, 1:] != IGNORED).sum())


@dataclass(frozen=True)
class PackedPasses:
    """A map-style dataset of passes: item `i` is the list of rows of pass `i`, each a list of features."""

    samples: Sequence[Features]
    passes: Sequence[Pass]

    def __len__(self) -> int:
        return len(self.passes)

    def __getitem__(self, index: int) -> list[list[Features]]:
        return [[self.samples[sample] for sample in row] for row in self.passes[index]]


@dataclass(frozen=True)
class PackedCollator:
    """Packs the one pass that a data loader with `batch_size=1` hands over."""

    row_tokens: int
    pad_id: int

    def __call__(self, passes: Sequence[Sequence[Sequence[Features]]]) -> dict[str, Any]:
        """The tensors of `pack`; several passes become one with all their rows."""
        return pack([row for one in passes for row in one], row_tokens=self.row_tokens, pad_id=self.pad_id)


def block_mask(segment_ids: Any) -> Any:
    """Who may attend to whom: bool (rows, 1, tokens, tokens), true where the key is of the query's segment and not
    after it. Padding attends to padding, so that no query is left without a key."""
    import torch

    tokens = segment_ids.shape[1]
    same = segment_ids[:, :, None] == segment_ids[:, None, :]
    causal = torch.ones(tokens, tokens, dtype=torch.bool, device=segment_ids.device).tril()
    return (same & causal)[:, None]


def segment_bounds(segment_ids: Any) -> tuple[Any, int]:
    """Where segments begin in the flattened rows: int32 (segments + 1,), the last entry the number of tokens; and the
    longest segment's tokens. A row's padding is a segment of its own."""
    import torch

    segment_ids = segment_ids.cpu()
    begins = torch.ones_like(segment_ids, dtype=torch.bool)
    begins[:, 1:] = segment_ids[:, 1:] != segment_ids[:, :-1]
    end = torch.tensor([segment_ids.numel()])
    bounds = torch.cat([begins.flatten().nonzero().flatten(), end]).to(torch.int32)
    return bounds, int(bounds.diff().max())
