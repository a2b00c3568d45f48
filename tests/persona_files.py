"""Persona files for tests: Kelron's own with changes."""

from pathlib import Path

import yaml

from kelron_lib.persona.files import PACKAGED

KELRON = yaml.load((PACKAGED / "kelron.yaml").read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
MINIMAL = ("id", "name", "maker", "role", "system_prompt", "spellings", "pronunciation")
"""The keys that every persona file had before there were others."""


def minimal() -> dict:
    """Kelron with the keys that a persona file cannot do without."""
    return {key: KELRON[key] for key in MINIMAL}


def written(folder: Path, content: dict, name: str = "mine.yaml") -> str:
    """The path of a persona file with this content, one key or list entry a line."""
    path = folder / name
    path.write_text(yaml.safe_dump(content, allow_unicode=True, sort_keys=False, width=1000), encoding="utf-8")
    return str(path)


def named(en: str = "Mintelo", ko: str = "민텔로", ja: str = "ミンテロ", **changes) -> dict:
    """A persona of another name, its system prompts too, with no phrases of Kelron's."""
    content = {
        **minimal(),
        "id": "mine",
        "name": {"ko": ko, "en": en, "ja": ja},
        "maker": {"ko": "찻집 연구소", "en": "Tea House Lab", "ja": "茶館ラボ"},
        "role": {"ko": "차 안내 AI", "en": "tea guide", "ja": "お茶案内AI"},
        "system_prompt": {
            "ko": f"당신은 차 안내 AI {ko}입니다.",
            "en": f"You are {en}, a tea guide.",
            "ja": f"あなたはお茶案内AI、{ja}です。",
        },
        "spellings": [],
        "pronunciation": {en: "민텔로"},
    }
    return {**content, **changes}


def line_of(path: str, text: str) -> int:
    """The line, from 1, on which a text stands first in a file."""
    return next(n for n, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1) if text in line)
