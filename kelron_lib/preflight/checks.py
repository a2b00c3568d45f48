"""The checks: each looks at facts of the machine and says ok, warning or failed, what was found, and what to do."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kelron_lib.config import RunConfig
from kelron_lib.errors import KelronError
from kelron_lib.hub_base import HubStore
from kelron_lib.kaggle_store import DownloadedStore, MountedStore
from kelron_lib.placement import ModelShape, Plan, Workload
from kelron_lib.placement.memory import GIB
from kelron_lib.placement.plan import SPLIT, whole_copies
from kelron_lib.placement.speed import OVERHEAD
from kelron_lib.preflight import machine, needs
from kelron_lib.preflight.machine import Devices
from kelron_lib.runtime import SessionClock, duration, on_kaggle
from kelron_lib.stores import open_store, store_folder, store_url

OK, WARNING, FAILED = "ok", "warning", "failed"
OTHER_JOBS = 0.1
"""GiB of a GPU that may be in use before it counts as another job: a display or the driver takes a few MiB."""
BF16 = (8, 0)
"""The first compute capability with bf16 tensor cores."""
KAGGLE_SESSION = 12 * 3600.0
"""Kaggle ends a GPU session after so many seconds, whatever it is doing."""
KAGGLE_OUTPUT = Path("/kaggle/working")
"""What Kaggle keeps of a session."""


@dataclass(frozen=True)
class Check:
    """One finding."""

    name: str
    state: str
    """`ok`, `warning` or `failed`."""
    found: str
    fix: str = ""
    """What to do; empty where nothing has to be done."""


def check_python(requires: str) -> Check:
    """This Python against the range that Kelron supports."""
    version = ".".join(map(str, machine.python_version()))
    least = tuple(int(part) for part in requires.removeprefix(">=").split("."))
    if machine.python_version() >= least:
        return Check("python", OK, version)
    return Check("python", FAILED, f"{version} is not {requires}", f"use Python {requires}")


def check_packages(requirements: Sequence[str]) -> Check:
    """Every package that Kelron needs, against its range."""
    if importlib.util.find_spec("packaging") is None:
        return Check("packages", FAILED, "packaging is missing", f"pip install {' '.join(map(repr, requirements))}")
    from packaging.requirements import Requirement

    fine, wrong, wanted = [], [], []
    for text in requirements:
        needed = Requirement(text)
        if needed.marker is not None and not needed.marker.evaluate():
            continue
        version = machine.version_of(needed.name)
        if version is not None and needed.specifier.contains(version, prereleases=True):
            fine.append(f"{needed.name} {version}")
            continue
        wrong.append(f"{needed.name} is missing" if version is None else f"{needed.name} {version} is not {text}")
        wanted.append(f'"{text}"')
    if wrong:
        return Check("packages", FAILED, "; ".join(wrong), f"pip install {' '.join(wanted)}")
    return Check("packages", OK, ", ".join(fine))


def check_torchao() -> Check:
    """peft refuses to work beside an old torchao, which Kaggle's image has."""
    problem = machine.torchao_problem()
    if problem:
        return Check("torchao", FAILED, f"peft refuses to load beside it: {problem}", "pip uninstall -y torchao")
    version = machine.version_of("torchao")
    return Check("torchao", OK, f"{version}, which peft accepts" if version else "not installed, and not needed")


def _without_gpu(devices: Devices, config: RunConfig) -> Check:
    on_kaggle_choose = "on Kaggle choose the accelerator GPU T4 x2, elsewhere run on a machine with a GPU"
    if devices.problem:
        return Check(
            "gpus", FAILED, f"torch does not start: {devices.problem}", "see packages, then install torch again"
        )
    if devices.listed:
        found = f"the driver ({devices.driver}) lists {devices.listed}, torch {devices.torch} sees none"
        build = f"its CUDA {devices.cuda} needs a newer driver" if devices.cuda else "it is a build for CPUs"
        return Check("gpus", FAILED, f"{found}: {build}", "install a torch with CUDA that suits the driver")
    if config.model.dtype == "float16":
        fix = f"{on_kaggle_choose}, or try --preset tiny-cpu"
        return Check("gpus", FAILED, f"none; {config.preset} computes in float16, which needs one", fix)
    return Check("gpus", OK, f"none; {config.preset} runs on the CPU in {config.model.dtype}")


