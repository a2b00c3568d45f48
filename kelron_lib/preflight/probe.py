"""The probe from outside: one child process a GPU, all at once, and what their measurements come to."""

from __future__ import annotations

import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from kelron_lib.config import RunConfig, to_dict
from kelron_lib.errors import KelronError
from kelron_lib.placement import Epoch, Plan, Workload
from kelron_lib.placement.memory import GIB, Share, gpu_memory, weight_parts
from kelron_lib.placement.speed import exchange_seconds, pass_seconds
from kelron_lib.preflight import needs
from kelron_lib.preflight.machine import last_line
from kelron_lib.runtime import child_environment, duration, read_json, write_json

STEPS = 3
QUICK_LAYERS = 4
"""Layers of the quick probe's larger model; the smaller one has half of them."""
LIMIT_SECONDS = 15 * 60.0
"""A probe that has not ended by then is stopped."""
WORKER = ("-m", "kelron_lib.preflight.worker")
"""What Python runs in a child, followed by the request's and the result's path."""
TOLERANCE = 0.05
"""How far over the planner's figure a measured peak may be."""


@dataclass(frozen=True)
class Comparison:
    """One line of predicted against measured."""

    what: str
    predicted: float | None
    measured: float | None
    unit: str
    """`GiB`, `s`, `tokens/s` or `min`."""
    note: str = ""
    comparable: bool = True
    """Whether both are of the same kind of device."""

    @property
    def difference(self) -> float | None:
        """Measured over predicted, less 1; None where they cannot be compared."""
        if not self.comparable or not self.predicted or self.measured is None:
            return None
        return self.measured / self.predicted - 1


@dataclass(frozen=True)
class Projection:
    """What the measured steps mean for the whole run. A projection: validation and saving are not in it."""

    samples: int
    """Training rows."""
    mean_tokens: float
    """Tokens of a row on average."""
    measured_rows: bool
    """Whether that mean comes from the config's rows; if not, it is assumed."""
    steps: int
    """Optimizer steps of an epoch."""
    seconds_per_step: float
    """One optimizer step on all GPUs."""
    hours: float
    """One epoch."""
    total_hours: float
    """All epochs."""
    sessions: int
    """Sessions of the config's budget that all epochs take."""


@dataclass(frozen=True)
class Probe:
    """What was measured, against what was planned."""

    devices: tuple[str, ...]
    quick: bool
    random_weights: bool
    layers: int
    """Layers of the (larger) model that was measured."""
    comparisons: tuple[Comparison, ...]
    projection: Projection
    raw: tuple[Mapping[str, Any], ...]
    """Every child's own result."""

    @property
    def worst_excess(self) -> float:
        """The largest share by which a measured peak on a GPU is over the predicted one; negative where below."""
        peaks = [one.difference for one in self.comparisons if "peak allocated" in one.what]
        return max((peak for peak in peaks if peak is not None), default=-1.0)


