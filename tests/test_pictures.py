"""The pictures of the README and the docs: they are there, and the command that takes them runs."""

import re
import shutil
import subprocess
import sys

import pytest
from conftest import SMALL
from kaggle_image import ROOT
from scoreboards import ASK, BASE, TUNED, board, prompt, scored

from kelron_lib.config import resolve, to_json
from kelron_lib.evaluate import write_report
from kelron_lib.train import train

PAGES = [ROOT / "README.md", ROOT / "README.ko.md", *sorted((ROOT / "docs").glob("*.md"))]
SHOWN = {
    (page.parent / target).resolve().relative_to(ROOT)
    for page in PAGES
    for target in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", page.read_text("utf-8"))
}
LARGEST = 200_000


def size_of(png):
    """Width and height in the head of a PNG file."""
    head = png.read_bytes()[:24]
    assert head.startswith(b"\x89PNG"), png
    return int.from_bytes(head[16:20]), int.from_bytes(head[20:24])


def test_every_picture_is_shown_and_every_picture_shown_is_there():
    there = {path.relative_to(ROOT) for kind in ("png", "svg") for path in (ROOT / "docs").glob(f"*.{kind}")}
    assert there == SHOWN
    assert all((ROOT / path).stat().st_size < LARGEST for path in there)


@pytest.mark.parametrize("page", ["README.md", "README.ko.md"])
def test_the_readme_shows_training_scoreboard_chat_and_plan(page):
    text = (ROOT / page).read_text("utf-8")
    for name in ("training.png", "scoreboard.png", "chat.png", "plan.svg"):
        assert f"](docs/{name})" in text, name


@pytest.fixture
def small_run(small_data, tmp_path):
    """A finished run of a few seconds, in a folder as the demo leaves one."""
    run = tmp_path / "run"
    config = resolve("tiny-cpu", [*(each for each in SMALL if "epochs" not in each), "train.epochs=1.2"])
    shutil.copytree(small_data, run / "data")
    assert train(config, run / "data", run, say=lambda line: None).state == "finished"
    (run / "config.json").write_text(to_json(config), encoding="utf-8")
    records = scored([(prompt(each, 1), BASE[each], TUNED[each], True, None) for each in ASK])
    write_report(run, scoreboard=board(records), answers=records)
    return run


@pytest.mark.slow  # a training and a JupyterLab of its own: most of a minute
@pytest.mark.browser
def test_the_command_takes_them(small_run, tmp_path):
    pictures = pytest.importorskip("pictures", reason="playwright is not installed")
    pytest.importorskip("jupyterlab", reason="jupyterlab is not installed")
    if not pictures.browser.CHROMIUM:
        pytest.skip("no Chromium here: apt-get install chromium")
    command = [sys.executable, "tests/pictures.py", "--run", str(small_run), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    for name in pictures.PICTURES:
        taken, kept = (size_of(folder / f"{name}.png") for folder in (tmp_path / "out", ROOT / "docs"))
        assert taken[0] == kept[0], name
        assert taken[1] == pytest.approx(kept[1], rel=0.25), name


@pytest.mark.browser
def test_what_is_missing_and_what_is_private_is_refused(tmp_path):
    pictures = pytest.importorskip("pictures", reason="playwright is not installed")
    if not pictures.browser.CHROMIUM:
        pytest.skip("no Chromium here: apt-get install chromium")
    with pytest.raises(pictures.KelronError, match=r"no config\.json, data, adapter, report\.html: make demo"):
        pictures.take(tmp_path, tmp_path / "out")
    (tmp_path / "report.html").write_text("<header>runs in /home/somebody</header>", encoding="utf-8")
    with pictures.browser.browser() as chromium:
        camera = pictures.Camera(chromium, tmp_path, ("/home/somebody",))
        with pytest.raises(pictures.KelronError, match="would show /home/somebody"):
            pictures.take_report(camera, tmp_path / "report.html")
    assert not (tmp_path / "scoreboard.png").exists()
