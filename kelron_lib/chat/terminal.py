"""The chat in a terminal: a line asks, a line that begins with / commands."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from kelron_lib.chat.dialogue import BASE, BOTH, NONE, OWN, PERSONA, TUNED, Dialogue, visible
from kelron_lib.chat.flags import examine
from kelron_lib.config import RunConfig, nearest
from kelron_lib.errors import KelronError
from kelron_lib.persona import Persona
from kelron_lib.settings import CHAT_LANGUAGE

HELP = """\
/tuned, /base, /both     who answers
/lang ko|en|ja           language of the persona's system prompt
/system persona|none|TEXT  the system prompt: the persona's, an empty one, or your own text
/reset                   forget the conversation
/save FILE               write the answers as JSONL
/quit                    leave (so does the end of the input)
Ctrl-C stops an answer, not the chat."""


def chat_terminal(
    model: Any,
    tokenizer: Any,
    persona: Persona,
    cfg: RunConfig,
    *,
    use_base: bool = False,
    language: str = CHAT_LANGUAGE,
    input_stream: TextIO | None = None,
    output_stream: TextIO | None = None,
) -> None:
    """Read prompts and commands until the input ends or /quit; answers stream to the output.

    The streams default to the terminal's. What goes wrong with one prompt (a KelronError) is said in a line and
    the chat goes on. Raises KelronError for an unknown language.
    """
    dialogue = Dialogue(model, tokenizer, persona, cfg, language=language)
    if use_base:
        dialogue.set_mode(BASE)
    _Terminal(dialogue, input_stream or sys.stdin, output_stream or sys.stdout).run()


class _Quit(Exception):
    """The user leaves."""


class _Terminal:
    def __init__(self, dialogue: Dialogue, source: TextIO, sink: TextIO) -> None:
        self._dialogue, self._source, self._sink = dialogue, source, sink
        self._interactive = source is sys.stdin and sink is sys.stdout and source.isatty() and sink.isatty()
        self._commands: dict[str, Callable[[str], None]] = {
            "/help": lambda _: self._say(HELP),
            "/base": lambda _: self._mode(BASE),
            "/tuned": lambda _: self._mode(TUNED),
            "/both": lambda _: self._mode(BOTH),
            "/lang": self._language,
            "/system": self._system,
            "/reset": self._reset,
            "/save": self._save,
            "/quit": self._quit,
        }
        if self._interactive:
            import readline  # noqa: F401 - gives input() line editing and history

    def run(self) -> None:
        dialogue = self._dialogue
        self._say(
            f"{dialogue.persona.name[dialogue.language]}: the {dialogue.mode} model answers, language "
            f"{dialogue.language}. /help lists the commands, /quit leaves."
        )
        with contextlib.suppress(_Quit):
            while (line := self._read()) is not None:
                try:
                    self._handle(line.strip())
                except KelronError as error:
                    self._say(f"kelron: {error}")
                except KeyboardInterrupt:
                    self._say("\n(stopped)")

    def _read(self) -> str | None:
        """The next line; None at the end of the input."""
        while True:
            try:
                if self._interactive:
                    line = input("\nyou> ")
                else:
                    self._write("\nyou> ")
                    line = self._source.readline()
                    if not line:
                        raise EOFError
            except EOFError:
                self._say("")
                return None
            except KeyboardInterrupt:
                self._say("\n(/quit or Ctrl-D leaves)")
                continue
            # Bytes that are not UTF-8 arrive as lone surrogates, which no tokenizer takes.
            return line.encode("utf-8", "replace").decode("utf-8")

    def _handle(self, line: str) -> None:
        if not line:
            return
        if not line.startswith("/"):
            self._answer(line)
            return
        name, _, argument = line.partition(" ")
        if name not in self._commands:
            raise KelronError(f"unknown command {name!r}.{nearest(name, self._commands)} /help lists them")
        self._commands[name](argument.strip())

    def _answer(self, prompt: str) -> None:
        cancel = threading.Event()
        with _interrupt_sets(cancel):
            for which in self._dialogue.answering():
                if not cancel.is_set():
                    self._stream(prompt, which, cancel)

    def _stream(self, prompt: str, which: str, cancel: threading.Event) -> None:
        self._write(f"{which}> ")
        stream = self._dialogue.ask(prompt, which, cancel=cancel)
        while True:
            try:
                self._write(visible(next(stream)))
            except StopIteration as end:
                record = end.value
                break
            except KelronError:
                self._say("")
                raise
        self._say("")
        indent = " " * (len(which) + 2)
        if cancel.is_set() and not record["stopped"]:
            self._say(f"{indent}(stopped)")
            return
        if labels := examine(record, self._dialogue.persona, sure=False).labels:
            self._say(f"{indent}! {', '.join(labels)}")
        if self._dialogue.left_out:
            self._say(f"{indent}(left out to fit the model's window: the {self._dialogue.left_out} oldest turns)")

    def _mode(self, mode: str) -> None:
        self._dialogue.set_mode(mode)
        self._say({BOTH: "base and tuned answer, one after the other"}.get(mode, f"the {mode} model answers"))

    def _language(self, language: str) -> None:
        self._dialogue.set_language(language)
        self._say(f"language {language}")

    def _system(self, text: str) -> None:
        dialogue = self._dialogue
        if text in (PERSONA, NONE):
            dialogue.system = text
        elif text:
            dialogue.system, dialogue.own_system = OWN, text
        self._say(f"system prompt ({dialogue.system}): {dialogue.system_text() or '(empty)'}")

    def _reset(self, _: str) -> None:
        self._dialogue.reset()
        self._say("the conversation begins anew")

    def _save(self, name: str) -> None:
        if not name:
            raise KelronError("/save takes a file name, for example /save chat.jsonl")
        count = self._dialogue.save(Path(name))
        self._say(f"{count} answers saved to {name}")

    def _quit(self, _: str) -> None:
        raise _Quit

    def _say(self, line: str) -> None:
        self._write(line + "\n")

    def _write(self, text: str) -> None:
        encoding = self._sink.encoding or "utf-8"  # None for a StringIO
        self._sink.write(text.encode(encoding, "replace").decode(encoding))
        self._sink.flush()


@contextlib.contextmanager
def _interrupt_sets(cancel: threading.Event) -> Iterator[None]:
    """Within, Ctrl-C sets `cancel`, so that the answer ends at a token; a second one interrupts as usual."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may handle signals
        return

    def handle(number: int, frame: Any) -> None:
        if cancel.is_set():
            raise KeyboardInterrupt
        cancel.set()

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
