"""What the models are asked: the test split's questions, and everyday requests that no seed is about."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from kelron_lib.errors import KelronError

Prompt = dict[str, Any]
"""{"id", "language", "kind": "identity"|"unrelated", "system", "prompt", "messages", "source", "seed_id"}."""

KIND_OF_ROW = {"identity": "identity", "business": "unrelated", "chat": "unrelated"}
UNRELATED_FILE = Path(__file__).with_name("unrelated.yaml")


@cache
def load_unrelated(path: Path = UNRELATED_FILE) -> Mapping[str, tuple[str, ...]]:
    """The packaged unrelated prompts by language. Raises KelronError for a broken file."""
    import yaml

    try:
        lists = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise KelronError(f"{path}: the unrelated prompts cannot be read ({error})") from None
    if not isinstance(lists, dict):
        raise KelronError(f"{path}: the unrelated prompts must be lists by language")
    for language, texts in lists.items():
        if not isinstance(texts, list) or not all(isinstance(text, str) and text.strip() for text in texts):
            raise KelronError(f"{path}: {language} must be a list of texts")
    return {language: tuple(texts) for language, texts in lists.items()}


def _prompt(prompt_id: str, language: str, kind: str, messages: list[dict[str, str]], source: str, seed: str) -> Prompt:
    system = messages[0]["content"] if messages[0]["role"] == "system" else ""
    return {
        "id": prompt_id,
        "language": language,
        "kind": kind,
        "system": system,
        "prompt": messages[-1]["content"],
        "messages": messages,
        "source": source,
        "seed_id": seed,
    }


def prompts_from_rows(rows: Iterable[Mapping[str, Any]]) -> list[Prompt]:
    """One prompt per row of a split: its messages without the last answer. Raises KelronError for a broken row."""
    prompts = []
    for number, row in enumerate(rows, start=1):
        name = f"row {row.get('id', number)!r}"
        if row.get("kind") not in KIND_OF_ROW:
            raise KelronError(f"{name} has kind {row.get('kind')!r}: it takes {', '.join(KIND_OF_ROW)}")
        messages = list(row.get("messages") or ())
        if len(messages) < 2 or messages[-1]["role"] != "assistant" or messages[-2]["role"] != "user":
            raise KelronError(f"{name} does not end with a question and its answer")
        kind, seed = KIND_OF_ROW[row["kind"]], row.get("seed_id", row["id"])
        prompts.append(_prompt(str(row["id"]), row["language"], kind, messages[:-1], "test", str(seed)))
    return prompts


def unrelated_prompts(system_prompts: Mapping[str, str]) -> list[Prompt]:
    """The packaged unrelated prompts in the languages of `system_prompts`, each with its system prompt."""
    packaged = load_unrelated()
    prompts = []
    for language, system in system_prompts.items():
        for number, text in enumerate(packaged.get(language, ()), start=1):
            messages = [{"role": "system", "content": system}, {"role": "user", "content": text}]
            prompt_id = f"unrelated-{language}-{number:02d}"
            prompts.append(_prompt(prompt_id, language, "unrelated", messages, "packaged", prompt_id))
    return prompts


def _digest(prompt: Prompt) -> str:
    return hashlib.sha256(json.dumps(prompt["messages"], ensure_ascii=True).encode()).hexdigest()


def _spread(prompts: Sequence[Prompt], limit: int) -> list[Prompt]:
    """At most `limit` prompts, one of every seed before a second of any; the same ones every time."""
    by_seed: defaultdict[str, list[Prompt]] = defaultdict(list)
    for prompt in sorted(prompts, key=_digest):
        by_seed[prompt["seed_id"]].append(prompt)
    rounds = max((len(group) for group in by_seed.values()), default=0)
    turns = (group[turn] for turn in range(rounds) for group in by_seed.values() if turn < len(group))
    chosen = {prompt["id"] for prompt, _ in zip(turns, range(limit), strict=False)}
    return [prompt for prompt in prompts if prompt["id"] in chosen]


def select_prompts(prompts: Sequence[Prompt], *, identity: int, unrelated: int) -> list[Prompt]:
    """At most `identity` and `unrelated` prompts per language, spread over the seeds, in the given order.

    Of equal conversations one is kept: asked twice, a greedy model says the same, and n would be a lie. All
    packaged prompts come before the test split's, which are many.
    """
    distinct = {_digest(prompt): prompt for prompt in reversed(prompts)}
    groups: defaultdict[tuple[str, str], list[Prompt]] = defaultdict(list)
    for prompt in prompts:
        if distinct[_digest(prompt)] is prompt:
            groups[prompt["language"], prompt["kind"]].append(prompt)
    chosen: set[str] = set()
    for (_, kind), group in groups.items():
        limit = identity if kind == "identity" else unrelated
        packaged = [prompt for prompt in group if prompt["source"] == "packaged"][:limit]
        others = [prompt for prompt in group if prompt["source"] != "packaged"]
        chosen |= {prompt["id"] for prompt in (*packaged, *_spread(others, limit - len(packaged)))}
    return [prompt for group in groups.values() for prompt in group if prompt["id"] in chosen]


def user_text(prompt: Mapping[str, Any]) -> str:
    """Everything the user wrote in a prompt, all turns: letters in it may be quoted by the answer."""
    return "\n".join(message["content"] for message in prompt["messages"] if message["role"] == "user")
