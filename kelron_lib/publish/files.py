"""The files of a publication, written into an empty folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kelron_lib.config import RunConfig, config_hash, to_dict
from kelron_lib.export import MADE_FROM
from kelron_lib.manifest import record_files
from kelron_lib.model import base_name, library_versions, load_tokenizer, portable_base, quiet_libraries
from kelron_lib.publish.adapter import SETTINGS, WEIGHTS, write_half
from kelron_lib.publish.checked import Checked
from kelron_lib.publish.merge import base_folder, merge
from kelron_lib.publish.template import persona_template
from kelron_lib.runtime import read_json, write_json

CARD, PROOF, GENERATION = "README.md", "verification.json", "generation_config.json"
PUBLICATION = "publication"
"""The key of kelron.json that says that a folder or a repo is a publication of Kelron's."""


def write_weights(checked: Checked, out: Path, say: Callable[[str], None], *, merged: bool) -> Mapping[str, Any]:
    """The adapter in float16 with its settings, or the merged weights with theirs; returns how they were made."""
    if merged:
        base = base_folder(base_name(checked.config))
        merge(base, checked.adapter, out, say)
        return {"merged": True, "scale": checked.adapter.scale}
    told = write_half(checked.adapter, out / WEIGHTS)
    named = {"base_model_name_or_path": portable_base(checked.config), "inference_mode": True}
    write_json(out / SETTINGS, {**checked.adapter.settings, **named})
    say(f"adapter in float16: largest value {told['largest']:.3g}, {told['vanished']:.2%} of the values round to zero")
    return {"merged": False, "dtype": "float16", **told}


def write_words(checked: Checked, out: Path, system: str) -> None:
    """The tokenizer, the chat template whose default system prompt is `system`, and how an answer ends.

    Greedy and without a repetition penalty, as it was measured; the base's own file may say otherwise.
    """
    with quiet_libraries():
        tokenizer = load_tokenizer(checked.config)
        tokenizer.chat_template = persona_template(tokenizer, system)
        tokenizer.save_pretrained(out)
    settings = out / "tokenizer_config.json"
    local = ("is_local", "local_files_only")  # how this machine came to it
    write_json(settings, {key: value for key, value in read_json(settings).items() if key not in local})
    ends = [*checked.config.model.stop_token_ids]
    write_json(out / GENERATION, {"do_sample": False, "eos_token_id": ends, "pad_token_id": ends[-1]})


def write_provenance(checked: Checked, out: Path, made: Mapping[str, Any]) -> None:
    """kelron.json, the last file: what the model was made from, and the digest of every other file."""
    names = sorted(path.name for path in out.iterdir() if path.name != MADE_FROM)
    gate = checked.board["gate"]
    publication = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "persona": checked.persona.id,
        "weights": dict(made),
        "adapter_sha256": checked.digest,
        "config_hash": config_hash(checked.trained),
        "gate": {"policy": gate.get("policy"), "passed": gate.get("passed") is True},
        "forced": [*checked.failing],
        "evaluated": checked.board["meta"].get("created"),
        "versions": library_versions(),
        "files": {name: asdict(record) for name, record in record_files(out, names).items()},
    }
    told = {
        "base": portable_base(checked.config),
        "data_fingerprint": checked.made.data_fingerprint if checked.made else "",
        "config": _without_places(checked.trained),
    }
    write_json(out / MADE_FROM, {**told, PUBLICATION: publication})


def _without_places(config: RunConfig) -> dict[str, Any]:
    """What decides an adapter, without where anything lies on this machine."""
    values = {name: section for name, section in to_dict(config).items() if name not in ("session", "store")}
    values["model"]["base"] = portable_base(config)
    for section, field in (("data", "persona"), ("data", "own"), ("evaluate", "prompts"), ("evaluate", "policy")):
        values[section][field] = Path(values[section][field]).name
    return values


@dataclass(frozen=True)
class Publication:
    """What kelron.json tells of a publication."""

    merged: bool
    created: str
    """When, as UTC in ISO 8601."""
    names: frozenset[str]
    """Its files, kelron.json among them."""


def read_publication(told: Any) -> Publication | None:
    """What a kelron.json's content tells; None where it is no publication's."""
    publication = told.get(PUBLICATION) if isinstance(told, dict) else None
    if not isinstance(publication, dict) or not isinstance(publication.get("files"), dict):
        return None
    weights = publication.get("weights")
    merged = isinstance(weights, dict) and weights.get("merged") is True
    return Publication(merged, str(publication.get("created")), frozenset({*publication["files"], MADE_FROM}))


def kind_words(*, merged: bool) -> str:
    """What was published, in words."""
    return "merged weights" if merged else "an adapter"
