"""The chat cell and the training view as a person meets them: in JupyterLab and Voila, in a headless Chromium.

One server and one page of JupyterLab for all; Voila's page comes from the same server. Each test runs alone too.
"""

import json
import re
import time
from pathlib import Path

import pytest

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytest.importorskip("jupyterlab", reason="jupyterlab is not installed")

from browser import (
    DARK,
    LIGHT,
    TOKEN,
    Messages,
    browser,
    idle,
    notebook,
    open_lab,
    pale_text,
    run_all,
    server,
    set_theme,
)
from conftest import SMALL

from kelron_lib.evaluate.answers_file import FLAGGED_FILE, score_file
from kelron_lib.evaluate.policy import load_policy
from kelron_lib.persona import load_persona, rival_names

pytestmark = pytest.mark.browser
FIRST_CHARACTER_MS = 300
SLOW = 0.03
"""Seconds added to a token, so that there is an answer to watch and to stop."""
TRAIN = """
import time
from pathlib import Path
from kelron_lib.config import resolve
from kelron_lib.train import train
from kelron_lib.view import training_view
config = resolve("tiny-cpu", {overrides})
with training_view(config, Path("run")) as say:
    train(config, Path({data!r}), Path("run"), say=say)
"""
CHAT = """
from IPython.display import display
from kelron_lib.chat import chat_widget
from kelron_lib.model import load_to_answer
from kelron_lib.persona import load_persona
model, tokenizer = load_to_answer(config, Path("run/adapter"))
model.register_forward_pre_hook(lambda *_: time.sleep({slow}))
display(chat_widget(model, tokenizer, load_persona("kelron"), config))
"""
BASE_ALONE = """
import time
from IPython.display import display
from kelron_lib.chat import chat_widget
from kelron_lib.config import resolve
from kelron_lib.model import load_base
from kelron_lib.persona import load_persona
config = resolve("tiny-cpu")
model, tokenizer = load_base(config)
model.register_forward_pre_hook(lambda *_: time.sleep({slow}))
display(chat_widget(model, tokenizer, load_persona("kelron"), config))
"""
# A model that says what it is told to, or fails as a GPU does, by the question.
STAND_IN = """
import sys
sys.path.insert(0, {tests!r})
import time, torch
from IPython.display import display
from tiny_models import ScriptedModel
from kelron_lib.chat import chat_widget
from kelron_lib.config import resolve
from kelron_lib.model import load_tokenizer
from kelron_lib.persona import load_persona
own = resolve("tiny-cpu")
words = load_tokenizer(own)
lines = (f"**{{n}}.** Item `{{n * 7}}` was settled; the next one is due in {{n % 12 + 1}} days." for n in range(400))
ids = words(" ".join(lines), add_special_tokens=False)["input_ids"]
long = words.decode(ids[:{long} - 1])
def fail(said):
    time.sleep(0.002)
    asked = words.decode(scripted.prompts[-1][-40:]) if said == 3 else ""
    if "memory" in asked:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    if "lost" in asked:
        raise RuntimeError("CUDA error: unspecified launch failure")
scripted = ScriptedModel(words, [long, *["All is well again."] * 5], before_token=fail)
scripted.config.max_position_embeddings = 16384
chat = chat_widget(scripted, words, load_persona("kelron"), own)
chat.panel.settings.length.value = {long} + 500
display(chat)
"""
LONG = 2000
"""Tokens of the long answer."""
BUSY_MS = 400
"""Longest that the page may not answer while a long answer grows."""
# The longest time that the page did nothing else: of its tasks, and between two of its frames.
WATCH_TASKS = """() => {
  window.busy = {task: 0, frame: 0, frames: 0};
  new PerformanceObserver(seen => {
    for (const one of seen.getEntries()) window.busy.task = Math.max(window.busy.task, one.duration);
  }).observe({type: 'longtask'});
  let last = performance.now();
  const frame = now => {
    window.busy.frame = Math.max(window.busy.frame, now - last);
    window.busy.frames += 1;
    last = now;
    requestAnimationFrame(frame);
  };
  requestAnimationFrame(frame);
  return 1;
}"""
# When the page first shows a character of the answer: a message's way there and back is part of the time.
WATCH = """chat => {
  const turns = chat.querySelector('.kc-turns');
  window.first = null;
  const count = () => [...turns.querySelectorAll('.kc-answer .kc-text')].filter(e => e.textContent.length).length;
  const before = count(), began = performance.now();
  const seen = new MutationObserver(() => {
    if (window.first === null && count() > before) { window.first = performance.now() - began; seen.disconnect(); }
  });
  seen.observe(turns, {subtree: true, childList: true, characterData: true});
  return 1;
}"""
CONTROLS = {
    "radio": ["Tuned", "Base", "Side by side"],
    "combobox": ["Language", "System prompt", "Counts as"],
    "spinbutton": ["Temperature", "Longest answer"],
    "textbox": ["Message"],
    "button": ["Send", "Stop", "Regenerate", "Copy", "Save", "Clear", "Who are you?", "Quorin"],
}


