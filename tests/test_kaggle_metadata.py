"""What kaggle_metadata/ says, checked by the kaggle package's own code; and what is staged from it."""

import json
from pathlib import Path

import pytest
from kaggle_stand_in import USER, use_client
from kaggle_world import Dataset, DatasetVersion, Played, World
from slugify import slugify

from kelron_lib.config import PRESETS, load_preset, resolve
from kelron_lib.errors import KelronError
from kelron_lib.kaggle_ops import kernels, secret
from kelron_lib.kaggle_ops.kernels import Record, find_record, read_kernels, stage_kernel, timeout_of

ROOT = Path(__file__).parent.parent
METADATA = ROOT / "kaggle_metadata"
FOLDERS = sorted(path.parent for path in METADATA.glob("*/kernel-metadata.json"))
RECORD = Record(begun="2026-11-25T00:00:00+00:00", config="abc", number=2, step=7)


@pytest.fixture
def api(monkeypatch):
    with World(lambda *_: Played()) as world:
        use_client(monkeypatch, world)
        from kaggle.api.kaggle_api_extended import KaggleApi

        api = KaggleApi()
        api.authenticate()
        api.world = world
        yield api


def staged(folder, kernel="train", preset="kelron-14b-t4x2", **changes):
    stage = {
        "owner": USER,
        "config": resolve(preset),
        "parameters": {"PRESET": preset},
        "record": RECORD,
        "datasets": [f"{USER}/kelron-library"],
    }
    stage_kernel(read_kernels(ROOT)[kernel], folder, **(stage | changes))
    metadata = json.loads((folder / "kernel-metadata.json").read_text())
    return metadata, json.loads((folder / metadata["code_file"]).read_text())


def test_there_is_a_folder_for_every_kernel_and_one_for_the_library():
    assert sorted(folder.name for folder in FOLDERS) == sorted(kernels.KERNELS)
    assert (METADATA / "kelron_lib" / "dataset-metadata.json").is_file()
    notebooks = {read_kernels(ROOT)[name].code_file for name in kernels.KERNELS}
    assert notebooks == {path.name for path in (ROOT / "notebooks").glob("*.ipynb")}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_kernels_metadata(folder, api):
    metadata = json.loads((folder / "kernel-metadata.json").read_text())
    owner, slug, version = api.parse_kernel_string(metadata["id"])
    assert (owner, version) == (kernels.OWNER, None)
    assert slug == slugify(metadata["title"]) == kernels.slug_of(metadata["title"])
    assert metadata["is_private"] is True
    assert metadata["enable_internet"] is True
    assert metadata["enable_gpu"] == (folder.name != "data")  # which needs none: its hours would count
    assert metadata.get("machine_shape") == ("NvidiaTeslaT4" if metadata["enable_gpu"] else None)
    assert metadata["kernel_type"] in api.valid_push_kernel_types
    assert metadata["language"] in api.valid_push_language_types
    for source in metadata["dataset_sources"]:
        api.validate_dataset_string(source)
    for source in metadata["model_sources"]:
        api.validate_model_instance_version_string(source)
        assert kernels.is_base(source, load_preset("kelron-14b-t4x2"))
    known = ("id", "title", "code_file", "language", "kernel_type", "is_private", "enable_gpu", "enable_tpu")
    known += ("enable_internet", "machine_shape", "dataset_sources", "kernel_sources", "competition_sources")
    assert set(metadata) <= {*known, "model_sources"}


def test_the_librarys_metadata(api):
    metadata = json.loads((METADATA / "kelron_lib" / "dataset-metadata.json").read_text())
    api.validate_dataset_string(metadata["id"])
    assert metadata["id"] == f"{kernels.OWNER}/{slugify(metadata['title'])}"
    assert 6 <= len(metadata["title"]) <= 50
    assert len(metadata["licenses"]) == 1
    assert slugify(secret.TITLE) == secret.SLUG
    for kernel in read_kernels(ROOT).values():
        assert kernel.metadata["dataset_sources"] == [metadata["id"]]


@pytest.mark.parametrize("kernel", sorted(read_kernels(ROOT)))
@pytest.mark.parametrize("preset", PRESETS)
def test_the_package_pushes_what_is_staged(kernel, preset, api, tmp_path):
    from kelron_lib.kaggle_ops.client import Kaggle

    metadata, _ = staged(tmp_path, kernel, preset)
    assert metadata["id"].startswith(f"{USER}/")
    assert kernels.OWNER not in json.dumps(metadata)
    api.world.datasets[f"{USER}/kelron-library"] = make_dataset()
    Kaggle().push(tmp_path, 4711)
    asked = api.world.requests[-1][1]
    assert asked["sessionTimeoutSeconds"] == 4711
    assert asked["isPrivate"]
    gpu = preset != "tiny-cpu" and kernel != "data"
    assert asked.get("machineShape") == ("NvidiaTeslaT4" if gpu else None)
    assert bool(asked.get("enableGpu")) == gpu
    base = ["qwen-lm/qwen2.5/Transformers/14b-instruct/1"]
    assert asked.get("modelDataSources", []) == (base if gpu else [])
    assert json.loads(asked["text"])["metadata"]["kernelspec"]["name"] == "python3"
    assert api.world.kernels.keys() == {metadata["id"]}


def make_dataset():
    return Dataset(True, [DatasetVersion({}, 0.0)])


def test_parameters_and_record_stand_after_the_notebooks_own(tmp_path):
    _, notebook = staged(tmp_path, parameters={"PRESET": "tiny-cpu", "OVERRIDES": ["a.b='c'"], "FRESH": True})
    codes = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert codes[0]["metadata"]["tags"] == ["parameters"]
    found = {}
    exec("".join(codes[0]["source"]) + "\n" + codes[1]["source"], found)
    assert (found["PRESET"], found["OVERRIDES"], found["FRESH"]) == ("tiny-cpu", ["a.b='c'"], True)
    assert found["RUN"] == "runs/kelron"
    assert find_record(json.dumps(notebook)) == RECORD
    assert find_record((ROOT / "notebooks" / "02_train.ipynb").read_text()) is None
    with pytest.raises(KelronError, match="the notebook has no parameter QUICK"):
        staged(tmp_path, parameters={"QUICK": True})


def test_a_run_of_another_name_has_kernels_of_its_own():
    named = read_kernels(ROOT, "Mybot")
    assert named["train"].slug == "mybot-02-train"
    assert {k.slug for k in named.values()}.isdisjoint(k.slug for k in read_kernels(ROOT).values())
    for wrong in ("x", "a b", "1bot", "-bot"):
        with pytest.raises(KelronError, match="use 3 to 20 letters and digits"):
            read_kernels(ROOT, wrong)


def test_a_session_ends_itself_before_kaggle_does():
    config = load_preset("kelron-14b-t4x2")
    for kernel in kernels.TRAINING:
        assert config.session.budget_seconds < timeout_of(kernel, config) <= kernels.LONGEST
    longer = resolve("kelron-14b-t4x2", ["session.budget_seconds=86400"])
    assert timeout_of("train", longer) == kernels.LONGEST
