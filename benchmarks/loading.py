"""What loading a base in 4 bits costs the host: a checkpoint of random 16-bit weights in the exact shape of a model.

    python benchmarks/loading.py --dir FOLDER                        # 14B where CUDA is (28 GiB of disk), else tiny
    python benchmarks/loading.py --dir FOLDER --json out.json

The checkpoint is written as the Hub has it (safetensors of at most 4 GiB and an index), loaded through Kelron's own
`load_base` in a process of its own whose memory is read every 20 ms, and removed. `anonymous` is what the process
holds and nothing can take away; `resident` counts the pages of the mapped files, too, which the kernel drops when
memory is short.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
from harness.checkpoints import write_checkpoint
from harness.measure import GIB
from harness.models import SHAPES, with_tokenizer

EVERY = 0.02
"""Seconds between two readings."""
CHILD = """
import json, sys, time
import torch
from kelron_lib.config import resolve
from kelron_lib.model import load_base, quiet_libraries

began = time.monotonic()
with quiet_libraries():
    model, _ = load_base(resolve("kelron-14b-t4x2" if torch.cuda.is_available() else "tiny-cpu", sys.argv[1:]))
cuda = torch.cuda.is_available()
print(json.dumps({
    "seconds": time.monotonic() - began,
    "gpu_peak": torch.cuda.max_memory_allocated() if cuda else 0,
    "gpu_held": torch.cuda.memory_allocated() if cuda else 0,
}))
"""


def memory_of(pid: int) -> dict[str, int]:
    """Bytes a process holds now; empty where it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    found = {name: int(rest.split()[0]) * 1024 for name, rest in (line.split(":", 1) for line in lines if "kB" in line)}
    if "VmRSS" not in found:
        return {}
    return {"anonymous": found["RssAnon"] + found["RssShmem"], "resident": found["VmRSS"]}


def load(folder: Path) -> dict[str, float]:
    """Loads it in a process of its own. Raises CalledProcessError where that fails."""
    command = [sys.executable, "-c", CHILD, *with_tokenizer(folder)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    peak = {"anonymous": 0, "resident": 0}
    while child.poll() is None:
        for name, size in memory_of(child.pid).items():
            peak[name] = max(peak[name], size)
        time.sleep(EVERY)
    assert child.stdout
    told = child.stdout.read()
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, command[:2])
    return {**json.loads(told), **peak}


def main() -> int:
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=Path, default=Path("runs"), help="where the checkpoint is written (and removed)")
    parser.add_argument("--shape", choices=sorted(SHAPES), default="qwen2.5-14b" if cuda else "tiny")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    folder = args.dir / f"loading-{args.shape}"
    folder.mkdir(parents=True)
    try:
        total = write_checkpoint(args.shape, folder)
        found = load(folder)
    finally:
        shutil.rmtree(folder)
    place = torch.cuda.get_device_name() if cuda else "CPU"
    print(f"{args.shape} on {place}, torch {torch.__version__}: {total / GIB:.2f} GiB of 16-bit weights on disk")
    print(f"loaded in {found['seconds']:.1f} s; host: {found['anonymous'] / GIB:.2f} GiB anonymous at most, ", end="")
    print(f"{found['resident'] / GIB:.2f} resident with the mapped files;", end=" ")
    print(f"GPU: {found['gpu_peak'] / GIB:.2f} GiB at most, {found['gpu_held'] / GIB:.2f} afterwards")
    if args.json:
        result = {"shape": args.shape, "bytes": total, **found}
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
