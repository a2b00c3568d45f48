"""The command line behind scripts/push_kernels.sh.

Exit code 0 when all is well, 1 when the run went wrong (sessions without progress, a kernel that failed), 2 for input
that cannot be used and for what Kaggle refused.
"""

from __future__ import annotations

import argparse
import re
import sys
import webbrowser
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from kelron_lib.command import Parser, ended
from kelron_lib.config import PRESETS, RunConfig, resolve
from kelron_lib.errors import KelronError
from kelron_lib.kaggle_ops import library, secret
from kelron_lib.kaggle_ops.chain import Chain, Options, scoreboard
from kelron_lib.kaggle_ops.client import Kaggle
from kelron_lib.kaggle_ops.decide import ending
from kelron_lib.kaggle_ops.kernels import KERNELS, NAME, OWNER, TRAINING, stage_stop, stop_slug, timeout_of
from kelron_lib.kaggle_ops.push import follow, page_of
from kelron_lib.kaggle_ops.reach import require_reachable
from kelron_lib.kaggle_ops.sessions import Place, find_session
from kelron_lib.kaggle_ops.watch import Watch
from kelron_lib.runtime import PACKAGE_ROOT

CHOICES = (*KERNELS, "resume-b")


def _say(line: str) -> None:
    print(line, flush=True)


def _config(args: argparse.Namespace) -> RunConfig:
    return resolve(args.preset, args.set)


def _chain(args: argparse.Namespace) -> Chain:
    options = Options(
        project=args.project,
        overrides=tuple(args.set),
        name=args.name,
        **{key: getattr(args, key) for key in _OWN_OPTIONS if hasattr(args, key)},
    )
    return Chain(Kaggle(say=_say), _config(args), options)


_OWN_OPTIONS = ("preflight", "fresh", "now", "once", "dirty", "wheels", "restage", "most", "poll")


def _stage(args: argparse.Namespace) -> int:
    if args.to is not None and not args.dry_run:
        return _stage_to(args)
    chain = _chain(args)
    if not args.dry_run:
        chain.stage()
        return 0
    with TemporaryDirectory(prefix="kelron-library-") as scratch:
        folder = Path(scratch) / "library"
        made = library.stage_library(
            args.project, folder, owner=chain.kaggle.owner, dirty=args.dirty, wheels=args.wheels, say=_say
        )
        commit = library.short(made.commit)
        _say(f"would upload {chain.kaggle.owner}/{made.slug} unless Kaggle has this content: commit {commit}")
        for path in sorted(folder.iterdir()):
            _say(f"  {path.name}  {path.stat().st_size / 1e6:.2f} MB")
    return 0


def _stage_to(args: argparse.Namespace) -> int:
    """For an upload by hand: needs no credentials."""
    if args.to.exists() and (not args.to.is_dir() or any(args.to.iterdir())):
        raise KelronError(f"{args.to} is no empty folder: name one")
    made = library.stage_library(args.project, args.to, owner=OWNER, dirty=args.dirty, wheels=args.wheels, say=_say)
    _say(f"upload what is in {made.folder}, but dataset-metadata.json, as a private dataset named {made.slug}")
    return 0


def _push(args: argparse.Namespace) -> int:
    chain = _chain(args)
    require_reachable(chain.config)
    for kernel in args.kernels:
        view = chain.look()
        active = [one.ref for one in view.active if one.kernel in TRAINING] + list(view.foreign)
        if kernel in TRAINING and active:
            raise KelronError(f"a session of this run, or of one with its name, is active ({active[0]}): one at a time")
        if lacking := chain.lacks(view, kernel) or (kernel in TRAINING and chain.lost(view)):
            raise KelronError(f"{kernel} would fail, {lacking} (`run` does all of it by itself)")
        if args.dry_run:
            chain.require_stageable(view)
            outputs = ", ".join(chain.outputs(view, kernel)) or "nothing"
            most = timeout_of(kernel, chain.config)
            _say(f"would push {chain.ref(kernel)} for at most {most} s; outputs attached: {outputs}")
            continue
        chain.push(view, kernel)
        _say(f"watch it: {page_of(chain.ref(kernel))}, or scripts/push_kernels.sh logs -f {kernel}")
    return 0


def _status(args: argparse.Namespace) -> int:
    chain = _chain(args)
    if args.dry_run:
        _say("would ask Kaggle for the run's kernels")
        return 0
    view = chain.look(any_config=True)
    _say(f"run begun {view.begun}{', stopped' if view.stopped else ''}" if view.begun else "no run on Kaggle yet")
    for pushed in view.pushed.values():
        if pushed.session.active:
            with closing(Watch(chain.kaggle)) as watch:
                watch.show(pushed, chain.hub.known_step, glance=True)
        else:
            number = f", session {pushed.record.number}" if pushed.kernel in TRAINING else ""
            _say(f"{pushed.kernel}{number}: " + "\n".join(ending(pushed)))
    if not view.of(chain.config):
        _say("next: `run` with the preset and the overrides that the run was begun with, which these are not")
        return 0
    step = chain.next(view)
    _say(f"next: {step.kind} {step.kernel} {step.why}".rstrip())
    return 0


