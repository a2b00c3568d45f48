"""The library dataset: Kelron as a wheel, the wheels that Kaggle's image lacks, the notebooks that are pushed with it,
and a marker of what it holds."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kelron_lib import __version__, kaggle_bootstrap
from kelron_lib.config import MADE_FOR
from kelron_lib.errors import KelronError
from kelron_lib.files import cannot_write
from kelron_lib.kaggle_bootstrap import MARKER
from kelron_lib.kaggle_ops.client import Kaggle, KaggleError
from kelron_lib.kaggle_ops.kernels import OWNER, pack_kernels, slug_of
from kelron_lib.runtime import read_json, write_json
from kelron_lib.store import sha256_file

SHIPPED = ("kelron_lib", "notebooks", "kaggle_metadata", "pyproject.toml", "README.md", "LICENSE")
"""What the dataset is made of: a change of nothing else needs another upload."""
PINS = "kaggle_metadata/requirements-kaggle.txt"
KERNELS_FILE = "kelron-kernels.json"
"""In the dataset: the notebooks and their metadata, from which a run's kernels are pushed."""
CACHE = Path("runs/kaggle/wheels")
"""Where downloaded wheels are kept, in the project's folder."""
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_24_x86_64", "manylinux2014_x86_64")
IMAGE_PYTHON = "3.12"
PATIENCE = 20 * 60.0
"""Seconds until a dataset must be ready: after its first upload its owner was refused for up to 15 minutes."""
POLL = 10.0
ENDED_BADLY = ("failed", "deleted")
WHEEL = re.compile(r"(?P<name>[A-Za-z0-9_.]+)-(?P<version>[A-Za-z0-9_.!+]+?)-.*\.whl")


@dataclass(frozen=True)
class Library:
    """A staged library dataset."""

    folder: Path
    slug: str
    content: str
    """sha256 (hex) over what it is made of."""
    commit: str
    dirty: bool


def dataset_slug(project: Path) -> str:
    """The slug of the library dataset."""
    return slug_of(read_json(project / "kaggle_metadata" / "kelron_lib" / "dataset-metadata.json")["title"])


def stage_library(
    project: Path,
    folder: Path,
    *,
    owner: str,
    dirty: bool = False,
    wheels: Path | None = None,
    say: Callable[[str], None] = print,
) -> Library:
    """Make the dataset's files in `folder`, from a clean git tree, or with `dirty` from any, which is then marked.

    `wheels`: a folder that already holds the pinned wheels. Raises KelronError.
    """
    changed = require_clean(project, dirty=dirty)
    content, commit = content_of(project), commit_of(project)
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    except OSError as error:
        raise cannot_write(f"make {folder}", error) from error
    for wheel in bring_wheels(project, wheels or project / CACHE, wheels is None, say):
        shutil.copyfile(wheel, folder / wheel.name)
    _build_wheel(project, folder, commit)
    shutil.copyfile(kaggle_bootstrap.__file__, folder / "kaggle_bootstrap.py")
    write_json(folder / KERNELS_FILE, pack_kernels(project))
    _describe(project, folder, owner)
    names = sorted(path.name for path in folder.glob("*.whl"))
    marker = {
        "commit": commit,
        "dirty": bool(changed),
        "version": __version__,
        "content": content,
        "gpus": MADE_FOR,
        "wheels": {name: _named(name) for name in names},
    }
    write_json(folder / MARKER, marker)
    return Library(folder, dataset_slug(project), content, commit, bool(changed))


def require_clean(project: Path, *, dirty: bool) -> list[str]:
    """The changes that are not committed. Raises KelronError where there are any, but with `dirty`."""
    changed = changed_files(project)
    if changed and not dirty:
        raise KelronError(
            f"{len(changed)} files that go to Kaggle have changes that are not committed ({changed[0]} ...): commit "
            "them, so that the run's commit says what ran, or say --dirty, which is marked"
        )
    return changed


def git(project: Path, *arguments: str) -> str:
    """What git says in the project's folder. Raises KelronError."""
    try:
        done = subprocess.run(["git", "-C", str(project), *arguments], capture_output=True, text=True, check=False)
    except OSError as error:
        raise KelronError(f"git is needed to stage ({error.strerror}): install it") from None
    if done.returncode != 0:
        raise KelronError(f"{project} is no git tree ({done.stderr.strip().splitlines()[0]}): clone the project")
    return done.stdout.rstrip("\n")


