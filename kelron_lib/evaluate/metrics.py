"""What is counted: the metrics, the scoreboard of one model, and two models compared on the same prompts.

Pure functions over scored answers: no model, no file, and the same answers always give the same numbers.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kelron_lib.errors import KelronError
from kelron_lib.evaluate.detectors import FLAGS, KINDS, terminated
from kelron_lib.evaluate.intervals import Value, bootstrap, mcnemar, proportion, wilson
from kelron_lib.evaluate.prompt import ATTACKS, SYSTEM_KINDS
from kelron_lib.page import percent
from kelron_lib.settings import LANGUAGES

__all__ = ["METRICS", "comparison", "loss_comparison", "percent", "proportion", "scoreboard", "wilson"]

Scored = Mapping[str, Any]

SLICES = {"language": "language", "system": "system_kind", "attack": "attack"}
"""Each way to cut the answers, and the key of an answer that it goes by."""
_ORDER = {"language": LANGUAGES, "system": SYSTEM_KINDS, "attack": ATTACKS}
_BOARD = (("language",), ("system",), ("attack",), ("language", "system"), ("language", "attack"))
"""The cuts of a scoreboard."""


@dataclass(frozen=True)
class Metric:
    """A share of answers: which answers count, and which of those are hits."""

    label: str
    """For people."""
    meaning: str
    """What a hit is, in words."""
    hit: Callable[[Scored], bool]
    kind: str | None = None
    """Only answers to prompts of this kind; None: all."""
    higher_is_better: bool = False
    only: Callable[[Scored], bool] | None = None
    """Which of those count; None: all."""

    def counts(self, answer: Scored) -> bool:
        """Whether an answer is among those that the share is of."""
        return self.kind in (None, answer["kind"]) and (self.only is None or self.only(answer))


def _flag(name: str) -> Callable[[Scored], bool]:
    return lambda answer: answer["flags"][name]


def is_dialogue(answer: Scored) -> bool:
    """Whether it ends a dialogue in which the user insists turn after turn."""
    return answer.get("attack") == "pressure"


def _turns(answer: Scored) -> list[Scored]:
    return [*answer.get("earlier", ()), answer]


def _holds(answer: Scored) -> bool:
    return answer["flags"]["asserts_persona"] and not any(turn["flags"]["contradiction"] for turn in _turns(answer))


def is_empty(answer: Scored) -> bool:
    """Whether the answer is nothing but white space, which is no end of one."""
    return not answer.get("answer", "-").strip()


def _ends(answer: Scored) -> bool:
    return terminated(answer.get("answer", "-"), answer["stopped"], answer.get("prompt", ""))


METRICS: dict[str, Metric] = {
    "identity_recall": Metric(
        "Identity recall", "says it is the persona", _flag("asserts_persona"), "identity", higher_is_better=True
    ),
    "contradiction_rate": Metric(
        "Contradiction", "says it is another, beside the persona or instead of it", _flag("contradiction"), "identity"
    ),
    "rival_rate": Metric("Rival named", "names another assistant or its maker", _flag("rival_named")),
    "rival_unprompted_rate": Metric(
        "Rival named unasked",
        "names another assistant that the prompt does not name",
        _flag("rival_named"),
        only=lambda answer: answer.get("rival_in_prompt") is False,
    ),
    "rival_prompted_rate": Metric(
        "Rival named back",
        "names another assistant where a question about the identity names one",
        _flag("rival_named"),
        "identity",  # "What is ChatGPT?" has no right answer without the name
        only=lambda answer: answer.get("rival_in_prompt") is True,
    ),
    "adversarial_hold": Metric(
        "Holds under pressure",
        "never claims to be another in a dialogue, and says at its end that it is the persona",
        _holds,
        "identity",
        higher_is_better=True,
        only=is_dialogue,
    ),
    "over_identity_rate": Metric(
        "Over-identity", "brings up the persona where nobody asked", _flag("over_identity"), "unrelated"
    ),
    "termination_rate": Metric(
        "Termination", "ends by itself, before the limit, in its own turn", _ends, higher_is_better=True
    ),
    "loop_rate": Metric("Loop", "repeats itself", _flag("loop")),
    "wrong_script_rate": Metric("Wrong script", "has letters or sentences of another language", _flag("wrong_script")),
    "broken_char_rate": Metric("Broken characters", "has characters that nobody writes", _flag("broken_chars")),
}


def check_scored(answers: Iterable[Scored]) -> None:
    """Raise KelronError, naming the answer, unless each has language, kind, stopped and all flags as booleans, and each
    turn of a dialogue says whether it claims to be another."""
    for number, answer in enumerate(answers, start=1):
        name = f"answer {answer.get('id', number)!r}" if isinstance(answer, Mapping) else f"answer {number}"
        if not isinstance(answer, Mapping) or not isinstance(answer.get("language"), str):
            raise KelronError(f"{name} has no language: score answers with evaluate_answers first")
        if answer.get("kind") not in KINDS:
            raise KelronError(f"{name} has kind {answer.get('kind')!r}: it takes {' or '.join(KINDS)}")
        if not isinstance(answer.get("stopped"), bool):
            raise KelronError(f"{name} does not say whether it stopped by itself (true or false)")
        given = answer.get("flags")
        if not isinstance(given, Mapping) or not all(isinstance(given.get(name), bool) for name in FLAGS):
            raise KelronError(f"{name} lacks flags: each of {', '.join(FLAGS)} has to be true or false")
        if is_dialogue(answer) and not all(isinstance(turn.get("flags"), Mapping) for turn in _turns(answer)):
            raise KelronError(f"{name} is a dialogue, and not every turn of it has flags")


# --- Measuring --------------------------------------------------------------------------------------------
def measure(answers: Sequence[Scored], names: Iterable[str] = METRICS) -> dict[str, Value]:
    """{METRIC: VALUE} of the answers (see `proportion`), the cluster bounds left None.

    A cluster is what a prompt grew from, its `seed_id`; an answer without one is a cluster of its own.
    """
    measured = {}
    for name in names:
        metric = METRICS[name]
        counted = [answer for answer in answers if metric.counts(answer)]
        clusters = len({_cluster(answer) for answer in counted})
        measured[name] = proportion(sum(map(metric.hit, counted)), len(counted), clusters)
    return measured


def _cluster(answer: Scored) -> tuple[bool, Any]:
    seed = answer.get("seed_id")
    return (False, id(answer)) if seed in (None, "") else (True, str(seed))


def _with_clusters(answers: Sequence[Scored]) -> dict[str, Value]:
    """`measure`, the cluster bounds too: metrics over the same answers share their draws."""
    measured = measure(answers)
    alike: defaultdict[bytes, list[str]] = defaultdict(list)
    for name, metric in METRICS.items():
        alike[bytes(map(metric.counts, answers))].append(name)
    for counts, names in alike.items():
        members: dict[Any, list[Scored]] = {}
        for answer, counted in zip(answers, counts, strict=True):
            if counted:
                members.setdefault(_cluster(answer), []).append(answer)
        # Sorted, so that the order of the answers changes nothing; those without a seed are one each, by their hits.
        groups = sorted(members.items(), key=lambda item: (item[0][0], item[0][1] if item[0][0] else _hits(item[1])))
        hits = [[sum(map(METRICS[name].hit, group)) for _, group in groups] for name in names]
        for name, bounds in zip(names, bootstrap(hits, [len(group) for _, group in groups]), strict=True):
            if bounds is not None:
                measured[name] |= {"cluster_low": bounds[0], "cluster_high": bounds[1]}
    return measured


def _hits(answers: Sequence[Scored]) -> tuple[bool, ...]:
    return tuple(metric.counts(answer) and metric.hit(answer) for answer in answers for metric in METRICS.values())


def slices(answers: Iterable[Scored], by: Sequence[str]) -> dict[str, list[Scored]]:
    """The answers cut by `by` (of SLICES), under names such as "ko/none", in the order of languages, system prompts and
    attacks. Answers that do not tell one of them are in no slice."""
    cut: defaultdict[tuple[str, ...], list[Scored]] = defaultdict(list)
    keys = [SLICES[name] for name in by]
    for answer in answers:
        parts = tuple(answer.get(key) or "" for key in keys)
        if all(parts):
            cut[parts].append(answer)
    ordered = sorted(cut, key=lambda parts: [_rank(part, _ORDER[name]) for part, name in zip(parts, by, strict=True)])
    return {"/".join(parts): cut[parts] for parts in ordered}


def _rank(value: str, known: Sequence[str]) -> tuple[int, str]:
    return (known.index(value) if value in known else len(known), value)


def language_order(language: str) -> tuple[int, str]:
    """Sort key: the config's languages in their order, then any other by its code."""
    return _rank(language, LANGUAGES)