def _place(args: argparse.Namespace, chain: Chain) -> Place:
    """The session that is meant, which is told beside what is printed of it."""
    place = find_session(chain.kaggle, chain.kernels, chain.look(any_config=True), args.kernel, args.session)
    print(place.describe(), file=sys.stderr, flush=True)
    return place


def _logs(args: argparse.Namespace) -> int:
    chain = _chain(args)
    if args.dry_run:
        _say(f"would read the log of {_meant(args)}")
        return 0
    place = _place(args, chain)
    if args.follow:
        follow(chain.kaggle, place.ref, _say, place.version)
    else:
        output = chain.kaggle.output(place.ref, place.version, newest=args.session is None)
        lines = output.last_lines(10**9)
        _say("\n".join(lines) if lines else f"the log of {place.ref} is empty: it has not begun, or Kaggle lost it")
    return 0


def _meant(args: argparse.Namespace) -> str:
    return f"the newest session of {args.kernel}" if args.session is None else f"session {args.session}"


def _output(args: argparse.Namespace) -> int:
    chain = _chain(args)
    if args.dry_run:
        _say(f"would download the output of {_meant(args)} to {args.to or chain.options.results}")
        return 0
    place = _place(args, chain)
    ref, folder = place.ref, args.to or chain.options.results / place.name
    files = chain.kaggle.output(ref, place.version, newest=args.session is None).files
    if not files:
        raise KelronError(f"{ref} has no output: `status` says how its session ended")
    top = folder.resolve()
    for number, (name, address) in enumerate(sorted(files.items()), 1):
        if not (target := (top / name).resolve()).is_relative_to(top):
            raise KelronError(f"{ref} names a file outside its output ({name}): nothing more is downloaded")
        _say(f"[{number}/{len(files)}] {name}")
        chain.kaggle.fetch(address, target)
    _say(f"in {folder}")
    return 0


def _quota(args: argparse.Namespace) -> int:
    if args.dry_run:
        _say("would ask Kaggle for the week's GPU hours")
        return 0
    quota = Kaggle(say=_say).quota()
    if quota is None:
        raise KelronError("Kaggle does not tell the quota: it appears once your phone number is verified")
    refresh = f", renewed {quota.refresh:%A %d %B %H:%M} UTC" if quota.refresh else ""
    _say(f"GPU: {quota.used:.1f} of {quota.total:.0f} h used this week, {quota.left:.1f} h left{refresh}")
    return 0


def _run(args: argparse.Namespace) -> int:
    chain = _chain(args)
    require_reachable(chain.config)
    if args.dry_run:
        view = chain.look()
        view = replace(view, stopped=view.stopped and not args.go_on)
        chain.require_stageable(view)
        step = chain.next(view)
        _say(f"next: {step.kind} {step.kernel} {step.why}".rstrip())
        held = chain.gate(view, "train")
        _say(held.line if held else "")
        return 0
    if args.go_on:
        _mark(chain, "")
    folder = chain.run()
    if folder is not None:
        _say(scoreboard(folder))
        _say(f"report: {folder / 'report.html'}")
        if not args.no_open:
            webbrowser.open((folder / "report.html").as_uri())
    return 0


def _stop(args: argparse.Namespace) -> int:
    chain = _chain(args)
    if args.dry_run:
        _say(f"would save {chain.kaggle.owner}/{stop_slug(args.name)}, which keeps every `run` from pushing on, and")
        _say("would ask a session that trains with a store on the Hub to keep a checkpoint and end")
        return 0
    begun = chain.look(any_config=True).begun  # by another clock, perhaps, which must not be ahead of the mark
    _mark(chain, max(begun, datetime.now(UTC).isoformat(timespec="seconds")))
    _say("stopped: no `run`, here or elsewhere, pushes another session of this run; `run --go-on` does again")
    for pushed in chain.look(any_config=True).active:
        _say(f"{pushed.ref} is {pushed.session.status.lower()}")
        if asked := chain.hub.ask_to_stop(pushed):
            _say(asked)
            continue
        _say("it goes on until it is done or its budget is used: Kaggle's API cannot end it. Its page can, and what it")
        _say(f"has not kept elsewhere may be lost then: Cancel Run at {page_of(pushed.ref)}")
    return 0


def _mark(chain: Chain, when: str) -> None:
    with TemporaryDirectory(prefix="kelron-stop-") as scratch:
        stage_stop(Path(scratch), owner=chain.kaggle.owner, name=chain.options.name, when=when)
        answer = chain.kaggle.tried("save the stop mark", lambda: chain.kaggle.save_only(Path(scratch)))
    if answer is None or answer.error:
        raise KelronError(f"Kaggle refused the stop mark: {answer.error if answer else 'without a reason'}")


