"""The command line of `kelron evaluate`: a model's answers asked for and scored, or a file of answers scored."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kelron_lib.config import RunConfig
from kelron_lib.errors import KelronError

Run = Callable[[argparse.Namespace, RunConfig], int]

_OUT = Path("runs/kelron")
_OF_A_MODEL = ("data", "adapter", "against", "small", "list_prompts", "lm_eval")
"""Options that a file of answers has no use for."""


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _as_setting(key: str) -> Callable[[str], str]:
    return lambda value: f"{key}={value}"


def add_evaluate_verb(verb: Callable[[str, Run, str], argparse.ArgumentParser]) -> None:
    """Add `evaluate` through `verb`, which makes the parser of a verb that takes a config."""
    evaluate = verb("evaluate", _evaluate, "score the base and the tuned model, write scoreboard.json and report.html")
    evaluate.add_argument("--out", type=Path, help=f"where the results go (default: {_OUT}; none for --answers)")
    evaluate.add_argument("--data", type=Path, help="the dataset's folder (default: OUT/data)")
    evaluate.add_argument("--adapter", type=Path, help="the adapter's folder (default: OUT/adapter)")
    evaluate.add_argument("--answers", type=Path, metavar="FILE.jsonl", help="score these answers, asking no model")
    evaluate.add_argument("--against", type=Path, metavar="DIR", help="an earlier evaluation to compare with")
    tasks = "public benchmarks besides, by their names in lm-eval (kelron[lm-eval]), such as haerae,arc_easy"
    evaluate.add_argument("--lm-eval", type=_names, metavar="TASK,...", help=tasks)
    evaluate.add_argument("--small", action="store_true", help="few prompts of every kind: about 10 minutes for a 14B")
    evaluate.add_argument("--list-prompts", action="store_true", help="print what would be asked, and ask nothing")
    for option, key, metavar, words in (
        ("--policy", "evaluate.policy", "NAME|FILE", "the targets that decide the exit code"),
        ("--prompts", "evaluate.prompts", "FILE", "prompts of your own, asked besides"),
        ("--persona", "data.persona", "NAME|FILE", "whose identity is looked for"),
    ):
        help_text = f"{words}: the same as --set {key}=..."
        evaluate.add_argument(
            option, dest="set", action="append", type=_as_setting(key), metavar=metavar, help=help_text
        )


def _evaluate(args: argparse.Namespace, config: RunConfig) -> int:
    if args.answers is not None:
        return _score_file(args, config)
    from kelron_lib.evaluate.lm_eval import lines, ready
    from kelron_lib.evaluate.run import evaluate_run, list_prompts

    out = args.out or _OUT
    data, adapter = args.data or out / "data", args.adapter or out / "adapter"
    if args.list_prompts:
        print(list_prompts(config, data))
        return 0
    if args.lm_eval is not None:
        ready(args.lm_eval)  # before hours of answering
    tasks = args.lm_eval or ()
    board = evaluate_run(config, data=data, adapter=adapter, out=out, against=args.against, benchmarks=tasks)
    more = lines(board["lm_eval"]) if tasks else []
    return _told(board, *more, f"report: {out / 'report.html'}")


def _score_file(args: argparse.Namespace, config: RunConfig) -> int:
    from kelron_lib.evaluate.answers_file import FLAGGED_FILE, score_file
    from kelron_lib.evaluate.gate import load_policy
    from kelron_lib.persona import load_persona, rival_names

    for option in _OF_A_MODEL:
        if getattr(args, option):
            raise KelronError(f"--answers asks no model, so --{option.replace('_', '-')} says nothing: leave one out")
    if any(override.startswith("evaluate.prompts=") for override in args.set):
        raise KelronError("--answers asks no model, so prompts of your own say nothing: leave one out")
    if args.out is None:
        raise KelronError("--answers needs --out: name the folder for scoreboard.json and the flagged answers")
    # A preset's policy is for a model that is asked here, base and all; a file shows what it shows.
    named = any(override.startswith("evaluate.policy=") for override in args.set)
    policy = load_policy(config.evaluate.policy if named else "answers")
    board = score_file(args.answers, load_persona(config.data.persona), rival_names(), args.out, policy)
    told = [f"flags: {args.out / FLAGGED_FILE}"]
    if empty := sum(board["meta"]["empty"].values()):
        told.append(f"{empty} answer{' is' if empty == 1 else 's are'} empty, which counts as not ended")
    return _told(board, *told)


def _told(board: dict[str, Any], *lines: str) -> int:
    """Print how many were asked, the table, the lines and the verdict; the exit code."""
    from kelron_lib.evaluate import scoreboard_table, verdict
    from kelron_lib.evaluate.tables import asked_line

    print(asked_line(board))
    print(scoreboard_table(board))
    print("\n".join(lines))
    print("\n".join(verdict(board["gate"])))
    return 0 if board["gate"]["passed"] else 1
