"""The map in CONTRIBUTING.md holds: imports go upwards only, modules are short, importing is cheap."""

import ast
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "kelron_lib"
MODULES = sorted(PACKAGE.rglob("*.py"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
HEAVY = {
    "torch",
    "transformers",
    "peft",
    "bitsandbytes",
    "ipywidgets",
    "huggingface_hub",
    "accelerate",
    "kaggle",
    "pyarrow",
}


def order():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    listing = re.search(r"```text\n(.*?)```", text, re.DOTALL).group(1)
    return [line.split()[0] for line in listing.splitlines()]


def top_name(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            if node.module == "kelron_lib":
                yield from (f"kelron_lib.{alias.name}" for alias in node.names)
            else:
                yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_the_map_names_every_module_and_nothing_else():
    assert sorted(order()) == sorted({top_name(path) for path in MODULES} - {"__init__"})


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_what_stands_above_it(path):
    ranks = {name: rank for rank, name in enumerate(order())}
    own = top_name(path)
    for name in imported(ast.parse(path.read_text(encoding="utf-8"))):
        parts = name.split(".")
        if parts[0] != "kelron_lib" or len(parts) == 1 or parts[1] in (own, "__version__"):
            continue
        assert ranks[parts[1]] < ranks[own], f"{own} imports {parts[1]}, which stands below it"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_stay_readable(path):
    lines = path.read_text(encoding="utf-8").count("\n")
    assert lines <= 400, f"{path.name} has {lines} lines: make it a folder"


def test_every_test_that_the_reliability_page_names_exists():
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")))
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("test_*.py"))
    assert len(named) > 40
    assert {name for name in named if f"def {name}(" not in sources} == set()


def test_relative_imports_are_not_used():
    for path in MODULES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert not any(isinstance(n, ast.ImportFrom) and n.level for n in ast.walk(tree)), path


def test_importing_and_asking_for_help_is_quick_and_light():
    code = "import sys, kelron_lib, kelron_lib.__main__; print(*sorted(m for m in sys.modules if '.' not in m))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not HEAVY & set(loaded)
    for command in (["-c", "import kelron_lib"], ["-m", "kelron_lib", "--help"]):
        assert min(_seconds([sys.executable, *command]) for _ in range(3)) < 1, command


def _seconds(command):
    began = time.monotonic()
    subprocess.run(command, capture_output=True, check=True)
    return time.monotonic() - began


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebooks_carry_no_logic_and_no_outputs(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["id"] for cell in notebook["cells"]] == [f"cell-{i:02d}" for i in range(len(notebook["cells"]))]
    assert sum("parameters" in cell["metadata"].get("tags", []) for cell in code) == 1
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    for cell in code:
        assert cell["outputs"] == []
        assert cell["execution_count"] is None
        source = "".join(cell["source"])
        assert len(source.splitlines()) <= 12
        defined = (ast.FunctionDef, ast.ClassDef, ast.For, ast.While, ast.Try)
        assert not any(isinstance(node, defined) for node in ast.walk(ast.parse(source))), source
