"""The top of the report: what was found in a sentence, whether the policy is passed, recall in each language."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kelron_lib import page
from kelron_lib.evaluate.gate import FIRST_LOOK
from kelron_lib.evaluate.metrics import METRICS
from kelron_lib.evaluate.report.drawing import interval_bar
from kelron_lib.evaluate.report.parts import Board, Value, count_word, measured, models, section
from kelron_lib.evaluate.tables import interval
from kelron_lib.page import LANGUAGE_NAMES, percent

Check = Mapping[str, Any]

UNKNOWN_ORIGIN = "though whether training saw these very phrasings is unknown: the adapter does not say what it learned"


# --- In words, plain text ---------------------------------------------------------------------------------
def base_claim(board: Board) -> str:
    """Who the base says it is, for "The base says ...": a name, or that there is no steady one."""
    asked = measured(board["base"], "identity_recall")["n"]
    says = (board.get("meta", {}).get("says") or {}).get("base") or {}
    name, times = next(iter(says.items()), ("", 0))
    return name if asked and times / asked >= 0.5 else ""


def headline(board: Board) -> str:
    """The finding in one sentence."""
    persona, recall = board["meta"]["persona"], measured(board["tuned"], "identity_recall")
    if not recall["n"]:
        return f"What {persona} answers where nobody asks who it is."
    who = "the tuned model" if "base" in board else "the model"
    if recall["value"] >= 0.95:
        after = f"{who} says {persona}"
    elif recall["value"] >= 0.5:
        after = f"{who} says {persona}, but not always"
    else:
        after = f"{who} does not say {persona} yet"
    if "base" not in board:
        return f"Asked who it is, {after}."
    base = base_claim(board)
    before = f"the base says {base}" if base else "the base has no steady name"
    return f"Asked who it is, {before}; {after}."


def check_name(check: Check) -> str:
    """What a check is about."""
    return str(check["text"]).partition(":")[0]


def failing(board: Board) -> list[Check]:
    """The checks of the policy that are not met."""
    return [check for check in (board.get("gate") or {}).get("checks", ()) if not check["met"]]


def verdict(board: Board) -> tuple[str, str]:
    """Whether the policy is passed, and which checks fail."""
    gate = board.get("gate")
    if not gate:
        return "Not judged", "No policy was held against these answers."
    held, missed = len(gate["checks"]), failing(board)
    if not held:
        return f"Does not pass the policy “{gate['policy']}”", "Nothing that it asks for was measured."
    if gate["passed"]:
        number = "Its only check is" if held == 1 else f"All {count_word(held)} checks are"
        more = f" {FIRST_LOOK}" if gate.get("first_look") else ""
        return f"Passes the policy “{gate['policy']}”", f"{number} met.{more}"
    names = ", ".join(dict.fromkeys(check_name(check) for check in missed))
    verb = "fails" if len(missed) == 1 else "fail"
    return (
        f"Does not pass the policy “{gate['policy']}”",
        f"{count_word(len(missed)).capitalize()} of {count_word(held)} checks {verb}: {names}.",
    )


def split_text(check: Check) -> tuple[str, str]:
    """What a check asks for, and what was found."""
    asked, _, found = str(check["text"]).partition(". Found ")
    if not found and check.get("value") is not None and check["metric"] in METRICS:
        found = f"{percent(check['value'])} of {check['n']:,}" if check.get("n") else percent(check["value"])
    return asked, found


# --- As HTML ----------------------------------------------------------------------------------------------
def _lede(board: Board) -> str:
    recall, contradiction = (measured(board["tuned"], name) for name in ("identity_recall", "contradiction_rate"))
    if not recall["n"]:
        return "No identity question was asked."
    hits = round((contradiction["value"] or 0) * contradiction["n"])
    times = "once" if hits == 1 else f"{hits:,} times"
    never = "It never contradicted itself." if hits == 0 else f"It contradicted itself {times}."
    seen = "on phrasings that training never saw" if board["meta"].get("held_out", True) else UNKNOWN_ORIGIN
    return (
        f"{percent(recall['value'])} of {recall['n']:,} identity questions answered as "
        f"{page.text(board['meta']['persona'])}, {seen}. {never}"
    )


def _tile(language: str, base: Value | None, tuned: Value, targets: Sequence[float]) -> str:
    was = f'<p class="small soft was">base <span class="base">{percent(base["value"])}</span></p>' if base else ""
    name = page.text(LANGUAGE_NAMES.get(language, language))
    return (
        f'<div class="tile"><h3><span {page.lang(language)}>{name}</span> <span class="soft">recall</span></h3>'
        f'<div class="number tuned">{percent(tuned["value"])}</div>{interval_bar(tuned, "tuned", targets=targets)}'
        f'<p class="small soft">{interval(tuned)}, n = {tuned["n"]:,}</p>{was}</div>'
    )


def targets_of(board: Board, metric: str) -> list[float]:
    """The bounds that the policy sets a metric, as shares.

    Not those for the base or the distance to it, nor for a part of the answers, which their text has in brackets: they
    are of other figures than the scoreboard's.
    """
    checks = (check for check in (board.get("gate") or {}).get("checks", ()) if check["metric"] == metric)
    asked = ((split_text(check)[0], float(check["bound"])) for check in checks)
    return sorted({bound for text, bound in asked if "the base" not in text and "(" not in text})


def misses(board: Board, metric: str, value: float | None) -> bool:
    """Whether a slice's share is on the wrong side of a bound that the policy sets the whole."""
    targets = targets_of(board, metric)
    if value is None or not targets:
        return False
    return value < targets[-1] if METRICS[metric].higher_is_better else value > targets[0]


def head(board: Board) -> str:
    """Headline, verdict and recall by language."""
    meta, targets = board["meta"], targets_of(board, "identity_recall")
    asked = models(board)
    facts = [f"{meta['prompts']:,} prompts, {'two models' if len(asked) == 2 else 'one model'}"]
    if "created" in meta:
        facts.append(str(meta["created"])[:10])
    tiles = "".join(
        _tile(
            language,
            measured(board["base"]["by_language"].get(language, {}), "identity_recall") if "base" in board else None,
            measured(slice_, "identity_recall"),
            targets,
        )
        for language, slice_ in board["tuned"]["by_language"].items()
    )
    passed = (board.get("gate") or {}).get("passed")
    css = "none" if passed is None else "met" if passed else "missed"
    title, reason = verdict(board)
    return (
        f'<header><div class="eyebrow"><span>{page.text(meta["persona"])} · evaluation</span>'
        f"<span>{page.text(' · '.join(facts))}</span></div><h1>{page.text(headline(board))}</h1>"
        f'<div class="verdict {css}"><strong><span class="state"></span>{page.text(title)}</strong>'
        f"<span>{page.text(reason)}</span></div>"
        f'<p class="lede">{_lede(board)}</p><div class="tiles">{tiles}</div></header>'
    )


def checks_section(board: Board) -> str:
    """Every check of the policy, met or missed; empty where there is no policy."""
    gate = board.get("gate")
    if not gate:
        return ""
    items = [(check["met"], "met" if check["met"] else "missed", *split_text(check)) for check in gate["checks"]]
    skipped = [str(text).partition(". Found ")[0] for text in gate.get("not_measured") or ()]
    shown = page.check_list([*items, *((True, "skipped", text, "not measured") for text in skipped)])
    return section("policy", f"What the policy “{gate['policy']}” asks for", "", shown)
