"""Training under a session budget: everything comes from the dataset and the store, everything goes back to it.

A session restores the newest verified checkpoint (or starts at step 0), trains until the end or until its budget
is spent, and leaves a verified checkpoint, a status file and its line in the list of sessions. Where a run is cut
does not change its result: a run in several sessions ends with the adapter of the uninterrupted one, bit for bit.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kelron_lib.batching import PaddingCollator, encode_rows
from kelron_lib.checkpoint import Restored, compare, latest, restore, save_checkpoint
from kelron_lib.config import RunConfig, config_hash, to_dict
from kelron_lib.data import fingerprint, load_dataset_dir
from kelron_lib.errors import KelronError
from kelron_lib.model import add_lora, load_base, quiet_libraries
from kelron_lib.runtime import SessionClock, duration, exclusive, read_json, require_disk, write_json
from kelron_lib.session import Status, make_status, record_session, write_losses, write_status
from kelron_lib.store import Store, open_store

ADAPTER_FILES = ("adapter_model.safetensors", "adapter_config.json")
Say = Callable[[str], None]


def _arguments(config: RunConfig, work: Path) -> Any:
    """transformers' TrainingArguments for a config; what Kelron does itself is switched off there."""
    import torch
    from transformers import TrainingArguments

    train = config.train
    return TrainingArguments(
        output_dir=str(work),
        num_train_epochs=train.epochs,
        learning_rate=train.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=train.warmup_share,
        per_device_train_batch_size=train.batch_size,
        per_device_eval_batch_size=train.batch_size,
        gradient_accumulation_steps=train.accumulation,
        weight_decay=train.weight_decay,
        max_grad_norm=train.max_grad_norm,
        optim=train.optimizer,
        fp16=config.model.dtype == "float16",
        eval_strategy="steps",
        eval_steps=train.eval_steps,
        save_strategy="steps",
        save_steps=train.save_steps,
        save_total_limit=1,
        # Logging every step keeps the logged losses independent of where a run is cut.
        logging_steps=1,
        logging_nan_inf_filter=False,
        prediction_loss_only=True,
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        seed=train.seed,
        report_to="none",
        disable_tqdm=True,
        **(_checkpointing_arguments(TrainingArguments) if train.checkpointing else {}),
    )


def _checkpointing_arguments(arguments: Any) -> dict[str, Any]:
    """Non-reentrant checkpointing, under the name that this transformers gives it (renamed in 5.2x)."""
    name = "gradient" if "activation_checkpointing" not in arguments.__dataclass_fields__ else "activation"
    return {f"{name}_checkpointing": True, f"{name}_checkpointing_kwargs": {"use_reentrant": False}}


def _trainer_class() -> type:
    import torch
    from transformers import Trainer

    class KelronTrainer(Trainer):
        """transformers' Trainer whose validation leaves the training's random numbers alone."""

        def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
            with torch.random.fork_rng():
                metrics: dict[str, float] = super().evaluate(*args, **kwargs)
            return metrics

    return KelronTrainer


