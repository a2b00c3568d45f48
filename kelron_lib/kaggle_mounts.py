"""What is attached to a Kaggle session, found by what it holds: the places where Kaggle mounts things have moved.

Now a kernel's output lies at `input/notebooks/OWNER/SLUG`, a model at `input/models/OWNER/MODEL/FRAMEWORK/VARIATION/
VERSION`; older sessions have `input/SLUG` and `input/MODEL/FRAMEWORK/VARIATION/VERSION`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from kelron_lib.runtime import kaggle_root

MODEL_DEPTHS = ("models/*/*/*/*/*", "*/*/*/*")


def inputs() -> Path:
    """Where a session mounts what is attached to it."""
    return kaggle_root() / "input"


def output_of(owner: str, slug: str, mounts: Path | None = None) -> Path | None:
    """The mounted output of a kernel, as it is mounted now or as it was; None where it is not attached."""
    top = mounts or inputs()
    for folder in (top / "notebooks" / owner / slug, top / slug):
        if folder.is_dir():
            return folder
    return None


def folders_with(name: str) -> list[Path]:
    """The folders, anywhere among what is attached, that hold a file of this name."""
    return sorted(path.parent for path in inputs().glob(f"**/{name}") if path.is_file())


def mounted_model(hub_id: str) -> Path | None:
    """The attached model that is the Hub's OWNER/NAME, None where there is none; Qwen/Qwen2.5-14B-Instruct is the
    variation `14b-instruct` of the model `qwen2.5` on Kaggle Models."""
    wanted = hub_id.partition("/")[2].lower()
    for folder in _models():
        model, _, variation, _ = folder.parts[-4:]
        if wanted and f"{model}-{variation}".lower() == wanted:
            return folder
    return None


def _models() -> Iterator[Path]:
    for depth in MODEL_DEPTHS:
        for config in sorted(inputs().glob(f"{depth}/config.json")):
            yield config.parent
