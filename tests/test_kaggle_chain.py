"""The chain against the stand-in, whose sessions play a script: what is pushed when, whatever happens in between."""

import json
import random
import re
import threading
import time
from dataclasses import asdict
from datetime import UTC, datetime, timedelta

import kaggle_image
import pytest
from kaggle_image import ROOT
from kaggle_stand_in import USER, use_client
from kaggle_world import Played, World
from test_hub_store import CHANGE, Session

from kelron_lib.config import resolve
from kelron_lib.errors import KelronError, RunFailed
from kelron_lib.kaggle_ops import __main__ as command_line
from kelron_lib.kaggle_ops import chain as chain_module
from kelron_lib.kaggle_ops import hub as hub_module
from kelron_lib.kaggle_ops import library, state, watch
from kelron_lib.kaggle_ops.chain import Chain, Options
from kelron_lib.kaggle_ops.client import Kaggle, KaggleError
from kelron_lib.kaggle_ops.hub import HubSide
from kelron_lib.kaggle_ops.kernels import pack_kernels
from kelron_lib.kaggle_ops.library import KERNELS_FILE, Library, upload_library
from kelron_lib.lease import Writer
from kelron_lib.manifest import Pointer, step_folder
from kelron_lib.session import make_status

TOTAL = 100
RUN = "runs/kelron"
DATA, TRAIN, RESUME, RESUME_B, EVALUATE = (
    "kelron-01-data",
    "kelron-02-train",
    "kelron-03-resume",
    "kelron-03-resume-b",
    "kelron-04-evaluate",
)


def pointer(step):
    return Pointer(step, step_folder(step), "0" * 64).encode()


class Script:
    """Plays sessions: `outcomes` says how each training session ends, in order; data and evaluation succeed unless
    `failing` names them. A training session goes on from the store that is mounted and makes 40 steps."""

    def __init__(self, outcomes=(), failing=(), ready=True, seconds=0.0, hub=None):
        self.outcomes, self.failing, self.ready, self.seconds = list(outcomes), list(failing), ready, seconds
        self.hub, self.began = hub, []

    def __call__(self, world, ref, version):
        kind = "kelron-" + ref.rpartition("/")[2].partition("-")[2]
        mounted = world.mounted(version)
        time.sleep(self.seconds)
        if not any("kelron-library" in place for place in mounted):
            return Played("ERROR", log="AssertionError: attach the dataset kelron-library to this notebook\n")
        if kind in self.failing:
            self.failing.remove(kind)
            return Played("ERROR", log="Traceback\nKelronError: so it went\n")
        if kind.endswith("preflight"):
            return Played(files={f"{RUN}/preflight.json": json.dumps({"ready": self.ready}).encode()})
        if kind == DATA:
            return Played(files={f"{RUN}/data/quality.json": b"{}", f"{RUN}/data/train.parquet": b"{}"})
        if kind == EVALUATE:
            assert any(f"{RUN}/adapter/adapter_config.json" in files for files in mounted.values()), "no adapter"
            return Played(files={f"{RUN}/report.html": b"<p>report", f"{RUN}/scoreboard.json": b"{}"})
        return self.train(kind, mounted)

    def train(self, kind, mounted):
        steps = [
            Pointer.decode(content).step
            for files in mounted.values()
            for name, content in files.items()
            if name.endswith("store/LATEST.json")
        ]
        start = self.hub[-1] if self.hub else max(steps, default=0)
        self.began.append(start)
        if kind == TRAIN and not self.hub:
            assert any(f"{RUN}/data/train.parquet" in files for files in mounted.values()), "no dataset"
        outcome = self.outcomes.pop(0) if self.outcomes else "ok"
        step = min(TOTAL, start + 40)
        state = "finished" if step == TOTAL else "budget"
        status = make_status(state, "so it went", first_step=start, step=step, total_steps=TOTAL, seconds=3600.0)
        files = {f"{RUN}/status.json": json.dumps(asdict(status)).encode()}
        if self.hub is None:
            files[f"{RUN}/store/LATEST.json"] = pointer(step)
        if step == TOTAL:
            files[f"{RUN}/adapter/adapter_config.json"] = b"{}"
        if self.hub is not None and outcome in ("ok", "killed", "heard"):
            self.hub.append(step)
        if outcome == "ok":
            return Played(files=files, log="trained\n")
        if outcome == "error":
            failed = make_status("failed", "a bug", first_step=start, step=start, total_steps=0, seconds=9.0)
            return Played(
                "ERROR",
                {f"{RUN}/status.json": json.dumps(asdict(failed)).encode()},
                log="step 1\nValueError: a bug\n",
                message="it raised",
            )
        if outcome == "killed":
            return Played("CANCEL_ACKNOWLEDGED", message="exceeded the max allowed execution duration")
        if outcome == "heard":  # killed, too, and its log survived
            log = (
                f"step {step}/{TOTAL} | loss 0.5\nstep {step} is kept in hf://buckets/me/kelron/run-1, verified: 1 MB\n"
            )
            return Played("CANCEL_ACKNOWLEDGED", log=f"{log}step {min(TOTAL, step + 9)}/{TOTAL} | loss 0.4\n")
        if outcome == "broken":
            return Played("ERROR", log="Traceback\nBootstrapError: no such thing\n")
        assert outcome == "empty", outcome
        return Played("COMPLETE")


