"""A checkpoint of random 16-bit weights in the exact shape of a model, as the Hub has one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from harness.measure import GIB
from harness.models import SHAPES, save_tokenizer

SHARD = 4 * GIB
"""A file's size at most, unless one matrix is larger."""


def skeleton(shape: str, layers: int = 0) -> Any:
    """The model without weights; `layers`: so many, 0 for all."""
    from transformers import AutoConfig, AutoModelForCausalLM

    fields = {**SHAPES[shape], **({"num_hidden_layers": layers} if layers else {})}
    config = AutoConfig.for_model("qwen2", **fields, tie_word_embeddings=False, dtype="bfloat16")
    config.architectures = ["Qwen2ForCausalLM"]
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def shards(model: Any) -> Iterator[dict[str, torch.Tensor]]:
    """Random bf16 weights under the model's names, a file's worth at a time."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    held: dict[str, torch.Tensor] = {}
    size = 0
    for name, like in model.state_dict().items():
        if held and size + 2 * like.numel() > SHARD:
            yield held
            held, size = {}, 0
        held[name] = torch.empty(like.shape, dtype=torch.bfloat16, device=device).normal_(std=0.02).cpu()
        size += 2 * like.numel()
    yield held


def write_checkpoint(shape: str, folder: Path, layers: int = 0) -> int:
    """A checkpoint as the Hub has it, with the packaged tokenizer; its bytes. `layers`: so many, 0 for all."""
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model = skeleton(shape, layers)
    where: dict[str, str] = {}
    for number, weights in enumerate(shards(model)):
        file = f"model-{number:05d}.safetensors"
        save_file(weights, folder / file, metadata={"format": "pt"})
        where |= dict.fromkeys(weights, file)
    total = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    model.config.save_pretrained(folder)
    save_tokenizer(folder)
    return total
