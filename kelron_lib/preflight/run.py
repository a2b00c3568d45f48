"""The preflight itself: check, plan for what is there, probe, and say what comes of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kelron_lib.config import MADE_FOR, RunConfig
from kelron_lib.errors import KelronError
from kelron_lib.placement import Epoch, Plan, Workload, parse_gpus, plan, read_shape, workload
from kelron_lib.preflight import checks, machine, needs
from kelron_lib.preflight.bases import Base, find_base, known_fields, needs_hub
from kelron_lib.preflight.checks import FAILED, OK, WARNING, Check
from kelron_lib.preflight.machine import Devices
from kelron_lib.preflight.probe import (
    STEPS,
    TOLERANCE,
    Probe,
    compare,
    epoch_of,
    make_requests,
    project,
    quick_sizes,
    run_workers,
)
from kelron_lib.processes import processes_for
from kelron_lib.runtime import write_json

PROJECTED_GPUS = "2x14.74"
"""What is planned for where there is no GPU: Kaggle's two T4s."""
SAMPLE_ROWS = 600
"""Rows looked at for their lengths."""
STOPPERS = ("python", "packages", "torchao", "gpus", "host memory", "base", "plan")
"""Without these a probe could only fail."""
Say = Callable[[str], None]


@dataclass(frozen=True)
class Report:
    """What a preflight found."""

    config: RunConfig
    devices: Devices
    checks: tuple[Check, ...]
    plan: Plan | None
    """None where the base's config was not found or is not known."""
    projected: bool
    """Whether the plan is for GPUs that are not here."""
    probe: Probe | None
    skipped: str
    """Why there was no probe; empty where there was one."""

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.state == FAILED)


def training_rows(config: RunConfig, data: Path) -> tuple[int, list[dict[str, Any]]]:
    """How many rows an epoch has, and some of them: from the dataset in `data`, or as the config would make it.

    Raises KelronError for a dataset, persona or seeds that cannot be used.
    """
    from kelron_lib.data import expand, read_rows, rows_file, split_sizes
    from kelron_lib.persona import load_persona, load_seeds

    if (train := rows_file(data, "train")).is_file():
        rows = read_rows(train)
        return len(rows), rows[:SAMPLE_ROWS]
    persona = load_persona(config.data.persona)
    few = replace(config.data, rows=min(config.data.rows, SAMPLE_ROWS))
    made = expand(few, persona, load_seeds(persona, config.data.languages, config.data.seeds))
    return split_sizes(config.data)["train"], made.rows["train"]


def planned_work(config: RunConfig, fields: Mapping[str, Any]) -> Workload:
    """The config's workload. Raises KelronError where the base's shape does not allow it."""
    if read_shape(fields).tied and (config.model.embedding, config.model.head) != ("device", "keep"):
        raise KelronError(
            "this base's head shares the embedding's table: use --set model.embedding=device --set model.head=keep"
        )
    return workload(config)


def _software() -> list[Check]:
    try:
        requires, packages = machine.supported()
    except KelronError as error:
        return [Check("packages", WARNING, str(error), "pip install the wheel of Kelron"), checks.check_torchao()]
    return [checks.check_python(requires), checks.check_packages(packages), checks.check_torchao()]


