"""The command line of `kelron data` beside making a dataset: check one, or a file of others; show one; push it."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kelron_lib.config import RunConfig, apply_overrides, from_dict, load_preset
from kelron_lib.errors import KelronError
from kelron_lib.settings import LANGUAGES


def add_data_actions(data: argparse.ArgumentParser) -> None:
    """Add the actions to the parser of `kelron data`, which makes a dataset where none is named."""
    actions = data.add_subparsers(dest="action", metavar="ACTION", title="what else it does", required=False)

    def action(name: str, run: Callable[[argparse.Namespace], int], help_text: str) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = actions.add_parser(name, help=help_text, description=help_text)

        def checked(args: argparse.Namespace) -> int:
            for option in ("preset", "set", "dry_run", "out", "replace"):
                if getattr(args, option) != data.get_default(option):
                    told = f"--{option.replace('_', '-')}"
                    raise KelronError(f"{told} before {name} is for making a dataset: put what {name} takes behind it")
            return run(args)

        added.set_defaults(run=checked)
        return added

    check = action("check", _check, "put a dataset, or a chat file that others made, through the quality gate")
    check.add_argument(
        "path", metavar="PATH", type=Path, help="a dataset's folder, or a .jsonl, .json or .csv file of dialogues"
    )
    check.add_argument("--persona", help="whose identity the rows are to teach (default: the dataset's, else kelron)")
    check.add_argument("--report", metavar="DIR", type=Path, help="write quality.json and quality.html there")
    check.add_argument(
        "--preset", dest="as_preset", metavar="PRESET", help="check lengths and end tokens as this preset trains, too"
    )
    check.add_argument(
        "--set",
        dest="as_set",
        action="append",
        default=[],
        metavar="SECTION.FIELD=VALUE",
        help="override one config value",
    )
    show = action("show", _show, "print rows of a dataset")
    show.add_argument("path", metavar="PATH", type=Path, help="the dataset's folder")
    show.add_argument("--split", choices=("train", "validation", "test"), default="train", help="(default: train)")
    show.add_argument("--language", choices=LANGUAGES, default="", help="of this language alone")
    show.add_argument("--kind", choices=("identity", "business", "chat"), default="", help="of this kind alone")
    show.add_argument("--rows", type=int, default=10, metavar="N", help="at most so many (default: %(default)s)")
    show.add_argument("--json", action="store_true", help="as JSON lines, for other tools")
    push = action("push", _push, "send a dataset to a private dataset repo on the Hugging Face Hub")
    push.add_argument("path", metavar="PATH", type=Path, help="the dataset's folder")
    push.add_argument("--repo", required=True, metavar="OWNER/NAME", help="the repo; it is made if there is none")
    push.add_argument(
        "--allow-foreign", action="store_true", help="OWNER may be another than your token's, such as an organisation"
    )


def _config_for(args: argparse.Namespace) -> tuple[RunConfig, bool]:
    """By which config a path is checked, and whether that is meant to train on it: that of the options, or the one that
    the dataset names."""
    from kelron_lib.data import CONFIG_FILE
    from kelron_lib.runtime import read_json

    told = args.path / CONFIG_FILE
    if args.as_preset is None and told.is_file():
        config, meant = from_dict(read_json(told)), True
    else:
        config, meant = load_preset(args.as_preset or RunConfig().preset), args.as_preset is not None
    overrides = [*args.as_set, *([f"data.persona={args.persona}"] if args.persona else [])]
    return apply_overrides(config, overrides), meant


def _tokenizer(config: RunConfig) -> Any:
    """The base's tokenizer; None, said in a line, where it cannot be had here."""
    from kelron_lib.model import load_tokenizer, quiet_libraries

    try:
        with quiet_libraries():
            return load_tokenizer(config)
    except KelronError as error:
        print(f"lengths in tokens are not checked: {error}")
        return None


def _check(args: argparse.Namespace) -> int:
    from kelron_lib.data import check_path, is_dataset, open_foreign, quality_summary, write_quality
    from kelron_lib.persona import load_persona

    if not is_dataset(args.path):
        open_foreign(args.path)  # what is no chat file is told before anything heavy is loaded
    config, meant = _config_for(args)
    persona = load_persona(config.data.persona)
    report = check_path(
        args.path,
        persona,
        config.data.identity_share,
        tokenizer=_tokenizer(config) if meant else None,
        max_tokens=config.data.max_tokens,
    )
    print(quality_summary(report))
    if args.report is not None:
        write_quality(report, args.report, args.path.name)
        print(f"report: {args.report / 'quality.html'}")
    return 1 if report["verdict"] == "fail" else 0


def _show(args: argparse.Namespace) -> int:
    from kelron_lib.data import find_rows, rows_json, rows_text

    wanted = {"language": args.language, "kind": args.kind}
    rows = find_rows(args.path, args.split, wanted, max(0, args.rows))
    for text in rows_json(rows) if args.json else rows_text(rows):
        print(text)
    return 0


def _push(args: argparse.Namespace) -> int:
    from kelron_lib.data_hub import push_dataset

    print(push_dataset(args.path, args.repo, allow_foreign=args.allow_foreign))
    return 0
