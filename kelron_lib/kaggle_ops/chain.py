"""The chain: session after session until the run is finished, then the evaluation and its report.

Each turn looks at Kaggle and the store, decides, and acts once. It can be killed between any two requests and started
again, on this laptop or another, or be run once an hour by a scheduler.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kelron_lib.config import RunConfig, config_hash
from kelron_lib.errors import KelronError, RunFailed
from kelron_lib.kaggle_ops import library
from kelron_lib.kaggle_ops.client import Kaggle, KaggleError
from kelron_lib.kaggle_ops.decide import DONE, PUSH, STOP, WAIT, Step, decide, ending, source_of, tally
from kelron_lib.kaggle_ops.hub import HubSide
from kelron_lib.kaggle_ops.kernels import (
    TRAINING,
    Kernel,
    Record,
    find_record,
    read_kernels,
    stage_kernel,
    stop_slug,
    timeout_of,
    unpack_kernels,
)
from kelron_lib.kaggle_ops.push import NoQuota, Refused, page_of, push
from kelron_lib.kaggle_ops.push import Pushed as Arrival
from kelron_lib.kaggle_ops.quota import Gate, Reached, gate, need
from kelron_lib.kaggle_ops.secret import token_dataset
from kelron_lib.kaggle_ops.state import Known, View, begins_now, look
from kelron_lib.kaggle_ops.watch import Watch
from kelron_lib.runtime import exclusive, read_json

RUN = "runs/kelron"
"""The run's folder in a session, relative to /kaggle/working."""
OUTAGE_WAIT = 300.0
"""Seconds until the next turn where Kaggle could not be reached: a laptop that slept comes back so."""
BACKOFF = (1.0, 1.0, 2.0, 5.0)
"""Times `Options.poll`, after so many refusals in a row."""
RESULTS = ("report.html", "scoreboard.json")


@dataclass(frozen=True)
class Options:
    """How a chain goes about it."""

    project: Path
    overrides: Sequence[str] = ()
    """Texts like those of --set, which the notebooks get."""
    name: str = "Kelron"
    preflight: bool = False
    fresh: str = ""
    """Begin anew, unless the newest run of this config was begun by the same word."""
    now: bool = False
    once: bool = False
    """One turn, without waiting: for a scheduler."""
    dirty: bool = False
    wheels: Path | None = None
    restage: bool = False
    most: int = 3
    """Sessions in a row without progress after which it stops."""
    poll: float = 60.0

    @property
    def results(self) -> Path:
        """Where the report goes."""
        return self.project / "runs" / "kaggle" / self.name.lower()


@dataclass(frozen=True)
class Held:
    """The library that Kaggle holds, and the kernels that came with it."""

    commit: str
    dirty: bool
    kernels: dict[str, Kernel]


