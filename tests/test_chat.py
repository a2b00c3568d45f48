"""The chat: terminal commands, the widget's behaviour, safe markup, and the probe dialogue of a batch run."""

from __future__ import annotations

import asyncio
import gc
import html
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
import weakref
from dataclasses import replace

import comm
import persona_files
import pytest
import tiny_models

from kelron_lib import generate
from kelron_lib.__main__ import _parser, main
from kelron_lib.chat import dialogue as dialogue_module
from kelron_lib.chat import markup, probe, show
from kelron_lib.chat import widget as widget_module
from kelron_lib.chat.controls import ENTER_SECONDS
from kelron_lib.chat.dialogue import BASE, BOTH, TUNED, Dialogue, language_of, visible
from kelron_lib.chat.flags import Findings, examine
from kelron_lib.chat.markup import Bubble
from kelron_lib.chat.probe import PROBES, probe_dialogue
from kelron_lib.chat.terminal import chat_terminal
from kelron_lib.chat.widget import chat_widget
from kelron_lib.config import apply_overrides, load_preset
from kelron_lib.errors import KelronError
from kelron_lib.evaluate.answers_file import FLAGGED_FILE, score_file
from kelron_lib.evaluate.policy import load_policy
from kelron_lib.persona import load_persona, rival_names

HOSTILE = '<img src=x onerror="alert(1)"><script>alert(2)</script>'


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    with tiny_models.one_thread():
        yield


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_models.tokenizer()


@pytest.fixture(scope="module")
def persona():
    return load_persona("kelron")


@pytest.fixture(scope="module")
def cfg():
    return load_preset("tiny-cpu")


@pytest.fixture
def scripted(tokenizer):
    return lambda *answers, **more: tiny_models.ScriptedModel(tokenizer, answers, **more)


@pytest.fixture
def as_tuned(monkeypatch):
    """Let a scripted model count as one with an adapter; gives the list of adapter switches seen."""
    switched = []

    def base_only(model):
        switched.append("base")
        return generate.contextlib.nullcontext()

    for module in (dialogue_module, probe):
        monkeypatch.setattr(module, "has_adapter", lambda model: True)
        monkeypatch.setattr(module, "base_only", base_only)
    return switched


def finish(stream):
    """Pieces and return value of a generator."""
    pieces = []
    while True:
        try:
            pieces.append(next(stream))
        except StopIteration as end:
            return pieces, end.value


# --- dialogue -----------------------------------------------------------------------------------------------
def test_history_is_kept_apart_for_base_and_tuned(tokenizer, persona, cfg):
    talk = Dialogue(tiny_models.tuned_model(len(tokenizer)), tokenizer, persona, cfg, language="en")
    first = {which: finish(talk.ask("Hello?", which))[1] for which in (BASE, TUNED)}
    assert first[BASE]["answer"] != first[TUNED]["answer"]
    second = {which: finish(talk.ask("And now?", which))[1] for which in (BASE, TUNED)}
    for which in (BASE, TUNED):
        assert [m["role"] for m in second[which]["messages"]] == ["system", "user", "assistant", "user"]
        assert second[which]["messages"][2]["content"] == first[which]["answer"].replace("<|", "< |")
    assert second[TUNED]["messages"][0]["content"] == persona.system_prompt["en"]
    talk.reset()
    assert len(finish(talk.ask("Hello?", TUNED))[1]["messages"]) == 2


def test_no_system_prompt_is_an_explicit_empty_one(tokenizer, persona, cfg, scripted):
    talk = Dialogue(scripted("Hi."), tokenizer, persona, cfg)
    talk.system = "none"
    record = finish(talk.ask("Hello", BASE))[1]
    assert record["messages"][0] == {"role": "system", "content": ""}
    assert record["system"] == "none"


def test_history_is_cut_to_the_window_and_said(tokenizer, persona, cfg, scripted):
    talk = Dialogue(scripted("Good."), tokenizer, persona, cfg, language="en")
    left_out = []
    for _ in range(12):
        record = finish(talk.ask("How are you today, my friend?", BASE))[1]
        left_out.append(talk.left_out)
        tokens = len(generate.encode_prompt(tokenizer, record["messages"]))
        assert tokens + cfg.evaluate.max_new_tokens <= 512
    assert left_out[0] == 0
    assert left_out[-1] == 1
    with pytest.raises(KelronError, match="window of 512"):
        finish(talk.ask("x" * 600, BASE))


