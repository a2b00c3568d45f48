"""Python as Kaggle's image has it, as far as it can be had here: the packages of this environment, without peft, with a
torchao that peft refuses, and with wheels of what the image lacks, made from what is installed."""

import importlib.metadata
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent

LACKS = ("peft", "kaggle", "kelron")
"""Packages of this environment that the image does not show."""


def site_folders():
    return [Path(path) for path in sys.path if path.endswith("site-packages")]


def package_names(name):
    """The top-level entries of an installed distribution."""
    files = importlib.metadata.distribution(name).files or []
    return {file.parts[0] for file in files if file.parts[0] not in ("..", "__pycache__")}


def make_image(folder):
    """A folder of links to this environment's packages but LACKS; to be made once."""
    folder.mkdir(parents=True)
    hidden = {name for lacking in LACKS for name in package_names(lacking)} | {"kelron_lib"}
    for site in site_folders():
        for entry in site.iterdir():
            if entry.name not in hidden and not (folder / entry.name).exists() and entry.suffix != ".pth":
                (folder / entry.name).symlink_to(entry)
    return folder


def make_machine(folder, image, torchao=True):
    """A fresh environment on the image, as each session has one; its python. `torchao`: with the old one, which costs
    an import of peft."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    site = next((folder / "lib").glob("python*")) / "site-packages"
    (site / "image.pth").write_text(f"{image}\n")
    if torchao:
        add_package(site, "torchao", "0.10.0")
    return folder / "bin" / "python"


def add_package(site, name, version):
    """An installed package that holds nothing."""
    (site / name).mkdir()
    (site / name / "__init__.py").write_text("")
    about = site / f"{name}-{version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (about / "INSTALLER").write_text("pip\n")
    listed = [f"{name}/__init__.py", f"{about.name}/METADATA", f"{about.name}/INSTALLER", f"{about.name}/RECORD"]
    (about / "RECORD").write_text("".join(f"{file},,\n" for file in listed))


def write_wheel(folder, name, version, files):
    """A wheel of these files (content by path)."""
    about = f"{name}-{version}.dist-info"
    files = {
        **files,
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{about}/WHEEL": b"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in [*files, f"{about}/RECORD"])
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, content in {**files, f"{about}/RECORD": record.encode()}.items():
            archive.writestr(path, content)
    return wheel


def repack(folder, name):
    """The wheel of an installed pure package."""
    found = importlib.metadata.distribution(name)
    files = {
        str(file): Path(found.locate_file(file)).read_bytes()
        for file in found.files or []
        if file.parts[0] == name and file.suffix != ".pyc"
    }
    return write_wheel(folder, name, found.version, files)


def pinned_wheels(folder):
    """All pinned wheels. bitsandbytes' is a stand-in without content: every machine here has it installed already."""
    from kelron_lib.kaggle_ops.library import pins

    folder.mkdir(parents=True)
    for name, version in pins(ROOT).items():
        if name == "bitsandbytes":
            write_wheel(folder, name, version, {})
        else:
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