@pytest.fixture
def prepared(monkeypatch, tmp_path):
    """No notebook runs here, so the library may be next to nothing."""
    folder = tmp_path / "library"
    folder.mkdir()
    kaggle_image.write_wheel(folder, "kelron", "0.1.0", {})
    (folder / "kelron-library.json").write_text(json.dumps({"content": "c", "commit": "0123456789abcdef"}))
    (folder / KERNELS_FILE).write_text(json.dumps(pack_kernels(ROOT)))
    metadata = {"id": f"{USER}/kelron-library", "title": "Kelron Library", "licenses": [{"name": "other"}]}
    (folder / "dataset-metadata.json").write_text(json.dumps(metadata))

    def stage(self):
        upload_library(self.kaggle, Library(folder, "kelron-library", "c", "0123456789abcdef", False))
        return "0123456789abcdef"

    monkeypatch.setattr(Chain, "stage", stage)
    monkeypatch.setattr(watch, "GLANCE", 0.05)
    monkeypatch.setattr(Options, "results", tmp_path / "results")


@pytest.fixture
def start(monkeypatch, prepared):
    """A world with a script, and a function that makes a chain on it."""
    worlds = []

    def begin(script, **changes):
        world = World(script, **changes)
        worlds.append(world.__enter__())
        use_client(monkeypatch, world)

        def chain(preset="tiny-cpu", overrides=(), **options):
            said = []
            kaggle = Kaggle(say=said.append, sleep=lambda seconds: time.sleep(0.01))
            made = Chain(kaggle, resolve(preset, overrides), Options(ROOT, tuple(overrides), **options))
            made.said = said
            return made

        return world, chain

    yield begin
    for world in worlds:
        world.__exit__()


def pushes(world):
    return [
        f"{v.asked['slug'].rpartition('/')[2]}:{v.record.step}"
        for v in world.history(DATA, TRAIN, RESUME, RESUME_B, EVALUATE)
    ]


def test_sessions_follow_each_other_until_the_report_is_here(start, tmp_path):
    script = Script()
    world, chain = start(script)
    folder = chain().run()
    assert (folder / "report.html").read_bytes() == b"<p>report"
    assert pushes(world) == [f"{DATA}:0", f"{TRAIN}:0", f"{RESUME}:40", f"{RESUME_B}:80", f"{EVALUATE}:0"]
    assert script.began == [0, 40, 80]
    resume, resume_b = world.versions(RESUME)[0], world.versions(RESUME_B)[0]
    assert (resume.asked["kernelDataSources"], resume_b.asked["kernelDataSources"]) == (
        [f"{USER}/{TRAIN}"],
        [f"{USER}/{RESUME}"],
    )
    assert {v.asked["sessionTimeoutSeconds"] for v in world.history(DATA)} == {3600}
    requests = len(world.requests)
    assert chain().run() == folder  # once more only fetches
    assert not any(method == "SaveKernel" for method, _ in world.requests[requests:])


@pytest.mark.parametrize("outcome", ["error", "killed", "empty"])
def test_a_session_that_leaves_nothing_is_followed_by_one_from_the_last_checkpoint(outcome, start):
    script = Script(["ok", outcome, "ok", outcome, outcome, "ok"])
    world, chain = start(script)
    running = chain()
    running.run()
    assert script.began == [0, 40, 40, 80, 80, 80]
    assert pushes(world)[1:-1] == [
        f"{TRAIN}:0",
        f"{RESUME}:40",
        f"{RESUME}:40",
        f"{RESUME_B}:80",
        f"{RESUME_B}:80",
        f"{RESUME_B}:80",
    ]
    told = "\n".join(running.said)
    assert {"error": "ValueError: a bug", "killed": "max allowed execution", "empty": "its log is empty"}[
        outcome
    ] in told


def test_a_session_whose_end_was_asked_for_in_the_page_is_waited_for(start):
    """It is active until it heeds that, and what it left counts."""
    ended, script = threading.Event(), Script()

    def play(world, ref, version):
        if ref.endswith(RESUME):
            ended.wait(60)
        return script(world, ref, version)

    world, chain = start(play)
    running = chain()
    while not world.versions(RESUME) or world.versions(RESUME)[0].status == "QUEUED":
        running.turn()
        time.sleep(0.01)
    (session,) = world.versions(RESUME)
    world.cancel(session)
    for _ in range(3):
        assert running.turn().about.session.status == "CANCEL_REQUESTED"
    assert command_line.main(["push", "resume", "--preset", "tiny-cpu"]) == 2
    assert len(world.history(TRAIN, RESUME, RESUME_B)) == 2
    ended.set()
    world.wait()
    assert session.status == "CANCEL_ACKNOWLEDGED"
    chain().run()
    assert pushes(world)[1:-1] == [f"{TRAIN}:0", f"{RESUME}:40", f"{RESUME_B}:80"]
    assert script.began == [0, 40, 80]


