"""Kills training at random moments, again and again, and holds what the store says against an uninterrupted run.

`python tests/soak.py --processes 1 2 --kills 150 50` (150 in one process, 50 in two) prints a table and exits 1 where
a single promise was broken; `--report docs/reliability.md` puts the table there. `--at-once 12` is for a machine with
many processors: the kills are shared out among twelve of these scripts, each with a Hub of its own.

After every kill: LATEST names a verified checkpoint no older than the one before, and the next session goes on from it.
When a run is finished: adapter and logged losses are, bit for bit, those of the run that nobody cut. Half of the kills
take the machine with them: work and results are deleted, the store is all there is.

The stores on the Hub are the real client against a stand-in on this machine. What this cannot show: a machine that
loses power (the kernel still writes what a killed process had written), and the real Hub.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path

from kelron_lib.config import resolve
from kelron_lib.data import build_dataset
from kelron_lib.errors import KelronError
from kelron_lib.manifest import Manifest
from kelron_lib.stores import open_store
from kelron_lib.verify import latest, verify

HERE = Path(__file__).parent
SMALL = (
    "data.rows=240",
    "train.rows_per_pass=2",
    "train.passes_per_step=2",
    "train.epochs=0.8",
    "train.save_steps=2",
    "train.eval_steps=4",
    "lora.r=4",
    "session.reserve_seconds=0",
    "session.progress_seconds=0.001",
)
URLS = {"folder": "{folder}", "bucket": "hf://buckets/me/ckpt/run-{number}", "repo": "hf://me/kelron/run-{number}"}
STEP = re.compile(r"step (\d+)/(\d+)")
BEGAN = re.compile(r"(?:starting at|resuming after) step (\d+)")


BEGIN, END = "<!-- soak -->", "<!-- end of soak -->"


class Broken(AssertionError):
    """A promise that did not hold."""


@dataclass
class Row:
    """What was seen of one kind of store with one number of processes."""

    store: str
    processes: int
    kills: int = 0
    runs: int = 0
    """Finished, each compared with the uninterrupted one."""
    sessions: int = 0
    steps: int = 0
    """Done by all sessions together."""
    lost_steps: list[int] = field(default_factory=list)
    """Of each kill: steps done since the newest checkpoint in the store."""
    lost_checkpoints: int = 0
    machines_lost: int = 0
    broken: list[str] = field(default_factory=list)

    def add(self, other: Row) -> None:
        """Take in what was seen of the same by another script."""
        for name in ("kills", "runs", "sessions", "steps", "lost_steps", "lost_checkpoints", "machines_lost", "broken"):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def line(self) -> str:
        lost = sorted(self.lost_steps) or [0]
        return (
            f"| {self.store} | {self.processes} | {self.kills} | {self.machines_lost} | {self.runs} | "
            f"{lost[len(lost) // 2]} / {lost[-1]} | {self.lost_checkpoints} | {len(self.broken)} |"
        )


HEAD = (
    "| store | processes | kills | work deleted | runs finished, bit-equal | steps lost: median / most | "
    "checkpoints lost | promises broken |\n|---|---|---|---|---|---|---|---|"
)


class Sessions:
    """Starts sessions in a process that holds the slow imports."""

    def __init__(self, environment: dict[str, str]) -> None:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.server = subprocess.Popen([sys.executable, str(HERE / "soak_worker.py")], env=environment, **pipes)

    def start(self, job: dict) -> int:
        assert self.server.stdin
        self.server.stdin.write(json.dumps(job) + "\n")
        self.server.stdin.flush()
        return int(self._answer())

    def wait(self) -> int:
        """How the session ended: 0, 1, or minus the signal."""
        return os.waitstatus_to_exitcode(int(self._answer()))

    def _answer(self) -> str:
        assert self.server.stdout
        line = self.server.stdout.readline()
        if not line:
            raise Broken("the process that starts sessions has died")
        return line

    def close(self) -> None:
        assert self.server.stdin
        self.server.stdin.close()
        self.server.wait()


def descendants(pid: int) -> Iterator[int]:
    """A process and all that it started, youngest first."""
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            yield from descendants(int(child))
    yield pid


def kill(pid: int) -> None:
    for each in list(descendants(pid)):
        with contextlib.suppress(ProcessLookupError):  # it ended by itself
            os.kill(each, signal.SIGKILL)


def last_step(log: Path) -> int:
    found = STEP.findall(log.read_text()) if log.exists() else []
    return max((int(step) for step, _ in found), default=0)


@dataclass
class Soak:
    """One kind of store with one number of processes."""

    store: str
    processes: int
    sessions: Sessions
    folder: Path
    data: Path
    chance: random.Random
    row: Row
    seconds: float
    """Moments of kills are drawn from so many after a session's start: what a session takes, the shortest so far."""
    number: int = 0
    sent: int = 0
    """The last step that the session before had told, and so may have sent to a Hub."""

    def job(self, name: str, url: str) -> dict:
        out = self.folder / name
        overrides = [*SMALL, f"session.processes={self.processes}", f"store.url={url}"]
        return {"overrides": overrides, "data": str(self.data), "out": str(out), "log": str(self.folder / "log")}

    def result(self, name: str) -> tuple[bytes, object]:
        out = self.folder / name
        adapter = (out / "adapter" / "adapter_model.safetensors").read_bytes()
        return adapter, json.loads((out / "losses.json").read_text())

    def finish(self, job: dict) -> float:
        """Run a session to its end; seconds that it took."""
        began = time.monotonic()
        self.sessions.start(job)
        status = self.sessions.wait()
        if status != 0:
            raise Broken(f"a session ended with {status}: {Path(job['log']).read_text()[-600:]}")
        return time.monotonic() - began

    def kill_until(self, kills: int, reference: tuple[bytes, object]) -> None:
        """Runs, each killed at random moments until it is finished, until there were so many kills."""
        while self.row.kills < kills:
            self.number += 1
            url = URLS[self.store].format(folder=self.folder / f"store-{self.number}", number=self.number)
            job = self.job(f"run-{self.number}", url)
            self.one_run(job, url, kills)
            if self.result(f"run-{self.number}") != reference:
                raise Broken(f"run {self.number} ended with another adapter or other losses")
            self.row.runs += 1

    def newest(self, url: str, before: int) -> Manifest | None:
        """What LATEST names, verified file by file; `before` is the newest step after the last kill."""
        try:
            store = open_store(url)
            manifest = latest(store)
        except KelronError:
            if before:
                raise
            return None  # killed before there was a store
        if manifest and (problems := verify(store, manifest)):
            raise Broken(f"LATEST names a damaged checkpoint: {problems}")
        return manifest

    def one_run(self, job: dict, url: str, kills: int) -> None:
        newest, self.sent, patience = 0, 0, self.seconds
        while True:
            Path(job["log"]).unlink(missing_ok=True)
            if self.row.kills >= kills:
                self.finish(job)
                self.count(job, newest)
                return
            pid = self.sessions.start(job)
            began = time.monotonic()
            moment = began + self.chance.uniform(0, patience)
            while time.monotonic() < moment and Path(f"/proc/{pid}").exists():
                time.sleep(0.01)
            kill(pid)
            status = self.sessions.wait()
            before, reached = newest, self.count(job, newest)
            if status == 0:
                self.seconds = min(self.seconds, max(time.monotonic() - began, self.seconds / 2))
                return
            if status != -signal.SIGKILL:
                raise Broken(f"a session ended with {status}: {Path(job['log']).read_text()[-600:]}")
            self.row.kills += 1
            manifest = self.newest(url, before)
            newest = manifest.step if manifest else 0
            if newest < before:
                self.row.lost_checkpoints += 1
                raise Broken(f"LATEST went back from step {before} to {newest}")
            self.row.lost_steps.append(max(0, max(reached, before) - newest))
            # A busy machine gets longer, so that the run comes forward whatever its speed.
            patience = self.seconds if newest > before else patience * 1.3
            if self.chance.random() < 0.5:
                shutil.rmtree(job["out"], ignore_errors=True)
                self.row.machines_lost += 1

    def count(self, job: dict, first: int) -> int:
        """Note a session; the last step that it told."""
        reached = last_step(Path(job["log"]))
        self.row.sessions += 1
        self.row.steps += max(0, reached - first)
        self.check_start(job, first)
        self.sent = reached if self.store != "folder" else 0
        return reached

    def check_start(self, job: dict, newest: int) -> None:
        """A session must go on from the newest checkpoint; one killed early has said nothing yet. It may find a newer
        one than was seen after the kill: what a killed session had sent to the Hub is applied when the Hub comes to it.
        """
        log = Path(job["log"])
        told = BEGAN.search(log.read_text()) if log.exists() else None
        if told and not newest <= int(told[1]) <= max(newest, self.sent):
            raise Broken(f"a session went on from step {told[1]} although step {newest} is stored")


