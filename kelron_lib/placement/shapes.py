"""The shape of a decoder-only model, read from its config: what each part holds, counted exactly.

Parameters are counts, not bytes. Qwen2, Qwen3 and Llama layers are known; any other architecture is refused,
because a plan made from a guessed layer would be wrong without anyone noticing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kelron_lib.errors import KelronError

FAMILIES = ("qwen2", "qwen3", "llama")
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")

KNOWN_CONFIGS: dict[str, dict[str, Any]] = {
    "Qwen/Qwen2.5-14B-Instruct": {
        "model_type": "qwen2",
        "hidden_size": 5120,
        "intermediate_size": 13824,
        "num_hidden_layers": 48,
        "num_attention_heads": 40,
        "num_key_value_heads": 8,
        "vocab_size": 152064,
        "tie_word_embeddings": False,
    },
    "Qwen/Qwen2.5-7B-Instruct": {
        "model_type": "qwen2",
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152064,
        "tie_word_embeddings": False,
    },
    "Qwen/Qwen3-14B": {
        "model_type": "qwen3",
        "hidden_size": 5120,
        "intermediate_size": 17408,
        "num_hidden_layers": 40,
        "num_attention_heads": 40,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151936,
        "tie_word_embeddings": False,
    },
}
"""Published config.json fields, so that a plan needs neither weights nor network."""


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a decoder-only transformer; every number is a count of features, layers or heads."""

    family: str
    """`qwen2`, `qwen3` or `llama`."""
    hidden: int
    """Width of the residual stream."""
    intermediate: int
    """Width inside the MLP."""
    layers: int
    """Decoder layers."""
    heads: int
    """Query heads."""
    kv_heads: int
    """Key and value heads."""
    head_dim: int
    """Features per head."""
    vocab: int
    """Rows of the embedding and of the head."""
    tied: bool
    """Whether the head is the embedding's own matrix."""
    qkv_bias: bool
    """Bias on the query, key and value projections (Qwen2 always has it)."""
    output_bias: bool
    """Bias on the attention's output projection (some Llamas)."""
    mlp_bias: bool
    """Bias on the three MLP projections (some Llamas)."""
    qk_norm: bool
    """RMSNorm on every query and key head (Qwen3)."""

    @property
    def query(self) -> int:
        """Features of all query heads together."""
        return self.heads * self.head_dim

    @property
    def key_value(self) -> int:
        """Features of all key (or value) heads together."""
        return self.kv_heads * self.head_dim

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """Each linear of one layer: name -> (in features, out features)."""
        return {
            "q_proj": (self.hidden, self.query),
            "k_proj": (self.hidden, self.key_value),
            "v_proj": (self.hidden, self.key_value),
            "o_proj": (self.query, self.hidden),
            "gate_proj": (self.hidden, self.intermediate),
            "up_proj": (self.hidden, self.intermediate),
            "down_proj": (self.intermediate, self.hidden),
        }

    @property
    def largest_linear(self) -> int:
        """Parameters of the largest linear in a layer: what one dequantisation buffer holds."""
        return max(rows * columns for rows, columns in self.linears.values())

    @property
    def layer_weights(self) -> int:
        """Weights in the linears of one layer, without biases."""
        return sum(rows * columns for rows, columns in self.linears.values())

    @property
    def layer_biases(self) -> int:
        """Biases of one layer."""
        count = (self.query + 2 * self.key_value) * self.qkv_bias + self.hidden * self.output_bias
        return count + (2 * self.intermediate + self.hidden) * self.mlp_bias

    @property
    def layer_norms(self) -> int:
        """Norm weights of one layer."""
        return 2 * self.hidden + 2 * self.head_dim * self.qk_norm

    @property
    def embedding(self) -> int:
        """Parameters of the embedding; the head has as many."""
        return self.vocab * self.hidden

    @property
    def total(self) -> int:
        """All parameters; a tied head counts once."""
        layer = self.layer_weights + self.layer_biases + self.layer_norms
        return self.layers * layer + self.hidden + self.embedding * (1 if self.tied else 2)

    def lora(self, rank: int, targets: str, layers: int | None = None) -> int:
        """LoRA parameters at `rank` on `layers` layers: rank x (in + out) for each targeted linear."""
        names = lora_names(targets)
        per_layer = sum(sum(size) for name, size in self.linears.items() if name in names)
        return rank * per_layer * (self.layers if layers is None else layers)


