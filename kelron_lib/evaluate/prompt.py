"""One prompt of an evaluation: what its keys mean, and how one is made."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

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


def digest(prompt: Prompt) -> str:
    """What tells one conversation from another: its messages and its turns."""
    told = [prompt["messages"], prompt["turns"]] if prompt.get("turns") else prompt["messages"]
    return hashlib.sha256(json.dumps(told, ensure_ascii=True).encode()).hexdigest()