class Chain:
    """A run on Kaggle, driven from here."""

    def __init__(self, kaggle: Kaggle, config: RunConfig, options: Options) -> None:
        self.kaggle, self.config, self.options = kaggle, config, options
        self.kernels: dict[str, Kernel] = read_kernels(options.project, options.name)
        self.begun = ""
        """When the run began that this process pushes for; empty until it is known."""
        self._before = ""
        self._held: Held | None = None
        self._refusals = 0
        self.hub = HubSide(config, kaggle.say)
        self._known = Known()

    # --- looking ---

    def look(self, *, any_config: bool = False) -> View:
        """Where the run stands; with `fresh`, until something of it is pushed, a run that is yet to begin.

        Raises KelronError where the run on Kaggle is of another config or store, unless `any_config` will do.
        """
        word = "" if self.begun else self.options.fresh
        slug = stop_slug(self.options.name)
        allowed = any_config or bool(word)
        view = look(self.kaggle, self.kernels, self.config, slug, any_config=allowed, known=self._known)
        if not word:
            return view
        if view.begun and view.fresh == word and view.of(self.config):
            self.begun = view.begun
            line = f"going on with the run that --fresh {word} began ({view.begun}); another word begins another"
            self.kaggle.say(line)
            return view
        self._before = view.begun
        return View("", {}, (*(one.ref for one in view.active), *view.foreign), newest=view.newest)

    def next(self, view: View) -> Step:
        """What is to be done."""
        options = self.options
        return decide(
            view, preflight=options.preflight, most=options.most, known_step=self.hub.known_step(view.training)
        )

    def gate(self, view: View, kernel: str) -> Gate | None:
        """Whether the quota lets a kernel start; None for those that are not held by it."""
        if kernel not in TRAINING:
            return None
        training, checked, reached = view.training, view.pushed.get("preflight"), None
        if training is not None:
            reached = Reached(max(training.step, self.hub.known_step(training) or 0), training.total, training.pace)
        wanted = need(self.config, reached, checked.found if checked else None)
        quota = self.kaggle.quota() if wanted is not None else None
        return gate(self.config, wanted, quota, now=self.options.now, today=datetime.now(UTC))

    # --- acting ---

    def run(self) -> Path | None:
        """Turn after turn until the report is here; the report's folder, None where the run is not that far and `once`
        is set. Raises RunFailed where it stops before."""
        with (
            exclusive(self.options.results, "run", option="--name"),
            contextlib.closing(Watch(self.kaggle)) as watch,
        ):
            said = ""
            while True:
                step = self._turn_or_outage()
                if step.kind == DONE:
                    return self.fetch_results(step)
                if step.kind == STOP:
                    raise RunFailed("\n".join([step.why, *(ending(step.about) if step.about else [])]))
                if step.about is not None and step.about.session.active:
                    watch.show(step.about, self.hub.known_step, glance=self.options.once)
                elif step.why != said:
                    self.kaggle.say(f"{step.kernel or 'waiting'}: {step.why}")
                    said = step.why
                if self.options.once:
                    return None
                self.kaggle.sleep(self.options.poll * BACKOFF[min(self._refusals, len(BACKOFF) - 1)])

    def _turn_or_outage(self) -> Step:
        try:
            return self.turn()
        except KaggleError as error:
            if self.options.once or not error.passing:
                raise
            self.kaggle.sleep(OUTAGE_WAIT)
            return Step(WAIT, why=str(error))

    def turn(self) -> Step:
        """Look, decide, act; what was done."""
        view = self.look()
        step = self.next(view)
        if step.kind != PUSH:
            return step
        if step.kernel in TRAINING and (lost := self.lost(view)):
            return Step(STOP, step.kernel, lost, step.about)
        held = self.gate(view, step.kernel)
        if held is not None and not held.start:
            return Step(WAIT, step.kernel, held.line, step.about)
        for line in (*(ending(step.about) if step.about else ()), *((held.line,) if held else ())):
            self.kaggle.say(line)
        try:
            self.push(view, step.kernel, budget=held.budget if held else None, patience=0.0)
        except NoQuota as refusal:
            return Step(WAIT, step.kernel, f"{refusal}: it waits for the quota", step.about)
        except Refused as refusal:
            self._refusals += 1
            if not refusal.busy and self._refusals >= self.options.most:
                raise
            return Step(WAIT, step.kernel, str(refusal), step.about)
        self._refusals = 0
        return Step(WAIT, step.kernel, f"{step.why}: {page_of(self.ref(step.kernel))}")

    def ref(self, kernel: str) -> str:
        """OWNER/SLUG of a kernel."""
        return f"{self.kaggle.owner}/{self.kernels[kernel].slug}"

    def push(self, view: View, kernel: str, *, budget: float | None = None, patience: float = 900.0) -> None:
        """Stage and push one kernel with what it needs attached. `budget`: seconds of a shortened
        session; `patience`: seconds to wait where no session can be had."""
        held = self.ensure_library(view)
        self.begun = view.begun or self.begun or begins_now(self._before)
        record = self.record(view, kernel, held)
        overrides = [*self.options.overrides]
        if budget is not None:
            overrides.append(f"session.budget_seconds={budget:.0f}")
        parameters: dict[str, Any] = {"PRESET": self.config.preset, "RUN": RUN, "OVERRIDES": overrides}
        if kernel == "train" and record.fresh and self.hub.begins_anew(view.training):
            parameters["FRESH"] = True
        with tempfile.TemporaryDirectory(prefix="kelron-push-") as scratch:
            stage_kernel(
                held.kernels[kernel],
                Path(scratch),
                owner=self.kaggle.owner,
                config=self.config,
                parameters=parameters,
                record=record,
                datasets=self.datasets(),
                outputs=self.outputs(view, kernel),
            )
            timeout = timeout_of(kernel, self.config)
            arrived = push(self.kaggle, Path(scratch), self.ref(kernel), record, timeout, patience=patience)
        self.kaggle.say(f"pushed {arrived.ref}, version {arrived.version}")
        self._require_alone(arrived, view.newest.get(kernel, 0), record)

    def _require_alone(self, own: Arrival, seen: int, record: Record) -> None:
        """Raise KelronError where somebody else pushed the kernel between the look, which saw version `seen`, and this
        push: of two laptops the later one gives way, since Kaggle's API can neither lock nor cancel."""
        for version in range(seen + 1, own.version):
            saved = self.kaggle.saved(own.ref, version)
            other = find_record(saved.source) if saved is not None else None
            if other is not None and other.push != record.push:
                raise KelronError(
                    f"another run pushed {own.ref} version {version} a moment before this one's version "
                    f"{own.version}: this command ends, and the other goes on alone; Cancel Run of version "
                    f"{own.version} at {page_of(own.ref)} saves its hours"
                )

    def record(self, view: View, kernel: str, held: Held) -> Record:
        """What the push writes down for later turns."""
        fresh = self.options.fresh or view.fresh
        about: dict[str, Any] = {
            "begun": self.begun,
            "config": config_hash(self.config),
            "store": self.config.store.url,
            "library": held.commit,
            "dirty": held.dirty,
            "fresh": fresh,
        }
        training, found = view.training, view.pushed.get(kernel)
        if kernel not in TRAINING:
            return Record(number=found.record.number + 1 if found else 1, **about)
        about["before"] = self.hub.before(training) if fresh else ""
        if training is None:
            return Record(**about)
        known = self.hub.known_step(training)
        return Record(
            number=training.record.number + 1,
            step=max(training.step, known or 0),
            **asdict(tally(training, known)),
            total=training.total,
            pace=training.pace,
            source=source_of(training),
            **about,
        )

    def datasets(self) -> list[str]:
        """What every kernel attaches: the library, and the token where the store needs one."""
        attached = [f"{self.kaggle.owner}/{library.dataset_slug(self.options.project)}"]
        if self.hub.there:
            if token := token_dataset(self.kaggle):
                return [*attached, token]
            self.kaggle.say(
                "no dataset holds a token for the store: this session has to find it in Kaggle's secrets, which pushed "
                "kernels often cannot read; `scripts/push_kernels.sh secret` makes one"
            )
        return attached

    def outputs(self, view: View, kernel: str) -> list[str]:
        """The outputs that a kernel attaches: the dataset's, the newest checkpoint's, or the finished run's."""
        training, found = view.training, []
        if kernel == "train" and "data" in view.pushed:
            found.append(("data", view.pushed["data"].version))
        if kernel in ("resume", "resume-b") and training is not None and (source := source_of(training)):
            name, _, version = source.partition("/")
            found.append((name, int(version)))
        if kernel == "evaluate" and training is not None:
            found.append((training.kernel, training.version))
        return [self._attached(view, name, version) for name, version in found]

    def lacks(self, view: View, kernel: str) -> str:
        """What a kernel needs and would not find, in words; empty where it has all."""
        training, data = view.training, view.pushed.get("data")
        if kernel == "train" and (data is None or not data.done):
            return "there is no dataset yet: push data, and wait for its end"
        stored = bool(self.config.store.url) or (training is not None and bool(source_of(training)))
        if kernel in ("resume", "resume-b") and not stored:
            return "no session has left a checkpoint yet: push train, and wait for its end"
        if kernel == "evaluate" and (training is None or not training.done):
            return "no training session has finished the run yet"
        return ""

    def lost(self, view: View) -> str:
        """Where the run's newest checkpoint was and is no more, in words; empty where it is there or there is none."""
        source = source_of(view.training) if view.training is not None and not self.hub.there else ""
        name, _, version = source.partition("/")
        if not source or int(version) <= view.newest.get(name, 0):
            return ""
        return (
            f"the newest checkpoint was in the output of {self.ref(name)}, version {version}, which Kaggle shows no "
            "more: begin anew with --fresh"
        )

    def _attached(self, view: View, kernel: str, version: int) -> str:
        """The newest version of an output is attached by its kernel's name alone, an older one by its number too."""
        last = view.pushed.get(kernel)
        newest = last is not None and last.newest and last.version == version
        return self.ref(kernel) if newest else f"{self.ref(kernel)}/{version}"

    def ensure_library(self, view: View) -> Held:
        """What Kaggle holds to push from: a run keeps the library and the notebooks that it began with, unless told to
        restage. Raises KelronError where they are gone and this clone has others."""
        if self._held is None:
            project, ref = self.options.project, f"{self.kaggle.owner}/{library.dataset_slug(self.options.project)}"
            there = library.on_kaggle(self.kaggle, ref)
            if library.is_to_stage(project, there, view.library, anew=not view.begun or self.options.restage):
                self.stage()
                there = library.on_kaggle(self.kaggle, ref)
            elif there is not None and there["content"] != library.content_of(project):
                line = f"the run goes on with the library and the notebooks it has ({library.short(there['commit'])})"
                self.kaggle.say(f"{line}; --restage renews them")
            packed = library.kernels_on_kaggle(self.kaggle, ref)
            if there is None or packed is None:
                raise KelronError(f"the dataset {ref} is not whole (no {library.KERNELS_FILE}): --restage renews it")
            kernels = unpack_kernels(packed, self.options.name)
            if any(kernel.slug != self.kernels[name].slug for name, kernel in kernels.items()):
                raise KelronError("the run's kernels have other titles than this clone's: check out the run's commit")
            self._held = Held(str(there["commit"]), bool(there.get("dirty")), kernels)
        return self._held

    def require_stageable(self, view: View) -> None:
        """Raise KelronError where a push would be refused for this clone's changes, as far as that needs no request."""
        if not view.begun or self.options.restage:
            library.require_clean(self.options.project, dirty=self.options.dirty)

    def stage(self) -> str:
        """Make the library and have Kaggle hold it; its commit."""
        with tempfile.TemporaryDirectory(prefix="kelron-library-") as scratch:
            made = library.stage_library(
                self.options.project,
                Path(scratch) / "library",
                owner=self.kaggle.owner,
                dirty=self.options.dirty,
                wheels=self.options.wheels,
                say=self.kaggle.say,
            )
            sent = library.upload_library(self.kaggle, made)
        words = "uploaded and ready" if sent else "is on Kaggle already"
        self.kaggle.say(f"library: commit {library.short(made.commit)} {words}")
        if sent:  # a dataset is mounted some time after it is called ready
            self.kaggle.say(f"waiting {self.options.poll:.0f} s more, until it can be mounted, too")
            self.kaggle.sleep(self.options.poll)
        return made.commit

    def fetch_results(self, step: Step) -> Path:
        """Download the report in place of any that lies there; its folder."""
        assert step.about is not None
        output = self.kaggle.output(step.about.ref, step.about.version)  # addresses that were just signed
        for name in RESULTS:
            if (path := output.path_of(name)) is None:
                raise RunFailed(f"the evaluation left no {name}: `output evaluate` downloads what it left")
            self.kaggle.fetch(output.files[path], self.options.results / name)
        return self.options.results


def scoreboard(folder: Path) -> str:
    """The scoreboard in a results folder, as text."""
    from kelron_lib.evaluate import scoreboard_table

    return scoreboard_table(read_json(folder / "scoreboard.json"))
