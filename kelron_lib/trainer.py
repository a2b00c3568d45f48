"""The trainer: transformers' own, with packed passes, a loss over all tokens of a step, and gradients summed in place.

torch's DistributedDataParallel is not used: its buckets would hold a second set of gradients (2 GiB for a 14B at
r=128) through every pass. Here each gradient is sent from where it lies, while the backward pass goes on.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from kelron_lib.batching import Features, encode_rows
from kelron_lib.config import RunConfig
from kelron_lib.data import load_dataset_dir
from kelron_lib.engine.packing import PackedCollator, PackedPasses, plan_passes, supervised_in
from kelron_lib.engine.prepare import forward_loss, place_ends, prepare
from kelron_lib.engine.watch import FiniteWatch, watch_finite
from kelron_lib.errors import KelronError
from kelron_lib.files import FORBIDDEN
from kelron_lib.model import add_lora, load_base, name_base, portable_base, quiet_libraries, threads_for
from kelron_lib.processes import World
from kelron_lib.runtime import no_space
from kelron_lib.schedule import Schedule, pass_seed, plan_run, sample_lengths

USED_SPLITS = ("train", "validation")
PAGED_FROM = 100_000
"""bitsandbytes pages the optimizer states of parameters with at least so many values."""


class Replica(torch.nn.Module):
    """One process's copy of a model; after the last backward pass of a step its gradients are the sums over all.

    On GPUs each gradient is on its way as soon as it is there (`overlap`). On a CPU the exchange would take its time
    from the backward pass, and all of them go at the end in one piece.
    """

    def __init__(self, module: Any, world: World, overlap: bool | None = None) -> None:
        super().__init__()
        self.module = module
        self._exchanges = world.size > 1
        self._trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self._overlap = self._trained[0].is_cuda if overlap is None else overlap
        self._sent: list[Any] = []
        if self._exchanges:
            for parameter in self._trained:
                dist.broadcast(parameter.data, src=0)
                if self._overlap:
                    parameter.register_post_accumulate_grad_hook(self._send)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    @contextlib.contextmanager
    def no_sync(self) -> Iterator[None]:
        """Backward passes in here only add up this process's own gradients."""
        before, self._exchanges = self._exchanges, False
        try:
            yield
        finally:
            self._exchanges = before

    def _send(self, parameter: torch.Tensor) -> None:
        if self._exchanges:
            self._sent.append(dist.all_reduce(parameter.grad, async_op=True))

    def finish(self) -> None:
        """Return when the gradients are the sums over all processes. Call it after the last backward pass of a step."""
        for exchange in self._sent:
            exchange.wait()
        self._sent.clear()
        if self._exchanges and not self._overlap:
            gradients = [parameter.grad for parameter in self._trained if parameter.grad is not None]
            whole = torch.cat([gradient.flatten() for gradient in gradients])
            dist.all_reduce(whole)
            parts = whole.split([gradient.numel() for gradient in gradients])
            for gradient, part in zip(gradients, parts, strict=True):
                gradient.copy_(part.view_as(gradient))


class WatchCallback(TrainerCallback):
    """Stops a run with NaN or infinity in a layer's output, by the layer's name and before it reaches the adapter."""

    def __init__(self, watch: FiniteWatch) -> None:
        self._watch = watch

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._watch.check()


