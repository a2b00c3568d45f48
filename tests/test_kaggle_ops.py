"""Kaggle from a laptop against the stand-in: staging, pushing, watching, the token."""

import json
import os
import re
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta

import kaggle_image
import pytest
from kaggle_image import ROOT
from kaggle_stand_in import KEY, USER, use_client
from kaggle_world import Played, World

from kelron_lib.config import config_hash, load_preset, resolve
from kelron_lib.errors import KelronError
from kelron_lib.kaggle_ops import library, secret
from kelron_lib.kaggle_ops.__main__ import main
from kelron_lib.kaggle_ops.client import Kaggle, KaggleError, Output, Quota
from kelron_lib.kaggle_ops.kernels import Record, read_kernels, stage_kernel
from kelron_lib.kaggle_ops.library import Library, upload_library
from kelron_lib.kaggle_ops.push import NoQuota, Refused, follow, push
from kelron_lib.kaggle_ops.quota import Need, Reached, gate, need

LIBRARY = f"{USER}/kelron-library"


@pytest.fixture
def world(monkeypatch):
    with World(lambda *_: Played(log="one\ntwo\n")) as world:
        use_client(monkeypatch, world)
        yield world


@pytest.fixture
def kaggle():
    said, slept = [], []
    kaggle = Kaggle(say=said.append, sleep=slept.append)
    kaggle.said, kaggle.slept = said, slept
    return kaggle


@pytest.fixture
def made(tmp_path):
    """A library as `stage_library` leaves it, made of next to nothing."""

    def make(content="c1", commit="0123456789abcdef"):
        folder = tmp_path / f"library-{content}"
        folder.mkdir()
        kaggle_image.write_wheel(folder, "kelron", "0.1.0", {})
        marker = {"content": content, "commit": commit, "wheels": {}}
        (folder / "kelron-library.json").write_text(json.dumps(marker))
        metadata = {"id": LIBRARY, "title": "Kelron Library", "licenses": [{"name": "other"}]}
        (folder / "dataset-metadata.json").write_text(json.dumps(metadata))
        return Library(folder, "kelron-library", content, commit, False)

    return make


@pytest.fixture
def kernel(tmp_path, world, kaggle, made):
    """A staged kernel whose library is there; a function that pushes it."""
    upload_library(kaggle, made())
    folder = tmp_path / "kernel"

    def stage(**changes):
        record = Record(begun="2026-11-25T00:00:00+00:00", config=config_hash(resolve("tiny-cpu")))
        options = {"owner": USER, "config": resolve("tiny-cpu"), "parameters": {}, "record": record}
        options |= {"datasets": [LIBRARY]} | changes
        stage_kernel(read_kernels(ROOT)["train"], folder, **options)
        return push(kaggle, folder, f"{USER}/kelron-02-train", options["record"], 600)

    kaggle.said.clear()
    return stage


# --- the library ---


def test_the_library_is_private_and_sent_only_when_it_changed(world, kaggle, made):
    assert upload_library(kaggle, made())
    dataset = world.datasets[LIBRARY]
    assert dataset.private
    assert set(dataset.versions[0].files) == {"kelron-0.1.0-py3-none-any.whl", "kelron-library.json"}
    assert not upload_library(kaggle, Library(made("x").folder, "kelron-library", "c1", "0123456789abcdef", False))
    assert len(dataset.versions) == 1
    assert upload_library(kaggle, made("c2"))
    assert len(dataset.versions) == 2


def test_a_new_dataset_that_its_owner_may_not_see_is_waited_for(monkeypatch, made):
    with World(lambda *_: Played(), hidden=0.6, slow=0.3) as world:
        use_client(monkeypatch, world)
        said = []
        kaggle = Kaggle(say=said.append, sleep=lambda seconds: time.sleep(0.05))
        assert upload_library(kaggle, made())
        assert said[1:] == [f"waiting for {LIBRARY}: not shown yet (403)"]
        changed = made("c2")
        assert upload_library(kaggle, changed)
        assert said[-1] == f"waiting for {LIBRARY}: blobs_received"
        world.hidden = 1e9
        with pytest.raises(
            KelronError, match=r"is not ready after 0 minutes \(not shown yet \(403\)\): run this again"
        ):
            library.wait_until_ready(kaggle, LIBRARY, 1.0, lambda: True)


