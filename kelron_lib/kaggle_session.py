"""A session on Kaggle, before the work: the token, the scratch disk, and what earlier kernels left. Elsewhere nothing.

What an attached output holds is copied to where the run expects it, since mounts cannot be written to: the dataset, the
store (without the lease of a session that was killed), or the results that the evaluation needs.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from kelron_lib.aside import is_aside
from kelron_lib.config import RunConfig
from kelron_lib.dataset import ROWS, copy_dataset, holds_dataset
from kelron_lib.errors import KelronError
from kelron_lib.files import writing_advice
from kelron_lib.hub_store import SCHEME as HUB_SCHEME
from kelron_lib.kaggle_mounts import folders_with, inputs, mounted_model
from kelron_lib.lease import LEASE, STOP
from kelron_lib.manifest import LATEST, MANIFEST, Pointer
from kelron_lib.runtime import read_json
from kelron_lib.session import LOSSES_FILE, SESSIONS_FILE, STATUS_FILE, read_status
from kelron_lib.store import TEMPORARY, DamagedFile

TOKEN = "HF_TOKEN"
"""The variable, the Kaggle secret and the key in the token's file."""
TOKEN_FILE = "kelron-token.json"
RESULTS = (LOSSES_FILE, SESSIONS_FILE, "config.json")
"""What a finished run has beside its adapter that the report shows."""
Say = Callable[[str], None]


def attach(config: RunConfig, run: Path, *, store: bool = False, results: bool = False, say: Say = print) -> None:
    """Make a Kaggle session ready for a notebook's work in the folder `run`; elsewhere do nothing.

    `store`: bring the dataset and, where the run keeps its checkpoints in a folder, the newest store that is attached;
    `results`: bring the adapter of the finished run with its dataset. Raises KelronError where the run needs a token
    and there is none, and where the disk is full or cannot be written.
    """
    if not inputs().is_dir():
        return
    provide_token(config, say)
    if (mounted := mounted_model(config.model.base)) is not None:
        say(f"base: {mounted}, attached")
    try:
        if not results:
            _scratch(run / "work")
        if store:
            _bring_data(run / "data", say)
            if "://" not in config.store.url:
                _bring_store(Path(config.store.url) if config.store.url else run / "store", say)
        if results:
            _bring_results(run, say)
    except OSError as error:
        raise KelronError(f"cannot bring what is attached to {run}: {error}; {writing_advice(error)}") from error


def provide_token(config: RunConfig, say: Say = print) -> None:
    """Have the Hub client find a token: the environment's, Kaggle's secret, or that of an attached dataset.

    Raises KelronError where the run's store is on the Hub and there is none.
    """
    if os.environ.get(TOKEN):
        say("token: from the environment")
        return
    secret, problem = _kaggle_secret()
    if secret:
        os.environ[TOKEN] = secret
        say(f"token: Kaggle's secret {TOKEN}")
        return
    for folder in folders_with(TOKEN_FILE):
        os.environ[TOKEN] = str(read_json(folder / TOKEN_FILE)[TOKEN])
        say(f"token: from the dataset at {folder}")
        return
    if config.store.url.startswith(HUB_SCHEME):
        raise KelronError(
            f"the store {config.store.url} needs a token and none was found (no {TOKEN} in the environment; Kaggle's "
            f"secret: {problem}; no dataset with {TOKEN_FILE} is attached): run `scripts/push_kernels.sh secret` on "
            "your laptop and push again, or leave store.url out, and checkpoints stay in this kernel's output"
        )


def _kaggle_secret() -> tuple[str, str]:
    """Kaggle's secret, or why there is none: sessions that were pushed often cannot read any."""
    try:
        from kaggle_secrets import UserSecretsClient
    except ImportError:
        return "", "this machine has none"
    try:
        return str(UserSecretsClient().get_secret(TOKEN) or ""), "it is empty"
    except Exception as error:  # its own kinds of errors are not documented
        return "", type(error).__name__


def _scratch(work: Path) -> None:
    """Put the work folder on the scratch disk: what lies in the run's folder counts as output, which holds 20 GB."""
    if work.exists() or work.is_symlink():
        return
    work.parent.mkdir(parents=True, exist_ok=True)
    work.symlink_to(tempfile.mkdtemp(prefix="kelron-work-"), target_is_directory=True)


def _bring_data(data: Path, say: Say) -> None:
    found = [folder for folder in folders_with(ROWS[0]) if _is_whole(folder)]
    if holds_dataset(data) or not found:
        return
    copy_dataset(found[0], data)
    say(f"dataset: from {found[0]}")


def _is_whole(folder: Path) -> bool:
    """Whether a folder is a dataset of its own: not somebody else's table of that name, nor one in a store."""
    return all((folder / name).is_file() for name in ROWS) and not (folder / MANIFEST).exists()


def _bring_store(target: Path, say: Say) -> None:
    steps = [(_step(folder), folder) for folder in folders_with(LATEST) if not is_aside(folder.name)]
    if not steps:
        return
    step, folder = max(steps)
    if (target / LATEST).exists():  # this session's, run once more; or an earlier day's, in a page that keeps its files
        if (here := _step(target)) < step:
            raise KelronError(
                f"the store {target} is at step {here}, and an attached one at step {step} ({folder}): delete the "
                f"first to go on from step {step}, or remove that input to go on from step {here}"
            )
        return
    fresh = target.with_name(f".{target.name}.part")
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.copytree(folder, fresh, ignore=_left_behind)
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)
    say(f"store: step {step}, from {folder}")


def _step(folder: Path) -> int:
    """The step of a store's newest checkpoint; -1 where its pointer is damaged, which restoring copes with."""
    try:
        return Pointer.decode((folder / LATEST).read_bytes()).step
    except DamagedFile:
        return -1


def _left_behind(folder: str, names: list[str]) -> set[str]:
    return {name for name in names if name in (LEASE, STOP) or name.startswith(TEMPORARY) or is_aside(f"{name}/")}


def _bring_results(run: Path, say: Say) -> None:
    """The adapter, the rows and the curves of the run, among those attached, that finished last."""
    homes = [folder.parent for folder in folders_with("adapter_config.json") if folder.name == "adapter"]
    ended = [(read_status(home), home) for home in homes if (home / STATUS_FILE).is_file()]
    finished = {status.time: home for status, home in ended if status.state == "finished"}
    if (run / "adapter").is_dir() or not finished:
        return
    home = finished[max(finished)]
    run.mkdir(parents=True, exist_ok=True)
    for name in RESULTS:
        if (home / name).is_file():
            shutil.copyfile(home / name, run / name)
    if not holds_dataset(run / "data"):
        copy_dataset(home / "data", run / "data")
    shutil.copytree(home / "adapter", run / "adapter")
    say(f"adapter and dataset: from {home}")