def changed_files(project: Path) -> list[str]:
    """The files of the dataset that differ from git's, or that git does not know."""
    return [line[3:] for line in git(project, "status", "--porcelain", "--", *SHIPPED).splitlines()]


def commit_of(project: Path) -> str:
    """The commit that last changed what the dataset is made of; where that has uncommitted changes, marked by them."""
    commit = git(project, "log", "-1", "--format=%H", "--", *SHIPPED)
    return f"{commit}-dirty-{content_of(project)[:8]}" if changed_files(project) else commit


def short(commit: str) -> str:
    """A commit for people, still marked where it was."""
    plain, marked, _ = commit.partition("-dirty-")
    return f"{plain[:12]}{' (dirty)' if marked else ''}"


def shipped_files(project: Path) -> list[str]:
    """The files that the dataset is made of: those of git, and new ones that git does not ignore."""
    listed = git(project, "ls-files", "--cached", "--others", "--exclude-standard", "--", *SHIPPED).splitlines()
    return sorted({name for name in listed if (project / name).is_file()})


def content_of(project: Path) -> str:
    """sha256 (hex) over the names and contents of what the dataset is made of."""
    digests = [f"{name} {sha256_file(project / name)}" for name in shipped_files(project)]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def pins(project: Path) -> dict[str, str]:
    """The pinned packages, by name."""
    lines = (project / PINS).read_text(encoding="utf-8").splitlines()
    pairs = (line.split("==") for line in lines if line.strip() and not line.startswith("#"))
    return {name.strip(): version.strip() for name, version in pairs}


def bring_wheels(project: Path, cache: Path, may_download: bool, say: Callable[[str], None]) -> list[Path]:
    """The wheels of all pins, from `cache` or downloaded there. Raises KelronError, naming those that are missing."""

    def missing() -> dict[str, str]:
        there = [_named(path.name) for path in cache.glob("*.whl")]
        return {name: version for name, version in pins(project).items() if [name, version] not in there}

    if may_download and (lacking := missing()):
        say(f"downloading {', '.join(f'{name} {version}' for name, version in lacking.items())}")
        platforms = [f"--platform={platform}" for platform in PLATFORMS]
        _pip(
            *("download", "--no-deps", "--only-binary=:all:", f"--python-version={IMAGE_PYTHON}", *platforms),
            *("--dest", str(cache), *(f"{name}=={version}" for name, version in lacking.items())),
        )
    if lacking := missing():
        raise KelronError(f"{cache} lacks the wheels of {', '.join(map('=='.join, lacking.items()))}")
    wanted = pins(project)
    return [path for path in sorted(cache.glob("*.whl")) if wanted.get(_named(path.name)[0]) == _named(path.name)[1]]


def _named(wheel: str) -> list[str]:
    match = WHEEL.fullmatch(wheel)
    if match is None:
        raise KelronError(f"{wheel} is not named as a wheel")
    return [match["name"].replace("_", "-").lower(), match["version"]]


def _build_wheel(project: Path, folder: Path, commit: str) -> None:
    """Kelron's wheel, with its commit in it; the same files always give the same wheel."""
    with tempfile.TemporaryDirectory(prefix="kelron-source-") as scratch:
        source = Path(scratch)
        for name in shipped_files(project):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(project / name, source / name)
        (source / "kelron_lib" / "commit.txt").write_text(f"{commit}\n", encoding="utf-8")
        environment = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000"}
        _pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(source), env=environment)


def _pip(*arguments: str, env: dict[str, str] | None = None) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        raise KelronError(f"pip {arguments[0]} failed: {said[-1].strip() if said else 'no message'}")


def _describe(project: Path, folder: Path, owner: str) -> None:
    metadata = read_json(project / "kaggle_metadata" / "kelron_lib" / "dataset-metadata.json")
    write_json(folder / "dataset-metadata.json", metadata | {"id": metadata["id"].replace(OWNER, owner)})


def on_kaggle(kaggle: Kaggle, ref: str) -> dict[str, Any] | None:
    """The marker of the library dataset's newest version; None where there is none."""
    return _json_of(kaggle, ref, MARKER)


def kernels_on_kaggle(kaggle: Kaggle, ref: str) -> dict[str, Any] | None:
    """The notebooks that the library dataset's newest version holds; None where there are none."""
    return _json_of(kaggle, ref, KERNELS_FILE)


def _json_of(kaggle: Kaggle, ref: str, name: str) -> dict[str, Any] | None:
    raw = kaggle.dataset_file(ref, name)
    try:
        found: dict[str, Any] | None = json.loads(raw) if raw else None
    except ValueError:
        return None
    return found