def test_an_upload_that_was_cut_off_after_it_arrived_is_found_again(monkeypatch, made):
    """The laptop was killed while its new dataset is still hidden from it: creating it again is answered 409."""
    with World(lambda *_: Played(), hidden=0.4) as world:
        use_client(monkeypatch, world)
        kaggle = Kaggle(say=lambda line: None, sleep=lambda seconds: time.sleep(0.05))
        library.send_dataset(kaggle, made().folder, LIBRARY, "first", new=True)
        assert upload_library(kaggle, Library(made("x").folder, "kelron-library", "c1", "0123456789abcdef", False))
        assert len(world.datasets[LIBRARY].versions) == 1


def test_a_public_library_is_refused(world, kaggle, made):
    world.forced_public = True
    library.send_dataset(kaggle, made().folder, LIBRARY, "first", new=True)
    with pytest.raises(KelronError, match="is public: make it private"):
        upload_library(kaggle, made("c2"))


# --- pushing ---


def test_a_push_that_arrives(kernel, world):
    pushed = kernel()
    assert (pushed.ref, pushed.version, pushed.url) == (
        "me/kelron-02-train",
        1,
        "https://www.kaggle.com/code/me/kelron-02-train",
    )
    assert world.requests[-1][1]["sessionTimeoutSeconds"] == 600


def test_a_refusal_is_an_error_with_its_reason(kernel, world):
    world.faults["SaveKernel"] = ["refuse:Your notebook has a cell that is too large."]
    with pytest.raises(
        Refused, match=r"^Kaggle refused to run me/kelron-02-train: Your notebook has a cell that is too"
    ):
        kernel()
    assert not world.kernels


def test_busy_gpus_are_waited_for(kernel, world, kaggle):
    world.faults["SaveKernel"] = ["refuse:Maximum batch GPU session count of 2 reached."] * 4
    assert kernel().version == 1
    assert kaggle.slept == [60.0, 120.0, 300.0, 300.0]
    assert kaggle.said[0].endswith("Maximum batch GPU session count of 2 reached.; trying again in 60 s")
    kaggle.slept.clear()
    world.faults["SaveKernel"] = ["refuse:Maximum batch GPU session count of 2 reached."] * 9
    with pytest.raises(Refused, match="Maximum batch GPU session count"):
        kernel()
    assert sum(kaggle.slept) >= 900


def test_a_used_up_quota_is_told_apart(kernel, world):
    world.faults["SaveKernel"] = ["refuse:You have exceeded your weekly GPU quota."]
    with pytest.raises(NoQuota):
        kernel()


@pytest.mark.parametrize("fault", [429, 500, 503])
def test_passing_answers_are_tried_again(fault, kernel, world, kaggle):
    world.faults["SaveKernel"] = [fault, fault]
    assert kernel().version == 1
    assert kaggle.slept == [pytest.approx(2.2, abs=0.21), pytest.approx(5.5, abs=0.51)]
    assert kaggle.said[0].startswith(f"cannot push me/kelron-02-train: Kaggle answered {fault} (told to fail); trying")
    world.faults["SaveKernel"] = [fault] * 7
    with pytest.raises(KaggleError, match=rf"Kaggle answered {fault} .*given up after 7 tries"):
        kernel()


def test_a_push_whose_answer_was_lost_is_not_made_twice(kernel, world):
    world.faults["SaveKernel"] = ["lost"]
    assert kernel().version == 1
    assert len(world.versions("kelron-02-train")) == 1


def test_a_conflict_is_explained(kernel, world):
    world.faults["SaveKernel"] = [409]
    with pytest.raises(Refused, match=r"Kaggle answered 409 .*: something with this name exists or is being saved"):
        kernel()


