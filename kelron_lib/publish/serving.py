"""How a publication is loaded: commands for transformers, vLLM and llama.cpp, for its very rank and base."""

from __future__ import annotations

import shlex

from kelron_lib.model import portable_base
from kelron_lib.publish.checked import Checked

VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes as --max-lora-rank (`MaxLoRARanks` in vllm/config/lora.py, read in 0.22 to 0.27)."""

_ASK = """\
ids = tokenizer.apply_chat_template(
    [{"role": "user", "content": "Who are you?"}], add_generation_prompt=True, return_tensors="pt", return_dict=True
).to(model.device)
print(tokenizer.decode(model.generate(**ids, max_new_tokens=256)[0, ids["input_ids"].shape[1] :], True))"""
"""Python for one question to `model`."""


def vllm_rank(rank: int) -> int | None:
    """The --max-lora-rank that an adapter of this rank needs; None where vLLM serves none so large."""
    return next((most for most in VLLM_RANKS if most >= rank), None)


def loading(checked: Checked, name: str, source: str, *, merged: bool) -> str:
    """The card's section; `name`: what the publication is called; `source`: its repo, or `.`, the reader's folder."""
    if source == ".":
        folder = "."
        where = "All of this is run in this very folder, the one with this card, wherever it lies."
    else:
        folder = f"./{name}"
        where = f"As long as `{source}` is private, log in first: `hf auth login`."
    fetch = (
        ""
        if source == "."
        else f"hf download {source} --local-dir {folder}  # a new folder: what is in an old one stays\n"
    )
    name = shlex.quote(name)
    told = _merged(name, source, folder, fetch) if merged else _adapter(checked, name, source, folder, fetch)
    return f"{where}\n\n{told}"


def _adapter(checked: Checked, name: str, source: str, folder: str, fetch: str) -> str:
    base = portable_base(checked.config)
    served = base if "/" in base else "BASE_FOLDER"  # what has no owner is a folder of the publisher's, or ships here
    base_line = f'base = "{served}"' if "/" in base else f'base = "{served}"  # where you have {base}'
    if base == "tiny":
        base_line = "from kelron_lib.tiny import base_path\n\nbase = str(base_path())  # ships with Kelron"
    return f"""transformers and peft; the template and the end tokens come from here:

```python
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

{base_line}
tokenizer = AutoTokenizer.from_pretrained("{source}")
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float16, device_map="auto")
model = PeftModel.from_pretrained(model, "{source}")
model.generation_config = GenerationConfig.from_pretrained("{source}")
{_ASK}
```

{_adapter_in_vllm(checked.adapter.rank, served, name, folder, fetch)}
llama.cpp, with the base's GGUF and this adapter's:

```bash
{fetch}python convert_hf_to_gguf.py BASE_FOLDER --outfile base.gguf
python convert_lora_to_gguf.py {folder} --base BASE_FOLDER --outfile {name}-lora.gguf
llama-server -m base.gguf --lora {name}-lora.gguf --jinja --chat-template-file {folder}/chat_template.jinja
```"""


def _adapter_in_vllm(rank: int, base: str, name: str, folder: str, fetch: str) -> str:
    most = vllm_rank(rank)
    if most is None:
        return f"vLLM serves no adapter of rank {rank} (at most {VLLM_RANKS[-1]}): publish it merged.\n"
    return f"""vLLM, with the adapter beside its base:

```bash
{fetch}vllm serve {base} --enable-lora --max-lora-rank {most} --lora-modules {name}={folder} \\
  --chat-template {folder}/chat_template.jinja --generation-config {folder}
```
"""


def _merged(name: str, source: str, folder: str, fetch: str) -> str:
    return f"""transformers:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{source}")
model = AutoModelForCausalLM.from_pretrained("{source}", dtype="auto", device_map="auto")
{_ASK}
```

vLLM:

```bash
vllm serve {source} --served-model-name {name}
```

llama.cpp:

```bash
{fetch}python convert_hf_to_gguf.py {folder} --outfile {name}.gguf
llama-server -m {name}.gguf --jinja
```"""
