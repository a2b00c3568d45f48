"""Talking to the base and the tuned model: in a terminal, in a notebook's widget, or as a fixed probe dialogue."""

from kelron_lib.chat.dialogue import Dialogue
from kelron_lib.chat.probe import probe_dialogue
from kelron_lib.chat.show import close_chats, open_chat, show_chat
from kelron_lib.chat.terminal import chat_terminal
from kelron_lib.chat.widget import chat_widget

__all__ = [
    "Dialogue",
    "chat_terminal",
    "chat_widget",
    "close_chats",
    "open_chat",
    "probe_dialogue",
    "show_chat",
]