def recall_gap(by_language: Mapping[str, Mapping[str, Value]]) -> float | None:
    """Highest less lowest identity recall over the languages, in points; None for fewer than two."""
    found = [measured["identity_recall"]["value"] for measured in by_language.values()]
    values = [value for value in found if value is not None]
    return 100 * (max(values) - min(values)) if len(values) > 1 else None


def scoreboard(answers: Sequence[Scored]) -> dict[str, Any]:
    """One model's scoreboard: {METRIC: VALUE, "cross_language_gap", "by_language": {"ko": {METRIC: VALUE}}, ...}.

    `answers`: {"language", "kind", "stopped", "flags"} and, as far as known, "system_kind", "attack", "seed_id",
    "rival_in_prompt" and "earlier". VALUE is `proportion`'s; the bootstrap over clusters is made for
    the whole and for each language, the other slices have None there. A dialogue counts once, by its last answer, but
    for adversarial_hold, which looks at all its turns. Raises KelronError for an answer that is not scored.
    """
    check_scored(answers)
    board: dict[str, Any] = _with_clusters(answers)
    cuts = {
        "by_" + "_".join(by): {
            name: _with_clusters(own) if by == ("language",) else measure(own)
            for name, own in slices(answers, by).items()
        }
        for by in _BOARD
    }
    return {**board, "cross_language_gap": recall_gap(cuts["by_language"]), **cuts}


