"""Generation: batches agree with single prompts, streams are whole characters, errors are plain."""

from __future__ import annotations

import threading
from contextlib import closing
from types import SimpleNamespace

import pytest
import tiny_models
import torch
from torch.nn.functional import scaled_dot_product_attention

from kelron_lib import decoding, generate
from kelron_lib.engine.decode import decode_attention
from kelron_lib.errors import KelronError
from kelron_lib.generate import Answer, TextStream, base_only, generate_answers, stop_token_ids, stream_answer
from kelron_lib.prompts import encode_prompt

MIXED = "네, 부장님! 회의를 금요일로 옮기겠습니다. ケルロンです。 👩‍💻🇰🇷 done. 긴급: 확인 바랍니다 🙏"


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    with tiny_models.one_thread():
        yield


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_models.tokenizer()


@pytest.fixture(scope="module")
def model(tokenizer):
    return tiny_models.random_model(len(tokenizer))


@pytest.fixture(scope="module")
def stops(tokenizer):
    return stop_token_ids(tokenizer)


def prompt(text, system=""):
    return [{"role": "system", "content": system}, {"role": "user", "content": text}]


PROMPTS = [
    prompt(text) for text in ("a", "안녕하세요?", "Please move the meeting.", "b", "誰ですか", "x" * 40, "보고서")
]


def answers(model, tokenizer, stops, prompts=PROMPTS, **changes):
    settings = {"max_new_tokens": 24, "batch_size": 3, "stop_token_ids": stops} | changes
    return generate_answers(model, tokenizer, prompts, **settings)


def streamed(model, tokenizer, stops, messages, **changes):
    """All pieces and the returned Answer."""
    settings = {"max_new_tokens": 24, "stop_token_ids": stops} | changes
    stream, pieces = stream_answer(model, tokenizer, messages, **settings), []
    while True:
        try:
            pieces.append(next(stream))
        except StopIteration as end:
            return pieces, end.value


def test_batches_equal_single_prompts_in_the_order_given(model, tokenizer, stops):
    single = [answers(model, tokenizer, stops, [p], batch_size=1)[0] for p in PROMPTS]
    assert len({a.text for a in single}) > 4, "the random model must answer differently, or order proves nothing"
    for batch_size in (2, 3, 16):
        assert answers(model, tokenizer, stops, batch_size=batch_size) == single


def test_a_gpu_is_given_as_many_rows_as_have_room_beside_the_weights(model, monkeypatch):
    assert decoding.room_for(model, 96)(40) > 10**9, "where memory is the machine's, the batch size alone says"
    config, gib = model.config, 2**30
    monkeypatch.setattr(decoding, "_device_of", lambda model: torch.device("cuda", 0))
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda device: 0.5)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=2 * gib))
    room = decoding.room_for(model, 96)
    cached = 2 * config.num_hidden_layers * config.num_key_value_heads * 4 * config.hidden_size
    cached //= config.num_attention_heads
    assert room(40) * 136 * cached < 0.9 * gib < 4 * room(40) * 136 * cached
    assert room(1) > room(40) > room(400) > 1
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=1))
    assert decoding.room_for(model, 96)(40) == 1, "one is always tried"


def test_the_room_is_what_the_cap_leaves_beside_the_weights(monkeypatch):
    """10,000 MB of which half may be used: nine tenths of that, less 2,000 MB of weights on that GPU, are 2,500 MB."""
    mb = 10**6
    gpu, elsewhere = torch.device("cuda", 0), torch.device("cuda", 1)
    held = [(1500 * mb, gpu), (500 * mb, gpu), (9000 * mb, elsewhere), (9000 * mb, torch.device("cpu"))]
    model = SimpleNamespace(
        config=SimpleNamespace(
            hidden_size=1000,
            intermediate_size=3000,
            num_attention_heads=10,
            num_key_value_heads=2,
            num_hidden_layers=25,
        ),
        dtype=torch.float16,
        parameters=lambda: [SimpleNamespace(nbytes=nbytes, device=device) for nbytes, device in held],
    )
    monkeypatch.setattr(decoding, "_device_of", lambda model: gpu)
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda device: 0.5)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=10_000 * mb))
    cached = 2 * 25 * 2 * 100 * 2  # bytes a token: keys and values, layers, heads, their size, fp16
    reading = (4 * 3000 + 8 * 1000) * 2
    room = decoding.room_for(model, 900)
    assert room(100) == 2500 * mb // (1000 * cached + 100 * reading)
    assert room(1100) == 2500 * mb // (2000 * cached + 1100 * reading)
    model.config.head_dim = 200
    assert decoding.room_for(model, 900)(100) == 2500 * mb // (2000 * cached + 100 * reading)


