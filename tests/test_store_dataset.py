"""The dataset in the store: whole or not at all, sealed, and never taken for another."""

import shutil

import pytest
from dataset_files import put_rows, rows_in

from kelron_lib.data import fingerprint
from kelron_lib.dataset import SEAL, fetch_dataset, has_dataset, holds_dataset, save_dataset, stored_dataset
from kelron_lib.errors import KelronError
from kelron_lib.store import DamagedFile, FolderStore
from kelron_lib.stores import open_store


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def store(tmp_path):
    return open_store(tmp_path / "store", write=True)


@pytest.fixture
def other(small_data, tmp_path):
    """Another dataset, of the bare rows."""
    folder = tmp_path / "other"
    folder.mkdir()
    for split in ("train", "validation", "test"):
        put_rows(folder, rows_in(small_data, split)[1:], split)
    return folder


def test_a_dataset_comes_back_as_it_was(store, small_data, tmp_path):
    assert fetch_dataset(store, tmp_path / "data") is None
    save_dataset(store, small_data)
    assert has_dataset(store, fingerprint(small_data))
    assert not has_dataset(store, "another")
    stored = fetch_dataset(store, tmp_path / "new" / "data")
    assert stored.fingerprint == fingerprint(small_data)
    assert content(tmp_path / "new" / "data") == content(small_data)
    assert list((tmp_path / "new").iterdir()) == [tmp_path / "new" / "data"]


def test_another_dataset_replaces_it_with_nothing_left(store, small_data, other):
    save_dataset(store, small_data)
    save_dataset(store, other)
    assert stored_dataset(store).fingerprint == fingerprint(other)
    assert {entry.path.removeprefix("dataset/") for entry in store.list()} == {*content(other), "MANIFEST.json"}


def test_an_unfinished_one_counts_as_none(store, small_data, tmp_path):
    save_dataset(store, small_data)
    store.delete(SEAL)
    assert stored_dataset(store) is None
    assert fetch_dataset(store, tmp_path / "data") is None
    assert not (tmp_path / "data").exists()


NAMES = ["train.parquet", "validation.parquet", "test.parquet", "quality.json"]
DAMAGES = [(name, how) for name in NAMES for how in ("flipped", "truncated", "missing")]
DAMAGES += [("MANIFEST.json", how) for how in ("flipped", "truncated")]  # without it there is no dataset: see above


@pytest.mark.parametrize(("name", "how"), DAMAGES)
def test_every_damage_is_named_and_nothing_of_it_arrives(name, how, store, small_data, tmp_path):
    save_dataset(store, small_data)
    path = store.root / "dataset" / name
    raw = bytearray(path.read_bytes())
    if how == "missing":
        path.unlink()
    else:
        raw[len(raw) // 2] ^= 1
        path.write_bytes(raw if how == "flipped" else raw[:-1])
    with pytest.raises(DamagedFile, match=f"dataset/{name}"):
        stored_dataset(store)
    with pytest.raises(KelronError, match=f"is damaged .*dataset/{name}.*make it again with `kelron data`"):
        fetch_dataset(store, tmp_path / "data")
    assert not (tmp_path / "data").exists()
    save_dataset(store, small_data)
    assert has_dataset(store, fingerprint(small_data))


def test_a_seal_that_names_other_files_is_damage(store, small_data):
    save_dataset(store, small_data)
    stored = stored_dataset(store)
    stored.files["../evil"] = stored.files["README.md"]
    store.write_bytes(SEAL, stored.encode())
    with pytest.raises(DamagedFile, match="does not name the files of a dataset"):
        stored_dataset(store)


def test_what_lies_in_the_folder_stays(store, small_data, tmp_path):
    save_dataset(store, small_data)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "thesis.txt").write_text("years of work")
    assert not holds_dataset(tmp_path / "data")
    with pytest.raises(KelronError, match="holds files, but no dataset"):
        fetch_dataset(store, tmp_path / "data")
    assert content(tmp_path / "data") == {"thesis.txt": b"years of work"}
    (tmp_path / "data" / "thesis.txt").unlink()
    fetch_dataset(store, tmp_path / "data")
    assert content(tmp_path / "data") == content(small_data)


class ForgetfulStore(FolderStore):
    """Changes one file on its way in."""

    def put_file(self, local, path):
        super().put_file(local, path)
        if path.endswith("test.parquet"):
            (self.root / path).write_bytes(b"{}\n")


def test_what_arrives_changed_is_not_kept(small_data, tmp_path):
    store = ForgetfulStore(tmp_path / "store")
    with pytest.raises(KelronError, match=r"the dataset did not arrive intact .*dataset/test.parquet"):
        save_dataset(store, small_data)
    assert store.list() == []


@pytest.mark.parametrize("change", range(8))
def test_a_writer_cut_off_at_any_change_leaves_none_or_the_whole(change, small_data, other, tmp_path, monkeypatch):
    store = open_store(tmp_path / "store", write=True)
    save_dataset(store, other)
    seen = []

    def cut_off(name):
        do = getattr(FolderStore, name)

        def method(self, *args):
            if len(seen) == change:
                raise KeyboardInterrupt
            seen.append(name)
            do(self, *args)

        return method

    with monkeypatch.context() as patch:
        for name in ("write_bytes", "put_file", "delete"):
            patch.setattr(FolderStore, name, cut_off(name))
        with pytest.raises(KeyboardInterrupt):
            save_dataset(store, small_data)
    stored = stored_dataset(store)
    assert stored is None or stored.fingerprint == fingerprint(other)
    save_dataset(store, small_data)
    shutil.rmtree(tmp_path / "data", ignore_errors=True)
    assert fetch_dataset(store, tmp_path / "data").fingerprint == fingerprint(small_data)
