"""A real browser on a real notebook server, both on this machine: Chromium by Playwright, JupyterLab or Voila."""

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import nbformat
import playwright.sync_api

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)
START_SECONDS = 90
TOKEN = "kelron-test"
LIGHT, DARK = "JupyterLab Light", "JupyterLab Dark"
NO_NEWS = {"fetchNews": "false", "checkForUpdates": False}
"""JupyterLab's setting that keeps its question about news from covering the page."""
# Text that stands out too little from what is behind it (WCAG's contrast, level AA), with the ratio. Colours go through
# a canvas, as mixed ones have many notations.
PALE = """(root, least) => {
  const pen = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true});
  const rgba = colour => { pen.clearRect(0, 0, 1, 1); pen.fillStyle = colour; pen.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = pen.getImageData(0, 0, 1, 1).data; return [r, g, b, a / 255]; };
  const over = (top, under) => [0, 1, 2].map(i => top[i] * top[3] + under[i] * (1 - top[3]));
  const behind = element => { const layers = [];
    for (let e = element; e; e = e.parentElement) layers.push(rgba(getComputedStyle(e).backgroundColor));
    return layers.reverse().reduce((under, layer) => over(layer, under), [255, 255, 255]); };
  const light = colour => { const [r, g, b] = colour.map(c => c / 255).map(
    c => c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4); return .2126 * r + .7152 * g + .0722 * b; };
  const pale = [], walk = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  for (let node = walk.nextNode(); node; node = walk.nextNode()) {
    const e = node.parentElement;
    if (!node.data.trim() || e.closest('style, script, :disabled') || !e.checkVisibility({opacityProperty: true}))
      continue;
    const under = behind(e), [a, b] = [over(rgba(getComputedStyle(e).color), under), under].map(light);
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < least) pale.push(`${node.data.trim().slice(0, 40)}: ${ratio.toFixed(2)}`);
  }
  return pale;
}"""
LEAST_CONTRAST = 4.5
HARMLESS = {
    r"Failed to load resource: net::ERR_\w+ @ https://cdn\.jsdelivr\.net/npm/@fortawesome/fontawesome-free@[^/]+/css/"
    r"(all|v4-shims)\.min\.css": "Voila's page asks a network for its icons, and there is none",
    r"Failed to load resource: net::ERR_\w+ @ https://cdnjs\.cloudflare\.com/ajax/libs/mathjax/\S+": "and for MathJax",
    r"Error: The getter for the shared module is not a function\..+ #RUNTIME-012\n"
    r"args: \{\"shareKey\":\"@jupyterlab/\w+\"\}\n.+\n +at \S+/voila/labextensions/(?!@jupyter-widgets/)[^\0]+": (
        "an extension of JupyterLab that happens to be installed asks for a part that Voila does not ship"
    ),
    r"ResizeObserver loop completed with undelivered notifications\.": (
        "Chromium's note that a layout took two frames, by chance when JupyterLab's window changes its size"
    ),
}
"""The whole messages of the console that are none of ours, as patterns, and why each comes."""


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def notebook(path, *cells, metadata=None):
    """Write a notebook of these code cells."""
    made = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(cell) for cell in cells],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}, **(metadata or {})},
    )
    for number, cell in enumerate(made.cells):
        cell["id"] = f"cell-{number:02d}"
    path.write_text(nbformat.writes(made), encoding="utf-8")
    return path


