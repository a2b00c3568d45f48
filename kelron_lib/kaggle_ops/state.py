"""Where a run stands, as Kaggle and the store show it: nothing of it is kept on the laptop."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

from kelron_lib.config import RunConfig, config_hash
from kelron_lib.errors import KelronError
from kelron_lib.hub_store import SCHEME as HUB_SCHEME
from kelron_lib.kaggle_ops.client import Kaggle, Output, Saved, Session
from kelron_lib.kaggle_ops.kernels import TRAINING, Kernel, Record, find_record
from kelron_lib.kaggle_ops.logs import Told, read_log
from kelron_lib.manifest import LATEST, Pointer
from kelron_lib.session import STATUS_FILE, Status
from kelron_lib.store import DamagedFile

SETTLE = 30.0
"""Seconds after which an output that is empty although its session was COMPLETE is asked for again."""
LOOK_BACK = 8
"""Versions of a kernel that are looked at, at most, for the run's last session."""
PRODUCT = {
    "preflight": "preflight.json",
    "data": "quality.json",
    "train": "adapter/adapter_config.json",
    "evaluate": "scoreboard.json",
}
"""The file that shows that a kernel did its work; a state COMPLETE does not."""


@dataclass(frozen=True)
class Pushed:
    """The last session of a kernel in a run, and what became of it."""

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
    newest: bool = True
    """Whether no later version of the kernel is saved, as somebody does who opens it in Kaggle's page and saves it."""

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

    @cached_property
    def told(self) -> Told:
        """What its log says, which may be there although its output is lost."""
        return read_log(self.output.last_lines(10**9))

    @property
    def reached(self) -> int:
        """The newest step that it is known to have kept itself; -1 where nothing tells."""
        kept = self.told.kept if self.record.store.startswith(HUB_SCHEME) else 0  # elsewhere that went with its output
        return max(self.stored_step, self.status.step if self.status else -1, kept or -1)

    @property
    def step(self) -> int:
        """The newest step that is known to have been kept when it ended."""
        return max(self.record.step, self.reached)

    @property
    def silent(self) -> bool:
        """Whether it left no word of what it kept in a store on the Hub: no status, and no log, or one that ends amid
        new steps."""
        if self.status is not None or not self.record.store.startswith(HUB_SCHEME):
            return False
        return not self.told.last or self.told.step > self.step

    @property
    def total(self) -> int:
        """Steps of the whole run; 0 where no session has told."""
        return (self.status.total_steps if self.status else 0) or self.told.total or self.record.total

    @property
    def pace(self) -> float:
        """Seconds a step, of the newest session that told; 0 where none has."""
        status = self.status
        if status is None or status.step <= status.first_step:
            return self.record.pace
        return status.seconds / (status.step - status.first_step)


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
    newest: dict[str, int] = field(default_factory=dict)
    """The newest version of each kernel that Kaggle holds, of whatever run."""

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

    @property
    def fresh(self) -> str:
        """The word by which the run was begun anew; empty where it was not."""
        return next((one.record.fresh for one in self.pushed.values()), "")

    def of(self, config: RunConfig) -> bool:
        """Whether this is the run of a config and its store."""
        same = (config_hash(config), config.store.url)
        return all((one.record.config, one.record.store) == same for one in self.pushed.values())

    @property
    def active(self) -> list[Pushed]:
        """Sessions that wait or run."""
        return [pushed for pushed in self.pushed.values() if pushed.session.active]


@dataclass
class Known:
    """What does not change any more, by kernel (OWNER/SLUG) and version."""

    sessions: dict[tuple[str, int], Pushed] = field(default_factory=dict)
    """Those that ended."""
    records: dict[tuple[str, int], Record | None] = field(default_factory=dict)
    """Of versions that are not the newest."""


