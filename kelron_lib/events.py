"""What happens in a run, as it happens: `events.jsonl` in the run's folder, one JSON object a line.

Each has "time" (seconds since the epoch) and "event":
`begin` (first_step, total_steps, session_ends_in), `step` (step, loss, samples_per_second,
tokens_per_second, training_ends_in and session_ends_in in seconds, memory), `validation` (step, loss), `backup` (step,
bytes, place: verified in the store) and `end` (state, reason, step). Later sessions on this machine append to it.
"""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from kelron_lib.errors import KelronError

EVENTS_FILE = "events.jsonl"
TENSORBOARD_FOLDER = "tensorboard"
SAMPLE_SECONDS = 30.0
"""Time between two looks at the GPUs' memory."""
_SMI_SECONDS = 10

Event = dict[str, Any]


class EventLog:
    """Appends events to a run's file, from any thread. Where that cannot be written, it says so once, and the run goes
    on: it is a view of the run and no part of it."""

    def __init__(self, out: Path, say: Callable[[str], None], also: Callable[[Event], None] | None = None) -> None:
        """also: called with every event, after it was written."""
        self.path = out / EVENTS_FILE
        self._say, self._also = say, also
        self._lock = threading.Lock()
        self._broken = False

    def add(self, event: str, **values: Any) -> None:
        """Append an event; numbers that are none (a loss before the first step) are left out."""
        kept = {key: value for key, value in values.items() if not (isinstance(value, float) and math.isnan(value))}
        told = {"time": round(time.time(), 3), "event": event, **kept}
        with self._lock:
            if not self._broken:
                self._write(told)
        if self._also is not None:
            self._also(told)

    def _write(self, told: Event) -> None:
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(told, ensure_ascii=False) + "\n")
        except OSError as error:
            self._broken = True
            self._say(f"{self.path} cannot be written ({error.strerror}): the run goes on without it")


def read_events(path: Path, offset: int = 0) -> tuple[list[Event], int]:
    """The whole lines of an events file from a byte offset on, and the offset after them; none where it is not there.

    A line that is no event is left out.
    """
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            text = file.read()
    except OSError:
        return [], offset
    whole = text[: text.rfind(b"\n") + 1]
    return [*_events(whole.decode("utf-8", "replace"))], offset + len(whole)


def _events(text: str) -> Iterator[Event]:
    for line in text.splitlines():
        try:
            told = json.loads(line)
        except ValueError:
            continue
        if isinstance(told, dict) and isinstance(told.get("event"), str):
            yield told


# --- Memory -----------------------------------------------------------------------------------------------
class MemoryWatch:
    """The memory that this machine's GPUs have in use, looked at every SAMPLE_SECONDS behind training's back; without
    GPUs this process's own. `latest`: [{"device", "used", "limit"}], in bytes."""

    def __init__(self, look: Callable[[], list[dict[str, Any]]] | None = None) -> None:
        self.latest: list[dict[str, Any]] = []
        self._look = look or memory_in_use
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory watch", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def end(self) -> None:
        """Look no more."""
        self._ended.set()

    def _watch(self) -> None:
        while not self._ended.is_set():
            self.latest = self._look()
            self._ended.wait(SAMPLE_SECONDS)


def memory_in_use() -> list[dict[str, Any]]:
    """[{"device", "used", "limit"}] in bytes, of each GPU as its driver counts (all processes), or of this process."""
    if (program := shutil.which("nvidia-smi")) is not None:
        command = [program, "--query-gpu=memory.used,memory.total", "--format=csv,noheader,nounits"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_SMI_SECONDS, check=True)
        except (OSError, subprocess.SubprocessError):
            return []
        return parse_memory(done.stdout)
    import psutil

    used, limit = psutil.Process().memory_info().rss, psutil.virtual_memory().total
    return [{"device": "this process", "used": used, "limit": limit}]


def parse_memory(text: str) -> list[dict[str, Any]]:
    """nvidia-smi's `used, total` lines in MiB; a GPU that does not tell is left out."""
    found = []
    for number, line in enumerate(text.splitlines()):
        try:
            used, limit = (int(part) * 2**20 for part in line.split(","))
        except ValueError:
            continue
        found.append({"device": f"GPU {number}", "used": used, "limit": limit})
    return found


class RunEvents:
    """What process 0 of a session tells of it, once training begins: the log, the memory in use and, on request,
    TensorBoard."""

    def __init__(self, out: Path, say: Callable[[str], None], *, tensorboard: bool) -> None:
        """Raises KelronError where TensorBoard is asked for and is not installed."""
        self._log = EventLog(out, say, Board(out) if tensorboard else None)
        self._watch = MemoryWatch()
        self._began = False

    def begin(self, first_step: int, total_steps: int, session_ends_in: float) -> None:
        """Training begins: append that, and look at the memory from now on."""
        self._began = True
        self._watch.start()
        self.add("begin", first_step=first_step, total_steps=total_steps, session_ends_in=session_ends_in)

    def add(self, event: str, **values: Any) -> None:
        """Append an event; to a step's, the memory that is in use is added."""
        self._log.add(event, **values, **({"memory": self._watch.latest} if event == "step" else {}))

    def end(self, status: Any = None) -> None:
        """Look at the memory no more, and append how the session ended (a `session.Status`), where it trained."""
        self._watch.end()
        if status is not None and self._began:
            self.add("end", state=status.state, reason=status.reason, step=status.step)


# --- TensorBoard ------------------------------------------------------------------------------------------
class Board:
    """The same events as TensorBoard's scalars, in `tensorboard/` of the run's folder."""

    def __init__(self, out: Path) -> None:
        """Raises KelronError where TensorBoard is not installed."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise KelronError(
                "session.tensorboard is true and tensorboard is not installed: pip install tensorboard, or leave it out"
            ) from None
        self._open: Callable[..., Any] = partial(SummaryWriter, str(out / TENSORBOARD_FOLDER))
        self._writer: Any = None

    def __call__(self, told: Mapping[str, Any]) -> None:
        """Add an event's figures. Of a session that goes on after a cut, the curves go on where it begins: what the one
        before did after its last backup is done again, and leaves the picture."""
        if told["event"] == "begin" or self._writer is None:
            after = told.get("first_step", 0)
            self._writer = self._open(purge_step=after + 1 if after else None)
        step = told.get("step")
        names = {
            "step": ("loss", "samples_per_second", "tokens_per_second"),
            "validation": ("loss",),
            "backup": ("bytes",),
        }.get(told["event"], ())
        for name in names:
            if name in told:
                self._writer.add_scalar(f"{told['event']}/{name}", told[name], step, walltime=told["time"])
        for part in told.get("memory", ()):
            self._writer.add_scalar(f"memory/{part['device']}", part["used"], step, walltime=told["time"])
        self._writer.flush()
