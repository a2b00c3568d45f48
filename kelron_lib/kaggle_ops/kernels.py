"""The kernels of a run: what kaggle_metadata/ says of them, and a notebook ready to push with its parameters in it."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from kelron_lib.config import MADE_FOR, RunConfig
from kelron_lib.errors import KelronError
from kelron_lib.kaggle_bootstrap import COMMIT_VARIABLE
from kelron_lib.runtime import read_json, write_json

OWNER = "OWNER"
"""Stands in the metadata for the user's name, which is filled in when a kernel is staged."""
NAME = "Kelron"
"""The first word of every title, in place of which a run may have its own."""
METADATA = "kernel-metadata.json"
KERNELS = ("preflight", "data", "train", "resume", "evaluate")
TRAINING = ("train", "resume", "resume-b")
"""Those that train. Sessions of `resume` take turns in two kernels, so that each can attach the other's output."""
LONGEST = 12 * 3600
"""Seconds after which Kaggle ends a session with a GPU."""
SLACK = 1800
"""Seconds that a training session may take beyond its budget before Kaggle cuts it off."""
TIMEOUTS = {"preflight": 3600, "data": 3600, "evaluate": 6 * 3600}
RECORD = re.compile(r"^# kelron-push: (\{.*\})$", re.MULTILINE)


@dataclass(frozen=True)
class Record:
    """What a push writes into its notebook, from which it is known again: all that a run remembers between sessions."""

    begun: str
    """When the run began (UTC, ISO 8601): what is of another run has another."""
    config: str
    """`config_hash` of the run."""
    store: str = ""
    """The store's URL where the run names one; empty where checkpoints stay in outputs."""
    number: int = 1
    """Which session of its kind in this run."""
    step: int = 0
    """The newest step known when it was pushed."""
    fruitless: int = 0
    """Sessions in a row, before this one, that brought no step."""
    unknown: int = 0
    """Sessions since the last known step, before this one, of which nobody can tell whether they brought one."""
    total: int = 0
    """Steps of the whole run; 0 where no session has told."""
    pace: float = 0.0
    """Seconds a step, of the newest session that told; 0 where none has."""
    source: str = ""
    """The output with the newest checkpoint: KERNEL/VERSION; empty where none holds one."""
    library: str = ""
    """The commit of the library and of the notebooks, which come with it."""
    dirty: bool = False
    """Whether that is a commit with uncommitted changes in it."""
    fresh: str = ""
    """The word of `--fresh WORD` by which the run was begun anew although there was another before it, and by which the
    same command finds it again; empty where it was not."""
    before: str = ""
    """Of a run begun anew: the sha256 of the newest manifest that its store on the Hub held before, which is no part of
    it."""
    push: str = field(default_factory=lambda: secrets.token_hex(6))
    """One of a kind, by which a push whose answer was lost is found again."""

    def line(self) -> str:
        """As a comment of the notebook."""
        return f"# kelron-push: {json.dumps(asdict(self))}"


@dataclass(frozen=True)
class Kernel:
    """One kernel, as kaggle_metadata/ describes it."""

    name: str
    title: str
    metadata: Mapping[str, Any]
    code_file: str
    """The notebook's name."""
    notebook: Mapping[str, Any]

    @property
    def slug(self) -> str:
        return slug_of(self.title)


def slug_of(title: str) -> str:
    """What Kaggle makes of a title, whatever the metadata's id says."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def pack_kernels(project: Path) -> dict[str, Any]:
    """The kernels as the library dataset carries them, so that a run's sessions have the notebooks of its library: for
    each one `metadata`, `code_file` and `notebook`. Raises KelronError."""
    packed = {}
    for kernel in KERNELS:
        folder = project / "kaggle_metadata" / kernel
        metadata = read_json(folder / METADATA)
        file = (folder / metadata["code_file"]).resolve()
        packed[kernel] = {"metadata": metadata, "code_file": file.name, "notebook": read_json(file)}
    return packed


def unpack_kernels(packed: Mapping[str, Any], name: str = NAME) -> dict[str, Kernel]:
    """All kernels by name, `resume-b` among them, titled after the run `name`. Raises KelronError."""
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9]{2,19}", name):
        raise KelronError(f"--name {name!r}: use 3 to 20 letters and digits, a letter first")
    found = {}
    for kernel, held in packed.items():
        title = re.sub(rf"^{NAME}\b", name, held["metadata"]["title"])
        found[kernel] = Kernel(kernel, title, held["metadata"], held["code_file"], held["notebook"])
    found["resume-b"] = replace(found["resume"], name="resume-b", title=f"{found['resume'].title} B")
    return found


def read_kernels(project: Path, name: str = NAME) -> dict[str, Kernel]:
    """The kernels of a project's folder. Raises KelronError."""
    return unpack_kernels(pack_kernels(project), name)