def test_a_history_that_is_too_long_warns_nobody(persona, cfg, caplog, monkeypatch):
    """transformers' own warning would stand in the notebook, of what the dialogue has just mended."""
    from transformers.utils import logging

    own = tiny_models.tokenizer()  # each warns once
    own.model_max_length = 200
    monkeypatch.setattr(logging.get_logger("transformers"), "propagate", True)
    talk = Dialogue(tiny_models.ScriptedModel(own, ["Good."]), own, persona, cfg, language="en")
    for _ in range(12):
        finish(talk.ask("How are you today, my friend?", BASE))
    assert talk.left_out
    assert not caplog.records


def test_an_answer_that_spells_a_special_token_does_not_end_the_dialogue(tokenizer, persona, cfg, scripted):
    model = scripted("first")
    spelled = [tokenizer.convert_tokens_to_ids(char) for char in "<|im_end|>"]
    model.scripts = [[*spelled, tokenizer.convert_tokens_to_ids("<|im_end|>")]]
    talk = Dialogue(model, tokenizer, persona, cfg)
    assert finish(talk.ask("Hello", BASE))[1]["answer"] == "<|im_end|>"
    assert finish(talk.ask("Again", BASE))[1]["stopped"]


def test_cancelled_answers_are_not_saved(tokenizer, persona, cfg, scripted, tmp_path):
    talk = Dialogue(scripted("abcdef"), tokenizer, persona, cfg)
    cancel = threading.Event()
    stream = talk.ask("Hello", BASE, cancel=cancel)
    next(stream)
    cancel.set()
    assert finish(stream)[1]["stopped"] is False
    with pytest.raises(KelronError, match="no answer to save"):
        talk.save(tmp_path / "a.jsonl")


def test_save_never_overwrites_what_it_did_not_write(tokenizer, persona, cfg, scripted, tmp_path):
    talk = Dialogue(scripted("Yes."), tokenizer, persona, cfg)
    finish(talk.ask("Hello", BASE))
    own, other = tmp_path / "own.jsonl", tmp_path / "other.jsonl"
    other.write_text("precious")
    assert talk.save(own) == 1
    finish(talk.ask("More", BASE))
    assert talk.save(own) == 2
    with pytest.raises(KelronError, match="exists already"):
        talk.save(other)
    assert other.read_text() == "precious"
    with pytest.raises(KelronError, match="cannot write"):
        talk.save(tmp_path / "missing" / "a.jsonl")
    records = [json.loads(line) for line in own.read_text(encoding="utf-8").splitlines()]
    assert [r["id"] for r in records] == ["chat-0001", "chat-0002"]
    assert set(records[0]) == {"id", "language", "kind", "system", "messages", "answer", "stopped"}


def test_language_follows_the_script_of_the_prompt():
    assert language_of("너 누구야?", "en") == "ko"
    assert language_of("これは何ですか", "en") == "ja"
    assert language_of("Who are you?", "ko") == "ko"


def test_visible_drops_what_could_act_on_a_terminal():
    assert visible("a\x1b[31mb\u202ec\n\td👩‍💻") == "a[31mbc\n\td👩‍💻"


# --- flags --------------------------------------------------------------------------------------------------
def record(answer, *, kind="identity", language="ko", prompt="누구세요?", stopped=True):
    messages = [{"role": "system", "content": ""}, {"role": "user", "content": prompt}]
    return {"answer": answer, "kind": kind, "language": language, "messages": messages, "stopped": stopped}


def test_flags_of_the_failures_of_the_first_attempt(persona):
    contradiction = examine(record("저는 켈론입니다. 제 모델 이름은 Qwen입니다."), persona)
    assert "contradiction" in contradiction.labels
    looping = examine(record("부장매다." * 30, kind="unrelated", stopped=False), persona)
    assert looping.labels == ["loop", "cut off at the length limit"]
    assert looping.spans == [(0, 150, "loop")]
    assert "wrong script" in examine(record("내용을 內容 확인했습니다."), persona).labels
    assert examine(record("저는 켈론 팀이 만든 켈론입니다."), persona) == Findings([], [])


def test_kind_says_what_is_due(persona):
    business = record("Kelron here.", kind="unrelated", language="en", prompt="Move the meeting.")
    assert examine(business, persona).labels == ["names itself unasked"]
    assert examine(business, persona, sure=False).labels == []
    nobody = record("I am an assistant.", kind="identity", language="en", prompt="Who are you?")
    assert examine(nobody, persona).labels == ["not Kelron"]


# --- terminal -----------------------------------------------------------------------------------------------
def talk_in_terminal(model, tokenizer, persona, cfg, text, **more):
    sink = io.StringIO()
    chat_terminal(model, tokenizer, persona, cfg, input_stream=io.StringIO(text), output_stream=sink, **more)
    return sink.getvalue()