def test_as_many_are_answered_at_once_as_have_room_and_more_when_the_long_ones_are_done(
    model, tokenizer, stops, monkeypatch
):
    seen, real = [], decoding.Batch

    class Watched(real):
        def __init__(self, model, prompts):
            seen.append(len(prompts))
            super().__init__(model, prompts)

    monkeypatch.setattr(decoding, "Batch", Watched)
    longest = max(len(encode_prompt(tokenizer, messages)) for messages in PROMPTS)
    monkeypatch.setattr(decoding, "room_for", lambda model, new: lambda tokens: 1 if tokens == longest else 6)
    found = answers(model, tokenizer, stops, batch_size=16)
    assert seen == [1, 6]
    assert found == [answers(model, tokenizer, stops, [messages])[0] for messages in PROMPTS]


def test_rows_that_stop_leave_the_batch_and_the_others_go_on(model, tokenizer, stops):
    """Stop tokens that the random model does emit, at different steps in different rows."""
    encoded = [generate.encode_prompt(tokenizer, messages) for messages in PROMPTS]
    said = generate.generate_ids(model, encoded, max_new_tokens=24, batch_size=1, stop_token_ids=())
    stop = [ids[3 * row + 1] for row, ids in enumerate(said[:5])]
    single = [answers(model, tokenizer, stop, [p], batch_size=1)[0] for p in PROMPTS]
    assert len({a.tokens for a in single}) > 2
    assert answers(model, tokenizer, stop, batch_size=len(PROMPTS)) == single
    assert any(a.stopped for a in single)


def test_prompts_that_take_the_place_of_ended_ones_are_answered_as_if_alone(model, tokenizer, stops, monkeypatch):
    """More prompts than rows, in either order of their lengths, so that the cache and the newcomers are widened."""
    asked = [prompt("x" * (3 + 37 * (i * 7 % 5)) + str(i)) for i in range(17)]
    encoded = [generate.encode_prompt(tokenizer, messages) for messages in asked]
    settings = {"max_new_tokens": 24, "stop_token_ids": range(0, 320, 9)}
    alone = [generate.generate_ids(model, [ids], batch_size=1, **settings)[0] for ids in encoded]
    assert len({len(ids) for ids in alone}) > 5
    joined, real = [], decoding.Batch.join
    monkeypatch.setattr(decoding.Batch, "join", lambda *args: joined.append(args[2]) or real(*args))
    assert generate.generate_ids(model, encoded, batch_size=4, **settings) == alone
    assert len(joined) > 3
    assert joined != sorted(joined, reverse=True) or joined[-1] < joined[0], "columns that no row needs must go"
    found: dict[int, list[int]] = {}
    shortest_first = sorted(encoded, key=len)
    decoding.greedy(model, shortest_first, rows=4, max_new_tokens=24, stops={*range(0, 320, 9)}, done=found.__setitem__)
    assert [found[i] for i in range(17)] == [alone[encoded.index(ids)] for ids in shortest_first]
    monkeypatch.setattr(decoding.Batch, "takes_others", False)
    joined.clear()
    assert generate.generate_ids(model, encoded, batch_size=4, **settings) == alone
    assert joined == []


