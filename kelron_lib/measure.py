"""What training costs on this machine, measured on a few real steps."""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from kelron_lib.config import RunConfig
from kelron_lib.model import quiet_libraries
from kelron_lib.processes import World, prepare_cuda_memory


@dataclass(frozen=True)
class Measured:
    """What a few training steps cost on this machine, in seconds."""

    startup_seconds: float
    """From the call to the first step: imports, data, model."""
    seconds_per_step: float
    """Median over the measured steps but the first."""
    total_steps: int
    """Steps of the whole run."""


def measure_steps(config: RunConfig, data: Path, steps: int = 6) -> Measured:
    """Train a few real steps, keep nothing of them, and say what they cost."""
    began = time.monotonic()
    with quiet_libraries():
        from kelron_lib.callbacks import TimingCallback
        from kelron_lib.trainer import build_trainer

    timing = TimingCallback(steps)
    prepare_cuda_memory()
    with tempfile.TemporaryDirectory() as work:
        trainer = build_trainer(config, data, Path(work), World())
        trainer.add_callback(timing)
        trainer.train()
    per_step = statistics.median(timing.seconds[1:] or timing.seconds)
    return Measured(timing.began_at - began, per_step, trainer.state.max_steps)