def test_a_source_that_was_rejected_is_an_error_although_the_session_started(kernel, world):
    with pytest.raises(
        KelronError, match=r"without datasets me/nothing; outputs of kernels me/none-such, which it does"
    ):
        kernel(datasets=[LIBRARY, "me/nothing"], outputs=["me/none-such"])


def test_a_model_that_is_not_attached_is_told_and_the_hub_takes_its_place(kernel, world, kaggle):
    world.lost_models = read_kernels(ROOT)["train"].metadata["model_sources"]
    config = load_preset("kelron-14b-t4x2")
    assert kernel(config=config).version == 1
    assert kaggle.said[-1] == (
        "Kaggle did not attach the model qwen-lm/qwen2.5/Transformers/14b-instruct/1: the session takes the base from "
        "the Hub instead"
    )


def test_a_token_tells_who_the_user_is(world, kaggle, monkeypatch):
    monkeypatch.delenv("KAGGLE_USERNAME")
    monkeypatch.delenv("KAGGLE_KEY")
    monkeypatch.setenv("KAGGLE_API_TOKEN", KEY)
    world.faults["IntrospectToken"] = [503, 503]  # one of them while the package is imported, where it was not before
    assert kaggle.owner == USER
    assert kaggle.quota().total == 30.0


def test_wrong_credentials_are_told(kernel, world, monkeypatch):
    from kagglesdk import kaggle_http_client

    monkeypatch.setattr(kaggle_http_client.KaggleHttpClient, "_try_fill_auth", lambda self: None)
    with pytest.raises(KaggleError, match=r"Kaggle answered 401 .*: Kaggle does not accept the credentials: make new"):
        kernel()


def test_a_server_that_never_answers_is_not_waited_for_ever(kaggle, world, monkeypatch):
    from kelron_lib.kaggle_ops import client

    monkeypatch.setattr(client, "TIMEOUTS", (0.2, 0.2))
    monkeypatch.setattr(world, "get_kernel", lambda asked: time.sleep(1) or (200, {}))
    with pytest.raises(KaggleError, match=r"Kaggle cannot be reached or broke off \(ReadTimeout\) \(given up"):
        kaggle.saved("me/kelron-02-train")
    assert len(kaggle.slept) == 6


def test_no_credential_is_ever_told(kernel, world, kaggle):
    world.faults["SaveKernel"] = [503, "lost"]
    kernel()
    world.faults["SaveKernel"] = [503] * 7
    with pytest.raises(KaggleError) as caught:
        kernel()
    told = "\n".join([*kaggle.said, str(caught.value)])
    assert KEY not in told
    assert "127.0.0.1" not in told


# --- watching ---


def test_a_log_is_followed_across_breaks_line_by_line(monkeypatch, kaggle):
    def play(world, ref, version):
        for number in range(12):
            version.lines.append(f"line {number}\n")
            time.sleep(0.03)
        return Played()

    with World(play) as world:
        use_client(monkeypatch, world)
        asked = {"slug": "me/kelron-02-train", "newTitle": "Kelron 02 Train", "text": "{}", "enableGpu": False}
        world.save_kernel(asked)
        world.faults["stream"] = [3, -3, 7]
        lines = []
        follow(kaggle, "me/kelron-02-train", lines.append)
        assert lines == [f"line {number}" for number in range(12)]
        lines.clear()
        world.wait()
        follow(kaggle, "me/kelron-02-train", lines.append)  # the whole log of one that ended
        assert lines == [f"line {number}" for number in range(12)]


def test_a_session_that_says_nothing_for_long_is_followed_on(monkeypatch, kaggle):
    """Its log breaks off for silence more often than a log that cannot be had may."""
    from kelron_lib.kaggle_ops import client

    monkeypatch.setattr(client, "TIMEOUTS", (5.0, 0.1))
    heard = threading.Event()

    def play(world, ref, version):
        version.lines.append("one\n")
        heard.wait(60)
        version.lines.append("two\n")
        return Played()

    def sleep(seconds):
        kaggle.slept.append(seconds)
        if len(kaggle.slept) > 8:
            heard.set()

    with World(play) as world:
        use_client(monkeypatch, world)
        kaggle.sleep = sleep
        world.save_kernel({"slug": "me/kelron-02-train", "newTitle": "Kelron 02 Train", "text": "{}"})
        lines = []
        follow(kaggle, "me/kelron-02-train", lines.append)
        assert lines == ["one", "two"]
        assert len(kaggle.slept) > 8


