"""The processes that train together: how many, which of them this is, and the few things that all must agree on.

What is agreed here goes over the CPU (gloo), so that nothing waits for a GPU; gradients go over the GPUs' own links.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from kelron_lib.config import RunConfig
from kelron_lib.errors import KelronError
from kelron_lib.schedule import check_processes

PATIENCE = timedelta(hours=2)
"""How long a process waits for another in training: it may be saving. One that died is noticed at once."""
MEETING = timedelta(minutes=10)
"""How long processes wait for all to start."""
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


def processes_for(config: RunConfig, gpus: int) -> int:
    """Training processes on a machine with so many GPUs: what the config asks for, else one a GPU as far as a step's
    passes can be shared, else one.

    Raises KelronError for a number that cannot share the passes of a step, or that there are no GPUs for.
    """
    asked, passes = config.session.processes, config.train.passes_per_step
    if not asked:
        return max(number for number in range(1, max(1, gpus) + 1) if passes % number == 0)
    check_processes(passes, asked)
    if gpus and asked > gpus:
        raise KelronError(f"session.processes is {asked}, but there is a GPU for {gpus} only: lower it, or set it to 0")
    return asked


def open_meeting(host: str, port: int) -> Any:
    """The store at which all processes meet, served by the calling process for as long as it is held.

    `port` 0 takes a free one; the store's `port` says which. Raises KelronError where it cannot be served.
    """
    import torch.distributed as dist

    try:
        return dist.TCPStore(host, port, is_master=True, wait_for_workers=False, timeout=MEETING)
    except RuntimeError as error:
        first_line = str(error).splitlines()[0]
        raise KelronError(f"cannot serve {host}:{port} for the processes to meet ({first_line}): use another") from None


def join(host: str, port: int, world: World) -> Any:
    """Meet the other processes at the store at `host:port`, and return it; where there are GPUs, take this process's.

    Raises KelronError where the store does not answer, or where the machines do not start the same number of processes.
    """
    import torch
    import torch.distributed as dist

    try:
        store = dist.TCPStore(host, port, is_master=False, timeout=MEETING)
    except RuntimeError as error:
        raise KelronError(f"nobody answers at {host}:{port} ({str(error).splitlines()[0]}): start machine 0 first, and "
                          "see that its port can be reached") from None  # fmt: skip
    expected = int(store.compare_set("size", "", str(world.size)))
    if expected != world.size:
        raise KelronError(
            f"process {world.rank} expects {world.size} processes and another one {expected}: start as many on every "
            "machine, with the same --nnodes and --processes"
        )
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(world.local_rank)
        backend = "cpu:gloo,cuda:nccl"
    meeting = dist.PrefixStore("group", store)
    dist.init_process_group(backend, store=meeting, rank=world.rank, world_size=world.size, timeout=PATIENCE)
    return store


def leave() -> None:
    """End the connection to the other processes."""
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()
