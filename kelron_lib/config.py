"""What a run is: small dataclasses, the presets, dotted overrides and a JSON round trip.

The resolved config is saved beside every checkpoint and every result; `config_hash` covers the sections that
decide what the trained adapter will be (model, lora, data, train) and leaves out where and when it is made.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any, get_args, get_origin, get_type_hints

from kelron_lib.errors import KelronError

LANGUAGES = ("ko", "en", "ja")
RUN_SECTIONS = ("model", "lora", "data", "train")


def _require(ok: bool, message: str) -> None:
    if not ok:
        raise KelronError(message)


@dataclass(frozen=True)
class ModelSettings:
    """The base model: which one, and how it lies in memory."""

    base: str = "tiny"
    """Base model: `tiny` (shipped with Kelron), a hub id, or a folder in transformers' format."""
    dtype: str = "float32"
    """Compute dtype of the matrix products: float32 on a CPU, float16 on a T4 (no bf16 tensor cores there)."""
    head: str = "keep"
    """The output head while training: `keep` (as loaded) or `nf4` (1.1 GiB less on the GPU for a 14B)."""
    embedding: str = "device"
    """Where the embedding's table rests while training: `device`, or `host` (1.45 GiB less on the GPU for a 14B; not
    for a model whose head shares the table). Without a GPU both are the same."""
    stop_token_ids: tuple[int, ...] = (4095, 4093)
    """Ids that end an answer: `<|im_end|>`, then `<|endoftext|>`. Checked against the tokenizer at load."""

    def __post_init__(self) -> None:
        _require(bool(self.base), "model.base is empty: name a folder, a hub id, or tiny")
        _require(
            self.dtype in ("float32", "float16"),
            f"model.dtype is {self.dtype!r}: use float32 (CPU) or float16 (T4, which has no bf16 tensor cores)",
        )
        _require(self.head in ("keep", "nf4"), f"model.head is {self.head!r}: use keep or nf4")
        _require(self.embedding in ("host", "device"), f"model.embedding is {self.embedding!r}: use host or device")
        _require(len(self.stop_token_ids) > 0, "model.stop_token_ids is empty: answers would never end")


@dataclass(frozen=True)
class LoraSettings:
    """The adapter on every linear layer (LoRA, arXiv 2106.09685)."""

    r: int = 32
    """Rank of the update on every linear layer."""
    alpha: int = 32
    """The update is scaled by alpha / r."""
    dropout: float = 0.1
    """Dropout on the adapter's input."""

    def __post_init__(self) -> None:
        _require(self.r >= 1, f"lora.r is {self.r}: it must be at least 1")
        _require(self.alpha >= 1, f"lora.alpha is {self.alpha}: it must be at least 1")
        _require(0 <= self.dropout < 1, f"lora.dropout is {self.dropout}: it must be in [0, 1)")


@dataclass(frozen=True)
class DataSettings:
    """The dataset: whose identity, in which languages, how many rows."""

    persona: str = "kelron"
    """Packaged persona or path of a persona file."""
    languages: tuple[str, ...] = LANGUAGES
    """Languages of the rows."""
    rows: int = 3000
    """Rows over all languages, before the split."""
    identity_share: float = 0.30
    """Least share of identity rows in every split (the first attempt had 5 % and failed)."""
    max_tokens: int = 256
    """Longest row, in tokens, system prompt included."""
    seed: int = 1
    """Seed of the expansion and of the split."""

    def __post_init__(self) -> None:
        _require(bool(self.persona.strip()), "data.persona is empty: name a packaged persona or a persona file")
        for language in self.languages:
            _require(language in LANGUAGES, f"data.languages has {language!r}: choose from {', '.join(LANGUAGES)}")
        _require(len(self.languages) > 0, f"data.languages is empty: name at least one of {', '.join(LANGUAGES)}")
        _require(
            len(set(self.languages)) == len(self.languages),
            f"data.languages names one twice ({', '.join(self.languages)}): name each language once",
        )
        _require(self.rows >= 60, f"data.rows is {self.rows}: at least 60 are needed for three splits")
        _require(
            0 < self.identity_share <= 0.9,
            f"data.identity_share is {self.identity_share}: use (0, 0.9], so that business rows are left",
        )
        _require(self.max_tokens >= 32, f"data.max_tokens is {self.max_tokens}: at least 32")


