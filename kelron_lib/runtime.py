"""Where a run happens: the kind of machine, the session's clock, the run folder and its lock.

On Kaggle the session's clock starts with the container (process 1), not with the notebook, because that is
what Kaggle's 12 hours are counted from. Elsewhere it starts with this process. `KELRON_SESSION_START` (seconds
since the epoch) overrides both, so that child processes share their parent's clock.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import json
import os
import shutil
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from kelron_lib.errors import KelronError, RunFailed
from kelron_lib.files import FULL, write_whole

SESSION_START_VARIABLE = "KELRON_SESSION_START"
BATCH_VARIABLE = "KELRON_BATCH"
KAGGLE_VARIABLE = "KELRON_KAGGLE"
DEMO_VARIABLE = "KELRON_DEMO"
"""Names the process of `kelron demo` to the kernels that it starts."""
DEMO = "demo"
"""The purpose for which a demo holds its folder."""
DEMO_MARK = "demo.json"
"""Says that a folder is a demo's, which the next demo there clears."""
PACKAGE_ROOT = Path(__file__).resolve().parents[1]
"""The folder that holds `kelron_lib`."""


def kaggle_root() -> Path:
    """The folder that holds `input` and `working` in a Kaggle session; KELRON_KAGGLE names another one."""
    return Path(os.environ.get(KAGGLE_VARIABLE) or "/kaggle")


def on_kaggle() -> bool:
    """Whether this process runs in a Kaggle session."""
    return "KAGGLE_KERNEL_RUN_TYPE" in os.environ or (kaggle_root() / "working").is_dir()


def is_batch() -> bool:
    """Whether nobody is there to click: a pushed Kaggle run, or KELRON_BATCH=1 (set by `kelron demo`)."""
    return os.environ.get("KAGGLE_KERNEL_RUN_TYPE") == "Batch" or os.environ.get(BATCH_VARIABLE) == "1"


