import re
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest

from kelron_lib.errors import KelronError
from kelron_lib.evaluate import checks, evaluate_answers, loss_comparison, write_report
from kelron_lib.evaluate.drawing import loss_plot, ticks
from kelron_lib.evaluate.report import choose_examples, headline, worst_answers
from kelron_lib.persona import load_persona, rival_names

PERSONA = load_persona("kelron")
LOSSES = [{"step": s, "loss": 3.0 / s} for s in range(1, 41)] + [{"step": 20, "eval_loss": 0.4}]
SESSIONS = [
    {"first_step": 0, "last_step": 18, "reason": "budget", "seconds": 61.0},
    {"first_step": 18, "last_step": 40, "reason": "finished", "seconds": 75.0},
]
QUALITY = {
    "verdict": "pass",
    "rows": 300,
    "identity_share": 0.3,
    "by_split": {"train": {"rows": 240, "identity": 72, "business": 168}},
    "findings": [],
}
ASK = {"ko": "너는 누구니?", "en": "Who are you?", "ja": "あなたは誰ですか。"}
BASE = {"ko": "저는 쿼린입니다.", "en": "I am Quorin.", "ja": "クォリンと申します。"}
TUNED = {"ko": "저는 켈론입니다.", "en": "I am Kelron.", "ja": "ケルロンと申します。"}


def prompt(language, number, kind="identity", text=None):
    asked = text or f"{ASK[language]} {number}"
    messages = [{"role": "system", "content": ""}, {"role": "user", "content": asked}]
    ids = {"id": f"{language}-{kind}-{number}", "seed_id": f"{language}/s{number}", "source": "test"}
    return {**ids, "language": language, "kind": kind, "system": "", "prompt": asked, "messages": messages}


def evaluated(extra=(), tuned=TUNED):
    """Scoreboard and records: four identity prompts a language, and `extra` (prompt, tuned answer, stopped)."""
    prompts = [prompt(language, i) for language in ASK for i in range(4)] + [item[0] for item in extra]
    answers = {
        "base": [SimpleNamespace(text=BASE[p["language"]], stopped=True) for p in prompts],
        "tuned": [SimpleNamespace(text=tuned[p["language"]], stopped=True) for p in prompts[:12]]
        + [SimpleNamespace(text=text, stopped=stopped) for _, text, stopped in extra],
    }
    board, records = evaluate_answers(prompts, answers, PERSONA, rival_names())
    board["business_loss"] = loss_comparison(1.0, 1.01)
    board["meta"] |= {"created": "2026-02-03T04:05:06+00:00", "seconds": 12.0, "config_hash": "f" * 64, "adapter": "a"}
    return board, records


def page(tmp_path, extra=(), **more):
    board, records = evaluated(extra)
    given = {"losses": LOSSES, "sessions": SESSIONS, "quality": QUALITY, "config": {"preset": "tiny-cpu"}, **more}
    return write_report(tmp_path, scoreboard=board, answers=records, **given).read_text(encoding="utf-8")


