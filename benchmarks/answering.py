"""A small evaluation's questions, asked by one process a GPU, by one alone, and by one a GPU after a kill: the same?

    python benchmarks/answering.py --dir FOLDER    # the 14B's shape on all GPUs (40 GiB of disk), else tiny on the CPU

The prompts, dialogues and multiple-choice items are those of `kelron evaluate --small` with the preset's persona, and
base and tuned model answer them through `answers.ask`, which is what that command calls. On GPUs the base has random
weights, written as the Hub has them and loaded as a user's run loads them, with the tiny base's tokenizer and a random
adapter: nothing ends an answer before --new-tokens. What is kept by then is killed at --kill-at of the parts. Exits 1
where an answer differs; in fp16 two kinds of GPU may, one kind must not.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
from harness.checkpoints import write_checkpoint
from harness.models import SHAPES, with_tokenizer

from kelron_lib.answers import BASE, TUNED, Asking, ask, measured, work_done
from kelron_lib.config import RunConfig, resolve, small
from kelron_lib.data.expand import expand
from kelron_lib.evaluate.choices import choices, load_items
from kelron_lib.evaluate.prompts import prompts_of
from kelron_lib.model import add_lora, load_base, quiet_libraries
from kelron_lib.persona import load_persona, load_seeds

AGAIN = """
import json, sys
from pathlib import Path
from kelron_lib.answers import Asking, ask
told = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
ask(Asking.from_dict(told), Path(sys.argv[2]), processes=int(sys.argv[3]), say=lambda line: print(line, flush=True))
"""
"""Asks in a process that can be killed."""


def config_of(folder: Path, shape: str) -> RunConfig:
    """The run's config; writes the checkpoint that it names."""
    if not torch.cuda.is_available():
        return resolve("tiny-cpu")
    base = folder / "base"
    base.mkdir()
    write_checkpoint(shape, base)
    return resolve("kelron-14b-t4x2", overrides=with_tokenizer(base))


def random_adapter(config: RunConfig, folder: Path) -> Path:
    """An adapter whose update is not zero, in a folder. The model is gone from memory afterwards."""
    with quiet_libraries():
        model = add_lora(load_base(config)[0], config)
    source = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.copy_(torch.randn(parameter.shape, generator=source) * 0.005)
    model.save_pretrained(folder / "adapter")
    del model
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return folder / "adapter"


def asking_of(config: RunConfig, adapter: Path, new_tokens: int) -> Asking:
    """What `kelron evaluate --small` would ask with this config."""
    evaluate = small(config).evaluate
    persona = load_persona(config.data.persona)
    rows = expand(
        replace(config.data, rows=min(config.data.rows, 1000)),
        persona,
        load_seeds(persona, config.data.languages, config.data.seeds),
    ).rows
    prompts = prompts_of(evaluate, rows["test"], persona, train=rows["train"])
    items = load_items(config.data.languages, evaluate.choice_items)
    return Asking(
        config=config,
        prompts=tuple(prompt["messages"] for prompt in prompts),
        turns=tuple(tuple(prompt.get("turns", ())) for prompt in prompts),
        max_new_tokens=new_tokens,
        batch_size=evaluate.batch_size,
        adapter=adapter,
        models=(BASE, TUNED),
        measures=(choices(items, evaluate.batch_size),),
    )


def parts_in(folder: Path) -> int:
    """How many parts a folder keeps: its whole lines that are not blank (each process begins with a blank one)."""
    return sum(any(line) for file in folder.glob("answers-*.jsonl") for line in file.read_bytes().split(b"\n")[:-1])


def killed(asking: Asking, folder: Path, processes: int, after: int) -> None:
    """Ask until so many parts are kept, then SIGKILL the one that started the others."""
    told = folder.with_suffix(".json")
    told.write_text(json.dumps(asking.to_dict()), encoding="utf-8")
    run = subprocess.Popen([sys.executable, "-c", AGAIN, str(told), str(folder), str(processes)])
    while parts_in(folder) < after and run.poll() is None:
        time.sleep(0.2)
    run.send_signal(signal.SIGKILL)
    run.wait()
    time.sleep(15)  # the answering processes see that nobody is there, and end


def asked(name: str, asking: Asking, folder: Path, processes: int) -> dict[str, Any]:
    """One way of asking: what was said, and what it took."""
    began = time.monotonic()
    found = ask(asking, folder, processes=processes, say=lambda line: print(f"{name}: {line}", flush=True))
    wall = time.monotonic() - began
    said = [
        [[*(one.text for one in getattr(answer, "earlier", ())), answer.text, answer.tokens] for answer in answers]
        for answers in found.values()
    ]
    return {"wall": wall, **work_done(folder), "said": said, "measured": measured(folder)}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--dir", type=Path, default=Path("runs"), help="where all is written (and removed)")
    add("--shape", choices=sorted(SHAPES), default="qwen2.5-14b", help="of the base on GPUs")
    add("--new-tokens", type=int, default=32)
    add("--processes", type=int, default=torch.cuda.device_count() or 2, help="default: one a GPU; 2 on a CPU")
    add("--kill-at", type=float, default=0.4, help="share of the parts that are kept when all is killed")
    add("--json", type=Path, metavar="FILE")
    return parser.parse_args()


def main() -> int:
    args = arguments()
    folder = args.dir / "answering-benchmark"
    folder.mkdir(parents=True)
    try:
        config = config_of(folder, args.shape)
        asking = asking_of(config, random_adapter(config, folder), args.new_tokens)
        runs = {"all": asked("all", asking, folder / "all", args.processes)}
        parts = parts_in(folder / "all")
        killed(asking, folder / "cut", args.processes, max(1, round(args.kill_at * parts)))
        kept = parts_in(folder / "cut")
        runs["cut"] = asked("cut", asking, folder / "cut", args.processes)
        runs["one"] = asked("one", asking, folder / "one", 1)
    finally:
        shutil.rmtree(folder)
    dialogues = sum(bool(turns) for turns in asking.turns)
    place = ", ".join(runs["all"]["devices"])
    print(f"{len(asking.prompts)} prompts, {dialogues} of them dialogues, base and tuned; {parts} parts; {place}")
    for name, run in runs.items():
        print(
            f"{name:>4}: {run['processes']} processes, {run['tokens']} tokens in {run['seconds']:.0f} s of answering "
            f"({run['tokens_per_second']} tokens/s), {run['measuring_seconds']:.0f} s of choices, {run['wall']:.0f} s "
            f"with loading{f', after {kept} of {parts} parts were kept' if name == 'cut' else ''}"
        )
    same = {name: run.pop("said") for name, run in runs.items()}
    scores = {name: run.pop("measured") for name, run in runs.items()}
    if args.json:
        args.json.write_text(json.dumps(runs, indent=2) + "\n", encoding="utf-8")
    different = [name for name in ("cut", "one") if same[name] != same["all"] or scores[name] != scores["all"]]
    for name in different:
        pairs = [
            pair for ours, its in zip(same["all"], same[name], strict=True) for pair in zip(ours, its, strict=True)
        ]
        unlike = sum(ours != its for ours, its in pairs)
        print(f"NOT EQUAL: {name}: {unlike} of {len(pairs)} answers, choices {scores[name] == scores['all']}")
    if not different:
        print("answers and choices are the same in all three")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
