"""One real session of the chain, and the cap that ends one that hangs: what the default run of the tests has of a whole
run on Kaggle (tests/test_kaggle_whole.py)."""

import json
import os
import subprocess
import sys

import kaggle_image
import psutil
from dataset_files import rows_in
from kaggle_stand_in import USER
from kaggle_world import Notebooks, World

CAP = 8.0


def test_the_command_line_stages_pushes_and_fetches_what_a_session_made(image, wheels, clone, tmp_path):
    play = Notebooks(tmp_path / "sessions", lambda folder: kaggle_image.make_machine(folder, image))
    with World(play, queue=0.2, slow=0.2) as world:

        def command(verb, *options):
            options = (verb, "--preset", "tiny-cpu", "--set", "data.rows=240", *options)
            environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "KELRON_PYTHON": sys.executable}
            done = subprocess.run(
                [str(clone / "scripts" / "push_kernels.sh"), *options],
                env=environment | world.environment(),
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, done.stdout + done.stderr
            return done.stdout

        command("run", "--once", "--poll", "0.1", "--wheels", str(wheels))
        world.wait(120)
        (session,) = world.versions("kelron-01-data")
        assert session.status == "COMPLETE", session.lines[-5:]
        told = command("output", "data", "--to", str(tmp_path / "output"))
        assert told.endswith(f"in {tmp_path / 'output'}\n")
        assert command("status").endswith("next: push train the first training session\n")
    data = tmp_path / "output" / "runs" / "kelron" / "data"
    assert (data / "quality.json").is_file()
    assert len(rows_in(data)) > 100
    assert any(line.startswith("Kelron ") and "commit" in line for line in session.lines)


def test_a_session_that_hangs_is_killed_at_the_cap_with_all_its_processes(image, tmp_path):
    play = Notebooks(tmp_path / "sessions", lambda folder: kaggle_image.make_machine(folder, image))
    cell = {"cell_type": "code", "id": "a", "metadata": {}, "outputs": [], "execution_count": None}
    notebook = {
        "cells": [cell | {"source": "import time\ntime.sleep(3600)"}],
        "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    with World(play, cap=lambda *_: CAP) as world:
        world.save_kernel({"slug": f"{USER}/x", "newTitle": "It hangs", "text": json.dumps(notebook)})
        world.wait(60)
        (session,) = world.versions("it-hangs")
    assert session.status == "CANCEL_ACKNOWLEDGED"
    assert session.message.startswith("Your notebook was canceled after ")
    assert CAP <= session.seconds < CAP + 20
    assert not [p for p in psutil.process_iter(["cmdline"]) if str(tmp_path) in " ".join(p.info["cmdline"] or ())]
