"""The first cell of a notebook on Kaggle: installs Kelron from the attached dataset, offline, and checks what it got.

Runs before Kelron is installed, from the dataset's folder, wherever Kaggle mounted it: the standard library only.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

MARKER = "kelron-library.json"
"""Beside this file in the dataset: what the dataset holds."""
COMMIT_VARIABLE = "KELRON_COMMIT"
"""Names the commit of the library that a pushed notebook was pushed with; by hand there is none."""
REFUSED = "from peft.import_utils import is_torchao_available; is_torchao_available()"
"""Raises ImportError where peft would refuse to work beside the torchao that is installed."""
INSTALLED = (
    "import pathlib, kelron_lib; home = pathlib.Path(kelron_lib.__file__).parent; "
    "print(home); print((home / 'commit.txt').read_text().strip() if (home / 'commit.txt').exists() else 'unknown')"
)


class BootstrapError(RuntimeError):
    """One line: what is wrong with this session, and what to do."""

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows of it: IPython asks for these lines in place of the traceback."""
        return [f"{type(self).__name__}: {self}"]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """A command's outcome, with its output as text."""
    return subprocess.run(command, capture_output=True, text=True, check=False)


def last_line(text: str) -> str:
    """The last line that says anything."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no message")


def read_marker(folder: Path) -> dict[str, Any]:
    """What the dataset says it holds. Raises BootstrapError where it is not whole."""
    try:
        marker: dict[str, Any] = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        missing = [name for name in marker["wheels"] if not (folder / name).is_file()]
    except (OSError, ValueError, KeyError) as error:
        raise BootstrapError(f"{folder / MARKER} cannot be used ({error}): stage the library again") from None
    if missing:
        raise BootstrapError(f"the dataset at {folder} lacks {', '.join(missing)}: stage the library again")
    return marker


def installed_version(name: str) -> str | None:
    """The version of an installed package, None where there is none."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def pip(*arguments: str) -> None:
    """Run pip without any index. Raises BootstrapError with its last line."""
    done = run(sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments)
    if done.returncode != 0:
        raise BootstrapError(f"pip {arguments[0]} failed: {last_line(done.stderr)}")


def install(folder: Path, marker: dict[str, Any]) -> list[str]:
    """Install the wheels that are not there in their version, and Kelron's always; returns what was installed."""
    wheels: dict[str, list[str]] = marker["wheels"]
    own = next(wheel for wheel, (name, _) in wheels.items() if name == "kelron")
    others = [wheel for wheel, (name, version) in wheels.items() if installed_version(name) != version and wheel != own]
    offline = ("install", "--no-index", "--no-deps", "--force-reinstall")
    pip(*offline, *(str(folder / wheel) for wheel in [*others, own]))
    importlib.invalidate_caches()
    return [" ".join(wheels[wheel]) for wheel in others]


def remove_torchao() -> str:
    """Uninstall torchao where peft would refuse it; returns what was done. Raises BootstrapError where peft is broken
    by something else."""
    version = installed_version("torchao")
    if version is None:
        return "no torchao"
    asked = run(sys.executable, "-c", REFUSED)
    if asked.returncode == 0:
        return f"torchao {version} kept"
    if "torchao" not in asked.stderr:
        raise BootstrapError(f"peft cannot be imported: {last_line(asked.stderr)}")
    pip("uninstall", "--yes", "torchao")
    return f"torchao {version} removed, which peft refuses"


def check_pushed(marker: dict[str, Any]) -> None:
    """Raise BootstrapError where the mounted library is not the one that this notebook was pushed with."""
    pushed = os.environ.get(COMMIT_VARIABLE, "")
    if pushed not in ("", marker["commit"]):
        raise BootstrapError(
            f"the library that is mounted is of commit {marker['commit'][:12]}, and this notebook was pushed with that "
            f"of {pushed[:12]}: Kaggle may mount a new version some minutes late; push again"
        )


def check_commit(marker: dict[str, Any]) -> str:
    """Where Python finds Kelron. Raises BootstrapError unless it is the dataset's commit."""
    told = run(sys.executable, "-c", INSTALLED)
    if told.returncode != 0:
        raise BootstrapError(f"Kelron cannot be imported: {last_line(told.stderr)}")
    home, commit = told.stdout.splitlines()
    if commit != marker["commit"]:
        raise BootstrapError(
            f"Python finds Kelron of commit {commit[:12]} at {home}, and the dataset holds {marker['commit'][:12]}: "
            "start the session anew"
        )
    loaded = sys.modules.get("kelron_lib")
    if loaded is not None and getattr(loaded, "__file__", None) != str(Path(home) / "__init__.py"):
        raise BootstrapError("this session imported another copy of Kelron before: restart it and run all cells")
    return home


def gpu_names() -> list[str]:
    """The GPUs of this machine, as its driver names them."""
    try:
        listed = run("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader")
    except OSError:
        return []
    return [line.strip() for line in listed.stdout.splitlines() if line.strip()] if listed.returncode == 0 else []


def check_gpus(wanted: int) -> str:
    """The GPUs in words. Raises BootstrapError where there are fewer than a preset is made for."""
    found = gpu_names()
    if len(found) < wanted:
        raise BootstrapError(
            f"GPUs here: {'; '.join(found) or 'none'}. The preset is made for {wanted}: choose the accelerator GPU "
            "T4 x2 in the notebook's settings"
        )
    return f"{len(found)} GPUs: {'; '.join(found)}" if found else "no GPU, and none is needed"


def bootstrap(folder: Path, preset: str, gpus: bool) -> list[str]:
    """Install what `folder` holds and check it; returns three lines. `gpus`: whether this notebook uses any.

    Raises BootstrapError.
    """
    marker = read_marker(folder)
    check_pushed(marker)
    if preset not in marker["gpus"]:
        raise BootstrapError(f"unknown preset {preset!r}: this library has {', '.join(marker['gpus'])}")
    installed = install(folder, marker)
    torchao = remove_torchao()
    check_commit(marker)
    dirty = ", with uncommitted changes" if marker["dirty"] else ""
    return [
        f"Kelron {marker['version']}, commit {marker['commit'][:12]}{dirty}, from {folder}",
        f"installed offline: {', '.join(installed) or 'nothing else was needed'}; {torchao}; "
        f"Python {platform.python_version()}, torch {installed_version('torch')}",
        check_gpus(marker["gpus"][preset] if gpus else 0),
    ]


if __name__ == "__main__":  # the notebook's cell runs this file with its PRESET and GPUS among the globals
    print(*bootstrap(Path(__file__).parent, globals()["PRESET"], globals()["GPUS"]), sep="\n", flush=True)
