"""Sessions to be killed: forks one for every job on stdin, after the slow imports. `soak_worker.py JOB` is one rank.

A job is a line of JSON: `overrides` of the tiny preset, `data`, `out`, `log`. Its pid is answered, then how it ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path

import kelron_lib.train as module
from kelron_lib.config import resolve
from kelron_lib.hub_base import HubStore
from kelron_lib.hub_store import BucketStore, RepoStore
from kelron_lib.launch import run_processes
from kelron_lib.store import FolderStore
from kelron_lib.worker import work

BEAT_SECONDS = 0.5
"""Of a lease here, so that the next session takes it over in moments."""


def shorten_leases() -> None:
    for kind in (FolderStore, BucketStore, RepoStore):
        kind.beat_seconds = BEAT_SECONDS
    HubStore.settle_seconds = 0.05


def run_these_processes(command, processes, **how) -> None:
    run_processes((__file__, command[-1]), processes, **how)


def session(job: dict) -> None:
    """One session, its words in the log, whose last line is the state in which it ended."""
    with (
        Path(job["log"]).open("a", buffering=1) as log,
        contextlib.redirect_stderr(log),
        contextlib.redirect_stdout(log),
    ):
        module.run_processes = run_these_processes
        config = resolve("tiny-cpu", job["overrides"])
        status = module.train(config, Path(job["data"]), Path(job["out"]), say=lambda line: print(line, file=log))
        print(status.state, file=log)


def serve() -> None:
    import bitsandbytes  # noqa: F401
    import huggingface_hub  # noqa: F401
    import peft  # noqa: F401
    import transformers  # noqa: F401

    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            os.setsid()
            status = 1
            try:
                session(json.loads(line))
                status = 0
            except BaseException as error:
                with Path(json.loads(line)["log"]).open("a") as log:
                    print(f"{type(error).__name__}: {error}", file=log)
            finally:
                os._exit(status)
        print(pid, flush=True)
        print(os.waitpid(pid, 0)[1], flush=True)


if __name__ == "__main__":
    shorten_leases()
    if len(sys.argv) > 1:
        work(lambda world: module.train_in_process(Path(sys.argv[1]), world))
    else:
        serve()
