"""The notebooks' first cell, in an emulated /kaggle tree and an environment made like Kaggle's image."""

import json
import subprocess
import sys
import zipfile

import kaggle_image
import pytest
from kaggle_image import ROOT, commit, copy_project
from kaggle_stand_in import use_client
from kaggle_world import Played, World

from kelron_lib import kaggle_bootstrap
from kelron_lib.errors import KelronError
from kelron_lib.kaggle_ops import library
from kelron_lib.kaggle_ops.__main__ import main

LAYOUTS = ("datasets/me/kelron-library", "kelron-library")


def put(staged, kaggle, place):
    target = kaggle / "input" / place
    target.mkdir(parents=True)
    (kaggle / "working").mkdir()
    for path in staged.folder.iterdir():
        if path.name != "dataset-metadata.json":
            (target / path.name).symlink_to(path)
    return target


def first_cell(notebook="02_train", preset="tiny-cpu"):
    cells = json.loads((ROOT / "notebooks" / f"{notebook}.ipynb").read_text())["cells"]
    source = next("".join(cell["source"]) for cell in cells if "kaggle_bootstrap" in "".join(cell["source"]))
    return f"PRESET = {preset!r}\n{source}"


def run_cell(python, kaggle, code):
    environment = {"KELRON_KAGGLE": str(kaggle), "PATH": "/usr/bin:/bin", "HOME": str(kaggle)}
    return subprocess.run([python, "-c", code], capture_output=True, text=True, env=environment, cwd=kaggle / "working")


@pytest.mark.parametrize("place", [pytest.param(LAYOUTS[0], marks=pytest.mark.slow), LAYOUTS[1]])
def test_it_installs_offline_and_says_so_in_three_lines(place, staged, versions, tmp_path):
    kaggle = tmp_path / "kaggle"
    python, where = kaggle_image.make_machine(tmp_path / "venv", versions.folder), put(staged, kaggle, place)
    code = first_cell() + "\nimport kelron_lib; print(kelron_lib.__file__)"
    done = run_cell(python, kaggle, code)
    assert done.returncode == 0, done.stderr
    first, second, third, library_file = done.stdout.splitlines()
    assert first == f"Kelron 0.1.0, commit {staged.commit[:12]}, from {where}"
    pins = ", ".join(" ".join(pin) for pin in sorted(library.pins(ROOT).items()))
    assert second.startswith(f"installed offline: {pins}; torchao 0.10.0 removed, which peft refuses; Python 3.")
    assert third == "no GPU, and none is needed"
    assert library_file.startswith(str(tmp_path / "venv"))
    again = run_cell(python, kaggle, first_cell())  # which names what is not installed in its pinned version
    assert "installed offline: nothing else was needed; no torchao; " in again.stdout
    checked = subprocess.run([python, "-m", "pip", "check"], capture_output=True, text=True)
    assert checked.stdout == "No broken requirements found.\n"  # what was installed without its needs takes the image's


def test_a_preset_for_two_gpus_refuses_a_session_without(staged, image, tmp_path, monkeypatch):
    monkeypatch.setattr(kaggle_bootstrap, "gpu_names", lambda: ["Tesla T4, 15360 MiB"])
    with pytest.raises(
        kaggle_bootstrap.BootstrapError, match=r"^GPUs here: Tesla T4, 15360 MiB. The preset is made for 2"
    ):
        kaggle_bootstrap.check_gpus(2)
    monkeypatch.setattr(kaggle_bootstrap, "gpu_names", lambda: ["Tesla P100", "Tesla P100"][:2])
    assert kaggle_bootstrap.check_gpus(2) == "2 GPUs: Tesla P100; Tesla P100"


