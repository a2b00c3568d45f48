"""Takes the pictures of the README and the docs: real widgets in JupyterLab, the real report, in a headless Chromium.

`make pictures`, or `python tests/pictures.py --run runs/demo --out docs`. What is shown is that run's: its report as it
lies there, its adapter in the chat, and its data in a training that begins anew, in a folder of its own, and is left
when the picture is taken.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import socket
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import browser

from kelron_lib.errors import KelronError

WIDTH, SCALE = 1000, 1.5
"""CSS pixels across the report, and pixels of any picture to one of them."""
WINDOW = {"width": 1500, "height": 1300}
"""A window in which a cell of JupyterLab has room for a widget's whole width, 960."""
LARGEST = 200_000
"""Bytes of a picture."""
TRAINED = 70
"""Per cent of the steps that are done when the training view is taken."""
MARGIN = 40
"""CSS pixels of the page around what is taken of the report."""
PICTURES = ("scoreboard", "chat", "training")
ASKED = ("누구신가요?", "You are Quorin?", "部長宛てメール")
"""The chat's buttons that are pressed: one in each language, two of them about who it is."""
NEEDED = ("config.json", "data", "adapter", "report.html")
# Latin letters and Korean of one family, where the machine has it.
FONTS = """<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "urn:fontconfig:fonts.dtd"><fontconfig>
<include ignore_missing="yes">/etc/fonts/fonts.conf</include>
<match><test name="family"><string>sans-serif</string></test><edit name="family" mode="prepend" binding="strong">
<string>Noto Sans CJK KR</string></edit></match>
<match><test name="family"><string>system-ui</string></test><edit name="family" mode="prepend" binding="strong">
<string>Noto Sans CJK KR</string></edit></match></fontconfig>"""
FAILED = re.compile(r"\w+Error: .*")
"""In a cell's output: its error, as JupyterLab or Kelron shows it."""
BEGIN = """
from pathlib import Path
from kelron_lib.config import from_dict
from kelron_lib.runtime import read_json
run = Path({run!r})
config = from_dict(read_json(run / "config.json"))
"""
TRAIN = """
from kelron_lib.train import train
from kelron_lib.view import training_view
with training_view(config, Path("run")) as say:
    train(config, run / "data", Path("run"), say=say)
"""
CHAT = """
from kelron_lib.chat import open_chat
open_chat(config, run / "adapter")
"""


class Camera:
    """Takes pictures into a folder; `private` are words that none may show."""

    def __init__(self, chromium: Any, out: Path, private: tuple[str, ...]) -> None:
        self.chromium, self.out, self.private = chromium, out, private

    @contextlib.contextmanager
    def page(self, **size: int) -> Iterator[Any]:
        """A fresh page, light, at the scale of all pictures."""
        made = self.chromium.new_page(
            viewport=size, device_scale_factor=SCALE, color_scheme="light", reduced_motion="reduce"
        )
        try:
            yield made
        finally:
            made.close()

    def take(self, name: str, part: Any, around: int = 0) -> None:
        """Picture `part` of a page; of one WIDTH across also what is `around` it, in CSS pixels above and below.

        Raises KelronError where it shows something private or becomes too large.
        """
        shown = part.inner_text()
        if found := [word for word in self.private if word in shown]:
            raise KelronError(f"{name}.png would show {', '.join(found)}")
        path = self.out / f"{name}.png"
        if around:
            box = part.bounding_box()
            area = {"x": 0, "y": box["y"] - around, "width": WIDTH, "height": box["height"] + 2 * around}
            part.page.screenshot(path=path, clip=area, full_page=True)
        else:
            part.screenshot(path=path)
        size = path.stat().st_size
        if size > LARGEST:
            raise KelronError(f"{path} has {size:,} bytes, more than {LARGEST:,}: show less, or lower SCALE")
        print(f"{path}: {size:,} bytes")


