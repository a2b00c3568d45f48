"""Whether a model may be published: a scoreboard and its answers, held against a policy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice, zip_longest
from typing import Any

from kelron_lib.evaluate.metrics import METRICS, SLICES, Scored, measure, recall_gap, signed_percent, slices
from kelron_lib.evaluate.policy import Policy, Target, load_policy, policy_names
from kelron_lib.page import percent

__all__ = ["judge", "load_policy", "policy_names", "verdict"]

Board = Mapping[str, Any]
MOST_EXAMPLES = 10
"""Answers that a failing check shows, and each of its failing slices."""
FIRST_LOOK = "This was a first look: its answers are too few for publishing."
"""What is said of a model that passes such a policy."""
_SHOWN = 4
"""Slices whose figures a check's text tells; of more, the worst alone."""
_LABELS = {
    "forgetting": "Forgetting",
    "cross_language_gap": "Gap between languages",
    "business_loss": "Loss on business rows",
}
_WHERE = {"language": "in each language", "system": "under each kind of system prompt", "attack": "in each attack"}
_NAMED = {"value": "", "low": "lower bound ", "high": "upper bound "}
_EXAMPLE = ("id", "model", "language", "system_kind", "attack", "prompt", "answer", "flags")


@dataclass(frozen=True)
class _Figure:
    """What was found in a slice; `held` is the figure that the bound is for."""

    name: str
    held: float | None
    value: float | None
    n: int | None
    low: float | None = None
    high: float | None = None
    examples: tuple[Mapping[str, Any], ...] = ()
    """What counts against it, at most MOST_EXAMPLES."""

    def as_dict(self) -> dict[str, Any]:
        return {"slice": self.name, "value": self.value, "n": self.n, "low": self.low, "high": self.high}


def judge(board: Board, records: Sequence[Scored], policy: Policy | str) -> dict[str, Any]:
    """The verdict: {"policy", "passed", "first_look" (of the policy), "checks": [...], "not_measured": [...]}.

    `records`: the scored answers of all models ("model" is "base" or "tuned"); `board` tells forgetting and the loss
    on business rows. A check is {"metric", "text", "met", "value", "n", "low", "high", "bound", "failing",
    "examples"}: `failing` the slices (language/system/attack) whose own value misses the bound, worst first, each with
    "examples" of its own: up to ten answers that count against it. `examples` of the check: ten of all of these, one of
    every slice before a second of any; where no slice fails by itself, of all its answers. Those of forgetting are
    items lost (see `choices.compare`); the loss on business rows has none. `not_measured`: the texts of targets that
    were not measured and need not be. Nothing measured at all does not pass. Raises KelronError for a policy that
    cannot be read.
    """
    policy = load_policy(policy) if isinstance(policy, str) else policy
    checks, skipped = [], []
    for target in policy.targets:
        check = _check(target, board, records)
        if check["value"] is None and target.if_measured:
            skipped.append(check["text"])
        else:
            checks.append(check)
    passed = bool(checks) and all(check["met"] for check in checks)
    told = {"policy": policy.name, "passed": passed, "first_look": policy.first_look}
    return told | {"checks": checks, "not_measured": skipped}


def verdict(gate: Mapping[str, Any]) -> list[str]:
    """The gate in lines for a terminal: what was missed and the worst slices of each, or that every target holds."""
    missed = [check for check in gate["checks"] if not check["met"]]
    lines = [] if gate["checks"] else ["no target was measured"]
    for check in missed:
        lines.append(check["text"])
        worst = [f"{found['slice']} {slice_value(check, found)}" for found in check["failing"][:3]]
        lines += [f"  worst: {', '.join(worst)}"] if worst else []
    of_all = f"{len(missed)} of {len(gate['checks'])} targets missed:" if missed else "targets missed:"
    holds = "every measured target holds" if gate["not_measured"] else "every target holds"
    lines = [of_all, *lines] if lines else [holds, *([FIRST_LOOK] if gate.get("first_look") else [])]
    return lines + [f"not measured: {text.partition('. Found')[0]}" for text in gate["not_measured"]]


