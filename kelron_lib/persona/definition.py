"""The persona: who the model is to be, in every language."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kelron_lib.config import nearest
from kelron_lib.errors import KelronError
from kelron_lib.persona.files import PACKAGED, check_keys, read_yaml, text_list
from kelron_lib.persona.josa import attach_josa
from kelron_lib.settings import LANGUAGES

_BY_LANGUAGE = ("name", "maker", "role", "system_prompt")
_OTHER_FILES = {"lexicon", "rivals"}


@dataclass(frozen=True)
class Persona:
    id: str
    """Short id: the packaged file's name."""
    name: Mapping[str, str]
    """The name to answer with, by language."""
    maker: Mapping[str, str]
    """Who made it, by language."""
    role: Mapping[str, str]
    """What it is, by language: a noun phrase without article."""
    system_prompt: Mapping[str, str]
    """The system message of every row and every conversation, by language."""
    spellings: tuple[str, ...]
    """Every way to write the name, in any script: what counts as asserting it."""
    pronunciation: Mapping[str, str]
    """Hangul readings of names in Latin letters; they decide the Korean particle."""
    seeds: Path
    """Folder of ko.yaml, en.yaml, ja.yaml."""
    tone: Mapping[str, str] = field(default_factory=dict)
    abilities: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    limits: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    values: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    facts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    speech: Mapping[str, str] = field(default_factory=lambda: dict.fromkeys(LANGUAGES, "polite"))
    never: tuple[str, ...] = ()
    phrases: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)


def _by_language(value: Any, field: str, path: Path) -> dict[str, str]:
    check_keys(value, LANGUAGES, (), f"{path}: {field}")
    for language, text in value.items():
        if not isinstance(text, str) or not text.strip():
            raise KelronError(f"{path}: {field} is empty for {language}: write it")
    return {language: value[language].strip() for language in LANGUAGES}


def _persona_file(name_or_path: str) -> Path:
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        return path
    known = {file.stem for file in PACKAGED.glob("*.yaml")} - _OTHER_FILES
    if name_or_path not in known:
        raise KelronError(
            f"unknown persona {name_or_path!r}: use a packaged one or a .yaml path.{nearest(name_or_path, known)}"
        )
    return PACKAGED / f"{name_or_path}.yaml"


def load_persona(name_or_path: str) -> Persona:
    """A packaged persona by name, or one from a YAML file.

    Raises KelronError for an unknown name (nearest match), broken YAML (file and line), an unknown or missing
    field, a missing language, an empty text, and a Latin name without Korean reading.
    """
    path = _persona_file(name_or_path)
    data = read_yaml(path)
    check_keys(data, ("id", *_BY_LANGUAGE), ("spellings", "pronunciation", "seeds"), str(path))
    if not isinstance(data["id"], str) or not data["id"].strip():
        raise KelronError(f"{path}: id is empty: give the persona a short id")
    texts = {field: _by_language(data[field], field, path) for field in _BY_LANGUAGE}
    extra = text_list(data["spellings"], f"{path}: spellings") if data.get("spellings") else ()
    pronunciation = data.get("pronunciation") or {}
    if not isinstance(pronunciation, dict) or not all(
        isinstance(item, str) and item for pair in pronunciation.items() for item in pair
    ):
        raise KelronError(f"{path}: pronunciation must map spellings to Hangul readings")
    for field in ("name", "maker", "role"):  # fail here, not in the middle of an expansion
        attach_josa(texts[field]["ko"], "은/는", pronunciation)
    for language in LANGUAGES:
        if texts["name"][language] not in texts["system_prompt"][language]:
            raise KelronError(f"{path}: system_prompt for {language} does not say {texts['name'][language]!r}")
    return Persona(
        id=data["id"].strip(),
        spellings=tuple(dict.fromkeys([*texts["name"].values(), *extra])),
        pronunciation=dict(pronunciation),
        seeds=path.parent / data["seeds"] if data.get("seeds") else PACKAGED / "seeds",
        **texts,
    )
