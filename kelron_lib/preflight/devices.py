"""The GPUs of this machine, looked at from a process of its own: asking for free memory makes a CUDA context, which
would hold half a GiB of every GPU for as long as the asking process lives.

`python -m kelron_lib.preflight.devices` prints one JSON object.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from typing import Any

SMI_FIELDS = ("uuid", "memory.used", "driver_version")
SMI_SECONDS = 30


def _mib(text: str) -> float | None:
    """A number of MiB, or None where the driver does not tell (as for a part of a GPU)."""
    try:
        return float(text)
    except ValueError:
        return None


def parse_smi(text: str) -> list[dict[str, Any]]:
    """nvidia-smi's comma-separated lines as {uuid, used (MiB or None), driver}; other lines are left out."""
    rows = [[part.strip() for part in line.split(",")] for line in text.splitlines()]
    return [
        {"uuid": row[0].removeprefix("GPU-"), "used": _mib(row[1]), "driver": row[2]}
        for row in rows
        if len(row) == len(SMI_FIELDS)
    ]


def driver_view() -> list[dict[str, Any]]:
    """What the driver's own tool says of each GPU; empty where there is no driver or no tool."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    command = [program, f"--query-gpu={','.join(SMI_FIELDS)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SMI_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return parse_smi(done.stdout) if done.returncode == 0 else []


def has_code_for(capability: Sequence[int], architectures: Sequence[str]) -> bool:
    """Whether a torch built for `architectures` (`sm_75`, `compute_90`, ...) runs on a compute capability.

    Machine code runs on the same major number from its minor number on (`sm_90a` on exactly its own), PTX on
    everything newer.
    """
    major, minor = capability
    for name in architectures:
        kind, _, number = name.partition("_")
        if kind not in ("sm", "compute"):
            continue
        built = divmod(int(number.rstrip("af")), 10)
        if number.endswith("a"):
            found = built == (major, minor)
        elif kind == "sm":
            found = built[0] == major and built[1] <= minor
        else:
            found = built <= (major, minor)
        if found:
            return True
    return False


def torch_view(driver: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What torch sees: version, CUDA version, and each GPU with its memory in bytes and what others hold of it.

    Others' memory is the driver's figure from before this process came; None where the driver does not tell.
    """
    import torch

    architectures = torch.cuda.get_arch_list()
    held = {row["uuid"]: row["used"] for row in driver}
    gpus = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties = torch.cuda.get_device_properties(index)
        capability = [properties.major, properties.minor]
        used = held.get(str(getattr(properties, "uuid", "")))
        free, total = torch.cuda.mem_get_info(index)
        gpus.append(
            {
                "name": properties.name,
                "total": total,
                "free": free,
                "others": None if used is None else used * 2**20,
                "capability": capability,
                "supported": has_code_for(capability, architectures),
            }
        )
    return {"torch": torch.__version__, "cuda": torch.version.cuda or "", "gpus": gpus}


def main() -> None:
    """Print what the driver and torch see."""
    driver = driver_view()
    found = {"driver": driver[0]["driver"] if driver else "", "listed": len(driver), **torch_view(driver)}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
