"""The fused step against PEFT's and transformers' own, on random 4-bit models in float32."""

import contextlib
from types import SimpleNamespace

import pytest
import torch
from engine_models import KINDS, SHAPE, base, gradients, peft_model, relative, samples, twin, with_lora, worst
from transformers import BitsAndBytesConfig

from kelron_lib.decoding import Batch, room_for
from kelron_lib.engine import lora as lora_module
from kelron_lib.engine.decode import decoding_attention
from kelron_lib.engine.inference import speed_up_inference
from kelron_lib.engine.layers import speed_up_layers
from kelron_lib.engine.lora import fuse_lora
from kelron_lib.engine.packing import pack, supervised_tokens
from kelron_lib.engine.prepare import causal_lm, forward_loss, place_ends, prepare, quantise_head
from kelron_lib.engine.watch import watch_finite
from kelron_lib.errors import KelronError


def rows_of(made, per_row=3):
    return [made[start : start + per_row] for start in range(0, len(made), per_row)]


def packed(made, per_row=3):
    return pack(rows_of(made, per_row), row_tokens=per_row * 24, pad_id=0)


def alone(model, sample):
    """Summed loss of one sample by the library's own full-logits path."""
    ids, labels = torch.tensor([sample["input_ids"]]), torch.tensor([sample["labels"]])
    logits = model(input_ids=ids).logits[:, :-1].flatten(0, 1).float()
    return torch.nn.functional.cross_entropy(logits, labels[:, 1:].flatten(), reduction="sum")


def reference_step(model, made):
    """Loss and gradients of one step over separate, unpadded samples."""
    count = sum(label != -100 for sample in made for label in sample["labels"][1:])
    total = sum(alone(model, sample) for sample in made) / count
    total.backward()
    return total.item(), gradients(model), count


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("where", ["self_attn.q_proj", "mlp.down_proj"])
def test_fused_lora_is_pefts(dropout, where):
    own = peft_model(dropout=dropout)
    fused = twin(own)
    assert fuse_lora(fused) == 14
    found = []
    for model in (own, fused):
        layer = model.get_base_model().model.layers[1].get_submodule(where)
        torch.manual_seed(5)
        x = torch.randn(3, 7, layer.in_features, requires_grad=True)
        output = layer(x)
        (output * torch.randn(output.shape)).sum().backward()
        found.append({"output": output.detach(), "x": x.grad, **gradients(model)})
    assert worst(found[1], found[0]) < 1e-6


def test_dropout_draws_the_same_random_numbers():
    own = peft_model(dropout=0.3)
    fused = twin(own)
    fuse_lora(fused)
    after = []
    for model in (own, fused):
        torch.manual_seed(5)
        model.get_base_model().model.layers[0].mlp.up_proj(torch.randn(2, 5, 64))
        after.append(torch.rand(4))
    assert torch.equal(*after)


def test_generation_evaluation_and_a_switched_off_adapter_are_pefts():
    own = peft_model(dropout=0.3)
    fused = twin(own)
    fuse_lora(fused)
    ids = torch.randint(0, 160, (2, 9))
    for mode in (lambda model: contextlib.nullcontext(), lambda model: model.disable_adapter()):
        answers = []
        for model in (own.eval(), fused.eval()):
            with torch.no_grad(), mode(model):
                answers.append(model(input_ids=ids).logits)
        assert torch.equal(*answers)
    with fused.disable_adapter():
        assert not fused(input_ids=ids).logits.requires_grad


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_made_ready_to_answer_says_what_the_libraries_own_says(kind):
    own = peft_model(kind, dropout=0.3).eval()
    fast = twin(own).eval()
    assert speed_up_inference(fast) == "torch: no CUDA device"
    ids = torch.randint(0, 160, (2, 9))
    mask, one = torch.tensor([[0] * 3 + [1] * 6, [1] * 9]), torch.randint(0, 160, (2, 1))
    for mode in (lambda model: contextlib.nullcontext(), lambda model: model.disable_adapter()):
        found = []
        for model in (own, fast):
            with torch.inference_mode(), mode(model):
                read = model(input_ids=ids, attention_mask=mask, use_cache=True)
                wider = torch.cat([mask, torch.ones(2, 1, dtype=torch.long)], dim=1)
                more = model(input_ids=one, attention_mask=wider, past_key_values=read.past_key_values)
                found.append(torch.cat([read.logits[:, -1:], more.logits]))
        assert relative(*found) < 1e-5
    # Where a graph is recorded, the libraries' own forwards, to the bit.
    recorded = [model(input_ids=ids, labels=ids) for model in (own, fast)]
    assert all(told.loss.requires_grad for told in recorded)
    assert torch.equal(*(told.logits for told in recorded))


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_made_ready_to_answer_does_without_the_libraries_own_layers(kind):
    model = peft_model(kind).eval()
    speed_up_inference(model)
    swapped = {name: module for name, module in model.named_modules() if hasattr(module, "_library_forward")}
    called = []
    for name, module in swapped.items():
        module._library_forward = lambda *args, name=name, own=module._library_forward, **more: (
            called.append(name),
            own(*args, **more),
        )[1]
    lora = {name for name, module in swapped.items() if hasattr(module, "lora_A")}
    norms = 2 * 2 + 1 + (2 * 2 if kind == "qwen3" else 0)
    assert (len(lora), len(swapped)) == (2 * 7, 2 * 7 + 2 + 2 + norms)
    ids = torch.randint(0, 160, (2, 9))
    with torch.inference_mode():
        model(input_ids=ids)
        assert called == []
        with model.disable_adapter():
            model(input_ids=ids)
    assert set(called) == lora