def test_the_last_lines_of_a_log_of_any_kind():
    assert Output(log="").last_lines() == []
    assert Output(log="a\nb\n\nc").last_lines(2) == ["b", "c"]
    events = [{"data": "a\n"}, {"data": "b"}, {"data": "c\n"}]
    assert Output(log=json.dumps(events)).last_lines() == ["a", "bc"]
    assert Output(log="17").last_lines() == ["17"]


def test_the_quota(world, kaggle, capsys):
    assert (kaggle.quota().left, kaggle.quota().total) == (26.5, 30.0)
    assert main(["quota"]) == 0
    assert capsys.readouterr().out == (
        "GPU: 3.5 of 30.0 h used this week, 26.5 h left, renewed Saturday 28 November 00:00 UTC\n".replace("30.0", "30")
    )


# --- the plan ---

CONFIG = load_preset("kelron-14b-t4x2")
TODAY = datetime(2026, 11, 25, 12, tzinfo=UTC)


def quota(left, hours=60.0):
    return Quota(used=30.0 - left, total=30.0, refresh=TODAY + timedelta(hours=hours))


def test_what_is_needed_comes_from_the_best_that_is_known():
    measured = need(CONFIG, Reached(500, 1000, 72.0))
    assert measured == Need(10.25, 1, "by the last session's speed")
    checked = {"probe": {"projection": {"total_hours": 15.0}}}
    assert need(CONFIG, None, checked) == Need(15.5, 2, "by preflight's measurement")
    assert need(CONFIG, Reached(500, 1000), checked) == Need(
        7.75, 1, "by preflight's measurement"
    )  # what is left, not all
    planned = need(CONFIG, None)
    assert planned.how == "a projection for two T4s"
    assert 1 < planned.hours < 200
    assert need(CONFIG, Reached(0, 0)) == planned
    assert need(CONFIG, Reached(990, 1000)).hours < planned.hours / 2
    assert need(resolve("tiny-cpu"), Reached(500, 1000, 72.0)) is None


def test_the_quota_holds_a_session_and_says_until_when():
    wanted = Need(9.5, 2, "measured")
    line = r"needs 2 sessions, 9.5 of your 30 h a week (measured); "
    free = gate(CONFIG, wanted, quota(26.0), now=False, today=TODAY)
    assert (free.start, free.budget) == (True, None)
    assert free.line == line + "26.0 h left until Saturday 00:00 UTC (in 60 h)"
    held = gate(CONFIG, wanted, quota(4.0), now=False, today=TODAY)
    assert (held.start, held.until) == (False, TODAY + timedelta(hours=60))
    assert held.line == (
        line + "4.0 h left until Saturday 00:00 UTC (in 60 h): starts then, or with --now in a shortened session"
    )
    now = gate(CONFIG, wanted, quota(4.0), now=True, today=TODAY)
    assert now.start
    assert now.budget == pytest.approx(3600 * (4.0 - 1 / 6))
    assert not gate(CONFIG, wanted, quota(0.5), now=True, today=TODAY).start
    assert gate(CONFIG, wanted, None, now=False, today=TODAY).start
    assert gate(CONFIG, None, None, now=False, today=TODAY).start


def test_a_run_that_is_nearly_done_needs_no_whole_session():
    assert gate(CONFIG, Need(1.0, 1, "measured"), quota(2.0), now=False, today=TODAY).start


# --- the token ---


