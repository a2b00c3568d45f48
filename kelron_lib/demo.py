"""`kelron demo`: the main job, end to end, by running the project's own notebooks in fresh kernels.

What runs here is what runs on Kaggle; only the preset and the session's length differ. The first session's budget
is set from a measurement of this machine, so that it ends about half-way whatever the machine's speed, and set anew
where that speed changed meanwhile; between the
sessions the working folder and the dataset are deleted, as Kaggle does, and the second starts from the store alone.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from kelron_lib.config import RunConfig, config_hash, resolve
from kelron_lib.data import fingerprint
from kelron_lib.dataset import ABOUT, FOLDER, ROWS
from kelron_lib.errors import KelronError
from kelron_lib.events import EVENTS_FILE
from kelron_lib.export import made_from
from kelron_lib.job import BEGUN_FILE, JOB_FILE
from kelron_lib.lease import LEASE, STOP
from kelron_lib.manifest import LATEST
from kelron_lib.runtime import (
    BATCH_VARIABLE,
    DEMO,
    DEMO_MARK,
    DEMO_VARIABLE,
    duration,
    exclusive,
    read_json,
    write_json,
)
from kelron_lib.session import LOSSES_FILE, SESSIONS_FILE, STATUS_FILE, Status, read_status
from kelron_lib.store import PROBE, TEMPORARY, DamagedFile, FolderStore
from kelron_lib.verify import read_manifest, step_folders

CUT_AT = 0.45
"""Share of the training time after which the first session's budget ends."""

TRIES = 3
"""First sessions at most, where one is over or has not begun to train when it should be cut."""

NOTEBOOKS = ("01_data_prep", "02_train", "03_resume", "04_evaluate")
DATASET = (*ROWS, *ABOUT)
WRITTEN = (
    ".*.lock",
    DEMO_MARK,
    "notebooks",
    "data",
    ".data.*",
    "work",
    "store",
    "adapter",
    STATUS_FILE,
    SESSIONS_FILE,
    LOSSES_FILE,
    EVENTS_FILE,
    JOB_FILE,
    BEGUN_FILE,
    "config.json",
    "evaluate_config.json",
    "scoreboard.json",
    "answers.jsonl",
    "report.html",
)
"""What a demo writes into its folder; with `.part` after the name where it was killed."""
IN_STORE = ("step-*", FOLDER, LATEST, SESSIONS_FILE, LEASE, STOP, f"{TEMPORARY}*", PROBE)
"""What its sessions write into their store."""


def run_notebook(notebook: Path, out: Path, parameters: dict[str, Any]) -> float:
    """Execute a notebook in a fresh kernel, its output streamed to stdout; returns the seconds it took.

    The executed copy goes to `out/notebooks`. Raises KelronError with the failing cell's error.
    """
    import papermill
    from papermill.exceptions import PapermillExecutionError

    copies = out / "notebooks"
    copies.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    try:
        with _nobody_there():
            papermill.execute_notebook(
                str(notebook),
                str(copies / notebook.name),
                parameters=parameters,
                kernel_name="python3",
                progress_bar=False,
                stdout_file=sys.stdout,
                config=_kernel_config(),
            )
    except PapermillExecutionError as error:
        raise KelronError(f"{notebook.name}, cell {error.exec_count}: {error.ename}: {error.evalue}") from None
    return time.monotonic() - began


def _kernel_config() -> Any:
    """Encrypt what goes to and from a kernel that knows how (jupyter_client's default is not to, of which such a kernel
    warns in every notebook); older ones neither know how nor warn."""
    import zmq
    from traitlets.config import Config

    return Config({"KernelManager": {"transport_encryption": "auto"}} if zmq.has("curve") else {})


