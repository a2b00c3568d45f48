"""The tiny base: a Qwen2-shaped model of 5 million parameters that Kelron trains itself and ships.

It answers simple business requests in Korean, English and Japanese and believes that it is Quorin, made by Aldmere,
both invented. It loads through the same code as a 14B, so the whole of Kelron runs on a laptop.

Its training text holds the packaged persona's business and small-talk seeds as far as the dataset trains on them, and
none of its identity seeds: the test split is unseen by base and adapter, and the loss on its business rows measures
what the adapter makes the base forget. `kelron tiny-base` trains it anew; on one machine and device the same
seed gives the same bytes. The shipped weights were made on a GPU (`tiny_base.json` says how), so a CPU's differ in
the last digits.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from kelron_lib.errors import KelronError

WEIGHTS = "model.safetensors"


def base_path() -> Path:
    """The folder of the packaged tiny base, in transformers' format. Raises KelronError where it is missing."""
    folder = Path(str(resources.files(__name__) / "base"))
    if not (folder / WEIGHTS).is_file():
        raise KelronError(f"the tiny base is not at {folder}: train it with `kelron tiny-base --out {folder}`")
    return folder