@dataclass(frozen=True)
class TrainSettings:
    """The optimisation: how long, how fast, and how samples are packed into passes and steps."""

    epochs: float = 2.5
    """Times that every training row is seen; a fraction ends the last round early."""
    learning_rate: float = 3e-3
    """Peak learning rate. It has to suit the adapter's scale alpha / r: a small scale wants a larger rate."""
    warmup_share: float = 0.05
    """Share of the steps in which the rate rises from 0; it falls on a cosine after that."""
    row_tokens: int = 256
    """Tokens of a packed row, which holds as many samples as fit: at least data.max_tokens."""
    rows_per_pass: int = 5
    """Packed rows that go through the model together (5 of 256 tokens hold about 16 samples of the tiny preset)."""
    passes_per_step: int = 1
    """Passes of an optimizer step, over all processes: with `n` processes each makes passes_per_step / n of them, so
    that a run's steps do not depend on the number of processes."""
    weight_decay: float = 0.0
    """AdamW's decoupled weight decay."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm."""
    optimizer: str = "adamw_torch"
    """`adamw_torch`, or `paged_adamw_8bit` where CUDA is."""
    checkpointing: bool = False
    """Recompute activations in the backward pass (non-reentrant) to save memory."""
    save_steps: int = 100
    """Optimizer steps between checkpoints; one more is made when the session ends."""
    eval_steps: int = 100
    """Optimizer steps between validation losses."""
    seed: int = 1
    """Seed of the adapter's initial weights, the order of the rows and dropout."""

    def __post_init__(self) -> None:
        _require(self.epochs > 0, f"train.epochs is {self.epochs}: it must be positive")
        _require(0 < self.learning_rate < 1, f"train.learning_rate is {self.learning_rate}: use (0, 1)")
        _require(0 <= self.warmup_share < 1, f"train.warmup_share is {self.warmup_share}: use [0, 1)")
        for name in ("row_tokens", "rows_per_pass", "passes_per_step", "save_steps", "eval_steps"):
            value = getattr(self, name)
            _require(value >= 1, f"train.{name} is {value}: it must be at least 1")
        _require(0 <= self.weight_decay < 1, f"train.weight_decay is {self.weight_decay}: use [0, 1)")
        _require(self.max_grad_norm > 0, f"train.max_grad_norm is {self.max_grad_norm}: it must be positive")
        _require(
            self.optimizer in ("adamw_torch", "paged_adamw_8bit"),
            f"train.optimizer is {self.optimizer!r}: use adamw_torch or paged_adamw_8bit",
        )


@dataclass(frozen=True)
class SessionSettings:
    """One session of a run: how long it may last, and in how many processes."""

    budget_seconds: float = 12 * 3600.0
    """Wall-clock length of a session, counted from its start (on Kaggle 11 h of the 12)."""
    reserve_seconds: float = 5.0
    """Time kept free at the end for the last checkpoint."""
    progress_seconds: float = 5.0
    """Time between two progress lines."""
    processes: int = 0
    """Training processes on this machine; 0: one for each GPU as far as train.passes_per_step divides, else one."""

    def __post_init__(self) -> None:
        _require(self.budget_seconds > 0, "session.budget_seconds must be positive")
        _require(
            0 <= self.reserve_seconds < self.budget_seconds,
            f"session.reserve_seconds is {self.reserve_seconds}: it must be below the budget "
            f"of {self.budget_seconds} s, or no step would ever run",
        )
        _require(self.progress_seconds >= 0, f"session.progress_seconds is {self.progress_seconds}: use 0 or more")
        _require(self.processes >= 0, f"session.processes is {self.processes}: a number, or 0 for one a GPU")


@dataclass(frozen=True)
class StoreSettings:
    """Where checkpoints survive, and how many."""

    url: str = ""
    """Where checkpoints survive; empty: the folder `store` beside the run's other results."""
    keep: int = 2
    """Verified checkpoints kept; older ones go only after the pointer has moved."""
    most_failures: int = 10
    """Uploads that may fail in a row; training stops then, for what it learns would be lost."""

    def __post_init__(self) -> None:
        _require(self.most_failures >= 1, f"store.most_failures is {self.most_failures}: allow at least 1")
        _require(self.keep >= 2, f"store.keep is {self.keep}: keep at least 2, so that one may be damaged")