def look(
    kaggle: Kaggle,
    kernels: dict[str, Kernel],
    config: RunConfig,
    stop_slug: str,
    *,
    any_config: bool = False,
    known: Known | None = None,
) -> View:
    """Ask Kaggle for the newest run's kernels. `known`: what earlier looks saw that does not change.

    Raises KelronError where the newest run is of another config, unless `any_config` will do.
    """
    known = known or Known()
    saved = {name: kaggle.saved(f"{kaggle.owner}/{kernel.slug}") for name, kernel in kernels.items()}
    there = {name: versions_of(kaggle, found, known) for name, found in saved.items() if found is not None}
    begun = max((version.run for versions in there.values() for version in versions), default="")
    pushed, foreign = {}, []
    for name, versions in there.items():
        own, others = last_session(versions, begun)
        seen = [_seen(kaggle, name, version, known) for version in own]
        if seen:
            pushed[name] = chosen = max(seen, key=lambda one: (one.session.active, one.done, one.reached, one.version))
            foreign += [f"{one.ref} version {one.version}" for one in seen if one.session.active and one is not chosen]
        for other in others:
            session = kaggle.session(other.ref, None if other.newest else other.number)
            if session is not None and session.active:
                foreign.append(f"{other.ref} version {other.number}")
    newest = {name: versions[0].number for name, versions in there.items()}
    view = View(begun, pushed, tuple(foreign), stopped_at(kaggle, stop_slug) >= begun > "", newest)
    if not any_config and not view.of(config):
        raise KelronError(
            f"Kaggle holds another run, begun {begun}, whose preset or overrides differ from these: give it those "
            "that it was begun with, begin anew with --fresh, or name another with --name"
        )
    return view


def begins_now(before: str) -> str:
    """When a run begins (UTC, ISO 8601), by this machine's clock, which may be wrong: after `before`, when the newest
    run on Kaggle began, which it would not be told from, or be hidden by."""
    now = datetime.now(UTC).replace(microsecond=0)
    with suppress(ValueError, TypeError):  # it is not what this writes
        now = max(now, datetime.fromisoformat(before) + timedelta(seconds=1))
    return now.isoformat(timespec="seconds")


@dataclass(frozen=True)
class Version:
    """A saved version of a kernel."""

    ref: str
    number: int
    record: Record | None
    """Of the push that it came from; None where it is no push of ours."""
    newest: bool

    @property
    def run(self) -> str:
        """When the run began that it is of; empty where it is of none."""
        return self.record.begun if self.record is not None else ""

    @property
    def order(self) -> tuple[str, int]:
        """What a later push of the kernel has a higher one of."""
        return (self.run, self.record.number if self.record is not None else 0)


def versions_of(kaggle: Kaggle, found: Saved, known: Known) -> list[Version]:
    """The newest versions of a kernel, newest first, as far back as they may tell of the run's last session.

    A push has a higher number than all before it. What has not was saved by hand in Kaggle's page, or came from a push
    that was sent twice: then the last session may be an earlier version.
    """
    versions = [Version(found.ref, found.version, find_record(found.source), True)]
    highest = versions[0].order
    while versions[-1].number > 1 and len(versions) < LOOK_BACK:
        number = versions[-1].number - 1
        if (found.ref, number) not in known.records:
            older = kaggle.saved(found.ref, number)
            known.records[found.ref, number] = find_record(older.source) if older is not None else None
        version = Version(found.ref, number, known.records[found.ref, number], False)
        versions.append(version)
        if version.record is not None and version.order < highest:
            break
        highest = max(highest, version.order)
    return versions


def last_session(versions: list[Version], begun: str) -> tuple[list[Version], list[Version]]:
    """The versions that hold the last session of a run: one, unless it was saved again; and those that do not."""
    highest = max((version.order for version in versions), default=("", 0))
    if highest[0] != begun or not begun:
        return [], versions[:1]
    own = [version for version in versions if version.order == highest]
    return own, [version for version in versions if version not in own and version.number > own[-1].number]


def _seen(kaggle: Kaggle, name: str, version: Version, known: Known) -> Pushed:
    assert version.record is not None
    place = (version.ref, version.number)
    if place not in known.sessions:
        session = kaggle.session(*place) or (kaggle.session(version.ref) if version.newest else None)
        pushed = Pushed(name, *place, version.record, session or Session("NEW_SCRIPT"), newest=version.newest)
        pushed = _examined(kaggle, pushed)
        if not pushed.done and pushed.status is None:
            return pushed
        known.sessions[place] = pushed
    return replace(known.sessions[place], newest=version.newest)


def _examined(kaggle: Kaggle, pushed: Pushed) -> Pushed:
    if pushed.session.active:
        return pushed
    output = kaggle.output(pushed.ref, pushed.version, newest=pushed.newest)
    if not output.files and pushed.session.status == "COMPLETE":  # it may only be late
        kaggle.sleep(SETTLE)
        output = kaggle.output(pushed.ref, pushed.version, newest=pushed.newest)
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
