"""An earlier run beside this one: its figures, which answers flipped where the prompts are the same, what differs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kelron_lib import page
from kelron_lib.config import flat
from kelron_lib.errors import KelronError
from kelron_lib.evaluate.detectors import FLAGS
from kelron_lib.evaluate.intervals import mcnemar
from kelron_lib.evaluate.metrics import METRICS, Metric
from kelron_lib.evaluate.report.drawing import axis_for
from kelron_lib.evaluate.report.numbers import axis_line, flip_note, lane
from kelron_lib.evaluate.report.parts import Board, Record, folded, measured, points, scrolling, section
from kelron_lib.evaluate.report.said import asked, said
from kelron_lib.evaluate.report.verdict import targets_of, verdict
from kelron_lib.evaluate.score import OF_FILE
from kelron_lib.runtime import read_json

LAYOUTS = (1, 2)
"""Layouts of scoreboard.json that are read; the first did not say its number."""
MOST_FLIPS = 6
"""Answers of each kind of flip that are shown."""
MOST_KEYS = 40
"""Fields of the config that are shown."""
_SHOWN = {"identity_recall": ("now says", "no longer says"), "rival_rate": ("now names a rival", "names none any more")}
Pair = tuple[Record, Record]


@dataclass(frozen=True)
class Earlier:
    """What an earlier evaluation left in its folder."""

    name: str
    """The folder's."""
    board: Board
    answers: tuple[Record, ...]
    """The tuned model's; none where the folder has no answers.jsonl."""
    config: Mapping[str, Any] | None


# --- Reading it -------------------------------------------------------------------------------------------
def _answers(path: Path) -> tuple[Record, ...]:
    """The tuned model's records. Raises KelronError with the line's number where one cannot be read."""
    if not path.exists():
        return ()
    records = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            record = json.loads(line)
            if record["model"] == "tuned":
                _ = record["id"], record["kind"], record["language"], record["prompt"], record["answer"]
                _ = record["stopped"], [record["flags"][flag] for flag in FLAGS]
                records.append(record)
        except (ValueError, KeyError, TypeError) as error:
            raise KelronError(f"{path}, line {number}: not an answer of an evaluation ({error!r})") from None
    return tuple(records)


def load_earlier(folder: Path) -> Earlier:
    """Read the folder of an earlier evaluation. Raises KelronError for none, one of a layout unknown here, or one of a
    file of answers, whose prompts, base and policy are others."""
    board = read_json(folder / "scoreboard.json")
    layout = board.get("layout", 1) if isinstance(board, dict) else None
    if layout not in LAYOUTS:
        raise KelronError(
            f"{folder / 'scoreboard.json'} has layout {layout!r}, this version reads 1 and 2: evaluate that run again"
        )
    tuned, meta = board.get("tuned"), board.get("meta")
    if not isinstance(tuned, dict) or not isinstance(meta, dict) or "persona" not in meta:
        raise KelronError(f"{folder / 'scoreboard.json'} is no scoreboard of `kelron evaluate`: name another folder")
    if OF_FILE in meta:
        raise KelronError(
            f"{folder} holds the scores of a file of answers ({meta[OF_FILE]}), not of a model that was asked here: "
            "name the folder of a `kelron evaluate` without --answers to compare with"
        )
    for name in METRICS:
        if name in tuned and not {"value", "n", "low", "high"} <= set(tuned[name]):
            raise KelronError(
                f"{folder / 'scoreboard.json'}: {name} has no value with an interval: evaluate that run again"
            )
    config = folder / "evaluate_config.json"
    return Earlier(
        folder.resolve().name,
        board,
        _answers(folder / "answers.jsonl"),
        read_json(config) if config.exists() else None,
    )


# --- Comparing --------------------------------------------------------------------------------------------
def _question(record: Record) -> tuple[str, ...]:
    """What a prompt consists of besides the model's own answers: its id, the system prompt, the user's texts."""
    turns = [message["content"] for message in record.get("messages") or () if message["role"] == "user"]
    return (str(record["id"]), record.get("system") or "", *(turns or [record["prompt"]]))


def shared(then: Sequence[Record], now: Sequence[Record]) -> list[Pair]:
    """(then, now) of every prompt that both runs asked: of the same id and the same words."""
    before = {_question(record): record for record in then}
    return [(before[key], record) for record in now if (key := _question(record)) in before]


def flipped(metric: Metric, pairs: Sequence[Pair]) -> tuple[list[Pair], list[Pair], int]:
    """The pairs that are a hit only now, those that were one only then, and how many pairs count at all."""
    counted = [pair for pair in pairs if all(map(metric.counts, pair))]
    came = [pair for pair in counted if metric.hit(pair[1]) and not metric.hit(pair[0])]
    went = [pair for pair in counted if metric.hit(pair[0]) and not metric.hit(pair[1])]
    return came, went, len(counted)