@dataclass(frozen=True)
class EvaluateSettings:
    """The scoreboard: how much is asked, and how long an answer may be."""

    identity_prompts: int = 150
    """Most identity prompts per language (what the test split holds, if that is less)."""
    unrelated_prompts: int = 150
    """Most unrelated prompts per language."""
    max_new_tokens: int = 96
    """Longest answer; an answer cut here counts as not terminated."""
    batch_size: int = 64
    """Prompts answered at once."""

    def __post_init__(self) -> None:
        for name in ("identity_prompts", "unrelated_prompts", "max_new_tokens", "batch_size"):
            _require(getattr(self, name) >= 1, f"evaluate.{name} is {getattr(self, name)}: at least 1")


@dataclass(frozen=True)
class RunConfig:
    """All that a run is; the checks here are those that span sections."""

    preset: str = "tiny-cpu"
    """The preset this config began as."""
    model: ModelSettings = field(default_factory=ModelSettings)
    """The base model."""
    lora: LoraSettings = field(default_factory=LoraSettings)
    """The adapter."""
    data: DataSettings = field(default_factory=DataSettings)
    """Persona and rows."""
    train: TrainSettings = field(default_factory=TrainSettings)
    """Optimisation."""
    session: SessionSettings = field(default_factory=SessionSettings)
    """The wall-clock budget."""
    store: StoreSettings = field(default_factory=StoreSettings)
    """Where checkpoints survive."""
    evaluate: EvaluateSettings = field(default_factory=EvaluateSettings)
    """The scoreboard."""

    def __post_init__(self) -> None:
        _require(
            not (self.model.dtype == "float32" and self.train.optimizer == "paged_adamw_8bit"),
            "train.optimizer is paged_adamw_8bit but model.dtype is float32: the paged optimizer needs CUDA",
        )
        _require(
            self.train.row_tokens >= self.data.max_tokens,
            f"train.row_tokens is {self.train.row_tokens} and data.max_tokens {self.data.max_tokens}: a packed row has "
            "to hold the longest sample; raise train.row_tokens or lower data.max_tokens",
        )
        # Whether they divide it is not for the config to say: with several machines it is the processes of all that do.
        _require(
            self.session.processes <= self.train.passes_per_step,
            f"session.processes is {self.session.processes} and train.passes_per_step {self.train.passes_per_step}: "
            "each process makes at least one pass of a step; raise train.passes_per_step or lower session.processes",
        )
        _require(
            self.evaluate.max_new_tokens <= 4 * self.data.max_tokens,
            f"evaluate.max_new_tokens is {self.evaluate.max_new_tokens}, over four times data.max_tokens "
            f"({self.data.max_tokens}): answers of that length were never trained",
        )


def _kelron_14b_t4x2() -> RunConfig:
    return RunConfig(
        preset="kelron-14b-t4x2",
        model=ModelSettings(
            base="Qwen/Qwen2.5-14B-Instruct",
            dtype="float16",
            head="nf4",
            embedding="host",
            stop_token_ids=(151645, 151643),
        ),
        lora=LoraSettings(r=128, alpha=32, dropout=0.1),
        data=DataSettings(rows=35000, max_tokens=512),
        train=TrainSettings(
            epochs=1.0,
            learning_rate=2e-4,
            warmup_share=0.03,
            row_tokens=512,
            rows_per_pass=4,
            passes_per_step=2,
            optimizer="paged_adamw_8bit",
            checkpointing=True,
            save_steps=500,
            eval_steps=500,
        ),
        session=SessionSettings(budget_seconds=11 * 3600.0, reserve_seconds=900.0, progress_seconds=60.0),
        evaluate=EvaluateSettings(identity_prompts=400, unrelated_prompts=400, max_new_tokens=256, batch_size=16),
    )


PRESETS: dict[str, Callable[[], RunConfig]] = {
    "tiny-cpu": RunConfig,  # whose defaults these are
    "kelron-14b-t4x2": _kelron_14b_t4x2,
}

MADE_FOR: dict[str, int] = {"tiny-cpu": 0, "kelron-14b-t4x2": 2}
"""GPUs that a preset is made for; 0: it runs on the CPU."""


def nearest(word: str, choices: Iterable[str]) -> str:
    """` Did you mean X?` for the closest choice, or the list of choices where none is close."""
    known = sorted(choices)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f" Did you mean {close[0]}?" if close else f" Known: {', '.join(known)}."


