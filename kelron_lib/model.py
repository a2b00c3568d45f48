"""The base model in 4 bits and its adapter, by one code path for the tiny base and the 14B.

Nothing is upcast: transformers' and PEFT's usual preparation casts embedding and head to float32, which costs
2.9 GiB on the 14B and is not needed; what training needs is non-reentrant checkpointing.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kelron_lib import __version__
from kelron_lib.config import RunConfig
from kelron_lib.errors import KelronError
from kelron_lib.kaggle_mounts import mounted_model
from kelron_lib.prompts import check_stop_tokens
from kelron_lib.runtime import read_json, write_json


def base_name(config: RunConfig) -> str:
    """What `from_pretrained` takes: the packaged tiny base's folder, the given folder, the hub id, or the folder where
    that model is attached to a Kaggle session."""
    if config.model.base != "tiny":
        return str(mounted_model(config.model.base) or config.model.base)
    from kelron_lib.tiny import base_path

    return str(base_path())


def portable_base(config: RunConfig) -> str:
    """The base as an adapter names it on any machine: `tiny`, the hub id, or a folder's name without its place."""
    folder = Path(config.model.base)
    return folder.resolve().name if config.model.base != "tiny" and folder.is_dir() else config.model.base


def name_base(adapter: Path, base: str) -> None:
    """Have the adapter in a folder name `base`, where peft wrote down the place that it lies at on this machine."""
    settings = adapter / "adapter_config.json"
    write_json(settings, read_json(settings) | {"base_model_name_or_path": base})


def library_versions() -> dict[str, str]:
    """The versions of Kelron and of the packages that decide what a checkpoint holds."""
    packages = ("torch", "transformers", "peft", "bitsandbytes")
    return {"kelron": __version__, **{name: importlib.metadata.version(name) for name in packages}}


def _explain(error: Exception, what: str, name: str, advice: str) -> KelronError:
    first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return KelronError(f"cannot load the {what} of {name!r}: {first_line.rstrip('.')}; {advice}")


_OTHER_BASE = "name a base with --set model.base, a folder or a hub id"
GET_ADAPTER = "fetch a checkpoint with `kelron store pull URL DIR` and name it with --adapter DIR"


_COPY_AGAIN = f"copy it again, or {GET_ADAPTER}"


def _load_errors() -> tuple[type[Exception], ...]:
    """What the libraries raise for files that are missing, cut off or of another model."""
    from safetensors import SafetensorError  # derives from Exception alone

    return (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError)


def load_tokenizer(config: RunConfig) -> Any:
    """The base's tokenizer, with its stop tokens checked against the config. Raises KelronError."""
    from transformers import AutoTokenizer

    name = base_name(config)
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise _explain(error, "tokenizer", name, _OTHER_BASE) from None
    if tokenizer.chat_template is None:
        raise KelronError(f"{name!r} has no chat template: use an instruct model")
    check_stop_tokens(tokenizer, config.model.stop_token_ids)
    return tokenizer


def quantization(config: RunConfig) -> Any:
    """nf4 with double quantisation (QLoRA, arXiv 2305.14314), computing in the config's dtype."""
    import torch
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, config.model.dtype),
    )


def require_device(config: RunConfig) -> None:
    """Raise KelronError where this machine cannot compute in the config's dtype."""
    import torch

    if config.model.dtype == "float16" and not torch.cuda.is_available():
        raise KelronError(
            "model.dtype is float16 but there is no CUDA device: run on a GPU, or use --set model.dtype=float32"
        )


def load_base(config: RunConfig) -> tuple[Any, Any]:
    """The nf4 base model (frozen, eval mode) and its tokenizer.

    On a CUDA machine the model goes to the current device. Raises KelronError where it cannot be loaded, or where
    the dtype does not suit the machine.
    """
    import torch
    from transformers import AutoModelForCausalLM

    require_device(config)
    _quiet_bitsandbytes()
    tokenizer = load_tokenizer(config)
    name = base_name(config)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            name,
            quantization_config=quantization(config),
            dtype=getattr(torch, config.model.dtype),
            device_map={"": torch.cuda.current_device()} if torch.cuda.is_available() else None,
            attn_implementation="sdpa",
        )
    except _load_errors() as error:
        raise _explain(error, "model", name, _OTHER_BASE) from None
    _compute_in(model, getattr(torch, config.model.dtype))
    _keep_trainable_on_cpu(model)
    model.eval()
    return model, tokenizer