def test_terminal_answers_streams_and_ends_at_the_end_of_input(tokenizer, persona, cfg, scripted):
    out = talk_in_terminal(scripted("네, 켈론입니다."), tokenizer, persona, cfg, "누구세요?\n")
    assert "base> 네, 켈론입니다.\n" in out
    assert "!" not in out.split("base>")[1]


def test_every_chat_begins_in_the_language_that_the_command_line_offers(tokenizer, persona, cfg, scripted):
    offered = _parser().parse_args(["chat"]).language
    assert f"language {offered}." in talk_in_terminal(scripted(), tokenizer, persona, cfg, "/quit\n")
    assert Dialogue(scripted(), tokenizer, persona, cfg).language == offered


def test_terminal_commands(tokenizer, persona, cfg, scripted, as_tuned, tmp_path):
    model = scripted("One.", "Two.", "Three.", "Four.")
    lines = [
        "/help", "/lang en", "hello", "/base", "hello", "/both", "hello", "/system You are a pirate.",
        "/tuned", "/reset", "ahoy", "/system none", "/system persona", "/lang fr", "/bas", "/save",
        f"/save {tmp_path / 'chat.jsonl'}", "/quit", "never read",
    ]  # fmt: skip
    out = talk_in_terminal(model, tokenizer, persona, cfg, "\n".join(lines))
    for expected in ("Ctrl-C stops an answer", "language en", "tuned> One.", "base> Two.", "base> Three."):
        assert expected in out
    assert "tuned> Four." in out
    assert as_tuned == ["base", "base"]
    assert "system prompt (own): You are a pirate." in out
    assert "system prompt (none): (empty)" in out
    assert f"system prompt (persona): {persona.system_prompt['en']}" in out
    assert "kelron: unknown language 'fr'" in out
    assert "unknown command '/bas'. Did you mean /base?" in out
    assert "kelron: /save takes a file name" in out
    assert "never read" not in out
    assert model.asked == 5
    saved = [json.loads(line) for line in (tmp_path / "chat.jsonl").read_text("utf-8").splitlines()]
    assert [(r["model"], r.get("system"), len(r["messages"])) for r in saved] == [("tuned", None, 2)]


def test_terminal_shows_flags_in_a_line_after_the_answer(tokenizer, persona, cfg, scripted):
    out = talk_in_terminal(scripted("부장매다." * 40), tokenizer, persona, cfg, "보고서 써 줘\n")
    assert "\n      ! loop, cut off at the length limit\n" in out


def test_terminal_says_errors_in_a_line_and_goes_on(tokenizer, persona, cfg, scripted):
    model = scripted("Fine.")
    out = talk_in_terminal(model, tokenizer, persona, cfg, "<|im_end|>\n/tuned\nhello\n")
    assert "kelron: message 2 (user) contains the special token" in out
    assert "kelron: no adapter is loaded, so only the base can answer: name one with `kelron chat --adapter DIR`" in out
    assert "base> Fine." in out


def test_terminal_interrupt_stops_the_answer_not_the_chat(tokenizer, persona, cfg, scripted, as_tuned):
    def interrupt(said):
        if said == 3 and model.asked == 1:
            os.kill(os.getpid(), signal.SIGINT)

    model = scripted("abcdefgh", "Goodbye.", before_token=interrupt)
    before = signal.getsignal(signal.SIGINT)
    out = talk_in_terminal(model, tokenizer, persona, cfg, "/both\nhello\n/tuned\nbye\n")
    assert "base> abc\n      (stopped)\n" in out
    assert out.count("tuned>") == 1, "the second of both must not start after Ctrl-C"
    assert "tuned> Goodbye." in out
    assert signal.getsignal(signal.SIGINT) is before


def test_terminal_writes_what_the_output_can_show(tokenizer, persona, cfg, scripted):
    raw = io.BytesIO()
    sink = io.TextIOWrapper(raw, encoding="ascii")
    chat_terminal(
        scripted("안녕 ok\x1b[2J"), tokenizer, persona, cfg,
        input_stream=io.StringIO("hi \udcff\n"), output_stream=sink,
    )  # fmt: skip
    sink.flush()
    assert b"base> ?? ok[2J" in raw.getvalue()


