"""Training in two CPU processes: the same run as in one, cut or not, on one machine or two, and told when one fails."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from dataset_files import put_rows, rows_in

import kelron_lib.train as module
from kelron_lib.begin import Begun
from kelron_lib.config import apply_overrides
from kelron_lib.errors import KelronError, ProcessFailed, RunFailed
from kelron_lib.job import tell_begun
from kelron_lib.launch import Cluster, interface_towards, run_processes
from kelron_lib.lease import LEASE, Lease, read_lease
from kelron_lib.processes import World, processes_for
from kelron_lib.session import read_sessions, read_status
from kelron_lib.stores import open_store
from kelron_lib.train import train
from kelron_lib.verify import latest

STEPS = 6
ROWS = {"train": 21, "validation": 6}


def silent(line):
    pass


def losses(out):
    return json.loads((out / "losses.json").read_text())


def adapter(out):
    return (out / "adapter" / "adapter_model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def data(small_data, tmp_path_factory):
    """Few enough rows for an epoch of seven passes."""
    folder = tmp_path_factory.mktemp("few") / "data"
    shutil.copytree(small_data, folder)
    for split, count in ROWS.items():
        put_rows(folder, rows_in(folder, split)[:count], split)
    return folder


@pytest.fixture(scope="module")
def config(small_config):
    """Six steps of two passes over one and a half epochs, the last step with an empty pass, dropout on."""
    overrides = ["train.rows_per_pass=1", "train.passes_per_step=2", "train.epochs=1.5"]
    return apply_overrides(small_config, overrides)


@pytest.fixture(scope="module")
def in_two(config):
    return apply_overrides(config, ["session.processes=2"])


@pytest.fixture(scope="module")
def uninterrupted(in_two, data, tmp_path_factory):
    """The run in two processes, and what it said."""
    out, said = tmp_path_factory.mktemp("uninterrupted"), []
    status = train(in_two, data, out, say=said.append)
    assert (status.state, status.step, status.total_steps) == ("finished", STEPS, STEPS)
    return out, said


@pytest.fixture(scope="module")
def cut(in_two, data, tmp_path_factory):
    """The same run after a session that only process 1 had to end."""
    out = tmp_path_factory.mktemp("cut")
    script = str(Path(__file__).parent / "ticking_worker.py")

    def ticking(command, processes, **how):
        run_processes((script, command[-1], "1000", "9"), processes, **how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "run_processes", ticking)
        status = train(in_two, data, out, say=silent)
    assert (status.state, status.first_step) == ("budget", 0)
    assert 0 < status.step < STEPS
    shutil.rmtree(out / "work")
    return out, status.step


def assert_same_run(out, other, rel=1e-4):
    """Equal but for the order of floating-point additions."""
    one, two = losses(out), losses(other)
    assert [entry["step"] for entry in one] == [entry["step"] for entry in two]
    for a, b in zip(one, two, strict=True):
        assert a.keys() == b.keys()
        assert list(a.values()) == pytest.approx(list(b.values()), rel=rel)


def test_two_processes_make_the_run_of_one(uninterrupted, config, data, tmp_path):
    out, said = uninterrupted
    train(config, data, tmp_path, say=silent)
    assert_same_run(out, tmp_path)
    assert sum(line.startswith("starting at step 0") for line in said) == 1
    assert said[-1] == f"finished: all {STEPS} steps are done"
    assert not [line for line in said if line.startswith("[process 1]")]
    manifest = latest(open_store(out / "store"))
    assert manifest.world_size == 2
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= set(manifest.files)
    assert [s["reason"] for s in json.loads((out / "sessions.json").read_text())] == ["finished"]


def test_a_budget_that_one_process_has_used_stops_all_and_the_next_session_is_bit_equal(
    cut, uninterrupted, in_two, data, tmp_path
):
    before, step = cut
    shutil.copytree(before, tmp_path / "run")
    status = train(in_two, data, tmp_path / "run", must_resume=True, say=silent)
    assert (status.state, status.first_step, status.step) == ("finished", step, STEPS)
    assert adapter(tmp_path / "run") == adapter(uninterrupted[0])
    assert losses(tmp_path / "run") == losses(uninterrupted[0])
    recorded = json.loads((tmp_path / "run" / "sessions.json").read_text())
    assert [s["reason"] for s in recorded] == ["budget", "finished"]


def test_another_number_of_processes_goes_on_with_the_same_passes(cut, uninterrupted, config, data, tmp_path):
    before, step = cut
    shutil.copytree(before, tmp_path / "run")
    status = train(config, data, tmp_path / "run", must_resume=True, say=silent)
    assert (status.state, status.first_step, status.step) == ("finished", step, STEPS)
    assert_same_run(tmp_path / "run", uninterrupted[0])
    assert latest(open_store(tmp_path / "run" / "store")).world_size == 1


def test_in_two_processes_a_change_is_accepted_and_a_fresh_start_made(cut, in_two, data, tmp_path):
    before, step = cut
    shutil.copytree(before, tmp_path / "run")
    slower = apply_overrides(in_two, ["train.learning_rate=1e-3"])
    with pytest.raises(KelronError, match=r"--accept-change train\.learning_rate$"):
        train(slower, data, tmp_path / "run", say=silent)
    train(slower, data, tmp_path / "run", accept_changes=["train.learning_rate"], say=silent)
    recorded = json.loads((tmp_path / "run" / "sessions.json").read_text())
    changes = [{"key": "train.learning_rate", "from": in_two.train.learning_rate, "to": 0.001, "step": step}]
    assert [session.get("accepted") for session in recorded] == [None, changes]
    assert latest(open_store(tmp_path / "run" / "store")).changes == changes
    status = train(in_two, data, tmp_path / "run", fresh=True, say=silent)
    assert (status.state, status.first_step) == ("finished", 0)
    assert latest(open_store(tmp_path / "run" / "store" / "before-1")).changes == changes


def test_two_machines_go_on_from_the_checkpoint_of_one(cut, uninterrupted, config, data, tmp_path):
    before, step = cut
    outs = [tmp_path / "machine0", tmp_path / "machine1"]
    shutil.copytree(before, outs[0])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{free.getsockname()[1]}"
    ended = {}

    def machine(number):
        cluster = Cluster(machines=2, machine=number, rendezvous=place)
        ended[number] = train(config, data, outs[number], say=silent, cluster=cluster)

    threads = [threading.Thread(target=machine, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {number: (status.state, status.step) for number, status in ended.items()} == {
        0: ("finished", STEPS),
        1: ("finished", STEPS),
    }
    assert ended[1].first_step == step
    assert adapter(outs[0]) == adapter(uninterrupted[0])
    assert losses(outs[0]) == losses(uninterrupted[0])
    assert not (outs[1] / "store").exists()
    assert not (outs[1] / "adapter").exists()
    assert [path.name for path in (outs[1] / "work").glob("checkpoint-*")] == [f"checkpoint-{step}"]


SUMS = """
import sys
import torch
from kelron_lib.trainer import Replica
from kelron_lib.worker import work