def save_by_hand(world, slug, title, text=None, status="NEW_SCRIPT"):
    """A later version of a kernel, as somebody saves who opens it in Kaggle's page: it has the text of the newest."""
    text = world.versions(slug)[-1].asked["text"] if text is None else text
    asked = {"slug": f"{USER}/{slug}", "newTitle": title, "text": text, "kernelExecutionType": "QUICK_SAVE"}
    world.save_kernel(asked)
    version = world.versions(slug)[-1]
    version.status = status
    return version


@pytest.mark.parametrize("text", [None, json.dumps({"cells": []})])
@pytest.mark.parametrize("status", ["NEW_SCRIPT", "ERROR"])
def test_a_later_version_that_was_saved_by_hand_hides_no_session(text, status, start):
    """Whether it was only saved, or ran and failed at once; with what was pushed in it, or something else."""
    script = Script()
    world, chain = start(script)
    titles = {
        DATA: "Kelron 01 Data",
        TRAIN: "Kelron 02 Train",
        RESUME: "Kelron 03 Resume",
        EVALUATE: "Kelron 04 Evaluate",
    }
    saved = set()
    while chain(once=True).run() is None:
        world.wait()
        for slug in titles.keys() - saved:
            if world.versions(slug):
                save_by_hand(world, slug, titles[slug], text, status)
                saved.add(slug)
    assert saved == titles.keys()
    assert script.began == [0, 40, 80]
    assert world.versions(TRAIN)[0].asked["kernelDataSources"] == [f"{USER}/{DATA}/1"]
    assert world.versions(RESUME)[0].asked["kernelDataSources"] == [f"{USER}/{TRAIN}/1"]
    assert world.versions(RESUME_B)[0].asked["kernelDataSources"] == [f"{USER}/{RESUME}/1"]
    assert {slug: len(world.versions(slug)) for slug in titles} == dict.fromkeys(titles, 2)


def test_a_session_goes_on_although_a_later_version_was_saved(start):
    """Another one would train beside it."""
    ended, script = threading.Event(), Script()

    def play(world, ref, version):
        if ref.endswith(TRAIN):
            ended.wait(60)
        return script(world, ref, version)

    world, chain = start(play)
    while not world.versions(TRAIN):
        chain(once=True).run()
    for text in (None, json.dumps({"cells": []})):
        save_by_hand(world, TRAIN, "Kelron 02 Train", text)
        step = chain().turn()
        assert (step.kind, step.about.version) == ("wait", 1)
    ended.set()
    chain().run()
    assert world.at_once == 1
    assert script.began == [0, 40, 80]


def test_a_session_that_was_started_again_by_hand_counts_by_what_it_kept(start):
    """Save and Run All of a pushed notebook, in its page: it made another 40 steps."""
    script = Script()
    world, chain = start(script)
    running = chain()
    while not world.versions(RESUME):
        running.turn()
    world.wait()
    by_hand = save_by_hand(world, RESUME, "Kelron 03 Resume", status="RUNNING")
    assert running.turn().about.version == 2
    by_hand.files = {f"{RUN}/store/LATEST.json": pointer(95)}
    by_hand.status = "CANCEL_ACKNOWLEDGED"
    chain().run()
    (last,) = world.versions(RESUME_B)
    assert (last.record.step, last.asked["kernelDataSources"]) == (95, [f"{USER}/{RESUME}"])
    foreign = save_by_hand(world, RESUME, "Kelron 03 Resume", json.dumps({"cells": []}), "RUNNING")
    assert chain().turn().why == f"a session that is not of this run is active: {USER}/{RESUME} version 3"
    foreign.status = "COMPLETE"


def test_sessions_without_progress_end_it_with_the_last_lines(start):
    script = Script(["ok", *["error"] * 9])
    world, chain = start(script)
    with pytest.raises(RunFailed) as caught:
        chain(most=4).run()
    lines = str(caught.value).splitlines()
    assert lines[0] == "4 sessions in a row brought no step"
    assert lines[1] == f"{USER}/{RESUME} version 4 ended as ERROR (it raised); failed at step 40: a bug"
    assert lines[2:] == ["  | step 1", "  | ValueError: a bug"]
    assert len(world.history(RESUME)) == 4
    with pytest.raises(RunFailed, match="4 sessions in a row"):  # and again, for as long as it is so
        chain(most=4).run()
    assert len(world.history(RESUME)) == 4


def test_a_first_session_without_a_step_begins_again(start):
    script = Script(["error", "empty"])
    world, chain = start(script)
    chain(most=5).run()
    assert pushes(world)[:4] == [f"{DATA}:0", f"{TRAIN}:0", f"{TRAIN}:0", f"{TRAIN}:0"]


