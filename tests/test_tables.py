import pytest
from scoreboards import BASE, board, forgotten, prompt
from test_report import evaluated

from kelron_lib.evaluate.tables import markdown_table, markdown_text, scoreboard_table, width


def test_the_table_fits_eighty_columns_and_tells_verdict_p_and_n():
    extra = [(prompt("ko", n, attack="override"), BASE["ko"], True) for n in range(9)]
    made, _ = evaluated(extra, forgetting=forgotten())
    made["meta"]["held_out"] = False
    lines = scoreboard_table(made).split("\n")
    assert max(map(width, lines)) <= 80
    head, _, recall, korean = lines[:4]
    assert head.split() == ["base", "95", "%", "interval", "tuned", "95", "%", "interval", "n", "p"]
    assert recall.startswith("Identity recall")
    assert recall.endswith("21  <.001")
    assert korean.startswith("  한국어")
    assert korean.split()[-1] == "13"
    text = "\n".join(lines)
    assert "Multiple choice: base 75 %, tuned 74.3 % of 300; 3 items lost, 1 gained, p .625" in text
    assert "Does not pass the policy release: 2 of 4 checks are met, 2 are not (Identity" in text
    assert "whether these questions are new" in text.replace("\n  ", " ")


def test_without_base_and_gate_the_table_has_one_model():
    _, records = evaluated()
    lines = scoreboard_table(board([r for r in records if r["model"] == "tuned"], gate=False)).split("\n")
    assert lines[0].split() == ["tuned", "95", "%", "interval", "n"]
    assert not any("policy" in line for line in lines)


def test_a_label_that_is_too_long_is_cut():
    made, _ = evaluated()
    made["tuned"]["by_language"] = {"語" * 40: made["tuned"]["by_language"]["ko"]}
    lines = scoreboard_table(made).split("\n")
    assert max(map(width, lines)) <= 80
    assert "…" in lines[3]


def test_the_markdown_table_has_verdict_failing_checks_and_every_column():
    extra = [(prompt("ko", n), BASE["ko"], True) for n in range(9)]
    made, _ = evaluated(extra)
    made["gate"]["policy"] = "a|b<script>"
    text = markdown_table(made)
    assert "<" not in text
    assert text.startswith("**Does not pass the policy a\\|b&#60;script&#62;:")
    assert "\n- Identity recall: at least 98 %" in text
    rows = [line for line in text.split("\n") if line.startswith("| ")]
    assert {row.replace("\\|", "").count("|") for row in rows} == {8}
    assert any(row.startswith("| &emsp;한국어 |") for row in rows)


@pytest.mark.parametrize(
    ("plain", "shown"),
    [
        ("a | b\n# c", "a \\| b # c"),
        ("*x* _y_ `z` [l](u)", "\\*x\\* \\_y\\_ \\`z\\` \\[l\\](u)"),
        ("<img src=x> & so", "&#60;img src=x&#62; &#38; so"),
        ("- item", "\\- item"),
        ("1. item", "1\\. item"),
        ("1.5 %", "1.5 %"),
        ("https://a.b", "https&#58;//a.b"),
    ],
)
def test_text_in_markdown_is_no_markup(plain, shown):
    assert markdown_text(plain) == shown