def task(world):
    for overlap in (True, False):
        torch.manual_seed(world.rank)  # process 0's weights must win
        replica = Replica(torch.nn.Linear(3, 2), world, overlap=overlap)
        inputs = torch.arange(12.0).reshape(4, 3)  # one row a pass: 0 and 2 are process 0's, 1 and 3 process 1's
        with replica.no_sync():
            replica(inputs[world.rank]).sum().backward()
        replica(inputs[world.rank + 2]).pow(2).sum().backward()
        replica.finish()
        torch.manual_seed(0)
        alone = torch.nn.Linear(3, 2)
        (alone(inputs[:2]).sum() + alone(inputs[2:]).pow(2).sum()).backward()
        for got, wanted in zip(replica.parameters(), alone.parameters(), strict=True):
            assert torch.allclose(got.grad, wanted.grad), (overlap, got.grad, wanted.grad)
        print("the same", overlap)

work(task)
"""


def test_gradients_are_the_sums_over_processes_and_passes():
    said = []
    run_processes(("-c", SUMS), 2, say=said.append)
    assert [line for line in said if "the same" in line and not line.startswith("[")] == [
        "the same True",
        "the same False",
    ]


FAILING = """
import os, signal, sys
from kelron_lib.errors import KelronError, RunFailed
from kelron_lib.worker import work

def task(world):
    print("here is", world.rank, flush=True)
    world.wait()
    if world.rank == 1:
        {how}
    world.wait()