def timeout_of(kernel: str, config: RunConfig) -> int:
    """Seconds after which Kaggle is to end a session of a kernel."""
    if kernel in TIMEOUTS:
        return TIMEOUTS[kernel]
    return min(LONGEST, round(config.session.budget_seconds) + SLACK)


def stage_kernel(
    kernel: Kernel,
    folder: Path,
    *,
    owner: str,
    config: RunConfig,
    parameters: Mapping[str, Any],
    record: Record,
    datasets: Sequence[str],
    outputs: Sequence[str] = (),
) -> None:
    """Write metadata and notebook into `folder`: the owner's name, the sources and the parameters filled in.

    A preset made for no GPU gets none; a model that is not the run's base is left out. `datasets`: slugs or
    OWNER/SLUG; `outputs`: OWNER/SLUG[/VERSION] of kernels whose output is attached.
    """
    gpu = bool(kernel.metadata["enable_gpu"]) and MADE_FOR.get(config.preset, 0) > 0
    metadata = {key: value for key, value in kernel.metadata.items() if gpu or key != "machine_shape"}
    metadata |= {
        "id": f"{owner}/{kernel.slug}",
        "title": kernel.title,
        "code_file": kernel.code_file,
        "enable_gpu": gpu,
        "dataset_sources": list(datasets),
        "kernel_sources": list(outputs),
        "model_sources": [source for source in kernel.metadata["model_sources"] if is_base(source, config)],
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / METADATA, metadata)
    write_json(folder / kernel.code_file, with_parameters(kernel.notebook, parameters, record))


def is_base(source: str, config: RunConfig) -> bool:
    """Whether a model on Kaggle (OWNER/MODEL/FRAMEWORK/VARIATION/VERSION) is the run's base."""
    _, model, _, variation, _ = source.split("/")
    return f"{model}-{variation}".lower() == config.model.base.rpartition("/")[2].lower()


def with_parameters(notebook: Mapping[str, Any], parameters: Mapping[str, Any], record: Record) -> dict[str, Any]:
    """The notebook with a cell after its parameters' that sets some of them, the push's record in it, and the commit of
    the library that it was pushed with, which its first cell holds the mounted one against.

    Raises KelronError for a parameter that the notebook does not have.
    """
    cells = list(notebook["cells"])
    place = next(i for i, cell in enumerate(cells) if "parameters" in cell["metadata"].get("tags", []))
    given = "".join(cells[place]["source"])
    for name in parameters:
        if not re.search(rf"^{name} = ", given, re.MULTILINE):
            raise KelronError(f"the notebook has no parameter {name}")
    lines = [record.line(), *(f"{name} = {value!r}" for name, value in parameters.items())]
    if record.library:
        lines += ["import os", f"os.environ[{COMMIT_VARIABLE!r}] = {record.library!r}"]
    cell: dict[str, Any] = {
        "cell_type": "code",
        "execution_count": None,
        "id": "pushed",
        "metadata": {"tags": ["injected-parameters"]},
        "outputs": [],
        "source": "\n".join(lines),
    }
    return {**notebook, "cells": [*cells[: place + 1], cell, *cells[place + 1 :]]}


def find_record(source: str) -> Record | None:
    """The record in a saved kernel's text; None where it holds none, as one that was pushed by hand."""
    with suppress(ValueError, KeyError, TypeError):  # a script is its text
        cells = json.loads(source)["cells"]
        source = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    try:
        match = RECORD.search(source)
        return Record(**json.loads(match[1])) if match else None
    except (ValueError, TypeError):
        return None


def stop_slug(name: str) -> str:
    """The kernel that is saved, and never runs, to stop a run."""
    return slug_of(f"{name} Stop")


def stage_stop(folder: Path, *, owner: str, name: str, when: str) -> None:
    """Write the kernel that stops the runs begun until `when` (UTC, ISO 8601; empty: none) into `folder`."""
    metadata = {
        "id": f"{owner}/{stop_slug(name)}",
        "title": f"{name} Stop",
        "code_file": "stop.py",
        "language": "python",
        "kernel_type": "script",
        "is_private": True,
        "enable_gpu": False,
        "enable_internet": False,
    }
    write_json(folder / METADATA, metadata)
    (folder / "stop.py").write_text(f"{Record(begun=when, config='').line()}\n", encoding="utf-8")