def lora_names(targets: str) -> tuple[str, ...]:
    """The linears that `all-linear` or `attention` puts an adapter on (never the head)."""
    return ATTENTION if targets == "attention" else ATTENTION + MLP


def _count(fields: Mapping[str, Any], name: str, default: int | None = None) -> int:
    value = fields.get(name, default)
    if value is None:
        value = default
    if value is None:
        raise KelronError(f"the model config has no {name}: it cannot be planned without")
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise KelronError(f"the model config's {name} is {value!r}: it must be a whole number of at least 1")
    return value


def _family(fields: Mapping[str, Any]) -> str:
    family = str(fields.get("model_type") or "").lower()
    if family not in FAMILIES:
        named = repr(family) if family else "missing"
        raise KelronError(
            f"the model config's model_type is {named}: plans are made for {', '.join(FAMILIES)} layers only, "
            "choose a base of one of these"
        )
    return family


def read_shape(config: Any) -> ModelShape:
    """The shape from a model config: a mapping with config.json's fields, or a transformers config object.

    Raises KelronError for an architecture that is not known, a missing field, or sizes that do not agree.
    """
    fields: Any = config.to_dict() if hasattr(config, "to_dict") else config
    if not isinstance(fields, Mapping):
        raise KelronError(f"a model config is a mapping or a transformers config, not {type(config).__name__}")
    family = _family(fields)
    hidden, heads = _count(fields, "hidden_size"), _count(fields, "num_attention_heads")
    kv_heads = _count(fields, "num_key_value_heads", heads)
    if heads % kv_heads:
        raise KelronError(f"the model config has {heads} query heads for {kv_heads} key heads: not a whole multiple")
    if not fields.get("head_dim") and hidden % heads:
        raise KelronError(f"the model config's hidden_size {hidden} does not divide into {heads} heads: give head_dim")
    attention_bias = bool(fields.get("attention_bias", False))
    # Qwen3's default head_dim is 128 whatever the width; the others divide the width.
    head_dim = _count(fields, "head_dim", 128 if family == "qwen3" else hidden // heads)
    return ModelShape(
        family=family,
        hidden=hidden,
        intermediate=_count(fields, "intermediate_size"),
        layers=_count(fields, "num_hidden_layers"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocab=_count(fields, "vocab_size"),
        tied=bool(fields.get("tie_word_embeddings", False)),
        qkv_bias=family == "qwen2" or attention_bias,
        output_bias=family != "qwen2" and attention_bias,
        mlp_bias=family == "llama" and bool(fields.get("mlp_bias", False)),
        qk_norm=family == "qwen3",
    )


def find_config(base: str) -> dict[str, Any]:
    """The config of a base without network: a known hub id, or a folder (or file) holding config.json.

    Raises KelronError where there is none, or where it is no JSON object.
    """
    if base in KNOWN_CONFIGS:
        return dict(KNOWN_CONFIGS[base])
    path = Path(base)
    path = path / "config.json" if path.is_dir() else path
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        raise KelronError(
            f"no model config for {base!r}: name a folder with a config.json, or one of {', '.join(KNOWN_CONFIGS)}"
        ) from None
    except json.JSONDecodeError as error:
        raise KelronError(f"{path}:{error.lineno}: not JSON ({error.msg})") from None
    if not isinstance(fields, dict):
        raise KelronError(f"{path} holds no JSON object")
    return fields