def _quiet_bitsandbytes() -> None:
    """On its first import it looks for an optional CPU kernel on the hub and warns that it is not there."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def _compute_in(model: Any, dtype: Any) -> None:
    """Have a checkpoint that was saved in 4 bits compute in `dtype` too: it brings the dtype of its maker, mostly
    bfloat16, which a T4 has no cores for, and transformers (5.23) lets that win over what is asked for."""
    import bitsandbytes

    for module in model.modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            module.compute_dtype, module.compute_type_is_set = dtype, True
            if (state := getattr(module.weight, "quant_state", None)) is not None:
                state.dtype = dtype
    for parameter in model.parameters():
        packed = isinstance(parameter, bitsandbytes.nn.Params4bit)  # whatever dtype holds it
        if not packed and parameter.is_floating_point() and parameter.dtype != dtype:
            parameter.data = parameter.data.to(dtype)


def _keep_trainable_on_cpu(model: Any) -> None:
    """Keep bitsandbytes from repacking the nf4 weights for inference on CPUs with AVX512-BF16.

    There, one forward in eval mode (a validation pass) repacks them for good for a kernel without autograd, after
    which no gradient reaches the layers below (bitsandbytes 0.50, `Linear4bit.forward`).
    """
    import bitsandbytes

    for module in model.modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False


def add_lora(model: Any, config: RunConfig) -> Any:
    """A PeftModel with fresh LoRA weights (float32, seeded) on every linear layer of `model` but the head."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(config.train.seed)
    settings = LoraConfig(
        r=config.lora.r,
        lora_alpha=config.lora.alpha,
        lora_dropout=config.lora.dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, settings)


_SETTINGS, _WEIGHTS = "adapter_config.json", ("adapter_model.safetensors", "adapter_model.bin")


def require_adapter(adapter: Path) -> None:
    """Raise KelronError unless the folder holds an adapter; what lies in it decides what to do next."""
    weights = any((adapter / name).is_file() for name in _WEIGHTS)
    if (adapter / _SETTINGS).is_file() and weights:
        return
    if (adapter / _SETTINGS).is_file() or weights:
        lacks = _WEIGHTS[0] if not weights else _SETTINGS
        raise KelronError(f"no adapter in {adapter}, which lacks {lacks}: {_COPY_AGAIN}")
    if inside := sorted(str(path.parent) for path in adapter.glob(f"*/{_SETTINGS}")):
        raise KelronError(f"no adapter in {adapter} itself: name one in it with --adapter ({', '.join(inside)})")
    raise KelronError(
        f"no adapter in {adapter}: train first (`kelron train` leaves it in OUT/adapter), name its folder with "
        f"--adapter, or {GET_ADAPTER}"
    )


def _named_base(adapter: Path) -> str:
    """The base that an adapter says it is for; empty where it does not say."""
    try:
        return str(read_json(adapter / _SETTINGS).get("base_model_name_or_path") or "")
    except (AttributeError, KelronError):
        return ""


def _mend(config: RunConfig, adapter: Path, otherwise: str) -> str:
    """What to do with an adapter that does not load on a config's base."""
    base = _named_base(adapter)
    if base and base != portable_base(config):
        return f"it is for the base {base} and the config has {portable_base(config)}: use the run's --preset"
    return otherwise


def _tensors_due(config: RunConfig, adapter: Path) -> dict[str, tuple[int, ...]]:
    """The names and shapes of the tensors that an adapter's settings ask for on the base; no weights are loaded."""
    import torch
    from peft import PeftConfig, get_peft_model, get_peft_model_state_dict
    from transformers import AutoConfig, AutoModelForCausalLM

    name = base_name(config)
    try:
        base_config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise _explain(error, "config", name, _OTHER_BASE) from None
    settings = PeftConfig.from_pretrained(str(adapter))
    settings.base_model_name_or_path = None  # else peft warns that the base here has another name
    if hasattr(settings, "init_lora_weights"):
        settings.init_lora_weights = False  # some ways to begin compute on weights, which are not there
    with torch.device("meta"):
        tuned = get_peft_model(AutoModelForCausalLM.from_config(base_config), settings)
    due = get_peft_model_state_dict(tuned, save_embedding_layers=False)  # "auto" asks the Hub
    return {key: tuple(tensor.shape) for key, tensor in due.items()}


