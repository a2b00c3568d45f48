"""A training process whose clock moves one second each time somebody looks at it: JOB, then the budget of each rank.

Started by tests in the place of `kelron_lib.worker`, so that a session ends at the same step always.
"""

import itertools
import os
import sys
from pathlib import Path

from kelron_lib.runtime import SessionClock
from kelron_lib.train import train_in_process
from kelron_lib.worker import work


def ticking(cls, budget):
    own = sys.argv[2 + int(os.environ["RANK"])]
    return cls(budget=float(own), now=itertools.count().__next__)


if __name__ == "__main__":
    SessionClock.from_environment = classmethod(ticking)
    work(lambda world: train_in_process(Path(sys.argv[1]), world))
