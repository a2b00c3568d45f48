"""The plan: every placement weighed on the GPUs at hand, one chosen, and why the others lost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from kelron_lib.config import RunConfig
from kelron_lib.errors import KelronError
from kelron_lib.placement.maps import DeviceMap, Split, balanced_choices, device_map, sandwich
from kelron_lib.placement.memory import DEFAULT, Coefficients, GpuMemory, Share, Workload, gpu_memory
from kelron_lib.placement.shapes import ModelShape, read_shape
from kelron_lib.placement.speed import (
    OVERHEAD,
    Epoch,
    Rate,
    exchange_seconds,
    flops_per_token,
    head_share,
    pass_seconds,
)

PLACEMENTS = ("ddp", "sandwich", "balanced", "single")
SPLIT = ("sandwich", "balanced")
"""Placements that spread one copy over the GPUs: planned, but neither probed nor trained by Kelron."""
DESCRIPTIONS = {
    "ddp": "a whole copy on each GPU, all at work at once",
    "sandwich": "input and output on GPU 0, all layers on the rest",
    "balanced": "layers split over the GPUs, input and output on GPU 0",
    "single": "everything on one GPU",
}


@dataclass(frozen=True)
class Option:
    """One placement on the GPUs at hand."""

    placement: str
    """One of PLACEMENTS."""
    gpus: tuple[GpuMemory, ...]
    """Memory of each GPU that takes part."""
    maps: tuple[DeviceMap, ...]
    """One complete device map per process."""
    steps: int
    """Optimizer steps of an epoch."""
    hours: float
    """Projected hours of an epoch at the stated rate (ideal; see OVERHEAD)."""
    busy: tuple[float, ...]
    """Share of the time that each GPU at hand works."""
    tokens_that_fit: int
    """Most tokens a pass that fit, in whole rows; 0 where one row does not."""
    verdict: str = ""
    """Why it was chosen, or why it lost."""

    @property
    def fits(self) -> bool:
        """Whether every GPU's need is within its memory."""
        return self.margin >= 0

    @property
    def margin(self) -> float:
        """GiB to spare on the tightest GPU."""
        return min(gpu.margin for gpu in self.gpus)

    @property
    def tightest(self) -> GpuMemory:
        """The GPU with the least to spare."""
        return min(self.gpus, key=lambda gpu: gpu.margin)


@dataclass(frozen=True)
class Plan:
    """What a run would take on these GPUs, and how to place it."""

    shape: ModelShape
    work: Workload
    epoch: Epoch
    rate: Rate
    gpus: tuple[float, ...]
    """GiB of each GPU."""
    used: tuple[float, ...]
    """GiB of each that other jobs hold."""
    options: tuple[Option, ...]
    """Every placement that these GPUs allow, best first where it was chosen."""
    chosen: str | None
    """The placement to use, or None where nothing fits."""
    notes: tuple[str, ...]
    """What a user should know besides."""

    def option(self, placement: str) -> Option | None:
        """The option of that name, if these GPUs allow it."""
        return next((option for option in self.options if option.placement == placement), None)

    @property
    def best(self) -> Option | None:
        """The chosen option."""
        return self.option(self.chosen) if self.chosen else None

    @property
    def flops(self) -> tuple[float, float]:
        """FLOPs per token with recomputation and without it, at this run's supervised share."""
        share = self.work.supervised if self.work.loss == "chunked" else 1.0
        with_it, without = (
            flops_per_token(self.shape, self.work, again, self.epoch.mean_tokens, share) for again in (True, False)
        )
        return with_it, without


def parse_gpus(text: str) -> list[float]:
    """GiB per GPU from `2x14.74`, `14.74`, or a list of these with commas. Raises KelronError."""
    found: list[float] = []
    for part in text.replace("×", "x").split(","):
        count, times, size = part.strip().lower().rpartition("x")
        try:
            number, memory = int(count) if times else 1, float(size)
        except ValueError:
            number, memory = 0, 0.0
        if not 1 <= number <= 64 or not (math.isfinite(memory) and memory > 0):
            raise KelronError(f"--gpus {text!r}: give a count and the GiB of each, such as 2x14.74 or 14.74,24")
        found += [memory] * number
    return found


def workload(config: RunConfig, **changes: Any) -> Workload:
    """The workload of a run's config, with `changes` to single fields."""
    found = Workload(
        rows=config.train.rows_per_pass,
        row_tokens=config.train.row_tokens,
        step_passes=config.train.passes_per_step,
        lora_rank=config.lora.r,
        lora_dropout=config.lora.dropout,
        checkpointing=config.train.checkpointing,
        optimizer="adamw" if config.train.optimizer == "adamw_torch" else config.train.optimizer,
        embedding="gpu" if config.model.embedding == "device" else config.model.embedding,
        head="16bit" if config.model.head == "keep" else config.model.head,
    )
    return replace(found, **changes)


