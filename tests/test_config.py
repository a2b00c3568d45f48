import json

import pytest

from kelron_lib.config import (
    PRESETS,
    RunConfig,
    apply_overrides,
    config_hash,
    from_dict,
    load_preset,
    resolve,
    to_dict,
    to_json,
)
from kelron_lib.errors import KelronError


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_presets_survive_a_json_round_trip(preset):
    config = load_preset(preset)
    assert from_dict(json.loads(to_json(config))) == config
    assert config.preset == preset


def test_the_14b_preset_has_the_second_recipe():
    config = load_preset("kelron-14b-t4x2")
    assert (config.lora.r, config.lora.alpha) == (128, 32)
    assert set(config.model.stop_token_ids) == {151645, 151643}
    assert (config.train.save_steps, config.store.keep) == (500, 2)
    assert config.data.identity_share == 0.30


def test_overrides_are_typed_and_checked_again():
    config = resolve("tiny-cpu", ["train.learning_rate=2e-4", "data.languages=ko, ja", "train.checkpointing=true"])
    assert config.train.learning_rate == 2e-4
    assert config.data.languages == ("ko", "ja")
    assert config.train.checkpointing is True


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("trian.epochs=1", "Did you mean train"),
        ("train.learnin_rate=1", "Did you mean train.learning_rate"),
        ("train.epochs=soon", "takes a number, not 'soon'"),
        ("train.epochs=nan", "finite"),
        ("train.epochs=inf", "finite"),
        ("train.rows_per_pass=1.5", "takes a whole number, not '1.5'"),
        ("train.checkpointing=yes", "true or false"),
        ("train.epochs", "section.field=value"),
        ("preset=other", "section.field=value"),
        ("lora.r=0", "lora.r"),
        ("data.languages=ko,fr", "fr"),
        ("data.languages=", "empty"),
        ("session.reserve_seconds=99999999", "reserve"),
        ("train.optimizer=paged_adamw_8bit", "needs CUDA"),
        ("model.dtype=bfloat16", "float16"),
        ("evaluate.max_new_tokens=5000", "max_tokens"),
        ("data.max_tokens=257", "has to hold the longest sample"),
        ("train.row_tokens=128", "train.row_tokens is 128 and data.max_tokens 256"),
        ("train.passes_per_step=0", "at least 1"),
        ("model.head=int8", "keep or nf4"),
        ("model.embedding=disk", "host or device"),
        ("session.processes=-1", "processes is -1"),
        ("session.processes=3", "processes is 3 and train.passes_per_step 1"),
        ("session.progress_seconds=-1", "progress_seconds is -1"),
        ("train.max_grad_norm=-1", "max_grad_norm is -1"),
        ("train.max_grad_norm=0", "max_grad_norm is 0"),
        ("train.weight_decay=-1", "weight_decay is -1"),
        ("train.weight_decay=1", "weight_decay is 1"),
        ("data.persona=", "persona is empty"),
        ("data.languages=ko,ko", "names one twice"),
        ("data.identity_share=0", "identity_share is 0"),
        ("data.identity_share=0.95", "business rows are left"),
        ("store.keep=1", "at least 2"),
        ("train.learning_rate=-1", "^train.learning_rate is -1: it has to be above 0 and below 1$"),
        ("train.weight_decay=2", "^train.weight_decay is 2: it has to be at least 0 and below 1$"),
        ("data.rows=5", "^data.rows is 5: it has to be at least 60, which three splits take$"),
        ("session.budget_seconds=-2", "^session.budget_seconds is -2: it has to be above 0$"),
        ("lora.dropout=1", "^lora.dropout is 1: it has to be at least 0 and below 1$"),
        ("evaluate.batch_size=0", "^evaluate.batch_size is 0: it has to be at least 1$"),
    ],
)
def test_a_bad_override_is_one_clear_line(override, words):
    with pytest.raises(KelronError, match=words) as caught:
        apply_overrides(RunConfig(), [override])
    assert "\n" not in str(caught.value)


def test_an_unknown_preset_names_the_nearest():
    with pytest.raises(KelronError, match="Did you mean tiny-cpu"):
        load_preset("tiny-cpus")


def test_the_hash_covers_what_decides_the_adapter_and_nothing_else():
    config = load_preset("tiny-cpu")
    same = apply_overrides(config, ["session.budget_seconds=100", "store.url=elsewhere", "evaluate.batch_size=8"])
    assert config_hash(same) == config_hash(config)
    for override in ("train.seed=2", "lora.r=8", "data.rows=900", "model.base=x"):
        assert config_hash(apply_overrides(config, [override])) != config_hash(config)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.update(trian={}), "Did you mean train"),
        (lambda d: d["train"].update(epoch=1), "Did you mean epochs"),
        (lambda d: d["train"].update(epochs="two"), "train.epochs takes a number, not 'two'"),
        (lambda d: d["data"].update(languages="ko"), "data.languages takes a list, not 'ko'"),
        (lambda d: d.update(train=3), "not an object"),
    ],
)
def test_a_saved_config_with_a_mistake_is_refused(change, words):
    values = to_dict(load_preset("tiny-cpu"))
    change(values)
    with pytest.raises(KelronError, match=words):
        from_dict(values)
