"""One measured probe: load, prepare, three real steps. Runs in a process of its own for each GPU, so that memory is
counted from nothing, a crash is contained, and what it held is given back when it ends.

`python -m kelron_lib.preflight.worker REQUEST.json RESULT.json`. A request holds `config`, `fields` (the base's
config.json), `workload`, `gpu` (an index, or null for the CPU), `layers` (descending; empty: the whole model),
`random` (random weights), `rows` (dataset rows to take lengths and tokens from, or empty) and `steps`.
"""

from __future__ import annotations

import gc
import random
import resource
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from kelron_lib.batching import encode_rows
from kelron_lib.config import RunConfig, from_dict
from kelron_lib.engine.packing import Features, pack, plan_passes, supervised_in, supervised_tokens, utilisation
from kelron_lib.engine.prepare import causal_lm, forward_loss, place_ends, prepare
from kelron_lib.engine.watch import watch_finite
from kelron_lib.errors import KelronError
from kelron_lib.model import add_lora, load_base, load_tokenizer, quiet_libraries
from kelron_lib.placement import Epoch, Workload
from kelron_lib.placement.memory import GIB
from kelron_lib.preflight.random_weights import random_model
from kelron_lib.processes import prepare_cuda_memory
from kelron_lib.prompts import IGNORED
from kelron_lib.runtime import read_json, write_json

SPREAD = 0.6
"""Sigma of the log-normal lengths of random samples."""

RANDOM_SAMPLES = 2048


HOST_SECONDS = 0.05
"""Between two looks at the host's memory."""


