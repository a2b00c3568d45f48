"""Fixtures for all tests: no test reads the user's home or environment, or reaches a network."""

import pytest

from kelron_lib.config import resolve
from kelron_lib.data import build_dataset

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


@pytest.fixture(autouse=True)
def isolated(monkeypatch, tmp_path_factory):
    """A home of its own, and no setting of the caller's that Kelron or the hub client would read."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("HF_HOME", str(home / "hf"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("KELRON_SESSION_START", "KELRON_BATCH", "KAGGLE_KERNEL_RUN_TYPE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def small_config():
    return resolve("tiny-cpu", SMALL)


@pytest.fixture(scope="session")
def small_data(small_config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "data"
    build_dataset(small_config, folder)
    return folder
