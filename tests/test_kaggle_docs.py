"""What the pages on Kaggle tell people to type can be typed, and runs on a machine without torch."""

import re
import shlex
import subprocess
import sys

import pytest
import yaml
from kaggle_image import ROOT

from kelron_lib.kaggle_ops.__main__ import _parser

PAGES = ("README.md", "README.ko.md", "docs/kaggle.md", "docs/kaggle-schedule.yml")
WORKFLOW = yaml.safe_load((ROOT / "docs" / "kaggle-schedule.yml").read_text())


def commands():
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        for match in re.finditer(r"scripts/push_kernels\.sh((?: +|\n +| *\n)[a-z][^`|\n#]*)", text):
            words = match[1].replace("$RUN", WORKFLOW["jobs"]["turn"]["env"]["RUN"])
            yield pytest.param(shlex.split(words), id=f"{page}:{' '.join(words.split())}")


@pytest.mark.parametrize("words", [*commands()])
def test_a_command_in_the_pages_is_one(words, monkeypatch):
    args = _parser().parse_args(words)
    assert callable(args.run)


def test_every_verb_is_in_the_page():
    (verbs,) = [a for a in _parser()._actions if getattr(a, "choices", None)]
    page = (ROOT / "docs" / "kaggle.md").read_text(encoding="utf-8")
    for verb in verbs.choices:
        assert re.search(rf"push_kernels\.sh\s+{verb}\b", page), verb


def test_the_schedule_makes_one_turn_and_needs_no_torch():
    steps = " ".join(str(step.get("run", "")) for step in WORKFLOW["jobs"]["turn"]["steps"])
    assert "--once" in steps
    heavy = (
        "torch",
        "transformers",
        "peft",
        "accelerate",
        "bitsandbytes",
        "ipywidgets",
        "safetensors",
        "numpy",
        "pyarrow",
    )
    code = (
        f"import sys\nfor name in {heavy!r}: sys.modules[name] = None\n"
        "from kelron_lib.kaggle_ops.__main__ import main\n"
        "from kelron_lib.kaggle_ops.chain import scoreboard\nfrom kelron_lib.kaggle_ops.quota import need\n"
        "from kelron_lib.config import load_preset\nprint(need(load_preset('kelron-14b-t4x2'), None).sessions)\n"
        "from kelron_lib.evaluate import scoreboard_table\nmain(['run', '--help'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.splitlines()[0]) >= 1
