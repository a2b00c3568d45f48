"""One training process among several: `python -m kelron_lib.worker JOB.json`, started by `launch`.

It ends when the process that started it does. When it fails it says why to all the others, so that each of them reports
the first error and not the broken connections that follow from it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from kelron_lib.errors import KelronError
from kelron_lib.interrupt import Terminated, terminable
from kelron_lib.launch import ERROR_VARIABLE
from kelron_lib.processes import World, join, leave
from kelron_lib.runtime import gpu_full, no_space, write_json


def end_with_parent() -> None:
    """End this process as soon as the one that started it is gone."""

    def wait() -> None:
        while os.read(0, 1):  # sys.stdin's own lock would be in the way of this process's regular end
            pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _first_error(store: Any, own: dict[str, Any]) -> dict[str, Any]:
    """This process's error, or that of another which failed before it."""
    with contextlib.suppress(RuntimeError):  # the store went with the machine that served it
        first: dict[str, Any] = json.loads(store.compare_set("failed", "", json.dumps(own)))
        return first
    return own


def work(task: Callable[[World], None]) -> NoReturn:
    """Join the processes that `launch` started, do the task in this one, and end the process."""
    end_with_parent()
    world = World(
        rank=int(os.environ["RANK"]),
        size=int(os.environ["WORLD_SIZE"]),
        local_rank=int(os.environ["LOCAL_RANK"]),
    )
    store = None
    try:
        with terminable():
            store = join(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), world)
            task(world)
    except Terminated:  # all was given back on the way; who sent the signal knows why
        _flush()
        os.kill(os.getpid(), signal.SIGTERM)
    except BaseException as caught:
        error = no_space(caught) or gpu_full(caught) or caught
        is_input = isinstance(error, KelronError) and error.exit_code == KelronError.exit_code
        words = str(error).strip().splitlines()
        message = words[0] if words else type(error).__name__
        if not isinstance(error, KelronError):
            message = f"{type(error).__name__}: {message}" if words else message
        own = {"rank": world.rank, "message": message, "input": is_input}
        first = _first_error(store, own) if store is not None else own
        if not isinstance(error, KelronError) and first["rank"] == world.rank:
            traceback.print_exc()
        write_json(Path(os.environ[ERROR_VARIABLE]), first)
        _end(1)  # without waiting for the others, which may wait for this one
    leave()
    _end(0)


def _end(code: int) -> NoReturn:
    """End at once. In the interpreter's regular end torch's communication threads now and then abort the process
    ("terminate called without an active exception", torch 2.13), and a finished session would count as crashed."""
    _flush()
    os._exit(code)


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()


def main() -> NoReturn:
    """Train as the job file says."""
    from kelron_lib.train import train_in_process

    work(lambda world: train_in_process(Path(sys.argv[1]), world))


if __name__ == "__main__":
    main()
