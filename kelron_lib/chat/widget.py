"""The chat as an ipywidgets cell: base and tuned from one loaded model, streamed from a background thread."""

from __future__ import annotations

import contextlib
import itertools
import shlex
import threading
import time
import traceback
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kelron_lib.chat import markup
from kelron_lib.chat.controls import Entry, Probes, Settings
from kelron_lib.chat.dialogue import TUNED, Dialogue, language_of
from kelron_lib.chat.flags import examine
from kelron_lib.chat.markup import Bubble
from kelron_lib.config import RunConfig
from kelron_lib.errors import KelronError
from kelron_lib.persona import Persona
from kelron_lib.settings import DataSettings

UPDATE_SECONDS = 0.05
"""Least time between two updates of a growing answer: about 20 a second."""
UPDATE_CHARACTERS = 2000
"""A turn this long is sent half as often, as a whole one is sent each time: a page draws about as much a second however
long the question and its answers are."""
TURNS_SHOWN = 40
"""Older turns leave the page, or it would grow without end; the dialogue and its file keep them. All but the newest are
one widget: a page keeps what a widget that has left it had drawn, and draws anew all that stood after it."""
GPU_LOST = (
    "The GPU no longer answers, and what it held is lost. Save keeps the dialogue; then restart the kernel and run "
    "the cells again."
)


def chat_widget(model: Any, tokenizer: Any, persona: Persona, cfg: RunConfig) -> Any:
    """The chat as an ipywidgets VBox; its `panel` is the ChatPanel behind it.

    Enter or Send asks; the answer grows in a thread, so that the kernel stays free. A prompt sent while an answer
    is being written is refused. Raises KelronError where the tokenizer cannot end answers.
    """
    return ChatPanel(Dialogue(model, tokenizer, persona, cfg)).root


@dataclass
class Turn:
    """A question on the page, and the answers to it."""

    prompt: str
    kind: str
    """identity, unrelated, or empty: by the question."""
    language: str
    view: Any
    bubbles: list[Bubble] = field(default_factory=list)

    def show(self) -> None:
        """Draw anew what is known."""
        self.view.value = markup.turn(self.prompt, self.language, self.bubbles)

    def plain(self) -> str:
        """The answers as they were written, each under its model's name where there are several."""
        said = [bubble for bubble in self.bubbles if bubble.who != "error"]
        if len(said) == 1:
            return said[0].text
        return "\n\n".join(f"{bubble.who.capitalize()}:\n{bubble.text}" for bubble in said)