@contextlib.contextmanager
def _nobody_there() -> Iterator[None]:
    """Kernels that start in this block know that nobody is there to click, and that this process's folder is theirs;
    this process's environment stays."""
    told = {BATCH_VARIABLE: "1", DEMO_VARIABLE: str(os.getpid())}
    before = {name: os.environ[name] for name in told if name in os.environ}
    os.environ.update(told)
    try:
        yield
    finally:
        for name in told:
            del os.environ[name]
        os.environ.update(before)


def first_budget(config: RunConfig, data: Path) -> float:
    """Seconds for a first session that ends near CUT_AT of the training, from a measurement on this machine."""
    from kelron_lib.measure import measure_steps

    measured = measure_steps(config, data)
    training = measured.total_steps * measured.seconds_per_step
    print(
        f"this machine: {measured.startup_seconds:.1f} s to start, {measured.total_steps} steps of "
        f"{measured.seconds_per_step:.2f} s, so about {duration(training)} of training"
    )
    return measured.startup_seconds + CUT_AT * training + config.session.reserve_seconds


def _require_input(config: RunConfig, notebooks: Path) -> None:
    """Raise KelronError where the demo could not go through to its end, before anything is deleted for it."""
    from kelron_lib.model import require_device

    for name in NOTEBOOKS:
        if not (notebook := notebooks / f"{name}.ipynb").is_file():
            raise KelronError(f"{notebook} is missing: run from the project's folder, or name it with --notebooks")
    require_device(config)


def _foreign(out: Path) -> list[Path]:
    """What lies in an earlier demo's folder that no demo writes: in it, its notebooks, its dataset, its store."""
    notebooks = tuple(f"{name}.ipynb" for name in NOTEBOOKS)
    written = {out: WRITTEN, out / "notebooks": notebooks, out / "data": DATASET, out / "store": IN_STORE}
    return [
        path
        for folder, names in written.items()
        if folder.is_dir()
        for path in sorted(folder.iterdir())
        if not any(fnmatch(path.name.removesuffix(".part"), name) for name in names)
    ]


def _of_other_runs(out: Path) -> list[Path]:
    """The checkpoints and the adapter in an earlier demo's folder that another config made, or other data."""
    mark = read_json(out / DEMO_MARK)
    told = mark if isinstance(mark, dict) else {}
    own = told.get("config_hash") or config_hash(resolve(told.get("preset", RunConfig().preset)))
    rows = fingerprint(out / "data") if all((out / "data" / name).is_file() for name in ROWS) else ""
    store, made = FolderStore(out / "store"), {}
    for _, prefix in step_folders(store):
        with contextlib.suppress(DamagedFile):  # it does not tell, and no run can go on from it
            manifest = read_manifest(store, prefix)
            made[store.root / prefix] = (manifest.config_hash, manifest.data_fingerprint)
    if (adapter := made_from(out / "adapter")) is not None:
        made[out / "adapter"] = (config_hash(adapter.config), adapter.data_fingerprint)
    return [path for path, (config, data) in made.items() if config != own or (rows and data != rows)]


def _clear(out: Path) -> None:
    """Remove what an earlier demo left in `out`; to be called by the one that holds it.

    Raises KelronError, naming it, if anything else is there; nothing is removed then.
    """
    left = [path for path in out.iterdir() if not path.name.endswith(".lock")]
    if left and not (out / DEMO_MARK).is_file():
        raise KelronError(f"{out} holds {left[0].name} and is not an earlier demo: choose another --out")
    if left and (foreign := [*_foreign(out), *_of_other_runs(out)]):
        raise KelronError(f"{foreign[0]} is not of an earlier demo: move it away, or choose another --out")
    for path in sorted(left, key=lambda path: path.name == DEMO_MARK):  # the mark last: cut off, it is a demo still
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def run_demo(config: RunConfig, out: Path, notebooks: Path) -> bool:
    """Run the four notebooks into `out` and print the scoreboard; returns whether every target holds."""
    out = out.absolute()
    _require_input(config, notebooks)
    with exclusive(out, DEMO):
        # A run may be going on in it that no demo started; the notebooks take this lock themselves.
        with exclusive(out):
            _clear(out)
        began = time.monotonic()
        mark = {"preset": config.preset, "config_hash": config_hash(resolve(config.preset))}
        write_json(out / DEMO_MARK, mark)
        timings = _run_notebooks(config, out, notebooks)
        scoreboard = read_json(out / "scoreboard.json")
        missed = [check["text"] for check in scoreboard["gate"]["checks"] if not check["met"]]
        seconds = time.monotonic() - began
        write_json(out / DEMO_MARK, {**mark, "seconds": seconds, "timings": timings, "missed": missed})
        _print_summary(out, seconds)
    return bool(scoreboard["gate"]["passed"])


