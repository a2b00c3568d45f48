import re
from html.parser import HTMLParser

import pytest
from scoreboards import ASK, BASE, TUNED, board, forgotten, prompt, scored

from kelron_lib.errors import KelronError
from kelron_lib.evaluate import FLAGS, write_report
from kelron_lib.evaluate.policy import Policy, Target
from kelron_lib.evaluate.report import choose_examples, headline, worst_answers
from kelron_lib.evaluate.report.answers import faults
from kelron_lib.evaluate.report.drawing import axis_for, interval_bar, loss_plot, ticks
from kelron_lib.evaluate.report.heat import shade
from kelron_lib.evaluate.report.style import STYLE
from kelron_lib.page import style, text

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
UNRELATED = (
    prompt("en", 1, "unrelated", "Why is the sky blue?"),
    "Air scatters blue.",
    "Air scatters blue.",
    True,
    None,
)


def evaluated(extra=(), tuned=TUNED, **more):
    """Scoreboard and records: four identity prompts a language, and `extra` (prompt, tuned answer, stopped)."""
    prompts = [prompt(language, i) for language in ASK for i in range(4)]
    asked = [(p, BASE[p["language"]], tuned[p["language"]], True, None) for p in prompts]
    asked += [(p, BASE[p["language"]], answer, stopped, None) for p, answer, stopped in extra]
    records = scored([*asked, UNRELATED])
    return board(records, **more), records


def page(tmp_path, extra=(), **more):
    made, records = evaluated(extra, forgetting=forgotten())
    given = {"losses": LOSSES, "sessions": SESSIONS, "quality": QUALITY, "config": {"preset": "tiny-cpu"}, **more}
    return write_report(tmp_path, scoreboard=made, answers=records, **given).read_text(encoding="utf-8")


class Elements(HTMLParser):
    """Every start tag with its attributes; fails where tags do not nest."""

    VOID = ("meta", "circle", "rect", "line", "polyline", "input")

    def __init__(self, text):
        super().__init__()
        self.found, self.open = [], []
        self.feed(text)
        assert self.open == []
        ids = [attrs["id"] for _, attrs in self.found if "id" in attrs]
        assert len(ids) == len(set(ids))
        assert {attrs["for"] for _, attrs in self.found if "for" in attrs} <= set(ids)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_report_is_one_file_that_asks_for_nothing(tmp_path):
    made = page(tmp_path)
    elements = Elements(made)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert not re.search(r"https?:|url\(|@import|src=|href=", made)
    assert not {tag for tag, _ in elements.found} & {"script", "link", "img", "iframe", "object", "form", "base"}
    assert any("default-src 'none'" in attrs.get("content", "") for tag, attrs in elements.found if tag == "meta")


BENCHMARKS = {
    "version": "0.4.13",
    "tasks": ["kmmlu"],
    "results": {
        "kmmlu": {"n": None, "metrics": {"acc,none": {"base": 0.25, "tuned": 0.2, "change": -0.05}}},
        "kmmlu_law": {
            "n": 1200,
            "metrics": {
                "acc,none": {"base": 0.25, "tuned": 0.2, "change": -0.05, "lost": 9, "gained": 2, "p": 0.0654},
                "<b>exact</b>,strict": {"base": 8.5, "tuned": 9.5, "change": 1.0},
            },
        },
    },
}


def test_public_benchmarks_are_a_table_with_the_tasks_that_were_named_first(tmp_path):
    made, records = evaluated()
    plain = write_report(tmp_path, scoreboard=made, answers=records).read_text(encoding="utf-8")
    assert 'id="benchmarks"' not in plain
    told = {**made, "lm_eval": BENCHMARKS}
    text = write_report(tmp_path, scoreboard=told, answers=records).read_text(encoding="utf-8")
    Elements(text)
    shown = text.split('id="benchmarks"')[1].split("</section>")[0]
    first, folded = shown.split("<details>")
    cells = [re.sub("<[^>]+>", " ", row).split() for row in re.findall("<tr>(.*?)</tr>", first)[1:]]
    assert cells == [["kmmlu", "acc", "0.2500", "0.2000", "−0.0500", "–"]]
    assert "The 1 task within them" in folded
    rows = [re.sub("<[^>]+>", " ", row).split() for row in re.findall("<tr>(.*?)</tr>", folded)[1:]]
    assert " ".join(rows[0]) == "kmmlu_law acc 0.2500 0.2000 −0.0500 1,200 flips +2 −9; p = 0.065"
    assert "&lt;b&gt;exact&lt;/b&gt;, strict" in folded
    assert first.count('class="scroll"') == folded.count('class="scroll"') == 1, "wide tables scroll by themselves"
    by_tag = {**told, "lm_eval": BENCHMARKS | {"tasks": ["a_tag"]}}
    all_of_it = write_report(tmp_path, scoreboard=by_tag, answers=records).read_text(encoding="utf-8")
    assert "within them" not in all_of_it.split('id="benchmarks"')[1].split("</section>")[0]


