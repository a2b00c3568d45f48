"""What a user may do or meet at worst: each ends in one clear line, or goes on by itself."""

import re
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from test_kaggle_chain import (
    DATA,
    EVALUATE,
    RESUME,
    RESUME_B,
    TRAIN,
    Script,
    prepared,
    pushes,
    start,
)

from kelron_lib.errors import KelronError, RunFailed
from kelron_lib.kaggle_ops import __main__ as command_line
from kelron_lib.kaggle_ops import chain as chain_module
from kelron_lib.kaggle_ops import client
from kelron_lib.kaggle_ops.chain import Options

__all__ = ["prepared", "start"]
VERBS = (
    ["status"],
    ["run", "--once"],
    ["push", "data"],
    ["stop"],
    ["quota"],
    ["logs", "train"],
    ["logs", "-f", "train"],
    ["output", "train"],
    ["secret", "--delete"],
)


def said_by(verb, capsys):
    options = [] if verb[0] in ("quota", "secret") else ["--preset", "tiny-cpu"]
    code = command_line.main([*verb, *options])
    return code, capsys.readouterr().err


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_without_a_network(verb, start, monkeypatch, capsys):
    world, _ = start(Script())
    world.__exit__()
    monkeypatch.setattr(client, "WAITS", (0.0, 0.0))
    code, err = said_by(verb, capsys)
    assert code == 2
    assert "Kaggle cannot be reached or broke off (ConnectionError) (given up after 3 tries)" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("way", ["key", "token"])
@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_with_wrong_credentials(verb, way, start, monkeypatch, capsys):
    world, _ = start(Script())
    monkeypatch.setattr(client, "WAITS", (0.0, 0.0))
    if way == "key":
        monkeypatch.setenv("KAGGLE_KEY", "not-the-key")
    else:
        monkeypatch.delenv("KAGGLE_USERNAME")
        monkeypatch.delenv("KAGGLE_KEY")
        monkeypatch.setenv("KAGGLE_API_TOKEN", "not-the-token")
    code, err = said_by(verb, capsys)
    assert code == 2
    assert err.count("\n") == 1
    if way == "key":
        assert "Kaggle answered 401 (Unauthenticated): Kaggle does not accept the credentials: make new ones at" in err
    else:
        assert "Kaggle does not accept the token of KAGGLE_API_TOKEN: make a new one at kaggle.com/settings" in err
    assert not world.kernels


@pytest.mark.parametrize("verb", [["run", "--once"], ["run", "--dry-run"], ["push", "data"]], ids=" ".join)
@pytest.mark.parametrize(
    ("override", "words"),
    [
        (
            "data.persona=mine.yaml",
            r"file of this machine.*put it into kelron_lib/persona/, commit it, .*persona=mine$",
        ),
        ("data.persona=here/mine", "is a file of this machine"),
        ("data.persona=kelrn", "unknown persona 'kelrn'"),
        ("store.url=runs/kelron/elsewhere", "is no store of a run from a laptop: leave it out"),
        ("store.url=hf://buckets/me/kelron", "is no store on the Hub: use hf://buckets/NAMESPACE/NAME/RUN"),
        ("store.url=kaggle://me/kelron-02-train", "is no store of a run from a laptop: leave it out"),
    ],
)
def test_what_a_session_would_not_have_is_refused_before_any_begins(verb, override, words, start, capsys):
    world, _ = start(Script())
    assert command_line.main([*verb, "--preset", "tiny-cpu", "--set", override]) == 2
    assert re.search(words, capsys.readouterr().err.rstrip("\n"))
    assert not world.requests


def test_a_file_of_own_rows_and_a_budget_beyond_kaggles_hours_are_refused(capsys):
    own = ["run", "--set", "data.own=mine.csv", "--set", "data.own_share=0.1"]
    assert command_line.main(own) == 2
    assert "data.own=mine.csv is a file of this machine" in capsys.readouterr().err
    assert command_line.main(["run", "--set", "session.budget_seconds=42000"]) == 2
    assert "session.budget_seconds is 42000: Kaggle ends a session after 43200" in capsys.readouterr().err


@pytest.mark.parametrize("seconds", ["-1", "nan", "inf", "soon"])
def test_a_wait_that_is_none(seconds, capsys):
    with pytest.raises(SystemExit, match="2"):
        command_line.main(["run", "--poll", seconds])
    assert "seconds, 0 to 86400" in capsys.readouterr().err


@pytest.mark.parametrize("verb", [["logs", "train"], ["logs", "-f", "train"], ["output", "train"]], ids=" ".join)
def test_a_kernel_that_was_never_pushed(verb, start, capsys):
    start(Script())
    assert said_by(verb, capsys) == (
        2,
        "push_kernels.sh: Kaggle shows no kernel me/kelron-02-train: nothing was pushed there yet; `status` says what "
        "was\n",
    )


def test_a_folder_that_cannot_be_made(tmp_path, wheels, clone, capsys):
    (tmp_path / "file").write_text("")
    options = ["--to", str(tmp_path / "file" / "x"), "--wheels", str(wheels), "--project", str(clone)]
    assert command_line.main(["stage", *options]) == 2
    assert "push_kernels.sh: cannot make " in capsys.readouterr().err