def test_an_embedding_that_rests_on_the_host_changes_no_answer(model, tokenizer, stops):
    from kelron_lib.engine.prepare import HostEmbedding

    host = tiny_models.random_model(len(tokenizer))
    host.set_input_embeddings(HostEmbedding(host.get_input_embeddings().weight, torch.device("cpu")))
    assert answers(host, tokenizer, stops) == answers(model, tokenizer, stops)


@pytest.mark.parametrize("padded", [True, False])
def test_a_steps_attention_is_transformers_own(padded):
    """Eight query heads of size 16 over two key and value heads, eleven tokens, in float64."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    source = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(3, heads, tokens, 16, generator=source, dtype=torch.float64)
        for heads, tokens in ((8, 1), (2, 11), (2, 11))
    )
    mask = (torch.arange(11) >= torch.tensor([[0], [4], [7]]))[:, None, None] if padded else None
    module = torch.nn.Module()
    module.num_key_value_groups = 4
    module.is_causal = True
    expected, _ = sdpa_attention_forward(module, query, key, value, mask, scaling=0.3)
    found, _ = decode_attention(module, query, key, value, mask, scaling=0.3)
    assert found.shape == (3, 1, 8, 16)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_generation_decodes_by_its_own_attention_and_leaves_the_models(model, tokenizer, stops, monkeypatch):
    calls = []

    def attend(*args, **more):
        calls.append(tuple(args[0].shape))
        assert not torch.backends.cuda.cudnn_sdp_enabled()
        return scaled_dot_product_attention(*args, **more)

    monkeypatch.setattr("kelron_lib.engine.decode.scaled_dot_product_attention", attend)
    answers(model, tokenizer, stops, [PROMPTS[0]], max_new_tokens=4)
    assert calls == [(1, 1, 2, 8)] * 6, "two layers, three steps: two query heads of one key and value head"
    assert model.config._attn_implementation == "sdpa"
    assert torch.backends.cuda.cudnn_sdp_enabled()


def test_agrees_with_transformers_own_greedy_search(model, tokenizer, stops):
    ids = generate.encode_prompt(tokenizer, PROMPTS[1])
    with torch.no_grad():
        reference = model.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids)),
            do_sample=False,
            max_new_tokens=24,
            pad_token_id=0,
        )
    found = generate.generate_ids(model, [ids], max_new_tokens=24, batch_size=1, stop_token_ids=())
    assert found == [reference[0, len(ids) :].tolist()]


def test_stopped_is_true_only_at_a_stop_token(tokenizer, stops):
    ending = tiny_models.ScriptedModel(tokenizer, ["네."])
    tokens = len(tokenizer("네.", add_special_tokens=False)["input_ids"])
    assert answers(ending, tokenizer, stops, [prompt("?")]) == [Answer("네.", True, tokens + 1)]
    assert answers(ending, tokenizer, stops, [prompt("?")], max_new_tokens=tokens) == [Answer("네.", False, tokens)]
    endless = tiny_models.ScriptedModel(tokenizer, ["a"], forever=True)
    assert answers(endless, tokenizer, stops, [prompt("?")]) == [Answer("a" * 24, False, 24)]


def test_a_cut_inside_a_character_leaves_no_broken_one(tokenizer, stops):
    ids = tokenizer("a🙏", add_special_tokens=False)["input_ids"]
    assert len(ids) == 5, "the emoji must span four tokens"
    for limit, text in ((2, "a"), (4, "a"), (5, "a🙏")):
        model = tiny_models.ScriptedModel(tokenizer, ["a🙏"])
        (answer,) = answers(model, tokenizer, stops, [prompt("?")], max_new_tokens=limit)
        pieces, streamed_answer = streamed(model, tokenizer, stops, prompt("?"), max_new_tokens=limit)
        assert answer == streamed_answer == Answer(text, False, limit)
        assert "".join(pieces) == text
    broken = tiny_models.ScriptedModel(tokenizer, ["a"])
    broken.scripts = [[*ids[:3], stops[0]]]
    assert answers(broken, tokenizer, stops, [prompt("?")])[0].text == "a\ufffd", "what the model broke stays"


def test_endoftext_stops_an_answer_too(tokenizer, stops):
    model = tiny_models.ScriptedModel(tokenizer, ["Yes.<|endoftext|>never seen"])
    (answer,) = answers(model, tokenizer, stops, [prompt("?")])
    assert answer.text == "Yes."
    assert answer.stopped


def test_stop_tokens_by_text(tokenizer):
    assert stop_token_ids(tokenizer) == (2, 0)
    assert stop_token_ids(tiny_models.tokenizer(["<|im_end|>"])) == (0,)
    with pytest.raises(KelronError, match=r"<\|im_end\|>"):
        stop_token_ids(tiny_models.tokenizer(["<|endoftext|>"]))


def test_modes_are_restored_module_by_module(tokenizer, stops):
    model = tiny_models.random_model(len(tokenizer)).train()
    model.model.layers[0].eval()
    before = [m.training for m in model.modules()]
    answers(model, tokenizer, stops)
    assert [m.training for m in model.modules()] == before
    with closing(stream_answer(model, tokenizer, PROMPTS[0], max_new_tokens=9, stop_token_ids=stops)) as stream:
        next(stream)
        assert not any(m.training for m in model.modules())
        assert not torch.is_inference_mode_enabled(), "the caller must not be left in inference mode"
    assert [m.training for m in model.modules()] == before


def test_full_gpu_halves_the_batch_and_says_so(tokenizer, stops, caplog):
    limit, sizes = 2, []

    class Small(tiny_models.ScriptedModel):
        def forward(self, input_ids, **kwargs):
            sizes.append(len(input_ids))
            if len(input_ids) > limit:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().forward(input_ids, **kwargs)

    model = Small(tokenizer, ["Yes."])
    found = answers(model, tokenizer, stops, batch_size=7)
    assert [a.text for a in found] == ["Yes."] * 7
    assert sizes[0] == 7
    assert sizes[1] == 3
    assert max(sizes[2:]) == 1
    assert "3 prompts at once instead of 7" in caplog.text
    limit = 0
    with pytest.raises(KelronError, match="too small for a single prompt"):
        answers(model, tokenizer, stops, batch_size=7)
    with pytest.raises(KelronError, match="memory is full"):
        streamed(model, tokenizer, stops, PROMPTS[0])


def test_progress_counts_prompts(model, tokenizer, stops):
    seen = []
    answers(model, tokenizer, stops, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 7) for done in range(1, 8)]
    assert answers(model, tokenizer, stops, prompts=[]) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"max_new_tokens": 600}, "window of 512"),
    ],
)
def test_bad_limits(model, tokenizer, stops, changes, message):
    with pytest.raises(KelronError, match=message):
        answers(model, tokenizer, stops, **changes)


def test_bad_temperature(model, tokenizer, stops):
    for temperature in (-1.0, float("nan"), float("inf")):
        with pytest.raises(KelronError, match="temperature"):
            streamed(model, tokenizer, stops, PROMPTS[0], temperature=temperature)


def test_stream_of_real_text_is_whole_characters(tokenizer, stops):
    ids = tokenizer(MIXED, add_special_tokens=False)["input_ids"]
    assert len(ids) > len(MIXED), "characters must span tokens"
    pieces, answer = streamed(
        tiny_models.ScriptedModel(tokenizer, [MIXED]), tokenizer, stops, PROMPTS[0], max_new_tokens=400
    )
    assert "".join(pieces) == MIXED == answer.text
    assert not any("�" in piece for piece in pieces)
    assert len(pieces) > 30, "pieces must come as they are complete, not in one lump"


def test_stream_of_broken_bytes_equals_the_full_decode(tokenizer):
    """Random bytes, cut characters, genuine U+FFFD: whatever comes, the pieces join to the whole."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(300):
        ids = torch.randint(3, len(tokenizer), (12,), generator=generator).tolist()
        stream = TextStream(tokenizer)
        pieces = [stream.push(token) for token in ids]
        assert "".join([*pieces, stream.finish()]) == tokenizer.decode(ids)


