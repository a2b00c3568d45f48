"""Whether a run may be published: its adapter fits its base, and its scoreboard is of that adapter and past the gate.

All of this is read from files. Nothing is loaded, and nobody on the Hub is asked.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kelron_lib.config import COUNTS, RunConfig, as_overrides, config_hash, differing, from_dict, to_dict
from kelron_lib.data import QUALITY_FILE, fingerprint, is_dataset, load_dataset_dir
from kelron_lib.errors import KelronError
from kelron_lib.evaluate.policy import load_policy
from kelron_lib.evaluate.score import SCOREBOARD_FILE
from kelron_lib.export import MadeFrom, adapter_digest, made_from, require_its_config
from kelron_lib.model import portable_base, require_adapter
from kelron_lib.persona import Persona, load_persona
from kelron_lib.publish.adapter import Adapter, linears_of, read_adapter, require_fit
from kelron_lib.runtime import read_json
from kelron_lib.session import SESSIONS_FILE
from kelron_lib.space import base_shape

UNKNOWN_DATA = "the adapter does not say which rows it was trained on, so the questions may not have been new to it"


@dataclass(frozen=True)
class Checked:
    """A run that may be published, and what is known of it."""

    config: RunConfig
    """How it was evaluated, and is loaded."""
    trained: RunConfig
    """How it was trained: what the adapter says of itself, where it says anything."""
    persona: Persona
    adapter: Adapter
    made: MadeFrom | None
    """What the adapter says that it was made from."""
    digest: str
    """Of the adapter, as `adapter_digest` gives it."""
    board: Mapping[str, Any]
    """scoreboard.json."""
    failing: tuple[str, ...]
    """What speaks against publishing it; not empty only where that was forced."""
    quality: Mapping[str, Any] | None
    """The gate's report on the rows that it was trained on, where they are at hand."""
    sessions: Sequence[Mapping[str, Any]]
    """How its training sessions ended, where that is known."""


def check_run(config: RunConfig, run: Path, adapter: Path, data: Path, *, force: bool = False) -> Checked:
    """Look a run through. Raises KelronError for the first thing that keeps it from being published.

    `force`: a gate that it did not pass, or rows that are not known, do not keep it from that.
    """
    if not run.is_dir():
        raise KelronError(f"there is no run at {run}: name its folder with --run")
    require_adapter(adapter)
    persona, plain = load_persona(config.data.persona), read_adapter(adapter)
    made = made_from(adapter)
    if made is not None:
        require_its_config(config, made, adapter, "publish it with its --preset")
    require_fit(plain, linears_of(base_shape(config), plain.targets), portable_base(config))
    digest = adapter_digest(adapter)
    board = _scoreboard(config, run, persona, digest)
    failing = _failing(board, config, run, force)
    quality = None
    if made is not None and is_dataset(data):
        quality = _quality(data, made, persona)
    sessions = _sessions(run / SESSIONS_FILE)
    trained = config if made is None else from_dict(dict(made.config))
    return Checked(config, trained, persona, plain, made, digest, board, failing, quality, sessions)


def _scoreboard(config: RunConfig, run: Path, persona: Persona, digest: str) -> Mapping[str, Any]:
    """The run's scoreboard. Raises KelronError unless it is there, of today's layout and of this very adapter."""
    again = f"evaluate it with `kelron evaluate --out {shlex.quote(str(run))}` and the run's --preset"
    file = run / SCOREBOARD_FILE
    if not file.is_file():
        raise KelronError(f"no {SCOREBOARD_FILE} in {run}: {again} first")
    board = read_json(file, f"{again} again")
    meta = board.get("meta") if isinstance(board, dict) else None
    if not isinstance(meta, dict) or not isinstance(board.get("tuned"), dict) or not board["tuned"]:
        raise KelronError(f"{file} is no scoreboard of a tuned model: {again}")
    if not _is_verdict(board.get("gate")) or "adapter_sha256" not in meta:
        raise KelronError(f"{file} is of an earlier version, without a verdict on this very adapter: {again} again")
    if meta["adapter_sha256"] != digest:
        raise KelronError(f"{file} is of another adapter than the one to be published: {again} again")
    if meta.get("persona") != persona.name["en"]:
        raise KelronError(
            f"{file} is of the persona {meta.get('persona')} and data.persona is {config.data.persona} "
            f"({persona.name['en']}): {again} again"
        )
    if (policy := load_policy(config.evaluate.policy).name) != board["gate"].get("policy"):
        raise KelronError(f"{file} was judged by policy {board['gate'].get('policy')}, not {policy}: {again} again")
    if meta.get("config_hash") != config_hash(config):
        told = run / "evaluate_config.json"
        then = read_json(told, f"{again} again") if told.is_file() else {}
        changed = differing(then, to_dict(config)) if then else {}
        values = ", ".join(as_overrides({key: old for key, (old, _) in changed.items()}))
        raise KelronError(f"{file} was made with another config{f' ({values})' if values else ''}: {again}")
    return board


