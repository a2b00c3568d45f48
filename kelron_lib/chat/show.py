"""The notebook's chat cell: the widget where somebody can use it, the printed probe dialogue where nobody can."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

from kelron_lib.chat.probe import probe_dialogue
from kelron_lib.config import RunConfig
from kelron_lib.model import load_to_answer
from kelron_lib.persona import Persona, load_persona
from kelron_lib.runtime import front_end

_shown: list[Any] = []
"""The widgets that `show_chat` displayed; each holds its model."""


def show_chat(model: Any, tokenizer: Any, persona: Persona, cfg: RunConfig) -> None:
    """Display the chat widget, or print the probe dialogue where there is no front end; says which and why.

    Never waits for input. Raises KelronError as `probe_dialogue` does.
    """
    interactive, reason = front_end()
    if not interactive:
        print(f"Probe dialogue instead of the chat widget: {reason}.\n")
        probe_dialogue(model, tokenizer, persona, cfg)
        return
    from IPython.display import display

    from kelron_lib.chat.widget import chat_widget

    print(f"Chat widget: {reason}. In a batch run a fixed probe dialogue is printed instead.")
    _shown.append(chat_widget(model, tokenizer, persona, cfg))
    display(_shown[-1])


def close_chats() -> None:
    """Take what `show_chat` displayed off the page, and give its models' memory back: a GPU has no room for two."""
    if not _shown:
        return
    while _shown:
        _shown.pop().panel.close()
    gc.collect()
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def open_chat(cfg: RunConfig, adapter: Path) -> None:
    """Load base and adapter and show the chat, in place of an earlier one. Raises KelronError where they or the persona
    cannot be loaded."""
    close_chats()
    persona = load_persona(cfg.data.persona)
    model, tokenizer = load_to_answer(cfg, Path(adapter))
    show_chat(model, tokenizer, persona, cfg)
