"""The planner against known counts, against measured peaks, and on GPUs that do not suit it."""

import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, replace

import pytest

from kelron_lib.config import load_preset
from kelron_lib.errors import KelronError
from kelron_lib.placement import (
    Epoch,
    Workload,
    find_config,
    parse_gpus,
    plan,
    plan_dict,
    plan_svg,
    plan_table,
    read_shape,
    workload,
)
from kelron_lib.placement.maps import auto_layers, missing, spread
from kelron_lib.placement.memory import GIB, Share, gpu_memory, nf4_bytes, optimizer_bytes, weight_parts
from kelron_lib.placement.plan import PLACEMENTS
from kelron_lib.placement.speed import flops_per_token, pass_seconds
from kelron_lib.placement.svg import GROUPS

CONFIG = find_config("Qwen/Qwen2.5-14B-Instruct")
SHAPE = read_shape(CONFIG)
T4X2 = [14.74, 14.74]
STOCK = Workload(adapter="peft", upcast=True, embedding="gpu", loss="full", optimizer="adamw_8bit", row_tokens=1024)
PEFT = Workload(adapter="peft", embedding="gpu", optimizer="adamw_8bit", rows=1, row_tokens=1024)


@dataclass(frozen=True)
class Measured:
    """GiB allocated on one GPU over optimizer steps."""

    name: str
    work: Workload
    weights: float
    peak: float


# Random weights in the shape of Qwen2.5-14B, nf4 with double quantisation, fp16; torch 2.11, transformers 5.17, peft
# 0.21, bitsandbytes 0.50.2. PEFT's own layers on an H200, under autocast; chunks of 512 positions where the loss has
# chunks. Kelron's: benchmarks/planner.py on an H100, and the last two rows benchmarks/train_step.py on an H200.
FUSED = Workload(lora_dropout=0.1, head="nf4")
MEASURED = [
    Measured("stock, r=64 attention", replace(STOCK, lora_rank=64, lora_targets="attention", rows=1), 12.22, 17.00),
    Measured("stock, r=128, 2 x 1024", replace(STOCK, rows=2), 12.22, 22.94),
    Measured("no upcast, chunked loss", PEFT, 9.32, 15.07),
    Measured("no upcast, attention", replace(PEFT, lora_targets="attention"), 9.32, 12.06),
    Measured("fused, nf4 head", FUSED, 6.79, 11.54),
    Measured("fused, two passes a step", replace(FUSED, accumulation=2), 6.79, 12.71),
    Measured("fused, r=64", replace(FUSED, lora_rank=64), 6.79, 9.64),
    Measured("fused, r=16", replace(FUSED, lora_rank=16), 6.79, 8.92),
    Measured("fused, 1024 tokens", replace(FUSED, rows=2), 6.79, 11.27),
    Measured("fused, 4096 tokens", replace(FUSED, rows=8), 6.79, 12.07),
    Measured("fused, 6144 tokens", replace(FUSED, rows=12), 6.79, 13.34),
    Measured("fused, no checkpointing", replace(FUSED, rows=1, checkpointing=False, accumulation=2), 6.79, 16.18),
    Measured("fused, 16-bit head", Workload(lora_dropout=0.1), 7.87, 12.64),
    Measured("fused, no dropout", replace(FUSED, rows=12, lora_dropout=0.0), 6.79, 13.18),
    Measured("fused, 4096 tokens, chunks of 2048", replace(FUSED, rows=8, loss_chunk=2048), 6.79, 13.30),
    Measured("fused, embedding on the GPU", replace(FUSED, embedding="gpu"), 8.24, 12.99),
    Measured("fused, AdamW in 32 bits", replace(FUSED, optimizer="adamw"), 6.79, 17.18),
]


@pytest.mark.parametrize("row", MEASURED, ids=lambda row: row.name)
def test_peak_and_weights_agree_with_measurement(row):
    whole = Share(SHAPE.layers)
    weights = sum(weight_parts(SHAPE, row.work, whole).values()) / GIB
    assert weights == pytest.approx(row.weights, rel=0.005)
    assert gpu_memory(SHAPE, row.work, whole).step_peak == pytest.approx(row.peak, rel=0.05)


def test_loading_agrees_with_measurement():
    """benchmarks/loading.py on an H100: 9.39 GiB at most, both tables in 16 bits until the embedding has left."""
    for rank in (16, 128):
        memory = gpu_memory(SHAPE, replace(FUSED, lora_rank=rank), Share(SHAPE.layers))
        assert sum(memory.phases["loading"].values()) == pytest.approx(9.39, rel=0.02)
    assert gpu_memory(SHAPE, replace(FUSED, lora_rank=16), Share(SHAPE.layers)).peak_phase == "loading"


