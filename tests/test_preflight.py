"""Preflight: every check on facts that are made up where the hardware is absent, and the probe for real on the CPU."""

import http.server
import json
import math
import mmap
import os
import tempfile
import threading
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pytest

from kelron_lib.__main__ import main
from kelron_lib.config import MADE_FOR, PRESETS, load_preset, resolve
from kelron_lib.demo import run_notebook
from kelron_lib.errors import KelronError
from kelron_lib.placement import Epoch, Workload, find_config, parse_gpus, plan, read_shape, workload
from kelron_lib.placement.memory import GIB
from kelron_lib.preflight import bases, checks, devices, machine, needs, probe, run
from kelron_lib.preflight.machine import Devices, Gpu
from kelron_lib.preflight.report import checks_table, next_steps, plan_picture, plan_text, probe_table, report_dict
from kelron_lib.preflight.run import preflight, training_rows
from kelron_lib.processes import processes_for

BIG = load_preset("kelron-14b-t4x2")
TINY = load_preset("tiny-cpu")
QWEN = find_config(BIG.model.base)
T4 = Gpu("Tesla T4", 14.74, 0.0, (7, 5))
TWO = Devices((T4, T4), driver="550.54", listed=2, torch="2.11.0+cu128", cuda="12.8")
ONE = replace(TWO, gpus=(T4,), listed=1)
FITTING = Workload(rows=4)
SHAPES = {
    "llama": {"model_type": "llama", "tie_word_embeddings": False},
    "qwen3": {"model_type": "qwen3", "head_dim": 16, "tie_word_embeddings": False},
    "tied qwen2": {"model_type": "qwen2", "tie_word_embeddings": True},
}
SIZES = {
    "vocab_size": 160,
    "hidden_size": 64,
    "intermediate_size": 192,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}


def folder_of(fields, folder):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    return folder


def measured(gpu, layers=48, peak=11.6, pass_seconds=4.0, optimizer=0.5, load=240.0):
    """What a worker reports."""
    step = {"at_rest": {"host_peak": 5.0, "allocated": 9.9}, "host_peak": 6.0, "losses": [12.0, 11.9, 11.8]}
    step |= {"layers": layers, "pass_seconds": pass_seconds, "optimizer_seconds": optimizer}
    step |= {"peak_allocated": peak, "peak_reserved": peak + 0.4}
    seen = {"count": 468, "mean_tokens": 110.0, "longest": 400, "fill": 0.95, "supervised": 0.5}
    loaded = {"seconds": load, "host_peak": 5.5}
    return {"gpu": gpu, "device": "Tesla T4", "kernels": "triton", "load": loaded, "samples": seen, "runs": [step]}


@pytest.fixture
def two_t4s(monkeypatch):
    """A machine with two T4s and a workload that fits them; the workers report what `measured` says."""
    asked = []

    def workers(requests, limit=0.0):
        asked.extend(requests)
        return [measured(request["gpu"]) for request in requests]

    monkeypatch.setattr(machine, "devices", lambda: TWO)
    monkeypatch.setattr(machine, "host_memory", lambda: (31 * GIB, 29 * GIB))
    monkeypatch.setattr(machine, "disk", lambda folder: (1, 60 * GIB))
    monkeypatch.setattr(run, "run_workers", workers)
    return asked


def state_of(report, name):
    return next(check for check in report.checks if check.name == name)


# --- software


def test_the_ranges_are_the_projects_own(monkeypatch, tmp_path):
    python, required = machine.supported()
    assert python == ">=3.11"
    assert {"torch>=2.10", "transformers>=5.0", "huggingface_hub>=1.11,<3"} <= set(required)
    monkeypatch.setattr(machine, "PACKAGE_ROOT", tmp_path)  # a wheel has no pyproject.toml beside it
    from_wheel, of_wheel = machine.supported()
    assert from_wheel == python
    assert any(text.startswith("torch>=") for text in of_wheel)
    assert not any("pytest" in text for text in of_wheel)


@pytest.mark.parametrize(("version", "state"), [((3, 10, 14), "failed"), ((3, 11, 0), "ok"), ((3, 13, 1), "ok")])
def test_python(monkeypatch, version, state):
    monkeypatch.setattr(machine, "python_version", lambda: version)
    found = checks.check_python(">=3.11")
    assert found.state == state
    assert ".".join(map(str, version)) in found.found


