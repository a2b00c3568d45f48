"""The command line of `kelron publish`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from kelron_lib.config import RunConfig
from kelron_lib.settings import LANGUAGES

Run = Callable[[argparse.Namespace, RunConfig], int]


def add_publish_verb(verb: Callable[[str, Run, str], argparse.ArgumentParser]) -> None:
    """Add `publish` through `verb`, which makes the parser of a verb that takes a config."""
    text = "put the adapter, or merged weights, into a folder or a private repo on the Hub, past the gate alone"
    publish = verb("publish", _publish, text)
    publish.add_argument(
        "--run",
        dest="run_folder",
        metavar="RUN",
        type=Path,
        default=Path("runs/kelron"),
        help="the run's folder, evaluated (default: %(default)s)",
    )
    publish.add_argument("--to", required=True, metavar="PLACE", help="a folder, or hf://models/OWNER/NAME on the Hub")
    publish.add_argument("--merge", action="store_true", help="the base's weights with the adapter in them")
    publish.add_argument("--force", action="store_true", help="past a gate that failed too; the card says so first")
    publish.add_argument("--adapter", type=Path, help="the adapter's folder (default: RUN/adapter)")
    publish.add_argument("--data", type=Path, help="the dataset's folder (default: RUN/data)")
    publish.add_argument(
        "--language",
        choices=LANGUAGES,
        default="",
        help="of the template's default system prompt (default: en, or the run's first)",
    )
    publish.add_argument("--public", action="store_true", help="the repo may be one that is public already")
    publish.add_argument("--allow-foreign", action="store_true", help="the same as --set store.allow_foreign=true")


def _publish(args: argparse.Namespace, config: RunConfig) -> int:
    from kelron_lib.publish import publish

    publish(
        config,
        args.run_folder,
        args.to,
        adapter=args.adapter,
        data=args.data,
        merged=args.merge,
        force=args.force,
        language=args.language,
        public=args.public,
    )
    return 0
