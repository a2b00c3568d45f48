"""Python as Kaggle's image has it: its packages in their versions (kaggle_metadata/image.toml), installed once from an
index and kept in pytest's cache; and, for tests that are not about versions, the packages of this environment. Torch
and Python are this environment's in both. Beside them, wheels of what the image lacks, made from what is installed."""

import fcntl
import hashlib
import importlib.metadata
import json
import platform
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
VERSIONS = ROOT / "kaggle_metadata" / "image.toml"

LACKS = ("peft", "kaggle", "kelron")
"""Packages of this environment that the image does not show."""
REPLACED = ("accelerate", "peft", "torchao")
"""Packages of the image that a session replaces or removes, which pip does only in the environment that it runs in."""
FOR_GPUS = tuple(f"libbitsandbytes_{kind}" for kind in ("cuda", "rocm", "xpu"))
"""Files of bitsandbytes' wheel that its stand-in here leaves out: 150 MB."""
BESIDE = ("torch", "papermill")
"""What the image has and image.toml does not name: from this environment, with what it needs."""


def site_folders():
    return [Path(path) for path in sys.path if path.endswith("site-packages")]


def entries_of(distribution):
    """The top-level entries of an installed distribution."""
    files = distribution.files or []
    return {file.parts[0] for file in files if file.parts[0] not in ("..", "bin", "__pycache__")}


def package_names(name):
    return entries_of(importlib.metadata.distribution(name))


def image_versions(part):
    """The versions of one part of image.toml, by package."""
    return tomllib.loads(VERSIONS.read_text(encoding="utf-8"))[part]


def install_once(part, cache):
    """A folder in `cache` that holds the packages of a part of image.toml; one of its older versions goes. Skips the
    test that asks for them where no index is to be had."""
    versions = image_versions(part)
    key = json.dumps([versions, sys.version_info[:2], sys.platform, platform.machine()], sort_keys=True)
    folder = cache / f"{part}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    with (cache / f"{part}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several processes of tests may want them at once
        if not folder.is_dir():
            for older in cache.glob(f"{part}-*"):
                shutil.rmtree(older)
            unfinished = folder.with_suffix(".unfinished")
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
            options = ["--no-deps", "--only-binary=:all:", "--retries=1", "--timeout=20", f"--target={unfinished}"]
            named = [f"{name}=={version}" for name, version in versions.items()]
            done = subprocess.run([*pip, *options, *named], capture_output=True, text=True)
            if "(from versions: none)" in done.stderr:  # an index would know other versions at least
                pytest.skip("no package index can be reached, and the versions of Kaggle's image are not installed yet")
            assert done.returncode == 0, done.stderr
            unfinished.rename(folder)
    return folder


def make_image(folder, installed=()):
    """What machines are made of, in `folder`; to be made once. `site`: links to packages; `replaced`: REPLACED.

    The packages are those of the folders `installed`, and what they need, BESIDE included, from this environment; with
    none given, this environment's but LACKS.
    """
    site, replaced = folder / "site", folder / "replaced"
    site.mkdir(parents=True)
    replaced.mkdir()
    given = {
        canonicalize_name(distribution.name): distribution
        for distribution in importlib.metadata.distributions(path=[str(path) for path in installed])
    }
    for name, distribution in given.items():
        for entry in entries_of(distribution):
            target = (replaced if name in REPLACED else site) / entry
            target.symlink_to(distribution.locate_file(entry))
    hidden = {name for lacking in LACKS for name in package_names(lacking)} | {"kelron_lib"}
    wanted = needed_here(given) if installed else None
    for entry in (entry for site_here in site_folders() for entry in site_here.iterdir()):
        shown = entry.name in wanted if installed else entry.name not in hidden and entry.suffix != ".pth"
        if shown and not (site / entry.name).exists():
            (site / entry.name).symlink_to(entry)
    return folder


def needed_here(given):
    """The entries of this environment's packages that BESIDE and the packages `given` (by name) need and are not among
    them."""
    found, wanted, seen = set(), [*BESIDE, *given], set()
    while wanted:
        name = canonicalize_name(wanted.pop())
        if name not in seen:
            seen.add(name)
            distribution = given.get(name) or importlib.metadata.distribution(name)
            if name not in given:
                found |= entries_of(distribution)
            needs = map(Requirement, distribution.requires or [])
            wanted += [need.name for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]
    return found


def make_machine(folder, image):
    """A fresh environment on the image, as each session has one; its python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    site = next((folder / "lib").glob("python*")) / "site-packages"
    (site / "image.pth").write_text(f"{image / 'site'}\n")
    shutil.copytree(image / "replaced", site, dirs_exist_ok=True)
    return folder / "bin" / "python"


def write_wheel(folder, name, version, files, metadata=None):
    """A wheel of these files (content by path)."""
    about = f"{name}-{version}.dist-info"
    files = {
        **files,
        f"{about}/METADATA": (metadata or f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n").encode(),
        f"{about}/WHEEL": b"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in [*files, f"{about}/RECORD"])
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, content in {**files, f"{about}/RECORD": record.encode()}.items():
            archive.writestr(path, content)
    return wheel


def repack(folder, name):
    """The wheel of an installed package, as far as a CPU needs it."""
    found = importlib.metadata.distribution(name)
    files = {
        str(file): Path(found.locate_file(file)).read_bytes()
        for file in found.files or []
        if file.parts[0] == name and file.suffix != ".pyc" and not file.name.startswith(FOR_GPUS)
    }
    return write_wheel(folder, name, found.version, files, found.read_text("METADATA"))


def pinned_wheels(folder):
    """All pinned wheels."""
    from kelron_lib.kaggle_ops.library import pins

    folder.mkdir(parents=True)
    for name in pins(ROOT):
        repack(folder, name)
    return folder


def copy_project(folder):
    """A clean git tree in `folder` with what the project's holds now."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((ROOT / name).read_bytes())
            (folder / name).chmod((ROOT / name).stat().st_mode)
    git(folder, "init", "-q")
    commit(folder, "all")


def git(folder, *arguments):
    who = ["-c", "user.name=me", "-c", "user.email=me@example.com"]
    return subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


def commit(folder, message):
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", message)