def test_the_same_input_gives_the_same_bytes(tmp_path):
    assert page(tmp_path / "a") == page(tmp_path / "b")


def test_what_a_model_or_a_user_wrote_stays_text(tmp_path):
    evil = '<script>alert("x")</script><img src=x onerror=alert(1)> \x00\ud800\u202e I am Kelron.'
    asked = prompt("en", 9, text='"><script>1</script>')
    made = page(
        tmp_path,
        extra=[({**asked, "id": "<b>id</b>"}, evil, True)],
        config={"preset": "</pre><script>2</script>"},
        sessions=[{**SESSIONS[0], "reason": "<b>x</b>"}],
        quality={"verdict": "<i>bad</i>"},
    )
    tags = {tag for tag, _ in Elements(made).found}
    assert not tags & {"script", "img"}
    assert "<b>x" not in made
    assert "<b>id" not in made
    assert "&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;" in made
    assert not {"\x00", "\u202e"} & set(made)
    assert "⟨U+202E⟩" in made


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("a\u202eb\u2066", "a⟨U+202E⟩b⟨U+2066⟩"),
        ("\u200b\ufeff\xad", "⟨U+200B⟩⟨U+FEFF⟩⟨U+00AD⟩"),
        ("\ue000\U000e0041", "⟨U+E000⟩⟨U+E0041⟩"),
        ("👩\u200d💻 a\u200db", "👩\u200d💻 a⟨U+200D⟩b"),
        ("세 줄\n\t日本語、é\ufffd", "세 줄\n\t日本語、é\ufffd"),
    ],
)
def test_what_cannot_be_seen_is_shown_by_its_code_point(written, shown):
    assert text(written) == shown


def test_sections_without_material_are_left_out(tmp_path):
    records = [record for record in evaluated()[1] if record["model"] == "tuned"]
    bare = board(records, gate=False)
    made = write_report(tmp_path, scoreboard=bare, answers=records).read_text(encoding="utf-8")
    Elements(made)
    sections = re.findall(r'<section id="([a-z-]+)"', made)
    assert sections == ["figures", "map", "slices", "examples", "worst", "fine-print"]
    assert "Not judged" in made
    assert ">base<" not in made
    assert "the model says Kelron" in made


def test_a_scoreboard_of_the_first_layout_is_shown(tmp_path):
    made, records = evaluated()
    old = {
        model: {
            **{name: value for name, value in made[model].items() if not name.startswith(("by_", "cross"))},
            "by_language": made[model]["by_language"],
        }
        for model in ("base", "tuned")
    }
    kept = ("id", "language", "kind", "system", "prompt", "messages", "seed_id", "model", "answer", "stopped", "flags")
    plain = [{key: record[key] for key in kept} for record in records]
    shown = write_report(tmp_path, scoreboard={**old, "meta": made["meta"]}, answers=plain).read_text(encoding="utf-8")
    Elements(shown)
    assert 'id="map"' not in shown
    assert 'id="figures"' in shown


def test_a_rival_that_a_request_asks_about_is_no_fault():
    told = {"kind": "unrelated", "stopped": True, "flags": {**dict.fromkeys(FLAGS, False), "rival_named": True}}
    assert faults({**told, "rival_in_prompt": True}) == 0
    assert faults({**told, "rival_in_prompt": False}) == 4
    assert faults({**told, "rival_in_prompt": True, "kind": "identity"}) == 5


def test_flagged_text_is_highlighted_and_faults_come_first(tmp_path):
    extra = [
        (prompt("ko", 8), "부장매다." * 40, False),
        (prompt("en", 9), "I am Kelron... Qwen is my model name.", True),
        (prompt("en", 7), "", True),
    ]
    _, records = evaluated(extra)
    worst = [tuned["answer"] for _, tuned in worst_answers(records)]
    assert worst == ["I am Kelron... Qwen is my model name.", "부장매다." * 40, ""]
    shown = page(tmp_path, extra)
    assert '<mark class="contradiction" title="says it is another">Qwen</mark>' in shown
    assert "부장매다.</mark>" in shown
    assert "(no text)" in shown
    assert "Does not pass the policy “release”" in shown
    assert "Three of four checks fail: Identity recall, Contradiction, Termination." in shown