def test_counts_of_the_14b():
    assert SHAPE.total == 14_770_033_664  # the published checkpoint's
    assert SHAPE.layers * SHAPE.layer_weights == pytest.approx(13.2e9, rel=0.002)
    assert 2 * SHAPE.embedding / GIB == pytest.approx(1.45, abs=0.005)
    assert 4 * SHAPE.embedding / GIB == pytest.approx(2.90, abs=0.005)
    assert SHAPE.lora(1, "all-linear") == 4_300_800
    assert SHAPE.lora(128, "all-linear") == 128 * 4_300_800
    assert SHAPE.lora(1, "attention") == 1_572_864


def test_counts_of_other_families():
    qwen3 = read_shape(find_config("Qwen/Qwen3-14B"))
    assert qwen3.total == 14_768_307_200
    assert qwen3.qk_norm
    assert not qwen3.qkv_bias
    llama = read_shape(
        {
            "model_type": "llama",
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "vocab_size": 128256,
        }
    )
    assert llama.total == 8_030_261_248  # Llama 3.1 8B
    tied = read_shape({**CONFIG, "tie_word_embeddings": True})
    assert tied.total == SHAPE.total - SHAPE.embedding


def test_a_transformers_config_reads_like_its_fields():
    class Stand:
        def to_dict(self):
            return CONFIG

    assert read_shape(Stand()) == SHAPE


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "mixtral"}, "'mixtral'"),
        ({"model_type": None}, "model_type is missing"),
        ({"hidden_size": None}, "no hidden_size"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"vocab_size": "many"}, "vocab_size is 'many'"),
        ({"num_key_value_heads": 7}, "not a whole multiple"),
        ({"num_attention_heads": 48, "num_key_value_heads": 8}, "give head_dim"),
    ],
)
def test_a_config_that_cannot_be_planned_is_refused(change, words):
    with pytest.raises(KelronError, match=words):
        read_shape({**CONFIG, **change})


