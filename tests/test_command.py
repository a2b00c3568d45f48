"""What both command lines share: near misses and how a verb ends."""

import errno
import os
import sys

import pytest

from kelron_lib import __main__, command
from kelron_lib.errors import KelronError, RunFailed
from kelron_lib.kaggle_ops import __main__ as kaggle_ops


@pytest.mark.parametrize(
    ("main", "arguments", "line"),
    [
        (__main__.main, "trian", "kelron: unknown verb 'trian'. Did you mean train?"),
        (__main__.main, "train --preest tiny-cpu", "kelron: unknown option --preest. Did you mean --preset?"),
        (__main__.main, "train --preest=tiny-cpu", "kelron: unknown option --preest. Did you mean --preset?"),
        (__main__.main, "store pul a b", "kelron: unknown action 'pul'. Did you mean pull?"),
        (__main__.main, "store ls . --alow", "kelron: unknown option --alow. Did you mean --allow-foreign?"),
        (__main__.main, "chat --language eng", "kelron: unknown --language 'eng'. Did you mean en?"),
        (__main__.main, "chat --language xx", "kelron: unknown --language 'xx'. Known: en, ja, ko."),
        (__main__.main, "train runs", "kelron: 'runs' is one word too many; `kelron train --help` lists what there is"),
        (
            __main__.main,
            "train --set",
            "kelron: argument --set: expected one argument; `kelron train --help` lists what there is",
        ),
        (kaggle_ops.main, "pusk", "push_kernels.sh: unknown verb 'pusk'. Did you mean push?"),
        (kaggle_ops.main, "push tran", "push_kernels.sh: unknown kernel 'tran'. Did you mean train?"),
        (kaggle_ops.main, "run --onec", "push_kernels.sh: unknown option --onec. Did you mean --once?"),
    ],
)
def test_a_near_miss_is_one_line_and_exit_code_2(capsys, main, arguments, line):
    with pytest.raises(SystemExit) as refused:
        main(arguments.split())
    assert refused.value.code == 2
    assert capsys.readouterr().err == f"{line}\n"


def test_an_option_that_takes_no_help_is_never_suggested(capsys):
    with pytest.raises(SystemExit):
        kaggle_ops.main(["run", "--projekt", "x"])
    assert "--project" not in capsys.readouterr().err.replace("--projekt", "")


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (KelronError("no such thing"), 2, "kelron: no such thing\n"),
        (RunFailed("the loss is nan"), 1, "kelron: the loss is nan\n"),
        (KeyboardInterrupt(), 130, "kelron: left\n"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a/b"), 2, "kelron: no disk space for a/b: free some"),
        (RuntimeError(f"write: {os.strerror(errno.EDQUOT)}"), 2, "kelron: no disk space: free some"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_every_ending_is_one_line_with_its_exit_code(capsys, error, code, line):
    def work():
        raise error

    assert command.ended("kelron", work, interrupted="left") == code
    err = capsys.readouterr().err
    assert err.startswith(line)
    assert err.count("\n") == 1


def test_a_reader_that_left_is_no_error(monkeypatch, tmp_path):
    with open(tmp_path / "out", "w") as out:
        monkeypatch.setattr(sys, "stdout", out)

        def work():
            raise BrokenPipeError

        assert command.ended("kelron", work) == 1


def test_what_nobody_foresaw_keeps_its_traceback():
    def work():
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        command.ended("kelron", work)
    assert command.ended("kelron", lambda: 0) == 0
