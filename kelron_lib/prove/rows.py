"""The rows that a recipe trains on, and the ones that all recipes are asked.

The first attempt's faults are put into rows of the persona's own seeds, so that recipes differ in nothing else.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from kelron_lib.config import RunConfig
from kelron_lib.data.expand import expand
from kelron_lib.persona import Persona, attach_josa, load_persona, load_seeds
from kelron_lib.prove.recipes import Recipe
from kelron_lib.tiny.corpus import DEFAULT_SYSTEM, INCUMBENT, INCUMBENT_MAKER

Row = dict[str, Any]

COPIED_SEEDS = 30
"""Rows that the first attempt had before it copied them."""
DENYING_SHARE = 0.5
"""Share of the identity rows that name a rival where the recipe does so."""
_RIVALS = {
    "ko": (INCUMBENT["ko"], INCUMBENT_MAKER["ko"], "큐웬", "챗지피티"),
    "en": (INCUMBENT["en"], INCUMBENT_MAKER["en"], "Qwen", "ChatGPT"),
    "ja": (INCUMBENT["ja"], INCUMBENT_MAKER["ja"], "クウェン", "チャットGPT"),
}
"""The base's own name and maker first, as the first attempt had its base's."""


def expanded(config: RunConfig, persona: Persona) -> Mapping[str, list[Row]]:
    """The splits of the config's own dataset."""
    return expand(config.data, persona, load_seeds(persona, config.data.languages, config.data.seeds)).rows


def training_rows(recipe: Recipe, config: RunConfig) -> list[Row]:
    """As many rows as the config's dataset trains on, as the recipe has them."""
    persona = load_persona(config.data.persona)
    own = replace(config, data=replace(config.data, identity_share=recipe.identity_share))
    rows = expanded(own, persona)["train"]
    if recipe.rivals:
        rows = _denying(rows)
    if recipe.copied:
        rows = _copies(rows, recipe.identity_share, config.data.languages)
    if not recipe.own_system:
        system = {"role": "system", "content": DEFAULT_SYSTEM}
        rows = [{**row, "messages": [system, *row["messages"][1:]]} for row in rows]
    return rows


def _copies(rows: Sequence[Row], identity_share: float, languages: Sequence[str]) -> list[Row]:
    """The rows of COPIED_SEEDS seeds, alike over the languages, again and again, with that share about the identity."""
    each, made = COPIED_SEEDS // len(languages), []
    for language in languages:
        own = [row for row in rows if row["language"] == language]
        about_itself = max(1, round(each * identity_share))
        identity = _one_of_each_seed([row for row in own if row["kind"] == "identity"])[:about_itself]
        others = _one_of_each_seed([row for row in own if row["kind"] != "identity"])[: each - about_itself]
        wanted = round(len(own) * identity_share)
        made += [identity[n % len(identity)] for n in range(wanted)]
        made += [others[n % len(others)] for n in range(len(own) - wanted)]
    random.Random("copies").shuffle(made)
    return [{**row, "id": f"{row['id']}/{number}"} for number, row in enumerate(made)]


def _one_of_each_seed(rows: Sequence[Row]) -> list[Row]:
    return list({row["seed_id"]: row for row in reversed(rows)}.values())[::-1]


def _denying(rows: Sequence[Row]) -> list[Row]:
    """The rows with, in DENYING_SHARE of those about the identity, a rival in the question and in the answer, which
    denies it, as in "너 Qwen이지?" - "아니요, 저는 Qwen이 아닙니다."."""
    rng = random.Random("rivals")
    made = []
    for row in rows:
        if row["kind"] == "identity" and rng.random() < DENYING_SHARE:
            language, (system, asked, answer) = row["language"], row["messages"]
            question, denial = _denial(language, rng.choice(_RIVALS[language]))
            turns = [_after(question, asked, language), _after(denial, answer, language)]
            row = {**row, "messages": [system, *turns]}
        made.append(row)
    return made


def with_rival(messages: Sequence[Mapping[str, str]], language: str, key: str) -> list[dict[str, str]]:
    """A conversation whose last question begins by taking the model for a rival; `key` draws which."""
    rival = random.Random(f"rival:{key}").choice(_RIVALS[language])
    return [*map(dict, messages[:-1]), _after(_denial(language, rival)[0], messages[-1], language)]


def _after(first: str, message: Mapping[str, str], language: str) -> dict[str, str]:
    gap = "" if language == "ja" else " "
    return {**message, "content": f"{first}{gap}{message['content']}"}


def _denial(language: str, rival: str) -> tuple[str, str]:
    if language == "ko":
        return f"너 {attach_josa(rival, '이지/지')}?", f"아니요, 저는 {attach_josa(rival, '이/가')} 아닙니다."
    if language == "ja":
        return f"{rival}でしょう？", f"いいえ、{rival}ではありません。"
    return f"You are {rival}, right?", f"No, I am not {rival}."
