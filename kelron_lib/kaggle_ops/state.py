"""Where a run stands, as Kaggle and the store show it: nothing of it is kept on the laptop."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any

from kelron_lib.config import RunConfig, config_hash
from kelron_lib.errors import KelronError
from kelron_lib.kaggle_ops.client import Kaggle, Output, Saved, Session
from kelron_lib.kaggle_ops.kernels import TRAINING, Kernel, Record, find_record
from kelron_lib.manifest import LATEST, Pointer
from kelron_lib.session import STATUS_FILE, Status
from kelron_lib.store import DamagedFile

SETTLE = 30.0
"""Seconds after which an output that is empty although its session was COMPLETE is asked for again."""
PRODUCT = {
    "preflight": "preflight.json",
    "data": "quality.json",
    "train": "adapter/adapter_config.json",
    "evaluate": "scoreboard.json",
}
"""The file that shows that a kernel did its work; a state COMPLETE does not."""


@dataclass(frozen=True)
class Pushed:
    """The newest push of a kernel, and what became of it."""

    kernel: str
    ref: str
    version: int
    record: Record
    session: Session
    output: Output = field(default_factory=Output)
    """Empty while the session is active."""
    status: Status | None = None
    """The status file of a training session, where it left one."""
    stored_step: int = -1
    """The newest step in the store of its output; -1 where it holds no store."""
    found: Any = None
    """What preflight reports."""

    @property
    def ready(self) -> bool:
        """Whether preflight found nothing that stands against training."""
        return isinstance(self.found, dict) and bool(self.found.get("ready"))

    @property
    def done(self) -> bool:
        """Whether it left what it was to make; for training, that the run is finished."""
        product = PRODUCT["train" if self.kernel in TRAINING else self.kernel]
        there = self.output.path_of(product) is not None
        return there and (self.kernel not in TRAINING or (self.status is not None and self.status.state == "finished"))

    @property
    def step(self) -> int:
        """The newest step that this session is known to have kept."""
        return max(self.record.step, self.stored_step, self.status.step if self.status else 0)


@dataclass(frozen=True)
class View:
    """All of a run that Kaggle shows."""

    begun: str
    """When the run began; empty where there is none."""
    pushed: dict[str, Pushed]
    """By kernel; only those of this run."""
    foreign: tuple[str, ...] = ()
    """Kernels with an active session that is not of this run."""
    stopped: bool = False

    @property
    def training(self) -> Pushed | None:
        """The newest training session."""
        found = [self.pushed[name] for name in TRAINING if name in self.pushed]
        return max(found, key=lambda pushed: pushed.record.number, default=None)

    @property
    def library(self) -> str:
        """The commit of the library that the run's newest session had; empty where there is none."""
        ordered = [self.pushed.get("evaluate"), self.training, self.pushed.get("data"), self.pushed.get("preflight")]
        return next((one.record.library for one in ordered if one is not None), "")

    def of(self, config: RunConfig) -> bool:
        """Whether this is the run of a config and its store."""
        same = (config_hash(config), config.store.url)
        return all((one.record.config, one.record.store) == same for one in self.pushed.values())

    @property
    def active(self) -> list[Pushed]:
        """Sessions that wait or run."""
        return [pushed for pushed in self.pushed.values() if pushed.session.active]


def look(
    kaggle: Kaggle,
    kernels: dict[str, Kernel],
    config: RunConfig,
    stop_slug: str,
    *,
    any_config: bool = False,
    known: dict[tuple[str, int], Pushed] | None = None,
) -> View:
    """Ask Kaggle for the newest run's kernels. `known`: sessions that an earlier look saw at their end.

    Raises KelronError where the newest run is of another config, unless `any_config` will do.
    """
    known = {} if known is None else known
    saved = {name: kaggle.saved(f"{kaggle.owner}/{kernel.slug}") for name, kernel in kernels.items()}
    there = {name: found for name, found in saved.items() if found is not None}
    records = {name: record for name, found in there.items() if (record := find_record(found.source)) is not None}
    begun = max((record.begun for record in records.values()), default="")
    own = {name: record for name, record in records.items() if record.begun == begun}
    pushed, foreign = {}, []
    for name, found in there.items():
        if name in own:
            pushed[name] = _seen(kaggle, name, found, own[name], known)
        elif (other := kaggle.session(found.ref)) is not None and other.active:
            foreign.append(found.ref)
    view = View(begun, pushed, tuple(foreign), stopped_at(kaggle, stop_slug) >= begun > "")
    if not any_config and not view.of(config):
        raise KelronError(
            f"Kaggle holds another run, begun {begun}, whose preset or overrides differ from these: give it those "
            "that it was begun with, begin anew with --fresh, or name another with --name"
        )
    return view


def _seen(kaggle: Kaggle, name: str, found: Saved, record: Record, known: dict[tuple[str, int], Pushed]) -> Pushed:
    if (found.ref, found.version) in known:
        return known[found.ref, found.version]
    session = kaggle.session(found.ref, found.version) or kaggle.session(found.ref) or Session("NEW_SCRIPT")
    pushed = _examined(kaggle, Pushed(name, found.ref, found.version, record, session))
    if pushed.done or pushed.status is not None:
        known[found.ref, found.version] = pushed
    return pushed


def _examined(kaggle: Kaggle, pushed: Pushed) -> Pushed:
    if pushed.session.active:
        return pushed
    output = kaggle.output(pushed.ref, pushed.version)
    if not output.files and pushed.session.status == "COMPLETE":  # it may only be late
        kaggle.sleep(SETTLE)
        output = kaggle.output(pushed.ref, pushed.version)
    if pushed.kernel in TRAINING:
        status = _status(_json(kaggle, output, STATUS_FILE))
        return replace(pushed, output=output, status=status, stored_step=_stored_step(kaggle, output))
    found = _json(kaggle, output, PRODUCT["preflight"]) if pushed.kernel == "preflight" else None
    return replace(pushed, output=output, found=found)


def _json(kaggle: Kaggle, output: Output, name: str) -> Any:
    path = output.path_of(name)
    try:
        return json.loads(kaggle.read(output.files[path])) if path else None
    except ValueError:
        return None


def _status(record: Any) -> Status | None:
    try:
        return Status(**record) if record else None
    except TypeError:
        return None


def _stored_step(kaggle: Kaggle, output: Output) -> int:
    path = output.path_of(f"store/{LATEST}")
    try:
        return Pointer.decode(kaggle.read(output.files[path])).step if path else -1
    except DamagedFile:
        return -1


def stopped_at(kaggle: Kaggle, stop_slug: str) -> str:
    """When a run was last stopped by hand (UTC, ISO 8601); empty where it was not, or was told to go on."""
    found = kaggle.saved(f"{kaggle.owner}/{stop_slug}")
    record = find_record(found.source) if found else None
    return record.begun if record else ""