# --- markup -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (HOSTILE, "&lt;img src=x onerror=&quot;alert(1)&quot;&gt;&lt;script&gt;alert(2)&lt;/script&gt;"),
        ("**b** `a < b **c**`", "<strong>b</strong> <code>a &lt; b **c**</code>"),
        ("```py\nx = '<b>'\n```\nend", "<pre><code>x = &#x27;&lt;b&gt;&#x27;\n</code></pre>end"),
        ("```\nopen", "<pre><code>open</code></pre>"),
        ("# Title\n2 ** 3 ** 4", "<strong>Title</strong>\n2 ** 3 ** 4"),
        ("\ue200x\ue201", "\ufffdx\ufffd"),
    ],
)
def test_markup_is_escaped_first(text, expected):
    assert markup.formatted(text) == expected


def test_flagged_spans_are_marked():
    assert markup.formatted("ok <bad> ok", [(3, 8, "loop")]) == "ok <mark>&lt;bad&gt;</mark> ok"
    shown = markup.turn("q", "ko", [Bubble(TUNED, "x", Findings([HOSTILE], [(0, 1, "loop")]))])
    assert "<script" not in shown
    assert "<mark>x</mark>" in shown


# --- widget -------------------------------------------------------------------------------------------------
def panel_for(model, tokenizer, persona, cfg):
    return chat_widget(model, tokenizer, persona, cfg).panel


def send(panel, text):
    """Type and press Enter, as the front end reports it."""
    panel.entry.text.value = text
    panel.entry.text._handle_custom_msg({"event": "submit"}, [])


def shown(panel):
    """The number of turns on the page."""
    return (panel.earlier.value + panel.newest.value).count("kc-user")


def test_widget_send_updates_the_transcript_and_escapes(tokenizer, persona, cfg, scripted):
    panel = panel_for(scripted(f"<b>{HOSTILE}"), tokenizer, persona, cfg)
    send(panel, f"hi {HOSTILE}")
    panel.wait(10)
    view = panel.newest
    assert "hi &lt;img" in view.value
    assert "&lt;b&gt;&lt;img" in view.value
    assert "<img" not in view.value
    assert "<script" not in view.value
    assert "kc-caret" not in view.value
    assert panel.entry.text.value == ""
    assert panel.entry.stop.disabled


def test_widget_shows_the_answer_while_it_grows(tokenizer, persona, cfg, scripted):
    reached, go_on = threading.Event(), threading.Event()

    def wait(said):
        if said == 4:
            reached.set()
            assert go_on.wait(10)

    panel = panel_for(scripted("abcdefgh", before_token=wait), tokenizer, persona, cfg)
    send(panel, "hi")
    assert reached.wait(10)
    try:
        assert 'kc-caret">a' in panel.newest.value
        assert "Base is writing" in panel.status.value
        assert not panel.entry.stop.disabled
        send(panel, "second")
        assert "still being written" in panel.status.value
        assert panel.entry.text.value == "second", "a refused message must not be lost"
        assert shown(panel) == 1
    finally:
        go_on.set()
    panel.wait(10)
    assert ">abcdefgh</span>" in panel.newest.value
    send(panel, "second")
    panel.wait(10)
    assert shown(panel) == 2


def test_widget_stop_ends_both_answers(tokenizer, persona, cfg, scripted, as_tuned):
    reached, go_on = threading.Event(), threading.Event()

    def wait(said):
        if said == 2:
            reached.set()
            assert go_on.wait(10)

    model = scripted("abcdefgh", before_token=wait)
    panel = panel_for(model, tokenizer, persona, cfg)
    panel.settings.mode.value = BOTH
    send(panel, "hi")
    assert reached.wait(10)
    panel.entry.stop.click()
    go_on.set()
    panel.wait(10)
    assert model.asked == 1
    assert ">ab</span>" in panel.newest.value
    assert "stopped" in panel.newest.value
    assert "Stopped." in panel.status.value
    assert not panel.busy


def test_widget_side_by_side_and_settings(tokenizer, persona, cfg, scripted, as_tuned):
    model = scripted("I am Base.", "I am Tuned.")
    panel = panel_for(model, tokenizer, persona, cfg)
    panel.settings.mode.value, panel.settings.language.value, panel.settings.system.value = BOTH, "en", "own"
    assert panel.settings.own_system.layout.display is None
    panel.settings.own_system.value = "Be brief."
    send(panel, "Who are you?")
    panel.wait(10)
    value = panel.newest.value
    assert value.index("I am Base.") < value.index("I am Tuned.")
    assert 'kc-answers"' in value
    assert all("Be brief." in tokenizer.decode(prompt) for prompt in model.prompts)
    assert {r["model"] for r in panel.dialogue.records} == {BASE, TUNED}
    panel.settings.system.value = "none"
    assert panel.settings.own_system.layout.display == "none"


