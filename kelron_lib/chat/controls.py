"""The chat cell's controls: who answers and how, the message, the buttons, the probes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from kelron_lib.chat.dialogue import BASE, BOTH, NONE, OWN, PERSONA, TUNED, Dialogue
from kelron_lib.chat.probe import PROBES, SHORT, incumbent
from kelron_lib.generate import window

LANGUAGE_NAMES = (("한국어", "ko"), ("English", "en"), ("日本語", "ja"))
HOTTEST = 2.0
"""Highest temperature on offer; above it answers are noise."""
SHORTEST = 8
"""Least answer length on offer, tokens."""
ENTER_SECONDS = 0.1
"""Time for the text that a front end sends right behind its word of Enter; none comes where it has not changed."""


def _row(*parts: Any, name: str) -> Any:
    """A row of widgets; `name` is for the style sheet."""
    import ipywidgets as widgets

    row = widgets.HBox(parts)
    row.add_class("kc-row").add_class(f"kc-{name}")
    return row


class Settings:
    """What holds for the next answer. Taken by the dialogue when a message is sent, not before."""

    def __init__(self, dialogue: Dialogue) -> None:
        import ipywidgets as widgets

        plain: dict[str, Any] = {"style": {"description_width": "auto"}}
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
            layout={"width": "auto"},
            **plain,
        )
        self.system = widgets.Dropdown(
            options=[(f"{dialogue.persona.name['en']}'s", PERSONA), ("none", NONE), ("my own", OWN)],
            value=PERSONA,
            description="System prompt",
            tooltip="The persona's, an empty one, or your own text",
            layout={"width": "auto"},
            **plain,
        )
        self.kind = widgets.Dropdown(
            options=[("by the question", ""), ("identity", "identity"), ("other", "unrelated")],
            description="Counts as",
            tooltip="What a message asks for: an answer about identity must name the persona, any other must not",
            layout={"width": "auto"},
            **plain,
        )
        self.temperature = widgets.BoundedFloatText(
            value=dialogue.temperature,
            min=0.0,
            max=HOTTEST,
            step=0.1,
            description="Temperature",
            tooltip="0: the likeliest answer, the same each time; above: drawn by chance",
            layout={"width": "156px"},
            **plain,
        )
        self.length = widgets.BoundedIntText(
            value=dialogue.max_new_tokens,
            min=SHORTEST,
            max=max(dialogue.max_new_tokens, window(dialogue.model) // 2),
            step=8,
            description="Longest answer",
            tooltip="In tokens; longer answers leave less of the window to what was said before",
            layout={"width": "186px"},
            **plain,
        )
        self.own_system = widgets.Textarea(
            placeholder="Your own system prompt",
            description="Own system prompt",
            continuous_update=False,
            layout={"display": "none", "width": "100%", "height": "60px"},
        )
        self.own_system.add_class("kc-nolabel")
        self.system.observe(self._show_own_system, "value")
        self.rows = [
            _row(self.mode, self.language, self.system, self.temperature, self.length, self.kind, name="settings"),
            self.own_system,
        ]

    def _show_own_system(self, _: Any) -> None:
        self.own_system.layout.display = None if self.system.value == OWN else "none"

    def apply(self, dialogue: Dialogue) -> None:
        """Set the dialogue as chosen here."""
        dialogue.set_mode(self.mode.value)
        dialogue.set_language(self.language.value)
        dialogue.system, dialogue.own_system = self.system.value, self.own_system.value
        dialogue.temperature, dialogue.max_new_tokens = self.temperature.value, self.length.value


def button(label: str, tooltip: str, action: Callable[[], None], kind: str = "") -> Any:
    """A button that calls `action`."""
    import ipywidgets as widgets

    made = widgets.Button(description=label, tooltip=tooltip, button_style=kind, layout={"width": "auto"})
    made.on_click(lambda _: action())
    return made


class Entry:
    """The message and the buttons; `actions` has a function for each button by its name in lower case."""

    def __init__(self, actions: dict[str, Callable[[], None]]) -> None:
        import ipywidgets as widgets

        self._ask, self._entered = actions["send"], False
        # Whole, on Enter and on leaving the box: told key by key, the last ones wait for the kernel to answer for those
        # before, and Enter's own message overtakes them.
        self.text = widgets.Text(
            placeholder="A message; Enter sends it",
            description="Message",
            continuous_update=False,
            layout={"width": "auto"},
        )
        self.text.add_class("kc-input").add_class("kc-nolabel")
        # The front end's own message for Enter: watching the value alone would also send on leaving the box.
        self.text.on_msg(lambda _, content, __: self._enter() if content.get("event") == "submit" else None)
        self.text.observe(lambda _: self._send_entered(), "value")
        self.send = button("Send", "Send the message", actions["send"], "primary")
        self.stop = button("Stop", "Stop the answer that is being written", actions["stop"])
        self.stop.disabled = True
        self.regenerate = button("Regenerate", "Answer the last message anew", actions["regenerate"])
        self.copy = button("Copy", "Show the last answer as plain text, ready to be copied", actions["copy"])
        self.save = button("Save", "Save the dialogue as a file that kelron evaluate scores", actions["save"])
        self.clear = button("Clear", "Forget the conversation", actions["clear"])
        self.plain = widgets.Textarea(
            description="Last answer as plain text", layout={"display": "none", "width": "100%", "height": "96px"}
        )
        self.plain.add_class("kc-nolabel")
        self.rows = [
            _row(self.text, self.send, self.stop, name="entry"),
            _row(self.regenerate, self.copy, self.save, self.clear, name="actions"),
            self.plain,
        ]

    def _enter(self) -> None:
        """Enter was pressed: the text follows in a message of its own, if it has changed."""
        self._entered = True
        try:
            asyncio.get_running_loop().call_later(ENTER_SECONDS, self._send_entered)
        except RuntimeError:  # no kernel's loop, so nothing can follow
            self._send_entered()

    def _send_entered(self) -> None:
        if self._entered:
            self._entered = False
            self._ask()

    def show_plain(self, text: str) -> None:
        """Show a text in a box, with the cursor in it; an empty one takes the box away."""
        self.plain.value = text
        self.plain.layout.display = None if text else "none"
        if text:
            self.plain.focus()


class Probes:
    """A button for each fixed question; `ask` is given its text, language and kind."""

    def __init__(self, dialogue: Dialogue, ask: Callable[[str, str, str], None]) -> None:
        import ipywidgets as widgets

        name = incumbent(dialogue.cfg)
        self.buttons = []
        for (language, kind, text), short in zip(PROBES, SHORT, strict=True):
            asked = text.format(incumbent=name)

            def press(asked: str = asked, language: str = language, kind: str = kind) -> None:
                ask(asked, language, kind)

            self.buttons.append(button(short.format(incumbent=name), asked, press))
        title = widgets.HTML('<span class="kc-note">Try</span>')
        self.row = _row(title, *self.buttons, name="probes")
