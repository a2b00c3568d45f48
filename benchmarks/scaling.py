"""Two processes against one, and against a model that is split over two and works on one side at a time.

    python benchmarks/scaling.py
    python benchmarks/scaling.py --steps 10 --rounds 5 --json out.json

The same work in each: the same packed passes of the shipped tiny base through the engine, forward, backward and
optimizer, one thread a process. `one`: one process makes all passes of a step. `two`: two processes share them and sum
their gradients, as `kelron train --processes 2` does. `sandwich`: embedding, last norm, head and loss in one process,
all layers in the other, as on two GPUs with a model split between them: one waits while the other works. The
arrangements take turns, round by round, so that other load on the machine meets all of them; the figures are medians
over all steps.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

ARRANGEMENTS = {"one": 1, "two": 2, "sandwich": 2}
"""Processes of each."""
RESULT = "RESULT "
WARMUP_STEPS = 2


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--steps", type=int, default=8, help="measured steps a round")
    add("--passes", type=int, default=2, help="passes a step, an even number")
    add("--rounds", type=int, default=3, help="times that each arrangement is measured")
    add("--rows", type=int, default=4, help="rows a pass")
    add("--row-tokens", type=int, default=512)
    add("--r", type=int, default=32, help="LoRA rank")
    add("--json", type=Path, metavar="FILE")
    add("--worker", choices=ARRANGEMENTS, help=argparse.SUPPRESS)
    return parser.parse_args(given)


class Work:
    """The model in one process, and the run's passes."""

    def __init__(self, args: argparse.Namespace) -> None:
        import torch
        from harness.models import samples

        from kelron_lib.config import resolve
        from kelron_lib.engine.packing import PackedPasses, pack
        from kelron_lib.engine.prepare import prepare
        from kelron_lib.model import add_lora, load_base, quiet_libraries
        from kelron_lib.schedule import plan_run

        torch.set_num_threads(1)
        config = resolve("tiny-cpu", [f"lora.r={args.r}", "lora.dropout=0"])
        with quiet_libraries():
            base, _ = load_base(config)
            self.model = prepare(add_lora(base, config), embedding="device", checkpointing=False).train()
        made = samples(base.config.vocab_size)
        packing = {"row_tokens": args.row_tokens, "rows_per_pass": args.rows, "passes_per_step": args.passes}
        self.schedule = plan_run(made, epochs=1, seed=0, **packing)
        passes = PackedPasses(made, self.schedule.passes[: (WARMUP_STEPS + args.steps) * args.passes])
        self.batches = [pack(passes[i], row_tokens=args.row_tokens, pad_id=0) for i in range(len(passes))]
        self.trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=1e-4)

    def update(self) -> None:
        """The optimizer's part of a step."""
        import torch

        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


class Shared:
    """Each process makes its share of a step's passes; gradients are summed over all."""

    def __init__(self, work: Work, world: Any) -> None:
        from kelron_lib.trainer import Replica

        self.work, self.world = work, world
        self.replica = Replica(work.model, world)

    def step(self, step: int) -> float:
        from kelron_lib.engine.prepare import forward_loss

        numbers = self.work.schedule.numbers(step, self.world.rank, self.world.size)
        total = 0.0
        for number in numbers:
            last = number == numbers[-1]
            with contextlib.nullcontext() if last else self.replica.no_sync():
                loss = forward_loss(self.replica, self.work.batches[number], self.work.schedule.tokens[step])
                loss.backward()
            total += loss.item()
        self.replica.finish()
        self.work.update()
        return total


