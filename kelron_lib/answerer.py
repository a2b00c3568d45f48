"""One answering process among several: `python -m kelron_lib.answerer FOLDER`, started by `answers`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NoReturn

from kelron_lib.answers import answer_share
from kelron_lib.processes import prepare_cuda_memory
from kelron_lib.worker import work


def main() -> NoReturn:
    """Answer this process's share of what the folder asks."""

    def said(done: int, of: int) -> None:
        print(f"{done} of {of} parts answered", flush=True)

    prepare_cuda_memory()
    work(lambda world: answer_share(Path(sys.argv[1]), world, said))


if __name__ == "__main__":
    main()