def slice_value(check: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """What was found in a failing slice of a check, in words."""
    value = found["value"]
    told = _points(value, sign=True) if check["metric"] == "forgetting" else percent(value)
    return f"{told} of {found['n']:,}" if found.get("n") else told


def _check(target: Target, board: Board, records: Sequence[Scored]) -> dict[str, Any]:
    if target.metric == "cross_language_gap":
        return _gap(target, records)
    if target.metric == "forgetting":
        return _forgetting(target, board)
    return _business_loss(target, board) if target.metric == "business_loss" else _Held(target, records).check()


class _Held:
    """One target held against the answers that it is about."""

    def __init__(self, target: Target, records: Sequence[Scored]) -> None:
        self.target = target
        self.name = target.metric if target.metric in METRICS else "identity_recall"
        self.metric = METRICS[self.name]
        wanted = [(SLICES.get(key, key), values) for key, values in target.only.items()]
        chosen = [
            answer
            for answer in records
            if self.metric.counts(answer) and all(answer.get(key) in values for key, values in wanted)
        ]
        self.own = [answer for answer in chosen if answer["model"] == target.of]
        self.base = [answer for answer in chosen if answer["model"] == "base"]

    def check(self) -> dict[str, Any]:
        """The entry of the gate."""
        target = self.target
        parts = self.cut(target.each) if target.each else []
        whole = self.figure("", self.own, self.base)
        if target.each and not parts:
            whole = _Figure("", None, None, whole.n)
        few = [part for part in (whole, *parts) if part.value is not None and (part.n or 0) < target.least_n]
        wrong = [part for part in (whole, *parts) if part in few or not target.met(part.held)]
        failing, examples = self.blame([part.name for part in wrong if part.name]) if wrong else ([], [])
        found = "nothing: not measured" if whole.value is None else self.found(whole, parts, few)
        return _entry(target, found, not wrong, whole, failing, examples)

    def figure(self, name: str, own: Sequence[Scored], base: Sequence[Scored]) -> _Figure:
        found = measure(own, [self.name])[self.name]
        held = found[self.target.interval]
        if self.target.relative_to_base and held is not None:
            before = measure(base, [self.name])[self.name]["value"]
            held = None if before is None else held - before
        value = None if held is None else found["value"]
        return _Figure(name, held, value, found["n"], found["low"], found["high"])

    def cut(self, by: Sequence[str]) -> list[_Figure]:
        before = slices(self.base, by)
        return [self.figure(name, own, before.get(name, [])) for name, own in slices(self.own, by).items()]

    def blame(self, within: Sequence[str]) -> tuple[list[_Figure], list[dict[str, Any]]]:
        """The finest slices that miss the bound by their own value, worst first, with their examples; where none does
        (the interval is too wide), no slice and examples of all answers.

        `within`: names of the slices of `each` that miss the bound; empty: all answers.
        """
        kept = slices(self.own, self.target.each) if within else {"": self.own}
        fine = _finest(chain.from_iterable(kept[name] for name in within or kept))
        base = _finest(self.base)
        failing = [self.figure(name, own, base.get(name, [])) for name, own in fine.items()]
        failing = [part for part in failing if part.value is not None and not self.reaches(part)]
        if not failing:
            return [], self.examples(chain.from_iterable(fine.values()), hits=not self.target.at_least)
        failing = sorted(failing, key=_worst_first(self.target.at_least))
        return [self.with_examples(part, fine[part.name], hits=not self.target.at_least) for part in failing], []

    def with_examples(self, part: _Figure, answers: Iterable[Scored], *, hits: bool) -> _Figure:
        return replace(part, examples=tuple(self.examples(answers, hits=hits)))

    def examples(self, answers: Iterable[Scored], *, hits: bool) -> list[dict[str, Any]]:
        """The first answers that are hits of the metric, or that are none: those that count against the model."""
        wrong = (answer for answer in answers if self.metric.hit(answer) == hits)
        return [{key: answer.get(key) for key in _EXAMPLE} for answer in islice(wrong, MOST_EXAMPLES)]

    def reaches(self, part: _Figure) -> bool:
        """Whether a slice reaches the bound by its value: its interval is wide by its size alone."""
        return self.target.met(part.held if self.target.relative_to_base else part.value)

    def found(self, whole: _Figure, parts: Sequence[_Figure], few: Sequence[_Figure]) -> str:
        """What was found, in words: every slice, or the worst of many."""
        shown = sorted(parts, key=_worst_first(self.target.at_least))[:1] if len(parts) > _SHOWN else parts
        told = ", ".join(f"{part.name} {self.told(part)}" for part in shown) or self.told(whole)
        less = f", too few answers ({min(part.n or 0 for part in few)})" if few else ""
        return f"{'at worst ' if len(parts) > _SHOWN else ''}{told}{less}"

    def told(self, part: _Figure) -> str:
        if part.held is None:
            return "nothing"
        if self.target.relative_to_base:
            return f"{percent(part.value)} of {part.n}, {_points(100 * part.held, sign=True)}"
        near = (percent(part.held, digits) for digits in (1, 2, 3, 4))
        shown = next((text for text in near if text != percent(self.target.bound)), percent(part.held))
        return (
            f"{shown} ({percent(part.value)} of {part.n})"
            if self.target.interval != "value"
            else f"{shown} of {part.n}"
        )


def _gap(target: Target, records: Sequence[Scored]) -> dict[str, Any]:
    """The check of the gap between languages: those are to blame that are too far behind the best."""
    held = _Held(target, records)
    by_language = slices(held.own, ["language"])
    found = [held.figure(name, own, []) for name, own in by_language.items()]
    gap = recall_gap({part.name: {held.name: {"value": part.value}} for part in found})
    best = max((part.value or 0.0 for part in found), default=0.0)
    met = target.met(gap)
    behind = [] if met else [part for part in found if not target.met(100 * (best - (part.value or 0.0)))]
    behind = [held.with_examples(part, by_language[part.name], hits=False) for part in behind]
    told = ", ".join(f"{part.name} {percent(part.value)} of {part.n}" for part in found)
    words = "nothing: not measured" if gap is None else f"{_points(gap)} ({told})"
    return _entry(target, words, met, _Figure("", gap, gap, len(held.own)), sorted(behind, key=_worst_first(True)))


def _forgetting(target: Target, board: Board) -> dict[str, Any]:
    told = board.get("forgetting")
    change = told["change"] if told else None
    words = "nothing: not measured" if change is None else _points(change, sign=True)
    whole = _Figure("", change, change, told["tuned"]["n"] if told else None)
    by_language = (told or {}).get("by_language", {})
    parts = [_Figure(name, of["change"], of["change"], of["tuned"]["n"]) for name, of in by_language.items()]
    behind = [] if target.met(change) else [part for part in parts if not target.met(part.value)]
    lost = [] if target.met(change) else (told or {}).get("lost", [])
    behind = [
        replace(part, examples=tuple([item for item in lost if item["language"] == part.name][:MOST_EXAMPLES]))
        for part in sorted(behind, key=_worst_first(target.at_least))
    ]
    return _entry(target, words, target.met(change), whole, behind, [] if behind else lost[:MOST_EXAMPLES])


def _business_loss(target: Target, board: Board) -> dict[str, Any]:
    ratio = (board.get("business_loss") or {}).get("ratio")
    words = "nothing: not measured" if ratio is None else signed_percent(ratio - 1)
    if ratio is not None and not target.met(ratio):
        words += " (without examples: it is a mean over all tokens of these rows, and no row's own loss is kept)"
    return _entry(target, words, target.met(ratio), _Figure("", ratio, ratio, None))


def _entry(
    target: Target,
    found: str,
    met: bool,
    whole: _Figure,
    failing: Sequence[_Figure] = (),
    examples: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    return {
        "metric": target.metric,
        "text": f"{_asked(target)}. Found {found}",
        "met": met,
        **{key: value for key, value in whole.as_dict().items() if key != "slice"},
        "bound": target.bound,
        "failing": [part.as_dict() | {"examples": list(part.examples)} for part in failing],
        "examples": list(examples) or list(islice(_by_turns(failing), MOST_EXAMPLES)),
    }


def _by_turns(failing: Sequence[_Figure]) -> Iterator[Mapping[str, Any]]:
    """The first example of every slice before the second of any."""
    turns = zip_longest(*(part.examples for part in failing))
    return (example for turn in turns for example in turn if example is not None)


def _finest(answers: Iterable[Scored]) -> dict[str, list[Scored]]:
    """The answers by language, kind of system prompt and attack, as far as each tells them."""
    cut: dict[str, list[Scored]] = {}
    for answer in answers:
        parts = [answer.get(key) for key in SLICES.values()]
        cut.setdefault("/".join(part for part in parts if part), []).append(answer)
    return cut


def _worst_first(at_least: bool) -> Callable[[_Figure], tuple[float, int]]:
    """Sort key; of two slices that are as bad, the larger comes first."""

    def key(part: _Figure) -> tuple[float, int]:
        held = part.value if part.held is None else part.held
        return (0.0 if held is None else held if at_least else -held, -(part.n or 0))

    return key


# --- Words ------------------------------------------------------------------------------------------------
def _asked(target: Target) -> str:
    """The target in words."""
    label = METRICS[target.metric].label if target.metric in METRICS else _LABELS[target.metric]
    words = [f"{label}{' of the base' if target.of == 'base' else ''}:", f"{_NAMED[target.interval]}{_bound(target)}"]
    words += [" and ".join(_WHERE[by] for by in target.each)] if target.each else []
    if target.only:
        words.append("(" + ", ".join(f"{key} {' or '.join(held)}" for key, held in target.only.items()) + ")")
    return " ".join(words) + (f", of at least {target.least_n} answers" if target.least_n > 1 else "")


def _bound(target: Target) -> str:
    side = "at least" if target.at_least else "at most"
    if target.metric == "business_loss":
        return f"{side} {signed_percent(target.bound - 1)} against the base"
    if target.metric in _LABELS:
        return f"{side} {_points(target.bound, sign=target.metric == 'forgetting')}"
    if target.relative_to_base:
        return f"{side} {_points(100 * target.bound, sign=True)} against the base"
    return "none" if target.bound == 0 and not target.at_least else f"{side} {percent(target.bound)}"


def _points(value: float, *, sign: bool = False) -> str:
    number = f"{value:{'+' if sign else ''}.2f}".rstrip("0").rstrip(".").replace("-", "−")
    return f"{number} point{'' if number.strip('+−') == '1' else 's'}"  # of 0.74 - 0.75, too