@pytest.mark.parametrize("kernel", [DATA, EVALUATE])
def test_what_has_to_succeed_once_is_tried_again_and_given_up(kernel, start):
    world, chain = start(Script(failing=[kernel]))
    chain().run()
    assert len(world.history(kernel)) == 2
    world, chain = start(Script(failing=[kernel] * 9))
    with pytest.raises(RunFailed, match=r"(data|evaluate) failed 3 times\n(.|\n)*KelronError: so it went"):
        chain().run()
    assert len(world.history(kernel)) == 3


def test_preflight_comes_first_and_holds_what_is_not_ready(start):
    world, chain = start(Script())
    chain(preflight=True).run()
    assert world.history("kelron-00-preflight", DATA)[0].asked["slug"].endswith("preflight")
    world, chain = start(Script(ready=False))
    with pytest.raises(RunFailed, match="preflight found something that has to be mended first"):
        chain(preflight=True).run()
    assert not world.history(DATA)


def test_a_refused_push_is_made_again_and_a_lasting_refusal_told(start):
    world, chain = start(Script())
    world.faults["SaveKernel"] = [503, "refuse:An internal error occurred.", "lost", 409, 429]
    chain().run()
    assert pushes(world) == [f"{DATA}:0", f"{TRAIN}:0", f"{RESUME}:40", f"{RESUME_B}:80", f"{EVALUATE}:0"]
    world, chain = start(Script())
    world.faults["SaveKernel"] = ["refuse:Notebook not allowed."] * 9
    with pytest.raises(KelronError, match=r"Kaggle refused to run me/kelron-01-data: Notebook not allowed\."):
        chain().run()


def test_a_library_that_is_mounted_late_costs_a_session_and_no_more(start):
    """Kaggle calls a dataset ready before its sessions see it."""
    world, chain = start(Script(seconds=0.1), lag=0.35)
    chain(most=9).run()
    data = world.history(DATA)
    assert [session.status for session in data] == ["ERROR"] * (len(data) - 1) + ["COMPLETE"]
    assert len(data) > 1
    assert pushes(world)[len(data) :] == [f"{TRAIN}:0", f"{RESUME}:40", f"{RESUME_B}:80", f"{EVALUATE}:0"]


def test_a_library_that_kaggle_does_not_attach_yet_costs_a_session_and_no_more(start):
    """The push is answered with the rejected source, and the session starts all the same."""
    world, chain = start(Script())
    world.unattachable = 2
    running = chain()
    running.run()
    assert [session.status for session in world.history(DATA)] == ["ERROR", "ERROR", "COMPLETE"]
    assert any(f"started {USER}/{DATA} without datasets {USER}/kelron-library" in line for line in running.said)
    world, chain = start(Script())
    world.unattachable = 99
    with pytest.raises(KelronError, match="without datasets me/kelron-library, which it does not know"):
        chain().run()


def test_an_outage_is_outlived_but_not_by_a_scheduler(start):
    world, chain = start(Script())
    world.faults["GetKernel"] = [503] * 20
    chain().run()
    world.faults["GetKernel"] = [503] * 20
    with pytest.raises(KaggleError, match="given up after 7 tries"):
        chain(once=True).run()


def test_a_scheduler_makes_one_turn_at_a_time(start):
    world, chain = start(Script())
    turns = 0
    while (folder := chain(once=True).run()) is None:
        world.wait()
        turns += 1
    assert turns == 5
    assert (folder / "report.html").read_bytes() == b"<p>report"
    assert pushes(world) == [f"{DATA}:0", f"{TRAIN}:0", f"{RESUME}:40", f"{RESUME_B}:80", f"{EVALUATE}:0"]


def test_stopped_by_hand_nothing_is_pushed_until_told_to_go_on(start, capsys):
    world, chain = start(Script(seconds=0.3))
    while not world.history(TRAIN):
        chain(once=True).run()
    assert command_line.main(["stop", "--preset", "tiny-cpu", "--set", "lora.r=4"]) == 0  # not the run's own options
    told = capsys.readouterr().out
    assert "stopped: no `run`" in told
    assert "Cancel Run at https://www.kaggle.com/code/me/kelron-02-train" in told
    world.wait()
    with pytest.raises(RunFailed, match="the run was stopped by hand: `run --go-on`"):
        chain().run()
    assert pushes(world) == [f"{DATA}:0", f"{TRAIN}:0"]
    capsys.readouterr()
    for options, step in (([], "stop"), (["--go-on"], "push resume")):
        assert command_line.main(["run", "--dry-run", "--preset", "tiny-cpu", *options]) == 0
        assert capsys.readouterr().out.startswith(f"next: {step} ")
    (stop,) = world.versions("kelron-stop")
    assert (stop.status, stop.asked["kernelExecutionType"]) == ("NEW_SCRIPT", "QUICK_SAVE")
    command_line._mark(chain(), "")
    chain().run()
    assert len(pushes(world)) == 5