class ChatPanel:
    """The widgets of one chat, and the thread that writes the present answer."""

    def __init__(self, dialogue: Dialogue, folder: Path | None = None) -> None:
        import ipywidgets as widgets

        self.dialogue = dialogue
        self._folder = folder
        self._file: Path | None = None
        self._cancel = threading.Event()
        self._clear_after = False
        self._thread: threading.Thread | None = None
        self._last: Turn | None = None
        self.settings = Settings(dialogue)
        self._build_transcript()
        names = ("send", "stop", "regenerate", "copy", "save", "clear")
        self.entry = Entry({name: getattr(self, name) for name in names})
        self.probes = Probes(dialogue, self.probe)
        rows = [*self.settings.rows, self._transcript, self.status, *self.entry.rows, self.probes.row]
        self.root = widgets.VBox([widgets.HTML(markup.STYLE), *rows])
        self.root.add_class("kelron-chat")
        self.root.panel = self

    def _build_transcript(self) -> None:
        import ipywidgets as widgets

        self._earlier: list[str] = []
        """The turns on the page before the newest, as they were drawn."""
        self.earlier, self.newest = widgets.HTML(), widgets.HTML()
        self.turns = widgets.VBox([self.earlier, self.newest])
        self.turns.add_class("kc-turns")
        self._show_none()
        # A reversed column keeps its scroll position at the end, so the newest text stays in view.
        self._transcript = widgets.VBox([self.turns], layout={"height": "460px"})
        self._transcript.add_class("kc-transcript")
        self.status = widgets.HTML(markup.status(""))

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

    def _refused(self) -> bool:
        """Whether an answer is being written; says so."""
        if self.busy:
            self._say("An answer is still being written: wait for its end, or press Stop.", warn=True)
        return self.busy

    def send(self) -> None:
        """Ask what is in the text box; refused, with a message, while an answer is being written."""
        if self._refused():
            return
        prompt = self.entry.text.value.strip()
        if not prompt:
            self._say("Write a message first.")
            return
        self.entry.text.value = ""
        self._ask(prompt, self.settings.kind.value)

    def probe(self, prompt: str, language: str, kind: str) -> None:
        """Ask a fixed question, in its language; refused while an answer is being written."""
        if not self._refused():
            self.settings.language.value = language
            self._ask(prompt, kind)

    def regenerate(self) -> None:
        """Answer the last message anew, by the settings of now; the answers before are forgotten."""
        if self._refused():
            return
        if self._last is None:
            self._say("There is no message to answer anew yet.")
            return
        self.dialogue.take_back()
        self._last.bubbles.clear()
        self._begin(self._last)

    def _ask(self, prompt: str, kind: str) -> None:
        self.dialogue.begin_turn()
        if self._last is not None:
            self._earlier = [*self._earlier, self.newest.value][-TURNS_SHOWN + 1 :]
        self._begin(Turn(prompt, kind, self.settings.language.value, self.newest))

    def _begin(self, turn: Turn) -> None:
        # Settings are taken here, so that a change during the answer counts from the next one on.
        self.settings.apply(self.dialogue)
        turn.language = language_of(turn.prompt, self.dialogue.language)
        turn.show()
        self._show_earlier()
        self._last = turn
        self.entry.show_plain("")
        self._cancel.clear()
        self._clear_after = False  # of a Clear that came as the answer before had just ended
        self.entry.stop.disabled = False
        self._thread = threading.Thread(target=self._write, args=(turn,), daemon=True)
        self._thread.start()

    def _show_earlier(self) -> None:
        self.earlier.value = "".join(self._earlier)
        self.earlier.layout.display = None if self._earlier else "none"

    def _show_none(self) -> None:
        self._earlier.clear()
        self.newest.value = markup.empty(self.dialogue.persona.name["en"])
        self._show_earlier()

    def copy(self) -> None:
        """Show the last answers as plain text in a box, with the cursor in it."""
        text = self._last.plain() if self._last is not None else ""
        if self._refused():
            return
        self.entry.show_plain(text)
        self._say("Ctrl+A and Ctrl+C copy it." if text else "There is no answer to copy yet.")

    def save(self) -> None:
        """Write the dialogue to a new file, or anew to that of this dialogue; says where, and what scores it."""
        if self._refused():
            return
        folder = self._folder or Path.cwd()
        path = self._file or next(
            name for number in itertools.count(1) if not (name := folder / f"chat-{number:02d}.jsonl").exists()
        )
        try:
            count = self.dialogue.save(path)
        except KelronError as error:
            self._say(_sentence(error), warn=True)
            return
        self._file = path
        answers = f"{count} answer{'s' * (count != 1)}"
        self._say(f"{answers} saved to {path}. {self._scoring(path)}")

    def _scoring(self, path: Path) -> str:
        """What scores the saved file, in words."""
        if TUNED in self.dialogue.models and all(record["model"] != TUNED for record in self.dialogue.records):
            return "All are the base's: a scoreboard needs one of the tuned model's, too."
        command = ["kelron", "evaluate", "--answers", str(path), "--out", str(path.with_suffix(""))]
        if (persona := self.dialogue.cfg.data.persona) != DataSettings().persona:
            command += ["--persona", str(Path(persona).absolute()) if Path(persona).is_file() else persona]
        return f"To score: {shlex.join(command)}"

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
        self._last = self._file = None
        self.entry.show_plain("")
        self._show_none()
        self._say("")

    def close(self) -> None:
        """Take the chat off the page; a widget that is not closed keeps its model for as long as the kernel lives."""
        self.stop()
        self.wait()
        _close(self.root)

    # The thread that writes

    def _write(self, turn: Turn) -> None:
        try:
            for which in self.dialogue.answering():
                if not self._cancel.is_set():
                    self._say(f"{which.capitalize()} is writing")
                    self._stream(turn, which)
            self._say("Stopped." if self._cancel.is_set() else _found(turn.bubbles))
        except KelronError as error:
            self._fail(turn, _sentence(error))
        except Exception as error:
            # Nobody sees a thread's traceback: the cell has to show whatever went wrong.
            told = GPU_LOST if _of_the_gpu(error) else f"{type(error).__name__}: {error}"
            self._fail(turn, told, traceback.format_exc())
        self.entry.stop.disabled = True
        if self._clear_after:
            self._thread = None
            self.clear()

    def _stream(self, turn: Turn, which: str) -> None:
        """Write one answer into a new last bubble."""
        said, next_show, bubbles = "", 0.0, turn.bubbles
        bubbles.append(Bubble(which, "", writing=True))
        turn.show()
        asked = self.dialogue.ask(turn.prompt, which, kind=turn.kind, cancel=self._cancel)
        with contextlib.closing(asked) as stream:
            while True:
                try:
                    said += next(stream)
                except StopIteration as end:
                    record = end.value
                    break
                bubbles[-1] = Bubble(which, said, writing=True)
                if time.monotonic() >= next_show:
                    turn.show()
                    next_show = time.monotonic() + UPDATE_SECONDS * (1 + len(turn.view.value) / UPDATE_CHARACTERS)
        bubbles[-1] = Bubble(which, record["answer"])
        bubbles[-1] = self._finished(record, sure=bool(turn.kind))
        turn.show()

    def _finished(self, record: dict[str, Any], *, sure: bool) -> Bubble:
        if self._cancel.is_set() and not record["stopped"]:
            return Bubble(record["model"], record["answer"], note="stopped")
        left_out = self.dialogue.left_out
        note = f"left out to fit the model's window: the {left_out} oldest turns" if left_out else ""
        findings = examine(record, self.dialogue.persona, sure=sure)
        return Bubble(record["model"], record["answer"], findings, note)

    def _fail(self, turn: Turn, error: str, trace: str = "") -> None:
        """Show the error behind what had been said."""
        bubbles = turn.bubbles
        if bubbles and not bubbles[-1].text:
            bubbles.pop()
        elif bubbles:
            bubbles[-1] = replace(bubbles[-1], writing=False)
        bubbles.append(Bubble("error", error, details=trace))
        turn.show()
        self._say("The answer ended in an error.", warn=True)


def _close(widget: Any) -> None:
    for child in getattr(widget, "children", ()):
        _close(child)
    widget.close()


def _sentence(error: KelronError) -> str:
    """An error's line as a page says it; names in it stay as they are written."""
    line = str(error)
    return f"{line[:1].upper()}{line[1:]}."


def _found(bubbles: list[Bubble]) -> str:
    """What the detectors found, in a line: also for those who do not see the answers' colours."""
    return " ".join(
        f"{each.who.capitalize()}: {', '.join(each.findings.labels) or 'nothing flagged'}." for each in bubbles
    )


def _of_the_gpu(error: BaseException) -> bool:
    """Whether an error says that the process has lost its GPU, so that nothing on it will work again."""
    words = ("CUDA error", "device-side assert", "cuBLAS", "CUBLAS_STATUS", "No CUDA GPUs", "CUDA driver")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)
