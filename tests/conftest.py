"""Fixtures for all tests: no test reads the user's home or environment, or reaches a network."""

import itertools
import os
import shutil
import tempfile
from types import SimpleNamespace

import kaggle_image
import pytest
from hub_stand_in import StandIn
from kaggle_stand_in import USER

from kelron_lib.config import resolve
from kelron_lib.data import build_dataset
from kelron_lib.hub_base import HubStore
from kelron_lib.kaggle_ops.library import stage_library
from kelron_lib.runtime import SessionClock

SMALL = (
    "data.rows=240",
    "train.rows_per_pass=3",
    "train.epochs=0.6",
    "train.save_steps=4",
    "train.eval_steps=3",
    "lora.r=4",
    "session.reserve_seconds=0",
)
"""Overrides of the tiny preset for runs of a few seconds."""


@pytest.fixture(autouse=True, scope="session")
def temporary(tmp_path_factory):
    """What tests, and processes of theirs that are killed, leave among temporary files goes when pytest's own do."""
    folder = str(tmp_path_factory.mktemp("tmp"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", folder)
        patch.setattr(tempfile, "tempdir", None)  # asked for again by this process, which may have read it before
        yield


@pytest.fixture(autouse=True)
def isolated(monkeypatch, tmp_path_factory):
    """A home of its own, and no setting of the caller's that Kelron or the hub client would read."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("HF_HOME", str(home / "hf"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("KELRON_SESSION_START", "KELRON_BATCH", "KELRON_DEMO", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name in [name for name in os.environ if name.startswith("KAGGLE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "LOCALHOST")  # read when the package is imported; no test leaves here


@pytest.fixture(scope="session")
def small_config():
    return resolve("tiny-cpu", SMALL)


@pytest.fixture(scope="session")
def small_data(small_config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "data"
    build_dataset(small_config, folder)
    return folder


def ticking_clock(budget):
    """A clock that moves one second each time somebody looks at it, so that a budget cuts at the same step always."""
    return SessionClock(budget=budget, now=itertools.count().__next__)


@pytest.fixture(scope="session")
def cut(small_config, small_data, tmp_path_factory):
    """A small run after a first session, and the step that it ended at."""
    from kelron_lib.train import train

    out = tmp_path_factory.mktemp("cut") / "run"
    status = train(small_config, small_data, out, clock=ticking_clock(15), say=lambda line: None)
    assert status.state == "budget"
    return out, status.step


@pytest.fixture
def run(cut, tmp_path):
    """A copy of that run, and its step."""
    shutil.copytree(cut[0], tmp_path / "run")
    return tmp_path / "run", cut[1]


@pytest.fixture
def online(monkeypatch):
    """The hub client reads its settings when it is first imported, hf_xet when it is first used."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_XET_CLIENT_RETRY_BASE_DELAY", "10ms")  # instead of 3 s
    return constants


@pytest.fixture
def stand_in(tmp_path, online):
    """The Hub's stand-in."""
    with StandIn(tmp_path / "hub") as hub:
        yield hub


@pytest.fixture
def hub(stand_in, monkeypatch):
    """The stand-in for whole runs: nobody waits to see which of two sessions holds the lease."""
    monkeypatch.setattr(HubStore, "settle_seconds", 0.0)
    return stand_in


@pytest.fixture(scope="session")
def image(tmp_path_factory):
    """What machines are made of, of this environment's packages."""
    return kaggle_image.make_image(tmp_path_factory.mktemp("image") / "image")


@pytest.fixture(scope="module", params=["newest", pytest.param("oldest", marks=pytest.mark.slow)])
def versions(request, tmp_path_factory):
    """What machines are made of, in the versions of Kaggle's image. Of a module, or tests would be sorted across."""
    cache = request.config.cache.mkdir("kaggle-image")
    installed = [kaggle_image.install_once(part, cache) for part in ("common", request.param)]
    folder = kaggle_image.make_image(tmp_path_factory.mktemp("image") / "image", installed)
    return SimpleNamespace(folder=folder, named=kaggle_image.image_versions(request.param))


@pytest.fixture(scope="session")
def wheels(tmp_path_factory):
    return kaggle_image.pinned_wheels(tmp_path_factory.mktemp("wheels") / "wheels")


@pytest.fixture(scope="session")
def clone(tmp_path_factory):
    """A clean git tree with what this one holds now."""
    folder = tmp_path_factory.mktemp("clone") / "kelron"
    kaggle_image.copy_project(folder)
    return folder


@pytest.fixture(scope="session")
def staged(clone, wheels, tmp_path_factory):
    """The library dataset, as it is uploaded."""
    folder = tmp_path_factory.mktemp("staged") / "library"
    return stage_library(clone, folder, owner=USER, wheels=wheels, say=lambda line: None)
