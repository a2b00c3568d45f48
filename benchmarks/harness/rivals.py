"""What Kelron is measured against: the plain Trainer with PEFT's preparation, and unsloth where it is installed."""

from __future__ import annotations

import argparse
import tempfile
import time
from typing import Any

import torch

from harness.measure import memory, synchronise
from harness.models import add_adapter, random_model, samples, save_4bit

BATCH, ACCUMULATION = 2, 4
SEED_RANK = 64


def pad(features: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    """A padded batch as the usual collators make it."""
    longest = max(len(feature["input_ids"]) for feature in features)

    def filled(name: str, fill: int) -> torch.Tensor:
        return torch.tensor([feature[name] + [fill] * (longest - len(feature[name])) for feature in features])

    mask = [[1] * len(feature["input_ids"]) + [0] * (longest - len(feature["input_ids"])) for feature in features]
    return {
        "input_ids": filled("input_ids", 0),
        "labels": filled("labels", -100),
        "attention_mask": torch.tensor(mask),
    }


class TrainerStack:
    """transformers' Trainer on padded batches of 2 with 4 passes a step."""

    def __init__(self, args: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> None:
        self.args, self.device, self.dtype = args, device, dtype
        self.model = self.load()
        self.samples = samples(self.model.config.vocab_size)

    def load(self) -> Any:
        """The seed's preparation: everything that is not 4-bit goes to float32; LoRA of rank 64 on the attention."""
        from peft import prepare_model_for_kbit_training

        lm = random_model(self.args.shape, self.device, self.dtype, self.args.layers)
        lm = prepare_model_for_kbit_training(lm)
        return add_adapter(lm, min(SEED_RANK, self.args.r), self.args.dropout, attention_only=True)

    def measure(self, steps: int, warmup: int) -> dict[str, Any]:
        """Train and time the steps after the warm-up."""
        from transformers import Trainer, TrainerCallback, TrainingArguments

        device, times = self.device, []

        class Clock(TrainerCallback):
            def on_step_end(self, *_: Any, **__: Any) -> None:
                synchronise(device)
                times.append(time.perf_counter())
                if len(times) == warmup and device.type == "cuda":
                    torch.cuda.reset_peak_memory_stats()

        with tempfile.TemporaryDirectory() as folder:
            settings = TrainingArguments(
                output_dir=folder,
                max_steps=warmup + steps,
                per_device_train_batch_size=BATCH,
                gradient_accumulation_steps=ACCUMULATION,
                gradient_checkpointing=True,
                fp16=self.dtype == torch.float16,
                optim="paged_adamw_8bit" if device.type == "cuda" else "adamw_torch",
                learning_rate=2e-4,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                remove_unused_columns=False,
                logging_strategy="no",
                use_cpu=device.type == "cpu",
            )
            trainer = Trainer(
                model=self.model, args=settings, train_dataset=self.samples, data_collator=pad, callbacks=[Clock()]
            )
            trainer.train()
        seconds = times[-1] - times[warmup - 1]
        seen = steps * BATCH * ACCUMULATION
        mean = sum(len(sample["input_ids"]) for sample in self.samples) / len(self.samples)
        return {
            "steps": steps,
            "samples": seen,
            "samples_per_second": seen / seconds,
            "tokens_per_second": seen * mean / seconds,
            "seconds_per_step": seconds / steps,
            **memory(device),
        }


class UnslothStack(TrainerStack):
    """unsloth's loader and adapter on the same random weights, trained by the same Trainer."""

    def load(self) -> Any:
        try:
            from unsloth import FastLanguageModel
        except ImportError:
            raise SystemExit("unsloth is not installed here: pip install unsloth, or choose another --stack") from None
        with tempfile.TemporaryDirectory() as folder:
            save_4bit(random_model(self.args.shape, self.device, self.dtype, self.args.layers), folder)
            torch.cuda.empty_cache()
            lm, _ = FastLanguageModel.from_pretrained(folder, max_seq_length=1024, dtype=self.dtype, load_in_4bit=True)
        return FastLanguageModel.get_peft_model(
            lm,
            r=self.args.r,
            lora_alpha=32,
            lora_dropout=self.args.dropout,
            use_gradient_checkpointing="unsloth",
            target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        )


STACKS = {"stock": TrainerStack, "unsloth": UnslothStack}
