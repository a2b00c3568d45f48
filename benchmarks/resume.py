"""A run cut by its session's budget and taken up again, against the one that nobody cut: bit for bit?

    python benchmarks/resume.py --dir FOLDER                   # the 14B's shape on all GPUs (40 GiB of disk), else tiny

Three sessions of `kelron train`, each with processes of its own: one without a break, one whose budget ends after two
thirds of the first one's steps at the latest, and one that has nothing but the second one's store. Random 16-bit
weights are written as the Hub has them and loaded as a user's run loads them; the tokens are the tiny base's. Exits 1
where the adapters or the losses differ by a bit.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
from harness.checkpoints import write_checkpoint
from harness.models import SHAPES, with_tokenizer

RESERVE = 5
"""Seconds that a session keeps for its last checkpoint."""
STEPS = (
    "train.save_steps=1000",
    "train.eval_steps=4",
    f"session.reserve_seconds={RESERVE}",
    "session.progress_seconds=0.1",
)
CUT_AT = (0.67, 0.9, 0.4)
"""Parts of the whole run's steps after which a session's time is over, tried one after the other: a step is finished
first, and a validation's time is kept free."""
ON_GPUS = ("data.rows=800", "data.max_tokens=256")
ON_CPU = ("data.rows=240", "train.rows_per_pass=2", "train.passes_per_step=2", "train.epochs=0.8", "lora.r=4")


def kelron(*words: str) -> list[tuple[float, str]]:
    """What a verb prints, each line with the seconds since its start. Raises CalledProcessError where it fails."""
    began = time.monotonic()
    command = [sys.executable, "-u", "-m", "kelron_lib", *words]  # -u: or all lines come at the end, at one time
    told = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as verb:
        for line in verb.stdout or ():
            print(line, end="", flush=True)
            told.append((time.monotonic() - began, line))
    if verb.returncode:
        raise subprocess.CalledProcessError(verb.returncode, command)
    return told


def settings(folder: Path, shape: str) -> list[str]:
    """The options of all verbs; writes the checkpoint that they name."""
    if not torch.cuda.is_available():
        return _options("tiny-cpu", (*STEPS, *ON_CPU))
    base = folder / "base"
    base.mkdir()
    write_checkpoint(shape, base)
    processes = f"session.processes={torch.cuda.device_count()}"
    return _options("kelron-14b-t4x2", (*STEPS, *ON_GPUS, *with_tokenizer(base), processes))


def _options(preset: str, overrides: tuple[str, ...]) -> list[str]:
    return ["--preset", preset, *(word for override in overrides for word in ("--set", override))]


def three_sessions(folder: Path, options: list[str]) -> dict[str, dict[str, Any]]:
    """What was seen of the sessions `whole`, `cut` and `resumed`. Raises SystemExit where none could be cut."""
    data = ("--data", str(folder / "data"))
    kelron("data", *options, "--out", str(folder / "data"))
    told = kelron("train", *options, *data, "--out", str(folder / "whole"))
    steps = [when for when, line in told if line.startswith("step ")]  # the first after the validation at step 0
    runs = {"whole": seen(folder / "whole")}
    for part in CUT_AT:
        budget = steps[0] + part * (steps[-1] - steps[0]) + RESERVE
        kelron("train", *options, *data, "--out", str(folder / "cut"), "--set", f"session.budget_seconds={budget:.1f}")
        runs["cut"] = seen(folder / "cut")
        if 0 < runs["cut"]["step"] < runs["whole"]["step"]:
            break
        shutil.rmtree(folder / "cut")
    else:
        raise SystemExit("no session was cut between two steps: this machine's speed varies too much, try again")
    (folder / "resumed").mkdir()
    shutil.move(folder / "cut" / "store", folder / "resumed" / "store")
    kelron("train", *options, *data, "--out", str(folder / "resumed"))
    return runs | {"resumed": seen(folder / "resumed")}


def seen(run: Path) -> dict[str, Any]:
    adapter = run / "adapter" / "adapter_model.safetensors"
    status = json.loads((run / "status.json").read_text(encoding="utf-8"))
    return {
        "state": status["state"],
        "first_step": status["first_step"],
        "step": status["step"],
        "seconds": status["seconds"],
        "adapter": hashlib.sha256(adapter.read_bytes()).hexdigest() if adapter.exists() else None,
        "losses": hashlib.sha256((run / "losses.json").read_bytes()).hexdigest(),
    }


def main() -> int:
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=Path, default=Path("runs"), help="where all is written (and removed)")
    parser.add_argument("--shape", choices=sorted(SHAPES), default="qwen2.5-14b", help="of the base on GPUs")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    folder = args.dir / "resume-benchmark"
    folder.mkdir(parents=True)
    try:
        runs = three_sessions(folder, settings(folder, args.shape))
    finally:
        shutil.rmtree(folder)
    place = f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}" if cuda else "CPU, the tiny base"
    print(f"{args.shape + ' on ' if cuda else ''}{place}, torch {torch.__version__}")
    for name, run in runs.items():
        digest = (run["adapter"] or "none so far")[:12]
        print(f"{name:>8}: steps {run['first_step']} to {run['step']} in {run['seconds']:.0f} s, adapter {digest}")
    if args.json:
        args.json.write_text(json.dumps(runs, indent=2) + "\n", encoding="utf-8")
    different = [what for what in ("adapter", "losses") if runs["resumed"][what] != runs["whole"][what]]
    if different:
        print(f"NOT EQUAL: {' and '.join(different)}")
        return 1
    print("adapter and losses of the resumed run are, bit for bit, those of the whole one")
    return 0


if __name__ == "__main__":
    sys.exit(main())
