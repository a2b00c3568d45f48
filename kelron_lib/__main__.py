"""The command line: one verb per step.

Exit code 0 when all is well, 1 when the work was done and its result is not good (a target missed, a check or a
session failed), 2 for input that cannot be used; to `kelron store` a damaged store is such input, also where it only
lists or verifies it. 130 after Ctrl-C, 143 after a SIGTERM that ended a session.

Heavy imports happen inside the verbs, so that `kelron --help` answers at once.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from kelron_lib import __version__
from kelron_lib.command import Parser, ended
from kelron_lib.config import PRESETS, RunConfig, load_preset, resolve, small_settings, to_json
from kelron_lib.data_verbs import add_data_actions
from kelron_lib.errors import KelronError
from kelron_lib.evaluate_verb import add_evaluate_verb
from kelron_lib.files import cannot_write, write_whole
from kelron_lib.interrupt import Interrupted
from kelron_lib.persona_verbs import add_persona_verbs
from kelron_lib.prove_verb import add_prove_verb
from kelron_lib.publish_verb import add_publish_verb
from kelron_lib.settings import CHAT_LANGUAGE, LANGUAGES
from kelron_lib.store_verbs import add_store_verbs

Verb = Callable[[argparse.Namespace, RunConfig], int]


def _data(args: argparse.Namespace, config: RunConfig) -> int:
    from kelron_lib.data import build_dataset, quality_summary

    print(quality_summary(build_dataset(config, args.out, replace=args.replace)))
    return 0


def _rehearse(args: argparse.Namespace, config: RunConfig) -> int:
    from kelron_lib.rehearse import rehearse, summary

    print(summary(rehearse(config, args.out, most=args.most)))
    print(f"mix them in with: kelron data --set data.own={args.out / 'own_words.jsonl'} --set data.own_share=0.1")
    return 0


def _train(args: argparse.Namespace, config: RunConfig) -> int:
    from kelron_lib.launch import Cluster
    from kelron_lib.train import train

    cluster = Cluster(args.nnodes, args.node_rank, args.rdzv)
    status = train(
        config,
        args.data or args.out / "data",
        args.out,
        must_resume=args.verb == "resume",
        accept_changes=args.accept_change,
        fresh=getattr(args, "fresh", False),
        cluster=cluster,
    )
    return 0 if status.state in ("finished", "budget", "stopped") else 1


def _chat(args: argparse.Namespace, config: RunConfig) -> int:
    from kelron_lib.chat import chat_terminal
    from kelron_lib.model import load_to_answer
    from kelron_lib.persona import load_persona

    persona = load_persona(config.data.persona)
    model, tokenizer = load_to_answer(config, args.adapter)
    chat_terminal(model, tokenizer, persona, config, use_base=args.adapter is None, language=args.language)
    return 0


def _plan(args: argparse.Namespace, config: RunConfig) -> int:
    import json

    from kelron_lib.config import MADE_FOR
    from kelron_lib.data import split_sizes
    from kelron_lib.model import base_name
    from kelron_lib.placement import (
        Epoch,
        attempts,
        attempts_dict,
        attempts_table,
        find_config,
        parse_gpus,
        plan,
        plan_dict,
        plan_svg,
        plan_table,
    )
    from kelron_lib.preflight.run import planned_work

    if args.attempts:
        replays = attempts()
        print(json.dumps(attempts_dict(replays), indent=2) if args.json else attempts_table(replays))
        return 0
    fields = find_config(base_name(config))
    epoch = Epoch(samples=split_sizes(config.data)["train"])
    wanted = MADE_FOR.get(config.preset) or None
    made = plan(fields, planned_work(config, fields), parse_gpus(args.gpus), epoch=epoch, wanted=wanted)
    if args.svg is not None:
        try:
            write_whole(args.svg, plan_svg(made).encode() + b"\n")
        except OSError as error:
            raise cannot_write(f"write {args.svg}", error) from error
    print(json.dumps(plan_dict(made), indent=2) if args.json else plan_table(made))
    return 0


def _preflight(args: argparse.Namespace, config: RunConfig) -> int:
    import json

    from kelron_lib.preflight import preflight, report_dict, report_table

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    report = preflight(config, args.out, quick=args.quick, random_weights=args.random_weights, say=say)
    print(json.dumps(report_dict(report), indent=2) if args.json else report_table(report))
    return 1 if report.failed else 0


def _tiny_base(args: argparse.Namespace) -> int:
    """Takes no config: the recipe alone decides these weights."""
    import json
    from dataclasses import asdict

    from kelron_lib.tiny.build import Recipe, build

    changes = {"device": args.device} | ({} if args.steps is None else {"steps": args.steps})
    if args.dry_run:
        print(json.dumps(asdict(Recipe(**changes)), indent=2))
        return 0
    if args.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise KelronError("--device is cuda but there is no CUDA device: use --device cpu")
    build(args.out, **changes)
    return 0


def _demo(args: argparse.Namespace, config: RunConfig) -> int:
    import importlib.util

    from kelron_lib.demo import run_demo

    if lacking := [name for name in ("papermill", "ipykernel") if importlib.util.find_spec(name) is None]:
        raise KelronError(f"{' and '.join(lacking)} not installed: pip install 'kelron[notebooks]'")
    return 0 if run_demo(config, args.out, notebooks=args.notebooks) else 1


def _add_training_options(training: argparse.ArgumentParser, *, may_begin: bool) -> None:
    """Those of `train` and `resume`; `may_begin`: it may begin a run, and so begin one anew."""
    training.add_argument("--data", type=Path, help="the dataset's folder (default: OUT/data)")
    training.add_argument(
        "--accept-change",
        action="append",
        default=[],
        metavar="KEY",
        help="a config value that may differ from the run's",
    )
    if may_begin:
        training.add_argument("--fresh", action="store_true", help="start at step 0; what the store holds is set aside")
    training.add_argument("--processes", type=int, help="the same as --set session.processes=N")
    _add_allow_foreign(training)
    training.add_argument("--nnodes", type=int, default=1, metavar="N", help="machines that train together")
    training.add_argument("--node-rank", type=int, default=0, metavar="K", help="this machine's number, from 0")
    training.add_argument("--rdzv", default="", metavar="HOST:PORT", help="where machine 0 waits for the others")


def _add_allow_foreign(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--allow-foreign", action="store_true", help="the same as --set store.allow_foreign=true")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="kelron", description="Give an open LLM a new identity on free GPUs.")
    parser.add_argument("--version", action="version", version=f"kelron {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, run: Verb, help_text: str) -> argparse.ArgumentParser:
        added = verbs.add_parser(name, help=help_text, description=help_text)
        added.set_defaults(run=lambda args: _configured(run, args))
        added.add_argument("--preset", default="tiny-cpu", help=f"one of {', '.join(PRESETS)} (default: %(default)s)")
        added.add_argument(
            "--set", action="append", default=[], metavar="SECTION.FIELD=VALUE", help="override one config value"
        )
        added.add_argument("--dry-run", action="store_true", help="print the resolved config and stop")
        return added

    def out(parser: argparse.ArgumentParser, default: str, help_text: str) -> None:
        parser.add_argument("--out", type=Path, default=Path(default), help=f"{help_text} (default: %(default)s)")

    check = verb("preflight", _preflight, "check this machine, plan for it, and measure three real steps")
    check.add_argument("--quick", action="store_true", help="few layers with random weights; times scaled by layers")
    check.add_argument("--random-weights", action="store_true", help="the base's shape, not its weights")
    check.add_argument("--json", action="store_true", help="as JSON")
    _add_allow_foreign(check)
    check.add_argument("--out", type=Path, help="the run's folder; preflight.json goes there (default: nowhere)")
    data = verb("data", _data, "make the dataset from the persona and its seeds")
    out(data, "runs/kelron/data", "the dataset's folder")
    data.add_argument("--replace", action="store_true", help="another dataset that is there gives way")
    add_data_actions(data)
    own = verb("rehearse", _rehearse, "rows in the base's own words: paraphrases, and answers against forgetting")
    out(own, "runs/kelron/own_words", "where the rows go")
    own.add_argument("--most", type=int, default=3000, help="prompts to the base at most (default: %(default)s)")
    for name, text in (
        ("train", "train for one session; goes on where the store's newest checkpoint is"),
        ("resume", "like train, but refuses to start from nothing"),
    ):
        training = verb(name, _train, text)
        out(training, "runs/kelron", "the run's folder")
        _add_training_options(training, may_begin=name == "train")
    add_evaluate_verb(verb)
    add_publish_verb(verb)
    plan = verb("plan", _plan, "the memory on each GPU, which placement fits, and why (arithmetic, no GPU needed)")
    plan.add_argument("--gpus", default="2x14.74", metavar="NxGIB", help="GPUs, in GiB each (default: %(default)s)")
    plan.add_argument("--json", action="store_true", help="as JSON")
    plan.add_argument("--svg", type=Path, metavar="FILE", help="draw what each GPU holds at its peak, too")
    plan.add_argument("--attempts", action="store_true", help="replay the ten placements of the first attempt")
    chat = verb("chat", _chat, "talk to the model in the terminal")
    chat.add_argument("--adapter", type=Path, help="the adapter's folder; without it you talk to the base")
    chat.add_argument(
        "--language", choices=LANGUAGES, default=CHAT_LANGUAGE, help="system prompt's language (default: %(default)s)"
    )
    add_persona_verbs(verbs)
    add_store_verbs(verbs)
    help_text = "train the tiny base model that ships with Kelron again"
    takes = "Takes hours on a CPU and minutes on a GPU (--device cuda)."
    tiny = verbs.add_parser("tiny-base", help=help_text, description=f"{help_text}. {takes}")
    tiny.set_defaults(run=_tiny_base)
    out(tiny, "runs/tiny-base", "the model's folder")
    tiny.add_argument("--steps", type=int, help="optimizer steps (default: those of the shipped one)")
    tiny.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="the shipped one was made on cuda (default: cpu)"
    )
    tiny.add_argument("--dry-run", action="store_true", help="print the recipe and stop")
    add_prove_verb(verbs)
    demo = verb("demo", _demo, "the main job, end to end, by running the notebooks")
    out(demo, "runs/demo", "the run's folder")
    demo.add_argument("--notebooks", type=Path, default=Path("notebooks"), help="where they are (default: %(default)s)")
    return parser


def _configured(run: Verb, args: argparse.Namespace) -> int:
    """Run a verb with the config that its options give, or only print that config, its persona looked up."""
    overrides = [*args.set]
    if getattr(args, "small", False):  # what is set by name stays
        few = small_settings(load_preset(args.preset))
        overrides = [*(f"evaluate.{name}={value}" for name, value in few.items()), *overrides]
    if (asked := getattr(args, "processes", None)) is not None:
        overrides.append(f"session.processes={asked}")
    if getattr(args, "allow_foreign", False):
        overrides.append("store.allow_foreign=true")
    config = resolve(args.preset, overrides)
    if args.dry_run:
        from kelron_lib.persona import load_persona

        load_persona(config.data.persona)
        print(to_json(config), end="")
        return 0
    return run(args, config)


def _going_on(arguments: Sequence[str], resumes: bool) -> str:
    """The line with the command that goes on where this one was interrupted: resuming, or the same again."""
    verb, *options = arguments
    if resumes:
        verb, options = "resume", [option for option in options if not _is_fresh(option)]
    return f"go on with: {shlex.join(['kelron', verb, *options])}"


def _is_fresh(option: str) -> bool:
    """Whether it is `--fresh`, which may be shortened."""
    return len(option) > 2 and "--fresh".startswith(option)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb and return its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    args = _parser().parse_args(arguments)

    def go_on(error: KeyboardInterrupt) -> str | None:
        if isinstance(error, Interrupted):
            return _going_on(arguments, error.resumes)
        early = args.verb in ("train", "resume", "evaluate")  # before there was anything that could say more
        return _going_on(arguments, resumes=False) if early else None

    return ended("kelron", lambda: args.run(args), go_on=go_on)


if __name__ == "__main__":
    sys.exit(main())