def test_stopped_by_hand_a_session_with_a_store_on_the_hub_is_asked_to_end(start, hub, monkeypatch, capsys):
    ended, script = threading.Event(), Script(hub=[0])

    def play(world, ref, version):
        if ref.endswith(TRAIN):
            ended.wait(60)
        return script(world, ref, version)

    world, chain = start(play)
    store = Session(hub, "bucket").store
    monkeypatch.setattr(hub_module, "open_store", lambda url, **_: store)
    options = ["--preset", "tiny-cpu"]  # the store is known from what was pushed
    while not world.history(TRAIN):
        chain(overrides=["store.url=hf://buckets/me/kelron/run-1"], once=True).run()
        time.sleep(0.1)
    assert command_line.main(["stop", *options]) == 0
    told = capsys.readouterr().out
    assert "it cannot be asked to end before it trains: say `stop` again then" in told
    assert "Cancel Run at https://www.kaggle.com/code/me/kelron-02-train" in told
    writer = Writer(Session(hub, "bucket").store, beat_seconds=0.05, stale_seconds=1, settle_seconds=0)
    writer.acquire(lambda line: None)
    hub.fail(CHANGE["bucket"], "status", status=403, times=10**6)  # heartbeats meet it, too
    assert command_line.main(["stop", *options]) == 0
    assert "it could not be asked to end: " in capsys.readouterr().out
    hub.faults.clear()
    assert command_line.main(["stop", *options]) == 0
    told = capsys.readouterr().out
    assert "was asked to end, sees it within 60 s, and keeps a checkpoint" in told
    assert "Cancel Run" not in told
    end = time.monotonic() + 20
    while not writer.asked_to_stop:
        assert time.monotonic() < end
        time.sleep(0.02)
    writer.release()
    ended.set()


def test_at_the_end_the_scoreboard_is_printed_and_the_report_opened(start, monkeypatch, capsys):
    _, chain = start(Script())
    chain().run()
    opened = []
    monkeypatch.setattr(command_line.webbrowser, "open", opened.append)
    monkeypatch.setattr(command_line, "scoreboard", lambda folder: "the scoreboard")
    assert command_line.main(["run", "--preset", "tiny-cpu"]) == 0
    report = chain().options.results / "report.html"
    assert opened == [report.as_uri()]
    assert capsys.readouterr().out == f"the scoreboard\nreport: {report}\n"
    assert command_line.main(["run", "--preset", "tiny-cpu", "--no-open"]) == 0
    assert len(opened) == 1


def test_the_report_of_another_run_is_not_taken_for_this_ones(start, monkeypatch, capsys):
    world, chain = start(Script())
    chain().run()
    monkeypatch.setattr(command_line.webbrowser, "open", lambda address: pytest.fail("opened an old report"))
    assert command_line.main(["run", "--preset", "tiny-cpu", "--fresh", "--once"]) == 0
    assert "report: " not in capsys.readouterr().out
    assert len(world.history(DATA)) == 2


def test_an_evaluation_that_left_no_report_is_told(start):
    def play(world, ref, version):
        played = Script()(world, ref, version)
        played.files.pop(f"{RUN}/report.html", None)
        return played

    _, chain = start(play)
    with pytest.raises(RunFailed, match=r"the evaluation left no report\.html: `output evaluate` downloads"):
        chain().run()


def test_the_status_of_a_run_with_other_options_is_shown(start, capsys):
    world, chain = start(Script())
    chain(once=True).run()
    world.wait()
    assert command_line.main(["status"]) == 0
    told = capsys.readouterr().out
    assert "me/kelron-01-data version 1 ended as COMPLETE" in told
    assert told.endswith(
        "next: `run` with the preset and the overrides that the run was begun with, which these are not\n"
    )
    assert command_line.main(["status", "--preset", "tiny-cpu"]) == 0
    assert capsys.readouterr().out.endswith("next: push train the first training session\n")


def test_logs_and_output_are_of_the_newest_session_or_of_the_one_that_is_named(start, capsys, tmp_path):
    script = Script(["ok", "heard", "error", "ok", "ok"])
    world, chain = start(script)
    chain(most=9).run()
    assert pushes(world)[1:-1] == [f"{TRAIN}:0", f"{RESUME}:40", f"{RESUME}:40", f"{RESUME}:40", f"{RESUME_B}:80"]

    def read(*arguments):
        code = command_line.main([*arguments, "--preset", "tiny-cpu"])
        return (code, *capsys.readouterr())

    trained = (0, "trained\n")
    assert read("logs", "resume") == (*trained, f"{USER}/{RESUME_B} version 1, training session 5 of the run\n")
    assert read("logs", "train") == (*trained, f"{USER}/{TRAIN} version 1, training session 1 of the run\n")
    code, out, err = read("logs", "resume", "--session", "2")
    assert (code, err) == (0, f"{USER}/{RESUME} version 1, training session 2 of the run\n")
    assert out.splitlines()[-1] == f"step 89/{TOTAL} | loss 0.4"
    code, out, _ = read("logs", "-f", "resume", "--session", "3")
    assert (code, out) == (0, "step 1\nValueError: a bug\n")
    assert read("logs", "train", "--session", "9") == (
        2,
        "",
        "push_kernels.sh: the run has no training session 9: Kaggle holds 1, 2, 3, 4, 5\n",
    )
    assert read("output", "resume")[0] == 0
    results = chain().options.results
    assert (results / "resume-b-5" / RUN / "status.json").is_file()
    assert read("output", "resume", "--session", "4", "--to", str(tmp_path / "four"))[0] == 0
    assert Pointer.decode((tmp_path / "four" / RUN / "store" / "LATEST.json").read_bytes()).step == 80
    assert "resume-b, session 5: me/kelron-03-resume-b version 1 ended as COMPLETE" in read("status")[1]
    assert read("logs", "preflight")[2].startswith("push_kernels.sh: Kaggle shows no kernel me/kelron-00-preflight: ")
    world.save_kernel({"slug": f"{USER}/kelron-00-preflight", "newTitle": "Kelron 00 Preflight", "text": "{}"})
    assert read("logs", "preflight")[2].startswith("me/kelron-00-preflight, whose newest version is not of this run")