def _process_start(pid: int) -> float | None:
    """Start of a process in seconds since the epoch (proc(5): field 22 of stat, in ticks since boot)."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime"))
    except (OSError, StopIteration):
        return None
    return float(boot.split()[1]) + int(after_name[19]) / os.sysconf("SC_CLK_TCK")


def session_start() -> tuple[float, str]:
    """When the session began (seconds since the epoch), and how that is known."""
    given = os.environ.get(SESSION_START_VARIABLE)
    if given:
        try:
            return float(given), f"from {SESSION_START_VARIABLE}"
        except ValueError:
            raise KelronError(
                f"{SESSION_START_VARIABLE} is {given!r}: it takes seconds since the epoch, or nothing"
            ) from None
    if on_kaggle():
        started = _process_start(1)
        if started is not None:
            return started, "start of the Kaggle container"
    started = _process_start(os.getpid())
    if started is not None:
        return started, "start of this process"
    return time.time(), "now: this system does not tell when the process started"


@dataclass
class SessionClock:
    """The wall-clock budget of one session. All times in seconds.

    Runs on a monotonic clock after construction, so that a corrected system clock cannot move the deadline.
    """

    budget: float
    """Length of the session."""
    elapsed_before: float = 0.0
    """What had passed of the session when the clock was made."""
    now: Callable[[], float] = time.monotonic
    """The time source; tests inject their own."""
    _origin: float = field(init=False)

    def __post_init__(self) -> None:
        self._origin = self.now() - self.elapsed_before

    @classmethod
    def from_environment(cls, budget: float) -> SessionClock:
        """The clock of the session this process belongs to."""
        return cls(budget=budget, elapsed_before=max(0.0, time.time() - session_start()[0]))

    def elapsed(self) -> float:
        """Seconds since the session began."""
        return self.now() - self._origin

    def left(self) -> float:
        """Seconds until the budget is spent; negative after it."""
        return self.budget - self.elapsed()


def front_end() -> tuple[bool, str]:
    """Whether somebody can use a widget here, and why (not)."""
    if is_batch():
        return False, "this is a batch run"
    # IPython is never imported here: a process that has no kernel has not loaded it.
    ipython = sys.modules.get("IPython")
    if ipython is None or getattr(ipython.get_ipython(), "kernel", None) is None:
        return False, "this is no notebook kernel"
    if importlib.util.find_spec("ipywidgets") is None:
        return False, "ipywidgets is not installed"
    return True, "this is an interactive notebook"


def duration(seconds: float) -> str:
    """`1:02:03` or `2:03`, for people."""
    whole = max(0, round(seconds))
    hours, rest = divmod(whole, 3600)
    minutes, secs = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{secs:02d}" if hours else f"{minutes}:{secs:02d}"


def lock_file(folder: Path, purpose: str = "run") -> Path:
    """The file that `exclusive` locks; it stays when the folder is given back."""
    return folder / f".{purpose}.lock"


@contextlib.contextmanager
def exclusive(folder: Path, purpose: str = "run", *, option: str = "--out") -> Iterator[None]:
    """Hold `folder` (made if missing) for this process and purpose alone; the system lets go if the process dies.

    `option`: that of the command line which names another folder.

    A demo holds its folder against all runs but those of the kernels that it starts itself. Raises KelronError if
    another process holds the folder, or if it cannot be written. Where what happens within is refused (a KelronError
    over input), the lock file and the folders that this made are gone again.
    """
    file = lock_file(folder, purpose)
    made = [path for path in (file, folder, *folder.parents) if not path.exists()]
    with _locked(folder, purpose, option) as handle:
        try:
            if purpose != DEMO:
                _require_no_other_demo(folder, option)
            handle.truncate(0)
            handle.write(str(os.getpid()))
            handle.flush()
            yield
        except KelronError as error:
            if error.exit_code == KelronError.exit_code and file in made:
                _remove_empty(made)
            raise


def _locked(folder: Path, purpose: str, option: str) -> TextIO:
    """The lock file, opened and locked; closing it gives it back."""
    file = lock_file(folder, purpose)
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            handle = open(file, "a+", encoding="utf-8")  # noqa: SIM115 - held until the caller closes it
        except OSError as error:
            raise KelronError(f"cannot write to {folder} ({error.strerror}): choose another {option}") from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if file.exists() and os.path.samestat(os.fstat(handle.fileno()), file.stat()):
                return handle
            handle.close()  # who held it just removed it: this one is nobody's lock any more
        except BlockingIOError:
            owner = _owner(handle)
            handle.close()
            raise _in_use(folder, f"another {purpose}", owner, option) from None


def _remove_empty(made: list[Path]) -> None:
    """Remove a lock file and the folders around it, innermost first, as far as they hold nothing else."""
    file, *folders = made
    file.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()


def _owner(handle: TextIO) -> str:
    """The process that a lock file names."""
    handle.seek(0)
    return handle.read().strip() or "unknown"


def _in_use(folder: Path, who: str, owner: str, option: str) -> KelronError:
    return KelronError(f"{who} (process {owner}) is using {folder}: wait for it, or choose another {option}")


def _require_no_other_demo(folder: Path, option: str) -> None:
    """Raise KelronError where a demo holds `folder` that is neither this process nor the one that started it."""
    try:
        handle = open(lock_file(folder, DEMO), encoding="utf-8")  # noqa: SIM115 - closed below
    except FileNotFoundError:
        return
    except OSError as error:
        raise KelronError(
            f"cannot read {lock_file(folder, DEMO)} ({error.strerror}): choose another {option}"
        ) from None
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = _owner(handle)
            if owner not in (str(os.getpid()), os.environ.get(DEMO_VARIABLE)):
                raise _in_use(folder, "a demo", owner, option) from None


def keep_from_demos(out: Path, say: Callable[[str], None]) -> None:
    """Make a demo's folder a run's own, before anything is made or trained there that the demo did not ask for."""
    if DEMO_VARIABLE not in os.environ and (out / DEMO_MARK).exists():
        (out / DEMO_MARK).unlink()
        say(f"{out} was a demo's folder and is this run's from now on: `kelron demo` will not clear it")


def existing_parent(folder: Path) -> Path:
    """The folder itself or its nearest parent that exists."""
    absolute = folder.absolute()
    return next(parent for parent in (absolute, *absolute.parents) if parent.exists())


def child_environment() -> dict[str, str]:
    """The environment for a child process that imports this very copy of Kelron, wherever it lies."""
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if str(PACKAGE_ROOT) not in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib")):
        paths = [str(PACKAGE_ROOT), *paths]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}


def require_disk(folder: Path, needed: int, purpose: str) -> None:
    """Raise KelronError unless `folder`'s disk has `needed` bytes free."""
    existing = existing_parent(folder)
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise KelronError(
            f"no disk space for {purpose}: {needed / 1e6:.0f} MB needed, {free / 1e6:.0f} MB free at {existing}; "
            "free some, or choose another place"
        )


def no_space(error: BaseException) -> KelronError | None:
    """An error as a user is told of it where it means a full disk or a used-up quota; None for any other.

    Libraries that write files themselves raise errors of their own, which carry the system's words.
    """
    told = isinstance(error, OSError) and error.errno in FULL
    if isinstance(error, KelronError) or not (told or any(os.strerror(code) in str(error) for code in FULL)):
        return None
    name = getattr(error, "filename", None)
    return KelronError(
        f"no disk space{f' for {name}' if name else ''}: free some, or choose another --out; what was saved before is "
        "untouched"
    )


def gpu_full(error: BaseException) -> RunFailed | None:
    """An error as a user is told of it where it means that a GPU's memory is used up; None for any other."""
    if type(error).__name__ != "OutOfMemoryError":  # torch's; it is not imported for a name
        return None
    first_line = (str(error).strip() or "CUDA out of memory").splitlines()[0]
    told = ". ".join(first_line.split(". ")[:2]).rstrip(".")
    return RunFailed(
        f"{told}: `kelron preflight` says what fits beside other jobs on the GPU; fewer train.rows_per_pass (in a "
        "new run) need less; what was saved before is untouched"
    )


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that a reader sees the old file or the new one, never a part."""
    write_whole(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def read_json(path: Path, advice: str = "") -> Any:
    """JSON from a file. Raises KelronError naming the file where it is missing or broken; `advice`: what to do then."""
    do = f": {advice}" if advice else ""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise KelronError(f"{path} is missing{do}") from None
    except OSError as error:
        raise KelronError(f"cannot read {path} ({error.strerror}){do}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise KelronError(f"{path} is not readable JSON ({error}){do}") from None