def test_an_output_that_cannot_be_written(start, tmp_path, capsys):
    world, _ = start(Script())
    assert command_line.main(["push", "data", "--preset", "tiny-cpu"]) == 0
    world.wait()
    (tmp_path / "file").write_text("")
    assert command_line.main(["output", "data", "--to", str(tmp_path / "file")]) == 2
    assert re.search(r"^push_kernels.sh: cannot write .*quality.json: Not a directory; ", capsys.readouterr().err, re.M)


def test_a_certificate_that_a_wrong_clock_refuses_is_told_of(start, monkeypatch, capsys):
    from requests.adapters import HTTPAdapter
    from requests.exceptions import SSLError

    start(Script())
    monkeypatch.setattr(client, "WAITS", (0.0,))

    def refused(self, request, **options):
        raise SSLError("certificate is not yet valid")

    monkeypatch.setattr(HTTPAdapter, "send", refused)
    code, err = said_by(["status"], capsys)
    assert (code, "(SSLError, is this machine's clock right?)" in err) == (2, True)


def test_a_network_that_comes_back_is_waited_for(start, monkeypatch):
    from requests.adapters import HTTPAdapter
    from requests.exceptions import ConnectionError

    world, chain = start(Script())
    chain().stage()  # the package tries an upload again by itself, for minutes
    send, left = HTTPAdapter.send, [40]

    def flaky(self, request, **options):
        left[0] -= 1
        if 0 < left[0] < 30:
            raise ConnectionError("no route")
        return send(self, request, **options)

    monkeypatch.setattr(HTTPAdapter, "send", flaky)
    running = chain()
    running.run()
    assert len(pushes(world)) == 5
    assert any("(given up after 7 tries)" in line for line in running.said)


@pytest.mark.parametrize("apart", [0, 1])
def test_two_laptops_at_once(apart, start, tmp_path, monkeypatch):
    """Both look before either has pushed; `apart`: seconds between their clocks. The later one gives way."""
    script = Script(seconds=0.2)
    world, chain = start(script)
    chain().stage()
    looked = threading.Barrier(2)

    def drive(number):
        folders.path = tmp_path / f"laptop-{number}"
        made = chain()
        look = made.look

        def look_together():
            view = look()
            if not view.begun:
                looked.wait(10)
            return view

        made.look = look_together
        try:
            return made.run()
        except KelronError as error:
            return error

    folders, begun = threading.local(), iter(("2026-11-26T00:00:00+00:00", f"2026-11-26T00:00:0{apart}+00:00"))
    monkeypatch.setattr(chain_module, "begins_now", lambda before: next(begun))
    monkeypatch.setattr(Options, "results", property(lambda self: folders.path))

    with ThreadPoolExecutor(2) as pool:
        ends = [*pool.map(drive, range(2))]
    (error,) = [end for end in ends if isinstance(end, KelronError)]
    (folder,) = [end for end in ends if not isinstance(end, KelronError)]
    assert re.fullmatch(
        r"another run pushed me/kelron-01-data version 1 a moment before this one's version 2: this command ends, "
        r"and the other goes on alone; Cancel Run of version 2 at https://www.kaggle.com/code/me/kelron-01-data .+",
        str(error),
    )
    assert (folder / "report.html").is_file()
    assert pushes(world) == [f"{DATA}:0", f"{DATA}:0", f"{TRAIN}:0", f"{RESUME}:40", f"{RESUME_B}:80", f"{EVALUATE}:0"]
    assert script.began == [0, 40, 80]


def until(world, chain, slug):
    """Turns until a kernel was pushed, and the end of its session."""
    running = chain()
    while not world.versions(slug):
        running.turn()
        world.wait()


def test_a_kernel_that_was_deleted_in_its_page(start):
    """What still holds the newest checkpoint is gone on from; else it is said that it is gone."""
    script = Script(["ok", "ok", "killed"])
    world, chain = start(script)
    until(world, chain, RESUME)
    world.delete(RESUME)
    world.delete(DATA)
    until(world, chain, RESUME)  # from train's output, once more
    assert script.began == [0, 40, 40]
    world.delete(TRAIN)
    with pytest.raises(RunFailed) as caught:
        chain().run()
    assert str(caught.value).splitlines()[0] == (
        "the newest checkpoint was in the output of me/kelron-02-train, version 1, which Kaggle shows no more: begin "
        "anew with --fresh"
    )
    assert command_line.main(["push", "resume", "--preset", "tiny-cpu"]) == 2
    assert len(world.history(RESUME, RESUME_B)) == 1
    chain(fresh="1").run()
    assert len(world.versions(EVALUATE)) == 1


def test_a_quota_that_ends_amid_the_run_is_waited_for(start):
    """Kaggle ends the session, and refuses the next ones until the week is over."""
    script = Script(["ok", "killed"])
    world, chain = start(script)
    until(world, chain, RESUME)
    world.faults["SaveKernel"] = ["refuse:You have exceeded your weekly GPU quota."] * 3
    running = chain()
    running.run()
    assert sum("weekly GPU quota.: it waits for the quota" in line for line in running.said) == 1
    assert script.began == [0, 40, 40, 80]


def test_a_quota_that_is_used_before_the_first_session_is_waited_for(start):
    world, chain = start(Script())
    world.used_hours, world.refresh = 29.9, datetime(2099, 1, 3, tzinfo=UTC)
    for _ in range(3):
        step = chain("kelron-14b-t4x2").turn()
        world.wait()
    assert "; 0.1 h left until Saturday 00:00 UTC (in " in step.why
    assert step.why.endswith(": starts then (there is too little for a session now)")
    assert not world.versions(TRAIN)