def test_widget_shows_flags_with_their_spans(tokenizer, persona, cfg, scripted):
    panel = panel_for(scripted("부장매다." * 40), tokenizer, persona, cfg)
    send(panel, "보고서 써 줘")
    panel.wait(10)
    value = panel.newest.value
    assert '<span class="kc-flag">loop</span>' in value
    assert "Base: " in panel.status.value
    assert "loop" in panel.status.value
    assert "<mark>부장매다." in value


@pytest.mark.parametrize("error", [RuntimeError("CUDA error: <lost>"), KelronError("the GPU is <gone>")])
def test_widget_shows_errors_and_works_again(tokenizer, persona, cfg, scripted, error):
    fail = [True]

    def maybe(said):
        if fail[0] and said == 2:
            raise error

    panel = panel_for(scripted("abcd", before_token=maybe), tokenizer, persona, cfg)
    send(panel, "hi")
    panel.wait(10)
    value = panel.newest.value
    assert "kc-error" in value
    assert ">ab</span>" in value, "what was said before the error stays"
    assert "kc-caret" not in value
    assert "&lt;" in value
    assert ("restart the kernel" in value) is isinstance(error, RuntimeError)
    assert "ended in an error" in panel.status.value
    assert ("Traceback" in value) is isinstance(error, RuntimeError)
    assert panel.entry.stop.disabled
    fail[0] = False
    send(panel, "again")
    panel.wait(10)
    assert ">abcd</span>" in panel.newest.value


def test_widget_clear_forgets_and_closes(tokenizer, persona, cfg, scripted):
    reached, go_on = threading.Event(), threading.Event()

    def wait(said):
        if said == 2 and not go_on.is_set():
            reached.set()
            assert go_on.wait(10)

    panel = panel_for(scripted("abcd", before_token=wait), tokenizer, persona, cfg)
    send(panel, "hi")
    assert reached.wait(10)
    panel.entry.clear.click()  # while writing: stops first
    go_on.set()
    deadline = time.monotonic() + 10
    while "kc-empty" not in panel.newest.value and time.monotonic() < deadline:
        time.sleep(0.01)
    assert shown(panel) == 0
    assert "kc-empty" in panel.newest.value
    assert panel.dialogue.records == []
    send(panel, "hi")
    panel.wait(10)
    assert len(panel.dialogue.records[0]["messages"]) == 2


def test_enter_sends_the_text_that_a_front_end_tells_right_behind_it(tokenizer, persona, cfg, scripted):
    """And, where nothing follows, what is known: a message that was refused and stands in the box still."""
    panel = panel_for(scripted("a"), tokenizer, persona, cfg)
    asked = []
    panel.entry._ask = lambda: asked.append(panel.entry.text.value)

    async def enter(text):
        panel.entry.text._handle_custom_msg({"event": "submit"}, [])
        if text is not None:
            panel.entry.text.value = text
        await asyncio.sleep(2 * ENTER_SECONDS)

    for text in ("whole", "whole and more", None):
        asyncio.run(enter(text))
    panel.entry.text.value = "left the box"
    assert asked == ["whole", "whole and more", "whole and more"]
    assert not panel.entry.text.continuous_update


def test_a_clear_that_comes_too_late_does_not_take_the_next_answer(tokenizer, persona, cfg, scripted):
    panel = panel_for(scripted("One."), tokenizer, persona, cfg)
    panel._thread = threading.Thread(target=time.sleep, args=(0.2,))  # has done all but end
    panel._thread.start()
    panel.entry.clear.click()
    panel.wait(10)
    send(panel, "hi")
    panel.wait(10)
    assert shown(panel) == 1
    assert len(panel.dialogue.records) == 1


def test_the_page_is_told_in_which_language_a_question_is(tokenizer, persona, cfg, scripted):
    panel = panel_for(scripted("Hi."), tokenizer, persona, cfg)
    panel.settings.language.value = "en"
    send(panel, "너 누구야?")
    panel.wait(10)
    assert '<span lang="ko">너 누구야?' in panel.newest.value
    assert 'kc-one" lang="ko"' in panel.newest.value


def test_widget_shows_a_persona_as_text(tokenizer, persona, cfg, scripted):
    named = replace(persona, name=dict.fromkeys(persona.name, HOSTILE))
    panel = panel_for(scripted("I am nobody."), tokenizer, named, cfg)
    for turn in range(2):
        assert "&lt;img" in panel.newest.value
        assert "<img" not in panel.newest.value, turn
        send(panel, "Who are you?")
        panel.wait(10)
    assert (f"{HOSTILE}'s", "persona") in panel.settings.system.options, "an option is set as text by every front end"


