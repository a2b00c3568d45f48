"""Plans and replayed attempts as text tables and as plain JSON types."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from kelron_lib.placement.attempts import Replay
from kelron_lib.placement.memory import GpuMemory
from kelron_lib.placement.plan import DESCRIPTIONS, Option, Plan
from kelron_lib.placement.six_and_ten import candidates, explanation
from kelron_lib.placement.speed import OVERHEAD


def grid(header: Sequence[str], rows: Sequence[Sequence[str]], right: frozenset[int] = frozenset()) -> list[str]:
    """Lines of a table with aligned columns; columns in `right` are aligned to the right."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        placed = (
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "  ".join(placed).rstrip()

    return [line(header), line(["-" * width for width in widths]), *(line(row) for row in rows)]


def counted(number: float) -> str:
    """A count with three digits and its unit: 14.8B, 551M, 12.3K."""
    size, unit = next(((size, unit) for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "K")) if number >= size), (1, ""))
    return f"{number / size:.3g}{unit}"


def model_line(plan: Plan) -> str:
    """The model and the adapter in a line."""
    shape, work = plan.shape, plan.work
    adapter = shape.lora(work.lora_rank, work.lora_targets)
    return (
        f"{shape.family} model, {counted(shape.total)} parameters, {shape.layers} layers; "
        f"LoRA r={work.lora_rank} on {work.lora_targets.replace('-', ' ')} ({counted(adapter)} parameters)"
    )


def pass_line(plan: Plan) -> str:
    """A pass and an epoch in a line."""
    work, epoch = plan.work, plan.epoch
    again, without = plan.flops
    passes = work.step_passes or work.accumulation
    accumulated = f", {passes} passes a step{'' if work.step_passes else ' and GPU'}" if passes > 1 else ""
    return (
        f"{work.rows} rows of {work.row_tokens:,} tokens a pass{accumulated}, {work.loss} loss, "
        f"{work.optimizer.replace('_', ' ')}; epoch of {epoch.samples:,} samples of {epoch.mean_tokens:g} tokens; "
        f"{again / 1e9:.3g} GFLOP per token ({without / 1e9:.3g} without recomputation)"
    )


def _option_row(option: Option, plan: Plan) -> list[str]:
    mark = "->" if option.placement == plan.chosen else ""
    tight = option.tightest
    return [
        mark,
        option.placement,
        "yes" if option.fits else "no",
        f"{tight.peak:.2f}",
        f"{tight.needed:.2f}",
        f"{option.margin:+.2f}",
        f"{option.tokens_that_fit:,}",
        f"{option.steps:,}",
        f"{option.hours:.1f}",
        f"{option.hours * OVERHEAD:.1f}",
        " ".join(f"{share:.0%}" for share in option.busy),
    ]


def _memory_table(gpus: Sequence[GpuMemory]) -> list[str]:
    last = "allocator slack"
    parts = [*dict.fromkeys(part for gpu in gpus for part in gpu.stack if part != last), last]
    rows = [[part, *(f"{gpu.stack[part]:.2f}" if part in gpu.stack else "" for gpu in gpus)] for part in parts]
    rows.append(["sum", *(f"{sum(gpu.stack.values()):.2f}" for gpu in gpus)])
    rows.append(["limit", *(f"{gpu.total:.2f}" for gpu in gpus)])
    header = ["GiB at the peak", *(f"GPU {gpu.gpu} ({gpu.peak_phase})" for gpu in gpus)]
    return grid(header, rows, frozenset(range(1, len(header))))


def _phase_table(gpus: Sequence[GpuMemory]) -> list[str]:
    """Every part in every phase, one table for GPUs that hold the same."""
    alike: dict[str, list[GpuMemory]] = {}
    for gpu in gpus:
        alike.setdefault(str(gpu.phases), []).append(gpu)
    lines: list[str] = []
    for same in alike.values():
        phases = same[0].phases
        parts = dict.fromkeys(part for held in phases.values() for part in held)
        rows = [[part, *(f"{held[part]:.2f}" if part in held else "" for held in phases.values())] for part in parts]
        rows.append(["sum", *(f"{sum(held.values()):.2f}" for held in phases.values())])
        header = [f"GiB allocated, GPU {' and '.join(str(gpu.gpu) for gpu in same)}", *phases]
        lines += [*([""] if lines else []), *grid(header, rows, frozenset(range(1, len(header))))]
    return lines


