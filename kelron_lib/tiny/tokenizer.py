"""The tiny base's tokenizer: byte-level BPE, split as Qwen2.5 splits, the special tokens last in the vocabulary."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kelron_lib.persona import load_lexicon, load_persona
from kelron_lib.persona.files import read_yaml
from kelron_lib.prompts import END, START, TEXT_END
from kelron_lib.settings import LANGUAGES
from kelron_lib.tiny.corpus import conversations, load_phrases

CHAT_TEMPLATE = Path(__file__).parent / "chat_template.jinja"
VOCAB_SIZE = 4096
"""Entries with the three special tokens, which take the last ids."""
TRAINING_CHATS = 20_000
MAX_TOKEN_BYTES = 15
"""Longest token. Without a bound whole Japanese clauses become tokens, and nothing is learned about their parts."""
CHARACTER_WEIGHT = 400
"""How often each character of phrases, lexicon and seeds is added to the tokenizer's training text."""
# Contractions, words with one leading mark or space, single digits, marks, line ends, blanks.
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


def training_text(seed: int, chats: int) -> Iterator[str]:
    """Texts to learn merges from: generated chats, and every character of phrases, lexicon and seeds many times over.

    A character that is one token cannot come out broken, and is easier to copy than its two or three bytes.
    """
    for messages in itertools.islice(conversations(seed), chats):
        yield from (message["content"] for message in messages)
    for language in LANGUAGES:
        seeds = read_yaml(load_persona("kelron").seeds / f"{language}.yaml")
        characters = sorted(set(f"{load_phrases(language)}{dict(load_lexicon(language))}{seeds}"))
        yield from (character for character in characters if not character.isascii() for _ in range(CHARACTER_WEIGHT))


def build_tokenizer(seed: int, chats: int = TRAINING_CHATS) -> Any:
    """A trained tokenizer (transformers' Qwen2Tokenizer) with the chat template; deterministic for a seed."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer

    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.NFC()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    special = [TEXT_END, START, END]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - len(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=MAX_TOKEN_BYTES,
        show_progress=False,
    )
    bpe.train_from_iterator(training_text(seed, chats), trainer)
    bpe.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    tokenizer = Qwen2Tokenizer(tokenizer_object=bpe, pad_token=TEXT_END, eos_token=END, model_max_length=1024)
    tokenizer.chat_template = CHAT_TEMPLATE.read_text(encoding="utf-8").rstrip("\n")
    return tokenizer
