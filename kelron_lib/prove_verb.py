"""The command line of `kelron prove`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from kelron_lib.errors import KelronError
from kelron_lib.files import write_whole


def add_prove_verb(verbs: Any) -> None:
    """Add `prove`, which takes no config: what it trains is the tiny preset and what its recipes change of it."""
    text = "train the tiny base by the first attempt's recipe, by today's, and by today's without each fix, and compare"
    prove = verbs.add_parser("prove", help=text, description=text)
    prove.set_defaults(run=_prove)
    prove.add_argument(
        "--out",
        type=Path,
        default=Path("runs/prove"),
        help="where adapters, answers and table go (default: %(default)s)",
    )
    prove.add_argument("--seeds", type=int, default=1, metavar="N", help="adapters of each recipe (default: 1)")
    prove.add_argument("--jobs", type=int, default=1, metavar="N", help="recipes at a time (default: 1)")
    prove.add_argument(
        "--report", type=Path, metavar="PAGE.md", help="write the table into this page, too, between its marks"
    )


def _prove(args: argparse.Namespace) -> int:
    from kelron_lib.prove.compare import compare
    from kelron_lib.prove.run import prove
    from kelron_lib.prove.table import TABLE_FILE, markdown, require_no_larger, terminal, write_into

    for name in ("seeds", "jobs"):
        if getattr(args, name) < 1:
            raise KelronError(f"--{name} is {getattr(args, name)}: it has to be at least 1")
    if args.report is not None and not args.report.is_file():
        raise KelronError(f"--report {args.report}: there is no such page")
    if args.report is not None:
        require_no_larger(args.report, args.seeds)  # before half an hour of training
    proof = prove(args.out, seeds=args.seeds, jobs=args.jobs)
    cells = compare(proof)
    print(terminal(proof, cells))
    write_whole(args.out / TABLE_FILE, markdown(proof, cells).encode())
    if args.report is not None:
        write_into(args.report, markdown(proof, cells))
    print(f"the table is in {args.report or args.out / TABLE_FILE}")
    return 0