def check_gpus(devices: Devices, config: RunConfig, wanted: int) -> Check:
    """Name, memory and compute capability of every GPU, the driver, and whether there are as many as wanted."""
    if not devices.gpus:
        return _without_gpu(devices, config)
    kinds: dict[str, int] = {}
    for gpu in devices.gpus:
        major, minor = gpu.capability
        only = "" if gpu.capability >= BF16 else ", fp16 only"
        words = f"{gpu.name}, {gpu.total:.2f} GiB, compute capability {major}.{minor}{only}"
        kinds[words] = kinds.get(words, 0) + 1
    found = "; ".join(f"{count} x {words}" for words, count in kinds.items())
    found += f"; driver {devices.driver or 'unknown'}, torch {devices.torch} with CUDA {devices.cuda}"
    strange = sorted({gpu.name for gpu in devices.gpus if not gpu.supported})
    if strange:
        fix = f"this torch has no code for {', '.join(strange)}: choose another GPU (on Kaggle GPU T4 x2)"
        return Check("gpus", FAILED, found, fix)
    count = len(devices.gpus)
    if count < wanted:
        hidden = f" ({devices.listed} are listed: see CUDA_VISIBLE_DEVICES)" if devices.listed > count else ""
        found += f"; {config.preset} is made for {wanted} GPUs{hidden}"
        return Check("gpus", WARNING, found, "see plan for what changes; on Kaggle choose the accelerator GPU T4 x2")
    return Check("gpus", OK, found)


def others(devices: Devices) -> list[float]:
    """GiB of each GPU that other jobs hold; 0 below what a driver takes."""
    return [gpu.others if gpu.others > OTHER_JOBS else 0.0 for gpu in devices.gpus]


def check_other_jobs(devices: Devices) -> Check | None:
    """Memory that other processes hold; None without a GPU."""
    if not devices.gpus:
        return None
    busy = [(index, taken) for index, taken in enumerate(others(devices)) if taken]
    if not busy:
        return Check("gpu memory", OK, "all of it is free")
    found = "; ".join(
        f"GPU {index}: other processes hold {taken:.2f} of {devices.gpus[index].total:.2f} GiB" for index, taken in busy
    )
    fix = "stop them (nvidia-smi lists them; another notebook's kernel counts until it is shut down); the plan leaves"
    return Check("gpu memory", WARNING, found, f"{fix} their memory alone")


def _gib(size: float) -> str:
    return f"{size / GIB:.2f} GiB"


def check_host_memory(shape: ModelShape, work: Workload, copies: int, on_gpu: bool) -> Check:
    """Host memory against what `copies` processes take."""
    total, free = machine.host_memory()
    parts = needs.host_parts(shape, work, on_gpu)
    need = copies * sum(parts.values())
    each = f"{copies} processes take" if copies > 1 else "a run takes"
    found = f"{_gib(free)} of {_gib(total)} free; {each} about {_gib(need)}"
    if free >= need:
        return Check("host memory", OK, found)
    largest = max(parts, key=lambda name: parts[name])
    fix = f"close other programs or take a larger machine (the largest part is the {largest}, {_gib(parts[largest])})"
    return Check("host memory", FAILED, found, fix)


def check_disk(found_needs: Sequence[needs.DiskNeed]) -> Check:
    """Every disk that a run writes to against what it writes there, and whether it may."""
    closed = [str(need.place) for need in found_needs if not machine.may_write(need.place)]
    if closed:
        return Check("disk", FAILED, f"{', '.join(closed)} cannot be written", "choose another --out or store.url")
    lines, short = [], []
    for group, free in needs.by_disk(found_needs):
        need = sum(one.size for one in group)
        what = ", ".join(f"{one.purpose} {_gib(one.size)}" for one in group)
        lines.append(f"{_gib(free)} free at {group[0].place} for {what}")
        if free < need:
            short.append(f"{_gib(need - free)} at {group[0].place}")
    found = "; ".join(lines)
    if short:
        return Check("disk", FAILED, found, f"free {' and '.join(short)}, or put out or store.url on another disk")
    return Check("disk", OK, found)


def check_network(needed_for: Sequence[str]) -> Check:
    """Whether the hub answers, asked only where something needs it."""
    if not needed_for:
        return Check("network", OK, "not needed: base and store are on this machine")
    endpoint = machine.hub_endpoint()
    problem = machine.hub_unreachable(endpoint)
    what = " and ".join(needed_for)
    if not problem:
        return Check("network", OK, f"{endpoint} answers (needed for {what})")
    fix = "switch the internet on" + (" in the notebook's settings" if on_kaggle() else "")
    if problem.startswith("HF_HUB_OFFLINE"):
        fix = "unset HF_HUB_OFFLINE"
    return Check(
        "network", FAILED, f"{endpoint} cannot be reached: {problem}; {what} needs it", f"{fix}, or keep it local"
    )


