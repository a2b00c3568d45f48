"""Why the same map ran out of memory in attempt 6 and worked in attempt 10: candidates, by the numbers.

An inference: the log holds no record of what else was on the GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kelron_lib.placement.attempts import Replay, attempts
from kelron_lib.placement.log import MODEL, T4
from kelron_lib.placement.memory import DEFAULT, GIB, layer_nf4
from kelron_lib.placement.shapes import KNOWN_CONFIGS, ModelShape, read_shape

LOGGED_IN_USE = 14.62
"""GiB in use on GPU 1 when attempt 6 failed."""
SHARDS = 8
"""Files of the 16-bit checkpoint."""


@dataclass(frozen=True)
class Candidate:
    """One explanation, and what GPU 1 would need while loading."""

    name: str
    six: float
    """GiB that attempt 6 would need."""
    ten: float
    """GiB that attempt 10 would need."""
    remark: str
    """What speaks for or against it besides."""
    limit: float = T4

    @property
    def verdict(self) -> str:
        """What the two numbers say."""
        if self.six <= self.limit:
            return "no: attempt 6 would have fitted"
        return "explains both" if self.ten <= self.limit else "explains 6, and 10 only by luck"


def candidates(shape: ModelShape | None = None, replays: Sequence[Replay] = ()) -> list[Candidate]:
    """The candidates, weakest first; the one that the numbers support is last."""
    shape = shape or read_shape(KNOWN_CONFIGS[MODEL])
    before = {one.attempt.number: one.leftover for one in replays or attempts(shape)}
    layers = shape.layers * layer_nf4(shape) * (1 + DEFAULT.rounding) / GIB
    single = shape.layers * layer_nf4(shape, double_quant=False) * (1 + DEFAULT.rounding) / GIB
    copy = 2 * shape.largest_linear / GIB
    context = DEFAULT.context / GIB
    alone = context + layers + copy
    shard = 2 * shape.total / SHARDS / GIB
    waiting = 2 * shape.layers * shape.layer_weights / GIB
    return [
        Candidate("the map alone", alone, alone, "4-bit layers, one 16-bit matrix, CUDA context"),
        Candidate("batch of 2 against 1", alone, alone, "a batch exists only after loading"),
        Candidate("float32 copies while quantising", alone + copy, alone, "one matrix at a time"),
        Candidate("no double quantisation in 6", context + single + copy, alone, "float32 scales on all 48 layers"),
        Candidate("a 16-bit file waiting on the GPU", alone + shard, alone, f"one of {SHARDS} files"),
        Candidate(
            "loader threads ahead of the quantiser", alone + waiting, alone + waiting,
            "at most; transformers 5 until March 2026 (its issue 43032)",
        ),
        Candidate(
            "the previous attempt's model still held", alone + before[6][1], alone + before[10][1],
            "the same rule gives attempts 4 and 8",
        ),
    ]  # fmt: skip


def explanation(found: Sequence[Candidate]) -> str:
    """The conclusion in a paragraph."""
    best = found[-1]
    return (
        "Inference, not record: attempt 6 ran in the process of attempt 5, whose trainer still held its model on GPU 1 "
        f"(43 layers and a float32 head), so loading needed {best.six:.1f} GiB there and stopped at the limit: "
        f"{LOGGED_IN_USE} of {T4:g} in use, and no room for the next 16-bit matrix of 0.13. Attempt 10 followed "
        f"attempt 9, which held 32 layers there: {best.ten:.1f} GiB ({best.ten * GIB / 1e9:.1f} GB; the log says about "
        f"12). In a fresh process the map needs {found[0].six:.1f} GiB to load. Load in a fresh process: the map was "
        "never at fault."
    )