@contextlib.contextmanager
def server(folder, kind="lab"):
    """A JupyterLab (`lab`) or Voila (`voila`) on `folder`; gives its address."""
    port = free_port()
    environment = {
        **os.environ,
        "JUPYTER_CONFIG_DIR": str(folder / ".config"),
        "JUPYTER_DATA_DIR": str(folder / ".data"),
        "JUPYTER_RUNTIME_DIR": str(folder / ".runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(folder / ".settings"),
        "OMP_NUM_THREADS": "1",
    }
    environment.pop("KELRON_BATCH", None)
    news = folder / ".settings/@jupyterlab/apputils-extension/notification.jupyterlab-settings"
    news.parent.mkdir(parents=True, exist_ok=True)
    news.write_text(json.dumps(NO_NEWS), encoding="utf-8")
    shared = [f"--port={port}", "--no-browser"]
    if kind == "lab":
        command = ["jupyter", "lab", *shared, f"--IdentityProvider.token={TOKEN}", "--allow-root"]
        command += [
            "--ServerApp.port_retries=0",
            f"--ServerApp.root_dir={folder}",
            "--LabApp.expose_app_in_browser=True",
        ]
        asked = f"http://127.0.0.1:{port}/api/status?token={TOKEN}"
    else:
        command = ["voila", *shared, str(folder)]
        asked = f"http://127.0.0.1:{port}/"
    log = (folder / f"{kind}.log").open("wb")
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=folder,
        env=environment,
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    try:
        _wait_for(asked, process, folder / f"{kind}.log")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
        log.close()


def _wait_for(address, process, log):
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        if process.poll() is not None:
            break
        with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=5):
            return
        time.sleep(0.3)
    raise AssertionError(f"the notebook server did not start:\n{log.read_text(errors='replace')[-3000:]}")


@contextlib.contextmanager
def browser(environment=None):
    """A headless Chromium, with more variables if given, or a skip that says why there is none."""
    import pytest

    if not CHROMIUM:
        pytest.skip("no Chromium here: apt-get install chromium")
    with playwright.sync_api.sync_playwright() as driver:
        made = driver.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"], env={**os.environ, **(environment or {})}
        )
        try:
            yield made
        finally:
            made.close()


class Messages(list):
    """Errors that a page wrote to its console."""

    def watch(self, page):
        page.on("console", lambda message: self.add(*_told(message)) if message.type == "error" else None)
        page.on("pageerror", lambda error: self.add(str(error)))
        return self

    def add(self, text, url=""):
        told = f"{text} @ {url}" if url else text
        if not any(re.fullmatch(pattern, told) for pattern in HARMLESS):
            self.append(told)


def _told(message):
    return message.text, message.location.get("url", "")


def open_lab(page, address, path):
    """Open a notebook in JupyterLab and wait until its kernel is idle."""
    page.goto(f"{address}/lab/tree/{path}?token={TOKEN}&reset")
    page.locator(".jp-Notebook").wait_for(timeout=60_000)
    page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").wait_for(timeout=60_000, state="attached")
    # The indicator says idle before there is a session, and a run would then ask for a kernel.
    page.get_by_text(re.compile(r"\| Idle$")).wait_for(timeout=60_000)


def run_all(page):
    """Run every cell, as its menu does; again where the page was not ready to."""
    for _ in range(10):
        page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells'); return 1; }")
        prompts = page.locator(".jp-InputPrompt", has_text=re.compile(r"\[(\*|\d+)\]"))
        with contextlib.suppress(playwright.sync_api.TimeoutError):
            prompts.first.wait_for(timeout=2_000, state="attached")
            return
    raise AssertionError("no cell of the notebook runs")


def set_theme(page, name):
    """Change JupyterLab's theme and wait until it is there."""
    page.evaluate("n => { window.jupyterapp.commands.execute('apputils:change-theme', {theme: n}); return 1; }", name)
    page.locator(f"body[data-jp-theme-name='{name}']").wait_for(timeout=20_000, state="attached")
    page.wait_for_timeout(500)  # the sheet of colours arrives after the name


def pale_text(locator, least=LEAST_CONTRAST):
    """Text in this element that is hard to read on what is behind it."""
    return locator.evaluate(PALE, least)


def idle(chat):
    """Wait until no answer is being written."""
    chat.locator(".kc-caret").wait_for(state="detached", timeout=20_000)
    chat.get_by_role("button", name="Stop").and_(chat.page.locator(":disabled")).wait_for(timeout=20_000)