work(task)
"""
TORCHS_WORDS = (
    "CUDA out of memory. Tried to allocate 1.45 GiB. GPU 0 has a total capacity of 14.74 GiB of which 0.9 is free"
)
FULL_GPU = f"import torch; raise torch.OutOfMemoryError('{TORCHS_WORDS}')"


@pytest.mark.parametrize(
    ("how", "error", "words"),
    [
        ("raise ZeroDivisionError('no such thing')", ProcessFailed, "process 1 of 2: ZeroDivisionError: no such thing"),
        ("raise KelronError('name another')", KelronError, "process 1 of 2: name another"),
        ("raise RunFailed('loss is nan')", ProcessFailed, "process 1 of 2: loss is nan"),
        ("raise OSError(28, os.strerror(28))", KelronError, "process 1 of 2: no disk space: free some"),
        (
            FULL_GPU,
            ProcessFailed,
            r"process 1 of 2: CUDA out of memory\. Tried to allocate 1\.45 GiB: `kelron preflight`",
        ),
        ("os.kill(os.getpid(), signal.SIGKILL)", ProcessFailed, r"process 1 of 2 was ended by SIGKILL.*memory"),
        ("os._exit(7)", ProcessFailed, "process 1 of 2 ended with exit code 7"),
    ],
    ids=["crash", "input", "nan", "full disk", "full GPU", "killed", "silent"],
)
def test_the_process_that_failed_first_is_named_in_one_line(how, error, words):
    said = []
    with pytest.raises(KelronError, match=words) as caught:
        run_processes(("-c", FAILING.format(how=how)), 2, say=said.append)
    assert type(caught.value) is error
    assert caught.value.exit_code == (2 if error is KelronError else 1)
    assert "\n" not in str(caught.value)
    assert {"here is 0", "[process 1] here is 1"} <= set(said)
    told = {line.partition("]")[0] for line in said if "Traceback" in line}
    assert ("[process 1" in told) == how.startswith("raise ZeroDivisionError")


def test_an_interpreter_that_aborts_at_its_end_does_not_undo_a_finished_task():
    said = []
    how = "import atexit; atexit.register(os.abort)"
    run_processes(("-c", FAILING.format(how=how)), 2, say=said.append)
    assert {"here is 0", "[process 1] here is 1"} <= set(said)


def test_a_full_gpu_is_one_line_in_a_single_process_too(config, data, tmp_path, monkeypatch):
    def full(*given):
        raise torch.OutOfMemoryError(TORCHS_WORDS)

    monkeypatch.setattr("kelron_lib.trainer.build_trainer", full)
    with pytest.raises(RunFailed, match=r"^CUDA out of memory\. Tried to allocate 1\.45 GiB: `kelron preflight` says"):
        train(config, data, tmp_path, say=silent)
    assert read_status(tmp_path).state == "failed"


def test_a_failed_process_is_a_failed_session(in_two, data, tmp_path, monkeypatch):
    def failing(command, processes, **how):
        run_processes(("-c", FAILING.format(how="raise MemoryError('none left')")), processes, **how)

    monkeypatch.setattr(module, "run_processes", failing)
    with pytest.raises(ProcessFailed):
        train(in_two, data, tmp_path, say=silent)
    status = json.loads((tmp_path / "status.json").read_text())
    assert (status["state"], status["reason"]) == ("failed", "process 1 of 2: MemoryError: none left")
    assert not (tmp_path / "job.json").exists()


def ended_in_other_processes(in_two, data, out, monkeypatch, lease):
    """What the store says after a session whose training processes were gone at once, with `lease` left in it."""
    store = open_store(out / "store")

    def begun_and_gone(command, processes, **how):
        tell_begun(out, Begun(1, STEPS))
        if lease is not None:
            store.write_bytes(LEASE, lease.encode())
        raise ProcessFailed("process 0 of 2 was ended by SIGKILL")

    monkeypatch.setattr(module, "run_processes", begun_and_gone)
    said = []
    with pytest.raises(ProcessFailed):
        train(in_two, data, out, say=said.append)
    return [one["reason"] for one in read_sessions(store)], read_lease(store), said


GONE = replace(Lease.of_this_process(), session="gone", process_start=1.0)
OTHER = replace(Lease.of_this_process(), session="other", host="another-host")


@pytest.mark.parametrize("lease", [None, GONE], ids=["given back", "left"])
def test_the_watching_process_records_a_session_that_was_killed(lease, cut, in_two, data, tmp_path, monkeypatch):
    shutil.copytree(cut[0], tmp_path / "run")
    recorded, left, _ = ended_in_other_processes(in_two, data, tmp_path / "run", monkeypatch, lease)
    assert recorded == ["budget", "failed"]
    assert left is None
    status = read_status(tmp_path / "run")
    assert (status.state, status.first_step, status.step) == ("failed", 1, cut[1])


def test_the_watching_process_leaves_a_store_alone_that_another_session_holds(cut, in_two, data, tmp_path, monkeypatch):
    shutil.copytree(cut[0], tmp_path / "run")
    recorded, left, said = ended_in_other_processes(in_two, data, tmp_path / "run", monkeypatch, OTHER)
    assert recorded == ["budget"]
    assert left == OTHER
    assert read_status(tmp_path / "run").state == "failed"
    assert "could not be written down" in said[-1]
    assert "another-host" in said[-1]


ORPHAN = """
import sys, time
from kelron_lib.worker import end_with_parent
end_with_parent()
print("waiting", flush=True)
time.sleep(60)
"""


def test_a_process_ends_with_the_one_that_started_it():
    import subprocess

    child = subprocess.Popen([sys.executable, "-c", ORPHAN], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"waiting\n"
    child.stdin.close()
    assert child.wait(10) == 1


def test_processes_are_one_a_gpu_as_far_as_a_step_can_be_shared(config):
    assert [processes_for(config, gpus) for gpus in (0, 1, 2, 3)] == [1, 1, 2, 2]
    assert processes_for(apply_overrides(config, ["session.processes=2"]), 0) == 2
    with pytest.raises(KelronError, match="cannot share the 4 passes"):
        processes_for(apply_overrides(config, ["train.passes_per_step=4", "session.processes=3"]), 4)
    with pytest.raises(KelronError, match="a GPU for 1 only"):
        processes_for(apply_overrides(config, ["session.processes=2"]), 1)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"machines": 2, "machine": 2, "rendezvous": "a:1"}, "count the machines from 0"),
        ({"machines": 2, "machine": 0}, "host:port"),
        ({"machines": 2, "machine": 0, "rendezvous": "somewhere"}, "host:port"),
        ({"machines": 2, "machine": 0, "rendezvous": "a:99999"}, "host:port"),
    ],
)
def test_a_cluster_that_cannot_be_is_refused(given, words):
    with pytest.raises(KelronError, match=words):
        Cluster(**given)


def test_one_process_agrees_with_itself():
    alone = World()
    assert alone.first
    assert (alone.any(True), alone.any(False), alone.sum(2.5), alone.gather("x")) == (True, False, 2.5, ["x"])


def test_the_interface_is_the_one_that_leads_there():
    own = {place.address: name for name, places in psutil.net_if_addrs().items() for place in places}
    assert interface_towards("127.0.0.1") == own["127.0.0.1"]
    assert interface_towards("nowhere.invalid") == ""


MACHINE = """
import sys
from kelron_lib.launch import Cluster, run_processes