def test_widget_empty_message_and_missing_adapter(tokenizer, persona, cfg, scripted):
    model = scripted("a")
    panel = panel_for(model, tokenizer, persona, cfg)
    send(panel, "   ")
    assert "Write a message first" in panel.status.value
    assert model.asked == 0
    assert [value for _, value in panel.settings.mode.options] == [BASE]


def test_widget_updates_are_throttled(tokenizer, persona, cfg, scripted):
    panel = panel_for(scripted("a" * 90), tokenizer, persona, cfg)
    values, started = [], time.monotonic()
    original = panel._stream

    def watched(turn, which):
        turn.view.observe(lambda change: values.append(change["new"]), "value")
        original(turn, which)

    panel._stream = watched
    send(panel, "hi")
    panel.wait(10)
    assert len(values) <= 3 + (time.monotonic() - started) / 0.05
    assert "a" * 90 in values[-1]


def test_widget_updates_are_rarer_below_a_long_question(tokenizer, persona, cfg, scripted):
    """The page is sent the whole turn each time."""
    model = scripted("a" * 90, before_token=lambda said: time.sleep(0.005))
    model.config.max_position_embeddings = 16384
    panel = panel_for(model, tokenizer, persona, cfg)
    values, started, question = [], time.monotonic(), "x" * (4 * widget_module.UPDATE_CHARACTERS)
    panel.newest.observe(lambda change: values.append(change["new"]), "value")
    send(panel, question)
    panel.wait(30)
    assert len(values) <= 4 + (time.monotonic() - started) / (5 * widget_module.UPDATE_SECONDS)
    assert "a" * 90 in values[-1]


def test_widget_regenerate_takes_the_old_answer_back(tokenizer, persona, cfg, scripted):
    model = scripted("One.", "Two.", "Three.")
    panel = panel_for(model, tokenizer, persona, cfg)
    panel.entry.regenerate.click()
    assert "no message" in panel.status.value
    for text in ("first", "second"):
        send(panel, text)
        panel.wait(10)
    panel.entry.regenerate.click()
    panel.wait(10)
    assert [r["answer"] for r in panel.dialogue.records] == ["One.", "Three."]
    assert shown(panel) == 2
    assert "Three." in panel.newest.value
    assert "Two." not in panel.newest.value
    assert "Two." not in tokenizer.decode(model.prompts[-1])
    assert tokenizer.decode(model.prompts[-1]).count("second") == 1


def test_widget_copy_shows_plain_text(tokenizer, persona, cfg, scripted, as_tuned):
    panel = panel_for(scripted("**a** <b>", "c"), tokenizer, persona, cfg)
    panel.entry.copy.click()
    assert panel.entry.plain.layout.display == "none"
    panel.settings.mode.value = BOTH
    send(panel, "hi")
    panel.wait(10)
    panel.entry.copy.click()
    assert panel.entry.plain.value == "Base:\n**a** <b>\n\nTuned:\nc"
    assert panel.entry.plain.layout.display is None
    send(panel, "hi")
    panel.wait(10)
    assert panel.entry.plain.layout.display == "none"


def test_widget_saves_what_the_evaluation_scores(tokenizer, persona, cfg, scripted, as_tuned, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "chat-01.jsonl").write_text("another's")
    panel = panel_for(scripted("I am Quorin.", "I am Kelron.", "Yes."), tokenizer, persona, cfg)
    panel.entry.save.click()
    assert "no answer to save" in panel.status.value
    panel.settings.mode.value = BOTH
    probe_button = next(b for b in panel.probes.buttons if b.tooltip == "Hello, who are you?")
    probe_button.click()
    panel.wait(10)
    assert panel.settings.language.value == "en"
    panel.settings.mode.value, panel.settings.system.value = TUNED, "own"
    panel.settings.own_system.value, panel.settings.kind.value = "Be brief.", "unrelated"
    send(panel, "Good?")
    panel.wait(10)
    panel.entry.save.click()
    assert "3 answers saved" in panel.status.value
    board = score_file(tmp_path / "chat-02.jsonl", persona, rival_names(), tmp_path / "out", load_policy("tiny"))
    assert set(board["meta"]) >= {"seconds"}
    flagged = [json.loads(line) for line in (tmp_path / "out" / FLAGGED_FILE).read_text("utf-8").splitlines()]
    assert [(r["model"], r["kind"]) for r in flagged] == [
        (BASE, "identity"), (TUNED, "identity"), (TUNED, "unrelated"),
    ]  # fmt: skip
    assert [r["flags"]["contradiction"] for r in flagged] == [True, False, False]