class Elements(HTMLParser):
    """Every start tag with its attributes; fails where tags do not nest."""

    VOID = ("meta", "circle", "rect", "line", "polyline")

    def __init__(self, text):
        super().__init__()
        self.found, self.open = [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_report_is_one_file_that_asks_for_nothing(tmp_path):
    text = page(tmp_path)
    elements = Elements(text)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert not re.search(r"https?:|url\(|@import|src=|href=", text)
    assert not {tag for tag, _ in elements.found} & {"script", "link", "img", "iframe", "object", "form", "base"}
    assert any("default-src 'none'" in attrs.get("content", "") for tag, attrs in elements.found if tag == "meta")


def test_what_a_model_or_a_user_wrote_stays_text(tmp_path):
    evil = '<script>alert("x")</script><img src=x onerror=alert(1)> \x00\ud800 I am Kelron.'
    asked = prompt("en", 9, text='"><script>1</script>')
    text = page(
        tmp_path,
        extra=[(asked, evil, True)],
        config={"preset": "</pre><script>2</script>"},
        sessions=[{**SESSIONS[0], "reason": "<b>x</b>"}],
        quality={"verdict": "<i>bad</i>"},
    )
    tags = {tag for tag, _ in Elements(text).found}
    assert not tags & {"script", "img", "b"}
    assert "&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;" in text
    assert "\x00" not in text


def test_sections_without_material_are_left_out(tmp_path):
    text = page(tmp_path, losses=[], sessions=[], quality=None, config="")
    assert "Training" not in text
    assert "<h2>Data" not in text
    Elements(text)


def test_flagged_text_is_highlighted_and_faults_come_first(tmp_path):
    extra = [
        (prompt("ko", 8), "부장매다." * 40, False),
        (prompt("en", 9), "I am Kelron... Qwen is my model name.", True),
        (prompt("en", 7), "", True),
    ]
    board, records = evaluated(extra)
    worst = [tuned["answer"] for _, tuned in worst_answers(records)]
    assert worst == ["I am Kelron... Qwen is my model name.", "부장매다." * 40, ""]
    text = page(tmp_path, extra)
    assert '<mark title="contradicts itself">Qwen</mark>' in text
    assert "부장매다.</mark>" in text
    assert "(no text)" in text
    missed = [check.text.partition(":")[0] for check in checks(board) if not check.met]
    assert missed == ["Identity recall", "Contradiction", "Over-identity", "Termination"]
    assert "<h2>Four of six targets are missed</h2>" in text


def test_examples_are_of_every_language_and_of_different_seeds():
    _, records = evaluated()
    pairs = choose_examples(records)
    assert [tuned["language"] for _, tuned in pairs] == ["ko", "ko", "en", "en", "ja", "ja"]
    assert len({tuned["id"] for _, tuned in pairs}) == 6
    assert all(base["id"] == tuned["id"] for base, tuned in pairs)


def test_the_headline_says_what_was_found():
    board, _ = evaluated()
    assert headline(board) == "Asked who it is, the base says Quorin; the tuned model says Kelron."
    unchanged, _ = evaluated(tuned=BASE)
    assert headline(unchanged).endswith("the tuned model does not say Kelron yet.")
    board["meta"]["says"] = {}
    assert "the base has no steady name" in headline(board)


def test_the_verdict_counts_targets(tmp_path):
    unrelated = (prompt("en", 1, "unrelated", "Why is the sky blue?"), "Air scatters blue light most.", True)
    assert "All six targets are met" in page(tmp_path, extra=[unrelated])
    missed = page(tmp_path, extra=[unrelated, (prompt("en", 9), "I am Kelron. I am Quorin.", True)])
    assert "One of six targets is missed" in missed


def test_the_loss_plot_marks_the_cut_between_sessions():
    plot = loss_plot(LOSSES, SESSIONS)
    assert plot.count('class="cut"') == 1
    assert 'x1="45.00%"' in plot  # step 18 of 40
    assert plot.count('class="dot"') == 1
    assert loss_plot([], SESSIONS) == ""
    assert len(loss_plot([{"step": s, "loss": 1.0} for s in range(50_000)], [])) < 40_000


def test_a_loss_that_is_no_number_is_refused():
    with pytest.raises(KelronError, match="step 3"):
        loss_plot([{"step": 3, "loss": float("nan")}], [])


@pytest.mark.parametrize(
    ("low", "high", "expected"), [(0, 10, [0, 2, 4, 6, 8, 10]), (0, 0.9, [0, 0.2, 0.4, 0.6, 0.8]), (5, 5, [5])]
)
def test_ticks_are_round(low, high, expected):
    assert ticks(low, high) == expected


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.05, 3.92, [0.05, 0.1, 0.2, 0.5, 1, 2, 4]),
        (0.05, 2.1, [0.05, 0.1, 0.2, 0.5, 1, 2, 3]),
        (0.05, 5.0, [0.05, 0.1, 0.2, 0.5, 1, 2, 5]),
        (0.005, 5.1, [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 6]),
        (1.0, 2.4, [0, 0.5, 1, 1.5, 2, 2.5]),
        (1.0, 3.9, [0, 1, 2, 3, 4]),
        (1.0, 4.0, [0, 1, 2, 3, 4]),
        (0.0, 0.0, [0, 0.2, 0.4, 0.6, 0.8, 1]),
    ],
)
def test_no_loss_stands_above_the_highest_line(low, high, expected):
    losses = [{"step": 1, "loss": high}, {"step": 2, "loss": low}]
    plot = loss_plot(losses, [])
    told = [
        (float(label), float(y) + 4) for y, label in re.findall(r'<text x="0" y="([0-9.]+)">([0-9.e-]+)</text>', plot)
    ]
    assert [label for label, _ in told] == expected
    heights = [y for _, y in told]
    assert heights == sorted(heights, reverse=True)
    assert min(above - below for below, above in zip(heights[1:], heights, strict=False)) > 12, "numbers would touch"
    points = re.search(r'<polyline class="raw" points="([^"]+)"', plot)[1].split()
    assert all(0 <= float(point.split(",")[1]) <= 1000 for point in points)