TASK = "from kelron_lib.worker import work; work(lambda world: print('sum', world.sum(world.rank + 1.0)))"
run_processes(("-c", TASK), 1, cluster=Cluster(2, int(sys.argv[1]), sys.argv[2]))
"""
NETWORK = """
ip netns add {a}; ip netns add {b}
ip link add v{a} netns {a} type veth peer name v{b} netns {b}
ip -n {a} addr add 10.99.7.1/24 dev v{a}; ip -n {b} addr add 10.99.7.2/24 dev v{b}
ip -n {a} link set lo up; ip -n {a} link set v{a} up; ip -n {b} link set lo up; ip -n {b} link set v{b} up
"""


@pytest.fixture
def two_hosts():
    """Two network namespaces with a wire between them, where a machine's own name leads to itself alone."""
    names = {"a": f"k{os.getpid()}a", "b": f"k{os.getpid()}b"}
    made = subprocess.run(["sh", "-ec", NETWORK.format(**names)], capture_output=True, text=True, check=False)
    try:
        if made.returncode:
            pytest.skip(f"no network namespaces here: {made.stderr.strip()}")
        yield list(names.values())
    finally:
        for name in names.values():
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def test_two_hosts_find_each_other_over_the_network_between_them(two_hosts):
    machines = [
        subprocess.Popen(
            ["ip", "netns", "exec", host, sys.executable, "-c", MACHINE, str(number), "10.99.7.1:29500"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        )
        for number, host in enumerate(two_hosts)
    ]
    try:
        said = [machine.communicate(timeout=90)[0] for machine in machines]
    finally:
        for machine in machines:
            machine.kill()
    assert [machine.returncode for machine in machines] == [0, 0], said
    assert ["sum 3.0" in lines for lines in said] == [True, True], said
