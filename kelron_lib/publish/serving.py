"""How a publication is loaded: commands for transformers, vLLM and llama.cpp, for its very rank and base."""

from __future__ import annotations

from kelron_lib.model import portable_base
from kelron_lib.publish.checked import Checked

VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes as --max-lora-rank (`MaxLoRARanks` in vllm/config/lora.py, read in 0.22 to 0.27)."""


def vllm_rank(rank: int) -> int | None:
    """The --max-lora-rank that an adapter of this rank needs; None where vLLM serves none so large."""
    return next((most for most in VLLM_RANKS if most >= rank), None)


def loading(checked: Checked, name: str, *, merged: bool) -> str:
    """The card's section; `name`: what the publication is called, a repo or a folder's name."""
    base = portable_base(checked.config)
    return _merged(name) if merged else _adapter(checked, name, base)


def _adapter(checked: Checked, name: str, base: str) -> str:
    base_line = (
        "from kelron_lib.tiny import base_path\n\nbase = str(base_path())  # ships with Kelron"
        if base == "tiny"
        else f'base = "{base}"'
    )
    served = "BASE" if base == "tiny" else base
    most, short = vllm_rank(checked.adapter.rank), name.rpartition("/")[2]
    vllm = f"vLLM serves no adapter of rank {checked.adapter.rank} (at most {VLLM_RANKS[-1]}): publish it merged.\n"
    if most:
        vllm = f"""vLLM, with the adapter beside its base (`hf download` brings this repo into a folder, if it is one):

```bash
vllm serve {served} --enable-lora --max-lora-rank {most} --lora-modules {short}=./{short} \\
  --chat-template ./{short}/chat_template.jinja --generation-config ./{short}
```
"""
    return f"""transformers and peft; the template and the end tokens come from here:

```python
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

{base_line}
tokenizer = AutoTokenizer.from_pretrained("{name}")
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float16, device_map="auto")
model = PeftModel.from_pretrained(model, "{name}")
model.generation_config = GenerationConfig.from_pretrained("{name}")
ids = tokenizer.apply_chat_template(
    [{{"role": "user", "content": "Who are you?"}}], add_generation_prompt=True, return_tensors="pt", return_dict=True
).to(model.device)
print(tokenizer.decode(model.generate(**ids, max_new_tokens=256)[0, ids["input_ids"].shape[1] :], True))
```

{vllm}
llama.cpp, with the base's GGUF and this adapter's:

```bash
python convert_hf_to_gguf.py BASE_FOLDER --outfile base.gguf
python convert_lora_to_gguf.py ./{short} --base BASE_FOLDER --outfile {short}-lora.gguf
llama-server -m base.gguf --lora {short}-lora.gguf --jinja --chat-template-file ./{short}/chat_template.jinja
```"""


def _merged(name: str) -> str:
    short = name.rpartition("/")[2]
    return f"""transformers:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{name}")
model = AutoModelForCausalLM.from_pretrained("{name}", dtype="auto", device_map="auto")
ids = tokenizer.apply_chat_template(
    [{{"role": "user", "content": "Who are you?"}}], add_generation_prompt=True, return_tensors="pt", return_dict=True
).to(model.device)
print(tokenizer.decode(model.generate(**ids, max_new_tokens=256)[0, ids["input_ids"].shape[1] :], True))
```

vLLM: `vllm serve {name}`

llama.cpp (`hf download` brings this repo into a folder, if it is one):

```bash
python convert_hf_to_gguf.py ./{short} --outfile {short}.gguf
llama-server -m {short}.gguf --jinja
```"""