@pytest.fixture(scope="module")
def chromium():
    with browser() as made:
        yield made


@pytest.fixture(scope="module")
def folder(tmp_path_factory, small_data):
    made = tmp_path_factory.mktemp("notebooks")
    stand_in = STAND_IN.format(tests=str(Path(__file__).parent), long=LONG)
    training = TRAIN.format(overrides=[*SMALL], data=str(small_data))
    notebook(made / "chat.ipynb", training, CHAT.format(slow=SLOW), stand_in)
    notebook(made / "base.ipynb", BASE_ALONE.format(slow=SLOW))
    return made


@pytest.fixture(scope="module")
def address(folder):
    with server(folder) as given:
        yield given


@pytest.fixture(scope="module")
def lab(chromium, address):
    """JupyterLab's page, where the notebook has just begun to run, and what its console says."""
    page = chromium.new_page(viewport={"width": 1400, "height": 1300})
    errors = Messages().watch(page)
    open_lab(page, address, "chat.ipynb")
    run_all(page)
    yield page, errors
    page.close()


def test_only_messages_that_are_known_are_passed_over():
    seen = Messages()
    icons = "https://cdn.jsdelivr.net/npm/@fortawesome/fontawesome-free@%5E5/css/all.min.css"
    seen.add("Failed to load resource: net::ERR_NAME_NOT_RESOLVED", icons)
    assert seen == []
    for text, url in (
        ("Failed to load resource: net::ERR_NAME_NOT_RESOLVED", "https://cdn.jsdelivr.net/npm/another.js"),
        ("Failed to load resource: the server responded with a status of 404 (Not Found)", "http://127.0.0.1/favicon"),
        ("TypeError: x is undefined\n    at http://127.0.0.1/voila/static/voila.js:1:2", ""),
    ):
        seen.add(text, url)
    assert len(seen) == 3


def answers(chat):
    return chat.locator(".kc-answer .kc-text")


def typed(page, chat, text):
    """Type as fast as the page takes it, Enter right behind; gives what was asked."""
    asked = chat.locator(".kc-user").count()
    chat.get_by_role("textbox", name="Message", exact=True).focus()
    page.keyboard.type(text)
    page.keyboard.press("Enter")
    chat.locator(".kc-user").nth(asked).wait_for(timeout=20_000)
    return chat.locator(".kc-user > span").last.inner_text()


def say(page, chat, text):
    box = chat.get_by_role("textbox", name="Message", exact=True)
    box.fill(text)
    chat.evaluate(WATCH)
    box.press("Enter")
    page.wait_for_function("window.first !== null", timeout=20_000)
    return page.evaluate("window.first")


def test_training_view_and_chat_in_jupyterlab(lab, folder, tmp_path):
    page, errors = lab
    _training(page)
    chat = page.locator(".kelron-chat").first
    chat.wait_for(timeout=60_000)
    _controls_have_names(page, chat)
    _talk(page, chat)
    _keyboard(page, chat)
    _saved(page, chat, folder, tmp_path)
    _widths(page, chat)
    _themes(page, chat)
    _training_widths(page)
    assert not errors, errors


