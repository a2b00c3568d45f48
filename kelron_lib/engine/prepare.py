"""A 4-bit model with its adapter made ready for training: nothing upcast, embedding in host memory, layers fused."""

from __future__ import annotations

import contextlib
import functools
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from kelron_lib.engine import attention as attention_module
from kelron_lib.engine.attention import Segments
from kelron_lib.engine.kernels import choose
from kelron_lib.engine.layers import speed_up_layers
from kelron_lib.engine.lora import fuse_lora, recomputing
from kelron_lib.engine.loss import supervised_loss, to_device
from kelron_lib.engine.packing import block_mask, segment_bounds
from kelron_lib.engine.watch import decoder_layers, watch_finite
from kelron_lib.errors import KelronError

__all__ = ["HostEmbedding", "forward_loss", "prepare", "watch_finite"]

LOSS_CHUNK = 512
"""Positions whose logits exist at one time: 0.3 GiB in float32 with a vocabulary of 152,064."""


class HostEmbedding(torch.nn.Module):
    """An embedding whose table stays in host memory; only the rows looked up cross to the device.

    The table is no parameter, so that nothing moves it, shards it or counts it among what is trained.
    """

    def __init__(self, weight: torch.Tensor, device: torch.device) -> None:
        super().__init__()
        self.weight = weight.detach().to("cpu")
        self.device = device

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """ids (...) on any device, best on the CPU; the rows (..., width) on the model's device."""
        flat = ids.flatten().to("cpu")
        pinned = self.device.type == "cuda"
        rows = torch.empty(len(flat), self.weight.shape[1], dtype=self.weight.dtype, pin_memory=pinned)
        torch.index_select(self.weight, 0, flat, out=rows)
        return rows.to(self.device, non_blocking=True).view(*ids.shape, -1)


def causal_lm(model: Any) -> Any:
    """The language model inside a PeftModel (or DDP around one). Raises KelronError for another kind of model."""
    inner = model.module if hasattr(model, "module") and not hasattr(model, "get_base_model") else model
    inner = inner.get_base_model() if hasattr(inner, "get_base_model") else inner
    parts = ("lm_head", "model", "get_input_embeddings")
    if not all(hasattr(inner, part) for part in parts) or not hasattr(inner.model, "layers"):
        raise KelronError(
            f"{type(inner).__name__} is not built like Qwen2, Qwen3 or Llama (a `model` with `layers`, and an "
            "`lm_head`): choose such a base model"
        )
    return inner


def _place_embedding(model: Any, where: str) -> None:
    if where not in ("host", "device"):
        raise KelronError(f"the embedding can be on the host or the device, not {where!r}")
    embedding = model.get_input_embeddings()
    device = embedding.weight.device
    if where == "device" or device.type == "cpu" or isinstance(embedding, HostEmbedding):
        return
    if model.lm_head.weight is embedding.weight:
        raise KelronError(
            "this base's head shares the embedding's table, so the host cannot hold it: "
            "use --set model.embedding=device"
        )
    model.set_input_embeddings(HostEmbedding(embedding.weight, device))
    torch.cuda.empty_cache()


def nf4_linear(weight: torch.Tensor, bias: torch.Tensor | None = None) -> Any:
    """A frozen 4-bit layer (nf4, double quantisation) of a 16- or 32-bit weight (out, in), on the weight's device and
    computing in its dtype."""
    import bitsandbytes

    wide, narrow = weight.shape[1], weight.shape[0]
    small = bitsandbytes.nn.Linear4bit(
        wide, narrow, bias=bias is not None, compute_dtype=weight.dtype, quant_type="nf4", device="meta"
    )
    unpacked: Any = bitsandbytes.nn.Params4bit(
        weight, requires_grad=False, compress_statistics=True, quant_type="nf4", module=small
    )
    small.weight = unpacked.to(weight.device)
    if bias is not None:
        small.bias = torch.nn.Parameter(bias, requires_grad=False)
    small.support_avx512bf16_for_cpu = False  # the layout for inference on a CPU has no gradient
    return small


def quantise_head(model: Any) -> None:
    """Put the output head into 4 bits (nf4, double quantisation) where it is: 1.1 GiB less for a 14B."""
    import bitsandbytes

    head = model.lm_head
    if isinstance(head, bitsandbytes.nn.Linear4bit):
        return
    if head.weight is model.get_input_embeddings().weight:
        raise KelronError("this model's head shares the embedding's table: it cannot be put into 4 bits")
    model.lm_head = nf4_linear(head.weight.data)


def _has_dropout(model: Any) -> bool:
    return any(isinstance(module, torch.nn.Dropout) and module.p > 0 for module in model.modules()) or any(
        getattr(module, "attention_dropout", 0.0) for module in model.modules()
    )


def _checkpoint_layers(model: Any) -> None:
    """Non-reentrant checkpointing of every layer, set on the layers themselves: transformers' own switch also makes
    the embeddings require a gradient, which reentrant checkpointing needs and this does not."""
    run = functools.partial(
        checkpoint,
        use_reentrant=False,
        preserve_rng_state=_has_dropout(model),
        context_fn=lambda: (contextlib.nullcontext(), recomputing()),
    )
    for layer in model.model.layers:
        layer._gradient_checkpointing_func = run
        layer.gradient_checkpointing = True