def soak(kills: dict[int, int], stores: list[str], folder: Path, seed: int) -> list[Row]:
    """All stores with every number of processes; its kills, {processes: kills}, are shared out among the stores."""
    from hub_stand_in import StandIn

    with StandIn(folder / "hub") as hub:
        quick = {"HF_XET_CLIENT_RETRY_BASE_DELAY": "10ms", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "0"}
        os.environ.update({"HF_ENDPOINT": hub.url, "HF_TOKEN": hub.token, "HF_HOME": str(folder / "home"), **quick})
        build_dataset(resolve("tiny-cpu", SMALL), folder / "data")
        sessions = Sessions(dict(os.environ) | {"PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])})
        try:
            return [row for count in kills for row in rows(count, kills[count], stores, folder, seed, sessions)]
        finally:
            sessions.close()


def share(total: int, parts: int, index: int) -> int:
    """The `index`-th of so many parts of a number, as equal as they can be."""
    return total // parts + (index < total % parts)


def rows(count: int, kills: int, stores: list[str], folder: Path, seed: int, sessions: Sessions) -> Iterator[Row]:
    """The rows of one number of processes."""
    data = folder / "data"
    none = Row("folder", count)
    uncut = Soak("folder", count, sessions, folder / f"uncut-{count}", data, random.Random(seed), none, 0.0)
    uncut.folder.mkdir()
    job = uncut.job("whole", str(uncut.folder / "store"))
    seconds = uncut.finish(job)
    reference = uncut.result("whole")
    for index, store in enumerate(stores):
        row, chance = Row(store, count), random.Random(f"{seed}:{store}:{count}")
        one = Soak(store, count, sessions, folder / f"{store}-{count}", data, chance, row, seconds)
        one.folder.mkdir()
        try:
            one.kill_until(share(kills, len(stores), index), reference)
        except Broken as error:
            row.broken.append(str(error))
        print(row.line(), *(f"BROKEN: {words}" for words in row.broken), sep="\n", file=sys.stderr, flush=True)
        yield row


def at_once(shares: int, kills: dict[int, int], stores: list[str], seed: int) -> list[Row]:
    """The same kills by several of these scripts beside each other, their rows put together."""
    whole = {(count, store): Row(store, count) for count in kills for store in stores}
    parts = max(1, shares // len(whole))
    with tempfile.TemporaryDirectory(prefix="soak-rows-") as folder:
        started = []
        for (count, store), part in itertools.product(whole, range(parts)):
            mine = share(kills[count], len(stores), stores.index(store))
            file = Path(folder) / f"{store}-{count}-{part}.json"
            given = {"stores": store, "processes": count, "kills": share(mine, parts, part)}
            words = [f"--{name}={value}" for name, value in given.items()]
            command = [sys.executable, __file__, *words, f"--seed={seed + part}", f"--json={file}"]
            started.append((whole[count, store], file, subprocess.Popen(command, stdout=subprocess.DEVNULL)))
        for row, file, process in started:
            if process.wait() and not file.exists():
                raise SystemExit(f"a share of the soak ended with {process.returncode} before it had anything to say")
            row.add(Row(**json.loads(file.read_text())[0]))
    return list(whole.values())


def table(found: list[Row], seconds: float) -> str:
    """All rows, and what they come to."""
    kills, machines = sum(row.kills for row in found), sum(row.machines_lost for row in found)
    lost = sum(row.lost_checkpoints for row in found)
    steps, again = sum(row.steps for row in found), sum(sum(row.lost_steps) for row in found)
    total = (
        f"{kills} kills in {seconds:.0f} s, {machines} of them with all work deleted: {lost} checkpoints lost, "
        f"{again} of {steps} steps made again."
    )
    return "\n".join([HEAD, *(row.line() for row in found), "", total])


def write_report(file: Path, text: str, command: str) -> None:
    """Put the table between the marks of a document, with its date, its command, and on what."""
    before, begin, rest = file.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise SystemExit(f"{file} has no {BEGIN} ... {END} to write between")
    about = f"`{command}`, {date.today().isoformat()}, {os.cpu_count()} processors."
    file.write_text(f"{before}{begin}\n{about}\n\n{text}\n{end}{after}", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", nargs="+", type=int, default=[150, 50], help="for each of --processes")
    parser.add_argument("--stores", nargs="+", choices=URLS, default=list(URLS))
    parser.add_argument("--processes", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--at-once", type=int, default=1, metavar="N", help="scripts beside each other")
    parser.add_argument("--json", type=Path, help="write the rows there, too")
    parser.add_argument("--report", type=Path, help=f"a document with {BEGIN} and {END}, to put the table between")
    options = parser.parse_args()
    if len(options.kills) != len(options.processes):
        parser.error("give --kills as many numbers as --processes")
    kills = dict(zip(options.processes, options.kills, strict=True))
    began = time.monotonic()
    if options.at_once > 1:
        found = at_once(options.at_once, kills, options.stores, options.seed)
    else:
        with tempfile.TemporaryDirectory(prefix="soak-") as folder:
            found = soak(kills, options.stores, Path(folder), options.seed)
    text = table(found, time.monotonic() - began)
    print(text)
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in found], indent=2) + "\n")
    if options.report:
        beside = f" --at-once {options.at_once}" if options.at_once > 1 else ""
        shown = (
            f"--processes {' '.join(map(str, options.processes))} --kills {' '.join(map(str, options.kills))}{beside}"
        )
        write_report(options.report, text, f"python tests/soak.py {shown}")
    return 1 if any(row.broken for row in found) else 0


if __name__ == "__main__":
    sys.exit(main())