def test_a_long_answer_leaves_the_page_free(lab):
    page, _ = lab
    chat = _stand_in(page)
    page.evaluate(WATCH_TASKS)
    began = time.monotonic()
    say(page, chat, "Please tell me everything.")
    box = chat.get_by_role("textbox", name="Message", exact=True)
    box.press_sequentially("typed meanwhile")
    assert chat.locator(".kc-caret").count() == 1, "the answer was over before anything was typed"
    idle(chat)
    busy = page.evaluate("window.busy")
    shown = len(answers(chat).last.inner_text())
    print(f"{LONG} tokens, {shown} characters in {time.monotonic() - began:.1f} s; {busy}")
    assert box.input_value() == "typed meanwhile"
    assert shown > LONG
    assert max(busy["task"], busy["frame"]) < BUSY_MS, busy


def test_a_gpu_that_fails_is_told_and_the_next_turn_works(lab):
    """First one that is full, then one that is gone; each time what is to be done stands in the page."""
    page, errors = lab
    chat = _stand_in(page)
    for question, told in (
        ("out of memory", "memory is full"),
        ("is it lost?", "restart the kernel and run the cells"),
    ):
        say(page, chat, question)
        idle(chat)
        error = chat.locator(".kc-error").last
        assert told in error.inner_text()
        assert "Traceback" not in error.inner_text(), "folded away"
        assert "ended in an error" in chat.locator(".kc-status").inner_text()
    assert typed(page, chat, "And now, after all that, is it well?") == "And now, after all that, is it well?"
    idle(chat)
    assert answers(chat).last.inner_text() == "All is well again."
    assert chat.locator(".kc-error").count() == 2
    assert not errors, errors


def _stand_in(page):
    chat = page.locator(".kelron-chat").nth(1)
    chat.wait_for(timeout=120_000)
    chat.scroll_into_view_if_needed()
    return chat


def _training(page):
    view = page.locator(".kelron-view")
    view.or_(page.locator("[data-mime-type='application/vnd.jupyter.error']")).first.wait_for(timeout=60_000)
    assert view.is_visible(), page.locator(".jp-OutputArea").first.inner_text()
    steps = view.get_by_text(re.compile(r"^step \d+ of"))
    steps.wait_for(timeout=60_000)
    assert not view.get_by_role("region", name="What it said").is_visible()
    fold = view.get_by_role("checkbox", name="What it said")
    assert fold.evaluate("e => e.tabIndex") == 0
    fold.focus()
    page.keyboard.press("Space")
    first = steps.inner_text()
    page.wait_for_function(
        "first => !document.querySelector('.kelron-view').innerText.includes(first)", arg=first, timeout=60_000
    )
    assert view.get_by_role("region", name="What it said").is_visible(), "the view closed what somebody had opened"
    view.get_by_text("Finished", exact=True).wait_for(timeout=90_000)


def _controls_have_names(page, chat):
    for role, names in CONTROLS.items():
        for name in names:
            assert chat.get_by_role(role, name=name).first.is_visible(), f"{role} {name}"
    unnamed = "button, input, select, textarea"
    for control in chat.locator(unnamed).all():
        if control.is_visible():
            tree = control.aria_snapshot()
            assert '"' in tree, f"a control without a name: {tree}"


