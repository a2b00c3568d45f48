"""The first attempt's ten placements, replayed: each from its settings, by arithmetic and a few rules of data flow.

One inference stands beside the arithmetic, because attempts 6 and 10, and 7 and 8, share a map and differ in
outcome: after a plain error the notebook went on in the same process, where the failed trainer still held its model
until a new trainer replaced it; after an out-of-memory error it was restarted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from kelron_lib.placement.ledger import GIB, Failure, Ledger
from kelron_lib.placement.log import MODEL, T4, Attempt, Outcome, logged_attempts
from kelron_lib.placement.memory import DEFAULT, Workload, layer_nf4, layer_work
from kelron_lib.placement.shapes import KNOWN_CONFIGS, ModelShape, read_shape

LABELS = 0
"""The Trainer puts inputs and labels on the first GPU."""


@dataclass(frozen=True)
class Rules:
    """How the libraries of a time pass data between devices."""

    moves_labels: bool
    """The loss moves labels and the token count to the logits' device."""
    moves_rotary: bool
    """The rotary embedding follows its input's device."""
    gradient_needs_input: bool
    """Checkpointing is reentrant by default: no gradient unless its input requires one."""


THEN = Rules(moves_labels=False, moves_rotary=False, gradient_needs_input=True)
NOW = Rules(moves_labels=True, moves_rotary=True, gradient_needs_input=False)
"""transformers 5.23, accelerate 1.15, peft 0.21.2, torch 2.13, read in their sources."""


@dataclass(frozen=True)
class Replay:
    """An attempt with its predicted outcomes."""

    attempt: Attempt
    then: Outcome
    """With the libraries of its day, in the process it probably ran in."""
    now: Outcome
    """With today's libraries, in a fresh process."""
    alone: Outcome
    """The same in a fresh process: what the settings alone come to."""
    leftover: tuple[float, ...]
    """GiB that the attempt before it still held on each GPU (inferred)."""

    @property
    def leftover_note(self) -> str:
        """What the leftover is, or nothing."""
        if not any(self.leftover):
            return ""
        sizes = " and ".join(f"{size:.1f} GiB on GPU {gpu}" for gpu, size in enumerate(self.leftover))
        return f"{sizes} of attempt {self.attempt.number - 1}, whose trainer the process still holds"

    @property
    def agree(self) -> bool:
        """Whether the prediction is the logged outcome in everything that the log states."""
        return self.attempt.matches(self.then)

    @property
    def agrees_alone(self) -> bool:
        """Whether it would be without the leftover."""
        return self.attempt.matches(self.alone)


def workload_of(attempt: Attempt) -> Workload:
    """The attempt's pass as the planner's workload."""
    return Workload(
        rows=attempt.rows, row_tokens=1024, lora_rank=64, lora_targets="attention", adapter="peft", embedding="gpu",
        loss="full", optimizer="adamw_8bit", upcast=attempt.prepare,
    )  # fmt: skip


def run(
    attempt: Attempt, shape: ModelShape, rules: Rules, leftover: Sequence[float] = (), limit: float = T4
) -> Outcome:
    """Play one attempt's stages in order until one fails. `leftover` and `limit` in GiB."""
    ledger = Ledger(len(attempt.layers), limit * GIB, DEFAULT.context)
    kept = [size * GIB for size in leftover] or [0.0] * len(attempt.layers)
    model: tuple[float, ...] = ()
    try:
        for gpu, size in enumerate(kept):
            ledger.take(gpu, size, "starting")
        _load(ledger, attempt, shape)
        _prepare(ledger, attempt, shape)
        for gpu, layers in enumerate(attempt.layers):
            ledger.take(gpu, 4.0 * shape.lora(64, "attention", layers), "adding the adapter")
            ledger.give(gpu, kept[gpu])
        model = tuple(size - DEFAULT.context / GIB for size in ledger.in_use_gib())
        _forward(ledger, attempt, shape, rules)
        _loss(ledger, attempt, shape, rules)
        _backward(ledger, attempt, shape, rules)
    except Failure as failure:
        return Outcome(
            failure.kind, failure.stage, failure.gpu, failure.size / GIB, ledger.in_use_gib(), failure.cause, model
        )
    peaks = ledger.highest_gib()
    text = " and ".join(f"{peak:.1f} GiB on GPU {gpu}" for gpu, peak in enumerate(peaks))
    return Outcome("works", "", None, 0.0, peaks, f"at most {text}, of {limit:g}", model)