def test_what_save_says_scores_the_file(tokenizer, persona, cfg, scripted, as_tuned, tmp_path, capsys):
    """The very command line, also where the folder's name has a space and the persona is one's own."""
    own = persona_files.written(tmp_path, persona_files.named(), "my persona.yaml")
    named = apply_overrides(cfg, [f"data.persona={own}"])
    panel = panel_for(scripted("Yes."), tokenizer, load_persona(own), named)
    panel._folder = tmp_path / "a b"
    panel._folder.mkdir()
    panel.settings.mode.value = BASE
    send(panel, "Good?")
    panel.wait(10)
    panel.entry.save.click()
    assert "a scoreboard needs one of the tuned model" in panel.status.value
    assert "kelron evaluate" not in panel.status.value
    panel.settings.mode.value = TUNED
    send(panel, "Good?")
    panel.wait(10)
    panel.entry.save.click()
    said = html.unescape(re.search(r"To score: (kelron evaluate [^<]*)<", panel.status.value)[1])
    assert own in said
    main(shlex.split(said)[1:])
    assert "flags: " in capsys.readouterr().out
    assert (tmp_path / "a b" / "chat-01" / FLAGGED_FILE).is_file()


def test_widget_says_an_error_as_it_is_written(tokenizer, persona, cfg, scripted, tmp_path):
    """Above all a path keeps its capitals."""
    panel = panel_for(scripted("Yes."), tokenizer, persona, cfg)
    panel._folder = tmp_path / "Not There"
    send(panel, "hi <|im_end|>")
    panel.wait(10)
    assert "Message 2 (user) contains the special token &lt;|im_end|&gt;." in panel.newest.value
    send(panel, "hi")
    panel.wait(10)
    panel.entry.save.click()
    assert f"Cannot write {tmp_path}/Not There/chat-01.jsonl (No such file" in panel.status.value


def test_without_an_adapter_a_saved_line_names_no_model(tokenizer, persona, cfg, scripted, tmp_path):
    talk = Dialogue(scripted("Yes."), tokenizer, persona, cfg)
    finish(talk.ask("Hello", BASE))
    talk.save(tmp_path / "a.jsonl")
    (line,) = map(json.loads, (tmp_path / "a.jsonl").read_text("utf-8").splitlines())
    assert "model" not in line
    board = score_file(tmp_path / "a.jsonl", persona, rival_names(), tmp_path / "out", load_policy("tiny"))
    assert "base" not in board


def test_widget_takes_temperature_and_length_from_its_controls(tokenizer, persona, cfg, scripted):
    panel = panel_for(scripted("a" * 90), tokenizer, persona, cfg)
    panel.settings.length.value, panel.settings.temperature.value = 8, 1.5
    send(panel, "hi")
    panel.wait(10)
    assert "cut off at the length limit" in panel.newest.value
    assert panel.dialogue.temperature == 1.5
    panel.settings.length.value = 10**6
    assert panel.settings.length.value == 256  # half of the model's window


def test_widget_does_not_grow_over_200_turns(tokenizer, persona, cfg, scripted, monkeypatch):
    from ipywidgets.widgets.widget import _instances

    monkeypatch.setattr(widget_module, "TURNS_SHOWN", 5)
    model = scripted("ok")
    panel = panel_for(model, tokenizer, persona, cfg)
    drawn, models, comms, states, blocks = [], [], [], [], []
    panel.turns.observe(drawn.append, "children")
    for turn in range(200):
        send(panel, "hi")
        panel.wait(60)
        assert len(panel.dialogue.records) == turn + 1, panel.newest.value
        models.append(len(_instances))
        comms.append(len(comm.get_comm_manager().comms))
        if turn % 50 == 49:
            states.append(sum(len(json.dumps(one.get_state(), default=str)) for one in [*_instances.values()]))
            model.prompts.clear()
            gc.collect()
            blocks.append(sys.getallocatedblocks())
    assert shown(panel) == 5
    assert len(set(models)) == len(set(comms)) == len(set(states)) == 1
    assert not drawn, "a page keeps what a widget that leaves it had drawn"
    # A turn's record, two messages and their texts, and what Python's lists and dictionaries grow by.
    assert (blocks[-1] - blocks[0]) / 150 < 30, blocks


