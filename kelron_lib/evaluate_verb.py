"""The command line of `kelron evaluate`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from kelron_lib.config import RunConfig

Run = Callable[[argparse.Namespace, RunConfig], int]


def add_evaluate_verb(verb: Callable[[str, Run, str], argparse.ArgumentParser]) -> None:
    """Add `evaluate` through `verb`, which makes the parser of a verb that takes a config."""
    evaluate = verb("evaluate", _evaluate, "score the base and the tuned model, write scoreboard.json and report.html")
    evaluate.add_argument(
        "--out", type=Path, default=Path("runs/kelron"), help="where the results go (default: %(default)s)"
    )
    evaluate.add_argument("--data", type=Path, help="the dataset's folder (default: OUT/data)")
    evaluate.add_argument("--adapter", type=Path, help="the adapter's folder (default: OUT/adapter)")


def _evaluate(args: argparse.Namespace, config: RunConfig) -> int:
    from kelron_lib.evaluate import scoreboard_table, verdict
    from kelron_lib.evaluate.run import evaluate_run

    scoreboard = evaluate_run(
        config, data=args.data or args.out / "data", adapter=args.adapter or args.out / "adapter", out=args.out
    )
    print(scoreboard_table(scoreboard))
    print(f"report: {args.out / 'report.html'}")
    print("\n".join(verdict(scoreboard["gate"])))
    return 0 if scoreboard["gate"]["passed"] else 1
