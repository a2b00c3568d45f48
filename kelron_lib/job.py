"""What a session tells the processes that train for it, and what they tell it, in files of the run's folder."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from kelron_lib.begin import Begun
from kelron_lib.config import RunConfig, from_dict, to_dict
from kelron_lib.resume import Start
from kelron_lib.runtime import read_json, write_json

JOB_FILE = "job.json"
"""What the processes of a session are to do, while they do it."""
BEGUN_FILE = "begun.json"
"""Where training began, for the process that watches."""


@dataclass(frozen=True)
class Job:
    """One session, as all its processes are to train it."""

    config: RunConfig
    data: Path
    """The dataset's folder."""
    out: Path
    """The run's folder."""
    start: Start
    budget: float
    """Seconds of the whole session."""

    def write(self) -> Path:
        """Put it into the run's folder, in the place of what an earlier session that was killed left; the file."""
        (self.out / BEGUN_FILE).unlink(missing_ok=True)
        file = self.out / JOB_FILE
        told = {
            "config": to_dict(self.config),
            "data": str(self.data),
            "out": str(self.out),
            "start": asdict(self.start),
            "budget": self.budget,
        }
        write_json(file, told)
        return file

    @classmethod
    def read(cls, file: Path) -> Job:
        """The job in a file."""
        told = read_json(file)
        data, out = Path(told["data"]), Path(told["out"])
        return cls(from_dict(told["config"]), data, out, Start(**told["start"]), told["budget"])


def tell_begun(out: Path, begun: Begun) -> None:
    """Tell the process that watches that training begins."""
    write_json(out / BEGUN_FILE, asdict(begun))


def take_begun(out: Path) -> Begun | None:
    """Where training began, told once; None where it did not."""
    if not (out / BEGUN_FILE).exists():
        return None
    begun = Begun(**read_json(out / BEGUN_FILE))
    (out / BEGUN_FILE).unlink()
    return begun
