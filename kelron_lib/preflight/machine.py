"""The machine's facts, one small function each and no judgement: what the checks look at and tests replace."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import threading
import tomllib
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kelron_lib.errors import KelronError
from kelron_lib.placement.memory import DEFAULT, GIB
from kelron_lib.runtime import PACKAGE_ROOT, child_environment, existing_parent

DEVICE_SECONDS = 120
NETWORK_SECONDS = 5.0
"""A hub that has not answered by then does not count as reachable."""


@dataclass(frozen=True)
class Gpu:
    """One GPU. Sizes in GiB."""

    name: str
    total: float
    """What CUDA can use of it."""
    others: float
    """What other processes hold."""
    capability: tuple[int, int]
    """CUDA compute capability."""
    supported: bool = True
    """Whether this build of torch has code for it."""


@dataclass(frozen=True)
class Devices:
    """All GPUs, and the software between them and torch."""

    gpus: tuple[Gpu, ...] = ()
    driver: str = ""
    """The driver's version; empty where it does not tell."""
    listed: int = 0
    """GPUs that the driver lists."""
    torch: str = ""
    """torch's version."""
    cuda: str = ""
    """The CUDA version of this build of torch; empty for a CPU build."""
    problem: str = ""
    """Why nothing could be found out."""


def _gpu(row: dict[str, Any]) -> Gpu:
    free, total = row["free"] / GIB, row["total"] / GIB
    # Without the driver's figure: all that is not free, less what the asking process itself takes.
    others = max(0.0, total - free - DEFAULT.context / GIB) if row["others"] is None else row["others"] / GIB
    return Gpu(row["name"], total, min(total, others), tuple(row["capability"]), row["supported"])


def devices() -> Devices:
    """The GPUs as a process of its own sees them, so that this one holds none of their memory."""
    command = [sys.executable, "-m", "kelron_lib.preflight.devices"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=DEVICE_SECONDS, env=child_environment(), check=False
        )
    except subprocess.TimeoutExpired:
        return Devices(problem=f"asking torch for its devices took over {DEVICE_SECONDS} s")
    if done.returncode:
        return Devices(problem=last_line(done.stderr) or f"exit code {done.returncode}")
    found = json.loads(done.stdout.strip().splitlines()[-1])
    found["gpus"] = tuple(_gpu(row) for row in found["gpus"])
    return Devices(**found)


def last_line(text: str) -> str:
    """The last line with anything in it: of a traceback, the error itself."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def supported() -> tuple[str, list[str]]:
    """Python's range and the requirements (`torch>=2.10`, ...) of this copy of Kelron, from its own metadata."""
    project = PACKAGE_ROOT / "pyproject.toml"
    if project.is_file():
        table = tomllib.loads(project.read_text(encoding="utf-8")).get("project", {})
        if table.get("name") == "kelron":
            return table["requires-python"], list(table["dependencies"])
    try:
        metadata = importlib.metadata.metadata("kelron")
    except importlib.metadata.PackageNotFoundError:
        raise KelronError("this copy of Kelron has no metadata to tell what it needs: install its wheel") from None
    required = [text for text in metadata.get_all("Requires-Dist") or [] if "extra ==" not in text]
    return metadata["Requires-Python"], required


def python_version() -> tuple[int, ...]:
    """Major, minor and micro."""
    return tuple(sys.version_info[:3])


def version_of(package: str) -> str | None:
    """A package's installed version, None where it is missing."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def torchao_problem() -> str:
    """What peft's own import check says of the torchao that is installed; empty where it is content.

    peft asks it whenever an adapter is put on a model, and raises there. Nothing heavy is imported without torchao.
    """
    if importlib.util.find_spec("torchao") is None or importlib.util.find_spec("peft") is None:
        return ""
    try:
        from peft.import_utils import is_torchao_available

        is_torchao_available()
    except ImportError as error:
        return str(error).strip().splitlines()[0]
    return ""


def _read_number(path: Path) -> int | None:
    """The number in a file of the control group; None where there is none or it says `max`."""
    try:
        return int(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _cached_files(path: Path) -> int:
    """Bytes of the control group's page cache that the system takes back when memory is asked for."""
    try:
        fields = dict(line.split() for line in path.read_text(encoding="utf-8").splitlines())
    except (OSError, ValueError):
        return 0
    return int(fields.get("inactive_file", fields.get("total_inactive_file", 0)))


