"""GPU memory as a ledger: take, give back, and fail where a device cannot hold more. Sizes in bytes."""

from __future__ import annotations

from kelron_lib.placement.memory import GIB

OUT_OF_MEMORY = "oom"


class Failure(Exception):
    """A run that ends: out of memory, a device mismatch, or no gradient. Caught by the replay, never shown raw."""

    def __init__(self, kind: str, stage: str, gpu: int | None = None, size: float = 0.0, cause: str = "") -> None:
        super().__init__(cause)
        self.kind, self.stage, self.gpu, self.size, self.cause = kind, stage, gpu, size, cause


class Ledger:
    """What each of `gpus` devices holds, `limit` bytes each, `context` of them taken from the start."""

    def __init__(self, gpus: int, limit: float, context: float) -> None:
        self.limit = limit
        self.held = [context] * gpus
        self.highest = [context] * gpus

    def take(self, gpu: int, size: float, stage: str, why: str = "") -> None:
        """Allocate. Raises Failure where it does not fit."""
        if self.held[gpu] + size > self.limit:
            held, asked = self.held[gpu] / GIB, size / GIB
            reason = why or f"{stage} needs {asked:.2f} GiB more"
            cause = f"{reason}: {held:.2f} + {asked:.2f} GiB of {self.limit / GIB:.2f} on GPU {gpu}"
            raise Failure(OUT_OF_MEMORY, stage, gpu, size, cause)
        self.held[gpu] += size
        self.highest[gpu] = max(self.highest[gpu], self.held[gpu])

    def give(self, gpu: int, size: float) -> None:
        """Free."""
        self.held[gpu] -= size

    def pass_through(self, gpu: int, size: float, stage: str, why: str = "") -> None:
        """Allocate and free at once: something that is only there for a moment."""
        self.take(gpu, size, stage, why)
        self.give(gpu, size)

    def in_use_gib(self) -> tuple[float, ...]:
        """GiB in use on each device."""
        return tuple(size / GIB for size in self.held)

    def highest_gib(self) -> tuple[float, ...]:
        """Highest GiB in use on each device so far."""
        return tuple(size / GIB for size in self.highest)