def check_store(config: RunConfig, out: Path) -> Check:
    """Whether the store is of a kind that this version has, can be reached, and outlives the session."""
    url = config.store.url
    try:
        store = open_store(url, allow_foreign=config.store.allow_foreign) if url else None
        if isinstance(store, MountedStore | DownloadedStore):
            store.prepare()  # which says that nothing can be kept there
        found = store.describe() if store else f"folder {store_url(config, out)}"
        if store is None or (isinstance(store, HubStore) and not store.exists()):
            found += ", made with the run"
    except KelronError as error:
        return Check("store", FAILED, str(error))
    place = store_folder(config, out)
    if on_kaggle() and place is not None and not place.absolute().is_relative_to(KAGGLE_OUTPUT):
        fix = f"set store.url to a folder in {KAGGLE_OUTPUT}, whose content Kaggle keeps"
        return Check("store", WARNING, f"{found}: lost when the session ends", fix)
    return Check("store", OK, found)


def check_session(config: RunConfig) -> Check:
    """The wall-clock budget and what is left of it."""
    clock = SessionClock.from_environment(config.session.budget_seconds)
    reserve = config.session.reserve_seconds
    found = (
        f"{duration(clock.budget)} from the session's start, {duration(clock.elapsed())} of it used, "
        f"{duration(reserve)} kept for the last checkpoint"
    )
    if clock.left() <= reserve:
        return Check("session", FAILED, found, "start a new session, or raise session.budget_seconds")
    if on_kaggle() and clock.budget >= KAGGLE_SESSION:
        fix = f"Kaggle ends a session at {duration(KAGGLE_SESSION)}: set session.budget_seconds an hour below that"
        return Check("session", WARNING, found, fix)
    return Check("session", OK, found)


def _changes(plan: Plan, full: Plan) -> str:
    """What fewer GPUs change, against the plan for as many as are wanted."""
    here, there = plan.best, full.best
    if there is None:
        return ""
    text = f"; with {len(full.gpus)} such GPUs: {there.placement}, {there.steps:,} steps an epoch"
    if here is None:
        return text
    hours = f"{there.hours * OVERHEAD:.1f} h (projection), here {here.steps:,} steps and {here.hours * OVERHEAD:.1f} h"
    return f"{text} and {hours}"


def _way_out(plan: Plan, lean: Plan | None) -> str:
    """What to change in the config so that it fits."""
    if lean is not None and lean.best is not None:
        copies = len(lean.gpus) if lean.chosen == "ddp" else 1
        return f"set train.passes_per_step={copies} in a new run: gradients are then not held through several passes"
    most = max(plan.options, key=lambda option: option.tokens_that_fit)
    if most.tokens_that_fit:
        return f"set train.rows_per_pass={most.tokens_that_fit // plan.work.row_tokens} at most ({most.placement})"
    return "take a smaller lora.r or base, or larger GPUs"


def check_plan(plan: Plan, projected: bool, full: Plan | None = None, lean: Plan | None = None, idle: int = 0) -> Check:
    """Whether the run fits.

    `full`: the plan for as many GPUs as the preset is made for, where there are fewer; `lean`: the plan with one pass
    a step on each GPU, where there are more; `idle`: GPUs that stay without work.
    """
    gpus = ", ".join(f"{size:.2f}" for size in plan.gpus)
    on = f"projection for GPUs of {gpus} GiB: " if projected else f"on {gpus} GiB: "
    if plan.best is None:
        closest = max(plan.options, key=lambda option: option.margin)
        found = f"{on}{closest.placement}, {plan.work.tokens:,} tokens a pass: {closest.verdict}"
        found += _changes(plan, full) if full else ""
        return Check("plan", WARNING if projected else FAILED, found, _way_out(plan, lean))
    found = f"{on}{plan.best.placement}, {plan.work.tokens:,} tokens a pass; {plan.best.verdict}"
    if plan.best.placement in SPLIT:
        found += "; but it spreads one copy over the GPUs, and training keeps a whole copy on each"
        return Check("plan", WARNING if projected else FAILED, found, whole_copies(plan.options, plan.work))
    if idle:
        fix = "set train.passes_per_step to a multiple of the GPUs (in a new run), and session.processes to 0"
        return Check("plan", WARNING, f"{found}; {idle} more GPUs stay idle", fix)
    if full is None:
        return Check("plan", OK, found)
    return Check("plan", WARNING, found + _changes(plan, full), "more GPUs, or the same work in more sessions")


def hub_store(config: RunConfig) -> bool:
    """Whether the store's URL names a place on the hub."""
    return config.store.url.startswith("hf:")
