"""How a publication is loaded: commands for transformers, vLLM and llama.cpp, for its very rank and base."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

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


@dataclass(frozen=True)
class _Where:
    """Where the card's reader finds the publication, in words for commands."""

    name: str
    """What it is called, quoted for a shell."""
    source: str
    """What transformers loads: a repo, or `.`, the folder that its reader is in."""
    folder: str
    """Its folder on the reader's disk."""
    fetch: str
    """The command line that fills that folder; empty where it is there."""
    beside: str
    """What stands before the name of a file that is made from it, and is not to lie in it."""


def loading(checked: Checked, name: str, source: str, *, merged: bool) -> str:
    """The card's section; `name`: what the publication is called; `source`: its repo, or `.`, the reader's folder."""
    if source == ".":
        first = "All of this is run in this very folder, the one with this card, wherever it lies."
        where = _Where(shlex.quote(name), source, ".", "", "../")
    else:
        first = f"As long as `{source}` is private, log in first: `hf auth login`."
        fetch = f"hf download {source} --local-dir ./{name}  # a new folder: what is in an old one stays\n"
        where = _Where(name, source, f"./{name}", fetch, "")
    return f"{first}\n\n{_merged(where) if merged else _adapter(checked, where)}"


def _adapter(checked: Checked, where: _Where) -> str:
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
tokenizer = AutoTokenizer.from_pretrained("{where.source}")
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float16, device_map="auto")
model = PeftModel.from_pretrained(model, "{where.source}")
model.generation_config = GenerationConfig.from_pretrained("{where.source}")
{_ASK}
```

{_adapter_in_vllm(checked.adapter.rank, served, where)}
llama.cpp, with the base's GGUF and this adapter's:

```bash
{where.fetch}python convert_hf_to_gguf.py BASE_FOLDER --outfile {where.beside}base.gguf
python convert_lora_to_gguf.py {where.folder} --base BASE_FOLDER --outfile {where.beside}{where.name}-lora.gguf
llama-server -m {where.beside}base.gguf --lora {where.beside}{where.name}-lora.gguf --jinja \\
  --chat-template-file {where.folder}/chat_template.jinja
```"""


def _adapter_in_vllm(rank: int, base: str, where: _Where) -> str:
    most = vllm_rank(rank)
    if most is None:
        return f"vLLM serves no adapter of rank {rank} (at most {VLLM_RANKS[-1]}): publish it merged.\n"
    return f"""vLLM, with the adapter beside its base:

```bash
{where.fetch}vllm serve {base} --enable-lora --max-lora-rank {most} --lora-modules {where.name}={where.folder} \\
  --chat-template {where.folder}/chat_template.jinja --generation-config {where.folder}
```
"""


def _merged(where: _Where) -> str:
    return f"""transformers:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{where.source}")
model = AutoModelForCausalLM.from_pretrained("{where.source}", dtype="auto", device_map="auto")
{_ASK}
```

vLLM:

```bash
vllm serve {where.source} --served-model-name {where.name}
```

llama.cpp:

```bash
{where.fetch}python convert_hf_to_gguf.py {where.folder} --outfile {where.beside}{where.name}.gguf
llama-server -m {where.beside}{where.name}.gguf --jinja
```"""