def test_a_torchao_that_peft_takes_stays(monkeypatch):
    said = []
    monkeypatch.setattr(kaggle_bootstrap, "installed_version", lambda name: "0.17.0")
    monkeypatch.setattr(kaggle_bootstrap, "pip", lambda *arguments: said.append(arguments))
    monkeypatch.setattr(kaggle_bootstrap, "run", lambda *_: subprocess.CompletedProcess([], 0, "", ""))
    assert kaggle_bootstrap.remove_torchao() == "torchao 0.17.0 kept"
    assert said == []
    broken = subprocess.CompletedProcess([], 1, "", "Traceback\nImportError: no transformers\n")
    monkeypatch.setattr(kaggle_bootstrap, "run", lambda *_: broken)
    with pytest.raises(kaggle_bootstrap.BootstrapError, match="peft cannot be imported: ImportError: no transformers"):
        kaggle_bootstrap.remove_torchao()


def test_without_the_dataset_the_cell_says_what_to_attach(tmp_path):
    kaggle = tmp_path / "kaggle"
    (kaggle / "input").mkdir(parents=True)
    (kaggle / "working").mkdir()
    done = run_cell(sys.executable, kaggle, first_cell())
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "NotAttached: attach the dataset kelron-library (see docs/kaggle.md)"


def test_elsewhere_the_cell_does_nothing(tmp_path):
    (tmp_path / "working").mkdir()
    done = run_cell(sys.executable, tmp_path, first_cell())
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_dataset_that_is_not_whole(staged, tmp_path):
    (tmp_path / "kelron-library.json").write_bytes((staged.folder / "kelron-library.json").read_bytes())
    with pytest.raises(kaggle_bootstrap.BootstrapError, match=r"lacks .*kelron-0.1.0-.*: stage the library again"):
        kaggle_bootstrap.bootstrap(tmp_path, "tiny-cpu", False)
    (tmp_path / "kelron-library.json").write_text("{")
    with pytest.raises(kaggle_bootstrap.BootstrapError, match="cannot be used"):
        kaggle_bootstrap.bootstrap(tmp_path, "tiny-cpu", False)


def test_another_copy_of_kelron_is_noticed(staged, image, tmp_path):
    """An older Kelron that Python finds first."""
    kaggle, venv = tmp_path / "kaggle", tmp_path / "venv"
    python = kaggle_image.make_machine(venv, image)
    put(staged, kaggle, LAYOUTS[0])
    older = kaggle / "working" / "kelron_lib"
    older.mkdir()
    (older / "__init__.py").write_text("")
    done = run_cell(python, kaggle, first_cell())
    assert done.returncode == 1
    assert f"Python finds Kelron of commit unknown at {older}, and the dataset holds" in done.stderr.splitlines()[-1]


# --- staging ---


def test_a_tree_with_changes_is_refused_and_dirty_is_marked(wheels, tmp_path):
    project = tmp_path / "kelron"
    copy_project(project)
    (project / "kelron_lib" / "errors.py").write_text(
        "# changed\n" + (project / "kelron_lib" / "errors.py").read_text()
    )
    with pytest.raises(KelronError, match=r"^1 files that go to Kaggle have changes .*kelron_lib/errors.py .*--dirty"):
        library.stage_library(project, tmp_path / "out", owner="me", wheels=wheels)
    made = library.stage_library(project, tmp_path / "out", owner="me", wheels=wheels, dirty=True)
    assert "-dirty-" in made.commit
    marker = json.loads((made.folder / "kelron-library.json").read_text())
    assert (marker["dirty"], marker["commit"]) == (True, made.commit)
    with zipfile.ZipFile(next(made.folder.glob("kelron-*.whl"))) as wheel:
        assert wheel.read("kelron_lib/errors.py").startswith(b"# changed\n")
        assert wheel.read("kelron_lib/commit.txt").decode().strip() == made.commit