def config_changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(dotted key, value then, value now) where two configs differ; a dash where one has no such key."""
    before, after = flat(then), flat(now)
    told = [
        (key, *("–" if key not in of else json.dumps(of[key], ensure_ascii=False) for of in (before, after)))
        for key in sorted(before.keys() | after.keys())
    ]
    return [(key, old, new) for key, old, new in told if old != new]


# --- Showing it -------------------------------------------------------------------------------------------
def _row(name: str, then: Board, now: Board, pairs: Sequence[Pair]) -> str:
    metric = METRICS[name]
    before, after = measured(then["tuned"], name), measured(now["tuned"], name)
    targets = targets_of(now, name)
    axis = axis_for([before, after], targets, higher=metric.higher_is_better)
    change = ""
    if before["value"] is not None and after["value"] is not None:
        change = f"<small>{points(100 * (after['value'] - before['value']))} points</small>"
    came, went, counted = flipped(metric, pairs)
    note = flip_note(len(came), len(went), mcnemar(len(came), len(went))) if counted else ""
    return (
        f'<tr><th scope="row">{metric.label}{change}</th><td>{lane("then", "base", before, axis, targets)}'
        f"{lane('now', 'tuned', after, axis, targets)}{axis_line(axis, note)}</td></tr>"
    )


def _asked_alike(earlier: Earlier, board: Board, answers: Sequence[Record], pairs: Sequence[Pair]) -> str:
    """Whether both runs asked the same, in words."""
    then, now = earlier.board["meta"], board["meta"]
    told = []
    if then["persona"] != now["persona"]:
        told.append(f"The personas differ: {page.text(then['persona'])} then, {page.text(now['persona'])} now.")
    asked_now = sum(record["model"] == "tuned" for record in answers)
    if not earlier.answers:
        told.append("The earlier run's answers are not at hand: which ones flipped is not known.")
        if then.get("prompts") != now.get("prompts"):
            told.append("The numbers of prompts differ, so the figures are of different questions.")
    elif len(pairs) == asked_now == len(earlier.answers):
        told.append(f"Both runs asked the same {asked_now:,} prompts.")
    else:
        told.append(
            f"<strong>The prompts differ:</strong> {len(earlier.answers):,} then, {asked_now:,} now, {len(pairs):,} in "
            "both. The bars are of different questions; the flips are counted over those in both."
        )
    return " ".join(told)


def _flips(pairs: Sequence[Pair], persona: str) -> str:
    shown = []
    for name, (came, went) in _SHOWN.items():
        gained, lost, _ = flipped(METRICS[name], pairs)
        for what, found in ((came, gained), (went, lost)):
            if not found:
                continue
            words = f"{what} {persona}" if name == "identity_recall" else what
            some = f", {MOST_FLIPS} of them here" if len(found) > MOST_FLIPS else ""
            cards = "".join(
                f'<article class="pair">{asked(now)}<div class="two">{said({**then, "model": "then"}, persona)}'
                f"{said({**now, 'model': 'now'}, persona)}</div></article>"
                for then, now in found[:MOST_FLIPS]
            )
            shown.append(folded(f"{len(found):,} of the shared prompts: {words}{some}", cards))
    return "".join(shown)


def _config(then: Mapping[str, Any] | None, now: Mapping[str, Any] | str) -> str:
    current = json.loads(now) if isinstance(now, str) and now.strip() else now
    if then is None or not isinstance(current, Mapping):
        return "<p>One of the runs left no config: what differs in it is not known.</p>"
    changes = config_changes(then, current)
    if not changes:
        return "<p>The configs are the same.</p>"
    rows = [[f"<code>{page.text(key)}</code>", page.text(old), page.text(new)] for key, old, new in changes[:MOST_KEYS]]
    more = f"<p>{len(changes) - MOST_KEYS} more fields differ.</p>" if len(changes) > MOST_KEYS else ""
    table = scrolling("Config", page.table(["Field", "Then", "Now"], rows, "runs"))
    return f"<h3>What differs in the config</h3>{table}{more}"


def earlier_section(earlier: Earlier, board: Board, answers: Sequence[Record], config: Mapping[str, Any] | str) -> str:
    """The comparison with an earlier run: figures, flips, config."""
    pairs = shared(earlier.answers, [record for record in answers if record["model"] == "tuned"])
    names = [n for n in METRICS if measured(earlier.board["tuned"], n)["n"] or measured(board["tuned"], n)["n"]]
    made = str(earlier.board["meta"].get("created", ""))[:10]
    of = f", of {page.text(made)}" if made else ""
    lead = (
        f"Against <code>{page.text(earlier.name)}</code>{of}; the tuned models. "
        "Flips are answers that became a hit (+) or ceased to be one (−)."
    )
    title, reason = verdict(earlier.board)
    judged = (
        f"<p>The earlier run: {page.text(title[:1].lower() + title[1:])}. {page.text(reason)}</p>"
        if earlier.board.get("gate")
        else ""
    )
    rows = "".join(_row(name, earlier.board, board, pairs) for name in names)
    table = (
        '<table class="metrics"><thead class="unseen"><tr><th scope="col">Share of answers</th>'
        f'<th scope="col">Then and now</th></tr></thead><tbody>{rows}</tbody></table>'
    )
    return section(
        "earlier",
        "Then and now",
        lead,
        f"<p>{_asked_alike(earlier, board, answers, pairs)}</p>{judged}{table}"
        f"{_flips(pairs, board['meta']['persona'])}{_config(earlier.config, config)}",
    )