class CadenceCallback(TrainerCallback):
    """Saves and validates as often as the config says, not as the checkpoint says that the run was begun with."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        state.compute_steps(args, state.max_steps)


class KelronTrainer(Trainer):
    """transformers' Trainer over a Schedule's passes."""

    model: Any
    optimizer: Any

    def __init__(
        self,
        *,
        schedule: Schedule,
        training: PackedPasses,
        validation: PackedPasses,
        collate: PackedCollator,
        world: World,
        base: str,
        **kwargs: Any,
    ) -> None:
        """`base`: what checkpoints call the model that the adapter is for."""
        self.schedule, self.training, self.validation, self.collate = schedule, training, validation, collate
        self.world, self.base = world, base
        super().__init__(train_dataset=training, eval_dataset=validation, data_collator=collate, **kwargs)
        self._validation_tokens = sum(supervised_in(sample) for sample in validation.samples)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """The Trainer's own, on as many threads as the model has use for."""
        with threads_for(self.model):
            return super().train(*args, **kwargs)

    def get_train_dataloader(self) -> Any:
        """This process's passes in their order; accelerate, which would share them out again, is left aside."""
        own = torch.Generator()  # a loader draws a number for its workers: not from the run's generator
        passes: Any = self.training
        return DataLoader(passes, batch_size=1, collate_fn=self.collate, generator=own)

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any = None) -> tuple[list[Any], int]:
        """The step's batches of this process, each with its `number` in the run, and the step's tokens over all."""
        step = self.state.global_step
        numbers = self.schedule.numbers(step, self.world.rank, self.world.size)
        batches = [{**next(epoch_iterator), "number": number} for number in numbers]
        return batches, self.schedule.tokens[step]

    def _prepare_inputs(self, inputs: Any) -> Any:
        """Batches stay on the CPU: the engine sends what it needs, and reads the rest without waiting for the GPU."""
        return inputs

    def _wrap_model(self, model: Any, training: bool = True, dataloader: Any = None) -> Any:
        if not training or isinstance(model, Replica):
            return model
        # The Trainer of transformers before 5 prepares the optimizer only together with the model.
        self.optimizer = self.accelerator.prepare(self.optimizer)
        return Replica(model, self.world)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """A pass's summed cross-entropy over the tokens of its whole step. Dropout is drawn by the pass's number."""
        batch = dict(inputs)
        torch.manual_seed(pass_seed(self.args.seed, batch.pop("number")))
        return forward_loss(model, batch, num_items_in_batch)

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        loss: torch.Tensor = super().training_step(model, inputs, num_items_in_batch)
        if self.accelerator.sync_gradients:
            model.finish()
        return loss * self.world.size  # the Trainer logs the mean over processes, and the loss is their sum

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """The validation loss per supervised token. The training's random numbers stay as they are."""
        self.model.eval()
        total = 0.0
        devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
        with torch.no_grad(), torch.random.fork_rng(devices=devices):
            for index in range(self.world.rank, len(self.validation), self.world.size):
                total += forward_loss(self.model, self.collate([self.validation[index]]), 1.0).item()
        metrics = {"eval_loss": self.world.sum(total) / self._validation_tokens}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted: it costs a walk over all parameters a pass, and nobody reads it."""
        return 0

    def store_flos(self) -> None:
        """Nothing to store, and nothing to wait for the other processes for."""

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """As transformers does, with the base named as other machines know it. Where the disk does not take it, a
        KelronError that says so, and no half of it left."""
        folder = Path(self.args.output_dir or "") / f"checkpoint-{self.state.global_step}"
        try:
            super()._save_checkpoint(*args, **kwargs)
            if self.world.first:
                name_base(folder, self.base)
                self._forget_all_but(folder)
        except (OSError, RuntimeError, SafetensorError) as error:
            if not _is_of_writing(error):
                raise
            if self.world.first:
                shutil.rmtree(folder, ignore_errors=True)
            free = shutil.disk_usage(folder.parent).free
            forbidden = isinstance(error, OSError) and error.errno in FORBIDDEN
            advice = (
                "choose an --out that can be written" if forbidden else "free some disk space, or choose another --out"
            )
            raise KelronError(
                f"no checkpoint of step {self.state.global_step} could be written to {folder.parent}, which has "
                f"{free / 1e6:.1f} MB free ({str(error).splitlines()[0]}): {advice}; the checkpoints in the "
                "store are untouched"
            ) from error

    @staticmethod
    def _forget_all_but(newest: Path) -> None:
        """Only the newest checkpoint stays in the work folder. transformers' own way goes by the time of day: set back
        between two checkpoints, the clock would cost the one that was just written."""
        for folder in newest.parent.glob("checkpoint-*"):
            if folder != newest:
                shutil.rmtree(folder, ignore_errors=True)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """The adapter's weights by way of the CPU: PEFT would put those of every process on the first GPU."""
        from peft import load_peft_weights, set_peft_model_state_dict

        set_peft_model_state_dict(self.model, load_peft_weights(resume_from_checkpoint, device="cpu"))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """As transformers does, but rate and decay are the config's own: a checkpoint brings back those of its time."""
        own = [{name: group[name] for name in ("initial_lr", "weight_decay")} for group in self.optimizer.param_groups]
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        _page_again(self.optimizer.optimizer)
        scheduler: Any = self.lr_scheduler
        scheduler.base_lrs = [group["initial_lr"] for group in own]
        for group, mine, rule in zip(self.optimizer.param_groups, own, scheduler.lr_lambdas, strict=True):
            group |= {**mine, "lr": mine["initial_lr"] * rule(scheduler.last_epoch)}
        scheduler._last_lr = [group["lr"] for group in self.optimizer.param_groups]