def test_packages_outside_their_range_come_with_the_line_that_mends_it(monkeypatch):
    versions = {"torch": "2.13.0+cpu", "peft": "0.15.2", "huggingface_hub": "3.0.1"}
    monkeypatch.setattr(machine, "version_of", versions.get)
    found = checks.check_packages(["torch>=2.10", "peft>=0.19", "huggingface_hub>=1.11,<3", "bitsandbytes>=0.50"])
    assert found.state == "failed"
    assert "peft 0.15.2 is not peft>=0.19" in found.found
    assert "bitsandbytes is missing" in found.found
    assert "torch" not in found.found
    assert found.fix == 'pip install "peft>=0.19" "huggingface_hub>=1.11,<3" "bitsandbytes>=0.50"'
    assert checks.check_packages(["torch>=2.10"]).found == "torch 2.13.0+cpu"


@pytest.mark.parametrize(("version", "state"), [("0.10.0", "failed"), ("99.0", "ok")])
def test_pefts_own_check_decides_about_torchao(monkeypatch, tmp_path, version, state):
    from peft.import_utils import is_torchao_available

    (tmp_path / "torchao").mkdir()
    (tmp_path / "torchao" / "__init__.py").write_text("")
    info = tmp_path / f"torchao-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: torchao\nVersion: {version}\n")
    is_torchao_available.cache_clear()
    with monkeypatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        found = checks.check_torchao()
    is_torchao_available.cache_clear()
    assert found.state == state
    assert version in found.found
    assert found.fix == ("pip uninstall -y torchao" if state == "failed" else "")
    assert checks.check_torchao().found == "not installed, and not needed"


# --- GPUs


@pytest.mark.parametrize(
    ("capability", "architectures", "runs"),
    [
        ((7, 5), ["sm_70", "sm_75", "sm_80"], True),
        ((6, 0), ["sm_75", "sm_80", "compute_90"], False),
        ((8, 6), ["sm_80"], True),
        ((8, 0), ["sm_86"], False),
        ((9, 0), ["sm_90a"], True),
        ((9, 1), ["sm_90a"], False),
        ((10, 3), ["sm_100f"], True),
        ((9, 0), ["gfx90a"], False),
        ((12, 0), ["sm_90", "compute_90"], True),
        ((7, 5), [], False),
    ],
)
def test_what_a_build_of_torch_runs_on(capability, architectures, runs):
    assert devices.has_code_for(capability, architectures) is runs


def test_the_drivers_lines():
    rows = devices.parse_smi("GPU-1f2e, 3, 550.54.15\nMIG-7, [N/A], 550.54.15\nFailed to initialize NVML\n")
    assert rows == [
        {"uuid": "1f2e", "used": 3.0, "driver": "550.54.15"},
        {"uuid": "MIG-7", "used": None, "driver": "550.54.15"},
    ]


def test_memory_of_others_with_and_without_the_drivers_word():
    row = {"name": "Tesla T4", "total": 14.74 * GIB, "free": 11.2 * GIB, "capability": [7, 5], "supported": True}
    assert machine._gpu({**row, "others": 3.0 * GIB}).others == pytest.approx(3.0)
    assert machine._gpu({**row, "others": None}).others == pytest.approx(14.74 - 11.2 - 0.54)
    assert machine._gpu({**row, "free": 14.5 * GIB, "others": None}).others == 0


def test_a_process_of_its_own_looks_at_the_devices():
    import torch

    found = machine.devices()
    assert found.problem == ""
    assert found.torch == torch.__version__
    assert len(found.gpus) == torch.cuda.device_count()


