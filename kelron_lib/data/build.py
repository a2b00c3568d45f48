"""A dataset folder from a config: expand, check, and only then write, all or nothing."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kelron_lib.config import RunConfig, differing, to_dict, to_json
from kelron_lib.data.card import card
from kelron_lib.data.check import QUALITY_FILE, quality_text
from kelron_lib.data.expand import Expansion, expand
from kelron_lib.data.gate import PAGE_FILE, check_splits, quality_page
from kelron_lib.data.own import mix_in, read_own
from kelron_lib.data.rows import Row, fingerprint, old_file, rows_file, rows_fingerprint, write_rows
from kelron_lib.data.splits import SPLITS
from kelron_lib.errors import KelronError
from kelron_lib.files import cannot_write, write_whole
from kelron_lib.persona import KINDS, Persona, Seed, load_persona, load_seeds
from kelron_lib.runtime import DEMO, exclusive, existing_parent, keep_from_demos, lock_file

CONFIG_FILE = "config.json"


def _replace_folder(made: Path, out: Path) -> None:
    """Put the finished folder in the place of `out`; the old one goes only after the new one stands."""
    if not out.exists():
        made.rename(out)
        return
    old = made.with_name(made.name + ".old")
    out.rename(old)
    try:
        made.rename(out)
    except OSError:
        old.rename(out)
        raise
    shutil.rmtree(old)


def _run_of(out: Path) -> contextlib.AbstractContextManager[None]:
    """Hold the run or demo that the dataset's folder lies in, where it lies in one: a session may be reading it."""
    run = out.absolute().parent
    held = any(lock.exists() for lock in (lock_file(run), lock_file(run, DEMO)))
    return exclusive(run) if held else contextlib.nullcontext()


