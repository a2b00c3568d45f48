"""Answers a second: Kelron's batches against transformers' `generate`, one prompt at a time and in the same batches.

    python benchmarks/generate.py                                    # the tiny base and real questions, on the CPU
    python benchmarks/generate.py --random-weights --cap-gib 14.2 --json out.json    # 14B in nf4 with fp16, on CUDA

The same prompts, greedy, the same stop tokens. `generate, one by one`: transformers' `generate` for each prompt;
`generate`: the same in left-padded batches, in the order of the prompts; `kelron`: `generate_ids`, which sorts by
length and gives the place of an answer that has ended to the next prompt, on the model as `kelron evaluate` loads it.
`equal`: the share of the answers, as tokens, that are those of `generate` one by one (of the prompts that it was
given). With random weights, prompts are random tokens of the lengths of the training benchmark's samples, and every
--stop-every-th token of the vocabulary stops an answer, so that answers have many lengths. Where a batch does not fit
the memory, `generate` ends; `kelron` answers as many at once as fit, as it does in use.
"""

from __future__ import annotations

import argparse
import functools
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
from harness.measure import GIB, memory, synchronise, top_kernels, where_time_goes
from harness.models import SHAPES, add_adapter, lengths, random_model

Ids = list[int]


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--random-weights", action="store_true", help="a model of --shape in nf4 with an adapter, of random weights")
    add("--shape", choices=sorted(SHAPES), default="qwen2.5-14b" if torch.cuda.is_available() else "tiny")
    add("--r", type=int, default=128, help="rank of the random adapter; 0: none")
    add("--embedding", choices=("device", "host"), default="host", help="where the random model's table rests")
    add(
        "--batch-sizes",
        type=int,
        nargs="+",
        metavar="N",
        default=None,
        help="default: 16 64; on a CPU also 1",
    )
    add("--prompts", type=int, default=256, help="prompts at most; a batch size gets four times as many")
    add("--one-by-one", type=int, default=0, metavar="N", help="prompts asked one by one (default: 4; on a CPU 32)")
    add("--new-tokens", type=int, default=64)
    add("--stop-every", type=int, default=32, help="of a random model's vocabulary; 0: nothing stops an answer")
    add("--cap-gib", type=float, default=0.0, help="what the allocator may reserve, to stand for a smaller GPU")
    add("--profile", action="store_true", help="where the time goes in Kelron's largest batch, by kind of kernel")
    add("--threads", type=int, default=1, help="of torch, on a CPU")
    add("--json", type=Path, metavar="FILE")
    args = parser.parse_args(given)
    cuda = torch.cuda.is_available()
    args.batch_sizes = args.batch_sizes or ([16, 64] if cuda else [1, 16, 64])
    args.one_by_one = args.one_by_one or (4 if cuda else 32)
    return args


def real(args: argparse.Namespace) -> tuple[Any, list[Ids], list[int]]:
    """The tiny base, questions of its persona's seeds, and its stop tokens."""
    from kelron_lib.config import resolve
    from kelron_lib.model import load_base, quiet_libraries
    from kelron_lib.persona import load_persona, load_seeds
    from kelron_lib.prompts import encode_prompt
    from kelron_lib.rehearse.asked import asked_of_base

    config = resolve("tiny-cpu")
    persona = load_persona(config.data.persona)
    asked = asked_of_base(
        load_seeds(persona, config.data.languages, config.data.seeds), persona, config.data, args.prompts
    )
    with quiet_libraries():
        model, tokenizer = load_base(config)
    return model, [encode_prompt(tokenizer, item.prompt()) for item in asked], [*config.model.stop_token_ids]


