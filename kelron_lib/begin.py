"""Where a session begins: at the newest checkpoint, or at step 0; and what there has to be for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kelron_lib.aside import set_aside
from kelron_lib.config import RunConfig
from kelron_lib.convergence import plateau
from kelron_lib.dataset import require_made_for
from kelron_lib.errors import KelronError
from kelron_lib.keeper import Keeper
from kelron_lib.manifest import TRAINER_STATE
from kelron_lib.resume import Start, clear_work, resume_run
from kelron_lib.runtime import read_json
from kelron_lib.space import require_space
from kelron_lib.store import Store
from kelron_lib.stores import store_url


@dataclass(frozen=True)
class Begun:
    """Where a session begins."""

    step: int = 0
    """Optimizer steps done."""
    total_steps: int = 0
    """Steps of the run; 0 where only the rows tell: in a new run, and after a change of its length."""
    finished: str = ""
    """Why nothing is left to train; empty where something is."""
    resumed: bool = False
    """Whether `checkpoint-STEP` lies in the work folder."""
    about: dict[str, Any] = field(default_factory=dict)
    """What the list of sessions says of it: changes that were accepted, a fresh start."""


def begin(
    config: RunConfig, start: Start, keeper: Keeper, *, work: Path, out: Path, say: Callable[[str], None]
) -> Begun:
    """Bring the newest checkpoint of the keeper's store into the work folder, or make the store ready for a new run.

    Raises KelronError where there is nothing to resume though there must be, where the checkpoint is of another run,
    where there is no room for what the run will write, and where a new run's dataset was made for another config: one
    that goes on is of its dataset, whatever that says.
    """
    if start.fresh:
        require_made_for(config, keeper.data)
    begun = _anew(config, keeper, work, out, say) if start.fresh else _resumed(config, start, keeper, work, say)
    require_space(config, out, keeper.store)
    keeper.take_dataset()
    return begun


def nothing_to_resume(store: Store) -> KelronError:
    """The error of a session that must resume and cannot."""
    return KelronError(f"{store.describe()} holds no checkpoint to resume from: `kelron train` first")


def _resumed(config: RunConfig, start: Start, keeper: Keeper, work: Path, say: Callable[[str], None]) -> Begun:
    resumed = resume_run(
        config, keeper.store, keeper.data_fingerprint, work, accept=start.accept, data=keeper.data, say=say
    )
    if resumed is None:
        if start.must_resume:
            raise nothing_to_resume(keeper.store)
        require_made_for(config, keeper.data)
        return Begun()
    keeper.changes = resumed.all_changes
    folder, changed = resumed.restored.folder, [change["key"] for change in resumed.changes]
    total = 0 if "train.epochs" in changed else read_json(folder / TRAINER_STATE)["max_steps"]
    return Begun(
        step=resumed.restored.step,
        total_steps=total,
        finished=why_finished(config, folder, total) if total else "",
        resumed=True,
        about={"accepted": resumed.changes} if resumed.changes else {},
    )


def why_finished(config: RunConfig, checkpoint: Path, total_steps: int) -> str:
    """Why nothing is left to train after a checkpoint of a run of `total_steps`; empty where something is."""
    state = read_json(checkpoint / TRAINER_STATE)
    if state["global_step"] >= total_steps:
        return "the run was already finished"
    reason = plateau(config, state["log_history"], total_steps)
    return f"the run was already finished ({reason})" if reason else ""


def _anew(config: RunConfig, keeper: Keeper, work: Path, out: Path, say: Callable[[str], None]) -> Begun:
    clear_work(work)
    folder = set_aside(keeper.store, work / "aside", keeper.confirm)
    if not folder:
        say(f"FRESH START: {keeper.store.describe()} is empty; this run begins at step 0")
        return Begun()
    kept = f"{store_url(config, out).rstrip('/')}/{folder}"
    say(
        f"FRESH START: what {keeper.store.describe()} held is kept in {kept}, a store itself; this run begins at step 0"
    )
    return Begun(about={"fresh": f"what the store held before is in its folder {folder}"})