def widget(page: Any, address: str, notebook: str, css: str) -> Any:
    """The widget of class `css` that a notebook shows when it is run in JupyterLab."""
    browser.open_lab(page, address, notebook)
    browser.run_all(page)
    shown = page.locator(css)
    shown.or_(_error(page)).first.wait_for(timeout=120_000)
    require_no_error(page)
    return shown


def _error(page: Any) -> Any:
    return page.locator(".jp-OutputArea-output.jp-RenderedText", has_text=FAILED)


def require_no_error(page: Any) -> None:
    """Raise KelronError with a cell's error, if there is one."""
    if told := "".join(_error(page).all_inner_texts()):
        raise KelronError(f"a cell failed: {FAILED.search(told)[0]}")


def take_training(camera: Camera, address: str) -> None:
    """The training view, well into a training."""
    with camera.page(**WINDOW) as page:
        view = widget(page, address, "training.ipynb", ".kelron-view")
        bar = view.get_by_role("progressbar")
        while int(bar.get_attribute("aria-valuenow")) < TRAINED:
            require_no_error(page)
            page.wait_for_timeout(500)
        camera.take("training", view)


def take_chat(camera: Camera, address: str) -> None:
    """The chat cell: base and tuned side by side."""
    with camera.page(**WINDOW) as page:
        chat = widget(page, address, "chat.ipynb", ".kelron-chat")
        chat.locator(".kc-modes label", has_text="Side by side").click()
        for number, label in enumerate(ASKED, 1):
            chat.get_by_role("button", name=label, exact=True).click()
            chat.locator(".kc-user").nth(number - 1).wait_for(timeout=20_000)
            browser.idle(chat)
        page.evaluate("document.activeElement.blur()")
        page.mouse.move(0, 0)
        camera.take("chat", chat)


def take_report(camera: Camera, report: Path) -> None:
    """The top of the report: verdict, and recall in each language."""
    with camera.page(width=WIDTH, height=1000) as page:
        page.goto(report.resolve().as_uri())
        camera.take("scoreboard", page.locator("header"), MARGIN)


def take(run: Path, out: Path, names: Sequence[str] = PICTURES) -> None:
    """The pictures of those names, of the run in folder `run`, into the folder `out`. Raises KelronError where one
    cannot be taken."""
    if not browser.CHROMIUM:
        raise KelronError("no Chromium here: apt-get install chromium")
    if missing := [name for name in NEEDED if not (run / name).exists()]:
        raise KelronError(f"{run} has no {', '.join(missing)}: make demo")
    out.mkdir(parents=True, exist_ok=True)
    named = (str(run.resolve()), str(Path.home()), str(Path.cwd()), socket.gethostname(), browser.TOKEN)
    private = tuple(word for word in named if len(word) > 3)
    with tempfile.TemporaryDirectory(prefix="pictures-") as made, contextlib.ExitStack() as opened:
        folder = Path(made)
        begin = BEGIN.format(run=str(run.resolve()))
        browser.notebook(folder / "training.ipynb", begin + TRAIN)
        browser.notebook(folder / "chat.ipynb", begin + CHAT)
        fonts = folder / "fonts.conf"
        fonts.write_text(FONTS, encoding="utf-8")
        chromium = opened.enter_context(browser.browser({"FONTCONFIG_FILE": str(fonts)}))
        camera = Camera(chromium, out, (*private, made))
        if "scoreboard" in names:
            take_report(camera, run / "report.html")
        if notebooks := [NOTEBOOKS[name] for name in names if name in NOTEBOOKS]:
            with browser.server(folder) as address:
                for shoot in notebooks:
                    shoot(camera, address)


NOTEBOOKS = {"chat": take_chat, "training": take_training}
"""The pictures that need a notebook server."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("runs/demo"), help="a finished demo's folder")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="where the pictures go")
    parser.add_argument("--only", choices=PICTURES, nargs="+", default=PICTURES, help="not all of them")
    options = parser.parse_args(arguments)
    try:
        take(options.run, options.out, options.only)
    except KelronError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