def _tensors_in(adapter: Path) -> dict[str, tuple[int, ...]]:
    """The names and shapes of an adapter's tensors."""
    safe, other = (adapter / name for name in _WEIGHTS)
    if safe.is_file():
        from safetensors import safe_open

        with safe_open(safe, framework="pt") as file:
            return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118 - no mapping
    import torch

    tensors = torch.load(other, map_location="meta", weights_only=True)
    return {key: tuple(tensor.shape) for key, tensor in tensors.items()}


def _misfit(due: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> str:
    """The first tensor that an adapter lacks, has too many or in another shape, in words; empty where none is.

    peft only warns of the first two, and leaves such layers the base's.
    """
    for name in sorted(due.keys() & found.keys()):
        if due[name] != found[name]:
            told, wanted = (" x ".join(map(str, shape)) for shape in (found[name], due[name]))
            return f"{name} is {told} where {wanted} is due"
    if missing := sorted(due.keys() - found.keys()):
        return f"{missing[0]} is missing"
    strange = sorted(found.keys() - due.keys())
    return f"{strange[0]} belongs to no layer of it" if strange else ""


def require_fit(config: RunConfig, adapter: Path) -> None:
    """Raise KelronError, naming the first tensor, where an adapter does not fit the config's base; loads no model."""
    require_adapter(adapter)
    try:
        with quiet_libraries():
            misfit = _misfit(_tensors_due(config, adapter), _tensors_in(adapter))
    except _load_errors() as error:
        raise _explain(error, "adapter", str(adapter), _mend(config, adapter, _COPY_AGAIN)) from None
    if misfit:
        base = portable_base(config)
        other = (
            f"it was made for another base than this {base} (name that with --set model.base=...), or its {_SETTINGS} "
            "is another adapter's"
        )
        raise KelronError(
            f"the adapter in {adapter} does not fit the base {base}: {misfit}; {_mend(config, adapter, other)}"
        )


def load_tuned(config: RunConfig, adapter: Path) -> tuple[Any, Any]:
    """The base with a trained adapter (eval mode), and the tokenizer. Raises KelronError if it does not fit."""
    from peft import PeftModel

    require_fit(config, adapter)
    model, tokenizer = load_base(config)
    try:
        tuned = PeftModel.from_pretrained(model, str(adapter))
    except _load_errors() as error:
        raise _explain(error, "adapter", str(adapter), _mend(config, adapter, _COPY_AGAIN)) from None
    tuned.eval()
    return tuned, tokenizer


def load_to_answer(config: RunConfig, adapter: Path | None = None) -> tuple[Any, Any]:
    """The base, with an adapter where one is named, made ready for answering and no longer for training, and the
    tokenizer. Raises KelronError as `load_base` and `load_tuned` do."""
    from kelron_lib.engine.inference import speed_up_inference
    from kelron_lib.engine.prepare import causal_lm, place_ends

    with quiet_libraries():
        model, tokenizer = load_base(config) if adapter is None else load_tuned(config, adapter)
    if config.model.embedding == "host":  # 1.45 GiB of a GPU for a 14B: the cache of 7,900 tokens
        place_ends(causal_lm(model), embedding="host", head="keep")
    speed_up_inference(model)
    return model, tokenizer


SMALL = 1024
"""Hidden size below which a model is small."""


@contextlib.contextmanager
def threads_for(model: Any) -> Iterator[None]:
    """One thread for a model on the CPU that is too small to gain by a second: where other work wants the processors,
    each step of several threads waits for the one that has none."""
    import torch

    threads = torch.get_num_threads()
    if model.device.type == "cpu" and model.config.hidden_size < SMALL:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep the libraries' own progress bars, notes and coming deprecations out of the output while loading."""
    from transformers.utils import logging as transformers_logging

    _quiet_bitsandbytes()
    bars = transformers_logging.is_progress_bar_enabled()
    level = transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