class _Preflight:
    """One preflight: collects checks, then plan and probe."""

    def __init__(self, config: RunConfig, folder: Path, quick: bool, random_weights: bool, say: Say) -> None:
        self.config, self.folder, self.quick, self.say = config, folder, quick, say
        self.random = random_weights or quick
        self.wanted = MADE_FOR.get(config.preset, 0)
        self.checks: list[Check] = []
        self.devices = Devices()
        self.samples = config.data.rows
        self.base: Base | None = None
        self.fields: Mapping[str, Any] | None = None
        self.processes = 1
        self.plan: Plan | None = None
        self.probe: Probe | None = None

    def note(self, check: Check | None) -> None:
        if check is not None:
            self.checks.append(check)

    def run(self) -> Report:
        """Everything in order."""
        self.checks += _software()
        rows: list[dict[str, Any]] = []
        if not self.stopped():
            self.samples, rows = training_rows(self.config, self.folder / "data")
        self.say("looking at the machine")
        self.devices = machine.devices()
        self.note(checks.check_gpus(self.devices, self.config, self.wanted))
        self.note(checks.check_other_jobs(self.devices))
        self.find_base()
        if self.fields is not None:
            self.make_plan(Epoch(samples=self.samples))
        self.note(checks.check_store(self.config, self.folder))
        self.note(checks.check_session(self.config))
        skipped = self.why_no_probe()
        if not skipped:
            try:
                self.measure(rows)
            except KelronError as error:
                skipped = str(error)
                self.note(Check("probe", FAILED, skipped, "see the plan; fewer tokens a pass need less memory"))
        projected = not self.devices.gpus
        return Report(self.config, self.devices, tuple(self.checks), self.plan, projected, self.probe, skipped)

    def find_base(self) -> None:
        """The network, where something needs it, and the base; its config may be known where its weights are not."""
        needed = ["the base"] if needs_hub(self.config, self.random) else []
        needed += ["the store"] if checks.hub_store(self.config) else []
        network = checks.check_network(needed)
        self.note(network)
        try:
            self.base = find_base(self.config, self.random, network.state == OK)
            read_shape(self.base.fields)
        except KelronError as error:
            self.note(Check("base", FAILED, str(error)))
            self.fields = known_fields(self.config) if self.base is None else None
            return
        self.fields = self.base.fields
        self.note(Check("base", OK, self.base.where))

    def make_plan(self, epoch: Epoch) -> None:
        """The plan for the GPUs that are here (or for the preset's, as a projection), host memory and disk."""
        assert self.fields is not None
        here = len(self.devices.gpus)
        try:
            work = planned_work(self.config, self.fields)
            self.processes = processes_for(self.config, here)
        except KelronError as error:
            self.note(Check("plan", FAILED, str(error)))
            return
        self.plan = self.plan_for(work, epoch)
        full = lean = None
        if 0 < here < self.wanted:
            full = plan(self.plan.shape, work, [self.devices.gpus[0].total] * self.wanted, epoch=epoch)
        if self.plan.chosen is None:
            lean = self.plan_for(replace(work, step_passes=len(self.plan.gpus)), epoch)
        # A machine that is only planned for is not asked for its memory.
        if "gpus" not in self.stopped():
            self.note(checks.check_host_memory(self.plan.shape, work, self.processes, here > 0))
        download = self.base is not None and self.base.download
        self.note(checks.check_disk(needs.disk_needs(self.config, self.plan.shape, work, self.folder, download)))
        self.note(checks.check_plan(self.plan, here == 0, full, lean, idle=max(0, here - self.processes)))

    def plan_for(self, work: Workload, epoch: Epoch) -> Plan:
        """The plan on the GPUs that train, other jobs left alone."""
        assert self.fields is not None
        here = [gpu.total for gpu in self.devices.gpus][: self.processes]
        if not here:
            return plan(self.fields, work, parse_gpus(PROJECTED_GPUS), epoch=epoch)
        used = checks.others(self.devices)[: self.processes]
        return plan(self.fields, work, here, used=used, epoch=epoch, wanted=self.wanted or None)

    def stopped(self) -> list[str]:
        """The failed checks without which nothing can be measured."""
        return [check.name for check in self.checks if check.state == FAILED and check.name in STOPPERS]

    def why_no_probe(self) -> str:
        """Why a probe would be no use; empty where it is."""
        if self.stopped():
            return f"not run, because of {', '.join(self.stopped())}"
        return ""

    def measure(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Load, prepare and run the steps; then the plan again with the lengths that were seen."""
        assert self.base is not None
        assert self.plan is not None
        on_gpu = bool(self.devices.gpus)
        gpus: list[int | None] = [None] * self.processes
        if on_gpu:
            assert self.plan.best is not None
            gpus = [gpu.gpu for gpu in self.plan.best.gpus]
        seen = rows if self.base.tokenizer or not self.random else []
        where = f"GPU {', '.join(map(str, gpus))}" if on_gpu else "the CPU"
        self.say(f"loading the model and running {STEPS} steps of {self.plan.work.tokens:,} tokens a pass on {where}")
        sizes = quick_sizes(self.plan.shape.layers) if self.quick else []
        requests = make_requests(
            self.config, self.base.fields, self.plan.work, gpus, layers=sizes, random_weights=self.random, rows=seen
        )
        results = run_workers(requests)
        epoch = epoch_of(self.samples, results[0])
        self.plan = self.plan_for(self.plan.work, epoch)
        projection = project(self.config, self.plan, epoch, results, bool(seen))
        self.probe = Probe(
            devices=tuple(result["device"] for result in results),
            quick=self.quick,
            random_weights=self.random,
            layers=results[0]["runs"][0]["layers"],
            comparisons=compare(self.config, self.plan, epoch, results, projection),
            projection=projection,
            raw=tuple(results),
        )
        self.note(self.judge(self.probe))

    def judge(self, probe: Probe) -> Check:
        """The probe as a check: whether it stayed within the plan, and how many sessions the run takes."""
        projection = probe.projection
        sessions = f"{projection.sessions} session{'s' if projection.sessions > 1 else ''}"
        found = (
            f"{STEPS} steps ran on {', '.join(probe.devices)}; an epoch takes {projection.hours:.2f} h, "
            f"the run {projection.total_hours:.2f} h in {sessions} (projection)"
        )
        if probe.worst_excess > TOLERANCE:
            fix = "count on the measured figure: leave as much more room, or take fewer tokens a pass"
            return Check("probe", WARNING, f"{found}; memory is {probe.worst_excess:.0%} over the plan", fix)
        return Check("probe", OK, found)


def preflight(
    config: RunConfig,
    out: Path | None = None,
    *,
    quick: bool = False,
    random_weights: bool = False,
    say: Say = print,
) -> Report:
    """Check this machine for a run of `config`, plan it, and measure three real steps.

    `out` is the run's folder: what it holds of the dataset is looked at, and `preflight.json` goes there; without it
    nothing is written. `random_weights` fills the base's exact shape with random weights, so that its own are not
    needed; `quick` does so with few of its layers. Raises KelronError for input that cannot be used; what the machine
    lacks is a failed check in the report.
    """
    from kelron_lib.preflight.report import report_dict

    if out is not None:
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise KelronError(f"cannot write to {out} ({error.strerror}): choose another --out") from None
    report = _Preflight(config, out or Path("runs/kelron"), quick, random_weights, say).run()
    if out is not None:
        write_json(out / "preflight.json", report_dict(report))
    return report
