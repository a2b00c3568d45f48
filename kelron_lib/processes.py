"""The processes that train together, as one of them sees them: who it is, and the few things that all must agree on.

What is agreed here goes over the CPU (gloo), so that nothing waits for a GPU; gradients go over the GPUs' own links.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

PATIENCE = timedelta(hours=2)
"""How long a process waits for the others: while one of them saves. A process that died is noticed at once."""


SHARED_AT_ONCE = 64 * 2**20
"""Bytes of a file that go from machine to machine in one piece."""


@dataclass(frozen=True)
class World:
    """One process among those of a run; by default the only one."""

    rank: int = 0
    """Its number, from 0; process 0 saves and reports."""
    size: int = 1
    """How many there are, over all machines."""
    local_rank: int = 0
    """Its number on its machine, and the number of its GPU."""

    @property
    def first(self) -> bool:
        """Whether this is process 0."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in at least one process. All must call it."""
        return bool(max(self.all(float(flag))))

    def sum(self, value: float) -> float:
        """The sum of a value over all processes, the same in each. All must call it."""
        return sum(self.all(value))

    def all(self, value: float) -> list[float]:
        """A value of every process, by rank. All must call it."""
        if self.size == 1:
            return [value]
        import torch
        import torch.distributed as dist

        values = torch.zeros(self.size, dtype=torch.float64)
        values[self.rank] = value
        dist.all_reduce(values)
        found: list[float] = values.tolist()
        return found

    def gather(self, value: Any) -> list[Any]:
        """Any small value of every process, by rank. All must call it."""
        if self.size == 1:
            return [value]
        import torch.distributed as dist

        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def share_folder(self, folder: Path) -> None:
        """Bring the files of process 0's `folder` to the machines that lack them. All must call it."""
        files = self.gather(_sizes(folder))[0]
        lacking = self.local_rank == 0 and _sizes(folder) != files
        if not self.any(lacking):
            return
        import torch
        import torch.distributed as dist

        folder.mkdir(parents=True, exist_ok=True)
        for name, size in files.items():
            mode = "rb" if self.first else "wb"
            with open(folder / name if self.first or lacking else os.devnull, mode) as file:
                for start in range(0, size, SHARED_AT_ONCE):
                    part = bytearray(min(SHARED_AT_ONCE, size - start))
                    if self.first:
                        part[:] = file.read(len(part))
                    dist.broadcast(torch.frombuffer(part, dtype=torch.uint8), src=0)
                    if not self.first:
                        file.write(part)

    def wait(self) -> None:
        """Return when all processes have come here."""
        self.all(0.0)


def _sizes(folder: Path) -> dict[str, int]:
    """The files of a folder and their bytes."""
    return {path.name: path.stat().st_size for path in sorted(folder.glob("*"))}


def device_count() -> int:
    """CUDA devices of this machine, asked without using any of them."""
    import torch

    return torch.cuda.device_count()


def prepare_cuda_memory() -> None:
    """Let CUDA's memory grow in place, which wastes about 1 GiB of 14 less; a setting of the user's stays.

    It works only before CUDA is first used in a process. Does nothing where there is no CUDA device.
    """
    names = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")
    if device_count() and not any(name in os.environ for name in names):
        os.environ[names[0]] = "expandable_segments:True"


def join(host: str, port: int, *, rank: int, size: int, local_rank: int) -> World:
    """Meet the other processes at a store that waits at `host:port`; where there are GPUs, take this process's own."""
    import torch
    import torch.distributed as dist

    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank)
        backend = "cpu:gloo,cuda:nccl"
    store = dist.TCPStore(host, port, is_master=False, timeout=PATIENCE)
    dist.init_process_group(
        backend, store=dist.PrefixStore("kelron", store), rank=rank, world_size=size, timeout=PATIENCE
    )
    return World(rank=rank, size=size, local_rank=local_rank)


def leave() -> None:
    """End the connection to the other processes."""
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()
