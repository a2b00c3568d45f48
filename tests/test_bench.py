"""The benchmark runs on a CPU with a tiny shape and reports what it says it reports."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "train_step.py"


def run(*options):
    return subprocess.run(
        [sys.executable, str(SCRIPT), *options],
        capture_output=True,
        text=True,
        env={"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PATH": "/usr/bin:/bin", "CUDA_VISIBLE_DEVICES": ""},
    )


@pytest.mark.parametrize("stack", ["kelron", "stock"])
def test_both_stacks_report_speed_and_write_json(stack, tmp_path):
    file = tmp_path / "result.json"
    done = run("--stack", stack, "--steps", "2", "--json", str(file))
    assert done.returncode == 0, done.stderr
    assert "samples/s" in done.stdout
    result = json.loads(file.read_text())
    assert result["stack"] == stack
    assert result["steps"] == 2
    assert result["samples"] == 16 if stack == "stock" else result["samples"] > 2
    assert result["samples_per_second"] == pytest.approx(
        result["samples"] / (result["steps"] * result["seconds_per_step"])
    )


def test_unsloth_that_is_not_installed_is_said_in_one_line():
    done = run("--stack", "unsloth")
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("unsloth is not installed here")


def test_the_distribution_is_the_one_described():
    sys.path.insert(0, str(SCRIPT.parent))
    from harness.models import lengths

    sizes = lengths()
    assert len(sizes) == 4096
    assert sum(sizes) / len(sizes) == pytest.approx(110, abs=1.5)
    assert (min(sizes), max(sizes)) == (16, 512)
