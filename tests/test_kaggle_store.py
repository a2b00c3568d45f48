"""The output of an earlier Kaggle kernel as a store: mounted in both layouts, or downloaded from a stand-in."""

import shutil
import sys

import kaggle_stand_in
import pytest
from test_checkpoint import content, save, snapshot

from kelron_lib import kaggle_store
from kelron_lib.__main__ import main
from kelron_lib.errors import KelronError
from kelron_lib.kaggle_store import open_kaggle_store
from kelron_lib.manifest import LATEST
from kelron_lib.restore import restore
from kelron_lib.store import DamagedFile, MissingFile
from kelron_lib.stores import open_store
from kelron_lib.verify import latest, verify_store

URL = "kaggle://me/train"
LAYOUTS = ("notebooks/me/train", "train")


@pytest.fixture
def output(tmp_path):
    """What a kernel leaves in its working folder: a store of two checkpoints among other things."""
    folder = tmp_path / "output"
    (folder / "run").mkdir(parents=True)
    store = open_store(folder / "run" / "store", write=True)
    for step in (100, 120):
        save(store, tmp_path / "work", step)
    (folder / "run" / "status.json").write_text("{}")
    (folder / "run" / "work" / "checkpoint-120").mkdir(parents=True)
    (folder / "run" / "work" / "checkpoint-120" / "trainer_state.json").write_text("{}")
    return folder


@pytest.fixture
def mounts(tmp_path, monkeypatch):
    folder = tmp_path / "input"
    folder.mkdir()
    monkeypatch.setenv("KELRON_KAGGLE", str(tmp_path))
    return folder


@pytest.fixture
def hub(output, mounts):
    with kaggle_stand_in.StandIn(snapshot(output)) as hub:
        yield hub


def download():
    store = open_kaggle_store(URL)
    store.said, store.slept = [], []
    store.say, store.sleep = store.said.append, store.slept.append
    return store


@pytest.fixture
def client(hub, monkeypatch):
    kaggle_stand_in.use_client(monkeypatch, hub)


@pytest.fixture
def downloaded(client):
    return download()


@pytest.fixture(params=[*LAYOUTS, "downloaded"])
def store(request, output, mounts, hub, monkeypatch):
    if request.param in LAYOUTS:
        shutil.copytree(output, mounts / request.param)
        return open_store(URL)
    kaggle_stand_in.use_client(monkeypatch, hub)
    return download()


def store_files(output):
    return snapshot(output / "run" / "store")


# --- the same, mounted and downloaded ---