def test_answering_keeps_the_factors_in_the_dtype_that_the_base_computes_in():
    model = peft_model()
    for module in model.modules():
        if hasattr(module, "lora_A"):
            module.base_layer.compute_dtype = torch.bfloat16
    speed_up_inference(model)
    dtypes = {weights.dtype for name, weights in model.named_parameters() if "lora_" in name}
    assert dtypes == {torch.bfloat16}


def test_fusing_without_4bit_layers_is_refused():
    with pytest.raises(KelronError, match="load it in 4 bits"):
        fuse_lora(torch.nn.Linear(2, 2))


def test_evaluation_does_not_stop_training_gradients():
    model = prepare(peft_model())
    made = samples()
    before = forward_loss(model, packed(made))
    before.backward()
    expected = gradients(model)
    model.zero_grad()
    with torch.no_grad():
        model.eval()(input_ids=torch.randint(0, 160, (2, 9)))
    forward_loss(model.train(), packed(made)).backward()
    assert worst(gradients(model), expected) == 0.0


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", list(KINDS))
def test_packed_step_is_the_step_over_separate_samples(kind, checkpointing):
    own = peft_model(kind)
    ready = prepare(twin(own), checkpointing=checkpointing)
    made = samples()
    loss, expected, count = reference_step(own, made)
    batch = packed(made)
    assert supervised_tokens(batch) == count
    found = forward_loss(ready, batch, count)
    found.backward()
    assert found.item() == pytest.approx(loss, rel=1e-6)
    assert worst(gradients(ready), expected) < 1e-5


def test_a_sample_is_the_same_whatever_shares_its_row():
    ready = prepare(peft_model())
    made = samples(3)
    other = samples(3, seed=8)
    hidden = []
    for rest in (made[1:], other[1:]):
        batch = pack([[made[0], *rest]], row_tokens=72, pad_id=0)
        batch["labels"][0, len(made[0]["input_ids"]) :] = -100
        hidden.append(forward_loss(ready, batch, 1.0).item())
    assert hidden[0] == hidden[1]


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_checkpointing_and_fusion_change_no_gradient(dropout):
    made = packed(samples())
    found = []
    for fused, checkpointing in ((False, False), (False, True), (True, True), (True, False)):
        model = prepare(peft_model(dropout=dropout), fused=fused, checkpointing=checkpointing)
        torch.manual_seed(7)
        forward_loss(model, made).backward()
        found.append(gradients(model))
    assert max(worst(other, found[0]) for other in found[1:]) < 1e-5


def test_accumulated_passes_are_one_big_batch():
    made = samples(12)
    one, several = prepare(peft_model()), prepare(peft_model())
    forward_loss(one, packed(made)).backward()
    parts = [packed(made[:2]), packed(made[2:9]), packed(made[9:])]
    count = sum(supervised_tokens(part) for part in parts)
    losses = []
    for part in parts:
        loss = forward_loss(several, part, count)
        loss.backward()
        losses.append(loss.item())
    assert sum(losses) == pytest.approx(forward_loss(one, packed(made)).item(), rel=1e-6)
    assert worst(gradients(several), gradients(one)) < 1e-5


def test_averaged_over_two_processes_is_one_big_batch():
    made = samples(12)
    one = prepare(peft_model())
    forward_loss(one, packed(made)).backward()
    shares = [packed(made[:5]), packed(made[5:])]
    count = sum(supervised_tokens(share) for share in shares)
    found = []
    for share in shares:
        model = prepare(peft_model())
        forward_loss(model, share, count / 2).backward()
        found.append(gradients(model))
    mean = {name: (found[0][name] + found[1][name]) / 2 for name in found[0]}
    assert worst(mean, gradients(one)) < 1e-5