def test_a_kernel_that_would_find_nothing_to_work_on_is_not_pushed(start, capsys):
    ended, script = threading.Event(), Script()

    def play(world, ref, version):
        ended.wait(60)
        return script(world, ref, version)

    world, _ = start(play)
    for kernel, lacking in (
        ("train", "there is no dataset yet: push data, and wait for its end"),
        ("resume", "no session has left a checkpoint yet"),
        ("evaluate", "no training session has finished the run yet"),
    ):
        assert command_line.main(["push", kernel, "--preset", "tiny-cpu"]) == 2
        assert f"{kernel} would fail, {lacking}" in capsys.readouterr().err
    assert command_line.main(["push", "data", "train", "--preset", "tiny-cpu"]) == 2  # it has only begun
    ended.set()
    world.wait()
    assert pushes(world) == [f"{DATA}:0"]
    assert command_line.main(["push", "train", "--preset", "tiny-cpu"]) == 0
    world.wait()
    assert command_line.main(["push", "resume", "--preset", "tiny-cpu"]) == 0
    world.wait()
    assert command_line.main(["push", "evaluate", "--preset", "tiny-cpu"]) == 2
    assert pushes(world) == [f"{DATA}:0", f"{TRAIN}:0", f"{RESUME}:40"]


def test_a_store_that_the_laptop_may_not_read_is_told_once(start, monkeypatch):
    def refused(url, **_):
        raise KelronError("the token may not do this")

    monkeypatch.setattr(hub_module, "open_store", refused)
    _, chain = start(Script(hub=[0]))
    running = chain(overrides=["store.url=hf://buckets/me/kelron/run-1"])
    running.run()
    assert sum(line.startswith("the store cannot be read from here") for line in running.said) == 1


HUB = ("store.url=hf://buckets/me/kelron/run-1",)


@pytest.fixture
def unreadable(monkeypatch):
    """The laptop has no token for the store."""

    def refused(url, **_):
        raise KelronError("the token may not do this")

    monkeypatch.setattr(hub_module, "open_store", refused)


def test_what_a_killed_session_kept_on_the_hub_is_read_from_its_log(start, unreadable):
    script = Script(["heard", "heard", "ok"], hub=[0])
    world, chain = start(script)
    running = chain(overrides=HUB, most=1)
    running.run()
    assert script.began == [0, 40, 80]
    assert pushes(world)[1:-1] == [f"{TRAIN}:0", f"{RESUME}:40", f"{RESUME}:80"]
    assert {(v.record.fruitless, v.record.unknown) for v in world.history(RESUME)} == {(0, 0)}
    assert [v.record.total for v in world.history(RESUME)] == [TOTAL, TOTAL]


def test_sessions_of_which_nobody_can_tell_are_no_fruitless_ones_and_have_a_limit(start, unreadable):
    """Killed with nothing left, not even a log; the store has their steps, and nobody here may look."""
    script = Script(["killed"] * 4, hub=[0])
    world, chain = start(script)
    running = chain(overrides=HUB, most=3)
    running.run()
    assert script.began == [0, 40, 80, 100, 100]
    assert [(v.record.fruitless, v.record.unknown) for v in world.history(TRAIN)] == [(0, n) for n in range(5)]
    told = "\n".join(running.said)
    assert (
        "no session kept a step so far (as far as is known: 2 sessions left no word of what they kept; it stops at 6)"
        in told
    )
    script = Script(["killed"] * 9, hub=[0])
    world, chain = start(script)
    with pytest.raises(RunFailed, match=r"^2 sessions left no word of what they kept, .*: set HF_TOKEN here"):
        chain(overrides=HUB, most=1).run()
    assert len(world.history(TRAIN)) == 2


def test_a_session_whose_log_says_how_it_broke_is_fruitless(start, unreadable):
    _, chain = start(Script(["broken"] * 9, hub=[0]))
    with pytest.raises(RunFailed, match=r"^2 sessions in a row brought no step\n(.|\n)*BootstrapError: no such thing"):
        chain(overrides=HUB, most=2).run()