def host_memory(root: Path = Path("/")) -> tuple[int, int]:
    """Bytes of host memory: all, and what a new process may take, within the container's limit if there is one."""
    try:
        lines = (root / "proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return total, total
    fields = {line.partition(":")[0]: int(line.split()[1]) * 1024 for line in lines if len(line.split()) > 1}
    total, free = fields["MemTotal"], fields.get("MemAvailable", fields["MemFree"])
    for folder, limit, used in (
        ("sys/fs/cgroup", "memory.max", "memory.current"),
        ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        most, now = _read_number(root / folder / limit), _read_number(root / folder / used)
        if most is not None and now is not None and most < total:
            total = most
            free = min(free, most - now + _cached_files(root / folder / "memory.stat"))
    return total, max(0, free)


def disk(folder: Path) -> tuple[int, int]:
    """The number of the disk that `folder` is (or will be) on, and its free bytes."""
    place = existing_parent(folder)
    return place.stat().st_dev, shutil.disk_usage(place).free


def may_write(folder: Path) -> bool:
    """Whether this user may write to the folder, or make it."""
    place = existing_parent(folder)
    return place.is_dir() and os.access(place, os.W_OK | os.X_OK)


def hub_endpoint() -> str:
    """The hub's address; HF_ENDPOINT names another one."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def hub_is_switched_off() -> bool:
    """Whether HF_HUB_OFFLINE forbids asking the hub."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def _get(request: urllib.request.Request, seconds: float) -> tuple[int, bytes]:
    """Status and body; every failure to get an answer is an OSError. Name look-ups count towards `seconds` too."""
    answers: list[Any] = []

    def ask() -> None:
        try:
            with urllib.request.urlopen(request, timeout=seconds) as answer:
                answers.append((answer.status, answer.read()))
        except urllib.error.HTTPError as error:
            answers.append((error.code, b""))
        except (OSError, ValueError) as error:
            answers.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds + 1)
    if not answers:
        raise TimeoutError(f"no answer within {seconds:g} s")
    if isinstance(answers[0], Exception):
        reason = getattr(answers[0], "reason", None) or answers[0]
        raise OSError(str(reason))
    status, body = answers[0]
    return status, body


def hub_unreachable(endpoint: str, seconds: float = NETWORK_SECONDS) -> str:
    """Why the hub cannot be reached; empty where it answers."""
    if hub_is_switched_off():
        return "HF_HUB_OFFLINE is set"
    try:
        status, _ = _get(urllib.request.Request(endpoint, method="HEAD"), seconds)
    except (OSError, ValueError) as error:
        return str(error)
    return f"it answers with status {status}" if status >= 500 else ""


def hub_config(base: str, endpoint: str, seconds: float = NETWORK_SECONDS) -> dict[str, Any]:
    """A base's config.json from the hub. Raises KelronError: no such model, no permission, no answer."""
    from huggingface_hub import get_token

    request = urllib.request.Request(f"{endpoint}/{base}/raw/main/config.json")
    if token := get_token():
        # Not sent on to another host that an answer may point to.
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    try:
        status, body = _get(request, seconds)
        fields = json.loads(body) if status == 200 else None
    except (OSError, ValueError) as error:
        raise KelronError(f"the config of {base!r} cannot be had from {endpoint}: {error}") from None
    if status in (401, 403):
        raise KelronError(
            f"{endpoint} does not give {base!r} to this user (status {status}): check the name, accept the model's "
            "terms on its page, or set HF_TOKEN"
        )
    if not isinstance(fields, dict):
        raise KelronError(f"{endpoint} has no config.json of {base!r} (status {status}): check model.base")
    return fields


def cached_file(base: str, name: str) -> Path | None:
    """A file of a base in the hub client's cache, None where it is not there."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(base, name)
    return Path(found) if isinstance(found, str) else None


def hub_cache() -> Path:
    """The folder that the hub client downloads to."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)