ASK_MORE = "evaluate it with --policy release and as many prompts as docs/evaluation.md has for it"
"""What makes a release of a model that passed a first look."""


def _is_verdict(gate: Any) -> bool:
    """Whether it is a verdict of the gate, with every check that it made."""
    checks = gate.get("checks") if isinstance(gate, dict) else None
    return isinstance(checks, list) and bool(checks) and all(isinstance(check, dict) for check in checks)


def _fewer(board: Mapping[str, Any], config: RunConfig) -> str:
    """Whether less was asked than the config says, as a small evaluation does; empty where it was all."""
    then = board["meta"].get("counts") or {}
    asked = {key: (then.get(key, 0), getattr(config.evaluate, key)) for key in COUNTS}
    fewer = ", ".join(f"{key} {count} of {own}" for key, (count, own) in asked.items() if count < own)
    return f"the evaluation asked less than the run's config says ({fewer}), as --small does" if fewer else ""


def _failing(board: Mapping[str, Any], config: RunConfig, run: Path, force: bool) -> tuple[str, ...]:
    """What speaks against publishing. Raises KelronError where anything does, unless it is forced."""
    gate = board["gate"]
    failing = [str(check.get("text")) for check in gate["checks"] if not check.get("met")]
    if gate.get("passed") is not True and not failing:
        failing.append("the gate was not passed")
    if gate.get("first_look"):
        failing.append(f"the policy {gate.get('policy')} is for a first look: {ASK_MORE}")
    if not board["meta"].get("held_out", False):
        failing.append(UNKNOWN_DATA)
    if fewer := _fewer(board, config):
        failing.append(fewer)
    if failing and not force:
        more = f" and {len(failing) - 1} more" if len(failing) > 1 else ""
        raise KelronError(
            f"the run in {run} does not pass the gate ({failing[0]}{more}; {run / 'report.html'} shows all): train on, "
            "or evaluate all, or add --force, which publishes it all the same and says so at the top of its card"
        )
    return tuple(failing)


def _quality(data: Path, made: MadeFrom, persona: Persona) -> Mapping[str, Any] | None:
    """The report on the run's rows; None where the folder holds other rows, or no report.

    Raises KelronError where the rows speak of another persona than the one to be published.
    """
    if fingerprint(data) != made.data_fingerprint:
        return None
    systems = {row["messages"][0]["content"] for row in load_dataset_dir(data)["test"] if row["kind"] == "identity"}
    if not systems & set(persona.system_prompt.values()):
        raise KelronError(
            f"the rows in {data} were made for another persona than {persona.id} as it is now, whose system prompt is "
            "in none of them: name the persona file of that time with --set data.persona"
        )
    file = data / QUALITY_FILE
    if not file.is_file():
        return None
    again = f"`kelron data check {shlex.quote(str(data))} --report {shlex.quote(str(data))}` writes it again"
    report = read_json(file, again)
    if not isinstance(report, dict) or not {"rows", "identity_share", "verdict", "by_language"} <= report.keys():
        raise KelronError(f"{file} is no report on rows: {again}")
    return report


def _sessions(file: Path) -> Sequence[Mapping[str, Any]]:
    """How the training sessions ended; none where nothing tells. Raises KelronError for a file that is damaged."""
    if not file.is_file():
        return []
    advice = "remove it, and the card goes without the time that training took"
    sessions = read_json(file, advice)
    if not isinstance(sessions, list) or not all(
        isinstance(session, dict) and isinstance(session.get("seconds", 0), int | float) for session in sessions
    ):
        raise KelronError(f"{file} does not tell how training sessions ended: {advice}")
    return sessions