def rows_differ(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The keys of two configs, with both values, that may give them different rows.

    The longest row is only asked for when rows are encoded, and files may lie elsewhere on another machine:
    `own.changed_since` tells whether the user's is another one.
    """
    changed = differing(then, now, ("data",))
    changed.pop("data.max_tokens", None)
    for key in ("data.persona", "data.own"):
        if len({Path(str(name)).name for name in changed.get(key, ())}) == 1:
            del changed[key]
    return changed


@dataclass(frozen=True)
class _Made:
    """A dataset that is not on disk yet."""

    splits: Mapping[str, Sequence[Row]]
    about: Mapping[str, str]
    """The texts beside the rows, by file name."""

    @property
    def names(self) -> set[str]:
        return {*self.about, *(rows_file(Path(), split).name for split in SPLITS)}

    def write(self, folder: Path) -> None:
        for split in SPLITS:
            write_rows(rows_file(folder, split), self.splits[split])
        for name, text in self.about.items():
            (folder / name).write_text(text, encoding="utf-8", newline="\n")

    def same_as(self, folder: Path) -> bool:
        """Whether a folder holds these rows and texts, but for the config, which says more than what decides them, and
        the page, which says what the report does."""
        for name, text in self.about.items():
            file = folder / name
            if name not in (CONFIG_FILE, PAGE_FILE) and (
                not file.is_file() or file.read_bytes() != text.encode("utf-8")
            ):
                return False
        try:
            return fingerprint(folder) == rows_fingerprint(self.splits)
        except KelronError:  # rows that cannot be read are other rows
            return False


def _is_there(made: _Made, out: Path, replace: bool) -> bool:
    """Whether `out` holds this very dataset.

    Raises KelronError where it holds anything else that is not to be replaced.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    if not (out / QUALITY_FILE).is_file():
        raise KelronError(f"{out} exists and is not a dataset: name another folder with --out")
    if made.same_as(out):
        return True
    if not replace:
        told = _difference(made.about[CONFIG_FILE], out)
        raise KelronError(
            f"{out} holds another dataset ({told}): replace it with --replace (REPLACE in the notebook), "
            "or name another folder with --out (RUN); a run that was trained on it goes on with that one alone"
        )
    old = {old_file(out, split).name for split in SPLITS}  # which gives way with the rest
    if foreign := sorted({path.name for path in out.iterdir()} - made.names - old):
        raise KelronError(f"{out} holds {foreign[0]!r}, which is no part of a dataset: move it away before --replace")
    return False


def _difference(config: str, out: Path) -> str:
    """In what the settings of the dataset in `out` differ from those of the new one."""
    try:
        there = json.loads((out / CONFIG_FILE).read_text(encoding="utf-8"))
        changed = differing({"data": there["data"]}, json.loads(config), ("data",))
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return f"its {CONFIG_FILE} does not tell of what"
    return (
        "; ".join(f"{key} {then!r} there, {now!r} now" for key, (then, now) in changed.items())
        or "of the same settings: the persona, the seeds, Kelron or the files themselves changed"
    )


def _renew_config(config: RunConfig, text: str, out: Path) -> None:
    """Have a dataset name the config that it was asked for with, where the same rows came of another."""
    try:
        told = json.loads((out / CONFIG_FILE).read_text(encoding="utf-8"))
        named = isinstance(told, dict) and not rows_differ(told, to_dict(config))
    except (OSError, ValueError):
        named = False
    if not named:
        try:
            write_whole(out / CONFIG_FILE, text.encode())
        except OSError as error:
            raise cannot_write(f"write {out / CONFIG_FILE}", error) from None


def _write(dataset: _Made, out: Path) -> None:
    made: Path | None = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        dataset.write(made)
        made.chmod(0o755)
        _replace_folder(made, out)
    except OSError as error:
        raise cannot_write(f"write the dataset to {out}", error) from None
    finally:
        if made is not None and made.exists():
            shutil.rmtree(made)


def _expanded(
    config: RunConfig, persona: Persona, seeds: Sequence[Seed], say: Callable[[str], None]
) -> tuple[Expansion, dict[str, Any]]:
    """The rows of the seeds, and with them those of the user's own file where there is one, and what is to be reported
    of these."""
    own = read_own(config.data, persona) if config.data.own else None
    expansion = expand(config.data, persona, seeds)
    if own is None:
        return expansion, {}
    mixed = mix_in(own, expansion.rows, config.data)
    for line in [*own.told, *own.lines()]:
        say(line)
    return expansion, mixed


def build_dataset(
    config: RunConfig, out: Path, *, replace: bool = False, say: Callable[[str], None] = print
) -> dict[str, Any]:
    """Make the dataset of a config in the folder `out` and return the quality report (also in quality.json).

    The folder appears whole or not at all; the same config gives the same rows, and where they are there already
    nothing is written. Raises KelronError for a broken persona or seed file, seeds too few for data.rows, rows that
    fail the gate (the first failing row is named), an own file that gives too few rows, another dataset in `out` unless
    `replace`, and a folder in a run that is going on.
    """
    if out.exists() and not out.is_dir():
        raise KelronError(f"{out} exists and is not a dataset: name another folder with --out")
    if not existing_parent(out).is_dir():
        raise KelronError(f"{existing_parent(out)} is a file: name another folder with --out")
    persona = load_persona(config.data.persona)
    for note in persona.notes:
        say(f"note: {note}")
    seeds = load_seeds(persona, config.data.languages, config.data.seeds)
    expansion, mixed = _expanded(config, persona, seeds, say)
    report = check_splits(expansion.rows, persona, config.data.identity_share)
    for finding in report["findings"]:
        if finding["severity"] == "error":
            row = finding["rows"][0] if finding["rows"] else "-"
            raise KelronError(f"data gate: {finding['check']} in {row} ({finding['count']} in all): {finding['fix']}")
    report["persona"] = persona.id
    report["seeds"] = {kind: len({seed.group for seed in seeds if seed.kind == kind}) for kind in KINDS}
    report["duplicates_removed"] = expansion.duplicates_removed
    report["short_of_chat"] = expansion.short
    report |= {"own": mixed} if mixed else {}
    texts = {
        QUALITY_FILE: quality_text(report),
        PAGE_FILE: quality_page(report, f"{persona.name['en']}: dataset"),
        CONFIG_FILE: to_json(config),
        "README.md": card(persona, report, config, expansion.rows),
    }
    made = _Made(expansion.rows, texts)
    with _run_of(out):
        if _is_there(made, out, replace):
            say(f"{out} is already there, with these very rows: left as it is")
            _renew_config(config, texts[CONFIG_FILE], out)
        else:
            keep_from_demos(out.absolute().parent, say)
            _write(made, out)
    return report