def is_to_stage(project: Path, there: dict[str, Any] | None, wanted: str, *, anew: bool) -> bool:
    """Whether this clone's library has to go to Kaggle, which holds the one with the marker `there`. `wanted`: the
    commit of the run's sessions, empty where none is known; `anew`: the run takes this clone's in any case.

    Raises KelronError where the run's library is on Kaggle no more and is not this clone's.
    """
    held = str(there["commit"]) if there is not None else ""
    if anew or (not held and not wanted):
        return True
    if held and wanted in ("", held):
        return False
    own = commit_of(project)
    if own != wanted:
        raise KelronError(
            f"the run's sessions had Kelron of commit {short(wanted)}, and Kaggle holds {short(held) or 'none'} now: "
            f"go on with this clone's, {short(own)}, by --restage, or check out {short(wanted)} and say the same again"
        )
    return True


def upload_library(kaggle: Kaggle, library: Library, *, patience: float = PATIENCE) -> bool:
    """Have Kaggle hold this library, and wait until kernels can attach it; whether anything was uploaded.

    Raises KelronError where it would be public, was refused, or does not become ready in `patience` seconds.
    """
    ref = f"{kaggle.owner}/{library.slug}"
    there = kaggle.dataset(ref)
    if there is not None and not there.private:
        raise KelronError(f"the dataset {ref} is public: make it private in its settings on Kaggle, or delete it there")
    marker = on_kaggle(kaggle, ref) if there is not None else None
    fresh = marker is None or marker.get("content") != library.content or marker.get("commit") != library.commit
    if fresh:
        _send(kaggle, library, ref, there is None, patience)
    wait_until_ready(kaggle, ref, patience, lambda: (on_kaggle(kaggle, ref) or {}).get("content") == library.content)
    return fresh


def _send(kaggle: Kaggle, library: Library, ref: str, new: bool, patience: float) -> None:
    """Upload a library; where it turns out that the dataset exists and is not shown yet, as its next version."""
    notes = f"commit {short(library.commit)}"
    try:
        send_dataset(kaggle, library.folder, ref, notes, new=new)
    except Taken:
        if not new:
            raise
        wait_until_ready(kaggle, ref, patience, lambda: True)
        if (on_kaggle(kaggle, ref) or {}).get("content") != library.content:
            send_dataset(kaggle, library.folder, ref, notes, new=False)


class Taken(KelronError):
    """A dataset of that name exists, or is being made."""


def send_dataset(kaggle: Kaggle, folder: Path, ref: str, notes: str, *, new: bool, only: bool = False) -> None:
    """Upload a folder as a private dataset or its next version, with `only` in place of all before.

    Raises KelronError with the server's reason.
    """
    size = sum(path.stat().st_size for path in folder.iterdir())
    kaggle.say(f"uploading {ref}: {len([*folder.iterdir()]) - 1} files, {size / 1e6:.1f} MB")
    try:
        answer = kaggle.tried(f"upload the dataset {ref}", lambda: kaggle.upload(folder, notes, new=new, only=only))
    except KaggleError as error:
        if error.status == 409:
            raise Taken(str(error)) from None
        raise
    if "in use" in str(answer.error or ""):
        raise Taken(f"Kaggle refused the dataset {ref}: {answer.error}")
    if str(answer.status or "").lower() != "ok" or answer.error:
        raise KelronError(f"Kaggle refused the dataset {ref}: {answer.error or answer.status or 'without a reason'}")


def wait_until_ready(kaggle: Kaggle, ref: str, patience: float, arrived: Callable[[], bool]) -> None:
    """Return when Kaggle calls a dataset ready and shows its new content. Raises KelronError after `patience` seconds.

    For minutes after the first upload Kaggle answers 403 to its owner.
    """
    waited, said = 0.0, ""
    while True:
        try:
            state = kaggle.dataset_status(ref)
            if state in ENDED_BADLY:
                raise KelronError(f"Kaggle could not process the dataset {ref} ({state}): see its page; stage again")
            if state == "ready" and arrived():
                return
        except KaggleError as error:
            if error.status not in (403, 404):
                raise
            state = f"not shown yet ({error.status})"
        if waited >= patience:
            raise KelronError(f"{ref} is not ready after {waited / 60:.0f} minutes ({state}): run this again later")
        if state != said:
            kaggle.say(f"waiting for {ref}: {state}")
            said = state
        kaggle.sleep(POLL)
        waited += POLL