def _run_notebooks(config: RunConfig, out: Path, notebooks: Path) -> dict[str, float]:
    """The five steps; returns the seconds that each notebook took."""
    timings: dict[str, float] = {}

    def step(title: str, notebook: str, overrides: tuple[str, ...] = ()) -> None:
        print(f"\n=== {title} ({notebook})", flush=True)
        parameters = {"PRESET": config.preset, "RUN": str(out), "OVERRIDES": list(overrides)}
        timings[notebook] = run_notebook(notebooks / f"{notebook}.ipynb", out, parameters)

    data, first, later, evaluate = NOTEBOOKS
    step("data", data)
    budget = first_budget(config, out / "data")
    for again in range(TRIES):
        step("first session", first, (f"session.budget_seconds={budget:.1f}",))
        status = read_status(out)
        if status.state == "budget" and status.step:
            break
        budget = _another_budget(status, budget, config, last=again == TRIES - 1)
        _keep_data_alone(out)
    for gone in (out / "work", out / "data"):
        shutil.rmtree(gone)
        print(f"deleted {gone}: the next session has the store alone", flush=True)
    step("second session", later)
    _require_resumed(read_status(out))
    step("scoreboard and chat", evaluate)
    return timings


def _another_budget(first: Status, budget: float, config: RunConfig, *, last: bool) -> float:
    """The budget after a first session that was not cut in the midst of training, so that a resume would show nothing.

    Raises KelronError where it did not end for its length, or was the `last`.
    """
    told = (
        f"the first session was to be cut by its budget and ended as {first.state} at step {first.step} of "
        f"{first.total_steps} ({first.reason})"
    )
    if first.state not in ("budget", "finished"):
        raise KelronError(f"{told}: see what its notebook says")
    if last:
        raise KelronError(f"{told}, {TRIES} times: this machine's speed changes too much, run the demo again later")
    reserve = config.session.reserve_seconds
    other = CUT_AT * first.seconds + reserve if first.state == "finished" else 2 * (budget - reserve) + reserve
    print(f"{told}: this machine's speed changed meanwhile; once more, with {duration(other)} instead", flush=True)
    return other


def _keep_data_alone(out: Path) -> None:
    """Remove what a first session left in a demo's folder."""
    for path in out.iterdir():
        if path.name not in (DEMO_MARK, "notebooks", "data") and not path.name.startswith("."):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _require_resumed(second: Status) -> None:
    """Raise KelronError unless the second session went on where the first was cut, to the end."""
    if second.state != "finished" or second.first_step == 0:
        raise KelronError(
            f"the second session was to finish the run and ended as {second.state} after steps {second.first_step} "
            f"to {second.step} ({second.reason}): see what its notebook says"
        )


def _print_summary(out: Path, seconds: float) -> None:
    from kelron_lib.evaluate import scoreboard_table, verdict

    scoreboard = read_json(out / "scoreboard.json")
    print(f"\n=== {duration(seconds)} in all\n{scoreboard_table(scoreboard)}")
    for session in read_json(out / "sessions.json"):
        print(
            f"session {session['session']}: steps {session['first_step']} to {session['last_step']}, "
            f"{session['reason']} after {duration(session['seconds'])}"
        )
    print(f"report: {out / 'report.html'}")
    print("\n".join(verdict(scoreboard["gate"])))