def _is_of_writing(error: Exception) -> bool:
    """Whether an error of a save is the disk's: the system's, or torch's for an archive that it cannot write on."""
    archive = isinstance(error, RuntimeError) and ("inline_container" in str(error) or "StreamWriter" in str(error))
    return isinstance(error, OSError) or archive or no_space(error) is not None


def _page_again(optimizer: Any) -> None:
    """Put a paged optimizer's states, just loaded, back into paged memory, which loading does not (bitsandbytes 0.50).

    What was saved still says that it is paged, wherever loading put it: in a process of several on its GPU, where the
    next step's prefetch ends the process with "invalid argument". So that mark counts for nothing here.
    """
    if not getattr(optimizer, "is_paged", False):
        return
    for parameter, state in optimizer.state.items():
        for name in ("state1", "state2"):
            if parameter.is_cuda and parameter.numel() >= PAGED_FROM:
                paged = optimizer.get_state_buffer(parameter, dtype=state[name].dtype)
                torch.cuda.synchronize()
                paged.copy_(state[name])
                state[name] = paged
    torch.cuda.empty_cache()


class _Arguments(TrainingArguments):
    """transformers' own, for a CPU without its number: before 5.23 the Trainer loads an optimizer's states to "cpu:0"
    where there are several processes, which torch cannot."""

    @property
    def device(self) -> torch.device:
        found = super().device
        return torch.device("cpu") if found.type == "cpu" else found


def _arguments(config: RunConfig, work: Path, world: World) -> TrainingArguments:
    """transformers' TrainingArguments for a config; what Kelron does itself is switched off there."""
    train = config.train
    arguments = _Arguments(
        output_dir=str(work),
        num_train_epochs=1,  # the schedule spans all epochs
        learning_rate=train.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=train.warmup_share,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=train.passes_per_step // world.size,
        weight_decay=train.weight_decay,
        max_grad_norm=train.max_grad_norm,
        optim=train.optimizer,
        fp16=config.model.dtype == "float16",
        use_cpu=not torch.cuda.is_available(),
        eval_strategy="steps",
        eval_steps=train.eval_steps,
        save_strategy="steps",
        save_steps=train.save_steps,
        # Logging every step keeps the logged losses independent of where a run is cut.
        logging_steps=1,
        logging_nan_inf_filter=False,
        prediction_loss_only=True,
        remove_unused_columns=False,
        seed=train.seed,
        report_to="none",
        disable_tqdm=True,
    )
    if world.size == 1 and arguments.n_gpu > 1:
        arguments._n_gpu = 1  # or the Trainer would count the GPUs beside this one as its own
    return arguments


def build_trainer(config: RunConfig, data: Path, work: Path, world: World) -> KelronTrainer:
    """The trainer with its encoded splits, nf4 base and fresh adapter, ready for packed passes.

    Raises KelronError for a dataset, a base or a number of processes that cannot be used.
    """
    splits = load_dataset_dir(data)
    for name in USED_SPLITS:
        if not splits[name]:
            raise KelronError(f"the {name} split in {data} is empty: make the dataset again with `kelron data`")
    with quiet_libraries():
        base, tokenizer = load_base(config)
        seen, unseen = (encode_rows(tokenizer, splits[name], config.data.max_tokens) for name in USED_SPLITS)
    return trainer_of(config, base, tokenizer, seen, unseen, work, world)


def trainer_of(
    config: RunConfig,
    base: Any,
    tokenizer: Any,
    seen: Sequence[Features],
    unseen: Sequence[Features],
    work: Path,
    world: World,
) -> KelronTrainer:
    """The trainer of a fresh adapter on `base`, over encoded rows to train on and to validate with."""
    train = config.train
    packing = {"row_tokens": train.row_tokens, "rows_per_pass": train.rows_per_pass, "seed": train.seed}
    with quiet_libraries():
        schedule = plan_run(seen, passes_per_step=train.passes_per_step, epochs=train.epochs, **packing)
        validation = PackedPasses(unseen, plan_passes(sample_lengths(unseen), epoch=0, **packing))
        embedding, head = config.model.embedding, config.model.head
        adapted = add_lora(place_ends(base, embedding=embedding, head=head), config)
        model = prepare(adapted, embedding=embedding, head=head, checkpointing=train.checkpointing)
    trainer = KelronTrainer(
        schedule=schedule,
        training=PackedPasses(seen, schedule.share(world.rank, world.size)),
        validation=validation,
        collate=PackedCollator(train.row_tokens, tokenizer.pad_token_id or 0),  # nothing looks at padding
        world=world,
        base=portable_base(config),
        model=model,
        args=_arguments(config, work, world),
        callbacks=[WatchCallback(watch_finite(model)), CadenceCallback()],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer
