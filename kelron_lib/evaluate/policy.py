"""A policy: the targets that a model is held to, as a YAML file that people read and change.

from: release                # optional: the checks of a packaged policy come first
if_measured: true            # optional: holds for every check
first_look: true             # optional: passing it is not enough for publishing
checks:
  - metric: identity_recall  # a metric, or forgetting, cross_language_gap, business_loss
    at_least: 0.98           # or at_most; a share between 0 and 1
    interval: low            # which figure is held: value (default), or a bound of its Wilson interval: low, high
    each: [language, system] # every slice alone has to reach it: language, system, attack; several are crossed
    only: {source: test}     # answers to these prompts alone: source, system, attack, language; one or a list
    least_n: 100             # fewer answers fail, whatever they say
    relative_to_base: true   # the bound is for the difference to the base's figure
    of: base                 # the base is held to it
    if_measured: true        # nothing measured is no failure
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kelron_lib.config import nearest
from kelron_lib.errors import KelronError
from kelron_lib.evaluate.metrics import METRICS, SLICES
from kelron_lib.evaluate.prompt import ATTACKS, SOURCES, SYSTEM_KINDS
from kelron_lib.persona.document import Document, read_document
from kelron_lib.persona.files import packaged_file
from kelron_lib.settings import LANGUAGES

POLICIES = Path(__file__).with_name("policies")
PLAIN = ("forgetting", "cross_language_gap", "business_loss")
"""Metrics that are one number without an interval, in their own units: points, points, and a ratio."""
ROUNDING = 1e-9
"""By which a figure may miss its bound: 0.04 - 0.03 is above 0.01 to a computer."""
FIGURES = ("value", "low", "high")
_ONLY = {"source": SOURCES, "system": SYSTEM_KINDS, "attack": ATTACKS, "language": LANGUAGES}
_TOP_KEYS = ("from", "if_measured", "first_look", "checks")
_BOUNDS = ("at_least", "at_most")
_KEYS = ("metric", *_BOUNDS, "interval", "each", "only", "least_n", "relative_to_base", "of", "if_measured")


@dataclass(frozen=True)
class Target:
    """One line of a policy."""

    metric: str
    bound: float
    at_least: bool
    """Whether the bound is the least; else the most."""
    interval: str = "value"
    each: tuple[str, ...] = ()
    only: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    least_n: int = 1
    relative_to_base: bool = False
    of: str = "tuned"
    if_measured: bool = False

    def met(self, value: float | None) -> bool:
        """Whether a figure reaches the bound; nothing measured (None) does not."""
        if value is None:
            return False
        return value >= self.bound - ROUNDING if self.at_least else value <= self.bound + ROUNDING


@dataclass(frozen=True)
class Policy:
    """The targets, and the name that they go by."""

    name: str
    targets: tuple[Target, ...]
    first_look: bool = False
    """Whether passing it is not enough for publishing."""


def policy_names() -> tuple[str, ...]:
    """The packaged policies."""
    return tuple(sorted(file.stem for file in POLICIES.glob("*.yaml")))


def load_policy(name_or_path: str) -> Policy:
    """A packaged policy by name, or one from a YAML file.

    Raises KelronError, with file and line, for an unknown name, key or value (nearest match), a file that is missing,
    empty or no YAML, a target that its metric cannot have, and a policy without targets.
    """
    path = packaged_file("policy", name_or_path, policy_names(), POLICIES)
    if path.is_file() and not path.read_bytes().strip():
        raise KelronError(f"{path} is empty: write `checks:` and a list of targets, or `from: release`")
    document = read_document(path)
    data = document.data
    if not isinstance(data, dict):
        raise KelronError(f"{document.at()}: a policy is `checks:` and a list of targets, not {_kind(data)}")
    for key in data:
        if key not in _TOP_KEYS:
            raise KelronError(f"{document.at(key)}: unknown key {key!r}.{nearest(str(key), _TOP_KEYS)}")
    targets: list[Target] = []
    first_look = _flag(document, data, ("first_look",))
    if "from" in data:
        if data["from"] not in policy_names():
            raise KelronError(
                f"{document.at('from')}: from is {data['from']!r}: name a packaged policy."
                f"{nearest(str(data['from']), policy_names())}"
            )
        if data["from"] != path.stem or path.parent != POLICIES:
            begun = load_policy(data["from"])
            targets, first_look = [*begun.targets], first_look or begun.first_look
    checks = data.get("checks", [])
    if not isinstance(checks, list):
        raise KelronError(f"{document.at('checks')}: checks is {_kind(checks)}: make it a list, each item with a -")
    targets += [_Reader(document, index).target() for index in range(len(checks))]
    if _flag(document, data, ("if_measured",)):
        targets = [replace(target, if_measured=True) for target in targets]
    if not targets:
        raise KelronError(f"{document.at()}: a policy without targets lets everything pass: write some under `checks:`")
    return Policy(path.stem if path.parent == POLICIES else path.name, tuple(targets), first_look)


def _kind(value: Any) -> str:
    return {dict: "a mapping", list: "a list", str: "a text", bool: "true or false", type(None): "nothing"}.get(
        type(value), "a number"
    )


def _flag(document: Document, mapping: Mapping[str, Any], keys: tuple[Any, ...]) -> bool:
    value = mapping.get(keys[-1], False)
    if not isinstance(value, bool):
        raise KelronError(f"{document.at(*keys)}: {keys[-1]} is {value!r}: it takes true or false")
    return value


class _Reader:
    """Reads one item of `checks`."""

    def __init__(self, document: Document, index: int) -> None:
        self.document, self.keys = document, ("checks", index)
        self.item = document.data["checks"][index]

    def wrong(self, key: str, words: str) -> KelronError:
        return KelronError(f"{self.document.at(*self.keys, key)}: {words}")

    def target(self) -> Target:
        """The target. Raises KelronError for anything that it cannot have."""
        item = self.item
        if not isinstance(item, dict):
            raise self.wrong("", f"a check is metric: ... and at_least: or at_most:, not {_kind(item)}")
        for key in item:
            if key not in _KEYS:
                raise self.wrong(key, f"unknown key {key!r}.{nearest(str(key), _KEYS)}")
        metric = item.get("metric")
        if metric not in (*METRICS, *PLAIN):
            said = "the metric is missing." if metric is None else f"unknown metric {metric!r}."
            raise self.wrong("metric", f"{said}{nearest(str(metric or ''), (*METRICS, *PLAIN))}")
        interval, of = self.one_of("interval", FIGURES), self.one_of("of", ("tuned", "base"))
        target = Target(
            metric=metric,
            bound=self.bound(metric),
            at_least="at_least" in item,
            interval=interval,
            each=self.several("each", item.get("each", []), tuple(SLICES)),
            only=self.only(),
            least_n=self.least_n(),
            relative_to_base=_flag(self.document, item, (*self.keys, "relative_to_base")),
            of=of,
            if_measured=_flag(self.document, item, (*self.keys, "if_measured")),
        )
        self.require_sense(target)
        return target

    def bound(self, metric: str) -> float:
        named = [key for key in _BOUNDS if key in self.item]
        if len(named) != 1:
            raise self.wrong("metric", f"{metric} takes at_least or at_most, one of the two")
        value = self.item[named[0]]
        if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
            raise self.wrong(named[0], f"{named[0]} is {value!r}: it takes a number")
        least = -1 if self.item.get("relative_to_base") is True else 0
        if metric in METRICS and not least <= value <= 1:
            raise self.wrong(named[0], f"{named[0]} is {value:g}: {metric} is a share, between 0 and 1 (0.98 for 98 %)")
        return float(value)

    def one_of(self, key: str, choices: tuple[str, ...]) -> str:
        value = self.item.get(key, choices[0])
        if value not in choices:
            raise self.wrong(key, f"{key} is {value!r}: use {', '.join(choices)}.{nearest(str(value), choices)}")
        return str(value)

    def several(self, key: str, value: Any, choices: tuple[str, ...]) -> tuple[str, ...]:
        values = value if isinstance(value, list) else [value]
        for one in values:
            if one not in choices:
                raise self.wrong(key, f"{key} has {one!r}: use {', '.join(choices)}.{nearest(str(one), choices)}")
        return tuple(dict.fromkeys(values))

    def only(self) -> dict[str, tuple[str, ...]]:
        value = self.item.get("only", {})
        if not isinstance(value, dict):
            raise self.wrong("only", f"only is {_kind(value)}: it takes keys of {', '.join(_ONLY)}")
        for key in value:
            if key not in _ONLY:
                raise self.wrong("only", f"only has the unknown key {key!r}.{nearest(str(key), _ONLY)}")
        return {key: self.several(f"only.{key}", held, _ONLY[key]) for key, held in value.items()}

    def least_n(self) -> int:
        value = self.item.get("least_n", 1)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self.wrong("least_n", f"least_n is {value!r}: it takes a whole number of at least 1")
        return value

    def require_sense(self, target: Target) -> None:
        """Raise KelronError for what a metric, or a comparison, cannot have."""
        if target.metric in PLAIN:
            extra = [key for key in _KEYS if key in self.item and key not in ("metric", *_BOUNDS)]
            allowed = ("if_measured", "only", "of") if target.metric == "cross_language_gap" else ("if_measured",)
            if wrong := next((key for key in extra if key not in allowed), None):
                raise self.wrong(wrong, f"{target.metric} is one number for all answers and takes no {wrong}")
        if target.relative_to_base and target.of == "base":
            raise self.wrong("of", "the base cannot be held to itself: leave out of, or relative_to_base")
        if target.relative_to_base and target.interval != "value":
            raise self.wrong("interval", "a difference to the base has no Wilson interval: leave out interval")
