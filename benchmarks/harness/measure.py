"""Time, memory, and where a step's time goes."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import torch

GIB = 2**30
KINDS = (
    ("dequantisation", r"dequanti[sz]e"),
    ("attention", r"fmha|attention|flash"),
    ("matmul", r"gemm|gemv|nvjet|cutlass|cublas|splitk|matmul"),
    ("optimizer", r"optimizer|multi_tensor|foreach|amp_update|amp_foreach"),
    ("copies", r"memcpy|memset"),
)
"""Kinds of kernels by their names, first match wins; what matches none is elementwise."""


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def kind_of(kernel: str) -> str:
    """The kind of work a GPU kernel does, from its name."""
    return next((kind for kind, pattern in KINDS if re.search(pattern, kernel, re.IGNORECASE)), "elementwise")


def memory(device: torch.device) -> dict[str, float]:
    """Peaks since the last reset, in GiB; zeros on a CPU."""
    if device.type != "cuda":
        return {"peak_allocated": 0.0, "peak_reserved": 0.0}
    return {
        "peak_allocated": torch.cuda.max_memory_allocated() / GIB,
        "peak_reserved": torch.cuda.max_memory_reserved() / GIB,
    }


def where_time_goes(step: Callable[[], Any], device: torch.device, steps: int = 2) -> dict[str, float]:
    """Milliseconds a step by kind of kernel, and the time in which the GPU waits for the next one."""
    if device.type != "cuda":
        return {}
    from torch.profiler import ProfilerActivity, profile

    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(steps):
        step()
    torch.cuda.synchronize()
    wall = (time.perf_counter() - began) * 1e3 / steps
    with profile(activities=[ProfilerActivity.CUDA]) as recorded:
        for _ in range(steps):
            step()
        torch.cuda.synchronize()
    spent: dict[str, float] = {}
    for event in recorded.key_averages():
        kind = kind_of(event.key)
        spent[kind] = spent.get(kind, 0.0) + event.self_device_time_total / 1e3 / steps
    spent["launch gaps"] = max(0.0, wall - sum(spent.values()))
    spent["step"] = wall
    return dict(sorted(spent.items(), key=lambda item: -item[1]))


def top_kernels(step: Callable[[], Any], count: int = 25) -> list[tuple[float, int, str]]:
    """The kernels that take most of one step: milliseconds, launches, name."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as recorded:
        step()
        torch.cuda.synchronize()
    events = sorted(recorded.key_averages(), key=lambda event: -event.self_device_time_total)
    return [(event.self_device_time_total / 1e3, event.count, event.key) for event in events[:count]]
