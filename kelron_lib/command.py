"""What both command lines share: a near miss gets its nearest match, and every ending its exit code and one line."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from kelron_lib.config import nearest
from kelron_lib.errors import KelronError
from kelron_lib.interrupt import Interrupted
from kelron_lib.runtime import no_space


class Parser(argparse.ArgumentParser):
    """argparse's own, but what it refuses is one line, with the nearest match of a mistyped verb, value or option.

    The parsers of its verbs are of this class, too.
    """

    def error(self, message: str) -> NoReturn:
        """Print the line and leave with exit code 2."""
        told = message.endswith((".", "?"))  # by what `nearest` says
        hint = "" if told else f"; `{self.prog} --help` lists what there is"
        self.exit(2, f"{self.prog.partition(' ')[0]}: {message}{hint}\n")

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Refuses what it does not know here, where the verb's own options can be told."""
        known, unknown = super().parse_known_args(args, namespace)
        mistyped = next((word for word in unknown if word.startswith("-")), "").partition("=")[0]
        if mistyped:
            told = [action for action in self._actions if action.help != argparse.SUPPRESS]
            options = [name for action in told for name in action.option_strings if name.startswith("--")]
            self.error(f"unknown option {mistyped}.{nearest(mistyped, options)}")
        if unknown:
            self.error(f"{unknown[0]!r} is one word too many")
        return known, unknown

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            choices = [str(choice) for choice in action.choices]
            name = action.option_strings[0] if action.option_strings else str(action.metavar or action.dest).lower()
            raise argparse.ArgumentError(None, f"unknown {name} {value!r}.{nearest(str(value), choices)}")


def ended(
    program: str,
    work: Callable[[], int],
    *,
    interrupted: str = "interrupted",
    go_on: Callable[[KeyboardInterrupt], str | None] = lambda _: None,
) -> int:
    """Do a verb's work and return its exit code; what a user is meant to see of an error is one line of stderr.

    `interrupted`: what that line says after Ctrl-C where the work itself says nothing; `go_on` gives the line after it,
    if any. Raises what is neither a KelronError nor a full disk.
    """
    try:
        return work()
    except KelronError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as error:
        print(f"{program}: {str(error) or interrupted}", file=sys.stderr)
        if line := go_on(error):
            print(f"{program}: {line}", file=sys.stderr)
        return error.exit_code if isinstance(error, Interrupted) else Interrupted.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:  # libraries that write files raise errors of their own where the disk is full
        if (full := no_space(error)) is None:
            raise
        print(f"{program}: {full}", file=sys.stderr)
        return full.exit_code
