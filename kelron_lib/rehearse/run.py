"""Ask the base, keep what is good, write the rows."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kelron_lib.answers import Asking, ask
from kelron_lib.config import RunConfig
from kelron_lib.data import expand
from kelron_lib.data.draw import draw
from kelron_lib.data.own import BASE_GENERATOR
from kelron_lib.errors import KelronError
from kelron_lib.files import cannot_write, write_whole
from kelron_lib.generate import Answer
from kelron_lib.model import portable_base
from kelron_lib.persona import Persona, Seed, load_persona, load_seeds
from kelron_lib.rehearse.asked import PARAPHRASE, Asked, asked_of_base
from kelron_lib.rehearse.kept import candidates, good_rows, not_held_out
from kelron_lib.runtime import exclusive

MOST_ASKED = 3_000
"""Prompts to the base by default."""


def _row(item: Asked, text: str, number: int, persona: Persona, base: str, rng: random.Random) -> dict[str, Any]:
    """A row of a candidate: the paraphrase with an answer of its seed, or the question with the base's answer."""
    question, answer = item.question, text
    if item.use == PARAPHRASE:
        assert item.seed is not None
        question, answer = text, draw(item.seed, persona, rng, framed=False).pairs[0][1]
    kind = item.seed.kind if item.seed else "chat"
    return {
        "id": f"base/{item.language}/{item.group}/{number:05d}",
        "seed_id": item.seed.id if item.seed else f"{item.language}/{item.group}",
        "group": item.group,
        "kind": kind,
        "intent": item.seed.intent if item.seed else item.group,
        "language": item.language,
        "register": item.register,
        "template": item.use,
        "generator": f"{BASE_GENERATOR}{base}",
        "messages": [
            {"role": "system", "content": persona.system_prompt[item.language]},
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ],
    }


def _held_out_questions(config: RunConfig, persona: Persona, seeds: Sequence[Seed]) -> list[str]:
    """Every question of the validation and test splits that the config's dataset has."""
    rows = expand(config.data, persona, seeds).rows
    return [
        message["content"]
        for split, part in rows.items()
        if split != "train"
        for row in part
        for message in row["messages"]
        if message["role"] == "user"
    ]


def rows_from(
    config: RunConfig, persona: Persona, seeds: Sequence[Seed], asked: Sequence[Asked], answers: Sequence[Answer]
) -> tuple[list[Mapping[str, Any]], dict[str, int]]:
    """The rows that are good, and how many candidates were dropped for which reason."""
    dropped: Counter[str] = Counter()
    found = candidates(asked, answers, dropped)
    rng = random.Random(f"{config.data.seed}:rehearsal:answers")
    base = portable_base(config)
    made = [_row(item, text, number, persona, base, rng) for number, (item, text) in enumerate(found, start=1)]
    free = not_held_out(
        [row["messages"][1]["content"] for row in made], _held_out_questions(config, persona, seeds), dropped
    )
    rows = good_rows((row for row, good in zip(made, free, strict=True) if good), persona, dropped)
    return rows, dict(sorted(dropped.items()))


def rehearse(
    config: RunConfig, out: Path, *, most: int = MOST_ASKED, say: Callable[[str], None] = print
) -> dict[str, Any]:
    """Ask the config's base and write what is good of its words to `out`/own_words.jsonl; the report, also beside it.

    most: prompts at most. Goes on where an earlier call was cut. Raises KelronError for a broken persona or seed, a
    base that cannot be loaded, and where nothing that the base said is good enough to keep.
    """
    if most < 1:
        raise KelronError(f"--most is {most}: ask at least one question")
    persona = load_persona(config.data.persona)
    seeds = load_seeds(persona, config.data.languages, config.data.seeds)
    asked = asked_of_base(seeds, persona, config.data, most)
    with exclusive(out):
        asking = Asking(
            config=config,
            prompts=tuple(item.prompt() for item in asked),
            max_new_tokens=config.evaluate.max_new_tokens,
            batch_size=config.evaluate.batch_size,
        )
        answers = ask(asking, out / "answers", processes=config.session.processes, say=say)["base"]
        rows, dropped = rows_from(config, persona, seeds, asked, answers)
        report = {"asked": len(asked), "rows": len(rows), "uses": _uses(rows), "dropped": dropped}
        if not rows:
            raise KelronError(
                f"nothing that {config.model.base} said can be kept ({_reasons(dropped)}): ask a larger base"
            )
        try:
            lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            write_whole(out / "own_words.jsonl", lines.encode("utf-8"))
            write_whole(out / "own_words.json", (json.dumps(report, indent=2, ensure_ascii=False) + "\n").encode())
        except OSError as error:
            raise cannot_write(f"write the rows to {out}", error) from None
    return report


def _uses(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    return dict(sorted(Counter(f"{row['language']} {row['template']}" for row in rows).items()))


def _reasons(dropped: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in dropped.items())


def summary(report: Mapping[str, Any]) -> str:
    """The report in a few lines."""
    uses = ", ".join(f"{use} {count}" for use, count in report["uses"].items())
    return (
        f"{report['rows']} rows from {report['asked']} questions to the base ({uses})\n"
        f"dropped: {_reasons(report['dropped']) or 'nothing'}"
    )
