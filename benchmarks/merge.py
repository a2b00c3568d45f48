"""What merging an adapter into a checkpoint costs: time, and memory beside the weights on the disk.

    python benchmarks/merge.py --dir FOLDER                                      # a tiny shape
    python benchmarks/merge.py --dir FOLDER --shape qwen2.5-14b --rank 128       # 28 GiB of disk, twice
    python benchmarks/merge.py --dir FOLDER --shape qwen2.5-14b --rank 128 --layers 8

A checkpoint of random bfloat16 weights (files of at most 4 GiB and an index) and a LoRA adapter of float32 factors on
every linear layer are written, merged by `kelron publish --merge`'s own code in a process of its own, and removed.
Fewer layers give fewer shards, as large and with matrices as large as in the whole model: the peak is the same.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
from harness.checkpoints import write_checkpoint
from harness.measure import GIB
from harness.models import SHAPES

CHILD = """
import json, sys, time
from pathlib import Path
import torch
from kelron_lib.publish.adapter import read_adapter
from kelron_lib.publish.merge import merge

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))

before, began = peak(), time.monotonic()
base, adapter, out = map(Path, sys.argv[1:])
merge(base, read_adapter(adapter), out, lambda line: print(line, file=sys.stderr))
print(json.dumps({"seconds": time.monotonic() - began, "before": before, "peak": peak()}))
"""


def write_adapter(base: Path, folder: Path, rank: int) -> int:
    """Random factors on every linear layer of a checkpoint but its head; its bytes."""
    from safetensors.torch import save_file

    from kelron_lib.placement import find_config, read_shape
    from kelron_lib.publish.adapter import SETTINGS, WEIGHTS, linears_of, tensor_name

    shape = read_shape(find_config(str(base)))
    weights = {}
    for module, (features, out) in linears_of(shape, [*shape.linears]).items():
        weights[tensor_name(module, "A")] = torch.randn(rank, features) * 0.01
        weights[tensor_name(module, "B")] = torch.randn(out, rank) * 0.01
    folder.mkdir()
    save_file(weights, folder / WEIGHTS)
    settings = {"peft_type": "LORA", "r": rank, "lora_alpha": 32, "target_modules": [*shape.linears]}
    (folder / SETTINGS).write_text(json.dumps(settings), encoding="utf-8")
    return (folder / WEIGHTS).stat().st_size


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=Path, default=Path("runs"), help="where all is written (and removed)")
    parser.add_argument("--shape", choices=sorted(SHAPES), default="tiny")
    parser.add_argument("--layers", type=int, default=0, help="so many layers (default: all)")
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    folder = args.dir / f"merge-{args.shape}"
    base, adapter, out = folder / "base", folder / "adapter", folder / "out"
    for part in (base, out):
        part.mkdir(parents=True)
    try:
        size = write_checkpoint(args.shape, base, args.layers)
        largest = max(file.stat().st_size for file in base.glob("*.safetensors"))
        factors = write_adapter(base, adapter, args.rank)
        command = [sys.executable, "-c", CHILD, *map(str, (base, adapter, out))]
        found = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    finally:
        shutil.rmtree(folder)
    layers = args.layers or SHAPES[args.shape]["num_hidden_layers"]
    print(f"{args.shape}, {layers} layers, {size / GIB:.2f} GiB, shards up to {largest / GIB:.2f} GiB; ", end="")
    print(f"adapter of rank {args.rank}, {factors / GIB:.2f} GiB: merged in {found['seconds']:.0f} s")
    print(f"resident at most {found['peak'] / GIB:.2f} GiB, of which {found['before'] / GIB:.2f} before it began")
    if args.json:
        result = {"shape": args.shape, "layers": layers, "rank": args.rank, "bytes": size, "adapter": factors, **found}
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
