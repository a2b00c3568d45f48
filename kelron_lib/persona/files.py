"""YAML from the package or from a user, with errors that name the file and the line."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from kelron_lib.config import nearest
from kelron_lib.errors import KelronError

PACKAGED = Path(__file__).parent
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def packaged_file(what: str, name_or_path: str, names: Iterable[str], folder: Path) -> Path:
    """The file of a packaged one of `names` in `folder`, or the path itself. Raises KelronError for an unknown name
    (nearest match); `what` it is, in a word."""
    path, names = Path(name_or_path), tuple(names)
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        return path
    if name_or_path not in names:
        raise KelronError(
            f"unknown {what} {name_or_path!r}: use a packaged one or a .yaml path.{nearest(name_or_path, names)}"
        )
    return folder / f"{name_or_path}.yaml"


def read_yaml(path: Path) -> Any:
    """The content of a YAML file. Raises KelronError where it is missing, cannot be read or is broken."""
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_LOADER)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise KelronError(f"no file at {path}") from None
    except OSError as error:
        raise KelronError(f"cannot read {path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise KelronError(f"{path}: not UTF-8; save it as UTF-8") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise KelronError(f"{path}{line}: not YAML ({getattr(error, 'problem', error)})") from None


def check_keys(mapping: Any, required: Iterable[str], optional: Iterable[str], where: str) -> None:
    """Raise KelronError unless `mapping` is a mapping with the required keys and no unknown ones."""
    if not isinstance(mapping, dict):
        raise KelronError(f"{where}: expected a mapping of keys to values")
    known = {*required, *optional}
    for key in mapping:
        if key not in known:
            raise KelronError(f"{where}: unknown key {key!r}.{nearest(str(key), known)}")
    for key in required:
        if key not in mapping:
            raise KelronError(f"{where}: {key!r} is missing: add it")


def text_list(value: Any, where: str) -> tuple[str, ...]:
    """A tuple of non-empty texts without duplicates. Raises KelronError for anything else."""
    if not isinstance(value, list) or not value:
        raise KelronError(f"{where}: expected a list of texts")
    for item in value:
        if not isinstance(item, str) or not item.strip():
            raise KelronError(f"{where}: {item!r} is not a text (put quotes around it)")
    if len(set(value)) < len(value):
        twice = next(item for item in value if value.count(item) > 1)
        raise KelronError(f"{where}: {twice!r} is listed twice")
    return tuple(value)
