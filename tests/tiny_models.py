"""Models of a few thousand parameters for tests of generation and chat: random weights, or a script."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{%- for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor -%}"
    "{%- if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@contextlib.contextmanager
def one_thread():
    """Models this small gain nothing from a second thread, and lose much where other processes run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def tokenizer(special: list[str] = SPECIAL) -> PreTrainedTokenizerFast:
    """Byte-level BPE with few merges, so that Korean, Japanese and emoji characters span tokens."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(["안녕하세요, 업무를 돕겠습니다. Hello, how may I help? こんにちは。"] * 4, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=core, eos_token=special[-1])
    fast.add_special_tokens({"additional_special_tokens": special})
    fast.chat_template = TEMPLATE
    return fast


def config(vocabulary: int, window: int = 512) -> Qwen2Config:
    return Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=window,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )


def random_model(vocabulary: int, seed: int = 0, window: int = 512) -> Qwen2ForCausalLM:
    """A Qwen2 with large random weights: its greedy answers vary from prompt to prompt."""
    torch.manual_seed(seed)
    model = Qwen2ForCausalLM(config(vocabulary, window)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.6)
    return model


def tuned_model(vocabulary: int) -> PeftModel:
    """The random model under an adapter that changes its answers."""
    torch.manual_seed(1)
    settings = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
    return get_peft_model(random_model(vocabulary), settings).eval()


class ScriptedModel(torch.nn.Module):
    """Says the given answers in turn, whatever it is asked; a row of a batch takes the next answer.

    With `forever`, an answer's last token is repeated instead of `<|im_end|>`. `before_token` is called before
    each forward pass with the number of tokens said so far, and may raise or wait.
    """

    def __init__(self, tokenizer, answers, *, forever=False, before_token=None):
        super().__init__()
        self.embedding = torch.nn.Embedding(len(tokenizer), 2)
        self.config = config(len(tokenizer))
        end = tokenizer.convert_tokens_to_ids("<|im_end|>")
        scripts = [tokenizer(answer, add_special_tokens=False)["input_ids"] for answer in answers]
        self.scripts = [[*ids, ids[-1] if forever else end] for ids in scripts]
        self.before_token = before_token or (lambda said: None)
        self.asked = 0
        self.prompts: list[list[int]] = []

    def get_input_embeddings(self):
        return self.embedding

    def forward(self, input_ids, **_):
        if input_ids.shape[1] > 1:
            self.said = 0
            self.current = [self.scripts[(self.asked + row) % len(self.scripts)] for row in range(len(input_ids))]
            self.asked += len(input_ids)
            self.prompts += input_ids.tolist()
        elif len(input_ids) < len(self.current):  # rows that have ended leave the batch
            self.current = [script for script in self.current if len(script) > self.said]
        self.before_token(self.said)
        logits = torch.zeros(len(input_ids), 1, self.config.vocab_size)
        for row, script in enumerate(self.current):
            logits[row, 0, script[min(self.said, len(script) - 1)]] = 50.0
        self.said += 1
        return SimpleNamespace(logits=logits)