def test_a_torch_that_does_not_start_is_said(monkeypatch, tmp_path):
    broken = tmp_path / "torch.py"
    broken.write_text("raise ImportError('libcudart.so is missing')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = machine.devices()
    assert found == Devices(problem="ImportError: libcudart.so is missing")
    check = checks.check_gpus(found, BIG, 2)
    assert check.state == "failed"
    assert "libcudart" in check.found


def test_two_t4s_are_what_the_preset_wants():
    found = checks.check_gpus(TWO, BIG, 2)
    assert found.state == "ok"
    assert "2 x Tesla T4, 14.74 GiB, compute capability 7.5, fp16 only" in found.found
    assert "driver 550.54" in found.found
    newer = replace(T4, name="NVIDIA A100", capability=(8, 0))
    assert "fp16 only" not in checks.check_gpus(replace(TWO, gpus=(newer, newer)), BIG, 2).found


@pytest.mark.parametrize(
    ("found", "state", "words"),
    [
        (ONE, "warning", "made for 2 GPUs"),
        (replace(ONE, listed=2), "warning", "CUDA_VISIBLE_DEVICES"),
        (replace(ONE, gpus=(replace(T4, name="Tesla P100", capability=(6, 0), supported=False),)), "failed", "P100"),
        (Devices(torch="2.13.0"), "failed", "float16"),
        (Devices(torch="2.13.0", listed=2, driver="550.54"), "failed", "build for CPUs"),
        (Devices(torch="2.13.0", cuda="13.0", listed=2, driver="450"), "failed", "newer driver"),
    ],
)
def test_gpus_that_do_not_suit_the_preset(found, state, words):
    check = checks.check_gpus(found, BIG, 2)
    assert check.state == state
    assert words in check.found
    assert check.fix


def test_no_gpu_is_fine_for_the_preset_of_the_cpu():
    assert checks.check_gpus(Devices(torch="2.13.0"), TINY, 0).state == "ok"
    assert MADE_FOR.keys() == PRESETS.keys()


def test_other_jobs_on_a_gpu():
    busy = replace(TWO, gpus=(replace(T4, others=3.0), replace(T4, others=0.004)))
    assert checks.others(busy) == [3.0, 0.0]
    check = checks.check_other_jobs(busy)
    assert check.state == "warning"
    assert "GPU 0: other processes hold 3.00 of 14.74 GiB" in check.found
    assert "GPU 1" not in check.found
    assert checks.check_other_jobs(TWO).state == "ok"
    assert checks.check_other_jobs(Devices()) is None


# --- memory, disk, network, session


def test_host_memory_is_the_containers(tmp_path):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "meminfo").write_text("MemTotal: 33554432 kB\nMemFree: 1 kB\nMemAvailable: 31457280 kB\n")
    assert machine.host_memory(tmp_path) == (32 * GIB, 30 * GIB)
    group = tmp_path / "sys" / "fs" / "cgroup"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("max\n")
    (group / "memory.current").write_text(str(7 * GIB))
    assert machine.host_memory(tmp_path) == (32 * GIB, 30 * GIB)
    (group / "memory.max").write_text(str(16 * GIB))
    (group / "memory.stat").write_text(f"anon 5\ninactive_file {2 * GIB}\n")
    assert machine.host_memory(tmp_path) == (16 * GIB, 11 * GIB)


def test_two_processes_need_twice_the_host_memory(monkeypatch):
    shape = read_shape(QWEN)
    parts = needs.host_parts(shape, FITTING, on_gpu=True)
    assert parts["embedding"] == 2 * 152064 * 5120
    assert sum(parts.values()) < 12 * GIB
    monkeypatch.setattr(machine, "host_memory", lambda: (31 * GIB, 1.5 * sum(parts.values())))
    assert checks.check_host_memory(shape, FITTING, 1, on_gpu=True).state == "ok"
    short = checks.check_host_memory(shape, FITTING, 2, on_gpu=True)
    assert short.state == "failed"
    assert "2 processes" in short.found
    on_cpu = needs.host_parts(shape, replace(FITTING, optimizer="adamw"), on_gpu=False)
    assert on_cpu["embedding and head"] == 2 * 4 * 152064 * 5120
    assert on_cpu["LoRA, gradients, optimizer"] == 16 * shape.lora(128, "all-linear")


def test_disk_is_summed_by_the_disk_that_it_falls_on(monkeypatch, tmp_path):
    shape = read_shape(QWEN)
    found = needs.disk_needs(BIG, shape, FITTING, tmp_path, download=True)
    adapter = 4 * shape.lora(128, "all-linear")
    one = adapter * 1.5 + 2 * 4 * adapter / 4 / 256
    assert [need.size for need in found] == pytest.approx([4 * one + adapter, 4 * one, 2 * shape.total])
    here = sum(need.size for need in found[:2])
    monkeypatch.setattr(machine, "disk", lambda folder: (1 if folder.is_relative_to(tmp_path) else 2, here + 1))
    check = checks.check_disk(found)
    assert check.state == "failed"
    assert "16-bit weights" in check.found
    assert str(tmp_path) not in check.fix
    assert checks.check_disk(found[:2]).state == "ok"
    monkeypatch.setattr(machine, "disk", lambda folder: (1, here - 1))
    assert checks.check_disk(found[:2]).state == "failed"


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    check = checks.check_disk([needs.DiskNeed(tmp_path / "file" / "run", 1.0, "adapter")])
    assert check.state == "failed"
    assert "file/run cannot be written" in check.found
    assert machine.disk(tmp_path / "not" / "yet")[1] > 0


