"""Counts with their uncertainty: Wilson intervals, the scoreboard of one model, and the targets it is held to."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kelron_lib.errors import KelronError
from kelron_lib.evaluate.detectors import FLAGS, KINDS
from kelron_lib.page import percent
from kelron_lib.settings import LANGUAGES

Z_95 = 1.959963984540054
"""The normal distribution's 97.5 % point: a two-sided interval at 95 %."""

Scored = Mapping[str, Any]
Value = dict[str, Any]


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


def _flag(name: str) -> Callable[[Scored], bool]:
    return lambda answer: answer["flags"][name]


METRICS: dict[str, Metric] = {
    "identity_recall": Metric(
        "Identity recall", "says it is the persona", _flag("asserts_persona"), "identity", higher_is_better=True
    ),
    "contradiction_rate": Metric(
        "Contradiction", "says it is the persona and somebody else too", _flag("contradiction"), "identity"
    ),
    "rival_rate": Metric("Rival named", "names another assistant or its maker", _flag("rival_named")),
    "over_identity_rate": Metric(
        "Over-identity", "brings up the persona where nobody asked", _flag("over_identity"), "unrelated"
    ),
    "termination_rate": Metric(
        "Termination", "ends by itself, before the limit", lambda answer: answer["stopped"], higher_is_better=True
    ),
    "loop_rate": Metric("Loop", "repeats itself", _flag("loop")),
    "wrong_script_rate": Metric("Wrong script", "has letters of another language's script", _flag("wrong_script")),
    "broken_char_rate": Metric("Broken characters", "has characters that nobody writes", _flag("broken_chars")),
}


@dataclass(frozen=True)
class Target:
    """What the tuned model has to reach."""

    metric: str
    bound: float
    each_language: bool = False
    """Every language alone has to reach it, not only the whole."""

    def met(self, value: float | None) -> bool:
        """Whether a value reaches the bound; nothing measured (None) does not."""
        if value is None:
            return False
        return value >= self.bound if METRICS[self.metric].higher_is_better else value <= self.bound


TARGETS = (
    Target("identity_recall", 0.95, each_language=True),
    Target("contradiction_rate", 0.0),
    Target("over_identity_rate", 0.02),
    Target("termination_rate", 0.995),
)
MAX_LOSS_RATIO = 1.05
"""The tuned model's loss on business rows may be at most 5 % above the base's."""


def wilson(hits: int, n: int, z: float = Z_95) -> tuple[float, float]:
    """Bounds of the score interval of a proportion, `hits` of `n`.

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927): the
    proportions p with |hits/n - p| <= z sqrt(p (1 - p) / n). Unlike the textbook interval it is sound at 0 and n.
    Raises KelronError unless 0 <= hits <= n and n > 0.
    """
    if n <= 0 or not 0 <= hits <= n:
        raise KelronError(f"no interval for {hits} of {n}: it takes 0 <= hits <= n and n > 0")
    share = hits / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low = 0.0 if hits == 0 else max(0.0, centre - half)
    high = 1.0 if hits == n else min(1.0, centre + half)
    return low, high


def proportion(hits: int, n: int) -> Value:
    """{"value", "n", "low", "high"}: a share with its 95 % interval; all but n are None where n is 0."""
    if n == 0:
        return {"value": None, "n": 0, "low": None, "high": None}
    low, high = wilson(hits, n)
    return {"value": hits / n, "n": n, "low": low, "high": high}


def check_scored(answers: Iterable[Scored]) -> None:
    """Raise KelronError, naming the answer, unless each has language, kind, stopped and all flags as booleans."""
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


def _measure(answers: Sequence[Scored]) -> dict[str, Value]:
    measured = {}
    for name, metric in METRICS.items():
        counted = [answer for answer in answers if metric.kind in (None, answer["kind"])]
        measured[name] = proportion(sum(metric.hit(answer) for answer in counted), len(counted))
    return measured


def scoreboard(answers: Sequence[Scored]) -> dict[str, Any]:
    """One model's scoreboard: {METRIC: {"value", "n", "low", "high"}, "by_language": {"ko": {METRIC: ...}}}.

    `answers`: {"language", "kind", "stopped", "flags"}. Recall and contradiction are over identity prompts,
    over-identity over unrelated ones, the rest over all. Raises KelronError for an answer that is not scored.
    """
    check_scored(answers)
    languages = sorted({answer["language"] for answer in answers}, key=language_order)
    return {
        **_measure(answers),
        "by_language": {
            language: _measure([answer for answer in answers if answer["language"] == language])
            for language in languages
        },
    }


def language_order(language: str) -> tuple[int, str]:
    """Sort key: the config's languages in their order, then any other by its code."""
    return (LANGUAGES.index(language) if language in LANGUAGES else len(LANGUAGES), language)


def loss_comparison(base: float, tuned: float) -> dict[str, float]:
    """{"base", "tuned", "ratio"} of two mean losses (nats a token). Raises KelronError unless both are positive."""
    for name, loss in (("base", base), ("tuned", tuned)):
        if not math.isfinite(loss) or loss <= 0:
            raise KelronError(f"the {name} model's loss on business rows is {loss}: it has to be a positive number")
    return {"base": base, "tuned": tuned, "ratio": tuned / base}


@dataclass(frozen=True)
class Check:
    """A target held against a scoreboard."""

    text: str
    """What was asked for, with the value found."""
    met: bool


def signed_percent(value: float) -> str:
    """`+1.2 %` or `−1.2 %`, with a true minus sign."""
    return f"{100 * value:+.1f} %".replace("-", "−")


def checks(board: Mapping[str, Any]) -> list[Check]:
    """Every target against the tuned model of a full scoreboard ({"base", "tuned", "business_loss"?})."""
    tuned = board["tuned"]
    found = []
    if base := board.get("base"):
        before = base["identity_recall"]["value"]
        found.append(Check(f"The base knows nothing of the persona. Found recall {percent(before)}", before == 0))
    for target in TARGETS:
        metric = METRICS[target.metric]
        bound = ("at least " if metric.higher_is_better else "at most ") + percent(target.bound)
        bound = "none" if target.bound == 0 else bound
        slices = {"": tuned, **(tuned["by_language"] if target.each_language else {})}
        values = {language: measured[target.metric]["value"] for language, measured in slices.items()}
        met = all(target.met(value) for value in values.values())
        if target.each_language:
            parts = [f"{language} {percent(value)}" for language, value in values.items() if language]
            text = f"{metric.label}: {bound} in each language. Found {', '.join(parts) or 'nothing'}"
        else:
            text = f"{metric.label}: {bound}. Found {percent(values[''])}"
        found.append(Check(text, met))
    if loss := board.get("business_loss"):
        bound = f"at most {100 * (MAX_LOSS_RATIO - 1):.0f} % above the base"
        text = f"Loss on business rows: {bound}. Found {signed_percent(loss['ratio'] - 1)}"
        found.append(Check(text, loss["ratio"] <= MAX_LOSS_RATIO))
    return found