def test_faster_layers_alone_change_nothing():
    lm = base("qwen3")
    ids = torch.randint(0, 160, (2, 9))
    with torch.no_grad():
        expected = lm(input_ids=ids).logits
        assert speed_up_layers(lm, blocks=False) == 9
        assert relative(lm(input_ids=ids).logits, expected) < 1e-6


def test_a_prepared_model_still_generates():
    own = peft_model()
    ready = prepare(twin(own))
    ids = torch.randint(0, 160, (2, 6))
    mask = torch.ones_like(ids)
    mask[0, :2] = 0
    answers = []
    for model in (own.eval(), ready.eval()):
        with torch.no_grad():
            answers.append(model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=5, do_sample=False))
    assert torch.equal(*answers)


def test_a_4bit_head_gives_nearly_the_same_loss_and_its_slices_the_same():
    made = packed(samples())
    model = peft_model()
    kept = forward_loss(prepare(twin(model)), made).item()
    small = prepare(model, head="nf4")
    loss = forward_loss(small, made)
    assert loss.item() == pytest.approx(kept, rel=0.05)
    assert loss.item() != kept


def test_tied_head_is_not_put_into_4_bits():
    with pytest.raises(KelronError, match="shares the embedding"):
        quantise_head(base(tie_word_embeddings=True))


def test_a_tied_embedding_that_should_rest_on_the_host_is_refused_with_the_setting_that_helps():
    embedding = torch.nn.Embedding(160, 8, device="meta")  # no host: the refusal comes before anything is moved
    tied = SimpleNamespace(get_input_embeddings=lambda: embedding, lm_head=SimpleNamespace(weight=embedding.weight))
    with pytest.raises(KelronError, match=r"shares the embedding's table.*: use --set model\.embedding=device$"):
        place_ends(tied, embedding="host", head="keep")
    assert place_ends(tied, embedding="device", head="keep") is tied


def test_packed_step_with_tied_weights():
    own = peft_model(tie_word_embeddings=True)
    ready = prepare(twin(own))
    loss, expected, count = reference_step(own, samples())
    found = forward_loss(ready, packed(samples()), count)
    found.backward()
    assert found.item() == pytest.approx(loss, rel=1e-6)
    assert worst(gradients(ready), expected) < 1e-5


def test_another_kind_of_model_is_refused():
    with pytest.raises(KelronError, match="not built like Qwen2"):
        prepare(torch.nn.Linear(2, 2))


@pytest.mark.parametrize("setting", [{"embedding": "disk"}, {"head": "int8"}])
def test_unknown_settings_are_refused(setting):
    with pytest.raises(KelronError, match=r"not '(disk|int8)'"):
        prepare(peft_model(), **setting)


def test_a_sample_beyond_the_window_is_refused():
    model = prepare(
        with_lora(base(use_sliding_window=True, sliding_window=8, max_window_layers=0)),
    )
    with pytest.raises(KelronError, match="attention window of 8"):
        forward_loss(model, packed(samples()))


@pytest.mark.parametrize(("value", "word"), [(float("nan"), "NaN"), (float("inf"), "infinity")])
def test_watch_names_the_first_layer_that_breaks(value, word):
    model = prepare(peft_model())
    watch = watch_finite(model)
    forward_loss(model, packed(samples())).backward()
    largest = watch.check()
    assert list(largest) == ["layer 0 (Qwen2DecoderLayer)", "layer 1 (Qwen2DecoderLayer)"]
    assert all(0 < value < 1e4 for value in largest.values())
    broken = model.get_base_model().model.layers[1].mlp.down_proj.lora_B["default"].weight
    with torch.no_grad():
        broken[0, 0] = value
    forward_loss(model, packed(samples()))
    with pytest.raises(KelronError, match=rf"layer 1 \(Qwen2DecoderLayer\) gave ({word}|NaN)"):
        watch.check()
    watch.close()


def test_the_last_product_of_a_checkpointed_layer_is_not_made_again(monkeypatch):
    counted = []
    original = lora_module.dequantise
    monkeypatch.setattr(lora_module, "dequantise", lambda *given: counted.append(1) or original(*given))
    forward_loss(prepare(peft_model()), packed(samples())).backward()
    forward, again = 2 * 7, 2 * 6
    backward = 2 * 7 - 3  # nobody wants the gradient of the embeddings
    assert len(counted) == forward + again + backward


