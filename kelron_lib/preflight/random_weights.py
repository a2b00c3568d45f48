"""A 4-bit model with random weights in the exact shape of a config, built where it will run; nothing is downloaded.

Each linear is drawn on the device in 16 bits and quantised there before the next one, so the host holds nothing of it
and the device never more than the finished model and one matrix.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from kelron_lib.engine.prepare import nf4_linear
from kelron_lib.errors import KelronError
from kelron_lib.placement import read_shape

STD = 0.02
OWN_FIELDS = ("model_type", "quantization_config", "dtype", "torch_dtype")
"""Fields of a config.json that are set here and not taken over."""


def _random(shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    return torch.empty(shape, device=device, dtype=dtype).normal_(std=STD)


def _parameter(values: torch.Tensor) -> torch.nn.Parameter:
    return torch.nn.Parameter(values, requires_grad=False)


def _linear_4bit(module: torch.nn.Linear, device: torch.device, dtype: torch.dtype) -> Any:
    """A random nf4 layer in the place of `module`, which is on the meta device."""
    weight = _random((module.out_features, module.in_features), device, dtype)
    return nf4_linear(weight, None if module.bias is None else _random((module.out_features,), device, dtype))


def _skeleton(fields: Mapping[str, Any], layers: int, dtype: torch.dtype) -> Any:
    """The model without weights. Raises KelronError for a config that transformers cannot build."""
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = {name: value for name, value in fields.items() if name not in OWN_FIELDS}
    if layers:
        settings["num_hidden_layers"] = layers
        if isinstance(settings.get("layer_types"), list):
            settings["layer_types"] = settings["layer_types"][:layers]
    try:
        config = AutoConfig.for_model(fields["model_type"], **settings, use_cache=False)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=dtype)
    except (ValueError, TypeError, KeyError) as error:
        raise KelronError(f"transformers cannot build a model from this config: {error}") from None


def random_model(fields: Mapping[str, Any], device: torch.device, dtype: torch.dtype, layers: int = 0) -> Any:
    """A frozen causal language model in 4 bits (embedding, head and norms in `dtype`) on `device`, seeded.

    `fields` is what a config.json holds, `layers` a smaller number of decoder layers than it says. Raises KelronError
    for an architecture that is not known.
    """
    tied = read_shape(fields).tied
    settings = {name: value for name, value in fields.items() if name != "use_cache"}
    lm = _skeleton(settings, layers, dtype)
    torch.manual_seed(0)
    for name, module in list(lm.named_modules()):
        parent, _, child = name.rpartition(".")
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            setattr(lm.get_submodule(parent), child, _linear_4bit(module, device, dtype))
        elif "Norm" in type(module).__name__:
            module.weight = _parameter(torch.ones_like(module.weight, device=device, dtype=dtype))
        elif name in ("lm_head", "model.embed_tokens"):
            module.weight = _parameter(_random(tuple(module.weight.shape), device, dtype))
    if tied:
        lm.lm_head.weight = lm.model.embed_tokens.weight
    lm.model.rotary_emb = type(lm.model.rotary_emb)(lm.config).to(device)
    lm.is_loaded_in_4bit = True
    left = [name for name, tensor in (*lm.named_parameters(), *lm.named_buffers()) if tensor.is_meta]
    if left:
        raise KelronError(f"random weights are not known for {left[0]}: choose a Qwen2, Qwen3 or Llama base")
    return lm.requires_grad_(False)
