"""Trains the tiny base from nothing: tokenizer, corpus, model. On a CPU the same recipe gives the same bytes."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kelron_lib.errors import KelronError
from kelron_lib.prompts import END, IGNORED, TEXT_END, encode
from kelron_lib.tiny import WEIGHTS
from kelron_lib.tiny.corpus import conversations
from kelron_lib.tiny.tokenizer import TRAINING_CHATS, VOCAB_SIZE, build_tokenizer

RECIPE_FILE = "tiny_base.json"
BETAS, WEIGHT_DECAY, CLIP_NORM = (0.9, 0.95), 0.05, 1.0
TOKENIZER_SEED_OFFSET, SHUFFLE_SEED_OFFSET, STREAM_SEED_STEP = 1, 2, 1000


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights, besides the code and the libraries' versions."""

    steps: int = 3400
    """Optimizer steps."""
    seed: int = 20
    """Of the corpus and the initial weights; the tokenizer's corpus has the next one."""
    batch_size: int = 256
    """Conversations a step, of similar length."""
    muon_rate: float = 0.02
    """Peak rate of the layers' matrices (Muon)."""
    adam_rate: float = 3e-3
    """Peak rate of the embedding, the head, the biases and the norms (AdamW)."""
    warmup_steps: int = 100
    final_share: float = 0.02
    """Share of the peak rate at the last step."""
    tokenizer_chats: int = TRAINING_CHATS
    """Conversations that the tokenizer learns its merges from."""
    streams: int = 10
    """Processes that make batches, each of a corpus of its own; the steps take from them in turn."""
    threads: int = 1
    """CPU threads of torch: sums are split by thread, so another number gives other last digits."""
    bf16: bool = True
    """Matrix products in bfloat16 (torch.autocast), the weights in float32."""
    device: str = "cpu"
    """`cpu`, or `cuda`: minutes instead of hours, but not the same bytes each time. The shipped one was made there."""