def test_the_plan_after_a_killed_session_counts_the_steps_that_are_left(start):
    world, chain = start(Script(["ok", "killed", "killed"]))
    world.refresh = datetime(2099, 1, 3, tzinfo=UTC)
    running = chain("kelron-14b-t4x2")
    whole = running.gate(running.look(), "train").line
    assert "(a projection for two T4s)" in whole
    for sessions in (1, 2, 3):
        while len(world.history(TRAIN, RESUME)) < sessions:
            running.turn()
        world.wait()
        line = running.gate(running.look(), "resume").line  # 60 steps of 90 s, and a start
        assert line.startswith("needs 1 session, 1.8 of your 30 h a week (by the last session's speed); ")


def test_another_config_is_another_run(start):
    world, chain = start(Script())
    chain().run()
    with pytest.raises(
        KelronError, match=r"^Kaggle holds another run, begun .*: give it those .* or name another with"
    ):
        chain(overrides=["lora.r=4"]).run()
    with pytest.raises(KelronError, match=r"^Kaggle holds another run"):
        chain(overrides=["store.url=hf://buckets/me/kelron/run-1"]).run()
    before = len(pushes(world))
    chain(overrides=["lora.r=4"], fresh="1").run()
    assert len(pushes(world)) == 2 * before
    chain(overrides=["lora.r=4"]).run()
    assert len(pushes(world)) == 2 * before
    chain(name="Other").run()
    assert len(world.history("other-02-train")) == 1


def test_a_command_that_begins_anew_and_is_repeated_finds_the_run_that_it_began(start, monkeypatch, capsys):
    """A laptop that is killed and started again with the same command line, at any moment."""
    world, chain = start(Script())
    chain().run()
    monkeypatch.setattr(command_line.webbrowser, "open", lambda address: None)
    monkeypatch.setattr(command_line, "scoreboard", lambda folder: "the scoreboard")
    again = ["run", "--preset", "tiny-cpu", "--once", "--fresh"]
    turns = 0
    while "report: " not in capsys.readouterr().out:
        assert command_line.main(again) == 0
        world.wait()
        turns += 1
    assert turns == 6
    assert len(pushes(world)) == 10
    assert command_line.main(again) == 0
    assert "going on with the run that --fresh 1 began (" in capsys.readouterr().out
    assert command_line.main(again[:-2]) == 0  # without the word, too: it is the newest run
    assert len(pushes(world)) == 10
    assert command_line.main([*again, "second"]) == 0
    world.wait()
    assert len(pushes(world)) == 11
    assert world.versions(DATA)[-1].record.fresh == "second"
    with pytest.raises(SystemExit, match="2"):
        command_line.main([*again, "two words"])


