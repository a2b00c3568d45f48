"""Starts the processes of a run, one a GPU, shows what they say line by line, and ends all when one fails.

The calling process (a notebook's kernel, the command line) uses no GPU itself. It serves the store at which the
processes meet, and each of them ends when it does.
"""

from __future__ import annotations

import os
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kelron_lib.errors import KelronError, ProcessFailed
from kelron_lib.processes import open_meeting
from kelron_lib.runtime import child_environment, read_json

ERROR_VARIABLE = "KELRON_ERROR_FILE"
GRACE_SECONDS = 10.0
"""How long the others may take to notice that one has failed, and then to end when they are told to."""


@dataclass(frozen=True)
class Cluster:
    """The machines of a run, and which of them this is."""

    machines: int = 1
    """How many there are; all start the same number of processes."""
    machine: int = 0
    """This one's number, from 0; machine 0 keeps the checkpoints."""
    rendezvous: str = ""
    """`host:port` on machine 0, for more than one machine."""

    def __post_init__(self) -> None:
        if not 0 <= self.machine < self.machines:
            raise KelronError(f"--node-rank is {self.machine} of --nnodes {self.machines}: count the machines from 0")
        if self.machines > 1:
            _ = self.address

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the rendezvous; a free port of this machine where there is one machine only."""
        if self.machines == 1:
            return "127.0.0.1", 0
        host, colon, port = self.rendezvous.rpartition(":")
        if not (host and colon and port.isdecimal() and 0 < int(port) < 65536):
            raise KelronError(f"--rdzv is {self.rendezvous!r}: give host:port of machine 0, such as 10.0.0.2:29500")
        return host, int(port)


def run_processes(
    command: Sequence[str],
    processes: int,
    *,
    cluster: Cluster | None = None,
    environment: dict[str, str] | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Run `python COMMAND...` in several processes of this machine and return when all have ended well.

    Each finds who it is in RANK, LOCAL_RANK and WORLD_SIZE, and where to meet in MASTER_ADDR and MASTER_PORT. The lines
    of process 0 go to `say` as they are, those of others with their number. Raises ProcessFailed (KelronError where the
    input cannot be used) with the error of the process that failed first; the others are ended.
    """
    cluster = cluster or Cluster()
    host, port = cluster.address
    meeting: Any = None
    if cluster.machine == 0:
        meeting = open_meeting(host, port)  # served for as long as this function runs
        port = meeting.port
    with tempfile.TemporaryDirectory(prefix="kelron-") as folder:
        team = _Team(processes, cluster, Path(folder), say)
        try:
            team.start(command, {**(environment or {}), "MASTER_ADDR": host, "MASTER_PORT": str(port)})
            team.watch()
        finally:
            team.end()


def interface_towards(host: str) -> str:
    """The network interface of this machine that leads to `host`; empty where it cannot be told.

    Left alone, gloo listens where the machine's own name leads: on many systems to 127.0.1.1, where no other machine
    finds it.
    """
    import psutil

    try:
        family, *_, place = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as towards:
            towards.connect(place)  # sends nothing
            own = towards.getsockname()[0]
    except OSError:
        return ""
    found = [name for name, places in psutil.net_if_addrs().items() if own in {place.address for place in places}]
    return found[0] if found else ""