def random(args: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> tuple[Any, list[Ids], list[int]]:
    """A model of random weights, random prompts, and the tokens that stop it."""
    from kelron_lib.engine.prepare import place_ends

    model = random_model(args.shape, device, dtype)
    place_ends(model, embedding=args.embedding, head="keep")
    if args.r:
        model = add_adapter(model, args.r, 0.0)
    source = torch.Generator().manual_seed(0)
    vocabulary = SHAPES[args.shape]["vocab_size"]
    prompts = [torch.randint(vocabulary, (length,), generator=source).tolist() for length in lengths(args.prompts)]
    return model.eval(), prompts, [*range(0, vocabulary, args.stop_every)] if args.stop_every else []


def generate(
    model: Any, prompts: Sequence[Ids], args: argparse.Namespace, stops: Sequence[int], batch: int
) -> list[Ids]:
    """transformers' own greedy search, left padded."""
    device = next(parameter for parameter in model.parameters() if parameter.is_floating_point()).device
    said = []
    for start in range(0, len(prompts), batch):
        rows = prompts[start : start + batch]
        width = max(map(len, rows))
        ids = torch.tensor([[0] * (width - len(row)) + row for row in rows], device=device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
        with torch.inference_mode():
            found = model.generate(
                input_ids=ids,
                attention_mask=mask,
                do_sample=False,
                repetition_penalty=1.0,
                use_cache=True,
                max_new_tokens=args.new_tokens,
                eos_token_id=list(stops) or None,
                pad_token_id=0,
            )
        said += [until_stop(row, stops) for row in found[:, width:].tolist()]
    return said


def until_stop(ids: Ids, stops: Sequence[int]) -> Ids:
    """An answer without what pads its row behind its stop token."""
    known = set(stops)
    end = next((i for i, token in enumerate(ids) if token in known), len(ids))
    return ids[: end + 1]


def kelron(model: Any, prompts: Sequence[Ids], args: argparse.Namespace, stops: Sequence[int], batch: int) -> list[Ids]:
    from kelron_lib.generate import generate_ids

    return generate_ids(model, prompts, max_new_tokens=args.new_tokens, batch_size=batch, stop_token_ids=stops)


def timed(how: Callable[[], list[Ids]], device: torch.device) -> dict[str, Any]:
    """Answers, seconds and memory of one arrangement; what did not fit says so."""
    halvings = Halvings()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    synchronise(device)
    began = time.perf_counter()
    try:
        said = how()
    except torch.OutOfMemoryError:
        return {"out_of_memory": True}
    finally:
        halvings.end()
    synchronise(device)
    seconds = time.perf_counter() - began
    tokens = sum(map(len, said))
    rate = {"seconds": seconds, "tokens": tokens, "tokens_per_second": tokens / seconds, "halved": halvings.count}
    return {**rate, "said": said, **memory(device)}


class Halvings(logging.Handler):
    """How often Kelron's batch was halved because it did not fit."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self._of = logging.getLogger("kelron_lib.generate")
        self._of.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.count += 1

    def end(self) -> None:
        self._of.removeHandler(self)


def measure(args: argparse.Namespace, model: Any, prompts: list[Ids], stops: list[int], device: torch.device) -> Any:
    """Every arrangement, each warmed up: first transformers' on the model as it was loaded, then Kelron's on the model
    as Kelron loads it, which cannot be taken back."""
    from kelron_lib.engine.inference import speed_up_inference

    rows = []
    for way in (generate, kelron):
        if way is kelron:
            print(f"kernels: {speed_up_inference(model)}", flush=True)
        way(model, prompts[:2], argparse.Namespace(new_tokens=4), stops, 2)
        asked = [(f"{way.__name__}, one by one", 1, args.one_by_one)]
        asked += [(way.__name__, batch, 4 * batch) for batch in args.batch_sizes]
        for name, batch, count in asked:
            rows.append({"way": name, "batch": batch, "prompts": count})
            rows[-1] |= timed(functools.partial(way, model, prompts[:count], args, stops, batch), device)
            print(told(rows[-1]), flush=True)
    return compared(rows)


def compared(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with how many of their answers are those that `generate` gives one by one."""
    reference = rows[0]["said"]
    for row in rows:
        both = list(zip(row.pop("said", []), reference, strict=False))
        row["compared"], row["equal"] = len(both), sum(mine == its for mine, its in both)
    return rows


def told(row: dict[str, Any]) -> str:
    """A row of the table, as soon as it is known."""
    rate = "out of memory" if row.get("out_of_memory") else f"{row['tokens_per_second']:.1f} tokens/s"
    return f"  {row['way']}, {row['batch']} at once: {rate}"


def report(result: dict[str, Any]) -> None:
    print(f"{result['model']} on {result['device']}, torch {result['torch']}, transformers {result['transformers']}")
    print(
        f"prompts of {result['prompt_tokens']:.0f} tokens on average, answers of up to {result['new_tokens']};", end=" "
    )
    print(f"{result['weights']:.2f} GiB of weights; set-up {result['setup']:.0f} s")
    print("| way | batch | prompts | tokens | tokens/s | x one by one | equal | allocated | reserved |")
    print("|---|---|---|---|---|---|---|---|---|")
    alone = result["rows"][0]["tokens_per_second"]
    for row in result["rows"]:
        head = f"| {row['way']} | {row['batch']} | {row['prompts']} |"
        if row.get("out_of_memory"):
            print(f"{head} out of memory | | | | | |")
            continue
        halved = f" (halved {row['halved']} times)" if row["halved"] else ""
        print(
            f"{head} {row['tokens']} | {row['tokens_per_second']:.1f}{halved} | {row['tokens_per_second'] / alone:.1f} "
            f"| {row['equal']} of {row['compared']} | {row['peak_allocated']:.2f} | {row['peak_reserved']:.2f} |"
        )
    for kind, spent in result.get("milliseconds", {}).items():
        print(f"  {kind:<16}{spent:9.1f} ms")
    for spent, launches, name in result.get("top_kernels", []):
        print(f"  {spent:9.2f} ms {launches:6d}  {name[:110]}")


def main(given: list[str] | None = None) -> dict[str, Any]:
    import transformers

    args = arguments(given)
    transformers.utils.logging.set_verbosity_error()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    if device.type == "cpu":
        torch.set_num_threads(args.threads)
    elif args.cap_gib:
        total = torch.cuda.get_device_properties(device).total_memory / GIB
        torch.cuda.set_per_process_memory_fraction(min(1.0, args.cap_gib / total))
    began = time.perf_counter()
    model, prompts, stops = random(args, device, dtype) if args.random_weights else real(args)
    result: dict[str, Any] = {
        "model": f"{args.shape}, random weights, r={args.r}" if args.random_weights else "the tiny base",
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "CPU",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "settings": {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()},
        "prompt_tokens": sum(map(len, prompts)) / len(prompts),
        "new_tokens": args.new_tokens,
        "setup": time.perf_counter() - began,
        "weights": torch.cuda.memory_allocated() / GIB if device.type == "cuda" else 0.0,
    }
    result["rows"] = measure(args, model, prompts, stops, device)
    if args.profile and device.type == "cuda":
        batch = max(args.batch_sizes)
        few = argparse.Namespace(new_tokens=16)
        step = lambda: kelron(model, prompts[:batch], few, [], batch)  # noqa: E731 - what is timed
        result["milliseconds"], result["top_kernels"] = where_time_goes(step, device, 1), top_kernels(step, 12)
    report(result)
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


if __name__ == "__main__":
    main()
