"""Random-weight models in the exact shape of a config, built in 4 bits where they will run; nothing is downloaded."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch

SHAPES: dict[str, dict[str, Any]] = {
    "qwen2.5-14b": {
        "vocab_size": 152064,
        "hidden_size": 5120,
        "intermediate_size": 13824,
        "num_hidden_layers": 48,
        "num_attention_heads": 40,
        "num_key_value_heads": 8,
        "max_position_embeddings": 32768,
        "rope_theta": 1000000.0,
        "rms_norm_eps": 1e-6,
    },
    "qwen2.5-7b": {
        "vocab_size": 152064,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "max_position_embeddings": 32768,
        "rope_theta": 1000000.0,
        "rms_norm_eps": 1e-6,
    },
    "tiny": {
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 192,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
    },
}
ATTENTION_LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj"]


def lengths(count: int = 4096, seed: int = 0) -> list[int]:
    """The fixed distribution: log-normal (sigma 0.6), mean 110 tokens, within 16 and 512."""
    generator = random.Random(seed)
    return [min(512, max(16, round(generator.lognormvariate(4.52, 0.6)))) for _ in range(count)]


def samples(vocabulary: int, count: int = 4096, seed: int = 0) -> list[dict[str, list[int]]]:
    """Random tokens in those lengths, the second half of each sample supervised."""
    generator = random.Random(seed + 1)
    made = []
    for length in lengths(count, seed):
        ids = [generator.randrange(vocabulary) for _ in range(length)]
        made.append({"input_ids": ids, "labels": [-100] * (length // 2) + ids[length // 2 :]})
    return made


def random_model(shape: str, device: torch.device, dtype: torch.dtype, layers: int = 0) -> Any:
    """A causal language model in 4 bits, with embedding and head in `dtype`, built on `device` layer by layer."""
    from kelron_lib.preflight.random_weights import random_model as build

    fields = {"model_type": "qwen2", "tie_word_embeddings": False, **SHAPES[shape]}
    return build(fields, device, dtype, layers)


def save_tokenizer(folder: str | Path) -> None:
    """The tiny base's, beside a model that has none of its own; `with_tokenizer` goes with it."""
    from transformers import AutoTokenizer

    from kelron_lib.tiny import base_path

    AutoTokenizer.from_pretrained(base_path()).save_pretrained(folder)


def with_tokenizer(folder: Path) -> list[str]:
    """The overrides of a config for a base with that tokenizer."""
    from kelron_lib.config import as_overrides, resolve

    return as_overrides(
        {"model.base": str(folder), "model.stop_token_ids": [*resolve("tiny-cpu").model.stop_token_ids]}
    )


def save_4bit(lm: Any, folder: str) -> None:
    """A random 4-bit model as a folder that `from_pretrained` takes for what it is, with the tiny base's tokenizer."""
    from transformers import BitsAndBytesConfig

    lm.config.quantization_config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=lm.lm_head.weight.dtype,
    )
    lm.save_pretrained(folder)
    save_tokenizer(folder)


def add_adapter(lm: Any, r: int, dropout: float, *, attention_only: bool = False) -> Any:
    """A LoRA adapter with nonzero factors (zeros would run faster than what training sees)."""
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(
        r=r,
        lora_alpha=32,
        lora_dropout=dropout,
        target_modules=ATTENTION_LAYERS if attention_only else "all-linear",
        task_type="CAUSAL_LM",
    )
    with torch.device(lm.lm_head.weight.device):
        model = get_peft_model(lm, settings)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.005)
    return model
