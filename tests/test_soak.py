"""Training killed at random moments, over every kind of store, in one process and in two: see soak.py."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_twenty_kills_cost_no_checkpoint_and_change_no_bit(tmp_path):
    told, report = tmp_path / "rows.json", tmp_path / "report.md"
    report.write_text("before <!-- soak -->an older table<!-- end of soak --> after\n")
    command = [
        sys.executable,
        str(HERE / "soak.py"),
        "--processes",
        "1",
        "2",
        "--kills",
        "17",
        "3",
        "--json",
        str(told),
        "--report",
        str(report),
    ]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1400)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = json.loads(told.read_text())
    assert {(row["store"], row["processes"]) for row in rows} == {
        (store, count) for store in ("folder", "bucket", "repo") for count in (1, 2)
    }
    assert sum(row["kills"] for row in rows) >= 20
    assert [(row["store"], row["lost_checkpoints"], row["broken"]) for row in rows if row["broken"]] == []
    assert all(row["runs"] for row in rows)
    assert any(row["machines_lost"] for row in rows)
    text = report.read_text()
    assert text.startswith("before <!-- soak -->\n`python tests/soak.py --processes 1 2 --kills 17 3`, 20")
    assert text.endswith("<!-- end of soak --> after\n")
    assert "an older table" not in text
    assert f"{sum(row['kills'] for row in rows)} kills in " in text
    assert sum(line.startswith(("| folder |", "| bucket |", "| repo |")) for line in text.splitlines()) == len(rows)