def test_it_reads_what_the_kernel_saved(store, output, tmp_path):
    files = store_files(output)
    assert [(entry.path, entry.size) for entry in store.list()] == [(p, len(files[p])) for p in sorted(files)]
    assert [e.path for e in store.list("step-000100")] == [p for p in sorted(files) if p.startswith("step-000100/")]
    assert store.list("step-0001") == []
    assert store.read_bytes(LATEST) == files[LATEST]
    store.get_file("step-000120/optimizer.pt", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == files["step-000120/optimizer.pt"]
    with pytest.raises(MissingFile, match=r"nothing is missing in Kaggle output me/train"):
        store.read_bytes("nothing")
    with pytest.raises(MissingFile):
        store.get_file("step-000120/nothing", tmp_path / "none")
    assert not (tmp_path / "none").exists()
    with pytest.raises(KelronError, match="no path inside a store"):
        store.read_bytes("../status.json")


def test_a_run_is_restored_from_it(store, tmp_path):
    assert verify_store(store).ok
    restored = restore(store, tmp_path / "into", say=lambda line: None)
    assert restored.step == latest(store).step == 120
    assert content(restored.folder).keys() == restored.manifest.files.keys()


def test_nothing_is_ever_written(store, tmp_path):
    (tmp_path / "local").write_bytes(b"x")
    before = snapshot(tmp_path / "input")
    for write in (
        lambda: store.write_bytes("a", b"x"),
        lambda: store.put_file(tmp_path / "local", "a"),
        lambda: store.put_files({"a": tmp_path / "local"}),
        lambda: store.delete(LATEST),
        lambda: open_store(URL, write=True),
        lambda: save(store, tmp_path / "work", 140),
    ):
        with pytest.raises(KelronError, match=f"^{URL} is read-only: name another store URL for new checkpoints$"):
            write()
    assert snapshot(tmp_path / "input") == before


def test_the_command_line_reads_it_and_refuses_to_change_it(output, mounts, tmp_path, capsys):
    shutil.copytree(output, mounts / "notebooks" / "me" / "train")
    assert main(["store", "ls", URL]) == 0
    assert main(["store", "verify", URL]) == 0
    assert main(["store", "pull", URL, str(tmp_path / "here")]) == 0
    assert content(tmp_path / "here") == content(output / "run" / "store" / "step-000120")
    assert main(["store", "prune", URL, "--dry-run", "--keep", "1"]) == 0
    capsys.readouterr()
    for arguments in (["prune", URL], ["import", str(tmp_path / "here"), URL]):
        assert main(["store", *arguments]) == 2
        assert capsys.readouterr().err == f"kelron: {URL} is read-only: name another store URL for new checkpoints\n"


def test_damage_is_told_from_an_outage(output, mounts, tmp_path):
    data = bytearray((output / "run/store/step-000120/optimizer.pt").read_bytes())
    data[0] ^= 1
    (output / "run/store/step-000120/optimizer.pt").write_bytes(data)
    shutil.copytree(output, mounts / "train")
    said = []
    assert restore(open_store(URL), tmp_path / "into", say=said.append).step == 100
    assert said[0].startswith("damaged: step-000120/optimizer.pt has changed")


# --- where the store is ---


@pytest.mark.parametrize("url", ["kaggle://", "kaggle://me", "kaggle://me/a/b", "kaggle://me/../x", "kaggle://m e/x"])
def test_a_url_that_names_no_kernel(url):
    with pytest.raises(KelronError, match="names no Kaggle kernel: use kaggle://OWNER/KERNEL"):
        open_store(url)


def test_opening_reaches_for_nothing(hub, mounts):
    assert open_store(URL).describe() == "Kaggle output me/train"
    assert hub.requests == []


@pytest.mark.parametrize("how", ["mounted", "downloaded"])
def test_an_output_without_a_store_or_with_two(how, output, mounts, hub, monkeypatch):
    def found():
        if how == "mounted":
            shutil.rmtree(mounts / "train", ignore_errors=True)
            shutil.copytree(output, mounts / "train")
        hub.files = snapshot(output)
        return open_store(URL, must_exist=True)

    kaggle_stand_in.use_client(monkeypatch, hub)
    assert latest(found()).step == 120
    shutil.copytree(output / "run" / "store", output / "other" / "store")
    with pytest.raises(KelronError, match=r"^the output of me/train.* holds 2 stores \(other/store, run/store\): "):
        found()
    shutil.rmtree(output / "other")
    (output / "run" / "store" / LATEST).unlink()  # its manifests still tell
    assert verify_store(found()).problems == [
        "LATEST.json is missing: no run has completed a checkpoint here, or the file was lost"
    ]
    shutil.rmtree(output / "run" / "store")
    with pytest.raises(KelronError, match=r"^the output of me/train.* holds no store \(2 files, no LATEST.json\)"):
        found()


def test_a_store_at_the_top_of_the_output(output, mounts):
    shutil.copytree(output / "run" / "store", mounts / "train")
    assert latest(open_store(URL)).step == 120
    assert open_store(URL).describe() == f"Kaggle output me/train (mounted at {mounts / 'train'})"


def test_another_owners_kernel_of_that_name_is_not_taken(output, mounts, client):
    shutil.copytree(output, mounts / "notebooks" / "you" / "train")
    (mounts / "notebooks" / "you" / "train" / "run" / "store" / LATEST).write_bytes(b"not ours")
    assert latest(open_store(URL)).step == 120  # downloaded


# --- the way to it ---


def test_all_pages_are_read_once_and_only_what_is_asked_for(downloaded, hub):
    assert len(downloaded.list()) == len([name for name in hub.files if name.startswith("run/store/")])
    listings = [request[1] for request in hub.requests if request[0] == "list"]
    assert listings == [""] + [str(n) for n in range(7, len(hub.files), 7)]
    asked = [request[1:] for request in hub.requests if request[0] == "file"]
    assert {range_ for _, range_ in asked} == {"bytes=0-0"}
    assert all(name.startswith("run/store/") for name, _ in asked)
    downloaded.list()
    assert len(hub.requests) == len(listings) + len(asked)


def test_names_that_lead_elsewhere_are_left_out(downloaded, hub):
    hub.files |= {"../outside": b"x", "/etc/passwd": b"x", "run/store/../../x": b"x"}
    assert all(".." not in entry.path for entry in downloaded.list())


@pytest.mark.parametrize("fault", [429, 500, 503, "cut"])
def test_a_passing_fault_is_waited_for(fault, downloaded, hub, tmp_path, monkeypatch):
    monkeypatch.setattr(kaggle_store, "BLOCK", 1 << 16)
    downloaded.locate()
    hub.files["run/store/step-000120/optimizer.pt"] = bytes(range(256)) * 4096
    hub.faults["file"] = [fault, fault]
    downloaded.get_file("step-000120/optimizer.pt", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == hub.files["run/store/step-000120/optimizer.pt"]
    assert downloaded.slept == [1.0, 4.0]
    assert downloaded.said[0].startswith("cannot read step-000120/optimizer.pt in Kaggle output me/train: Kaggle ")
    ranges = [request[2] for request in hub.requests if request[0] == "file"]
    assert ranges[0] == "bytes=0-"
    assert (ranges[1] != "bytes=0-") == (fault == "cut")  # it goes on where it stopped


def test_a_server_that_ignores_ranges_is_read_anew(downloaded, hub, output):
    hub.ignores_ranges = True
    files = store_files(output)
    assert [(entry.path, entry.size) for entry in downloaded.list()] == [(p, len(files[p])) for p in sorted(files)]
    hub.faults["file"] = ["cut"]
    digest = downloaded.sha256("step-000120/optimizer.pt")
    assert digest == latest(downloaded).files["optimizer.pt"].sha256


def test_an_address_that_expired_is_asked_for_again(downloaded, hub, output):
    downloaded.locate()
    hub.faults["file"] = ["expired"]
    assert downloaded.read_bytes(LATEST) == store_files(output)[LATEST]
    assert [request[0] for request in hub.requests[-2:]] == ["list", "file"]


def test_an_empty_file_has_no_bytes(downloaded, hub):
    hub.files["run/store/empty"] = b""
    assert [entry.size for entry in downloaded.list("empty")] == [0]
    assert downloaded.read_bytes("empty") == b""


def test_a_lasting_fault_is_one_line_and_no_damage(downloaded, hub):
    downloaded.locate()
    hub.faults["file"] = [503] * 5
    with pytest.raises(KelronError, match=r"Kaggle answered 503 \(given up after 5 tries\)") as caught:
        downloaded.read_bytes(LATEST)
    assert not isinstance(caught.value, DamagedFile)
    assert downloaded.slept == list(kaggle_store.WAITS)
    hub.faults["list"] = [429, 429]
    downloaded.slept.clear()
    del downloaded._addresses
    downloaded.locate()
    assert downloaded.slept == [7.0, 7.0]  # as long as it asked


def test_a_kernel_that_may_not_be_seen(client, hub):
    with pytest.raises(KelronError, match=r"^Kaggle shows no output of you/train \(it answered 403\): "):
        open_store("kaggle://you/train", must_exist=True)


def test_no_secret_is_ever_told(downloaded, hub):
    hub.faults["list"] = [503]
    downloaded.locate()
    hub.faults["file"] = ["cut", 500, "expired", 503, 503, 503, 503]
    with pytest.raises(KelronError) as caught:
        downloaded.sha256("step-000120/optimizer.pt")
    told = "\n".join([*downloaded.said, str(caught.value)])
    assert kaggle_stand_in.KEY not in told
    assert "signature" not in told
    assert "127.0.0.1" not in told


def test_without_the_package_it_says_what_to_install(mounts, monkeypatch):
    for name in ("kaggle", "kaggle.api.kaggle_api_extended"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        KelronError, match=r"reached with the kaggle package .*: pip install 'kelron\[kaggle\]'; an output"
    ):
        open_store(URL, must_exist=True)


def test_without_credentials_it_says_where_they_go(mounts, capfd):
    """Where the package would print a page of help and end the process."""
    with pytest.raises(KelronError, match=r"^Kaggle wants to know who asks: set KAGGLE_API_TOKEN, or "):
        open_store(URL, must_exist=True)
    assert capfd.readouterr() == ("", "")