def quick_sizes(layers: int) -> list[int]:
    """The two sizes of the quick probe, the larger first; one size for a model of a single layer."""
    larger = min(QUICK_LAYERS, layers)
    return [larger, larger // 2] if larger > 1 else [larger]


def at_full_size(sizes: Sequence[int], seconds: Sequence[float], layers: int) -> float:
    """Seconds at `layers` layers from those at the measured `sizes` (larger first).

    Time is a constant (embedding, head, loss) and a part per layer; two sizes tell them apart. Where the measurements
    are too noisy to tell (the larger model was no slower), or there is one size, all of it is taken to be per layer.
    """
    if layers == sizes[0]:
        return seconds[0]
    if len(sizes) > 1 and seconds[0] > seconds[1]:
        return seconds[0] + (layers - sizes[0]) * (seconds[0] - seconds[1]) / (sizes[0] - sizes[1])
    return seconds[0] * layers / sizes[0]


def _await(children: Sequence[subprocess.Popen[bytes]], limit: float) -> bool:
    """Wait for all; whether they ended in time. Whatever is left is stopped."""
    deadline = time.monotonic() + limit
    try:
        for child in children:
            child.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        return False
    finally:
        for child in children:
            if child.poll() is None:
                child.kill()
                child.wait()
    return True


def run_workers(requests: Sequence[Mapping[str, Any]], limit: float = LIMIT_SECONDS) -> list[dict[str, Any]]:
    """Carry out every request in a process of its own, all at the same time; their results in order.

    Raises KelronError for one that reports an error, dies, or has not ended after `limit` seconds.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        children = []
        for index, request in enumerate(requests):
            write_json(folder / f"{index}.request", request)
            files = [str(folder / f"{index}.{kind}") for kind in ("request", "result")]
            command = [sys.executable, *WORKER, *files]
            with open(folder / f"{index}.log", "wb") as log:
                children.append(
                    subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=child_environment())
                )
        if not _await(children, limit):
            raise KelronError(f"the probe had not ended after {duration(limit)}: try --quick")
        return [_result(folder, index, child.returncode) for index, child in enumerate(children)]


def _result(folder: Path, index: int, code: int) -> dict[str, Any]:
    result = folder / f"{index}.result"
    if not result.exists():
        log = (folder / f"{index}.log").read_text(encoding="utf-8", errors="replace")
        why = f"killed by signal {-code}, which the system does when host memory is out" if code < 0 else last_line(log)
        raise KelronError(f"the probe of process {index} ended with exit code {code}: {why}")
    found: dict[str, Any] = read_json(result)
    if "error" in found:
        raise KelronError(f"the probe of process {index}: {found['error']}")
    return found


def make_requests(
    config: RunConfig,
    fields: Mapping[str, Any],
    work: Workload,
    gpus: Sequence[int | None],
    *,
    layers: Sequence[int],
    random_weights: bool,
    rows: Sequence[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """One request per process: the index of its GPU, None for the CPU. They share the passes of a step.

    `layers`: the sizes to measure, with random weights; empty: the whole model.
    """
    return [
        {
            "config": to_dict(config),
            "fields": dict(fields),
            "workload": asdict(work.shared_by(len(gpus))),
            "gpu": gpu,
            "layers": list(layers),
            "random": random_weights,
            "rows": list(rows),
            "steps": STEPS,
        }
        for gpu in gpus
    ]


def epoch_of(samples: int, result: Mapping[str, Any]) -> Epoch:
    """The epoch with the lengths and the filling that a worker saw."""
    seen = result["samples"]
    return Epoch(samples=samples, mean_tokens=round(seen["mean_tokens"], 1), fill=min(1.0, seen["fill"]))


def project(
    config: RunConfig, plan: Plan, epoch: Epoch, results: Sequence[Mapping[str, Any]], measured_rows: bool
) -> Projection:
    """The hours of an epoch and the sessions of the run, from the slowest process's steps."""
    sizes = [run["layers"] for run in results[0]["runs"]]

    def full(name: str) -> float:
        return max(at_full_size(sizes, [run[name] for run in one["runs"]], plan.shape.layers) for one in results)

    copies = len(results)
    work = plan.work.shared_by(copies)
    steps = epoch.steps(work, copies)
    step = work.accumulation * full("pass_seconds") + full("optimizer_seconds")
    step += exchange_seconds(plan.shape, work, copies)
    hours = steps * step / 3600
    total = hours * config.train.epochs
    startup = max(one["load"]["seconds"] for one in results)
    usable = config.session.budget_seconds - config.session.reserve_seconds - startup
    if usable <= 0:
        raise KelronError(
            f"loading took {duration(startup)}, which leaves nothing of a session of "
            f"{duration(config.session.budget_seconds)}: raise session.budget_seconds"
        )
    sessions = max(1, math.ceil(total * 3600 / usable))
    return Projection(epoch.samples, epoch.mean_tokens, measured_rows, steps, step, hours, total, sessions)


def _gpu_lines(plan: Plan, work: Workload, gpu: int, result: Mapping[str, Any], half: bool) -> list[Comparison]:
    """Predicted against measured memory of one GPU at the size that was measured; the plan is for half precision."""
    run = result["runs"][0]
    shape = replace(plan.shape, layers=run["layers"])
    memory = gpu_memory(shape, work, Share(shape.layers), gpu)
    rest = sum(weight_parts(shape, work, Share(shape.layers)).values())
    rest += 4.0 * shape.lora(work.lora_rank, work.lora_targets)
    slack = memory.slack / memory.peak
    at = "" if shape.layers == plan.shape.layers else f"{shape.layers} layers"
    lines = (
        ("weights and adapter", rest / GIB, run["at_rest"]["allocated"]),
        ("peak allocated", memory.step_peak, run["peak_allocated"]),
        ("peak reserved", memory.step_peak * (1 + slack), run["peak_reserved"]),
    )
    return [
        Comparison(f"GPU {gpu}, {what}", predicted, measured, "GiB", at, half) for what, predicted, measured in lines
    ]


def _host_line(plan: Plan, results: Sequence[Mapping[str, Any]], on_gpu: bool) -> Comparison:
    """The largest process's host memory, loading included."""
    shape = replace(plan.shape, layers=results[0]["runs"][0]["layers"])
    predicted = sum(needs.host_parts(shape, plan.work, on_gpu).values()) / GIB
    measured = max(max(one["load"]["host_peak"], *(run["host_peak"] for run in one["runs"])) for one in results)
    return Comparison("host memory of a process, peak", predicted, measured, "GiB", "an estimate, rough by nature")


def compare(
    config: RunConfig, plan: Plan, epoch: Epoch, results: Sequence[Mapping[str, Any]], projection: Projection
) -> tuple[Comparison, ...]:
    """Predicted against measured, memory first: sizes as they were measured, times for the whole model."""
    lines: list[Comparison] = []
    on_gpu = results[0]["gpu"] is not None
    if on_gpu:
        for result in results:
            lines += _gpu_lines(
                plan, plan.work.shared_by(len(results)), result["gpu"], result, config.model.dtype == "float16"
            )
    lines.append(_host_line(plan, results, on_gpu))
    device = results[0]["device"]
    alike = plan.rate.label.partition(",")[0] in device
    ideal = f"predicted: ideal, {plan.rate.label}; measured: {device}"
    one_pass = pass_seconds(plan.shape, plan.work, epoch, plan.rate)
    sizes = [run["layers"] for run in results[0]["runs"]]
    slowest = max(
        at_full_size(sizes, [run["pass_seconds"] for run in one["runs"]], plan.shape.layers) for one in results
    )
    tokens = plan.work.tokens * epoch.fill
    best = plan.best
    step = best.hours * 3600 / best.steps if best else None
    times = (
        (f"a pass of {plan.work.tokens:,} tokens", one_pass, slowest, "s", ideal),
        ("tokens of samples on one device", tokens / one_pass, tokens / slowest, "tokens/s", ideal),
        ("an optimizer step", step, projection.seconds_per_step, "s", "all devices"),
        ("an epoch", best.hours * 60 if best else None, projection.hours * 60, "min", "projection, all devices"),
    )
    return (*lines, *(Comparison(*time, comparable=alike) for time in times))