def plan(
    model_config: Any,
    work: Workload,
    gpus: Sequence[float],
    *,
    used: Sequence[float] = (),
    epoch: Epoch | None = None,
    wanted: int | None = None,
    rate: Rate | None = None,
    coef: Coefficients = DEFAULT,
) -> Plan:
    """Weigh every placement of a model on `gpus` (GiB each) and choose one.

    `used` is what other jobs hold on each GPU (GiB), `wanted` the number of GPUs the preset was made for.
    Raises KelronError for a config that is not known, no GPU, or a `used` that does not go with `gpus`.
    """
    shape = model_config if isinstance(model_config, ModelShape) else read_shape(model_config)
    epoch, rate = epoch or Epoch(), rate or Rate()
    taken = tuple(used) or (0.0,) * len(gpus)
    _check(gpus, taken)
    setting = _Setting(shape, work, epoch, rate, tuple(gpus), taken, coef)
    options = [setting.option(placement) for placement in PLACEMENTS if len(gpus) > 1 or placement == "single"]
    chosen = _choose(options)
    explained = tuple(replace(option, verdict=_verdict(option, chosen, setting)) for option in options)
    notes = tuple(_notes(setting, explained, chosen, wanted))
    name = chosen.placement if chosen else None
    return Plan(shape, work, epoch, rate, setting.gpus, taken, explained, name, notes)


def _check(gpus: Sequence[float], used: Sequence[float]) -> None:
    if not gpus:
        raise KelronError("no GPU to plan for: name some with --gpus, such as --gpus 2x14.74")
    if len(used) != len(gpus):
        raise KelronError(f"used memory is given for {len(used)} GPUs, but there are {len(gpus)}")
    for gpu, (total, taken) in enumerate(zip(gpus, used, strict=True)):
        if not (math.isfinite(total) and total > 0) or not 0 <= taken <= total:
            raise KelronError(f"GPU {gpu} has {total} GiB, {taken} of them in use: not a GPU's memory")


@dataclass(frozen=True)
class _Setting:
    """What every placement is weighed against."""

    shape: ModelShape
    work: Workload
    epoch: Epoch
    rate: Rate
    gpus: tuple[float, ...]
    used: tuple[float, ...]
    coef: Coefficients

    @property
    def free(self) -> list[float]:
        return [total - taken for total, taken in zip(self.gpus, self.used, strict=True)]

    def memory(self, work: Workload, gpu: int, share: Share) -> GpuMemory:
        return gpu_memory(self.shape, work, share, gpu, self.gpus[gpu], self.used[gpu], self.coef)

    def split_memory(self, work: Workload, split: Split) -> tuple[GpuMemory, ...]:
        return tuple(self.memory(work, gpu, share) for gpu, share in enumerate(split.shares()))

    def split(self, placement: str) -> Split | None:
        """The layers per GPU; None for the placements that keep whole copies."""
        if placement == "sandwich":
            return sandwich(self.shape, self.free)
        if placement == "balanced":
            return max(
                balanced_choices(self.shape, self.free),
                key=lambda split: min(gpu.margin for gpu in self.split_memory(self.work.shared_by(1), split)),
            )
        return None

    def members(self, placement: str) -> list[int]:
        """GPUs that take part."""
        everyone = list(range(len(self.gpus)))
        return [max(everyone, key=lambda gpu: self.free[gpu])] if placement == "single" else everyone

    def copies(self, placement: str) -> int:
        """Copies of the model, which share the passes of a step."""
        return len(self.gpus) if placement == "ddp" else 1

    def memories(self, placement: str, work: Workload, split: Split | None) -> tuple[GpuMemory, ...]:
        work = work.shared_by(self.copies(placement))
        if split:
            return self.split_memory(work, split)
        whole = Share(self.shape.layers, exchange=placement == "ddp")
        return tuple(self.memory(work, gpu, whole) for gpu in self.members(placement))

    def tokens_that_fit(self, placement: str, split: Split | None) -> int:
        """Largest pass in whole rows, by bisection (memory only grows with rows); at most 4096 rows."""
        low, high = 0, 4096
        while low < high:
            rows = (low + high + 1) // 2
            found = self.memories(placement, replace(self.work, rows=rows), split)
            low, high = (rows, high) if min(gpu.margin for gpu in found) >= 0 else (low, rows - 1)
        return low * self.work.row_tokens

    def option(self, placement: str) -> Option:
        split = self.split(placement)
        copies = self.copies(placement)
        passes = self.epoch.passes(self.work)
        steps = self.epoch.steps(self.work, copies)
        one_pass = pass_seconds(self.shape, self.work, self.epoch, self.rate)
        seconds = math.ceil(passes / copies) * one_pass + steps * exchange_seconds(self.shape, self.work, copies)
        splits = [split] if split else [self._whole(gpu) for gpu in self.members(placement)]
        return Option(
            placement=placement,
            gpus=self.memories(placement, self.work, split),
            maps=tuple(device_map(self.shape, one, self.work.embedding) for one in splits),
            steps=steps,
            hours=seconds / 3600,
            busy=self.busy(placement, split),
            tokens_that_fit=self.tokens_that_fit(placement, split),
        )

    def _whole(self, gpu: int) -> Split:
        layers = tuple(self.shape.layers if index == gpu else 0 for index in range(gpu + 1))
        return Split(layers=layers, ends=gpu)

    def busy(self, placement: str, split: Split | None) -> tuple[float, ...]:
        """Share of the time each GPU works: a split model passes the baton, so the shares add up to one."""
        if split is None:
            members = self.members(placement)
            return tuple(float(gpu in members) for gpu in range(len(self.gpus)))
        head = head_share(self.shape, self.work, self.epoch)
        return tuple(
            (1 - head) * count / self.shape.layers + (head if gpu == split.ends else 0.0)
            for gpu, count in enumerate(split.layers)
        )


