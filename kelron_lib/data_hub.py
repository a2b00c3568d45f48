"""A dataset on the Hugging Face Hub: one commit to a private dataset repo, which `datasets.load_dataset` reads."""

from __future__ import annotations

from pathlib import Path

from kelron_lib.data import QUALITY_FILE, SPLITS, fingerprint, old_file
from kelron_lib.dataset import ABOUT, ROWS
from kelron_lib.errors import KelronError
from kelron_lib.hub_client import Hub
from kelron_lib.hub_content import Content
from kelron_lib.hub_repo import HubRepo
from kelron_lib.runtime import read_json

_OURS = {*ROWS, *ABOUT, *(old_file(Path(), split).name for split in SPLITS)}
"""What a push replaces or removes; whatever else a repo holds stays."""


def push_dataset(folder: Path, repo: str, *, allow_foreign: bool = False, hub: Hub | None = None) -> str:
    """Send the dataset in `folder` to the dataset repo OWNER/NAME, which is made, private, if there is none; returns a
    line that says where it is.

    Raises KelronError for a folder without a sound dataset or with one that its own report fails, a name that is none,
    a token that is missing or may not write there, another's namespace unless `allow_foreign`, and a public repo.
    """
    files = _files(folder)
    target = HubRepo(repo, "dataset", hub or Hub(), allow_foreign=allow_foreign, example="me/kelron-data")
    target.make()
    size = sum(content.size for content in files.values())
    sent = target.put(files, _OURS, "kelron: push the dataset")
    done = f"{len(files)} files, {size / 1e6:.1f} MB, {'sent to' if sent else 'are already in'}"
    return f"{done} the private dataset repo {repo}: datasets.load_dataset({repo!r}) reads them"


def _files(folder: Path) -> dict[str, Content]:
    """The files of a sound dataset, by name."""
    fingerprint(folder)  # reads every row
    report = read_json(folder / QUALITY_FILE) if (folder / QUALITY_FILE).is_file() else None
    if not isinstance(report, dict):
        raise KelronError(f"{folder} has no {QUALITY_FILE}: `kelron data check {folder} --report {folder}` writes one")
    if report.get("verdict") == "fail":
        raise KelronError(f"{folder} fails the quality gate: `kelron data check {folder}` tells by what; mend it first")
    return {name: Content(folder / name) for name in (*ROWS, *ABOUT) if (folder / name).is_file()}
