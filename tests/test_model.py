"""The base and its adapter: what they are called away from the machine that made them."""

import pytest

from kelron_lib.config import apply_overrides
from kelron_lib.model import portable_base


@pytest.mark.parametrize("base", ["tiny", "Qwen/Qwen2.5-14B-Instruct"])
def test_a_base_that_every_machine_knows_keeps_its_name(small_config, base, tmp_path, monkeypatch):
    (tmp_path / "tiny").mkdir()
    monkeypatch.chdir(tmp_path)
    assert portable_base(apply_overrides(small_config, [f"model.base={base}"])) == base


def test_a_base_in_a_folder_is_named_without_its_place(small_config, tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    for written in (f"{tmp_path}/mine", f"{tmp_path}/mine/", "."):
        assert portable_base(apply_overrides(small_config, [f"model.base={written}"])) == "mine"
