"""One training step, measured: random weights in the exact shape of a model, a fixed distribution of sample lengths.

    python benchmarks/train_step.py                                  # 14B where CUDA is, a tiny shape on a CPU
    python benchmarks/train_step.py --memory-cap 14.2 --rows 8 --head nf4 --dropout 0.1 --profile --json out.json
    python benchmarks/train_step.py --stack stock                    # the plain Trainer, padded batches of 2 x 4

The samples: 4,096 of log-normal lengths, mean 110 tokens, half of each supervised. Weights and tokens are random, so
the time is real and the loss means nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

# Without it the allocator's fixed segments waste about 1 GiB of 14.2; it is read when CUDA starts.
os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
from harness.measure import GIB, memory, synchronise, top_kernels, where_time_goes
from harness.models import SHAPES, add_adapter, random_model, samples

STACKS = ("kelron", "stock", "unsloth")


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--stack", choices=STACKS, default="kelron")
    add("--shape", choices=sorted(SHAPES), default="qwen2.5-14b" if cuda else "tiny")
    add("--layers", type=int, default=0, help="fewer decoder layers than the shape's")
    add("--r", type=int, default=128 if cuda else 4, help="LoRA rank, on all linear layers (stock: as the seed had it)")
    add("--dropout", type=float, default=0.1, help="LoRA dropout")
    add("--row-tokens", type=int, default=512)
    add("--rows", type=int, default=8 if cuda else 2, help="rows a pass")
    add("--accumulate", type=int, default=1, help="passes an optimizer step")
    add("--head", choices=("keep", "nf4"), default="nf4" if cuda else "keep")
    add("--embedding", choices=("host", "device"), default="host")
    add("--attention", choices=("kelron_sdpa", "sdpa"), default="kelron_sdpa")
    add("--loss-chunk", type=int, default=512, help="positions whose logits exist at one time")
    add("--no-checkpointing", action="store_true")
    add("--kernels", choices=("auto", "torch", "triton"), default="auto", help="who does the elementwise work")
    add("--unfused", action="store_true", help="PEFT's own LoRA and transformers' own layers, packed all the same")
    add("--steps", type=int, default=20 if cuda else 3, help="measured optimizer steps; 0: all 4,096 samples once")
    add("--warmup", type=int, default=3 if cuda else 1)
    add("--memory-cap", type=float, default=0.0, metavar="GIB", help="what the allocator may reserve")
    add("--profile", action="store_true", help="where the time goes, by kind of kernel")
    add("--top-kernels", action="store_true", help="the kernels that take most of a step")
    add("--json", type=Path, metavar="FILE")
    return parser.parse_args(given)


def optimizer_for(model: Any, device: torch.device) -> Any:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if device.type == "cuda":
        from bitsandbytes.optim import PagedAdamW8bit

        return PagedAdamW8bit(trained, lr=2e-4)
    return torch.optim.AdamW(trained, lr=2e-4)


class KelronStack:
    """Kelron's engine: packed passes, fused layers, loss without logits."""

    def __init__(self, args: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> None:
        from kelron_lib.engine.packing import plan_passes
        from kelron_lib.engine.prepare import prepare
        from kelron_lib.engine.watch import watch_finite

        lm = random_model(args.shape, device, dtype, args.layers)
        self.model = prepare(
            add_adapter(lm, args.r, args.dropout),
            embedding=args.embedding,
            head=args.head,
            checkpointing=not args.no_checkpointing,
            attention=args.attention,
            fused=not args.unfused,
            kernels=args.kernels,
            loss_chunk=args.loss_chunk,
        ).train()
        self.optimizer = optimizer_for(self.model, device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16, init_scale=1024.0)
        self.watch = watch_finite(self.model)
        self.samples = samples(lm.config.vocab_size)
        sizes = [len(sample["input_ids"]) for sample in self.samples]
        self.passes = plan_passes(sizes, row_tokens=args.row_tokens, rows_per_pass=args.rows, seed=0, epoch=0)
        self.args, self.autocast = args, args.unfused and dtype == torch.float16
        self.done, self.prepared = 0, {}

    def total_steps(self) -> int:
        return len(self.passes) // self.args.accumulate

    def ready(self, steps: int) -> None:
        """Pack the passes of the next steps now: a data loader's workers do it beside the training."""
        from kelron_lib.engine.packing import pack

        for number in range(self.done, self.done + steps * self.args.accumulate):
            one = self.passes[number % len(self.passes)]
            rows = [[self.samples[sample] for sample in row] for row in one]
            self.prepared[number] = pack(rows, row_tokens=self.args.row_tokens, pad_id=0)

    def step(self) -> tuple[int, int]:
        """One optimizer step; how many samples and tokens it saw."""
        from kelron_lib.engine.packing import supervised_tokens
        from kelron_lib.engine.prepare import forward_loss

        numbers = range(self.done, self.done + self.args.accumulate)
        if any(number not in self.prepared for number in numbers):
            self.ready(1)
        batches = [self.prepared.pop(number) for number in numbers]
        self.done += len(batches)
        count = sum(supervised_tokens(batch) for batch in batches)
        for batch in batches:
            with torch.autocast("cuda", dtype=torch.float16, enabled=self.autocast):
                loss = forward_loss(self.model, batch, count)
            self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_([p for p in self.model.parameters() if p.requires_grad], 1.0)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.watch.check()
        rows = [row for number in numbers for row in self.passes[number % len(self.passes)]]
        return sum(map(len, rows)), sum(len(self.samples[sample]["input_ids"]) for row in rows for sample in row)


def measure(stack: Any, args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Warm up, then time whole steps by the wall clock."""
    if args.stack != "kelron":
        measured: dict[str, Any] = stack.measure(args.steps or 64, args.warmup)
        return measured
    stack.ready(args.warmup)
    for _ in range(args.warmup):
        stack.step()
    steps = args.steps or stack.total_steps()
    stack.ready(steps)
    synchronise(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    began, seen = time.perf_counter(), (0, 0)
    for _ in range(steps):
        counted = stack.step()
        seen = seen[0] + counted[0], seen[1] + counted[1]
    synchronise(device)
    seconds = time.perf_counter() - began
    result = {
        "steps": steps,
        "samples": seen[0],
        "samples_per_second": seen[0] / seconds,
        "tokens_per_second": seen[1] / seconds,
        "seconds_per_step": seconds / steps,
        **memory(device),
    }
    result["kernels_in_use"] = stack.model.get_base_model().kernels_in_use
    if args.profile:
        stack.ready(6)
        result["milliseconds_per_step"] = where_time_goes(stack.step, device)
    if args.top_kernels and device.type == "cuda":
        result["top_kernels"] = top_kernels(stack.step)
    return result


def build(args: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> Any:
    if args.stack == "kelron":
        return KelronStack(args, device, dtype)
    from harness import rivals

    return rivals.STACKS[args.stack](args, device, dtype)


def report(result: dict[str, Any]) -> None:
    print(
        f"{result['stack']}: {result['samples_per_second']:.2f} samples/s, {result['tokens_per_second']:.0f} tokens/s, "
        f"{result['seconds_per_step']:.3f} s/step, peak {result['peak_allocated']:.2f} GiB allocated, "
        f"{result['peak_reserved']:.2f} reserved (weights {result['weights']:.2f}; set-up {result['setup']:.0f} s)"
    )
    if "kernels_in_use" in result:
        print(f"  kernels: {result['kernels_in_use']}")
    for kind, spent in result.get("milliseconds_per_step", {}).items():
        print(f"  {kind:<16}{spent:9.1f} ms")
    for spent, launches, name in result.get("top_kernels", []):
        print(f"  {spent:9.2f} ms {launches:6d}  {name[:110]}")


def main(given: list[str] | None = None) -> dict[str, Any]:
    args = arguments(given)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    if args.memory_cap and device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory / GIB
        torch.cuda.set_per_process_memory_fraction(min(1.0, args.memory_cap / total))
    began = time.perf_counter()
    stack = build(args, device, dtype)
    synchronise(device)
    setup = time.perf_counter() - began
    weights = torch.cuda.memory_allocated() / GIB if device.type == "cuda" else 0.0
    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or "CPU"
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()}
    result = {"stack": args.stack, "device": name, "torch": torch.__version__, "settings": settings}
    result |= {"setup": setup, "weights": weights, **measure(stack, args, device)}
    report(result)
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


if __name__ == "__main__":
    main()