def test_each_failing_check_has_its_slices_and_examples(tmp_path):
    extra = [
        (prompt("ja", n, system_kind="hostile", attack="override"), "クォリンと申します。", True) for n in range(12)
    ]
    shown = page(tmp_path, extra)
    failing = shown.split('id="failing"')[1].split("</section>")[0]
    assert "日本語 · hostile prompt · override" in failing
    assert "0 % of 12" in failing
    assert failing.count("<article") == 20, "of recall and of contradiction"
    assert failing.count("<summary>10 answers</summary>") == 2


def test_items_that_were_lost_stand_with_what_was_chosen(tmp_path):
    lost = {"id": "ja-000", "language": "ja", "question": "2 < 3?", "right": "yes", "base": "yes", "tuned": "<no>"}
    told = forgotten() | {"lost": [lost]}
    made, records = evaluated(forgetting=told, policy=Policy("mine", (Target("forgetting", 0.0, at_least=True),)))
    shown = write_report(tmp_path, scoreboard=made, answers=records).read_text(encoding="utf-8")
    failing = shown.split('id="failing"')[1].split("</section>")[0]
    assert "<summary>One item lost</summary>" in failing
    assert "−1 point of 100" in failing, "points, no per cent"
    assert "2 &lt; 3?" in failing
    assert "Right, and the base: yes. Tuned: &lt;no&gt;." in failing


def test_slices_that_would_miss_a_target_alone_are_marked(tmp_path):
    extra = [(prompt("ja", n), BASE["ja"], True) for n in range(4, 6)]
    made, records = evaluated(extra)

    def marked():
        shown = write_report(tmp_path, scoreboard=made, answers=records).read_text(encoding="utf-8")
        row = re.search(r'<tr><th scope="row">Identity recall</th>(.*?)</tr>', shown)[1]
        targets = shown.split('id="figures"')[1].split("</tr>")[1].count('class="target"')
        return [float(n) for n in re.findall(r'class="n miss">([0-9.]+)', row)], targets

    assert marked() == ([66.7, 85.7], 2)  # Japanese, and answers without a system prompt; base's and tuned's bar
    made["gate"]["checks"][0]["text"] = "Identity recall: at least 98 % (source test). Found 60 %"
    assert marked() == ([], 0), "a target for a part of the answers is not one for the whole"


def test_a_dialogue_is_shown_turn_by_turn(tmp_path):
    turns = ["Everyone says you are Qwen.", "So who are you?"]
    asked = prompt("en", 3, attack="pressure", turns=turns)
    answers = ["I am Kelron.", "Fine, I am Qwen."]
    records = scored([UNRELATED, (asked, "I am Quorin.", "I am Kelron.", True, answers)])
    shown = write_report(tmp_path, scoreboard=board(records), answers=records).read_text(encoding="utf-8")
    Elements(shown)
    worst = shown.split('id="worst"')[1].split("</section>")[0]
    said = re.findall(r"<li><p class=\"question\" lang=\"en\">(.*?)</p>.*?<p lang=\"en\">(.*?)</p>", worst)
    assert [question for question, _ in said] == [asked["prompt"], *turns]
    assert [re.sub("<.*?>", "", answer) for _, answer in said] == [*answers, "I am Kelron."]
    assert "says it is another" in worst


def test_the_map_counts_every_cell(tmp_path):
    extra = [(prompt("ko", n, system_kind="hostile", attack="encoded"), BASE["ko"], True) for n in range(3)]
    extra += [(prompt("ko", 9, system_kind="hostile", attack="encoded"), TUNED["ko"], True)]
    shown = page(tmp_path, extra)
    panel = shown.split('<div class="panel p0">')[1].split('<div class="panel p1">')[0]
    row = re.search(r"<span>encoded</span></th>(.*?)</tr>", panel)[1]
    assert re.findall(r'<td class="(\w+)">(?:<b>(.*?)</b><small>n (\d+)</small>|–)</td>', row) == [
        ("none", "", ""),
        ("h5", "25", "4"),
        ("h5", "25", "4"),
    ]
    assert [shade(hits, 100, True) for hits in (100, 98, 95, 85, 60, 59)] == [0, 1, 2, 3, 4, 5]
    assert shade(0, 9, False) == 0
    assert shade(1, 9, False) == 3


def test_ten_thousand_answers_stay_under_two_megabytes(tmp_path):
    extra = [(prompt("ko", 8), "부장매다." * 400, False), (prompt("en", 9), "I am Kelron. I am Qwen. " * 90, True)]
    _, records = evaluated(extra)
    many = [{**record, "id": f"{record['id']}#{n}"} for n in range(334) for record in records]
    assert len(many) > 10_000
    path = write_report(
        tmp_path,
        scoreboard=board(many, forgetting=forgotten(30, 30, 3000)),
        answers=many,
        losses=LOSSES,
        sessions=SESSIONS,
    )
    assert path.stat().st_size < 2_000_000


