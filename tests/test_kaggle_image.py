"""A notebook that trains on the versions that Kaggle's image has (kaggle_metadata/image.toml); all of them:
tests/test_kaggle_whole.py."""

import json
import tomllib
from fnmatch import fnmatch

import kaggle_image
import pytest
from conftest import SMALL
from kaggle_image import ROOT, image_versions
from kaggle_stand_in import USER
from kaggle_world import Dataset, DatasetVersion, Notebooks, World, by_hand
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from kelron_lib.kaggle_ops.library import pins
from kelron_lib.manifest import MANIFEST

ENDS = ("oldest", "newest")


@pytest.mark.parametrize("end", ENDS)
def test_the_versions_are_such_as_kelron_asks_for(end):
    """But for what a session replaces, which has to be needed: a pin of what the image holds already is none."""
    versions = {
        canonicalize_name(name): version for part in ("common", end) for name, version in image_versions(part).items()
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needs = {need.name: need.specifier for need in map(Requirement, project["dependencies"])}
    missing = {canonicalize_name(name) for name in needs} - versions.keys()
    assert missing == {"torch", "bitsandbytes"}  # the tests' own, and what a session installs
    asked = {name: specifier for name, specifier in needs.items() if canonicalize_name(name) in versions}
    assert not [name for name in asked if not asked[name].contains(versions[canonicalize_name(name)])]
    assert not [name for name, version in pins(ROOT).items() if versions.get(name) == version]


def test_the_ends_are_ends():
    old, new = map(image_versions, ENDS)
    assert not [name for name in old.keys() & new.keys() if Version(old[name]) >= Version(new[name])]
    assert not (old.keys() | new.keys()) & image_versions("common").keys()


def files_of(folder, top=""):
    return {f"{top}{path.relative_to(folder)}": path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_session_trains_on_the_images_versions(versions, staged, small_data, tmp_path):
    play = Notebooks(tmp_path / "sessions", lambda folder: kaggle_image.make_machine(folder, versions.folder))
    attached = {"kelron-library": files_of(staged.folder), "my-rows": files_of(small_data, "data/")}
    with World(play) as world:
        for slug, files in attached.items():
            world.datasets[f"{USER}/{slug}"] = Dataset(True, [DatasetVersion(files, 0.0)])
        text = by_hand("02_train", (*SMALL, "train.epochs=0.3"))
        asked = {"slug": f"{USER}/x", "newTitle": "My train", "text": text, "datasetDataSources": [*world.datasets]}
        world.save_kernel(asked)
        world.wait(240)
        (session,) = world.versions("my-train")
    assert session.status == "COMPLETE", session.lines[-5:]
    assert json.loads(session.files["runs/kelron/status.json"])["state"] == "finished"
    kept = [text for name, text in session.files.items() if fnmatch(name, f"*/step-*/{MANIFEST}")]
    manifests = [*map(json.loads, kept)]
    assert manifests
    for manifest in manifests:
        assert manifest["versions"]["transformers"] == versions.named["transformers"]
        assert manifest["versions"]["peft"] == pins(ROOT)["peft"]