@pytest.mark.parametrize("name", ["notebooks/02_train.ipynb", "kaggle_metadata/train/kernel-metadata.json"])
def test_a_push_of_changed_notebooks_is_refused_and_with_dirty_marked_and_known_there(
    name, wheels, tmp_path, monkeypatch, capsys
):
    """And what was pushed once is what the run's next sessions get, whatever becomes of the clone."""
    project = tmp_path / "kelron"
    copy_project(project)
    text = (project / name).read_text()
    (project / name).write_text(f"{text}\n")
    with World(lambda *_: Played(files={"runs/kelron/data/quality.json": b"{}"})) as world:
        use_client(monkeypatch, world)
        options = ["--preset", "tiny-cpu", "--project", str(project), "--wheels", str(wheels)]
        for verb in (["push", "data"], ["run", "--once"], ["push", "data", "--dry-run"], ["run", "--dry-run"]):
            assert main([*verb, *options]) == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert line.startswith(
                f"push_kernels.sh: 1 files that go to Kaggle have changes that are not committed ({name}"
            )
        assert not world.kernels
        assert not world.datasets
        assert main(["run", "--once", "--poll", "0", *options, "--dirty"]) == 0
        world.wait()
        (data,) = world.versions("kelron-01-data")
        assert data.record.dirty
        assert data.record.library.partition("-dirty-")[1]
        assert (
            f"os.environ['KELRON_COMMIT'] = '{data.record.library}'"
            in json.loads(data.asked["text"])["cells"][2]["source"]
        )
        (project / name).write_text("{}" if name.startswith("notebooks") else text)
        assert main(["push", "train", *options]) == 0
        (train,) = world.versions("kelron-02-train")
        assert train.record.library == data.record.library
        assert len(json.loads(train.asked["text"])["cells"]) > 3
    assert "the run goes on with the library and the notebooks it has" in capsys.readouterr().out


def test_a_notebook_notices_another_library_than_the_one_it_was_pushed_with(staged, monkeypatch):
    monkeypatch.setenv(kaggle_bootstrap.COMMIT_VARIABLE, staged.commit)
    kaggle_bootstrap.check_pushed({"commit": staged.commit})
    monkeypatch.setenv(kaggle_bootstrap.COMMIT_VARIABLE, "f" * 40)
    with pytest.raises(
        kaggle_bootstrap.BootstrapError, match="this notebook was pushed with that of ffffffffffff: Kaggle"
    ):
        kaggle_bootstrap.bootstrap(staged.folder, "tiny-cpu", False)


def test_the_same_files_give_the_same_library_and_other_commits_do_not_matter(staged, clone, wheels, tmp_path):
    before = {path.name: path.read_bytes() for path in staged.folder.iterdir()}
    (tmp_path / "source").mkdir()  # what lies beside the folder is the user's
    (tmp_path / "source" / "mine").write_text("kept")
    (clone / "docs.txt").write_text("not shipped")
    commit(clone, "another")
    again = library.stage_library(clone, tmp_path / "again", owner="me", wheels=wheels)
    assert (again.content, again.commit) == (staged.content, staged.commit)
    assert {path.name: path.read_bytes() for path in again.folder.iterdir()} == before
    assert {path.name for path in tmp_path.iterdir()} == {"again", "source"}
    assert (tmp_path / "source" / "mine").read_text() == "kept"
    assert any(path.suffix == ".whl" for path in again.folder.iterdir())
    assert not any(path.is_dir() for path in again.folder.iterdir())  # which an upload would drop without a word


def test_a_dry_run_of_staging_makes_it_and_uploads_nothing(staged, clone, wheels, monkeypatch, capsys):
    with World(lambda *_: Played()) as world:
        use_client(monkeypatch, world)
        assert main(["stage", "--dry-run", "--project", str(clone), "--wheels", str(wheels)]) == 0
        assert not world.requests
    first, *files = capsys.readouterr().out.splitlines()
    assert first.startswith("would upload me/kelron-library unless Kaggle has this content: commit ")
    assert {line.split()[0] for line in files} == {path.name for path in staged.folder.iterdir()}


def test_a_wheel_that_is_not_pinned_is_not_shipped_and_a_missing_one_is_named(clone, tmp_path):
    kaggle_image.write_wheel(tmp_path, "peft", "0.1.0", {})
    with pytest.raises(KelronError, match=r"lacks the wheels of .*peft==0.21.2"):
        library.bring_wheels(clone, tmp_path, False, print)
