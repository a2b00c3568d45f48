"""The base and its adapter: what they compute in, and what they are called away from the machine that made them."""

import bitsandbytes
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from kelron_lib.config import apply_overrides
from kelron_lib.engine.packing import pack
from kelron_lib.engine.prepare import forward_loss, prepare
from kelron_lib.model import add_lora, load_base, portable_base
from kelron_lib.tiny import base_path


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


def test_a_base_saved_in_4_bits_computes_in_the_configs_dtype_and_not_in_its_makers(small_config, tmp_path):
    quantisation = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype="bfloat16"
    )
    maker = AutoModelForCausalLM.from_pretrained(
        base_path(), quantization_config=quantisation, dtype=torch.bfloat16, device_map={"": "cpu"}
    )
    maker.save_pretrained(tmp_path / "small")
    AutoTokenizer.from_pretrained(base_path()).save_pretrained(tmp_path / "small")
    saved, _ = load_base(apply_overrides(small_config, [f"model.base={tmp_path / 'small'}"]))
    linears = [module for module in saved.modules() if isinstance(module, bitsandbytes.nn.Linear4bit)]
    assert len(linears) == 28
    assert {linear.compute_dtype for linear in linears} == {torch.float32}
    assert {linear.weight.quant_state.dtype for linear in linears} == {torch.float32}
    others = {p.dtype for p in saved.parameters() if not isinstance(p, bitsandbytes.nn.Params4bit)}
    assert others == {torch.float32}
    ids = [*range(300, 360)]
    batch = pack([[{"input_ids": ids, "labels": ids}]], row_tokens=64, pad_id=0)
    losses = [
        forward_loss(prepare(add_lora(base, small_config)).train(), batch).item()
        for base in (saved, load_base(small_config)[0])
    ]
    assert losses[0] == pytest.approx(losses[1], rel=0.01)
