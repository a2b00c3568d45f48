"""How long training stalls for a checkpoint: sealed while training waits, sent to a slow store while it goes on.

    python benchmarks/checkpoint.py                                           # 0.3 GB, 20 MB/s
    python benchmarks/checkpoint.py --gigabytes 3.3 --bandwidth 20 --json out.json    # that of the 14B preset

The checkpoint: files of random bytes under the names of the 14B preset's, two thirds of it the adapter, one third the
optimizer's states. All that a run does with it is Kelron's own code: `Keeper.keep`, the upload thread, the store, its
verification, the pointer. The stores: `repo` (over HTTP, without hf_xet) and `bucket` (through hf_xet) on the Hub's
stand-in, a process of its own with the lowest priority, and a `folder`. Only what comes over HTTP can be slowed to a
bandwidth: hf_xet chunks, hashes and writes at its full speed, which loads the processor all at once.

Training is simulated by steps of a fixed number of small tensor operations, which keep one core and Python's
interpreter busy all the time. A GPU's training thread waits for most of a step, so this is the hardest case for
whoever works beside it. What is measured, in seconds a checkpoint:

    write      the trainer's own files: safetensors and torch.save, and the deletion of the checkpoint before
    keep       training waits while the checkpoint is staged, read and sealed
    slower     what the steps during the upload took longer than as many steps before and after it
    stall      keep + slower: what training loses for the store

The share is that stall against the shortest time between two checkpoints of the preset (`train.save_steps`, or
`train.eval_steps` where each validation is the best so far), by the plan's projection for two T4s without its overhead.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
URLS = {"repo": "hf://me/kelron/run", "bucket": "hf://buckets/me/kelron/run", "folder": "{folder}/store"}
PRESET = "kelron-14b-t4x2"
GB = 1e9
TARGET = 0.02


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--gigabytes", type=float, default=0.3, help="size of the checkpoint, in 10^9 bytes (default: %(default)s)")
    add("--bandwidth", type=float, default=20.0, help="MB/s that the stand-in takes over HTTP (default: %(default)s)")
    add("--stores", nargs="+", choices=URLS, default=list(URLS))
    add("--checkpoints", type=int, default=2, help="of each store (default: %(default)s)")
    add("--quiet", type=float, default=10.0, help="seconds of steps before and after each (default: %(default)s)")
    add("--step", type=float, default=0.1, help="about so many seconds a step (default: %(default)s)")
    add("--folder", type=Path, help="where the files go (default: a temporary folder)")
    add("--json", type=Path, metavar="FILE")
    add("--worker", choices=URLS, help=argparse.SUPPRESS)
    return parser.parse_args(given)


class Steps:
    """Training as far as it matters here: steps of equal work in this thread."""

    def __init__(self, seconds: float) -> None:
        import torch

        torch.set_num_threads(1)
        self.left, self.right = torch.randn(48, 48), torch.randn(48, 48)
        self.operations = 1000
        self.operations = max(100, round(1000 * seconds / min(self.step() for _ in range(5))))

    def step(self) -> float:
        """One step; seconds that it took."""
        began = time.perf_counter()
        for _ in range(self.operations):
            self.left.mm(self.right).add_(1.0)
        return time.perf_counter() - began

    def during(self, seconds: float) -> list[float]:
        """Steps for about so long."""
        took: list[float] = []
        while sum(took) < seconds:
            took.append(self.step())
        return took


class Checkpoints:
    """The trainer's folders, with new content each time."""

    def __init__(self, work: Path, size: float) -> None:
        import torch

        self.work = work
        self.adapter = torch.randint(-(2**31), 2**31 - 1, (round(size * 2 / 3 / 4),), dtype=torch.int32)
        self.states = torch.randint(0, 255, (round(size / 3),), dtype=torch.uint8)

    def write(self, step: int) -> Path:
        """Save one as the trainer does, and delete the one before."""
        import torch
        from safetensors.torch import save_file

        folder = self.work / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        save_file({"adapter": self.adapter.view(torch.float32)}, folder / "adapter_model.safetensors")
        torch.save({"state": {0: self.states}}, folder / "optimizer.pt")
        for name in ("scheduler.pt", "scaler.pt", "rng_state.pth"):
            torch.save({"step": step}, folder / name)
        (folder / "adapter_config.json").write_text("{}")
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": step, "log_history": []}))
        shutil.rmtree(self.work / f"checkpoint-{step - 1}", ignore_errors=True)
        return folder

    def change(self, step: int) -> None:
        """Every byte, so that no store finds anything that it has already."""
        self.adapter.bitwise_xor_(0x5A5A5A5A + step)
        self.states.bitwise_xor_(0x5A ^ step)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """One store, in a process of its own; HF_ENDPOINT and the like are set."""
    from kelron_lib.config import resolve
    from kelron_lib.keeper import Keeper
    from kelron_lib.stores import open_store
    from kelron_lib.verify import latest

    url = URLS[args.worker].format(folder=args.folder)
    store = open_store(url, write=True)
    work = args.folder / "work"
    about: dict[str, Any] = {"data": work, "data_fingerprint": "synthetic", "world_size": 1}
    keeper = Keeper(store, resolve(PRESET, [f"store.url={url}"]), out=args.folder, say=lambda line: note(line), **about)
    keeper.begin()
    steps, checkpoints = Steps(args.step), Checkpoints(work, args.gigabytes * GB)
    found = []
    quiet = steps.during(args.quiet)
    for step in range(1, args.checkpoints + 1):
        before = quiet
        checkpoints.change(step)
        began = time.perf_counter()
        folder = checkpoints.write(step)
        written = time.perf_counter()
        keeper.keep(folder)
        kept = time.perf_counter()
        busy: list[float] = []
        while keeper.words():
            busy.append(steps.step())
        keeper.check()
        sent = time.perf_counter()
        quiet = steps.during(max(args.quiet, min(4 * args.quiet, sent - kept)))
        usual = statistics.fmean([*before, *quiet])
        found.append(
            {
                "write": written - began,
                "keep": kept - written,
                "upload": sent - kept,
                "slower": sum(busy) - len(busy) * usual,
                "steps": len(busy),
                "step_before": statistics.fmean(before),
                "step_during": statistics.fmean(busy) if busy else usual,
                "step_after": statistics.fmean(quiet),
            }
        )
        note(f"{args.worker} {step}: " + ", ".join(f"{name} {value:.3f}" for name, value in found[-1].items()))
    keeper.close()
    newest = latest(store)
    if newest is None or newest.step != args.checkpoints:
        raise SystemExit(f"the store holds {newest.step if newest else 'nothing'} at the end")
    return {"size": newest.size, "checkpoints": found}