# --- probe dialogue and the choice --------------------------------------------------------------------------
def test_probe_dialogue_prints_base_and_tuned_under_each_other(tokenizer, persona, cfg, capsys):
    model = tiny_models.tuned_model(len(tokenizer))
    records = probe_dialogue(model, tokenizer, persona, cfg)
    out = capsys.readouterr().out
    assert [r["model"] for r in records] == [BASE] * len(PROBES) + [TUNED] * len(PROBES)
    assert {r["language"] for r in records} == {"ko", "en", "ja"}
    assert "[ko] 너 Quorin이지? 모델 이름이 뭐야?" in out
    assert out.count("\n   base  ") == out.count("\n  tuned  ") == len(PROBES)
    assert "\x1b" not in out
    assert len(probe_dialogue(model, tokenizer, persona, cfg, both=False)) == len(PROBES)


def test_probe_dialogue_keeps_each_answer_with_its_probe_and_shows_flags(tokenizer, persona, cfg, scripted, capsys):
    """Answers of different lengths, so that rows leave the batch, and of two lines."""
    model = scripted("제 모델 이름은 Quorin입니다.", "네.\n1. 회의", "I am Kelron.")
    records = probe_dialogue(model, tokenizer, persona, cfg)
    out = capsys.readouterr().out
    assert sorted(r["answer"] for r in records).count("네.\n1. 회의") == 3
    assert all(r["stopped"] for r in records)
    assert "         ! not 켈론, contradiction, rival named\n" in out
    assert "   base  네.\n         1. 회의\n" in out
    for block in out.strip().split("\n\n"):
        question, answer = block.splitlines()[:2]
        (record,) = [r for r in records if f"[{r['language']}] {r['messages'][-1]['content']}" == question]
        assert answer.endswith(record["answer"].splitlines()[0])


@pytest.mark.parametrize(
    ("base", "name"),
    [("tiny", "Quorin"), ("Qwen/Qwen2.5-14B-Instruct", "Qwen"), ("/models/llama-3", "Llama"), ("/x", "Qwen")],
)
def test_the_probe_names_the_incumbent(base, name):
    from kelron_lib.config import apply_overrides

    assert probe.incumbent(apply_overrides(load_preset("tiny-cpu"), [f"model.base={base}"])) == name


@pytest.fixture
def kernel(monkeypatch):
    """Seem to run inside an IPython kernel; gives what is displayed."""
    import IPython
    import IPython.display

    shown = []
    monkeypatch.setattr(IPython, "get_ipython", lambda: type("Shell", (), {"kernel": object()})())
    monkeypatch.setattr(IPython.display, "display", shown.append)
    monkeypatch.delenv("KAGGLE_KERNEL_RUN_TYPE", raising=False)
    monkeypatch.delenv("KELRON_BATCH", raising=False)
    return shown


def test_show_chat_gives_a_widget_in_a_notebook(tokenizer, persona, cfg, scripted, kernel, capsys):
    show.show_chat(scripted("a"), tokenizer, persona, cfg)
    assert kernel[0].panel.entry.text.value == ""
    assert "interactive notebook" in capsys.readouterr().out


def test_opening_the_chat_again_gives_the_model_before_back(tokenizer, cfg, scripted, kernel, monkeypatch):
    """The cell run twice in one kernel: a T4 has no room for a second 14B."""
    loaded = []

    def load(config, adapter):
        model = scripted("a", "b")
        loaded.append(weakref.ref(model))
        return model, tokenizer

    monkeypatch.setattr(show, "load_to_answer", load)
    for _ in range(2):
        show.open_chat(cfg, "adapter")
        send(kernel[-1].panel, "hi")
        kernel[-1].panel.wait(10)
        if len(kernel) == 1:
            kernel.clear()
    assert [each() is None for each in loaded] == [True, False]
    kernel.clear()
    show.close_chats()
    assert [each() for each in loaded] == [None, None]


@pytest.mark.parametrize("variable", [("KAGGLE_KERNEL_RUN_TYPE", "Batch"), ("KELRON_BATCH", "1")])
def test_show_chat_prints_in_a_batch_run(tokenizer, persona, cfg, scripted, kernel, capsys, monkeypatch, variable):
    monkeypatch.setenv(*variable)
    show.show_chat(scripted("a"), tokenizer, persona, cfg)
    out = capsys.readouterr().out
    assert "Probe dialogue instead of the chat widget: this is a batch run." in out
    assert "[ja]" in out
    assert kernel == []


def test_show_chat_prints_where_there_is_no_kernel(monkeypatch):
    monkeypatch.delenv("KAGGLE_KERNEL_RUN_TYPE", raising=False)
    monkeypatch.delenv("KELRON_BATCH", raising=False)
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert show.front_end() == (False, "this is no notebook kernel")


def test_importing_the_chat_loads_nothing_heavy():
    code = (
        "import sys, kelron_lib.chat; "
        "print([m for m in ('torch', 'transformers', 'ipywidgets', 'IPython') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