def model_config(tokenizer: Any) -> Any:
    """The Qwen2Config of the tiny base: 5.2M parameters, head not tied to the embedding."""
    from transformers import Qwen2Config

    return Qwen2Config(
        vocab_size=VOCAB_SIZE,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _up(count: int, multiple: int) -> int:
    """`count` rounded up. Few distinct shapes: the CPU kernels keep memory for every shape they have met."""
    return -(-count // multiple) * multiple


def batches(tokenizer: Any, recipe: Recipe, stream: int = 0) -> Iterator[tuple[Any, Any]]:
    """Endless `(input_ids, labels)`, int64, both (batch, length), padded on the right, similar lengths together."""
    import torch

    group, seed = 16, recipe.seed + stream * STREAM_SEED_STEP
    rows = (encode(tokenizer, messages, 1024) for messages in conversations(seed))
    generator = torch.Generator().manual_seed(seed + SHUFFLE_SEED_OFFSET)
    while True:
        pool = sorted(itertools.islice(rows, group * recipe.batch_size), key=lambda row: len(row["input_ids"]))
        for index in torch.randperm(group, generator=generator).tolist():
            chunk = pool[index * recipe.batch_size : (index + 1) * recipe.batch_size]
            length = _up(max(len(row["input_ids"]) for row in chunk), 8)
            ids = torch.full((len(chunk), length), tokenizer.pad_token_id)
            labels = torch.full((len(chunk), length), IGNORED)
            for position, row in enumerate(chunk):
                ids[position, : len(row["input_ids"])] = torch.tensor(row["input_ids"])
                labels[position, : len(row["labels"])] = torch.tensor(row["labels"])
            yield ids, labels


def _ahead(tokenizer: Any, recipe: Recipe) -> Iterator[tuple[Any, Any]]:
    """The batches of all streams in turn, made by processes of their own while the model trains."""
    import numpy as np
    import torch
    from torch.utils.data import DataLoader, IterableDataset, get_worker_info

    class Batches(IterableDataset):
        def __iter__(self) -> Iterator[tuple[Any, Any]]:
            worker: Any = get_worker_info()
            for ids, labels in itertools.islice(
                batches(tokenizer, recipe, worker.id), len(range(worker.id, recipe.steps, recipe.streams))
            ):
                # Through a pipe: tensors would each take a shared memory file, which costs more than the copy.
                yield ids.numpy().astype(np.int16), labels.numpy().astype(np.int16)

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create")  # more streams than cores are no harm here
        loader = iter(
            DataLoader(
                Batches(),
                batch_size=None,
                collate_fn=tuple,
                num_workers=recipe.streams,
                prefetch_factor=8,
                multiprocessing_context="fork",
            )
        )
    for ids, labels in loader:
        yield torch.from_numpy(ids).long(), torch.from_numpy(labels).long()


def answer_loss(model: Any, ids: Any, labels: Any) -> Any:
    """Mean cross entropy over the labelled tokens, a float32 scalar; the head runs on their positions only."""
    import torch

    # Padding stands on the right, where causal attention does not look: no mask is needed.
    hidden = model.model(input_ids=ids).last_hidden_state[:, :-1]
    targets = labels[:, 1:]
    rows = (targets != IGNORED).flatten().nonzero().squeeze(1)
    spare = _up(len(rows), 128) - len(rows)
    targets = torch.nn.functional.pad(targets.flatten()[rows], (0, spare), value=IGNORED)
    hidden = hidden.flatten(0, 1)[torch.nn.functional.pad(rows, (0, spare))]
    return torch.nn.functional.cross_entropy(model.lm_head(hidden).float(), targets, ignore_index=IGNORED)


def rate_share(step: int, recipe: Recipe) -> float:
    """Share of the peak rates at a step (from 0): linear warm-up, then a cosine down to `final_share`."""
    warmup = min(recipe.warmup_steps, max(1, recipe.steps // 10))
    if step < warmup:
        return (step + 1) / warmup
    cosine = 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, recipe.steps - warmup)))
    return recipe.final_share + (1 - recipe.final_share) * cosine


def _optimizers(model: Any, recipe: Recipe) -> list[Any]:
    """Muon for the layers' matrices, AdamW for the rest.

    With AdamW alone attention takes several times as long to learn to copy, and business answers need that.
    """
    import torch

    matrices = [weight for weight in model.model.layers.parameters() if weight.ndim == 2]
    chosen = {id(weight) for weight in matrices}
    others = [weight for weight in model.parameters() if id(weight) not in chosen]
    return [
        torch.optim.Muon(matrices, lr=recipe.muon_rate, weight_decay=WEIGHT_DECAY),
        torch.optim.AdamW(others, lr=recipe.adam_rate, betas=BETAS, weight_decay=0.0),
    ]


class _Progress:
    """A line on stderr every few seconds: step, loss, rate, time left."""

    def __init__(self, steps: int, every_seconds: float = 10.0) -> None:
        self.steps, self.every = steps, every_seconds
        self.started = self.printed = time.monotonic()

    def update(self, step: int, loss: float, tokens: int) -> None:
        now = time.monotonic()
        if now - self.printed < self.every and step < self.steps:
            return
        self.printed = now
        elapsed = now - self.started
        left = elapsed / step * (self.steps - step)
        print(
            f"tiny base: step {step}/{self.steps}  loss {loss:.3f}  {tokens / elapsed:,.0f} tokens/s  "
            f"{left:.0f} s left",
            file=sys.stderr,
            flush=True,
        )


def train(model: Any, tokenizer: Any, recipe: Recipe) -> tuple[float, int]:
    """Train `model` in place. Returns the mean loss of the last tenth of the steps and the number of tokens read."""
    import torch

    optimizers = _optimizers(model, recipe)
    peaks = [recipe.muon_rate, recipe.adam_rate]
    progress = _Progress(recipe.steps)
    losses: list[float] = []
    tokens = 0
    model.train()
    for step, (ids, labels) in enumerate(_ahead(tokenizer, recipe)):
        ids, labels = ids.to(recipe.device), labels.to(recipe.device)
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * rate_share(step, recipe)
        with torch.autocast(recipe.device, dtype=torch.bfloat16, enabled=recipe.bf16):
            loss = answer_loss(model, ids, labels)
        model.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        for optimizer in optimizers:
            optimizer.step()
        losses.append(loss.item())
        tokens += int((ids != tokenizer.pad_token_id).sum())
        progress.update(step + 1, sum(losses[-50:]) / len(losses[-50:]), tokens)
    last = losses[-max(1, recipe.steps // 10) :]
    return sum(last) / len(last), tokens


def _save(model: Any, tokenizer: Any, folder: Path) -> None:
    import torch
    from transformers import GenerationConfig

    model.to("cpu", torch.float16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    stops = [tokenizer.convert_tokens_to_ids(token) for token in (END, TEXT_END)]
    GenerationConfig(eos_token_id=stops, pad_token_id=tokenizer.pad_token_id).save_pretrained(folder)


def _train_into(folder: Path, recipe: Recipe) -> dict[str, Any]:
    import tokenizers
    import torch
    import transformers

    started = time.monotonic()
    tokenizer = build_tokenizer(recipe.seed + TOKENIZER_SEED_OFFSET, recipe.tokenizer_chats)
    torch.manual_seed(recipe.seed)
    model: Any = transformers.Qwen2ForCausalLM(model_config(tokenizer))
    model.to(recipe.device)
    loss, tokens = train(model, tokenizer, recipe)
    _save(model, tokenizer, folder)
    weights = folder / WEIGHTS
    return {
        "recipe": asdict(recipe),
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "tokens": tokens,
        "final_loss": round(loss, 4),
        "seconds": round(time.monotonic() - started, 1),
        "versions": {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__,
        },
        "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
    }


def build(out: Path, *, steps: int = Recipe.steps, seed: int = Recipe.seed, **changes: Any) -> dict[str, Any]:
    """Train the tiny base into the folder `out` and return what `tiny_base.json` there says.

    `changes` are further fields of Recipe. A tiny base already at `out` is replaced once the new one is whole.
    Raises KelronError for bad steps, and where `out` holds something else.
    """
    import torch

    if steps < 1:
        raise KelronError(f"--steps is {steps}: give at least 1")
    out = Path(out)
    if out.exists() and not (out / RECIPE_FILE).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise KelronError(f"{out} exists and is not a tiny base: name another folder, or remove it")
    recipe = Recipe(steps=steps, seed=seed, **changes)
    out.parent.mkdir(parents=True, exist_ok=True)
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    staging = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        torch.set_num_threads(recipe.threads)
        torch.use_deterministic_algorithms(recipe.device == "cpu")  # on a GPU attention's backward has no such way
        report = _train_into(staging, recipe)
        (staging / RECIPE_FILE).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        staging.chmod(0o755)
        (staging / WEIGHTS).chmod(0o644)
        if out.exists():
            shutil.rmtree(out)
        os.replace(staging, out)
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)
        shutil.rmtree(staging, ignore_errors=True)
    return report
