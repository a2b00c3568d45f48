"""What a run tells of itself while it goes on: events.jsonl, the memory in use, TensorBoard."""

import json
import threading

import pytest
from conftest import ticking_clock

from kelron_lib.errors import KelronError
from kelron_lib.events import EVENTS_FILE, TENSORBOARD_FOLDER, Board, EventLog, MemoryWatch, parse_memory, read_events
from kelron_lib.train import train


def test_a_session_tells_its_beginning_steps_validations_backups_and_end(small_config, small_data, tmp_path):
    train(small_config, small_data, tmp_path, clock=ticking_clock(15), say=lambda line: None)
    first, offset = read_events(tmp_path / EVENTS_FILE)
    assert first[0]["event"] == "begin"
    assert first[0]["first_step"] == 0
    assert {told["event"] for told in first} == {"begin", "step", "validation", "backup", "end"}
    assert (first[-1]["state"], first[-1]["event"]) == ("budget", "end")
    backups = [told for told in first if told["event"] == "backup"]
    assert backups[-1]["step"] == first[-1]["step"]
    assert backups[-1]["bytes"] > 100_000
    step = next(told for told in first if told["event"] == "step" and told["step"] > 0)
    assert {"loss", "samples_per_second", "tokens_per_second", "training_ends_in", "session_ends_in"} <= step.keys()
    assert step["tokens_per_second"] > step["samples_per_second"]
    assert [told["time"] for told in first] == sorted(told["time"] for told in first)

    train(small_config, small_data, tmp_path, must_resume=True, say=lambda line: None)
    second, _ = read_events(tmp_path / EVENTS_FILE, offset)
    assert (second[0]["event"], second[0]["first_step"]) == ("begin", first[-1]["step"])
    assert second[-1]["state"] == "finished"


def test_a_refused_session_tells_nothing(small_config, small_data, tmp_path):
    with pytest.raises(KelronError):
        train(small_config, small_data, tmp_path, must_resume=True, say=lambda line: None)
    assert not (tmp_path / EVENTS_FILE).exists()


def test_half_a_line_is_left_for_the_next_look(tmp_path):
    path = tmp_path / EVENTS_FILE
    path.write_bytes(b'{"event": "begin"}\nno json\n[1]\n{"event": "st')
    told, offset = read_events(path)
    assert told == [{"event": "begin"}]
    with open(path, "ab") as file:
        file.write('ep", "place": "여기"}\n'.encode())
    assert read_events(path, offset) == ([{"event": "step", "place": "여기"}], path.stat().st_size)
    assert read_events(tmp_path / "none") == ([], 0)


def test_a_file_that_cannot_be_written_is_told_once_and_ends_nothing(tmp_path):
    said, also = [], []
    log = EventLog(tmp_path / "missing", said.append, also.append)
    log.add("step", step=1)
    log.add("step", step=2)
    assert len(said) == 1
    assert said[0].endswith("the run goes on without it")
    assert [told["step"] for told in also] == [1, 2]


def test_events_of_several_threads_are_whole_lines(tmp_path):
    log = EventLog(tmp_path, print)
    threads = [
        threading.Thread(target=lambda: [log.add("step", step=i, text="한" * 200) for i in range(50)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = (tmp_path / EVENTS_FILE).read_text(encoding="utf-8").splitlines()
    assert len([json.loads(line) for line in lines]) == 200


def test_numbers_that_are_none_are_left_out(tmp_path):
    EventLog(tmp_path, print).add("step", step=0, loss=float("nan"))
    told, _ = read_events(tmp_path / EVENTS_FILE)
    assert "loss" not in told[0]


def test_memory_of_each_gpu_is_read_from_the_drivers_tool():
    assert parse_memory("13012, 15360\n[N/A], 15360\n0, 15360\n") == [
        {"device": "GPU 0", "used": 13012 * 2**20, "limit": 15360 * 2**20},
        {"device": "GPU 2", "used": 0, "limit": 15360 * 2**20},
    ]


def test_the_memory_watch_looks_until_it_ends():
    seen = threading.Event()

    def look():
        seen.set()
        return [{"device": "GPU 0", "used": 1, "limit": 2}]

    watch = MemoryWatch(look)
    watch.start()
    assert seen.wait(10)
    watch.end()
    watch._thread.join(10)
    assert not watch._thread.is_alive()
    assert watch.latest[0]["used"] == 1


def test_tensorboard_that_is_not_installed_is_said_before_training(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with pytest.raises(KelronError, match="pip install tensorboard"):
        Board(tmp_path)


def test_tensorboard_gets_the_figures(tmp_path, monkeypatch):
    added = []

    class Writer:
        def __init__(self, folder, purge_step=None):
            self.folder = folder

        def add_scalar(self, name, value, step, walltime):
            added.append((name, value, step))

        def flush(self):
            pass

    module = type("tensorboard", (), {"SummaryWriter": Writer})
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", module)
    log = EventLog(tmp_path, print, Board(tmp_path))
    log.add("step", step=3, loss=1.5, memory=[{"device": "GPU 0", "used": 7, "limit": 9}])
    log.add("validation", step=3, loss=2.5)
    log.add("end", state="finished", reason="all", step=3)
    assert added == [("step/loss", 1.5, 3), ("memory/GPU 0", 7, 3), ("validation/loss", 2.5, 3)]


def test_tensorboard_itself_reads_the_curve_of_a_run_that_was_cut(tmp_path):
    """By TensorBoard's own reader: what a killed session did after its last backup is in no curve twice."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    memory = [{"device": "GPU 0", "used": 13 * 2**30, "limit": 14 * 2**30}]
    for first, losses in ((0, (3.0, 2.5, 9.0)), (2, (2.0, 1.5))):
        log = EventLog(tmp_path, print, Board(tmp_path))
        log.add("begin", first_step=first, total_steps=4, session_ends_in=60.0)
        for number, loss in enumerate(losses, first + 1):
            log.add("step", step=number, loss=loss, tokens_per_second=250.0, memory=memory)
        log.add("validation", step=number, loss=loss + 1)
        log.add("backup", step=number, bytes=3_300_000_000, place="folder x")
        log.add("end", state="budget", reason="the session's time is used", step=number)
    read = EventAccumulator(str(tmp_path / TENSORBOARD_FOLDER))
    read.Reload()
    curve = [(scalar.step, scalar.value) for scalar in read.Scalars("step/loss")]
    assert curve == [(1, 3.0), (2, 2.5), (3, 2.0), (4, 1.5)]
    assert [(scalar.step, scalar.value) for scalar in read.Scalars("validation/loss")] == [(4, 2.5)]
    assert read.Scalars("memory/GPU 0")[-1].value == 13 * 2**30
    told, _ = read_events(tmp_path / EVENTS_FILE)
    written = [event["time"] for event in told if event["event"] == "step"]
    assert read.Scalars("step/loss")[-1].wall_time == pytest.approx(written[-1], abs=1e-3)
    assert {"step/tokens_per_second", "backup/bytes"} <= set(read.Tags()["scalars"])
