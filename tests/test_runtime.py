import fcntl
import json
import multiprocessing
import time

import pytest

from kelron_lib.errors import KelronError, RunFailed
from kelron_lib.runtime import SessionClock, duration, exclusive, read_json, require_disk, session_start, write_json


def test_the_clock_counts_from_the_sessions_start():
    seconds = iter([100.0, 103.0, 111.0])
    clock = SessionClock(budget=60, elapsed_before=20, now=lambda: next(seconds))
    assert clock.elapsed() == 23
    assert clock.left() == 29


def test_the_session_starts_with_the_process_or_as_told(monkeypatch):
    started, how = session_start()
    assert 0 <= time.time() - started < 3600
    assert "process" in how
    monkeypatch.setenv("KELRON_SESSION_START", "1000.5")
    assert session_start() == (1000.5, "from KELRON_SESSION_START")
    assert SessionClock.from_environment(budget=1).left() < 0
    monkeypatch.setenv("KELRON_SESSION_START", "noon")
    with pytest.raises(KelronError, match="noon"):
        session_start()


def test_durations_read_as_people_write_them():
    assert [duration(s) for s in (-5, 0, 61, 3600, 39600.4)] == ["0:00", "0:00", "1:01", "1:00:00", "11:00:00"]


def _hold(folder, held, release):
    with exclusive(folder):
        held.set()
        release.wait(30)


def test_a_folder_is_held_by_one_process_until_it_ends(tmp_path):
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(tmp_path, held, release))
    other.start()
    assert held.wait(30)
    with pytest.raises(KelronError, match=f"process {other.pid}"), exclusive(tmp_path):
        pass
    other.kill()
    other.join()
    with exclusive(tmp_path):
        pass


def test_what_is_refused_leaves_no_lock_and_no_folder(tmp_path):
    def refuse(folder, error):
        with exclusive(folder):
            raise error

    for error, stays in ((KelronError("no such thing"), False), (RunFailed("too late"), True)):
        with pytest.raises(type(error)):
            refuse(tmp_path / "new" / "run", error)
        assert (tmp_path / "new").exists() == stays
    (tmp_path / "new" / "run" / ".run.lock").unlink()
    (tmp_path / "new" / "run" / "letter.txt").write_text("mine")
    with pytest.raises(KelronError):
        refuse(tmp_path / "new" / "run", KelronError("no such thing"))
    assert [path.name for path in (tmp_path / "new" / "run").iterdir()] == ["letter.txt"]


def test_a_lock_that_was_removed_as_it_was_taken_holds_nothing(tmp_path, monkeypatch):
    """Another process opens the file before, and locks it after, the one that held it removed it."""
    flock, removed = fcntl.flock, []

    def remove_first(handle, how):
        if not removed:
            removed.append((tmp_path / ".run.lock").unlink())
        flock(handle, how)

    monkeypatch.setattr(fcntl, "flock", remove_first)
    with exclusive(tmp_path):
        assert removed
        with pytest.raises(KelronError, match="another run"), exclusive(tmp_path):
            pass


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(KelronError, match="cannot write"), exclusive(tmp_path / "file" / "run"):
        pass


def test_too_little_disk_is_said_beforehand(tmp_path):
    require_disk(tmp_path / "not" / "yet", 1, "a test")
    with pytest.raises(KelronError, match="no disk space for checkpoints"):
        require_disk(tmp_path, 10**18, "checkpoints")


def test_json_is_replaced_whole(tmp_path):
    path = tmp_path / "deep" / "value.json"
    write_json(path, {"name": "켈론"})
    assert json.loads(path.read_text(encoding="utf-8")) == read_json(path) == {"name": "켈론"}
    assert [p.name for p in path.parent.iterdir()] == ["value.json"]
    path.write_text("{")
    with pytest.raises(KelronError, match="not readable JSON"):
        read_json(path)
    with pytest.raises(KelronError, match="missing"):
        read_json(tmp_path / "absent.json")
