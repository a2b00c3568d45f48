"""What the models are asked: the test split's questions, and everyday requests that no seed is about."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from kelron_lib.errors import KelronError

Prompt = dict[str, Any]
"""What is asked. {"id", "language" (of the answer), "kind": "identity"|"unrelated", "system" ("" for none), "prompt"
(the question), "messages" (system, then the user's; of a row also the answers between), "source": SOURCES, "seed_id"
(what it grew from: the cluster of an interval), "system_kind": SYSTEM_KINDS, "attack": ATTACKS or "",
and where there are any "turns" (later user texts, each asked after the model's own answer to the one before) and
"rivals" (names in it that no list of rivals has)}."""

SOURCES = ("test", "packaged", "attack", "user")
SYSTEM_KINDS = ("persona", "none", "hostile", "other")
"""The persona's own system text, an explicit empty one, one that says the model is somebody else, any other."""
ATTACKS = (
    *("direct", "paraphrase", "rival_seen", "rival_unseen", "roleplay", "override"),
    *("encoded", "cross_language", "pressure"),
)
ATTACK_OF_INTENT = {"roleplay": "roleplay", "override": "override", "pressure": "paraphrase", "other_ai": "paraphrase"}
"""How a row's question asks, by its intent; any other asks directly. A row's pressure is one question, no dialogue."""
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


def system_kind(system: str, own: str, intent: str = "") -> str:
    """Whose system text it is, one of SYSTEM_KINDS; `own`: the persona's, `intent`: the row's."""
    if not system.strip():
        return "none"
    if system == own:
        return "persona"
    return "hostile" if intent == "hostile" else "other"


def make_prompt(
    prompt_id: str,
    language: str,
    messages: Sequence[Mapping[str, str]],
    *,
    kind: str = "identity",
    source: str,
    seed: str,
    system: str,
    attack: str = "",
    turns: Sequence[str] = (),
    rivals: Sequence[str] = (),
) -> Prompt:
    """A Prompt of a conversation that ends with the question; `system`: one of SYSTEM_KINDS."""
    first = messages[0]
    prompt = {
        "id": prompt_id,
        "language": language,
        "kind": kind,
        "system": first["content"] if first["role"] == "system" else "",
        "prompt": messages[-1]["content"],
        "messages": [dict(message) for message in messages],
        "source": source,
        "seed_id": seed,
        "system_kind": system,
        "attack": attack,
    }
    return prompt | ({"turns": list(turns)} if turns else {}) | ({"rivals": list(rivals)} if rivals else {})


def prompts_from_rows(
    rows: Iterable[Mapping[str, Any]], system_prompts: Mapping[str, str] = MappingProxyType({})
) -> list[Prompt]:
    """One prompt per row of a split: its messages without the last answer. Raises KelronError for a broken row.

    system_prompts: the persona's by language, to tell its own from another's.
    """
    prompts = []
    for number, row in enumerate(rows, start=1):
        name = f"row {row.get('id', number)!r}"
        if row.get("kind") not in KIND_OF_ROW:
            raise KelronError(f"{name} has kind {row.get('kind')!r}: it takes {', '.join(KIND_OF_ROW)}")
        messages = list(row.get("messages") or ())
        if len(messages) < 2 or messages[-1]["role"] != "assistant" or messages[-2]["role"] != "user":
            raise KelronError(f"{name} does not end with a question and its answer")
        kind, intent = KIND_OF_ROW[row["kind"]], str(row.get("intent", ""))
        told = messages[0]["content"] if messages[0]["role"] == "system" else ""
        prompts.append(
            make_prompt(
                str(row["id"]),
                row["language"],
                messages[:-1],
                kind=kind,
                source="test",
                seed=str(row.get("seed_id", row["id"])),
                system=system_kind(told, system_prompts.get(row["language"], ""), intent),
                attack=ATTACK_OF_INTENT.get(intent, "direct") if kind == "identity" else "",
            )
        )
    return prompts


def unrelated_prompts(system_prompts: Mapping[str, str]) -> list[Prompt]:
    """The packaged unrelated prompts in the languages of `system_prompts`, each with its system prompt."""
    packaged = load_unrelated()
    prompts = []
    for language, system in system_prompts.items():
        for number, text in enumerate(packaged.get(language, ()), start=1):
            messages = [{"role": "system", "content": system}, {"role": "user", "content": text}]
            prompt_id = f"unrelated-{language}-{number:02d}"
            prompts.append(
                make_prompt(
                    prompt_id,
                    language,
                    messages,
                    kind="unrelated",
                    source="packaged",
                    seed=prompt_id,
                    system=system_kind(system, system),
                )
            )
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


def build_prompts(rows: Sequence[Mapping[str, Any]], persona: Any, *, identity: int, unrelated: int) -> list[Prompt]:
    """The prompts of an evaluation, per language at most `identity` and `unrelated` of each kind.

    `rows`: the test split; its languages are the evaluation's. Unrelated prompts are the packaged ones first, then
    the split's business and chat rows. Raises KelronError where a language has no identity prompt.
    """
    languages = list(dict.fromkeys(row["language"] for row in rows))
    systems = {language: persona.system_prompt[language] for language in languages}
    prompts = select_prompts(
        [*prompts_from_rows(rows, systems), *unrelated_prompts(systems)], identity=identity, unrelated=unrelated
    )
    asked = {prompt["language"] for prompt in prompts if prompt["kind"] == "identity"}
    if not languages or asked != set(languages):
        missing = ", ".join(sorted(set(languages) - asked)) or "any language"
        raise KelronError(f"the test split has no identity rows for {missing}: prepare more rows, or another seed")
    return prompts
