"""What a run is: the config made of its sections, the presets, dotted overrides and a JSON round trip.

The resolved config is saved beside every checkpoint and every result; `config_hash` covers the sections that
decide what the trained adapter will be (model, lora, data, train) and leaves out where and when it is made.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any, get_args, get_origin, get_type_hints

from kelron_lib.errors import KelronError
from kelron_lib.settings import (
    DataSettings,
    EvaluateSettings,
    LoraSettings,
    ModelSettings,
    SessionSettings,
    StoreSettings,
    TrainSettings,
    require,
)

RUN_SECTIONS = ("model", "lora", "data", "train")


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
        require(
            not (self.model.dtype == "float32" and self.train.optimizer == "paged_adamw_8bit"),
            "train.optimizer is paged_adamw_8bit but model.dtype is float32: the paged optimizer needs CUDA",
        )
        require(
            self.train.row_tokens >= self.data.max_tokens,
            f"train.row_tokens is {self.train.row_tokens} and data.max_tokens {self.data.max_tokens}: a packed row has "
            "to hold the longest sample; raise train.row_tokens or lower data.max_tokens",
        )
        require(
            not self.train.patience or self.train.least_epochs <= self.train.epochs,
            f"train.patience is {self.train.patience} but train.least_epochs {self.train.least_epochs:g} is beyond "
            f"train.epochs ({self.train.epochs:g}), so no plateau could ever end it: lower train.least_epochs, or set "
            "train.patience to 0",
        )
        # Whether they divide it is not for the config to say: with several machines it is the processes of all that do.
        require(
            self.session.processes <= self.train.passes_per_step,
            f"session.processes is {self.session.processes} and train.passes_per_step {self.train.passes_per_step}: "
            "each process makes at least one pass of a step; raise train.passes_per_step or lower session.processes",
        )
        require(
            self.evaluate.max_new_tokens <= 4 * self.data.max_tokens,
            f"evaluate.max_new_tokens is {self.evaluate.max_new_tokens}, over four times data.max_tokens "
            f"({self.data.max_tokens}): answers of that length were never trained",
        )


def _kelron_14b_t4x2() -> RunConfig:
    """The first attempt's loss moved between 0.051 and 0.056 over its last half and told nobody. A validation takes the
    time of about 4 steps, so one every 250 costs under 2 %; three without a fall by 1 % are three quarters of an
    epoch. With one epoch this never cuts it short (every language has to be seen whole); with more it does."""
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
        data=DataSettings(seeds="full", rows=35000, max_tokens=512),
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
            eval_steps=250,
            patience=3,
        ),
        session=SessionSettings(budget_seconds=11 * 3600.0, reserve_seconds=900.0, progress_seconds=60.0),
        evaluate=EvaluateSettings(
            identity_prompts=200,
            unrelated_prompts=400,
            attack_prompts=384,
            pressure_dialogues=30,
            choice_items=100,
            max_new_tokens=256,
            batch_size=64,
            policy="release",
        ),
    )


SMALL: Mapping[str, int] = {
    "identity_prompts": 20,
    "unrelated_prompts": 20,
    "attack_prompts": 24,
    "pressure_dialogues": 3,
    "choice_items": 20,
    "batch_size": 32,
}
"""What a small evaluation asks in a language: one of every kind of attack, a dialogue for each kind of system text.

Projected at 10 minutes for base and tuned 14B on two T4s, loading apart: a decoding step reads 6.6 GB of 4-bit weights,
writes them as 26.4 GB of fp16 and reads those, 0.23 s at 80 % of 320 GB/s, and a GPU makes about 1,200 of them a model:
300 for its 66 single questions in batches of 32, 630 for dialogues of up to 7 turns, 256 for 30 unrelated prompts. 480
multiple-choice prompts of about 120 tokens are 40 s of these: 28 GFLOP a token, 20 TFLOP/s a GPU. Seen on two H100s
(`benchmarks/answering.py`): with each answer cut at 24 tokens 27 s of answering and 5 s of multiple choice."""


COUNTS = tuple(key for key in SMALL if key != "batch_size")
"""The settings of an evaluation that say how much is asked."""


def small_settings(config: RunConfig) -> dict[str, int | str]:
    """What makes a config's evaluation a small one: the counts, and a policy that so few answers can pass."""
    return {**SMALL, **({"policy": "look"} if config.evaluate.policy == "release" else {})}


def small(config: RunConfig) -> RunConfig:
    """The config with a small evaluation."""
    return replace(config, evaluate=replace(config.evaluate, **small_settings(config)))  # type: ignore[arg-type]


def _kelron_14b_t4x2_lean() -> RunConfig:
    """A first result in about an hour (`kelron plan --preset kelron-14b-t4x2-lean` projects it): a twelfth of the rows,
    seen twice, and a small evaluation."""
    full = small(_kelron_14b_t4x2())
    return replace(
        full,
        preset="kelron-14b-t4x2-lean",
        data=replace(full.data, rows=3000),
        train=replace(full.train, epochs=2.0, save_steps=50, eval_steps=50, patience=0),
    )


PRESETS: dict[str, Callable[[], RunConfig]] = {
    "tiny-cpu": RunConfig,  # whose defaults these are
    "kelron-14b-t4x2": _kelron_14b_t4x2,
    "kelron-14b-t4x2-lean": _kelron_14b_t4x2_lean,
}

MADE_FOR: dict[str, int] = {"tiny-cpu": 0, "kelron-14b-t4x2": 2, "kelron-14b-t4x2-lean": 2}
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


_KINDS = {float: "a number", int: "a whole number", str: "a text", bool: "true or false"}


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
        raise KelronError(f"{key} takes {_KINDS[kind]}, not {text!r}") from None
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
        raise KelronError(f"{key} takes {_KINDS.get(kind, 'a list')}, not {value!r}")
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


def config_hash(config: RunConfig | Mapping[str, Any]) -> str:
    """sha256 (hex) over the sections that decide what the adapter will be, of a config or of what `to_dict` gave."""
    values = to_dict(config) if isinstance(config, RunConfig) else config
    deciding = {name: value for name, value in values.items() if name in RUN_SECTIONS}
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()


def flat(config: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """The leaves of a config (as `to_dict` gives it) by dotted key; lists are leaves."""
    leaves: dict[str, Any] = {}
    for key, value in config.items():
        leaves |= flat(value, f"{above}{key}.") if isinstance(value, Mapping) else {above + key: value}
    return leaves


def differing(
    then: Mapping[str, Any], now: Mapping[str, Any], parts: Iterable[str] = RUN_SECTIONS
) -> dict[str, tuple[Any, Any]]:
    """The dotted keys within `parts` (sections, or single keys) in which two configs differ, with both values.

    A key that one of them does not have, having been written by a version without it, has its default; where there is
    no such key at all, the value given for it is None.
    """
    defaults, within = flat(to_dict(RunConfig())), tuple(f"{part}." for part in parts)
    before, after = ({**defaults, **flat(json.loads(json.dumps(dict(config))))} for config in (then, now))
    absent = object()
    return {
        key: (before.get(key), after.get(key))
        for key in sorted(before.keys() | after.keys())
        if f"{key}.".startswith(within) and before.get(key, absent) != after.get(key, absent)
    }


def as_overrides(values: Mapping[str, Any]) -> list[str]:
    """The values of dotted keys as `--set` takes them."""
    texts = {key: ",".join(map(str, value)) if isinstance(value, list) else value for key, value in values.items()}
    return [f"{key}={str(text).lower() if isinstance(text, bool) else text}" for key, text in texts.items()]
