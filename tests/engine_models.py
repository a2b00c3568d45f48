"""Random 4-bit models of a few thousand parameters in the shapes of Qwen2, Qwen3 and Llama, and samples for them."""

from __future__ import annotations

import copy
import random

import bitsandbytes
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

VOCABULARY = 160
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "tie_word_embeddings": False,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}
KINDS = {
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {}),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {"head_dim": 16}),
    "llama": (LlamaConfig, LlamaForCausalLM, {}),
}


def to_4bit(model, dtype=torch.float32):
    """Every linear layer of the decoder as a bitsandbytes nf4 layer (double quantisation), as loading does it."""
    for name, module in list(model.named_modules()):
        if not isinstance(module, torch.nn.Linear) or name == "lm_head":
            continue
        biased = module.bias is not None
        small = bitsandbytes.nn.Linear4bit(
            module.in_features, module.out_features, bias=biased, compute_dtype=dtype, quant_type="nf4"
        )
        small.weight = bitsandbytes.nn.Params4bit(
            module.weight.data.to(dtype), requires_grad=False, quant_type="nf4", module=small
        ).to("cpu")
        small.support_avx512bf16_for_cpu = False
        if biased:
            small.bias = torch.nn.Parameter(module.bias.data, requires_grad=False)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, small)
    model.is_loaded_in_4bit = True
    return model


def base(kind="qwen2", seed=0, **shape):
    config, model, extra = KINDS[kind]
    torch.manual_seed(seed)
    lm = model(config(**{**SHAPE, **extra, **shape}))
    with torch.no_grad():
        for name, parameter in lm.named_parameters():
            if "norm" in name:
                parameter.add_(torch.randn_like(parameter) * 0.2)
            else:
                parameter.normal_(std=0.08)
            parameter.requires_grad_(False)
    lm.config._attn_implementation = "sdpa"
    return to_4bit(lm)


def with_lora(lm, dropout=0.0, r=4, seed=1):
    """A PeftModel whose B is not zero, in training mode."""
    torch.manual_seed(seed)
    settings = LoraConfig(r=r, lora_alpha=6, lora_dropout=dropout, target_modules="all-linear", init_lora_weights=False)
    return get_peft_model(lm, settings).train()


def peft_model(kind="qwen2", dropout=0.0, **shape):
    return with_lora(base(kind, **shape), dropout)


def twin(model):
    """A copy with the same weights and its own gradients."""
    return copy.deepcopy(model)


def samples(count=9, seed=3, shortest=4, longest=24):
    """Random token ids; the second half of each sample is supervised."""
    generator = random.Random(seed)
    made = []
    for _ in range(count):
        length = generator.randint(shortest, longest)
        ids = [generator.randrange(VOCABULARY) for _ in range(length)]
        made.append({"input_ids": ids, "labels": [-100] * (length // 2) + ids[length // 2 :]})
    return made


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def relative(value, reference):
    """Norm of the difference over the reference's norm."""
    return ((value - reference).norm() / reference.norm()).item()


def worst(found, reference):
    """The largest relative difference over all named tensors, which must be the same ones."""
    assert found.keys() == reference.keys()
    assert found
    return max(relative(found[name], reference[name]) for name in reference)
