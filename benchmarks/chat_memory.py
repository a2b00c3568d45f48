"""Whether the chat cell's memory grows over many turns: in the kernel, and with --browser in the page too.

    python benchmarks/chat_memory.py            # 200 turns in one process
    python benchmarks/chat_memory.py --browser  # in JupyterLab's kernel, drawn by a real Chromium

The tiny base with an adapter of random weights answers side by side, as a person would ask: by the widget's own send.
Memory of the process is its own alone (USS), after a collection of garbage; `said` is what the dialogue keeps for its
file, as JSON; `state` what the widgets hold, as the page is sent it. In the browser: the page's JavaScript heap and
its nodes, after a collection there. What matters is the growth from the turn on at which the page is full: until then
each turn is one more on the page.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
QUESTIONS = (
    "Hello, who are you?",
    "너 Quorin이지? 모델 이름이 뭐야?",
    "Please write a short report about our meeting.",
    "会議の日程を教えてください。",
)
CELL = """
import sys, time
from pathlib import Path
sys.path.insert(0, {here!r})
import chat_memory
from IPython.display import display
panel = chat_memory.make_panel({length})
display(panel.root)
for turns in {marks}:
    chat_memory.talk(panel, turns)
    chat_memory.tell(panel, Path("at-%d.json" % turns))
    while not Path("seen-%d" % turns).exists():
        time.sleep(0.05)
"""


def make_panel(length: int) -> Any:
    """The chat's panel over the tiny base with a random adapter, answers of up to `length` tokens."""
    import torch
    from harness.models import add_adapter

    from kelron_lib.chat import chat_widget
    from kelron_lib.config import resolve
    from kelron_lib.model import load_base, quiet_libraries
    from kelron_lib.persona import load_persona

    torch.set_num_threads(1)
    config = resolve("tiny-cpu", [f"evaluate.max_new_tokens={length}"])
    with quiet_libraries():
        base, tokenizer = load_base(config)
        model = add_adapter(base, r=4, dropout=0.0).eval()
    panel = chat_widget(model, tokenizer, load_persona(config.data.persona), config).panel
    panel.settings.mode.value = "both"
    return panel


def talk(panel: Any, until: int) -> None:
    """Send questions until there were `until` turns."""
    for turn in range(len(panel.dialogue.records) // 2, until):
        panel.entry.text.value = QUESTIONS[turn % len(QUESTIONS)]
        panel.send()
        panel.wait()


def measure(panel: Any) -> dict[str, float]:
    """What the kernel holds now."""
    import comm
    import psutil
    from ipywidgets import Widget
    from ipywidgets.widgets.widget import _instances

    gc.collect()
    state = Widget.get_manager_state(drop_defaults=False)["state"]
    said = sum(len(json.dumps(record, ensure_ascii=False).encode()) for record in panel.dialogue.records)
    return {
        "turns": len(panel.dialogue.records) // 2,
        "own_mib": psutil.Process().memory_full_info().uss / 2**20,
        "widgets": len(_instances),
        "comms": len(comm.get_comm_manager().comms),
        "state_kib": len(json.dumps(state, default=str).encode()) / 2**10,
        "said_kib": said / 2**10,
    }


def tell(panel: Any, path: Path) -> None:
    """Write what `measure` finds, whole or not at all."""
    path.with_suffix(".part").write_text(json.dumps(measure(panel)))
    path.with_suffix(".part").rename(path)


def in_process(marks: list[int], length: int) -> Iterator[dict[str, float]]:
    """The figures at each mark, in this process."""
    panel = make_panel(length)
    for turns in marks:
        talk(panel, turns)
        yield measure(panel)


def in_browser(marks: list[int], length: int) -> Iterator[dict[str, float]]:
    """The figures at each mark, of a JupyterLab's kernel and of the page that shows it."""
    sys.path.insert(0, str(HERE.parent / "tests"))
    from browser import browser, notebook, open_lab, run_all, server

    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    with tempfile.TemporaryDirectory() as name, server(Path(name)) as address, browser() as chromium:
        folder = Path(name)
        notebook(folder / "chat.ipynb", CELL.format(here=str(HERE), length=length, marks=marks))
        page = chromium.new_page(viewport={"width": 1400, "height": 1200})
        tools = page.context.new_cdp_session(page)
        tools.send("Performance.enable")
        open_lab(page, address, "chat.ipynb")
        run_all(page)
        for turns in marks:
            while not (told := folder / f"at-{turns}.json").exists():
                page.wait_for_timeout(200)
            page.wait_for_timeout(500)  # the last of it is drawn
            tools.send("HeapProfiler.collectGarbage")
            found = {one["name"]: one["value"] for one in tools.send("Performance.getMetrics")["metrics"]}
            page_figures = {"heap_mib": found["JSHeapUsedSize"] / 2**20, "nodes": found["Nodes"]}
            yield json.loads(told.read_text()) | page_figures
            (folder / f"seen-{turns}").touch()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=200, metavar="N")
    parser.add_argument("--every", type=int, default=40, metavar="N", help="turns between two looks")
    parser.add_argument("--length", type=int, default=8, metavar="N", help="tokens of an answer at most")
    parser.add_argument("--browser", action="store_true", help="in JupyterLab and Chromium")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    args = parser.parse_args()
    marks = [*range(args.every, args.turns + 1, args.every)]
    began, rows = time.perf_counter(), []
    with contextlib.closing((in_browser if args.browser else in_process)(marks, args.length)) as looks:
        for row in looks:
            rows.append(row)
            print("  ".join(f"{name} {value:,.1f}" for name, value in row.items()), flush=True)
    print(f"{time.perf_counter() - began:.0f} s")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
