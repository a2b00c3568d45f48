"""How long the rows of a preset take to make and to check, and how much memory; and a long stream through the gate.

    python benchmarks/data.py                              # the 35,000 rows of kelron-14b-t4x2
    python benchmarks/data.py --tokens                     # with end tokens, label mask and token lengths, by the tiny
                                                           # base's tokenizer
    python benchmarks/data.py --stream 1000000             # a million made-up rows, read one at a time
    python benchmarks/data.py --json out.json --page out.html

Memory is the highest resident size of this process, imports included. No GPU is used.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kelron_lib.config import RunConfig, resolve
from kelron_lib.data import check_rows, check_splits, expand
from kelron_lib.data.gate import write_page
from kelron_lib.model import load_tokenizer
from kelron_lib.persona import load_persona, load_seeds

LETTERS = {
    "ko": "가나다바아자차하고도로보소오조초호",
    "en": "etaoinhrdlucmfw",
    "ja": "かなはまやらわきしちにひみりうくすつぬ",
}
"""No rival's name can be made of them."""


def peak_mib() -> float:
    """MiB: highest resident size so far."""
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / 2**20 if sys.platform == "darwin" else used / 2**10


def made_up(count: int, seed: int = 1) -> Iterator[dict[str, Any]]:
    """Rows as a file of others' has them: messages and nothing else, every one different."""
    rng = random.Random(seed)

    def text(letters: str, words: int) -> str:
        return " ".join("".join(rng.choices(letters, k=rng.randint(2, 7))) for _ in range(words))

    for number in range(count):
        letters = LETTERS[("ko", "en", "ja")[number % 3]]
        yield {
            "line": number + 1,
            "messages": [
                {"role": "system", "content": ""},
                {"role": "user", "content": text(letters, 8)},
                {"role": "assistant", "content": text(letters, 25)},
            ],
        }


def preset_rows(config: RunConfig, tokenizer: Any) -> tuple[dict[str, Any], dict[str, float]]:
    """The report on a preset's rows, and the seconds of each part."""
    began = time.perf_counter()
    persona = load_persona(config.data.persona)
    made = expand(config.data, persona, load_seeds(persona, config.data.languages, config.data.seeds))
    between = time.perf_counter()
    limits = {} if tokenizer is None else {"tokenizer": tokenizer, "max_tokens": config.data.max_tokens}
    report = check_splits(made.rows, persona, config.data.identity_share, **limits)
    return report, {"making": between - began, "checking": time.perf_counter() - between}


def stream_rows(config: RunConfig, count: int) -> tuple[dict[str, Any], dict[str, float]]:
    began = time.perf_counter()
    report = check_rows(made_up(count), load_persona(config.data.persona), 0.0, own=False)
    return report, {"making and checking": time.perf_counter() - began}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="kelron-14b-t4x2")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="an override of the preset")
    parser.add_argument("--tokens", action="store_true", help="encode the rows, too, with the tiny base's tokenizer")
    parser.add_argument("--stream", type=int, metavar="ROWS", help="made-up rows instead of the preset's")
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--page", type=Path, help="write the gate's page there")
    args = parser.parse_args()
    config = resolve(args.preset, args.set)
    if args.stream:
        report, seconds = stream_rows(config, args.stream)
    else:
        report, seconds = preset_rows(config, load_tokenizer(resolve("tiny-cpu", [])) if args.tokens else None)
    figures = {
        "rows": report["rows"],
        "verdict": report["verdict"],
        "unique_rows": report["unique_rows"],
        "effective_rows": report["effective_rows"],
        "compared_rows": (report["sampled"] or {"rows": report["rows"]})["rows"],
        "max_answer_reuse": report["max_answer_reuse"],
        "seconds": {part: round(taken, 1) for part, taken in seconds.items()},
        "cpu_seconds": round(time.process_time(), 1),  # of both cores together, imports included
        "peak_mib": round(peak_mib()),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    }
    print(json.dumps(figures, indent=2))
    for finding in report["findings"]:
        print(f"{finding['severity']}: {finding['check']}, {finding['count']}: {finding['fix']}")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")
    if args.page:
        write_page(report, args.page, args.preset)


if __name__ == "__main__":
    main()