@pytest.fixture
def hub():
    """A stand-in for the hub on a local port: paths -> (status, body), and the requests it got."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.seen.append((self.path, self.headers.get("Authorization")))
            status, body = self.server.answers.get(self.path, (404, b""))
            time.sleep(self.server.wait)
            self.send_response(status)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.answers, server.seen, server.wait = {"/": (200, b"")}, [], 0.0
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def online(hub, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{hub.server_port}/")
    return hub


def test_the_network_is_asked_only_where_something_needs_it(monkeypatch):
    monkeypatch.setattr(machine, "hub_unreachable", lambda endpoint: pytest.fail("asked"))
    assert checks.check_network([]).state == "ok"


def test_the_hub_that_HF_ENDPOINT_names_is_asked(online):
    check = checks.check_network(["the base"])
    assert check.state == "ok"
    assert f"127.0.0.1:{online.server_port} answers" in check.found
    assert online.seen[0][0] == "/"
    online.answers["/"] = (503, b"")
    check = checks.check_network(["the base"])
    assert check.state == "failed"
    assert "503" in check.found


def test_a_hub_that_is_silent_or_absent_or_forbidden(online, monkeypatch):
    online.wait = 0.6
    assert machine.hub_unreachable(machine.hub_endpoint(), seconds=0.1)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert checks.check_network(["the base"]).state == "failed"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    check = checks.check_network(["the base", "the store"])
    assert check.state == "failed"
    assert "HF_HUB_OFFLINE" in check.found
    assert "unset HF_HUB_OFFLINE" in check.fix


def test_a_bases_config_from_the_hub(online, monkeypatch):
    path = "/own/model/raw/main/config.json"
    online.answers[path] = (200, json.dumps(QWEN).encode())
    monkeypatch.setenv("HF_TOKEN", "hf_made_up")
    assert machine.hub_config("own/model", machine.hub_endpoint()) == QWEN
    assert online.seen[-1] == (path, "Bearer hf_made_up")
    for answer, words in (((401, b""), "HF_TOKEN"), ((404, b""), "no config.json"), ((200, b"{"), "cannot be had")):
        online.answers[path] = answer
        with pytest.raises(KelronError, match=words):
            machine.hub_config("own/model", machine.hub_endpoint())


def test_where_bases_are_found(monkeypatch, tmp_path):
    def found(base, random_weights=False, reachable=False):
        return bases.find_base(resolve("tiny-cpu", [f"model.base={base}"]), random_weights, reachable)

    assert found("tiny").where == "the packaged tiny base"
    assert found("tiny").tokenizer
    folder = folder_of(QWEN, tmp_path / "base")
    with pytest.raises(KelronError, match="no weights"):
        found(folder)
    assert found(folder, random_weights=True).fields == QWEN
    (folder / "model-00001.safetensors").write_bytes(b"")
    assert "1 weight files" in found(folder).where
    with pytest.raises(KelronError, match="no folder and no hub id"):
        found(tmp_path / "absent")
    assert found(BIG.model.base, random_weights=True).fields == QWEN
    with pytest.raises(KelronError, match="cannot be reached"):
        found(BIG.model.base)
    monkeypatch.setattr(machine, "hub_config", lambda base, endpoint: QWEN)
    assert found(BIG.model.base, reachable=True).download
    files = {"config.json": folder / "config.json", bases.INDEX: tmp_path / "index", "a.safetensors": folder}
    (tmp_path / "index").write_text(json.dumps({"weight_map": {"w": "a.safetensors", "v": "b.safetensors"}}))
    monkeypatch.setattr(machine, "cached_file", lambda base, name: files.get(name))
    assert found("own/model", reachable=True).download  # b.safetensors is not in the cache
    files["b.safetensors"] = folder
    assert not found("own/model").download


def test_the_session(monkeypatch):
    assert checks.check_session(TINY).state == "ok"
    monkeypatch.setenv("KELRON_SESSION_START", str(time.time() - 13 * 3600))
    spent = checks.check_session(BIG)
    assert spent.state == "failed"
    assert "13:00" in spent.found
    monkeypatch.setenv("KELRON_SESSION_START", str(time.time()))
    monkeypatch.setattr(checks, "on_kaggle", lambda: True)
    assert checks.check_session(BIG).state == "ok"
    assert checks.check_session(TINY).state == "warning"


def test_the_store(monkeypatch, tmp_path):
    assert checks.check_store(TINY, tmp_path / "run").state == "ok"
    far = checks.check_store(resolve("tiny-cpu", ["store.url=ftp://a/b"]), tmp_path)
    assert far.state == "failed"
    assert "ftp://" in far.found
    output = checks.check_store(resolve("tiny-cpu", ["store.url=kaggle://me/train"]), tmp_path)
    assert (output.state, "is read-only: name another store URL" in output.found) == ("failed", True)
    monkeypatch.setattr(checks, "on_kaggle", lambda: True)
    assert checks.check_store(TINY, tmp_path / "run").state == "warning"
    assert checks.check_store(TINY, Path("/kaggle/working/run")).state == "ok"


# --- the plan


def test_the_plan_for_fewer_gpus_says_what_changes():
    weighed = plan(QWEN, FITTING, [14.74], wanted=2)
    check = checks.check_plan(weighed, False, plan(QWEN, FITTING, [14.74, 14.74]))
    assert check.state == "warning"
    assert "single" in check.found
    assert "with 2 such GPUs: ddp" in check.found
    assert f"here {weighed.best.steps:,} steps" in check.found


def test_a_plan_that_does_not_fit_names_what_would():
    large = plan(QWEN, replace(FITTING, rows=40), [14.74])
    check = checks.check_plan(large, False)
    assert check.state == "failed"
    rows = large.options[0].tokens_that_fit // 512
    assert f"train.rows_per_pass={rows} at most" in check.fix
    assert plan(QWEN, replace(FITTING, rows=rows), [14.74]).chosen
    assert checks.check_plan(large, True).state == "warning"
    assert "smaller lora.r" in checks.check_plan(plan(QWEN, FITTING, [4.0]), False).fix


def test_processes_are_as_many_as_can_share_a_step():
    def count(gpus, *overrides):
        return processes_for(resolve("kelron-14b-t4x2", overrides), gpus)

    assert [count(gpus) for gpus in (0, 1, 2, 3)] == [1, 1, 2, 2]
    assert count(3, "session.processes=2") == 2
    assert count(0, "session.processes=2") == 2
    with pytest.raises(KelronError, match="cannot share the 4 passes"):
        count(3, "train.passes_per_step=4", "session.processes=3")
    with pytest.raises(KelronError, match="a GPU for 1 only"):
        count(1, "session.processes=2")
    idle = checks.check_plan(plan(QWEN, FITTING, [14.74]), False, idle=2)
    assert idle.state == "warning"
    assert "2 more GPUs stay idle" in idle.found


def test_a_tied_base_keeps_its_table_where_it_is():
    tied = {**QWEN, "tie_word_embeddings": True}
    with pytest.raises(KelronError, match=r"--set model\.embedding=device --set model\.head=keep"):
        run.planned_work(BIG, tied)
    beside = resolve("kelron-14b-t4x2", ["model.embedding=device", "model.head=keep"])
    assert run.planned_work(beside, tied) == workload(beside)


def test_rows_come_from_the_dataset_or_are_made(small_config, small_data, tmp_path):
    from kelron_lib.data import load_dataset_dir

    train = load_dataset_dir(small_data)["train"]
    count, rows = training_rows(small_config, small_data)
    assert (count, rows) == (len(train), train)
    made, some = training_rows(small_config, tmp_path)
    assert made == len(train)
    assert [row["messages"] for row in some] == [row["messages"] for row in train]
    assert training_rows(BIG, tmp_path)[0] == 35000 - 600 - 1500


# --- the probe, from outside


def test_time_is_carried_over_to_all_layers():
    assert probe.quick_sizes(48) == [4, 2]
    assert probe.quick_sizes(3) == [3, 1]
    assert probe.quick_sizes(1) == [1]
    assert probe.at_full_size([4, 2], [1.0 + 4 * 0.5, 1.0 + 2 * 0.5], 48) == pytest.approx(1.0 + 48 * 0.5)
    assert probe.at_full_size([48], [7.0], 48) == 7.0
    assert probe.at_full_size([4, 2], [1.0, 1.1], 48) == pytest.approx(12.0)  # noise: all of it per layer
    assert probe.at_full_size([1], [2.0], 3) == pytest.approx(6.0)


def worker(monkeypatch, code):
    monkeypatch.setattr(probe, "WORKER", ("-c", f"import json, sys, time, os\nrequest, result = sys.argv[1:]\n{code}"))


def test_workers_run_at_the_same_time_and_answer_in_order(monkeypatch):
    worker(
        monkeypatch,
        "given = json.load(open(request)); open(given['mine'], 'w'); began = time.time()\n"
        "while not os.path.exists(given['other']) and time.time() - began < 30: time.sleep(0.01)\n"
        "json.dump({'saw': os.path.exists(given['other']), 'gpu': given['gpu']}, open(result, 'w'))",
    )
    with tempfile.TemporaryDirectory() as name:
        marks = [f"{name}/a", f"{name}/b"]
        requests = [{"gpu": index, "mine": marks[index], "other": marks[1 - index]} for index in (0, 1)]
        found = probe.run_workers(requests)
    assert found == [{"saw": True, "gpu": 0}, {"saw": True, "gpu": 1}]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("raise ValueError('no such kernel')", "exit code 1: ValueError: no such kernel"),
        ("os.kill(os.getpid(), 9)", "signal 9"),
        ("json.dump({'error': 'out of memory: tried 2 GiB'}, open(result, 'w'))", "out of memory: tried 2 GiB"),
        ("time.sleep(60)", "had not ended after 0:01: try --quick"),
    ],
)
def test_a_worker_that_fails_is_told_in_one_line(monkeypatch, code, words):
    worker(monkeypatch, code)
    with pytest.raises(KelronError, match=words):
        probe.run_workers([{}], limit=1.0 if "sleep" in code else 60.0)


def test_hours_and_sessions_from_measured_steps():
    weighed = plan(QWEN, FITTING, [14.74, 14.74])
    epoch = Epoch(samples=32900)
    found = probe.project(BIG, weighed, epoch, [measured(0), measured(1, pass_seconds=5.0)], True)
    assert found.steps == math.ceil(epoch.passes(FITTING) / 2)
    assert found.seconds_per_step == pytest.approx(5.5 + 0.367, abs=0.01)  # slowest pass, optimizer, exchange
    assert found.hours == pytest.approx(found.steps * found.seconds_per_step / 3600)
    assert found.sessions == 1
    slow = probe.project(BIG, weighed, epoch, [measured(0), measured(1, pass_seconds=60.0)], True)
    assert slow.sessions == math.ceil(slow.total_hours * 3600 / (11 * 3600 - 900 - 240)) > 1
    with pytest.raises(KelronError, match="leaves nothing of a session"):
        probe.project(BIG, weighed, epoch, [measured(0, load=40000.0)], True)


def test_the_whole_on_two_t4s(two_t4s, tmp_path):
    said = []
    report = preflight(BIG, tmp_path, random_weights=True, say=said.append)
    assert report.failed == ()
    assert [request["gpu"] for request in two_t4s] == [0, 1]
    assert {request["layers"] == [] and request["random"] for request in two_t4s} == {True}
    lines = {line.what: line for line in report.probe.comparisons}
    assert lines["GPU 1, peak allocated"].measured == 11.6
    assert lines["GPU 1, peak allocated"].difference == pytest.approx(0.0, abs=0.02)
    assert lines["a pass of 2,048 tokens"].difference is not None  # measured on the GPU that it is predicted for
    assert "in 1 session" in state_of(report, "probe").found
    assert "GPU 0, 1" in said[-1]
    table = probe_table(report)
    assert "32,900 rows of 110 tokens (assumed)" in table
    assert "(projection" in table
    told = json.loads((tmp_path / "preflight.json").read_text(encoding="utf-8"))
    assert told["ready"] is True
    assert told["plan_is_projection"] is False
    assert told == json.loads(json.dumps(report_dict(report)))
    assert "Ready: 01_data_prep" in next_steps(report)


def test_more_memory_than_planned_is_a_warning(two_t4s, monkeypatch):
    monkeypatch.setattr(run, "run_workers", lambda requests: [measured(gpu, peak=14.0) for gpu in (0, 1)])
    check = state_of(preflight(BIG, random_weights=True), "probe")
    assert check.state == "warning"
    assert "over the plan" in check.found


def test_one_gpu_of_two_is_planned_again_and_probed(two_t4s, monkeypatch):
    monkeypatch.setattr(machine, "devices", lambda: ONE)
    wide = "train.rows_per_pass=8"  # two such passes a step hold the gradients, for which one T4 has no room
    held = preflight(resolve("kelron-14b-t4x2", [wide]), quick=True)
    assert [check.name for check in held.failed] == ["plan"]
    assert "train.passes_per_step=1" in held.failed[0].fix
    assert "with 2 such GPUs: ddp" in held.failed[0].found
    assert two_t4s == []
    report = preflight(resolve("kelron-14b-t4x2", [wide, "train.passes_per_step=1"]), quick=True)
    assert [request["gpu"] for request in two_t4s] == [0]
    assert two_t4s[0]["layers"] == [4, 2]
    assert {state_of(report, name).state for name in ("gpus", "plan")} == {"warning"}
    assert report.failed == ()


def test_other_jobs_leave_the_plan_less(two_t4s, monkeypatch):
    busy = replace(TWO, gpus=(replace(T4, others=3.0), T4))
    monkeypatch.setattr(machine, "devices", lambda: busy)
    report = preflight(BIG, random_weights=True)
    assert report.plan.used == (3.0, 0.0)
    assert report.plan.chosen == "sandwich"
    assert report.probe is None
    assert report.skipped == "not run, because of plan"
    (failed,) = report.failed
    assert "sandwich" in failed.found
    assert "spreads one copy over the GPUs" in failed.found
    most = report.plan.option("ddp").tokens_that_fit // 512
    single = "train on GPU 1 alone (CUDA_VISIBLE_DEVICES=1)"
    assert failed.fix == (f"set train.rows_per_pass={most} at most (ddp) or {single}" if most else single)
    assert state_of(report, "gpu memory").state == "warning"


def test_a_worker_out_of_memory_is_a_failed_check(two_t4s, monkeypatch):
    def fail(requests):
        raise KelronError("the probe of process 0: out of memory")

    monkeypatch.setattr(run, "run_workers", fail)
    report = preflight(BIG, random_weights=True)
    assert [check.name for check in report.failed] == ["probe"]
    assert "out of memory" in probe_table(report)
    assert "Not ready" in next_steps(report)


def test_without_a_gpu_the_plan_is_a_projection_and_nothing_is_measured(monkeypatch):
    monkeypatch.setattr(machine, "devices", lambda: Devices(torch="2.13.0"))
    report = preflight(BIG, say=lambda line: None)
    assert {check.name for check in report.failed} == {"gpus", "network", "base"}
    assert report.plan.gpus == tuple(parse_gpus("2x14.74"))
    assert plan_text(report).startswith("There is no GPU on this machine. Projection")
    assert "because of gpus, base" in probe_table(report)
    assert "<svg" in plan_picture(report)


def test_packages_that_are_missing_stop_the_rest(monkeypatch):
    monkeypatch.setattr(machine, "version_of", lambda package: None)
    monkeypatch.setattr(machine, "devices", lambda: Devices(problem="ModuleNotFoundError: torch"))
    report = preflight(TINY)
    assert {"packages", "gpus"} <= {check.name for check in report.failed}
    assert report.probe is None


# --- the command line


def test_exit_codes(two_t4s, monkeypatch, capsys, tmp_path):
    assert main(["preflight", "--preset", "kelron-14b-t4x2", "--random-weights"]) == 0
    printed = capsys.readouterr()
    assert "Ready" in printed.out
    assert "loading the model" in printed.err
    old = "Found an incompatible version of torchao. Found version 0.10.0"
    monkeypatch.setattr(machine, "torchao_problem", lambda: old)
    assert main(["preflight", "--preset", "kelron-14b-t4x2", "--random-weights", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["ready"] is False
    assert [check["fix"] for check in told["checks"] if check["name"] == "torchao"] == ["pip uninstall -y torchao"]
    assert told["probe_skipped"] == "not run, because of torchao"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--preset", "tiny"), "Did you mean tiny-cpu"),
        (("--out", "{tmp}/file"), "cannot write to"),
        (("--set", "data.persona=kelrom"), "Did you mean kelron"),
    ],
)
def test_bad_input_is_exit_code_2(capsys, tmp_path, arguments, words):
    (tmp_path / "file").write_text("")
    assert main(["preflight", *(text.format(tmp=tmp_path) for text in arguments)]) == 2
    assert words in capsys.readouterr().err


def test_a_base_of_another_kind_is_refused(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(machine, "devices", lambda: Devices(torch="2.13.0"))
    base = folder_of({**SIZES, "model_type": "gpt2"}, tmp_path / "base")
    assert main(["preflight", "--set", f"model.base={base}", "--random-weights"]) == 1
    printed = " ".join(capsys.readouterr().out.split())
    assert "model_type is 'gpt2'" in printed
    assert "qwen2, qwen3, llama" in printed
    assert "No plan" in printed


def test_a_picture_without_a_plan_is_a_picture(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "devices", lambda: Devices(torch="2.13.0"))
    report = preflight(resolve("tiny-cpu", [f"model.base={tmp_path}"]), say=lambda line: None)
    assert report.plan is None
    assert "No plan" in "".join(ElementTree.fromstring(plan_picture(report)).itertext())
    assert "Not ready" in next_steps(report)


def test_long_findings_are_wrapped_and_fixes_stand_below_them():
    table = checks_table(
        [checks.Check("disk", "failed", "word " * 60, "free some"), checks.Check("store", "ok", "fine", "unused")]
    )
    lines = table.splitlines()
    assert max(map(len, lines)) <= 120
    assert lines[-2].strip() == "-> free some"
    assert lines[-1].split() == ["store", "ok", "fine"]


# --- the probe, from inside


SMALL = ("lora.r=4", "data.max_tokens=64", "train.row_tokens=64", "train.rows_per_pass=2")


def request_for(fields, *overrides, quick=False, random_weights=True):
    config = resolve("tiny-cpu", [*SMALL, *overrides])
    weighed = plan(fields, workload(config), [14.74])
    sizes = probe.quick_sizes(weighed.shape.layers) if quick else []
    random = random_weights or quick
    return probe.make_requests(config, fields, weighed.work, [None], layers=sizes, random_weights=random, rows=[])[0]


@pytest.mark.parametrize("kind", sorted(SHAPES))
def test_random_models_of_each_kind_train(kind):
    from kelron_lib.preflight.worker import measure

    found = measure(request_for({**SIZES, **SHAPES[kind]}, "train.passes_per_step=2", "train.checkpointing=true"))
    (steps,) = found["runs"]
    assert steps["layers"] == 6
    assert len(steps["losses"]) == probe.STEPS
    assert all(abs(loss - math.log(160)) < 0.2 for loss in steps["losses"])  # random weights know nothing
    assert steps["losses"][-1] != steps["losses"][0]
    assert steps["pass_seconds"] > 0
    assert steps["host_peak"] > 0.1
    assert found["samples"]["mean_tokens"] == pytest.approx(30, abs=6)


def test_a_quick_probe_measures_two_sizes():
    from kelron_lib.preflight.worker import measure

    found = measure(request_for({**SIZES, **SHAPES["llama"]}, quick=True))
    assert [steps["layers"] for steps in found["runs"]] == [4, 2]
    assert all(math.isfinite(loss) for steps in found["runs"] for loss in steps["losses"])


@pytest.mark.parametrize("kind", sorted(SHAPES))
def test_a_random_model_has_the_shape_that_the_planner_reads(kind):
    import torch

    from kelron_lib.preflight.random_weights import random_model

    fields = {**SIZES, **SHAPES[kind]}
    model = random_model(fields, torch.device("cpu"), torch.float32)
    sizes = [math.prod(p.quant_state.shape) if hasattr(p, "quant_state") else p.numel() for p in model.parameters()]
    assert sum(sizes) == read_shape(fields).total
    assert not any(parameter.requires_grad for parameter in model.parameters())
    fewer = random_model(fields, torch.device("cpu"), torch.float32, layers=2)
    assert len(fewer.model.layers) == 2


def test_the_worker_writes_errors_where_they_are_read(tmp_path):
    from kelron_lib.preflight.worker import main as work

    request = request_for(find_config(str(bases.base_name(TINY))), random_weights=False)
    request["config"]["model"]["base"] = str(tmp_path / "absent")
    (tmp_path / "request").write_text(json.dumps(request), encoding="utf-8")
    assert work(tmp_path / "request", tmp_path / "result") == 1
    assert "cannot load" in json.loads((tmp_path / "result").read_text(encoding="utf-8"))["error"]


def test_the_notebook_measures_the_tiny_preset(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    notebook = Path(__file__).parent.parent / "notebooks" / "00_preflight.ipynb"
    run_notebook(notebook, tmp_path, {"PRESET": "tiny-cpu", "RUN": str(tmp_path / "run"), "OVERRIDES": []})
    told = json.loads((tmp_path / "run" / "preflight.json").read_text(encoding="utf-8"))
    assert told["ready"] is True, told["checks"]
    assert told["probe"]["random_weights"] is False
    assert told["probe"]["projection"]["measured_rows"] is True
    assert told["probe"]["projection"]["hours"] > 0
    assert told["plan_is_projection"] is True
    executed = json.loads((tmp_path / "notebooks" / "00_preflight.ipynb").read_text(encoding="utf-8"))
    shown = json.dumps([cell.get("outputs") for cell in executed["cells"]])
    assert "image/svg+xml" in shown
    assert "There is no GPU on this machine" in shown
    assert "Ready: 01_data_prep" in shown
    losses = told["probe"]["raw"][0]["runs"][0]["losses"]
    assert len(losses) == 3
    assert max(losses) < math.log(4096) / 2, "not the shipped base: random weights lose ln(4096)"


def test_the_hosts_peak_counts_what_a_process_holds_but_no_mapped_files(tmp_path):
    from kelron_lib.preflight.worker import HostPeak, host_memory

    file = tmp_path / "weights"
    file.write_bytes(bytes(64 << 20))
    peak = HostPeak()
    before = host_memory()
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert not any(mapped[page] for page in range(0, 64 << 20, 4096))
        assert peak.read() - before < 16 << 20
    held = bytearray(os.urandom(1 << 20) * 64)
    assert peak.read() - before > 48 << 20
    del held
    peak.reset()
    assert peak.read() - before < 48 << 20