def _talk(page, chat):
    chat.locator(".kc-modes label", has_text="Base").click()
    chat.get_by_label("Language").select_option("English")
    times = []
    for _ in range(3):
        times.append(say(page, chat, "Hello, who are you?"))
        idle(chat)
    assert min(times) < FIRST_CHARACTER_MS + 1000 * SLOW * 2, times  # a prompt's pass and a token's are both slowed
    print(f"first character after {', '.join(f'{each:.0f} ms' for each in times)}, {2000 * SLOW:.0f} of them made")
    flagged = chat.locator(".kc-answer").last
    assert flagged.locator(".kc-flag", has_text="contradiction").count() == 1
    assert "Quorin" in flagged.locator("mark").first.inner_text()
    assert "contradiction" in chat.get_by_role("status").inner_text()
    say(page, chat, "Please write a long report about our meeting.")
    short = len(answers(chat).last.inner_text())
    page.wait_for_function(
        "n => [...document.querySelectorAll('.kc-text')].at(-1).textContent.length > n", arg=short, timeout=10_000
    )
    box = chat.get_by_role("textbox", name="Message", exact=True)
    box.fill("second")
    box.press("Enter")
    chat.get_by_text("An answer is still being written").wait_for(timeout=5_000)
    chat.get_by_role("button", name="Stop").click()
    idle(chat)
    assert "stopped" in chat.locator(".kc-answer").last.inner_text()
    turns = chat.locator(".kc-user").count()
    chat.get_by_role("button", name="Regenerate").click()
    chat.locator(".kc-note", has_text="stopped").wait_for(state="detached", timeout=5_000)
    idle(chat)
    assert chat.locator(".kc-user").count() == turns
    assert "stopped" not in chat.locator(".kc-answer").last.inner_text()
    box.press("Enter")  # what was refused stands there still
    chat.locator(".kc-user", has_text="second").wait_for(timeout=5_000)
    idle(chat)
    assert box.input_value() == ""
    chat.locator(".kc-modes label", has_text="Side by side").click()
    chat.get_by_role("button", name="You are Quorin?").click()
    page.wait_for_function("document.querySelectorAll('.kc-turns .kc-answers:not(.kc-one)').length > 0", timeout=20_000)
    idle(chat)
    both = [one.bounding_box() for one in chat.locator(".kc-answers").last.locator(".kc-answer").all()]
    assert len(both) == 2
    assert both[0]["y"] == pytest.approx(both[1]["y"], abs=1)
    assert both[0]["x"] + both[0]["width"] <= both[1]["x"]
    chat.get_by_role("button", name="Copy").click()
    plain = chat.get_by_role("textbox", name="Last answer as plain text")
    plain.wait_for(timeout=5_000)
    assert plain.input_value().startswith("Base:\n")
    page.wait_for_function("document.activeElement.tagName === 'TEXTAREA'", timeout=5_000)


def _keyboard(page, chat):
    """From the message on, Tab passes by the buttons in the order they stand in; Enter presses one. Space chooses who
    answers, Alt+Down opens a list whose arrow keys JupyterLab would otherwise take."""
    for name in ("Base", "Side by side"):
        chat.get_by_role("radio", name=name).focus()
        page.keyboard.press("Space")
        assert chat.get_by_role("radio", name=name).is_checked()
    language = chat.get_by_label("Language")
    language.focus()
    before = language.input_value()
    for key in ("Alt+ArrowDown", "ArrowUp", "Enter"):
        page.keyboard.press(key)
        page.wait_for_timeout(300)
    assert language.input_value() != before
    unseen = "e => { e.focus({focusVisible: true}); return getComputedStyle(e).outlineStyle !== 'solid'; }"
    for part in chat.locator("button:enabled, select, input:not([type=radio])").all():
        assert not part.evaluate(unseen), f"no frame around what has the focus: {part.aria_snapshot()}"
    chat.get_by_role("textbox", name="Message", exact=True).focus()
    passed = []
    for _ in range(5):
        page.keyboard.press("Tab")
        passed.append(page.evaluate("document.activeElement.innerText || document.activeElement.tagName"))
    assert passed == ["Send", "Regenerate", "Copy", "Save", "Clear"]


def _saved(page, chat, folder, out):
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    chat.get_by_text(re.compile(r"answers saved")).wait_for(timeout=5_000)
    path = folder / "chat-01.jsonl"
    score_file(path, load_persona("kelron"), rival_names(), out / "scored", load_policy("tiny"))
    lines = [json.loads(line) for line in (out / "scored" / FLAGGED_FILE).read_text("utf-8").splitlines()]
    assert {line["model"] for line in lines} == {"base", "tuned"}
    assert lines[0]["flags"]["contradiction"]


