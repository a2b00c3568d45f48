"""The planner's memory against what a GPU measures, over setups that differ in one or two things each.

    python benchmarks/planner.py                          # all layers of the 14B, random weights; needs a GPU
    python benchmarks/planner.py --layers 8 --at-once 1 --json out.json

Every setup runs in a process of its own, as preflight's probe does: load, prepare, three optimizer steps. Weights and
tokens are random, half of them supervised. Compared is the highest allocated memory of the steps (context and what the
allocator keeps beyond it are the planner's own parts and stand in no such counter).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from harness.models import SHAPES

from kelron_lib.config import RunConfig, resolve
from kelron_lib.placement import Workload, read_shape, workload
from kelron_lib.placement.memory import Share, gpu_memory
from kelron_lib.preflight.probe import make_requests, run_workers


@dataclass(frozen=True)
class Setup:
    what: str
    overrides: tuple[str, ...] = ()
    """Of the preset kelron-14b-t4x2."""
    loss_chunk: int = 512
    """Positions whose logits exist at one time."""


SETUPS = (
    Setup("the preset, passes not summed", ("train.passes_per_step=1",)),
    Setup("two passes a step"),
    Setup("r = 64", ("lora.r=64", "train.passes_per_step=1")),
    Setup("r = 16", ("lora.r=16", "train.passes_per_step=1")),
    Setup("1,024 tokens", ("train.rows_per_pass=2", "train.passes_per_step=1")),
    Setup("4,096 tokens", ("train.rows_per_pass=8", "train.passes_per_step=1")),
    Setup("6,144 tokens", ("train.rows_per_pass=12", "train.passes_per_step=1")),
    Setup("512 tokens, no recomputation", ("train.checkpointing=false", "train.rows_per_pass=1")),
    Setup("embedding on the GPU", ("model.embedding=device", "train.passes_per_step=1")),
    Setup("16-bit head", ("model.head=keep", "train.passes_per_step=1")),
    Setup("16-bit head, embedding on the GPU", ("model.head=keep", "model.embedding=device")),
    Setup("logits of 2,048 positions at once", ("train.rows_per_pass=8", "train.passes_per_step=1"), 2048),
    Setup("logits of 128 positions at once", ("train.passes_per_step=1",), 128),
    Setup("no dropout", ("lora.dropout=0", "train.passes_per_step=1")),
    Setup("AdamW in 32 bits", ("train.optimizer=adamw_torch", "train.passes_per_step=1")),
)


def config_of(setup: Setup) -> RunConfig:
    return resolve("kelron-14b-t4x2", setup.overrides)


def work_of(setup: Setup) -> Workload:
    return workload(config_of(setup), loss_chunk=setup.loss_chunk).shared_by(1)


def request_of(setup: Setup, fields: dict[str, Any], layers: int, gpu: int = 0) -> dict[str, Any]:
    """What preflight's worker is asked to do for a setup."""
    (request,) = make_requests(
        config_of(setup), fields, work_of(setup), [gpu], layers=[layers], random_weights=True, rows=[]
    )
    return request


def predicted(setup: Setup, fields: dict[str, Any], layers: int) -> float:
    """GiB: the planner's highest phase, but for loading and preparing, which come before the steps."""
    shape = replace(read_shape(fields), layers=layers)
    return gpu_memory(shape, work_of(setup), Share(layers)).step_peak


def compared(setups: Sequence[Setup], fields: dict[str, Any], layers: int) -> Iterator[dict[str, Any]]:
    """Measures the setups all at once, spread over the GPUs; a row each."""
    import torch

    gpus = torch.cuda.device_count()
    requests = [request_of(one, fields, layers, number % gpus) for number, one in enumerate(setups)]
    for setup, result in zip(setups, run_workers(requests), strict=True):
        row = {"setup": setup.what, "predicted": predicted(setup, fields, layers)}
        row["measured"] = result["runs"][0]["peak_allocated"]
        row["difference"] = row["measured"] / row["predicted"] - 1
        yield {**row, "result": result}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="qwen2.5-14b")
    parser.add_argument("--layers", type=int, default=0, help="fewer decoder layers than the shape's")
    parser.add_argument("--at-once", type=int, default=1, help="setups measured together: only times suffer")
    parser.add_argument("--skip", type=int, default=0, metavar="N", help="leave out the first N setups")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    import torch

    if not torch.cuda.is_available():
        print("planner: no GPU here, so nothing was measured (the planner's own arithmetic is in tests/)")
        return 0
    fields = {"model_type": "qwen2", "tie_word_embeddings": False, **SHAPES[args.shape]}
    layers = args.layers or int(fields["num_hidden_layers"])
    print(f"{args.shape}, {layers} layers, {torch.cuda.get_device_name()}, torch {torch.__version__}")
    print(f"{'setup':<36}{'predicted':>10}{'measured':>10}{'difference':>12}   GiB, peak allocated")
    rows = []
    for start in range(args.skip, len(SETUPS), args.at_once):
        for row in compared(SETUPS[start : start + args.at_once], fields, layers):
            told = f"{row['predicted']:>10.2f}{row['measured']:>10.2f}{row['difference']:>+12.1%}"
            print(f"{row['setup']:<36}{told}", flush=True)
            rows.append(row)
    print(f"largest difference {max(abs(row['difference']) for row in rows):.1%} over {len(rows)} setups")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
