"""A dialogue with one loaded model that answers with and without its adapter; terminal and widget share it."""

from __future__ import annotations

import contextlib
import json
import threading
import unicodedata
from collections.abc import Generator
from pathlib import Path
from typing import Any

from kelron_lib.config import RunConfig, nearest
from kelron_lib.data.gate import asks_for_identity
from kelron_lib.errors import KelronError
from kelron_lib.generate import base_only, has_adapter, stop_token_ids, stream_answer, window
from kelron_lib.persona import Persona
from kelron_lib.prompts import encode_prompt
from kelron_lib.settings import CHAT_LANGUAGE, LANGUAGES

BASE, TUNED, BOTH = "base", "tuned", "both"
PERSONA, NONE, OWN = "persona", "none", "own"
Record = dict[str, Any]
"""One answer, as `kelron evaluate --answers` takes it: id, language, kind, system (persona or none; left out where
the text is one's own, which `messages` has), messages (the prompt), answer, stopped, model."""

_FORMAT_CHARACTERS = "\u200c\u200d"  # the joiners inside emoji and some scripts


def visible(text: str) -> str:
    """The text without what could act on a terminal or hide its order: control and bidirectional characters."""
    return "".join(
        char
        for char in text
        if char in "\n\t" + _FORMAT_CHARACTERS or unicodedata.category(char) not in ("Cc", "Cf", "Cs")
    )


def language_of(prompt: str, chosen: str) -> str:
    """The language an answer is due in: the prompt's script where that decides it, else the chosen language."""
    if any("가" <= char <= "힣" for char in prompt):
        return "ko"
    if any("ぁ" <= char <= "ヿ" for char in prompt):
        return "ja"
    return chosen


class Dialogue:
    """What was said and the settings of the next answer. Base and tuned each remember their own answers only.

    Not for two threads at once: there is one model, and `ask` switches its adapter.
    """

    def __init__(
        self, model: Any, tokenizer: Any, persona: Persona, cfg: RunConfig, *, language: str = CHAT_LANGUAGE
    ) -> None:
        self.model, self.tokenizer, self.persona, self.cfg = model, tokenizer, persona, cfg
        self.models: tuple[str, ...] = (BASE, TUNED) if has_adapter(model) else (BASE,)
        self.mode = self.models[-1]
        self.system = PERSONA
        self.own_system = ""
        self.temperature = 0.0
        self.max_new_tokens = cfg.evaluate.max_new_tokens
        self.records: list[Record] = []
        self.left_out = 0
        """Oldest turns that the last prompt had to leave out to fit the model's window."""
        self.set_language(language)
        self._stops = stop_token_ids(tokenizer)
        self._history: dict[str, list[dict[str, str]]] = {name: [] for name in self.models}
        self._asked = 0
        self._own_files: set[Path] = set()
        self._turn: list[tuple[str, dict[str, str], Record]] = []

    def set_mode(self, mode: str) -> None:
        """Who answers next: base, tuned or both. Raises KelronError where no adapter is loaded."""
        if mode != BASE and TUNED not in self.models:
            raise KelronError(
                "no adapter is loaded, so only the base can answer: name one with `kelron chat --adapter DIR`"
            )
        self.mode = mode

    def set_language(self, language: str) -> None:
        """The language of the persona's system prompt: ko, en or ja. Raises KelronError for another."""
        if language not in LANGUAGES:
            raise KelronError(f"unknown language {language!r}.{nearest(language, LANGUAGES)}")
        self.language = language

    def answering(self) -> tuple[str, ...]:
        """The models that answer the next prompt, in order."""
        return self.models if self.mode == BOTH else (self.mode,)

    def system_text(self) -> str:
        """Content of the system message; empty for none, so that the template's own never slips in."""
        return {PERSONA: self.persona.system_prompt[self.language], NONE: "", OWN: self.own_system}[self.system]

    def begin_turn(self) -> None:
        """What is asked from here on is what `take_back` takes back."""
        self._turn.clear()

    def take_back(self) -> None:
        """Forget what was asked since `begin_turn`, with its answers, as if it had not been."""
        for which, question, record in self._turn:
            history = self._history[which]
            if len(history) >= 2 and history[-2] is question:
                del history[-2:]
            self.records = [kept for kept in self.records if kept is not record]
        self._turn.clear()

    def ask(
        self, prompt: str, which: str, *, kind: str = "", cancel: threading.Event | None = None
    ) -> Generator[str, None, Record]:
        """Yields the answer of `which` (base or tuned) in pieces and returns its record.

        kind: identity or unrelated; empty: found by the question's phrasing.
        The turn joins that model's history. A cancelled answer is left out of `records`, because a scoreboard
        would count it as one that never ended. Raises KelronError as `stream_answer` does, and then the
        dialogue is as it was before.
        """
        if not prompt.strip():
            raise KelronError("there is nothing to answer: write a message first")
        cancel = cancel or threading.Event()
        question = {"role": "user", "content": prompt}
        messages = self._fitting(question, which)
        with base_only(self.model) if which == BASE else contextlib.nullcontext():
            answer = yield from stream_answer(
                self.model,
                self.tokenizer,
                messages,
                max_new_tokens=self.max_new_tokens,
                stop_token_ids=self._stops,
                temperature=self.temperature,
                cancel=cancel,
            )
        self._asked += 1
        record: Record = {
            "id": f"chat-{self._asked:04d}",
            "language": language_of(prompt, self.language),
            "kind": kind or ("identity" if asks_for_identity(prompt) else "unrelated"),
            **({} if self.system == OWN else {"system": self.system}),
            "messages": messages,
            "answer": answer.text,
            "stopped": answer.stopped,
            "model": which,
        }
        # Spelled out in ordinary tokens, `<|im_end|>` would make every later prompt of the dialogue invalid.
        said = {"role": "assistant", "content": answer.text.replace("<|", "< |")}
        self._turn.append((which, question, record))
        if answer.tokens:
            self._history[which] += [question, said]
        if answer.stopped or not cancel.is_set():
            self.records.append(record)
        return record

    def _fitting(self, question: dict[str, str], which: str) -> list[dict[str, str]]:
        """System message, as much of the history as fits with the answer, and the question."""
        history, system = self._history[which], {"role": "system", "content": self.system_text()}
        room = window(self.model) - self.max_new_tokens
        start = 0
        while start < len(history):
            if len(encode_prompt(self.tokenizer, [system, *history[start:], question])) <= room:
                break
            start += 2
        del history[:start]
        self.left_out = start // 2
        return [system, *history, question]

    def reset(self) -> None:
        """Forget what was said, and the answers not yet saved."""
        self.records.clear()
        self._turn.clear()
        for history in self._history.values():
            history.clear()

    def save(self, path: Path) -> int:
        """Write the records as JSONL, one answer a line; gives their number.

        Without an adapter lines name no model, for a scoreboard is of one model or of a tuned one beside its base.
        Raises KelronError where there is none, the file is another's, or it cannot be written.
        """
        if not self.records:
            raise KelronError("there is no answer to save yet")
        path = path.expanduser().absolute()
        unnamed = {"model"} if TUNED not in self.models else set()
        kept = [{key: value for key, value in record.items() if key not in unnamed} for record in self.records]
        lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in kept]
        try:
            with open(path, "w" if path in self._own_files else "x", encoding="utf-8") as file:
                file.writelines(lines)
        except FileExistsError:
            raise KelronError(f"{path} exists already: choose another name") from None
        except OSError as error:
            raise KelronError(f"cannot write {path} ({error.strerror}): choose another place") from None
        self._own_files.add(path)
        return len(lines)
