"""The command line of `kelron store`: look at a store, fetch from it, bring into it, make room in it."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kelron_lib.errors import KelronError
from kelron_lib.settings import StoreSettings
from kelron_lib.store import Store


def add_store_verbs(verbs: Any) -> None:
    """Add `store` and its actions to the command line's verbs."""
    text = "look after the checkpoints in a store"
    actions = verbs.add_parser("store", help=text, description=text).add_subparsers(
        dest="action", required=True, metavar="ACTION"
    )

    def action(name: str, run: Callable[[argparse.Namespace], int], help_text: str) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = actions.add_parser(name, help=help_text, description=help_text)
        added.set_defaults(run=run)
        return added

    def url(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("url", metavar="URL", help="the store: a folder, hf://..., kaggle://OWNER/KERNEL")
        parser.add_argument(
            "--allow-foreign", action="store_true", help="hf:// may name another namespace than your token's"
        )

    url(action("ls", _ls, "list the checkpoints, and who writes to the store; reads only small files"))
    url(
        action(
            "verify",
            _verify,
            "check every byte of every checkpoint and of the dataset (in a repo, by the digests that the Hub lists)",
        )
    )
    pull = action("pull", _pull, "download a checkpoint, verified, into an empty folder")
    url(pull)
    pull.add_argument("folder", metavar="DIR", type=Path, help="where to; it must be empty or absent")
    pull.add_argument("--step", type=int, help="which (default: the newest that is intact)")
    bring = action("import", _import, "bring a checkpoint (a trainer's, a Hub snapshot) into a store")
    bring.add_argument("folder", metavar="DIR", type=Path, help="the folder with trainer_state.json")
    url(bring)
    prune = action("prune", _prune, "delete older checkpoints; the one that a run resumes from stays")
    url(prune)
    prune.add_argument(
        "--keep",
        type=int,
        default=StoreSettings().keep,
        metavar="N",
        help="verified ones to keep (default: %(default)s)",
    )
    prune.add_argument("--dry-run", action="store_true", help="say what would be deleted and stop")
    prune.add_argument(
        "--squash",
        action="store_true",
        help="make one commit of a model repo's history, so that deleted files take no room",
    )


def _open(args: argparse.Namespace, **how: bool) -> Store:
    from kelron_lib.stores import open_store

    return open_store(args.url, allow_foreign=args.allow_foreign, **how)


def _ls(args: argparse.Namespace) -> int:
    from kelron_lib.store_tools import list_store

    listing = list_store(_open(args, must_exist=True))
    print("\n".join(listing.lines()))
    return 0 if listing.ok else 2


def _verify(args: argparse.Namespace) -> int:
    from kelron_lib.verify import verify_store

    report = verify_store(_open(args, must_exist=True))
    print("\n".join(report.lines()))
    if not report.checkpoints:
        raise KelronError(f"{args.url} holds no checkpoint")
    return 0 if report.ok else 2


def _pull(args: argparse.Namespace) -> int:
    from kelron_lib.restore import pull
    from kelron_lib.verify import size_words

    manifest, folder = pull(_open(args, must_exist=True), args.folder, step=args.step)
    print(f"step {manifest.step}: {len(manifest.files)} files, {size_words(manifest.size)}, verified, in {folder}")
    return 0


def _import(args: argparse.Namespace) -> int:
    from kelron_lib.store_tools import import_checkpoint, read_checkpoint
    from kelron_lib.verify import size_words

    prepared = read_checkpoint(args.folder)
    store = _open(args, write=True)
    manifest = import_checkpoint(store, prepared)
    print(f"step {manifest.step} ({size_words(manifest.size)}) is the newest checkpoint in {store.describe()} now")
    return 0


def _prune(args: argparse.Namespace) -> int:
    from kelron_lib.store_tools import prune

    store = _open(args, must_exist=True, write=not args.dry_run)
    prune(store, args.keep, dry_run=args.dry_run, squash=args.squash)
    return 0