def test_broken_bytes_do_not_hold_the_stream_back(tokenizer):
    first_byte = tokenizer.convert_tokens_to_ids("ê")  # 0xEA in BPE's byte alphabet: the first of three bytes
    stream = TextStream(tokenizer)
    assert [stream.push(first_byte) for _ in range(4)] == ["", "�", "�", "�"]
    assert stream.finish() == "�"


def test_stream_equals_the_greedy_batch(model, tokenizer, stops):
    for messages, expected in zip(PROMPTS, answers(model, tokenizer, stops), strict=True):
        pieces, answer = streamed(model, tokenizer, stops, messages)
        assert answer == expected
        assert "".join(pieces) == expected.text


def test_cancel_ends_within_one_token(tokenizer, stops):
    cancel = threading.Event()
    passes = []

    def watch(said):
        passes.append(said)
        if said == 5:
            cancel.set()

    model = tiny_models.ScriptedModel(tokenizer, ["a"], forever=True, before_token=watch)
    pieces, answer = streamed(model, tokenizer, stops, PROMPTS[0], max_new_tokens=100, cancel=cancel)
    assert passes == [0, 1, 2, 3, 4, 5]
    assert not answer.stopped
    assert answer.tokens == 5
    assert "".join(pieces) == answer.text == "a" * 5