def plan_table(plan: Plan) -> str:
    """The plan as text: the placements side by side, why each won or lost, and the memory of the best one."""
    gpus = ", ".join(f"{size:g}" for size in plan.gpus)
    header = ["", "placement", "fits", "peak", "needs", "margin", "max tokens", "steps", "hours", "likely", "busy"]
    rows = [_option_row(option, plan) for option in plan.options]
    shown = plan.best or max(plan.options, key=lambda option: option.margin)
    headline = f"Use {plan.chosen}: {shown.verdict}." if plan.chosen else "No placement fits."
    lines = [
        headline,
        "",
        model_line(plan),
        pass_line(plan),
        f"GPUs: {gpus} GiB. Memory in GiB on the tightest GPU; hours per epoch are a projection.",
        "",
        *grid(header, rows, frozenset(range(3, 10))),
        "",
        *(f"{option.placement} ({DESCRIPTIONS[option.placement]}): {option.verdict}." for option in plan.options),
        "",
        *_memory_table(shown.gpus),
        "",
        *_phase_table(shown.gpus),
        "",
        *plan.notes,
    ]
    return "\n".join(lines) + "\n"


def _gpu_dict(gpu: GpuMemory) -> dict[str, Any]:
    return {
        "gpu": gpu.gpu,
        "total_gib": gpu.total,
        "used_by_others_gib": gpu.used,
        "layers": gpu.share.layers,
        "peak_phase": gpu.peak_phase,
        "peak_allocated_gib": round(gpu.peak, 3),
        "needed_gib": round(gpu.needed, 3),
        "margin_gib": round(gpu.margin, 3),
        "stack_gib": {part: round(size, 3) for part, size in gpu.stack.items()},
        "phases_gib": {phase: round(sum(parts.values()), 3) for phase, parts in gpu.phases.items()},
        "parts_gib": {
            phase: {part: round(size, 3) for part, size in parts.items()} for phase, parts in gpu.phases.items()
        },
    }


def plan_dict(plan: Plan) -> dict[str, Any]:
    """The plan as JSON types. Sizes in GiB, times in hours."""
    again, without = plan.flops
    return {
        "model": {**asdict(plan.shape), "parameters": plan.shape.total},
        "workload": asdict(plan.work),
        "epoch": asdict(plan.epoch),
        "rate": asdict(plan.rate),
        "gpus_gib": list(plan.gpus),
        "chosen": plan.chosen,
        "flops_per_token": {"with_recomputation": round(again), "without": round(without)},
        "hours_are": "projection",
        "placements": [
            {
                "placement": option.placement,
                "fits": option.fits,
                "margin_gib": round(option.margin, 3),
                "tokens_that_fit": option.tokens_that_fit,
                "steps_per_epoch": option.steps,
                "projected_hours_ideal": round(option.hours, 2),
                "projected_hours_likely": round(option.hours * OVERHEAD, 2),
                "busy": [round(share, 3) for share in option.busy],
                "verdict": option.verdict,
                "gpus": [_gpu_dict(gpu) for gpu in option.gpus],
                "device_maps": [dict(found) for found in option.maps],
            }
            for option in plan.options
        ],
        "notes": list(plan.notes),
    }


def attempts_table(replays: Sequence[Replay]) -> str:
    """The ten attempts as text: predicted and logged outcome, cause, and what today's libraries would do."""
    rows = [
        [str(one.attempt.number), one.attempt.title, one.then.short, one.attempt.logged, "yes" if one.agree else "no"]
        for one in replays
    ]
    lines = grid(["#", "attempt", "predicted", "logged", "agree"], rows, frozenset({0}))
    for one in replays:
        lines += ["", f"{one.attempt.number}. {one.attempt.title}", f"   cause: {one.then.cause}"]
        if one.leftover_note:
            lines.append(f"   leftover (inferred): {one.leftover_note}")
        lines.append(f"   today, in a fresh process: {one.now.short}: {one.now.cause}")
        lines += [f"   note: {note}" for note in one.attempt.notes]
    helped = ", ".join(str(one.attempt.number) for one in replays if one.agree and not one.agrees_alone)
    if helped:
        lines += [
            "",
            f"Only with the inferred leftover agree: {helped}. In a fresh process they would have got past this.",
        ]
    found = candidates(replays=replays)
    rows = [[one.name, f"{one.six:.1f}", f"{one.ten:.1f}", one.verdict, one.remark] for one in found]
    header = ["GPU 1 while loading, GiB", "in 6", "in 10", "verdict", "remark"]
    lines += ["", "Attempts 6 and 10: one map, two outcomes", "", *grid(header, rows, frozenset({1, 2}))]
    lines += ["", explanation(found)]
    return "\n".join(lines) + "\n"


def attempts_dict(replays: Sequence[Replay]) -> list[dict[str, Any]]:
    """The ten attempts as JSON types."""
    return [
        {
            "number": one.attempt.number,
            "title": one.attempt.title,
            "predicted": asdict(one.then),
            "logged": one.attempt.logged,
            "agree": one.agree,
            "agrees_without_leftover": one.agrees_alone,
            "leftover_inferred": one.leftover_note,
            "today": asdict(one.now),
            "notes": list(one.attempt.notes),
        }
        for one in replays
    ]
