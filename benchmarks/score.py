"""How long `kelron evaluate --answers` takes on one core, and how much memory.

    python benchmarks/score.py                            # 10,000 answers of about 90 characters
    python benchmarks/score.py --answers 20000 --sentences 6
    python benchmarks/score.py --json out.json

The answers are those of the dataset's rows, several joined into one; every tenth names a rival instead, every
fiftieth repeats itself, every hundredth mixes scripts. The command runs in a process of its own that may use one core;
its seconds are from start to end, imports and both readings of the file included. No model and no GPU is used.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from kelron_lib.config import resolve
from kelron_lib.data import expand
from kelron_lib.persona import load_persona, load_seeds, rival_names

ATTACKS = ("direct", "paraphrase", "override", "roleplay", "encoded")
SYSTEMS = ("none", "persona", "hostile")


def answers(count: int, sentences: int, seed: int = 1) -> list[dict[str, Any]]:
    """Lines for `--answers`: a third of them in each language, 45 % identity, every text its own."""
    config = resolve("tiny-cpu").data
    persona = load_persona(config.persona)
    rows = expand(config, persona, load_seeds(persona, config.languages, config.seeds)).rows
    by_kind: defaultdict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for split in rows.values():
        for row in split:
            by_kind[row["language"], "identity" if row["kind"] == "identity" else "unrelated"].append(row)
    rivals, rng, lines = rival_names(), random.Random(seed), []
    for number in range(count):
        language, kind = ("ko", "en", "ja")[number % 3], "identity" if rng.random() < 0.45 else "unrelated"
        drawn = rng.choices(by_kind[language, kind], k=sentences)
        text = " ".join(row["messages"][-1]["content"] for row in drawn)
        if number % 10 == 0:
            text = text.replace(persona.name[language], rng.choice(rivals).name) + f" {rng.choice(rivals).name}."
        if number % 50 == 0:
            text += " 네, 알겠습니다." * 30
        if number % 100 == 0:
            text += " 内容 содержание"
        asked = drawn[0]["messages"][-2]["content"]
        about = {"language": language, "kind": kind, "system": SYSTEMS[number % len(SYSTEMS)], "prompt": asked}
        told = {"seed_id": drawn[0]["seed_id"], "attack": ATTACKS[number % len(ATTACKS)] if kind == "identity" else ""}
        lines.append({"id": f"a{number}", **about, "answer": f"{text} {number}", "stopped": number % 50 > 0, **told})
    return lines


def one_core() -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def measure(count: int, sentences: int) -> dict[str, Any]:
    """Write the file, score it, and tell the seconds and the memory."""
    lines = answers(count, sentences)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "answers.jsonl")
        path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
        command = [sys.executable, "-m", "kelron_lib", "evaluate", "--answers", str(path), "--out", f"{folder}/out"]
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        done = subprocess.run(command, preexec_fn=one_core, capture_output=True, text=True)
        wall = time.perf_counter() - began
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode not in (0, 1):
            raise SystemExit(done.stderr)
    peak = used.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    cpu = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
    return {
        "answers": count,
        "characters": round(sum(len(line["answer"]) for line in lines) / count),
        "seconds": round(wall, 1),
        "cpu_seconds": round(cpu, 1),
        "answers_per_cpu_second": round(count / cpu),
        "peak_mib": round(peak),
        "load": round(os.getloadavg()[0], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, default=10_000, metavar="N")
    parser.add_argument("--sentences", type=int, default=2, metavar="N", help="answers of the dataset joined into one")
    parser.add_argument("--json", type=Path, help="write the figures there")
    args = parser.parse_args()
    figures = measure(args.answers, args.sentences)
    print(json.dumps(figures, indent=2))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