def place_ends(model: Any, *, embedding: str, head: str) -> Any:
    """Put the embedding where it rests ("host" or "device") and keep the head or put it into "nf4"; returns the model.

    Before the adapter is made: else its float32 weights and both 16-bit tables stand on the GPU at one time, 2.5 GiB
    more than while it trains for a 14B at r=128. Doing it twice changes nothing.
    """
    if head not in ("keep", "nf4"):
        raise KelronError(f"the head can be kept or put into nf4, not {head!r}")
    _place_embedding(model, embedding)
    if head == "nf4":
        quantise_head(model)
    return model


def prepare(
    peft_model: Any,
    *,
    embedding: str = "host",
    head: str = "keep",
    norms_fp32: bool = True,
    checkpointing: bool = True,
    attention: str = attention_module.NAME,
    fused: bool = True,
    kernels: str = "auto",
    loss_chunk: int = LOSS_CHUNK,
) -> Any:
    """Make a PeftModel over a 4-bit Qwen2-, Qwen3- or Llama-like model ready for packed training; returns it.

    `embedding` "host" or "device"; `head` "keep" or "nf4"; `norms_fp32` computes norms in float32 inside one kernel;
    `fused=False` keeps PEFT's own LoRA and transformers' own layers; `kernels` "auto", "torch" or "triton"
    (`model.kernels_in_use` says which, and why). Afterwards `model(**packed, denominator=n).loss` is the loss of a
    packed batch; every other call works as before. Raises KelronError for a model of another kind.
    """
    model = causal_lm(peft_model)
    decoder_layers(model)
    attention_module.register()
    model.set_attn_implementation(attention)
    model.config.use_cache = False
    place_ends(model, embedding=embedding, head=head)
    for name, parameter in peft_model.named_parameters():
        if parameter.requires_grad and "lora_" in name:
            parameter.data = parameter.data.float()
    if fused:
        fuse_lora(peft_model)
    speed_up_layers(model, norms=norms_fp32, blocks=fused)
    model.kernels_in_use = choose(kernels, _device(model))
    if checkpointing:
        _checkpoint_layers(model)
    _accept_packed(model, loss_chunk, fused)
    return peft_model


def _accept_packed(model: Any, chunk: int, fused: bool) -> None:
    """Let the model's forward take packed batches, so that PEFT, DDP and the Trainer can call it as any other."""
    from transformers.modeling_outputs import CausalLMOutputWithPast

    if hasattr(model, "_whole_forward"):
        return
    whole = model._whole_forward = model.forward
    window = _window(model)

    @functools.wraps(whole)
    def forward(*args: Any, segment_ids: Any = None, denominator: Any = None, **kwargs: Any) -> Any:
        if segment_ids is None:
            return whole(*args, **kwargs)
        # Fused layers choose their own dtypes; autocast would only add casts around them.
        plain = torch.autocast(_device(model).type, enabled=False) if fused else contextlib.nullcontext()
        with plain:
            packed = {name: kwargs[name] for name in ("input_ids", "position_ids", "labels")}
            return CausalLMOutputWithPast(loss=_packed_loss(model, segment_ids, denominator, chunk, window, **packed))

    model.forward = forward


def _device(model: Any) -> torch.device:
    device: torch.device = model.lm_head.weight.device
    return device


def _window(model: Any) -> int | None:
    """The shortest attention window of any layer, None where all attend to everything."""
    windows = [getattr(module, "sliding_window", None) for module in model.modules()]
    return min((window for window in windows if isinstance(window, int)), default=None)


def _packed_loss(
    model: Any,
    segment_ids: torch.Tensor,
    denominator: Any,
    chunk: int,
    window: int | None,
    input_ids: torch.Tensor,
    position_ids: torch.Tensor,
    labels: torch.Tensor,
) -> torch.Tensor:
    device = _device(model)
    bounds, longest = segment_bounds(segment_ids)
    if window is not None and longest > window:
        raise KelronError(f"a sample has {longest} tokens, over the attention window of {window}: use shorter samples")
    if device.type == "cuda" and model.config._attn_implementation == attention_module.NAME:
        segments = Segments(to_device(bounds, device), longest)
        mask = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device)  # unread, but keeps one from being made
    else:
        segments, mask = None, block_mask(segment_ids.to(device))
    if not isinstance(model.get_input_embeddings(), HostEmbedding):
        input_ids = to_device(input_ids, device)
    hidden = model.model(
        input_ids=input_ids,
        attention_mask=mask,
        position_ids=to_device(position_ids, device),
        use_cache=False,
        segments=segments,
    ).last_hidden_state
    over = denominator if denominator is not None else max(1, int((labels[:, 1:] >= 0).sum()))
    return supervised_loss(hidden, labels, model.lm_head, chunk=chunk, denominator=over)


def forward_loss(model: Any, batch: dict[str, Any], denominator: float | None = None) -> torch.Tensor:
    """The loss of a packed batch (see `pack`; tensors best on the CPU): its summed cross-entropy over `denominator`,
    or over its own supervised tokens where that is None. No logits are kept."""
    loss: torch.Tensor = model(**batch, denominator=denominator).loss
    return loss
