"""The chat as an ipywidgets cell: base and tuned from one loaded model, streamed from a background thread."""

from __future__ import annotations

import contextlib
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from kelron_lib.chat import markup
from kelron_lib.chat.dialogue import BASE, BOTH, NONE, OWN, PERSONA, TUNED, Dialogue
from kelron_lib.chat.flags import examine
from kelron_lib.chat.markup import Bubble
from kelron_lib.config import RunConfig
from kelron_lib.errors import KelronError
from kelron_lib.persona import Persona

LANGUAGE_NAMES = (("한국어", "ko"), ("English", "en"), ("日本語", "ja"))
UPDATE_SECONDS = 0.05
"""Least time between two updates of a growing answer: about 20 a second."""


def chat_widget(model: Any, tokenizer: Any, persona: Persona, cfg: RunConfig) -> Any:
    """The chat as an ipywidgets VBox; its `panel` is the ChatPanel behind it.

    Enter or Send asks; the answer grows in a thread, so that the kernel stays free. A prompt sent while an answer
    is being written is refused. Raises KelronError where the tokenizer cannot end answers.
    """
    return ChatPanel(Dialogue(model, tokenizer, persona, cfg)).root


class ChatPanel:
    """The widgets of one chat, and the thread that writes the present answer."""

    def __init__(self, dialogue: Dialogue) -> None:
        self.dialogue = dialogue
        self._cancel = threading.Event()
        self._clear_after = False
        self._thread: threading.Thread | None = None
        self._build_settings()
        self._build_transcript()
        self._build_input()
        self.root = self._assemble()

    # Layout

    def _build_settings(self) -> None:
        import ipywidgets as widgets

        dialogue = self.dialogue
        name = dialogue.persona.name["en"]
        modes = [("Tuned", TUNED), ("Base", BASE), ("Side by side", BOTH)]
        self.mode = widgets.RadioButtons(
            options=modes if TUNED in dialogue.models else [("Base", BASE)],
            value=dialogue.mode,
            description="Who answers",
            tooltip="Tuned: the model with its adapter; base: the same model without it",
            orientation="horizontal",
        )
        self.mode.add_class("kc-modes").add_class("kc-nolabel")
        self.language = widgets.Dropdown(
            options=LANGUAGE_NAMES,
            value=dialogue.language,
            description="Language",
            tooltip="Language of the persona's system prompt",
            style={"description_width": "auto"},
            layout={"width": "auto"},
        )
        self.system = widgets.Dropdown(
            options=[(f"{name}'s", PERSONA), ("none", NONE), ("my own", OWN)],
            value=PERSONA,
            description="System prompt",
            tooltip="The persona's, an empty one, or your own text",
            style={"description_width": "auto"},
            layout={"width": "auto"},
        )
        self.own_system = widgets.Textarea(
            placeholder="Your own system prompt",
            description="Own system prompt",
            layout={"display": "none", "width": "100%", "height": "60px"},
        )
        self.own_system.add_class("kc-nolabel")
        self.system.observe(self._show_own_system, "value")

    def _build_transcript(self) -> None:
        import ipywidgets as widgets

        self._empty = widgets.HTML(markup.empty(self.dialogue.persona.name["en"]))
        self.turns = widgets.VBox([self._empty])
        self.turns.add_class("kc-turns")
        # A reversed column keeps its scroll position at the end, so the newest text stays in view.
        self._transcript = widgets.VBox([self.turns], layout={"height": "420px"})
        self._transcript.add_class("kc-transcript")
        self.status = widgets.HTML(markup.status(""))

    def _build_input(self) -> None:
        import ipywidgets as widgets

        self.text = widgets.Text(
            placeholder="Write a message; Enter sends it", description="Message", layout={"width": "auto"}
        )
        self.text.add_class("kc-input").add_class("kc-nolabel")
        # The front end's own message for Enter: watching the value would also send on leaving the box.
        self.text.on_msg(self._on_text_message)
        self.send_button = self._button("Send", "Send the message", self.send, "primary")
        self.stop_button = self._button("Stop", "Stop the answer that is being written", self.stop)
        self.stop_button.disabled = True
        self.clear_button = self._button("Clear", "Forget the conversation", self.clear)

    def _button(self, label: str, tooltip: str, action: Any, kind: str = "") -> Any:
        import ipywidgets as widgets

        button = widgets.Button(
            description=label, tooltip=tooltip, button_style=kind, layout={"width": "auto", "min_width": "64px"}
        )
        button.on_click(lambda _: action())
        return button

    def _assemble(self) -> Any:
        import ipywidgets as widgets

        settings = widgets.HBox([self.mode, self.language, self.system])
        entry = widgets.HBox([self.text, self.send_button, self.stop_button, self.clear_button])
        for row in (settings, entry):
            row.add_class("kc-row")
        parts = [widgets.HTML(markup.STYLE), settings, self.own_system, self._transcript, self.status, entry]
        root = widgets.VBox(parts)
        root.add_class("kelron-chat")
        root.panel = self
        return root

    def _show_own_system(self, _: Any) -> None:
        self.own_system.layout.display = None if self.system.value == OWN else "none"

    def _on_text_message(self, _: Any, content: dict[str, Any], buffers: Any) -> None:
        if content.get("event") == "submit":
            self.send()

    def _say(self, text: str, *, warn: bool = False) -> None:
        self.status.value = markup.status(text, warn=warn)

    # Actions of the person; they run in the kernel's own thread

    @property
    def busy(self) -> bool:
        """Whether an answer is being written."""
        return self._thread is not None and self._thread.is_alive()

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the present answer has ended, at most `timeout` seconds."""
        if self._thread is not None:
            self._thread.join(timeout)

    def send(self) -> None:
        """Ask what is in the text box; refused, with a message, while an answer is being written."""
        import ipywidgets as widgets

        if self.busy:
            self._say("An answer is still being written: wait for its end, or press Stop.", warn=True)
            return
        prompt = self.text.value.strip()
        if not prompt:
            self._say("Write a message first.")
            return
        # Settings are taken here, so that a change during the answer counts from the next one on.
        dialogue = self.dialogue
        dialogue.set_mode(self.mode.value)
        dialogue.set_language(self.language.value)
        dialogue.system, dialogue.own_system = self.system.value, self.own_system.value
        self.text.value = ""
        view = widgets.HTML(markup.turn(prompt, dialogue.language, []))
        self.turns.children = (*(child for child in self.turns.children if child is not self._empty), view)
        self._cancel.clear()
        self.stop_button.disabled = False
        self._thread = threading.Thread(target=self._write, args=(prompt, view), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the present answer at its next token."""
        self._cancel.set()

    def clear(self) -> None:
        """Forget the conversation; an answer being written is stopped first."""
        if self.busy:
            self._clear_after = True
            self.stop()
            return
        self._clear_after = False
        self.dialogue.reset()
        gone, self.turns.children = self.turns.children, (self._empty,)
        for child in gone:
            if child is not self._empty:
                child.close()
        self._say("")

    # The thread that writes

    def _write(self, prompt: str, view: Any) -> None:
        bubbles: list[Bubble] = []

        def show() -> None:
            view.value = markup.turn(prompt, self.dialogue.language, bubbles)

        try:
            for which in self.dialogue.answering():
                if not self._cancel.is_set():
                    self._say(f"{which.capitalize()} is writing")
                    self._stream(prompt, which, bubbles, show)
            self._say("Stopped." if self._cancel.is_set() else "")
        except KelronError as error:
            self._fail(bubbles, show, str(error))
        except Exception as error:
            # Nobody sees a thread's traceback: the cell has to show whatever went wrong.
            self._fail(bubbles, show, f"{type(error).__name__}: {error}", traceback.format_exc())
        self.stop_button.disabled = True
        if self._clear_after:
            self._thread = None
            self.clear()

    def _stream(self, prompt: str, which: str, bubbles: list[Bubble], show: Callable[[], None]) -> None:
        """Write one answer into a new last bubble."""
        said, next_show = "", 0.0
        bubbles.append(Bubble(which, "", writing=True))
        show()
        with contextlib.closing(self.dialogue.ask(prompt, which, cancel=self._cancel)) as stream:
            while True:
                try:
                    said += next(stream)
                except StopIteration as end:
                    record = end.value
                    break
                bubbles[-1] = Bubble(which, said, writing=True)
                if time.monotonic() >= next_show:
                    show()
                    next_show = time.monotonic() + UPDATE_SECONDS
        bubbles[-1] = Bubble(which, record["answer"])
        bubbles[-1] = self._finished(record)
        show()

    def _finished(self, record: dict[str, Any]) -> Bubble:
        if self._cancel.is_set() and not record["stopped"]:
            return Bubble(record["model"], record["answer"], note="stopped")
        left_out = self.dialogue.left_out
        note = f"left out to fit the model's window: the {left_out} oldest turns" if left_out else ""
        findings = examine(record, self.dialogue.persona)
        return Bubble(record["model"], record["answer"], findings, note)

    def _fail(self, bubbles: list[Bubble], show: Callable[[], None], error: str, trace: str = "") -> None:
        """Show the error behind what had been said."""
        if bubbles and not bubbles[-1].text:
            bubbles.pop()
        elif bubbles:
            bubbles[-1] = replace(bubbles[-1], writing=False)
        bubbles.append(Bubble("error", error, details=trace))
        show()
        self._say("The answer ended in an error.", warn=True)