def note(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def one_store(args: argparse.Namespace, store: str, folder: Path) -> dict[str, Any]:
    """Start the stand-in and the process that measures a store."""
    needed, free = (2 + 3 * args.checkpoints) * args.gigabytes * GB, shutil.disk_usage(folder).free
    if free < needed:
        raise SystemExit(f"{needed / GB:.1f} GB needed in {folder.parent}, {free / GB:.1f} free: name another --folder")
    command = [sys.executable, str(ROOT / "tests" / "hub_stand_in.py"), "--folder", str(folder / "hub")]
    hub = subprocess.Popen(
        ["nice", "-n", "19", *command, f"--bandwidth={args.bandwidth * 1e6}"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert hub.stdout is not None
        environment = os.environ | json.loads(hub.stdout.readline())
        environment |= {"HF_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "0", "OMP_NUM_THREADS": "1"}
        environment["HF_HUB_DISABLE_XET"] = "1" if store == "repo" else "0"
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        numbers = ("gigabytes", "checkpoints", "quiet", "step")
        options = [f"--{name}={getattr(args, name)}" for name in numbers]
        worker = [sys.executable, __file__, "--worker", store, "--folder", str(folder), *options]
        done = subprocess.run(worker, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return measured
    finally:
        hub.terminate()
        hub.wait()


def shortest_interval() -> tuple[int, float]:
    """Steps and projected seconds between two checkpoints of the preset where they come closest."""
    from kelron_lib.config import resolve
    from kelron_lib.model import base_name
    from kelron_lib.placement import find_config, parse_gpus, plan, workload

    config = resolve(PRESET)
    best = plan(find_config(base_name(config)), workload(config), parse_gpus("2x14.74"), wanted=2).best
    assert best is not None
    steps = min(config.train.save_steps, config.train.eval_steps)
    return steps, steps * best.hours * 3600 / best.steps


def summary(measured: dict[str, Any], interval: float) -> dict[str, Any]:
    """Means over a store's checkpoints, and what they are of the interval."""
    each = measured["checkpoints"]
    means = {name: statistics.fmean(one[name] for one in each) for name in ("write", "keep", "upload", "slower")}
    stall = means["keep"] + means["slower"]
    return means | {"stall": stall, "share": stall / interval, "with_write": (stall + means["write"]) / interval}


def main(given: list[str] | None = None) -> dict[str, Any]:
    args = arguments(given)
    sys.path.insert(0, str(ROOT))
    steps, interval = shortest_interval()
    settings = {"gigabytes": args.gigabytes, "megabytes_a_second": args.bandwidth, "processors": os.cpu_count()}
    result: dict[str, Any] = {"settings": settings, "interval": {"steps": steps, "seconds": interval}, "stores": {}}
    print(
        f"a checkpoint of {args.gigabytes:g} GB, {args.bandwidth:g} MB/s over HTTP, mean of {args.checkpoints}; share "
        f"of {steps} steps in {interval:.0f} s (projected)"
    )
    print(f"{'':<8}{'write':>8}{'keep':>8}{'upload':>9}{'slower':>9}{'stall':>8}{'share':>9}{'with write':>12}")
    for store in args.stores:
        with tempfile.TemporaryDirectory(prefix="kelron-bench-", dir=args.folder) as folder:
            measured = one_store(args, store, Path(folder))
        result["stores"][store] = means = summary(measured, interval)
        means["each"] = measured["checkpoints"]
        print(
            f"{store:<8}{means['write']:>7.2f}s{means['keep']:>7.2f}s{means['upload']:>8.1f}s{means['slower']:>8.2f}s"
            f"{means['stall']:>7.2f}s{means['share']:>9.2%}{means['with_write']:>12.2%}",
            flush=True,
        )
    worst = max(found["stall"] for found in result["stores"].values())
    print(f"the target, {TARGET:.0%}, holds where checkpoints are at least {worst / TARGET:.0f} s apart")
    result["least_seconds_apart"] = worst / TARGET
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


if __name__ == "__main__":
    parsed = arguments()
    if parsed.worker:
        print(json.dumps(measure(parsed)))
    else:
        main()