def test_a_base_without_config_is_refused(tmp_path):
    with pytest.raises(KelronError, match="no model config for 'nobody/nothing'"):
        find_config("nobody/nothing")
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(KelronError, match="not JSON"):
        find_config(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    assert read_shape(find_config(str(tmp_path))) == SHAPE


def test_four_bit_sizes():
    # 256 blocks of 64: 8192 packed bytes, 256 uint8 scales, 1 float32 scale of scales, offset and two tables.
    assert nf4_bytes(64 * 256) == 8192 + 256 + 4 + 4 + 1024 + 64
    assert nf4_bytes(64 * 256, double_quant=False) == 8192 + 4 * 256 + 64
    assert nf4_bytes(64 * 257) - nf4_bytes(64 * 256) == 32 + 1 + 4


def test_optimizer_states_at_rest():
    assert optimizer_bytes(1000, "paged_adamw_8bit") == 0
    assert optimizer_bytes(1000, "adamw") == 8000
    assert optimizer_bytes(1024, "adamw_8bit") == 2048 + 2 * 4 * 4


def test_what_raises_the_peak():
    whole = Share(SHAPE.layers)
    peak = gpu_memory(SHAPE, Workload(), whole).peak
    gradients = 4 * SHAPE.lora(128, "all-linear") / GIB
    more = {
        "rows": Workload(rows=12),
        "no checkpointing": Workload(checkpointing=False),
        "full loss": Workload(rows=8, loss="full"),
        "dropout": Workload(lora_dropout=0.1),
        "float32 optimizer": Workload(optimizer="adamw"),
        "embedding on the GPU": Workload(embedding="gpu"),
    }
    for name, work in more.items():
        assert gpu_memory(SHAPE, work, whole).peak > peak, name
    last = "backward, last layer"
    once, accumulated = (gpu_memory(SHAPE, Workload(accumulation=n), whole).phases[last] for n in (1, 2))
    assert accumulated["gradients"] - once["gradients"] == pytest.approx(gradients * 47 / 48)


def test_flops_per_token():
    assert flops_per_token(SHAPE, Workload()) == pytest.approx(87.3e9, rel=0.005)
    assert flops_per_token(SHAPE, Workload(checkpointing=False)) == pytest.approx(59.6e9, rel=0.005)


def test_few_tokens_a_pass_cost_more_per_token():
    few, many = Workload(rows=1, row_tokens=128), Workload(rows=8)
    per_token = [pass_seconds(SHAPE, work, Epoch(), plan(SHAPE, work, T4X2).rate) / work.tokens for work in (few, many)]
    assert per_token[0] > 1.3 * per_token[1]


@pytest.mark.parametrize("embedding", ["gpu", "host"])
@pytest.mark.parametrize("gpus", [[14.74], T4X2, [14.74, 10.0, 24.0]])
def test_every_map_is_complete(gpus, embedding):
    for option in plan(SHAPE, Workload(embedding=embedding), gpus).options:
        assert len(option.maps) == (len(gpus) if option.placement == "ddp" else 1)
        for found in option.maps:
            assert missing(found, SHAPE) == []
            assert len(found) == SHAPE.layers + 4
            assert found["model.rotary_emb"] == found["model.norm"] == found["lm_head"]
            assert found["model.embed_tokens"] == ("cpu" if embedding == "host" else found["lm_head"])


def test_maps_say_what_the_placement_is():
    weighed = plan(SHAPE, Workload(embedding="gpu"), T4X2)
    maps = {option.placement: option.maps for option in weighed.options}
    assert [set(found.values()) for found in maps["ddp"]] == [{0}, {1}]
    assert {maps["sandwich"][0][f"model.layers.{index}"] for index in range(48)} == {1}
    assert maps["sandwich"][0]["lm_head"] == 0
    layers = [maps["balanced"][0][f"model.layers.{index}"] for index in range(48)]
    assert layers == sorted(layers)
    assert set(layers) == {0, 1}


def test_a_map_without_rotary_is_named():
    found = dict(plan(SHAPE, Workload(), T4X2).options[0].maps[0])
    del found["model.rotary_emb"]
    assert missing(found, SHAPE) == ["model.rotary_emb"]


def test_spread_keeps_every_layer():
    assert spread(48, [14.74]) == (48,)
    assert sum(spread(47, [14.0, 9.0, 3.0])) == 47
    assert spread(10, [1.0, 0.0]) == (10, 0)


def test_auto_map_is_the_one_transformers_computes():
    # transformers 5.23 on this shape in 4 bits, run with the same limits on the meta device.
    assert auto_layers(SHAPE, (14.74 * GIB, 14.74 * GIB)) == (21, 27)
    assert auto_layers(SHAPE, (10e9, 15e9)) == (21, 27)
    assert auto_layers(SHAPE, (4 * GIB, 15 * GIB)) == (5, 43)


def test_two_t4s_take_a_copy_each():
    weighed = plan(CONFIG, Workload(), T4X2, wanted=2)
    assert weighed.chosen == "ddp"
    assert [option.placement for option in weighed.options] == list(PLACEMENTS)
    assert all(option.fits for option in weighed.options)
    ddp, sandwich, single = (weighed.option(name) for name in ("ddp", "sandwich", "single"))
    assert ddp.busy == (1.0, 1.0)
    assert sum(sandwich.busy) == pytest.approx(1.0)
    assert sandwich.hours > 1.8 * ddp.hours
    assert single.busy == (1.0, 0.0)
    assert ddp.steps == pytest.approx(sandwich.steps / 2, abs=1)
    assert "one GPU works while the others wait" in sandwich.verdict
    assert "idle" in single.verdict
    assert "projection" in weighed.notes[-1]


def test_steps_of_an_epoch():
    unpacked = Epoch(samples=35000, packed=False)
    work = Workload(rows=2, row_tokens=1024, accumulation=4)
    assert plan(SHAPE, work, [80.0], epoch=unpacked).best.steps == 4375  # 35,000 / (2 x 4)
    assert plan(SHAPE, work, [80.0, 80.0], epoch=unpacked).best.steps == 2188


def test_a_copy_that_does_not_fit_gives_way_to_the_sandwich():
    weighed = plan(CONFIG, Workload(rows=12), T4X2)
    assert weighed.chosen == "sandwich"
    assert not weighed.option("ddp").fits
    assert "5,120 tokens a pass would fit" in weighed.option("ddp").verdict
    assert "no faster placement does" in weighed.best.verdict
    told = "cannot run sandwich: set train.rows_per_pass=10 at most (ddp)"
    assert any(told in note for note in weighed.notes)
    fitting = plan(CONFIG, Workload(rows=weighed.option("ddp").tokens_that_fit // 512), T4X2)
    assert fitting.chosen == "ddp"
    assert not plan(CONFIG, Workload(rows=fitting.work.rows + 1), T4X2).option("ddp").fits


def test_one_gpu_where_two_are_wanted():
    weighed = plan(CONFIG, Workload(), [14.74], wanted=2)
    assert weighed.chosen == "single"
    assert [option.placement for option in weighed.options] == ["single"]
    assert any("made for 2 GPUs and there is 1" in note and "2.0x the time" in note for note in weighed.notes)


def test_other_jobs_on_a_gpu():
    weighed = plan(CONFIG, Workload(), T4X2, used=[3.0, 0.0])
    assert weighed.chosen == "sandwich"
    assert weighed.option("ddp").tightest.gpu == 0
    assert weighed.option("single").gpus[0].gpu == 1
    assert any(note.startswith("GPU 0: 3.00 GiB are in use by other jobs") for note in weighed.notes)
    free = plan(CONFIG, Workload(), T4X2)
    assert weighed.option("ddp").margin == pytest.approx(free.option("ddp").margin - 3.0)


def test_nothing_fits():
    weighed = plan(CONFIG, Workload(), [4.0, 4.0])
    assert weighed.chosen is None
    assert weighed.best is None
    assert any(note.startswith("Nothing fits") for note in weighed.notes)
    assert plan_table(weighed).startswith("No placement fits.")
    assert "no placement fits" in plan_svg(weighed)


def test_bad_gpus_are_refused():
    assert parse_gpus("2x14.74") == T4X2
    assert parse_gpus("14.74, 1×24") == [14.74, 24.0]
    for text in ("", "2x", "x14", "0x14", "two", "2x-1", "1xnan", "1xinf", "999x14"):
        with pytest.raises(KelronError, match="--gpus"):
            parse_gpus(text)
    with pytest.raises(KelronError, match="no GPU"):
        plan(CONFIG, Workload(), [])
    with pytest.raises(KelronError, match="there are 2"):
        plan(CONFIG, Workload(), T4X2, used=[1.0])
    with pytest.raises(KelronError, match="GPU 1"):
        plan(CONFIG, Workload(), T4X2, used=[0.0, 20.0])


@pytest.mark.parametrize(
    "bad", [{"rows": 0}, {"optimizer": "sgd"}, {"embedding": "disk"}, {"supervised": 0.0}, {"adapter": "unsloth"}]
)
def test_a_workload_that_makes_no_sense_is_refused(bad):
    with pytest.raises(KelronError, match=next(iter(bad))):
        Workload(**bad)


def test_a_preset_becomes_a_workload():
    config = load_preset("kelron-14b-t4x2")
    work = workload(config, supervised=0.4)
    assert (work.lora_rank, work.lora_dropout, work.supervised) == (config.lora.r, config.lora.dropout, 0.4)
    assert work.optimizer == "paged_adamw_8bit"
    assert workload(load_preset("tiny-cpu")).optimizer == "adamw"


def test_the_stack_adds_up_and_is_drawn_whole():
    weighed = plan(CONFIG, replace(STOCK, rows=1), T4X2, used=[0.5, 0.0])
    drawn = {part for _, _, parts in GROUPS.values() for part in parts}
    for option in weighed.options:
        for gpu in option.gpus:
            assert sum(gpu.stack.values()) == pytest.approx(gpu.used + gpu.needed)
            assert {part for phase in gpu.phases.values() for part in phase} | set(gpu.stack) <= drawn


def test_picture_table_and_json_tell_the_same():
    weighed = plan(CONFIG, Workload(), T4X2)
    picture = ElementTree.fromstring(plan_svg(weighed))
    words = [element.text for element in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert "14.74 GiB" in words
    assert words.count("GPU 1") == 3  # ddp, sandwich, balanced
    table = plan_table(weighed)
    assert table.startswith("Use ddp: fits with")
    told = json.loads(json.dumps(plan_dict(weighed)))
    assert told["chosen"] == "ddp"
    for entry in told["placements"]:
        assert entry["verdict"] in table
        assert f"{entry['margin_gib']:+.2f}" in table
        assert len(entry["device_maps"][0]) == 52
        for gpu in entry["gpus"]:
            for phase, parts in gpu["parts_gib"].items():
                assert sum(parts.values()) == pytest.approx(gpu["phases_gib"][phase], abs=0.01)
    for gpu in weighed.best.gpus:
        for phase, parts in gpu.phases.items():
            assert phase in table
            assert all(f"{part:<16}" in table for part in parts)  # the loss chunk too, which is not at the peak


def test_planning_needs_neither_torch_nor_transformers():
    heavy = "{'torch', 'transformers'} & {*sys.modules}"
    code = f"import sys, kelron_lib.placement as p; p.attempts(); sys.exit(bool({heavy}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