def _widths(page, chat):
    """At 380 the cell alone is narrowed: the page's own side bar would leave it less than half of such a window."""
    for width in (1400, 800, 380):
        page.set_viewport_size({"width": max(width, 800), "height": 1300})
        chat.evaluate("(e, w) => { e.style.maxWidth = w + 'px'; }", width if width == 380 else 960)
        time.sleep(0.4)
        wide = "e => e.scrollWidth - e.clientWidth"
        assert chat.evaluate(wide) <= 0, width
        assert chat.locator(".kc-transcript").evaluate(wide) <= 0, width
        right = chat.evaluate("e => e.getBoundingClientRect().right")
        for part in chat.locator("button, select, input:not([type=radio]), .kc-answer").all():
            box = part.bounding_box()
            assert box is None or box["x"] + box["width"] <= right + 1, (width, part.aria_snapshot())
        message, send, stop = (
            chat.get_by_role(role, name=name, exact=True).bounding_box()["y"]
            for role, name in (("textbox", "Message"), ("button", "Send"), ("button", "Stop"))
        )
        assert abs(message - stop) < 4, width
        assert abs(send - stop) < 1, width


def _training_widths(page):
    """Nothing of the view is cut off, and its chart stays within."""
    view = page.locator(".kelron-view")
    inside = """e => [...e.querySelectorAll('.kv-head, .kv-bar, .kv-tiles > *, .kv-chart, .kv-chart *')]
        .filter(x => x.getBoundingClientRect().right > e.getBoundingClientRect().right + 1).map(x => x.outerHTML)"""
    for width in (1400, 800, 380):
        page.set_viewport_size({"width": max(width, 800), "height": 1300})
        view.evaluate("(e, w) => { e.style.maxWidth = w + 'px'; }", min(width, 960))
        time.sleep(0.4)
        assert view.locator(".kv-tiles > *").count() >= 4
        assert view.evaluate("e => e.scrollWidth - e.clientWidth") <= 0, width
        assert view.evaluate(inside) == [], width
    said = view.get_by_role("region", name="What it said")
    heights = "e => { const p = e.firstElementChild; return [p.scrollHeight, p.clientHeight, e.clientHeight]; }"
    whole, shown, room = said.evaluate(heights)
    assert whole > room, "the lines have room here, so this shows nothing"
    assert shown == whole, "the lines scroll in a box of their own, their beginning in view"
    bottom = "e => e.firstElementChild.getBoundingClientRect().bottom - e.getBoundingClientRect().bottom"
    assert said.evaluate(bottom) <= 1, "the newest line is not in view"


def _themes(page, chat):
    """Text stands out from what is behind it in both themes, also where an answer is marked."""
    assert chat.locator("mark").count()
    for theme in (DARK, LIGHT):
        set_theme(page, theme)
        for part in (chat, page.locator(".kelron-view")):
            assert pale_text(part) == [], theme
            assert pale_text(part, 21.5), "this finds nothing"


def test_chat_in_voila(chromium, address):
    pytest.importorskip("voila", reason="voila is not installed")
    page = chromium.new_page(viewport={"width": 380, "height": 900})
    errors = Messages().watch(page)
    page.goto(f"{address}/voila/render/base.ipynb?token={TOKEN}", timeout=60_000)
    chat = page.locator(".kelron-chat")
    chat.wait_for(timeout=60_000)
    say(page, chat, "Hello, who are you?")
    idle(chat)
    assert chat.locator(".kc-answer").count() == 1
    for width in (380, 800, 1400):
        page.set_viewport_size({"width": width, "height": 900})
        assert chat.evaluate("e => e.scrollWidth - e.clientWidth") <= 0, width
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, width
    page.close()
    assert not errors, errors
