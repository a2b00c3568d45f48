"""Training under a session budget: everything comes from the store, everything goes back to it.

The first session brings the dataset; later ones find that, too, in the store. A session restores the newest verified
checkpoint (or starts at step 0), trains until the end or until its budget is spent, and leaves a verified checkpoint,
a status file and its line in the list of sessions. Where a run is cut does not change its result: a run in several
sessions ends with the adapter of the uninterrupted one, bit for bit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kelron_lib.begin import Begun, begin, nothing_to_resume, why_finished
from kelron_lib.config import RunConfig, config_hash, to_dict
from kelron_lib.data import fingerprint, load_dataset_dir
from kelron_lib.dataset import data_command, holds_dataset
from kelron_lib.entry import bring_dataset, without_hub
from kelron_lib.errors import KelronError, RunFailed
from kelron_lib.export import MadeFrom, export_adapter, export_best, wants_best
from kelron_lib.interrupt import interrupted, terminable
from kelron_lib.job import Job, take_begun, tell_begun
from kelron_lib.keeper import Keeper
from kelron_lib.launch import Cluster, run_processes
from kelron_lib.lease import LostLease
from kelron_lib.model import portable_base, quiet_libraries, require_device
from kelron_lib.processes import World, device_count, prepare_cuda_memory, processes_for
from kelron_lib.restore import holds_checkpoint
from kelron_lib.resume import Start, require_this_run
from kelron_lib.runtime import (
    SESSION_START_VARIABLE,
    SessionClock,
    duration,
    exclusive,
    gpu_full,
    keep_from_demos,
    no_space,
    write_json,
)
from kelron_lib.schedule import check_processes
from kelron_lib.session import (
    EarlierStatus,
    Status,
    kept_step,
    make_status,
    read_status,
    record,
    write_losses,
    write_status,
)
from kelron_lib.store import Store
from kelron_lib.stores import is_read_only, open_store, store_url
from kelron_lib.traces import Traces

ALONE = World()
Say = Callable[[str], None]


class _Session:
    """One session of a run, as one of its processes holds it while it trains."""

    def __init__(
        self,
        config: RunConfig,
        data: Path,
        out: Path,
        clock: SessionClock,
        say: Say,
        start: Start,
        world: World = ALONE,
    ) -> None:
        self.config, self.data, self.out, self.clock, self.say, self.world = config, data, out, clock, say, world
        self.start = start
        self.work = out / "work"
        self.earlier, self.traces = EarlierStatus(out), Traces(config, out)
        self.refused = False
        self.ended: Status | None = None
        self.opened: Store | None = None
        self.keeper: Keeper | None = None
        self.first_step = self.total_steps = 0
        self.data_fingerprint = ""
        self.began_training = False
        self.about: dict[str, Any] = {}
        """What the list of sessions says beside how this one ended: changes that were accepted, a fresh start."""

    @property
    def store(self) -> Store:
        """The run's store, opened on first use, for reading. Raises KelronError where it cannot be reached, or where
        nothing of its kind can be written."""
        if self.opened is None:
            # In a namespace of others, only who may write there tells what is absent from what is hidden.
            now = self.config.store.allow_foreign or is_read_only(store_url(self.config, self.out))
            self._open(write=self.world.first and now)
        assert self.opened is not None
        return self.opened

    def _open(self, *, write: bool) -> None:
        foreign = self.config.store.allow_foreign
        self.opened = open_store(store_url(self.config, self.out), write=write, allow_foreign=foreign)

    def prepare(self) -> None:
        """See that the machine can train, that the store answers and is this run's, and that the dataset is here, from
        the store if from nowhere else. Unless the start is a fresh one, the store is only read."""
        require_device(self.config)
        if self.world.first and self.start.fresh:
            self.config = without_hub(self.config, self.out, lambda: self._open(write=True), self.say)
        elif self.world.first:
            if self.start.must_resume and not holds_checkpoint(self.store):
                raise nothing_to_resume(self.store)
            own = fingerprint(self.data) if holds_dataset(self.data) else None
            require_this_run(self.config, self.store, own, accept=self.start.accept, data=self.data)
        if bring_dataset(self.data, lambda: self.store, self.say, data_command(self.config, self.data)):
            self.traces.add(self.data)

    def status(self, state: str, reason: str, step: int) -> Status:
        return make_status(
            state,
            reason if self.keeper is None or state == "failed" else self.keeper.told(reason),
            first_step=self.first_step,
            step=step,
            total_steps=self.total_steps,
            seconds=self.clock.elapsed(),
        )

    def run(self) -> Status:
        """Restore, train and keep until the run's end or the session's."""
        self.data_fingerprint = fingerprint(self.data)
        self._require_the_same_run()
        if self.world.first:
            self._open(write=True)
            self.keeper = self._new_keeper()
            self.keeper.begin()
        if self.start.fresh:  # the first thing that it does is to set the run aside
            self._let_in()
        begun = self._begin()
        self._let_in()
        if self.world.local_rank == 0:  # until the run is accepted it describes the adapter beside it
            write_json(self.out / "config.json", to_dict(self.config))
        checkpoint = self.work / f"checkpoint-{begun.step}"
        if begun.finished:
            return self._finish(checkpoint, begun.finished, early=begun.step < begun.total_steps)
        if begun.resumed:
            self.world.share_folder(checkpoint)
        return self._train(checkpoint if begun.resumed else None)

    def _let_in(self) -> None:
        if self.world.local_rank == 0:
            self.earlier.remove()

    def _begin(self) -> Begun:
        """Where process 0 begins, and with it all."""
        begun = None
        if self.keeper is not None:
            begun = begin(self.config, self.start, self.keeper, work=self.work, out=self.out, say=self.say)
        told: Begun = self.world.gather(begun)[0]
        self.first_step, self.total_steps, self.about = told.step, told.total_steps, told.about
        return told

    def _new_keeper(self) -> Keeper:
        return Keeper(
            self.store,
            self.config,
            data=self.data,
            data_fingerprint=self.data_fingerprint,
            out=self.out,
            world_size=self.world.size,
            say=self.say,
        )

    def _require_the_same_run(self) -> None:
        """Raise KelronError where the machines were given different configs or datasets."""
        if self.world.size > 1:
            runs = self.world.gather((config_hash(self.config), self.data_fingerprint))
            for rank, run in enumerate(runs):
                if run != runs[0]:
                    what = "config" if run[0] != runs[0][0] else "dataset"
                    raise KelronError(f"process {rank} has another {what} than process 0: give all machines the same")

    def _train(self, checkpoint: Path | None) -> Status:
        if self.world.any(self.clock.left() <= self.config.session.reserve_seconds):
            return self.status("budget", "the session's time was used before training began", self.first_step)
        with quiet_libraries():
            from kelron_lib import callbacks
            from kelron_lib.trainer import build_trainer

        session = self.config.session
        trainer = build_trainer(self.config, self.data, self.work, self.world)
        if self.keeper is not None:  # the rows are in memory now: what changes later does not matter
            self.keeper.require_unchanged(self.data)
        self.total_steps = trainer.schedule.steps
        if checkpoint and self.first_step >= self.total_steps:
            raise KelronError(
                f"with train.epochs {self.config.train.epochs:g} the run ends at step {self.total_steps}, and the "
                f"checkpoint is of step {self.first_step}: take more epochs"
            )
        if checkpoint and (why := why_finished(self.config, checkpoint, self.total_steps)):
            return self._finish(checkpoint, why, early=True)
        convergence = callbacks.ConvergenceCallback(self.config, self.world)
        budget = callbacks.BudgetCallback(self.clock, session.reserve_seconds, self.world, self.keeper)
        trainer.add_callback(budget)
        trainer.add_callback(callbacks.progress(self.clock, trainer.schedule, self.say, session, self.keeper))
        trainer.add_callback(callbacks.GuardCallback())
        trainer.add_callback(convergence)
        trainer.add_callback(callbacks.StoreCallback(self._keep, budget, self.world, self.keeper))
        how = f"resuming after step {self.first_step}" if checkpoint else "starting at step 0"
        left = self.clock.left()
        self.say(f"{how}; the session ends in {duration(left)}")
        self.began_training = True
        if self.keeper is not None:
            self.keeper.events.begin(self.first_step, self.total_steps, left)
        if self.world.local_rank == 0:
            keep_from_demos(self.out, self.say)
        if self.world.size > 1 and self.world.first:
            tell_begun(self.out, Begun(self.first_step, self.total_steps, about=self.about))
        trainer.args.eval_on_start = checkpoint is None  # what the loss falls from
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        step = trainer.state.global_step
        if budget.state and not convergence.reason:
            left = self.total_steps - step
            self._flush(f"{budget.reason} and {left} steps are left")
            return self.status(budget.state, f"{budget.reason}; {left} steps are left for the next one", step)
        why = convergence.reason or f"all {step} steps are done"
        return self._finish(self.work / f"checkpoint-{step}", why, early=bool(convergence.reason))

    def _finish(self, checkpoint: Path, why: str, *, early: bool) -> Status:
        """See the last checkpoint home and export the adapter: this checkpoint's, or the best one's."""
        if self.world.first:
            self._publish(checkpoint)
        self._flush(f"{why} and the adapter is in {self.out / 'adapter'}")
        chosen = ""
        if self.world.first and wants_best(self.config, early=early):
            chosen = export_best(self.store, checkpoint, self.out, self._made_from(), self.work / "best")
        step = int(checkpoint.name.rpartition("-")[2])
        return self.status("finished", why + self.world.gather(chosen)[0], step)

    def _keep(self, folder: Path) -> None:
        assert self.keeper is not None
        self.keeper.keep(folder)
        write_losses(folder, self.out)

    def _flush(self, so_far: str) -> None:
        """Wait for the last checkpoint to arrive; all processes wait for process 0."""
        if self.keeper is not None:
            try:
                self.keeper.flush(self.clock.left())
            except RunFailed as error:
                raise RunFailed(f"{so_far}, but {error}") from error
        self.world.wait()

    def _publish(self, folder: Path) -> None:
        if self.keeper is not None:
            self.keeper.keep_dataset()
        export_adapter(folder, self.out, self._made_from())
        write_losses(folder, self.out)

    def _made_from(self) -> MadeFrom:
        return MadeFrom(portable_base(self.config), self.data_fingerprint, to_dict(self.config))

    def close(self) -> None:
        """Give back the right to write to the store; where the session was refused, all that it made."""
        if self.keeper is not None:
            self.keeper.close(self.ended)
        if self.refused:
            self.traces.remove()

    def conclude(self, status: Status) -> None:
        """Write down how the session ended, once on each machine, and say it."""
        self.ended = status
        if self.world.local_rank == 0:
            write_status(self.out, status)
        if self.world.first:
            try:
                record(self.store, self.out, status, self.about, self.keeper)
            except LostLease as lost:  # after all was kept: the run itself is well
                self.say(f"this session is missing in the store's list: {lost}")
            self.say(f"{status.state}: {status.reason}")

    def run_in_processes(self, processes: int, cluster: Cluster) -> Status:
        """The same in several processes, of which this one only starts and watches those of this machine."""
        load_dataset_dir(self.data)  # rows that are not there, or broken, are told before anything starts
        if self.world.first:
            self._open(write=True)
        job = Job(self.config, self.data, self.out, self.start, self.clock.budget).write()
        began = time.time() - self.clock.elapsed()
        try:
            run_processes(
                ("-m", "kelron_lib.worker", str(job)),
                processes,
                cluster=cluster,
                environment={SESSION_START_VARIABLE: repr(began)},
                say=self.say,
            )
        finally:
            job.unlink(missing_ok=True)
            if begun := take_begun(self.out):
                self.first_step, self.total_steps, self.about = begun.step, begun.total_steps, begun.about
                self.began_training = True
        return read_status(self.out)

    def fail(self, error: BaseException) -> BaseException:
        """Write down that the session ended by an error, and return that as the user is told of it. What cannot be
        written is said: the error itself counts.

        A session that was refused leaves what the one before it wrote: the run is still as that one says; and nothing
        where no run was.
        """
        by_hand = isinstance(error, KeyboardInterrupt)
        told = no_space(error) or gpu_full(error) or error
        over_input = isinstance(told, KelronError) and told.exit_code == KelronError.exit_code
        self.refused = over_input and not self.began_training
        if self.refused and not self.traces.in_a_run:
            return told
        if self.earlier.still_there() and not self.began_training and not by_hand:
            return told
        if self.keeper is not None:
            self.keeper.settle()
        elsewhere = self.keeper is None and self.began_training  # in other processes, which verified what LATEST names
        step = kept_step(lambda: self.store if elsewhere or by_hand else self.opened, verified=elsewhere)
        if isinstance(error, KeyboardInterrupt):
            own = self.began_training or not self.start.fresh  # else it may be what a fresh start had yet to set aside
            told = interrupted(error, step, self.total_steps, self._place(), resumes=own)
        words = str(told).strip() or type(told).__name__
        status = self.ended = self.status("failed", words.splitlines()[0], step)
        try:
            write_status(self.out, status)
            if self.began_training and self.world.first:
                record(self.store, self.out, status, self.about, self.keeper)
        except (KelronError, OSError) as second:
            self.say(f"how the session ended could not be written down: {second}")
        return told

    def _place(self) -> str:
        """The store in words, which may be out of reach."""
        return self.opened.describe() if self.opened is not None else store_url(self.config, self.out)


def train(
    config: RunConfig,
    data: Path,
    out: Path,
    *,
    must_resume: bool = False,
    accept_changes: Sequence[str] = (),
    fresh: bool = False,
    clock: SessionClock | None = None,
    say: Say = print,
    cluster: Cluster | None = None,
) -> Status:
    """Train for one session on the dataset in `data`; results go to `out`, checkpoints to the config's store.

    Resumes from the store's newest verified checkpoint where there is one (`must_resume`: refuses an empty store).
    It must be of this config and data, but for the keys in `accept_changes` (see resume.MAY_CHANGE). `fresh` begins at
    step 0 instead: what the store holds is set aside in a folder of the store, and where the Hub cannot be reached the
    run is kept in `out/store`. Without it a store out of reach is an error, never a start from nothing.
    Where `data` holds no dataset, the one that the run left in the store is brought there.
    Writes `status.json`, `sessions.json`, `losses.json`, `config.json` and, when the run is finished, `adapter/`.
    Where there are several GPUs or `session.processes` says so, it starts a process for each and uses none itself;
    `cluster` says which of several machines this is, and only machine 0 keeps checkpoints and results.
    Raises KelronError for bad input, a store that cannot be reached, a checkpoint of another run, or a process that
    failed; Interrupted, once the lease is given back and all is written down, after Ctrl-C or SIGTERM.
    """
    start = Start(must_resume, [*accept_changes], fresh)
    clock = clock or SessionClock.from_environment(config.session.budget_seconds)
    cluster = cluster or Cluster()
    prepare_cuda_memory()
    with terminable(), exclusive(out):
        session = _Session(config, data, out, clock, say, start)
        try:
            processes = processes_for(config, device_count())
            session.world = World(rank=cluster.machine * processes, size=cluster.machines * processes)
            check_processes(config.train.passes_per_step, session.world.size)
            session.prepare()
            if session.world.size > 1:
                return session.run_in_processes(processes, cluster)
            status = session.run()
            session.conclude(status)
            return status
        except BaseException as error:
            told = session.fail(error)
            if told is error:
                raise
            raise told from error
        finally:
            session.close()


def train_in_process(job: Path, world: World) -> None:
    """One process's part of the session that a job file describes."""
    task = Job.read(job)
    say: Say = print if world.first else (lambda line: None)  # process 0 speaks for all
    clock = SessionClock.from_environment(task.budget)
    session = _Session(task.config, task.data, task.out, clock, say, task.start, world)
    try:
        session.conclude(session.run())
    finally:
        session.close()