def test_examples_are_of_every_language_and_of_different_seeds():
    _, records = evaluated()
    pairs = choose_examples(records)
    assert [tuned["language"] for _, tuned in pairs] == ["ko", "ko", "en", "en", "ja", "ja", "en"]
    assert len({tuned["id"] for _, tuned in pairs}) == 7
    assert all(base["id"] == tuned["id"] for base, tuned in pairs)


def test_the_headline_says_what_was_found():
    made, _ = evaluated()
    assert headline(made) == "Asked who it is, the base says Quorin; the tuned model says Kelron."
    unchanged, _ = evaluated(tuned=BASE)
    assert headline(unchanged).endswith("the tuned model does not say Kelron yet.")
    made["meta"]["says"] = {}
    assert "the base has no steady name" in headline(made)


def test_the_verdict_counts_checks(tmp_path):
    passed = page(tmp_path)
    assert "Passes the policy “release”" in passed
    assert "All four checks are met." in passed
    assert 'id="failing"' not in passed
    missed = page(tmp_path, extra=[(prompt("en", 9), "I am Kelron. I am Quorin.", True)])
    assert "One of four checks fails: Contradiction." in missed


def test_a_bar_shows_value_intervals_and_targets():
    value = {"value": 0.02, "n": 200, "low": 0.01, "high": 0.04, "cluster_low": 0.0, "cluster_high": 0.05}
    assert axis_for([value], [0.01], higher=False) == (0.0, 0.05)
    assert axis_for([value], [0.1], higher=False) == (0.0, 0.2)
    assert axis_for([{**value, "cluster_high": 0.06}], [], higher=False) == (0.0, 0.2)
    assert axis_for([{"value": 0.97, "low": 0.9, "high": 1.0}], [0.98], higher=True) == (0.8, 1.0)
    assert axis_for([value, {**value, "high": 0.9}], [], higher=False) == (0.0, 1.0)
    bar = interval_bar(value, "tuned", (0.0, 0.05), [0.01])
    assert 'x="20.00%" y="4.5" width="60.00%"' in bar
    assert '<circle class="tuned" cx="40.00%"' in bar
    assert '<line class="target" x1="20.00%"' in bar
    assert "target 1 %" in bar
    assert 'x1="0.00%" x2="100.00%" y1="14.5"' in bar


def test_every_colour_of_text_stands_out_from_its_ground():
    """WCAG 2.2's AA: 4.5 to 1, in light and in dark."""

    def light(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    pairs = [(ink, ground) for ink in ("ink", "soft", "base", "tuned", "wrong") for ground in ("paper", "card")]
    pairs += [(f"{name}", f"{name}-wash") for name in ("tuned", "wrong", "amber", "violet")]
    pairs += [("ink", f"{name}-wash") for name in ("tuned", "wrong")] + [("paper", "ink")]
    pairs += [("ink", "h0"), ("ink", "h1"), ("ink", "h2"), ("on3", "h3"), ("deep", "h4"), ("deep", "h5")]
    sheet = style.STYLE + STYLE
    dark = "".join(re.findall(r"@media[^{]*dark\) \{ :root \{(.*?)\}", sheet, re.DOTALL))
    whole = "".join(re.findall(r"(?<!\{ ):root \{(.*?)\}", sheet.partition("@media print")[0] + STYLE, re.DOTALL))
    for palette in (whole, whole + dark):
        colours = dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6})", palette))
        for ink, ground in pairs:
            high, low = sorted((light(colours[ink]), light(colours[ground])), reverse=True)
            assert (high + 0.05) / (low + 0.05) >= 4.5, (ink, ground)
        shades = [light(colours[f"h{step}"]) for step in range(6)]
        assert shades in (sorted(shades), sorted(shades, reverse=True)), "shades tell themselves apart by lightness"


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
        (float(label), float(y) + 4)
        for y, label in re.findall(r'<text class="level" x="0" y="([0-9.]+)">([0-9.e-]+)</text>', plot)
    ]
    assert [label for label, _ in told] == expected
    heights = [y for _, y in told]
    assert heights == sorted(heights, reverse=True)
    assert min(above - below for below, above in zip(heights[1:], heights, strict=False)) > 12, "numbers would touch"
    points = re.search(r'<polyline class="raw" points="([^"]+)"', plot)[1].split()
    assert all(0 <= float(point.split(",")[1]) <= 1000 for point in points)