class _Team:
    """The processes of this machine."""

    def __init__(self, processes: int, cluster: Cluster, folder: Path, say: Callable[[str], None]) -> None:
        self.first = cluster.machine * processes
        self.size = cluster.machines * processes
        self.ranks = range(self.first, self.first + processes)
        self.host = cluster.address[0]
        self.folder, self.say = folder, say
        self.running: dict[int, subprocess.Popen[str]] = {}
        self._lines: queue.Queue[tuple[int, str | None]] = queue.Queue()
        self._open = 0

    def start(self, command: Sequence[str], environment: dict[str, str]) -> None:
        for rank in self.ranks:
            process = subprocess.Popen(
                [sys.executable, *command],
                stdin=subprocess.PIPE,  # never written to: it ends when this process does, and so does its reader
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={**self._environment(rank), **environment},
                text=True,
                errors="replace",
                start_new_session=True,  # an interrupt from the keyboard is for this process to pass on
            )
            self.running[rank] = process
            self._open += 1
            threading.Thread(target=self._read, args=(rank, process), daemon=True).start()

    def _environment(self, rank: int) -> dict[str, str]:
        processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        defaults = {"OMP_NUM_THREADS": str(max(1, processors // len(self.ranks)))}
        if interface := interface_towards(self.host):
            defaults["GLOO_SOCKET_IFNAME"] = interface  # a machine's own name may lead nowhere, or to itself alone
        return {
            **defaults,
            **child_environment(),
            "PYTHONUNBUFFERED": "1",
            "RANK": str(rank),
            "LOCAL_RANK": str(rank - self.first),
            "WORLD_SIZE": str(self.size),
            "LOCAL_WORLD_SIZE": str(len(self.ranks)),
            ERROR_VARIABLE: str(self._error_file(rank)),
        }

    def _error_file(self, rank: int) -> Path:
        return self.folder / f"error-{rank}.json"

    def _read(self, rank: int, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self._lines.put((rank, line.rstrip("\n")))
        self._lines.put((rank, None))

    def _show(self, timeout: float) -> bool:
        """Say the next line, if one comes in time."""
        try:
            rank, line = self._lines.get(timeout=timeout)
        except queue.Empty:
            return False
        if line is None:
            self._open -= 1
        else:
            self.say(line if rank == 0 else f"[process {rank}] {line}")
        return True

    def _codes(self) -> dict[int, int]:
        """Exit codes of the processes that have ended."""
        codes = {rank: process.poll() for rank, process in self.running.items()}
        return {rank: code for rank, code in codes.items() if code is not None}

    def watch(self) -> None:
        """Show lines until all have ended. Raises for the process that failed first."""
        while len(self._codes()) < len(self.running):
            self._show(0.2)
            if any(self._codes().values()):
                self._fail()
        self._drain()
        if any(self._codes().values()):
            self._fail()

    def _drain(self) -> None:
        """Show what the ended processes have said last."""
        while self._open and self._show(1.0):
            pass

    def _fail(self) -> None:
        began = time.monotonic()
        while len(self._codes()) < len(self.running) and time.monotonic() - began < GRACE_SECONDS:
            self._show(0.2)
        codes = self._codes()
        told = {rank: read_json(path) for rank in self.ranks if (path := self._error_file(rank)).exists()}
        self.end()
        self._drain()
        # Who said nothing was ended from outside; what the others say then is only that it is gone.
        for rank, code in codes.items():
            if code and rank not in told:
                raise ProcessFailed(f"process {rank} of {self.size} {_ending(code)}: the run is stopped")
        first = next(iter(told.values()))
        kind = KelronError if first["input"] else ProcessFailed
        raise kind(f"process {first['rank']} of {self.size}: {first['message']}")

    def end(self) -> None:
        """End what still runs."""
        for stop in (subprocess.Popen.terminate, subprocess.Popen.kill):
            left = [process for process in self.running.values() if process.poll() is None]
            for process in left:
                stop(process)
            deadline = time.monotonic() + GRACE_SECONDS
            for process in left:
                _wait(process, max(0.1, deadline - time.monotonic()))
        for process in self.running.values():
            assert process.stdin is not None
            process.stdin.close()


def _ending(code: int) -> str:
    """An exit code in words."""
    if code > 0:
        return f"ended with exit code {code} and no word of why"
    name = signal.Signals(-code).name
    return f"was ended by {name}" + (", as the system does when memory runs out" if name == "SIGKILL" else "")


def _wait(process: Any, seconds: float) -> None:
    """Wait for a process to end, at most so long."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return