def _secret(args: argparse.Namespace) -> int:
    kaggle = Kaggle(say=_say)
    if args.dry_run:
        _say(f"would {'delete' if args.delete else 'create'} the private dataset {kaggle.owner}/{secret.SLUG}")
    elif args.delete:
        there = secret.forget_token(kaggle)
        _say("deleted; revoke the token, too, if it is not needed" if there else "there is none")
    else:
        _say(secret.SCOPE)
        _say(f"the token is in the private dataset {secret.keep_token(kaggle, secret.ask_token())}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="push_kernels.sh", description="Kelron on Kaggle, from a laptop.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, run: object, text: str) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=text)
        added.set_defaults(run=run)
        added.add_argument("--dry-run", action="store_true", help="say what would be done and change nothing")
        added.add_argument("--project", type=Path, default=PACKAGE_ROOT, help=argparse.SUPPRESS)
        added.add_argument("--preset", default="kelron-14b-t4x2", help=f"one of {', '.join(PRESETS)} (%(default)s)")
        added.add_argument("--set", action="append", default=[], metavar="SECTION.FIELD=VALUE", help="override a value")
        added.add_argument("--name", default=NAME, help="the run's name, the first word of its kernels (%(default)s)")
        return added

    def staging(parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--dirty", action="store_true", help="stage and push changes that are not committed, marked so"
        )
        parser.add_argument("--wheels", type=Path, help="a folder that holds the pinned wheels (default: download)")

    stage = verb("stage", _stage, "make the library dataset and upload it, if its content changed")
    stage.add_argument("--to", type=Path, metavar="DIR", help="leave its files in an empty folder, and upload nothing")
    staging(stage)
    push = verb("push", _push, "push kernels, each of which starts a session")
    push.add_argument("kernels", nargs="+", choices=CHOICES, metavar="KERNEL", help=", ".join(CHOICES))
    staging(push)
    _add_restage(push)
    verb("status", _status, "where the run stands")
    logs = verb("logs", _logs, "a session's log")
    logs.add_argument("kernel", choices=CHOICES, metavar="KERNEL")
    logs.add_argument("-f", "--follow", action="store_true", help="as it is written, until the session ends")
    output = verb("output", _output, "download what a session left")
    output.add_argument("kernel", choices=CHOICES, metavar="KERNEL")
    output.add_argument("--to", type=Path, help="where to (default: a folder in runs/kaggle/NAME)")
    for reading in (logs, output):
        words = "the run's N-th training session, as `status` numbers them (default: the newest of KERNEL)"
        reading.add_argument("--session", type=_positive, metavar="N", help=words)
    verb("quota", _quota, "the week's GPU hours")
    _add_run(verb("run", _run, "session after session until the run is finished and its report is here"), staging)
    verb("stop", _stop, "push no more sessions of this run; one with a store on the Hub is asked to end, too")
    key = verb("secret", _secret, "keep the Hub's token in a private dataset that pushed kernels can read")
    key.add_argument("--delete", action="store_true", help="delete it again")
    return parser


def _add_run(run: argparse.ArgumentParser, staging: object) -> None:
    assert callable(staging)
    staging(run)
    run.add_argument("--preflight", action="store_true", help="check and measure on Kaggle first")
    words = "begin anew; the same command with the same word (if none: %(const)s) finds that run again"
    run.add_argument("--fresh", nargs="?", default="", const="1", metavar="WORD", help=words, type=_word)
    run.add_argument("--now", action="store_true", help="do not wait for the quota: a shortened session")
    run.add_argument("--go-on", action="store_true", help="go on with a run that was stopped")
    run.add_argument("--once", action="store_true", help="one look and one push at most, for a scheduler")
    _add_restage(run)
    run.add_argument("--no-open", action="store_true", help="do not open the report")
    run.add_argument(
        "--give-up-after",
        dest="most",
        type=_positive,
        default=3,
        metavar="N",
        help="sessions without progress (%(default)s)",
    )
    run.add_argument("--poll", type=_seconds, default=60.0, metavar="SECONDS", help="between two looks (%(default)s)")


def _add_restage(parser: argparse.ArgumentParser) -> None:
    words = "go on with this clone's library and notebooks instead of the run's"
    parser.add_argument("--restage", action="store_true", help=words)


def _word(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.-]{0,40}", text):  # the default is none
        raise argparse.ArgumentTypeError("letters, digits, dots and dashes")
    return text


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 86400:  # nor what is no number
        raise argparse.ArgumentTypeError("seconds, 0 to 86400")
    return seconds


def main(arguments: list[str] | None = None) -> int:
    """Run a verb and return its exit code."""
    args = _parser().parse_args(arguments)
    return ended(
        "push_kernels.sh",
        lambda: args.run(args),
        interrupted="interrupted; what runs on Kaggle goes on, and `run` finds it again",
    )


if __name__ == "__main__":
    sys.exit(main())