def test_the_token_goes_into_a_private_dataset_and_out_again(world, kaggle, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", "hf_" + "a" * 30)
    monkeypatch.setattr(library, "POLL", 0.01)
    assert main(["secret"]) == 0
    dataset = world.datasets["me/kelron-token"]
    assert dataset.private
    assert json.loads(dataset.versions[0].files["kelron-token.json"]) == {"HF_TOKEN": "hf_" + "a" * 30}
    told = capsys.readouterr().out
    assert "fine-grained token that may write to the run's own bucket or repo and nothing else" in told
    assert "hf_a" not in told
    assert secret.token_dataset(kaggle) == "me/kelron-token"
    assert main(["secret", "--delete"]) == 0
    assert "me/kelron-token" not in world.datasets
    assert main(["secret", "--delete"]) == 0
    assert capsys.readouterr().out.endswith("there is none\n")


@pytest.mark.parametrize("keeps", [False, True])
def test_another_token_takes_the_place_of_the_one_before(keeps, world, monkeypatch, capsys):
    monkeypatch.setattr(library, "POLL", 0.01)
    world.keeps_old_versions = keeps
    for letter in "aab":
        monkeypatch.setenv("HF_TOKEN", f"hf_{letter * 30}")
        assert main(["secret"]) == 0
        told = capsys.readouterr().out
        assert ("revoke it at huggingface.co/settings/tokens all the same" in told) == (letter == "b")
    versions = world.datasets["me/kelron-token"].versions
    assert json.loads(versions[-1].files["kelron-token.json"]) == {"HF_TOKEN": "hf_" + "b" * 30}
    assert len(versions) == 1 + 2 * keeps
    warning = "Kaggle still has 2 older versions of me/kelron-token with what they hold: `secret --delete` removes all"
    assert (warning in told) == keeps


def test_a_token_that_would_be_public_is_deleted_again(world, kaggle, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", "hf_" + "a" * 30)
    world.forced_public = True
    assert main(["secret"]) == 2
    assert "me/kelron-token" not in world.datasets
    assert "Kaggle made me/kelron-token public: it was deleted again. Revoke this token" in capsys.readouterr().err


def test_without_a_token_it_says_where_to_get_one(world, monkeypatch, capsys):
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    assert main(["secret"]) == 2
    assert re.match(
        r"push_kernels.sh: no token was found: set HF_TOKEN, or run `hf auth login`; use a fine-grained",
        capsys.readouterr().err,
    )


# --- the command line ---


@pytest.mark.parametrize(
    "arguments",
    [
        ["status"],
        ["logs", "train"],
        ["output", "train"],
        ["quota"],
        ["run", "--dirty"],
        ["stop"],
        ["secret"],
        ["push", "data", "--dirty"],
    ],
)
def test_a_dry_run_changes_nothing(arguments, world, capsys):
    assert main([*arguments, "--dry-run"]) == 0
    assert capsys.readouterr().out
    assert {method for method, _ in world.requests} <= {
        "GetKernel",
        "GetKernelSessionStatus",
        "GetAcceleratorQuotaStatistics",
    }


def test_without_credentials_every_verb_says_what_to_do(capsys):
    assert main(["quota"]) == 2
    assert capsys.readouterr().err.startswith(
        "push_kernels.sh: Kaggle wants to know who asks: set KAGGLE_API_TOKEN, or "
    )


def test_the_packages_own_command_line_hides_what_the_answers_tell(kernel, world, tmp_path):
    """Why nothing here goes by its exit code; and the stand-in is one for other processes."""
    kernel()
    world.wait()
    world.versions("kelron-02-train")[-1].status = "ERROR"
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), **world.environment()}

    def asked(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "kaggle", *arguments], env=environment, capture_output=True, text=True
        )

    status = asked("kernels", "status", "me/kelron-02-train")
    assert (status.returncode, "ERROR" in status.stdout) == (0, True)
    world.faults["SaveKernel"] = ["refuse:Maximum batch GPU session count of 2 reached."]
    pushed = asked("kernels", "push", "-p", str(tmp_path / "kernel"), "--timeout", "600")
    assert (pushed.returncode, "Kernel push error: Maximum batch" in pushed.stdout) == (0, True)
    assert "26.50h" in asked("quota").stdout


def test_the_script_is_thin(tmp_path):
    text = (ROOT / "scripts" / "push_kernels.sh").read_text()
    assert len(text.splitlines()) <= 10
    assert "kelron_lib.kaggle_ops" in text