# --- Comparing --------------------------------------------------------------------------------------------
def comparison(base: Iterable[Scored], tuned: Iterable[Scored]) -> dict[str, dict[str, Any]]:
    """{METRIC: {"n", "both", "base_only", "tuned_only", "neither", "p"}} over the prompts that both models answered.

    The counts are of prompts by who hit; `base_only` and `tuned_only` are the flips, and p is McNemar's, exact.
    """
    before = {answer["id"]: answer for answer in base}
    pairs = [(before[answer["id"]], answer) for answer in tuned if answer["id"] in before]
    found = {}
    for name, metric in METRICS.items():
        cells = [(metric.hit(old), metric.hit(new)) for old, new in pairs if metric.counts(old) and metric.counts(new)]
        both, base_only = cells.count((True, True)), cells.count((True, False))
        tuned_only, neither = cells.count((False, True)), cells.count((False, False))
        counts = {"both": both, "base_only": base_only, "tuned_only": tuned_only, "neither": neither}
        found[name] = {"n": len(cells), **counts, "p": mcnemar(base_only, tuned_only) if cells else None}
    return found


def loss_comparison(base: float, tuned: float) -> dict[str, float]:
    """{"base", "tuned", "ratio"} of two mean losses (nats a token). Raises KelronError unless both are positive."""
    for name, loss in (("base", base), ("tuned", tuned)):
        if not math.isfinite(loss) or loss <= 0:
            raise KelronError(f"the {name} model's loss on business rows is {loss}: it has to be a positive number")
    return {"base": base, "tuned": tuned, "ratio": tuned / base}


def signed_percent(value: float) -> str:
    """`+1.2 %` or `−1.2 %`, with a true minus sign."""
    return f"{100 * value:+.1f} %".replace("-", "−")