def host_memory() -> int:
    """Bytes of this process's own: anonymous and shared pages. Those of mapped files (a checkpoint while it is loaded)
    are no part of it: the system drops them when memory is short. Without /proc, the peak of all resident ones.
    """
    status = Path("/proc/self/status")
    if status.exists():
        lines = (line.split() for line in status.read_text(encoding="utf-8").splitlines())
        return sum(int(words[1]) * 1024 for words in lines if words[0] in ("RssAnon:", "RssShmem:"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class HostPeak:
    """The highest `host_memory` since the last reset, watched by a thread: the kernel keeps no such peak."""

    def __init__(self) -> None:
        self.reset()
        threading.Thread(target=self._watch, name="host memory", daemon=True).start()

    def reset(self) -> None:
        self._highest = host_memory()

    def read(self) -> int:
        """Bytes."""
        self._highest = max(self._highest, host_memory())
        return self._highest

    def _watch(self) -> None:
        while True:
            self.read()
            time.sleep(HOST_SECONDS)


class Meter:
    """Time and memory on one device."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.cuda = device, device.type == "cuda"
        self.host = HostPeak()

    def now(self) -> float:
        """Seconds, once the device has done what it was given."""
        if self.cuda:
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def reset(self) -> None:
        """Give back what nobody uses and count peaks from here."""
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
        self.host.reset()

    def read(self) -> dict[str, float]:
        """Now allocated, peaks since the last reset; GiB, the GPU's only where there is one."""
        found = {"host_peak": self.host.read() / GIB}
        if self.cuda:
            found["allocated"] = torch.cuda.memory_allocated(self.device) / GIB
            found["peak_allocated"] = torch.cuda.max_memory_allocated(self.device) / GIB
            found["peak_reserved"] = torch.cuda.max_memory_reserved(self.device) / GIB
        return found


def random_samples(vocabulary: int, most_tokens: int, count: int) -> list[Features]:
    """Random tokens in log-normal lengths with the planner's assumed mean, the second half of each supervised."""
    generator = random.Random(0)
    mean = min(Epoch().mean_tokens, most_tokens / 2)
    made = []
    for _ in range(count):
        length = round(mean * generator.lognormvariate(-(SPREAD**2) / 2, SPREAD))
        length = min(most_tokens, max(2, length))
        ids = [generator.randrange(vocabulary) for _ in range(length)]
        made.append({"input_ids": ids, "labels": [IGNORED] * (length // 2) + ids[length // 2 :]})
    return made


def load(config: RunConfig, request: dict[str, Any], device: torch.device) -> Any:
    """The 4-bit base with a fresh adapter: the config's own, or random weights in its shape."""
    if request["random"]:
        most = max(request["layers"], default=0)
        base = random_model(request["fields"], device, getattr(torch, config.model.dtype), most)
    else:
        base = load_base(config)[0]
    return add_lora(place_ends(base, embedding=config.model.embedding, head=config.model.head), config)


def keep_layers(model: Any, layers: int) -> None:
    """Cut the model down to its first `layers` decoder layers."""
    inner = causal_lm(model)
    inner.model.layers = inner.model.layers[:layers]
    inner.config.num_hidden_layers = layers


def build_optimizer(config: RunConfig, parameters: Sequence[torch.nn.Parameter]) -> Any:
    """The config's optimizer over the adapter."""
    train = config.train
    if train.optimizer == "paged_adamw_8bit":
        from bitsandbytes.optim import PagedAdamW8bit

        return PagedAdamW8bit(parameters, lr=train.learning_rate, weight_decay=train.weight_decay)
    return torch.optim.AdamW(parameters, lr=train.learning_rate, weight_decay=train.weight_decay)


def run_steps(
    model: Any, config: RunConfig, passes: Sequence[dict[str, Any]], accumulation: int, meter: Meter
) -> dict[str, Any]:
    """Real optimizer steps over all `passes`; the first step is a warm-up whose time does not count."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = build_optimizer(config, trained)
    scaler = torch.amp.GradScaler(meter.device.type, enabled=config.model.dtype == "float16", init_scale=1024.0)
    watch = watch_finite(model)
    meter.reset()
    pass_seconds, optimizer_seconds, losses = [], [], []
    for start in range(0, len(passes), accumulation):
        batches = passes[start : start + accumulation]
        count = max(1, sum(supervised_tokens(batch) for batch in batches))
        began = meter.now()
        parts = []
        for batch in batches:
            loss = forward_loss(model, batch, count)
            scaler.scale(loss).backward()
            parts.append(loss.detach())
        passed = meter.now()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(trained, config.train.max_grad_norm)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        optimizer_seconds.append(meter.now() - passed)
        pass_seconds.append((passed - began) / len(batches))
        losses.append(sum(part.item() for part in parts))
        watch.check()
    watch.close()
    found = {**meter.read(), "losses": losses}
    counted = slice(1, None) if len(pass_seconds) > 1 else slice(None)
    for name, seconds in (("pass_seconds", pass_seconds), ("optimizer_seconds", optimizer_seconds)):
        found[name] = sum(seconds[counted]) / len(seconds[counted])
    return found


def pack_samples(samples: list[Features], work: Workload, count: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """`count` packed passes of the workload's size, the samples repeated if need be; and what the samples are like."""
    sizes = [len(sample["input_ids"]) for sample in samples]
    rows: list[list[int]] = []
    fill, epoch = 0.0, 0
    while len(rows) < count * work.rows:
        planned = plan_passes(sizes, row_tokens=work.row_tokens, rows_per_pass=work.rows, seed=0, epoch=epoch)
        fill = fill or utilisation(planned, sizes, work.row_tokens)
        rows += [row for one in planned for row in one]
        epoch += 1
    filled = [[samples[sample] for sample in row] for row in rows[: count * work.rows]]
    chosen = [filled[start : start + work.rows] for start in range(0, len(filled), work.rows)]
    supervised = sum(supervised_in(sample) for sample in samples)
    told = {"count": len(samples), "mean_tokens": sum(sizes) / len(sizes), "longest": max(sizes), "fill": fill}
    told["supervised"] = supervised / sum(sizes)
    return [pack(one, row_tokens=work.row_tokens, pad_id=0) for one in chosen], told


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """Carry out a request. Raises KelronError where the model or the rows cannot be used."""
    config, work = from_dict(request["config"]), Workload(**request["workload"])
    device = torch.device("cpu")
    if request["gpu"] is not None:
        prepare_cuda_memory()
        torch.cuda.init()
        torch.cuda.set_device(request["gpu"])
        device = torch.device("cuda", request["gpu"])
    meter = Meter(device)
    meter.reset()
    began = meter.now()
    with quiet_libraries():
        adapted = load(config, request, device)
        if request["rows"]:
            samples = encode_rows(load_tokenizer(config), request["rows"], config.data.max_tokens)
        else:
            most = min(work.row_tokens, config.data.max_tokens)
            samples = random_samples(request["fields"]["vocab_size"], most, RANDOM_SAMPLES)
    model = prepare(
        adapted,
        embedding=config.model.embedding,
        head=config.model.head,
        checkpointing=config.train.checkpointing,
        loss_chunk=work.loss_chunk,
    ).train()
    loaded = {"seconds": meter.now() - began, **meter.read()}
    passes, told = pack_samples(samples, work, request["steps"] * work.accumulation)
    sizes = request["layers"] or [len(causal_lm(model).model.layers)]
    runs = []
    for layers in sizes:
        keep_layers(model, layers)
        meter.reset()
        at_rest = meter.read()
        runs.append(
            {"layers": layers, "at_rest": at_rest, **run_steps(model, config, passes, work.accumulation, meter)}
        )
    name = torch.cuda.get_device_name(device) if meter.cuda else "CPU"
    kernels = causal_lm(model).kernels_in_use
    return {"gpu": request["gpu"], "device": name, "kernels": kernels, "load": loaded, "samples": told, "runs": runs}


def main(request: Path, result: Path) -> int:
    """Carry out the request in a file and write the result, or the error, to another."""
    try:
        found = measure(read_json(request))
    except KelronError as error:
        found = {"error": str(error)}
    except torch.OutOfMemoryError as error:
        found = {"error": f"out of memory: {str(error).splitlines()[0]}", "out_of_memory": True}
    write_json(result, found)
    return 1 if "error" in found else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