@pytest.mark.parametrize("days", [-1, 1])
def test_a_clock_that_is_wrong_by_a_day_changes_no_run(days, start, monkeypatch):
    """Neither of a laptop that begins a run anew, nor of one that goes on with it."""

    class Wrong(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + timedelta(days=days)

    world, chain = start(Script())
    chain().run()
    with monkeypatch.context() as wrong:
        wrong.setattr(state, "datetime", Wrong)
        wrong.setattr(chain_module, "datetime", Wrong)
        chain(fresh="1", once=True).run()
        world.wait()
        assert chain().next(chain().look()).kernel == "train"
        assert command_line.main(["stop", "--preset", "tiny-cpu"]) == 0
        assert chain().look().stopped
        command_line._mark(chain(), "")
    chain().run()
    assert len(pushes(world)) == 10


def test_begun_anew_on_the_hub_what_the_store_held_before_does_not_count(start, monkeypatch):
    """Its first sessions break before they set that aside."""
    hub = [100]
    script = Script(["broken", "broken"], hub=hub)
    world, chain = start(script)

    class Store:
        def read_bytes(self, path):
            step = hub[-1]
            return Pointer(step, step_folder(step), f"{len(hub):064}").encode()

    monkeypatch.setattr(hub_module, "open_store", lambda url, **_: Store())
    train = script.train

    def set_aside(kind, mounted):
        if kind == TRAIN and world.versions(TRAIN)[-1].parameters.get("FRESH") and not script.outcomes:
            hub[:] = [0, 0]
        return train(kind, mounted)

    script.train = set_aside
    chain(overrides=HUB, fresh="1").run()
    assert [v.parameters.get("FRESH", False) for v in world.history(TRAIN)] == [True, True, True]
    assert script.began == [100, 100, 0, 40, 80]
    assert pushes(world)[1:-1] == [f"{TRAIN}:0"] * 3 + [f"{RESUME}:40", f"{RESUME}:80"]

    def refused(url, **_):
        raise KelronError("the token may not do this")

    monkeypatch.setattr(hub_module, "open_store", refused)
    with pytest.raises(KelronError, match=r"^--fresh has to see what the store holds before, .*: set HF_TOKEN"):
        chain(overrides=HUB, fresh="2").run()


def test_the_quota_holds_the_next_session(start, monkeypatch):
    world, chain = start(Script())
    world.used_hours, world.refresh = 27.0, datetime(2099, 1, 3, tzinfo=UTC)
    config = "kelron-14b-t4x2"
    for _ in range(3):
        chain(config, once=True).run()
        world.wait()
    assert pushes(world) == [f"{DATA}:0"]
    said = chain(config, once=True)
    said.run()
    assert "3.0 h left until Saturday 00:00 UTC" in said.said[-1]
    assert "a projection for two T4s" in said.said[-1]
    chain(config, once=True, now=True).run()
    world.wait()
    (session,) = world.history(TRAIN)
    assert session.parameters["OVERRIDES"] == ["session.budget_seconds=10200"]
    assert session.asked["machineShape"] == "NvidiaTeslaT4"
    world.used_hours = 0.0
    world.faults["SaveKernel"] = ["refuse:You have exceeded your weekly GPU quota."]
    waiting = chain(config, once=True)
    waiting.run()
    assert waiting.said[-1].endswith("weekly GPU quota.: it waits for the quota")


def test_a_run_keeps_its_library_unless_told_otherwise(start, monkeypatch):
    world, chain = start(Script())
    chain(once=True).run()
    world.wait()
    monkeypatch.setattr(Chain, "stage", lambda self: pytest.fail("staged again"))
    running = chain()
    running.run()
    told = "the run goes on with the library and the notebooks it has (0123456789ab); --restage renews them"
    assert told in running.said
    assert {v.record.library for v in world.history(DATA, RESUME)} == {"0123456789abcdef"}


def test_a_run_whose_library_was_replaced_says_so_or_brings_it_back(start, monkeypatch):
    world, chain = start(Script())
    chain(once=True).run()
    world.wait()
    files = world.datasets[f"{USER}/kelron-library"].versions[-1].files
    own = dict(files)
    files["kelron-library.json"] = json.dumps({"content": "other", "commit": "fedcba9876543210"}).encode()
    with pytest.raises(
        KelronError, match=r"had Kelron of commit 0123456789ab, and Kaggle holds fedcba987654 now: go on"
    ):
        chain().run()
    monkeypatch.setattr(library, "commit_of", lambda project: "0123456789abcdef")
    monkeypatch.setattr(Chain, "stage", lambda self: files.update(own))
    chain().run()
    assert {v.record.library for v in world.history(TRAIN, RESUME, EVALUATE)} == {"0123456789abcdef"}


class Killed(BaseException):
    """What a kill looks like from inside: nothing may catch it."""


def test_killed_at_any_request_it_finds_where_things_stand(start, monkeypatch):
    """At the end the same sessions ran, and never two at once, whether or not the answer arrived before the kill."""
    world, chain = start(Script(seconds=0.05))
    chance = random.Random(1)
    from requests.adapters import HTTPAdapter

    send = HTTPAdapter.send
    left = [0]

    def dying(self, request, **options):
        if threading.current_thread() is not threading.main_thread():  # where a log is listened to
            return send(self, request, **options)
        left[0] -= 1
        if left[0] == 0:
            if chance.random() < 0.5:
                send(self, request, **options)  # done there, and never known here
            raise Killed
        return send(self, request, **options)

    monkeypatch.setattr(HTTPAdapter, "send", dying)
    kills = 0
    for _ in range(200):
        left[0] = chance.randint(1, 30)
        try:
            chain().run()
            break
        except Killed:
            kills += 1
    left[0] = 10**9
    chain().run()
    assert kills >= 5
    assert pushes(world) == [f"{DATA}:0", f"{TRAIN}:0", f"{RESUME}:40", f"{RESUME_B}:80", f"{EVALUATE}:0"]
    assert world.at_once == 1


def test_two_laptops_are_told_of_each_other(start):
    world, chain = start(Script(seconds=0.2))
    errors = []

    def drive():
        try:
            chain().run()
        except KelronError as error:
            errors.append(str(error))

    threads = [threading.Thread(target=drive) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(errors) == 1
    assert re.fullmatch(r"another run \(process \d+\) is using .*: wait for it, or choose another --name", errors[0])
    assert world.at_once == 1


def test_with_a_store_on_the_hub_nothing_of_an_output_is_attached(start, monkeypatch):
    hub = [0]
    script = Script(["killed", "empty", "ok"], hub=hub)
    world, chain = start(script)
    monkeypatch.setattr(HubSide, "known_step", lambda self, training: hub[-1])
    store = ("store.url=hf://buckets/me/kelron/run-1",)
    running = chain(overrides=store)
    running.run()
    assert script.began == [0, 40, 40, 80]
    assert any(line.startswith("no dataset holds a token for the store: ") for line in running.said)
    assert pushes(world)[1:-1] == [f"{TRAIN}:0", f"{RESUME}:40", f"{RESUME}:40", f"{RESUME}:80"]
    assert all(v.asked["kernelDataSources"] == [] for v in world.history(RESUME))
    assert world.versions(RESUME)[0].parameters["OVERRIDES"] == [*store]
    assert world.versions(RESUME)[0].parameters["RUN"] == chain_module.RUN