def _load(ledger: Ledger, attempt: Attempt, shape: ModelShape) -> None:
    """Embedding, layers (each through a 16-bit copy of its largest linear on the same GPU), head."""
    ledger.take(0, 2.0 * shape.embedding, "loading")
    layer = layer_nf4(shape) * (1 + DEFAULT.rounding)
    for gpu, layers in enumerate(attempt.layers):
        for _ in range(layers):
            ledger.pass_through(gpu, 2.0 * shape.largest_linear, "loading", "a 16-bit matrix on its way to 4 bits")
            ledger.take(gpu, layer, "loading", "the next 4-bit layer")
    ledger.take(attempt.head, 2.0 * shape.embedding, "loading")


def _prepare(ledger: Ledger, attempt: Attempt, shape: ModelShape) -> None:
    """The float32 copy of the embedding, then of the head, each beside its original."""
    if not attempt.prepare:
        return
    for gpu, name in ((0, "embedding"), (attempt.head, "head")):
        ledger.take(gpu, 4.0 * shape.embedding, "preparing", f"the preparation's float32 copy of the {name}")
        ledger.give(gpu, 2.0 * shape.embedding)


def _forward(ledger: Ledger, attempt: Attempt, shape: ModelShape, rules: Rules) -> None:
    if not attempt.rotary and not rules.moves_rotary:
        raise Failure(
            "device", "rotary embedding", cause="rotary_emb is not in the map, stays on the CPU, and meets GPU tensors"
        )
    wide = 4.0 if attempt.prepare else 2.0
    tokens = attempt.rows * 1024
    working = 2.0 * shape.largest_linear + 3 * wide * tokens * shape.intermediate
    for gpu, layers in enumerate(attempt.layers):
        ledger.take(gpu, layers * wide * tokens * shape.hidden, "forward")
        ledger.pass_through(gpu, working if layers else 0.0, "forward")


def _loss(ledger: Ledger, attempt: Attempt, shape: ModelShape, rules: Rules) -> None:
    logits = attempt.rows * 1024.0 * shape.vocab
    if attempt.prepare:
        ledger.take(attempt.head, 2.0 * shape.embedding, "head", "autocast copies the float32 head to fp16")
    ledger.take(attempt.head, 2 * logits, "head")
    ledger.take(attempt.head, 4 * logits, "loss", "the loss makes a float32 copy of all logits")
    if attempt.head != LABELS and not rules.moves_labels:
        raise Failure(
            "device",
            "loss",
            cause=f"the head is on GPU {attempt.head}, so are the logits; the labels are on GPU {LABELS}",
        )
    ledger.take(attempt.head, 4 * logits, "loss", "log-softmax over all logits in float32")


def _backward(ledger: Ledger, attempt: Attempt, shape: ModelShape, rules: Rules) -> None:
    """Gradient of the logits, then the layers: kept inputs go, gradients come."""
    logits = attempt.rows * 1024.0 * shape.vocab
    work = workload_of(attempt)
    wide = 4.0 if attempt.prepare else 2.0
    inputs = [layers * wide * work.tokens * shape.hidden for layers in attempt.layers]
    copied = 2.0 * shape.embedding if attempt.prepare else 0.0
    if not attempt.prepare and rules.gradient_needs_input:
        ledger.give(attempt.head, 10 * logits + copied)
        for gpu, size in enumerate(inputs):
            ledger.give(gpu, size)
        raise Failure(
            "no gradient",
            "backward",
            cause="the input of reentrant checkpointing does not require grad, so no layer's output does",
        )
    ledger.pass_through(attempt.head, 4 * logits, "backward", "the second float32 gradient of the logits")
    ledger.give(attempt.head, 10 * logits + copied)
    for gpu, layers in enumerate(attempt.layers):
        if layers:
            at_work = sum(layer_work(shape, replace(work, adapter="peft" if attempt.prepare else "fused")).values())
            ledger.pass_through(gpu, at_work, "backward")
            ledger.give(gpu, inputs[gpu])
            ledger.take(gpu, 4.0 * shape.lora(64, "attention", layers), "backward")
            ledger.pass_through(gpu, at_work, "backward")
            ledger.take(gpu, 2.04 * shape.lora(64, "attention", layers), "optimizer step")


def attempts(shape: ModelShape | None = None) -> list[Replay]:
    """All ten, in order, each in the process that the one before it left behind."""
    shape = shape or read_shape(KNOWN_CONFIGS[MODEL])
    found: list[Replay] = []
    for attempt in logged_attempts(shape):
        leftover: tuple[float, ...] = (0.0,) * len(attempt.layers)
        before = found[-1].then if found else None
        if before and not attempt.fresh and before.kind in ("device", "no gradient"):
            leftover = before.model
        now = replace(attempt, layers=attempt.layers_now or attempt.layers)
        alone = run(attempt, shape, THEN)
        found.append(Replay(attempt, run(attempt, shape, THEN, leftover), run(now, shape, NOW), alone, leftover))
    return found
