"""Merged weights: what PEFT's own merge gives, everything else untouched, and what does not fit is named."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_models import random_model
from transformers import AutoModelForCausalLM, Qwen2ForCausalLM

from kelron_lib.errors import KelronError
from kelron_lib.hub_client import Backoff, Hub
from kelron_lib.placement import read_shape
from kelron_lib.publish import merge as merging
from kelron_lib.publish.adapter import linears_of, read_adapter, require_fit, tensor_name, write_half
from kelron_lib.publish.merge import INDEX, base_folder, merge, plan_merge
from kelron_lib.tiny import base_path

VOCABULARY = 320


def save_adapter(model, folder, r=4, **options):
    """An adapter with random factors, large enough to change every answer."""
    torch.manual_seed(3)
    settings = LoraConfig(r=r, lora_alpha=6, target_modules="all-linear", init_lora_weights=False, **options)
    get_peft_model(model, settings).save_pretrained(folder)
    return folder


def saved(model, folder, **options):
    model.save_pretrained(folder, **options)
    return folder


@pytest.fixture(scope="module")
def tied(tmp_path_factory):
    """A base in several shards whose head is its embedding, and an adapter on it."""
    folder = tmp_path_factory.mktemp("tied")
    saved(random_model(VOCABULARY), folder / "base", max_shard_size="20KB")
    save_adapter(random_model(VOCABULARY), folder / "adapter")
    return folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The tiny base in float32, and an adapter on it."""
    folder = tmp_path_factory.mktemp("tiny")
    model = AutoModelForCausalLM.from_pretrained(base_path(), dtype=torch.float32)
    saved(model, folder / "base", max_shard_size="6MB")
    save_adapter(model, folder / "adapter", use_rslora=True)
    return folder


def logits(model):
    ids = torch.arange(3, 40)[None]
    with torch.inference_mode():
        return model.eval()(ids).logits


def tensors(folder):
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= load_file(path)
    return found


@pytest.mark.parametrize("case", ["tied", "tiny"])
def test_the_merged_model_says_what_peft_merges(request, tmp_path, case):
    folder, said = request.getfixturevalue(case), []
    merge(folder / "base", read_adapter(folder / "adapter"), tmp_path, said.append)
    base = Qwen2ForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
    before = logits(base)
    wanted = logits(PeftModel.from_pretrained(base, folder / "adapter").merge_and_unload())
    found = logits(Qwen2ForCausalLM.from_pretrained(tmp_path, dtype=torch.float32))
    assert (wanted - before).abs().max() > 0.1
    assert (found - wanted).abs().max() <= 1e-5 * max(1.0, wanted.abs().max())
    assert len(said) == len(list(tmp_path.glob("*.safetensors"))) > 1


def test_only_the_adapters_weights_change_and_the_files_are_the_bases(tied, tmp_path):
    merge(tied / "base", read_adapter(tied / "adapter"), tmp_path, lambda line: None)
    before, after = tensors(tied / "base"), tensors(tmp_path)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert before.keys() == after.keys()
    assert changed == {f"{module}.weight" for module in read_adapter(tied / "adapter").modules}
    assert "lm_head.weight" not in after  # tied
    assert any(name.endswith(".bias") for name in before)
    assert (tmp_path / INDEX).read_bytes() == (tied / "base" / INDEX).read_bytes()
    for path in (tied / "base").glob("*.safetensors"):
        assert (tmp_path / path.name).stat().st_size == path.stat().st_size


def test_a_16_bit_checkpoint_is_merged_in_32_bits(tmp_path):
    saved(random_model(VOCABULARY).to(torch.bfloat16), tmp_path / "base")
    adapter = read_adapter(save_adapter(random_model(VOCABULARY), tmp_path / "adapter"))
    (tmp_path / "out").mkdir()
    merge(tmp_path / "base", adapter, tmp_path / "out", lambda line: None)
    base, factors, merged = tensors(tmp_path / "base"), tensors(tmp_path / "adapter"), tensors(tmp_path / "out")
    for module in adapter.modules:
        a, b = (factors[f"base_model.model.{module}.lora_{factor}.weight"] for factor in "AB")
        exact = base[f"{module}.weight"].double() + 6 / 4 * (b.double() @ a.double())
        assert merged[f"{module}.weight"].dtype == torch.bfloat16
        # One rounding to bfloat16 (8 bits) and no more.
        assert ((merged[f"{module}.weight"].double() - exact).abs() <= exact.abs() * 2**-8 + 1e-6).all()