def test_cancel_between_two_pieces_computes_no_further_token(tokenizer, stops):
    cancel, passes = threading.Event(), []
    model = tiny_models.ScriptedModel(tokenizer, ["a"], forever=True, before_token=passes.append)
    stream = stream_answer(model, tokenizer, PROMPTS[0], max_new_tokens=9, stop_token_ids=stops, cancel=cancel)
    assert next(stream) == "a"
    cancel.set()
    assert list(stream) == []
    assert passes == [0]


def test_cancel_before_the_start_runs_nothing(tokenizer, stops):
    model = tiny_models.ScriptedModel(tokenizer, ["a"])
    cancel = threading.Event()
    cancel.set()
    assert streamed(model, tokenizer, stops, PROMPTS[0], cancel=cancel) == ([], Answer("", False, 0))
    assert model.asked == 0


def test_seeded_sampling_is_reproducible(model, tokenizer, stops):
    def sample(seed):
        return streamed(model, tokenizer, stops, PROMPTS[0], temperature=3.0, seed=seed)[1].text

    assert sample(1) == sample(1)
    assert len({sample(seed) for seed in range(4)}) > 1
    assert len({sample(None) for _ in range(4)}) > 1


def test_errors_reach_the_caller(tokenizer, stops):
    def fail(said):
        if said == 2:
            raise RuntimeError("CUDA error: device-side assert")

    model = tiny_models.ScriptedModel(tokenizer, ["abcdef"], before_token=fail)
    with pytest.raises(RuntimeError, match="device-side assert"):
        streamed(model, tokenizer, stops, PROMPTS[0])
    with pytest.raises(KelronError, match="special token"):
        streamed(model, tokenizer, stops, prompt("<|im_end|>"))


def test_base_only_switches_the_adapter_off_and_on_again(tokenizer, stops):
    from peft import LoraConfig, get_peft_model

    plain = tiny_models.random_model(len(tokenizer))
    before = answers(plain, tokenizer, stops)
    tuned = get_peft_model(plain, LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)).eval()
    changed = answers(tuned, tokenizer, stops)
    assert changed != before
    with base_only(tuned):
        assert answers(tuned, tokenizer, stops) == before
    assert answers(tuned, tokenizer, stops) == changed
    with pytest.raises(RuntimeError), base_only(tuned):
        raise RuntimeError
    assert answers(tuned, tokenizer, stops) == changed
    with base_only(plain):
        pass  # a plain model has nothing to switch off
    assert generate.has_adapter(tuned)
    assert not generate.has_adapter(tiny_models.random_model(len(tokenizer)))