def _choose(options: Sequence[Option]) -> Option | None:
    """The fastest that fits; where hours are within 2 %, the earlier in PLACEMENTS."""
    fitting = [option for option in options if option.fits]
    if not fitting:
        return None
    fastest = min(option.hours for option in fitting)
    return next(option for option in fitting if option.hours <= 1.02 * fastest)


def _verdict(option: Option, chosen: Option | None, setting: _Setting) -> str:
    """One sentence: why this placement was chosen, or why it lost."""
    tight = option.tightest
    if not option.fits:
        smaller = option.tokens_that_fit
        way_out = f"{smaller:,} tokens a pass would fit" if smaller else "not even one row a pass would fit"
        return f"does not fit: GPU {tight.gpu} is {-option.margin:.2f} GiB short ({tight.peak_phase}); {way_out}"
    spare = f"{option.margin:.2f} GiB to spare"
    if option is chosen:
        if option.placement == "ddp":
            return f"fits with {spare} on each GPU, and {len(option.gpus)} GPUs work at once"
        if len(setting.gpus) == 1:
            return f"fits with {spare}; there is one GPU, so there is nothing to split or to copy"
        return f"fits with {spare}; no faster placement does"
    assert chosen is not None
    times = option.hours / chosen.hours
    if times > 1.02:
        idle = "leaves the other GPUs idle" if option.placement == "single" else "one GPU works while the others wait"
        return f"fits with {spare}, but {idle}: {times:.1f}x the time of {chosen.placement}"
    reason = "has trained a 14B on two T4s before" if chosen.placement == "sandwich" else "is simpler"
    return f"fits with {spare} and takes as long; {chosen.placement} comes first, because it {reason}"


def _notes(setting: _Setting, options: Sequence[Option], chosen: Option | None, wanted: int | None) -> list[str]:
    notes = []
    for gpu, taken in enumerate(setting.used):
        if taken:
            notes.append(f"GPU {gpu}: {taken:.2f} GiB are in use by other jobs; the plan leaves them alone.")
    count, work = len(setting.gpus), setting.work
    if wanted and count < wanted:
        then = f"a step averages {wanted / count:.1f}x fewer tokens"
        if work.step_passes:
            held = work.shared_by(count).accumulation
            then = f"a step is {held} passes in turn on each" + (", the gradients held through them" * (held > 1))
        notes.append(
            f"The preset is made for {wanted} GPUs and there {_is_are(count)}: an epoch takes about "
            f"{wanted / count:.1f}x the time, and {then}."
        )
    if chosen is None:
        best = max(options, key=lambda option: option.margin)
        notes.append(
            f"Nothing fits. Closest: {best.placement}, {-best.margin:.2f} GiB short. Take fewer rows a pass, a smaller "
            "rank, head nf4, or a smaller base."
        )
    if chosen is not None and chosen.placement in SPLIT:
        notes.append(
            f"`kelron train` keeps whole copies and cannot run {chosen.placement}: {whole_copies(options, work)}."
        )
    if setting.work.optimizer == "paged_adamw_8bit":
        states = 2 * (1 + 4 / 256) * setting.shape.lora(setting.work.lora_rank, setting.work.lora_targets) / 2**30
        notes.append(
            f"Paged optimizer: {states:.2f} GiB of states rest in host memory and pass through free GPU memory "
            "during the step."
        )
    notes.append(
        f"Hours are a projection from {setting.rate.tflops:g} TFLOP/s ({setting.rate.label}), not a measurement; "
        f"published single-T4 runs take {OVERHEAD:g}x the ideal time."
    )
    return notes


def whole_copies(options: Sequence[Option], work: Workload) -> str:
    """What would let a whole copy on each GPU, or on one, fit."""
    ways = [
        f"set train.rows_per_pass={option.tokens_that_fit // work.row_tokens} at most ({option.placement})"
        for option in options
        if option.placement == "ddp" and option.tokens_that_fit
    ]
    ways += [
        f"train on GPU {option.gpus[0].gpu} alone (CUDA_VISIBLE_DEVICES={option.gpus[0].gpu})"
        for option in options
        if option.placement == "single" and option.fits
    ]
    return " or ".join(ways) or "take a smaller lora.r or base, or larger GPUs"


def _is_are(count: int) -> str:
    return f"is {count}" if count == 1 else f"are {count}"