def test_what_a_cut_leaves_does_not_load(tied, tmp_path, monkeypatch):
    calls = []

    def dies(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    real = merging._merge_shard
    monkeypatch.setattr(merging, "_merge_shard", dies)
    with pytest.raises(KeyboardInterrupt):
        merge(tied / "base", read_adapter(tied / "adapter"), tmp_path, lambda line: None)
    assert list(tmp_path.glob("*.safetensors"))
    with pytest.raises(ValueError, match=r"config\.json"):
        AutoModelForCausalLM.from_pretrained(tmp_path)


def resident(field):
    """Bytes that this process holds (VmRSS), or held at most since the mark was last set back (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def test_a_merge_holds_a_matrix_and_not_a_shard(tmp_path):
    """The two shards are 64 MB each, a matrix with its update takes under 20."""
    for name in ("base", "adapter", "out"):
        (tmp_path / name).mkdir()
    modules = [f"model.layers.{layer}.mlp.{name}_proj" for layer in range(16) for name in ("up", "down")]
    shards = {f"model-{number}.safetensors": modules[number::2] for number in range(2)}
    for shard, own in shards.items():
        save_file({f"{module}.weight": torch.zeros(1024, 1024) for module in own}, tmp_path / "base" / shard)
    index = {"weight_map": {f"{module}.weight": shard for shard, own in shards.items() for module in own}}
    (tmp_path / "base" / INDEX).write_text(json.dumps(index))
    (tmp_path / "base" / "config.json").write_text("{}")
    shapes = {"A": (8, 1024), "B": (1024, 8)}
    factors = {tensor_name(module, key): torch.ones(shape) for module in modules for key, shape in shapes.items()}
    save_file(factors, tmp_path / "adapter" / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": 8, "lora_alpha": 8, "target_modules": ["up_proj", "down_proj"]}
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(settings))
    del factors
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
    before = resident("VmRSS")
    merge(tmp_path / "base", read_adapter(tmp_path / "adapter"), tmp_path / "out", lambda line: None)
    assert resident("VmHWM") - before < 40e6
    assert all((tensor == 8).all() for tensor in tensors(tmp_path / "out").values())


# --- what does not fit ---


def change(folder, into, edit):
    """A copy of an adapter whose tensors `edit` changed."""
    copied = shutil.copytree(folder, into)
    weights = load_file(copied / "adapter_model.safetensors")
    edit(weights)
    save_file(weights, copied / "adapter_model.safetensors", metadata={"format": "pt"})
    return copied


FIRST = "base_model.model.model.layers.0.mlp.down_proj.lora_A.weight"


def narrow(weights):
    weights[FIRST] = weights[FIRST][:, :-1].contiguous()


def rename(weights):
    weights.update({name.replace("layers.1.", "layers.7."): weights.pop(name) for name in [*weights]})


def drop(weights):
    del weights[FIRST], weights[FIRST.replace("lora_A", "lora_B")]


def drop_one(weights):
    del weights[FIRST]


def add_head(weights):
    weights["base_model.model.lm_head.weight"] = torch.zeros(2, 2)


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (narrow, "layers.0.mlp.down_proj.lora_A.weight is 4 x 31 where 4 x 32 is due"),
        (rename, "layers.7.mlp.down_proj.lora_A.weight belongs to no layer of it"),
        (drop, "layers.0.mlp.down_proj.lora_A.weight is missing"),
        (drop_one, "layers.0.mlp.down_proj.lora_A.weight is missing"),
        (add_head, "lm_head.weight in .* is no LoRA factor"),
    ],
)
def test_an_adapter_that_does_not_fit_is_told_by_its_first_tensor(tied, tmp_path, edit, told):
    shape = read_shape(json.loads((tied / "base" / "config.json").read_text()))
    folder = change(tied / "adapter", tmp_path / "adapter", edit)

    def read_and_compare():
        adapter = read_adapter(folder)
        require_fit(adapter, linears_of(shape, adapter.targets), "the tied one")

    with pytest.raises(KelronError, match=told) as raised:
        read_and_compare()
    assert "\n" not in str(raised.value)


def test_another_base_is_told_before_anything_is_written(tied, tiny, tmp_path):
    with pytest.raises(
        KelronError, match=r"does not fit the base base: .*lora_A.weight is 4 x 768 where 4 x 32 is due"
    ):
        merge(tied / "base", read_adapter(tiny / "adapter"), tmp_path, lambda line: None)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("field", ["use_dora", "modules_to_save", "rank_pattern"])
def test_more_than_plain_lora_is_refused(tied, tmp_path, field):
    folder = shutil.copytree(tied / "adapter", tmp_path / "adapter")
    settings = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(settings | {field: ["x"]}))
    with pytest.raises(KelronError, match=f"has {field} set: only plain LoRA"):
        read_adapter(folder)


def test_a_quantised_base_is_refused(tied, tmp_path):
    folder = shutil.copytree(tied / "base", tmp_path / "base")
    shard = min(folder.glob("*.safetensors"))
    weights = load_file(shard) | {"model.layers.0.mlp.down_proj.weight.absmax": torch.zeros(1)}
    save_file(weights, shard)
    with pytest.raises(KelronError, match=r"is quantised \(model.*absmax\): merge into its full-precision checkpoint"):
        plan_merge(folder, read_adapter(tied / "adapter"))


def test_a_damaged_shard_is_told(tied, tmp_path):
    folder = shutil.copytree(tied / "base", tmp_path / "base")
    shard = max(folder.glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-8])
    with pytest.raises(KelronError, match=r"is no intact safetensors file \(.* is cut off\)"):
        plan_merge(folder, read_adapter(tied / "adapter"))
    shard.unlink()
    with pytest.raises(KelronError, match=f"has no {shard.name}"):
        plan_merge(folder, read_adapter(tied / "adapter"))


# --- the adapter in 16 bits ---


def test_the_adapter_in_float16_is_the_rounded_master(tied, tmp_path):
    told = write_half(read_adapter(tied / "adapter"), tmp_path / "half.safetensors")
    masters, halves = (
        load_file(tied / "adapter" / "adapter_model.safetensors"),
        load_file(tmp_path / "half.safetensors"),
    )
    assert {tensor.dtype for tensor in masters.values()} == {torch.float32}
    assert masters.keys() == halves.keys()
    assert all(torch.equal(halves[name], masters[name].half()) for name in masters)
    assert told["largest"] == max(tensor.abs().max().item() for tensor in masters.values())
    with safe_open(tmp_path / "half.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


def put(value):
    def edit(weights):
        weights[FIRST][0, 0] = value

    return edit


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (70000.0, r"lora_A.weight in .* has values up to 7e\+04, which float16 cannot hold"),
        (float("nan"), "lora_A.weight in .* has values that are not finite"),
        (float("inf"), "lora_A.weight in .* has values that are not finite"),
    ],
)
def test_values_that_float16_cannot_hold_are_told(tied, tmp_path, value, told):
    adapter = read_adapter(change(tied / "adapter", tmp_path / "adapter", put(value)))
    with pytest.raises(KelronError, match=told):
        write_half(adapter, tmp_path / "half.safetensors")
    assert not (tmp_path / "half.safetensors").exists()


def test_values_that_float16_rounds_away_are_counted(tied, tmp_path):
    adapter = read_adapter(change(tied / "adapter", tmp_path / "adapter", put(1e-9)))
    values = sum(tensor.numel() for tensor in load_file(adapter.folder / "adapter_model.safetensors").values())
    assert write_half(adapter, tmp_path / "half.safetensors")["vanished"] == pytest.approx(1 / values, rel=0.01)


# --- a base on the Hub ---


def test_a_base_on_the_hub_is_fetched_whole(stand_in, tied, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)  # the stand-in gives files over HTTP
    hub = Hub(token=stand_in.token, endpoint=stand_in.url, backoff=Backoff(first_wait=0.01), say=lambda line: None)
    hub.api.create_repo("me/base", private=True)
    hub.api.upload_folder(repo_id="me/base", folder_path=tied / "base")
    stand_in.fail("info", "cut")
    plan = plan_merge(base_folder("me/base", hub), read_adapter(tied / "adapter"))
    assert plan == plan_merge(tied / "base", read_adapter(tied / "adapter"))
    with pytest.raises(KelronError, match=r"^cannot fetch the weights of me/none: not found on the Hub"):
        base_folder("me/none", hub)