class Sandwich:
    """Process 0 holds embedding, last norm and head, process 1 the layers; activations and gradients go between."""

    def __init__(self, work: Work, world: Any) -> None:
        self.work, self.ends = work, world.first
        self.lm = work.model.get_base_model()

    def step(self, step: int) -> float:
        numbers = self.work.schedule.numbers(step, 0, 1)
        total = sum(self._ends(number, step) if self.ends else self._layers(number) for number in numbers)
        if not self.ends:
            self.work.update()
        return total

    def _ends(self, number: int, step: int) -> float:
        import torch.distributed as dist

        from kelron_lib.engine.loss import supervised_loss

        batch = self.work.batches[number]
        hidden = self.lm.model.embed_tokens(batch["input_ids"])
        dist.send(hidden, dst=1)
        dist.recv(hidden, src=1)
        hidden.requires_grad_()
        tokens = self.work.schedule.tokens[step]
        loss = supervised_loss(
            self.lm.model.norm(hidden), batch["labels"], self.lm.lm_head, chunk=512, denominator=tokens
        )
        loss.backward()
        dist.send(hidden.grad, dst=1)
        return loss.item()

    def _layers(self, number: int) -> float:
        import torch
        import torch.distributed as dist

        from kelron_lib.engine.packing import block_mask

        batch, model = self.work.batches[number], self.lm.model
        received = torch.empty(*batch["input_ids"].shape, self.lm.config.hidden_size)
        dist.recv(received, src=0)
        hidden = received
        angles = model.rotary_emb(hidden, batch["position_ids"])
        mask = block_mask(batch["segment_ids"])
        for layer in model.layers:
            hidden = layer(
                hidden,
                attention_mask=mask,
                position_ids=batch["position_ids"],
                position_embeddings=angles,
                use_cache=False,
                segments=None,
            )
        dist.send(hidden.detach(), dst=0)
        gradient = torch.empty_like(received)
        dist.recv(gradient, src=0)
        hidden.backward(gradient)
        return 0.0


def measure(args: argparse.Namespace, world: Any) -> None:
    """One round in one process; process 0 prints what it found."""
    work = Work(args)
    side = Sandwich(work, world) if args.worker == "sandwich" else Shared(work, world)
    losses, seconds = [], []
    for step in range(WARMUP_STEPS + args.steps):
        began = time.perf_counter()
        losses.append(side.step(step))
        world.wait()
        seconds.append(time.perf_counter() - began)
    share = losses if args.worker == "sandwich" else [world.sum(loss) for loss in losses]
    if world.first:
        print(RESULT + json.dumps({"seconds": seconds[WARMUP_STEPS:], "losses": share}))


def one_round(args: argparse.Namespace, arrangement: str) -> dict[str, Any]:
    """Start the processes of an arrangement and return what they found."""
    from kelron_lib.launch import run_processes

    said: list[str] = []
    sizes = {"steps": args.steps, "passes": args.passes, "rows": args.rows, "row-tokens": args.row_tokens, "r": args.r}
    options = [f"--{name}={value}" for name, value in sizes.items()]
    command = (str(Path(__file__).resolve()), "--worker", arrangement, *options)
    environment = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    run_processes(command, ARRANGEMENTS[arrangement], environment=environment, say=said.append)
    found: dict[str, Any] = json.loads(next(line for line in said if line.startswith(RESULT))[len(RESULT) :])
    return found


def main(given: list[str] | None = None) -> dict[str, Any]:
    args = arguments(given)
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in ARRANGEMENTS}
    for _ in range(args.rounds):
        for name, found in rounds.items():
            found.append(one_round(args, name))
    result: dict[str, Any] = {"settings": {k: v for k, v in vars(args).items() if k not in ("json", "worker")}}
    result["processors"] = os.cpu_count()
    reference = rounds["one"][0]["losses"]
    base = statistics.median(second for found in rounds["one"] for second in found["seconds"])
    print(f"{args.steps} steps of {args.passes} passes of {args.rows} x {args.row_tokens} tokens, one thread a process")
    print(f"{'':<10}{'s/step':>9}{'fastest':>9}{'against one':>13}  largest difference of a step's loss")
    for name, found in rounds.items():
        seconds = [second for one in found for second in one["seconds"]]
        apart = max(abs(a - b) / b for one in found for a, b in zip(one["losses"], reference, strict=True))
        median = statistics.median(seconds)
        result[name] = {
            "processes": ARRANGEMENTS[name],
            "seconds_per_step": median,
            "fastest": min(seconds),
            "speedup": base / median,
            "loss_difference": apart,
        }
        print(f"{name:<10}{median:>9.3f}{min(seconds):>9.3f}{result[name]['speedup']:>12.2f}x  {apart:.0e}")
    against = result["sandwich"]["seconds_per_step"] / result["two"]["seconds_per_step"]
    print(f"two processes that share the passes are {against:.2f}x the sandwich")
    result["two_against_sandwich"] = against
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


if __name__ == "__main__":
    parsed = arguments()
    if parsed.worker:
        from kelron_lib.worker import work

        work(lambda world: measure(parsed, world))
    main()