def moved(model, dtype, device):
    """The model on `device`, everything but the adapter in `dtype`."""
    for name, parameter in model.named_parameters():
        if "lora_" not in name and parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)
    for module in model.modules():
        if hasattr(module, "compute_dtype"):
            module.compute_dtype = dtype
    return model.to(device)


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize(
    ("device", "attention"),
    [
        ("cpu", "kelron_sdpa"),
        pytest.param("cuda", "kelron_sdpa", marks=pytest.mark.gpu),
        pytest.param("cuda", "sdpa", marks=pytest.mark.gpu),
    ],
)
def test_packed_half_precision_agrees_with_separate_samples_in_float32(kind, device, attention):
    made = samples(24)
    loss, expected, count = reference_step(peft_model(kind), made)
    model = prepare(moved(peft_model(kind), torch.float16, device), attention=attention)
    found = forward_loss(model, packed(made), count)
    (found * 1024).backward()
    assert found.item() == pytest.approx(loss, rel=1e-3)
    scaled = {name: gradient.cpu() / 1024 for name, gradient in gradients(model).items()}
    assert worst(scaled, expected) < 1e-2


@pytest.mark.gpu
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_on_cuda_in_float32_fused_lora_is_pefts(dropout):
    own = moved(peft_model(dropout=dropout), torch.float32, "cuda")
    fused = twin(own)
    fuse_lora(fused)
    found = []
    for model in (own, fused):
        layer = model.get_base_model().model.layers[1].mlp.down_proj
        torch.manual_seed(5)
        x = torch.randn(3, 7, layer.in_features, device="cuda", requires_grad=True)
        output = layer(x)
        (output * torch.randn(output.shape, device="cuda")).sum().backward()
        found.append({"output": output.detach(), "x": x.grad, **gradients(model)})
    assert worst(found[1], found[0]) < 1e-5


@pytest.mark.gpu
def test_on_cuda_a_prepared_model_generates_with_its_embedding_in_host_memory():
    own = moved(peft_model(), torch.float16, "cuda").eval()
    ready = prepare(twin(own)).eval()
    assert ready.get_input_embeddings().weight.device.type == "cpu"
    ids = torch.randint(0, 160, (2, 6), device="cuda")
    answers = [model.generate(input_ids=ids, max_new_tokens=5, do_sample=False) for model in (own, ready)]
    assert torch.equal(*answers)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("kernels", ["torch", "triton"])
def test_on_cuda_a_model_made_ready_to_answer_decodes_in_half_precision_as_pefts_does_in_float32(kind, kernels):
    own = peft_model(kind).eval()
    fast = moved(twin(own), torch.float16, "cuda").eval()
    place_ends(causal_lm(fast), embedding="host", head="keep")
    assert speed_up_inference(fast, kernels).startswith(kernels)
    prompts = [[5, 9, 77, 3, 141], [8, 1]]
    for mode in (lambda model: contextlib.nullcontext(), lambda model: model.disable_adapter()):
        found = []
        for model in (own, fast):
            with mode(model), decoding_attention(model):
                batch = Batch(model, prompts)
                first = batch.logits.float().cpu()
                batch.push([12, 13])
                found.append(torch.cat([first, batch.logits.float().cpu()]))
        assert relative(*found) < 1e-2


@pytest.mark.gpu
def test_on_cuda_a_model_that_shares_its_gpu_with_a_cap_is_asked_less_at_once():
    model = moved(peft_model(), torch.float16, "cuda")
    whole = room_for(model, 64)(32)
    torch.cuda.set_per_process_memory_fraction(0.5)
    try:
        assert 0.4 < room_for(model, 64)(32) / whole < 0.6
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_a_checkpoint_saved_in_4_bits_is_loaded_and_trained(tmp_path):
    torch.manual_seed(0)
    configuration, model, _ = KINDS["qwen2"]
    model(configuration(**SHAPE)).save_pretrained(tmp_path / "whole")
    quantisation = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype="float32"
    )
    first = model.from_pretrained(tmp_path / "whole", quantization_config=quantisation, dtype=torch.float32)
    first.save_pretrained(tmp_path / "small")
    second = model.from_pretrained(tmp_path / "small", dtype=torch.float32)
    assert hasattr(second.model.layers[0].mlp.up_proj.weight, "quant_state")
    losses, found = [], []
    for base_model in (first, second):
        ready = prepare(with_lora(base_model))
        loss = forward_loss(ready, packed(samples()))
        loss.backward()
        losses.append(loss.item())
        found.append(gradients(ready))
    assert losses[0] == losses[1]
    assert worst(found[1], found[0]) == 0.0