def _build_trainer(config: RunConfig, data: Path, work: Path, callbacks: list[Any]) -> Any:
    """The trainer with its encoded splits, nf4 base and fresh adapter."""
    from transformers import PrinterCallback

    splits = load_dataset_dir(data)
    for name in ("train", "validation"):
        if not splits[name]:
            raise KelronError(f"the {name} split in {data} is empty: make the dataset again with `kelron data`")
    with quiet_libraries():
        base, tokenizer = load_base(config)
        encoded = {name: encode_rows(tokenizer, rows, config.data.max_tokens) for name, rows in splits.items()}
        model = add_lora(base, config)
    model.config.use_cache = False
    trainer = _trainer_class()(
        model=model,
        args=_arguments(config, work),
        train_dataset=encoded["train"],
        eval_dataset=encoded["validation"],
        data_collator=PaddingCollator(tokenizer.pad_token_id),
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _restore(config: RunConfig, store: Store, data: Path, work: Path, say: Say) -> Restored | None:
    """The newest verified checkpoint in `work`, or None for an empty store.

    Raises KelronError where the checkpoint belongs to another config or other data.
    """
    for stale in work.glob("checkpoint-*"):
        shutil.rmtree(stale)
    restored = restore(store, work, fp16=config.model.dtype == "float16", say=say)
    if restored is None:
        return None
    differing = compare(restored.manifest, config=to_dict(config), data_fingerprint=fingerprint(data), world_size=1)
    if differing:
        raise KelronError(
            f"the checkpoint in {store.describe()} is of another run (differing: {', '.join(differing)}): use the "
            "config and data it was made with, or another store.url"
        )
    return restored


def export_adapter(checkpoint: Path, out: Path) -> None:
    """Copy a checkpoint's adapter to `out/adapter`, replacing an older one."""
    target, fresh = out / "adapter", out / "adapter.part"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    for name in ADAPTER_FILES:
        shutil.copyfile(checkpoint / name, fresh / name)
    if target.exists():
        shutil.rmtree(target)
    fresh.rename(target)


class _Session:
    """One session of a run: what it holds while it trains."""

    def __init__(self, config: RunConfig, data: Path, out: Path, clock: SessionClock, say: Say) -> None:
        self.config, self.data, self.out, self.clock, self.say = config, data, out, clock, say
        self.work = out / "work"
        self.store = open_store(config.store.url or out / "store", write=True)
        self.first_step = 0
        self.total_steps = 0
        self.began_training = False

    def status(self, state: str, reason: str, step: int) -> Status:
        return make_status(
            state,
            reason,
            first_step=self.first_step,
            step=step,
            total_steps=self.total_steps,
            seconds=self.clock.elapsed(),
        )

    def run(self, must_resume: bool) -> Status:
        """Restore, train and keep until the run's end or the session's."""
        if not must_resume or latest(self.store) is not None:
            require_disk(self.out, 3 * self._checkpoint_bytes(), "checkpoints")
        restored = _restore(self.config, self.store, self.data, self.work, self.say)
        if restored is None:
            if must_resume:
                raise KelronError(f"{self.store.describe()} holds no checkpoint to resume from: `kelron train` first")
            return self._train(None)
        self.first_step = restored.step
        self.total_steps = read_json(restored.folder / "trainer_state.json")["max_steps"]
        if self.first_step >= self.total_steps:
            self._publish(restored.folder)
            return self.status("finished", "the run was already finished", self.first_step)
        return self._train(restored.folder)

    def _train(self, checkpoint: Path | None) -> Status:
        from kelron_lib.callbacks import BudgetCallback, GuardCallback, ProgressCallback, StoreCallback

        if self.clock.left() <= self.config.session.reserve_seconds:
            return self.status("budget", "the session's time was used before training began", self.first_step)
        budget = BudgetCallback(self.clock, self.config.session.reserve_seconds)
        rows_per_step = self.config.train.batch_size * self.config.train.accumulation
        progress = ProgressCallback(self.clock, rows_per_step, self.say, self.config.session.progress_seconds)
        callbacks = [budget, progress, GuardCallback(), StoreCallback(self._keep, budget)]
        trainer = _build_trainer(self.config, self.data, self.work, callbacks)
        how = f"resuming after step {self.first_step}" if checkpoint else "starting at step 0"
        self.say(f"{how}; the session ends in {duration(self.clock.left())}")
        self.began_training = True
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        step, self.total_steps = trainer.state.global_step, trainer.state.max_steps
        if budget.stopped:
            left = self.total_steps - step
            return self.status("budget", f"the session's time is used; {left} steps are left for the next one", step)
        self._publish(self.work / f"checkpoint-{step}")
        return self.status("finished", f"all {step} steps are done", step)

    def _keep(self, folder: Path) -> None:
        save_checkpoint(
            self.store,
            folder,
            config=to_dict(self.config),
            config_hash=config_hash(self.config),
            data_fingerprint=fingerprint(self.data),
            world_size=1,
            fp16=self.config.model.dtype == "float16",
            keep=self.config.store.keep,
        )
        write_losses(folder, self.out)

    def _publish(self, folder: Path) -> None:
        export_adapter(folder, self.out)
        write_losses(folder, self.out)

    def _checkpoint_bytes(self) -> int:
        newest = latest(self.store)
        return sum(entry.size for entry in newest.files.values()) if newest else 0


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
    from kelron_lib.callbacks import TimingCallback

    timing = TimingCallback(steps)
    with tempfile.TemporaryDirectory() as work:
        trainer = _build_trainer(config, data, Path(work), [timing])
        trainer.train()
    per_step = statistics.median(timing.seconds[1:] or timing.seconds)
    return Measured(timing.began_at - began, per_step, trainer.state.max_steps)


def train(
    config: RunConfig,
    data: Path,
    out: Path,
    *,
    must_resume: bool = False,
    clock: SessionClock | None = None,
    say: Say = print,
) -> Status:
    """Train for one session on the dataset in `data`; results go to `out`, checkpoints to the config's store.

    Resumes from the store's newest verified checkpoint where there is one (`must_resume`: refuses an empty store).
    Writes `status.json`, `sessions.json`, `losses.json`, `config.json` and, when the run is finished, `adapter/`.
    Raises KelronError for bad input, a store that cannot be reached, or a checkpoint of another run.
    """
    with exclusive(out):
        session = _Session(
            config, data, out, clock or SessionClock.from_environment(config.session.budget_seconds), say
        )
        write_json(out / "config.json", to_dict(config))
        try:
            status = session.run(must_resume)
        except BaseException as error:
            newest = latest(session.store)
            words = str(error).strip() or type(error).__name__
            status = session.status("failed", words.splitlines()[0], newest.step if newest else 0)
            write_status(out, status)
            if session.began_training:
                record_session(session.store, out, status)
            raise
        write_status(out, status)
        record_session(session.store, out, status)
        say(f"{status.state}: {status.reason}")
        return status