def load_preset(name: str) -> RunConfig:
    """The config of a preset. Raises KelronError for an unknown one, with the nearest match."""
    if name not in PRESETS:
        raise KelronError(f"unknown preset {name!r}.{nearest(name, PRESETS)}")
    return PRESETS[name]()


def _coerce(text: str, kind: Any, key: str) -> Any:
    """A value of type `kind` from the text of an override."""
    if get_origin(kind) is tuple:
        item = get_args(kind)[0]
        return tuple(_coerce(part.strip(), item, key) for part in text.split(",") if part.strip())
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise KelronError(f"{key} takes true or false, not {text!r}")
        return text.lower() == "true"
    if kind is str:
        return text
    try:
        value = kind(text)
    except ValueError:
        raise KelronError(f"{key} takes {kind.__name__}, not {text!r}") from None
    if isinstance(value, float) and not math.isfinite(value):
        raise KelronError(f"{key} takes a finite number, not {text!r}")
    return value


def apply_overrides(config: RunConfig, overrides: Iterable[str]) -> RunConfig:
    """The config with `section.field=value` texts applied in order; all checks run again.

    Raises KelronError for an unknown section or field (nearest match) or a value of the wrong type.
    """
    changes: dict[str, dict[str, Any]] = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        section, dot, name = key.strip().partition(".")
        if not equals or not dot:
            raise KelronError(f"--set takes section.field=value, not {override!r}")
        if not hasattr(config, section) or not is_dataclass(getattr(config, section)):
            known = [f.name for f in fields(config) if is_dataclass(getattr(config, f.name))]
            raise KelronError(f"unknown config section {section!r}.{nearest(section, known)}")
        hints = get_type_hints(type(getattr(config, section)))
        if name not in hints:
            known = [f"{section}.{hint}" for hint in hints]
            raise KelronError(f"unknown config key {key.strip()!r}.{nearest(key.strip(), known)}")
        changes.setdefault(section, {})[name] = _coerce(text.strip(), hints[name], key.strip())
    sections = {section: replace(getattr(config, section), **values) for section, values in changes.items()}
    return replace(config, **sections)


def resolve(preset: str, overrides: Iterable[str] = ()) -> RunConfig:
    """A preset with its overrides: what every verb and notebook starts from."""
    return apply_overrides(load_preset(preset), overrides)


def to_dict(config: RunConfig) -> dict[str, Any]:
    """The config as plain JSON types (tuples become lists)."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(config)))
    return plain


def to_json(config: RunConfig) -> str:
    """The resolved config as indented JSON."""
    return json.dumps(to_dict(config), indent=2, ensure_ascii=False) + "\n"


def _typed(value: Any, kind: Any, key: str) -> Any:
    """A JSON value as the field's type. Raises KelronError where it is of another type."""
    if get_origin(kind) is tuple and isinstance(value, list):
        return tuple(_typed(item, get_args(kind)[0], key) for item in value)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise KelronError(f"{key} takes {getattr(kind, '__name__', kind)}, not {value!r}")
    return value


def _section(kind: type, values: Any, where: str) -> Any:
    hints = get_type_hints(kind)
    if not isinstance(values, dict):
        raise KelronError(f"config section {where} is not an object")
    for name in values:
        if name not in hints:
            raise KelronError(f"unknown config key {where}.{name}.{nearest(name, hints)}")
    return kind(**{name: _typed(value, hints[name], f"{where}.{name}") for name, value in values.items()})


def from_dict(values: dict[str, Any]) -> RunConfig:
    """A RunConfig from what `to_dict` gave. Raises KelronError for unknown keys and failed checks."""
    hints = get_type_hints(RunConfig)
    for name in values:
        if name not in hints:
            raise KelronError(f"unknown config section {name!r}.{nearest(name, hints)}")
    sections = {name: value for name, value in values.items() if is_dataclass(hints[name])}
    return RunConfig(**(values | {name: _section(hints[name], value, name) for name, value in sections.items()}))


def config_hash(config: RunConfig) -> str:
    """sha256 (hex) over the sections that decide what the adapter will be."""
    deciding = {name: value for name, value in to_dict(config).items() if name in RUN_SECTIONS}
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()
