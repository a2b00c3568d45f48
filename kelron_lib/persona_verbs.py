"""The command line of `kelron persona`: write a persona file, look it through, show one."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kelron_lib.errors import KelronError
from kelron_lib.persona_new.fields import FIELDS
from kelron_lib.settings import LANGUAGES


def add_persona_verbs(verbs: Any) -> None:
    """Add `persona` and its actions to the command line's verbs."""
    text = "write, check and show persona files: who the model is to be"
    actions = verbs.add_parser("persona", help=text, description=text).add_subparsers(
        dest="action", required=True, metavar="ACTION"
    )

    def action(name: str, run: Callable[[argparse.Namespace], int], help_text: str) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = actions.add_parser(name, help=help_text, description=help_text)
        added.set_defaults(run=run)
        return added

    _add_new_options(action("new", _new, "write a persona file from a few questions, or from options alone"))
    check = action("check", _check, "look a persona file through, and say what data it will give")
    check.add_argument("persona", metavar="PERSONA", help="a persona file, or a packaged persona's name")
    show = action("show", _show, "print a persona, or the names of those that ship with Kelron")
    show.add_argument("persona", metavar="PERSONA", nargs="?", help="a persona file, or a packaged persona's name")


def _add_new_options(new: argparse.ArgumentParser) -> None:
    new.add_argument("file", metavar="FILE", type=Path, help="the file to write; one that is there stays as it is")
    new.add_argument("--yes", action="store_true", help="ask nothing: take what is suggested for what is not given")
    new.add_argument("--from-answers", type=Path, metavar="YAML", help="a file with some keys of a persona file")
    new.add_argument("--id", help="short id (default: the file's name)")
    new.add_argument("--speech", help="level of its answers in all languages, polite or casual (default: polite)")
    new.add_argument(
        "--pronunciation",
        action="append",
        default=[],
        metavar="NAME=READING",
        help="how Korean reads a name in Latin letters, in Hangul",
    )
    for field in FIELDS:
        for language in LANGUAGES:
            new.add_argument(
                f"--{field.option}-{language}",
                action="append" if field.is_list else "store",
                metavar="TEXT",
                help=f"{field.question} ({language}){'; may be given again' if field.is_list else ''}",
            )


def _given(args: argparse.Namespace) -> dict[str, Any]:
    """What the options and the answers file say; an option goes before the file."""
    from kelron_lib.persona_new.answers import read_answers

    given = read_answers(args.from_answers) if args.from_answers else {}
    for field in FIELDS:
        told = {language: getattr(args, f"{field.option}_{language}") for language in LANGUAGES}
        told = {language: value for language, value in told.items() if value is not None}
        if told:
            given[field.key] = {**given.get(field.key, {}), **told}
    if args.speech:
        given["speech"] = dict.fromkeys(LANGUAGES, args.speech)
    for pair in args.pronunciation:
        written, equals, reading = pair.partition("=")
        if not (equals and written.strip() and reading.strip()):
            raise KelronError(f"--pronunciation {pair!r}: write it as NAME=READING, as in Folimi=폴리미")
        given["pronunciation"] = {**given.get("pronunciation", {}), written.strip(): reading.strip()}
    given["id"] = args.id or given.get("id") or args.file.stem
    return given


def _new(args: argparse.Namespace) -> int:
    import sys

    from kelron_lib.persona_new.answers import Asker, gather
    from kelron_lib.persona_new.write import write_persona

    if args.file.exists():  # said before any question is asked
        raise KelronError(f"{args.file} is there already, and stays as it is: name another file")
    terminal = sys.stdin.isatty() and not args.yes
    try:
        answers = gather(_given(args), Asker(input if terminal else None))
    except EOFError:
        raise KelronError("the questions ended early: nothing written") from None
    report = write_persona(answers, args.file)
    print("\n".join(report.lines()))
    print(
        f"{args.file}: written; edit it, look at it with `kelron persona check {args.file}`, and make data of it with"
    )
    print(f"  kelron data --set data.persona={args.file} --out runs/{report.persona.id}/data")
    return 0


def _check(args: argparse.Namespace) -> int:
    from kelron_lib.persona_check import check_persona

    report = check_persona(args.persona)
    print("\n".join(report.lines()))
    return 0 if report.ok else 1


def _show(args: argparse.Namespace) -> int:
    from kelron_lib.persona import load_persona, persona_names
    from kelron_lib.persona_check import persona_lines

    if args.persona is None:
        for name in persona_names():
            persona = load_persona(name)
            print(f"{name:<10} {persona.role['en']}, by {persona.maker['en']}")
        return 0
    persona = load_persona(args.persona)
    print("\n".join([*persona_lines(persona), *persona.notes]))
    return 0
